#!/usr/bin/env bash
# `make demo`: from a bare Debian 12 machine to a model that two real clusters trained although the first was lost half-way and
# the second lied; to a proof of it that is checked with nothing else at hand; and to one process that computes the same bits.
# May be run again at once; `make demo-down` leaves nothing.
#
# Settings: DEMO_TEXT (a text file; default: the King James Bible from Debian's bible-kjv-text), DEMO_PROMPT.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
source "$here/common.sh"

# As an SRE and two owners would: with Helm.
export MUSTER_INSTALL=helm
NAMESPACE=team-a
JOB=kjv-gpt
WORK=$RUN/demo
YAML=$WORK/job.yaml
PROMPT=${DEMO_PROMPT:-And the LORD said unto }

step() { printf '\n\033[1m==> %s\033[0m\n' "$*" >&2; }

down() {
    "$here/stack.sh" down || true
    rm -rf "$WORK"
    make -s -C "$REPO" clusters-down
}
if [ "${1:-}" = down ]; then
    down
    exit
fi

step "Packages and toolchains that are missing"
"$here/install-deps.sh"
# rustup and Go may be new to this shell.
PATH=$PATH:$HOME/.cargo/bin:/usr/local/go/bin

step "Build: muster, muster-trainer, the trainer's image, that of the liar to come, Kubernetes, Helm"
cd "$REPO"
# The dev profile: numerics and trainer are optimised in it as well, and the rest builds in a third of the time.
cargo build --locked --workspace --bin muster --bin muster-trainer
e2e/localcluster/build.sh >/dev/null
"$here/go-tool.sh" helm >/dev/null
# Before the job begins: it would be done before a fresh machine has compiled this.
RUN_DIR=$RUN "$here/image.sh" --cheats >/dev/null
RUN_DIR=$RUN "$here/image.sh" >/dev/null
built=$SECONDS

step "Clusters: a hub and two members, real Kubernetes each in its own network namespace"
"$here/stack.sh" claim
make -s clusters
RUN_DIR=$RUN "$here/image.sh" >/dev/null

step "Operator, from its charts: hub, gateway and what is beside them; east and west join with single-use tokens"
"$here/stack.sh" up
need_clusters
# Other tests may have let it lie here before, and the log forgets nothing.
standing=$(admin hub get computeprovider east -o jsonpath='{.status.conditions[?(@.type=="Trusted")].reason}')
[ "$standing" != RecentFault ] || die "on this stack east was convicted before, so nobody asks it to replay: make demo-down, then make demo"

step "Data: text to tokens, into the catalogue of namespace $NAMESPACE"
mkdir -p "$WORK"
text=${DEMO_TEXT:-$WORK/kjv.txt}
if [ -z "${DEMO_TEXT:-}" ]; then
    # -f: one verse a line, no paging.
    bible -f 'Gen1:1-Rev22:21' >"$text"
fi
rm -rf "$WORK/data"
"$MUSTER" data prepare "$text" --out "$WORK/data"
"$here/stack.sh" tenant "$NAMESPACE"
export KUBECONFIG=$RUN/tenant-$NAMESPACE.kubeconfig
"$MUSTER" data push "$NAMESPACE/kjv" "$WORK/data" --replace
"$MUSTER" data list --namespace "$NAMESPACE"

step "kubectl apply -f manifests/examples/kjv-gpt.yaml, with tier Gold: others replay what is drawn"
# The liar of the second act must not be asked what others have done.
sed 's/^    tier: .*/    tier: Gold\n    auditors: [east]/' "$REPO/manifests/examples/kjv-gpt.yaml" >"$YAML"
scheduling() { "$MUSTER" provider "$1" west --kubeconfig "$KUBECONFIG_ADMIN" --context hub; }
tenant() { "$RUN/bin/kubectl" --namespace="$NAMESPACE" "$@"; }
# A second run starts afresh, it does not show the first one's result.
tenant delete trainingjob "$JOB" --ignore-not-found --timeout=120s >/dev/null
# East is to be first.
scheduling cordon
tenant apply -f "$YAML"
# Not through the function: what is killed below must be kubectl itself.
"$RUN/bin/kubectl" get trainingjob "$JOB" --namespace="$NAMESPACE" --watch >&2 &
watch=$!
lost='' liar=''
restore() {
    [ -z "$lost" ] || "$here/../e2e/localcluster/ctl.sh" heal "$lost" || true
    [ -z "$liar" ] || "$here/stack.sh" start-agent "$liar" || true
    scheduling uncordon || true
    lost='' liar=''
}
trap 'kill "$watch" 2>/dev/null || true; restore' EXIT
field() { tenant get trainingjob "$JOB" -o jsonpath="{$1}"; }
finished() { case $(field .status.phase) in Succeeded | Failed) true ;; *) false ;; esac; }
# In Settling all steps are made, and only audits are waited for.
trained() { [ "$(field .status.phase)" = Settling ] || finished; }
half_way() {
    local step
    step=$(field .status.checkpoint.step)
    [ "${step:-0}" -ge "$half" ] || trained
}
on_east() { [ "$(field .status.providers)" = east ]; }
wait_for 120 "TrainingJob $JOB to be placed on east" on_east

