#!/usr/bin/env bash
# segment with lists of pictures and texts: what is read, how files are named, notes, and what cannot be read.
source "$(dirname "$0")/common.sh"
prepare
mkdir few
cp $(ls data/val/*.png | head -n 2) few
first=$(ls few/*.png | head -n 1) second=$(ls few/*.png | tail -n 1)
a=$(basename "$first" .png) b=$(basename "$second" .png)
segment=("$cocogold" segment --model model --steps 1 --method luminance --no-opening)
made() { # made PATTERN: the files that fit it, in one line
    (cd "$out" && ls $1 2>/dev/null | tr '\n' ' ')
}
begin() { out=$1 && mkdir "$out"; }

begin one
check "one picture, one text" "${segment[@]}" --image "$first" --text person --out one/x
check "three files" [ "$(made '*')" = "x-mask.png x-overlay.png x-prediction.png " ]
begin texts
check "two texts, one of them twice" "${segment[@]}" --image "$first" --text person --text "red circle" --text person --out texts/x
check "a mask of each, a label map and its legend" [ "$(made '*-mask.png') $(made '*l*s.png') $(made '*legend.png')" = \
    "x-person-mask.png x-red_circle-mask.png  x-labels.png  x-legend.png " ]
begin places
check "pictures as arguments" "${segment[@]}" --text person --out places/x "$first" "$second"
check "a mask of each picture" [ "$(made "*-mask.png")" = "x-$a-mask.png x-$b-mask.png " ]
echo "$first" >list.txt
printf '\n %s \r\n' "$second" >>list.txt
for way in few @list.txt; do
    begin "by-${way#@}"
    check "pictures from $way" "${segment[@]}" --image $way --text person --out "$out/"
    check "the same files" diff <(made '*') <(printf '%s ' {$a,$b}-{mask,overlay,prediction}.png)
done
check "a folder that is not there yet" "${segment[@]}" --image "$first" --text person --out new/folder/
check "it has the picture's files" ls new/folder/{mask,prediction,overlay}.png
check "texts from a file" "${segment[@]}" --image "$first" --texts-from @data/classes/unseen.txt --out listed --no-pictures --json listed.json
check "each of them" [ "$(grep -c '"text"' listed.json)" = "$(grep -c . data/classes/unseen.txt)" ]

mkdir -p same/{a,b}
cp "$first" same/a/0001.png && cp "$first" same/b/0001.png
cp "$first" same/a/7.left.png && cp "$first" same/a/7.right.png
cp "$first" same/a/0008.png && cp "$first" same/a/0009.png && cp "$first" same/b/9.png
check "pictures with the same names" "${segment[@]}" --text person --no-pictures --json same.json same/{a,b}
ids=$(sed -n 's/^ *"image_id": \(.*\),$/\1/p' same.json | sort | tr '\n' ' ')
check "they keep different ids: $ids" [ "$ids" = \
    '"0009.png" "7.left.png" "7.right.png" "9.png" "same/a/0001.png" "same/b/0001.png" 8 ' ]
mkdir dashes
cp "$first" dashes/x.png && cp "$first" dashes/x-t.png
dies "two masks with one file" "the masks of t-shirt in x and of shirt in x-t would have the same file" "${segment[@]:1}" \
    --image dashes --text shirt --text t-shirt --out dashes/
check "it wrote nothing" [ "$(echo dashes/*)" = "dashes/x-t.png dashes/x.png" ]
mkdir beside
cp "$first" beside/x.png && cp "$first" beside/x-mask.png
dies "a picture that would be replaced" "beside/x-mask.png is one of the pictures, and would be replaced" "${segment[@]:1}" \
    --image beside --text person --out beside/
check "it stays" cmp "$first" beside/x-mask.png
begin links
ln -s ../beside/x.png links/x-mask.png && ln -s ../beside/x.png links/x-legend.png
check "links to a picture of another folder" "${segment[@]}" --image beside --text person --out links/
check "the masks replace them, and the picture stays" cmp "$first" beside/x.png
check "what is not written replaces nothing" [ -L links/x-legend.png ]
check "the same picture twice" "${segment[@]}" --image "$first" --image "$first" --text person --out twice/
said=$("${segment[@]}" --image "$first" --text person --out said/ 2>/dev/null)
check "it names its files: $said" grep -qF 'wrote said/mask.png, said/prediction.png, said/overlay.png' <<<"$said"
said=$("${segment[@]}" --image few --text person --text shirt --out said/ 2>/dev/null | tail -n 1)
check "and those of several: $said" ls $(sed 's/.*wrote //; s/,//g' <<<"$said")

begin bad
echo text >few/broken.jpg
"${segment[@]}" --image few --text person --out bad/x --json bad.json >bad.out 2>bad.err
check "a picture that cannot be read: code 1" [ $? = 1 ]
check "it is named" grep -q '^cocogold: warning: few/broken.jpg: is damaged' bad.err
check "and counted" grep -q '^cocogold: 1 of 3 pictures are left out$' bad.err
check "the others are there" [ "$(made '*-mask.png' | wc -w) $(grep -c image_id bad.json)" = "2 2" ]

"${segment[@]}" --image "$first" --text "person flibbertigibbet" --out noted >noted.out 2>noted.err
check "a note on words in pieces" grep -q '"person flibbertigibbet": the tokenizer breaks words into pieces (' noted.err
check "in one line" [ "$(grep -c '^cocogold: ' noted.err)" = 1 ]
cp -r model trained
echo '{"train_classes": ["person"], "all_classes": ["person", "red circle"]}' >trained/cocogold.json
"${segment[@]}" --model trained --image "$first" --texts-from all --out noted >noted.out 2>noted.err
check "a note on a class that was not trained on" grep -qx 'cocogold: warning: "red circle": the model was not trained on a class of this name' noted.err
check "no note on the other" [ "$(grep -c '^cocogold: ' noted.err)" = 1 ]
check "texts from the model's classes" grep -q '^1 picture, 2 texts' noted.out

mkdir empty
: >empty.txt
dies "an empty folder" "the folder has no pictures, expected files" "${segment[@]:1}" --image empty --text person
dies "an empty list of pictures" "empty.txt: is empty, expected paths of pictures" "${segment[@]:1}" --image @empty.txt --text person
dies "a list that is missing" "no.txt" "${segment[@]:1}" --image @no.txt --text person
dies "a model without classes" "lists no classes" "${segment[@]:1}" --image few --texts-from trained
dies "texts from elsewhere" "--texts-from coco: expected trained, all or @FILE" "${segment[@]:1}" --image few --texts-from coco
dies "one blank text of two" "--text is missing" "${segment[@]:1}" --image few --text person --text " "
dies "nothing to write" "--no-pictures: expected --json" "${segment[@]:1}" --image few --text person --no-pictures
dies "a result in a missing folder" "no/such" "${segment[@]:1}" --image few --text person --json no/such/r.json
finish
