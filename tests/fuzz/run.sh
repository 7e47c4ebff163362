#!/usr/bin/env bash
# Builds and runs fuzz targets (tests/README.md).
#     tests/fuzz/run.sh TARGET [SECONDS]    fuzzes; the corpus, findings and the log are in build/fuzz/TARGET
#     tests/fuzz/run.sh TARGET FILE...      runs these inputs once and shows what the program says (or libFuzzer's options)
#     tests/fuzz/run.sh                     a test: every target's seeds and old findings once, then 10 s of fuzzing each
set -u
cd "$(dirname "$0")/../.." || exit
unset MAKEFLAGS MFLAGS MAKELEVEL
build=build/cpu-fp32-fuzz/tests/fuzz
targets=$(sed -n 's|.*/fuzz_\(.*\)\.c$|\1|p' <(printf '%s\n' tests/fuzz/fuzz_*.c) | tr '\n' ' ')

build() { # build PROGRAM...
    make --no-print-directory BACKEND=cpu PRECISION=fp32 BUILD_SUFFIX=-fuzz CC="$clang" CXX="${clang/clang/clang++}" \
        SANITIZE=address,undefined,float-cast-overflow,fuzzer-no-link "$@"
}

# The names and special values that an input may hold: those of the seeds, in libFuzzer's form.
dictionary() { # dictionary TARGET
    local word
    { grep -haoE '"[A-Za-z_.+|<>/-]{1,40}"' "tests/fuzz/seeds/$1"/* | sort -u
        printf '%s\n' NaN Infinity -Infinity null true false '[]' '{}' '""' -1 0 1e999 1e30 0.5 4294967297 -2147483649 \
            9223372036854775808 2147483647
        grep -haE '^=== ' "tests/fuzz/seeds/$1"/* | sort -u; } | grep -avP '[^\x20-\x7e]' |
        while IFS= read -r word; do
            word=${word//\\/\\\\}
            echo "\"${word//\"/\\\"}\""
        done
}

# run TARGET ARGUMENTS...: a finding ends it with another code than 0.
run() {
    ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=32 OMP_NUM_THREADS=1 \
        "$build/fuzz_$1" -timeout=20 -rss_limit_mb=3000 -detect_leaks=0 "${@:2}"
}

fuzz() { # fuzz TARGET SECONDS
    local folder=build/fuzz/$1
    mkdir -p "$folder/corpus"
    dictionary "$1" >"$folder/dictionary"
    run "$1" -max_total_time="$2" -dict="$folder/dictionary" -artifact_prefix="$folder/" -print_final_stats=1 \
        -max_len=16384 "$folder/corpus" "tests/fuzz/seeds/$1" $(ls -d "tests/fuzz/found/$1" 2>/dev/null) >"$folder/log" 2>&1
}

executions() { sed -n 's/^stat::number_of_executed_units: *//p' "build/fuzz/$1/log" | tail -n 1; }

# test_target TARGET SECONDS: prints "ok ..." or "FAILED ..." and what was found.
test_target() {
    local inputs log=build/fuzz/$1/log
    mkdir -p "build/fuzz/$1"
    mapfile -t inputs < <(find "tests/fuzz/seeds/$1" "tests/fuzz/found/$1" -type f 2>/dev/null | sort)
    if ! run "$1" "${inputs[@]}" >"$log" 2>&1; then
        echo "FAILED  $1: an input of tests/fuzz/seeds or tests/fuzz/found"
    elif ! fuzz "$1" "$2"; then
        echo "FAILED  $1: $(executions "$1") executions, 1 finding: $(grep -o "build/fuzz/$1/[a-z]*-[0-9a-f]*" "$log" | tail -n 1)"
    else
        echo "ok      $1: ${#inputs[@]} files, then $(executions "$1") executions, no finding"
        return
    fi
    grep -aE -m 12 'ERROR:|runtime error|SUMMARY|^Running|^ *#[0-9]+ .* in ' "$log" | sed 's/^/          /'
}

# A crashed program leaves its folder.
FUZZ_FOLDER=$(mktemp -d /dev/shm/cocogold-fuzz-XXXXXX 2>/dev/null || mktemp -d)
export FUZZ_FOLDER
trap 'rm -rf "$FUZZ_FOLDER"' EXIT
clang=$(tests/build/find_clang.sh fuzzer,address)
if [ -z "$clang" ]; then
    echo "skipped: no clang with libFuzzer and OpenMP is installed (setup.sh --fuzz)"
    exit 0
fi
if [ $# = 0 ]; then
    build fuzz-programs || exit
    for target in $targets; do
        while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
        test_target "$target" "${FUZZ_SECONDS:-10}" >"build/fuzz-$target.result" &
    done
    wait
    results=$(for target in $targets; do cat "build/fuzz-$target.result" && rm "build/fuzz-$target.result"; done)
    echo "$results"
    echo "$(grep -c '^ok' <<<"$results") passed, $(grep -c '^FAILED' <<<"$results") failed"
    ! grep -q '^FAILED' <<<"$results"
    exit
fi
if [[ " $targets" != *" ${1:-} "* ]]; then
    echo "make fuzz: TARGET is one of: $targets" >&2
    exit 1
fi
build "$build/fuzz_$1" || exit
if [ $# -gt 1 ] && [[ $2 != [0-9]* ]]; then
    FUZZ_SAY=1 run "$@"
    exit
fi
echo "fuzzing $1 for ${2:-60} s; the log is build/fuzz/$1/log"
code=0
fuzz "$1" "${2:-60}" || code=1
echo "$1: $(executions "$1") executions, $code findings"
[ $code = 0 ] || grep -aE 'ERROR:|runtime error|SUMMARY|Test unit written|^ *#[0-9]+ .* in ' "build/fuzz/$1/log" | head -n 20
exit $code
