#!/usr/bin/env bash
# Two arms of the experiment with a few steps: killed in the middle and continued, without doing anything twice.
source "$(dirname "$0")/common.sh"

mkdir home && cp -r "$root/train" home/ && ln -s "$cocogold" home/cocogold # the script runs in the program's folder
small=(home/train/experiments/failure_and_fix.sh --out "$work/out" --seeds 1 --steps 4 --checkpoints 2 --vae-steps 2
    --train 24 --val 10 --samples 6)
reproduce() { "${small[@]}" "$@" overlay mask+leading; }
check_not "an unknown change" reproduce overlay+nonsense
check "its help" bash -c "home/train/experiments/failure_and_fix.sh --help | grep -q 'mask+frequent'"
check "the plan" bash -c "home/train/experiments/failure_and_fix.sh --dry-run | grep -c 'cocogold train' | grep -qx 13"
check "full size: hours and disk" \
    bash -c "home/train/experiments/failure_and_fix.sh --dry-run --coco COCO --model SD2 --gpus 4 | head -1 | grep -q 'hours of an A100.*disk'"

setsid "${small[@]}" overlay mask+leading >first.log 2>&1 & # a process group: script and program die together
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
check "continued" reproduce
check "the report" grep -q 'id="conclusions"' out/report.html
check "two arms" bash -c "grep -c '\"collapsed\": [0-9]' out/experiment.json | grep -qx 2"
check "the area marked in pictures without the object" bash -c "grep -A1 '\"false_area\"' out/experiment.json | grep -c '\"value\": [0-9]' | grep -qx 2"
for arm in overlay mask+leading; do
    check "$arm: three validations" bash -c "ls out/arms/$arm/seed-1/validation/step-*-losses.csv | wc -l | grep -qx 3"
    check "$arm: one line per step" bash -c "grep -c '\"kind\":\"step\"' out/arms/$arm/seed-1/log.jsonl | grep -qx 4"
done
check "the original's schedule" grep -q '"leading"' out/arms/mask+leading/seed-1/model/scheduler/scheduler_config.json
find out/arms out/latents out/vae -type f -newer out/report.html >newer.before
check "run again" reproduce
find out/arms out/latents out/vae -type f -newer out/report.html >newer.after
check "nothing was done twice" cmp newer.before newer.after
rm -rf out/arms/overlay/seed-1/eval
dies "only an unfinished run" "no finished run of an arm" analyze arms --arms out/data
finish
