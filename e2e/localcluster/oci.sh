# shellcheck shell=bash
# Container images without a daemon or a registry: a Dockerfile becomes an OCI
# archive, which ../../scripts/image.sh and pause/build.sh load into containerd.

# build_archive DOCKERFILE CONTEXT NAME:TAG ARCHIVE
# The same files give the same digest: no timestamps, nothing of the host.
# buildah works on copies below a folder of its own, removed afterwards, and
# sees that as /var/lib, where it keeps a cache whatever --root says. Its own
# configuration keeps it from making /etc/cni/net.d.
build_archive() {
    local dockerfile=$1 context=$2 name=$3 archive=$4 work
    work=$(mktemp -d)
    mkdir "$work/lib"
    cp -R "$context" "$work/context"
    cp "$dockerfile" "$work/Dockerfile"
    printf '[network]\nnetwork_config_dir = "%s/cni"\n' "$work" >"$work/containers.conf"
    # shellcheck disable=SC2016
    HOME=$work CONTAINERS_CONF=$work/containers.conf unshare --mount --propagation private bash -euc '
        cd "$1"
        mount --bind lib /var/lib
        store=(--root "$1/root" --runroot "$1/run" --storage-driver vfs)
        id=$(buildah "${store[@]}" build --quiet --isolation chroot --timestamp 0 --layers=false \
            --file Dockerfile --tag "$2" context)
        buildah "${store[@]}" push --quiet "$id" "oci-archive:$1/archive:$2"
    ' build "$work" "$name" >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        rm -rf "$work"
        log "error: buildah could not build $name from $dockerfile"
        return 1
    }
    mv "$work/archive" "$archive.new"
    mv "$archive.new" "$archive"
    rm -rf "$work"
}

archive_index() { tar -xOf "$1" index.json; }
archive_digest() { archive_index "$1" | jq -er '.manifests[0].digest'; }
archive_name() { # NAME:TAG
    archive_index "$1" | jq -er '.manifests[0].annotations["org.opencontainers.image.ref.name"]'
}
