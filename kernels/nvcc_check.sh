#!/usr/bin/env bash
# nvcc_check.sh "ARCHS" FLAGS...: compiles kernels/*.cu for each architecture in both precisions, as many at a time as
# there are cores, and prints what ptxas says of each kernel; fails if one does not compile or spills registers.
set -euo pipefail
archs=$1
shift
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export NVCC out flags="$*"

compile() { # PRECISION ARCH FILE
    local object=$out/$1-$2-$(basename "$3") table
    # shellcheck disable=SC2086
    $NVCC -I. -DBACKEND_cuda -DPRECISION_$1 $flags -arch=sm_$2 -Xptxas -v -c "$3" -o "$object" >"$object.log" 2>&1 ||
        { cat "$object.log" && return 255; }
    table=$(c++filt <"$object.log" | awk -v precision="$1" -v arch="$2" '
        /Compiling entry function/ {
            name = $0
            sub(/^[^\x27]*\x27/, "", name)
            sub(/\x27 for .*/, "", name)
            sub(/^void /, "", name)
            sub(/\(.*/, "", name)
        }
        /spill stores/ { for (i = 2; i <= NF; i++) if ($i ~ /^spill/ && $(i + 1) ~ /^stores/) spills = $(i - 2) }
        /Used [0-9]+ registers/ {
            shared = 0
            for (i = 1; i <= NF; i++) {
                if ($i == "Used") registers = $(i + 1)
                if ($i == "smem" || $i == "smem,") shared = $(i - 2)
            }
            printf "%s sm_%-3s %3d registers %5d static shared %4d spilled  %s\n", precision, arch, registers, shared, spills, name
        }')
    echo "$table"
}
export -f compile

for precision in fp32 bf16; do
    for arch in $archs; do
        for file in kernels/*.cu; do echo "$precision $arch $file"; done
    done
done | xargs -P "$(nproc)" -L 1 bash -c 'compile "$@"' compile | tee "$out/table"
awk '$8 > 0 { bad = 1; print "spills registers: " $0 } END { exit bad }' "$out/table"
