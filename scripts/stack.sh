#!/usr/bin/env bash
# The operator on clusters that run already (`make clusters`): objects applied, hub and agent as host processes under
# tokens of their own ServiceAccounts and nothing else, the member lent as ComputeProvider `east`.
#
#   stack.sh up            everything, until the provider is Ready; repairs what is missing, quick when nothing is
#   stack.sh down          ends what this script started and removes its state, logs aside
#   stack.sh start-hub | stop-hub [--kill] | start-agent | stop-agent [--kill]
#   stack.sh stop-api | start-api      the hub's API server, for the outage tests
#   stack.sh status | logs
#
# Settings: MUSTER_RUN (state, default .run), MUSTER_BIN (folder of muster and muster-trainer), MUSTER_TRAINER_IMAGE,
# MUSTER_HOST (this host as the clusters see it), MUSTER_WORKERS (how many the member lends, default 8).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
source "$here/common.sh"

HUB_LISTEN=${MUSTER_HUB_LISTEN:-$MUSTER_HOST:8443}
RELAY_LISTEN=${MUSTER_RELAY_LISTEN:-$MUSTER_HOST:9443}
PROVIDER=east

# ---- host processes: one pid file each, `pid start-time fingerprint` --------
start_time() { # of a pid, in clock ticks since boot: a pid alone may belong to somebody else by now
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) }
    # shellcheck disable=SC2086
    set -- $stat
    echo "${20}"
}
alive() { # alive NAME
    local pid started
    read -r pid started _ 2>/dev/null <"$RUN/$1.pid" || return 1
    [ "$(start_time "$pid")" = "$started" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null
}
end() { # end NAME SIGNAL: and wait until it is gone; SIGKILL after 15 s
    local name=$1 pid waited=0
    if alive "$name"; then
        read -r pid _ <"$RUN/$name.pid"
        kill "-$2" "$pid" 2>/dev/null || true
        while alive "$name"; do
            sleep 0.1
            waited=$((waited + 1))
            [ "$waited" != 150 ] || kill -KILL "$pid" 2>/dev/null || true
            [ "$waited" -lt 200 ] || die "$name (pid $pid) does not end"
        done
        say "stopped $name"
    fi
    rm -f "$RUN/$name.pid"
}
launch() { # launch NAME COMMAND...: unless the same program with the same arguments runs already
    local name=$1 print was
    shift
    print=$({ stat -Lc '%i %Y %s' "$1"; printf '%s\0' "$@"; } | sha256sum | cut -c1-16)
    if alive "$name"; then
        read -r _ _ was <"$RUN/$name.pid"
        [ "$was" != "$print" ] || return 0
        say "$name runs with another binary or other arguments: starting it anew"
        end "$name" TERM
    fi
    {
        printf '\n--- %s' "$(date -u +%FT%TZ)"
        printf ' %q' "$@"
        echo
    } >>"$LOGS/$name.log"
    # Our descriptors, locks among them, must not live on in it.
    (
        for fd in /proc/self/fd/*; do
            fd=${fd##*/}
            [ "$fd" -le 2 ] || eval "exec $fd>&-" 2>/dev/null || true
        done
        umask 077
        export NO_COLOR=1 # a log file is no terminal
        exec setsid "$@" </dev/null >>"$LOGS/$name.log" 2>&1
    ) &
    local pid=$!
    printf '%s %s %s\n' "$pid" "$(start_time "$pid")" "$print" >"$RUN/$name.pid"
    disown "$pid"
    say "started $name (pid $pid, log $LOGS/$name.log)"
}
failed() { # failed NAME: the end of its log, then give up
    tail -n 20 "$LOGS/$1.log" >&2 || true
    die "$1 did not come up; its log is $LOGS/$1.log"
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

# ---- the parts --------------------------------------------------------------
apply_manifests() {
    # Server-side: the CRDs are larger than the annotation that client-side apply keeps.
    admin hub apply --server-side --force-conflicts -k "$REPO/manifests/hub" >"$LOGS/apply-hub.log" 2>&1 ||
        { cat "$LOGS/apply-hub.log" >&2; die "manifests/hub was refused"; }
    admin hub wait --for=condition=Established crd --all --timeout=60s >/dev/null
    admin "$PROVIDER" apply --server-side --force-conflicts -k "$REPO/manifests/member" >"$LOGS/apply-member.log" 2>&1 ||
        { cat "$LOGS/apply-member.log" >&2; die "manifests/member was refused"; }
}
start_hub() {
    local image
    image=$(trainer_image)
    mint hub muster-system muster-hub "$RUN/hub.kubeconfig"
    launch hub "$MUSTER" hub --kubeconfig "$RUN/hub.kubeconfig" --store "$STORE" --state "$RUN/hub" \
        --listen "$HUB_LISTEN" --public-url "https://$HUB_LISTEN" --trainer-image "$image"
}
start_agent() {
    local image
    image=$(trainer_image)
    mint "$PROVIDER" muster-lent muster-agent "$RUN/member.kubeconfig"
    launch agent "$MUSTER" agent run --join-file "$RUN/$PROVIDER.join" --member-kubeconfig "$RUN/member.kubeconfig" \
        --state "$RUN/agent" --relay-listen "$RELAY_LISTEN" --relay-url "https://$RELAY_LISTEN" \
        --allow-image "$image" --workers "${MUSTER_WORKERS:-8}"
}
hub_serves() { alive hub && admin hub get configmap muster-hub-public --namespace=muster-system >/dev/null 2>&1; }
account_made() { admin hub get serviceaccount "$PROVIDER" --namespace=muster-agents >/dev/null 2>&1; }
provider_ready() {
    alive agent && [ "$(admin hub get computeprovider "$PROVIDER" \
        -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null)" = True ]
}
join_file() {
    local file=$RUN/$PROVIDER.join
    if [ -n "$(find "$file" -mmin -720 2>/dev/null)" ] &&
        kubectl --kubeconfig="$file" get workunits --namespace="muster-p-$PROVIDER" >/dev/null 2>&1; then
        return
    fi
    "$MUSTER" provider join-file "$PROVIDER" --kubeconfig "$KUBECONFIG_ADMIN" --context hub --out "$file"
    # The agent reads it once, at its start.
    end agent TERM
}

up() {
    local began=$SECONDS
    need_clusters
    if alive hub && provider_ready && [ "$(cat "$RUN/applied" 2>/dev/null)" = "$(manifests_hash)" ]; then
        # The same binaries and arguments? Then this does nothing.
        start_hub
        start_agent
        wait_for 60 "ComputeProvider $PROVIDER to be Ready" provider_ready || failed agent
        return
    fi
    apply_manifests
    start_hub
    wait_for 60 "the hub to publish its address and key" hub_serves || failed hub
    admin hub apply --server-side --force-conflicts -f "$REPO/manifests/examples/provider-$PROVIDER.yaml" >/dev/null
    wait_for 60 "ServiceAccount muster-agents/$PROVIDER" account_made || failed hub
    join_file
    start_agent
    wait_for 90 "ComputeProvider $PROVIDER to be Ready" provider_ready || failed agent
    manifests_hash >"$RUN/applied"
    say "stack is up after $((SECONDS - began)) s: hub at https://$HUB_LISTEN, relay at https://$RELAY_LISTEN"
}
manifests_hash() {
    # Another cluster needs them again, even if they are the same.
    { cat "$KUBECONFIG_ADMIN"; find "$REPO/manifests" "$REPO/crds" -type f -print0 | sort -z | xargs -0 cat; } |
        sha256sum | cut -c1-16
}
down() {
    end agent TERM
    end hub TERM
    find "$RUN" -mindepth 1 -maxdepth 1 ! -name logs -exec rm -rf {} +
    say "stack is down"
}
status() {
    local name
    for name in hub agent; do
        if alive "$name"; then echo "$name runs, pid $(cut -d' ' -f1 "$RUN/$name.pid")"; else echo "$name does not run"; fi
    done
    admin hub get computeproviders,trainingjobs,workunits --all-namespaces || true
    admin "$PROVIDER" get jobs,pods --namespace=muster-lent || true
}

signal=TERM
[ "${2:-}" != --kill ] || signal=KILL
case ${1:-} in
up) up ;;
down) down ;;
start-hub) need_clusters && start_hub && { wait_for 60 "the hub to publish its address and key" hub_serves || failed hub; } ;;
stop-hub) end hub "$signal" ;;
start-agent) need_clusters && start_agent ;;
stop-agent) end agent "$signal" ;;
stop-api) "$REPO/e2e/localcluster/ctl.sh" stop-apiserver hub ;;
start-api) "$REPO/e2e/localcluster/ctl.sh" start-apiserver hub ;;
status) need_clusters && status ;;
logs) tail -n 50 "$LOGS/hub.log" "$LOGS/agent.log" ;;
*)
    sed -n '2,13p' "$0" >&2
    exit 64
    ;;
esac
