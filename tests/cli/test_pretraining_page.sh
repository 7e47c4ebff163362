#!/usr/bin/env bash
# docs/PRETRAINING.md: the commands of its small model, with few scenes and steps, one after the other.
source "$(dirname "$0")/common.sh"
cocogold() { # as the page calls it
    local text code
    text=$("$cocogold" "$@" 2>&1)
    code=$?
    result $code "cocogold $1 ${*: -1}" "$(tail -n 5 <<<"$text")"
}
sed -n '/^## A small model/,/^## /s/^    //p' "$root/docs/PRETRAINING.md" |
    sed -E 's/(--max-train-steps|--lr-warmup-steps|--validation-samples|--count) [0-9]+/\1 2/; s/--train [0-9]+ --val [0-9]+/--train 48 --val 12/' >page
check "it is a block of commands" [ "$(grep -c '^ *cocogold ' page)" -ge 12 ]
source page
check "it is the demo's recipe" grep -qF -- "${adamw[*]:0:6}" "$root/train/experiments/demo.sh"
check "the model segments" "$cocogold" segment --model run/model --image "$(ls data/val/*.png | head -n 1)" --text "orange square" --steps 2
check "IoU of both groups" grep -q '"new"' run/metrics.json
finish
