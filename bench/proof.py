#!/usr/bin/env python3
"""What proving costs: the log, the StateRoot, a stranger's check of a bundle, a replay, a commit. On the demo's model and job.

Writes bench/results/proof.json with every sample. Settings: MUSTER_BIN (a directory with the programs of a release build and its
`examples`; default: builds them), OUT (the file), ROUNDS (5), STEPS and INTERVAL (the demo's 200 and 20; 8 and 4 do for a look),
RECORDS (10000, of each round's log), THREADS (all). Exits 1 if a target is missed.
"""

import json
import os
import pathlib
import platform
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

ROUNDS = int(os.environ.get("ROUNDS", "5"))
STEPS = int(os.environ.get("STEPS", "200"))
INTERVAL = int(os.environ.get("INTERVAL", "20"))
RECORDS = int(os.environ.get("RECORDS", "10000"))
CPUS = len(os.sched_getaffinity(0))
THREADS = int(os.environ.get("THREADS", str(CPUS)))
RESULT = pathlib.Path(os.environ.get("OUT", REPOSITORY / "bench/results/proof.json"))
FSYNCS = 200


def programs():
    """The directory of the programs, built if nobody says where they are."""
    if "MUSTER_BIN" in os.environ:
        return pathlib.Path(os.environ["MUSTER_BIN"]).resolve()
    command = "cargo build --locked --release --package muster --package muster-trainer --bin muster --bin muster-trainer"
    examples = "--example bench_log --example bench_bundle --example bench_commit"
    subprocess.run(f"{command} {examples}".split(), cwd=REPOSITORY, check=True)
    return (REPOSITORY / os.environ.get("CARGO_TARGET_DIR", "target") / "release").resolve()


BIN = programs()


def run(*command):
    """Runs a command to its end and gives its stdout."""
    command = list(map(str, command))
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"FAIL {' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def timed(*command):
    """Seconds of a command, and its stdout."""
    began = time.perf_counter()
    output = run(*command)
    return time.perf_counter() - began, output


def example(name, *arguments):
    """The JSON that an example prints last."""
    return json.loads(run(BIN / "examples" / name, *arguments).splitlines()[-1])


class Site:
    """The demo's job and a dataset, and what was computed of them."""

    def __init__(self, directory):
        self.directory = directory
        text, data = directory / "text", directory / "data"
        text.write_text(job.TEXT)
        run(BIN / "muster", "data", "prepare", text, "--out", data)
        # The demo's own file; all states are kept, for the bundle takes them along.
        yaml = (REPOSITORY / "manifests/examples/kjv-gpt.yaml").read_text()
        changes = {
            r"\n    steps: \d+": f"\n    steps: {STEPS}",
            r"\n    intervalSteps: \d+": f"\n    intervalSteps: {INTERVAL}",
            r"\n      warmupSteps: \d+": f"\n      warmupSteps: {min(20, STEPS)}",
            r"\n  workers:": "\n  checkpoints: {keepLast: 100}\n  workers:",
        }
        for old, new in changes.items():
            yaml, count = re.subn(old, new, yaml)
            if count != 1:
                raise SystemExit(f"FAIL manifests/examples/kjv-gpt.yaml has no {old!r}")
        (directory / "job.yaml").write_text(yaml)

    def train(self, out, *more):
        """Trains; seconds from the loaded state to the last step's end. Neither start nor checkpoint is in them."""
        command = [BIN / "muster", "local", self.directory / "job.yaml", "--data", f"kjv={self.directory / 'data'}"]
        command += ["--out", out, "--threads", THREADS, "--output", "json", *more]
        process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        began = ended = None
        for line in process.stdout:
            event = json.loads(line).get("event")
            if event == "started":
                began = time.perf_counter()
            elif event == "step":
                ended = time.perf_counter()
        if process.wait() != 0 or began is None or ended is None:
            raise SystemExit(f"FAIL muster local: exit {process.returncode}")
        return ended - began

    def train_again(self, interval, out):
        """The steps of one interval once more, from the state before them."""
        start = interval * INTERVAL
        name = f"checkpoints/step-{start:08}"
        if start > 0:
            shutil.copytree(self.directory / "out" / name, out / name)
        seconds = self.train(out, "--from-step", start, "--last-step", start + INTERVAL)
        shutil.rmtree(out)
        return seconds

    def replay(self, interval):
        """The same as an auditor: the bundle is checked, the interval computed, the bits are compared. All of it counts."""
        command = [BIN / "muster", "replay", self.directory / "bundle", "--interval", interval]
        command += ["--data", self.directory / "data", "--policy", self.directory / "policy", "--threads", THREADS]
        seconds, output = timed(*command)
        if not output.endswith("\nMatch\n"):
            raise SystemExit(f"FAIL muster replay: {output}")
        return seconds

    def verify(self):
        command = [BIN / "muster", "verify", "bundle", self.directory / "bundle"]
        seconds, output = timed(*command, "--policy", self.directory / "policy")
        if "result: holds" not in output:
            raise SystemExit(f"FAIL muster verify bundle: {output}")
        return seconds


