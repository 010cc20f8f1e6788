#!/usr/bin/env python3
"""`make bench-scale`: one hub, 1,000 providers and 10,000 jobs, for ten minutes after all are there.

The hub, its log, API server and etcd are real; providers are a model of what agents do to the API server (bench/fleet). Each lends one
worker, so a tenth of the jobs train and the others wait. Meanwhile owners delete jobs and make others. Writes bench/results/scale.json and
what was sampled. PROVIDERS, JOBS, SECONDS how many; RENEW, PROGRESS, CHURN seconds from one renewal of a Lease, one progress of a unit and one
deleted job to the next; PATIENCE how many seconds it may take until all are there; RESULTS another folder for what is written. Needs
root. Exits 1 if a target is missed.
"""

import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

from cluster import REPOSITORY, RUN, Failure, control_planes, down, hub_alone, kubeconfig_of, more, programs, requests, up, usage
from report import number, processor, row
from systems import HUB_METRICS, IMAGE, Muster

PROVIDERS, JOBS, SECONDS = number("PROVIDERS", 1000), number("JOBS", 10_000), number("SECONDS", 600)
RENEW, PROGRESS, CHURN = number("RENEW", 15), number("PROGRESS", 30), number("CHURN", 2)
PATIENCE = number("PATIENCE", 3600)
# Smaller ones have no target: nothing is known from them of this size.
FULL = PROVIDERS >= 1000 and JOBS >= 10_000 and SECONDS >= 600
# With their weights.
TENANTS = {"team-a": 1, "team-b": 2, "team-c": 3}


class Watched:
    """What the hub's process and its neighbours use, every ten seconds."""

    def __init__(self, pids):
        self.pids, self.samples, self.ends = pids, [], threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        began = time.monotonic()
        while not self.ends.is_set():
            used = {name: usage(pid) for name, pid in self.pids.items()}
            self.samples.append({"at": round(time.monotonic() - began, 1), "hubRssMiB": rss(self.pids["hub"]), "used": used})
            self.ends.wait(10)

    def stop(self):
        self.ends.set()
        self.thread.join()
        return self.samples


def rss(pid, what="VmRSS"):
    with open(f"/proc/{pid}/status") as file:
        return round(next(int(line.split()[1]) for line in file if line.startswith(f"{what}:")) / 1024, 1)


def histograms():
    """Counts below each bound, by name and labels, as the hub's /metrics has them."""
    with urllib.request.urlopen(f"http://{HUB_METRICS}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for name, labels, count in re.findall(r"^(\w+)_seconds_bucket\{(.*)\} (\d+)$", text, re.M):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        bound = float(labels.pop("le").replace("+Inf", "inf"))
        found.setdefault(" ".join([name, *labels.values()]), {})[bound] = int(count)
    return found


def since(before, after):
    return {
        name: {bound: count - before.get(name, {}).get(bound, 0) for bound, count in counts.items()}
        for name, counts in after.items()
    }


def quantile(counts, part):
    """As Prometheus has it: within a bucket, values are taken as evenly spread."""
    bounds = sorted(counts)
    total = counts[bounds[-1]]
    if not total:
        return None
    below, lower = 0, 0.0
    for bound in bounds:
        if counts[bound] >= part * total:
            return lower if bound == float("inf") else lower + (bound - lower) * (part * total - below) / (counts[bound] - below)
        below, lower = counts[bound], bound


def job():
    return {
        "apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "job-{N}", "namespace": "{TENANT}"},
        "spec": {
            "model": {"architecture": "gpt2", "layers": 1, "width": 16, "heads": 1, "context": 16, "vocabulary": 256},
            "data": {"dataset": "text"}, "training": {"steps": 100_000, "batch": 2, "shards": 2}, "workers": {"count": 1},
            "assurance": {"tier": "None"},
        },
    }


def measure(built):
    """Brings all of it up; what was sampled."""
    hub_alone()
    up()
    system = Muster(built, [])
    fleet = None
    try:
        system.start()
        for name, weight in TENANTS.items():
            system.tenant(name, weight)
        (RUN / "template.json").write_text(json.dumps(job()))
        command = [
            built / "muster-fleet", "--kubeconfig", kubeconfig_of("hub"), "--store", RUN / "store", "--template", RUN / "template.json",
            "--tenants", ",".join(TENANTS), "--image", IMAGE.split("@")[1], "--providers", PROVIDERS, "--jobs", JOBS, "--renew", RENEW,
            "--progress", PROGRESS, "--churn", CHURN, "--seconds", SECONDS, "--patience", PATIENCE,
        ]
        log = open(RUN / "logs/fleet.log", "w")
        fleet = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=log, text=True)
        pids = {**system.pids(), **control_planes(), "fleet": fleet.pid}
        warm = event(fleet, "warm")
        print(json.dumps(warm), flush=True)
        before, asked = histograms(), requests("hub")
        watched = Watched(pids)
        end = event(fleet, "end")
        samples, took = watched.stop(), since(before, histograms())
        return {
            "warm": warm, "end": end, "samples": samples, "highestRssMiB": rss(pids["hub"], "VmHWM"),
            "took": {name: {str(bound): count for bound, count in counts.items()} for name, counts in took.items()},
            "p99": {name: quantile(counts, 0.99) for name, counts in took.items()},
            "p50": {name: quantile(counts, 0.5) for name, counts in took.items()},
            "requests": more(asked, requests("hub")),
        }
    finally:
        if fleet and fleet.poll() is None:
            fleet.terminate()
            fleet.wait()
        system.stop()
        down()


