#!/usr/bin/env bash
# Builds cocogold with nvcc. Checks that no kernel spills or indexes an array in registers, that kernels have the
# expected tensor-core instructions, and that without a GPU the program prints one sentence, except for commands that
# need none. And that beside a GPU, which here nvidia-smi only pretends, the unit tests are still the CPU's.
#     tests/build/test_nvcc.sh        bf16, the oldest architecture (make test)
#     tests/build/test_nvcc.sh all    fp32 too, all architectures (tests/build/test_architectures.sh, make test-all)
set -u
cd "$(dirname "$0")/../.."
nvcc=${NVCC:-nvcc}
if ! command -v "${nvcc%% *}" >/dev/null; then
    echo "skipped: nvcc is not installed"
    exit 0
fi
./setup.sh --cuda --disassemblers || { echo "0 passed, 1 failed" && exit 1; }
passed=0 failed=0
make=(make --no-print-directory BACKEND=cuda PRECISION=bf16)
if [ "${1:-}" = all ]; then
    program=build/cuda-bf16/cocogold
else
    program=build/cuda-bf16-sm80/cocogold
    make+=(CUDA_ARCHS=80 BUILD=${program%/*})
fi

check() { # check WHAT COMMAND...
    if log=$("${@:2}" 2>&1); then
        passed=$((passed + 1))
        echo "ok      $1"
    else
        failed=$((failed + 1))
        echo "FAILED  $1"
        tail -n 40 <<<"$log"
    fi
}
machine_code() {
    if [ "${program%/*}" = build/cuda-bf16 ]; then
        make --no-print-directory nvcc-check
    else
        bench/kernel_report.py check --archs sm_80 "${program%/*}"
    fi
}
one_sentence() { # exit code 1 and one line
    message=$("$program" bench linear 2>&1 >/dev/null)
    [ $? = 1 ] && grep -q 'no NVIDIA GPU can be used here' <<<"$message" && [ "$(wc -l <<<"$message")" = 1 ]
}
cpu_units() {
    local folder units
    folder=$(mktemp -d)
    printf '#!/bin/sh\necho "GPU 0: NVIDIA A100 (UUID: GPU-0)"\n' >"$folder/nvidia-smi"
    chmod +x "$folder/nvidia-smi"
    units=$(env -u BACKEND -u PRECISION PATH="$folder:$PATH" make -s units TIER=check)
    rm -r "$folder"
    grep -q '^build/cpu-fp32/tests/kernels/test_linear$' <<<"$units" && ! grep build/cuda <<<"$units"
}

echo "building $program; this takes some minutes"
check "cocogold with nvcc, bf16" "${make[@]}" "$program"
if command -v cuobjdump >/dev/null || ls .cuda/lib/python3*/site-packages/nvidia/cu*/bin/cuobjdump >/dev/null 2>&1; then
    check "no spills, no local memory, tensor-core instructions" machine_code
else
    echo "skipped: no cuobjdump, which setup.sh could not install"
fi
if ! nvidia-smi -L >/dev/null 2>&1; then check "one sentence without a GPU" one_sentence; fi
check "unit tests of the CPU beside a GPU" cpu_units
check "the plan of a step of Stable Diffusion 2" "$program" bench plan --preset sd2 --batch 2 --size 64 --json build/sd2-plan.json
echo "$passed passed, $failed failed"
[ $failed = 0 ]
