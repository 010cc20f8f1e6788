# shellcheck shell=bash
# The charts on real clusters, one step after another. Sourced by run.sh.
NODE_PORT=30443
hub() { admin hub "$@"; }
east() { admin east "$@"; }
helm_on() { # helm_on CLUSTER ARGS...
    local cluster=$1
    shift
    "$HELM" --kubeconfig "$KUBECONFIG_ADMIN" --kube-context "$cluster" "$@"
}
image_of() { cat "$RUN/$1-image"; }
hub_release() { # hub_release install|upgrade ARGS...
    local verb=$1 image trainer
    shift
    image=$(image_of agent) trainer=$(image_of trainer)
    helm_on hub "$verb" muster charts/muster --namespace muster-system --wait --timeout 180s \
        --set "image.repository=${image%@*},image.digest=${image#*@}" \
        --set "trainer.repository=${trainer%@*},trainer.digest=${trainer#*@}" \
        --set "gateway.publicUrl=https://$CLUSTER_SUBNET.10:$NODE_PORT" \
        --set "gateway.service.type=NodePort,gateway.service.nodePort=$NODE_PORT" \
        --set "auditor.resources.requests.cpu=50m,auditor.resources.requests.memory=64Mi" "$@"
}
agent_release() { # agent_release install|upgrade ARGS...
    local verb=$1 image
    shift
    image=$(image_of agent)
    helm_on east "$verb" muster-agent charts/muster-agent --namespace muster-lent --wait --timeout 180s \
        --set "image.repository=${image%@*},image.digest=${image#*@}" \
        --set "policy.images={$(image_of trainer)},policy.offer.workers=4" "$@"
}
lint() {
    "$HELM" lint --strict charts/muster "${hub_values[@]}"
    "$HELM" lint --strict charts/muster-agent "${agent_values[@]}"
}
take_down() {
    make -s clusters-down
    rm -rf "$RUN"
}

# There is no storage class here: volumes are folders of this machine, and as a driver leaves them that heeds fsGroup: root's, with
# the group's rights.
volume() { # volume CLUSTER NAMESPACE CLAIM
    local folder=$RUN/volumes/$1-$3
    mkdir -p "$folder"
    chown 0:65532 "$folder"
    chmod 2775 "$folder"
    admin "$1" apply -f - <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: $3}
spec:
  capacity: {storage: 1Ti}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: $2, name: $3}
  hostPath: {path: "$folder", type: Directory}
YAML
}
restricted_namespace() { # restricted_namespace CLUSTER NAME
    admin "$1" create namespace "$2"
    admin "$1" label namespace "$2" pod-security.kubernetes.io/enforce=restricted
}
prepare() {
    cargo build --locked --workspace --bin muster --bin muster-trainer
    take_down
    mkdir -p "$RUN"
    make -s clusters
    e2e/localcluster/kubeconfig.sh >/dev/null
    # Of the same code as the binaries here; kept by the build, so quick if they are there.
    scripts/image.sh hub east
    restricted_namespace hub muster-system
    restricted_namespace east muster-lent
    volume hub muster-system muster-hub
    volume hub muster-system muster-gateway
    volume hub muster-system muster-store
    volume east muster-lent muster-agent
}
install_hub() {
    hub_release install
    same 'muster-auditor muster-gateway muster-hub muster-registrar' \
        "$(hub get pods --namespace muster-system -o json |
            jq -r '[.items[] | select(.status.phase == "Running") | .metadata.name | sub("-[0-9a-f]+-[a-z0-9]+$"; "")] | sort | join(" ")')"
    # Nothing in the namespace came up only after it had crashed.
    same 0 "$(hub get pods --namespace muster-system -o json | jq '[.items[].status.containerStatuses[].restartCount] | add')"
}
# A heartbeat of now: what was said before the hub or the agent went does not count.
provider_is_ready() {
    local beat
    beat=$(hub get lease agent --namespace muster-p-east -o jsonpath='{.spec.renewTime}') && [ -n "$beat" ] || return 1
    [ "$(date -d "$beat" +%s)" -ge "$since" ] || return 1
    [ "$(hub get computeprovider east -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}')" = True ]
}
install_agent() {
    "$MUSTER" provider create-token east --create --owner acme --auto-accept --kubeconfig "$KUBECONFIG_ADMIN" --context hub \
        --out "$work/token"
    local since=0
    agent_release install --set "join.token=$(cat "$work/token")"
    wait_for 60 "provider east to be Ready" provider_is_ready
    # The token has done its work; without it the release is the same.
    agent_release upgrade
    since=$(date +%s)
    wait_for 60 "provider east to be Ready without the token" provider_is_ready
}

