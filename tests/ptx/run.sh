#!/usr/bin/env bash
# run.sh BUILD RACE SEEDS TEST...: runs each test program on the simulator with the race check off and on (RACE "0 1") and in
# the schedules of SEEDS (0: in order; other numbers: random order of blocks, warps and time slices). Whatever the
# simulator says is an error, and so is a __global__ function of kernels/ that never ran.
set -euo pipefail
build=$1 races=$2 seeds=$3
shift 3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

for test in "$@"; do
    for race in $races; do
        for seed in $seeds; do
            started=$SECONDS
            PTXSIM_TRACE=1 PTXSIM_RACE=$race PTXSIM_SEED=$seed "$test" >"$work/out" 2>"$work/err" || code=$?
            # A line per launch, and findings.
            grep -E '^ptxsim: \S+ grid \(' "$work/err" | cut -d' ' -f2 | sort -u >>"$work/launches" || true
            grep -vE '^ptxsim: \S+ grid \(' "$work/err" >"$work/said" || true
            if [ "${code:-0}" != 0 ] || grep -q '^ptxsim' "$work/said"; then
                tail -n 20 "$work/out"
                grep '^ptxsim' "$work/said" | head -n 20 | c++filt
                echo "ptx: $test fails with race check $race, schedule $seed" >&2
                exit 1
            fi
            n=$(sed -nE 's/^\[  PASSED  \] ([0-9]+) test.*/\1/p' <(cat "$work/out" "$work/err") | tail -n 1)
            echo "ptx: $test, race check $race, schedule $seed: ${n:-0} passed ($((SECONDS - started)) s)"
        done
    done
done

tests/emu/global_functions.sh >"$work/defined"
c++filt <"$work/launches" | sed -E 's/^void //; s/[<(].*//; s/.*:://' | sort -u >"$work/ran"
if missing=$(comm -23 "$work/defined" "$work/ran") && [ -n "$missing" ]; then
    echo "ptx: these __global__ functions never ran under $build:" $missing >&2
    exit 1
fi
echo "ptx: all $(wc -l <"$work/defined") __global__ functions ran"
