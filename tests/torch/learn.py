"""A GPT of 4 layers, 256 wide, learns the King James Bible in both arithmetics and in PyTorch fp32: from the same weights, on the same
batches in the same order. The losses on text that none of them has seen must end within 0.01 nats of each other.

TRAINER names the trainer, TEXT a text file (default: Debian's bible-kjv-text), STEPS the steps (default 1000). Takes about half an hour
on two cores. Writes bench/results/learn.json; exits 1 if the losses differ by more.
"""

import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import numpy
import torch
from torch import nn

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(REPOSITORY / "bench"), str(REPOSITORY / "tests/reference")]

import job
import step as reference
from torch_steps import Model

STEPS = int(os.environ.get("STEPS", "1000"))
THREADS = len(os.sched_getaffinity(0))
EVERY, SEQUENCES = 250, 256
# Of the text, from its end.
HELD_OUT = 0.05
LIMIT = 0.01
SHAPE = dict(layers=4, width=256, heads=4, context=256, vocabulary=256, tied=True, batch=8, shards=1, steps=STEPS)


def read_text():
    if "TEXT" in os.environ:
        return pathlib.Path(os.environ["TEXT"]).read_bytes()
    return subprocess.run(["bible", "-f", "Gen1:1-Rev22:21"], stdout=subprocess.PIPE, check=True).stdout


def resolve(directory, text, held_out, arithmetic):
    """spec.json and both datasets of a job."""
    directory.mkdir()
    wanted = job.parameters(**SHAPE, arithmetic=arithmetic)
    wanted["training"]["schedule"]["warmupSteps"] = min(100, STEPS)
    for name, value in (("job.json", json.dumps(wanted).encode()), ("text", text), ("eval-text", held_out)):
        (directory / name).write_bytes(value)
    files = ["--job", directory / "job.json", "--text", directory / "text", "--eval-text", directory / "eval-text"]
    job.run("resolve", *files, "--eval-every", EVERY, "--eval-sequences", SEQUENCES, "--out", directory)
    return json.loads((directory / "spec.json").read_text())


def ours(directory):
    """Held-out losses by step."""
    losses = {}

    def hear(event):
        if event.get("evalLoss"):
            losses[event["step"]] = float(event["evalLoss"])
            print(f"  step {event['step']}: loss {event['loss']}, held out {event['evalLoss']}", flush=True)

    job.worker(directory, directory / "out", THREADS, hear)
    return losses


def put(model, weights):
    """The model's parameters from ours; whether all were."""
    names = {"wte": "tokens.weight", "wpe": "positions.weight", "ln_f": "norm"}
    for layer in range(SHAPE["layers"]):
        ours, theirs = f"h.{layer}.", f"blocks.{layer}."
        for norm in ("ln_1", "ln_2"):
            names[ours + norm] = theirs + norm
        names[ours + "attn.qkv"], names[ours + "attn.proj"] = theirs + "attention.qkv", theirs + "attention.proj"
        names[ours + "mlp.fc"], names[ours + "mlp.proj"] = theirs + "fc", theirs + "out"
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, values in weights.items():
            stem, _, kind = name.rpartition(".")
            key = names[name] if name in names else f"{names[stem]}.{kind}"
            parameters.pop(key).copy_(torch.from_numpy(values))
    assert not parameters, f"left as they were: {sorted(parameters)}"


def theirs(spec, stream, held_out):
    """Held-out losses of PyTorch by step."""
    torch.set_num_threads(THREADS)
    training, context = spec["training"], spec["model"]["context"]
    model = Model(dict(SHAPE, architecture="gpt2"))
    put(model, reference.genesis(spec))
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() == 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() != 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8, fused=True)
    cut = lambda stream, starts: torch.from_numpy(numpy.stack([stream[k : k + context + 1] for k in starts]).astype(numpy.int64))
    losses = {}
    for number in range(1, STEPS + 1):
        batch = training["batch"]
        starts = [reference.order(spec, (number - 1) * batch + q) * context for q in range(batch)]
        tokens = cut(stream, starts)
        loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = float(reference.rate(spec, number))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if number % EVERY == 0 or number == STEPS:
            with torch.no_grad():
                total = 0.0
                for first in range(0, SEQUENCES, 8):
                    tokens = cut(held_out, [k * context for k in range(first, min(first + 8, SEQUENCES))])
                    total += model(tokens[:, :-1], tokens[:, 1:]).item() * len(tokens)
            losses[number] = total / SEQUENCES
            print(f"  step {number}: loss {loss.item():.6f}, held out {losses[number]:.6f}", flush=True)
    return losses


def main():
    text = read_text()
    at = int(len(text) * (1 - HELD_OUT))
    train, held_out = text[:at], text[at:]
    ends, seconds = {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        for arithmetic in ("f32-chain", "i16-exact"):
            print(arithmetic, flush=True)
            directory = pathlib.Path(temporary) / arithmetic
            spec, began = resolve(directory, train, held_out, arithmetic), time.monotonic()
            assert spec["training"]["eval"]["sequences"] == SEQUENCES, "the held-out text is too short"
            ends[arithmetic], seconds[arithmetic] = ours(directory), time.monotonic() - began
    print("PyTorch fp32", flush=True)
    began = time.monotonic()
    # Bytes are tokens here.
    streams = (numpy.frombuffer(part, numpy.uint8) for part in (train, held_out))
    ends["torch"], seconds["torch"] = theirs(spec, *streams), time.monotonic() - began
    last = {name: losses[STEPS] for name, losses in ends.items()}
    apart = max(last.values()) - min(last.values())
    holds = apart <= LIMIT
    cpu = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    result = {
        "machine": {"cpu": cpu[0] if cpu else platform.processor(), "threads": THREADS, "torch": torch.__version__},
        "rows": [
            {
                "name": f"kjv-gpt-4x256.{STEPS}-steps.heldOutLoss.apart",
                "value": round(apart, 6),
                "unit": "nats, largest difference of f32-chain, i16-exact and PyTorch fp32",
                "peer": {"name": f"PyTorch {torch.__version__} fp32", "value": round(last["torch"], 6)},
                "ratio": round(max(last.values()) / last["torch"], 6),
                "target": f"<= {LIMIT}",
                "holds": holds,
                "losses": {name: {str(step): round(loss, 6) for step, loss in losses.items()} for name, losses in ends.items()},
                "seconds": {name: round(value, 1) for name, value in seconds.items()},
            }
        ],
    }
    (REPOSITORY / "bench/results/learn.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{'ok  ' if holds else 'FAIL'} held-out losses after {STEPS} steps: {last}, {apart:.5f} apart (limit {LIMIT})")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
