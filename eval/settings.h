// What a model directory records in addition to diffusers' files:
//   cocogold.json       written by train: what the UNet was taught to draw
//   segmentation.json   written by `eval --tune-on`: thresholds of mask extraction, defaults of `segment` and `eval`
#pragma once
#include "eval/extraction.h"
#include <stdbool.h>

typedef struct {
    int target;            // TARGET_OVERLAY or TARGET_MASK (data/shard.h)
    int color[3];          // 0..255, of the painted mask
    double alpha;          // opacity of the paint
    int steps;             // DDIM steps by default
    int resolution;        // side of the training pictures in pixels
    int train_class_count; // classes seen in training
    char **train_classes;
    int all_class_count; // classes of the data set
    char **all_classes;
    char *text_template; // of prompts; NULL means "{}", the class name alone
} ModelSettings;

// Overlay in opaque white, 4 steps, resolution 0 (unknown), no classes.
ModelSettings settings_default(void);
// Reads FOLDER/cocogold.json; fields that are missing keep settings_default's values. If there is no such file, returns
// false and the defaults. Dies with file and field if it is damaged.
bool settings_read(ModelSettings *settings, const char *folder);
void settings_write(const ModelSettings *settings, const char *folder);
// Copies cocogold.json, if there is one, from one model directory to another.
void settings_copy(const char *from, const char *to);
void settings_free(ModelSettings *settings);
// Sets a list of names (copied): settings_names(&s.train_class_count, &s.train_classes, count, names).
void settings_names(int *count, char ***names, int new_count, const char *const *new_names);
// The prompt for a class: the template with {} replaced; freed by the caller.
char *settings_text(const ModelSettings *settings, const char *class_name);
bool settings_is_trained(const ModelSettings *settings, const char *class_name);

// The rule of mask extraction for a model: MASK_LUMINANCE for target mask, else MASK_COMPARE with its colour and alpha,
// changed by FOLDER/segmentation.json if that exists.
MaskRule settings_rule(const ModelSettings *settings, const char *folder);
// The same, overridden by the command line: method (a name of mask_method_names; NULL: the model's), tolerance and
// changed in 0..1 (NaN: the model's, if they were chosen for that method), opening. Dies on anything else.
MaskRule settings_rule_options(const ModelSettings *settings, const char *folder, const char *method, double tolerance,
                               double changed, bool opening);
void settings_rule_write(const MaskRule *rule, const char *folder, const char *tuned_on, int pairs, double miou);