def fsyncs(directory):
    """How often a second this disk writes 4 KiB for good, one after the other."""
    with open(directory / "fsync", "wb") as file:
        began = time.perf_counter()
        for _ in range(FSYNCS):
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        return FSYNCS / (time.perf_counter() - began)


def row(name, value, unit, target, holds, peer=None, ratio=None, **more):
    """One line of the result, as the other benchmarks have them."""
    rounded = lambda number: None if number is None else float(f"{number:.4g}")
    peer = peer and {"name": peer[0], "value": rounded(peer[1])}
    first = {"name": name, "value": rounded(value), "unit": unit, "peer": peer, "ratio": rounded(ratio)}
    return {**first, "target": target, "holds": holds, **more}


def log_row(directory):
    appends, disk = [], []
    for number in range(ROUNDS):
        disk.append(fsyncs(directory))
        appends.append(example("bench_log", directory / f"log-{number}", RECORDS))
        print(f"log {number + 1}: {appends[-1]['appendsPerSecond']:.0f} appends/s", flush=True)
    value, peer = statistics.median(one["appendsPerSecond"] for one in appends), statistics.median(disk)
    return row(
        "log.appendsPerSecond",
        value,
        "records/s, each verified and durable before its answer, 512 at once",
        ">= 1000",
        value >= 1000,
        ("4 KiB and fsync on the same disk, one after the other, per second", peer),
        value / peer,
        samples={"log": appends, "fsyncsPerSecond": disk},
    )


def state_root_row(commits):
    size = commits[0]["bytes"]
    ours, theirs = ([s for one in commits for s in one[key]] for key in ("stateRootSeconds", "sha256Seconds"))
    # Pairs were measured one right after the other: what else ran has slowed both.
    ratio = statistics.median(their / our for our, their in zip(ours, theirs))
    return row(
        "stateRoot.gigabytesPerSecond",
        size / statistics.median(ours) / 1e9,
        "GB/s, one thread",
        ">= 0.95",
        ratio >= 0.95,
        ("crate sha2, SHA-256 over the same bytes", size / statistics.median(theirs) / 1e9),
        ratio,
        bytes=size,
        samples={"stateRootSeconds": ours, "sha256Seconds": theirs},
    )


