#!/usr/bin/env bash
# Compares the trainer with PyTorch: tests/torch/run.sh [--bench]. See README.md beside it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
venv=${TORCH_VENV:-$repo/.run/venv}
bench=
case "${1:-}" in
    "") ;;
    --bench) bench=1 ;;
    *) echo "usage: $0 [--bench]" >&2; exit 64 ;;
esac

# A venv is complete only once this file is in it: an install that broke off is done again.
if ! cmp -s "$here/requirements.txt" "$venv/muster-requirements.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/muster-requirements.txt"
fi

cd "$repo"
if [ -z "${TRAINER:-}" ]; then
    cargo build --locked --release --package muster-trainer
    TRAINER=${CARGO_TARGET_DIR:-target}/release/muster-trainer
fi
export TRAINER
# In a suite it lies there; alone, what needs it is skipped.
MUSTER=${MUSTER:-${MUSTER_BIN:+$MUSTER_BIN/muster}}
export MUSTER
# Nothing is fetched at run time: the models are on this disk.
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
"$venv/bin/python" "$here/check.py"
"$venv/bin/python" "$here/models.py"
if [ -n "$bench" ]; then
    "$venv/bin/python" "$repo/bench/trainer_m1.py"
fi
