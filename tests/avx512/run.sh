#!/usr/bin/env bash
# The kernels for AVX-512 on a machine that has none: a small Linux in Bochs, an emulator of whole PCs, runs their tests on two CPU
# models, without the VNNI extension and with it. Ends with `N passed, N failed, N skipped`; exits 1 if anything failed.
#
# Emulated CPUs are slow, so what runs is what holds the bits: the kernels against their plain definitions, and the vectors of ops.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
cd "$repo" || exit 1
# shellcheck source=scripts/common.sh
source scripts/common.sh
# Seconds until an emulated machine that says nothing more is given up.
limit=${AVX512_SECONDS:-2400}
tests=${AVX512_TESTS:-kernel:: isa:: ops::tests::vectors}
target=x86_64-unknown-linux-musl
dir=$repo/.run/avx512
passed=0 failed=0

skip() {
    echo "SKIP avx512: $1"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}
[ "$(uname -m)" = x86_64 ] || skip "the machine is no x86-64"
why=$(install_missing bochs bochs-term bochsbios vgabios busybox-static cpio isolinux syslinux-common xorriso) ||
    skip "$why"

# Debian's kernel, unpacked and not installed.
mkdir -p "$dir"
vmlinuz=$(compgen -G "$dir/kernel/boot/vmlinuz-*" | head -n 1)
if [ -z "$vmlinuz" ]; then
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || skip "apt knows no linux-image-cloud-amd64"
    (cd "$dir" && apt-get download -q "$package" >&2) || skip "apt-get could not fetch $package"
    dpkg-deb --extract "$dir/$package"_*.deb "$dir/kernel" && rm -f "$dir/$package"_*.deb
    vmlinuz=$(compgen -G "$dir/kernel/boot/vmlinuz-*" | head -n 1)
fi

binary=$(cargo test --locked --package muster-numerics --lib --target "$target" --no-run --message-format json |
    jq -r 'select(.reason == "compiler-artifact" and .profile.test and .executable != null) | .executable' | tail -n 1)
if [ ! -x "$binary" ]; then
    echo "FAIL avx512: the tests do not build for $target"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi

# The whole of the emulated machine's files: what init runs, and the vectors where the tests look for them.
root=$dir/root
rm -rf "$root" && mkdir -p "$root"/{bin,dev,proc,tmp} "$root$repo/tests/vectors" "$root$repo/trainer-image/numerics"
cp /bin/busybox "$root/bin/"
cp "$binary" "$root/bin/tests"
cp tests/vectors/ops.txt "$root$repo/tests/vectors/"
cat >"$root/init" <<EOF
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1
/bin/busybox grep -m 1 ^flags /proc/cpuinfo
/bin/tests --test-threads=1 $tests
echo "ended with \$?"
# The line is slow.
/bin/busybox sleep 5
/bin/busybox poweroff -f
EOF
chmod +x "$root/init"
mkdir -p "$dir/disc"
(cd "$root" && find . | cpio --quiet -o -H newc) >"$dir/disc/initrd"
cp "$vmlinuz" "$dir/disc/vmlinuz"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$dir/disc/"
# Flags that the kernel is not to believe: with the first three, Bochs's sizes and places of saved registers are not those that it
# expects, and it does without AVX; with one of the others it hangs early on Ice Lake.
untrue=xsaves,xsavec,pku,fsrm,sha_ni,umip,rdpid,gfni,vaes,vpclmulqdq,erms,pcid,invpcid,smap
cat >"$dir/disc/isolinux.cfg" <<EOF
default linux
label linux
    kernel vmlinuz
    append initrd=initrd console=ttyS0 quiet loglevel=1 panic=-1 clearcpuid=$untrue mitigations=off tsc=reliable
EOF
xorriso -as mkisofs -quiet -o "$dir/disc.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 \
    -boot-info-table "$dir/disc" >&2 || skip "xorriso could not make the disc"

# emulate NAME CPU-MODEL: the tests on this model; it has the flags that the name stands for, or the run failed.
emulate() {
    local name=$1 model=$2 out=$dir/$1.txt line end pid
    rm -f "$out"
    cat >"$dir/$name.bochsrc" <<EOF
display_library: term
cpu: model=$model, count=1, ips=100000000, reset_on_triple_fault=0
memory: guest=512, host=512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$dir/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$out
clock: sync=none
log: $dir/$name.log
EOF
    # Debian builds it with a debugger, which waits for a word; and its screen wants a terminal.
    echo continue >"$dir/go"
    TERM=xterm setsid script -qfc "bochs -q -f $dir/$name.bochsrc -rc $dir/go" /dev/null >"$dir/$name.screen" 2>&1 </dev/null &
    pid=$!
    end=$((SECONDS + limit))
    while kill -0 "$pid" 2>/dev/null && ((SECONDS < end)) && ! grep -q '^ended with' "$out" 2>/dev/null; do sleep 1; done
    kill -- "-$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    tr -d '\r' <"$out" >"$LOGS/$name.log"
    line=$(grep '^test result:' "$LOGS/$name.log")
    if [[ $line =~ ([0-9]+)\ passed\;\ ([0-9]+)\ failed ]] && grep -q '^ended with 0$' "$LOGS/$name.log" &&
        grep -qw avx512bw "$LOGS/$name.log" && has_vnni "$name"; then
        echo "PASS $name ($model): $line"
        passed=$((passed + BASH_REMATCH[1]))
    else
        echo "FAIL $name ($model): ${line:-did not come to its end}; see $LOGS/$name.log"
        failed=$((failed + 1))
    fi
}
has_vnni() {
    if [ "$1" = avx512-vnni ]; then grep -qw avx512_vnni "$LOGS/$1.log"; else ! grep -qw avx512_vnni "$LOGS/$1.log"; fi
}
emulate avx512 corei7_skylake_x
emulate avx512-vnni corei7_icelake_u
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
