#!/usr/bin/env bash
# Two arms of the experiment with a few steps, side by side: killed in the middle and continued, without doing anything
# twice; interrupted by a signal; and a run that fails.
source "$(dirname "$0")/common.sh"

mkdir home && cp -r "$root/train" home/ && ln -s "$cocogold" home/cocogold # the script runs in the program's folder
script=home/train/experiments/failure_and_fix.sh
small=("$script" --out "$work/out" --seeds 1 --steps 4 --checkpoints 2 --vae-steps 2 --train 24 --val 10 --samples 6
    --pairs 5 --jobs 2)
reproduce() { "${small[@]}" "$@" overlay mask+leak; }
check_not "an unknown word" reproduce overlay+nonsense
check_not "a number that is a command" reproduce --steps 'a[$(touch hacked)]'
for name in VAE_STEPS WORDS_STEPS UNET_STEPS SEED; do
    said=$(env "$name=a[\$(touch $work/hacked)]" home/train/experiments/demo.sh 2>&1)
    check_not "the demo, $name: $said" grep -qv ': expected a number$' <<<"$said"
done
check_not "make demo, a command as its target" make -s -C "$root" -o setup demo "TARGET=mask;touch $work/hacked"
check_not "tests/run.sh --jobs" "$root/tests/run.sh" --jobs "a[\$(touch $work/hacked)]" unit
check_not "tests/run.sh, a unit" "$root/tests/run.sh" "a[\$(touch $work/hacked)]"
check_not "no command was run" ls hacked home/hacked
check_not "a signal that is none" reproduce --dry-run --signal 0.96
check_not "an arm twice" "$script" --dry-run mask mask
check_not "words at full size" "$script" --dry-run --coco COCO --model SD2 --parts words
check_not "no part" "$script" --dry-run --parts ""
check_not "a demo of another target" env TARGET=outline home/train/experiments/demo.sh
check "arms by name" bash -c "'$script' --dry-run --seeds 1 mask+pretrained | grep -q 'cocogold pretrain '"
check "a folder with a blank, where a plan writes nothing" \
    bash -c "'$script' --dry-run --out 'a b' --seeds 1 mask | grep -q 'out a b/arms/mask/seed-1 ' && [ ! -e home/'a b' ]"
check "the parts do not change each other" \
    bash -c "'$script' --dry-run --parts words,unscaled | grep -c 'unscaled/.*start truth' | grep -qx 6"
check "a report without the square" \
    bash -c "'$script' --dry-run --parts unscaled | tail -n 1 | grep -q -- '--arms reproduce/unscaled --out'"
check "its help" bash -c "$script --help | grep -q 'mask+leak+frequent'"
check "the plan: square and dose" bash -c "$script --dry-run --parts square,dose | grep -c 'cocogold train ' | grep -qx 18"
check "full size: hours and disk" \
    bash -c "$script --dry-run --coco COCO --model SD2 --gpus 4 | head -1 | grep -q '12 runs.*hours of an A100.*disk'"
check "full size: the betas of SD2" bash -c "$script --dry-run --coco COCO --model SD2 mask+leak | grep 'cocogold train ' |
    grep -q -e '--terminal-signal -1 --timestep-spacing leading'"
full() { "$script" --dry-run --coco "$1" --model SD2 --gpus 4 "${@:2}"; } # full COCO OPTIONS...
full COCO --parts square,classes --seeds 1 >full.plan
check "full size: 32 samples a step, and the original's learning rate" bash -c "grep -c 'cocogold train ' full.plan | grep -qx 8 &&
    ! grep -qE -e '--(lr-total-steps|gradient-accumulation-steps)' full.plan"
check "full size: as many crops of all classes as of the fourteen" bash -c "grep -q -e '--classes default14 --passes 10' full.plan &&
    grep -q -e '--classes all-things --passes 5' full.plan"
check_not "full size: 3 GPUs do not divide a step" full COCO --gpus 3 mask
check "full size: it says that the masks are not panoptic" bash -c "grep -q '^The masks are those of instances' full.plan && ! grep -q 'source panoptic' full.plan"
mkdir -p COCO/annotations/panoptic_{train,val}2017 && touch COCO/annotations/panoptic_{train,val}2017.json
full "$work/COCO" mask >panoptic.plan
check "full size: the original's panoptic masks" bash -c "grep -cE 'cocogold (encode|analyze l).*--source panoptic' panoptic.plan | grep -qx 4 &&
    ! grep -q '^The masks are' panoptic.plan"

check "latents are analysed at the resolution of the training" \
    bash -c "'$script' --dry-run --coco COCO --model SD2 mask | grep 'analyze latents' | grep -q -- '--resolution 512 '"
check "and not at that of another part" \
    bash -c "'$script' --dry-run --parts unscaled | grep 'analyze latents' | grep -q -- '--resolution 0 '"

