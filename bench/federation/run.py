#!/usr/bin/env python3
"""`make bench-federation`: a burst of jobs to three members, by Muster and by MultiKueue, on real control planes.

One system is up at a time, on clusters with empty databases, in the order A B B A; no kubelets, no webhooks. The end point is the
same for all: a neutral observer (bench/observer) sees the job's batch/v1 Job in a watch of a member. Writes
bench/results/federation.json with every sample. ROUNDS how many pairs, JOBS how many jobs a burst has; SYSTEMS, by name, which are
run; WRITES=0 leaves out the round in which writes are counted; PATIENCE how many seconds a burst may take; RESULTS another folder
for what is written. Needs root. A round that fails is named and left out. Exits 1 then, and if a target is missed.
"""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

from cluster import KUBECONFIG, MEMBERS, REPOSITORY, RUN, Failure, control_planes, down, more, programs, requests, until_dispatched, up, usage, writes
from report import number, processor, row
from systems import TENANT, JobSet, MultiKueue, Muster, MusterIdle, Trainer


def switch(name, default):
    text = os.environ.get(name, default)
    if text not in ("0", "1"):
        raise SystemExit(f"FAIL {name}={text!r}: 0 or 1 is wanted")
    return text == "1"


ROUNDS, JOBS, WRITES = number("ROUNDS", 5), number("JOBS", 500), switch("WRITES", "1")
PATIENCE = number("PATIENCE", 300)


def burst(system, programs, audit):
    """One round: what the observer saw, what it cost."""
    up(audit)
    try:
        system.start()
        time.sleep(10)
        processes = {**system.pids(), **control_planes()}
        asked = {cluster: requests(cluster) for cluster in ["hub", *MEMBERS]}
        before = {name: usage(pid) for name, pid in processes.items()}
        template = RUN / "template.json"
        template.write_text(json.dumps(system.job("burst-{N}")))
        command = [programs / "muster-observer", "--kubeconfig", KUBECONFIG, "--submit", system.submit, "--template", template]
        command += ["--timeout", PATIENCE, "--count", min(getattr(system, "jobs", JOBS), JOBS), "--qps", getattr(system, "qps", 1000)]
        command += ["--watch", ",".join(getattr(system, "watched", system.members)), "--kind", system.kind, "--parent", system.parent]
        done = subprocess.run(
            list(map(str, command + (["--by-uid"] if system.by_uid else []))), stdout=subprocess.PIPE, text=True
        )
        if done.returncode != 0:
            raise Failure(f"the observer ended with {done.returncode}: not every job has a child")
        seen = json.loads(done.stdout)
        after = {name: usage(pid) for name, pid in processes.items()}
        cost = {
            name: {"pssMiB": round(pss, 1), "idlePssMiB": round(before[name][0], 1), "cpuSeconds": round(cpu - before[name][1], 2)}
            for name, (pss, cpu) in after.items()
        }
        asked = {cluster: more(asked[cluster], requests(cluster)) for cluster in asked}
        counted = None
        if audit:
            homes = {TENANT, "muster-lent", "kueue-system", *(f"muster-p-{member}" for member in MEMBERS)}
            counted = {cluster: writes(cluster, homes) for cluster in ["hub", *MEMBERS]}
            counted["untilDispatched"] = until_dispatched(seen["samples"])
        return {"system": system.name, "summary": seen["summary"], "samples": seen["samples"], "cost": cost, "requests": asked, "writes": counted}
    finally:
        system.stop()
        down()


def median(values):
    return statistics.median(values) if values else None


def of(rounds, system, audited=False):
    return [found for found in rounds if found["system"] == system and found["audited"] == audited]


def per_second(rounds, system):
    return [found["summary"]["perSecond"] for found in of(rounds, system)]


def against(rounds, name, ours, theirs, least):
    """How fast children appear, ours to theirs; `least` is what the ratio must be."""
    mine, peer = median(per_second(rounds, ours)), median(per_second(rounds, theirs))
    if mine is None or peer is None:
        return []
    ratio = mine / peer
    said = {"name": theirs, "value": float(f"{peer:.4g}")}
    return [row(name, mine, "jobs per second from the first request to the last child, median of rounds", f">= {least}", ratio >= least, said, ratio)]


def late(rounds, name, ours, theirs):
    """How long the slowest of a hundred waits, ours to theirs."""
    p99 = lambda system: median([found["summary"]["p99"] for found in of(rounds, system)])
    mine, peer = p99(ours), p99(theirs)
    if mine is None or peer is None:
        return []
    said = {"name": theirs, "value": float(f"{peer:.4g}")}
    return [row(name, mine, "s from request to child, 99th percentile, median of rounds", "<= 1", mine <= peer, said, mine / peer)]


def is_event(what):
    return what.endswith(" events")


