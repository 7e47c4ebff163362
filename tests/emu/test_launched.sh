#!/usr/bin/env bash
# Checks that the emulated tests before this one ran every __global__ function of kernels/ and of the kernel lab, in
# each precision.
set -u
cd "$(dirname "$0")/../.."
passed=0 failed=0
for precision in fp32 bf16; do
    ls build/test-logs/emu-$precision-*.launches >/dev/null 2>&1 || continue
    missing=$(comm -23 <(tests/emu/global_functions.sh) \
        <(cat build/test-logs/emu-$precision-*.launches | sed -E 's/.* launches of //; s/<.*//' | sort -u))
    if [ -z "$missing" ]; then
        passed=$((passed + 1))
        echo "ok      $precision: all $(tests/emu/global_functions.sh | wc -l) __global__ functions ran"
    else
        failed=$((failed + 1))
        echo "FAILED  $precision: these __global__ functions never ran:" $missing
    fi
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
