#!/usr/bin/env bash
# `make test` (short) and `make test-full` (full): everything that needs no cluster, then scenarios on real clusters.
# Ends with every skip by name and one line `N passed, N failed, N skipped`; exits 1 if anything failed. Clusters come
# down at the end, also after a failure; logs stay under .run/logs.
#
# Settings: TEST_KEEP=1 leaves clusters and stack up, for a person who looks for a failure's cause.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SUITE=${1:-short}
# shellcheck source=scripts/common.sh
source "$here/common.sh"
cd "$REPO" || exit 1

passed=0 failed=0
skips=() failures=()
began=$SECONDS

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    failures+=("FAIL $1")
}
# check NAME COMMAND...: one result; the log is kept, its end shown when it fails.
check() {
    local name=$1 log=$LOGS/test-$1.log started=$SECONDS
    shift
    printf '\n=== %s: %s\n' "$name" "$*"
    if "$@" >"$log" 2>&1; then
        echo "ok   $name ($((SECONDS - started)) s)"
        pass
    else
        tail -n 60 "$log"
        echo "FAIL $name ($((SECONDS - started)) s), log $log"
        fail "$name: see $log"
        return 1
    fi
}
# Adds up what a test runner printed: libtest's result lines, ignored tests and `SKIP name: reason` lines by name.
count_cargo() {
    local log=$1 line
    while read -r line; do
        [[ $line =~ ([0-9]+)\ passed\;\ ([0-9]+)\ failed ]] || continue
        passed=$((passed + BASH_REMATCH[1]))
        failed=$((failed + BASH_REMATCH[2]))
    done < <(grep '^test result:' "$log")
    while IFS= read -r line; do skips+=("$line"); done < <(
        grep -E '^SKIP ' "$log"
        sed -nE 's/^test (.*) \.\.\. ignored(, (.*))?$/SKIP \1: \3/p' "$log"
    )
    while IFS= read -r line; do failures+=("FAIL $line"); done < <(sed -nE 's/^test (.*) \.\.\. FAILED$/\1/p' "$log" | sort -u)
}

cargo_tests() {
    local log=$LOGS/test-cargo.log started=$SECONDS before=$failed code=0
    printf '\n=== cargo test --workspace\n'
    # --show-output: what a passing test says, its skips among it.
    cargo test --locked --workspace --no-fail-fast -- --show-output >"$log" 2>&1 || code=$?
    count_cargo "$log"
    # The tests of an API server run with the scenarios below; here they only say that they have none.
    local kept=() skip
    for skip in "${skips[@]}"; do [[ $skip == *apiserver* || $skip == *testkit* ]] || kept+=("$skip"); done
    skips=("${kept[@]}")
    if [ "$code" != 0 ] && [ "$failed" = "$before" ]; then fail "cargo-test: did not run to its end, see $log"; fi
    if [ "$code" != 0 ]; then tail -n 60 "$log"; fi
    echo "cargo test: exit $code ($((SECONDS - started)) s)"
    return "$code"
}

