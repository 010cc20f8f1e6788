#!/usr/bin/env bash
# `make demo`: from a bare Debian 12 machine to a model trained on a real cluster, and the proof that one process
# computes the same bits. May be run again at once; `make demo-down` leaves nothing.
#
# Settings: DEMO_TEXT (a text file; default: the King James Bible from Debian's bible-kjv-text), DEMO_PROMPT.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
source "$here/common.sh"

NAMESPACE=team-a
JOB=kjv-gpt
YAML=$REPO/manifests/examples/kjv-gpt.yaml
WORK=$RUN/demo
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

step "Build: muster, muster-trainer, the trainer's image, Kubernetes"
cd "$REPO"
# The dev profile: numerics and trainer are optimised in it as well, and the rest builds in a third of the time.
cargo build --locked --workspace --bin muster --bin muster-trainer
e2e/localcluster/build.sh >/dev/null
RUN_DIR=$RUN "$here/image.sh" >/dev/null
built=$SECONDS

step "Clusters: a hub and a member, real Kubernetes each in its own network namespace"
make -s clusters
RUN_DIR=$RUN "$here/image.sh" east >/dev/null

step "Operator: hub and agent under their own ServiceAccounts, provider east"
"$here/stack.sh" up
need_clusters

step "Data: text to tokens, into the catalogue of namespace $NAMESPACE"
mkdir -p "$WORK"
text=${DEMO_TEXT:-$WORK/kjv.txt}
if [ -z "${DEMO_TEXT:-}" ]; then
    # -f: one verse a line, no paging.
    bible -f 'Gen1:1-Rev22:21' >"$text"
fi
rm -rf "$WORK/data"
"$MUSTER" data prepare "$text" --out "$WORK/data"
admin hub create namespace "$NAMESPACE" --dry-run=client -o yaml | admin hub apply -f - >/dev/null
"$MUSTER" data import "$NAMESPACE/kjv" "$WORK/data" --store "$STORE"

step "kubectl apply -f manifests/examples/kjv-gpt.yaml"
# A second run starts afresh, it does not show the first one's result.
admin hub delete trainingjob "$JOB" --namespace="$NAMESPACE" --ignore-not-found --timeout=120s >/dev/null
admin hub apply -f "$YAML"
# Not through the function: what is killed below must be kubectl itself.
"$RUN/bin/kubectl" --kubeconfig="$KUBECONFIG_ADMIN" --context=hub get trainingjob "$JOB" --namespace="$NAMESPACE" --watch >&2 &
watch=$!
trap 'kill "$watch" 2>/dev/null || true' EXIT
phase() { admin hub get trainingjob "$JOB" --namespace="$NAMESPACE" -o jsonpath='{.status.phase}'; }
finished() { case $(phase) in Succeeded | Failed) true ;; *) false ;; esac; }
wait_for 1500 "TrainingJob $JOB to finish" finished || true
# The watch's last line.
sleep 1
kill "$watch" 2>/dev/null || true
if [ "$(phase)" != Succeeded ]; then
    admin hub describe trainingjob "$JOB" --namespace="$NAMESPACE" >&2
    die "TrainingJob $JOB is $(phase)"
fi
admin hub describe trainingjob "$JOB" --namespace="$NAMESPACE" | sed -n '/^Events:/,$p' >&2

step "Sample of the trained model"
rm -rf "$WORK/fetched"
"$MUSTER" checkpoint fetch "$NAMESPACE/$JOB" --store "$STORE" --kubeconfig "$KUBECONFIG_ADMIN" --context hub \
    --out "$WORK/fetched"
"$MUSTER" sample "$WORK/fetched" --prompt "$PROMPT"

step "muster local: the same YAML, one process, no Kubernetes"
rm -rf "$WORK/local"
"$MUSTER" local "$YAML" --data "kjv=$WORK/data" --out "$WORK/local" | tee "$WORK/local.txt"

cluster_root=$(admin hub get trainingjob "$JOB" --namespace="$NAMESPACE" -o jsonpath='{.status.result.stateRoot}')
local_root=$(sed -n 's/.*stateRoot \(sha256:[0-9a-f]*\).*/\1/p' "$WORK/local.txt" | tail -n 1)
echo
echo "cluster, 2 pods:         stateRoot $cluster_root"
echo "muster local, 1 process: stateRoot $local_root"
if [ -z "$cluster_root" ] || [ "$cluster_root" != "$local_root" ]; then
    die "the two state roots DIFFER"
fi
echo "EQUAL, bit for bit. After the build it took $((SECONDS - built)) s."
echo "Look around: $here/stack.sh status; remove it all: make demo-down"
