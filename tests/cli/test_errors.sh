#!/usr/bin/env bash
# A user's mistakes and damaged files: one sentence that names the file or the option, exit code 1, no incomplete files.
source "$(dirname "$0")/common.sh"
prepare

cut_in_half() { head -c $(($(stat -c %s "$1") / 2)) "$1" >"$1.half" && mv "$1.half" "$1"; }
# broken NAME MODULE: copies the model, with hard links except for that module, whose files may be changed
broken() { cp -rl model "$1" && rm -r "${1:?}/$2" && cp -r "model/$2" "$1/$2"; }
weights() { echo "$1"/*.safetensors; }

broken no-vae vae && rm -r no-vae/vae
broken cut-vae vae && cut_in_half "$(weights cut-vae/vae)"
broken cut-unet unet && cut_in_half "$(weights cut-unet/unet)"
broken json-unet unet && cut_in_half json-unet/unet/config.json
broken shape-unet unet && sed -i 's/"layers_per_block": [0-9]*/"layers_per_block": 3/' shape-unet/unet/config.json
broken kind-unet unet && sed -i 's/"CrossAttnDownBlock2D"/"KDownBlock2D"/' kind-unet/unet/config.json
broken empty-unet unet && : >"$(weights empty-unet/unet)"
broken odd-tokens tokenizer && sed -i 's/:/;/' odd-tokens/tokenizer/vocab.json
broken no-side unet && rm -r no-side/vae && cp -r model/vae no-side/vae
sed -i 's/"sample_size": [0-9]*/"sample_size": null/' no-side/{unet,vae}/config.json
broken vast-side unet && sed -i 's/"sample_size": [0-9]*/"sample_size": 8192/' vast-side/unet/config.json
broken all-noise scheduler && sed -i 's/"v_prediction"/"epsilon"/' all-noise/scheduler/scheduler_config.json
broken wide-unet unet && sed -i 's/"in_channels": 8/"in_channels": 4/' wide-unet/unet/config.json
cp -r data cut-data && cut_in_half cut-data/annotations/instances_val.json && cut_in_half cut-data/annotations/instances_train.json
cp -r data cut-picture && cut_in_half "$(ls cut-picture/train/*.png | head -n 1)"
cp -r data no-picture && rm "$(ls no-picture/train/*.png | head -n 1)"
cp -r latents cut-latents && cut_in_half cut-latents/train-00000.h5
cp -r latents odd-latents && echo hello >odd-latents/train-00000.h5
"$cocogold" encode --split val --data data --model model --out no-val --min-side 65 >/dev/null 2>&1 # drops all pictures
cp latents/train* no-val/
"$cocogold" encode --split val --data data --model model --out other-size --min-side 1 --resolution 32 >/dev/null 2>&1
cp latents/train* other-size/
"$cocogold" encode --split val --data data --model model --out green --min-side 1 --targets overlay,mask --color green >/dev/null 2>&1
cp latents/train* green/
picture=$(ls data/val/*.png | head -n 1)
cp "$picture" cut.png && cut_in_half cut.png
cp -rl data year-data && for name in year-data/{val,annotations/instances_val.json}; do
    mv "$name" "${name/val/val2017}"
done
cp -rl data lvis && for split in train val; do
    sed -i 's/"file_name"/"neg_category_ids": [1], "file_name"/' lvis/annotations/instances_$split.json
done
cp -rl data no-list && rm no-list/classes/seen.txt
echo "not a picture" >text.png
echo "a file" >file
listing() { ls -A | grep -v '^\.'; }
listing >.before

# ---- init, synth
dies "init without a folder" "DIR" init --preset mini
dies "init with an unknown preset" "--preset huge" init --preset huge new
dies "init from nothing" "no-such-model" init --from no-such-model new
dies "init from a cut UNet" "cut-unet/unet/" init --from cut-unet new
dies "init with a VAE without weights" "no-vae/vae/config.json" init --preset mini --vae no-vae new
dies "init with a cut VAE" "cut-vae/vae/" init --preset mini --vae cut-vae new
dies "init into an existing folder" "model" init --preset mini model
dies "init into a file" "file" init --preset mini file
dies "synth without a folder" "DIR" synth
dies "synth into a file" "file" synth file --train 2 --val 2
dies "synth with a word for a number" "--train ten: invalid numeric value" synth new --train ten
dies "synth with no new words" "--new-words is missing" synth new --new-words ""
dies "synth with a negative number" "--train" synth new --train -5

# ---- stats, preview
dies "stats without data" "--data is missing" stats
dies "stats of nothing" "no-such-data" stats --data no-such-data --split val
dies "stats of an unknown split" "test" stats --data data --split test
dies "stats of cut annotations" "cut-data/annotations/instances_val.json" stats --data cut-data --split val --source instances
dies "stats of an unknown class" "unicorn" stats --data data --split val --classes unicorn
dies "stats of a missing list of classes" "nolist.txt" stats --data data --split val --classes @nolist.txt
dies "stats with a chart that cannot be written" "no/such/folder" stats --data data --split val --min-side 1 --image no/such/folder/chart.png
dies "preview without --out" "--out is missing" preview --data data --split val
dies "preview with an unknown target" "--target outline" preview --data data --split val --min-side 1 --target outline --out new.png
dies "preview with an unknown colour" "--color blurple" preview --data data --split val --min-side 1 --color blurple --out new.png
dies "preview into an unknown format" "new.gif" preview --data data --split val --min-side 1 --out new.gif

# ---- encode
encode=(encode --split train --min-side 1 --classes @data/classes/seen.txt --out new)
dies "encode without a model" "--model is missing" "${encode[@]}" --data data
dies "encode without a VAE" "no-vae/vae/config.json" "${encode[@]}" --data data --model no-vae
dies "encode with a cut VAE" "cut-vae/vae/" "${encode[@]}" --data data --model cut-vae
dies "encode cut annotations" "cut-data/annotations/instances_train.json" "${encode[@]}" --data cut-data --model model --source instances
dies "encode an unknown class" "unicorn" "${encode[@]}" --data data --model model --classes unicorn
dies "encode unknown targets" "--targets" "${encode[@]}" --data data --model model --targets outline
dies "encode a part of nothing" "--part" "${encode[@]}" --data data --model model --part 3/2
dies "encode a part whose number is beyond 32 bits" "--part" "${encode[@]}" --data data --model model --part 4294967297/4294967298
dies "encode the default classes of a data set that lacks them" 'the default of --classes, default14: class "car" is not among the 25 categories of no-list/annotations/instances_train.json: expected all, or a LIST of its names' encode --split train --min-side 1 --data no-list --model model --out new
dies "encode captions of some classes" "--classes person: captions are of whole pictures" encode --split train --data data --model model --out new --texts captions --classes person
dies "encode absent classes of LVIS" 'lvis/annotations/instances_train.json: field "neg_category_ids" or "not_exhaustive_category_ids", as in LVIS' "${encode[@]}" --data lvis --model model --absent 0.1
dies "eval absent classes of LVIS" "lvis/annotations/instances_val.json" eval --data lvis --model model --absent 0.1 --out new
dies "encode with another seed into the same folder" "seed" "${encode[@]}" --data data --model model --out latents --targets overlay,mask --seed 5

# ---- train
unet=(train --max-train-steps 1 --train-batch-size 2 --gradient-accumulation-steps 1 --validate-every 0 --no-roofline --out new)
vae=(train-vae --model model "${unet[@]:1}")
dies "train without a model" "--model is missing" "${unet[@]}" --shards latents
dies "train without shards" "--shards is missing" "${unet[@]}" --model model
dies "train without --out" "--out is missing" train --model model --shards latents
dies "train with missing shards" "no-latents" "${unet[@]}" --model model --shards no-latents
dies "train with a missing split" "test" "${unet[@]}" --model model --shards latents --split test
dies "train with a cut shard" "cut-latents/train-00000.h5" "${unet[@]}" --model model --shards cut-latents
dies "train with a shard that is not HDF5" "odd-latents/train-00000.h5" "${unet[@]}" --model model --shards odd-latents
dies "train an unknown class" "unicorn" "${unet[@]}" --model model --shards latents --classes unicorn
dies "train with a missing model" "no-such-model" "${unet[@]}" --model no-such-model --shards latents
dies "train a cut UNet" "cut-unet/unet/diffusion_pytorch_model.safetensors" "${unet[@]}" --model cut-unet --shards latents
dies "train an empty UNet" "empty-unet/unet/diffusion_pytorch_model.safetensors" "${unet[@]}" --model empty-unet --shards latents
dies "train a UNet with a cut config" "json-unet/unet/config.json" "${unet[@]}" --model json-unet --shards latents
dies "train a UNet of another shape" "shape-unet/unet/diffusion_pytorch_model.safetensors" "${unet[@]}" --model shape-unet --shards latents
dies "train a UNet of another kind" "down_block_types" "${unet[@]}" --model kind-unet --shards latents
dies "train a UNet with 4 channels" "wide-unet/unet/" "${unet[@]}" --model wide-unet --shards latents
dies "train with a broken tokenizer" "odd-tokens/tokenizer/vocab.json" "${unet[@]}" --model odd-tokens --shards latents
dies "train with a word for a number" "--lr fast: invalid numeric value" "${unet[@]}" --model model --shards latents --lr fast
dies "train with a number out of range" "--t-max-prob 2: expected a value from 0 to 1" "${unet[@]}" --model model --shards latents --t-max-prob 2
dies "train with a wrong choice" "--loss l1: expected one of mse, weighted, focal" "${unet[@]}" --model model --shards latents --loss l1
dies "train with a wrong pixel loss" "--pixel-loss-type iou: expected one of l1, dice" "${unet[@]}" --model model --shards latents --pixel-loss-type iou
dies "train the VAE with a pixel loss" "--pixel-loss: unknown option" "${vae[@]}" --data data --pixel-loss 1
dies "train with an extra argument" "unexpected argument \"more\"" "${unet[@]}" --model model --shards latents more
dies "train into a file" "file" "${unet[@]}" --model model --shards latents --out file
dies "train the VAE on too many masks" "--mix-mask 0.8: expected a value from 0 to 0.5" "${vae[@]}" --data data --mix-overlay 0.5 --mix-mask 0.8
dies "train the VAE without data" "--data is missing" "${vae[@]}"
dies "train the VAE on nothing" "no-such-data" "${vae[@]}" --data no-such-data
dies "train the VAE at an odd resolution" "--resolution 63" "${vae[@]}" --data data --resolution 63

# ---- eval, segment
dies "eval without a model" "--model is missing" eval --data data --out new
dies "eval of a cut UNet" "cut-unet/unet/" eval --model cut-unet --data data --out new
dies "eval on nothing" "no-such-data" eval --model model --data no-such-data --out new
dies "eval of an unknown class" "unicorn" eval --model model --data data --out new --unseen unicorn
# mistakes in lists are found before the model is opened, let alone asked for thresholds, which are saved in it
while read -r said list; do
    dies "eval $list, before the model is opened" "$said" eval --model cut-unet --data data --out new --tune-on train $list
done <<END
unicorn --group x=unicorn
unicorn --classes unicorn
unicorn --unseen unicorn
unicorn --seen unicorn
no-list.txt --text-table @no-list.txt
--steps-table --steps-table 0
--classes --classes person --unseen person
END
dies "eval of crops with an unknown group" "unicorn" eval --model cut-unet --protocol crops --shards latents --out new --tune-on train --group x=unicorn
dies "eval with a wrong model and a wrong class" "no-such-model: is not a folder" eval --model no-such-model --data data --out new --classes unicorn
for model in model cut-unet; do
    check_not "no thresholds were saved in $model" ls $model/segmentation.json
done
dies "eval of crops without shards" "--shards" eval --model model --data data --protocol crops --out new
dies "eval of crops of another colour" "green: split val was encoded with --color 0,255,0 --alpha 1 --outline 0, but model draws what shards of --color 255,255,255 --alpha 1" \
    eval --model model --protocol crops --shards green --out new
dies "eval of crops with absent queries" "--absent 0.5: expected with --protocol images" eval --model model --protocol crops --shards latents --absent 0.5 --out new
dies "eval with thresholds for its split" "--tune-on val" eval --model model --data data --out new --tune-on val
dies "eval with thresholds for its split by another name" "--tune-on val: thresholds must not be chosen on the split that is" \
    eval --model model --data year-data --source instances --split val2017 --tune-on val --steps 1 --out new
dies "eval of a batch that memory does not hold" "--batch 1024 at 4096 pixels needs " eval --model model --data data --out new \
    --batch 1024 --resolution 4096
dies "eval with an unknown method" "--method" eval --model model --data data --method magic --out new
dies "generate without a text" "--text is missing" generate --model model --out new
dies "generate by a segmentation model" 'model/unet/config.json: field "in_channels" is 8' generate --model model --text person --out new
dies "eval with too many steps for its schedule" "1000 sampling steps begin at timestep 1000" eval --model model --data data --out new --timestep-spacing leading --steps-table 4,1000
dies "eval of two groups of one name" "--group x: is given twice" eval --model model --data data --out new --group x=person --group x=person
dies "eval of a group of nothing" "--group x : names no class" eval --model model --data data --out new --group x=
dies "eval of a group without a name" "--group =person: expected a name" eval --model model --data data --out new --group =person
dies "eval of averaged weights that are not there" "model/unet_ema" eval --model model --data data --out new --ema
dies "eval at a signal that is neither" "--terminal-signal -0.5: expected -1, 0, or a value from 0.0001 to 0.95" eval --model model --data data --out new --terminal-signal -0.5
dies "eval of a model whose schedule hides all" 'all-noise/scheduler/scheduler_config.json: field "prediction_type" is "epsilon"' eval --model all-noise --data data --out new
dies "eval into no name" "the path of a folder to write to is empty" eval --model model --data data --out ""
dies "analyze into no name" "the path of a folder to write to is empty" analyze latents --model model --data data --out ""
dies "analyze leak at such a signal" "--terminal-signal -0.5" analyze leak --model model --data data --min-side 0 --out new --terminal-signal -0.5
dies "analyze leak with too many cells" "--resolution 1024: gives 256 x 256 latent cells" analyze leak --model model --data data --min-side 0 --out new --resolution 1024
dies "analyze starts without pictures" "--images is missing" analyze starts --model model --maps data/val --out new
dies "analyze starts without maps" "--maps no-maps: is not a folder" analyze starts --model model --images data/val --maps no-maps --out new
dies "analyze starts at an odd resolution" "--resolution 63" analyze starts --model model --images data/val --maps data/val --out new --resolution 63
dies "generate into a missing folder" "no/such/ is not a folder" generate --model model --text person --out no/such/new
dies "generate with a negative text for nothing" "--negative-text: needs --guidance" generate --model model --text person --out new --negative-text red --guidance 1
dies "train with validation shards without samples" "val-*.h5 have no samples" "${unet[@]}" --model model --shards no-val --validate-every 1
dies "train with validation shards of another size" "val-*.h5 and train-*.h5 differ in their sizes" "${unet[@]}" --model model --shards other-size --validate-every 1
dies "train with validation shards of another colour" "green: the shards val-*.h5 were encoded with --color 0,255,0 --alpha 1 --outline 0, but train-*.h5 with --color 255,255,255 --alpha 1 --outline 0: encode them alike, or give --validate-every 0" \
    "${unet[@]}" --model model --shards green --validate-every 1
dies "train epsilon at zero SNR" "(--terminal-signal 0)" "${unet[@]}" --model model --shards latents --prediction-type epsilon --terminal-signal 0
dies "generate at half a cell" "--resolution 66: expected a multiple of 4" generate --model model --text person --resolution 66 --out new
for command in "segment --image $picture --text person" "generate --text person" "eval --data data" \
    "encode --data data --split train --min-side 1" "train-vae --data data --max-train-steps 1 --validate-every 0 --no-roofline" \
    "analyze latents --data data --min-side 1" "analyze leak --data data --min-side 1" \
    "analyze starts --images data/val --maps data/val"; do
    dies "${command%% --*} with a model of no side" 'no-side: neither unet/config.json nor vae/config.json has "sample_size": give --resolution' $command --model no-side --out new
    dies "${command%% --*} with a model of a vast side" "--resolution 32768: expected a multiple of 4, the VAE's pixels per latent cell, up to 4096" $command --model vast-side --out new
done
dies "pretrain a segmentation model" 'field "in_channels" is 8' pretrain --model model --shards latents --out new
dies "init --from of averages that are not there" "model/unet_ema: is not a folder" init --from model --ema new
dies "init --preset with --ema" "--ema: expected with --from" init --preset mini --ema new
dies "init --from with a VAE" "--vae: expected with --preset" init --from model --vae model new
dies "segment without a text" "--text is missing" segment --model model --image "$picture" --out new
dies "segment without a picture" "--image is missing" segment --model model --text person --out new
dies "segment a missing picture" "no-such.png" segment --model model --text person --image no-such.png --out new
dies "segment a cut picture" "cut.png" segment --model model --text person --image cut.png --out new
dies "segment a text file" "text.png" segment --model model --text person --image text.png --out new
dies "segment a folder" "data" segment --model model --text person --image data --out new
dies "segment with a negative number of steps" "--steps" segment --model model --text person --image "$picture" --steps -3 --out new
dies "segment into a missing folder" "no/such" segment --model model --text person --image "$picture" --out no/such/folder/new

if [ "$(id -u)" != 0 ]; then # root may read and write everything
    mkdir closed && chmod 000 closed && listing >.before
    dies "stats of a closed folder" "closed" stats --data closed --split val
    dies "train with closed shards" "closed" "${unet[@]}" --model model --shards closed
    dies "train a closed model" "closed" "${unet[@]}" --model closed --shards latents
    dies "train into a closed folder" "closed" "${unet[@]}" --model model --shards latents --out closed/new
fi

# ---- report, probe
check "nothing was written so far" diff .before <(listing)
check_not "analyze starts of a missing picture" bash -c '"$1" analyze starts --model model --images missing.png --maps data/val --out starts 2>.stderr' - "$cocogold"
check "it names the picture, not its map" grep -q "^cocogold: warning: missing.png: " .stderr
mkdir odd-run && printf '{"kind":"run"}\n{"kind": step\n' >odd-run/log.jsonl
listing >.before
dies "report of nothing" "--run" report --out new.html
dies "report of a missing run" "no-such-run/log.jsonl" report --run no-such-run --out new.html
dies "report of a damaged log" "odd-run/log.jsonl: line 2" report --run odd-run --out new.html
dies "report of a cut evaluation" "json-unet/unet/config.json" report --eval json-unet/unet/config.json --out new.html
dies "probe without a module" "unet" probe --model model --in file --out new.safetensors
dies "probe of an unknown module" "vae" probe vae --model model --in file --out new.safetensors
dies "probe without input" "--in is missing" probe unet --model model --out new.safetensors
dies "probe with a text file as input" "file" probe unet --model model --in file --out new.safetensors
dies "probe without the right tensor" "\"sample\"" probe unet --model model --in "$(weights model/unet)" --out new.safetensors
dies "bench of an unknown layer" "origami" bench origami

check "nothing was written by any of them" diff .before <(listing)
check "and nothing under a temporary name" [ -z "$(find . -name '*.cocogold-tmp-*' -o -name '*.cocogold-old-*')" ]

# A black and white target has no colour, and captions have no target.
check "validation shards of another colour are as good for masks" "$cocogold" "${unet[@]}" --model model --shards green \
    --validate-every 1 --validation-samples 2 --validation-steps 1 --target mask --out new-masks

# A damaged picture does not stop a long job: it is named, counted and skipped.
for data in no-picture cut-picture; do
    check "encode continues without it: $data" "$cocogold" "${encode[@]}" --data $data --model model --out new-$data
    check "it is counted" grep -q '"damaged"' new-$data/train.json
done
finish
