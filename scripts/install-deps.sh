#!/usr/bin/env bash
# Installs what building, testing and the local clusters need on a bare
# Debian 12, and says what to do about the two toolchains Debian is too old for.
# Quiet and without effect when nothing is missing.
set -euo pipefail

packages=(
    # building
    ca-certificates curl gcc git jq libc6-dev make openssl
    # the clusters of e2e/localcluster
    conntrack containerd containernetworking-plugins iproute2 iptables kmod nftables procps runc socat util-linux
    # the trainer image
    buildah
    # the text that the examples train on
    bible-kjv bible-kjv-text
)

missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || true
    [ "$status" = installed ] || missing+=("$package")
done

if ((${#missing[@]} > 0)); then
    echo "installing: ${missing[*]}" >&2
    as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || {
            echo "error: installing packages needs root: run as root: apt-get install ${missing[*]}" >&2
            exit 1
        }
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -q >&2
    # containerd's own service would be a second one beside those of the
    # clusters; a policy of "not now" keeps packages from starting services.
    policy=/usr/sbin/policy-rc.d
    made_policy=0
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
        made_policy=1
    fi
    done_well=0
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${missing[@]}" >&2 && done_well=1
    ((made_policy == 0)) || "${as_root[@]}" rm -f "$policy"
    ((done_well)) || {
        echo "error: apt-get could not install: ${missing[*]}" >&2
        exit 1
    }
fi

failed=0
# Debian 12's Go is 1.19; Kubernetes 1.34 wants 1.24. A Go of 1.21 or newer
# fetches a newer toolchain itself unless GOTOOLCHAIN=local forbids it.
go_version=$(go env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p') || true
if [ -z "$go_version" ]; then
    echo "missing: Go >= 1.24 (for the local clusters): https://go.dev/doc/install, or" >&2
    echo "  apt-get install -t bookworm-backports golang-go" >&2
    failed=1
elif ((go_version < 24)) && { ((go_version < 21)) || [ "$(go env GOTOOLCHAIN)" = local ]; }; then
    echo "too old: Go 1.$go_version; the local clusters want 1.24: https://go.dev/doc/install" >&2
    failed=1
fi
if ! command -v rustup >/dev/null && [ ! -x "${CARGO_HOME:-$HOME/.cargo}/bin/rustup" ]; then
    echo "missing: rustup (rust-toolchain.toml names the version it fetches): https://rustup.rs" >&2
    failed=1
else
    # rustup adds a target that the toolchain file names only when it installs the toolchain, not to one that is there.
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    for target in $(sed -n 's/^targets = \[\(.*\)\]/\1/p' rust-toolchain.toml | tr -d '",'); do
        rustup target list --installed | grep -qx "$target" || rustup target add "$target" >&2 || {
            echo "error: rustup could not add the target $target" >&2
            failed=1
        }
    done
fi
exit "$failed"
