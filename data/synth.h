// Procedural scenes in COCO's layout: objects of a few colours and shapes and a frequent "person" on photograph-like
// backgrounds. Some combinations of colour and shape are held out: they occur only in validation pictures, so that
// "unseen" classes are new combinations of known words.
//
//   DIR/train/000000000001.png ..., DIR/val/000001000001.png ...
//   DIR/annotations/instances_{train,val}.json, panoptic_{train,val}.json, panoptic_{train,val}/*.png
//   DIR/annotations/captions_{train,val}.json  as COCO's: each scene in words (data/synth_text.h)
//   DIR/annotations/refs_{train,val}.json      phrases with the ids of their instances, as data/phrases.h reads them
//   DIR/classes/seen.txt, unseen.txt           one class name a line
//   DIR/classes/known.txt, new-combinations.txt, new-words.txt    with --new-words: seen.txt and unseen.txt without the
//                                              names that contain one of the words, and these names
//   DIR/synth.json                            the options; written last
//
// A scene is a pure function of (seed, split, index), whatever the number of threads or of scenes.
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum { SYNTH_COLORS = 10, SYNTH_SHAPES = 4, SYNTH_CLASSES = 1 + SYNTH_COLORS * SYNTH_SHAPES, SYNTH_OBJECTS = 3 };
// Class 0 is "person"; 1 + color * SYNTH_SHAPES + shape is "red circle" and so on. A category's id is its class + 1.
const char *synth_class_name(int class_index); // 0 <= class_index < SYNTH_CLASSES
bool synth_held_out(int class_index);

typedef struct {
    int width, height, train, val; // pixels; numbers of scenes
    uint64_t seed;
    int colors;            // the first of SYNTH_COLORS, in the order of data/synth.c
    double object_size;    // scale of the objects' radii
    double frequent_share; // share of objects that are a person
    const char *new_words; // "orange,cross": writes the lists of classes with and without them; NULL: no such lists
} SynthOptions;
int synth_classes(const SynthOptions *options); // the number of classes that its colours make

typedef struct {
    int class_index;
    int x, y, width, height; // box of the visible pixels
    int area;                // visible pixels
} SynthObject;

typedef struct {
    int width, height, count;
    SynthObject objects[SYNTH_OBJECTS];
    uint8_t *rgb;   // (height, width, 3)
    uint8_t *label; // (height, width) 0: background; 1 + k: visible pixels of objects[k]
} SynthScene;

// Draws a scene; `held_out` allows the held-out classes. Free it with synth_free.
SynthScene synth_draw(const SynthOptions *options, bool held_out, long long index);
void synth_free(SynthScene *scene);

// Writes the whole folder. Dies if `folder` holds something else. If it already holds the same scenes, says so and
// returns.
void synth_write(const char *folder, const SynthOptions *options);
