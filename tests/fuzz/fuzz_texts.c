// captions_*.json and refs_*.json beside annotations that are fixed here (data/phrases.c).
#include "data/phrases.h"
#include "tests/fuzz/fuzz.h"
#include "util/file.h"
#include <string.h>

const char *const fuzz_files[] = {"captions_val.json", "refs_val.json", NULL};
static Coco coco;
void fuzz_died(void) {}

void fuzz_begin(void) {
    static const char text[] =
        "{\"images\": [{\"id\": 1, \"file_name\": \"1.jpg\", \"width\": 8, \"height\": 8},"
        "{\"id\": \"b\", \"file_name\": \"2.jpg\", \"width\": 8, \"height\": 8}],"
        "\"categories\": [{\"id\": 1, \"name\": \"cat\"}, {\"id\": 2, \"name\": \"dog\"}], \"annotations\": ["
        "{\"id\": 5, \"image_id\": 1, \"category_id\": 1, \"segmentation\": [[1, 1, 6, 1, 6, 6]]},"
        "{\"id\": 6, \"image_id\": 1, \"category_id\": 2, \"segmentation\": [[2, 1, 6, 1, 6, 6]]},"
        "{\"id\": 7, \"image_id\": \"b\", \"category_id\": 1, \"segmentation\": [[1, 1, 6, 1, 6, 6]]}]}";
    atomic_write(fuzz_path("instances_val.json"), text, sizeof text - 1);
    coco = coco_read(fuzz_path("instances_val.json"), false);
}

void fuzz_one(void) {
    // Entries that are left out are noted in this copy.
    Coco own = coco;
    own.texts_left_out = left_out_new();
    bool captions = fuzz_has("captions_val.json");
    if (captions || fuzz_has("refs_val.json")) {
        Phrases phrases = phrases_open(&own, captions);
        phrases_free(&phrases);
    }
    left_out_free(own.texts_left_out);
}
