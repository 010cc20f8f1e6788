"""Training steps of a GPT-2 or Llama in PyTorch fp32: what bench/trainer.py measures itself against.

Reads the shape as JSON in its first argument, says in one line of JSON what it is, then does as many steps as each line of its
input says and answers with a JSON list of their seconds. The model is written as one would write it for speed: fused
query/key/value, scaled_dot_product_attention, fused AdamW; `compile` wraps it in torch.compile.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, shape, bias):
        super().__init__()
        self.heads, self.kv = shape["heads"], shape.get("kvHeads", shape["heads"])
        self.head = shape["width"] // self.heads
        self.qkv = nn.Linear(shape["width"], (self.heads + 2 * self.kv) * self.head, bias=bias)
        self.proj = nn.Linear(shape["width"], shape["width"], bias=bias)

    def forward(self, x, turn=None):
        batch, length, width = x.shape
        sizes = [self.heads * self.head, self.kv * self.head, self.kv * self.head]
        q, k, v = (y.view(batch, length, -1, self.head).transpose(1, 2) for y in self.qkv(x).split(sizes, dim=2))
        if turn is not None:
            q, k = turn(q), turn(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.kv != self.heads)
        return self.proj(y.transpose(1, 2).reshape(batch, length, width))


class Gpt2Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        width = shape["width"]
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(shape, bias=True)
        self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(self.ln_1(x))
        return x + self.out(F.gelu(self.fc(self.ln_2(x)), approximate="tanh"))


class LlamaBlock(nn.Module):
    def __init__(self, shape):
        super().__init__()
        width, mlp = shape["width"], shape["mlpWidth"]
        self.norm_1, self.norm_2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.attention = Attention(shape, bias=False)
        self.gate_up, self.down = nn.Linear(width, 2 * mlp, bias=False), nn.Linear(mlp, width, bias=False)

    def forward(self, x, turn):
        x = x + self.attention(self.norm_1(x), turn)
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, dim=2)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    """Tied embeddings."""

    def __init__(self, shape):
        super().__init__()
        width, self.llama = shape["width"], shape["architecture"] == "llama"
        self.tokens = nn.Embedding(shape["vocabulary"], width)
        block = LlamaBlock if self.llama else Gpt2Block
        self.blocks = nn.ModuleList(block(shape) for _ in range(shape["layers"]))
        if self.llama:
            self.norm = nn.RMSNorm(width, eps=1e-5)
            half = width // shape["heads"] // 2
            angles = torch.outer(torch.arange(shape["context"]), 10_000.0 ** (-torch.arange(half) / half))
            self.register_buffer("cos", angles.cos())
            self.register_buffer("sin", angles.sin())
        else:
            self.norm = nn.LayerNorm(width)
            self.positions = nn.Embedding(shape["context"], width)

    def turn(self, x):
        a, b = x.chunk(2, dim=3)
        return torch.cat((a * self.cos - b * self.sin, b * self.cos + a * self.sin), dim=3)

    def forward(self, tokens, targets):
        x = self.tokens(tokens)
        if not self.llama:
            x = x + self.positions.weight
        for block in self.blocks:
            x = block(x, self.turn) if self.llama else block(x)
        logits = self.norm(x) @ self.tokens.weight.t()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main():
    shape = json.loads(sys.argv[1])
    torch.set_num_threads(shape["threads"])
    torch.manual_seed(0)
    model = Model(shape)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if shape.get("compile") else model
    count = sum(p.numel() for p in parameters)
    about = {"parameters": count, "torch": torch.__version__, "isa": torch.backends.cpu.get_cpu_capability()}
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            tokens, targets = torch.randint(0, shape["vocabulary"], (2, shape["batch"], shape["context"]))
            began = time.perf_counter()
            run(tokens, targets).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            seconds.append(time.perf_counter() - began)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
