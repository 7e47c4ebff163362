#!/usr/bin/env bash
# Data as people have it, through the whole program: pictures that cannot be read, a download that is not finished,
# names with quotes, outputs that cannot be written, file systems that lack something.
source "$(dirname "$0")/common.sh"
prepare
encode=(encode --model model --split train --min-side 1 --classes @data/classes/seen.txt)
evaluate=(eval --model model --split val --steps 1 --bootstrap 0 --batch 4)
says() { "$cocogold" "${@:2}" 2>&1 | grep -qF -- "$1"; }
ends() { # NAME TEXT ARGUMENTS...: ends with code 1 and a sentence, perhaps after a line of progress
    "$cocogold" "${@:3}" >.stdout 2>.stderr
    local code=$? last
    last=$(tail -n 1 .stderr)
    [ $code = 1 ] && [[ $last == "cocogold: "*"$2"* ]]
    result $? "$1" "exit $code: $last"
}
left_out() { grep -A3 '"pictures that cannot be read"' "$1" | grep -q "\"$((10#$2))\""; } # by id

# ---- encode: the second run fills the holes of the first
cp -r data late && mkdir away
first=$(cd late/train && ls ./*.png | head -n 4)
(cd late/train && mv $first ../../away)
check "encode without four pictures" says "4 pictures that cannot be read" "${encode[@]}" --data late --out late-latents
name=$(basename "$(head -n 1 <<<"$first")" .png)
check "they are in the JSON beside the shards" left_out late-latents/train.json "$name"
before=$(sha256sum late-latents/*.h5)
check "again without them" "$cocogold" "${encode[@]}" --data late --out late-latents
check "changes nothing" [ "$before" = "$(sha256sum late-latents/*.h5)" ]
check "and names them in the JSON again" left_out late-latents/train.json "$name"
mv away/*.png late/train/
check "again with them" says "is made again" "${encode[@]}" --data late --out late-latents
"$cocogold" "${encode[@]}" --data late --out whole-latents >/dev/null 2>&1
check "gives what one run gives" cmp late-latents/train-00000.h5 whole-latents/train-00000.h5
cp -r data empty && rm empty/train/*.png
ends "encode without any picture" "none of 40 pictures can be read" "${encode[@]}" --data empty --out none
check "leaves no shard" [ -z "$(ls none/*.h5 2>/dev/null)" ]
cp -r data first && rm $(ls first/train/*.png | tail -n 20)
check "encode without the second half" "$cocogold" "${encode[@]}" --data first --out first-latents --shard-size 20
rm first-latents/train-00001.h5
check "a later part without any picture" "$cocogold" "${encode[@]}" --data first --out first-latents --shard-size 20
cp -r data second && rm $(ls second/train/*.png | head -n 20)
check "encode without the first half" "$cocogold" "${encode[@]}" --data second --out second-latents --shard-size 20
rm second-latents/train-00001.h5 second/train/*.png # as if interrupted after a shard without a sample
ends "again without any picture" "none of 40 pictures can be read" "${encode[@]}" --data second --out second-latents --shard-size 20
check "leaves no shard" [ -z "$(ls second-latents/*.h5 2>/dev/null)" ]
# Two of three pictures lack the class, and the third is damaged: that is no mistake in the command.
mkdir -p rare/annotations rare/train && cp $(ls data/train/*.png | head -n 3) rare/train/
images= boxes=
for file in rare/train/*.png; do
    id=$((10#$(basename "$file" .png)))
    images+="${images:+, }{\"id\": $id, \"file_name\": \"${file##*/}\", \"width\": 64, \"height\": 64}"
    boxes+="${boxes:+, }{\"id\": $id, \"image_id\": $id, \"category_id\": $([ -z "$boxes" ] && echo 1 || echo 2), \"segmentation\": [[2, 2, 40, 2, 40, 40, 2, 40]]}"
