# shellcheck shell=bash
# The node of a cluster: containerd, kubelet, kube-proxy and CoreDNS, in
# the cluster's own network and mount namespaces.

# Paths that containerd, CNI plugins and the kubelet have built in (/run/...,
# /var/lib/kubelet/device-plugins, /var/lib/cni, /var/log/containers) lead to
# folders of the cluster, so that nodes do not meet and the host stays clean.
# Runs inside the new mount namespace.
# shellcheck disable=SC2016
MOUNTS='
set -euo pipefail
state=$1 runtime=$2 real=$1/node
mkdir -p "$real/lib/kubelet" "$real/lib/cni" "$real/log" "$real/sysctl"
# Held open, both can be mounted again where a cover below has hidden them.
exec 3<"$state" 4<"$runtime" 5<"$real/lib" 6<"$real/log"
bind() { mkdir -p "$2" && mount --no-canonicalize --bind "/proc/$$/fd/$1" "$2"; }
mount -t tmpfs -o mode=755 muster-run /run
mount --no-canonicalize --bind "/proc/$$/fd/5" /var/lib
mount --no-canonicalize --bind "/proc/$$/fd/6" /var/log
bind 3 "$state"
bind 4 "$runtime"
# The kubelet sets these for the whole machine, unless it finds them set: show
# it files that say so, and leave the machine as it is.
while read -r name value; do
    [ -e "/proc/sys/$name" ] || continue
    echo "$value" >"$state/node/sysctl/${name##*/}"
    mount --bind "$state/node/sysctl/${name##*/}" "/proc/sys/$name"
done <<SYSCTLS
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SYSCTLS
# The kubelet and containerd share mounts of volumes.
mount --make-rshared /
'
ensure_mounts() {
    local cluster=$1 pin=$RUNTIME/ns/$1.mnt
    if mountpoint -q "$pin" && [ -e "$RUNTIME/$cluster/mounts-made" ]; then return; fi
    umount "$pin" 2>/dev/null || true
    touch "$pin"
    unshare --mount="$pin" --propagation private bash -c "$MOUNTS" mounts "$STATE/$cluster" "$RUNTIME/$cluster" ||
        die "cannot set up the mount namespace of $cluster" "run as root of the machine, or in a container with --privileged"
    touch "$RUNTIME/$cluster/mounts-made"
}

write_node_config() {
    local cluster=$1 state=$STATE/$1 ip
    ip=$(cluster_ip "$cluster")
    mkdir -p "$state/conf/cni"
    cat >"$state/conf/cni/10-bridge.conflist" <<CNI
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$state/ipam", "ranges": [[{"subnet": "$(pod_cidr "$cluster")"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
CNI
    # `opt` would make /opt/containerd on the host; the snapshotters named are
    # probed at start for nothing.
    cat >"$state/conf/containerd.toml" <<TOML
version = 2
root = "$state/containerd"
state = "$RUNTIME/$cluster/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "$(containerd_socket "$cluster")"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  # Without CAP_SYS_RESOURCE runc may not lower a score below containerd's own,
  # and dies with "can't get final child's PID from pipe: EOF".
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "$state/conf/cni"
TOML
    # Not kubeadm's, and why:
    # - cgroupfs, cgroupRoot, enforceNodeAllocatable: no systemd here, and all of
    #   the node is below one cgroup, which is how `down` finds it.
    # - cpuCFSQuota off: on two cores a quota would throttle a worker that has
    #   the machine to itself; shares still divide it when it is contended.
    # - evictionHard, imageGC: a developer's disk is often nearly full, and the
    #   kubelet would collect the trainer's image, which cannot be pulled again.
    # - clusterDNS: CoreDNS runs beside the kubelet, not as a pod.
    cat >"$state/conf/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: "$ip"
tlsCertFile: "$state/pki/kubelet-server.crt"
tlsPrivateKeyFile: "$state/pki/kubelet-server.key"
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "$state/pki/ca.crt"}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: "unix://$(containerd_socket "$cluster")"
cgroupDriver: cgroupfs
cgroupRoot: "/$CGROUP/$cluster"
enforceNodeAllocatable: []
cpuCFSQuota: false
failSwapOn: false
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100
clusterDNS: ["$ip"]
clusterDomain: cluster.local
resolvConf: ""
volumePluginDir: "$state/kubelet-plugins"
YAML
    # Conntrack limits belong to the root namespace: leave them alone.
    cat >"$state/conf/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: "$(pod_cidr "$cluster")"
hostnameOverride: "$cluster"
clientConnection: {kubeconfig: "$state/kubeconfig/kube-proxy"}
conntrack: {maxPerCore: 0}
YAML
    cat >"$state/conf/Corefile" <<COREFILE
cluster.local:53 in-addr.arpa:53 {
    errors
    health 127.0.0.1:8080
    ready 127.0.0.1:8181
    cache 5
    kubernetes cluster.local in-addr.arpa {
        kubeconfig $state/kubeconfig/coredns $cluster
    }
}
COREFILE
}

start_containerd() {
    start "$1" containerd containerd --config "$STATE/$1/conf/containerd.toml"
}
start_kubelet() {
    start "$1" kubelet "$KUBEBOX" kubelet --config="$STATE/$1/conf/kubelet.yaml" \
        --kubeconfig="$STATE/$1/kubeconfig/kubelet" --hostname-override="$1" --node-ip="$(cluster_ip "$1")"
}
# The node object says Ready for 50 s after its kubelet died: ask both.
kubelet_ready() {
    in_cluster "$1" curl --silent --fail --max-time 5 --noproxy '*' http://127.0.0.1:10248/healthz && node_ready "$1"
}
start_kube_proxy() { start "$1" kube-proxy "$KUBEBOX" kube-proxy --config="$STATE/$1/conf/kube-proxy.yaml"; }
start_coredns() { start "$1" coredns "$KUBEBOX" coredns -conf "$STATE/$1/conf/Corefile"; }

ctr_of() { # ctr_of CLUSTER ARGS...: containerd's client, in the kubelet's namespace
    local cluster=$1
    shift
    ctr --address "$(containerd_socket "$cluster")" --namespace k8s.io "$@"
}

ensure_containerd() {
    local cluster=$1
    write_node_config "$cluster"
    start_containerd "$cluster"
    wait_for 60 "containerd of $cluster" ctr_of "$cluster" version || component_failed "$cluster" containerd
    ctr_of "$cluster" images ls -q | grep -qxF "$PAUSE_IMAGE" ||
        ctr_of "$cluster" images import "$PAUSE_ARCHIVE" >/dev/null
}

# What the bootstrap roles of Kubernetes leave to the installer.
ADDONS='
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: kube-apiserver-kubelet-client}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:kubelet-api-admin"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: kube-apiserver-kubelet-client}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "system:coredns"}
rules:
- {apiGroups: [""], resources: [services, pods, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "system:coredns"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:coredns"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "system:coredns"}]
'
ensure_node() {
    local cluster=$1
    start_kubelet "$cluster"
    start_kube_proxy "$cluster"
    api "$cluster" /apis/rbac.authorization.k8s.io/v1/clusterrolebindings/system:coredns >/dev/null 2>&1 ||
        "$KUBEBOX" kubectl --kubeconfig "$STATE/$cluster/kubeconfig/admin" apply --filename - >/dev/null <<<"$ADDONS"
    start_coredns "$cluster"
    wait_for 120 "node $cluster to be Ready" kubelet_ready "$cluster" || component_failed "$cluster" kubelet containerd
}
