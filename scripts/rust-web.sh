#!/usr/bin/env bash
# scripts/rust-web.sh ARGS...: cargo ARGS for a target whose standard library is not installed, the library built from source.
#
# Debian ships its browsers' compiler, rustc-web, with that compiler's source, so no library comes from anywhere but the
# package archive. The packages conflict with rustup by name, not by file: they are unpacked beside it, under
# $MUSTER_RUN/rust-web, never installed. ~110 MB to fetch, ~700 MB unpacked. Exits 3 where they cannot be had.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/common.sh
source "$here/common.sh"
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
home=$RUN/rust-web

cannot() {
    say "rust-web: $1"
    exit 3
}
# The packages that PACKAGE depends on and whose names match PATTERN.
needs() { apt-cache depends --important "$1" 2>/dev/null | sed -nE "s/^ +Depends: ($2)$/\1/p"; }
unpack() {
    command -v apt-cache dpkg-deb >/dev/null || cannot "needs Debian's apt"
    local std llvm package
    std=$(needs libstd-rust-web-dev 'libstd-rust-web-[0-9.]+') && [ -n "$std" ] || cannot "no package rustc-web in the archive (apt-get update?)"
    llvm=$(needs "$std" 'libllvm[0-9]+')
    rm -rf "$home" "$home.new" && mkdir -p "$home.new/debs" || cannot "cannot write $home"
    (cd "$home.new/debs" && apt-get download -q rustc-web rust-web-src libstd-rust-web-dev "$std" ${llvm:+"$llvm"} >&2) ||
        cannot "apt-get download failed"
    for package in "$home.new"/debs/*.deb; do dpkg-deb --extract "$package" "$home.new/root" || cannot "cannot unpack $package"; done
    rm -r "$home.new/debs"
    # Cargo takes the compiler's path for its identity: no wrapper's, whose bytes would outlive the compiler behind it.
    mv "$home.new" "$home"
}
[ -x "$home/root/usr/bin/rustc" ] || unpack
export LD_LIBRARY_PATH=$home/root/usr/lib/$(gcc -print-multiarch 2>/dev/null || echo x86_64-linux-gnu)
version=$("$home/root/usr/bin/rustc" --version) || cannot "the unpacked rustc does not run"
say "rust-web: $version"
crates=std,panic_abort
[ "${1:-}" != test ] || crates=$crates,panic_unwind,test
# Building the standard library is unstable in name only for whoever pins compiler and library together, as here.
RUSTC="$home/root/usr/bin/rustc" RUSTDOC="$home/root/usr/bin/rustdoc" RUSTC_BOOTSTRAP=1 \
    CARGO_UNSTABLE_BUILD_STD=$crates CARGO_TARGET_DIR=$RUN/rust-web-target exec cargo "$@"
