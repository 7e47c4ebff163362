#!/usr/bin/env bash
# run.sh BUILD TEST...: runs each test on emulated CUDA threads in ascending, descending and random order, which must give
# the same bits, and fails if a __global__ function of kernels/ never ran.
set -euo pipefail
build=$1
shift
report=$(mktemp -d)
trap 'rm -rf "$report"' EXIT
for test in "$@"; do
    name=$(basename "$test")
    for order in ascending descending random:7; do
        echo "emu: $test, threads $order"
        EMU_ORDER=$order EMU_BITS=$report/$name.$order EMU_REPORT=$report/launches "$test" >"$report/log" 2>&1 || {
            cat "$report/log"
            exit 1
        }
        [ $order = ascending ] && grep -E 'relative error|PASSED' "$report/log" || true
        [ "$name" = test_emu ] && break # it sets the order by itself
        cmp "$report/$name.ascending" "$report/$name.$order" || {
            echo "emu: $test gives other bits with threads $order" >&2
            exit 1
        }
    done
done
tests/emu/global_functions.sh >"$report/defined"
sed -E 's/.* launches of //; s/<.*//' "$report/launches" | sort -u >"$report/ran"
if missing=$(comm -23 "$report/defined" "$report/ran") && [ -n "$missing" ]; then
    echo "emu: these __global__ functions never ran under $build:" $missing >&2
    exit 1
fi
echo "emu: all $(wc -l <"$report/defined") __global__ functions ran, with equal bits in every order of threads"
