"""Sections 5 to 7 of docs/spec/numerics.md and section 4 of docs/spec/formats.md: shards, schedule, AdamW, evaluation, genesis, data order,
StateRoot."""

import hashlib
import json
import math

import numpy as np

from arithmetic import F, bits, dot, fma, hexf, philox, sincos64, tree
from model import Shard, tensors


def genesis(spec, rules=None):
    """7.2: weights by name, in canonical order; of other rules than the model's if they are given."""
    seed, weights = spec["training"]["seed"], {}
    key = (seed & 0xFFFFFFFF, seed >> 32)
    for number, (name, shape, rule, divisor) in enumerate(rules or tensors(spec)):
        size = math.prod(shape)
        if rule == "normal":
            i = np.arange(size, dtype=np.uint64)
            words = philox((i & np.uint64(0xFFFFFFFF), i >> np.uint64(32), number, 0), key)
            q = sum((word & np.uint64(0xFFFF)) + (word >> np.uint64(16)) for word in words).astype(np.int64) - 262140
            std = 0.02 / math.sqrt(divisor)
            w = q.astype(F) * F(std / math.sqrt(8 * 4294967295 / 12))
        else:
            w = np.full(size, 1 if rule == "ones" else 0, F)
        weights[name] = w.reshape(shape)
    return weights


