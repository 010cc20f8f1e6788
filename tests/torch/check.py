"""Loss, gradients, files and logits against PyTorch, safetensors and transformers. Exits 1 if anything is off."""

import json
import math
import pathlib
import sys
import tempfile

import numpy
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import job

# Relative L2, all parameters. Products of 16-bit integers lose what 16 bits do not hold; the others only round.
GRADIENT_LIMIT = {"f32-chain": 5e-6, "i16-exact": 1e-3}
LOSS_DIGITS = {"f32-chain": 1.0, "i16-exact": 1000.0}
LOGIT_LIMIT = {"f32-chain": 1e-4, "i16-exact": 1e-2}

# The demo's model with its batch, an untied one, and one whose sizes divide nothing evenly.
CASES = {
    "demo": dict(layers=4, width=256, heads=4, context=256, vocabulary=256, tied=True, batch=8, shards=8, steps=12),
    "untied": dict(layers=2, width=96, heads=3, context=50, vocabulary=300, tied=False, batch=6, shards=2, steps=12),
    "odd": dict(layers=1, width=112, heads=7, context=37, vocabulary=257, tied=True, batch=5, shards=1, steps=12),
    "exact": dict(
        layers=2, width=96, heads=3, context=50, vocabulary=300, tied=False, batch=6, shards=2, steps=12, arithmetic="i16-exact"
    ),
    "llama": dict(
        layers=3, width=192, heads=6, context=64, vocabulary=256, tied=False, batch=8, shards=4, steps=12,
        llama={"kvHeads": 2, "mlpWidth": 512, "ropeBase": 10_000},
    ),
    "llama-odd": dict(
        layers=1, width=112, heads=7, context=37, vocabulary=257, tied=True, batch=5, shards=1, steps=12,
        llama={"kvHeads": 1, "mlpWidth": 100, "ropeBase": 500_000},
    ),
}

failures = []


def check(name, value, limit):
    holds = value <= limit
    print(f"{'ok  ' if holds else 'FAIL'} {name}: {value:.3g} (limit {limit:.3g})", flush=True)
    if not holds:
        failures.append(name)


def compare(name, shape, directory):
    arithmetic = shape.get("arithmetic", "f32-chain")
    job.resolve(directory, job.parameters(**shape))
    job.worker(directory, directory / "out", 2, lambda event: None)
    checkpoint = sorted((directory / "out/checkpoints").iterdir())[-1]

    # The files, as others read them.
    weights = load_file(checkpoint / "model.safetensors")
    moments = load_file(checkpoint / "optimizer.safetensors")
    check(f"{name}/moments", float(set(moments) != {f"{m}.{key}" for key in weights for m in "mv"}), 0)
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, attn_implementation="eager", dtype=torch.float32, local_files_only=True
    ).eval()
    own = dict(model.named_parameters())
    check(f"{name}/keys", float(set(own) != set(weights)), 0)
    check(f"{name}/weights", max(float((own[key].detach() - weights[key]).abs().max()) for key in weights), 0)

    # Logits of a sequence of full length and of a short one.
    for length in (shape["context"], 3):
        tokens = [(7 * i * i + 3) % shape["vocabulary"] for i in range(length)]
        job.run("logits", checkpoint, "--tokens", ",".join(map(str, tokens)), "--out", directory / "logits")
        ours = numpy.fromfile(directory / "logits", "<f4").reshape(length, shape["vocabulary"])
        with torch.no_grad():
            theirs = model(torch.tensor([tokens])).logits[0].numpy()
        check(f"{name}/logits of {length}", float(numpy.abs(ours - theirs).max()), LOGIT_LIMIT[arithmetic])

    # Loss and gradient of a batch, in float64 there and in our arithmetic here.
    out = directory / "gradients"
    inputs = ("--spec", directory / "spec.json", "--data", directory / "data", "--step", shape["steps"])
    job.run("gradients", checkpoint, *inputs, "--out", out)
    batch = json.loads((out / "batch.json").read_text())
    ours = load_file(out / "gradients.safetensors")
    model = model.double()
    logits = model(torch.tensor(batch["tokens"])).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(batch["targets"]).flatten())
    loss.backward()
    exact = loss.item()
    digit = 10.0 ** (math.floor(math.log10(exact)) - 6)
    check(f"{name}/loss {exact:.7g}, in units of its 7th digit", abs(float(batch["loss"]) - exact) / digit, LOSS_DIGITS[arithmetic])
    difference = norm = 0.0
    for key, parameter in model.named_parameters():
        difference += float((parameter.grad - ours[key].double()).square().sum())
        norm += float(parameter.grad.square().sum())
    check(f"{name}/gradient, relative L2", math.sqrt(difference / norm), GRADIENT_LIMIT[arithmetic])


torch.manual_seed(0)
for case, sizes in CASES.items():
    with tempfile.TemporaryDirectory() as temporary:
        compare(case, sizes, pathlib.Path(temporary))
print(f"{len(failures)} failed" if failures else "all hold")
sys.exit(1 if failures else 0)
