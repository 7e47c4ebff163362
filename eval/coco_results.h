// Masks in COCO's results format: a list of objects, which pycocotools' loadRes takes.
#pragma once
#include "util/json.h"
#include <stdint.h>

// Adds {"image_id", "category_id", "segmentation", "area", "bbox", "score", "file_name", "text"} to a list. image_id:
// the name of the file without folder and ending if it is a number, as in COCO, else the file's name. mask (height,
// width) of 0 and 1, not empty.
void coco_result_put(yajl_gen gen, const char *path, int category_id, const char *text, const uint8_t *mask, int width,
                     int height, double score);
