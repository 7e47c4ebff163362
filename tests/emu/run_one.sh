#!/usr/bin/env bash
# run_one.sh PRECISION:ORDERS:PROGRAM: runs one test program on emulated CUDA. With ORDERS 3 it runs three times and
# must give the same bits: threads in ascending order with streams as late as possible; descending with streams at
# random; and random with streams at once, on two cores. With ORDERS 1 it runs once, with threads and streams at random.
# The names of launched kernels go to build/test-logs/emu-PRECISION-*.launches (tests/emu/test_launched.sh).
set -eu
cd "$(dirname "$0")/../.."
IFS=: read -r precision orders program <<<"$1"
test=build/emu-$precision/$program
logs=build/test-logs
name=$logs/emu-$precision-$(basename "$program")
mkdir -p $logs
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -f "$name".*.launches

run() { # run ORDER DELAY THREADS
    echo "emu: $test, threads $1, streams $2"
    EMU_ORDER=$1 EMU_DELAY=$2 OMP_NUM_THREADS=$3 EMU_BITS=$work/$1.bits EMU_REPORT=$name.$1.launches "$test" >"$work/$1.log" 2>&1 || {
        cat "$work/$1.log"
        exit 1
    }
}
if [[ $program == */test_emu ]]; then # its planted faults choose their own orders
    run ascending lazy 2
    cat "$work/ascending.log"
    exit
fi
if [ "$orders" = 1 ]; then
    run random:7 random:3 1
    cat "$work/random:7.log"
    exit
fi
run ascending lazy 1
run descending random:3 1
run random:7 eager 2
for order in descending random:7; do
    cmp "$work/ascending.bits" "$work/$order.bits" || {
        echo "emu: $test gives different bits with threads in $order order" >&2
        exit 1
    }
done
cat "$work/ascending.log" # counted once
