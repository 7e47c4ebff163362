#!/usr/bin/env bash
# ThreadSanitizer: clang builds the program with it in build/cpu-fp32-thread, and what runs several threads (encode, the
# thread that reads shards, train, train-vae, eval) is run on tiny data. A data race fails the test.
# Archer, which clang's OpenMP loads, tells ThreadSanitizer what OpenMP orders; a program with a race and one without show
# that both work. Libraries that are not built with it (HDF5) are not watched.
export OMP_NUM_THREADS=4
root=$(cd "$(dirname "$0")/../.." && pwd)
COCOGOLD=$root/build/cpu-fp32-thread/cocogold
clang=$("$root/tests/build/find_clang.sh" thread)
if [ -z "$clang" ]; then
    echo "skipped: no clang with ThreadSanitizer and OpenMP is installed (setup.sh --fuzz)"
    exit 0
fi
mkdir -p "$root/build"
if ! make -C "$root" --no-print-directory -j"$(nproc)" BACKEND=cpu PRECISION=fp32 BUILD_SUFFIX=-thread SANITIZE=thread \
    "CC=$clang" "CXX=${clang/clang/clang++}" build/cpu-fp32-thread/cocogold >"$root/build/thread.log" 2>&1; then
    tail -n 20 "$root/build/thread.log"
    echo "0 passed, 1 failed"
    exit 1
fi
source "$root/tests/cli/common.sh"
export TSAN_OPTIONS="ignore_noninstrumented_modules=1:exitcode=66"

# no_race NAME COMMAND...: it ends well; a report of ThreadSanitizer is shown.
no_race() {
    local text code
    text=$("${@:2}" 2>&1)
    code=$?
    result $code "$1: no data race" "$(grep -A 24 'WARNING: ThreadSanitizer' <<<"$text" | head -n 40) $(tail -n 3 <<<"$text") (exit $code)"
}

cat >race.c <<'END'
#include <stdio.h>
int main(int argc, char **argv) {
    int sum = 0, racy = 0, values[1000];
#pragma omp parallel for
    for (int i = 0; i < 1000; i++) { values[i] = i; }
#pragma omp parallel for reduction(+ : sum)
    for (int i = 0; i < 1000; i++) {
        sum += values[999 - i];
        if (argc > 1) { racy += values[i]; }
    }
    printf("%s %d %d\n", argv[0], sum, racy);
    return 0;
}
END
"$clang" -g -O1 -fsanitize=thread -fopenmp race.c -o race
no_race "threads that OpenMP orders" ./race
check_not "a race is found" ./race with

no_race "synth" "$cocogold" synth data --train 8 --val 4
no_race "init" "$cocogold" init --preset mini model
for split in train val; do
    no_race "encode $split" "$cocogold" encode --model model --data data --split $split --out latents \
        --targets overlay,mask --min-side 1 --threads 3
done
recipe=(--max-train-steps 3 --train-batch-size 2 --gradient-accumulation-steps 2 --checkpoint-every 2 --no-roofline)
no_race "train" "$cocogold" train --model model --shards latents --out run "${recipe[@]}" --validate-every 2 \
    --validation-samples 2 --ema-decay 0.9 --pixel-loss 0.5
no_race "train --resume" "$cocogold" train --model model --shards latents --out run "${recipe[@]}" --validate-every 2 \
    --validation-samples 2 --ema-decay 0.9 --pixel-loss 0.5 --resume
no_race "train-vae" "$cocogold" train-vae --model model --data data --out vae "${recipe[@]}"
no_race "eval" "$cocogold" eval --model run/model --data data --split val --out eval --bootstrap 20 --steps 1
finish