def order(spec, n):
    """7.3: the sample at position n."""
    samples, seed = (spec["data"]["tokens"] - 1) // spec["model"]["context"], spec["training"]["seed"]
    key = (seed & 0xFFFFFFFF, seed >> 32)
    epoch, i = divmod(n, samples)
    ceil_log2 = (samples - 1).bit_length()
    h = max(1, -(-ceil_log2 // 2))
    mask = (1 << h) - 1
    while True:
        left, right = i >> h, i & mask
        for r in range(4):
            word = int(philox((right, r, epoch, 1), key)[0])
            left, right = right, left ^ (word & mask)
        i = left << h | right
        if i < samples:
            return i


def rate(spec, t):
    """6.1."""
    training = spec["training"]
    steps, warm_up = training["steps"], training["schedule"]["warmupSteps"]
    hi = float(training["optimizer"]["learningRate"])
    lo = float(training["schedule"]["finalFraction"]) * hi
    if t <= warm_up:
        return F((hi * t) / warm_up)
    x = (t - warm_up) / (steps - warm_up)
    name = training["schedule"]["name"]
    if name == "cosine":
        return F(lo + (0.5 * (hi - lo)) * (1.0 + sincos64(hexf("0x1.921fb54442d18p+1") * x)[1]))
    return F(lo + (hi - lo) * (1.0 - x)) if name == "linear" else F(hi)


class Run:
    """A job from genesis on."""

    def __init__(self, spec, stream):
        self.spec, self.stream = spec, stream
        self.w = genesis(spec)
        self.m = {name: np.zeros_like(w) for name, w in self.w.items()}
        self.v = {name: np.zeros_like(w) for name, w in self.w.items()}
        self.t, self.b1p, self.b2p = 0, 1.0, 1.0

    def sample(self, number):
        """The sample at a position of the job's data."""
        return order(self.spec, number)

    def shards(self):
        """Inputs and targets of each shard of step t."""
        training, length = self.spec["training"], self.spec["model"]["context"]
        batch, shards = training["batch"], training["shards"]
        for shard in range(shards):
            sequences = range(shard * batch // shards, (shard + 1) * batch // shards)
            starts = [self.sample((self.t - 1) * batch + q) * length for q in sequences]
            yield tuple(np.stack([self.stream[k + i : k + i + length] for k in starts]) for i in (0, 1))

    def step(self):
        """One step: loss and gradient norm, as f32."""
        self.t += 1
        shards = self.spec["training"]["shards"]
        losses, grads = [], []
        for tokens, targets in self.shards():
            loss, grad = Shard(self.spec, self.w, tokens, targets).run()
            losses.append(loss)
            grads.append(grad)
        scale = F(1 / shards)
        loss = tree(losses) * scale
        grad = {name: tree(g[name] for g in grads) * scale for name in self.w}
        norm = np.sqrt(tree(self.sum_of_squares(grad[name]) for name in self.w))
        self.adamw(grad, norm)
        return loss, norm

    def evaluate(self, held_out):
        """6.5: the loss of the state on a stream of its own, or None after a step that does not evaluate."""
        training, length = self.spec["training"], self.spec["model"]["context"]
        wanted = training["eval"]
        if self.t % wanted["everySteps"] != 0 and self.t != training["steps"]:
            return None
        losses = []
        for k in range(0, wanted["sequences"] * length, length):
            tokens, targets = held_out[None, k : k + length], held_out[None, k + 1 : k + length + 1]
            losses.append(Shard(self.spec, self.w, tokens, targets).forward()[0])
        loss = tree(losses) / F(wanted["sequences"])
        return loss if np.isfinite(loss) else bits(0x7F7FFFFF)

    @staticmethod
    def sum_of_squares(g):
        """6.2 of one tensor."""
        flat = g.ravel()
        return tree(dot(flat[i : i + 4096], flat[i : i + 4096]) for i in range(0, len(flat), 4096))

    def adamw(self, grad, norm):
        """6.3 and 6.4."""
        o = {name: float(value) for name, value in self.spec["training"]["optimizer"].items() if name != "name"}
        clip = F(o["clipNorm"])
        f = clip / (norm + bits(0x358637BD))
        factor = f if clip > 0 and f < 1 else F(1)
        b1, b2 = o["beta1"], o["beta2"]
        self.b1p, self.b2p = self.b1p * b1, self.b2p * b2
        c1, c2, a1, a2 = F(1 / (1 - self.b1p)), F(1 / (1 - self.b2p)), F(1 - b1), F(1 - b2)
        lr, eps = rate(self.spec, self.t), F(o["epsilon"])
        for name, p in self.w.items():
            g = grad[name] * factor
            self.m[name] = m = fma(F(b1), self.m[name], a1 * g)
            self.v[name] = v = fma(F(b2), self.v[name], (a2 * g) * g)
            up = (m * c1) / (np.sqrt(v * c2) + eps)
            decay = F(o["weightDecay"]) if p.ndim == 2 else F(0)
            self.w[name] = p - lr * fma(decay, p, up)

    def state_root(self):
        """formats.md section 4."""
        scalars = h(b"muster.scalars/1", self.t.to_bytes(8, "little"), f64(self.b1p), f64(self.b2p))
        roots = [scalars]
        for name in self.w:
            roots += [tensor_root(name, role, one[name]) for role, one in (("w", self.w), ("m", self.m), ("v", self.v))]
        return "sha256:" + merkle(roots).hex()


def f64(x):
    return np.array([x], "<f8").tobytes()


def h(context, *parts):
    data = b"\x02" + bytes([len(context)]) + context
    return hashlib.sha256(data + b"".join(len(part).to_bytes(8, "little") + part for part in parts)).digest()


def merkle(leaves):
    """RFC 6962 section 2.1."""

    def root(hashes):
        if len(hashes) == 1:
            return hashes[0]
        split = 1 << ((len(hashes) - 1).bit_length() - 1)
        return hashlib.sha256(b"\x01" + root(hashes[:split]) + root(hashes[split:])).digest()

    return root([hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves])


def tensor_root(name, role, x):
    if x.ndim == 1:
        tiles = [x[i : i + 4096] for i in range(0, len(x), 4096)]
    else:
        tiles = [x[i : i + 64, j : j + 64] for i in range(0, x.shape[0], 64) for j in range(0, x.shape[1], 64)]
    header = {"dtype": "F32", "name": name, "ops": "muster.ops/1", "role": role, "shape": list(x.shape)}
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    return h(b"muster.tensor/1", text, merkle([np.ascontiguousarray(tile).astype("<f4").tobytes() for tile in tiles]))