said_of_capacity() {
    hub get providerreport report --namespace muster-p-east -o json |
        jq -r '.status | (.conditions[] | select(.type == "CapacityKnown") | .reason) + " " + (.devices[0].idle | tostring)'
}
capacity_is() { [ "$(said_of_capacity)" = "$1" ]; }
counts_nodes() {
    local cpu
    # The node has room for one more of this size, whatever else is on it: half of what it has, and a little.
    cpu=$(east get nodes -o json | jq '[.items[].status.allocatable.cpu | if endswith("m") then .[:-1] | tonumber else tonumber * 1000 end] | max / 2 | floor')
    agent_release upgrade --set policy.offer.observe=true --set "policy.offer.worker.cpu=$((cpu + 50))m,policy.offer.worker.memory=128Mi"
    # A ConfigMap takes a minute to reach the pod.
    wait_for 150 "the agent to count nodes" capacity_is "Observed 1"
    # The owner's pods take what they ask for, and give it back.
    east run owner --image="$(image_of agent)" --namespace default --overrides "{\"spec\": {\"containers\": [{\"name\": \"owner\",
        \"image\": \"$(image_of agent)\", \"command\": [\"/usr/bin/muster\", \"gateway\"], \"resources\": {\"requests\": {\"cpu\": \"${cpu}m\"}}}]}}"
    wait_for 60 "the owner's pod to count" capacity_is "Observed 0"
    east delete pod owner --namespace default --grace-period=1
    wait_for 60 "its room to be idle again" capacity_is "Observed 1"
    agent_release upgrade
    wait_for 150 "the agent to look at its quota alone" bounded_by_quota
}
bounded_by_quota() { [[ $(said_of_capacity) == Quota* ]]; }

# tenant ARGS...: kubectl as somebody with rights in namespace team-a and nothing else
tenant() { kubectl --kubeconfig "$work/tenant.kubeconfig" --namespace team-a "$@"; }
ensure_tenant() {
    [ ! -e "$work/tenant.kubeconfig" ] || return 0
    hub create namespace team-a
    hub create serviceaccount tenant --namespace team-a
    hub create rolebinding tenant --namespace team-a --clusterrole muster-tenant --serviceaccount team-a:tenant
    local token
    token=$(hub create token tenant --namespace team-a --duration 8h)
    hub config view --minify --raw --flatten -o json | jq --arg token "$token" '.users[0].user = {token: $token}' \
        >"$work/tenant.kubeconfig"
    for number in $(seq 4000); do echo "$number is followed by $((number + 1)), and that by another."; done >"$work/text"
    "$MUSTER" data prepare "$work/text" --out "$work/data"
    KUBECONFIG=$work/tenant.kubeconfig "$MUSTER" data push team-a/numbers "$work/data"
}
write_job() { # write_job NAME STEPS [TIER]
    cat >"$work/$1.yaml" <<YAML
apiVersion: muster.dev/v1alpha1
kind: TrainingJob
metadata: {name: $1, namespace: team-a}
spec:
  model: {architecture: gpt2, layers: 2, width: 64, heads: 2, context: 64, vocabulary: 256}
  data: {dataset: numbers}
  training: {steps: $2, batch: 8, shards: 4, intervalSteps: 10}
  workers: {count: 2, resources: {cpu: 300m, memory: 256Mi}}
  assurance: {tier: ${3:-None}}
YAML
}
submit() {
    write_job "$@"
    tenant apply -f "$work/$1.yaml"
}
phase_is() { [[ " $2 " == *" $(tenant get trainingjob "$1" -o jsonpath='{.status.phase}') "* ]]; }
beyond() { [ "$(tenant get trainingjob "$1" -o json | jq '.status.checkpoint.step // 0')" -ge "$2" ]; }
ends_like_local() { # ends_like_local NAME
    wait_for 300 "job $1 to end" phase_is "$1" "Succeeded Failed" || true
    phase_is "$1" Succeeded || {
        tenant describe trainingjob "$1"
        return 1
    }
    "$MUSTER" local "$work/$1.yaml" --data "numbers=$work/data" --out "$work/local-$1" >"$work/local-$1.txt"
    same "$(sed -n 's/.*stateRoot \(sha256:[0-9a-f]*\).*/\1/p' "$work/local-$1.txt" | tail -n 1)" \
        "$(tenant get trainingjob "$1" -o jsonpath='{.status.result.stateRoot}')"
}
# Nobody but the hub's own auditor can replay for the only provider.
audited_by_the_hub() {
    submit audited 40 Bronze
    ends_like_local audited
    tenant get audits -o json | jq -e '[.items[] | select(.spec.auditor == "hub" and .status.verdict == "Match")] | length > 0'
}
job_equals_local() { # job_equals_local NAME
    ensure_tenant
    submit "$1" 40
    ends_like_local "$1"
}

