# shellcheck shell=bash
# Settings, names and helpers that the other scripts in this folder share.
#
# An instance is a set of clusters (by default hub, east and west) with one bridge.
# Everything an instance owns carries its name, so that several can live on one
# machine and each can be found and removed without knowing how far it got:
#   state    /var/lib/muster-dev/CLUSTER   keys, etcd, images, logs
#   runtime  /run/muster-dev/CLUSTER       sockets, pid files (short: 107 bytes)
#   cgroups  muster-dev/CLUSTER            every process of the cluster
#   links    mu-dev (bridge), mu-dev-CLUSTER (root end of the veth)
set -euo pipefail
LOCALCLUSTER=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$LOCALCLUSTER/../.." && pwd)

CLUSTER_INSTANCE=${CLUSTER_INSTANCE:-dev}
CLUSTERS=${CLUSTERS:-hub east west}
CLUSTER_SUBNET=${CLUSTER_SUBNET:-10.77.0}
STATE=${CLUSTER_STATE:-/var/lib/muster-$CLUSTER_INSTANCE}
RUNTIME=${CLUSTER_RUNTIME:-/run/muster-$CLUSTER_INSTANCE}
CACHE=${MUSTER_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/muster}
BRIDGE=mu-$CLUSTER_INSTANCE
GATEWAY=$CLUSTER_SUBNET.1
CGROUP=muster-$CLUSTER_INSTANCE
PAUSE_IMAGE=muster.test/pause:1

# Known clusters and their numbers, which give them their addresses.
declare -A CLUSTER_NUMBER=([hub]=0 [east]=1 [west]=2 [north]=3 [south]=4)

log() { printf '%s\n' "$*" >&2; }
die() {
    log "error: $1"
    shift
    for remedy in "$@"; do log "  remedy: $remedy"; done
    exit 1
}

