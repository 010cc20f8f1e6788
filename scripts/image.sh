#!/usr/bin/env bash
# Builds the images of trainer and of `muster` (agent, hub and what is beside it) and loads them into clusters that are up:
#   scripts/image.sh [--cheats] [CLUSTER...]     default: every cluster that is up
# --cheats builds, instead of them, those of a provider that lies when it is told to (MUSTER_CHEAT), for tests: their
# references are left in .run/trainer-cheats-image and .run/agent-cheats-image.
# Prints the trainer's NAME@sha256:DIGEST, alone on stdout, and leaves both in .run/trainer-image and .run/agent-image; the
# archives stay beside them as .tar. The same binary gives the same digest. Other folder: $RUN_DIR. Names: $TRAINER_IMAGE,
# $AGENT_IMAGE. `muster` is the workspace's own development build with the C library that it is linked to, which a second build of
# everything for a static one (MUSTER_IMAGE_PROFILE=release) would take ten minutes more for.
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
built=${CARGO_TARGET_DIR:-target}/$target
if [ "$profile" = dev ] && [ -z "$suffix" ]; then
    # As everything else is built here: nothing is built twice.
    cargo build --locked --workspace --bin muster >&2
    agent=${CARGO_TARGET_DIR:-target}/debug/muster
else
    cargo build --profile "$profile" --target "$target" "${agent_features[@]}" --package muster >&2
    agent=$built/${profile/dev/debug}/muster
fi

mkdir -p "$run"
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
# make_image WHAT NAME DOCKERFILE BINARY...: from a root filesystem of these; its reference is left in $run/WHAT-image
make_image() {
    local what=$1 name=$2 dockerfile=$3 root=$context/$1 folder=$context/$1/usr/bin binary library
    mkdir -p "$folder"
    for binary in "${@:4}"; do
        # Symbols stay: a panic's backtrace names functions. Line tables are for the machine that built it.
        objcopy --strip-debug "$binary" "$folder/${binary##*/}"
        chmod 755 "$folder/${binary##*/}"
        # What is linked statically has none.
        for library in $(ldd "$binary" 2>/dev/null | grep -o '/[^ ]*' || true); do
            install -D -m 755 "$library" "$root$library"
        done
    done
    build_archive "$dockerfile" "$root" "$name:$tag" "$run/$what-image.tar"
    printf '%s\n' "$name@$(archive_digest "$run/$what-image.tar")" >"$run/$what-image"
}
make_image "trainer$suffix" "${TRAINER_IMAGE:-muster.test/trainer}" trainer-image/Dockerfile \
    "$built/release/muster-trainer" "$built/release/muster-sidecar"
make_image "agent$suffix" "${AGENT_IMAGE:-muster.test/muster}" operator/Dockerfile "$agent" \
    "$built/release/muster-trainer"

clusters=("$@")
if [ $# = 0 ]; then
    for cluster in "${!CLUSTER_NUMBER[@]}"; do
        ! alive "$cluster" containerd || clusters+=("$cluster")
    done
fi
((${#clusters[@]} > 0)) || log "no cluster is up: built, not loaded"
for cluster in "${clusters[@]}"; do
    for what in trainer agent; do
        "$LOCALCLUSTER/ctl.sh" load "$cluster" "$run/$what$suffix-image.tar" >/dev/null
    done
    log "loaded into $cluster"
done
cat "$run/trainer$suffix-image"
