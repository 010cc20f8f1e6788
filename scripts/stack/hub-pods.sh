# shellcheck shell=bash
# The hub's processes as pods of the hub cluster, installed as its SRE installs them: with Helm, or by a kustomization over what the
# chart renders to. Sourced by stack.sh.
SYSTEM=muster-system
NODE_PORT=30443
GATEWAY_URL=https://${CLUSTER_SUBNET:-10.77.0}.10:$NODE_PORT
HUB_FOLDER=$RUN/hub-cluster

# There is no storage class here: volumes are folders of this machine, and as a driver leaves them that heeds fsGroup: root's, with
# the group's rights. The tests find keys, log and blobs where the programs keep them.
hub_volumes() {
    local volume folder
    [ -L "$RUN/hub" ] || [ ! -e "$RUN/hub" ] || die "$RUN/hub is of a hub that was a host process: scripts/stack.sh down first"
    for volume in hub gateway store; do
        folder=$RUN/volumes/$volume
        mkdir -p "$folder"
        chown 0:65532 "$folder"
        chmod 2775 "$folder"
        cat <<YAML
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: muster-$volume, labels: {app.kubernetes.io/part-of: muster}}
spec:
  capacity: {storage: 1Ti}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: $SYSTEM, name: muster-$volume}
  hostPath: {path: "$folder", type: Directory}
