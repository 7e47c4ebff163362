#!/usr/bin/env bash
# Nothing is written where it does not belong: closed and full standard descriptors, links that somebody has planted in a
# shared folder; and more shards than files may be open.
source "$(dirname "$0")/common.sh"
prepare
picture=$(ls data/val/*.png | head -n 1)
train=(train --model model --shards latents --max-train-steps 1 --train-batch-size 2 --gradient-accumulation-steps 1
    --validate-every 1 --validation-samples 2 --validation-steps 1 --no-roofline)
evaluate=(eval --model model --limit 2 --steps 1 --bootstrap 0)

# ---- closed standard descriptors
closed() { "$cocogold" "$@" <&- >&- 2>&-; }
same() { # same FOLDER FOLDER: files of the same names
    diff <(cd "$1" && find . -type f ! -name 'events*' | sort) <(cd "$2" && find . -type f ! -name 'events*' | sort)
}
clean() { # clean FOLDER: no file holds a line that belongs on the screen
    ! grep -rlE '^(cocogold: |step [0-9]|resuming|the model is in|wrote |no validation|Trains |usage: )' "$1"
}
for command in "synth OUT --train 2 --val 1" "init --preset mini OUT" \
    "encode --model model --data data --split val --out OUT --min-side 1" "${train[*]} --out OUT" \
    "${evaluate[*]} --data data --out OUT" "analyze latents --model model --data data --split train --min-side 1 --samples 4 --out OUT"; do
    read -ra words <<<"$command"
    rm -rf open shut
    check "${words[0]}" "$cocogold" "${words[@]/OUT/open}"
    check "${words[0]} with closed descriptors" closed "${words[@]/OUT/shut}"
    check "${words[0]}: the same files" same open shut
    check "${words[0]}: nothing printed in them" clean shut
done
check "segment with closed descriptors" closed segment --model model --image "$picture" --text person --steps 1 --out seg
check "its picture is one" grep -q PNG seg-mask.png
check "--help with closed descriptors" closed --help
closed segment --model model --image no.png --text person --out seg
check "a mistake with closed descriptors: exit code $?" [ $? = 1 ]

# ---- a full stdout
if [ -w /dev/full ]; then
    full() { "$cocogold" "$@" >/dev/full 2>.said; [ $? = 1 ] && grep -q 'standard output cannot be written' .said; }
    for command in $("$cocogold" --help | sed -nE 's/^  ([a-z][a-z-]*) .*/\1/p'); do
        check "the help of $command into a full file" full "$command" --help
    done
    check "synth into a full file" full synth full-data --train 2 --val 1
    check "train into a full file" full "${train[@]}" --out full-run
    check "segment into a full file" full segment --model model --image "$picture" --text person --steps 1 --out seg
fi

# ---- planted links: the temporary name has the number of the process, which bash keeps
mkdir victim && echo whole >victim/file
# planted OUT COMMAND...: somebody has put links in the place of the temporary name
# shellcheck disable=SC2016
planted() {
    rm -rf "$1"
    bash -c 'temporary=$1.cocogold-tmp-$(uname -n)-$$; ln -s "$2" "$temporary"; shift 2; exec "$@"' - "$1" "$2" "$cocogold" "${@:3}"
}
check "synth beside a link" planted scenes "$work/victim" synth scenes --train 2 --val 1
check "init beside a link" planted fresh "$work/victim" init --preset mini fresh
check "segment beside a link" planted seg-mask.png "$work/victim/file" segment --model model --image "$picture" --text person \
    --steps 1 --out seg
check "preview beside a link" planted sheet.png "$work/victim/file" preview --data data --split val --min-side 1 --out sheet.png
mkdir shared
check "encode beside a link" planted shared/val-00000.h5 "$work/victim/file" encode --model model --data data --split val \
    --out shared --min-side 1
mkdir run && ln -s "$work/victim/log" run/log.jsonl
check "train with a link as its log" "$cocogold" "${train[@]}" --out run
check "the files are no links" test ! -L scenes -a ! -L fresh -a ! -L seg-mask.png -a ! -L sheet.png -a ! -L shared/val-00000.h5 \
    -a ! -L run/log.jsonl
check "nothing was written behind the links: $(ls victim), $(cat victim/file)" [ "$(ls victim)$(cat victim/file)" = filewhole ]

# ---- names that a spreadsheet would run
cp -r data formula
sed -i 's/"name":\( *\)"person"/"name":\1"=1+1"/' formula/annotations/*.json
check "eval of a class =1+1" "$cocogold" eval --model model --data formula --steps 1 --bootstrap 0 --out formula-eval
check "it is a text in pairs.csv" grep -q ",\"'=1+1\"," formula-eval/pairs.csv
check_not "and no formula" grep -qE '(^|,)"?[=+@-][^0-9.]' formula-eval/pairs.csv
check_not "nor beside it" grep -q '"=1+1' formula-eval/pairs.csv

# ---- few open files
"$cocogold" encode --model model --data data --split train --out many --targets overlay,mask --min-side 1 --shard-size 1 \
    --passes 2 --classes @data/classes/seen.txt >/dev/null 2>&1
cp latents/val* many/
shards=$(find many -name 'train-*.h5' | wc -l)
few() { (ulimit -n 64 && "$cocogold" "$@"); }
check "train on $shards shards with 64 open files" few "${train[@]}" --shards many --max-train-steps 6 --train-batch-size 8 --out few
check "train with as many as there are" "$cocogold" "${train[@]}" --shards many --max-train-steps 6 --train-batch-size 8 --out all
check "the same bits" cmp few/model/unet/*.safetensors all/model/unet/*.safetensors
check "eval with 64 open files" few "${evaluate[@]}" --protocol crops --shards many --split train --limit 60 --seen @data/classes/seen.txt \
    --out few-eval
finish
