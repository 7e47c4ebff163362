#!/usr/bin/env bash
# Runs that go wrong: numbers that are not finite, signals, two runs in one folder, leftovers, damaged checkpoints.
source "$(dirname "$0")/common.sh"
prepare
host=$(hostname)
dead=$(bash -c 'echo $$') # the id of a process that has ended

few=(train --model model --shards latents --train-batch-size 4 --gradient-accumulation-steps 1 --validate-every 0
    --no-roofline --max-train-steps 6 --checkpoint-every 2 --lr 1e-3)
endless=("${few[@]}" --max-train-steps 1000000 --log-every 1000000)
lines() { grep -c '"kind":"step"' "$1/log.jsonl" 2>/dev/null; }
until_() { # until_ COMMAND...: repeats the command until it succeeds, at most half a minute
    local _
    for _ in $(seq 1500); do "$@" && return; sleep 0.02; done
    return 1
}
reached() { [ "$(lines "$1")" -ge "$2" ] 2>/dev/null; } # reached OUT STEPS
no_leftovers() { [ -z "$(find "$@" -name '*.cocogold-tmp-*' -o -name '*.cocogold-old-*' -o -name .lock)" ]; }
said() { grep '^cocogold: ' "$1" | grep -v '^cocogold: warning: '; }
one_sentence() { [ "$(said "$1" | grep -c '')" = 1 ] && said "$1" | grep -q "$2"; } # one_sentence LOG PATTERN
put() { printf "$3" | dd of="$1" bs=1 seek=$(($(stat -c %s "$1") - $2)) conv=notrunc status=none; } # put FILE BYTES-FROM-END BYTES

