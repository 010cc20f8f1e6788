# shellcheck shell=bash
# The network of an instance: one bridge in the root namespace, and per cluster
# a network namespace with a veth to it. Nothing in the root namespace routes or
# filters: pods leave their cluster under its node's address, so neither
# ip_forward nor a firewall rule is needed outside the namespaces.

# Namespaces are pinned to files below $RUNTIME/ns rather than by `ip netns`,
# which leaves a mount on /run/netns behind. The folder is a private mount,
# because a mount namespace cannot be pinned on a shared one.
ensure_pins() {
    mkdir -p "$RUNTIME/ns"
    if ! mountpoint -q "$RUNTIME/ns"; then
        mount --bind "$RUNTIME/ns" "$RUNTIME/ns"
        mount --make-private "$RUNTIME/ns"
    fi
}

# From the address, locally administered. With the same MAC every time, neighbours
# need not notice that a link was made anew; a bridge left to itself takes the
# lowest MAC of its ports, and so changes it with each cluster that comes or goes.
mac_of() {
    # shellcheck disable=SC2046
    printf '02:4d:%02x:%02x:%02x:%02x' $(tr . ' ' <<<"$1")
}

ensure_bridge() {
    local route kind
    if ip link show "$BRIDGE" >/dev/null 2>&1; then
        kind=$(ip -j -d link show "$BRIDGE" | jq -r '.[0].linkinfo.info_kind // "physical"')
        [ "$kind" = bridge ] || die "the link $BRIDGE exists and is a $kind link, not our bridge" \
            "remove it, or choose another name with CLUSTER_INSTANCE"
    else
        # Two networks with one address range would answer for each other.
        route=$(ip -j route show to match "$GATEWAY" | jq -r '[.[] | select(.dst != "default") | .dev] | first // ""')
        [ -z "$route" ] || die "$CLUSTER_SUBNET.0/24 is in use on this machine by $route" \
            "another instance? CLUSTER_INSTANCE=NAME make clusters-down removes it" \
            "or choose another range: CLUSTER_SUBNET=10.87.0 make clusters"
        ip link add "$BRIDGE" address "$(mac_of "$GATEWAY")" type bridge || die "this kernel has no bridge support (CONFIG_BRIDGE)"
    fi
    ip -4 addr show dev "$BRIDGE" | grep -q "inet $GATEWAY/24" || ip addr add "$GATEWAY/24" dev "$BRIDGE"
    ip link set "$BRIDGE" up
}

ensure_network() {
    local cluster=$1 pin=$RUNTIME/ns/$1.net veth=$BRIDGE-$1
    if ! mountpoint -q "$pin"; then
        touch "$pin"
        unshare --net="$pin" true || die "cannot make a network namespace" \
            "run as root of the machine, or in a container with --privileged"
    fi
    in_cluster "$cluster" ip link set lo up
    # One end without the other happens when a namespace was lost: start over.
    if ! in_cluster "$cluster" ip link show eth0 >/dev/null 2>&1; then
        ip link del "$veth" 2>/dev/null || true
        ip link add "$veth" type veth peer name eth0 address "$(mac_of "$(cluster_ip "$cluster")")" netns "$pin" ||
            die "this kernel has no veth support (CONFIG_VETH)"
    fi
    ip link set "$veth" master "$BRIDGE" up
    in_cluster "$cluster" ip addr replace "$(cluster_ip "$cluster")/24" dev eth0
    in_cluster "$cluster" ip link set eth0 up
    in_cluster "$cluster" ip route replace default via "$GATEWAY"
    # Namespaced: the root namespace keeps its value.
    in_cluster "$cluster" sysctl -qw net.ipv4.ip_forward=1
}

# Silent loss, as a cut cable between routers gives: rules in the cluster's own
# namespace, so they cannot outlive it. Loopback and pod-to-pod traffic go on.
partition() { # partition CLUSTER in|out|both
    heal "$1"
    in_cluster "$1" nft -f - <<RULES
table inet muster_partition {
    chain arriving {
        type filter hook prerouting priority raw; policy accept;
        $([ "$2" = out ] || echo 'iifname "eth0" drop')
    }
    chain leaving {
        type filter hook postrouting priority raw; policy accept;
        $([ "$2" = in ] || echo 'oifname "eth0" drop')
    }
}
RULES
}
heal() {
    in_cluster "$1" nft delete table inet muster_partition 2>/dev/null || true
}
