# shellcheck shell=bash
# Keys and certificates of a cluster, laid out as kubeadm does: one CA for the
# API and its clients, one for etcd (so that an API client is not an etcd
# client), one for the aggregation layer. ECDSA P-256, a year.

certificate() { # certificate NAME CA SUBJECT USAGE [SAN]
    local name=$1 ca=$2 subject=$3 usage=$4 san=${5:-} issuer=()
    [ "$ca" = self ] || issuer=(-CA "$ca.crt" -CAkey "$ca.key")
    {
        printf '[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=unused\n[ext]\n'
        if [ "$ca" = self ]; then
            printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n'
        else
            printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\n' "$usage"
        fi
        printf 'subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n'
        [ -z "$san" ] || printf 'subjectAltName=%s\n' "$san"
    } >"$name.cnf"
    openssl req -x509 -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 365 \
        -config "$name.cnf" -extensions ext -subj "$subject" "${issuer[@]}" \
        -keyout "$name.key" -out "$name.crt" 2>"$name.err" || die "openssl: $(cat "$name.err")"
    rm -f "$name.cnf" "$name.err"
}

ensure_pki() {
    local cluster=$1 state=$STATE/$1 ip
    ip=$(cluster_ip "$cluster")
    # One of the time when a hub had no node lacks the kubelet's.
    if [ -e "$state/pki/kubelet.crt" ]; then return; fi
    rm -rf "$state/pki"
    # Made aside and renamed: an interrupted run leaves no half set.
    rm -rf "$state/pki.new"
    mkdir -p "$state/pki.new"
    (
        umask 077
        cd "$state/pki.new"
        certificate ca self "/CN=$cluster-ca" -
        certificate etcd-ca self "/CN=$cluster-etcd-ca" -
        certificate front-proxy-ca self "/CN=$cluster-front-proxy-ca" -
        certificate apiserver ca /CN=kube-apiserver serverAuth \
            "IP:$ip,IP:$(service_ip "$cluster"),IP:127.0.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
        certificate apiserver-kubelet-client ca /CN=kube-apiserver-kubelet-client clientAuth
        certificate front-proxy-client front-proxy-ca /CN=front-proxy-client clientAuth
        certificate etcd etcd-ca /CN=etcd serverAuth,clientAuth IP:127.0.0.1
        certificate apiserver-etcd-client etcd-ca /CN=kube-apiserver clientAuth
        certificate admin ca /O=system:masters/CN=kubernetes-admin clientAuth
        certificate controller-manager ca /CN=system:kube-controller-manager clientAuth
        certificate scheduler ca /CN=system:kube-scheduler clientAuth
        certificate kubelet ca "/O=system:nodes/CN=system:node:$cluster" clientAuth
        certificate kubelet-server ca "/CN=system:node:$cluster" serverAuth "IP:$ip,DNS:$cluster"
        certificate kube-proxy ca /CN=system:kube-proxy clientAuth
        certificate coredns ca /CN=system:coredns clientAuth
        # Signs ServiceAccount tokens.
        openssl ecparam -name prime256v1 -genkey -noout -out sa.key
        openssl ec -in sa.key -pubout -out sa.pub 2>/dev/null
    )
    mv "$state/pki.new" "$state/pki"
}

kubeconfig_for() { # kubeconfig_for CLUSTER USER: on stdout, self-contained
    local cluster=$1 user=$2 pki=$STATE/$1/pki
    cat <<CONFIG
apiVersion: v1
kind: Config
clusters:
- name: $cluster
  cluster:
    server: https://$(cluster_ip "$cluster"):6443
    certificate-authority-data: $(base64 -w0 "$pki/ca.crt")
users:
- name: $cluster-$user
  user:
    client-certificate-data: $(base64 -w0 "$pki/$user.crt")
    client-key-data: $(base64 -w0 "$pki/$user.key")
contexts:
- name: $cluster
  context: {cluster: $cluster, user: $cluster-$user}
current-context: $cluster
CONFIG
}

ensure_kubeconfigs() {
    local cluster=$1 folder=$STATE/$1/kubeconfig user
    mkdir -p "$folder"
    for user in admin controller-manager scheduler kubelet kube-proxy coredns; do
        [ -f "$STATE/$cluster/pki/$user.crt" ] || continue
        (umask 077 && kubeconfig_for "$cluster" "$user" >"$folder/$user.new")
        mv "$folder/$user.new" "$folder/$user"
    done
}
