#!/usr/bin/env bash
# Other compilers: builds the program with every other installed gcc (11 or newer) and clang (14 or newer), with
# warnings as errors, compiles all unit tests, and runs some of them. Each compiler has its own folder in build/.
#     tests/build/test_compilers.sh [COMPILER...]     default: all of gcc-11..19 and clang-14..25
source "$(dirname "$0")/../cli/common.sh"
cd "$root" || exit 1
# Tests of what compilers do differently: 16-bit floats, vectors, OpenMP, files.
runs=(util/test_half kernels/test_linear kernels/test_conv2d kernels/test_groupnorm kernels/test_attention
    runtime/test_device model/test_safetensors data/test_shard data/test_loader train/test_optimizer)

cxx_of() { case $1 in clang-*) echo "clang++-${1#clang-}" ;; *) echo "g++-${1#gcc-}" ;; esac; }
found=("$@")
if [ $# = 0 ]; then
    for compiler in gcc-{11..19} clang-{14..25}; do
        command -v "$compiler" >/dev/null && [ "$(realpath "$(command -v "$compiler")")" != "$(realpath "$(command -v gcc)")" ] &&
            found+=("$compiler")
    done
fi
if [ ${#found[@]} = 0 ]; then
    echo "skipped: no other gcc or clang is installed"
    exit 0
fi

for compiler in "${found[@]}"; do
    started=$SECONDS build=build/cpu-fp32-$compiler
    if ! echo '#include <omp.h>' | "$compiler" -fopenmp -E - >/dev/null 2>&1; then
        echo "skipped: $compiler has no OpenMP (libomp-dev)"
        continue
    fi
    make=(make --no-print-directory -j"$(nproc)" BACKEND=cpu PRECISION=fp32 WERROR=1 "BUILD_SUFFIX=-$compiler" "CC=$compiler"
        "CXX=$(cxx_of "$compiler")")
    check "$compiler: the program and all unit tests, no warnings" "${make[@]}" $build/cocogold test-programs
    for test in "${runs[@]}"; do check "$compiler: $test" "$build/tests/$test"; done
    check "$compiler: it draws a data set" $build/cocogold synth "$work/$compiler" --train 3 --val 1
    echo "        $compiler took $((SECONDS - started)) s"
done
finish