def written(rounds):
    """Writes of one job until it has its child, by all that are not KCM's, from the audit log."""
    rows = []
    for found in of(rounds, "muster", audited=True):
        jobs = found["summary"]["jobs"]
        mine = lambda cluster, who: sum(
            count for what, count in found["writes"][cluster].items() if what.startswith(who) and not is_event(what)
        )
        hub = statistics.mean(found["writes"]["untilDispatched"].values())
        rows.append(row("federation.writes.hub", hub, "writes of the hub to its API server per job until its child exists, without Events", "<= 3", hub <= 3))
        whole = mine("hub", "muster-hub ") / jobs
        rows.append(row("federation.writes.hub.whole", whole, "the same, with what the hub says of it while the others are dispatched", None, True))
        member = sum(mine(cluster, "muster-agent ") for cluster in MEMBERS) / jobs
        rows.append(row("federation.writes.member", member, "writes of the agent to its member per job", "<= 1", member <= 1))
    return rows


def apply_to_unit(rounds):
    found = of(rounds, "muster-idle")
    if not found:
        return []
    seen = {name: median([one["summary"][name] for one in found]) for name in ("p50", "p99")}
    what = "s from the request to the WorkUnit in a watch of the hub, two jobs a second, "
    return [
        row("federation.idle.median", seen["p50"], what + "median", "<= 0.15", seen["p50"] <= 0.15),
        row("federation.idle.p99", seen["p99"], what + "99th percentile", "<= 0.5", seen["p99"] <= 0.5),
    ]


def idle(rounds):
    pss = median([found["cost"]["hub"]["idlePssMiB"] for found in of(rounds, "muster")])
    return [] if pss is None else [row("federation.hub.idle", pss, "MiB, PSS of the hub's process, three members, no job", "<= 40", pss <= 40)]


def rows_of(rounds):
    return [
        *against(rounds, "federation.burst", "muster", "multikueue", 1.5),
        *late(rounds, "federation.burst.p99", "muster", "multikueue"),
        *against(rounds, "federation.burst.default", "muster", "multikueue-default", 20),
        *against(rounds, "federation.one", "muster-one", "jobset", 1.3),
        *late(rounds, "federation.one.p99", "muster-one", "jobset"),
        *against(rounds, "federation.one.trainer", "muster-one", "trainer", 1.3),
        *late(rounds, "federation.one.trainer.p99", "muster-one", "trainer"),
        *apply_to_unit(rounds),
        *written(rounds),
        *idle(rounds),
    ]


# There for one figure alone: a burst at the default of 20 requests a second takes minutes.
ONCE = ("multikueue-default", "muster-idle")


def plan(wanted):
    """Who has its turn when, and whether with the audit log: A B B A. What is there for one figure alone has one round."""
    turns = []
    for number in range(ROUNDS):
        turn = [name for name in wanted if name not in ONCE or number == 0]
        turns += turn if number % 2 == 0 else turn[::-1]
    # Once more with the log, which costs the API servers something.
    return [(name, False) for name in turns] + [("muster", True)] * (WRITES and "muster" in wanted)


def main():
    # Whoever ends it by a signal gets the machine back as it was.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("FAIL ended by a signal"))
    if os.geteuid() != 0:
        raise SystemExit("FAIL real clusters need root: sudo -E make bench-federation")
    (RUN / "logs").mkdir(parents=True, exist_ok=True)
    built = programs("muster-observer")
    makers = {
        "muster": lambda: Muster(built),
        "multikueue": MultiKueue,
        "multikueue-default": lambda: MultiKueue(tuned=False),
        "muster-one": lambda: Muster(built, MEMBERS[:1]),
        "jobset": JobSet,
        "trainer": Trainer,
        "muster-idle": lambda: MusterIdle(built),
    }
    wanted = os.environ.get("SYSTEMS", " ".join(makers)).split()
    if unknown := [name for name in wanted if name not in makers]:
        raise SystemExit(f"FAIL SYSTEMS: no {unknown[0]}; there are {', '.join(makers)}")
    results = pathlib.Path(os.environ.get("RESULTS", REPOSITORY / "bench/results"))
    results.mkdir(parents=True, exist_ok=True)
    rounds, rows, failed, load = [], [], [], os.getloadavg()[0]
    for name, audited in plan(wanted):
        try:
            found = burst(makers[name](), built, audited)
        except Failure as failure:
            failed.append(name)
            print(f"FAIL {name}: {failure}", flush=True)
            continue
        rounds.append(dict(found, audited=audited))
        print(json.dumps({"system": name, "audited": audited, **found["summary"]}), flush=True)
        # After each round: whoever ends it early keeps what was measured.
        rows = rows_of(rounds)
        machine = {"cpu": processor(), "threads": len(os.sched_getaffinity(0)), "jobs": JOBS, "rounds": ROUNDS, "loadBefore": load}
        (results / "federation.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
        (results / "federation.samples.json").write_text(json.dumps(rounds) + "\n")
    for found in rows:
        print("ok  " if found["holds"] else "MISS", found["name"], found["value"], "peer", found["peer"], "ratio", found["ratio"], "target", found["target"])
    return 0 if rows and not failed and all(found["holds"] for found in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
