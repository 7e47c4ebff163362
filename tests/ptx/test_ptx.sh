#!/usr/bin/env bash
# Runs the kernels' real PTX in the simulator: bf16, with the race check, one random schedule (make test-ptx runs more).
# Skipped if nvcc is missing.
set -u
cd "$(dirname "$0")/../.."
nvcc=${NVCC:-nvcc}
if ! command -v "${nvcc%% *}" >/dev/null; then
    echo "skipped: nvcc is not installed"
    exit 0
fi
if log=$(make --no-print-directory -j"$(nproc)" BACKEND=ptx PRECISION=bf16 PTX_RACE=1 PTX_SEEDS=1 test-ptx-one 2>&1); then
    grep '^ptx:' <<<"$log"
    echo "$(sed -nE 's/^ptx: .*: ([0-9]+) passed .*/\1/p' <<<"$log" | awk '{n += $1} END {print n + 0}') passed, 0 failed"
else
    tail -n 40 <<<"$log"
    echo "0 passed, 1 failed"
    exit 1
fi
