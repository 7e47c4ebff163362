#!/usr/bin/env bash
# Files made to break the program, through the whole program: within memory and time that have a limit.
source "$(dirname "$0")/common.sh"
"$cocogold" init --preset mini model >.init 2>&1 || { result 1 "init" "$(cat .init)"; finish; }
segment=(segment --model model --text cat --steps 1 --image)
bytes() { printf "$(sed 's/../\\x&/g' <<<"$1")"; }
limited() { (ulimit -v 4000000 && timeout 20 "$cocogold" "$@"); } # 4 GB

# ---- pictures
bytes ffd8ffc0001108659065900301110002110003 >bomb.jpg # a JPEG's header: 26000 x 26000
bytes 89504e470d0a1a0a0000000d4948445200010000000100000802000000 >bomb.png
dies "a JPEG of 676 megapixels" "has 26000 x 26000 pixels, expected" "${segment[@]}" bomb.jpg
dies "a PNG of 65536 pixels a side" "expected sides of at most 65535" "${segment[@]}" bomb.png
dies "a limit of one's own" "at most 1000 pixels (--max-pixels)" "${segment[@]}" "$root/docs/examples.png" --max-pixels 1000
dies "a picture without pixels" "not a JPEG or PNG picture" "${segment[@]}" <(printf 'P5\n0 0\n255\n')

# ---- annotations: one picture of 20 x 10 pixels, and what is in place of its annotation
picture='"images": [{"id": 1, "file_name": "1.png", "width": 20, "height": 10}]'
category='"categories": [{"id": 1, "name": "cat"}]'
good='{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 8]]}'
data() { # NAME ANNOTATIONS
    mkdir -p "$1/annotations" "$1/val"
    echo "{$picture, $category, \"annotations\": [$2]}" >"$1/annotations/instances_val.json"
}
counts() { limited stats --data "$1" --split val --min-side 1 --classes all 2>&1; }
says() { grep -qF -- "$1"; } # in what comes from a pipe
data far "$good, {\"id\": 1, \"image_id\": 1, \"category_id\": 1, \"segmentation\": [[$(yes -- "-1e5, -1e5, 1e5, 1e5, -1e5, 1e5, 1e5, -1e5" | head -n 3000 | paste -sd,)]]}"
check "a polygon of 12000 lines of 200000 pixels" counts far
data bent "$good, [[[]]], {\"segmentation\": [{\"x\": 5}]}, {\"segmentation\": {\"counts\": {\"a\": [5]}}}, 7"
check "containers of another type: left out" says "1 samples" < <(counts bent)
data twice "${good%\}}, \"segmentation\": {\"size\": [10, 20], \"counts\": [30, 40, 130]}, \"id\": 5}, ${good/9, 8/9, 1e999}"
check "keys given twice, numbers without end" says "left out: 1 annotations with a damaged mask (1)" < <(counts twice)
data boxes "${good%\}}, \"area\": 1e999, \"bbox\": [1.9e9, 2, 1.9e9, 6]}"
check "areas and boxes out of range: those of the mask" says "1 samples" < <(counts boxes)
sed -i 's/"width": 20, "height": 10/"width": 32768, "height": 32768/' boxes/annotations/instances_val.json
check "a picture of a gigapixel on paper" says "1.png: cannot be opened" < <(limited stats --data boxes --split val --min-side 1 --classes all --check 2>&1)

# ---- models: nothing is allocated that only config.json asks for
config() { # NAME FILE SED: a model with a changed file
    cp -rl model "$1" && rm "$1/$2" && sed "$3" "model/$2" >"$1/$2"
}
config deep text_encoder/config.json 's/"num_hidden_layers": [0-9]*/"num_hidden_layers": 16777216/'
config wide text_encoder/config.json 's/"hidden_size": [0-9]*/"hidden_size": 65536/; s/"vocab_size": [0-9]*/"vocab_size": 16777216/'
config wraps scheduler/scheduler_config.json 's/"steps_offset": [0-9]*/"steps_offset": 4294967297/'
dies "a text encoder of 16777216 layers" '"num_hidden_layers" has 16777216, expected 1 to 256' "${segment[@]}" "$root/docs/examples.png" --model deep
dies "a text encoder that is larger than its file" "but the module's config.json needs" "${segment[@]}" "$root/docs/examples.png" --model wide
dies "an integer of 33 bits" '"steps_offset" has 4294967297' "${segment[@]}" "$root/docs/examples.png" --model wraps
mkdir -p deep-json && echo "$(printf '[%.0s' {1..2000})" >deep-json/log.jsonl
dies "lists in lists" "expected one JSON object" report --run deep-json

# ---- reports: logs with any number, texts from files
mkdir -p run-x run-y
printf '{"kind":"step","step":%s,"loss":1}\n' 100000000000000000 100000000000000064 >run-x/log.jsonl
printf '{"kind":"step","step":%s}\n' '1,"loss":1e308' '2,"loss":1.79e308' >run-y/log.jsonl
check "a log whose steps are too close" limited report --run run-x --run run-y --out log.html
check "gives a page" [ "$(stat -c %s log.html)" -lt 100000 ]
evil='<script>alert(1)</script>' quoted='\"><img src=x onerror=alert(2)>'
cat >metrics.json <<END
{"seen": {"pairs": 1, "miou": 0.5}, "unseen": [], "groups": [[1], 2], "all": 7, "text_table": [{"text": "$evil"}, 5],
 "classes": [{"name": "$evil$quoted", "iou": 1e999}, null], "steps_table": [{"steps": "$evil"}],
 "config": {"target": "$evil", "model": "$quoted", "steps": 1e999, "$evil": "$evil"}}
END
mkdir 'run<b>"x' && cp run-x/log.jsonl 'run<b>"x'
cp metrics.json 'm<b>"x.json'
check "metrics with markup" "$cocogold" report --eval metrics.json --eval 'm<b>"x.json' --run 'run<b>"x' --out page.html
check_not "none of it is markup in the page" grep -qE '<script|<img src=x|<b>"x' page.html
check "it is there as text" grep -qF '&lt;script&gt;alert(1)' page.html

finish