step "West's owner wants to earn without working: his agent and his trainer are his own now"
RUN_DIR=$RUN "$here/image.sh" --cheats west >/dev/null
liar=west
MUSTER_CHEAT=one-ulp "$here/stack.sh" start-agent west
scheduling uncordon
ready() {
    [ "$(admin hub get computeprovider "$1" -o jsonpath='{.status.conditions[?(@.type=="Ready")].status}')" = True ]
}
wait_for 120 "west to be Ready" ready west

half=$(($(field .spec.training.steps) / 2))
wait_for 1500 "TrainingJob $JOB to be half done" half_way || true
! trained || die "TrainingJob $JOB was done before east could be lost"
lost=east
step "Half done. Now east is lost: its whole cluster is cut off the network"
"$here/../e2e/localcluster/ctl.sh" partition east both
cut=$SECONDS
moved() { finished || { [ "$(field .status.providers)" = west ] && [ "$(field .status.phase)" = Running ]; }; }
wait_for 300 "the job to go on elsewhere" moved
say "after $((SECONDS - cut)) s it trains on west, from the last durable checkpoint; and west lies"
"$here/../e2e/localcluster/ctl.sh" heal east
lost=''
wait_for 180 "east to be back" ready east

step "The first interval of whoever takes over is replayed by another owner, under seal"
faults() { [ -n "$(tenant get audits -o json | jq -r '.items[] | select(.status.verdict == "Fault") | .metadata.name')" ]; }
wait_for 600 "an audit to find the fault" faults
tenant get audits >&2
wait_for 300 "the job to go back to where west began, and on with east" on_east
wait_for 1800 "TrainingJob $JOB to finish" finished || true
# The watch's last line.
sleep 1
kill "$watch" 2>/dev/null || true
restore
if [ "$(field .status.phase)" != Succeeded ]; then
    tenant describe trainingjob "$JOB" >&2
    die "TrainingJob $JOB is $(field .status.phase)"
fi
tenant describe trainingjob "$JOB" | sed -n '/^Events:/,$p' >&2
tenant get audits >&2
admin hub get computeproviders >&2

step "Sample of the trained model"
rm -rf "$WORK/fetched"
"$MUSTER" download "$NAMESPACE/$JOB" --out "$WORK/fetched"
"$MUSTER" sample "$WORK/fetched" --prompt "$PROMPT"

step "muster local: the same YAML, one process, no Kubernetes"
rm -rf "$WORK/local"
"$MUSTER" local "$YAML" --data "kjv=$WORK/data" --out "$WORK/local" | tee "$WORK/local.txt"

step "The proof: a directory, checked with nothing but it and the log's name, as anybody could anywhere"
rm -rf "$WORK/proof" "$WORK/elsewhere"
"$MUSTER" proof bundle "$NAMESPACE/$JOB" --out "$WORK/proof"
mkdir "$WORK/elsewhere"
cp -R "$WORK/proof" "$WORK/elsewhere/bundle"
printf 'log %s\nquorum none\n' "$(cat "$RUN/hub/log.vkey")" >"$WORK/elsewhere/policy"
(cd "$WORK/elsewhere" && env -i "$MUSTER" verify bundle bundle --policy policy)

cluster_root=$(field .status.result.stateRoot)
local_root=$(sed -n 's/.*stateRoot \(sha256:[0-9a-f]*\).*/\1/p' "$WORK/local.txt" | tail -n 1)
echo
echo "two clusters, one lost and one lying: stateRoot $cluster_root"
echo "muster local, one honest process:     stateRoot $local_root"
if [ -z "$cluster_root" ] || [ "$cluster_root" != "$local_root" ]; then
    die "the two state roots DIFFER"
fi
echo "EQUAL, bit for bit. After the build it took $((SECONDS - built)) s."
echo "Look around: $here/stack.sh status; remove it all: make demo-down"
