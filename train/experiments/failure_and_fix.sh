#!/usr/bin/env bash
# Why does training on binary masks fail, and what fixes it? `make reproduce` runs this at small scale.
#
# An arm is a list of words joined by +, e.g. mask+leak+frequent:
#   overlay, mask    what is drawn; every arm must name one of them
#   leak             the schedule leaves some of the target in the noisiest training sample, as the original's did, and
#                    sampling takes leading timesteps. How much is matched to Stable Diffusion at 512 pixels by
#                    `cocogold analyze leak`. leak=A sets it to A. Without this word: none, and trailing timesteps
#   frequent         train on all classes, including the frequent one (COCO: all 80)
#   weighted, focal  the loss (train --loss)
#   pixel, dice      also a loss on pictures, through the frozen VAE decoder (train --pixel-loss)
#   constant         constant learning rate (otherwise COCO: exponential, to 1% at step 25,000 as the original's, however
#                    many steps there are; small scale: warm-up, stable, decay)
#   green            the mask's colour (otherwise white)
#   outline          the mask drawn with the original's outline of 4 pixels at 512
#   absent           a fifth of the training samples ask for a class that is not in the picture
#   photo            prompts "a photo of a CLASS"
#   pretrained       starts from a UNet and a text encoder that were trained from text to image on other scenes, with all
#                    words; others for each seed
# Otherwise every arm has the original's recipe (annealed multi-resolution noise 0.9, uniform timesteps, 50 steps of
# sampling) and the same data, VAE, start, number of steps, validation samples and noise. Seeds change the order of
# samples, noise and timesteps.
#
# Parts (--parts, or arms by name, which then replace the parts):
#   square    {overlay, mask} x {no leak, matched leak}, all seeds
#   dose      both targets with leaks of 0.068, 0.22 and 0.27, one seed
#   words     {from scratch, pretrained from text to image} x {overlay, mask}, all seeds. Fine-tuning sees neither the
#             word "orange" nor a picture with something orange
#   classes   the square's arms with the frequent class, all seeds
#   unscaled  the square at Stable Diffusion's own schedule and latent size: scenes of 256 pixels, latents of 64 x 64
# Every final model is sampled from noise, and those of arms with a leak also from noise with as much of the target as the
# schedule leaves at the first timestep (eval --start): without a leak that is nothing.
# Finished stages are not repeated: run it again to continue.
set -euo pipefail
self=$(realpath "$0")
cd "$(dirname "$0")/../.."

