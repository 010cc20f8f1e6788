#!/usr/bin/env python3
"""What checkpoints and a second worker cost a run: `muster local` on the demo's job, variants in turns.

Writes bench/results/worker.json with every sample. MUSTER_BIN names the directory of the programs (built if absent), ROUNDS how many
turns, STEPS the length of a run. Exits 1 if a target is missed.
"""

import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests/torch"))

import job

ROUNDS = int(os.environ.get("ROUNDS", "6"))
STEPS = int(os.environ.get("STEPS", "120"))
INTERVAL = 20
THREADS = len(os.sched_getaffinity(0))
# name: length of an interval, workers, threads of each
VARIANTS = {
    "checkpoints": (INTERVAL, 1, THREADS),
    "none": (STEPS, 1, THREADS),
    "two": (INTERVAL, 2, max(1, THREADS // 2)),
}


def programs():
    """The directory of the programs, built if nobody says where they are."""
    if "MUSTER_BIN" in os.environ:
        return pathlib.Path(os.environ["MUSTER_BIN"]).resolve()
    command = "cargo build --locked --release --package muster --package muster-trainer --bin muster --bin muster-trainer"
    subprocess.run(command.split(), cwd=REPOSITORY, check=True)
    return (REPOSITORY / os.environ.get("CARGO_TARGET_DIR", "target") / "release").resolve()


BIN = programs()


def write_job(directory, interval):
    """The demo's own file with so many steps."""
    yaml = (REPOSITORY / "manifests/examples/kjv-gpt.yaml").read_text()
    for old, new in {
        r"\n    steps: \d+": f"\n    steps: {STEPS}",
        r"\n    intervalSteps: \d+": f"\n    intervalSteps: {interval}",
        r"\n      warmupSteps: \d+": f"\n      warmupSteps: {min(20, STEPS)}",
    }.items():
        yaml, count = re.subn(old, new, yaml)
        if count != 1:
            raise SystemExit(f"FAIL manifests/examples/kjv-gpt.yaml has no {old!r}")
    path = directory / f"job-{interval}.yaml"
    path.write_text(yaml)
    return path


def train(directory, interval, workers, threads):
    """Seconds of each step but the first, from end to end, and the digest of the last state."""
    out = directory / "out"
    command = [BIN / "muster", "local", write_job(directory, interval), "--data", f"kjv={directory / 'data'}", "--out", out]
    command += ["--workers", workers, "--threads", threads, "--output", "json"]
    process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    ends, root = [], None
    for line in process.stdout:
        event = json.loads(line)
        if event.get("event") == "step" and len(ends) < event["step"]:
            ends.append(time.perf_counter())
        if event.get("stateRoot"):
            root = event["stateRoot"]
    if process.wait() != 0 or len(ends) != STEPS:
        raise SystemExit(f"FAIL muster local: exit {process.returncode} after {len(ends)} steps")
    shutil.rmtree(out)
    return [b - a for a, b in zip(ends, ends[1:])], root


def after_checkpoints(runs):
    """How much longer steps take that follow a multiple of INTERVAL than the later ones before the next multiple: of each such place the
    next step, and the next three together."""
    # seconds[i] is of step i + 2; a state is copied after steps 20, 40, .., in the time of the step that follows.
    one, three = [], []
    for seconds in runs:
        for k in range(INTERVAL, STEPS - INTERVAL + 1, INTERVAL):
            following = seconds[k - 1 : k - 1 + INTERVAL]
            usual = statistics.median(following[3:])
            one.append(following[0] - usual)
            three.append(sum(following[:3]) - 3 * usual)
    return one, three


def rows(samples):
    seconds = {name: [s for one in rounds for s in one] for name, rounds in samples.items()}
    usual = statistics.median(seconds["checkpoints"])
    # Against steps of the same run close by: a shared machine drifts by more than a checkpoint costs. Runs without checkpoints say how
    # much of it is noise.
    (stalls, costs), (no_stalls, no_costs) = (after_checkpoints(samples[name]) for name in ("checkpoints", "none"))
    stall, no_stall = statistics.median(stalls), statistics.median(no_stalls)
    limit = max(0.2, 0.005 * INTERVAL * usual)
    cost, no_cost = (statistics.median(c) / (INTERVAL * usual) for c in (costs, no_costs))
    overhead = cost - no_cost
    two = statistics.median(seconds["none"]) / statistics.median(seconds["two"])
    return [
        {
            "name": "worker.checkpoint.stallSeconds",
            "value": round(stall, 4),
            "unit": "s, the step after a checkpoint above those that follow, median",
            "peer": {"name": "the same step of runs without that checkpoint", "value": round(no_stall, 4)},
            "ratio": round(stall / (INTERVAL * usual), 5),
            "target": f"<= {limit:.3g}",
            "holds": stall <= limit,
            "samples": [round(s, 4) for s in stalls],
        },
        {
            "name": "worker.checkpoint.overhead",
            "value": round(overhead, 4),
            "unit": f"of the time of a step, a checkpoint every {INTERVAL} steps: the three steps after it, less the same of runs without",
            "peer": {"name": "what runs without have there", "value": round(no_cost, 4)},
            "ratio": round(1 + overhead, 4),
            "target": "<= 0.01",
            "holds": overhead <= 0.01,
            "samples": [round(c / (INTERVAL * usual), 4) for c in costs],
        },
        {
            "name": "worker.two.speed",
            "value": round(statistics.median(seconds["two"]), 4),
            "unit": "s of a step, two workers of half the threads, over TLS on loopback",
            "peer": {"name": "one process with all threads", "value": round(statistics.median(seconds["none"]), 4)},
            "ratio": round(two, 4),
            "target": ">= 0.9",
            "holds": two >= 0.9,
        },
    ]


def main():
    cpu = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    about = {"cpu": (cpu or ["unknown"])[0], "threads": THREADS, "steps": STEPS, "rounds": ROUNDS}
    about["loadBefore"] = os.getloadavg()[0]
    samples = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as temporary:
        directory = pathlib.Path(temporary)
        (directory / "text").write_text(job.TEXT)
        prepare = [BIN / "muster", "data", "prepare", directory / "text", "--out", directory / "data"]
        subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        roots = {}
        for number in range(ROUNDS):
            for name, variant in VARIANTS.items():
                seconds, root = train(directory, *variant)
                samples[name].append([round(s, 5) for s in seconds])
                roots.setdefault(root, name)
                print(f"round {number + 1}, {name}: {statistics.median(seconds):.4f} s a step", flush=True)
        if len(roots) != 1:
            raise SystemExit(f"FAIL variants end in different states: {roots}")
    about["loadAfter"] = os.getloadavg()[0]
    if about["loadBefore"] > 0.5:
        about["note"] = "measured on a busy machine: measure again on a quiet one before you believe it"
    made = rows(samples)
    for row in made:
        print(f"{'ok    ' if row['holds'] else 'MISSED'} {row['name']} {row['value']} {row['unit']}, {row['ratio']} ({row['target']})")
    path = REPOSITORY / "bench/results/worker.json"
    path.write_text(json.dumps({"machine": about, "rows": made, "seconds": samples}, indent=1) + "\n")
    print(path)
    return 0 if all(row["holds"] for row in made) else 1


if __name__ == "__main__":
    sys.exit(main())
