#!/usr/bin/env bash
# Where nvcc is: every .cu compiles for every architecture, warnings as errors, and no kernel spills (make nvcc-check).
set -u
cd "$(dirname "$0")/../.."
if ! command -v nvcc >/dev/null; then
    echo "skipped: nvcc is not here"
    exit 0
fi
./setup.sh --cuda || { echo "0 passed, 1 failed" && exit 1; }
if log=$(make --no-print-directory nvcc-check 2>&1); then
    echo "$(grep -c registers <<<"$log") passed, 0 failed"
else
    tail -n 40 <<<"$log"
    echo "0 passed, 1 failed"
    exit 1
fi
