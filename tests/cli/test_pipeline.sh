#!/usr/bin/env bash
# The whole pipeline as a user runs it, with a few steps: every stage writes its files.
source "$(dirname "$0")/common.sh"

is_picture() { # is_picture FILE...
    for file in "$@"; do
        case $(head -c 4 "$file" | od -An -tx1) in " 89 50 4e 47" | " ff d8 ff "*) ;; *) return 1 ;; esac
    done
}
is_shard() { [ "$(head -c 4 "$1" | tail -c 3)" = HDF ]; }
lines_of() { grep -c "\"kind\":\"$2\"" "$1/log.jsonl"; }
is_run() { # is_run OUT STEPS VALIDATIONS
    [ "$(lines_of "$1" run) $(lines_of "$1" step) $(lines_of "$1" validation)" = "1 $2 $3" ] &&
        [ -s "$1/model/model_index.json" ] && ls "$1"/tensorboard/events.out.tfevents.* >/dev/null &&
        is_picture "$1/samples/step-$(printf %06d "$2").png"
}

run "synth" synth data --train 30 --val 10
check "synth: pictures" is_picture data/train/*.png data/val/*.png
check "synth: annotations" ls data/annotations/{instances,panoptic}_{train,val}.json
run "stats" stats --data data --split train --min-side 1 --image chart.png --json stats.json
check "stats: chart and counts" bash -c "grep -q person stats.json"
check "stats: the chart is a picture" is_picture chart.png
run "preview" preview --data data --split val --min-side 1 --size 64 --count 6 --out sheet.jpg --dump dump
check "preview: a picture" is_picture sheet.jpg
check "preview: samples" grep -q image dump/samples.json
run "init" init --preset mini model
run "train-vae" train-vae --model model --data data --out vae --max-train-steps 3 --train-batch-size 4 \
    --gradient-accumulation-steps 1 --lr 1e-3 --lr-scheduler constant --validate-every 3 --validation-samples 4 --no-roofline
check "train-vae: the run's folder" is_run vae 3 1
run "analyze leak" analyze leak --model vae/model --data data --min-side 1 --samples 4 --match-cells 8
check "analyze leak: page and numbers" bash -c "grep -q '</html>' leak/leak.html && grep -c , leak/objects.csv | grep -qx 5"
check "analyze leak: one field per line" grep -qE '^  "matched_signal": 0\.[0-9]+,$' leak/leak.json
check "analyze leak: the reference" bash -c "sed -n '/^  \"reference\"/,/}/p' leak/leak.json | grep -qE '^    \"nats\": [0-9.e-]+,$'"
run "analyze starts" analyze starts --model model --images data/val --maps data/val --kind picture --steps 2
check "analyze starts: page and numbers" bash -c "grep -q '</html>' starts/starts.html && grep -c , starts/pictures.csv | grep -qx 11"
check "analyze starts: a zero signal says so" grep -q "nothing to read" starts/starts.json
one=$(ls data/val/*.png data/val/*.jpg 2>/dev/null | head -n 1)
run "analyze starts of one picture" analyze starts --model model --images "$one" --maps data/val --kind picture --steps 2 \
    --terminal-signal 0.3 --out one
check "analyze starts: one picture shows nothing" grep -q '"conclusion": "The pictures are too few' one/starts.json
run "analyze starts without a bootstrap" analyze starts --model model --images "$one" --maps data/val --kind picture \
    --steps 2 --terminal-signal 0.3 --bootstrap 0 --out one
check_not "analyze starts without a bootstrap: no intervals" grep -q 'nan' one/starts.json
for split in train val; do
    run "encode $split" encode --model vae/model --data data --split $split --out latents --targets overlay,mask \
        --min-side 1 --classes @data/classes/seen.txt
done
# encode, killed in the middle and run again, writes the same files.
encode=(encode --model vae/model --data data --split train --min-side 1 --shard-size 5)
run "encode, six shards" "${encode[@]}" --out six
said() { # said TEXT ARGUMENTS...: what encode says of its size
    check "encode: $1" grep -qF "train: squares of $1" <<<"$("$cocogold" "${encode[@]}" "${@:2}" 2>/dev/null)"
}
said "64 pixels (from the model's configs; --resolution chooses another side), latents of 16 x 16 x 4" --out six
said "32 pixels (--resolution), latents of 8 x 8 x 4" --resolution 32 --out small
"$cocogold" "${encode[@]}" --out killed >/dev/null 2>&1 &
for _ in $(seq 1000); do
    [ -e killed/train-00001.h5 ] && break
    sleep 0.01
done
kill -KILL $! && wait $! 2>/dev/null
check_not "killed before its end" ls killed/train.json
run "encode again" "${encode[@]}" --out killed
check "encode: the same files as without the kill" diff -r six killed
# Ranks of a launcher divide the shards, or those of --part. Other commands that are one process refuse.
as_rank() { env "RANK=$1" LOCAL_RANK="$1" WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=1 "$cocogold" "${@:2}"; }
check "encode as rank 1 of 2" as_rank 1 "${encode[@]}" --out ranks
check "encode: rank 1 has written its half" [ "$(cd ranks && echo *)" = "train-00001.h5 train-00003.h5 train-00005.h5" ]
check "encode as rank 0 of 2" as_rank 0 "${encode[@]}" --out ranks
check "encode: the same files as by one process" diff -r six ranks
check "encode as rank 0 of 2, with --part" as_rank 0 "${encode[@]}" --out part --part 6/6
check "encode as rank 1 of 2, with --part" as_rank 1 "${encode[@]}" --out part --part 1/3
check "encode: the ranks have written their halves" [ "$(cd part && echo *)" = "train-00003.h5 train-00005.h5" ]
for command in "segment --image $one --text person" "eval --data data" "generate --text person"; do
    # shellcheck disable=SC2086 # several words
    RANK=1 LOCAL_RANK=1 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=1 dies "${command%% *} as one of two ranks" \
        "${command%% *} runs as one process, but was started by torchrun's variables as one of 2 ranks" $command --model model --out refused
done
check "encode: shards" is_shard latents/train-00000.h5
check "encode: shards of the validation split" is_shard latents/val-00000.h5
run "encode, without pictures of a class" encode --model vae/model --data data --split train --out without \
    --min-side 1 --exclude person
check "encode: they are counted" grep -q '"excluded": \[' without/train.json
check_not "encode: they give no sample" grep -q '"person"' without/train.json
dies "encode: the same folder for other pictures" '"drawn" is 2 for "person", but this command asks for 1 for "person"' \
    encode --model vae/model --data data --split train --out without --min-side 1

unet=(train --model vae/model --shards latents --max-train-steps 2 --train-batch-size 4 --gradient-accumulation-steps 2
    --lr 1e-4 --lr-warmup-steps 2 --validate-every 2 --validation-samples 4 --validation-steps 1)
run "train overlay, mse" "${unet[@]}" --out overlay
check "overlay: the run's folder" is_run overlay 2 2
check "overlay: the log has the fraction of the roofline" grep -q '"roofline":[0-9]' overlay/log.jsonl
run "train mask, weighted, averaged, recomputed" "${unet[@]}" --no-roofline --out mask --target mask --loss weighted \
    --ema-decay 0.9 --recompute transformers --t-max-prob 0.5
check "mask: the run's folder" is_run mask 2 2
check "mask: the model knows its target" grep -q '"target": "mask"' mask/model/cocogold.json
check "mask: the average of the weights" ls mask/model/unet_ema/diffusion_pytorch_model.safetensors
run "train focal and Dice, plain noise, sample prediction" "${unet[@]}" --no-roofline --out focal --loss focal --multires-noise 0 \
    --pixel-loss 0.2 --pixel-loss-type dice \
    --prediction-type sample --recompute blocks --classes "yellow square,person" --text-template "a photo of a {}"
check "focal: the run's folder" is_run focal 2 2
check "focal: the model knows its prediction" grep -q '"prediction_type": "sample"' focal/model/scheduler/scheduler_config.json
check "focal: the model it started from is unchanged" grep -q '"prediction_type": "v_prediction"' vae/model/scheduler/scheduler_config.json
check "focal: its classes and its text" bash -c "tr -d ' \n' <focal/model/cocogold.json | grep -q '\"text_template\":\"aphotoofa{}\",\"train_classes\":\[\"person\",\"yellowsquare\"\]'"

run "eval" eval --model overlay/model --data data --split val --limit 8 --steps 1 --bootstrap 20 --run overlay --out result
check "eval: figures" bash -c "tr -d ' \n' <result/metrics.json | grep -q '\"seen\":{.*\"miou\":'"
check "eval: pairs and report" bash -c "head -c 400 result/report.html | grep -qi '<!doctype html>' && grep -c , result/pairs.csv"
run "eval of the average" eval --model mask/model --ema --data data --split val --limit 4 --steps 1 --bootstrap 0 --out result-mask
picture=$(ls data/val/*.png | head -n 1)
run "segment" segment --model overlay/model --image "$picture" --text "red circle" --steps 2 --out masked
check "segment: it says that the average is not used" \
    bash -c '"$@" 2>&1 | grep -q "mask/model/unet_ema: the averaged weights are used only with --ema"' - \
    "$cocogold" segment --model mask/model --image "$picture" --text "red circle" --steps 1 --out raw
check "segment --ema: it says nothing of it" bash -c '"$@" >ema.log 2>&1 && ! grep -q unet_ema ema.log' - \
    "$cocogold" segment --model mask/model --ema --image "$picture" --text "red circle" --steps 1 --out average
check "segment: mask, prediction and overlay" is_picture masked-{mask,prediction,overlay}.png
# From text to image: captions, pretraining, drawing, and the start of a segmentation model.
run "init from text to image" init --preset mini --text-to-image --vae vae/model text
for split in train val; do
    run "encode captions $split" encode --model text --data data --split $split --out captions --texts captions --min-side 1
done
run "pretrain" pretrain --model text --shards captions --max-train-steps 2 --train-batch-size 4 --gradient-accumulation-steps 2 \
    --lr 1e-4 --train-text-encoder --ema-decay 0.5 --validate-every 2 --validation-samples 6 --validation-steps 2 --no-roofline --out words
check "pretrain: the run's folder" is_run words 2 2
run "generate" generate --model words/model --text "a red circle and a person" --steps 2 --count 3 --out drawn
check "generate: pictures" is_picture drawn.png drawn-{0,1,2}.png
run "init from the result" init --from words/model start
run "init from its average" init --ema --from words/model average
weights=unet/diffusion_pytorch_model.safetensors
check "init --ema: text encoder" cmp words/model/text_encoder_ema/model.safetensors average/text_encoder/model.safetensors
check "init --ema: another UNet" bash -c "! cmp -s start/$weights average/$weights && cmp <(wc -c <start/$weights) <(wc -c <average/$weights)"
run "train from it" train --model start --shards latents --max-train-steps 1 --train-batch-size 2 --gradient-accumulation-steps 1 \
    --validate-every 0 --no-roofline --out from-words
run "report" report --run overlay --run words --run mask --eval result/metrics.json --eval result-mask/metrics.json --out report.html
check "report: what was measured" bash -c "grep -qF '<tr><td>data</td><td>data, split val (instances)</td><td>data, split val (instances)</td></tr>' report.html &&
    grep -qF '<tr><td>averaged weights</td><td>no</td><td>yes</td></tr>' report.html && ! grep -qF '<td>ensemble</td>' report.html"
check "report: a page" bash -c "grep -qi '<svg' report.html && grep -qi '</html>' report.html"
check "nothing under a temporary name" [ -z "$(find . -name '*.cocogold-tmp-*' -o -name '*.cocogold-old-*')" ]
finish
