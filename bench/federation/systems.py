"""The systems that are measured. Each is brought up on clusters that are new, and says what a job of it looks like."""

import json

from cluster import (
    HOST, MEMBERS, REPOSITORY, RUN, Processes, apply, call, is_true, kubeconfig_of, kubectl, wait,
)

TENANT = "team-a"
HUB_METRICS = "127.0.0.1:18446"
IMAGE = "muster.test/trainer@sha256:" + "ab" * 32


def namespace(name):
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def documents(text):
    """JSON objects one behind the other."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        found, end = decoder.raw_decode(text, at)
        yield from found.get("items", [found])
        at = end
        while at < len(text) and text[at].isspace():
            at += 1


def certificates():
    """For webhook servers that nobody calls: managers do not start without."""
    folder = RUN / "certificates"
    if not folder.exists():
        folder.mkdir()
        call(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=webhooks",
            "-keyout", folder / "tls.key", "-out", folder / "tls.crt",
        )
    return folder


def install(cluster, home, *definitions):
    """A peer's definitions, as arguments of `kubectl apply`, its own namespace and the tenant's."""
    kubectl(cluster, "apply", "--server-side", *definitions)
    apply(cluster, namespace(home), namespace(TENANT))
    kubectl(cluster, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")


def manager(health, webhook, folder):
    """What peers' managers are told alike: no certificates of their own making, no election, no metrics."""
    return {
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"port": webhook, "certDir": str(folder)},
        "internalCertManagement": {"enable": False},
        "leaderElection": {"leaderElect": False},
    }


def workers():
    """The pods of a peer's job, as large as Muster's workers are by default."""
    container = {"name": "worker", "image": IMAGE, "resources": {"requests": {"cpu": "900m", "memory": "768Mi"}}}
    return {"spec": {"restartPolicy": "Never", "containers": [container]}}


class Muster:
    """Hub, registrar, gateway with the log, a witness, and an agent for each member; nothing is left out."""

    kind, parent, by_uid, submit = "batch/v1/Job", "/labels/muster.dev~1job-uid", True, "hub"

    def __init__(self, programs, members=MEMBERS):
        self.programs, self.members = programs, members
        self.name = "muster" if members == MEMBERS else "muster-one"
        self.agents = Processes()
        self.environment = dict(
            MUSTER_BIN=str(programs), MUSTER_TRAINER_IMAGE=IMAGE, MUSTER_PROVIDERS=" ", MUSTER_HOST=HOST,
            MUSTER_METRICS_LISTEN="127.0.0.1:18444", MUSTER_HUB_METRICS_LISTEN=HUB_METRICS, MUSTER_INSTALL="processes",
        )

    def muster(self, *arguments):
        return call(self.programs / "muster", *arguments)

    def start(self):
        call("scripts/stack.sh", "up", **self.environment)
        for number, member in enumerate(self.members):
            self.join(member, 9450 + number)
        for member in self.members:
            wait(f"provider {member}", 60, lambda: is_true("hub", "computeprovider", member, "Ready"))
        self.tenant(TENANT)

    def tenant(self, name, weight=1):
        """A namespace with data."""
        apply("hub", {**namespace(name), "metadata": {"name": name, "labels": {"muster.dev/weight": str(weight)}}})
        data = RUN / "data"
        if not data.exists():
            text = RUN / "text"
            text.write_bytes(bytes(range(97, 123)) * 200)
            self.muster("data", "prepare", "--out", data, text)
        self.muster("data", "import", "--store", RUN / "store", f"{name}/text", data, "--kubeconfig", kubeconfig_of("hub"))

    def join(self, member, port):
        apply(
            "hub",
            {
                "apiVersion": "muster.dev/v1alpha1", "kind": "ComputeProvider", "metadata": {"name": member},
                "spec": {"owner": member, "trustTier": "Standard", "quota": {"units": 1000, "workers": 1000}},
            },
        )
        kubectl(member, "apply", "--server-side", "-f", REPOSITORY / "manifests/member/namespace.yaml")
        # What bounds a member is how much its provider lends, here as many workers as there are jobs; the agent is a host process.
        rights = kubectl(member, "create", "--dry-run=client", "-o", "json", "-f", REPOSITORY / "manifests/member/muster-agent.yaml")
        left_out = ("Deployment", "ResourceQuota", "PersistentVolumeClaim", "NetworkPolicy", "PodDisruptionBudget")
        apply(member, *(found for found in documents(rights) if found["kind"] not in left_out))
        token = kubectl(member, "create", "token", "muster-agent", "--namespace", "muster-lent", "--duration", "24h").strip()
        config = json.loads(kubectl(member, "config", "view", "--minify", "--raw", "--flatten", "-o", "json"))
        config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
        path = RUN / f"{member}.agent.kubeconfig"
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        join = RUN / f"{member}.token"
        self.muster(
            "provider", "create-token", member, "--auto-accept", "--kubeconfig", kubeconfig_of("hub"), "--out", join
        )
        self.agents.start(
            f"agent-{member}", self.programs / "muster", "agent", "run", "--state", RUN / f"agent-{member}",
            "--join-token-file", join, "--member-kubeconfig", path, "--relay-listen", f"{HOST}:{port}",
            "--relay-url", f"https://{HOST}:{port}", "--allow-image", IMAGE, "--workers", "1000", NO_COLOR="1",
        )

    def job(self, name):
        return {
            "apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name, "namespace": TENANT},
            "spec": {
                "model": {"architecture": "gpt2", "layers": 1, "width": 16, "heads": 1, "context": 16, "vocabulary": 256},
                "data": {"dataset": "text"}, "training": {"steps": 40, "batch": 2, "shards": 2}, "workers": {"count": 1},
                "assurance": {"tier": "None"},
            },
        }

    def pids(self):
        pids = self.agents.pids()
        for name in ("hub", "gateway", "registrar", "north"):
            pids[name] = int((RUN / f"{name}.pid").read_text().split()[0])
        return pids

    def stop(self):
        self.agents.end()
        call("scripts/stack.sh", "down", check=False, **self.environment)


