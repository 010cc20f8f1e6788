#!/usr/bin/env bash
# Tests the clusters themselves: that they start, are what they claim, survive
# crashes and leave nothing. Works on an instance of its own, beside whatever
# is up. Ends with `N passed, N failed, N skipped`; fails if one failed.
#   CHECK_TRAINER=0   skip the trainer's image, which takes a release build
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export CLUSTER_INSTANCE=${CHECK_INSTANCE:-check} CLUSTER_SUBNET=${CHECK_SUBNET:-10.97.0} CLUSTERS="hub east"
unset CLUSTER_STATE CLUSTER_RUNTIME CLUSTER_FSYNC
for part in lib oci node; do
    # shellcheck source=/dev/null
    source "$here/$part.sh"
done
require_root clusters-check
check_settings

work=$(mktemp -d)
export RUN_DIR=$work/run
passed=0 failed=0 skipped=0
finish() {
    trap - EXIT
    "$here/down.sh" >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

check() { # check WHAT COMMAND...
    local what=$1 begun=$SECONDS
    shift
    # Not `if (...)`: that would switch errexit off inside.
    set +e
    (set -e; "$@") >"$work/output" 2>&1
    local result=$?
    set -e
    if ((result == 0)); then
        passed=$((passed + 1))
        echo "ok      $what ($((SECONDS - begun)) s)"
    else
        failed=$((failed + 1))
        echo "FAILED  $what ($((SECONDS - begun)) s)"
        tail -n 25 "$work/output" | sed 's/^/        /'
    fi
}
skip() {
    skipped=$((skipped + 1))
    echo "skipped $1: $2"
}
refused() { ! "$@"; }
east() { "$work/run/bin/kubectl" --kubeconfig "$work/run/kubeconfig" --context east "$@"; }
hub() { "$work/run/bin/kubectl" --kubeconfig "$work/run/kubeconfig" --context hub "$@"; }
daemon_pids() { cat "$RUNTIME"/*/*.pid | sort; }

# ---- what the host looks like without us -----------------------------------
# Other instances come and go meanwhile; ours must not show.
host_state() {
    others() { grep -Ev '(muster|mu)-[a-z0-9]{1,5}([^a-z0-9]|$)' || true; }
    echo "# links and addresses"
    ip -br addr | awk '{ print $1, $3 }' | others
    ip route | others
    echo "# mounts"
    awk '{ print $5 }' /proc/self/mountinfo | others | sort
    echo "# cgroups"
    find /sys/fs/cgroup -maxdepth 2 -type d | others | sort
    echo "# sysctls"
    sysctl -a 2>/dev/null | grep -E '^(vm\.(over|panic)|kernel\.(panic|keys\.root)|net\.(ipv[46]\.(ip_forward|conf\.(all|default))|netfilter|bridge))' | grep -v _count
    echo "# firewall"
    nft list ruleset
    echo "# files"
    find /etc /opt /usr/libexec /var/lib /var/log /run -mindepth 1 -maxdepth 1 | others | sort
}
own_traces() { # what carries the instance's name; nothing, once it is down
    ip -br link | grep -E "^$BRIDGE([@-]|\b)" || true
    grep -F "$CGROUP" /proc/self/mountinfo || true
    find /sys/fs/cgroup -type d -name "$CGROUP"
    local file
    grep -lsF "$CGROUP/" /proc/[0-9]*/cgroup | while read -r file; do
        ! start_time "$(cut -d/ -f3 <<<"$file")" >/dev/null || tr '\0' ' ' <"${file%cgroup}cmdline"
    done || true
    find /run /var/lib /var/log /tmp -maxdepth 1 -name "$CGROUP*"
}
no_leftovers() {
    local traces
    traces=$(own_traces)
    [ -z "$traces" ] || { echo "traces: $traces"; return 1; }
    host_state >"$work/after"
    diff "$work/before" "$work/after"
}

# ---- the checks ------------------------------------------------------------
up() { "$here/up.sh" && "$here/kubeconfig.sh"; }
up_quickly() {
    local begun=$SECONDS pids
    pids=$(daemon_pids)
    up
    [ "$pids" = "$(daemon_pids)" ] && ((SECONDS - begun < 10))
}
versions() {
    hub version -o json | jq -e '.serverVersion.gitVersion | startswith("v1.34.")'
    east version -o json | jq -e '.serverVersion.gitVersion | startswith("v1.34.")'
}
kubeconfig_private() {
    [ "$(stat -c %a "$work/run/kubeconfig")" = 600 ]
    refused grep -q insecure "$work/run/kubeconfig"
    [ "$(east config get-contexts -o name | tr '\n' ' ')" = "east hub " ]
}
tls_verified() {
    local url
    url=https://$(cluster_ip east):6443
    refused curl -sS --max-time 5 "$url/version" # unknown to the host
    curl -sSf --max-time 5 --cacert "$STATE/east/pki/ca.crt" "$url/version"
    refused curl -sS --max-time 5 --cacert "$STATE/hub/pki/ca.crt" "$url/version" # the other cluster's CA
    # Nobody without a certificate, and no certificate of the other cluster.
    [ "$(curl -s -o /dev/null -w '%{http_code}' --cacert "$STATE/east/pki/ca.crt" "$url/api/v1/pods")" = 403 ]
    [ "$(curl -s -o /dev/null -w '%{http_code}' --cacert "$STATE/east/pki/ca.crt" \
        --cert "$STATE/hub/pki/admin.crt" --key "$STATE/hub/pki/admin.key" "$url/api/v1/pods")" = 401 ]
}
service_account_rights() {
    east create serviceaccount reader
    refused east auth can-i list pods --as=system:serviceaccount:default:reader
    local token
    token=$(east create token reader)
    [ "$(curl -s -o /dev/null -w '%{http_code}' --cacert "$STATE/east/pki/ca.crt" -H "Authorization: Bearer $token" \
        "https://$(cluster_ip east):6443/api/v1/namespaces/default/pods")" = 403 ]
    east create rolebinding reader --clusterrole=view --serviceaccount=default:reader
    # The authorizer's cache follows in moments.
    wait_for 20 "the role to be seen" curl -sf --cacert "$STATE/east/pki/ca.crt" -H "Authorization: Bearer $token" \
        "https://$(cluster_ip east):6443/api/v1/namespaces/default/pods"
}
node_restricted() {
    # The kubelet's identity reads its own pods' secrets only.
    refused "$work/run/bin/kubectl" --kubeconfig "$STATE/east/kubeconfig/kubelet" get secrets -A
    refused "$work/run/bin/kubectl" --kubeconfig "$STATE/east/kubeconfig/kubelet" label node east node-role.kubernetes.io/control-plane=
}

load_probe() {
    mkdir "$work/context"
    (cd "$REPO" && rustc --edition 2024 --target x86_64-unknown-linux-musl -C opt-level=s -C strip=symbols \
        -o "$work/context/probe" "$here/probe/probe.rs")
    build_archive "$here/probe/Dockerfile" "$work/context" muster.test/probe:1 "$work/probe.tar"
    "$here/ctl.sh" load east "$work/probe.tar" >"$work/probe"
}
restricted_namespace() {
    east create namespace lent
    east label namespace lent pod-security.kubernetes.io/enforce=restricted
    wait_for 30 "its ServiceAccount" east -n lent get serviceaccount default
}
pod() { # pod NAME IMAGE ARGS...: within the restricted profile
    local name=$1 image=$2
    shift 2
    cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $name, namespace: lent}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: main
    image: $image
    imagePullPolicy: IfNotPresent
    args: $(jq -nc '$ARGS.positional' --args -- "$@")
    env: [{name: HOSTNAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    resources: {requests: {cpu: 600m, memory: 32Mi}, limits: {cpu: 600m, memory: 32Mi}}
YAML
}
two_workers_by_digest() {
    pod one "$(cat "$work/probe")" serve 7000 | east apply -f -
    pod two "$(cat "$work/probe")" serve 7000 | east apply -f -
    east -n lent wait --for=condition=Ready pod/one pod/two --timeout=60s
    refused grep -q Pulling <(east -n lent get events)
}
privileged_refused() {
    # By admission, in words; not for another reason.
    pod bad muster.test/probe:1 id | sed 's/allowPrivilegeEscalation: false/privileged: true/' >"$work/bad.yaml"
    refused east apply -f "$work/bad.yaml" 2>"$work/said"
    grep -q 'violates PodSecurity "restricted' "$work/said"
}
logs_and_exec() {
    [ "$(east -n lent logs one)" = serving ]
    east -n lent exec one -- /probe id | tee /dev/stderr | grep -qP '^Uid:\t65532\t65532'
}
pod_to_pod() {
    local ip
    ip=$(east -n lent get pod two -o jsonpath='{.status.podIP}')
    [ "$(east -n lent exec one -- /probe get "$ip:7000")" = "hello from two" ]
}
pod_to_service() { # DNS by CoreDNS, ClusterIP by kube-proxy
    east -n lent label pod two app=two
    east -n lent expose pod two --port=80 --target-port=7000
    asked() { [ "$(east -n lent exec one -- /probe get two.lent.svc.cluster.local:80)" = "hello from two" ]; }
    wait_for 30 "the service" asked
}
pod_to_host() { # the agent's relay is a process in the root namespace
    socat "TCP-LISTEN:17999,bind=$GATEWAY,reuseaddr,fork" SYSTEM:'echo relay' &
    local socat=$!
    sleep 1
    local answer
    answer=$(east -n lent exec one -- /probe get "$GATEWAY:17999" || true)
    kill "$socat"
    [ "$answer" = relay ]
}
pod_recovers() { # the old pod gone and a new one Ready, at this speed of the machine
    local begun=$SECONDS
    pod three "$(cat "$work/probe")" serve 7000 | east apply -f - && east -n lent delete pod two --wait=true
    east -n lent wait --for=condition=Ready pod/three --timeout=15s
    ((SECONDS - begun <= 15))
}
trainer_image() {
    local reference
    reference=$("$REPO/scripts/image.sh" east)
    [[ $reference =~ ^muster\.test/trainer@sha256:[0-9a-f]{64}$ ]]
    [ "$("$REPO/scripts/image.sh" east)" = "$reference" ] # again: the same digest
    pod trainer "$reference" | sed 's/IfNotPresent/Never/' | east apply -f -
    started() { east -n lent get pod trainer -o json | jq -e '.status.containerStatuses[0].state | .running or .terminated'; }
    wait_for 60 "the trainer to have run" started
    east -n lent delete pod trainer
}
images_listed_and_removed() {
    "$here/ctl.sh" images east | grep -q muster.test/probe:1
    "$here/ctl.sh" rmi east muster.test/probe:1
    refused grep -q muster.test/probe <("$here/ctl.sh" images east)
    "$here/ctl.sh" load east "$work/probe.tar"
}
apiserver_stops_and_starts() {
    hub create configmap kept --from-literal=a=b
    "$here/ctl.sh" stop-apiserver hub
    refused hub get --raw /readyz --request-timeout=3s
    refused "$here/ctl.sh" status hub
    "$here/ctl.sh" start-apiserver hub
    hub get configmap kept
    "$here/ctl.sh" status hub
}
partitions() {
    "$here/ctl.sh" partition east
    refused env API_TIMEOUT=3 bash -c 'source "$1"/lib.sh; api east /readyz' _ "$here"
    hub get --raw /readyz
    "$here/ctl.sh" heal east
    wait_for 30 "the API of east" east get --raw /readyz --request-timeout=5s
}
crash_of_node() { # everything dies at once; containers do not
    local name
    for name in $(components east); do signal east "$name" KILL; done
    sleep 1
    refused "$here/ctl.sh" status east
    up
    "$here/ctl.sh" status east
    east -n lent get pod one
    answers() { [ "$(east -n lent exec one -- /probe id | head -c3)" = Uid ]; }
    wait_for 60 "the pod that was running before" answers
}
lost_link() {
    ip link del "$BRIDGE-hub"
    up
    hub get configmap kept
}
down_leaves_nothing() {
    "$here/down.sh"
    no_leftovers
}
interrupted() { # interrupted TENTHS: kill -9 of up.sh and its children after so long
    "$here/up.sh" 9>&- &
    local job=$! child
    sleep "$(($1 / 10)).$(($1 % 10))"
    for child in $(pgrep -P "$job"); do kill -KILL "$child" 2>/dev/null || true; done
    kill -KILL "$job" 2>/dev/null || true
    wait "$job" || true
}
interrupted_then_down() {
    interrupted "$1"
    down_leaves_nothing
}
interrupted_then_up() {
    local tenths
    for tenths in "$@"; do interrupted "$tenths"; done
    up
    hub get --raw /readyz
    east get nodes
}
durable() {
    CLUSTERS=hub CLUSTER_FSYNC=1 "$here/up.sh"
    refused grep -q unsafe-no-fsync "/proc/$(cut -d' ' -f1 "$RUNTIME/hub/etcd.pid")/cmdline"
    CLUSTERS=hub "$here/up.sh" # unsaid: stays as it is
    refused grep -q unsafe-no-fsync "/proc/$(cut -d' ' -f1 "$RUNTIME/hub/etcd.pid")/cmdline"
    CLUSTERS=hub CLUSTER_FSYNC=0 "$here/up.sh"
    grep -q unsafe-no-fsync "/proc/$(cut -d' ' -f1 "$RUNTIME/hub/etcd.pid")/cmdline"
}

"$here/build.sh" >/dev/null
"$here/down.sh" 2>/dev/null
host_state >"$work/before"

check "up from nothing" up
grep -h 'clusters (' "$work/output" | sed 's/^/        /' || true
check "up again changes nothing, quickly" up_quickly
check "both are Kubernetes 1.34" versions
check "kubeconfig is private, verifies, has both contexts" kubeconfig_private
check "TLS is verified, strangers are refused" tls_verified
check "a ServiceAccount has the rights its roles give" service_account_rights
check "the node has the rights of a node" node_restricted
check "an image is built and loaded" load_probe
check "a namespace enforces restricted" restricted_namespace
check "two pods of 600m run by digest, nothing pulled" two_workers_by_digest
check "a privileged pod is refused" privileged_refused
check "logs and exec" logs_and_exec
check "pod reaches pod" pod_to_pod
check "pod reaches a service by name" pod_to_service
check "pod reaches a process of the host" pod_to_host
check "a pod's place is filled again within 15 s" pod_recovers
if [ "${CHECK_TRAINER:-1}" = 0 ]; then
    skip "the trainer's image runs by digest" CHECK_TRAINER=0
else
    check "the trainer's image runs by digest, and is reproducible" trainer_image
fi
check "images are listed and removed" images_listed_and_removed
check "API server stops and starts" apiserver_stops_and_starts
check "a partition cuts and heals" partitions
check "kill -9 of every daemon of east, then up" crash_of_node
check "a lost link, then up" lost_link
check "down leaves nothing" down_leaves_nothing
check "down again" "$here/down.sh"
for tenths in 1 8 25 60; do
    check "kill -9 of up after $tenths tenths, then down" interrupted_then_down "$tenths"
done
check "kill -9 of up three times, then up" interrupted_then_up 3 15 40
check "down" "$here/down.sh"
check "durable etcd on demand" durable
check "down leaves nothing" down_leaves_nothing
if cgroup_is_v2; then
    skip "cgroup v1" "this machine has v2 only"
else
    skip "cgroup v2" "this machine has v1"
fi

echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
