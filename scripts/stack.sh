#!/usr/bin/env bash
# The operator on clusters that run already (`make clusters`): objects applied; gateway, hub and its auditor as host processes under
# tokens of their own ServiceAccounts and nothing else; in each member an agent, which is a Deployment there and joins through the
# gateway with a single-use token; and the witness of a third owner, north, who lends nothing and has no cluster.
#
#   stack.sh up            everything, until all providers are Ready; repairs what is missing, quick when nothing is
#   stack.sh down          ends what this script started and removes its state, logs aside
#   stack.sh start-hub | start-registrar | start-gateway | start-auditor | start-witness | start-agent [PROVIDER]
#   stack.sh stop-hub | stop-registrar | stop-gateway | stop-auditor | stop-witness | stop-agent [PROVIDER]
#                                      --kill as last word: SIGKILL. PROVIDER: default east
#   stack.sh stop-api | start-api      the hub's API server, for the outage tests
#   stack.sh tenant NAMESPACE          a namespace with somebody who may use it: .run/tenant-NAMESPACE.kubeconfig
#   stack.sh claim     before `make clusters`: clusters that another checkout's stack has used and left are taken down
#   stack.sh status | logs
#
# Settings: MUSTER_RUN (state, default .run), MUSTER_BIN (folder of muster and muster-trainer), MUSTER_TRAINER_IMAGE,
# MUSTER_AGENT_IMAGE, MUSTER_HOST (this host as the clusters see it), MUSTER_WORKERS (how many each member lends, default 8),
# MUSTER_POLICY (more lines of the policy of agents that are started), MUSTER_PROVIDERS (default: every member that is up),
# MUSTER_AUDIT_PATIENCE (seconds that the hub waits for an auditor; default: the hub's own), MUSTER_CHEAT (with start-agent:
# this provider lies so, with the images of `scripts/image.sh --cheats`).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
source "$here/common.sh"

