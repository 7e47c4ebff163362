#!/usr/bin/env bash
# make bundle and its check.sh, as far as a machine without a GPU shows it: the CPU's bundle, whose check.sh runs every
# part at a small size, and, if nvcc is installed, that of CUDA for one architecture. Each starts in a root that has the
# bundle and glibc but nothing else (needs root). What only a GPU shows: the kernels' tests, the sanitizer, the times.
# CUDA_ARCHS and PRECISIONS choose what is built (default: 80, fp32).
#     tests/build/test_bundle.sh [cpu|emu|cuda ...]     default: cpu cuda
set -u
cd "$(dirname "$0")/../.."
passed=0 failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1
[ ! -x .venv/bin/python3 ] || PATH=$PWD/.venv/bin:$PATH # has PyTorch
check() { # check WHAT COMMAND...
    local log
    if log=$("${@:2}" 2>&1); then
        passed=$((passed + 1)) && echo "ok      $1"
    else
        failed=$((failed + 1)) && echo "FAILED  $1" && tail -n 20 <<<"$log"
    fi
}
bundle() { # bundle BACKEND [VARIABLE=VALUE...]: the folder is $work/BACKEND
    check "make bundle BACKEND=$1" make --no-print-directory bundle BACKEND="$1" BUNDLE_DIR="$work/$1" "${@:2}"
    [ -d "$work/$1/fp32" ]
}

# bare BACKEND: makes $root, the bundle with the files of glibc that its programs ask for
bare() {
    root=$work/root-$1
    mkdir -p "$root"/{tmp,proc}
    cp -r "$work/$1" "$root/bundle"
    local file
    for file in $(ldd "$root"/bundle/*/* 2>/dev/null | grep -oE '/[^ ]*/(ld-linux[^ ]*|lib(c|m|mvec|pthread|dl|rt|resolv)\.so[^ ]*)' | sort -u); do
        mkdir -p "$root$(dirname "$file")" && cp -L "$file" "$root$file"
    done
}
# inside COMMAND...: in $root, with /proc, by which programs find their own folder
# shellcheck disable=SC2016
inside() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin unshare --mount --pid --fork bash -c \
        'mount -t proc proc "$0/proc" && exec env -i "$(command -v chroot)" "$0" "/bundle/$1" "${@:2}"' "$root" "$@"
}
one_sentence() { # one_sentence COMMAND...: exit code 1, and one line, except for cmocka's, says that there is no GPU
    local said code
    said=$(inside "$@" 2>&1)
    code=$?
    said=$(grep -v '^\[' <<<"$said")
    echo "exit $code: $said"
    [ $code = 1 ] && [[ $said == "cocogold: no NVIDIA GPU can be used here: no NVIDIA driver is installed"* && $said != *$'\n'* ]]
}
bare_checks() { # bare_checks BACKEND
    local precision
    unshare --mount --pid --fork true 2>/dev/null || { echo "skipped: an empty root needs root and namespaces" && return; }
    bare "$1"
    for precision in $(cd "$work/$1" && ls -d fp32 bf16 2>/dev/null); do
        check "$1 $precision: --help in an empty root" inside "$precision/cocogold" --help
        check "$1 $precision: bench plan in an empty root" inside "$precision/cocogold" bench plan --preset sd2 --size 64
        if [ "$1" = cuda ] && ! nvidia-smi -L >/dev/null 2>&1; then
            check "$1 $precision: the sentence that there is no GPU" one_sentence "$precision/cocogold" bench linear
            check "$1 $precision: a test says it too" one_sentence "$precision/test_activation"
        else
            check "$1 $precision: a test in an empty root" inside "$precision/test_activation"
        fi
    done
}
without_libraries() { ! ls "$work/$1/lib" | grep -E 'openblas|cublas|nccl|libcuda|libc\.so'; } # BACKEND

