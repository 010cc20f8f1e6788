#!/usr/bin/env bash
# Takes an instance down (`make clusters-down`) and leaves nothing of it. It
# trusts no record of what was started: it looks for what carries the
# instance's name, so it works after any crash, and a second time.
# `down.sh CLUSTER...` takes down those only; --locked: the caller has the lock.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
source "$here/lib.sh"

# Ends what is in the cgroup, again until it is empty: a process may fork
# between our look and our signal. A process leaves its cgroup before it has
# given its memory and files back, so then wait for each to be gone.
end_processes() {
    local cluster=$1 group round pid pids
    local -A ending=()
    group=$(process_cgroup "$cluster")
    [ -d "$group" ] || return 0
    for ((round = 0; round < 300; round++)); do
        pids=$(cluster_pids "$cluster")
        for pid in $pids; do
            [ -n "${ending[$pid]:-}" ] || ending[$pid]=$(start_time "$pid") || true
        done
        # shellcheck disable=SC2086
        [ -z "$pids" ] || kill -KILL $pids 2>/dev/null || true
        # A frozen container dies once it thaws.
        find "/sys/fs/cgroup/freezer/$CGROUP/$cluster" -name freezer.state \
            -exec sh -c 'for state; do echo THAWED >"$state"; done' _ {} + 2>/dev/null || true
        [ ! -e "$group/cgroup.kill" ] || echo 1 >"$group/cgroup.kill"
        for pid in "${!ending[@]}"; do
            same_process "$pid" "${ending[$pid]}" || unset "ending[$pid]"
        done
        [ -n "$pids" ] || ((${#ending[@]} > 0)) || return 0
        sleep 0.1
    done
    die "processes of $cluster do not end: ${!ending[*]}" "see /proc/PID/stack; then make clusters-down again"
}

remove_cgroups() { # remove_cgroups FOLDER-BELOW-EACH-CONTROLLER
    local root round
    for root in /sys/fs/cgroup/"$1" /sys/fs/cgroup/*/"$1"; do
        for ((round = 0; round < 50; round++)); do
            [ -d "$root" ] || break
            find "$root" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
        done
        [ ! -d "$root" ] || log "warning: $root is still in use"
    done
}

unpin() {
    [ -e "$1" ] || return 0
    umount "$1" 2>/dev/null || true
    rm -f "$1"
}

down() {
    local cluster=$1 mounted
    end_processes "$cluster"
    unpin "$RUNTIME/ns/$cluster.mnt"
    ip link del "$BRIDGE-$cluster" 2>/dev/null || true
    unpin "$RUNTIME/ns/$cluster.net"
    # Nothing is mounted here in the root namespace, unless somebody tried.
    for mounted in $(awk -v s="$STATE/$cluster/" -v r="$RUNTIME/$cluster/" \
        'index($5, s) == 1 || index($5, r) == 1 { print $5 }' /proc/self/mountinfo | sort -r); do
        umount -l "$mounted"
    done
    remove_cgroups "$CGROUP/$cluster"
    rm -rf --one-file-system "${STATE:?}/$cluster" "${RUNTIME:?}/$cluster"
}

check_settings
require_root clusters-down
locked=0
if [ "${1:-}" = --locked ]; then
    locked=1
    shift
fi
((locked)) || lock
if [ $# -gt 0 ]; then
    for cluster in "$@"; do down "$cluster"; done
    exit
fi

began=$(date +%s%N)
# Every cluster there is a trace of, whatever $CLUSTERS says now.
for cluster in "${!CLUSTER_NUMBER[@]}"; do down "$cluster"; done
ip link del "$BRIDGE" 2>/dev/null || true
if mountpoint -q "$RUNTIME/ns"; then umount "$RUNTIME/ns"; fi
remove_cgroups "$CGROUP"
rm -rf --one-file-system "$STATE" "$RUNTIME"
took=$((($(date +%s%N) - began) / 100000000))
log "clusters are down: $((took / 10)).$((took % 10)) s"
rm -f "$RUNTIME.lock"
