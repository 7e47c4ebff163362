#!/usr/bin/env bash
# The whole story on procedural data, from random weights: a VAE; a UNet that learns from captions to draw scenes; the
# same UNet fine-tuned to segment by text, on pictures without anything orange; its IoU on what it was fine-tuned on, on
# new combinations of known words, and on "orange", which it only knows from captions. `make demo`, or
# `make demo TARGET=mask` for black and white targets. Every stage is one cocogold command; finished stages are not
# repeated.
set -euo pipefail
export LC_ALL=C # awk reads and writes numbers with a point
cd "$(dirname "$0")/../.."

target=${TARGET:-overlay}
[ "$target" = overlay ] || [ "$target" = mask ] || { echo "TARGET=$target: expected overlay or mask" >&2 && exit 1; }
for name in VAE_STEPS WORDS_STEPS UNET_STEPS SEED; do
    [[ ${!name:-1} =~ ^(0|[1-9][0-9]{0,8})$ ]] || { echo "$name=${!name}: expected a number" >&2 && exit 1; }
done
base=demo # all but fine-tuning is shared by both targets
out=$([ "$target" = overlay ] && echo demo || echo "demo-$target")
vae_steps=${VAE_STEPS:-2000} words_steps=${WORDS_STEPS:-6000} unet_steps=${UNET_STEPS:-1500} seed=${SEED:-1}
started=$SECONDS

run() {
    printf '\n$ ./cocogold %s\n' "$*"
    ./cocogold "$@"
}
stage() { # stage FILE COMMAND...: runs the command unless FILE exists
    if [ -e "$1" ]; then
        echo "$1 already exists"
    else
        run "${@:2}"
    fi
}
adamw=(--gradient-accumulation-steps 1 --adam-beta2 0.99 --max-grad-norm 1 --seed "$seed")
unet=(--train-batch-size 16 --lr 2e-3 --weight-decay 0.01 --lr-scheduler wsd --log-every 50 "${adamw[@]}")

# Scenes with masks, whose classes are split by the new word; other scenes for captions, with all words. Ten colours,
# and a text encoder that is trained with them: with fewer, or without, a new word often does not come along
# (docs/EXPERIMENT.md).
stage $base/data/synth.json synth $base/data --seed "$seed" --colors 10 --new-words orange
stage $base/scenes/synth.json synth $base/scenes --seed "$((seed + 10))" --colors 10 --train 6000 --val 100
stage $base/init/model_index.json init --preset mini $base/init --seed "$seed"
stage $base/vae/model/model_index.json train-vae --model $base/init --data $base/data --out $base/vae --resume \
    --max-train-steps "$vae_steps" --train-batch-size 8 --lr 4e-3 --lr-scheduler cosine --lr-warmup-steps 50 \
    --validate-every 400 --validation-samples 16 --log-every 50 "${adamw[@]}"

# From text to image: a UNet without the picture's latent, and the text encoder, learn the words.
stage $base/words-init/model_index.json init --preset mini --text-to-image --vae $base/vae/model $base/words-init \
    --seed "$seed"
for split in train val; do
    run encode --model $base/vae/model --data $base/scenes --split $split --out $base/captions --texts captions \
        --min-side 0 --seed "$seed"
done
stage $base/words/model/model_index.json pretrain --model $base/words-init --shards $base/captions --out $base/words \
    --resume --train-text-encoder --max-train-steps "$words_steps" --validate-every 1000 --validation-samples 32 \
    "${unet[@]}"
run generate --model $base/words/model --text "an orange cross and a purple square" --guidance 3 --count 6 \
    --seed "$seed" --out $base/generated

# From text and image to mask. Training reads nothing about orange and sees nothing orange.
stage $base/start/model_index.json init --from $base/words/model $base/start
known=@$base/data/classes/known.txt new=@$base/data/classes/new-words.txt
run encode --model $base/start --data $base/data --split train --out $base/latents --targets overlay,mask \
    --min-side 0 --seed "$seed" --classes $known --exclude $new
run encode --model $base/start --data $base/data --split val --out $base/latents --targets overlay,mask \
    --min-side 0 --seed "$seed"
stage "$out/unet/model/model_index.json" train --model $base/start --shards $base/latents --out "$out/unet" --resume \
    --target "$target" --max-train-steps "$unet_steps" --multires-noise 0 --t-max-prob 0.5 \
    --validate-every 250 --validation-samples 96 --validation-steps 2 "${unet[@]}"
run eval --model "$out/unet/model" --data $base/data --split val --out "$out" \
    --group "known=$known" --group "new combinations=@$base/data/classes/new-combinations.txt" --group "new word=$new"
for text in "orange cross" "brown square" "person"; do
    run segment --model "$out/unet/model" --image $base/data/val/000001000019.png --text "$text" \
        --out "$out/segment-${text// /-}"
done

# figure PATH: a number of metrics.json, which `cocogold eval` writes with one field a line, e.g. groups.known.giou
figure() {
    awk -v wanted="$1" '{ depth = (match($0, /[^ ]/) - 1) / 2; split($0, part, "\""); name[depth] = part[2] }
        /: [0-9]/ { path = name[1]; for (i = 2; i <= depth; i++) path = path "." name[i]
                    if (path == wanted) { sub(/.*: /, ""); printf "%.3f", $0 + 0; exit } }' "$out/metrics.json"
}
group() { # group NAME: a part of the last sentence
    echo "$(figure "groups.$1.giou") (box $(figure "groups.$1.floors.centre_box.giou")," \
        "ceiling $(figure "groups.$1.ceiling.giou"))"
}
printf '\nDone in %d:%02d. gIoU: fine-tuned classes %s,\nnew combinations %s,\nthe word that fine-tuning never met, orange, %s.\n' \
    $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$(group known)" "$(group "new combinations")" \
    "$(group "new word")"
printf 'Open %s/report.html; the figures are in %s/metrics.json.\n' "$out" "$out"
