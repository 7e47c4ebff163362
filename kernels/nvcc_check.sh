#!/usr/bin/env bash
# nvcc_check.sh "ARCHS" FLAGS...: compiles kernels/*.cu for each architecture in both precisions and prints what ptxas
# says of each kernel; fails if one spills registers to local memory.
set -euo pipefail
archs=$1
shift
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for precision in fp32 bf16; do
    for file in kernels/*.cu; do
        for arch in $archs; do
            "$NVCC" -I. -DBACKEND_cuda -DPRECISION_$precision "$@" -arch=sm_"$arch" -Xptxas -v -c "$file" -o "$out/object" \
                >"$out/log" 2>&1 || { cat "$out/log" && exit 1; }
            c++filt <"$out/log" | awk -v precision=$precision -v arch="$arch" '
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
                    printf "%s sm_%-3s %3d registers %5d static shared %4d spilled  %s\n", precision, arch, registers,
                           shared, spills, name
                }'
        done
    done
done | tee "$out/table"
awk '$8 > 0 { bad = 1; print "spills registers: " $0 } END { exit bad }' "$out/table"
