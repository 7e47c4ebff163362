#!/usr/bin/env bash
# Where numbers have a decimal comma, as in German: mawk, Debian's awk, would read 0.53 as 0. The scripts that compute
# with awk, and the program, read and write points. The locale is made here. Skipped without localedef and its sources.
source "$(dirname "$0")/../cli/common.sh"
if ! localedef -i de_DE -f UTF-8 "$work/de_DE.UTF-8" 2>/dev/null; then
    echo "skipped: localedef cannot make de_DE.UTF-8 (apt-get install locales)"
    exit 0
fi
german=(env LOCPATH="$work" LC_ALL=de_DE.UTF-8)
# functions FILE NAME: the file's locale and one of its functions
functions() { sed -n "/^export LC_ALL/p; /^$2() {/,/^}/p" "$root/$1"; }
prints() { # prints TEXT COMMAND...: in German
    local text
    text=$("${german[@]}" "${@:2}")
    echo "$text"
    [[ $text == *"$1"* ]]
}

printf '%d 0.5 1.5\n' {1..10} >one && sed 's/0\.5/0.6/' one >other
check "gpu_check.sh: the same losses" prints "losses within 0.0e+00" bash -c "$(functions bench/gpu_check.sh differ); differ one one 1e-4"
check_not "gpu_check.sh: other losses" "${german[@]}" bash -c "$(functions bench/gpu_check.sh differ); differ one other 1e-4"
printf '{\n  "groups": {\n    "known": {\n      "giou": 0.534\n    }\n  }\n}\n' >metrics.json
check "demo.sh: a figure" prints "0.534" bash -c "$(functions train/experiments/demo.sh figure); out=. figure groups.known.giou"
sum='BEGIN { print 0.25 + "0.5" }'
check "the tests of the command line" prints "0.75" bash -c "source '$root/tests/cli/common.sh' && awk '$sum'"
check "the program" prints ": 1.0 M parameters" "$cocogold" bench plan --preset mini
finish
