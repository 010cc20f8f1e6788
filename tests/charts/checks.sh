# shellcheck shell=bash
# Steps that are counted, and a folder that goes with the clusters at the end. Sourced after clusters.sh, which takes them down.
work=$(mktemp -d)
passed=0 failed=0 skipped=0
finish() {
    trap - EXIT
    [ "${CHARTS_KEEP:-}" = 1 ] || take_down >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

check() { # check WHAT COMMAND...: in a shell of its own that ends at the first failure
    local what=$1 begun=$SECONDS result
    shift
    set +e
    (set -euo pipefail; "$@") >"$work/output" 2>&1
    result=$?
    set -e
    if ((result == 0)); then
        passed=$((passed + 1))
        echo "ok     $what ($((SECONDS - begun)) s)$(sed -n 's/^measured: /: /p' "$work/output")"
    else
        failed=$((failed + 1))
        echo "FAIL $what ($((SECONDS - begun)) s)"
        tail -n 40 "$work/output" | sed 's/^/       /'
    fi
}
skip() {
    skipped=$((skipped + 1))
    echo "SKIP $1: $2"
}