# ---- Numbers that are not finite ----
picture=$(echo data/val/*.png | cut -d' ' -f1)
weights=unet/diffusion_pytorch_model.safetensors
for name in nan huge; do cp -r model $name; done
put nan/$weights 4 '\0\0\300\177'
largest='\377\377\177\177'
put huge/$weights 16 "$largest$largest$largest$largest" # conv_out.bias, the last tensor
named="nan/$weights: tensor \"conv_out.bias\" holds the value nan"
dies "NaN weights: segment" "$named" segment --model nan --image "$picture" --text circle --out seg
dies "NaN weights: eval" "$named" eval --model nan --data data --out eval
dies "NaN weights: train" "$named" "${few[@]}" --model nan --out run-nan
check "they wrote nothing" [ "$(echo seg* run-nan* eval/*)" = "seg* run-nan* eval/*" ]
dies "predictions: segment" 'huge: what the model draws for "circle" is NaN or infinite' segment --model huge --image "$picture" --text circle --out seg
dies "predictions: eval" "huge: what the model draws for picture " eval --model huge --data data --limit 4 --bootstrap 0 --out eval
check "they wrote nothing" [ "$(echo seg* eval/*)" = "seg* eval/*" ]
check "a text-to-image model" "$prepares" init --preset mini --text-to-image --vae model text
cp -r text text-huge
put text-huge/$weights 16 "$largest$largest$largest$largest"
dies "predictions: generate" "text-huge: what the model draws for picture 0 is NaN or infinite" generate --model text-huge --text circle --count 1 --steps 2 --out gen
dies "a conversion of NaN weights" "nan-text/$weights: tensor \"conv_out.bias\" holds the value nan" \
    init --from "$(cp -r text nan-text && put nan-text/$weights 4 '\0\0\300\177' && echo nan-text)" converted
check "it wrote nothing" [ ! -e converted ]

skipped() { # skipped NAME OUT WHAT COMMAND...: the run ends with code 1 and publishes nothing; WHAT: what the warnings name
    "$cocogold" "${@:4}" --out "$2" >/dev/null 2>"$2.log"
    local code=$?
    check "$1: exit code" [ $code = 1 ]
    check "$1: one sentence: $(said "$2.log")" one_sentence "$2.log" "training ends: the loss or gradient of the last [0-9]* steps was not finite"
    check "$1: it names the sample: $(grep -m1 -o 'step [0-9]*: the loss of.*' "$2.log")" grep -q "the loss of $3 .*is .*: the step is skipped" "$2.log"
    check "$1: no model, nothing half-written" eval "[ ! -e $2/model ] && no_leftovers $2"
}
skipped "every step is skipped" huge-run 'sample [0-9]* of latents/train-00000.h5 (picture [0-9]*)' "${few[@]}" --model huge --max-train-steps 100
check "that ended after a few steps: $(lines huge-run)" [ "$(lines huge-run)" -le 6 ]
check "no checkpoint" [ ! -e huge-run/checkpoint-000002 ]
skipped "every step of a short run" short 'sample [0-9]* of latents/train-00000.h5' "${few[@]}" --model huge --max-train-steps 2
skipped "pretrain" pretrain-run 'sample [0-9]* of latents/train-00000.h5' pretrain "${few[@]:1}" --model text-huge --max-train-steps 100
check "--skipped-steps-limit 0 never ends it" "$cocogold" "${few[@]}" --model huge --out limit0 --skipped-steps-limit 0
# Gradients near 1e22 are finite, but Adam's means of their squares would not be.
cp -r model large
large='x\206\007d' # 1e22
put large/$weights 16 "$large$large$large$large"
skipped "gradients whose squares overflow" large-run 'sample [0-9]* of latents/train-00000.h5' "${few[@]}" --model large --max-train-steps 100
check "a checkpoint after them" "$cocogold" "${few[@]}" --model large --out large0 --skipped-steps-limit 0 --max-train-steps 2
check "it can be resumed" "$cocogold" "${few[@]}" --model large --out large0 --skipped-steps-limit 0 --max-train-steps 3 --resume
skipped "a VAE that diverges" vae-run 'picture [0-9]*.png' train-vae --model model --data data --train-batch-size 4 \
    --gradient-accumulation-steps 1 --validate-every 0 --no-roofline --max-train-steps 300 --checkpoint-every 2 --lr 10 \
    --lr-warmup-steps 100 --lr-scheduler constant
check "the last good checkpoint is kept: $(grep -o 'the last good.*' vae-run.log)" [ -e "$(sed -n 's/.*the last good checkpoint is //p' vae-run.log)/trainer/state.json" ]
check "the explosion before is said once: $(grep -m1 -o 'the loss explodes.*' vae-run.log)" [ "$(grep -c 'warning: step [0-9]*: the loss explodes' vae-run.log)" = 1 ]

"$cocogold" train-vae --model model --data data --train-batch-size 4 --gradient-accumulation-steps 1 --validate-every 0 \
    --no-roofline --max-train-steps 9 --lr 10 --lr-warmup-steps 0 --lr-scheduler constant --out nine >nine.log 2>&1
check "there is none before there are ten losses" eval '[ "$(lines nine)" = 9 ] && ! grep "explodes" nine.log'

# ---- An undisturbed run ----
check "6 steps" bash -c '"$@" --out whole >whole.log 2>&1' - "$cocogold" "${few[@]}"
check "without a warning" [ ! -s <(grep warning whole.log) ]
check "nothing is left" no_leftovers whole

# ---- Signals ----
# ended SIGNAL NAME FOLDER COMMAND...: once FOLDER exists the signal comes; exit code 128 + signal, and one sentence.
ended() {
    local signal=$1 name="$2: SIG$1" folder=$3 pid code
    shift 3
    "$cocogold" "$@" >signal.log 2>&1 &
    pid=$!
    until_ bash -c "compgen -G '$folder' >/dev/null"
    kill "-$signal" $pid
    wait $pid
    code=$?
    check "$name: exit code $code" [ $code = $((128 + $(kill -l "$signal"))) ]
    check "$name: one sentence: $(said signal.log)" one_sentence signal.log "ended by signal $(kill -l "$signal") ("
    check "$name: nothing is left" no_leftovers .
}
for signal in HUP INT TERM USR1; do
    ended $signal synth "many.cocogold-tmp-$host-*/train" synth many --train 100000 --val 2
done
ended TERM init "sd.cocogold-tmp-$host-*/unet" init --preset sd1 sd
check "neither is there" [ "$(echo many* sd*)" = "many* sd*" ]
ended TERM eval "eval-stopped/masks/*.png" eval --model model --data data --bootstrap 0 --steps 20 --batch 1 --out eval-stopped --masks
for signal in HUP TERM; do
    "$cocogold" "${endless[@]}" --checkpoint-every 0 --out stop-$signal >stop.log 2>&1 &
    until_ reached stop-$signal 3
    kill -$signal $!
    wait $!
    code=$?
    check "train: SIG$signal: exit code $code" [ $code = $((128 + $(kill -l $signal))) ]
    check "train: SIG$signal: one sentence: $(said stop.log)" one_sentence stop.log "saving a checkpoint before leaving"
    check "train: SIG$signal: the last step is saved" [ -e "stop-$signal/checkpoint-$(printf %06d "$(lines stop-$signal)")/trainer/state.json" ]
    check "train: SIG$signal: nothing is left" no_leftovers stop-$signal
done
(trap '' HUP && exec "$cocogold" synth many --train 100000 --val 2 >nohup.log 2>&1) &
pid=$!
until_ bash -c "compgen -G 'many.cocogold-tmp-$host-*/train' >/dev/null"
kill -HUP $pid
sleep 0.2
check "SIGHUP under nohup: it goes on" kill $pid
wait $pid
check "until SIGTERM: $(said nohup.log)" one_sentence nohup.log "ended by signal 15"

"$cocogold" "${endless[@]}" --log-every 1 --out pipe 2>pipe.log | head -n 20 >/dev/null
code=${PIPESTATUS[0]}
check "train into a closed pipe: exit code $code" [ "$code" = 1 ]
check "it is said: $(said pipe.log)" one_sentence pipe.log "standard output cannot be written: Broken pipe"
check "the last step is saved" [ -e "pipe/checkpoint-$(printf %06d "$(lines pipe)")/trainer/state.json" ]
"$cocogold" synth few --train 3 --val 2 2>pipe.log | true
code=${PIPESTATUS[0]}
check "synth into a closed pipe writes its files: exit code $code" [ "$code-$(ls few/train | grep -c '')" = 1-3 ]
"$cocogold" eval --model model --data data --limit 4 --steps 1 --bootstrap 0 --out line 2>pipe.log | head -n 1 >/dev/null
code=${PIPESTATUS[0]}
check "eval, which prints at its end, for one line: exit code $code" [ "$code" = 0 ]

# unread ARGUMENTS...: cocogold with a standard output that nobody reads from the beginning.
mkfifo fifo
unread() (
    exec 3<>fifo 4>fifo 3>&-
    exec "$cocogold" "$@" >&4 2>pipe.log 4>&-
)
# broken NAME KEPT COMMAND...: ends with code 1 and one sentence, which ends in KEPT.
broken() {
    unread "${@:3}"
    local code=$?
    check "$1, nobody reads: exit code $code" [ $code = 1 ]
    check "$1: $(said pipe.log)" one_sentence pipe.log "^cocogold: standard output cannot be written: Broken pipe$2\$"
    check "$1: nothing is left" no_leftovers .
}
broken "train, before the first step" "; there is no checkpoint yet" "${endless[@]}" --validate-every 1 --out early
check "no model" [ ! -e early/model ]
broken "the same, resumed" "; there is no checkpoint yet" "${endless[@]}" --resume --out early
broken "train, resumed" "; the last checkpoint is pipe/checkpoint-0*[0-9]*" "${endless[@]}" --resume --out pipe
broken "train-vae" "; there is no checkpoint yet" train-vae --model model --data data --train-batch-size 4 --no-roofline --out early-vae
broken "pretrain" "; there is no checkpoint yet" pretrain "${endless[@]:1}" --model text --out early-pretrain
broken "encode" "; complete shards are kept; run the same command again to continue" \
    encode --model model --data data --split train --out early-latents --min-side 1
check "the same command goes on" "$cocogold" encode --model model --data data --split train --out early-latents --min-side 1
broken "eval" "" eval --model model --data data --limit 2 --steps 1 --bootstrap 0 --out early-eval
check "it has written everything" ls early-eval/{metrics.json,pairs.csv,report.html}
broken "segment" "" segment --model model --image "$picture" --text circle --out early-seg
check "it has written everything" ls early-seg-{mask,prediction,overlay}.png
broken "stats with a file" "" stats --data data --split train --json early.json
check "it has written the file" [ -s early.json ]
unread train --model nowhere --shards latents --out early-error
ended=$?
check "another error, nobody reads: $(said pipe.log)" eval '[ $ended = 1 ] && one_sentence pipe.log "nowhere"'
quiet() { # quiet COMMAND...: a command that only prints ends as `ls` does
    unread "$@"
    local ended=$?
    check "$*, nobody reads: exit code $ended, quiet" eval '[ $ended = 141 ] && [ ! -s pipe.log ]'
}
quiet --help
quiet train --help
quiet analyze --help
quiet stats --data data --split train
quiet bench plan --preset mini
(trap '' PIPE && unread stats --data data --split train)
ended=$?
check "the same where SIGPIPE is ignored: $(said pipe.log)" eval '[ $ended = 1 ] && one_sentence pipe.log "cannot be written: Broken pipe"'

(ulimit -f 6000 && exec "$cocogold" "${few[@]}" --out xfsz >/dev/null 2>xfsz.log)
code=$?
check "train beyond the largest file: exit code $code" [ $code = 1 ]
check "it is said: $(said xfsz.log)" one_sentence xfsz.log "xfsz/checkpoint-000002.*cannot be written: File too large"
check "nothing half-written" eval 'no_leftovers xfsz && [ -z "$(compgen -G "xfsz/checkpoint-*")" ]'

# A pipe, since the limit holds for files: the numbers are printed before the first of them is written.
limited=$( (trap '' XFSZ && ulimit -f 1 && exec "$cocogold" eval --model model --data data --limit 8 --steps 1 --bootstrap 0 --out xfsz-eval) 2>&1 | cat)
check "eval beyond the largest file: $(tail -n 1 <<<"$limited")" grep -q '^cocogold: xfsz-eval/metrics.json.* cannot be written: File too large$' <<<"$limited"
check "it has printed its numbers" grep -qE '^all +[0-9]+ ' <<<"$limited"

# ---- One run per folder, leftovers ----
"$cocogold" "${endless[@]}" --out busy >/dev/null 2>&1 &
pid=$!
until_ reached busy 3
for option in --resume --overwrite --seed=2024; do
    dies "a second run, $option" "busy: process $pid on $host writes here now" "${few[@]}" --out busy $option
done
check "the first one goes on" until_ reached busy $(($(lines busy) + 3))
kill -KILL $pid
wait $pid 2>/dev/null
sleep 1000 & running=$!
mkdir -p busy/{checkpoint-000900.cocogold-tmp-$host-$dead,checkpoint-000901.cocogold-tmp-other-$dead,model.cocogold-tmp-other-4711,model.cocogold-tmp-4711,notes.cocogold-tmp-other-1}/unet
touch busy/samples/a.png.cocogold-tmp-$host-{$dead,$running} busy/log.jsonl.cocogold-tmp-$host-$dead
check "kill -9 frees the folder" "$cocogold" "${few[@]}" --out busy --resume --max-train-steps "$(($(lines busy) + 2))"
check "its leftovers are gone, others stay: $(find busy -name '*.cocogold-tmp-*' | sort | xargs)" [ "$(find busy -name '*.cocogold-tmp-*' | sort | xargs)" = \
    "busy/model.cocogold-tmp-4711 busy/notes.cocogold-tmp-other-1 busy/samples/a.png.cocogold-tmp-$host-$running" ]
check "so is the lock" [ ! -e busy/.lock ]
mkdir -p others/model.cocogold-old-{1,other-4711}/unet && touch others/log.jsonl
dies "a folder that is refused" "others: holds a log.jsonl" "${few[@]}" --out others
check "nothing was removed from it" ls -d others/model.cocogold-old-{1,other-4711}/unet
mkdir -p foreign/checkpoint-000001 && touch foreign/checkpoint-000001/weights.pt
cp -r whole mixed && mkdir mixed/checkpoint-000008 && touch mixed/checkpoint-000008/notes # later steps of the same run
cp -r whole file && touch file/checkpoint-000008
for folder in foreign/checkpoint-000001 mixed/checkpoint-000008 file/checkpoint-000008; do
    for option in --split=train --resume --overwrite; do
        dies "not a run's, $option" "$folder: has a checkpoint's name, but no run wrote it" "${few[@]}" --out ${folder%/*} --max-train-steps 8 $option
    done
done
check "they stay" ls foreign/checkpoint-000001/weights.pt mixed/checkpoint-000008/notes file/checkpoint-000008
check "so does the run beside them" diff -r whole mixed --exclude=checkpoint-000008
mkdir -p dated/model.old-2026-11-30 dated/model.tmp-mine-2
check "a run beside the user's folders" "$cocogold" "${few[@]}" --out dated --max-train-steps 1
check "they stay" ls -d dated/model.old-2026-11-30 dated/model.tmp-mine-2
touch latents/train-00007.h5.cocogold-tmp-$host-{$dead,$running}
check "encode" "$cocogold" encode --model model --data data --split val --out latents --targets overlay,mask --min-side 1 --classes @data/classes/seen.txt
check "it removes the dead one's" [ "$(echo latents/*.cocogold-tmp-*)" = "latents/train-00007.h5.cocogold-tmp-$host-$running" ]
rm latents/*.cocogold-tmp-*
mkdir eval2
touch eval2/pairs.csv.cocogold-tmp-$host-{$dead,$running}
check "eval" "$cocogold" eval --model model --data data --limit 2 --steps 1 --bootstrap 0 --out eval2
check "it removes the dead one's" [ "$(echo eval2/*.cocogold-tmp-*)" = "eval2/pairs.csv.cocogold-tmp-$host-$running" ]
mkdir model2.cocogold-{tmp,old}-$host-$dead
touch model2.cocogold-old-$host-$dead/kept
dies "init puts the folder back that a killed one had moved" "model2: is not empty" init --preset mini model2
check "it is there, the temporary one is not: $(echo model2*)" [ "$(echo model2*/kept model2.*)" = "model2/kept model2.*" ]
kill $running

# ---- What --overwrite and --force may delete ----
mkdir notes && touch notes/thesis.txt
dies "--overwrite of what is no run" "notes holds files, but not a run" "${few[@]}" --out notes --overwrite
cp -r whole holds && cp -r latents holds/samples/latents && cp -r data holds/data
dies "--overwrite of the shards" "--shards holds/samples/latents lies in --out holds" "${few[@]}" --out holds --overwrite --shards holds/samples/latents
dies "--overwrite of the data" "--data holds/data lies in --out holds" train-vae --model model --data holds/data --out holds --overwrite
cp data/classes/seen.txt holds/samples/list.txt
dies "--overwrite of a list" "--classes @holds/samples/list.txt lies in --out holds" "${few[@]}" --out holds --overwrite --classes @holds/samples/list.txt
printf 'circle: disc\n' >holds/samples/synonyms.txt
dies "--overwrite of a list of synonyms" "--text-template {}|@holds/samples/synonyms.txt lies in --out holds" \
    "${few[@]}" --out holds --overwrite --text-template '{}|@holds/samples/synonyms.txt'
dies "--overwrite of the model" "--model holds/model lies in --out holds" "${few[@]}" --out holds --overwrite --model holds/model
dies "init --force of what is no model" "notes: is no model directory" init --preset mini --force notes
dies "init --force of its source" "text/../text lies in text" init --from text/../text --force text
check "nothing was deleted" [ -e notes/thesis.txt ] && check "nor here" diff -r whole/model holds/model
check "--overwrite of an empty folder" bash -c 'mkdir empty && "$@" --out empty --overwrite' - "$cocogold" "${few[@]}"

# ---- Damaged checkpoints ----
check "sha256sum knows the digests" bash -c 'cd whole/checkpoint-000006 && sha256sum --quiet --check trainer/sha256.txt'
check "they cover all files" [ "$(grep -c '' whole/checkpoint-000006/trainer/sha256.txt)" = \
    "$(find whole/checkpoint-000006 -type f ! -name sha256.txt | grep -c '')" ]
more=("${few[@]}" --resume --max-train-steps 8)
cp -r whole longer
check "8 steps" "$cocogold" "${more[@]}" --out longer
damaged() { # damaged NAME COMMAND: the command damages the newest checkpoint
    rm -rf hurt before
    cp -r whole hurt # copies, no links
    (cd hurt/checkpoint-000006 && eval "$2")
    cp -r hurt before
    dies "$1" "hurt/checkpoint-000006 is damaged ($3), but hurt/checkpoint-000004 is whole: move the damaged one away" "${more[@]}" --out hurt
    check "$1: nothing changed" diff -r before hurt
}
sum="does not have the SHA-256 that is in trainer/sha256.txt"
damaged "a wrong byte in the moments" 'put trainer/optimizer.safetensors 1000 x' "trainer/optimizer.safetensors $sum"
damaged "a wrong byte in a frozen part" 'put vae/*.safetensors 1000 x' "vae/diffusion_pytorch_model.safetensors $sum"
damaged "a cut file" 'truncate -s 1000 unet/*.safetensors' "unet/diffusion_pytorch_model.safetensors $sum"
damaged "a wrong byte in the settings" 'put cocogold.json 3 x' "cocogold.json $sum"
damaged "a missing file" 'rm trainer/state.json' "trainer/state.json cannot be read: No such file or directory"
damaged "a cut list" 'sed -i "/optimizer/d" trainer/sha256.txt' "trainer/optimizer.safetensors is not in trainer/sha256.txt"
damaged "an empty list" ': >trainer/sha256.txt' "trainer/sha256.txt is no list of digests"
mv hurt/checkpoint-000006 hurt/damaged
check "the damaged one moved away: --resume" "$cocogold" "${more[@]}" --out hurt
check "same bits as the undamaged run" cmp hurt/model/$weights longer/model/$weights
rm -rf hurt && cp -r whole hurt
for step in 4 6; do put hurt/checkpoint-00000$step/$weights 100 x; done
dies "both damaged" "hurt/checkpoint-000006 is damaged (unet/diffusion_pytorch_model.safetensors $sum), and no older checkpoint is whole" "${more[@]}" --out hurt
rm -rf hurt && cp -r whole hurt
rm hurt/checkpoint-*/trainer/sha256.txt
dies "without digests" "hurt/checkpoint-000006 is damaged (trainer/sha256.txt is missing), and no older checkpoint is whole" "${more[@]}" --out hurt
finish
