#!/usr/bin/env bash
# The store against a real S3 server: tests/s3/run.sh. Builds versitygw once (scripts/go-tool.sh), starts it on loopback over a temporary
# directory for the test of any bucket, and names its program to the tests that start, stop and kill one of their own.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
MUSTER_TEST_VERSITYGW=$(scripts/go-tool.sh versitygw)
export MUSTER_TEST_VERSITYGW

scratch=$(mktemp -d)
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    rm -rf "$scratch"
}
trap finish EXIT
mkdir -p "$scratch/data/muster-test" "$scratch/meta"
# A port that was free a moment ago: the server takes no port 0.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test-secret AWS_REGION=us-east-1
"$MUSTER_TEST_VERSITYGW" --access "$AWS_ACCESS_KEY_ID" --secret "$AWS_SECRET_ACCESS_KEY" --quiet \
    --port "127.0.0.1:$port" posix --sidecar "$scratch/meta" "$scratch/data" >"$scratch/log" 2>&1 &
server=$!
for _ in $(seq 100); do
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    kill -0 "$server" 2>/dev/null || { cat "$scratch/log" >&2; echo "versitygw did not start" >&2; exit 1; }
    sleep 0.1
done

export MUSTER_TEST_S3=s3://muster-test/run AWS_ENDPOINT=http://127.0.0.1:$port AWS_ALLOW_HTTP=true
cargo test --locked --workspace --lib -- --show-output store:: units::
