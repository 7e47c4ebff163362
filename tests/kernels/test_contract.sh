#!/usr/bin/env bash
# Every function of kernels.h is also in reference.c, as reference_NAME with the same parameters less the device, and a test
# calls it there. The program contains none of them. kernels/runtime comes before the kernels.
source "$(dirname "$0")/../cli/common.sh"
cd "$root" || exit 1

# signatures FILE: "NAME: PARAMETER ..." of each function declared or defined at the start of a line.
signatures() {
    perl -0ne 's{//.*}{}g; while (/^void (\w+)\(([^;{}]*?)\)\s*[;{]/mg) {
        my ($name, $list) = ($1, $2); $name =~ s/^reference_//;
        print join(" ", "$name:", grep { $_ ne "dev" } map { /(\w+)\s*$/ } split /,/, $list), "\n" }' "$1"
}
names() { signatures "$1" | cut -d: -f1; }

lacks() { # lacks FILE: says what of kernels.h is not in FILE
    local missing
    missing=$(names kernels/kernels.h | while read -r name; do names "$1" | grep -qx "$name" || echo "reference_$name"; done)
    [ -n "$missing" ] && echo "$1 lacks" $missing
}
complete() { ! lacks "$1"; }
agree() { diff <(signatures kernels/kernels.h) <(signatures "$1"); }
called() {
    local missing
    missing=$(names kernels/kernels.h | while read -r name; do grep -qwE "reference_$name" tests/kernels/test_*.c || echo "reference_$name"; done)
    [ -z "$missing" ] || { echo "no test calls" $missing; false; }
}

# Where both are in a function, device_launch comes first (kernels/runtime/device.h).
workspace_first() {
    awk '/^}/ { taken = 0 } /device_workspace\(/ { taken = 1 } taken && /device_launch\(/ { print FILENAME ":" FNR }' \
        kernels/*.c kernels/*.cu kernels/*.cuh | grep .
}

above() { grep -rn '#include "kernels/' kernels/runtime | grep -v '"kernels/runtime/'; }

check_not "kernels/runtime includes no file of kernels/" above
check_not "no function takes workspace before it reports its launch" workspace_first
check "kernels.h was read" [ "$(names kernels/kernels.h | wc -l)" = "$(grep -cE '^void ' kernels/kernels.h)" ]
for file in kernels/reference.c kernels/reference.h; do
    check "$file has every function of kernels.h" complete $file
    check "$file has them in the same order, with the same parameters" agree $file
done
check "each is called by a test" called
sed 's/^void reference_gaussian_kl(/static &/' kernels/reference.c >"$work/reference.c"
check "one that is missing is named" grep -qw reference_gaussian_kl <<<"$(lacks "$work/reference.c")"
contained() { nm "$cocogold" | grep ' reference_'; }
check_not "the program contains none of them" contained
finish
