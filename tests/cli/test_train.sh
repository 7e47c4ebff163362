#!/usr/bin/env bash
# Training as a user runs it: stopping and resuming gives the same numbers, and nothing is lost or deleted unasked.
source "$(dirname "$0")/common.sh"
prepare

steps=12
unet=("$cocogold" train --model model --shards latents --max-train-steps $steps --train-batch-size 4
    --gradient-accumulation-steps 1 --lr 1e-3 --lr-warmup-steps 5 --max-grad-norm 1 --ema-decay 0.99
    --checkpoint-every 4 --validate-every 0 --no-roofline)
vae=("$cocogold" train-vae --model model --data data --max-train-steps 8 --train-batch-size 2
    --gradient-accumulation-steps 2 --lr 1e-3 --checkpoint-every 3 --validate-every 0 --no-roofline)

numbers() { # numbers OUT: loss and norm of all steps in the log, one line each
    sed -nE 's/.*("step":[0-9]+,"loss":[^,]+,"grad_norm":[^,]+).*/\1/p' "$1/log.jsonl"
}
same_numbers() { diff <(numbers "$1") <(numbers "$2"); }
same_weights() { # same_weights A B MODULE...
    for module in "${@:3}"; do cmp "$1/model/$module"/*.safetensors "$2/model/$module"/*.safetensors || return; done
}
no_leftovers() { [ -z "$(find "$1" -name '*.cocogold-tmp-*' -o -name '*.cocogold-old-*')" ]; }
lines() { numbers "$1" 2>/dev/null | grep -c ''; }

# stopped OUT SIGNAL STEPS COMMAND...: runs the command and sends the signal when the log has that many steps.
stopped() {
    local out=$1 signal=$2 wanted=$3 pid
    shift 3
    "$@" --out "$out" >"$out.log" 2>&1 &
    pid=$!
    for _ in $(seq 3000); do
        [ "$(lines "$out")" -ge "$wanted" ] && break
        kill -0 $pid 2>/dev/null || break
        sleep 0.02
    done
    kill "-$signal" $pid
    wait $pid
}

# An uninterrupted run, with which all others are compared.
check "UNet: $steps steps" "${unet[@]}" --out whole
check "every step is in the log" [ "$(lines whole)" = $steps ]
check "the two newest checkpoints are kept" [ "$(echo whole/checkpoint-*)" = "whole/checkpoint-000008 whole/checkpoint-000012" ]
check "the model is a whole pipeline" ls whole/model/{model_index.json,cocogold.json,unet/config.json,unet_ema/config.json,vae/config.json,text_encoder/config.json,tokenizer/vocab.json,scheduler/scheduler_config.json}
check_not "without the trainer's state" ls whole/model/trainer
check "frozen parts are hard links" [ whole/model/vae/config.json -ef model/vae/config.json ]
check "the weights have changed" bash -c '! cmp -s whole/model/unet/*.safetensors model/unet/*.safetensors'
for threads in 1 2; do
    check "4 steps with OMP_NUM_THREADS=$threads" env OMP_NUM_THREADS=$threads "${unet[@]}" --max-train-steps 4 --out threads-$threads
done
check "the number of threads does not change the bits" same_weights threads-1 threads-2 unet unet_ema

# Stopping in the middle and resuming.
for signal in INT TERM KILL; do
    out=stop-$signal
    stopped $out $signal 5 "${unet[@]}" --checkpoints-total-limit 1
    code=$?
    check "SIG$signal after step 5: exit code" [ $code = $((128 + $(kill -l $signal))) ]
    check "SIG$signal: the run has not ended" [ ! -e $out/model ]
    [ $signal = KILL ] || check "SIG$signal: the last step is saved" [ -e "$out/checkpoint-$(printf %06d "$(lines $out)")" ]
    mkdir -p $out/checkpoint-000099.cocogold-tmp-other-4711/unet # as if killed while saving
    check "SIG$signal: --resume" "${unet[@]}" --checkpoints-total-limit 1 --out $out --resume
    check "SIG$signal: same losses and norms" same_numbers whole $out
    check "SIG$signal: same bits in unet and unet_ema" same_weights whole $out unet unet_ema
    check "SIG$signal: the frozen parts are there" cmp $out/model/text_encoder/model.safetensors model/text_encoder/model.safetensors
    check "SIG$signal: nothing under temporary names" no_leftovers $out
    check "SIG$signal: one checkpoint is left" [ "$(echo $out/checkpoint-*)" = "$out/checkpoint-000012" ]
done

check "--resume without a checkpoint starts at the beginning" "${unet[@]}" --out fresh --resume --max-train-steps 2
check "--resume continues if there are more steps to do" "${unet[@]}" --out fresh --resume --max-train-steps 4
check "--resume of a finished run does nothing" "${unet[@]}" --out fresh --resume --max-train-steps 4
check "its log has four steps" [ "$(lines fresh)" = 4 ]
echo '{}' >fresh/model/segmentation.json
check "once more, with tuned thresholds in the model" "${unet[@]}" --out fresh --resume --max-train-steps 4
check "they stay" [ -e fresh/model/segmentation.json ]
rm -r fresh/model && cp -r whole/model fresh
check "once more, with another model there" "${unet[@]}" --out fresh --resume --max-train-steps 4
check "it is replaced" cmp fresh/model/unet/*.safetensors fresh/checkpoint-000004/unet/*.safetensors
check "recomputation does not change the bits" bash -c '"$@" --out blocks --recompute blocks && cmp blocks/model/unet/*.safetensors whole/model/unet/*.safetensors' - "${unet[@]}"

# Mistakes that must not destroy a run.
again=(train "${unet[@]:2}")
cp -r fresh before
dies "--out holds a run" "fresh: already holds a run" "${again[@]}" --out fresh
dies "--resume with another seed" "--seed differs from what fresh/checkpoint-000004" "${again[@]}" --out fresh --resume --seed 5
dies "--resume with another rate" "--lr differs" "${again[@]}" --out fresh --resume --lr 2e-3
dies "--resume with --overwrite" "--resume and --overwrite: expected only one of them" "${again[@]}" --out fresh --resume --overwrite
dies "--overwrite of the model it starts from" "lies in --out fresh" "${again[@]}" --out fresh --overwrite --model fresh/model
dies "--resume of the other command" "whole/checkpoint-000012 is a checkpoint of \`cocogold train\`, not of \`cocogold train-vae\`" train-vae "${vae[@]:2}" --out whole --resume
dies "--overwrite with a wrong model" "no-such-model: is not a folder" "${again[@]}" --out fresh --overwrite --model no-such-model
check "none of them changed anything" diff -r before fresh
check "--overwrite" "${unet[@]}" --out fresh --overwrite --max-train-steps 1
check "it deleted the old run" [ "$(echo fresh/checkpoint-*) $(lines fresh)" = "fresh/checkpoint-000001 1" ]

# Shards and data may move, but not change. Files of lists may be written again, with the same names.
began="fresh/checkpoint-000001/trainer/state.json recorded"
on=("${unet[@]}" --max-train-steps 2 --out fresh --resume)
"$cocogold" synth data-more --train 45 --val 2 >/dev/null 2>&1
encode=("$cocogold" encode --model model --data data --split train --targets overlay,mask --min-side 1 --classes @data/classes/seen.txt)
"${encode[@]}" --data data-more --out more >/dev/null 2>&1
"${encode[@]}" --seed 1 --out crops >/dev/null 2>&1
"${encode[@]}" --resolution 32 --out small >/dev/null 2>&1
"${encode[@]}" --outline 2 --out outlined >/dev/null 2>&1
cp -r fresh before-data
dies "--resume with more pictures" "--resume: the number of samples differs from what $began (40, now 45): give what the run began with, or begin another run" "${on[@]:1}" --shards more
dies "--resume with other classes of the same pictures" "the list of the samples' pictures, crops, masks and texts differs from what $began" "${on[@]:1}" --shards crops
dies "--resume at another resolution" "the shards' resolution differs from what $began (64, now 32)" "${on[@]:1}" --shards small
dies "--resume with other targets" "the paint of the shards' targets differs from what $began (--color 255,255,255 --alpha 1 --outline 0, now --color 255,255,255 --alpha 1 --outline 2)" "${on[@]:1}" --shards outlined
check "none of them changed anything" diff -r before-data fresh
cp -r latents moved
check "--resume with moved shards" "${on[@]}" --shards moved
head -n 4 data/classes/seen.txt >list.txt
printf 'person: human\n' >synonyms.txt
listed=("${unet[@]}" --classes @list.txt --text-template '{}|@synonyms.txt' --out lists --resume)
check "a run with lists" "${listed[@]}" --max-train-steps 1
head -n 5 data/classes/seen.txt >list.txt
dies "--resume with a longer list" "the list of --classes differs from what lists/checkpoint-000001" "${listed[@]:1}" --max-train-steps 2
head -n 4 data/classes/seen.txt | sort -r >list.txt
printf 'person: man\n' >synonyms.txt
dies "--resume with other synonyms" "the list of --text-template's texts differs from what lists/checkpoint-000001" "${listed[@]:1}" --max-train-steps 2
printf '# of a person\nperson: human\n' >synonyms.txt
check "--resume with the same names in other files" "${listed[@]}" --max-train-steps 2

# Without a checkpoint nothing is replaced.
cp -r model start
for option in --split=train --resume; do
    dies "--out is the model's own folder, $option" ".: holds a model, but no checkpoint to go on from: give another folder" \
        "${again[@]}" --out . $option
done
check "the model is untouched" diff -r start model
cp -r before bare && rm -r bare/checkpoint-* && cp -r bare bare-before
dies "--resume of a finished run without its checkpoints" "bare: holds a model, but no checkpoint to go on from: give another folder, or delete the run with --overwrite" \
    "${again[@]}" --out bare --resume
check "it changed nothing" diff -r bare-before bare
rm -r bare/model
dies "a run that was killed before its first checkpoint" "bare: holds a log.jsonl, but no checkpoint to go on from: give another folder, or delete the run with --overwrite" \
    "${again[@]}" --out bare
check "--resume begins it again" "${unet[@]}" --out bare --resume --max-train-steps 1
mkdir logs && echo '{"event": "login"}' >logs/log.jsonl
dies "--resume in a folder with another program's log.jsonl" "logs: holds a log.jsonl, but no checkpoint to go on from: give another folder" \
    "${again[@]}" --out logs --resume
check "the log is untouched" grep -q login logs/log.jsonl

# Micro-batches of another size, and a longer run.
check "--train-batch-size 0" "${unet[@]}" --train-batch-size 0 --max-train-steps 1 --out chosen
check "the size that it chose is recorded" grep -q '"train-batch-size": 2,' chosen/checkpoint-000001/trainer/state.json
check "--resume with another size, of the same batch" bash -c '"$@" >chosen.log 2>&1' - "${unet[@]}" --train-batch-size 1 \
    --gradient-accumulation-steps 2 --max-train-steps 2 --out chosen --resume
check "it warns: $(grep -o 'was saved with.*' chosen.log)" grep -q "was saved with micro-batches of 2 samples, but these have 1: the results will agree up to rounding" chosen.log
check "the samples of a step: $(grep ' samples a step' chosen.log)" grep -qx "2 samples a step: micro-batches of 1 x 2 a rank x 1 rank" chosen.log
check "how often each is drawn: $(grep ' draws each' chosen.log)" grep -qxE "the run draws each of [0-9]+ samples 0\.[0-9] times" chosen.log
"${unet[@]}" --train-batch-size 1 --gradient-accumulation-steps 100 --max-train-steps 1 --checkpoint-every 0 --out often >often.log
check "often: $(grep ' draws each' often.log)" grep -qxE "the run draws each of [0-9]+ samples [0-9.]+ times; more --passes of encode give more crops" often.log
check "a schedule that ends with the run" "${unet[@]}" --lr-scheduler cosine --max-train-steps 1 --out cosine
dies "a longer run" "--lr-total-steps differs from what cosine/checkpoint-000001/trainer/state.json recorded (1): give --lr-total-steps 1" \
    "${again[@]}" --lr-scheduler cosine --max-train-steps 2 --out cosine --resume
check "with its --lr-total-steps" "${unet[@]}" --lr-scheduler cosine --max-train-steps 2 --lr-total-steps 1 --out cosine --resume

# A full disk, simulated by a limit on the file size: the weights fit, the optimizer's state does not.
cp -r before full
"${unet[@]}" --out full --resume --max-train-steps 4 --log-every 100 >/dev/null 2>&1
(
    trap '' XFSZ
    ulimit -f 6000
    exec "${unet[@]}" --out full --resume --max-train-steps 6 >.stdout 2>.stderr
)
code=$?
check "full disk: exit code 1" [ $code = 1 ]
check "full disk: one sentence: $(cat .stderr)" [ "$(grep -c '^cocogold: full/checkpoint-000006.*optimizer.safetensors.*cannot be written: File too large$' .stderr) $(grep -c '' .stderr)" = "1 1" ]
check "full disk: the old checkpoint is untouched" diff -r before/checkpoint-000004 full/checkpoint-000004
check "full disk: no incomplete files" no_leftovers full
check "full disk: --resume when there is space" "${unet[@]}" --out full --resume
check "full disk: same losses and norms" same_numbers whole full
check "full disk: same bits" same_weights whole full unet unet_ema

# The VAE.
check "VAE: 8 steps" "${vae[@]}" --out vae
stopped vae-stop TERM 4 "${vae[@]}"
code=$?
check "VAE: SIGTERM after step 4: exit code" [ $code = 143 ]
check "VAE: --resume" "${vae[@]}" --out vae-stop --resume
check "VAE: same losses and norms" same_numbers vae vae-stop
check "VAE: same bits, scaling factor included" bash -c 'cmp vae/model/vae/config.json vae-stop/model/vae/config.json && cmp vae/model/vae/*.safetensors vae-stop/model/vae/*.safetensors'
dies "VAE: --resume with more pictures" "the number of pictures differs from what vae/checkpoint-000008/trainer/state.json recorded (40, now 45)" train-vae "${vae[@]:2}" --out vae --resume --data data-more
cp -r data data-other && sed -i 's/"category_id": *[0-9]*/"category_id": 1/g' data-other/annotations/instances_train.json
dies "VAE: --resume with other objects" "the list of pictures and objects differs from what vae/checkpoint-000008" train-vae "${vae[@]:2}" --out vae --resume --data data-other
cp -r data data-moved
check "VAE: --resume with moved data" "${vae[@]}" --out vae --resume --data data-moved
dies "UNet with latents of another VAE" "the latents were made by another VAE" "${again[@]}" --out x --model vae/model
check "that left nothing" [ ! -e x ]

# Text to image, with the text encoder.
text=("$cocogold" pretrain --model text --shards latents --max-train-steps 8 --train-batch-size 4
    --gradient-accumulation-steps 2 --lr 1e-3 --lr-warmup-steps 4 --max-grad-norm 1 --ema-decay 0.9 --train-text-encoder
    --checkpoint-every 3 --validate-every 0 --no-roofline)
check "a text-to-image model with the same VAE" "$cocogold" init --preset mini --text-to-image --vae model text
check "text: 8 steps" "${text[@]}" --out text-whole
stopped text-stop TERM 4 "${text[@]}"
code=$?
check "text: SIGTERM after step 4: exit code" [ $code = 143 ]
check "text: --resume" "${text[@]}" --out text-stop --resume
check "text: same losses and norms" same_numbers text-whole text-stop
check "text: same bits" same_weights text-whole text-stop unet unet_ema text_encoder text_encoder_ema
check "text: a longer run" "${text[@]}" --out text-stop --resume --max-train-steps 9
check "text: both have changed" bash -c '! cmp -s text/unet/*.safetensors text-whole/model/unet/*.safetensors &&
    ! cmp -s text/text_encoder/*.safetensors text-whole/model/text_encoder/*.safetensors'
check "text: the VAE is a hard link" [ text-whole/model/vae/config.json -ef model/vae/config.json ]
check "text: one seed, one set of empty texts" bash -c '"$@" --out text-blocks --recompute blocks &&
    cmp text-blocks/model/unet/*.safetensors text-whole/model/unet/*.safetensors' - "${text[@]}"
dies "text: --resume with another share of empty texts" "--empty-text differs" pretrain "${text[@]:2}" --out text-stop --resume --empty-text 0.5
dies "text: --resume with more pictures" "the number of samples differs from what text-stop/checkpoint-000009" pretrain "${text[@]:2}" --out text-stop --resume --max-train-steps 10 --shards more
check "text: --resume with targets in another paint" "${text[@]}" --out text-stop --resume --max-train-steps 10 --shards outlined
dies "text: --resume by train" "is a checkpoint of \`cocogold pretrain\`, not of \`cocogold train\`" "${again[@]}" --out text-stop --resume

# Validation is a property of the model, not of the batch.
validation() {
    "${unet[@]}" --out "$1" --train-batch-size "$2" --max-train-steps 1 --validate-every 1 --validation-samples 7 >/dev/null 2>&1
    sed -nE 's/.*"kind":"validation","step":0,(.*)/\1/p' "$1/log.jsonl"
}
a=$(validation batch4 4) b=$(validation batch3 3)
check "validation with batches of 4 and of 3: $a" [ -n "$a" ] && check "the same numbers" awk -v a="$a" -v b="$b" '
    BEGIN { n = split(a, x, /[:,}]/); split(b, y, /[:,}]/); for (i = 2; i <= n; i += 2) if ((x[i] - y[i]) ^ 2 > 1e-10) exit 1 }'

# A run that ends in a validation: the checkpoint is there before, and --resume does the validation again.
long=("${unet[@]}" --max-train-steps 6 --validate-every 4 --validation-steps 60)
validations() { # validations OUT: the steps, and the lines without what depends on time
    sed -nE 's/.*"kind":"validation",(.*)/\1/p' "$1/log.jsonl"
}
check "a run with validations" "${long[@]}" --out valid
check "after steps 0, 4 and 6" [ "$(validations valid | grep -o '"step":[0-9]*' | xargs)" = "step:0 step:4 step:6" ]
for signal in KILL TERM; do
    out=valid-$signal
    "${long[@]}" --out $out >$out.log 2>&1 &
    pid=$!
    for _ in $(seq 3000); do [ -e $out/checkpoint-000004 ] && break; sleep 0.01; done
    kill -$signal $pid
    wait $pid
    code=$?
    check "SIG$signal in a validation: exit code $code" [ $code = $((128 + $(kill -l $signal))) ]
    check "SIG$signal: the step is saved, but not validated" [ "$(lines $out)-$(validations $out | grep -c '"step":4')" = 4-0 ]
    check "SIG$signal: --resume" "${long[@]}" --out $out --resume
    check "SIG$signal: same losses and norms" same_numbers valid $out
    check "SIG$signal: same validations" diff <(validations valid) <(validations $out)
    check "SIG$signal: same pictures and tables" bash -c "diff -r valid/samples $out/samples && diff -r valid/validation $out/validation"
    check "SIG$signal: same bits" same_weights valid $out unet unet_ema
done
check "a sheet of pictures" [ "$(head -c 4 batch4/samples/step-000001.png | tail -c 3)" = PNG ]
finish
