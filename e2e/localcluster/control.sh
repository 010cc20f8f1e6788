# shellcheck shell=bash
# The control plane of a cluster: etcd, API server, controller manager,
# scheduler. Flags are kubeadm's unless a comment says why not.

start_etcd() {
    local cluster=$1 state=$STATE/$1 durable=(--unsafe-no-fsync)
    # Without fsync a test cluster is several times faster, and loses data only
    # if the machine dies. CLUSTER_FSYNC=1 for recovery tests and benchmarks.
    [ "$(cat "$state/fsync")" = 0 ] || durable=()
    start "$cluster" etcd "$KUBEBOX" etcd --name="$cluster" --data-dir="$state/etcd" "${durable[@]}" \
        --listen-client-urls=https://127.0.0.1:2379 --advertise-client-urls=https://127.0.0.1:2379 \
        --listen-peer-urls=https://127.0.0.1:2380 --initial-advertise-peer-urls=https://127.0.0.1:2380 \
        --initial-cluster="$cluster=https://127.0.0.1:2380" \
        --client-cert-auth --trusted-ca-file="$state/pki/etcd-ca.crt" \
        --cert-file="$state/pki/etcd.crt" --key-file="$state/pki/etcd.key" \
        --peer-client-cert-auth --peer-trusted-ca-file="$state/pki/etcd-ca.crt" \
        --peer-cert-file="$state/pki/etcd.crt" --peer-key-file="$state/pki/etcd.key"
}

start_apiserver() {
    local cluster=$1 pki=$STATE/$1/pki ip
    ip=$(cluster_ip "$cluster")
    local kubelet=(
        --kubelet-certificate-authority="$pki/ca.crt"
        --kubelet-client-certificate="$pki/apiserver-kubelet-client.crt"
        --kubelet-client-key="$pki/apiserver-kubelet-client.key"
        --kubelet-preferred-address-types=InternalIP
    )
    # Who has asked for what, in log/audit.log: for who counts writes.
    local audit=()
    if [ "${CLUSTER_AUDIT:-0}" = 1 ]; then
        cat >"$STATE/$cluster/audit-policy.yaml" <<YAML
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
YAML
        audit=(--audit-policy-file="$STATE/$cluster/audit-policy.yaml" --audit-log-path="$STATE/$cluster/log/audit.log")
    fi
    start "$cluster" apiserver "$KUBEBOX" kube-apiserver \
        --bind-address="$ip" --advertise-address="$ip" --secure-port=6443 \
        --service-cluster-ip-range="$(service_cidr "$cluster")" \
        --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
        --etcd-servers=https://127.0.0.1:2379 --etcd-cafile="$pki/etcd-ca.crt" \
        --etcd-certfile="$pki/apiserver-etcd-client.crt" --etcd-keyfile="$pki/apiserver-etcd-client.key" \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local \
        --service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" \
        --requestheader-client-ca-file="$pki/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy-client \
        --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
        --requestheader-extra-headers-prefix=X-Remote-Extra- \
        --proxy-client-cert-file="$pki/front-proxy-client.crt" --proxy-client-key-file="$pki/front-proxy-client.key" \
        "${kubelet[@]}" "${audit[@]}"
}

# One of each runs, so electing a leader would only add its lease's time to
# every restart. The default folder for volume plugins would be made on the host.
start_controller_manager() {
    local cluster=$1 pki=$STATE/$1/pki config=$STATE/$1/kubeconfig/controller-manager
    start "$cluster" controller-manager "$KUBEBOX" kube-controller-manager --leader-elect=false --bind-address=127.0.0.1 \
        --kubeconfig="$config" --authentication-kubeconfig="$config" --authorization-kubeconfig="$config" \
        --root-ca-file="$pki/ca.crt" --service-account-private-key-file="$pki/sa.key" --use-service-account-credentials=true \
        --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
        --requestheader-client-ca-file="$pki/front-proxy-ca.crt" \
        --flex-volume-plugin-dir="$STATE/$cluster/controller-manager-plugins"
}
start_scheduler() {
    local cluster=$1 config=$STATE/$1/kubeconfig/scheduler
    start "$cluster" scheduler "$KUBEBOX" kube-scheduler --leader-elect=false --bind-address=127.0.0.1 \
        --kubeconfig="$config" --authentication-kubeconfig="$config" --authorization-kubeconfig="$config"
}

apiserver_ready() { API_TIMEOUT=5 api "$1" /readyz; }

# A namespace without its default ServiceAccount or its CA refuses pods.
controllers_ready() {
    api "$1" /api/v1/namespaces/default/serviceaccounts/default &&
        api "$1" /api/v1/namespaces/default/configmaps/kube-root-ca.crt
}

ensure_control_plane() {
    local cluster=$1
    start_etcd "$cluster"
    start_apiserver "$cluster"
    wait_for 120 "the API server of $cluster" apiserver_ready "$cluster" || component_failed "$cluster" apiserver etcd
    start_controller_manager "$cluster"
    start_scheduler "$cluster"
}

component_failed() { # component_failed CLUSTER NAME...: the end of their logs, then give up
    local cluster=$1 name
    shift
    for name in "$@"; do
        log "--- last lines of $STATE/$cluster/log/$name.log"
        tail -n 15 "$STATE/$cluster/log/$name.log" >&2 || true
    done
    die "cluster $cluster did not come up" "make clusters-down clusters (starts from nothing)"
}