clusters_down() {
    [ "${TEST_KEEP:-}" != 1 ] || return 0
    # What a person would want after a failure, before it goes.
    mkdir -p "$LOGS/clusters"
    cp -r "$CLUSTER_STATE"/*/log "$LOGS/clusters" 2>/dev/null
    "$here/stack.sh" down >>"$LOGS/test-down.log" 2>&1
    make -s clusters-down >>"$LOGS/test-down.log" 2>&1
}
summary() {
    trap - EXIT
    clusters_down
    printf '\n=== %s suite, %s s\n' "$SUITE" "$((SECONDS - began))"
    local line
    for line in "${failures[@]}" "${skips[@]}"; do echo "$line"; done
    echo "$passed passed, $failed failed, ${#skips[@]} skipped"
    # By number: in a trap, a bare `exit` gives the status of what ran before the trap.
    local code=1
    if [ "$failed" = 0 ] && [ "$passed" -gt 0 ]; then code=0; fi
    exit "$code"
}
trap 'fail "interrupted"; summary' INT TERM
trap summary EXIT

scenarios() {
    local log=$LOGS/test-e2e.log code=0 line
    # Tests alone do not leave every program where the scenarios look for it.
    check build cargo build --locked --workspace || return
    if [ "$SUITE" = full ]; then
        # As people install it; the short suite applies what the charts render to.
        check helm "$here/go-tool.sh" helm || return
        export MUSTER_INSTALL=helm
    fi
    check claim "$here/stack.sh" claim || return
    check clusters make -s clusters || return
    check image env RUN_DIR="$RUN" "$here/image.sh" || return
    check stack "$here/stack.sh" up || return
    printf '\n=== muster-e2e run --suite %s\n' "$SUITE"
    "$MUSTER_BIN/muster-e2e" run --root "$REPO" --suite "$SUITE" 2>&1 | tee "$log"
    code=${PIPESTATUS[0]}
    line=$(grep '^e2e: ' "$log" | tail -n 1)
    if [[ $line =~ ([0-9]+)\ passed,\ ([0-9]+)\ failed ]]; then
        passed=$((passed + BASH_REMATCH[1]))
        failed=$((failed + BASH_REMATCH[2]))
        while IFS= read -r line; do skips+=("$line"); done < <(grep '^SKIP ' "$log")
        while IFS= read -r line; do failures+=("$line"); done < <(grep '^FAIL .*: ' "$log" | grep -v ' s): ')
    else
        fail "muster-e2e: exit $code, did not run to its end, see $log"
    fi
}

# The tests that need an S3 server run once more, with one.
s3_tests() {
    local log=$LOGS/test-s3.log started=$SECONDS before=$failed code=0 skip kept=()
    printf '\n=== tests/s3/run.sh\n'
    "$REPO/tests/s3/run.sh" >"$log" 2>&1 || code=$?
    for skip in "${skips[@]}"; do [[ $skip == *MUSTER_TEST_S3* || $skip == *MUSTER_TEST_VERSITYGW* ]] || kept+=("$skip"); done
    skips=("${kept[@]}")
    count_cargo "$log"
    if [ "$code" != 0 ] && [ "$failed" = "$before" ]; then fail "s3: did not run to its end, see $log"; fi
    if [ "$code" != 0 ]; then tail -n 60 "$log"; fi
    echo "tests/s3/run.sh: exit $code ($((SECONDS - started)) s)"
}

# A script of checks, most with other people's tools on what we write; each ends with `N passed, N failed, N skipped`.
interop() {
    local name=$1 script=$2 log=$LOGS/test-$1.log started=$SECONDS code=0 line
    shift 2
    printf '\n=== %s\n' "$script $*"
    "$REPO/$script" "$@" >"$log" 2>&1 || code=$?
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
    if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed ]]; then
        passed=$((passed + BASH_REMATCH[1]))
        failed=$((failed + BASH_REMATCH[2]))
        while IFS= read -r line; do skips+=("$line"); done < <(sed -nE 's/^(SKIP|skip) /SKIP /p' "$log")
        while IFS= read -r line; do failures+=("FAIL $name: $line"); done < <(sed -nE 's/^(FAIL|not ok) //p' "$log")
    else
        fail "$name: did not run to its end, see $log"
    fi
    if [ "$code" != 0 ]; then tail -n 60 "$log"; fi
    echo "$script: exit $code ($((SECONDS - started)) s)"
}

check fmt cargo fmt --all --check
check clippy cargo clippy --locked --workspace --all-targets -- -D warnings
cargo_tests
interop cheats scripts/cheats.sh
interop wasm scripts/wasm.sh "$SUITE"
if [ "$SUITE" = full ]; then
    s3_tests
    interop reference tests/reference/run.sh
    interop aarch64 tests/aarch64/run.sh
    interop avx512 tests/avx512/run.sh
    interop interop-go tests/interop/go/run.sh
    interop interop-sigstore tests/interop/sigstore/run.sh
    interop charts tests/charts/run.sh
    interop kueue tests/kueue/run.sh
fi
scenarios
# Last and without clusters beside it: it builds the numerics some fifty times and says nothing of the rest.
if [ "$SUITE" = full ]; then
    clusters_down
    interop planted tests/planted/run.sh
fi