pod_of_hub() { # pod_of_hub UID
    hub get pods --namespace muster-system -o json | jq -er --arg uid "$1" '.items[] | select(.metadata.uid == $uid).metadata.name'
}
pid_of_hub() { grep -lzx -e "--identity=$1" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3 | head -n 1; }
leader() { hub get lease muster-hub --namespace muster-system -o jsonpath='{.spec.holderIdentity}'; }
led_by_another() { local now; now=$(leader) && [ -n "$now" ] && [ "$now" != "$1" ]; }
another_takes_over() {
    hub_release upgrade --set hub.replicas=2
    local before name start took pid
    before=$(leader)
    name=$(pod_of_hub "$before")
    # Stopped as by a paused machine: it says nothing and gives nothing back. The nodes share this machine's kernel.
    pid=$(pid_of_hub "$before")
    start=$(date +%s%N)
    kill -STOP "$pid"
    wait_for 34 "another hub to lead" led_by_another "$before" || { kill -CONT "$pid"; return 1; }
    took=$((($(date +%s%N) - start) / 1000000))
    echo "measured: after $took ms (target 17000, bound 34000)"
    # It wakes after two leases, sees that another one leads, and stands by: the same process.
    sleep 30
    kill -CONT "$pid"
    sleep 5
    led_by_another "$before"
    same "$pid" "$(pid_of_hub "$before")"
    hub logs "$name" --namespace muster-system --tail=20 | grep -q 'stands by'
    # The gauge says the same as the Lease.
    name=$(pod_of_hub "$(leader)")
    hub get --raw "/api/v1/namespaces/muster-system/pods/$name:8080/proxy/metrics" | grep -q '^muster_hub_leads 1$'
}
# The job outlasts what was done around it. Meanwhile it may be said to be cut off: gateway and agent were away.
not_done_yet() {
    if phase_is "$1" "Succeeded Failed"; then
        echo "job $1 was done too early to show anything"
        return 1
    fi
}
upgrade_under_a_job() {
    submit upgraded 1600
    wait_for 120 "job upgraded to have a checkpoint" beyond upgraded 10
    hub_release upgrade --set log.format=text,hub.gcIntervalSeconds=300
    agent_release upgrade --set resources.limits.memory=500Mi
    not_done_yet upgraded
    ends_like_local upgraded
    # It ran on through both: one unit.
    same 0 "$(tenant get trainingjob upgraded -o json | jq '.status.restarts // 0')"
}
rollback_under_a_job() {
    submit rolled 1600
    wait_for 120 "job rolled to have a checkpoint" beyond rolled 10
    refuses 'deadline exceeded' hub_release upgrade --timeout 15s --set image.digest="sha256:$(printf '1%.0s' {1..64})"
    helm_on hub rollback muster --namespace muster-system --wait --timeout 180s
    # It went on without a hub, and may still be said to be cut off.
    not_done_yet rolled
    ends_like_local rolled
    same 0 "$(tenant get trainingjob rolled -o json | jq '.status.restarts // 0')"
}
# what is left in a namespace, by kind
left() { # left CLUSTER NAMESPACE KINDS
    admin "$1" get "$3" --namespace "$2" -o name | grep -v 'configmap/kube-root-ca.crt\|serviceaccount/default' | sort | paste -sd' '
}
no_pods() { [ -z "$(admin "$1" get pods --namespace "$2" -o name)" ]; }
uninstall_agent() {
    helm_on east uninstall muster-agent --namespace muster-lent --wait
    wait_for 60 "pods of the member to be gone" no_pods east muster-lent
    # Workers that are still there stay shut in.
    same 'networkpolicy.networking.k8s.io/default-deny networkpolicy.networking.k8s.io/relay networkpolicy.networking.k8s.io/workers persistentvolumeclaim/muster-agent' "$(left east muster-lent \
        deployments,jobs,services,secrets,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,resourcequotas,persistentvolumeclaims,pods)"
    same '' "$(east get priorityclasses,clusterroles,clusterrolebindings -o name | grep muster || true)"
}
uninstall_hub() {
    helm_on hub uninstall muster --namespace muster-system --wait
    wait_for 60 "pods of the hub to be gone" no_pods hub muster-system
    same 'persistentvolumeclaim/muster-gateway persistentvolumeclaim/muster-hub persistentvolumeclaim/muster-store' \
        "$(left hub muster-system deployments,services,secrets,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,persistentvolumeclaims,pods)"
    same '' "$(hub get clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,flowschemas -o name | grep muster || true)"
    same 'audits.muster.dev computeproviders.muster.dev providerreports.muster.dev trainingjobs.muster.dev workunits.muster.dev' \
        "$(hub get crds -o name | sed 's,.*/,,' | sort | paste -sd' ')"
    hub get trainingjob first --namespace team-a
    hub get serviceaccount east --namespace muster-agents
}
install_again() {
    local since
    hub_release install
    agent_release install
    since=$(date +%s)
    wait_for 60 "provider east to be Ready" provider_is_ready
    # The right to use it is the chart's, the binding the namespace's.
    phase_is first Succeeded
    printf 'log %s\nquorum none\n' "$(cat "$RUN/volumes/hub-muster-hub/state/log.vkey")" >"$work/policy"
    rm -rf "$work/proof"
    KUBECONFIG=$work/tenant.kubeconfig "$MUSTER" verify job team-a/first --out "$work/proof" --policy "$work/policy"
}