# ---- what a cluster is called and where it lives ---------------------------
check_settings() {
    [[ $CLUSTER_INSTANCE =~ ^[a-z0-9]{1,5}$ ]] ||
        die "CLUSTER_INSTANCE=$CLUSTER_INSTANCE: want 1 to 5 of a-z0-9 (it becomes part of 15-character link names)"
    [[ $CLUSTER_SUBNET =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] ||
        die "CLUSTER_SUBNET=$CLUSTER_SUBNET: want the first three bytes of a /24, like 10.77.0"
    # Both end up under rm -rf and in mount arguments.
    local path
    for path in "$STATE" "$RUNTIME"; do
        [[ $path =~ ^/[A-Za-z0-9._/-]+/[A-Za-z0-9._-]+$ && $path != *..* ]] ||
            die "CLUSTER_STATE or CLUSTER_RUNTIME is '$path': want an absolute path two folders deep, without spaces"
    done
    ((${#RUNTIME} <= 60)) || die "CLUSTER_RUNTIME=$RUNTIME is too long for Unix sockets (at most 60 characters)"
    local cluster
    for cluster in $CLUSTERS; do known_cluster "$cluster"; done
}
known_cluster() {
    [[ -n ${CLUSTER_NUMBER[$1]:-} ]] || die "no cluster is called '$1': known are hub, east, west, north, south"
}
require_root() {
    [ "$(id -u)" = 0 ] || die "real clusters need root (network namespaces, mounts, cgroups)" "sudo -E make ${1:-clusters}"
}
cluster_ip() { echo "$CLUSTER_SUBNET.$((10 + ${CLUSTER_NUMBER[$1]}))"; }
pod_cidr() { echo "10.78.${CLUSTER_NUMBER[$1]}.0/24"; }
service_cidr() { echo "10.79.${CLUSTER_NUMBER[$1]}.0/24"; }
service_ip() { echo "10.79.${CLUSTER_NUMBER[$1]}.1"; } # of Service default/kubernetes
containerd_socket() { echo "$RUNTIME/$1/containerd.sock"; }

# ---- one change at a time --------------------------------------------------
# up, down and ctl exclude each other. Daemons must not inherit descriptor 9,
# or the lock would live as long as they do.
lock() {
    mkdir -p "$(dirname "$RUNTIME")"
    exec 9>"$RUNTIME.lock"
    flock -w 600 9 || die "another clusters command has held $RUNTIME.lock for 10 minutes"
}

# wait_for SECONDS WHAT COMMAND...: polls; the machine may be shared and slow.
wait_for() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { log "gave up waiting for $what"; return 1; }
        sleep 0.2
    done
}

# ---- cgroups: how we know which processes are ours -------------------------
# A pid can be reused and a pid file can be lost; a cgroup that we made holds
# exactly what we started and its descendants, containers included (the kubelet
# puts pods below the same cgroup). On cgroup v1 the controller `pids` serves.
cgroup_is_v2() { [ -f /sys/fs/cgroup/cgroup.controllers ]; }
process_cgroup() { # of a cluster, or of the instance
    local base=/sys/fs/cgroup
    cgroup_is_v2 || base=$base/pids
    echo "$base/$CGROUP${1:+/$1}"
}
cluster_pids() {
    local folder
    folder=$(process_cgroup "$1")
    [ ! -d "$folder" ] || find "$folder" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u
}
make_cgroups() {
    local cluster=$1 base controller level
    if cgroup_is_v2; then
        # Inner groups hold no processes in v2, so the daemons get their own
        # leaf; the kubelet needs the controllers passed down to its root.
        mkdir -p "/sys/fs/cgroup/$CGROUP/$cluster/system"
        for level in "" "/$CGROUP" "/$CGROUP/$cluster"; do
            for controller in cpuset cpu io memory hugetlb pids; do
                grep -qw "$controller" "/sys/fs/cgroup$level/cgroup.controllers" || continue
                echo "+$controller" >"/sys/fs/cgroup$level/cgroup.subtree_control" ||
                    die "cgroup v2 does not delegate '$controller' at /sys/fs/cgroup$level" \
                        "run as root of the machine, or in a container with its own cgroup namespace"
            done
        done
        return
    fi
    mkdir -p "$(process_cgroup "$cluster")/system"
    for base in /sys/fs/cgroup/*/; do
        base=${base%/}
        [ -e "$base/cgroup.procs" ] && [ ! -f "$base/cgroup.controllers" ] || continue
        mkdir -p "$base/$CGROUP/$cluster"
        [ -e "$base/cpuset.cpus" ] || continue
        # A v1 cpuset starts empty and refuses processes until it is filled.
        for level in "$CGROUP" "$CGROUP/$cluster"; do
            cat "$base/cpuset.cpus" >"$base/$level/cpuset.cpus"
            cat "$base/cpuset.mems" >"$base/$level/cpuset.mems"
        done
    done
}

# ---- processes -------------------------------------------------------------
# Started with nsenter and not `ip netns exec`, which mounts a new /sys and so
# hides /sys/fs/cgroup from the kubelet.
in_cluster() { # in_cluster CLUSTER COMMAND...: in its network namespace
    local cluster=$1
    shift
    nsenter --net="$RUNTIME/ns/$cluster.net" -- "$@"
}
# A pid with its start time, in clock ticks since boot, is an identity. A zombie
# counts as gone: it has given everything back but its name.
start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) } # the name before may hold spaces and brackets
    # shellcheck disable=SC2086
    set -- $stat
    [ "$1" != Z ] && [ "$1" != X ] && echo "${20}"
}
same_process() { # same_process PID START-TIME
    [ -n "$2" ] && [ "$(start_time "$1")" = "$2" ]
}
alive() { # alive CLUSTER NAME
    local pid started
    read -r pid started 2>/dev/null <"$RUNTIME/$1/$2.pid" && same_process "$pid" "$started"
}
start() { # start CLUSTER NAME COMMAND...: a daemon, unless it runs already
    local cluster=$1 name=$2 enter=(--net="$RUNTIME/ns/$1.net") group
    shift 2
    if alive "$cluster" "$name"; then return; fi
    [ ! -e "$RUNTIME/ns/$cluster.mnt" ] || enter+=(--mount="$RUNTIME/ns/$cluster.mnt")
    group=$(process_cgroup "$cluster")/system/cgroup.procs
    (
        echo "$BASHPID" >"$group"
        exec 9>&-
        umask 022
        exec setsid nsenter "${enter[@]}" -- "$@" </dev/null >>"$STATE/$cluster/log/$name.log" 2>&1
    ) &
    printf '%s %s\n' $! "$(start_time $!)" >"$RUNTIME/$cluster/$name.pid"
}
signal() { # signal CLUSTER NAME SIGNAL
    alive "$1" "$2" || return 0
    local pid
    read -r pid _ <"$RUNTIME/$1/$2.pid"
    kill "-$3" "$pid" 2>/dev/null || true
}
stop() { # stop CLUSTER NAME [SIGNAL]: and wait until it is gone
    signal "$1" "$2" "${3:-KILL}"
    gone() { ! alive "$1" "$2"; }
    wait_for 30 "the end of $2 on $1" gone "$1" "$2"
    rm -f "$RUNTIME/$1/$2.pid"
}

# ---- the API, as its administrator -----------------------------------------
api() { # api CLUSTER PATH: GET, the answer on stdout
    local pki=$STATE/$1/pki
    curl --silent --show-error --fail --max-time "${API_TIMEOUT:-10}" --noproxy '*' --cacert "$pki/ca.crt" \
        --cert "$pki/admin.crt" --key "$pki/admin.key" "https://$(cluster_ip "$1"):6443$2"
}
node_ready() {
    api "$1" "/api/v1/nodes/$1" | jq -e 'any(.status.conditions[]; .type=="Ready" and .status=="True")'
}
components() {
    echo etcd apiserver controller-manager scheduler containerd kubelet kube-proxy coredns
}
healthy() { # every process there, API ready, node Ready
    local name
    for name in $(components "$1"); do alive "$1" "$name" || return 1; done
    API_TIMEOUT=5 api "$1" /readyz >/dev/null 2>&1 || return 1
    node_ready "$1" >/dev/null 2>&1
}
