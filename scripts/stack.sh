#!/usr/bin/env bash
# The operator on clusters that run already (`make clusters`): hub, registrar, gateway and auditor in the hub cluster; in each member an
# agent, which joins through the gateway with a single-use token; and the witness of a third owner, north, who lends nothing and has no
# cluster: a host process.
#
#   stack.sh up            everything, until all providers are Ready; repairs what is missing, quick when nothing is
#   stack.sh down          ends what this script started and removes its state, logs aside
#   stack.sh start-hub | start-registrar | start-gateway | start-auditor | start-witness | start-agent [PROVIDER]
#   stack.sh stop-hub | stop-registrar | stop-gateway | stop-auditor | stop-witness | stop-agent [PROVIDER]
#                                      --kill as last word: SIGKILL. PROVIDER: default east
#   stack.sh stop-api | start-api      the hub's API server, for the outage tests
#   stack.sh tenant NAMESPACE          a namespace with somebody who may use it: .run/tenant-NAMESPACE.kubeconfig
#   stack.sh claim     before `make clusters`: clusters that another checkout's stack has used and left are taken down
#   stack.sh status | logs | log hub|registrar|gateway|auditor [LINES]
#
# Settings: MUSTER_RUN (state, default .run), MUSTER_BIN (folder of muster and muster-trainer), MUSTER_INSTALL (manifests, the default:
# what the charts render to; helm: the charts with real Helm, which is built once; processes: the hub's as host processes, for
# clusters without nodes), MUSTER_TRAINER_IMAGE, MUSTER_AGENT_IMAGE, MUSTER_HOST (this host as the clusters see it), MUSTER_WORKERS (how
# many each member lends, default 8), MUSTER_POLICY (more lines of the policy of agents that are started), MUSTER_PROVIDERS (default:
# every member that is up), MUSTER_AUDIT_PATIENCE (seconds that the hub waits for an auditor; default: the hub's own), MUSTER_CHEAT (with
# start-agent: this provider lies so, with the images of `scripts/image.sh --cheats`).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
source "$here/common.sh"

WITNESS=north
PARTS='registrar hub gateway auditor'
# How it was installed is how it goes on, unless somebody says otherwise.
MUSTER_INSTALL=${MUSTER_INSTALL:-$(cat "$RUN/install" 2>/dev/null || echo manifests)}
# shellcheck source=scripts/stack/processes.sh
source "$here/stack/processes.sh"
# shellcheck source=scripts/stack/member.sh
source "$here/stack/member.sh"
case $MUSTER_INSTALL in
processes)
    # shellcheck source=scripts/stack/hub-processes.sh
    source "$here/stack/hub-processes.sh"
    ;;
manifests | helm)
    # shellcheck source=scripts/stack/hub-pods.sh
    source "$here/stack/hub-pods.sh"
    ;;
*) die "MUSTER_INSTALL is '$MUSTER_INSTALL': say manifests, helm or processes" ;;
esac

providers() {
    if [ -n "${MUSTER_PROVIDERS:-}" ]; then
        tr ' ' '\n' <<<"$MUSTER_PROVIDERS"
    else
        kubectl --kubeconfig="$KUBECONFIG_ADMIN" config get-contexts -o name | grep -vx hub
    fi
}
logged() { # logged LOG WHAT COMMAND...: quiet, unless it fails
    local log=$LOGS/$1.log what=$2
    shift 2
    "$@" >"$log" 2>&1 || { cat "$log" >&2; die "$what"; }
}
helm_on() { # helm_on CLUSTER ARGS...
    local cluster=$1
    shift
    "$("$here/go-tool.sh" helm)" --kubeconfig "$KUBECONFIG_ADMIN" --kube-context "$cluster" "$@"
}