# The time left, of many runs of two seconds side by side by a program that only waits: after the first one, and with
# runs of an earlier session.
mkdir -p clock/data/classes
cp -r home/train clock/
printf 'red cat\nperson\norange cat\n' >clock/data/classes/seen.txt
cp clock/data/classes/{seen,unseen}.txt
printf '#!/bin/sh\n[ "$1" != train ] || sleep 2\n' >clock/cocogold
chmod +x clock/cocogold
minutes_left() { # minutes_left OUT: by the first runs of a queue of 400
    mkdir -p "$1" && cp -r clock/data "$1/"
    timeout 6 clock/train/experiments/failure_and_fix.sh --out "$1" --seeds 400 --jobs 2 --signal 0.2 mask >"$1.log" 2>&1
    sed -n 's/.*about \([0-9]*\) minutes left$/\1/p' "$1.log" | head -n 1
}
left=$(minutes_left "$work/clocked")
check "400 runs of 2 seconds, 2 at a time: $left minutes" [ "${left:-0}" -ge 6 -a "${left:-0}" -le 11 ]
mkdir -p continued/arms/mask/seed-{1..200}
touch continued/arms/mask/seed-{1..200}/done
left=$(minutes_left "$work/continued")
check "200 of them done before: $left minutes" [ "${left:-0}" -ge 3 -a "${left:-0}" -le 6 ]
check "it says so" grep -q '^200 of 400 runs were done before$' continued.log

setsid "${small[@]}" overlay mask+leak >first.log 2>&1 & # a process group: script and programs die together
first=$!
for _ in $(seq 3000); do
    [ -e out/arms/overlay/seed-1/checkpoint-000002 ] && break
    kill -0 $first 2>/dev/null || break
    sleep 0.02
done
kill -KILL -- -$first
wait $first 2>/dev/null
check_not "killed before its end" ls out/report.html
check "the first checkpoint exists" ls out/arms/overlay/seed-1/
"${small[@]}" --steps 2000 overlay+constant >second.log 2>&1 &
second=$!
for _ in $(seq 3000); do
    grep -q '"kind":"step"' out/arms/overlay+constant/seed-1/log.jsonl 2>/dev/null && break
    kill -0 $second 2>/dev/null || break
    sleep 0.02
done
kill -TERM $second
check_not "a signal ends it" wait $second
check "its run saved a checkpoint first" ls out/arms/overlay+constant/seed-1/checkpoint-*/trainer
rm -rf out/arms/overlay+constant

reproduce >third.log 2>&1
check "continued" tail -n 3 third.log
check "progress" grep -q 'of 2 runs done in 0:.*minutes left' third.log
check "the report" grep -q 'id="conclusions"' out/report.html
check "two arms" bash -c "grep -c '\"failed\": [0-9]' out/experiment.json | grep -qx 2"
for arm in overlay mask+leak; do
    check "$arm: three validations" bash -c "ls out/arms/$arm/seed-1/validation/step-*-losses.csv | wc -l | grep -qx 3"
    check "$arm: one line per step" bash -c "grep -c '\"kind\":\"step\"' out/arms/$arm/seed-1/log.jsonl | grep -qx 4"
    starts="noise truth mean image"
    [ $arm = overlay ] && starts=noise
    for start in $starts; do
        check "$arm from $start" grep -q "\"start\": \"$start\"" "out/arms/$arm/seed-1/$start/metrics.json"
    done
done
check "the original's schedule" grep -q '"leading"' out/arms/mask+leak/seed-1/model/scheduler/scheduler_config.json
find out/arms out/latents out/vae -type f -newer out/report.html >newer.before
check "run again" reproduce
find out/arms out/latents out/vae -type f -newer out/report.html >newer.after
check "nothing was done twice" cmp newer.before newer.after
cp out/leak/leak.json leak.json
for signal in '"a[$(touch hacked)]"' 0.1e null; do
    sed "s/\"matched_signal\": .*/\"matched_signal\": $signal,/" leak.json >out/leak/leak.json
    said=$(reproduce 2>&1)
    check "matched_signal is $signal" grep -q 'leak.json: expected a number as "matched_signal"' <<<"$said"
done
cp leak.json out/leak/leak.json
dies "another file than leak.json" 'out/experiment.json: the field "matched_signal" is missing' analyze arms --arms out/arms \
    --leak out/experiment.json --out new
dies "another file than latents.json" 'out/leak/leak.json: the field' analyze arms --arms out/arms --latents out/leak/leak.json \
    --out new
rm -rf out/arms/overlay/seed-1/{noise,done} out/arms/mask+leak
dies "only an unfinished run" "no finished run of an arm" analyze arms --arms out/arms
chmod -R a-w out/arms/overlay/seed-1/model 2>/dev/null
echo damaged >out/arms/overlay/seed-1/model/unet/config.json
check_not "a run that fails ends the experiment" reproduce
finish
