#!/usr/bin/env bash
# Builds a tool of other people from Go modules, once per version, and prints its path: go-tool.sh helm | versitygw | kueue | jobset |
# trainer
# With --module behind it: the folder of its module, for what lies beside its source (charts).
# The binary lives outside the checkout, so a fresh clone or another worktree on the same machine finds it.
set -euo pipefail
tool=${1:-}
case $tool in
helm) package=helm.sh/helm/v3/cmd/helm version=v3.22.0 minutes=6 ;;
kueue) package=sigs.k8s.io/kueue/cmd/kueue version=v0.19.2 minutes=10 ;;
jobset) package=sigs.k8s.io/jobset version=v0.12.0 minutes=5 ;;
trainer) package=github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager version=v2.3.0 minutes=6 ;;
versitygw) package=github.com/versity/versitygw/cmd/versitygw version=v1.8.0 minutes=4 ;;
*)
    sed -n '2,5p' "$0" >&2
    exit 64
    ;;
esac
PATH=$PATH:/usr/local/go/bin
module=${package%%/cmd/*}
folder() { go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }
if [ "${2:-}" = --module ]; then
    folder
    exit
fi
cache=${MUSTER_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/muster}/$tool
binary=$cache/$version/$tool

if [ ! -x "$binary" ]; then
    if ! command -v go >/dev/null; then
        echo "go-tool.sh: go is missing: scripts/install-deps.sh says how to get Go >= 1.24" >&2
        exit 1
    fi
    echo "building $tool $version from Go modules: about $minutes minutes on 2 cores, once" >&2
    mkdir -p "$cache/$version"
    # One build at a time; whoever waited finds the binary there.
    exec 9>"$cache/lock"
    flock 9
    if [ ! -x "$binary" ]; then
        started=$SECONDS
        # The module proxy's checksum database vouches for the source: a version never changes.
        # Not `go install`: that asks for the module's newest version, too, which a proxy may keep to itself.
        (cd "$(folder)" && CGO_ENABLED=0 go build -trimpath -o "$binary.new" ".${package#"$module"}") >&2
        mv "$binary.new" "$binary"
        echo "built $binary in $((SECONDS - started)) s" >&2
    fi
fi
printf '%s\n' "$binary"
