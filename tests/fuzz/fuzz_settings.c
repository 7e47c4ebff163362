// The files beside a model or a drawn data set: cocogold.json, segmentation.json (eval/settings.c), synth.json
// (data/synth_write.c).
#include "data/synth.h"
#include "eval/settings.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>

const char *const fuzz_files[] = {"cocogold.json", "segmentation.json", "synth/synth.json", NULL};
void fuzz_begin(void) {}
void fuzz_died(void) {}

void fuzz_one(void) {
    ModelSettings settings;
    MaskOptions options = MASK_OPTIONS_DEFAULT;
    settings_read(&settings, fuzz_path(""));
    settings_rule(&settings, fuzz_path(""), &options, COMPARED_PICTURE);
    settings_is_trained(&settings, "cat");
    free(settings_text(&settings, "cat"));
    settings_free(&settings);
    if (fuzz_has("synth/synth.json")) {
        SynthOptions synth = {
            .width = 48, .height = 40, .train = 1, .val = 1, .object_size = 1, .frequent_share = 0.26, .colors = 6};
        synth_write(fuzz_path("synth"), &synth);
    }
}
