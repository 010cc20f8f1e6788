"""Real clusters of a benchmark's own, and what runs beside them as host processes."""

import json
import os
import pathlib
import re
import signal
import subprocess
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
RUN = REPOSITORY / ".run/federation"
INSTANCE, SUBNET = "bench", os.environ.get("FEDERATION_SUBNET", "10.99.0")
HOST = f"{SUBNET}.1"
MEMBERS = ["east", "west", "south"]
KUBECONFIG = RUN / "kubeconfig"
ENVIRONMENT = dict(
    os.environ,
    CLUSTER_INSTANCE=INSTANCE,
    CLUSTER_SUBNET=SUBNET,
    CLUSTERS=" ".join(["hub", *MEMBERS]),
    # As in production: etcd answers when its data is on the disk.
    CLUSTER_FSYNC="1",
    RUN_DIR=str(RUN),
    MUSTER_RUN=str(RUN),
)
for name in ("CLUSTER_STATE", "CLUSTER_RUNTIME"):
    ENVIRONMENT.pop(name, None)
STATE = pathlib.Path(f"/var/lib/muster-{INSTANCE}")


class Failure(Exception):
    """What a person is told of, without a trace."""


def call(*command, text=None, check=True, **more):
    """Runs a command; what it printed. Its words are shown if it fails."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=REPOSITORY,
        env=dict(ENVIRONMENT, **more),
        input=text,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    if check and done.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def programs(beside):
    """What is released, the trainer beside it, for the auditor, and a program of the benchmark's own."""
    if "MUSTER_BIN" in os.environ:
        return pathlib.Path(os.environ["MUSTER_BIN"]).resolve()
    command = f"cargo build --locked --release --package muster --package muster-trainer --package {beside}"
    subprocess.run(command.split(), cwd=REPOSITORY, check=True)
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve() / "release"


def hub_alone():
    """From here on there are no members."""
    MEMBERS.clear()
    ENVIRONMENT["CLUSTERS"] = "hub"


def up(audit=False):
    """New clusters, with empty databases, and no kubelets: nothing but control planes takes part."""
    down()
    call("make", "-s", "clusters", CLUSTER_AUDIT="1" if audit else "0")
    call("e2e/localcluster/kubeconfig.sh")
    for cluster in ["hub", *MEMBERS]:
        call("e2e/localcluster/ctl.sh", "stop", cluster, "kubelet")


def down():
    call("make", "-s", "clusters-down")


def kubectl(cluster, *arguments, text=None, check=True):
    return call(RUN / "bin/kubectl", "--kubeconfig", KUBECONFIG, "--context", cluster, *arguments, text=text, check=check)


def apply(cluster, *objects):
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    kubectl(cluster, "apply", "--server-side", "--force-conflicts", "-f", "-", text=text)


def get(cluster, *what):
    return json.loads(kubectl(cluster, "get", *what, "-o", "json"))


def wait(what, seconds, done):
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise Failure(f"gave up waiting for {what} after {seconds} s")
        time.sleep(0.2)


def is_true(cluster, kind, name, condition):
    found = kubectl(cluster, "get", kind, name, "-o", f'jsonpath={{.status.conditions[?(@.type=="{condition}")].status}}', check=False)
    return found.strip() == "True"


def requests(cluster):
    """How many requests the API server of a cluster has answered, by verb and resource, watches and its own apart."""
    counted = {}
    for line in kubectl(cluster, "get", "--raw", "/metrics").splitlines():
        found = re.fullmatch(r"apiserver_request_total\{(.*)\} (\S+)", line)
        if not found:
            continue
        labels = dict(re.findall(r'(\w+)="([^"]*)"', found[1]))
        what = "/".join(filter(None, [labels["resource"], labels["subresource"]]))
        key = f"{labels['verb']} {what}"
        counted[key] = counted.get(key, 0) + int(float(found[2]))
    return counted


