#!/usr/bin/env bash
# Fills the folder of `make bundle` (bundle.mk):
#     bundle.sh programs FOLDER PRECISION PROGRAM...     copies programs into FOLDER/PRECISION and shared libraries of
#                                                        this project into FOLDER/lib, without debugging symbols
#     bundle.sh finish FOLDER BACKEND ARCHITECTURES [CUDA DRIVER]    adds the libraries they need, scripts, fixtures and
#                                                        the file built, with the versions of CUDA and of the oldest
#                                                        driver; packs it
# The folder has all shared libraries except glibc, the driver's, and those of CUDA that are larger than all the rest
# (cuBLASLt, NCCL), which the program loads from the machine's toolkit or PyTorch.
set -euo pipefail
cd "$(dirname "$0")/.."
command=$1 folder=$(realpath -m "$2")
shift 2
most=60000000 # bytes

programs() { # programs PRECISION FILE...
    local precision=$1 file to
    shift
    rm -rf "${folder:?}/$precision"
    mkdir -p "$folder/$precision" "$folder/lib"
    for file in "$@"; do
        case $file in
        *.so) to=lib/${file##*/} ;;
        */tests/model/* | */tests/train/*) to=$precision/test_model_${file##*/test_} ;; # names of their own
        *) to=$precision/${file##*/} ;;
        esac
        # The emulation finds a kernel's shared memory by the names of its arrays.
        strip "$([[ $file == build/emu-* ]] && echo --strip-debug || echo --strip-unneeded)" -o "$folder/$to" "$file"
    done
}

# needed: the shared libraries that the programs load, found as the dynamic linker finds them here.
needed() {
    local glibc='ld-linux.*|libc|libm|libmvec|libpthread|libdl|librt|libresolv|libutil|libanl|libnss_.*|libcuda'
    LD_LIBRARY_PATH=$folder/lib ldd "$folder"/*/* 2>/dev/null | sed -n 's/.* => \(\/.*\) (0x.*/\1/p' | sort -u |
        grep -vE "/($glibc)\.so|^$folder/" || true
}

finish() { # finish BACKEND ARCHITECTURES [CUDA DRIVER]
    local library size glibc driver=${4:-}
    for library in $(needed); do strip --strip-unneeded -o "$folder/lib/${library##*/}" "$library"; done
    mkdir -p "$folder"/{bench,tests}
    cp bench/gpu_check.sh "$folder/check.sh"
    cp bench/*.py bench/mini_steps.txt "$folder/bench"
    cp -r tests/fixtures "$folder/tests"
    cp LICENSE "$folder"
    glibc=$(cat "$folder"/*/* 2>/dev/null | grep -aoE 'GLIBC_[0-9.]+' | sort -Vu | tail -n 1) || true
    printf 'backend %s\narchitectures %s\nprocessor %s\nglibc %s\n' "$1" "$2" "$(uname -m)" "${glibc#GLIBC_}" >"$folder/built"
    [ ! "$driver" ] || printf 'cuda %s\ndriver %s\n' "$3" "$driver" >>"$folder/built"
    tar -C "${folder%/*}" -czf "$folder.tar.gz" "${folder##*/}"
    size=$(du -sb "$folder" | cut -f1)
    echo "$folder: $((size / 1000000)) MB (packed $(($(stat -c %s "$folder.tar.gz") / 1000000)) MB), needs glibc ${glibc#GLIBC_}${driver:+ and driver $driver}"
    [ "$1" = emu ] || [ "$size" -le $most ] || { echo "bundle: $folder has more than $((most / 1000000)) MB" >&2 && exit 1; }
}

"$command" "$@"
