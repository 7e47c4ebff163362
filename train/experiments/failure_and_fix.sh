#!/usr/bin/env bash
# Why does latent MSE on binary masks fail, and does painting the mask on the picture fix it? The original changed two
# things at once. Here they are the axes of a 2 x 2 design: what is drawn (the bare mask, or the picture with the mask
# painted on it), and which classes are trained (without or with the frequent one). `make reproduce` runs it at small
# scale.
#
# An arm is a sum of changes to the base (draw the overlay, classes without the frequent one), e.g. mask+frequent+leading:
#   overlay, mask    what is drawn; every arm must name one of them
#   frequent         train on all classes, including the frequent one (COCO: all 80)
#   leading          the original's schedule: leading timesteps, some signal left at the last one, 50 steps
#   weighted, focal  the loss (train --loss)
#   pixel, dice      also a loss on pictures, through the frozen VAE decoder (train --pixel-loss)
#   constant         constant learning rate (base: COCO exponential, else warm-up, stable, decay)
#   green            the mask's colour (base: white)
#   outline          the mask drawn with the original's outline of 4 pixels at 512
#   absent           a fifth of the training samples ask for a class that is not in the picture
#   photo            prompts "a photo of a CLASS"
# Every arm has the same data, VAE, start, number of steps, validation samples and noise. Seeds change the order of
# samples, noise and timesteps. Finished stages are not repeated: run it again to continue.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=reproduce seeds=3 steps= checkpoints=12 vae_steps=900 train=1500 val=400 coco= model= gpus=1 samples=128 dry=
usage() {
    sed -n '2,/^set -e/{/^set/d;s/^# \{0,1\}//;p}' "$0"
    cat <<END

usage: train/experiments/failure_and_fix.sh [OPTIONS] [ARM...]    (default: overlay mask overlay+frequent mask+frequent)
  --out DIR          output folder ($out)
  --seeds N          runs per arm ($seeds)
  --steps N          optimizer steps (2000; with --coco 18000)
  --checkpoints N    validations per run ($checkpoints)
  --samples N        number of validation samples ($samples)
  --coco DIR         train on COCO 2017 at full size, not on procedural scenes; needs --model
  --model DIR        a Stable Diffusion 2 directory
  --gpus N           processes per training run ($gpus)
  --vae-steps N, --train N, --val N     procedural: steps of the VAE ($vae_steps), scenes ($train, $val)
  --dry-run          print the commands without running them
END
}
while [ $# -gt 0 ] && [[ $1 == -* ]]; do
    case $1 in
    --help | -h) usage && exit 0 ;;
    --dry-run) dry=1 && shift && continue ;;
    --out | --seeds | --steps | --checkpoints | --samples | --coco | --model | --gpus | --vae-steps | --train | --val)
        name=${1#--}
        [ $# -gt 1 ] || { echo "$1: expected a value" >&2 && exit 1; }
        printf -v "${name//-/_}" %s "$2"
        shift 2
        ;;
    *) echo "$1: unknown option (see --help)" >&2 && exit 1 ;;
    esac
done
arms=("$@")
[ ${#arms[@]} -gt 0 ] || arms=(overlay mask overlay+frequent mask+frequent)
steps=${steps:-$([ "$coco" ] && echo 18000 || echo 2000)}
every=$(((steps + checkpoints - 1) / checkpoints))
[ -z "$coco" ] || [ $((16 % gpus)) = 0 ] || { echo "--gpus $gpus: expected a divisor of 16, for a batch of 32" >&2 && exit 1; }
[ -z "$coco" ] || [ -n "$model" ] || { echo "--coco needs --model, a Stable Diffusion 2 directory" >&2 && exit 1; }

run() {
    printf '\n$ %s\n' "$*"
    [ "$dry" ] || "$@"
}
stage() { # stage FILE COMMAND...: runs the command unless FILE exists
    [ -e "$1" ] || run "${@:2}"
}

# Sets what an arm changes: options of encode, of encode for the training split only, of train; the latents' folder.
parse_arm() {
    local word
    target= classes=without encode_options=() draw_options=() train_options=() latents=$out/latents
    for word in ${1//+/ }; do
        case $word in
        overlay | mask) target=$word ;;
        frequent) classes=with latents+=-frequent ;;
        leading) train_options+=(--timestep-spacing leading --zero-snr 0 --validation-steps 50) ;;
        weighted | focal) train_options+=(--loss "$word") ;;
        pixel) train_options+=(--pixel-loss 1) ;;
        dice) train_options+=(--pixel-loss 0.2 --pixel-loss-type dice) ;;
        constant) train_options+=(--lr-scheduler constant) ;;
        green) encode_options+=(--color green) latents+=-green ;;
        outline) encode_options+=(--outline 4) latents+=-outline ;;
        absent) draw_options+=(--absent 0.2) latents+=-absent ;;
        photo) train_options+=(--text-template "a photo of a {}") ;;
        *) echo "$1: unknown change \"$word\" (see --help)" >&2 && exit 1 ;;
        esac
    done
    [ -n "$target" ] || { echo "$1: expected overlay or mask as one of the changes" >&2 && exit 1; }
}
for arm in "${arms[@]}"; do parse_arm "$arm"; done

