#!/usr/bin/env bash
# Compares the trainer with PyTorch: results, with --bench the speed of steps, with --learn what is learnt, with --large a model of
# more than 1 GiB. See README.md beside it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
venv=${TORCH_VENV:-$repo/.run/venv}
what=${1:-}
case "$what" in
    "" | --bench | --learn | --large) ;;
    *) echo "usage: $0 [--bench|--learn|--large]" >&2; exit 64 ;;
esac

# A venv is complete only once this file is in it: an install that broke off is done again.
if ! cmp -s "$here/requirements.txt" "$venv/muster-requirements.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/muster-requirements.txt"
fi

cd "$repo"
# Nothing is fetched at run time: the models are on this disk.
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
target=${CARGO_TARGET_DIR:-target}/release
if [ "$what" = --bench ]; then
    cargo build --locked --release --package muster-numerics --example throughput
    THROUGHPUT=${THROUGHPUT:-$target/examples/throughput} TORCH=$venv/bin/python exec python3 "$repo/bench/trainer.py"
fi
if [ -z "${TRAINER:-}" ]; then
    cargo build --locked --release --package muster-trainer
    TRAINER=$target/muster-trainer
fi
# In a suite it lies there; alone, what needs it is skipped.
MUSTER=${MUSTER:-${MUSTER_BIN:+$MUSTER_BIN/muster}}
export TRAINER MUSTER
if [ -n "$what" ]; then exec "$venv/bin/python" "$here/${what#--}.py"; fi
"$venv/bin/python" "$here/check.py"
"$venv/bin/python" "$here/models.py"
