#!/usr/bin/env bash
# Runs test programs one after the other and adds up their results. The last line is "N passed, N failed".
#   tests/run.sh PROGRAM...     cmocka programs, scripts that print "N passed, N failed", or "pytest:FOLDER"
# Output goes to build/test-logs/NAME.log; what fails is printed.
set -u
cd "$(dirname "$0")/.."
logs=build/test-logs
mkdir -p "$logs"
passed=0 failed=0
for program in "$@"; do
    name=${program#build/}
    log="$logs/${name//[\/:]/-}.log"
    started=$SECONDS
    case $program in
    pytest:*) .venv/bin/python -m pytest -q -rsP "${program#pytest:}" >"$log" 2>&1 ;;
    *) timeout "${TEST_TIMEOUT:-900}" "./$program" >"$log" 2>&1 ;;
    esac
    code=$?
    case $program in
    pytest:*)
        summary=$(tail -n 1 "$log")
        ok=$(grep -oE '[0-9]+ passed' <<<"$summary" | cut -d' ' -f1)
        bad=$(($(grep -oE '[0-9]+ (failed|error)' <<<"$summary" | awk '{n += $1} END {print n + 0}')))
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
    # A program that crashed, timed out or ran nothing has failed, whatever it counted.
    if [ $code -ne 0 ] && [ "$bad" = 0 ]; then bad=1; fi
    if [ "$ok" = 0 ] && [ "$bad" = 0 ] && ! grep -q 'skipped' "$log"; then bad=1; fi
    passed=$((passed + ok)) failed=$((failed + bad))
    printf '%-52s %3d passed, %d failed  (%d s)\n' "$name" "$ok" "$bad" $((SECONDS - started))
    if [ "$bad" != 0 ]; then tail -n 40 "$log" | sed 's/^/    /'; fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