# ---- credentials ------------------------------------------------------------
# mint CONTEXT NAMESPACE ACCOUNT FILE: a kubeconfig with a 24 h token, unless FILE holds one that works and is young.
mint() {
    local context=$1 namespace=$2 account=$3 file=$4 token cluster
    if [ -n "$(find "$file" -mmin -720 2>/dev/null)" ] && kubectl --kubeconfig="$file" auth whoami >/dev/null 2>&1; then
        return
    fi
    token=$(admin "$context" create token "$account" --namespace="$namespace" --duration=24h)
    cluster=$(admin "$context" config view --minify --raw --flatten -o json | jq -c '.clusters[0].cluster')
    (
        umask 077
        jq -n --argjson cluster "$cluster" --arg token "$token" --arg context "$context" --arg namespace "$namespace" '
            {apiVersion: "v1", kind: "Config", "current-context": $context,
             clusters: [{name: $context, cluster: $cluster}],
             users: [{name: "account", user: {token: $token}}],
             contexts: [{name: $context, context: {cluster: $context, user: "account", namespace: $namespace}}]}' \
            >"$file.new"
    )
    mv "$file.new" "$file"
    say "minted a 24 h token of ServiceAccount $namespace/$account into ${file##*/}"
}
# Of the hub's processes where they run on this host, and for tests that speak as one of them.
mint_parts() {
    local part
    for part in $PARTS; do mint hub muster-system "muster-$part" "$RUN/$part.kubeconfig"; done
}

# ---- the parts --------------------------------------------------------------
published() { admin hub get configmap "$1" --namespace=muster-system >/dev/null 2>&1; }
part_serves() {
    part_runs "$1" || return 1
    case $1 in
    hub) published muster-hub-public ;;
    gateway) published muster-gateway-public ;;
    auditor) admin hub get lease muster-auditor --namespace=muster-system >/dev/null 2>&1 ;;
    esac
}
wait_part() { # wait_part PART: until it serves, or the end of its log
    wait_for 180 "$1 to serve" part_serves "$1" || {
        part_log "$1" 20 >&2
        die "$1 did not come up"
    }
}
# The admin's part and the owner's, for who only looks: no cluster of his own, so a host process.
start_witness() {
    admin hub apply --server-side --force-conflicts -f "$REPO/manifests/examples/provider-$WITNESS.yaml" >/dev/null
    if [ ! -d "$RUN/agent-$WITNESS/identity" ] ||
        [ -z "$(admin hub get computeprovider "$WITNESS" -o jsonpath='{.spec.acceptedKeys}')" ]; then
        end "$WITNESS" TERM
        "$MUSTER" provider create-token "$WITNESS" --auto-accept --kubeconfig "$KUBECONFIG_ADMIN" --context hub \
            --out "$RUN/$WITNESS.token"
    fi
    launch "$WITNESS" "$MUSTER" agent witness --state "$RUN/agent-$WITNESS" --join-token-file "$RUN/$WITNESS.token"
}
witness_ready() { alive "$WITNESS" && is_ready "$WITNESS"; }
wait_witness() {
    wait_for 60 "ComputeProvider $WITNESS to be Ready" witness_ready || {
        tail -n 20 "$LOGS/$WITNESS.log" >&2 || true
        die "$WITNESS did not come up; its log is $LOGS/$WITNESS.log"
    }
}