CTL=$REPO/e2e/localcluster/ctl.sh
LENT=muster-lent
WITNESS=north
AGENT_PODS=app.kubernetes.io/part-of=muster,app.kubernetes.io/component=agent
GATEWAY_LISTEN=${MUSTER_GATEWAY_LISTEN:-$MUSTER_HOST:8443}
METRICS_LISTEN=${MUSTER_METRICS_LISTEN:-127.0.0.1:8444}
providers() {
    if [ -n "${MUSTER_PROVIDERS:-}" ]; then
        tr ' ' '\n' <<<"$MUSTER_PROVIDERS"
    else
        kubectl --kubeconfig="$KUBECONFIG_ADMIN" config get-contexts -o name | grep -vx hub
    fi
}

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
    print=$({ stat -Lc '%i %Y %s' "$1" "$MUSTER"; printf '%s\0' "$@"; } | sha256sum | cut -c1-16)
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
}
start_gateway() {
    mint hub muster-system muster-gateway "$RUN/gateway.kubeconfig"
    launch gateway "$MUSTER" gateway --kubeconfig "$RUN/gateway.kubeconfig" --state "$RUN/gateway" --store "$STORE" \
        --listen "$GATEWAY_LISTEN" --public-url "https://$GATEWAY_LISTEN" --metrics-listen "$METRICS_LISTEN"
}
start_hub() {
    local image
    image=$(trainer_image)
    mint hub muster-system muster-hub "$RUN/hub.kubeconfig"
    local more=()
    [ -z "${MUSTER_AUDIT_PATIENCE:-}" ] || more=(--audit-patience "$MUSTER_AUDIT_PATIENCE")
    # As a pod's uid would: the hub that follows goes on at once.
    launch hub "$MUSTER" hub --kubeconfig "$RUN/hub.kubeconfig" --store "$STORE" --state "$RUN/hub" \
        --trainer-image "$image" --identity stack "${more[@]}"
}
start_registrar() {
    mint hub muster-system muster-registrar "$RUN/registrar.kubeconfig"
    launch registrar "$MUSTER" registrar --kubeconfig "$RUN/registrar.kubeconfig"
}
# Beside the hub: it signs with the hub's key and reads the hub's store.
start_auditor() {
    mint hub muster-system muster-auditor "$RUN/auditor.kubeconfig"
    launch auditor "$MUSTER" auditor --kubeconfig "$RUN/auditor.kubeconfig" --state "$RUN/hub" --store "$STORE" \
        --work "$RUN/auditor"
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
# What the owner of a member does: a kustomization over manifests/member that says which images, how much, and the token.
member_kustomization() { # member_kustomization PROVIDER FOLDER
    local provider=$1 folder=$2 image agent_image
    image=$(trainer_image)
    agent_image=${MUSTER_AGENT_IMAGE:-$(cat "$RUN/agent-image" 2>/dev/null)}
    if [ -n "${MUSTER_CHEAT:-}" ]; then agent_image=$(cat "$RUN/agent-cheats-image" 2>/dev/null || true); fi
    [ -n "$agent_image" ] || die "no agent image: scripts/image.sh builds and loads it"
    rm -rf "$folder"
    (umask 077 && mkdir -p "$folder")
    : >"$folder/token"
    [ ! -f "$RUN/$provider.token" ] || cp "$RUN/$provider.token" "$folder/token"
    printf 'images: ["%s"]\noffer: {workers: %s}\n%s\n' "$image" "${MUSTER_WORKERS:-8}" "${MUSTER_POLICY:-}" \
        >"$folder/policy.yaml"
    # There is no storage class here: the volume is a folder of this machine, where the tests find the agent's state.
    cat >"$folder/volume.yaml" <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: muster-agent, labels: {app.kubernetes.io/part-of: muster}}
spec:
  capacity: {storage: 20Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: $LENT, name: muster-agent}
  hostPath: {path: "$RUN/agent-$provider", type: Directory}
YAML
    cat >"$folder/kustomization.yaml" <<YAML
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: $LENT
resources: [$(realpath --relative-to="$folder" "$REPO/manifests/member"), volume.yaml]
images:
- {name: muster, newName: "${agent_image%@*}", digest: "${agent_image#*@}"}
configMapGenerator:
- {name: muster-policy, files: [policy.yaml]}
secretGenerator:
- {name: muster-join, files: [token]}
YAML
    [ -n "${MUSTER_CHEAT:-}" ] || return 0
    cat >>"$folder/kustomization.yaml" <<YAML
patches:
- target: {kind: Deployment, name: muster-agent}
  patch: |
    - op: add
      path: /spec/template/spec/containers/0/env
      value:
      - {name: MUSTER_CHEAT, value: "$MUSTER_CHEAT"}
      - {name: MUSTER_CHEAT_IMAGE, value: "$(cat "$RUN/trainer-cheats-image")"}
YAML
}
agent_runs() { # agent_runs PROVIDER
    [ "$(admin "$1" get deployment muster-agent --namespace="$LENT" \
        -o jsonpath='{.spec.replicas} {.status.readyReplicas} {.status.updatedReplicas}' 2>/dev/null)" = "1 1 1" ]
}
start_agent() { # start_agent PROVIDER
    local provider=$1 folder=$RUN/member-$1 print
    member_kustomization "$provider" "$folder"
    print=$({ admin "$provider" kustomize "$folder"; cat "$RUN/kubeconfig"; } | sha256sum | cut -c1-16)
    if [ "$(cat "$RUN/agent-$provider.applied" 2>/dev/null)" = "$print" ] && agent_runs "$provider"; then return; fi
    # The user of the image; on a real cluster the volume's driver sees to it.
    mkdir -p "$RUN/agent-$provider"
    chown -R 65532:65532 "$RUN/agent-$provider"
    chmod 700 "$RUN/agent-$provider"
    admin "$provider" apply --server-side --force-conflicts -k "$folder" >"$LOGS/apply-member.log" 2>&1 ||
        { cat "$LOGS/apply-member.log" >&2; die "the member's kustomization was refused by $provider"; }
    echo "$print" >"$RUN/agent-$provider.applied"
    say "applied the agent of $provider"
}
agent_gone() { [ -z "$(admin "$1" get pods --namespace="$LENT" -l "$AGENT_PODS" -o name)" ]; }
stop_agent() { # stop_agent PROVIDER SIGNAL
    local provider=$1 pid
    rm -f "$RUN/agent-$provider.applied"
    admin "$provider" get deployment muster-agent --namespace="$LENT" >/dev/null 2>&1 || return 0
    admin "$provider" scale deployment muster-agent --namespace="$LENT" --replicas=0 >/dev/null
    if [ "$2" = KILL ]; then
        # The nodes share this machine's kernel.
        for pid in $(grep -lz '^/usr/bin/muster$' /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3); do
            if grep -q "/$provider/" "/proc/$pid/cgroup" 2>/dev/null; then kill -KILL "$pid" 2>/dev/null || true; fi
        done
    fi
    wait_for 60 "the agent of $provider to be gone" agent_gone "$provider" || die "the agent of $provider does not end"
    say "stopped the agent of $provider"
}
failed_agent() {
    admin "$1" get pods --namespace="$LENT" -l "$AGENT_PODS" >&2 || true
    admin "$1" describe pods --namespace="$LENT" -l "$AGENT_PODS" | sed -n '/^Events:/,$p' >&2 || true
    admin "$1" logs --namespace="$LENT" -l "$AGENT_PODS" --tail=20 >&2 || true
    die "the agent of $1 did not come up"
}
auditor_serves() {
    alive auditor && admin hub get lease muster-auditor --namespace=muster-system >/dev/null 2>&1
}
published() { admin hub get configmap "$1" --namespace=muster-system >/dev/null 2>&1; }
hub_serves() { alive hub && published muster-hub-public; }
gateway_serves() { alive gateway && published muster-gateway-public; }
is_ready() { # is_ready PROVIDER
    [ "$(admin hub get computeprovider "$1" -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}' 2>/dev/null)" = True ]
}
provider_ready() { agent_runs "$1" && is_ready "$1"; } # provider_ready PROVIDER
# The admin's part: a provider and a token for its one agent. A key that joined keeps its place without.
invite() {
    local provider=$1
    admin hub apply --server-side --force-conflicts -f "$REPO/manifests/examples/provider-$provider.yaml" >/dev/null
    [ ! -d "$RUN/agent-$provider/agent/identity" ] ||
        [ -z "$(admin hub get computeprovider "$provider" -o jsonpath='{.spec.acceptedKeys}')" ] || return 0
    # An agent keeps its place by its key. Where the hub has forgotten the key it reads the new token when it starts.
    stop_agent "$provider" TERM
    "$MUSTER" provider create-token "$provider" --auto-accept --kubeconfig "$KUBECONFIG_ADMIN" --context hub \
        --out "$RUN/$provider.token"
}

