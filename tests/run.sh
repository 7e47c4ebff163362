#!/usr/bin/env bash
# Runs tests in parallel and adds up their results. The last line is "N passed, N failed".
#     tests/run.sh [--jobs N] [--summary FILE] UNIT...
# A unit is a cmocka program, a script that prints "N passed, N failed", "pytest:FILE", or
# "emu:PRECISION:ORDERS:PROGRAM" (tests/emu/run_one.sh). "alone:UNIT" runs after all others, with no other unit in
# parallel. Units start in the given order, so put long ones first. Output goes to build/test-logs/NAME.log; that of
# failed units is also printed.
set -u
export LC_ALL=C # awk reads and writes numbers with a point
cd "$(dirname "$0")/.."
logs=$PWD/build/test-logs
jobs=$(($(nproc) + ($(nproc) + 1) / 2)) summary=
while [[ ${1:-} == --* ]]; do
    case $1 in
    --jobs)
        jobs=${2-}
        [[ $jobs =~ ^[1-9][0-9]{0,3}$ ]] || { echo "tests/run.sh: --jobs $jobs: expected a number" >&2 && exit 1; }
        ;;
    --summary) summary=$2 ;;
    *) echo "tests/run.sh: unknown option $1" >&2 && exit 1 ;;
    esac
    shift 2
done
[ $# -gt 0 ] || { echo "tests/run.sh: no test matches" >&2 && exit 1; }
for unit in "$@"; do
    [[ $unit =~ ^[A-Za-z0-9_./:+-]+$ ]] || { echo "tests/run.sh: $unit: expected a unit" >&2 && exit 1; }
done
mkdir -p "$logs"
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
trap 'trap - INT TERM; kill 0; exit 130' INT TERM
unset MAKEFLAGS MFLAGS MAKELEVEL # tests call make on their own
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
total=$# ended=0 passed=0 failed=0 skipped=0

name_of() {
    local name=${1#alone:}
    echo "${name#build/}"
}
log_of() {
    local name
    name=$(name_of "$1")
    echo "$logs/${name//[\/:]/-}.log"
}

# run UNIT: writes its log, and "passed failed seconds" to $results.
run() {
    local unit=${1#alone:} log started=$SECONDS code ok bad summary
    log=$(log_of "$1")
    case $unit in
    pytest:*) timeout "${TEST_TIMEOUT:-1800}" .venv/bin/python -m pytest -q -rsP "${unit#pytest:}" ;;
    emu:*) timeout "${TEST_TIMEOUT:-900}" tests/emu/run_one.sh "${unit#emu:}" ;;
    *) timeout "${TEST_TIMEOUT:-900}" "./$unit" ;;
    esac >"$log" 2>&1 </dev/null
    code=$?
    case $unit in
    pytest:*)
        summary=$(tail -n 1 "$log")
        ok=$(grep -oE '[0-9]+ passed' <<<"$summary" | cut -d' ' -f1)
        bad=$(grep -oE '[0-9]+ (failed|error)' <<<"$summary" | awk '{n += $1} END {print n + 0}')
        ;;
    *.sh)
        ok=$(sed -nE 's/^([0-9]+) passed, [0-9]+ failed$/\1/p' "$log" | tail -n 1)
        bad=$(sed -nE 's/^[0-9]+ passed, ([0-9]+) failed$/\1/p' "$log" | tail -n 1)
        ;;
    *)
        ok=$(sed -nE 's/^\[  PASSED  \] ([0-9]+) test.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
        bad=$(sed -nE 's/^\[  FAILED  \] .*: ([0-9]+) test.*|^\[  FAILED  \] ([0-9]+) test.*/\1\2/p' "$log" | awk '{n += $1} END {print n + 0}')
        ;;
    esac
    ok=${ok:-0} bad=${bad:-0}
    # A program that crashed, timed out or ran no tests has failed, whatever its counts.
    if [ $code -ne 0 ] && [ "$bad" = 0 ]; then bad=1; fi
    if [ "$ok" = 0 ] && [ "$bad" = 0 ] && ! grep -q 'skipped' "$log"; then bad=1; fi
    echo "$ok $bad $((SECONDS - started))" >"$results/$(basename "$log")"
    echo "$1" >&3 # report that it has ended
}

# report UNIT: prints its line, and its output if it failed.
report() {
    local log ok bad seconds note=
    log=$(log_of "$1")
    read -r ok bad seconds <"$results/$(basename "$log")"
    passed=$((passed + ok)) failed=$((failed + bad)) ended=$((ended + 1))
    if [ "$ok" = 0 ] && [ "$bad" = 0 ]; then
        skipped=$((skipped + 1))
        note="  $(grep -m 1 skipped "$log")"
    fi
    printf '[%*d/%d] %-56s %3d passed, %d failed  (%d s)%s\n' ${#total} $ended "$total" "$(name_of "$1")" "$ok" "$bad" "$seconds" "$note"
    if [ "$bad" != 0 ]; then tail -n 40 "$log" | sed 's/^/    /'; fi
    unset "running[$1]"
}

# wait_for_one: waits until a unit ends; each minute it lists the running units.
wait_for_one() {
    local unit list
    until read -r -t 60 unit <&3; do
        list=
        for unit in "${!running[@]}"; do list+=", $(name_of "$unit") ($((SECONDS - running[$unit])) s)"; done
        printf '%*s running: %s\n' $((2 * ${#total} + 3)) '' "${list:2}"
    done
    report "$unit"
}

declare -A running=()
mkfifo "$results/ended" && exec 3<>"$results/ended"
echo "$total tests, $jobs in parallel; their output is in build/test-logs"
pool=() alone=()
for unit in "$@"; do if [[ $unit == alone:* ]]; then alone+=("$unit"); else pool+=("$unit"); fi; done
for unit in ${pool[@]+"${pool[@]}"}; do
    while [ ${#running[@]} -ge "$jobs" ]; do wait_for_one; done
    running[$unit]=$SECONDS
    run "$unit" &
done
while [ ${#running[@]} -gt 0 ]; do wait_for_one; done
for unit in ${alone[@]+"${alone[@]}"}; do
    running[$unit]=$SECONDS
    run "$unit" &
    wait_for_one
done
printf '%d tests in %d:%02d' "$total" $((SECONDS / 60)) $((SECONDS % 60))
[ $skipped = 0 ] || printf ', %d of them skipped' $skipped
printf '\n'
[ -z "$summary" ] || echo "$passed passed, $failed failed" >"$summary"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
