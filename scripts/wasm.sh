#!/usr/bin/env bash
# The proof crate for wasm32, as a page in a browser would check a bundle: it must need no randomness, no clock and no system.
# `wasm.sh full` builds the standard library too where rustup has none for the target. Ends with `N passed, N failed, N skipped`; exits 1 if anything failed.
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

cargo=(cargo)
if ! rustup target list --installed | grep -qx "$target"; then
    cargo=()
    [ "${1:-}" != full ] || cargo=(scripts/rust-web.sh)
fi
code=3
[ ${#cargo[@]} = 0 ] || { "${cargo[@]}" build --locked --package muster-proof --target "$target" && code=0 || code=$?; }
case $code in
    0) ok wasm-build ;;
    3)
        echo "SKIP wasm-build: no standard library for $target; \`rustup target add $target\`, or \`scripts/wasm.sh full\`"
        skipped=1
        ;;
    *) not_ok "wasm-build: muster-proof does not compile for $target" ;;
esac
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
