# shellcheck shell=bash
# Settings and helpers that stack.sh, demo.sh and test.sh share. To be sourced.
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
absolute() { case $1 in /*) echo "$1" ;; *) echo "$REPO/$1" ;; esac; }
RUN=$(absolute "${MUSTER_RUN:-.run}")
LOGS=$RUN/logs
STORE=$RUN/store
KUBECONFIG_ADMIN=$RUN/kubeconfig
# The root namespace's end of the bridge that joins the clusters.
MUSTER_HOST=${MUSTER_HOST:-${CLUSTER_SUBNET:-10.77.0}.1}
CLUSTER_STATE=${CLUSTER_STATE:-/var/lib/muster-${CLUSTER_INSTANCE:-dev}}
TARGET=${CARGO_TARGET_DIR:-$REPO/target}
MUSTER_BIN=$(absolute "${MUSTER_BIN:-$TARGET/debug}")
MUSTER=$MUSTER_BIN/muster
mkdir -p "$LOGS"

say() { printf '%s\n' "$*" >&2; }
die() {
    say "error: $*"
    exit 1
}
wait_for() { # wait_for SECONDS WHAT COMMAND...
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS < end)) || {
            say "gave up waiting for $what"
            return 1
        }
        sleep 0.5
    done
}

# install_missing PACKAGES...: what Debian has of them and this machine has not; says why it cannot.
install_missing() {
    local package missing=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "needs root: apt-get install ${missing[*]}"
        return 1
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2 || {
        echo "apt-get could not install ${missing[*]}"
        return 1
    }
}

# kubectl of the clusters' own build: nobody has to install one.
kubectl() { "$RUN/bin/kubectl" "$@"; }
admin() { # admin CONTEXT ARGS...: as the cluster's administrator
    local context=$1
    shift
    kubectl --kubeconfig="$KUBECONFIG_ADMIN" --context="$context" "$@"
}
need_clusters() {
    RUN_DIR=$RUN "$REPO/e2e/localcluster/kubeconfig.sh" >/dev/null 2>"$LOGS/kubeconfig.log" ||
        die "the clusters do not run: make clusters ($(tail -n 1 "$LOGS/kubeconfig.log"))"
    admin hub get --raw /readyz >/dev/null || die "the hub's API server does not answer: make clusters"
}
# all_below FOLDER...: what all files there say, in one order, to be hashed
all_below() { find "$@" -type f -print0 | sort -z | xargs -0 cat; }
# The image of `muster`: the agent, the hub, and what is beside it.
agent_image() {
    local image=${MUSTER_AGENT_IMAGE:-$(cat "$RUN/agent-image" 2>/dev/null)}
    [ -n "$image" ] || die "no image of muster: scripts/image.sh builds and loads it"
    printf '%s\n' "$image"
}
# The image that hub and agent agree on, by digest.
trainer_image() {
    local image=${MUSTER_TRAINER_IMAGE:-$(cat "$RUN/trainer-image" 2>/dev/null)}
    [ -n "$image" ] || die "no trainer image: scripts/image.sh builds and loads it"
    printf '%s\n' "$image"
}
