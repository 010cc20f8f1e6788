#!/usr/bin/env bash
# Brings an instance up (`make clusters`), or back up: every step looks whether
# its work is done already, so a second run is quick and a run after a crash
# repairs what is missing. Settings: lib.sh.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for part in lib net pki control node; do
    # shellcheck source=/dev/null
    source "$here/$part.sh"
done

check_host() {
    local tool missing=()
    require_root clusters
    for tool in containerd ctr runc buildah nft iptables conntrack ip nsenter unshare flock openssl curl jq gcc; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
    ((${#missing[@]} == 0)) || die "missing: ${missing[*]}" scripts/install-deps.sh
    grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null ||
        die "this kernel has no overlayfs (CONFIG_OVERLAY_FS), which containerd needs"
    [ -d /sys/fs/cgroup/pids ] || cgroup_is_v2 ||
        die "no cgroup controller 'pids' below /sys/fs/cgroup" "mount the cgroup hierarchies (Debian: cgroupfs-mount), or use cgroup v2"
}

up() {
    local cluster=$1 state=$STATE/$1 begun=$SECONDS
    if healthy "$cluster"; then
        log "$cluster is up"
        return
    fi
    # etcd's data and the keys belong to the binary that wrote them.
    if [ -e "$state/kubebox" ] && [ "$(cat "$state/kubebox")" != "$KUBEBOX" ]; then
        log "$cluster was made by another Kubernetes build: making it anew"
        CLUSTER_INSTANCE=$CLUSTER_INSTANCE "$here/down.sh" --locked "$cluster"
    fi
    mkdir -p "$state/log" "$RUNTIME/$cluster"
    chmod 700 "$state"
    echo "$KUBEBOX" >"$state/kubebox"
    make_cgroups "$cluster"
    ensure_network "$cluster"
    heal "$cluster"
    ensure_pki "$cluster"
    ensure_kubeconfigs "$cluster"
    # Whole before anything enters it: what starts meanwhile would find the folders half covered.
    ensure_mounts "$cluster"
    ensure_containerd "$cluster" & # while the API server starts
    local containerd=$!
    ensure_control_plane "$cluster"
    wait "$containerd" || exit 1
    ensure_node "$cluster"
    wait_for 60 "the ServiceAccounts of $cluster" controllers_ready "$cluster" || component_failed "$cluster" controller-manager
    log "$cluster is up after $((SECONDS - begun)) s: https://$(cluster_ip "$cluster"):6443"
}

# The durability of etcd may be changed by a later run, but only by saying so.
choose_durability() {
    local file=$STATE/$1/fsync wanted=${CLUSTER_FSYNC:-}
    mkdir -p "$STATE/$1"
    if [ -z "$wanted" ] && [ -e "$file" ]; then return; fi
    [ "${wanted:=0}" != "$(cat "$file" 2>/dev/null)" ] || return 0
    echo "$wanted" >"$file"
    alive "$1" etcd || return 0
    log "restarting etcd of $1 with CLUSTER_FSYNC=$wanted"
    stop "$1" etcd
}

check_settings
check_host
KUBEBOX=$("$here/build.sh")
PAUSE_ARCHIVE=$("$here/pause/build.sh")
lock
began=$(date +%s%N)
mkdir -p "$STATE" "$RUNTIME"
chmod 700 "$STATE" "$RUNTIME"
ensure_pins
ensure_bridge
jobs=()
for cluster in $CLUSTERS; do
    choose_durability "$cluster"
    up "$cluster" &
    jobs+=($!)
done
failed=0
for job in "${jobs[@]}"; do wait "$job" || failed=1; done
((failed == 0)) || exit 1
took=$((($(date +%s%N) - began) / 100000000))
log "clusters ($CLUSTERS) are up: $((took / 10)).$((took % 10)) s"
