#!/usr/bin/env bash
# Which classes count as seen: those that a training asks for, or an earlier one that it started from. train writes them
# into the model and validates by them, eval goes by the model.
source "$(dirname "$0")/common.sh"
prepare

encode=(encode --model model --min-side 1)
train=(train --max-train-steps 1 --train-batch-size 2 --gradient-accumulation-steps 1 --validate-every 0 --no-roofline)
list() { # list FIELD MODEL: the names, separated by commas
    tr -d '\n' <"$2/cocogold.json" | sed -E "s/.*\"$1\": \[([^]]*)\].*/\1/; s/ *\" *//g"
}
column() { # column NAME TABLE: class and value of every row, sorted
    awk -F, -v name="$1" 'NR == 1 { for (i = 1; i <= NF; i++) { at[$i] = i } next } { print $at["class"] "=" $at[name] }' "$2" | sort -u
}
seen() { # seen TABLE: the seen ones, in one line
    column seen "$1" | grep '=1$' | tr -d '"' | sort | paste -sd ' '
}

# What is drawn is trained, and nothing else, whatever the split is called.
run "encode two classes" "${encode[@]}" --data data --out two --classes "yellow square,person"
run "train on them" "${train[@]}" --model model --shards two --out two-run
check "they are its classes" [ "$(list train_classes two-run/model)" = "person,yellow square" ]
check "beside all of the data set" [ "$(list all_classes two-run/model | tr ',' '\n' | grep -c .)" = 25 ]
run "train on one of them" "${train[@]}" --model model --shards two --out one-run --classes person
check "it is its class" [ "$(list train_classes one-run/model)" = person ]
cp -r data other && mv other/train other/trainval
for form in instances panoptic; do mv other/annotations/${form}_train.json other/annotations/${form}_trainval.json; done
[ ! -e other/annotations/panoptic_train ] || mv other/annotations/panoptic_{train,trainval}
run "encode a split of another name" "${encode[@]}" --data other --split trainval --out other-two --classes "yellow square,person"
run "train on it" "${train[@]}" --model model --shards other-two --split trainval --out other-run
check "same classes" [ "$(list train_classes other-run/model)" = "person,yellow square" ]

# An excluded class is not drawn, not asked for where it is absent, and not trained.
run "encode a class without people, and ask for absent ones" "${encode[@]}" --data data --out absent --classes "person,yellow square" \
    --exclude person --absent 1
samples=$(sed -n 's/^  "samples": \([1-9][0-9]*\),$/\1/p' absent/train.json)
check "all $samples samples ask for the class" grep -q "\"yellow square\": ${samples:-none}$" absent/train.json
run "encode without people" "${encode[@]}" --data data --out without --exclude person
run "train without people" "${train[@]}" --model model --shards without --out without-run
check_not "they are none of its classes" grep -qw person <<<"$(list train_classes without-run/model)"
check "others are" grep -qw circle <<<"$(list train_classes without-run/model)"
run "encode a validation without them, of a training with them" "${encode[@]}" --data data --split val --out without \
    --exclude person

# A second fine-tuning adds to what the first one saw.
run "encode a third class" "${encode[@]}" --data data --out third --classes "blue square"
run "train on it, after two others" "${train[@]}" --model two-run/model --shards third --out third-run
check "all three are seen" [ "$(list train_classes third-run/model)" = "person,yellow square,blue square" ]
check "no class of the data set is there twice" [ "$(list all_classes third-run/model)" = "$(list all_classes two-run/model)" ]
run "--resume" "${train[@]}" --model two-run/model --shards third --out third-run --resume --max-train-steps 2
check "they stay" [ "$(list train_classes third-run/model)" = "person,yellow square,blue square" ]

# A listed class without a sample is named, and does not count as seen.
"$cocogold" synth tiny --train 3 --val 2 >/dev/null 2>&1
run "encode all classes of a few pictures" "${encode[@]}" --data tiny --out tiny-shards --classes all
"$cocogold" "${train[@]}" --model model --shards tiny-shards --out tiny-run >tiny.out 2>&1
unseen=$((25 - $(list train_classes tiny-run/model | tr ',' '\n' | grep -c .)))
check "$(grep "have no sample" tiny.out)" grep -qE "^tiny-shards: $unseen of 25 listed classes have no sample and do not count as seen: ([a-z ]+, ){5}\.\.\.$" tiny.out
"$cocogold" "${train[@]}" --model model --shards tiny-shards --out tiny-few --classes "$(list train_classes tiny-run/model)" >tiny.out 2>&1
check "with the classes that have some there is no such line" [ "$?-$(grep -c "have no sample" tiny.out)" = 0-0 ]

