#!/usr/bin/env bash
# Trains and evaluates on procedural data, from random weights: `make demo`, or `make demo TARGET=mask` for the other
# arm. Every stage is one cocogold command; finished stages are not repeated.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=${TARGET:-overlay}
base=demo # data, VAE and latents are shared by both arms
out=$([ "$target" = overlay ] && echo demo || echo "demo-$target")
vae_steps=${VAE_STEPS:-900} unet_steps=${UNET_STEPS:-2000} seed=${SEED:-1}
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

stage $base/data/synth.json synth $base/data --seed "$seed"
stage $base/init/model_index.json init --preset mini $base/init --seed "$seed"
stage $base/vae/model/model_index.json train-vae --model $base/init --data $base/data --out $base/vae --resume \
    --max-train-steps "$vae_steps" --train-batch-size 8 --gradient-accumulation-steps 1 \
    --lr 4e-3 --adam-beta2 0.99 --lr-scheduler cosine --lr-warmup-steps 50 --max-grad-norm 1 \
    --validate-every 400 --validation-samples 16 --log-every 50 --seed "$seed"
for split in train val; do
    run encode --model $base/vae/model --data $base/data --split $split --out $base/latents \
        --targets overlay,mask --min-side 0 --seed "$seed" # split train: the classes in data/classes/seen.txt
done
stage "$out/unet/model/model_index.json" train --model $base/vae/model --shards $base/latents --out "$out/unet" --resume \
    --target "$target" --max-train-steps "$unet_steps" --train-batch-size 16 --gradient-accumulation-steps 1 \
    --lr 2e-3 --adam-beta2 0.99 --weight-decay 0.01 --lr-scheduler wsd --max-grad-norm 1 \
    --multires-noise 0 --t-max-prob 0.5 --validate-every 250 --validation-samples 96 --validation-steps 2 \
    --log-every 50 --seed "$seed"
run eval --model "$out/unet/model" --data $base/data --split val --out "$out"
run segment --model "$out/unet/model" --image $base/data/val/000001000010.png --text "orange square" --out "$out/segment"

# figure PATH: a number of metrics.json, which `cocogold eval` writes with one field a line, e.g. seen.ceiling.miou
figure() {
    awk -v wanted="$1" '{ depth = (match($0, /[^ ]/) - 1) / 2; split($0, part, "\""); name[depth] = part[2] }
        /: [0-9]/ { path = name[1]; for (i = 2; i <= depth; i++) path = path "." name[i]
                    if (path == wanted) { sub(/.*: /, ""); printf "%.3f", $0 + 0; exit } }' "$out/metrics.json"
}
split() { # split NAME: a part of the last sentence
    echo "$(figure "$1.miou") on $1 classes (best centre box $(figure "$1.floors.centre_box.miou"), all objects" \
        "$(figure "$1.all_objects.miou"), ceiling $(figure "$1.ceiling.miou"))"
}
printf '\nDone in %d:%02d. mIoU %s and %s.\nOpen %s/report.html; the figures are in %s/metrics.json.\n' \
    $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60)) "$(split seen)" "$(split unseen)" "$out" "$out"
