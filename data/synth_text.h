// What can be said about a scene: captions that name its objects, and phrases that refer to some of them.
//
//   name       "the red circle", "the person"      the only object of its class
//   attribute  "the red one", "the circle"         the only object of its colour, of its shape
//   relation   "the red circle left of the blue square", also right of, above, below; "the circle left of ..." where
//              there are several circles. Exactly one object of the first kind lies on that side of the only object of
//              the second, and every one of them clearly on this side or on the other: along the axis, the centres of
//              the boxes are at least an eighth of the picture's shorter side apart.
//   size       "the largest triangle", "the smallest circle", among at least two of that shape; the areas of visible
//              pixels differ by a factor of at least 1.2 from the next one
//   plural     "all squares", "all people", "all red shapes": at least two
//   absent     one phrase of each of these kinds that refers to nothing in the scene, by a class, colour or shape that
//              is not there, or by a side on which none lies. It is drawn at random, and in training scenes never names
//              a held-out class.
//
// No phrase is ambiguous by these rules, and every phrase of the first five kinds that holds is listed.
#pragma once
#include "data/synth.h"

typedef enum { PHRASE_NAME, PHRASE_ATTRIBUTE, PHRASE_RELATION, PHRASE_SIZE, PHRASE_PLURAL, PHRASE_ABSENT } PhraseKind;
extern const char *const phrase_kind_names[]; // "name", ...

enum { SYNTH_PHRASES = 96, PHRASE_BYTES = 80 };
typedef struct {
    PhraseKind kind;
    char text[PHRASE_BYTES];
    int count, objects[SYNTH_OBJECTS]; // numbers of the scene's objects
} SynthPhrase;

// A scene's phrases; returns their number. held_out, index: as for synth_draw.
int synth_phrases(const SynthOptions *options, const SynthObject *objects, int count, bool held_out, long long index,
                  SynthPhrase phrases[SYNTH_PHRASES]);
// "a red circle", "a red circle and an orange square", "a person, a red circle, and a person": the objects from back to
// front, or in reverse.
void synth_caption(const SynthObject *objects, int count, bool reverse, char caption[256]);