def verify_row(seconds, made):
    value = statistics.median(seconds)
    bundle = {key: made[key] for key in ("files", "bytes")} | {"intervals": STEPS // INTERVAL}
    unit = "s, `muster verify bundle` from start to exit, StateRoots out of all tensors included"
    return row("verify.bundleSeconds", value, unit, "<= 2", value <= 2, bundle=bundle, samples={"seconds": seconds})


def audit_row(training, replays):
    ratio = statistics.median(replay / train for train, replay in zip(training, replays))
    return row(
        "audit.replaySeconds",
        statistics.median(replays),
        f"s for {INTERVAL} steps, `muster replay` from start to exit",
        "<= 1.1",
        ratio <= 1.1,
        ("the same steps trained by `muster local`, without start and checkpoint", statistics.median(training)),
        ratio,
        samples={"replaySeconds": replays, "trainingSeconds": training},
    )


def commit_row(training, commits):
    made, sent, waited = ([s for one in commits for s in one[key]] for key in ("commitSeconds", "uploadCpuSeconds", "uploadSeconds"))
    value, peer = statistics.median(made) + statistics.median(sent), statistics.median(training)
    return row(
        "commit.secondsPerInterval",
        value,
        "s of one thread: step records, digests of the files, StateRoot, signature, upload over TLS",
        "<= 0.01",
        value / (peer * THREADS) <= 0.01,
        (f"training of the {INTERVAL} steps that it commits to, seconds of {THREADS} threads", peer * THREADS),
        value / (peer * THREADS),
        note="what a node whose processors all train has less for training; the files' moves and fsync, which wait and do not compute, are "
        "not in it, nor is what the provider's relay does",
        shareOfSteps=float(f"{value / peer:.4g}"),
        samples={"commitSeconds": made, "uploadCpuSeconds": sent, "uploadSeconds": waited, "trainingSeconds": training},
    )


def measure(directory):
    rows = [log_row(directory)]
    site = Site(directory)
    print(f"training {STEPS} steps, for the bundle", flush=True)
    site.train(directory / "out")
    made = example("bench_bundle", directory, STEPS, INTERVAL)
    training, replays, verified, commits = [], [], [], []
    for number in range(ROUNDS):
        interval = number % (STEPS // INTERVAL)
        ways = [
            lambda: training.append(site.train_again(interval, directory / f"again-{number}")),
            lambda: replays.append(site.replay(interval)),
        ]
        # In turns, and each is the first as often.
        for way in ways if number % 2 == 0 else reversed(ways):
            way()
        verified.append(site.verify())
        commits.append(example("bench_commit", directory / "out", (interval + 1) * INTERVAL, directory / "handed", 4))
        print(f"round {number + 1}: trained {training[-1]:.2f} s, replayed {replays[-1]:.2f} s", flush=True)
    rows += [state_root_row(commits), verify_row(verified, made), audit_row(training, replays)]
    return [*rows, commit_row(training, commits)]


def machine(directory):
    model = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    isa = run(BIN / "muster-trainer", "isa")
    return {
        "cpu": model[0] if model else platform.processor(),
        "threads": CPUS,
        "isa": [line.split()[0] for line in isa.splitlines() if line.endswith(" available")][-1],
        "fileSystem": run("stat", "--file-system", "--format=%T", directory).strip(),
        "settings": {"rounds": ROUNDS, "steps": STEPS, "intervalSteps": INTERVAL, "records": RECORDS, "threads": THREADS},
        "loadBefore": os.getloadavg()[0],
    }


def main():
    # Not in /tmp, which may be memory: the log is measured on a disk.
    place = REPOSITORY / ".run"
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix="bench-") as temporary:
        directory = pathlib.Path(temporary)
        about = machine(directory)
        rows = measure(directory)
    about["loadAfter"] = os.getloadavg()[0]
    if about["loadBefore"] > CPUS / 2:
        about["note"] = "measured on a busy machine: measure again on a quiet one before you believe it"
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
    for one in rows:
        of_peer = "" if one["ratio"] is None else f", {one['ratio']} of {one['peer']['name']}"
        print(f"{'ok    ' if one['holds'] else 'MISSED'} {one['name']} {one['value']} {one['unit']}{of_peer} ({one['target']})")
    print(RESULT)
    return 0 if all(one["holds"] for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
