#!/usr/bin/env bash
# Builds the images of trainer and agent and loads them into member clusters that are up:
#   scripts/image.sh [--cheats] [CLUSTER...]     default: every member that is up
# --cheats builds, instead of them, those of a provider that lies when it is told to (MUSTER_CHEAT), for tests: their
# references are left in .run/trainer-cheats-image and .run/agent-cheats-image.
# Prints the trainer's NAME@sha256:DIGEST, alone on stdout, and leaves both in .run/trainer-image and .run/agent-image; the
# archives stay beside them as .tar. The same binary gives the same digest. Other folder: $RUN_DIR. Names: $TRAINER_IMAGE,
# $AGENT_IMAGE. The agent is built as for development unless MUSTER_IMAGE_PROFILE=release, which takes minutes longer.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
source "$here/../e2e/localcluster/lib.sh"
# shellcheck source=/dev/null
source "$LOCALCLUSTER/oci.sh"
run=${RUN_DIR:-$REPO/.run}
target=x86_64-unknown-linux-musl

check_settings
require_root image
command -v buildah >/dev/null || die "buildah is missing" scripts/install-deps.sh
command -v cargo >/dev/null || die "cargo is missing" "scripts/install-deps.sh says how to get it"

# ring's C files build with the host's gcc against musl, except for glibc's
# fortified calls.
export CC_x86_64_unknown_linux_musl=gcc CFLAGS_x86_64_unknown_linux_musl=-U_FORTIFY_SOURCE
cd "$REPO"
profile=${MUSTER_IMAGE_PROFILE:-dev}
suffix='' tag=1 trainer_features=() agent_features=()
if [ "${1:-}" = --cheats ]; then
    shift
    suffix=-cheats tag=cheats
    trainer_features=(--features muster-trainer/cheats) agent_features=(--features muster/cheats)
fi
cargo build --release --target "$target" "${trainer_features[@]}" --package muster-trainer --package muster-sidecar >&2
cargo build --profile "$profile" --target "$target" "${agent_features[@]}" --package muster >&2
built=${CARGO_TARGET_DIR:-target}/$target

mkdir -p "$run"
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
# make_image WHAT NAME DOCKERFILE BINARY...: its reference is left in $run/WHAT-image
make_image() {
    local what=$1 name=$2 dockerfile=$3 folder=$context/$1 binary
    mkdir "$folder"
    for binary in "${@:4}"; do
        # Symbols stay: a panic's backtrace names functions. Line tables are for the machine that built it.
        objcopy --strip-debug "$binary" "$folder/${binary##*/}"
        chmod 755 "$folder/${binary##*/}"
    done
    build_archive "$dockerfile" "$folder" "$name:$tag" "$run/$what-image.tar"
    printf '%s\n' "$name@$(archive_digest "$run/$what-image.tar")" >"$run/$what-image"
}
make_image "trainer$suffix" "${TRAINER_IMAGE:-muster.test/trainer}" trainer-image/Dockerfile \
    "$built/release/muster-trainer" "$built/release/muster-sidecar"
make_image "agent$suffix" "${AGENT_IMAGE:-muster.test/muster}" operator/Dockerfile "$built/${profile/dev/debug}/muster"

members=("$@")
if [ $# = 0 ]; then
    for cluster in "${!CLUSTER_NUMBER[@]}"; do
        ! alive "$cluster" containerd || members+=("$cluster")
    done
fi
((${#members[@]} > 0)) || log "no member is up: built, not loaded"
for cluster in "${members[@]}"; do
    for what in trainer agent; do
        "$LOCALCLUSTER/ctl.sh" load "$cluster" "$run/$what$suffix-image.tar" >/dev/null
    done
    log "loaded into $cluster"
done
cat "$run/trainer$suffix-image"
