#!/usr/bin/env bash
# Everybody who may lie does, without a cluster: real trainers with lies in them, the log, the hub's plan; agents with lies in
# them, a gateway, its log. Then the trainers' tests with a fold that does not look closely, which must fail: tests that pass
# whatever the code does show nothing. Ends with `N passed, N failed, N skipped`.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
source "$here/common.sh"
cd "$REPO" || exit 1
# Of the whole workspace, as everything else is built: a package by itself has its dependencies with other features, all anew.
cheats=(cargo test --locked --workspace --no-fail-fast --features muster-trainer/cheats,muster/cheats)
passed=0 failed=0
result() { # result NAME CODE
    if [ "$2" = 0 ]; then
        passed=$((passed + 1))
        echo "ok   $1"
    else
        failed=$((failed + 1))
        echo "FAIL $1"
    fi
}
honest() { [ -x "$1" ] && ! grep -qa MUSTER_CHEAT "$1"; }

# All tests of a run, each of which counts.
all_of() { # all_of NAME COMMAND...
    local name=$1 log=$LOGS/$1.log code line ran=0
    "${@:2}" >"$log" 2>&1
    code=$?
    while read -r line; do
        [[ $line =~ ([0-9]+)\ passed\;\ ([0-9]+)\ failed ]] || continue
        passed=$((passed + BASH_REMATCH[1]))
        failed=$((failed + BASH_REMATCH[2]))
        ran=$((ran + BASH_REMATCH[1] + BASH_REMATCH[2]))
    done < <(grep '^test result:' "$log")
    # A filter that fits no test would pass.
    [ "$ran" -gt 0 ] || result "$name: did not run to its end, see $log" 1
    [ "$code" = 0 ] || tail -n 40 "$log"
}

all_of cheats "${cheats[@]}" --test cheats
all_of cheats-agent "${cheats[@]}" --lib agent::cheat::

log=$LOGS/cheats-weak.log
"${cheats[@]}",muster-trainer/weak-verifier --test cheats >"$log" 2>&1
# Those that must notice; a build that does not compile is not a test that fails.
for test in each_lie_is_a_fault_and_the_job_ends_with_the_right_bits a_false_failure_is_a_fault_and_the_job_goes_on a_copied_state_has_no_records both_parties_lie; do
    grep -qE "^test .*::$test \.\.\. FAILED$" "$log"
    result "a weak verifier fails $test" $?
done
for test in an_honest_run_matches the_first_commit_of_an_interval_stands; do
    grep -qE "^test .*::$test \.\.\. ok$" "$log"
    result "a weak verifier passes $test" $?
done

# The last build of a name is the one that lies there: without lies from here on.
cargo build --quiet --locked --workspace
for program in muster muster-trainer muster-sidecar; do
    honest "$MUSTER_BIN/$program"
    result "the usual $program has no lies in it" $?
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
