#!/usr/bin/env bash
# Lets tools that others wrote verify what we sign: tests/interop/sigstore/run.sh. See README.md beside it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../../.." && pwd)
venv=${INTEROP_SIGSTORE_VENV:-$repo/.run/venv-sigstore}
node=${INTEROP_SIGSTORE_NODE:-$repo/.run/node-sigstore}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cd "$repo"
if [ -z "${INTEROP_SIGSTORE:-}" ]; then
    cargo build --locked --package muster-proof --example interop_sigstore
    INTEROP_SIGSTORE=${CARGO_TARGET_DIR:-target}/debug/examples/interop_sigstore
fi
"$INTEROP_SIGSTORE" "$scratch/made"
: >"$scratch/results"

# A checker's lines, and one more if it ended early: half a run must not look like a short one.
check() {
    local name=$1
    shift
    if "$@" >"$scratch/lines" 2>"$scratch/errors"; then :; elif ! grep -q '^not ok' "$scratch/lines"; then
        echo "not ok $name: ended early: $(tail -n 3 "$scratch/errors" | tr '\n' ' ')" >>"$scratch/lines"
    fi
    tee -a "$scratch/results" <"$scratch/lines"
}

skip() {
    echo "skip $1" | tee -a "$scratch/results"
}

# A folder of packages is complete only once the list it was made from is in it: an install that broke off is done again.
if command -v python3 >/dev/null; then
    if ! cmp -s "$here/requirements.txt" "$venv/muster-requirements.txt"; then
        python3 -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --requirement "$here/requirements.txt"
        cp "$here/requirements.txt" "$venv/muster-requirements.txt"
    fi
    check model_signing "$venv/bin/python" "$here/check.py" "$scratch/made"
else
    skip "model_signing: python3 is not installed"
fi

if command -v node >/dev/null && command -v npm >/dev/null; then
    if ! cmp -s "$here/package-lock.json" "$node/muster-package-lock.json"; then
        mkdir -p "$node"
        cp "$here/package.json" "$here/package-lock.json" "$node/"
        npm ci --prefix "$node" --ignore-scripts --no-audit --no-fund --loglevel error
        cp "$here/package-lock.json" "$node/muster-package-lock.json"
    fi
    check sigstore-js node "$here/check.cjs" "$scratch/made" "$node"
else
    skip "sigstore-js: node and npm are not installed"
fi

passed=$(grep -c '^ok ' "$scratch/results" || true)
failed=$(grep -c '^not ok ' "$scratch/results" || true)
skipped=$(grep -c '^skip ' "$scratch/results" || true)
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
