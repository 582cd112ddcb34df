# Sourced: numbers of board profiles, for scripts.

# The board whose triple is that of a short name: its budget holds where the chosen board is a class without a triple.
board_of() { # NAME
    case $1 in
    mipsel) echo qemu_malta-le ;;
    mips) echo qemu_malta-be ;;
    armv7) echo qemu_armsr-armv7 ;;
    aarch64) echo qemu_armsr-armv8 ;;
    x86_64) echo qemu_x86-64 ;;
    esac
}

# A number of a board, or of what it inherits, or of base.
board_number() { # BOARD KEY
    local board=$1 value
    while :; do
        value=$(sed -n "s/^$2 *= *\([0-9_]*\).*/\1/p" "board/$board.toml" | tr -d _)
        [ -z "$value" ] || { echo "$value"; return; }
        [ "$board" != base ] || { echo "board/base.toml: no $2" >&2; return 1; }
        board=$(sed -n 's/^inherit *= *"\(.*\)".*/\1/p' "board/$board.toml")
        board=${board:-base}
    done
}

# The budget of a program: the chosen board's if it is a device, else that of the emulated machine of the same CPU.
binary_budget() { # NAME
    if grep -q '^triple' "board/$LINKWATCH_BOARD.toml" 2>/dev/null; then
        board_number "$LINKWATCH_BOARD" binary_bytes
    else
        board_number "$(board_of "$1")" binary_bytes
    fi
}
