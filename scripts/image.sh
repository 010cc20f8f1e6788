#!/usr/bin/env bash
# Builds the trainer's image and loads it into member clusters that are up:
#   scripts/image.sh [CLUSTER...]     default: every member that is up
# Prints NAME@sha256:DIGEST, alone on stdout, and leaves it in
# .run/trainer-image; the archive stays in .run/trainer-image.tar. The same
# binaries give the same digest. NAME: $TRAINER_IMAGE. Other folder: $RUN_DIR.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
source "$here/../e2e/localcluster/lib.sh"
# shellcheck source=/dev/null
source "$LOCALCLUSTER/oci.sh"
run=${RUN_DIR:-$REPO/.run}
name=${TRAINER_IMAGE:-muster.test/trainer}
target=x86_64-unknown-linux-musl

check_settings
require_root image
command -v buildah >/dev/null || die "buildah is missing" scripts/install-deps.sh
command -v cargo >/dev/null || die "cargo is missing" "scripts/install-deps.sh says how to get it"

# ring's C files build with the host's gcc against musl, except for glibc's
# fortified calls.
export CC_x86_64_unknown_linux_musl=gcc CFLAGS_x86_64_unknown_linux_musl=-U_FORTIFY_SOURCE
cd "$REPO"
cargo build --release --target "$target" --package muster-trainer --package muster-sidecar >&2
binaries=${CARGO_TARGET_DIR:-target}/$target/release

mkdir -p "$run"
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
install -m 755 "$binaries/muster-trainer" "$binaries/muster-sidecar" "$context"
build_archive trainer-image/Dockerfile "$context" "$name:1" "$run/trainer-image.tar"
reference=$name@$(archive_digest "$run/trainer-image.tar")

members=("$@")
if [ $# = 0 ]; then
    for cluster in "${!CLUSTER_NUMBER[@]}"; do
        ! alive "$cluster" containerd || members+=("$cluster")
    done
fi
((${#members[@]} > 0)) || log "no member is up: built, not loaded"
for cluster in "${members[@]}"; do
    "$LOCALCLUSTER/ctl.sh" load "$cluster" "$run/trainer-image.tar" >/dev/null
    log "loaded into $cluster"
done
printf '%s\n' "$reference" | tee "$run/trainer-image"
