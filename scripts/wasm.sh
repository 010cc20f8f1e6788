#!/usr/bin/env bash
# The proof crate for wasm32, as a page in a browser would check a bundle: it must need no randomness, no clock and no system.
# Ends with `N passed, N failed, N skipped`; exits 1 if anything failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
target=wasm32-unknown-unknown
passed=0 failed=0 skipped=0
ok() {
    echo "ok $1"
    passed=$((passed + 1))
}
not_ok() {
    echo "not ok $1"
    failed=$((failed + 1))
}

# What asks the system, and is none of what a proof needs.
if ! tree=$(cargo tree --locked --package muster-proof --target "$target" --edges normal --prefix none); then
    not_ok "wasm-tree: cargo tree failed"
elif asks=$(grep -E '^(getrandom|js-sys|wasm-bindgen|tokio|kube|libc) ' <<<"$tree"); then
    not_ok "wasm-tree: muster-proof would need $(sort -u <<<"$asks" | paste -sd, -)"
else
    ok wasm-tree
fi

if ! rustup target list --installed | grep -qx "$target"; then
    echo "SKIP wasm-build: no standard library for $target; \`rustup target add $target\` fetches it"
    skipped=1
elif cargo build --locked --package muster-proof --target "$target"; then
    ok wasm-build
else
    not_ok "wasm-build: muster-proof does not compile for $target"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
