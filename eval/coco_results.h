// Masks in COCO's results format: a list of objects, which pycocotools' loadRes takes.
#pragma once
#include "util/json.h"
#include <stdint.h>

// What the results call a picture. file_name: the file's name without its folder; the whole path where several pictures
// have that name. image_id: the file's name without its ending if that is a number, as in COCO, and no other picture's;
// else file_name.
typedef struct {
    char *file_name;
    long long number; // image_id; -1: file_name is
} CocoImage;
CocoImage *coco_images(char *const *paths, int count);
void coco_images_free(CocoImage *images, int count);

// Adds {"image_id", "category_id", "segmentation", "area", "bbox", "score", "file_name", "text"} to a list. mask
// (height, width) of 0 and 1, not empty.
void coco_result_put(yajl_gen gen, const CocoImage *image, int category_id, const char *text, const uint8_t *mask,
                     int width, int height, double score);
