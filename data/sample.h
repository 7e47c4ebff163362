// From a picture and its annotations to a training sample: a square crop, a class, its mask. The rules are those of the
// original experiment, whose loader crops and draws in the same order. Randomness depends only on (seed, pass, picture
// id), not on order, threads or restarts.
//
//   crop     square of side min(w, h), at a random position along the longer axis
//   valid    a non-crowd segment of an allowed class (with a mask, and of positive area) whose bounding box has
//            >= 75% of its area in the crop, or covers >= 15% of the crop
//   class    one valid segment is drawn with weight round(1 + log2(area / smallest valid area)); its class is asked for
//   mask     the union of all valid segments of that class
//   retries  up to 5 random crops; then, in file order, a crop around each allowed segment until that one is valid
//
// With captions or phrases (data/phrases.h), a text is drawn instead of a class:
//
//   caption  one of the picture's, for a random crop; there is no mask
//   phrase   a kind among those that the picture has, then one of its phrases. The mask is the union of its objects,
//            all of which must be valid in the crop; tries and retries are the same.
#pragma once
#include "data/coco.h"
#include "data/image.h"
#include "data/phrases.h"

typedef struct {
    const bool *allowed;  // one flag per category (classes_parse)
    const bool *excluded; // the same: pictures with such an annotation yield nothing; NULL: none
    uint64_t seed;
    int resolution;   // side R of the training picture in pixels
    int minimum_side; // pictures with a shorter side yield nothing (300 in the original)
    double absent;    // share of samples that ask for an allowed class that is not in the crop at all (empty mask)
    const Phrases *phrases; // captions or phrases to ask with; NULL: class names
    bool skip_damaged;      // an unreadable picture is counted (SAMPLE_DAMAGED) instead of ending the program
} SampleOptions;

// Rows of option tables (util/options.h): `minimum_side`, and `absent` with it.
// clang-format off
#define MIN_SIDE_ROWS(side) \
    {OPT_INT, "min-side", side, "drop pictures whose shorter side is below this", "PIXELS", .high = 1e6}
#define SAMPLE_ROWS(absent, side) \
    {OPT_DOUBLE, "absent", absent, "share of samples that ask for a class absent from the crop", "SHARE", .high = 1}, \
    MIN_SIDE_ROWS(side)
// clang-format on

// Why a picture yields no sample in a pass.
typedef enum {
    SAMPLE_OK,
    SAMPLE_TOO_SMALL,  // a side under minimum_side
    SAMPLE_UNLABELLED, // no annotations at all
    SAMPLE_NO_CLASS,   // no annotation of an allowed class
    SAMPLE_ONLY_CROWD, // allowed classes only as crowd regions (or with empty boxes, or without masks)
    SAMPLE_CUT_OFF,    // no crop made an allowed segment valid
    SAMPLE_EMPTY_MASK, // the mask has no pixel at the training resolution
    SAMPLE_DAMAGED,    // the picture cannot be read (skip_damaged)
    SAMPLE_NO_TEXT,    // no caption, or no phrase about objects of allowed classes
    SAMPLE_EXCLUDED,   // an annotation of an excluded class
    SAMPLE_REASONS
} SampleReason;
extern const char *const sample_reason_names[SAMPLE_REASONS]; // "too_small", ... for tables and JSON

typedef struct {
    int picture; // index into coco->pictures
    int64_t image_id;
    int category;     // index into coco->categories; -1: a text that is no class
    const char *text; // caption or phrase; NULL: the class's name
    int kind;         // of the phrase
    int x, y, side;   // the crop in the picture's own pixels
    bool absent;      // asks for what is not in the crop
    uint8_t *valid;   // one flag per segment of the picture: part of the mask
    float area;       // share of the crop that is mask, at resolution R
    Image rgb;        // (R, R, 3)
    uint8_t *mask;    // (R, R), 0 or 1
} Sample;

// Chooses crop and class from the annotations alone; rgb, mask and area stay empty. Opens no file.
SampleReason sample_plan(const Coco *coco, const SampleOptions *options, int picture, uint32_t pass, Sample *sample);
// Reads the picture and fills rgb (Lanczos), mask (box average, then >= 0.5) and area of a planned sample.
SampleReason sample_render(const Coco *coco, const SampleOptions *options, Sample *sample);
// The part that needs only annotations: fills mask and area from picture, category, crop and valid.
void sample_render_mask(const Coco *coco, const SampleOptions *options, Sample *sample);
// Of a rendered sample, (R, R), freed by the caller: 1 where its class is in the crop but not in the mask (crowds,
// objects barely in the crop); of a text, nowhere.
uint8_t *sample_unpainted(const Coco *coco, const SampleOptions *options, const Sample *sample);
// Plan and render.
SampleReason sample_make(const Coco *coco, const SampleOptions *options, int picture, uint32_t pass, Sample *sample);
void sample_free(Sample *sample); // also after a failure
