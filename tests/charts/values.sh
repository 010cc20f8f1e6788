# shellcheck shell=bash
# The charts without a cluster: what they refuse, and what they render to. Sourced by run.sh.
# What Helm is to think of the cluster when there is none.
KUBE_VERSION=1.34.4
hub_values=(--namespace muster-system --set image.tag=v1 --set gateway.publicUrl=https://h:1
    --set "trainer.repository=r/trainer,trainer.digest=sha256:$(printf '0%.0s' {1..64})")
agent_values=(--namespace muster-lent --set image.tag=v1 --set policy.offer.workers=1 --set "policy.images={r/trainer@sha256:$(printf '0%.0s' {1..64})}")
render() { # render CHART ARGS...
    local chart=$1
    shift
    "$HELM" template "$chart" "charts/$chart" --kube-version "$KUBE_VERSION" "$@"
}
hub_renders() { render muster "${hub_values[@]}" "$@"; }
agent_renders() { render muster-agent "${agent_values[@]}" "$@"; }

# refuses WORD COMMAND...: it fails, and says this word
refuses() {
    local word=$1
    shift
    if "$@" >"$work/refused" 2>&1; then
        echo "not refused: $*"
        return 1
    fi
    grep -qF -- "$word" "$work/refused" || {
        cat "$work/refused"
        echo "refused without a word of: $word"
        return 1
    }
}
bad_values() {
    local image
    image=r/trainer@sha256:$(printf '0%.0s' {1..64})
    refuses /image/digest hub_renders --set image.digest=sha256:12
    refuses /image/repository hub_renders --set image.repository='Not A Name'
    refuses /hub/replicas hub_renders --set hub.replicas=0
    refuses /hub/replicas hub_renders --set hub.replicas=two
    refuses /gateway/publicUrl hub_renders --set gateway.publicUrl=http://h:1
    refuses 'gateway.publicUrl is empty' hub_renders --set gateway.publicUrl=
    refuses trainer.digest hub_renders --set trainer.digest=
    refuses 'gatway' hub_renders --set gatway.publicUrl=https://h:1
    refuses /hub/state/accessModes hub_renders --set 'hub.state.accessModes={ReadWriteOncePod}'
    refuses /gateway/tokenSeconds hub_renders --set gateway.tokenSeconds=60
    refuses /gateway/service/externalTrafficPolicy hub_renders --set gateway.service.externalTrafficPolicy=local
    refuses 'leave it empty with ClusterIP' hub_renders --set gateway.service.type=ClusterIP,gateway.service.externalTrafficPolicy=Local
    refuses /store/url hub_renders --set store.url=ftp://b/p
    refuses 'store.caConfigMap is needed' hub_renders --set store.url=s3://b/p
    refuses 'muster-system' hub_renders --namespace default
    refuses 'policy.images is empty' render muster-agent --namespace muster-lent --set image.tag=v1
    refuses 'image.digest' hub_renders --set image.tag=
    refuses 'image.digest' agent_renders --set image.tag=
    refuses 'offr' agent_renders --set policy.offr.workers=1
    refuses 'wrkers' agent_renders --set policy.offer.wrkers=1
    # What the agent would not start with.
    refuses 'policy.offer is empty' render muster-agent --namespace muster-lent --set "image.tag=v1,policy.images={$image}"
    refuses "'workers'" render muster-agent --namespace muster-lent --set "image.tag=v1,policy.images={$image},policy.offer.observe=false"
    refuses "'worker'" agent_renders --set policy.offer.observe=true
    agent_renders --set policy.offer.observe=false >/dev/null
    agent_renders --set policy.offer.observe=true,policy.offer.worker.cpu=500m,policy.offer.worker.memory=1Gi >/dev/null
    refuses /policy/offer/worker/memory agent_renders --set policy.offer.worker.cpu=500m,policy.offer.worker.memory=lots
    refuses /policy/offer/workers agent_renders --set policy.offer.workers=100001
    refuses /policy/tenants agent_renders --set-json policy.tenants='[]'
    refuses /policy/tenants/0 agent_renders --set 'policy.tenants={Team_A}'
    refuses /policy/images/0 agent_renders --set 'policy.images={r/trainer:v1}'
    refuses 'caConfigMap is needed' agent_renders --set policy.directStore=true
    refuses /caConfigMap agent_renders --set caConfigMap=Not_A_Name
    refuses /policy/maxRuntimeSeconds agent_renders --set policy.maxRuntimeSeconds=31622401
    refuses /policy/kueue/queueName agent_renders --set policy.kueue.queueName=a.b
    refuses /policy/offer/calendar agent_renders --set-json policy.offer.calendar='[]'
    refuses /policy/offer/calendar/0/days agent_renders --set-json policy.offer.calendar='[{"days": [], "from": "18:00", "to": "08:00"}]'
    refuses /policy/offer/calendar/0/from agent_renders --set-json policy.offer.calendar='[{"days": ["Mon"], "from": "24:00", "to": "08:00"}]'
    refuses /policy/offer/calendar/0/timezone agent_renders --set-json policy.offer.calendar='[{"days": ["Mon"], "from": "18:00", "to": "24:00", "timezone": "Europe/Berlin"}]'
    agent_renders --set-json policy.offer.calendar='[{"days": ["Mon"], "from": "18:00", "to": "24:00", "timezone": "+01:00"}]' >/dev/null
    refuses 'namespaceSelector' hub_renders --set 'metrics.from[0].namespaceSelector.matchLabels.team=sre'
    local section
    for section in crds log metrics hub.state store.volume gateway.service auditor.work; do
        refuses "${section##*.}" hub_renders --set "$section=null"
    done
    refuses /policy/kueue agent_renders --set policy.kueue.queue=lent
    refuses /join/token agent_renders --set join.token=hello
    refuses /priority agent_renders --set priority=10
    refuses /quota/cpu agent_renders --set quota.cpu=lots
    refuses 'muster-lent' agent_renders --namespace default
}
same() { # same WANT GOT
    [ "$1" = "$2" ] || {
        printf 'want: %s\ngot:  %s\n' "$1" "$2"
        return 1
    }
}
# objects of a kind, by name
named() { python3 -c '
import sys, yaml
print(" ".join(sorted(o["metadata"]["name"] for o in yaml.safe_load_all(sys.stdin) if o and o["kind"] == sys.argv[1])))' "$1"; }
# at PATH of the object KIND NAME
at() { python3 -c '
import json, sys, yaml
[found] = [o for o in yaml.safe_load_all(sys.stdin) if o and (o["kind"], o["metadata"]["name"]) == tuple(sys.argv[1:3])]
for word in sys.argv[3].split("."):
    found = found[int(word)] if isinstance(found, list) else found.get(word)
    if found is None: break
print(json.dumps(found, sort_keys=True))' "$@"; }

values_reach_objects() {
    same 'muster-gateway muster-hub muster-store' "$(hub_renders | named PersistentVolumeClaim)"
    same 'muster-auditor muster-gateway muster-hub muster-registrar' "$(hub_renders | named Deployment)"
    same 'muster-gateway muster-hub muster-registrar' "$(hub_renders --set auditor.enabled=false | named Deployment)"
    same '' "$(hub_renders --set processes=false | named Deployment)"
    same '' "$(hub_renders --set crds.install=false | named CustomResourceDefinition)"
    # One writer of a volume that one node may have; several hubs where they can share it.
    same '"Recreate"' "$(hub_renders | at Deployment muster-hub spec.strategy.type)"
    same '"RollingUpdate"' "$(hub_renders --set 'hub.state.accessModes={ReadWriteMany}' | at Deployment muster-hub spec.strategy.type)"
    local together=spec.template.spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution
    # Who shares a volume of one node is held together by one term: of two, the scheduler counts only pods that match both.
    local process shared='[{"labelSelector": {"matchLabels": {"app.kubernetes.io/part-of": "muster", "muster.dev/store": "shared"}}, "topologyKey": "kubernetes.io/hostname"}]'
    for process in hub gateway auditor; do
        same "$shared" "$(hub_renders | at Deployment "muster-$process" $together)"
        same '"shared"' "$(hub_renders | at Deployment "muster-$process" spec.template.metadata.labels | jq '."muster.dev/store"')"
        [ "$process" = gateway ] ||
            same "$shared" "$(hub_renders --set 'hub.state.accessModes={ReadWriteMany}' | at Deployment "muster-$process" $together)"
    done
    # Large numbers of a file are no floats to the processes.
    printf 'hub: {auditPatienceSeconds: 1209600, gcGraceSeconds: 2592000, gcIntervalSeconds: 31536000}\n' >"$work/large.yaml"
    hub_renders --values "$work/large.yaml" | at Deployment muster-hub spec.template.spec.containers.0.args >"$work/args"
    for flag in --audit-patience=1209600 --gc-grace-seconds=2592000 --gc-interval-seconds=31536000; do
        grep -qF "\"$flag\"" "$work/args"
    done
    local bucket=(--set "store.url=s3://b/p,store.caConfigMap=ca,store.credentialsSecret=bucket")
    same 'muster-gateway muster-hub' "$(hub_renders "${bucket[@]}" | named PersistentVolumeClaim)"
    for process in hub gateway auditor; do
        hub_renders "${bucket[@]}" | at Deployment "muster-$process" spec.template.spec.containers.0 >"$work/container"
        grep -qF -- '--store=s3://b/p' "$work/container"
        grep -qF '"secretRef": {"name": "bucket"}' "$work/container"
        grep -qF '"name": "SSL_CERT_FILE"' "$work/container"
    done
    same 'null' "$(hub_renders "${bucket[@]}" | at Deployment muster-gateway spec.template.spec.affinity)"
    same '["hub", "auditor"]' "$(hub_renders "${bucket[@]}" | at Deployment muster-hub $together.0.labelSelector.matchExpressions.0.values)"
    hub_renders "${bucket[@]}" --set 'hub.state.accessModes={ReadWriteMany}' |
        at Deployment muster-hub spec.template.spec.affinity | grep -q podAntiAffinity
    # What looks like a number or a truth stays a name.
    hub_renders "${bucket[@]}" --set-string priorityClassName=true,store.credentialsSecret=007,imagePullSecrets[0]=12 |
        at Deployment muster-hub spec.template.spec | python3 -c 'import json,sys
pod = json.load(sys.stdin)
assert pod["priorityClassName"] == "true" and pod["imagePullSecrets"] == [{"name": "12"}], pod
assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "007"}}], pod'
    same '30443' "$(hub_renders --set gateway.service.type=NodePort,gateway.service.nodePort=30443 |
        at Service muster-gateway spec.ports.0.nodePort)"
    # Callers' addresses reach the gateway where whoever sends to it finds its node.
    local traffic
    for traffic in 'LoadBalancer "Local"' 'NodePort null' 'ClusterIP null'; do
        same "${traffic#* }" "$(hub_renders --set "gateway.service.type=${traffic% *}" |
            at Service muster-gateway spec.externalTrafficPolicy)"
    done
    same '"Local"' "$(hub_renders --set gateway.service.type=NodePort,gateway.service.externalTrafficPolicy=Local |
        at Service muster-gateway spec.externalTrafficPolicy)"
    same '"Cluster"' "$(hub_renders --set gateway.service.externalTrafficPolicy=Cluster |
        at Service muster-gateway spec.externalTrafficPolicy)"
    same 'default-deny gateway' "$(hub_renders | named NetworkPolicy)"
    same 'default-deny gateway metrics' \
        "$(hub_renders --set 'metrics.from[0].matchLabels.team=sre' | named NetworkPolicy)"
    same '"4"' "$(agent_renders --set 'quota.extended.nvidia\.com/gpu=4' |
        at ResourceQuota muster-lent 'spec.hard' | python3 -c 'import json,sys; print(json.dumps(json.load(sys.stdin)["requests.nvidia.com/gpu"]))')"
    same 'default-deny workers relay agent' "$(agent_renders | grep -A2 'kind: NetworkPolicy' | sed -n 's/^  name: //p' | paste -sd' ')"
    # To look at nodes is a right of its own.
    same 'muster-lent-agent' "$(agent_renders | named ClusterRole)"
    same 'muster-lent-agent muster-lent-observe' "$(agent_renders --set policy.offer.observe=true,policy.offer.worker.cpu=500m,policy.offer.worker.memory=1Gi | named ClusterRole)"
    same 'muster-lent-agent muster-lent-observe' "$(agent_renders --set observe=true | named ClusterRoleBinding)"
    # The bucket's authorities reach the agent, beside what else it is told.
    agent_renders --set policy.directStore=true,caConfigMap=bucket-ca --set 'env[0].name=RUST_LOG,env[0].value=debug' |
        at Deployment muster-agent spec.template.spec | python3 -c 'import json,sys
