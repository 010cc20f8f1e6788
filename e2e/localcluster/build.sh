#!/usr/bin/env bash
# Builds kubebox (see kubebox/main.go) once per content and prints its path.
#
# The binary lives outside the checkout, under the hash of everything that goes
# into it, so a fresh clone or another worktree on the same machine finds it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$here/kubebox
cache=${MUSTER_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/muster}/kubebox

# The version that clients are shown: without it the API server says v0.0.0,
# and kubectl and the charts refuse to talk to it.
kubernetes=$(sed -n 's/^\tk8s\.io\/kubernetes v\(1\.[0-9.]*\)$/\1/p' "$source/go.mod")
minor=${kubernetes#1.}
minor=${minor%%.*}
ldflags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    ldflags+=" -X $package.gitVersion=v$kubernetes -X $package.gitMajor=1 -X $package.gitMinor=$minor"
    ldflags+=" -X $package.gitTreeState=clean"
done

hash=$({
    sha256sum <"$source/main.go"
    sha256sum <"$source/go.mod"
    sha256sum <"$source/go.sum"
    printf '%s %s\n' "$(uname -m)" "$ldflags"
} | sha256sum | cut -c1-16)
binary=$cache/$hash/kubebox

if [ ! -x "$binary" ]; then
    if ! command -v go >/dev/null; then
        echo "build.sh: go is missing: scripts/install-deps.sh says how to get Go >= 1.24" >&2
        exit 1
    fi
    echo "building Kubernetes v$kubernetes from Go modules: about 8 minutes on 2 cores, once" >&2
    mkdir -p "$cache/$hash"
    # One build at a time; whoever waited finds the binary there.
    exec 9>"$cache/lock"
    flock 9
    if [ ! -x "$binary" ]; then
        started=$SECONDS
        cd "$source"
        CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -buildvcs=false \
            -ldflags "$ldflags" -o "$binary.new" . >&2
        mv "$binary.new" "$binary"
        echo "built $binary in $((SECONDS - started)) s" >&2
    fi
fi
printf '%s\n' "$binary"
