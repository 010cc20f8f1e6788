#!/usr/bin/env bash
# Builds versitygw, an S3 server over a directory, once per version and prints its path. The binary lives outside the
# checkout, so a fresh clone or another worktree on the same machine finds it.
set -euo pipefail
module=github.com/versity/versitygw
version=v1.8.0
cache=${MUSTER_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/muster}/versitygw
binary=$cache/$version/versitygw

if [ ! -x "$binary" ]; then
    if ! command -v go >/dev/null; then
        echo "build.sh: go is missing: scripts/install-deps.sh says how to get Go >= 1.24" >&2
        exit 1
    fi
    echo "building versitygw $version from Go modules: about 4 minutes on 2 cores, once" >&2
    mkdir -p "$cache/$version"
    # One build at a time; whoever waited finds the binary there.
    exec 9>"$cache/lock"
    flock 9
    if [ ! -x "$binary" ]; then
        started=$SECONDS
        # The module proxy's checksum database vouches for the source: a version never changes.
        GOBIN=$cache/$version/new CGO_ENABLED=0 go install -trimpath "$module/cmd/versitygw@$version" >&2
        mv "$cache/$version/new/versitygw" "$binary"
        rmdir "$cache/$version/new"
        echo "built $binary in $((SECONDS - started)) s" >&2
    fi
fi
printf '%s\n' "$binary"
