#!/usr/bin/env bash
# Where nvcc is: cocogold is built for every architecture, warnings as errors; no kernel spills or indexes an array in
# registers, and tensor-core instructions are where they are promised (make nvcc-check); without a GPU the program says so
# in one sentence, but for what needs none.
set -u
cd "$(dirname "$0")/../.."
if ! command -v nvcc >/dev/null; then
    echo "skipped: nvcc is not here"
    exit 0
fi
./setup.sh --cuda || { echo "0 passed, 1 failed" && exit 1; }
passed=0 failed=0
program=build/cuda-bf16/cocogold

check() { # check WHAT COMMAND...
    if log=$("${@:2}" 2>&1); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "failed: $1"
        tail -n 40 <<<"$log"
    fi
}
one_sentence() { # exit code 1 and one line
    message=$("$program" bench linear 2>&1 >/dev/null)
    [ $? = 1 ] && grep -q 'no NVIDIA GPU can be used here' <<<"$message" && [ "$(wc -l <<<"$message")" = 1 ]
}
planned() {
    "$program" bench plan --preset sd2 --batch 2 --size 64 --json build/sd2-plan.json
}

check "cocogold with nvcc, bf16" make --no-print-directory -j"$(nproc)" BACKEND=cuda PRECISION=bf16 $program
check "no spills, no local memory, tensor-core instructions" make --no-print-directory -j"$(nproc)" nvcc-check
if ! nvidia-smi -L >/dev/null 2>&1; then check "one sentence without a GPU" one_sentence; fi
check "the plan of a step of Stable Diffusion 2" planned
echo "$passed passed, $failed failed"
[ $failed = 0 ]
