#!/usr/bin/env bash
# Training on several ranks: losses do not depend on the number of ranks or on --zero; training resumes from a
# checkpoint on any number of ranks; a signal to one rank stops all. SHORT=1 (tests/emu/test_ranks.sh): only the losses.
# shellcheck disable=SC2046 # batch prints several words
source "$(dirname "$0")/common.sh"
command -v mpirun >/dev/null || { echo "skipped: no mpirun"; echo "0 passed, 0 failed"; exit 0; }
source "$root/tests/cli/ranks.sh"
many=(2 4)
if [[ $build == cuda-* ]]; then # a GPU for each rank
    gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ')
    [ "$gpus" -ge 2 ] || { echo "skipped: it needs two GPUs, this machine has $gpus"; echo "0 passed, 0 failed"; exit 0; }
    [ "$gpus" -ge 4 ] || many=(2)
fi
prepare

short=${SHORT:-0}
vae=(train-vae --model model --data data --max-train-steps 3 --gradient-accumulation-steps 2
    --validate-every 0 --no-roofline)

# batch N: options for the same global batch on N ranks: 8 samples with larger batches, or (SHORT) 4 with more
# accumulation, so that errors of late streams are noticed more often.
batch() {
    if [ $short = 1 ]; then
        echo --train-batch-size 1 --gradient-accumulation-steps $((4 / $1))
    else
        echo --train-batch-size $((4 / $1)) --gradient-accumulation-steps 2
    fi
}
# on N COMMAND...: runs `cocogold COMMAND` on N ranks; each writes its process id to .pid-RANK.
on() {
    # shellcheck disable=SC2016
    timeout 600 mpirun -np "$1" bash -c 'echo $$ >".pid-$OMPI_COMM_WORLD_RANK"; exec "$@"' - "$cocogold" "${@:2}"
}
# stopped OUT SIGNAL RANK STEPS N COMMAND...: runs on N ranks and sends one of them the signal after so many steps.
stopped() {
    local out=$1 signal=$2 rank=$3 wanted=$4 pid
    rm -f .pid-*
    on "${@:5}" --out "$out" >"$out.log" 2>&1 &
    pid=$!
    reach "$out" "$wanted" kill -0 $pid
    kill "-$signal" "$(cat ".pid-$rank")"
    wait $pid
}

# 1, 2 and 4 ranks.
check "1 rank" on 1 "${unet[@]}" $(batch 1) --out one
for ranks in "${many[@]}"; do
    for zero in 0 1; do
        [ $short$ranks$zero = 140 ] && continue
        unset EMU_DELAY # emulated streams run as late as possible, or at random times
        [ $short$zero = 10 ] && export EMU_DELAY=random:7
        out=ranks$ranks-zero$zero
        check "$ranks ranks, --zero $zero" on $ranks "${unet[@]}" $(batch $ranks) --zero $zero --out $out
        check_close "$ranks ranks, --zero $zero, compared with one" $out one
    done
done
# Gradients in the arena, where a step has one micro-batch: they are reduced while backward still fills the arena.
single=("${unet[@]}" --gradient-accumulation-steps 1 --max-train-steps 3)
check "one micro-batch, 1 rank" on 1 "${single[@]}" --train-batch-size 4 --out single
for zero in 0 1; do
    check "one micro-batch, 2 ranks, --zero $zero" on 2 "${single[@]}" --train-batch-size 2 --zero $zero --out single-zero$zero
    check_close "one micro-batch, 2 ranks, --zero $zero, compared with one" single-zero$zero single
done
# --tune under emulation: all ranks take rank 0's choice, whatever algorithm each of them finds faster.
if [[ $build == emu-* ]]; then
    tuned() { # tuned OUT FASTEST...: one on each rank
        # shellcheck disable=SC2016
        XDG_CACHE_HOME=$PWD/$1-cache timeout 600 mpirun -np 2 bash -c 'fastest=($1); EMU_LT=3:${fastest[OMPI_COMM_WORLD_RANK]} exec "${@:2}"' \
            - "${*:2}" "$cocogold" "${unet[@]}" $(batch 2) --max-train-steps 2 --tune --out "$1"
    }
    check "--tune, rank 1 finds another algorithm faster" tuned tuned 1 2
    check "--tune, both find the same" tuned same 1 1
    check "the same bits" same_bits tuned same
    check "--tune, both find the other one" tuned other 2 2
    check_not "other bits" same_bits tuned other
fi
# The text encoder too, with sharded state. Without a warm-up, and with Adam's usual epsilon of 1e-8, the first step would
# turn the rounding of gradients that are nearly 0 into changes of weights that later losses show.
text=(pretrain --model text --shards latents --max-train-steps 4 --lr 1e-3 --lr-warmup-steps 0 --adam-epsilon 1e-5
    --max-grad-norm 1 --ema-decay 0.9 --train-text-encoder --checkpoint-every 0 --validate-every 0 --no-roofline)
check "init --text-to-image" "$prepares" init --preset mini --text-to-image --vae model text
check "pretrain, 1 rank" on 1 "${text[@]}" $(batch 1) --out text-one
check "pretrain, 2 ranks, --zero 1" on 2 "${text[@]}" $(batch 2) --zero 1 --out text-two
check_close "pretrain, 2 ranks compared with one" text-two text-one
if [ $short = 1 ]; then
    mv ranks2-zero1 half
    rm -rf half/model half/checkpoint-000010
    check "step 8 of two ranks, resumed on 1" on 1 "${unet[@]}" $(batch 1) --resume --out half
    check_close "resumed on 1, compared with the uninterrupted run" half one
    finish