# Clusters belong to the machine, a stack to a checkout: objects, volumes and keys of another one would not fit this one's state.
claimed_by() { # whose stack the clusters have, if it is another's
    local whose
    whose=$(cat "$CLUSTER_STATE/stack" 2>/dev/null) && [ "$whose" != "$RUN" ] && echo "$whose"
}
claim() {
    local whose pid
    whose=$(claimed_by) || return 0
    # The witness is a host process whatever the others are.
    for pid in "$whose"/*.pid; do
        if [ -e "$pid" ] && RUN=$whose alive "$(basename "$pid" .pid)"; then
            die "the clusters serve the stack of ${whose%/.run}, which runs: end it there (scripts/stack.sh down), or use clusters of your own (CLUSTER_INSTANCE, CLUSTER_SUBNET)"
        fi
    done
    say "the clusters hold what the stack of ${whose%/.run} left behind: taking them down"
    make -s -C "$REPO" clusters-down
}

up() {
    local began=$SECONDS provider part ready=1
    need_clusters
    ! claimed_by >/dev/null || die "the clusters have the stack of $(claimed_by): scripts/stack.sh claim, then make clusters"
    echo "$RUN" >"$CLUSTER_STATE/stack"
    echo "$MUSTER_INSTALL" >"$RUN/install"
    for provider in $(providers); do provider_ready "$provider" || ready=0; done
    witness_ready && hub_is_as_wanted || ready=0
    # Where nothing is missing this does nothing.
    hub_install
    for part in $PARTS; do wait_part "$part"; done
    mint_parts
    for provider in $(providers); do
        [ "$ready" = 1 ] || invite "$provider"
        start_agent "$provider"
    done
    start_witness
    for provider in $(providers); do
        wait_for 90 "ComputeProvider $provider to be Ready" provider_ready "$provider" || failed_agent "$provider"
    done
    wait_witness
    [ "$ready" = 1 ] ||
        say "stack is up after $((SECONDS - began)) s: gateway at $GATEWAY_URL, providers $(providers | paste -sd' ')"
}
# Rights in one namespace and nothing else.
tenant() {
    local namespace=$1
    {
        admin hub create namespace "$namespace" --dry-run=client -o yaml
        echo ---
        admin hub create serviceaccount tenant --namespace="$namespace" --dry-run=client -o yaml
        echo ---
        admin hub create rolebinding tenant --namespace="$namespace" --clusterrole=muster-tenant \
            --serviceaccount="$namespace:tenant" --dry-run=client -o yaml
    } | admin hub apply --server-side --force-conflicts -f - >/dev/null
    mint hub "$namespace" tenant "$RUN/tenant-$namespace.kubeconfig"
}
started() { find "$RUN" -maxdepth 1 -name '*.pid' -printf '%f\n' | sed 's/\.pid$//' | sort; }
down() {
    local name
    for name in $(started); do end "$name" TERM; done
    # Its state goes, so nothing may be left that expects it. A cluster that is gone has nothing of it.
    hub_remove
    for name in $(providers 2>/dev/null); do
        admin "$name" get --raw /readyz --request-timeout=5s >/dev/null 2>&1 || continue
        admin "$name" delete namespace "$LENT" --ignore-not-found --timeout=90s >/dev/null 2>&1 || true
        admin "$name" delete persistentvolume muster-agent --ignore-not-found --timeout=30s >/dev/null 2>&1 || true
    done
    find "$RUN" -mindepth 1 -maxdepth 1 ! -name logs -exec rm -rf {} +
    claimed_by >/dev/null || rm -f "$CLUSTER_STATE/stack"
    say "stack is down"
}
status() {
    local name
    for name in $(started); do
        if alive "$name"; then echo "$name runs, pid $(cut -d' ' -f1 "$RUN/$name.pid")"; else echo "$name does not run"; fi
    done
    admin hub get deployments,pods --namespace=muster-system || true
    admin hub get computeproviders,trainingjobs,workunits --all-namespaces || true
    for name in $(providers); do admin "$name" get deployments,jobs,pods --namespace="$LENT" || true; done
}

command=${1:-} provider=east signal=TERM
for word in "${@:2}"; do
    if [ "$word" = --kill ]; then signal=KILL; else provider=$word; fi
done
case $command in
up) up ;;
down) down ;;
claim) claim ;;
start-hub | start-registrar | start-gateway | start-auditor)
    need_clusters
    part_start "${command#start-}"
    wait_part "${command#start-}"
    ;;
stop-hub | stop-registrar | stop-gateway | stop-auditor) part_stop "${command#stop-}" "$signal" ;;
start-witness) need_clusters && start_witness && wait_witness ;;
stop-witness) end "$WITNESS" "$signal" ;;
start-agent) need_clusters && start_agent "$provider" ;;
stop-agent) need_clusters && stop_agent "$provider" "$signal" ;;
stop-api) "$CTL" stop-apiserver hub ;;
start-api) "$CTL" start-apiserver hub ;;
tenant) need_clusters && tenant "${2:?which namespace?}" ;;
status) need_clusters && status ;;
log) part_log "${2:?whose?}" "${3:-50}" ;;
logs)
    for name in $PARTS; do part_log "$name" 50; done
    for name in $(started); do tail -n 50 "$LOGS/$name.log"; done
    for name in $(providers); do admin "$name" logs --namespace="$LENT" -l "$AGENT_PODS" --tail=50 || true; done
    ;;
*)
    sed -n '2,26p' "$0" >&2
    exit 64
    ;;
esac