pod = json.load(sys.stdin)
[container] = pod["containers"]
assert container["env"] == [{"name": "SSL_CERT_FILE", "value": "/etc/muster/ca/ca.crt"}, {"name": "RUST_LOG", "value": "debug"}], container
assert {"name": "ca", "mountPath": "/etc/muster/ca", "readOnly": True} in container["volumeMounts"], container
assert {"name": "ca", "configMap": {"name": "bucket-ca"}} in pod["volumes"], pod'
    same 'null' "$(agent_renders | at Deployment muster-agent spec.template.spec.containers.0.env)"
    # The agent reads a new policy by itself, and its token once: neither is another pod.
    local one
    one=$(agent_renders | at Deployment muster-agent spec.template)
    same "$one" "$(agent_renders --set policy.offer.workers=3 | at Deployment muster-agent spec.template)"
    same "$one" "$(agent_renders --set join.token=mst1.abc | at Deployment muster-agent spec.template)"
}
# Every pod of both charts is one that the restricted profile takes and that has no more than it needs.
pods_are_restricted() {
    { hub_renders; echo ---; agent_renders; } | python3 -c '
import sys, yaml
count = 0
for o in yaml.safe_load_all(sys.stdin):
    if not o or o["kind"] != "Deployment": continue
    count += 1
    name, pod = o["metadata"]["name"], o["spec"]["template"]["spec"]
    security = pod["securityContext"]
    assert security["runAsNonRoot"] and security["seccompProfile"]["type"] == "RuntimeDefault", name
    for key in ("hostNetwork", "hostPID", "hostIPC"): assert key not in pod, (name, key)
    for volume in pod.get("volumes", []): assert "hostPath" not in volume, (name, volume)
    [container] = pod["containers"]
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"], name
    assert security["capabilities"] == {"drop": ["ALL"]}, name
    assert container["resources"]["limits"]["memory"], name
    # The auditor says that it is up by its Lease, the agent by its relay.
    assert "livenessProbe" in container or name in ("muster-auditor", "muster-agent"), name
assert count == 5, count'
}
manifests_are_current() {
    scripts/manifests.sh "$work/manifests"
    local file
    for file in hub/objects.yaml processes/processes.yaml member/muster-agent.yaml; do
        diff -u "manifests/$file" "$work/manifests/$file" || {
            echo "manifests/$file is out of date: make manifests"
            return 1
        }
    done
}
