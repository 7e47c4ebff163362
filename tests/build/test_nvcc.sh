#!/usr/bin/env bash
# Builds cocogold with nvcc. Checks that no kernel spills or indexes an array in registers, that kernels have the
# expected tensor-core instructions, and that without a GPU the program prints one sentence, except for commands that
# need none. And that beside a GPU, which here nvidia-smi only pretends, the unit tests are still the CPU's, and what is
# said of all architectures is built for all of them.
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
# beside_gpu COMMAND...: runs it beside an nvidia-smi that finds an H100.
beside_gpu() {
    local folder code
    folder=$(mktemp -d)
    printf '#!/bin/sh\n[ "$1" = -L ] && echo "GPU 0: NVIDIA H100 (UUID: GPU-0)" || echo 9.0\n' >"$folder/nvidia-smi"
    chmod +x "$folder/nvidia-smi"
    env -u BACKEND -u PRECISION -u CUDA_ARCHS PATH="$folder:$PATH" "$@"
    code=$?
    rm -r "$folder"
    return $code
}
cpu_units() {
    local units
    units=$(beside_gpu make -s units TIER=check)
    grep -q '^build/cpu-fp32/tests/kernels/test_linear$' <<<"$units" && ! grep build/cuda <<<"$units"
}
# names_archs TARGET ARCHITECTURES: those that the target's commands name in quotes, beside a GPU
names_archs() {
    local commands
    commands=$(beside_gpu make -n "$1" | grep -E 'kernel_report.py check|bundle.sh finish')
    echo "$commands"
    grep -qE "\"$2\"" <<<"$commands"
}
incomplete_report() { # one sentence, and no page
    local message
    message=$(bench/kernel_report.py report "${program%/*}" --output build/incomplete.md 2>&1)
    [ $? = 1 ] && grep -q 'not built for sm_89, expected sm_80, sm_89, sm_90, sm_120' <<<"$message" &&
        [ "$(wc -l <<<"$message")" = 1 ] && [ ! -e build/incomplete.md ]
}

echo "building $program; this takes some minutes"
check "cocogold with nvcc, bf16" "${make[@]}" "$program"
if command -v cuobjdump >/dev/null || ls .cuda/lib/python3*/site-packages/nvidia/cu*/bin/cuobjdump >/dev/null 2>&1; then
    check "no spills, no local memory, tensor-core instructions" machine_code
    [ "${1:-}" = all ] || check "no report without an architecture that it names" incomplete_report
else
    echo "skipped: no cuobjdump, which setup.sh could not install"
fi
if ! nvidia-smi -L >/dev/null 2>&1; then check "one sentence without a GPU" one_sentence; fi
check "unit tests of the CPU beside a GPU" cpu_units
check "nvcc-check is for all architectures, beside a GPU" names_archs nvcc-check 'sm_80 sm_86 sm_89 sm_90( sm_100 sm_120)?'
check "so is a bundle" names_archs bundle 'sm_80 sm_86 sm_89 sm_90( sm_100 sm_120)?'
check "gpu-check's is for the GPU" names_archs gpu-check sm_90
check "the plan of a step of Stable Diffusion 2" "$program" bench plan --preset sd2 --batch 2 --size 64 --json build/sd2-plan.json
echo "$passed passed, $failed failed"
[ $failed = 0 ]
