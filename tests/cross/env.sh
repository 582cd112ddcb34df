# Sourced by `build` and `test`: everything that makes one cargo call a cross build. Sets `triple`, `strip`, `machine` for
# a short name and exports what cargo reads. Why each switch is there is said beside it.

# Not the rustup toolchain that may be first on PATH: it has no MIPS, and must not download one.
export PATH=/usr/bin:/bin RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc
# -Zbuild-std on a stable compiler.
export RUSTC_BOOTSTRAP=1
# Never this one: with it std's futex wait passes a 64-bit timespec to a 32-bit system call, and waits end at once.
unset RUST_LIBC_UNSTABLE_MUSL_V1_2_3 RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_TARGET_DIR

cross_root=$PWD/target/cross

# Flags of a release, for `cross_target`: board/release.flags says why each is there. opt-level z is 5 % less than s.
cross_release_flags() { # NAME
    local machine=${1/armv7/arm}
    CROSS_RUSTFLAGS=$(awk -v machine="$machine" '/^[a-z]/ {
        count = split($1, machines, ",")
        for (at = 1; at <= count; at++) if (machines[at] == "all" || machines[at] == machine) printf "%s ", $2
    }' board/release.flags)
    export CARGO_PROFILE_RELEASE_OPT_LEVEL=z
    # Functions that are the same bytes are kept once, and those that are alike lie side by side, where a compressor with a
    # short memory finds them: 1 to 2 KB of program, 3 to 8 KB of package.
    CROSS_LINK_FLAGS='-O2 --icf=all --bp-compression-sort=both'
}

# zig's driver refuses switches that its own linker has: what it told the linker is told once more, with them. A program
# without names is linked with them besides, into a file with `.symbols` at its end: the same addresses, for whoever has to
# know what lies at one.
cross_linker() { # ZIG COMMAND FLAGS
    if [ -z "$3" ]; then
        printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$1" "$2"
        return
    fi
    cat <<EOF
#!/bin/sh
said=\$(ZIG_VERBOSE_LINK=1 "$1" $2 "\$@" 2>&1) || { echo "\$said" >&2; exit 1; }
told=\$(echo "\$said" | sed -n 's/^ld\.lld //p' | tail -n 1)
[ -n "\$told" ] || { echo "zig did not say how it links:" "\$said" >&2; exit 1; }
"$1" ld.lld \$told $3 || exit
case \$told in
*' -s '*) exec "$1" ld.lld \$(echo "\$told" | sed 's/ -s / /; s/ -o \([^ ]*\)/ -o \1.symbols/') $3 ;;
esac
EOF
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
    cross_linker "$zig" "cc -target $zig_target $zig_flag" "${CROSS_LINK_FLAGS-}" >"$linker"
    chmod +x "$linker"
    upper=$(echo "$triple" | tr a-z- A-Z_)
    export "CARGO_TARGET_${upper}_LINKER=$linker"
    # zig brings crt1.o.
    export "CARGO_TARGET_${upper}_RUSTFLAGS=-Ctarget-feature=$libc -Clink-self-contained=no $cfg ${CROSS_RUSTFLAGS-}"
    export "CARGO_TARGET_${upper}_RUNNER=qemu-$machine-static"
}
