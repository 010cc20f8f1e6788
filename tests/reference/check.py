"""Whole steps of the trainer against the NumPy of this folder: genesis, losses, norms, evaluations and states, bit for bit. Exits 1 if one differs."""

import json
import pathlib
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "torch"))

import job
from step import Run

LLAMA = {"kvHeads": 1, "mlpWidth": 50, "ropeBase": 10_000}
# Sizes that divide nothing evenly among them; three steps each, in warm-up and after it.
CASES = {
    "gpt2": dict(layers=2, width=32, heads=2, context=16, vocabulary=256, tied=True, batch=4, shards=4),
    "gpt2-odd": dict(layers=1, width=48, heads=3, context=37, vocabulary=257, tied=False, batch=3, shards=1),
    "gpt2-exact": dict(layers=1, width=80, heads=5, context=33, vocabulary=259, tied=True, batch=4, shards=2, arithmetic="i16-exact"),
    "llama-odd": dict(layers=1, width=48, heads=3, context=35, vocabulary=257, tied=True, batch=2, shards=2, llama=LLAMA),
    "llama-exact": dict(
        layers=2, width=64, heads=4, context=21, vocabulary=300, tied=False, batch=6, shards=2, arithmetic="i16-exact",
        llama={"kvHeads": 2, "mlpWidth": 97, "ropeBase": 500_000},
    ),
    "llama-wide-heads": dict(
        layers=1, width=144, heads=2, context=19, vocabulary=256, tied=False, batch=2, shards=1,
        llama={"kvHeads": 2, "mlpWidth": 130, "ropeBase": 100},
    ),
}
STEPS = 3
# An evaluation after the second step and the last, on sequences of which no power of two makes a whole.
EVAL = (2, 5)


def tokens(directory):
    """The stream of a dataset."""
    data = json.loads((directory / "manifest.json").read_text())
    dtype = {"U16": "<u2", "U32": "<u4"}[data["dtype"]]
    stream = np.concatenate([np.fromfile(directory / shard["path"], dtype) for shard in data["shards"]])
    return stream.astype(np.int64)


def compare(shape, directory):
    wanted = job.parameters(**shape, steps=STEPS)
    wanted["training"]["schedule"]["warmupSteps"] = 1
    wanted["training"]["seed"] = 12345678901
    job.resolve(directory, wanted, EVAL)
    events = []
    job.worker(directory, directory / "out", 2, events.append)
    steps = sum(event.get("event") == "step" for event in events)
    records = json.loads((directory / f"out/records/step-{STEPS:08}.json").read_text())
    manifest = json.loads((directory / f"out/checkpoints/step-{STEPS:08}/manifest.json").read_text())

    spec = json.loads((directory / "spec.json").read_text())
    held_out = tokens(directory / "eval-data")
    run = Run(spec, tokens(directory / "data"))
    yield "genesis", run.state_root(), spec["genesis"]
    for record in records:
        loss, norm = run.step()
        yield f"loss of step {run.t}", f"{int(loss.view(np.uint32)):08x}", record["loss"]
        yield f"norm of step {run.t}", f"{int(norm.view(np.uint32)):08x}", record["gradNorm"]
        loss = run.evaluate(held_out)
        ours = None if loss is None else f"{int(loss.view(np.uint32)):08x}"
        yield f"evaluation after step {run.t}", ours, record.get("evalLoss")
    yield "steps", STEPS, steps
    yield "state, every tensor", run.state_root(), manifest["stateRoot"]


np.seterr(over="ignore", under="ignore")
passed = failed = 0
for name, shape in CASES.items():
    with tempfile.TemporaryDirectory() as directory:
        for what, ours, theirs in compare(shape, pathlib.Path(directory)):
            if ours == theirs:
                passed += 1
                print(f"ok   {name}, {what}: {ours}", flush=True)
            else:
                failed += 1
                print(f"FAIL {name}, {what}: {ours}, the trainer has {theirs}", flush=True)
print(f"{passed} passed, {failed} failed, 0 skipped")
sys.exit(1 if failed else 0)
