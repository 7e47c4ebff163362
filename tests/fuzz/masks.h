// What the program does with the annotations of a data set, for pictures of up to 64 x 64 pixels.
#pragma once
#include "data/sample.h"
#include <stdlib.h>

static inline void use_masks(const Coco *coco) {
    bool *allowed = malloc((size_t)coco->category_count + 1);
    for (int c = 0; c < coco->category_count; c++) { allowed[c] = true; }
    SampleOptions options = {
        .allowed = allowed, .seed = 1, .resolution = 12, .minimum_side = 1, .absent = 0.25, .skip_damaged = true};
    for (int p = 0; p < coco->picture_count; p++) {
        const Picture *picture = &coco->pictures[p];
        if (picture->width > 64 || picture->height > 64) { continue; }
        char *why = NULL;
        uint32_t *ids = coco_try_segment_ids(coco, p, &why);
        bool readable = ids || !coco->panoptic;
        for (int c = 0; c < coco->category_count && c < 4 && readable; c++) { free(coco_class_mask(coco, p, c, ids)); }
        for (uint32_t pass = 0; pass < 2 && readable; pass++) {
            Sample sample;
            if (sample_plan(coco, &options, p, pass, &sample) == SAMPLE_OK) {
                sample_render_mask(coco, &options, &sample);
            }
            sample_free(&sample);
        }
        free(ids);
        free(why);
    }
    free(allowed);
}
