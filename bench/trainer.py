#!/usr/bin/env python3
"""Steps of whole models beside PyTorch on the same cores, in turns: gradients, their sum, clipping, AdamW.

Writes bench/results/trainer.json with every sample. One process for each side of a configuration; they take turns, and who waits
sleeps. THROUGHPUT names our binary (the example of muster-numerics), TORCH the Python that has torch, CONFIGS which configurations
(comma-separated), ROUNDS how many turns large models have (default 5). torch.compile is measured, too, where it runs (it wants a C++ compiler), and no target;
`--eager` leaves it out. Exits 1 if a target is missed.
"""

import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
THROUGHPUT = os.environ.get("THROUGHPUT", str(REPOSITORY / "target/release/examples/throughput"))
TORCH = os.environ.get("TORCH", sys.executable)
ROUNDS = int(os.environ.get("ROUNDS", "5"))
THREADS = len(os.sched_getaffinity(0))
# Threads of a library that has just been asked to wait may still spin.
PAUSE = 0.3
COMPILED = "torch.compile"

GPT = dict(architecture="gpt2", layers=4, width=256, heads=4, context=256, vocabulary=256)
GPT2 = dict(architecture="gpt2", layers=12, width=768, heads=12, vocabulary=50304)
LLAMA = dict(architecture="llama", layers=12, width=768, heads=12, kvHeads=12, mlpWidth=2048, vocabulary=32000)
# name: shape, turns and steps of each, ratios that f32-chain and i16-exact are to reach. Small models have more turns: a neighbour on
# the host is in the way for seconds, which is all the time that a few turns of theirs take.
CONFIGS = {
    "gpt-4x256-batch8": (dict(GPT, batch=8, shards=1), (3 * ROUNDS, 6), (1.25, 1.10)),
    "gpt-4x256-batch8-shards8": (dict(GPT, batch=8, shards=8), (ROUNDS, 6), (None, None)),
    "gpt-4x256-batch1": (dict(GPT, batch=1, shards=1), (3 * ROUNDS, 40), (1.15, 0.95)),
    "gpt2-124m-context256-batch4": (dict(GPT2, context=256, batch=4, shards=1), (ROUNDS, 1), (1.25, 1.20)),
    "gpt2-124m-context1024-batch1": (dict(GPT2, context=1024, batch=1, shards=1), (ROUNDS, 1), (1.20, 1.15)),
    "llama-110m-context512-batch2": (dict(LLAMA, context=512, batch=2, shards=1), (ROUNDS, 1), (1.20, 1.10)),
}


class Side:
    """A process that does steps when it is told to."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = json.loads(self.process.stdout.readline())
        self.rounds = []

    def steps(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"exited with {self.process.wait()}: {' '.join(self.process.args)}")
        return json.loads(answer)

    def turn(self, count):
        time.sleep(PAUSE)
        self.rounds.append(self.steps(count))

    def end(self):
        """Peak resident memory, in bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        self.process.stdin.close()
        self.process.wait()
        return 1024 * peak


def ours(shape, arithmetic):
    numbers = [shape[key] for key in ("layers", "width", "heads", "context", "vocabulary", "batch", "shards")]
    words = [arithmetic, "serve"]
    if shape["architecture"] == "llama":
        words += ["llama", f"kv-heads={shape['kvHeads']}"]
    return Side([THROUGHPUT, *map(str, numbers), str(THREADS), *words])


def theirs(shape, compiled):
    script = str(REPOSITORY / "bench/torch_steps.py")
    return Side([TORCH, script, json.dumps(dict(shape, threads=THREADS, compile=compiled))])


def rate(side, tokens, choose):
    return tokens / choose(seconds for one in side.rounds for seconds in one)


def measure(name, shape, turns, targets, compiled):
    sides = {"f32-chain": ours(shape, "f32-chain"), "torch": theirs(shape, False), "i16-exact": ours(shape, "i16-exact")}
    if compiled:
        sides[COMPILED] = theirs(shape, True)
    parameters = {side.about["parameters"] for side in sides.values()}
    assert len(parameters) == 1, f"models of different sizes: {parameters}"
    # Compilers, allocators, first touches.
    for key, side in list(sides.items()):
        try:
            side.steps(2)
        except RuntimeError as error:
            if key != COMPILED:
                raise
            print(f"not measured: {key} for {name}: {error}", flush=True)
            del sides[key]
    rounds, steps = turns
    for _ in range(rounds):
        for side in sides.values():
            side.turn(steps)
    peak = {key: side.end() for key, side in sides.items()}
    tokens = shape["batch"] * shape["context"]
    rows = []
    for key, target in zip(("f32-chain", "i16-exact"), targets):
        best = {k: rate(sides[k], tokens, min) for k in sides}
        median = {k: rate(sides[k], tokens, statistics.median) for k in sides}
        ratio = best[key] / best["torch"]
        row = {
            "name": f"{name}.{key}.tokensPerSecond",
            "value": round(best[key], 1),
            "unit": "tokens/s, best step",
            "peer": {"name": f"PyTorch {sides['torch'].about['torch']} eager fp32", "value": round(best["torch"], 1)},
            "ratio": round(ratio, 3),
            "target": f">= {target}" if target else "none: how many shards a step has is a job's choice",
            "holds": target is None or ratio >= target,
            "median": {k: round(v, 1) for k, v in median.items()},
            "medianRatio": round(median[key] / median["torch"], 3),
            "shape": shape,
            "parameters": parameters.copy().pop(),
            "seconds": {k: [[round(s, 5) for s in one] for one in sides[k].rounds] for k in (key, "torch")},
        }
        if COMPILED in sides:
            row["compiled"] = {"value": round(best[COMPILED], 1), "ratio": round(best[key] / best[COMPILED], 3)}
        rows.append(row)
        memory = peak[key] / peak["torch"]
        rows.append(
            {
                "name": f"{name}.{key}.peakBytes",
                "value": peak[key],
                "unit": "bytes resident at most, whole process",
                "peer": {"name": "PyTorch, the same", "value": peak["torch"]},
                "ratio": round(memory, 3),
                "target": "<= 1",
                "holds": memory <= 1,
            }
        )
    return rows


def main():
    compiled = "--eager" not in sys.argv
    chosen = os.environ.get("CONFIGS")
    names = chosen.split(",") if chosen else list(CONFIGS)
    cpu = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    about = {"cpu": cpu[0] if cpu else platform.processor(), "threads": THREADS, "loadBefore": os.getloadavg()[0]}
    rows = []
    for name in names:
        shape, turns, targets = CONFIGS[name]
        rows += measure(name, shape, turns, targets, compiled)
        for row in rows[-4:]:
            mark = "ok    " if row["holds"] else "MISSED"
            compared = f"{row['ratio']} of {row['peer']['value']} ({row['target']})"
            beside = f"; {row['compiled']['ratio']} of {COMPILED}" if "compiled" in row else ""
            print(f"{mark} {row['name']} {row['value']}, {compared}{beside}", flush=True)
    probe = ours(dict(GPT, batch=1, shards=1), "f32-chain")
    about["isa"] = probe.about["isa"]
    probe.end()
    about["loadAfter"] = os.getloadavg()[0]
    if about["loadBefore"] > 0.5:
        about["note"] = "measured on a busy machine: measure again on a quiet one before you believe it"
    path = REPOSITORY / "bench/results/trainer.json"
    if chosen is None:
        path.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
        print(path)
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