class MusterIdle(Muster):
    """The same while it has nothing else to do: from a job to the moment at which its WorkUnit is in watches of the hub's API server,
    of which an agent's is one."""

    kind, qps, jobs = "muster.dev/v1alpha1/WorkUnit", 2, 100

    def __init__(self, programs):
        super().__init__(programs)
        self.name, self.watched = "muster-idle", ["hub"]


# Kueue wants a certificate for its metrics at a fixed place, also where it serves none: for it alone there is one.
KUEUE = """
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$0/upper,workdir=$0/work" /etc
mkdir -p /etc/kueue/metrics
ln -sfn "$1" /etc/kueue/metrics/certs
shift
exec "$@"
"""


def kueue(name, folder, *command):
    """A command in a mount namespace of its own, with these certificates in /etc."""
    place = RUN / "etc" / name
    for part in ("upper", "work"):
        (place / part).mkdir(parents=True, exist_ok=True)
    return ["unshare", "--mount", "sh", "-euc", KUEUE, place, folder, *command]


class MultiKueue:
    """Kueue 0.19.2 on the hub and on every member, and MultiKueue between them. Without webhooks, as Muster has none."""

    kind, parent, by_uid, submit, members = "batch/v1/Job", "/name", False, "hub", MEMBERS

    def __init__(self, tuned=True):
        self.tuned = tuned
        self.name = "multikueue" if tuned else "multikueue-default"
        if not tuned:
            # Of 500 some would still wait when the observer gives up.
            self.jobs = 100
        self.managers = Processes()

    def start(self):
        module = call("scripts/go-tool.sh", "kueue", "--module").strip()
        binary = call("scripts/go-tool.sh", "kueue").strip()
        folder = certificates()
        for number, cluster in enumerate(["hub", *MEMBERS]):
            install(cluster, "kueue-system", "-f", f"{module}/config/components/crd/bases")
            command = (binary, "--config", self.configuration(cluster, number, folder), "--kubeconfig", kubeconfig_of(cluster))
            self.managers.start(f"kueue-{cluster}", *kueue(cluster, folder, *command, "--zap-log-level", "error"))
        for cluster in MEMBERS:
            self.queues(cluster, [])
        clusters = [
            {
                "apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "MultiKueueCluster", "metadata": {"name": member},
                "spec": {"clusterSource": {"kubeConfig": {"location": str(kubeconfig_of(member)), "locationType": "Path"}}},
            }
            for member in MEMBERS
        ]
        check = {
            "apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "AdmissionCheck", "metadata": {"name": "members"},
            "spec": {
                "controllerName": "kueue.x-k8s.io/multikueue",
                "parameters": {"apiGroup": "kueue.x-k8s.io", "kind": "MultiKueueConfig", "name": "members"},
            },
        }
        config = {
            "apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "MultiKueueConfig", "metadata": {"name": "members"},
            "spec": {"clusters": MEMBERS},
        }
        apply("hub", *clusters, config, check)
        self.queues("hub", ["members"])
        for member in MEMBERS:
            wait(f"MultiKueueCluster {member}", 60, lambda: is_true("hub", "multikueuecluster", member, "Active"))
        for cluster in ["hub", *MEMBERS]:
            wait(f"ClusterQueue of {cluster}", 60, lambda: is_true(cluster, "clusterqueue", "all", "Active"))

    def configuration(self, cluster, number, folder):
        path = RUN / f"kueue-{cluster}.yaml"
        config = {
            **manager(18100 + number, 18200 + number, folder),
            "apiVersion": "config.kueue.x-k8s.io/v1beta2", "namespace": "kueue-system",
            "integrations": {"frameworks": ["batch/job"]},
            "featureGates": {"VisibilityOnDemand": False},
        }
        if self.tuned:
            config["clientConnection"] = {"qps": 1000, "burst": 2000}
            # As many at once as its own performance tests have, for what a job goes through.
            kinds = ["Job.batch", "Workload.kueue.x-k8s.io", "LocalQueue.kueue.x-k8s.io", "ClusterQueue.kueue.x-k8s.io"]
            config["controller"] = {"groupKindConcurrency": {kind: 20 for kind in kinds}}
        path.write_text(json.dumps(config))
        return path

    def queues(self, cluster, checks):
        """One queue with room for all."""
        resources = [{"name": "cpu", "nominalQuota": "100000"}, {"name": "memory", "nominalQuota": "100000Gi"}]
        spec = {
            "namespaceSelector": {},
            "resourceGroups": [{"coveredResources": ["cpu", "memory"], "flavors": [{"name": "any", "resources": resources}]}],
        }
        if checks:
            spec["admissionChecksStrategy"] = {"admissionChecks": [{"name": name} for name in checks]}
        version = "kueue.x-k8s.io/v1beta2"
        apply(
            cluster,
            {"apiVersion": version, "kind": "ResourceFlavor", "metadata": {"name": "any"}},
            {"apiVersion": version, "kind": "ClusterQueue", "metadata": {"name": "all"}, "spec": spec},
            {
                "apiVersion": version, "kind": "LocalQueue", "metadata": {"name": "all", "namespace": TENANT},
                "spec": {"clusterQueue": "all"},
            },
        )

    def job(self, name):
        return {
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": name, "namespace": TENANT, "labels": {"kueue.x-k8s.io/queue-name": "all"}},
            "spec": {
                # What its webhook would set, whose place nobody takes here.
                "suspend": True, "managedBy": "kueue.x-k8s.io/multikueue",
                "template": workers(),
            },
        }

    def pids(self):
        return self.managers.pids()

    def stop(self):
        self.managers.end()


