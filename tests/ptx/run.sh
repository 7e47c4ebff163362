#!/usr/bin/env bash
# run.sh BUILD RACES SEEDS TEST...: runs each test program on the simulator, one per core at a time, with the race check
# off and on (RACES "0 1") and in the schedules of SEEDS (0: in order; other numbers: random order of blocks, warps and
# time slices). Any message of the simulator is an error, and so is a __global__ function of kernels/ that never ran.
set -euo pipefail
build=$1 races=$2 seeds=$3
shift 3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export work OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=passive SIM_TRACE=1

one() { # RACE SEED TEST
    local own=$work/$(basename "$3")-$1-$2 started=$SECONDS code=0 passed
    SIM_RACE=$1 SIM_SEED=$2 "$3" >"$own.out" 2>"$own.err" || code=$?
    # The simulator prints a line per launch, and its findings.
    sed -nE 's/^simulator: (\S+) grid \(.*/\1/p' "$own.err" | sort -u >"$own.launches"
    sed -i -E '/^simulator: \S+ grid \(/d' "$own.err"
    if [ $code != 0 ] || grep -q '^simulator' "$own.err"; then
        tail -n 10 "$own.out"
        grep -E '^simulator|^race|FAILED|ERROR' "$own.err" | cut -c1-300 | head -n 6 | c++filt
        echo "ptx: $3 fails with race check $1, schedule $2" >&2
        return 255 # xargs then starts no further tests
    fi
    passed=$(cat "$own.out" "$own.err" | sed -nE 's/^\[  PASSED  \] ([0-9]+) test.*/\1/p' | tail -n 1)
    echo "ptx: $3, race check $1, schedule $2: ${passed:-0} passed ($((SECONDS - started)) s)"
}
export -f one

for test in "$@"; do
    for race in $races; do
        for seed in $seeds; do echo "$race $seed $test"; done
    done
done | xargs -P "$(nproc)" -L 1 bash -euo pipefail -c 'one "$@"' one

tests/emu/global_functions.sh >"$work/defined"
cat "$work"/*.launches | c++filt | sed -E 's/^void //; s/[<(].*//; s/.*:://' | sort -u >"$work/ran"
if missing=$(comm -23 "$work/defined" "$work/ran") && [ -n "$missing" ]; then
    echo "ptx: these __global__ functions never ran under $build:" $missing >&2
    exit 1
fi
echo "ptx: all $(wc -l <"$work/defined") __global__ functions ran"
