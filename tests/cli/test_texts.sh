#!/usr/bin/env bash
# Phrases and captions as a user trains on them: synth, encode, train, eval; the two ways to embed texts agree.
source "$(dirname "$0")/common.sh"

run "synth" synth data --train 24 --val 12 --object-size 1.2 --frequent-share 0.1 --new-words orange,cross
check "synth: texts" ls data/annotations/{captions,refs}_{train,val}.json
check "synth: lists of words" grep -q "orange circle" data/classes/new-words.txt
check_not "synth: known classes lack them" grep -q "orange\|cross" data/classes/known.txt
run "synth again: it is there" synth data --train 24 --val 12 --object-size 1.2 --frequent-share 0.1 --new-words orange,cross
dies "synth: other objects" "field \"object_size\" is 1.2, but 1 is asked for" synth data --train 24 --val 12 \
    --frequent-share 0.1 --new-words orange,cross
dies "synth: other words" "field \"new_words\" is \"orange,cross\", but \"\" is asked for" synth data --train 24 --val 12 \
    --object-size 1.2 --frequent-share 0.1
dies "synth: no word" "\"pink\" is no word of a class" synth other --new-words red,pink
run "init" init --preset mini model
for split in train val; do
    run "encode phrases, $split" encode --model model --data data --split $split --out phrases --texts phrases --min-side 0 \
        --passes 2 --targets overlay,mask
done
check "encode: counts of kinds" grep -q '"relation": [1-9]' phrases/train.json
run "encode captions" encode --model model --data data --out captions --texts captions --min-side 0
run "encode names" encode --model model --data data --out names --min-side 0
run "preview of phrases" preview --data data --split val --texts phrases --min-side 0 --size 64 --count 4 --dump dump \
    --classes all
check "preview: its texts" grep -q '"text": "the ' dump/samples.json
check "segment by a text that is too long" bash -c '"$1" segment --model model --image data/val/000001000010.png --out long \
    --steps 1 --text "$(printf "red %.0s" {1..40})" 2>&1 | grep -q "has 40 tokens, of which the model reads only the first 14"' \
    - "$cocogold"
dies "captions have no masks" "--targets mask: captions have no masks" encode --model model --data data --out x \
    --texts captions --targets mask
dies "phrases have targets" "--targets none: expected a target" encode --model model --data data --out x --texts phrases \
    --targets none
dies "phrases name instances" "expected --source instances" encode --model model --data data --out x --texts phrases \
    --source panoptic
dies "other texts in one folder" "attribute" encode --model model --data data --out phrases --min-side 0 --passes 2 \
    --targets overlay,mask

unet=(train --model model --max-train-steps 3 --train-batch-size 4 --gradient-accumulation-steps 2 --lr 1e-3
    --lr-warmup-steps 1 --validate-every 3 --validation-samples 4 --validation-steps 1 --no-roofline)
run "train on phrases" "${unet[@]}" --shards phrases --out table
run "train, each batch's texts embedded" "${unet[@]}" --shards phrases --out batches --text-memory 0
check "both ways give the same weights" cmp {table,batches}/model/unet/diffusion_pytorch_model.safetensors
check "and the same validation" cmp {table,batches}/validation/step-000003.csv
run "train on names, embedded with each batch" "${unet[@]}" --shards names --out few --text-memory 0 --max-train-steps 1
dies "captions cannot be segmented" "the shards have no \"target_overlay\"" "${unet[@]}" --shards captions --out x
run "eval" eval --model table/model --protocol crops --shards phrases --out e --steps 1 --bootstrap 20 --masks
check "eval: kinds" bash -c 'for kind in name attribute relation size plural absent; do grep -q "\"$kind\": {" e/metrics.json || exit 1; done'
check "eval: pictures, not samples of both passes" [ "$(sed -n 's/^  "pictures": \([0-9]*\),$/\1/p' e/metrics.json)" = \
    "$(tail -n +2 e/pairs.csv | cut -d, -f1 | sort -u | grep -c '')" ]
check "eval: absent phrases" grep -q '"false_area"' e/metrics.json
check "eval: texts of pairs" grep -q ',"relation","the ' e/pairs.csv
check "eval: the report shows texts" grep -q "the \|all " e/report.html
dies "eval: a group with the name of a kind" "--group size: the shards have a kind of phrases" eval --model table/model \
    --protocol crops --shards phrases --out x --group size=person
run "eval: groups with odd names" eval --model table/model --protocol crops --shards phrases --out odd --steps 1 --bootstrap 0 \
    --group $'\xff<i>".c=all'
check "metrics.json is UTF-8" grep -q $'"\xef\xbf\xbd<i>\\\\".c": {' odd/metrics.json
check "and the report shows the group" grep -q $'<td>\xef\xbf\xbd&lt;i&gt;&quot;.c</td>' odd/report.html
dies "eval: other texts" "--text-table: expected class names" eval --model table/model --protocol crops --shards phrases \
    --out x --text-table "a {}"
finish
