#!/usr/bin/env bash
# Compares the trainer with a second implementation in NumPy: tests/reference/run.sh. See README.md beside it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
venv=${REFERENCE_VENV:-$repo/.run/venv-reference}

# A venv is complete only once this file is in it: an install that broke off is done again.
if ! cmp -s "$here/requirements.txt" "$venv/muster-requirements.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/muster-requirements.txt"
fi
cd "$repo"
if [ -z "${TRAINER:-}" ]; then
    cargo build --locked --package muster-trainer
    TRAINER=${CARGO_TARGET_DIR:-target}/debug/muster-trainer
fi
export TRAINER
exec "$venv/bin/python" "$here/check.py"
