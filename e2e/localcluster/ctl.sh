#!/usr/bin/env bash
# Works on clusters that are up, one small thing a time: what failure tests and
# curious people need. `ctl.sh` alone lists the commands.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for part in lib net control node oci; do
    # shellcheck source=/dev/null
    source "$here/$part.sh"
done

usage() {
    cat >&2 <<'TEXT'
usage: ctl.sh COMMAND CLUSTER [ARGS]      (settings: README.md)
  ip CLUSTER                        the address of its node and its API (port 6443)
  status CLUSTER                    its components; fails unless all is well
  log CLUSTER COMPONENT             path of a component's log
  exec CLUSTER COMMAND...           run a command in its network namespace

  stop CLUSTER COMPONENT [SIGNAL]   end a component (KILL), wait until it is gone
  start CLUSTER COMPONENT           start it again, wait until it answers
  pause|resume CLUSTER COMPONENT    SIGSTOP, SIGCONT
  stop-apiserver|start-apiserver CLUSTER
  stop-etcd|start-etcd CLUSTER
  etcd-snapshot CLUSTER FILE        its database at this moment, into a tar archive
  etcd-restore CLUSTER FILE         the control plane starts anew on such a database

  partition CLUSTER [in|out|both]   drop silently what arrives, leaves, or both
  heal CLUSTER

  images CLUSTER                    images of its containerd, with digests
  load CLUSTER ARCHIVE              import an OCI archive under NAME:TAG and
                                    NAME@DIGEST; prints the latter
  rmi CLUSTER REF                   remove an image under all its names
components: etcd apiserver controller-manager scheduler
            containerd kubelet kube-proxy coredns
TEXT
    exit 2
}

component() { # checked
    grep -qwF -- "$1" <<<"$(components "$cluster")" || die "$cluster has no component '$1': $(components "$cluster" | tr '\n' ' ')"
}

start_again() {
    KUBEBOX=$(cat "$STATE/$cluster/kubebox")
    "start_${1//-/_}" "$cluster"
    case $1 in
    etcd | apiserver) wait_for 120 "the API server of $cluster" apiserver_ready "$cluster" ;;
    containerd) wait_for 60 "containerd of $cluster" ctr_of "$cluster" version ;;
    kubelet) wait_for 120 "node $cluster to be Ready" kubelet_ready "$cluster" ;;
    esac
}

etcd_is_paused() {
    local pid
    read -r pid _ <"$RUNTIME/$cluster/etcd.pid" && grep -q '^State:.T' "/proc/$pid/status"
}

# What a crash at this moment would leave: etcd stands still for the copy, and
# recovers from it as from a crash.
etcd_snapshot() {
    local file=$1 copied=0
    alive "$cluster" etcd || die "etcd of $cluster does not run" "ctl.sh start-etcd $cluster"
    signal "$cluster" etcd STOP
    if wait_for 5 "etcd of $cluster to stand still" etcd_is_paused; then
        tar -C "$STATE/$cluster" -Scf "$file.new" etcd && copied=1
    fi
    signal "$cluster" etcd CONT
    [ "$copied" = 1 ] || die "the database of $cluster could not be copied to $file"
    mv "$file.new" "$file"
}

# As after a disaster: nothing that the control plane remembers may survive, or
# it would wait for a time that never was.
etcd_restore() {
    local file=$1 name
    tar -tf "$file" etcd/member/ >/dev/null 2>&1 || die "$file is no snapshot of etcd-snapshot"
    for name in scheduler controller-manager apiserver etcd; do stop "$cluster" "$name"; done
    rm -rf "$STATE/$cluster/etcd.lost"
    mv "$STATE/$cluster/etcd" "$STATE/$cluster/etcd.lost"
    tar -C "$STATE/$cluster" -xf "$file"
    KUBEBOX=$(cat "$STATE/$cluster/kubebox")
    start_etcd "$cluster"
    for name in apiserver controller-manager scheduler; do start_again "$name"; done
    rm -rf "$STATE/$cluster/etcd.lost"
}

load() {
    local archive=$1 name reference
    name=$(archive_name "$archive")
    reference=${name%:*}@$(archive_digest "$archive")
    ctr_of "$cluster" images import "$archive" >/dev/null
    # The kubelet asks for an image by the name in the pod, and would pull a
    # name@digest that containerd knows only by its tag.
    ctr_of "$cluster" images tag --force "$name" "$reference" >/dev/null
    echo "$reference"
}

remove_image() {
    local target names
    target=$(ctr_of "$cluster" images ls | awk -v ref="$1" '$1 == ref { print $3 }')
    [ -n "$target" ] || die "$cluster has no image $1" "ctl.sh images $cluster"
    names=$(ctr_of "$cluster" images ls | awk -v target="$target" '$3 == target { print $1 }')
    # shellcheck disable=SC2086
    ctr_of "$cluster" images rm --sync $names
}

[ $# -ge 2 ] || usage
command=$1 cluster=$2
shift 2
check_settings
known_cluster "$cluster"
if [ "$command" = ip ]; then # needs neither root nor a cluster
    cluster_ip "$cluster"
    exit
fi
require_root
[ -f "$STATE/$cluster/kubebox" ] || die "cluster $cluster is not up" "make clusters"
needs() { [ "$1" -ge "$2" ] || usage; }

case $command in
status)
    for name in $(components "$cluster"); do
        printf '%-20s %s\n' "$name" "$(alive "$cluster" "$name" && echo running || echo stopped)"
    done
    healthy "$cluster"
    ;;
log) needs $# 1 && component "$1" && echo "$STATE/$cluster/log/$1.log" ;;
# This shell becomes the command, so that its pid is the caller's to end.
exec) needs $# 1 && exec nsenter --net="$RUNTIME/ns/$cluster.net" -- "$@" ;;
stop) needs $# 1 && component "$1" && lock && stop "$cluster" "$1" "${2:-KILL}" ;;
start) needs $# 1 && component "$1" && lock && start_again "$1" ;;
stop-apiserver) lock && stop "$cluster" apiserver ;;
start-apiserver) lock && start_again apiserver ;;
stop-etcd) lock && stop "$cluster" etcd ;;
start-etcd) lock && start_again etcd ;;
etcd-snapshot) needs $# 1 && lock && etcd_snapshot "$1" ;;
etcd-restore) needs $# 1 && lock && etcd_restore "$1" ;;
pause) needs $# 1 && component "$1" && signal "$cluster" "$1" STOP ;;
resume) needs $# 1 && component "$1" && signal "$cluster" "$1" CONT ;;
partition)
    case ${1:-both} in in | out | both) partition "$cluster" "${1:-both}" ;; *) usage ;; esac
    ;;
heal) heal "$cluster" ;;
images) ctr_of "$cluster" images ls | awk 'NR > 1 { print $1, $3, $4 $5 }' ;;
load) needs $# 1 && load "$1" ;;
rmi) needs $# 1 && remove_image "$1" ;;
*) usage ;;
esac
