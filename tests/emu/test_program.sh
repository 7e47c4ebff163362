#!/usr/bin/env bash
# Compares the whole program on emulated CUDA with the CPU backend: encode, train, resume, eval and segment with a tiny
# model.
make=(make --no-print-directory -C "$(dirname "$0")/../..")
cpu=$(realpath -m "$(dirname "$0")/../../build/cpu-fp32")
emu=${cpu%cpu-fp32}emu
for backend in cpu-fp32 emu-fp32 emu-bf16; do
    tool=$([ $backend = cpu-fp32 ] && echo build/cpu-fp32/tests/data/difference)
    "${make[@]}" BACKEND=${backend%-*} PRECISION=${backend#*-} build/$backend/cocogold $tool >/dev/null || {
        echo "0 passed, 1 failed"
        exit 1
    }
done
COCOGOLD=$cpu/cocogold
source "$(dirname "$0")/../cli/common.sh"
tolerance() { [ "$1" = fp32 ] && echo "$2" || echo "$3"; } # PRECISION FP32 BF16

# close NAME A B TOLERANCE [DATASET]: compares pictures or data sets
close() {
    local distance
    distance=$("$cpu/tests/data/difference" "$2" "$3" ${5:-} 2>&1)
    awk -v d="$distance" -v t="$4" 'BEGIN { exit !(d + 0 <= t && d ~ /^[0-9]/) }'
    result $? "$1: $distance (at most $4)"
}
numbers() { sed -nE 's/.*"step":([0-9]+),"loss":([^,]+),"grad_norm":([^,]+).*/\1 \2 \3/p' "$1/log.jsonl"; }
# same_losses A B TOLERANCE [STEPS]: relative tolerance; prints the largest difference
same_losses() {
    paste <(numbers "$1") <(numbers "$2") | awk -v t="$3" -v steps="${4:-10}" '
        function away(a, b) { return (a > b ? a - b : b - a) / b }
        NF == 6 { n++; d = away($2, $5); if (d > worst) worst = d }
        END { printf "%d steps, losses differ by at most %.1e", n, worst; exit !(n == steps && worst <= t) }'
}
# same_masks EVAL TOLERANCE: compares the number of predicted pixels of each pair with cpu's, as a fraction of the
# picture
same_masks() {
    paste -d , <(cut -d , -f -10 cpu-eval/pairs.csv) "$1/pairs.csv" | awk -F , -v t="$2" '
        NR > 1 { n++; d = ($18 - $8) / $10; d = d < 0 ? -d : d; if (d > worst) worst = d; if ($8 > 0) some++ }
        END { printf "%d masks, %d not empty, differ by at most %.1e", n, some, worst; exit !(n == 2 && some && worst <= t) }'
}

"$cpu/cocogold" synth data --train 6 --val 3 >/dev/null 2>&1 &&
    "$cpu/cocogold" init --preset mini model >/dev/null 2>&1 || { result 1 "synth and init"; finish; }
encode=(encode --model model --data data --split train --targets overlay --min-side 1)
train=(train --model model --shards latents --train-batch-size 1 --gradient-accumulation-steps 2 --validate-every 0
    --no-roofline --max-train-steps 10)