def event(fleet, name):
    line = fleet.stdout.readline()
    if not line:
        raise Failure(f"the fleet has ended with {fleet.wait()}; its log is {RUN}/logs/fleet.log")
    found = json.loads(line)
    if found["event"] != name:
        raise Failure(f"the fleet said {found['event']}, not {name}")
    return found


def aim(value, most):
    """Target, and whether it holds."""
    return (f"<= {most}", value <= most) if FULL else (None, True)


def rows_of(found):
    rows = []
    for name in ("Job", "Provider", "Unit"):
        p99 = found["p99"].get(f"muster_hub_reconcile_duration {name}")
        if p99 is not None:
            rows.append(row(f"scale.reconcile.{name.lower()}.p99", p99, "s, one look at an object, 99th percentile", *aim(p99, 1)))
    highest = found["highestRssMiB"]
    rows.append(row("scale.hub.rss", highest, "MiB, highest resident set of the hub's process since its start", *aim(highest, 400)))
    first, last = found["samples"][0], found["samples"][-1]
    for name in ("hub", "hub apiserver", "hub etcd", "gateway"):
        cores = (last["used"][name][1] - first["used"][name][1]) / max(last["at"] - first["at"], 1)
        rows.append(row(f"scale.cpu.{name.replace(' ', '.')}", cores, "processors, mean", None, True))
    for name, what in (("accepted", "a job's request to its acceptance"), ("places", "the deletion of a job that trains to the next unit at its provider")):
        times = sorted(found["end"][name])
        if times:
            rows.append(row(f"scale.{name}.median", statistics.median(times), f"s from {what}, median", None, True))
            rows.append(row(f"scale.{name}.p99", times[min(len(times) - 1, int(0.99 * len(times)))], f"s from {what}, 99th percentile", None, True))
    return rows


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("FAIL ended by a signal"))
    if os.geteuid() != 0:
        raise SystemExit("FAIL real clusters need root: sudo -E make bench-scale")
    (RUN / "logs").mkdir(parents=True, exist_ok=True)
    built, load = programs("muster-fleet"), os.getloadavg()[0]
    try:
        found = measure(built)
    except Failure as failure:
        raise SystemExit(f"FAIL {failure}")
    rows = save(found, load)
    for one in rows:
        print("ok  " if one["holds"] else "MISS", one["name"], one["value"], one["unit"], "target", one["target"])
    return 0 if all(one["holds"] for one in rows) else 1


def save(found, load):
    """Writes the results; their rows."""
    rows = rows_of(found)
    machine = {
        "cpu": processor(), "threads": len(os.sched_getaffinity(0)), "loadBefore": load, "providers": PROVIDERS, "jobs": JOBS,
        "seconds": SECONDS, "renewSeconds": RENEW, "progressSeconds": PROGRESS, "churnSeconds": CHURN,
    }
    results = pathlib.Path(os.environ.get("RESULTS", REPOSITORY / "bench/results"))
    results.mkdir(parents=True, exist_ok=True)
    (results / "scale.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    (results / "scale.samples.json").write_text(json.dumps(found) + "\n")
    return rows


if __name__ == "__main__":
    sys.exit(main())
