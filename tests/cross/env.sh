# Sourced by `build` and `test`: everything that makes one cargo call a cross build. Sets `triple`, `strip`, `machine` for
# a short name and exports what cargo reads. Why each switch is there is said beside it.

# Not the rustup toolchain that may be first on PATH: it has no MIPS, and must not download one.
export PATH=/usr/bin:/bin RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc
# -Zbuild-std on a stable compiler.
export RUSTC_BOOTSTRAP=1
# Never this one: with it std's futex wait passes a 64-bit timespec to a 32-bit system call, and waits end at once.
unset RUST_LIBC_UNSTABLE_MUSL_V1_2_3 RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_TARGET_DIR

cross_root=$PWD/target/cross

# What makes a release small; tests are built without. Set for a short name, before `cross_target`.
#  - A panic ends the program at once, without its message: that and the places in the source that messages would name are
#    60 KB. What is told instead, and how to find the place, is in src/sys/signal.rs. `{:?}` prints nothing, and nothing
#    that a release says uses it.
#  - No unwind tables, of which a program that aborts has no use: 25 KB. opt-level z: 5 % less than s.
#  - Addresses are fixed where that is cheaper: 60 KB on MIPS, where each function would look up its own place first.
#    OpenWrt builds programs so too, unless they ask for more. x86-64 stays position-independent: it has the room.
#  - Passes of LLVM that make code longer to make it faster are left out; each costs 1 to 13 KB here, most of it on MIPS.
cross_release_flags() { # NAME
    local flags='-Zunstable-options -Cpanic=immediate-abort -Zlocation-detail=none -Zfmt-debug=none -Cforce-unwind-tables=no'
    local passes='-disable-machine-licm -disable-lsr -min-jump-table-entries=8 -max-store-memcpy=2' pass
    case $1 in
    mips | mipsel)
        flags+=' -Crelocation-model=static'
        passes+=' -disable-machine-sink -disable-early-taildup -enable-load-pre=false -enable-pre=false'
        passes+=' -split-spill-mode=size -tail-dup-placement=false'
        ;;
    # Thumb-2: a third less than ARM code.
    armv7) flags+=" -Crelocation-model=static -Ctarget-feature=+thumb-mode" ;;
    # One copy of what functions begin and end with. Not relocation-model=static: LLVM then loads words from where strings
    # happen to lie, which the linker refuses.
    aarch64) flags+=' -Clink-arg=-no-pie' passes+=' -homogeneous-prolog-epilog' ;;
    esac
    for pass in $passes; do flags+=" -Cllvm-args=$pass"; done
    export CARGO_PROFILE_RELEASE_OPT_LEVEL=z
    CROSS_RUSTFLAGS=$flags
}

cross_target() { # NAME static|dynamic
    local zig_target cfg='' libc=+crt-static zig_flag=''
    strip=strip machine=
    case $1 in
    # fix_y2038 is rustix's own switch: without it the reactor's timerfd is disarmed and no timer ever fires.
    mipsel) triple=mipsel-unknown-linux-musl zig_target=mipsel-linux-musleabi cfg=--cfg=fix_y2038 strip=mipsel-linux-gnu-strip machine=mipsel ;;
    mips) triple=mips-unknown-linux-musl zig_target=mips-linux-musleabi cfg=--cfg=fix_y2038 strip=mipsel-linux-gnu-strip machine=mips ;;
    armv7) triple=armv7-unknown-linux-musleabihf zig_target=arm-linux-musleabihf strip=true machine=arm ;;
    aarch64) triple=aarch64-unknown-linux-musl zig_target=aarch64-linux-musl strip=true machine=aarch64 ;;
    x86_64) triple=x86_64-unknown-linux-musl zig_target=x86_64-linux-musl machine=x86_64 ;;
    *) echo "$1: want mipsel, mips, armv7, aarch64 or x86_64" >&2; exit 2 ;;
    esac
    if [ "$2" = dynamic ]; then
        # Without -dynamic zig makes a static-pie although rustc asked for a dynamic one.
        libc=-crt-static zig_flag=-dynamic
    fi
    local zig linker upper
    zig=$(echo "$cross_root"/zigenv/lib/python3.*/site-packages/ziglang/zig)
    [ -x "$zig" ] || { echo "run tests/cross/setup first" >&2; exit 1; }
    export ZIG_GLOBAL_CACHE_DIR=$cross_root/zig-cache ZIG_LOCAL_CACHE_DIR=$cross_root/zig-cache
    linker=$cross_root/cc-$1-$2
    mkdir -p "$cross_root"
    printf '#!/bin/sh\nexec "%s" cc -target %s %s "$@"\n' "$zig" "$zig_target" "$zig_flag" >"$linker"
    chmod +x "$linker"
    upper=$(echo "$triple" | tr a-z- A-Z_)
    export "CARGO_TARGET_${upper}_LINKER=$linker"
    # zig brings crt1.o.
    export "CARGO_TARGET_${upper}_RUSTFLAGS=-Ctarget-feature=$libc -Clink-self-contained=no $cfg ${CROSS_RUSTFLAGS-}"
    export "CARGO_TARGET_${upper}_RUNNER=qemu-$machine-static"
}
