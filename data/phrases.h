// Texts about pictures, read beside an annotation file: captions, and phrases that refer to some of its objects.
//
//   captions_SPLIT.json  {"annotations": [{"image_id": 9, "caption": "a red circle and a person"}, ...]}  as COCO's
//   refs_SPLIT.json      [{"image_id": 9, "ann_id": 5, "sentences": ["the red circle", ...]}, ...], or the same list in
//                        {"refs": ...}: RefCOCO's and gRefCOCO's entries as JSON (Yu et al. 2016; Liu et al. 2023)
//
// ann_id is an annotation's id in instances_SPLIT.json or a list of them. [], [-1], -1 or "no_target": true say that
// nothing in the picture is meant. A sentence is a text, or an object with "sent" or "raw". An entry may have a "kind",
// by which evaluation groups the phrases. Entries that cannot be used are left out; the first of them are named.
#pragma once
#include "data/coco.h"
#include "data/texts.h"

enum { MAX_KINDS = 64 };

typedef struct {
    int picture;      // index into coco->pictures
    int kind;         // index into kinds
    const char *text; // without blanks at its ends
    int category;     // class of all its objects; -1: of several classes, or no object
    int first, count; // objects[first .. first + count)
} Phrase;

typedef struct {
    char *path;
    bool captions; // texts about whole pictures, without objects
    int count;
    Phrase *phrases; // sorted by picture, in the file's order
    int *first;      // (pictures + 1) each picture's first phrase
    int *objects;    // indices into coco->segments
    int kind_count;
    char **kinds;    // in the order of their first appearance; "phrase" and "absent" where the file has none
    TextTable texts; // the distinct texts
    long long entries, left_out;
    LeftOut *list; // the numbers of entries that are left out; the data set owns it
} Phrases;

// Reads captions_* or refs_* beside the open annotation file. Dies if there is none, or nothing in it can be used.
Phrases phrases_open(const Coco *coco, bool captions);
void phrases_free(Phrases *phrases);
