// instances_*.json: polygons and run-length codes (data/coco_json.c, data/coco_link.c), and masks and samples from
// them.
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/masks.h"

const char *const fuzz_files[] = {"instances_val.json", NULL};
void fuzz_begin(void) {}
void fuzz_died(void) {}

void fuzz_one(void) {
    Coco coco = coco_read(fuzz_path("instances_val.json"), false);
    use_masks(&coco);
    coco_free(&coco);
}
