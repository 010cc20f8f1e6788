"""A model of more than 2^30 bytes: its checkpoint lies in several files, from which a run goes on, transformers loads, and a job begins.
Takes about 10 GB of memory and of disk. Exits 1 if anything is off."""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
from transformers import AutoModelForCausalLM

import job

LIMIT = 1e-4
SHAPE = dict(layers=20, width=1024, heads=16, context=48, vocabulary=50257, tied=True, batch=2, shards=2, steps=2)
GIB = 1 << 30
failures = []


def check(name, holds, said):
    print(f"{'ok  ' if holds else 'FAIL'} {name}: {said}", flush=True)
    if not holds:
        failures.append(name)


def train(directory, out, *more):
    """StateRoots by step of a run with a checkpoint after each."""
    command = [job.TRAINER, "worker", "--spec", directory / "spec.json", "--data", directory / "data", "--out", out]
    command += ["--threads", 2, "--interval-steps", 1, *more]
    process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    events = [json.loads(line) for line in process.stdout]
    if process.wait() != 0:
        raise SystemExit(f"FAIL muster-trainer worker: exit {process.returncode}")
    return {event["step"]: event["stateRoot"] for event in events if event["event"] == "checkpoint"}


def logits(directory, tokens, out):
    job.run("logits", directory, "--tokens", ",".join(map(str, tokens)), "--out", out)
    return numpy.fromfile(out, "<f4").reshape(len(tokens), -1)


with tempfile.TemporaryDirectory() as temporary:
    scratch = pathlib.Path(temporary)
    job.resolve(scratch, job.parameters(**SHAPE))
    roots = train(scratch, scratch / "out")
    checkpoint = scratch / "out/checkpoints/step-00000002"
    sizes = {file.name: file.stat().st_size for file in sorted(checkpoint.glob("*.safetensors"))}
    weights = [size for name, size in sizes.items() if name.startswith("model-")]
    check("weights", len(weights) > 1 and sum(weights) > GIB and (checkpoint / "model.safetensors.index.json").exists(), sizes)
    check("files of half a GiB to little more than one", all(GIB / 2 <= size <= 1.25 * GIB for size in sizes.values()), len(sizes))

    again = train(scratch, scratch / "out", "--from-step", 1)
    check("a run goes on from such a checkpoint", again[2] == roots[2], roots[2])

    tokens = [(7919 * i * i + 3) % 50257 for i in range(40)]
    ours = logits(checkpoint, tokens, scratch / "logits")
    for name, directory in (("checkpoint", checkpoint), ("export", scratch / "hf")):
        if name == "export":
            job.run("export", checkpoint, "--out", directory, "--max-shard-size", "300MB")
        model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", local_files_only=True).eval()
        with torch.no_grad():
            difference = float(numpy.abs(model(torch.tensor([tokens])).logits[0].numpy() - ours).max())
        del model
        check(f"logits of the {name} in transformers", difference <= LIMIT, f"{difference:.3g} (limit {LIMIT:.3g})")
    check("its export comes back", logits(scratch / "hf", tokens, scratch / "back").tobytes() == ours.tobytes(), "the same bits of logits")

sys.exit(1 if failures else 0)
