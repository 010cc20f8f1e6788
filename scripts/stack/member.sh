# shellcheck shell=bash
# Providers: in each member an agent that joins through the gateway with a single-use token. Sourced by stack.sh.
LENT=muster-lent
AGENT_PODS=app.kubernetes.io/part-of=muster,app.kubernetes.io/component=agent
CTL=$REPO/e2e/localcluster/ctl.sh

# There is no storage class here: the volume is a folder of this machine, where the tests find the agent's state.
member_volume() { # member_volume PROVIDER
    cat <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: muster-agent, labels: {app.kubernetes.io/part-of: muster}}
spec:
  capacity: {storage: 20Gi}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: $LENT, name: muster-agent}
  hostPath: {path: "$RUN/agent-$1", type: Directory}
YAML
}
# What the owner of a member says: which images, how much, and the token.
member_policy() { printf 'images: ["%s"]\noffer: {workers: %s}\n%s\n' "$(trainer_image)" "${MUSTER_WORKERS:-8}" "${MUSTER_POLICY:-}"; }
member_image() { if [ -n "${MUSTER_CHEAT:-}" ]; then cat "$RUN/agent-cheats-image"; else agent_image; fi; }
member_env() {
    [ -z "${MUSTER_CHEAT:-}" ] ||
        printf -- '- {name: MUSTER_CHEAT, value: "%s"}\n- {name: MUSTER_CHEAT_IMAGE, value: "%s"}\n' "$MUSTER_CHEAT" "$(cat "$RUN/trainer-cheats-image")"
}
indented() { sed "s/^/$(printf '%*s' "$1" '')/"; } # indented COLUMNS
member_values() { # for the chart
    local image
    image=$(member_image)
    cat <<YAML
image: {repository: "${image%@*}", digest: "${image#*@}"}
join: {token: "$(cat "$1/token")"}
policy:
$(member_policy | indented 2)
YAML
    [ -z "${MUSTER_CHEAT:-}" ] || { echo env: && member_env; }
}
member_kustomization() { # over what the chart renders to
    local folder=$1 image
    image=$(member_image)
    cat <<YAML
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: $LENT
resources: [$(realpath --relative-to="$folder" "$REPO/manifests/member"), volume.yaml]
images:
- {name: muster, newName: "${image%@*}", digest: "${image#*@}"}
configMapGenerator:
- {name: muster-policy, files: [policy.yaml]}
secretGenerator:
- {name: muster-join, files: [token]}
YAML
    [ -n "${MUSTER_CHEAT:-}" ] || return 0
    cat <<YAML
patches:
- target: {kind: Deployment, name: muster-agent}
  patch: |
    - op: add
      path: /spec/template/spec/containers/0/env
      value:
$(member_env | indented 6)
YAML
}
member_render() { # member_render PROVIDER FOLDER
    local provider=$1 folder=$2
    rm -rf "$folder"
    (umask 077 && mkdir -p "$folder")
    : >"$folder/token"
    [ ! -f "$RUN/$provider.token" ] || cp "$RUN/$provider.token" "$folder/token"
    member_volume "$provider" >"$folder/volume.yaml"
    member_policy >"$folder/policy.yaml"
    if [ "$MUSTER_INSTALL" = helm ]; then
        member_values "$folder" >"$folder/values.yaml"
    else
        member_kustomization "$folder" >"$folder/kustomization.yaml"
    fi
}
member_install() { # member_install PROVIDER FOLDER
    local provider=$1 folder=$2
    if [ "$MUSTER_INSTALL" = helm ]; then
        logged apply-member "the namespace was refused by $provider" \
            admin "$provider" apply --server-side --force-conflicts -f "$REPO/manifests/member/namespace.yaml" -f "$folder/volume.yaml"
        logged helm-member "chart muster-agent was refused by $provider" helm_on "$provider" upgrade --install muster-agent \
            "$REPO/charts/muster-agent" --namespace "$LENT" --take-ownership --values "$folder/values.yaml"
    else
        logged apply-member "the member's kustomization was refused by $provider" \
            admin "$provider" apply --server-side --force-conflicts -k "$folder"
    fi
    admin "$provider" scale deployment muster-agent --namespace="$LENT" --replicas=1 >/dev/null
}
agent_runs() { # agent_runs PROVIDER
    [ "$(admin "$1" get deployment muster-agent --namespace="$LENT" \
        -o jsonpath='{.spec.replicas} {.status.readyReplicas} {.status.updatedReplicas}' 2>/dev/null)" = "1 1 1" ]
}
start_agent() { # start_agent PROVIDER
    local provider=$1 folder=$RUN/member-$1 print
    member_render "$provider" "$folder"
    print=$({ echo "$MUSTER_INSTALL"; cat "$folder"/* "$RUN/kubeconfig"; all_below "$REPO/manifests/member" "$REPO/charts/muster-agent"; } |
        sha256sum | cut -c1-16)
    if [ "$(cat "$RUN/agent-$provider.applied" 2>/dev/null)" = "$print" ] && agent_runs "$provider"; then return; fi
    # The user of the image; on a real cluster the volume's driver sees to it.
    mkdir -p "$RUN/agent-$provider"
    chown -R 65532:65532 "$RUN/agent-$provider"
    chmod 700 "$RUN/agent-$provider"
    member_install "$provider" "$folder"
    echo "$print" >"$RUN/agent-$provider.applied"
    say "installed the agent of $provider ($MUSTER_INSTALL)"
}
agent_gone() { [ -z "$(admin "$1" get pods --namespace="$LENT" -l "$AGENT_PODS" -o name)" ]; }
stop_agent() { # stop_agent PROVIDER SIGNAL
    local provider=$1 pid
    rm -f "$RUN/agent-$provider.applied"
    admin "$provider" get deployment muster-agent --namespace="$LENT" >/dev/null 2>&1 || return 0
    admin "$provider" scale deployment muster-agent --namespace="$LENT" --replicas=0 >/dev/null
    if [ "$2" = KILL ]; then
        for pid in $(muster_in "$provider"); do kill -KILL "$pid" 2>/dev/null || true; done
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