# What JobSet's webhook would set. Without it its manager ends in a panic.
DEFAULTED = {
    "successPolicy": {"operator": "All", "targetReplicatedJobs": []},
    "startupPolicy": {"startupPolicyOrder": "AnyOrder"},
    "network": {"enableDNSHostnames": False, "publishNotReadyAddresses": True},
}


class JobSet:
    """JobSet 0.12.0 on one member, where its objects are made, too. Without webhooks."""

    name = "jobset"
    kind, parent, by_uid, submit, members = "batch/v1/Job", "/labels/jobset.sigs.k8s.io~1jobset-name", False, "east", ["east"]

    def __init__(self):
        self.manager = Processes()

    def start(self):
        module = call("scripts/go-tool.sh", "jobset", "--module").strip()
        binary = call("scripts/go-tool.sh", "jobset").strip()
        install("east", "jobset-system", "-f", f"{module}/config/components/crd/bases")
        path = RUN / "jobset.yaml"
        config = {
            **manager(18300, 18301, certificates()),
            "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
            "clientConnection": {"qps": 1000, "burst": 2000},
        }
        path.write_text(json.dumps(config))
        self.manager.start(
            "jobset", binary, "--config", path, "--kubeconfig", kubeconfig_of("east"), "--zap-log-level", "error"
        )
        wait("the manager of JobSet", 60, lambda: self.is_ready(18300))

    def is_ready(self, port):
        self.manager.pids()
        return call("curl", "-fsS", f"http://127.0.0.1:{port}/readyz", check=False).strip() == "ok"

    def job(self, name):
        spec = {"completionMode": "Indexed", "parallelism": 1, "completions": 1, "backoffLimit": 0, "template": workers()}
        return {
            "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": name, "namespace": TENANT},
            "spec": {
                **DEFAULTED,
                "replicatedJobs": [{"name": "workers", "replicas": 1, "groupName": "default", "template": {"spec": spec}}],
            },
        }

    def pids(self):
        return self.manager.pids()

    def stop(self):
        self.manager.end()