runs=$((${#arms[@]} * seeds))
if [ "$coco" ]; then
    # 1.4 EFLOP for a run of 18,000 steps of 32 at 512 pixels, 1.3 EFLOP to encode 5 passes with two kinds of target, at
    # 40% of an A100's 312 TFLOP/s.
    echo "$runs runs of $steps steps of 32: about $((runs * steps * 31 / 180000)) hours of an A100 (predicted at 40% of its peak)," \
        "and 4 hours per set of latents; disk: 84 GB per set of latents, 10.4 GB per run while it trains, 5 GB after."
else
    echo "$runs runs of $steps steps: about $((runs * steps / 580 + 5)) minutes on two cores, 1 GB of disk."
fi

# The classes: two lists, without and with the frequent class. Validation always asks for all classes, and calls those
# of the first list "seen".
data=${coco:-$out/data} frequent=person
mkdir -p "$out"
if [ "$coco" ]; then
    start=$out/init resolution=512 without=default14 with=all-things split=2017 minimum=300 passes=5
    recipe=(--train-batch-size 2 --gradient-accumulation-steps $((16 / gpus)) --validation-steps 4)
    stage "$start/model_index.json" ./cocogold init --from "$model" "$start"
else
    start=$out/vae/model resolution=0 without=@$out/without.txt with=@$out/with.txt split= minimum=0 passes=1
    recipe=(--train-batch-size 16 --gradient-accumulation-steps 1 --lr 2e-3 --adam-beta2 0.99 --weight-decay 0.01
        --lr-scheduler wsd --max-grad-norm 1 --multires-noise 0 --t-max-prob 0.5 --validation-steps 2)
    stage "$data/synth.json" ./cocogold synth "$data" --train "$train" --val "$val" --seed 1
    if [ ! "$dry" ]; then
        cp "$data/classes/seen.txt" "$out/with.txt"
        grep -vx "$frequent" "$out/with.txt" >"$out/without.txt"
    fi
    stage "$out/init/model_index.json" ./cocogold init --preset mini "$out/init" --seed 1
    stage "$start/model_index.json" ./cocogold train-vae --model "$out/init" --data "$data" --out "$out/vae" \
        --resume --max-train-steps "$vae_steps" --train-batch-size 8 --gradient-accumulation-steps 1 --lr 4e-3 \
        --adam-beta2 0.99 --lr-scheduler cosine --lr-warmup-steps 50 --max-grad-norm 1 --validate-every 0 \
        --checkpoint-every 300 --log-every 100 --seed 1
fi

encode() { # encode SPLIT FOLDER OPTIONS...: unless the shards exist
    stage "$2/$1.json" ./cocogold encode --model "$start" --data "$data" --split "$1$split" --out "$2" \
        --targets overlay,mask --min-side "$minimum" --resolution "$resolution" --seed 1 "${@:3}"
}

encode_arm() { # encodes the latents of the current arm, and samples that ask for absent classes
    local list=$without all=(--classes all-things --trained "$without" --passes 1)
    [ "$classes" = without ] || list=$with
    encode train "$latents" --classes "$list" --passes "$passes" "${encode_options[@]}" "${draw_options[@]}"
    encode val "$latents" "${all[@]}" "${encode_options[@]}"
    encode val "$out/absent" "${all[@]}" --absent 1
}

evaluate() { # evaluate RUN SHARDS FOLDER: the final model of a run on all validation samples
    stage "$3/metrics.json" ./cocogold eval --model "$1/model" --protocol crops --shards "$2" --split val \
        --seen "$without" --out "$3"
}

train_arm() { # train_arm NAME SEED
    local folder=$out/arms/$1/seed-$2 launch=()
    [ "$gpus" = 1 ] || launch=(mpirun -n "$gpus")
    if [ ! "$dry" ]; then
        mkdir -p "$folder"
        printf '{"arm": "%s", "target": "%s", "classes": "%s", "frequent": "%s", "seed": %d, "steps": %d}\n' \
            "$1" "$target" "$classes" "$frequent" "$2" "$steps" >"$folder/arm.json"
    fi
    stage "$folder/model/model_index.json" "${launch[@]}" ./cocogold train --model "$start" --shards "$latents" \
        --target "$target" --out "$folder" --resume --max-train-steps "$steps" --lr-total-steps "$steps" \
        "${recipe[@]}" --validate-every "$every" --validation-samples "$samples" --validation-draws 4 \
        --checkpoint-every "$every" --checkpoints-total-limit 1 --log-every 100 --seed "$2" "${train_options[@]}"
    evaluate "$folder" "$latents" "$folder/eval"
    evaluate "$folder" "$out/absent" "$folder/absent"
}

for seed in $(seq "$seeds"); do
    for arm in "${arms[@]}"; do
        parse_arm "$arm"
        encode_arm
        train_arm "$arm" "$seed"
    done
done
stage "$out/latents-analysis/latents.json" ./cocogold analyze latents --model "$start" --data "$data" --split "val$split" \
    --min-side "$minimum" --resolution "$resolution" --out "$out/latents-analysis"
run ./cocogold analyze arms --arms "$out/arms" --latents "$out/latents-analysis/latents.json" --out "$out"
