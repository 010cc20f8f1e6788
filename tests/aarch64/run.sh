#!/usr/bin/env bash
# The numerics on another architecture: built for aarch64, run under qemu-user, the same bits. Ends with
# `N passed, N failed, N skipped`; exits 1 if anything failed.
#
# Emulated CPUs are slow, so what runs is what holds the bits: the vectors of whole steps and of each op, and the unit cases.
set -uo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$repo" || exit 1
# shellcheck source=scripts/common.sh
source scripts/common.sh
target=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
passed=0 failed=0

skip() {
    echo "SKIP aarch64: $1"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}
why=$(install_missing gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user) ||
    skip "$why"
cargo=(cargo)
rustup target list --installed | grep -qx "$target" || cargo=(scripts/rust-web.sh)

# run WHAT CARGO-TEST-ARGUMENTS...
run() {
    local what=$1 code line
    shift
    "${cargo[@]}" test --locked --package muster-numerics --target "$target" "$@" 2>&1 | tee "$LOGS/aarch64.log"
    code=${PIPESTATUS[0]}
    [ "$code" != 3 ] || skip "no standard library for $target"
    while read -r line; do
        [[ $line =~ ([0-9]+)\ passed\;\ ([0-9]+)\ failed ]] || continue
        passed=$((passed + BASH_REMATCH[1]))
        failed=$((failed + BASH_REMATCH[2]))
    done < <(grep '^test result:' "$LOGS/aarch64.log")
    if [ "$code" != 0 ] && [ "$failed" = 0 ]; then
        echo "FAIL aarch64-$what: cargo test ended with $code"
        failed=1
    fi
}
run ops --lib -- ops:: kernel:: isa:: math:: philox::
run steps --test numerics -- conformance::
((passed > 0)) || failed=1
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