def more(before, after):
    """What was counted since, the most frequent first."""
    since = {name: count - before.get(name, 0) for name, count in after.items()}
    return dict(sorted(((name, count) for name, count in since.items() if count > 0), key=lambda one: -one[1]))


def kubeconfig_of(cluster):
    """A file that has this cluster alone, for an administrator."""
    path = RUN / f"{cluster}.admin.kubeconfig"
    text = kubectl(cluster, "config", "view", "--minify", "--raw", "--flatten")
    path.write_text(text)
    path.chmod(0o600)
    return path


class Processes:
    """What was started here, by name; ended by pid."""

    def __init__(self):
        self.started = {}

    def start(self, name, *command, **more):
        log = open(RUN / "logs" / f"{name}.log", "a")
        process = subprocess.Popen(
            list(map(str, command)), cwd=REPOSITORY, env=dict(ENVIRONMENT, **more), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        self.started[name] = process

    def end(self):
        for process in self.started.values():
            process.send_signal(signal.SIGTERM)
        for process in self.started.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.started = {}

    def pids(self):
        for name, process in self.started.items():
            if process.poll() is not None:
                raise Failure(f"{name} has ended with {process.returncode}; its log is {RUN}/logs/{name}.log")
        return {name: process.pid for name, process in self.started.items()}


def usage(pid):
    """Proportional set size in MiB, and seconds of the processors, of a process."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        pss = next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return pss / 1024, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def control_planes():
    """Pids of API servers and etcds, by cluster and name."""
    pids = {}
    for cluster in ["hub", *MEMBERS]:
        for name in ("apiserver", "etcd"):
            file = pathlib.Path(f"/run/muster-{INSTANCE}/{cluster}/{name}.pid")
            pids[f"{cluster} {name}"] = int(file.read_text().split()[0])
    return pids


def audited(cluster):
    """Requests that changed something, from the audit log."""
    with open(STATE / cluster / "log/audit.log") as file:
        events = [json.loads(line) for line in file]
    changes = ("create", "update", "patch", "delete", "deletecollection")
    return [event for event in events if event["verb"] in changes and event["responseStatus"].get("code", 500) < 300]


def resource(event):
    what = event.get("objectRef", {})
    return "/".join(filter(None, [what.get("resource"), what.get("subresource")]))


def writes(cluster, namespaces):
    """How often who has changed what."""
    found = {}
    for event in audited(cluster):
        if event.get("objectRef", {}).get("namespace") in namespaces:
            user = event["user"]["username"].rsplit(":", 1)[-1]
            agent = event.get("userAgent", "").split("/")[0]
            key = f"{user} ({agent}) {event['verb']} {resource(event)}"
            found[key] = found.get(key, 0) + 1
    return found


def until_dispatched(samples):
    """Of Muster's jobs: how often the hub had changed the job and its unit when the agent made the unit's Job on the member."""
    # A unit's name begins as its job's uid, and its Job's as its own.
    made = {
        event["objectRef"]["name"][:8]: event["requestReceivedTimestamp"]
        for member in MEMBERS
        for event in audited(member)
        if event["verb"] == "create" and resource(event) == "jobs"
    }
    counts = {sample["uid"][:8]: 0 for sample in samples}
    names = {sample["name"]: sample["uid"][:8] for sample in samples}
    for event in audited("hub"):
        name = event.get("objectRef", {}).get("name", "")
        of = names.get(name) if resource(event).startswith("trainingjobs") else name[:8] if resource(event).startswith("workunits") else None
        is_hub = event["user"]["username"].endswith(":muster-hub")
        if is_hub and of in counts and event["requestReceivedTimestamp"] <= made.get(of, ""):
            counts[of] += 1
    # Without its unit no job has a Job.
    if lost := [uid for uid, count in counts.items() if count == 0]:
        raise Failure(f"the audit logs have nothing of {len(lost)} of {len(counts)} jobs before their Jobs, {lost[0]} the first")
    return counts