out=reproduce parts=square,dose,words seeds=3 steps= checkpoints=6 vae_steps=3000 train=1500 val=400 coco= model= gpus=1
samples= pairs= jobs=$(nproc) signal= pretrain_steps=5000 word_steps=1000 unscaled_steps=700 dry=
usage() {
    sed -n '2,/^set -e/{/^set/d;s/^# \{0,1\}//;p}' "$self"
    cat <<END

usage: train/experiments/failure_and_fix.sh [OPTIONS] [ARM...]
  --out DIR           output folder ($out)
  --parts LIST        parts to run, separated by commas ($parts; with --coco: square)
  --seeds N           runs per arm ($seeds)
  --steps N           optimizer steps (2500; with --coco 18000)
  --checkpoints N     validations per run ($checkpoints)
  --samples N         number of validation samples (48; with --coco 256)
  --pairs N           pairs of a final evaluation (150; with --coco 1000)
  --jobs N            runs side by side, with one thread each if there are several ($jobs)
  --signal A          terminal signal of \`leak\`, instead of the matched one
  --coco DIR          train on COCO 2017 at full size, not on procedural scenes; needs --model. leak: SD2's own betas
  --model DIR         a Stable Diffusion 2 directory
  --gpus N            processes per training run ($gpus)
  --vae-steps N, --train N, --val N, --pretrain-steps N, --word-steps N, --unscaled-steps N
                      procedural: steps of the VAE ($vae_steps), scenes ($train, $val), steps of pretraining
                      ($pretrain_steps), of the arms of \`words\` ($word_steps) and of \`unscaled\` ($unscaled_steps)
  --dry-run           print the commands without running them
END
}
fail() { echo "$*" >&2 && exit 1; }
while [ $# -gt 0 ] && [[ $1 == -* ]]; do
    case $1 in
    --help | -h) usage && exit 0 ;;
    --dry-run) dry=1 && shift && continue ;;
    --out | --parts | --signal | --coco | --model) ;;
    --seeds | --steps | --checkpoints | --samples | --pairs | --jobs | --gpus | --vae-steps | --train | --val | \
        --pretrain-steps | --word-steps | --unscaled-steps)
        [[ ${2-} =~ ^[1-9][0-9]{0,8}$ ]] || fail "$1 ${2-}: expected a positive number"
        ;;
    *) fail "$1: unknown option (see --help)" ;;
    esac
    [ $# -gt 1 ] || fail "$1: expected a value"
    name=${1#--}
    printf -v "${name//-/_}" %s "$2"
    shift 2
done
is_signal() { [[ $1 =~ ^0?\.([0-8][0-9]*|9([0-4][0-9]*|50*)?)$ ]]; }
[ -z "$signal" ] || is_signal "$signal" || fail "--signal $signal: expected a number between 0 and 0.95"
[ $# -gt 0 ] || [ "$parts" ] || fail "--parts: expected a part (see --help)"
[ -z "$coco" ] || [ $((32 % gpus)) = 0 ] || fail "--gpus $gpus: expected a divisor of 32, the samples of a step"
[ -z "$coco" ] || [ -n "$model" ] || fail "--coco needs --model, a Stable Diffusion 2 directory"
[ -z "$coco" ] || { jobs=1 && [ "$parts" != square,dose,words ] || parts=square; }
[ -z "$coco" ] || [[ ,$parts, != *,words,* && ,$parts, != *,unscaled,* ]] ||
    fail "--parts $parts: words and unscaled are not for --coco"
# Of COCO's samples of 80 classes, about a quarter are of the listed 14.
steps=${steps:-$([ "$coco" ] && echo 18000 || echo 2500)}
samples=${samples:-$([ "$coco" ] && echo 256 || echo 48)}
pairs=${pairs:-$([ "$coco" ] && echo 1000 || echo 150)}
start=$([ "$coco" ] && echo "$out/init" || echo "$out/vae/model") # a model directory

# ---- commands --------------------------------------------------------------------------------------------------------

side_by_side= child=
run() {
    printf '\n$ %s\n' "$*"
    if [ "$side_by_side" ] && [ -z "$dry" ]; then
        "$@" & # so that a signal reaches the shell while it waits
        child=$!
        wait $child
    elif [ -z "$dry" ]; then
        "$@"
    fi
}
stage() { # stage FILE COMMAND...: runs the command unless FILE exists
    [ -e "$1" ] || run "${@:2}"
}
# number FIELD FILE: a number of a JSON file that has one field a line
number() { sed -n "s/^ *\"$1\": \([-0-9.e]*\),\{0,1\}$/\1/p" "$2" | head -1; }

# Sets what an arm changes: options of encode, of encode for the training split only, of train; the latents' folder.
parse_arm() {
    local word
    target= classes=without encode_options=() draw_options=() train_options=() latents=$out/latents begin=$start
    starts=noise
    local schedule=(--terminal-signal 0 --timestep-spacing trailing)
    for word in ${1//+/ }; do
        case $word in
        overlay | mask) target=$word ;;
        leak)
            schedule=(--terminal-signal "$matched" --timestep-spacing leading)
            starts="noise truth mean image"
            ;;
        leak=*)
            is_signal "${word#leak=}" || fail "$1: $word: expected a number between 0 and 0.95"
            schedule=(--terminal-signal "${word#leak=}" --timestep-spacing leading)
            starts="noise truth"
            ;;
        frequent) classes=with latents+=-frequent ;;
        weighted | focal) train_options+=(--loss "$word") ;;
        pixel) train_options+=(--pixel-loss 1) ;;
        dice) train_options+=(--pixel-loss 0.2 --pixel-loss-type dice) ;;
        constant) train_options+=(--lr-scheduler constant) ;;
        green) encode_options+=(--color green) latents+=-green ;;
        outline) encode_options+=(--outline 4) latents+=-outline ;;
        absent) draw_options+=(--absent 0.2) latents+=-absent ;;
        photo) train_options+=(--text-template "a photo of a {}") ;;
        pretrained)
            [ -z "$coco" ] || fail "$1: pretrained is not for --coco, whose model is"
            begin=pretrained
            ;;
        *) fail "$1: unknown word \"$word\" (see --help)" ;;
        esac
    done
    [ -n "$target" ] || fail "$1: expected overlay or mask as one of the words"
    train_options+=("${schedule[@]}")
}

encode() { # encode SPLIT FOLDER OPTIONS...: unless the shards exist
    stage "$2/$1.json" ./cocogold encode --model "$start" --data "$data" --split "$1$split" --out "$2" \
        --targets overlay,mask --min-side "$minimum" --resolution "$resolution" --seed 1 "${source[@]}" "${@:3}"
}
encode_arm() { # the latents of the current arm
    local list=$without number=$passes
    [ "$classes" = without ] || list=$with number=$passes_with
    encode train "$latents" --classes "$list" --passes "$number" "${encode_options[@]}" "${draw_options[@]}"
    encode val "$latents" --classes all-things --passes 1 "${encode_options[@]}"
}

train_arm() { # train_arm FOLDER NAME SEED STEPS RECIPE...: the run of the current arm
    local folder=$1/$2/seed-$3 launch=() lr_end=(--lr-total-steps "$4") kind
    [ -z "$coco" ] || lr_end=() # the default, 25,000
    if [ "$begin" = pretrained ]; then
        begin=$pretraining/captions/seed-$3/start
        while [ ! "$dry" ] && [ ! -e "$pretraining/captions/seed-$3/done" ]; do sleep 1; done
    fi
    [ "$gpus" = 1 ] || launch=(mpirun -n "$gpus")
    if [ ! "$dry" ]; then
        mkdir -p "$folder"
        printf '{"arm": "%s", "target": "%s", "classes": "%s", "frequent": "%s", "new_words": "%s", "seed": %d, "steps": %d}\n' \
            "$2" "$target" "$classes" "$frequent" "$new_words" "$3" "$4" >"$folder/arm.json"
    fi
    stage "$folder/model/model_index.json" "${launch[@]}" ./cocogold train --model "$begin" --shards "$latents" \
        --target "$target" --out "$folder" --resume --max-train-steps "$4" "${lr_end[@]}" "${@:5}" \
        --validation-steps 50 --validate-every $((($4 + checkpoints - 1) / checkpoints)) \
        --validation-samples "$samples" --validation-draws 4 --checkpoint-every $((($4 + checkpoints - 1) / checkpoints)) \
        --checkpoints-total-limit 1 --log-every 100 --no-roofline --seed "$3" "${train_options[@]}"
    for kind in $starts; do
        stage "$folder/$kind/pairs.csv" ./cocogold eval --model "$folder/model" --protocol crops --shards "$latents" \
            --split val --seen "$without" --steps 50 --start "$kind" --limit "$pairs" --bootstrap 0 --out "$folder/$kind"
    done
    [ "$dry" ] || touch "$folder/done"
}

# ---- runs side by side -----------------------------------------------------------------------------------------------

queued=() # "ARM SEED FOLDER" of every run
pretraining=$out/pretraining
running=() # process ids
declare -A begun=() # seconds at which they began
to_do=0 finished=0 busy=0 # runs of this session; seconds that the finished ones took, together
stop_runs() {
    [ ${#running[@]} = 0 ] || kill -TERM "${running[@]}" 2>/dev/null || true
    wait
}
trap 'stop_runs; exit 130' INT TERM

# One run in a process of its own. A signal ends its command, which saves a checkpoint.
start_run() { # start_run FOLDER ARM SEED
    mkdir -p "$1/$2/seed-$3"
    (
        side_by_side=1
        trap 'kill -TERM $(jobs -p) 2>/dev/null; wait; exit 143' INT TERM
        [ "$jobs" = 1 ] || export OMP_NUM_THREADS=1
        "run_$(basename "$1")" "$@"
    ) >>"$1/$2/seed-$3/output.txt" 2>&1 &
    running+=($!)
    begun[$!]=$SECONDS
}
# Seconds until the queue is done, if every run takes as long as those that have finished on average.
seconds_left() {
    local mean=$((busy / finished)) pid lanes left=$((to_do - finished)) work
    work=$(((left - ${#running[@]}) * mean))
    for pid in "${running[@]}"; do
        ((begun[$pid] + mean <= SECONDS)) || work=$((work + begun[$pid] + mean - SECONDS))
    done
    lanes=$((left < jobs ? left : jobs))
    echo $((lanes ? (work + lanes - 1) / lanes : 0))
}
finish_run() { # waits for one run to end
    local pid code=0 left=()
    wait -n -p pid "${running[@]}" || code=$?
    for job in "${running[@]}"; do [ "$job" = "$pid" ] || left+=("$job"); done
    running=("${left[@]+"${left[@]}"}")
    if [ $code != 0 ]; then
        stop_runs
        tail -n 3 "$out"/*/*/seed-*/output.txt >&2
        fail "a run failed (its output is in output.txt of its folder)"
    fi
    finished=$((finished + 1)) busy=$((busy + SECONDS - begun[$pid]))
    local spent=$((SECONDS - started))
    printf '%d of %d runs done in %d:%02d, about %d minutes left\n' $finished $to_do $((spent / 60)) $((spent % 60)) \
        $((($(seconds_left) + 59) / 60))
}
run_queue() {
    local spec folder arm seed left=() started=$SECONDS
    for spec in "${queued[@]}"; do
        read -r arm seed folder <<<"$spec"
        [ "$dry" ] || [ ! -e "$folder/$arm/seed-$seed/done" ] || continue
        left+=("$spec")
    done
    to_do=${#left[@]}
    [ "$dry" ] || [ $to_do = ${#queued[@]} ] || echo "$((${#queued[@]} - to_do)) of ${#queued[@]} runs were done before"
    for spec in "${left[@]+"${left[@]}"}"; do
        read -r arm seed folder <<<"$spec"
        if [ "$dry" ]; then
            ("run_$(basename "$folder")" "$folder" "$arm" "$seed")
            continue
        fi
        while [ ${#running[@]} -ge "$jobs" ]; do finish_run; done
        printf 'run %s, seed %d\n' "$folder/$arm" "$seed"
        start_run "$folder" "$arm" "$seed"
    done
    while [ ${#running[@]} -gt 0 ]; do finish_run; done
}

run_arms() { # run_arms FOLDER ARM SEED
    parse_arm "$2"
    train_arm "$1" "$2" "$3" "$steps" "${recipe[@]}"
}
run_words() { # run_words FOLDER ARM SEED: the demo's recipe; a tenth of the pairs ask for the new word
    new_words=$new_word without=@$out/word-data/classes/known.txt pairs=$((3 * pairs))
    parse_arm "$2"
    latents=$out/latents-words
    train_arm "$1" "$2" "$3" "$word_steps" "${recipe[@]}" --multires-noise 0 --t-max-prob 0.5
}
run_pretraining() { # run_pretraining FOLDER captions SEED: from text to image, then the start of fine-tuning
    local folder=$1/$2/seed-$3
    stage "$folder/init/model_index.json" ./cocogold init --preset mini --text-to-image --vae "$start" --seed "$3" \
        "$folder/init"
    stage "$folder/run/model/model_index.json" ./cocogold pretrain --model "$folder/init" --shards "$out/captions" \
        --out "$folder/run" --resume --max-train-steps "$pretrain_steps" --train-batch-size 16 \
        --gradient-accumulation-steps 1 --lr 2e-3 --adam-beta2 0.99 --weight-decay 0.01 --lr-scheduler wsd \
        --max-grad-norm 1 --validate-every 1000 --validation-samples 32 --log-every 100 --no-roofline --seed "$3" \
        --train-text-encoder
    stage "$folder/start/model_index.json" ./cocogold init --from "$folder/run/model" "$folder/start"
    [ "$dry" ] || touch "$folder/done"
}
run_unscaled() { # run_unscaled FOLDER ARM SEED: SD2's own betas, a batch of 8
    matched=-1
    parse_arm "$2"
    latents=$out/unscaled-latents
    train_arm "$1" "$2" "$3" "$unscaled_steps" "${recipe[@]}" --train-batch-size 8
}

# ---- the queue -------------------------------------------------------------------------------------------------------

add_runs() { # add_runs FOLDER SEEDS ARM...
    local arm seed
    for seed in $(seq "$2"); do
        for arm in "${@:3}"; do queued+=("$arm $seed $1"); done
    done
}
has_part() { [[ ,$parts, == *,$1,* ]]; }

for part in ${parts//,/ }; do
    [[ " square dose words classes unscaled " == *" $part "* ]] || fail "--parts $parts: unknown part \"$part\" (see --help)"
done
# First in the queue: arms that start from a pretraining wait for it.
if { [ $# = 0 ] && has_part words; } || [[ $* == *pretrained* ]]; then add_runs "$pretraining" "$seeds" captions; fi
if [ $# -gt 0 ]; then
    matched=0.2
    for arm in "$@"; do parse_arm "$arm"; done
    twice=$(printf '%s\n' "$@" | sort | uniq -d | head -1)
    [ -z "$twice" ] || fail "$twice: is given twice"
    parts=
    add_runs "$out/arms" "$seeds" "$@"
fi
! has_part square || add_runs "$out/arms" "$seeds" overlay mask overlay+leak mask+leak
! has_part dose || for a in 0.068 0.22 0.27; do add_runs "$out/arms" 1 "overlay+leak=$a" "mask+leak=$a"; done
! has_part classes || add_runs "$out/arms" "$seeds" {overlay,mask}{,+leak}+frequent
! has_part words || add_runs "$out/words" "$seeds" {overlay,mask}{,+pretrained}
! has_part unscaled || add_runs "$out/unscaled" "$seeds" overlay mask overlay+leak mask+leak
if [ "$coco" ]; then
    # 1.4 EFLOP for a run of 18,000 steps of 32 at 512 pixels, 2.0 EFLOP to encode 600,000 samples with two kinds of
    # target, at 40% of an A100's 312 TFLOP/s. A sample with both has 128 KiB.
    echo "${#queued[@]} runs of $steps steps of 32: about $((${#queued[@]} * steps * 31 / 180000)) hours of an A100 (predicted" \
        "at 40% of its peak), and 4.5 hours per set of latents; disk: 79 GB per set of latents, 10.4 GB per run while it" \
        "trains, 5 GB after."
fi

# ---- data ------------------------------------------------------------------------------------------------------------

# The classes: two lists, without and with the frequent class. Validation always asks for all classes; those of the first
# list, which every arm trains on, are called "listed".
data=${coco:-$out/data} frequent=person new_word=orange new_words=
[ "$dry" ] || mkdir -p "$out"
if [ "$coco" ]; then
    # About half of the 117,000 training pictures show one of the 14 classes (an estimate; `cocogold stats --passes 10
    # --classes default14` counts the samples). Either number of passes gives about 600,000 samples, as many as 18,000
    # steps draw, so that arms with and without the frequent class see each crop once.
    resolution=512 without=default14 with=all-things split=2017 minimum=300 passes=10 passes_with=5
    recipe=() # train's defaults
    # The original's masks were panoptic. Those of instances overlap, and their outlines are polygons.
    source=(--source panoptic)
    for name in panoptic_{train,val}2017{,.json}; do
        [ -e "$coco/annotations/$name" ] || source=()
    done
    [ ${#source[@]} = 2 ] || echo "The masks are those of instances_*.json. For the original's, $coco/annotations needs" \
        "panoptic_train2017.json, panoptic_val2017.json and the folders of their PNGs."
    stage "$start/model_index.json" ./cocogold init --from "$model" "$start"
else
    resolution=0 without=@$out/without.txt with=@$out/with.txt split= minimum=0 passes=1 passes_with=1 source=()
    recipe=(--train-batch-size 16 --gradient-accumulation-steps 1 --lr 2e-3 --adam-beta2 0.99 --weight-decay 0.01
        --lr-scheduler wsd --max-grad-norm 1 --multires-noise 0.9)
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
stage "$out/leak/leak.json" ./cocogold analyze leak --model "$start" --data "$data" --split "val$split" \
    --min-side "$minimum" --resolution "$resolution" "${source[@]}" --out "$out/leak"
stage "$out/latents-analysis/latents.json" ./cocogold analyze latents --model "$start" --data "$data" --split "val$split" \
    --min-side "$minimum" --resolution "$resolution" "${source[@]}" --out "$out/latents-analysis"
# At full size, `leak` is what SD2's betas give; in miniature, what gives an object the same evidence.
matched=${signal:-$([ "$coco" ] && echo -1 || { [ "$dry" ] && echo MATCHED || number matched_signal "$out/leak/leak.json"; })}
[ "$dry" ] || [[ $matched =~ ^-?[0-9]+(\.[0-9]+)?(e-[0-9]+)?$ ]] || fail "$out/leak/leak.json: expected a number as \"matched_signal\""

declare -A encoded
for spec in "${queued[@]}"; do
    read -r arm _ folder <<<"$spec"
    [ "$folder" = "$out/arms" ] || continue
    parse_arm "$arm"
    [ "${encoded[$latents]-}" ] || encode_arm
    encoded[$latents]=1
done
if has_part words; then # ten colours, as in the demo
    data=$out/word-data known=@$out/word-data/classes/known.txt new=@$out/word-data/classes/new-words.txt
    stage "$data/synth.json" ./cocogold synth "$data" --colors 10 --train "$train" --val "$val" --seed 1 --new-words "$new_word"
    encode train "$out/latents-words" --classes "$known" --exclude "$new" --passes "$passes"
    encode val "$out/latents-words" --classes all-things --passes 1
fi
if has_part words || [[ $* == *pretrained* ]]; then
    stage "$out/caption-data/synth.json" ./cocogold synth "$out/caption-data" --colors 10 --train "$((4 * train))" \
        --val 100 --seed 11
    for part in train val; do
        stage "$out/captions/$part.json" ./cocogold encode --model "$start" --data "$out/caption-data" --split "$part" \
            --texts captions --min-side 0 --seed 1 --out "$out/captions"
    done
fi
if has_part unscaled; then
    stage "$out/unscaled-data/synth.json" ./cocogold synth "$out/unscaled-data" --size 256 --train 400 --val 150 --seed 1
    data=$out/unscaled-data resolution=256
    encode train "$out/unscaled-latents" --classes "$without"
    encode val "$out/unscaled-latents" --classes all-things
fi

# ---- runs and report -------------------------------------------------------------------------------------------------

run_queue
report=(--leak "$out/leak/leak.json" --latents "$out/latents-analysis/latents.json")
others=(arms) # of the runs that there are, the first are the report's arms
! has_part words || others+=(words)
! has_part unscaled || others+=(unscaled)
[ -d "$out/arms" ] || [[ "${queued[*]} " == *" $out/arms "* ]] || others=("${others[@]:1}")
report+=(--arms "$out/${others[0]}")
for part in "${others[@]:1}"; do report+=("--$part" "$out/$part"); done
run ./cocogold analyze arms "${report[@]}" --out "$out"
[ "$dry" ] || printf '\nDone in %d minutes. Open %s/report.html.\n' $(((SECONDS + 59) / 60)) "$out"
