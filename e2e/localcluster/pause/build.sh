#!/usr/bin/env bash
# Builds the pause image once per content and prints the path of its archive.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=/dev/null
source "$here/../lib.sh"
# shellcheck source=/dev/null
source "$here/../oci.sh"

hash=$(cat "$here/pause.c" "$here/Dockerfile" "$here/../oci.sh" | sha256sum | cut -c1-16)
archive=$CACHE/pause/$hash/pause.tar
if [ ! -f "$archive" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    gcc -Os -static -s -o "$work/pause" "$here/pause.c"
    mkdir -p "${archive%/*}"
    build_archive "$here/Dockerfile" "$work" "$PAUSE_IMAGE" "$archive"
fi
printf '%s\n' "$archive"
