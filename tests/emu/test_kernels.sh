#!/usr/bin/env bash
# The CUDA kernels on emulated threads, fp32 and bf16 (make test-emu), counted for tests/run.sh.
set -u
cd "$(dirname "$0")/../.."
passed=0 failed=0
for precision in fp32 bf16; do
    if log=$(make --no-print-directory BACKEND=emu PRECISION=$precision test-emu-one 2>&1); then
        n=$(sed -nE 's/^\[  PASSED  \] ([0-9]+) test.*/\1/p' <<<"$log" | awk '{n += $1} END {print n + 0}')
        passed=$((passed + n))
        tail -n 1 <<<"$log"
    else
        failed=$((failed + 1))
        tail -n 40 <<<"$log"
    fi
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
