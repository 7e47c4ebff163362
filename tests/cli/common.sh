# Shared by the tests of the command line, tests/cli/test_*.sh, which source it. They test the program $COCOGOLD
# (default: ./cocogold). Their working directory is a temporary folder, which is removed at the end.
set -u
export LC_ALL=C # awk reads and writes numbers with a point
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cocogold=$(realpath "${COCOGOLD:-$root/cocogold}")
prepares=$(realpath "${COCOGOLD_PREPARE:-$cocogold}")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the models are small, and tests run beside each other
work=$(mktemp -d "${TMPDIR:-/tmp}/cocogold-cli-XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
passed=0 failed=0

result() { # result CODE NAME [DETAIL]
    if [ "$1" = 0 ]; then
        passed=$((passed + 1))
        echo "ok      $2"
    else
        failed=$((failed + 1))
        echo "FAILED  $2"
        [ -z "${3:-}" ] || sed 's/^/          /' <<<"$3"
    fi
}

check() { # check NAME COMMAND...: the command succeeds
    local text code
    text=$("${@:2}" 2>&1)
    code=$?
    result $code "$1" "$(tail -n 15 <<<"$text") (exit $code)"
}
run() { # run NAME ARGUMENTS...: `cocogold ARGUMENTS` succeeds
    check "$1" "$cocogold" "${@:2}"
}

check_not() { # check_not NAME COMMAND...: the command fails
    if "${@:2}" >/dev/null 2>&1; then result 1 "$1"; else result 0 "$1"; fi
}

# dies NAME TEXT ARGUMENTS...: `cocogold ARGUMENTS` ends with code 1, and stderr is one sentence that contains TEXT.
dies() {
    local name=$1 text=$2 said code lines
    shift 2
    timeout 60 "$cocogold" "$@" >"$work/.stdout" 2>"$work/.stderr"
    code=$?
    said=$(grep -v '^cocogold: warning: ' "$work/.stderr")
    lines=$(grep -c '' <<<"$said")
    if [ $code = 1 ] && [ "$lines" = 1 ] && [[ $said == "cocogold: "*"$text"* ]]; then
        result 0 "$name: ${said#cocogold: }"
    else
        result 1 "$name" "exit $code, expected one sentence with \"$text\", got: $said"
    fi
}

finish() {
    echo "$passed passed, $failed failed"
    [ $failed = 0 ]
    exit
}

# Creates a small data set, a random model and its latents: data/ model/ latents/. COCOGOLD_PREPARE is the program to
# use for this if the one under test is slow.
prepare() {
    local cocogold=$prepares
    "$cocogold" synth data --train 40 --val 12 >/dev/null 2>&1 &&
        "$cocogold" init --preset mini model >/dev/null 2>&1 || { result 1 "synth and init"; finish; }
    for split in train val; do
        "$cocogold" encode --model model --data data --split $split --out latents --targets overlay,mask --min-side 1 \
            --classes @data/classes/seen.txt >.encode 2>&1 || { result 1 "encode" "$(cat .encode)"; finish; }
    done
}
