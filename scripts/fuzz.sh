#!/usr/bin/env bash
# `make fuzz`: searches for inputs that make a reader of strangers' bytes panic, hang or eat memory, with libFuzzer and the
# compiler's own coverage instrumentation (no nightly, no cargo-fuzz). Ends with `N passed, N failed, N skipped`.
#
# Settings: FUZZ_SECONDS (for each target, default 60), FUZZ_TARGETS (default: all).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
source "$here/common.sh"
cd "$REPO"

sancov=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg=fuzzing
    -Cdebug-assertions -Coverflow-checks)
# A target directory of its own: the flags reach every crate. With --target, build scripts are left alone.
RUSTFLAGS="${sancov[*]}" cargo build --locked --release --package muster-fuzz --features libfuzzer --bin muster-fuzz \
    --target x86_64-unknown-linux-gnu --target-dir "$TARGET/fuzz"
program=$TARGET/fuzz/x86_64-unknown-linux-gnu/release/muster-fuzz
targets=${FUZZ_TARGETS:-$(sed -n 's/.*Target { name: "\([a-z-]*\)".*/\1/p' fuzz/src/*.rs)}

passed=0 failed=0
for target in $targets; do
    # What was found grows over runs; seeds in the tree come first.
    corpus=$RUN/fuzz/$target
    mkdir -p "$corpus" "$RUN/fuzz/crashes"
    log=$LOGS/fuzz-$target.log
    if MUSTER_FUZZ_TARGET=$target "$program" -max_total_time="${FUZZ_SECONDS:-60}" -timeout=5 -rss_limit_mb=2048 \
        -max_len=65536 -print_final_stats=1 -artifact_prefix="$RUN/fuzz/crashes/$target-" \
        "$corpus" $([ ! -d "fuzz/seeds/$target" ] || echo "fuzz/seeds/$target") >"$log" 2>&1; then
        passed=$((passed + 1))
        echo "ok     $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, $(find "$corpus" -type f | wc -l) kept"
    else
        failed=$((failed + 1))
        tail -n 30 "$log"
        echo "FAILED $target: the input is in $RUN/fuzz/crashes, the log is $log"
    fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
