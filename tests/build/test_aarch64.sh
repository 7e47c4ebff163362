#!/usr/bin/env bash
# Checks that the sources do not depend on x86: an aarch64 cross compiler parses and checks every C source and the
# emulation's C++, with the flags of the build and warnings as errors. Nothing is linked or run. Skipped if no cross
# compiler is installed (gcc-aarch64-linux-gnu, g++-aarch64-linux-gnu).
source "$(dirname "$0")/../cli/common.sh"
cd "$root" || exit 1

# syntax NAME MAKE_VARIABLE COMPILER SOURCE...: the libraries' headers, which the cross compiler lacks, are those of
# this machine.
syntax() {
    local name=$1 variable=$2 compiler=$3 objects=()
    shift 3
    if ! command -v "$compiler" >/dev/null; then
        echo "skipped: $name: $compiler is not installed"
        return
    fi
    for source in "$@"; do objects+=("build/aarch64/${source%.*}.o"); done
    check "$name: $# sources" make --no-print-directory -k -j"$(nproc)" BACKEND=cpu PRECISION=fp32 BUILD=build/aarch64 \
        MARCH=armv8-a WERROR=1 "${objects[@]}" \
        "$variable=$compiler -fsyntax-only -idirafter /usr/include -idirafter /usr/include/$(gcc -print-multiarch)"
}

folders=(util kernels model data eval train bench tests)
mapfile -t sources < <(find "${folders[@]}" -name '*.c' | sort)
mapfile -t emulation < <(find tests/emu -name '*.cpp' | sort)
syntax "C for aarch64" CC aarch64-linux-gnu-gcc cocogold.c "${sources[@]}"
syntax "C++ of the emulation for aarch64" CXX aarch64-linux-gnu-g++ "${emulation[@]}"
finish