pixels=("${train[@]}" --max-train-steps 3 --pixel-loss 0.5) # one direct step, one recorded, one replayed
picture=$(ls data/val/*.png | head -n 1)
segment=(segment --model cpu/model --image "$picture" --text "red circle" --steps 2)
eval=(eval --model cpu/model --data data --split val --limit 2 --steps 1 --bootstrap 0 --method luminance)
check "encode on cpu" "$cpu/cocogold" "${encode[@]}" --out latents
check "train on cpu" "$cpu/cocogold" "${train[@]}" --out cpu
check "train with pixel loss on cpu" "$cpu/cocogold" "${pixels[@]}" --out cpu-pixels
check "init --text-to-image" "$cpu/cocogold" init --preset mini --text-to-image --vae model text
check "encode captions" "$cpu/cocogold" encode --model text --data data --split train --texts captions --min-side 1 --out captions
text=(pretrain --model text --shards captions --train-text-encoder --train-batch-size 1 --gradient-accumulation-steps 2
    --validate-every 0 --no-roofline --max-train-steps 3 --lr 1e-3 --lr-warmup-steps 0)
generate=(generate --model cpu-text/model --text "a red circle" --steps 2 --count 1 --guidance 3)
check "pretrain on cpu" "$cpu/cocogold" "${text[@]}" --out cpu-text
check "generate on cpu" "$cpu/cocogold" "${generate[@]}" --out cpu-drawn
check "generate 9 x 9 cells on cpu" "$cpu/cocogold" "${generate[@]}" --resolution 36 --out cpu-odd
check "encode phrases on cpu" "$cpu/cocogold" "${encode[@]}" --out phrases --texts phrases
texts=("${train[@]}" --shards phrases --train-batch-size 3 --max-train-steps 3)
check "train on phrases on cpu" "$cpu/cocogold" "${texts[@]}" --out cpu-texts
check "segment on cpu" "$cpu/cocogold" "${segment[@]}" --out cpu-picture
check "eval on cpu" "$cpu/cocogold" "${eval[@]}" --out cpu-eval

for precision in fp32 bf16; do
    emulated=(env OMP_NUM_THREADS="$(nproc)" OMP_WAIT_POLICY=passive "$emu-$precision/cocogold")
    check "$precision: encode" "${emulated[@]}" "${encode[@]}" --out latents-$precision
    close "$precision: latents" latents-$precision/train-00000.h5 latents/train-00000.h5 "$(tolerance $precision 1e-3 3e-2)" image_latent
    check "$precision: train" "${emulated[@]}" "${train[@]}" --checkpoint-every 6 --out $precision
    check "$precision: $(same_losses $precision cpu "$(tolerance $precision 1e-5 2e-2)") from cpu" \
        same_losses $precision cpu "$(tolerance $precision 1e-5 2e-2)"
    cp -r $precision again-$precision && rm -r again-$precision/{model,checkpoint-000010} # as if killed after step 6
    check "$precision: --resume at step 6, streams at random" env EMU_DELAY=random:5 "${emulated[@]}" "${train[@]}" \
        --checkpoint-every 6 --out again-$precision --resume
    check "$precision: same losses" diff <(numbers $precision) <(numbers again-$precision)
    check "$precision: same bits" cmp $precision/model/unet/*.safetensors again-$precision/model/unet/*.safetensors
    check "$precision: train on phrases" "${emulated[@]}" "${texts[@]}" --out $precision-texts
    check "$precision: $(same_losses $precision-texts cpu-texts "$(tolerance $precision 1e-5 2e-2)" 3) from cpu" \
        same_losses $precision-texts cpu-texts "$(tolerance $precision 1e-5 2e-2)" 3
    check "$precision: texts embedded with each batch, streams at random" env EMU_DELAY=random:5 "${emulated[@]}" "${texts[@]}" \
        --out $precision-batches --text-memory 0
    check "$precision: same bits" cmp $precision-{texts,batches}/model/unet/diffusion_pytorch_model.safetensors
    check "$precision: segment" "${emulated[@]}" "${segment[@]}" --out $precision-picture
    close "$precision: the prediction" $precision-picture-prediction.png cpu-picture-prediction.png "$(tolerance $precision 3e-3 3e-2)"
    check "$precision: pretrain with the text encoder" "${emulated[@]}" "${text[@]}" --out $precision-text
    check "$precision: $(same_losses $precision-text cpu-text "$(tolerance $precision 1e-5 2e-2)" 3) from cpu" \
        same_losses $precision-text cpu-text "$(tolerance $precision 1e-5 2e-2)" 3
    check "$precision: generate" "${emulated[@]}" "${generate[@]}" --out $precision-drawn
    close "$precision: what it draws" $precision-drawn-0.png cpu-drawn-0.png "$(tolerance $precision 3e-3 5e-2)"
    # 9 x 9 cells: in bf16, the second of two samples begins in the middle of 16 bytes.
    check "$precision: generate 9 x 9 cells" "${emulated[@]}" "${generate[@]}" --resolution 36 --out $precision-odd
    close "$precision: what it draws" $precision-odd-0.png cpu-odd-0.png "$(tolerance $precision 3e-3 5e-2)"
    check "$precision: eval" "${emulated[@]}" "${eval[@]}" --out $precision-eval
    check "$precision: $(same_masks $precision-eval "$(tolerance $precision 0.002 0.05)") from cpu" \
        same_masks $precision-eval "$(tolerance $precision 0.002 0.05)"
    [ $precision = fp32 ] || continue
    # A card of 8 GiB whose memory is mostly in use: training that fits runs, but the roofline cannot be measured.
    short=("${emulated[@]}" train --model model --shards latents --train-batch-size 1 --validate-every 0 --max-train-steps 1
        --gradient-accumulation-steps 1)
    check "$precision: the roofline on an empty card" bash -c '"$@" --out empty-card | grep -q "of roofline"' - "${short[@]}"
    # With 16 SMs, the roofline is measured with the matrices of a real card.
    check "$precision: no roofline in 574 MB" bash -c '"$@" --out full-card >log 2>&1 && grep -q "^cocogold: warning: too little memory" log &&
        ! grep -q "of roofline" log && grep -qE "^  CUDA.s code and graphs +512 MB$" log' - \
        env EMU_PROCESSORS=16 EMU_TAKEN=$((8589934592 - 574000000)) "${short[@]}"
    check "$precision: training that does not fit in 557 MB" bash -c '! "$@" --out fuller-card >log 2>&1 &&
        grep -q "^cocogold: training needs 563 MB, but emulated sm_89 has 557 MB of its 8.6 GB free: stop other programs that use it" log' - \
        env EMU_TAKEN=$((8589934592 - 557000000)) "${short[@]}"
    # refused NAME SENTENCE COMMAND...: does not fit in 45 MB, of which cuBLASLt's workspace and the weights take 34 to 38 MB
    refused() {
        EMU_TAKEN=$((8589934592 - 45000000)) "${emulated[@]}" "${@:3}" --out refused >log 2>&1
        check "$precision: $1 that does not fit" grep -qE "^cocogold: $2, but emulated sm_89 has [0-9.]+ MB free: expected a smaller " log
    }
    refused "segment" "a picture at 256 pixels needs [0-9]+ MB" "${segment[@]}" --text "blue box" --resolution 256
    "$cpu/cocogold" preview --data data --split val --min-side 0 --size 32 --count 1 --out wide.png >/dev/null 2>&1
    EMU_TAKEN=$((8589934592 - 45000000)) "${emulated[@]}" segment --model model --image "$picture" wide.png --text "blue box" \
        --steps 1 --fit aspect --resolution 128 --no-pictures --json list.json >log 2>&1
    check "$precision: one of several pictures that does not fit" bash -c "[ $? = 1 ] && [ -s list.json ] &&
        grep -q '$picture: there is too little memory for 128 x 128 pixels' log && grep -q '^1 picture, 1 text' log"
    refused "encode" "--batch 8 at 128 pixels needs [0-9]+ MB" "${encode[@]}" --resolution 128
    # --tune: the file keeps the choice for a resumed run; without it the choice may be another, which is said.
    export XDG_CACHE_HOME=$PWD/cache
    tuned=("${emulated[@]}" "${train[@]}" --checkpoint-every 1 --checkpoints-total-limit 0)
    chosen() { sed -nE 's/.*"algorithms": ?"([^"]*)".*/\1/p' "$1/log.jsonl" | tail -n 1; }
    check "$precision: --tune" env EMU_LT=3:1 "${tuned[@]}" --max-train-steps 3 --tune --out tuned
    check "$precision: $(same_losses tuned cpu 1e-5 3) from cpu" same_losses tuned cpu 1e-5 3
    check "$precision: the choice is in the log" grep -q "^tuned ................$" <(chosen tuned)
    cp -r tuned tuned-again && rm -r tuned-again/{model,checkpoint-00000[23]}
    check "$precision: --resume with the file" bash -c '"$@" >log 2>&1 && ! grep -q warning log && grep -q "0 timed now" log' - \
        env EMU_LT=3:2 "${tuned[@]}" --max-train-steps 3 --tune --out tuned-again --resume
    check "$precision: same bits" cmp tuned{,-again}/model/unet/diffusion_pytorch_model.safetensors
    rm -r cache tuned-again/{model,checkpoint-00000[23]}
    check "$precision: --resume without the file" bash -c '"$@" >log 2>&1 && grep -q "was saved with cuBLASLt.s algorithms \"tuned" log' - \
        env EMU_LT=3:2 "${tuned[@]}" --max-train-steps 3 --tune --out tuned-again --resume
    check "$precision: without --tune the first" bash -c '"$@" >log && grep -q "cuBLASLt.s first algorithms" log' - \
        env EMU_LT=3:2 "${tuned[@]}" --max-train-steps 1 --out first
    check "$precision: it is in the log" grep -q "^first$" <(chosen first)
    unset XDG_CACHE_HOME
    # The micro-batch that fits: all 6 samples of a step on an empty card, fewer beside other programs; same losses.
    fitting=(train --model model --shards latents --validate-every 0 --no-roofline --max-train-steps 2 --gradient-accumulation-steps 3)
    check "$precision: micro-batches of 2" "${emulated[@]}" "${fitting[@]}" --train-batch-size 2 --out two
    check "$precision: all 6 samples fit" bash -c '"$@" --out six >log && grep -q "6 samples a step: micro-batches of 6 x 1 a rank x 1 rank" log' - "${emulated[@]}" "${fitting[@]}"
    check "$precision: $(same_losses six two 1e-5 2)" same_losses six two 1e-5 2
    check "$precision: fewer fit in 635 MB, of which CUDA gets 512 MB" bash -c '"$@" --out fewer >log && grep -qE "micro-batches of [123] x [236] a rank" log' - \
        env EMU_TAKEN=$((8589934592 - 635000000)) "${emulated[@]}" "${fitting[@]}"
    check "$precision: $(same_losses fewer two 1e-5 2)" same_losses fewer two 1e-5 2
    check "$precision: encode captions for validation" "$cpu/cocogold" encode --model text --data data --split val --texts captions --min-side 1 --out captions
    check "$precision: the validation of pretrain and its average count" bash -c '"$@" --out drawn >log && grep -q "micro-batches of [123] x" log' - \
        env EMU_TAKEN=$((8589934592 - 643000000)) "${emulated[@]}" pretrain --model text --shards captions --no-roofline --max-train-steps 1 --train-text-encoder \
        --gradient-accumulation-steps 3 --ema-decay 0.9 --validate-every 10 --validation-samples 3 --validation-steps 1
    check "$precision: on the CPU 2" bash -c '"$@" --out cpu-two >/dev/null && grep -q "\"step\":2" cpu-two/log.jsonl' - "$cpu/cocogold" "${fitting[@]}"
    check "$precision: train with pixel loss" "${emulated[@]}" "${pixels[@]}" --out $precision-pixels
    check "$precision: $(same_losses $precision-pixels cpu-pixels 1e-5 3) from cpu" same_losses $precision-pixels cpu-pixels 1e-5 3
done
finish
