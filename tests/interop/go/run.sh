#!/usr/bin/env bash
# The log against Go's golang.org/x/mod/sumdb: tests/interop/go/run.sh. A Rust example writes a log of 70,000 entries, the Go
# program beside this file reads and checks it. Prints `ok NAME` lines and ends with `N passed, N failed, N skipped`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if ! command -v go >/dev/null; then
    echo "SKIP tests/interop/go: go is missing; scripts/install-deps.sh says how to get it"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# The module proxy's checksum database vouches for the source: a version never changes.
(cd "$here" && CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -buildvcs=false -o "$scratch/interop" .) >&2
cargo run --quiet --locked --manifest-path "$here/../../../Cargo.toml" -p muster-proof --example interop_tlog -- "$scratch/log" >&2
"$scratch/interop" "$scratch/log"
