// What a model directory records in addition to diffusers' files:
//   cocogold.json       written by train: what the UNet was taught to draw
//   segmentation.json   written by `eval --tune-on`: thresholds of mask extraction, defaults of `segment` and `eval`
#pragma once
#include "eval/extraction.h"
#include "model/schedule.h"
#include "util/options.h"
#include <math.h>
#include <stdbool.h>

typedef struct {
    int target;            // TARGET_OVERLAY or TARGET_MASK (data/shard.h)
    int color[3];          // 0..255, of the painted mask
    double alpha;          // opacity of the paint
    double outline;        // width of the line along the mask's border in pixels at 512 (0: exact masks)
    int steps;             // DDIM steps by default
    int resolution;        // side of the training pictures in pixels
    int train_class_count; // classes seen in training, also in that of the model it started from
    char **train_classes;
    int all_class_count; // classes of the data sets of these trainings
    char **all_classes;
    char *text_template; // of prompts; NULL means "{}", the class name alone
} ModelSettings;

// Overlay in opaque white without an outline, 4 steps, resolution 0 (unknown), no classes.
ModelSettings settings_default(void);
// Reads FOLDER/cocogold.json; fields that are missing keep settings_default's values. If there is no such file, returns
// false and the defaults. Dies with file and field if it is damaged.
bool settings_read(ModelSettings *settings, const char *folder);
void settings_write(const ModelSettings *settings, const char *folder);
// Copies cocogold.json, if there is one, from one model directory to another.
void settings_copy(const char *from, const char *to);
void settings_free(ModelSettings *settings);
// Adds those of the new names (copied) that a list lacks: settings_add(&s.all_class_count, &s.all_classes, n, names).
void settings_add(int *count, char ***names, int new_count, const char *const *new_names);
// The prompt for a class: the template with {} replaced; freed by the caller.
char *settings_text(const ModelSettings *settings, const char *class_name);
// Whether the model was trained on the class; a blank of its name may be written as "_".
bool settings_is_trained(const ModelSettings *settings, const char *class_name);

// The options of `eval` and `segment` on the model and how it is asked, and their rows of the options table.
typedef struct {
    char *model;
    int ema, steps, ensemble;
    ScheduleChange schedule;
} AnswerOptions;
#define ANSWER_OPTIONS_DEFAULT                                                                                         \
    { .ensemble = 1, .schedule = SCHEDULE_AS_MODEL }

// Rows of option tables (util/options.h).
// clang-format off
#define MODEL_ROWS(o) \
    {OPT_STRING, "model", &o.model, "pipeline directory", "DIR", .required = "a pipeline directory"}, \
    {OPT_FLAG, "ema", &o.ema, "use the averaged weights of unet_ema/"}
#define STEPS_ROWS(o) \
    {OPT_INT, "steps", &o.steps, "DDIM steps (0: the model's default, else 4)", "N", .high = 1000}
#define ENSEMBLE_ROWS(o) \
    {OPT_INT, "ensemble", &o.ensemble, "average the predictions of N draws of the noise", "N", .low = 1, .high = 1000}
// clang-format on

// Those on mask extraction: method NULL, tolerance and changed NaN: the model's.
typedef struct {
    char *method;
    double tolerance, changed;
    int no_opening, kind; // kind: MaskMethod
} MaskOptions;

#define MASK_OPTIONS_DEFAULT                                                                                           \
    { .tolerance = NAN, .changed = NAN }
// clang-format off
#define MASK_ROWS(o) \
    {OPT_HEADING, "Mask"}, \
    {OPT_STRING, "method", &o.method, \
     "how to extract the mask (default: compare; luminance for black and white targets)", "KIND", \
     .choices = mask_method_names, .choice = &o.kind}, \
    {OPT_DOUBLE, "tolerance", &o.tolerance, \
     "largest distance to the mask colour, 0 to 1 (default: the model's)", "X", .high = 1}, \
    {OPT_DOUBLE, "changed", &o.changed, \
     "compare: smallest change from the input, 0 to 1 (default: the model's)", "X", .high = 1}, \
    {OPT_FLAG, "no-opening", &o.no_opening, "skip the 3x3 morphological opening"}
// clang-format on

// What MASK_COMPARE compares a prediction with: the decoded latent of a shard's picture, or the picture itself.
typedef enum { COMPARED_LATENT, COMPARED_PICTURE } Compared;

// The rule of mask extraction for a model: MASK_LUMINANCE for target mask, else MASK_COMPARE with its colour and alpha,
// changed by FOLDER/segmentation.json if that exists (for a given method: if its thresholds were chosen for that), and
// by the options. Warns if thresholds for decoded latents meet pictures.
MaskRule settings_rule(const ModelSettings *settings, const char *folder, const MaskOptions *options,
                       Compared compared);
void settings_rule_write(const MaskRule *rule, Compared compared, const char *folder, const char *tuned_on, int pairs,
                         double miou);