# Clusters belong to the machine, a stack to a checkout: objects, volumes and keys of another one would not fit this one's state.
claimed_by() { # whose stack the clusters have, if it is another's
    local whose
    whose=$(cat "$CLUSTER_STATE/stack" 2>/dev/null) && [ "$whose" != "$RUN" ] && echo "$whose"
}
claim() {
    local whose pid
    whose=$(claimed_by) || return 0
    for pid in "$whose"/*.pid; do
        if [ -e "$pid" ] && RUN=$whose alive "$(basename "$pid" .pid)"; then
            die "the clusters serve the stack of ${whose%/.run}, which runs: end it there (scripts/stack.sh down), or use clusters of your own (CLUSTER_INSTANCE, CLUSTER_SUBNET)"
        fi
    done
    say "the clusters hold what the stack of ${whose%/.run} left behind: taking them down"
    make -s -C "$REPO" clusters-down
}

up() {
    local began=$SECONDS provider ready=1
    need_clusters
    ! claimed_by >/dev/null || die "the clusters have the stack of $(claimed_by): scripts/stack.sh claim, then make clusters"
    echo "$RUN" >"$CLUSTER_STATE/stack"
    for provider in $(providers); do provider_ready "$provider" || ready=0; done
    witness_ready || ready=0
    if [ "$ready" = 1 ] && alive hub && alive registrar && alive gateway && [ "$(cat "$RUN/applied" 2>/dev/null)" = "$(manifests_hash)" ]; then
        # The same binaries and arguments? Then this does nothing.
        start_gateway
        start_registrar
        start_hub
        start_auditor
        start_witness
        for provider in $(providers); do start_agent "$provider"; done
    else
        apply_manifests
        start_registrar
        start_hub
        start_gateway
        wait_for 60 "the hub to publish its keys" hub_serves || failed hub
        wait_for 60 "the gateway to publish its address" gateway_serves || failed gateway
        start_auditor
        for provider in $(providers); do
            invite "$provider"
            start_agent "$provider"
        done
        start_witness
        manifests_hash >"$RUN/applied"
    fi
    for provider in $(providers); do
        wait_for 90 "ComputeProvider $provider to be Ready" provider_ready "$provider" || failed_agent "$provider"
    done
    wait_for 60 "ComputeProvider $WITNESS to be Ready" witness_ready || failed "$WITNESS"
    wait_for 60 "the hub's auditor to say that it is up" auditor_serves || failed auditor
    [ "$ready" = 1 ] ||
        say "stack is up after $((SECONDS - began)) s: gateway at https://$GATEWAY_LISTEN, providers $(providers | paste -sd' ')"
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
manifests_hash() {
    # Another cluster needs them again, even if they are the same.
    { cat "$KUBECONFIG_ADMIN"; find "$REPO/manifests" "$REPO/crds" -type f -print0 | sort -z | xargs -0 cat; } |
        sha256sum | cut -c1-16
}
started() { find "$RUN" -maxdepth 1 -name '*.pid' -printf '%f\n' | sed 's/\.pid$//' | sort; }
down() {
    local name
    for name in $(started); do end "$name" TERM; done
    for name in $(providers 2>/dev/null); do
        # Its state goes, so nothing may be left that expects it. A cluster that is gone has nothing of it.
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
start-hub) need_clusters && start_hub && { wait_for 60 "the hub to publish its keys" hub_serves || failed hub; } ;;
stop-hub) end hub "$signal" ;;
start-registrar) need_clusters && start_registrar ;;
stop-registrar) end registrar "$signal" ;;
start-gateway) need_clusters && start_gateway && { wait_for 60 "the gateway to publish its address" gateway_serves || failed gateway; } ;;
stop-gateway) end gateway "$signal" ;;
start-auditor) need_clusters && start_auditor && { wait_for 60 "the hub's auditor to say that it is up" auditor_serves || failed auditor; } ;;
stop-auditor) end auditor "$signal" ;;
start-witness) need_clusters && start_witness && { wait_for 60 "ComputeProvider $WITNESS to be Ready" witness_ready || failed "$WITNESS"; } ;;
stop-witness) end "$WITNESS" "$signal" ;;
start-agent) need_clusters && start_agent "$provider" ;;
stop-agent) need_clusters && stop_agent "$provider" "$signal" ;;
stop-api) "$CTL" stop-apiserver hub ;;
start-api) "$CTL" start-apiserver hub ;;
tenant) need_clusters && tenant "${2:?which namespace?}" ;;
status) need_clusters && status ;;
logs)
    for name in $(started); do tail -n 50 "$LOGS/$name.log"; done
    for name in $(providers); do admin "$name" logs --namespace="$LENT" -l "$AGENT_PODS" --tail=50 || true; done
    ;;
*)
    sed -n '2,23p' "$0" >&2
    exit 64
    ;;
esac
