# shellcheck shell=bash
# The steps of run.sh, in their order; each goes on from where the one before it has left things.
KUEUE_IMAGE=muster.test/kueue:v0.19.2

kueue_image() { # the archive's path
    local context=$work/kueue-image archive=$RUN/kueue-image.tar
    [ ! -e "$archive" ] || { echo "$archive"; return; }
    mkdir -p "$context"
    cp "$KUEUE" "$context/manager"
    printf 'FROM scratch\nCOPY . /\nUSER 65532:65532\nENTRYPOINT ["/manager"]\n' >"$work/Kueuefile"
    (
        LOCALCLUSTER=$PWD/e2e/localcluster
        # shellcheck source=/dev/null
        source e2e/localcluster/lib.sh
        # shellcheck source=/dev/null
        source e2e/localcluster/oci.sh
        build_archive "$work/Kueuefile" "$context" "$KUEUE_IMAGE" "$archive"
    ) >&2
    echo "$archive"
}
install_kueue() { # install_kueue CLUSTER
    local chart archive
    chart=$(scripts/go-tool.sh kueue --module)/charts/kueue
    archive=$(kueue_image)
    e2e/localcluster/ctl.sh load "$1" "$archive" >/dev/null
    # Nothing but Jobs: the other integrations wait for kinds that are not here, and visibility for an aggregator.
    cat >"$work/kueue-values.yaml" <<YAML
controllerManager:
  featureGates: [{name: VisibilityOnDemand, enabled: false}]
  manager:
    image: {repository: ${KUEUE_IMAGE%:*}, tag: ${KUEUE_IMAGE#*:}, pullPolicy: Never}
    resources: {requests: {cpu: 50m, memory: 128Mi}, limits: {cpu: "2", memory: 512Mi}}
managerConfig:
  controllerManagerConfigYaml: |
    apiVersion: config.kueue.x-k8s.io/v1beta2
    kind: Configuration
    health: {healthProbeBindAddress: ":8081"}
    metrics: {bindAddress: ":8443"}
    webhook: {port: 9443}
    leaderElection: {leaderElect: true, resourceName: c1f6bfd2.kueue.x-k8s.io}
    integrations: {frameworks: [batch/job]}
YAML
    helm_on "$1" install kueue "$chart" --namespace kueue-system --create-namespace --wait --timeout 180s -f "$work/kueue-values.yaml"
    admin "$1" delete apiservices --selector app.kubernetes.io/name=kueue --ignore-not-found
    # Its webhooks answer.
    wait_for 60 "Kueue's webhooks on $1" flavor "$1"
}
flavor() {
    admin "$1" apply -f - <<YAML
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata: {name: any}
YAML
}
# queue CLUSTER NAMESPACE LOCALQUEUE CPU MEMORY: with a ClusterQueue of the same name that has so much
queue() {
    admin "$1" apply -f - <<YAML
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata: {name: $3}
spec:
  namespaceSelector: {}
  preemption: {withinClusterQueue: LowerPriority}
  resourceGroups:
  - coveredResources: [cpu, memory]
    flavors:
    - name: any
      resources: [{name: cpu, nominalQuota: $4}, {name: memory, nominalQuota: $5}]
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: LocalQueue
metadata: {name: $3, namespace: $2}
spec: {clusterQueue: $3}
YAML
}

# queued NAME STEPS [PRIORITY]: a job of two workers, 300m + 100m of CPU each, in queue `research`
queued() {
    write_job "$1" "$2"
    sed -i -e "s/metadata: {name: $1,/metadata: {name: $1, labels: {kueue.x-k8s.io\/queue-name: research},/" \
        -e "s/^spec:/spec:\n  priority: ${3:-0}/" "$work/$1.yaml"
    tenant apply -f "$work/$1.yaml"
}
why() { tenant get trainingjob "$1" -o json | jq -r --arg of "$2" '.status.conditions[]? | select(.type == $of) | "\(.reason): \(.message)"'; }
says() { [[ $(why "$1" "$2") == *"$3"* ]]; }
units_of() { hub get workunits --all-namespaces -o json | jq --arg uid "$(tenant get trainingjob "$1" -o jsonpath='{.metadata.uid}')" '[.items[] | select(.spec.jobUID == $uid)] | length'; }
workload_of() { hub get workloads --namespace team-a -o json | jq -c --arg name "$1" '.items[] | select(.metadata.ownerReferences[0].name == $name)'; }

rests_without_kueue() {
    ensure_tenant
    queued early 40
    wait_for 30 "job early to say what is missing" says early Suspended 'install Kueue'
    phase_is early Suspended
    same 0 "$(units_of early)"
}
waits_for_its_queue() {
    # The hub looks once a minute whether Kueue has come.
    wait_for 100 "job early to wait in Kueue" says early Suspended "LocalQueue research"
    says early Suspended QueuedByKueue
    same 0 "$(units_of early)"
    queue hub team-a research 800m 1Gi
    ends_like_local early
}
one_at_a_time() {
    queued one 800
    wait_for 60 "job one to train" beyond one 10
    queued two 40
    wait_for 30 "job two to wait for quota" says two Suspended "insufficient unused quota"
    phase_is two Suspended
    same 0 "$(units_of two)"
    ends_like_local one
    ends_like_local two
}
makes_way() {
    queued low 400
    wait_for 60 "job low to train" beyond low 10
    queued high 40 5
    wait_for 60 "job low to make way" phase_is low Suspended
    # At the end of an interval: nothing of what it has done is lost, and nothing counts against it.
    says low Suspended QueuedByKueue
    same 0 "$(tenant get trainingjob low -o json | jq '.status.checkpoint.step % 10')"
    ends_like_local high
    ends_like_local low
    same 0 "$(tenant get trainingjob low -o json | jq '.status.restarts // 0')"
}
no_workload() { [ -z "$(workload_of "$1")" ]; }
paused() {
    queued rests 1000
    wait_for 60 "job rests to train" beyond rests 10
    tenant patch trainingjob rests --type merge -p '{"spec": {"suspend": true}}'
    wait_for 60 "its Workload to go" no_workload rests
    says rests Suspended SuspendedByUser
    tenant patch trainingjob rests --type merge -p '{"spec": {"suspend": false}}'
    ends_like_local rests
}
holds_nothing() { [ "$(hub get clusterqueue research -o json | jq '.status.reservingWorkloads + .status.pendingWorkloads')" = 0 ]; }
nothing_is_held() {
    queued gone 400
    wait_for 60 "job gone to train" beyond gone 10
    tenant delete trainingjob gone --wait --timeout=90s
    wait_for 30 "queue research to be empty" holds_nothing
    wait_for 30 "the Workload of a deleted job to go" no_workload gone
    same true "$(workload_of one | jq '[.status.conditions[] | select(.type == "Finished" and .reason == "Succeeded")] | length == 1')"
}

unit_says() { # unit_says JOB WHAT: condition Scheduled of its unit
    hub get workunits --namespace muster-p-east -o json |
        jq -e --arg uid "$(tenant get trainingjob "$1" -o jsonpath='{.metadata.uid}')" --arg what "$2" \
            'any(.items[] | select(.spec.jobUID == $uid).status.conditions[]? | select(.type == "Scheduled"); "\(.reason): \(.message)" | contains($what))' >/dev/null
}
failed_as() { # failed_as JOB REASON: the last failure of its unit
    hub get workunits --namespace muster-p-east -o json |
        jq -e --arg uid "$(tenant get trainingjob "$1" -o jsonpath='{.metadata.uid}')" --arg reason "$2" \
            'any(.items[] | select(.spec.jobUID == $uid); .status.lastFailure.reason == $reason)' >/dev/null
}
hold() { east patch clusterqueue lent --type merge -p "{\"spec\": {\"stopPolicy\": \"$1\"}}"; }
knows_its_queue() { east logs --namespace muster-lent deployment/muster-agent --tail=200 | grep -q "policy is in force"; }
workers_wait() {
    queue east muster-lent lent 2 4Gi
    hold Hold
    agent_release upgrade --set policy.kueue.queueName=lent
    # A ConfigMap takes a minute to reach the pod.
    wait_for 150 "the agent to read its policy" knows_its_queue
    submit there 40
    wait_for 60 "its workers to wait in Kueue" unit_says there QueuedByKueue
    same '' "$(east get pods --namespace muster-lent -l muster.dev/unit -o name)"
    hold None
    ends_like_local there
}
workers_make_way() {
    submit pushed 400
    wait_for 90 "job pushed to train" beyond pushed 10
    hold HoldAndDrain
    wait_for 90 "its attempt to end" failed_as pushed Preempted
    wait_for 60 "its workers to wait in Kueue" unit_says pushed QueuedByKueue
    hold None
    ends_like_local pushed
    # Another attempt of the same unit, which does not count against maxRestarts.
    same 0 "$(tenant get trainingjob pushed -o json | jq '.status.restarts // 0')"
    same 1 "$(tenant get trainingjob pushed -o json | jq '.status.islands[0].epoch')"
}