class Trainer(JobSet):
    """Kubeflow Trainer 2.3.0 and the JobSet that it needs, on one member. Without webhooks."""

    name = "trainer"

    def start(self):
        super().start()
        module = call("scripts/go-tool.sh", "trainer", "--module").strip()
        binary = call("scripts/go-tool.sh", "trainer").strip()
        install("east", "kubeflow-system", "-k", f"{module}/manifests/base/crds")
        # Its certificates have a fixed place below the folder for temporary files.
        temporary = RUN / "trainer"
        place = temporary / "k8s-webhook-server/serving-certs"
        place.mkdir(parents=True, exist_ok=True)
        for name in ("tls.crt", "tls.key"):
            (place / name).write_bytes((certificates() / name).read_bytes())
        config = manager(18310, 18311, certificates())
        del config["webhook"]["certDir"], config["internalCertManagement"]
        config |= {
            "apiVersion": "config.trainer.kubeflow.org/v1alpha1",
            "certManagement": {"enable": False},
            "clientConnection": {"qps": 1000, "burst": 2000},
            "controller": {"groupKindConcurrency": {"TrainJob.trainer.kubeflow.org": 20}},
        }
        path = RUN / "trainer.yaml"
        path.write_text(json.dumps(config))
        self.manager.start(
            "trainer", binary, "--config", path, "--kubeconfig", kubeconfig_of("east"), "--zap-log-level", "error",
            TMPDIR=str(temporary),
        )
        wait("the manager of Trainer", 60, lambda: self.is_ready(18310))
        step = {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}
        pods = workers()
        pods["spec"]["containers"][0]["name"] = "node"
        apply(
            "east",
            {
                "apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "ClusterTrainingRuntime", "metadata": {"name": "plain"},
                "spec": {
                    "mlPolicy": {"numNodes": 1},
                    "template": {
                        "spec": {
                            **DEFAULTED,
                            "replicatedJobs": [
                                {"name": "node", "template": {"metadata": step, "spec": {"completionMode": "Indexed", "template": pods}}}
                            ],
                        }
                    },
                },
            },
        )

    def job(self, name):
        runtime = {"apiGroup": "trainer.kubeflow.org", "kind": "ClusterTrainingRuntime", "name": "plain"}
        return {
            "apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": {"name": name, "namespace": TENANT},
            "spec": {"runtimeRef": runtime},
        }
