// panoptic_*.json with one PNG of ids (data/coco.c, data/coco_derive.c), and masks and samples from them.
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/masks.h"

const char *const fuzz_files[] = {"annotations/panoptic_val.json", "annotations/panoptic_val/1.png", "val/1.jpg", NULL};
void fuzz_begin(void) {}
void fuzz_died(void) {}

void fuzz_one(void) {
    Coco coco = coco_open(fuzz_path(""), "val", "panoptic");
    use_masks(&coco);
    coco_free(&coco);
}
