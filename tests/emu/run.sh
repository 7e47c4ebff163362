#!/usr/bin/env bash
# run.sh BUILD KERNEL_TEST... -- OTHER_TEST...: runs tests on emulated CUDA, as many at a time as there are cores.
# Kernel tests run three times, which must give the same bits: threads in ascending order and streams as late as can be;
# descending and at random; random and at once, on two cores. The others run once, threads and streams at random.
# Fails if a __global__ function of kernels/ never ran.
set -euo pipefail
build=$1
shift
report=$(mktemp -d)
export report
trap 'rm -rf "$report"' EXIT

run_one() { # run_one "TEST ORDER DELAY THREADS"
    local test order delay threads name
    read -r test order delay threads <<<"$1"
    name=$report/${test//\//-}.$order
    echo "emu: $test, threads $order, streams $delay"
    EMU_ORDER=$order EMU_DELAY=$delay OMP_NUM_THREADS=$threads OMP_WAIT_POLICY=passive EMU_BITS=$name.bits \
        EMU_REPORT=$name.launches "$test" >"$name.log" 2>&1 || {
        cat "$name.log"
        return 255 # ends xargs
    }
}
export -f run_one

jobs() {
    local kernels=1 test
    for test in "$@"; do
        if [ "$test" = -- ]; then
            kernels=0
        elif [[ $test == */test_emu ]]; then
            echo "$test ascending lazy 2" # sets both by itself
        elif [ $kernels = 1 ]; then
            printf '%s\n' "$test ascending lazy 1" "$test descending random:3 1" "$test random:7 eager 2"
        else
            echo "$test random:7 random:3 1"
        fi
    done
}
jobs "$@" | xargs -d '\n' -n 1 -P "$(nproc)" bash -c 'run_one "$1"' -

kernels=1
for test in "$@"; do
    [ "$test" = -- ] && kernels=0 && continue
    name=$report/${test//\//-}
    [ $kernels = 1 ] || {
        grep -h PASSED "$name.random:7.log"
        continue
    }
    grep -hE 'relative error|PASSED' "$name.ascending.log" || true
    for order in descending random:7; do
        [[ $test == */test_emu ]] && break
        cmp "$name.ascending.bits" "$name.$order.bits" || {
            echo "emu: $test gives other bits with threads $order" >&2
            exit 1
        }
    done
done
tests/emu/global_functions.sh >"$report/defined"
cat "$report"/*.launches | sed -E 's/.* launches of //; s/<.*//' | sort -u >"$report/ran"
if missing=$(comm -23 "$report/defined" "$report/ran") && [ -n "$missing" ]; then
    echo "emu: these __global__ functions never ran under $build:" $missing >&2
    exit 1
fi
echo "emu: all $(wc -l <"$report/defined") __global__ functions ran, with equal bits in every order of threads"