YAML
    done
    ln -sfn volumes/hub/state "$RUN/hub"
    ln -sfn volumes/gateway/state "$RUN/gateway"
    ln -sfn volumes/store/data "$STORE"
}
# The auditor's wish for a whole CPU is for real jobs.
hub_values() {
    local image trainer
    image=$(agent_image) trainer=$(trainer_image)
    cat <<YAML
image: {repository: "${image%@*}", digest: "${image#*@}"}
trainer: {repository: "${trainer%@*}", digest: "${trainer#*@}"}
hub: {auditPatienceSeconds: ${MUSTER_AUDIT_PATIENCE:-21600}}
gateway:
  publicUrl: $GATEWAY_URL
  service: {type: NodePort, nodePort: $NODE_PORT}
auditor: {resources: {requests: {cpu: 50m, memory: 64Mi}}}
YAML
}
hub_kustomization() {
    local image trainer trainer_at patience_at url_at
    image=$(agent_image) trainer=$(trainer_image)
    trainer_at=$(argument muster-hub --trainer-image=)
    patience_at=$(argument muster-hub --audit-patience=)
    url_at=$(argument muster-gateway --public-url=)
    cat <<YAML
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [$(realpath --relative-to="$HUB_FOLDER" "$REPO/manifests/processes")]
images:
- {name: muster, newName: "${image%@*}", digest: "${image#*@}"}
patches:
- target: {kind: Deployment, name: muster-hub}
  patch: |
    - {op: replace, path: $trainer_at, value: "--trainer-image=$trainer"}
    - {op: replace, path: $patience_at, value: "--audit-patience=${MUSTER_AUDIT_PATIENCE:-21600}"}
- target: {kind: Deployment, name: muster-gateway}
  patch: |
    - {op: replace, path: $url_at, value: "--public-url=$GATEWAY_URL"}
- target: {kind: Service, name: muster-gateway}
  patch: |
    - {op: replace, path: /spec/type, value: NodePort}
    - {op: add, path: /spec/ports/0/nodePort, value: $NODE_PORT}
- target: {kind: Deployment, name: muster-auditor}
  patch: |
    - {op: replace, path: /spec/template/spec/containers/0/resources/requests, value: {cpu: 50m, memory: 64Mi}}
YAML
}
argument() { # argument DEPLOYMENT FLAG=: where the flag is, as a patch names it
    awk -v name="$1" -v flag="$2" '
        /^kind: / { kind = $2 }
        /^  name: / && kind == "Deployment" { deployment = $2 }
        / args:$/ { number = -1; in_args = 1; next }
        in_args && !/^ *- / { in_args = 0 }
        in_args { number++ }
        in_args && deployment == name && index($2, flag) == 1 { found = number; exit }
        END { if (found == "") exit 1; print "/spec/template/spec/containers/0/args/" found }
    ' "$REPO/manifests/processes/processes.yaml" || die "no $2 in the rendered $1: make manifests"
}
hub_render() {
    mkdir -p "$HUB_FOLDER"
    hub_volumes >"$HUB_FOLDER/volumes.yaml"
    if [ "$MUSTER_INSTALL" = helm ]; then
        hub_values >"$HUB_FOLDER/values.yaml"
    else
        hub_kustomization >"$HUB_FOLDER/kustomization.yaml"
    fi
}
# Another cluster needs it again, even if it is the same.
hub_print() {
    {
        echo "$MUSTER_INSTALL"
        cat "$RUN/kubeconfig" "$HUB_FOLDER"/*
        all_below "$REPO/manifests" "$REPO/charts/muster"
    } | sha256sum | cut -c1-16
}
hub_is_installed() { # so, and nobody has taken a part away
    hub_render
    [ "$(cat "$RUN/applied" 2>/dev/null)" = "$(hub_print)" ] || return 1
    # shellcheck disable=SC2086
    admin hub get deployment --namespace="$SYSTEM" $(printf 'muster-%s ' $PARTS) >/dev/null 2>&1
}
hub_is_as_wanted() {
    local part
    hub_is_installed || return 1
    for part in $PARTS; do part_runs "$part" || return 1; done
}
hub_install() {
    if hub_is_installed; then
        hub_scale_all
        return
    fi
    logged apply-volumes "the hub's volumes were refused" admin hub apply --server-side --force-conflicts -f "$HUB_FOLDER/volumes.yaml"
    if [ "$MUSTER_INSTALL" = helm ]; then
        logged apply-hub "the namespaces were refused" admin hub apply --server-side --force-conflicts -k "$REPO/manifests/base"
        logged helm-hub "chart muster was refused" helm_on hub upgrade --install muster "$REPO/charts/muster" --namespace "$SYSTEM" \
            --take-ownership --values "$HUB_FOLDER/values.yaml"
    else
        logged apply-hub "manifests/processes was refused" admin hub apply --server-side --force-conflicts -k "$HUB_FOLDER"
    fi
    admin hub wait --for=condition=Established crd --all --timeout=60s >/dev/null
    hub_scale_all
    hub_print >"$RUN/applied"
    say "installed the hub's processes ($MUSTER_INSTALL)"
}
hub_scale_all() {
    local part
    for part in $PARTS; do scale_part "$part" 1; done
}
scale_part() { # scale_part PART REPLICAS: neither way of installing says how many there are of what was stopped by hand
    local deployment=muster-$1
    [ "$(admin hub get deployment "$deployment" --namespace="$SYSTEM" -o jsonpath='{.spec.replicas}')" = "$2" ] ||
        admin hub scale deployment "$deployment" --namespace="$SYSTEM" --replicas="$2" >/dev/null
}
part_start() {
    # Other arguments? Then all of it is installed anew.
    if hub_is_installed; then scale_part "$1" 1; else hub_install; fi
}
part_gone() { [ -z "$(admin hub get pods --namespace="$SYSTEM" -l "app.kubernetes.io/component=$1" -o name)" ]; }
part_stop() { # part_stop PART SIGNAL
    local pids=() told=1
    if [ "$2" = KILL ]; then
        # It stands still, so that it says nothing any more while its Deployment is told not to make another one.
        mapfile -t pids < <(muster_in hub "$1")
        [ ${#pids[@]} = 0 ] || kill -STOP "${pids[@]}" 2>/dev/null || true
    fi
    scale_part "$1" 0 || told=0
    # Whatever the API server said: one that stands still would be there until its probe has had enough.
    [ ${#pids[@]} = 0 ] || kill -KILL "${pids[@]}" 2>/dev/null || true
    [ "$told" = 1 ] || die "$1 is not to stop: its Deployment was not scaled"
    # After an outage of the API server it may take controllers a minute until they look again.
    wait_for 180 "$1 to be gone" part_gone "$1" || die "$1 does not end"
    say "stopped $1"
}
part_runs() {
    [ "$(admin hub get deployment "muster-$1" --namespace="$SYSTEM" -o json 2>/dev/null |
        jq -c '[.metadata.generation == .status.observedGeneration, .spec.replicas, .status.replicas, .status.updatedReplicas, .status.readyReplicas]')" = '[true,1,1,1,1]' ]
}
part_log() { # part_log PART LINES
    admin hub logs --namespace="$SYSTEM" -l "app.kubernetes.io/component=$1" --tail="$2" || true
    admin hub get pods --namespace="$SYSTEM" -l "app.kubernetes.io/component=$1" || true
}
hub_remove() {
    admin hub get --raw /readyz --request-timeout=5s >/dev/null 2>&1 || return 0
    admin hub delete deployments,persistentvolumeclaims --all --namespace="$SYSTEM" --timeout=90s >/dev/null 2>&1 || true
    admin hub delete secrets --selector=owner=helm --namespace="$SYSTEM" >/dev/null 2>&1 || true
    admin hub delete persistentvolumes --selector=app.kubernetes.io/part-of=muster --timeout=30s >/dev/null 2>&1 || true
}