# A new VAE leaves the UNet as it was taught.
run "train-vae of a model with seen classes" train-vae "${train[@]:1}" --model two-run/model --data data --out two-vae
check "it keeps them" cmp two-run/model/cocogold.json two-vae/model/cocogold.json

# Validation goes by what this training sees.
run "encode the validation of all classes" "${encode[@]}" --data data --split val --out two --classes all
run "train and validate" "${train[@]}" --model model --shards two --out valid --validate-every 1 --validation-samples 100 --validation-steps 1
both="person=1 yellow square=1"
check "two classes are seen, no others" [ "$(seen valid/validation/step-000001.csv)" = "$both" ]
check "others are unseen" [ "$(column seen valid/validation/step-000001.csv | grep -c '=0$')" -ge 1 ]
run "train and validate with --classes" "${train[@]}" --model model --shards two --out valid-one --validate-every 1 --validation-samples 100 \
    --validation-steps 1 --classes "yellow square"
check "one class is seen" [ "$(seen valid-one/validation/step-000001.csv)" = "yellow square=1" ]
run "the same after a training on people" "${train[@]}" --model one-run/model --shards two --out valid-two --validate-every 1 \
    --validation-samples 100 --validation-steps 1 --classes "yellow square"
check "people are seen as well" [ "$(seen valid-two/validation/step-000001.csv)" = "$both" ]
run "eval of crops" eval --model valid/model --protocol crops --shards two --steps 1 --bootstrap 0 --out crops
check "the same classes are seen" [ "$(seen crops/pairs.csv)" = "$both" ]

# A data set with classes of its own, and without a list of seen ones. A model without a list has seen none.
cp -r data own && rm own/classes/seen.txt
run "encode a validation split of own classes" "${encode[@]}" --data own --split val --out own-shards
crops=(eval --model model --protocol crops --shards own-shards --steps 1 --bootstrap 0)
"$cocogold" "${crops[@]}" --out own-eval >/dev/null 2>own.err
check "eval of an untrained model on it: $(cat own.err)" grep -q "^cocogold: warning: model does not say which classes it was trained on: all count as unseen (see --seen)$" own.err
check "all are unseen" [ -z "$(seen own-eval/pairs.csv)" ]
run "eval with --seen" "${crops[@]}" --out own-eval --seen person
check "only this class is seen" [ "$(seen own-eval/pairs.csv)" = person=1 ]

# Thresholds are chosen on seen classes; --seen says which. Where there are none, on all.
cp -r model zebra && echo '{"train_classes": ["zebra"]}' >zebra/cocogold.json
tune=(eval --data data --split val --limit 2 --steps 1 --bootstrap 0 --tune-on train --tune-pairs 4 --out tuned)
"$cocogold" "${tune[@]}" --model zebra >/dev/null 2>zebra.err
check "eval --tune-on of classes that were never seen: $(cat zebra.err)" grep -q "^cocogold: warning: data, split train (.*): shows none of the classes that zebra was trained on: thresholds are chosen on others$" zebra.err
check "thresholds were saved" ls zebra/segmentation.json
tuned_seen() { sed -n '/^  "tuning"/,/^  }/s/.*"seen": \([a-z]*\).*/\1/p' tuned/metrics.json; }
check "as of unseen classes" [ "$(tuned_seen)" = false ]
"$cocogold" "${tune[@]}" --model zebra --seen person >/dev/null 2>person.err
check "with --seen there is no warning" [ "$(grep -c warning person.err)" = 0 ]
check "but a seen class" [ "$(tuned_seen)" = true ]
run "a model without a list of classes" "${tune[@]}" --model model
check "no class is known to be seen" [ "$(tuned_seen)" = false ]

# The outline of the targets.
run "encode with an outline" "${encode[@]}" --data data --out outline --outline 16
run "train on it" "${train[@]}" --model model --shards outline --out outline-run
check "the model knows it" grep -q '"outline": 16' outline-run/model/cocogold.json
run "encode val with it" "${encode[@]}" --data data --split val --out outline --outline 16
run "encode val without it" "${encode[@]}" --data data --split val --out plain
crops=(eval --model outline-run/model --protocol crops --steps 1 --limit 2 --bootstrap 0 --out outline-crops)
run "eval of crops with the outline" "${crops[@]}" --shards outline
dies "eval of crops without it" "plain: split val was encoded with --color 255,255,255 --alpha 1 --outline 0, but outline-run/model draws what shards of --color 255,255,255 --alpha 1 --outline 16 hold" \
    "${crops[@]}" --shards plain
check "and that there is none" grep -q '"outline": 0' two-run/model/cocogold.json
finish