fi
on 2 "${unet[@]}" $(batch 2) --max-train-steps 2 --zero 1 --out said >said.log 2>&1
check "only rank 0 prints" [ "$(grep -c '^step 1/2 ' said.log)" = 1 ]
check "the samples of a step: $(grep ' samples a step' said.log)" \
    grep -q '^8 samples a step: micro-batches of 2 x 2 a rank x 2 ranks$' said.log
for ranks in 1 2; do # by default 32 together
    on $ranks "${unet[@]}" --max-train-steps 1 --out default$ranks >default$ranks.log 2>&1
    check "by default, $ranks: $(grep ' samples a step' default$ranks.log)" grep -q "^32 samples a step: micro-batches of 2 x $((16 / ranks)) a rank x $ranks rank" default$ranks.log
done
check_close "the same losses" default2 default1
check "the log has the number of ranks" grep -q '"kind":"step".*"world":2' said/log.jsonl
check "the screen too: $(grep -o ' on 2 ranks' said.log | head -1)" grep -q 'samples/s on 2 ranks' said.log
check "the table shows the saved memory: $(grep -- '--zero 1' said.log)" grep -q -- '--zero 1 saves .* on each of the 2 ranks' said.log

# A checkpoint of two ranks with sharded state resumes on any number of ranks.
two=(2 "${unet[@]}" $(batch 2) --zero 1)
check "2 ranks, 4 steps" on "${two[@]}" --max-train-steps 4 --out half
for ranks in 1 "${many[@]}"; do
    cp -r half half$ranks
    check "resumed on $ranks" on $ranks "${unet[@]}" $(batch $ranks) --zero 1 --resume --out half$ranks
    check_close "resumed on $ranks, compared with the uninterrupted run" half$ranks one
done
check "resumed on 2: same bits as the uninterrupted run" same_bits half2 ranks2-zero1
text=$(on 2 "${unet[@]}" --train-batch-size 4 --gradient-accumulation-steps 2 --resume --out half 2>&1)
check "resumed with twice the batch: $(grep -m1 -o 'a batch of.*' <<<"$text")" grep -q 'is a batch of 16, but half/checkpoint-000004 recorded one of 8' <<<"$text"
check "it changed nothing" [ "$(lines half)" = 4 ]

# A signal to one rank stops all.
stopped term TERM 1 3 "${two[@]}" --checkpoint-every 0
check "SIGTERM to rank 1: all stop after the same step and save it" saved_last term
check "--resume" on "${two[@]}" --checkpoint-every 0 --resume --out term
check "same bits as the uninterrupted run" same_bits term ranks2-zero1

started=$SECONDS
stopped kill KILL 1 5 "${two[@]}" --max-train-steps 1000
check "kill -9 of rank 1: all end within a minute ($((SECONDS - started)) s)" [ $((SECONDS - started)) -lt 60 ]
check "a sentence names it: $(grep -m1 'rank 1' kill.log)" grep -q 'rank 1' kill.log
for rank in 0 1; do check "rank $rank is gone" within 10 ended "$(cat .pid-$rank)"; done
check "resume from the last checkpoint on one rank" on 1 "${unet[@]}" $(batch 1) --resume --out kill
check_close "compared with the uninterrupted run" kill one

# Steps whose losses are not finite: all ranks end after the same few, with one sentence.
cp -r model huge
largest='\377\377\177\177'
weights=huge/unet/diffusion_pytorch_model.safetensors # its last tensor is conv_out.bias
printf "$largest$largest$largest$largest" | dd of=$weights bs=1 seek=$(($(stat -c %s $weights) - 16)) conv=notrunc status=none
on "${two[@]}" --model huge --max-train-steps 1000 --out huge-run >huge.log 2>&1
code=$?
check "every step is skipped: exit code $code after $(lines huge-run) steps" [ "$code-$(lines huge-run)" = 1-6 ]
check "one sentence: $(grep 'training ends' huge.log)" [ "$(grep '^cocogold: ' huge.log | grep -vc ' warning: ')" = 1 ]
check "the samples of all ranks: $(grep -m1 -o 'the loss of.*' huge.log)" grep -q 'the loss of sample [0-9]* of latents/train-00000.h5 (picture [0-9]*) is infinite (and 7 more' huge.log
check "no model" [ ! -e huge-run/model ]

# Rank 0 validates the gathered average of the weights; the VAE.
check "validation" on 2 "${unet[@]}" $(batch 2) --zero 1 --max-train-steps 2 --validate-every 2 --validation-samples 4 --out valid
check "it was logged" grep -q '"kind":"validation","step":2' valid/log.jsonl
# A signal to rank 0 while it validates: all stop after the same step, and --resume does the validation again.
validations() { sed -nE 's/.*"kind":"validation",(.*)/\1/p' "$1/log.jsonl"; }
long=("${two[@]}" --max-train-steps 4 --validate-every 2 --validation-samples 4 --validation-steps 300)
check "validations" on "${long[@]}" --out checked
stopped checked-term TERM 0 2 "${long[@]}"
check "SIGTERM to rank 0 in a validation: all stop after the same step and save it" saved_last checked-term
check "it is step 2, which is not validated" [ "$(lines checked-term)-$(validations checked-term | grep -c '"step":2')" = 2-0 ]
check "--resume" on "${long[@]}" --resume --out checked-term
check "same validations" diff <(validations checked) <(validations checked-term)
check "same bits as the uninterrupted run" same_bits checked-term checked
check "VAE on 1 rank" on 1 "${vae[@]}" --train-batch-size 2 --out vae1
check "VAE on 2 ranks" on 2 "${vae[@]}" --train-batch-size 1 --zero 1 --out vae2
check_close "compared with one" vae2 vae1
finish