# check.sh with these parts: nothing fails, and what it writes can be read
parts() { # parts BACKEND [PART...]
    GPU_CHECK_BIG=0 "$work/$1/check.sh" --out "$work/out-$1" "${@:2}" >"$work/$1.log" 2>&1
    local code=$?
    cat "$work/$1.log"
    tail -n 1 "$work/$1.log" | grep -qE '^[0-9]+ passed, 0 failed, [0-9]+ slower than PyTorch$' && [ $code = 0 ] &&
        python3 -m json.tool "$work/out-$1/results.json" >/dev/null && grep -q '^| part | check ' "$work/out-$1/results.md"
}
no_gpu() { # check.sh of cuda: one sentence, exit code 1 and the counts
    "$work/cuda/check.sh" --out "$work/out-cuda" >"$work/cuda.log" 2>&1
    local code=$?
    cat "$work/cuda.log"
    [ $code = 1 ] && [ "$(tail -n 1 "$work/cuda.log")" = "2 passed, 1 failed, 0 slower than PyTorch" ] &&
        [ "$(grep -c "no NVIDIA GPU can be used here" "$work/cuda.log")" = 1 ] &&
        grep -q "no NVIDIA GPU can be used here" "$work/out-cuda/results.md"
}
torch_row() { # the lab's row of PyTorch: the program finds the script of its bundle
    LAB_TORCH=1 "$work/$1/fp32/cocogold" bench layernorm --version all --shape 20,64 --runs 1 >"$work/$1.log" &&
        cat "$work/$1.log" && grep '^  -  PyTorch' "$work/$1.log" | grep -qv torch_gpu
}
broken() { # a part that fails is counted, and the others run
    cp "$work/$1/fp32/test_activation" "$work/kept"
    printf '#!/bin/sh\nexit 3\n' >"$work/$1/fp32/test_activation"
    local log
    log=$("$work/$1/check.sh" --out "$work/out-broken" kernels machine)
    local code=$?
    mv "$work/kept" "$work/$1/fp32/test_activation"
    [ $code = 1 ] && grep -q '^failed .*fp32 test_activation: exit code 3' <<<"$log" && grep -q '^ok .*a plan' <<<"$log" &&
        tail -n 1 <<<"$log" | grep -q ' 1 failed, '
}
libraries() { # make gpu-check names the folders of the libraries that the program was built with, from where it is called
    mkdir -p "$work/wheel/lib" && : >"$work/wheel/lib/libcublasLt.so.99"
    (cd "$work" && GPU_CHECK_LIBRARIES="none wheel" "$1/check.sh" --out "$work/out-libraries" machine) |
        grep '^ok .*libcublasLt.so.99: /.*/wheel/lib/libcublasLt.so.99$'
}
# dying FOLDER SENTENCE PART...: check.sh of a bundle for a GPU whose program only dies with this sentence
dying() {
    local folder=$1 code
    mv "$folder/fp32/cocogold" "$work/kept"
    printf '#!/bin/sh\necho "cocogold: %s" >&2\nexit 1\n' "$2" >"$folder/fp32/cocogold"
    cp "$folder/built" "$work/built"
    sed -i 's/^backend .*/backend cuda/' "$folder/built"
    chmod +x "$folder/fp32/cocogold"
    GPU_CHECK_BIG=0 "$folder/check.sh" --out "$work/out-dying" "${@:3}"
    code=$?
    mv "$work/kept" "$folder/fp32/cocogold"
    mv "$work/built" "$folder/built"
    return $code
}
no_library() { # without cuBLASLt no part can work: it is said once
    local log
    log=$(dying "$work/$1" "libcublasLt.so.13 cannot be loaded: name its folder" kernels speed)
    echo "$log"
    [ "$(grep -c '^failed' <<<"$log")" = 3 ] && grep -q '^failed .*machine: the device opens: libcublasLt.so.13 cannot be loaded' <<<"$log" &&
        ! grep -E '^[a-z]+ +(kernels|speed):' <<<"$log"
}
too_much() { # a step that does not fit into the card, and a sanitizer that is too slow, have not failed
    local log code
    mkdir -p "$work/bin"
    printf '#!/bin/sh\n[ $# = 1 ] || exit 124\n' >"$work/bin/compute-sanitizer" # timeout's code
    chmod +x "$work/bin/compute-sanitizer"
    log=$(PATH=$work/bin:$PATH dying "$work/$1" "cannot allocate 24.200 GB of GPU memory: 15.000 of 16.000 GB are free" step speed sanitizer)
    code=$?
    echo "$log"
    [ $code = 0 ] && [ "$(tail -n 1 <<<"$log")" = "0 passed, 0 failed, 0 slower than PyTorch" ] &&
        [ "$(grep -cE '^skipped +(step|speed): .*cannot allocate 24.200 GB of GPU memory' <<<"$log")" = 2 ] &&
        grep -q '^skipped  sanitizer: racecheck test_loss: not finished after 60 s' <<<"$log"
}

for backend in "${@:-cpu cuda}"; do
    case $backend in # the default is one word with both
    *cpu*)
        if bundle cpu; then
            check "cpu: no library of the GPU's or glibc in it" without_libraries cpu
            bare_checks cpu
            check "cpu: check.sh, all parts" parts cpu
            check "cpu: a part that fails" broken cpu
            check "cpu: the libraries of the build" libraries cpu
            check "cpu: too little memory, too little time" too_much cpu
            check "cpu: no cuBLASLt" no_library cpu
            check "cpu: the kernel lab asks PyTorch" torch_row cpu
        fi
        ;;&
    *emu*)
        if bundle emu; then check "emu: check.sh" parts emu machine residency training step; fi
        ;;&
    *cuda*)
        nvcc=${NVCC:-nvcc}
        if ! command -v "${nvcc%% *}" >/dev/null; then
            echo "skipped: nvcc is not installed"
        elif bundle cuda CUDA_ARCHS="${CUDA_ARCHS:-80}" PRECISIONS="${PRECISIONS:-fp32}"; then
            check "cuda: cuBLASLt, NCCL, glibc and OpenBLAS are not in it" without_libraries cuda
            check "cuda: the oldest driver is named" grep -xE 'driver (580|550|525)\.[0-9]+' "$work/cuda/built"
            bare_checks cuda
            nvidia-smi -L >/dev/null 2>&1 || check "cuda: check.sh says once that there is no GPU" no_gpu
        fi
        ;;
    esac
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
