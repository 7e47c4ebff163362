#!/usr/bin/env bash
# The kernels' real PTX in the simulator, in short (make test-ptx is the long form): bf16, with the race check, one random
# schedule. Where nvcc or ../shared/ptxsim is missing nothing runs.
set -u
cd "$(dirname "$0")/../.."
if ! command -v nvcc >/dev/null; then
    echo "skipped: nvcc is not here"
    exit 0
fi
if [ ! -e "${PTXSIM:-../shared/ptxsim}" ]; then
    echo "skipped: ../shared/ptxsim is not here"
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