done
echo "{\"images\": [$images], \"categories\": [{\"id\": 1, \"name\": \"rare\"}, {\"id\": 2, \"name\": \"box\"}], \"annotations\": [$boxes]}" >rare/annotations/instances_train.json
echo no >"$(ls rare/train/*.png | head -n 1)"
rare=(encode --model model --split train --min-side 1 --data rare --classes rare --out rare-latents)
check "encode of a class whose only picture is damaged" says "no picture gave a sample" "${rare[@]}"
check "its shard is there" [ -s rare-latents/train-00000.h5 ]
before=$(sha256sum rare-latents/*.h5)
check "encode again" "$cocogold" "${rare[@]}"
check "changes nothing" [ "$before" = "$(sha256sum rare-latents/*.h5)" ]
rm rare-latents/*.h5 rare/train/*.png
ends "encode when no picture can be read" "none of 3 pictures can be read" "${rare[@]}"
ends "stats --check without any picture" "can be read" stats --data empty --split train --min-side 1 --check
ends "preview without any picture" "no picture yields a sample" preview --data empty --split train --min-side 1 --out new.png
dies "train-vae without any picture" "no picture yields a sample" train-vae --model model --data empty --max-train-steps 1 --train-batch-size 2 --gradient-accumulation-steps 1 --validate-every 0 --no-roofline --min-side 1 --out none-vae

# ---- encode goes on with another --max-pixels: of four pictures the first is larger
mkdir -p large/annotations large/train && cp "$root/docs/examples.png" large/train/1.png
images='{"id": 1, "file_name": "1.png", "width": 1180, "height": 570}' boxes=
for id in 1 2 3 4; do
    [ $id = 1 ] || cp "$(ls data/train/*.png | sed -n ${id}p)" large/train/$id.png
    [ $id = 1 ] || images+=", {\"id\": $id, \"file_name\": \"$id.png\", \"width\": 64, \"height\": 64}"
    boxes+="${boxes:+, }{\"id\": $id, \"image_id\": $id, \"category_id\": 1, \"segmentation\": [[2, 2, 40, 2, 40, 40, 2, 40]]}"
done
echo "{\"images\": [$images], \"categories\": [{\"id\": 1, \"name\": \"box\"}], \"annotations\": [$boxes]}" >large/annotations/instances_train.json
large=(encode --model model --split train --min-side 1 --classes all --data large --shard-size 2)
check "encode with --max-pixels" says "1 pictures that cannot be read (1)" "${large[@]}" --max-pixels 100000 --out large-latents
rm large-latents/train-00001.h5
check "goes on without it" says "is made again" "${large[@]}" --out large-latents
"$cocogold" "${large[@]}" --out large-whole >/dev/null 2>&1
for shard in 0 1; do check "shard $shard is that of one run" cmp large-latents/train-0000$shard.h5 large-whole/train-0000$shard.h5; done

# ---- eval, preview: one picture is missing or cut off
cp -r data missing && rm "missing/val/$(cd missing/val && ls ./*.png | tail -n 1)"
cp -r data cut && last=$(ls cut/val/*.png | tail -n 1) && head -c 2000 "$last" >half && mv half "$last"
for data in missing cut; do
    check "eval: $data picture" says "1 pictures that cannot be read" "${evaluate[@]}" --data $data --out eval-$data
    check "it is in metrics.json" left_out eval-$data/metrics.json "$(basename "$last" .png)"
    check "the others are in pairs.csv" [ "$(wc -l <eval-$data/pairs.csv)" -gt 5 ]
done
check "the same pairs as without it" cmp eval-missing/pairs.csv eval-cut/pairs.csv
cp -r data no-val && rm no-val/val/*.png
ends "eval without any picture" "none of the pictures" "${evaluate[@]}" --data no-val --out eval-none
check "preview of a cut picture" "$cocogold" preview --data cut --split val --min-side 1 --count 40 --out sheet.png

# ---- eval --masks: ids that are texts, and two pairs of a picture and a class that read the same
mkdir -p shirts/annotations shirts/val
images= boxes=
for id in x x-t; do
    cp "$(ls data/val/*.png | head -n 1)" shirts/val/$id.png
    images+="${images:+, }{\"id\": \"$id\", \"file_name\": \"$id.png\", \"width\": 64, \"height\": 64}"
    for class in 1 2; do
        boxes+="${boxes:+, }{\"id\": \"$id-$class\", \"image_id\": \"$id\", \"category_id\": $class, \"segmentation\": [[2, 2, 40, 2, 40, 40, 2, 40]]}"
    done
done
classes='{"id": 1, "name": "shirt"}, {"id": 2, "name": "t-shirt"}'
echo "{\"images\": [$images], \"categories\": [$classes], \"annotations\": [$boxes]}" >shirts/annotations/instances_val.json
check "eval of pictures whose ids are texts" "$cocogold" "${evaluate[@]}" --data shirts --masks --out eval-shirts
check "every pair has its mask" [ "$(cd eval-shirts/masks && echo *)" = "x-shirt-0.png x-t-shirt-0.png x-t-shirt-1.png x-t-t-shirt-1.png" ]

# ---- panoptic PNGs
panoptic=(--source panoptic --classes all)
cp -r data png && png=$(ls png/annotations/panoptic_train/*.png | head -n 1) && echo no >"$png"
check "encode with a damaged panoptic PNG" says "1 pictures that cannot be read" "${encode[@]}" "${panoptic[@]}" --data png --out png-latents
png=$(ls png/annotations/panoptic_val/*.png | tail -n 1) && rm "$png"
check "eval without a panoptic PNG" says "1 pictures that cannot be read" "${evaluate[@]}" --source panoptic --limit 40 --data png --out eval-png

# ---- stdout
if [ -w /dev/full ]; then
    full() { "$cocogold" "$@" >/dev/full 2>.said; [ $? = 1 ] && grep -q 'standard output cannot be written' .said; }
    check "help into a full file" full --help
    check "help of a command into a full file" full eval --help
    check "stats into a full file" full stats --data data --split val --min-side 1
fi

# ---- outputs are looked at first
"$cocogold" init --preset mini --text-to-image text-model >/dev/null 2>&1
late() { "$cocogold" "${@:2}" >.said 2>&1; [ $? = 1 ] && grep -qF "$1" .said && ! grep -qE 'pairs|pictures  |step 1' .said; }
echo a >file
for out in file/x /dev/null/x; do
    check "eval into $out" late "$out" "${evaluate[@]}" --data data --out $out
    check "encode into $out" late "$out" "${encode[@]}" --data data --out $out
    check "train into $out" late "$out" train --model model --shards latents --max-train-steps 1 --out $out
    check "segment into $out/new" late "$out" segment --model model --image "$(ls data/val/*.png | head -n 1)" --text person --out $out/new
    check "generate into $out/new" late "$out" generate --model text-model --text person --out $out/new
    check "analyze into $out" late "$out" analyze latents --model model --data data --split train --out $out
    check "stats into $out/x.json" late "$out" stats --data data --split val --min-side 1 --check --json $out/x.json
done
dies "eval into a file" "file: exists and is not a folder" "${evaluate[@]}" --data data --out file
mkdir -p folder/x.png folder/y-0.png
for option in "--dump-noise folder" "--dump-latents folder" "--out folder/x" "--out folder/y"; do
    check "generate $option, which is a folder" late "folder, expected a file" generate --model text-model --text person $option
done
check "generate into a folder that is not there yet" "$cocogold" generate --model text-model --text person --steps 1 --count 2 --out new/pictures/
check "it has the pictures" [ "$(ls -A new/pictures | tr '\n' ' ')" = "0.png 1.png all.png " ]
finish
