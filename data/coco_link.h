// The second half of reading annotations (data/coco_json.c): ids become indices, and segments are sorted by picture.
#pragma once
#include "data/coco.h"

// The PNG of a panoptic annotation.
typedef struct {
    int64_t image_id;
    const char *file_name;
    long long number;               // of the annotation
    int first_segment, end_segment; // its segments
} IdFile;

// What the segments of a file refer to.
typedef struct {
    int64_t *picture, *category; // ids
    const char **name;           // of segments whose id is a text, else NULL
    IdFile *files;
    int file_count;
} Links;

extern const char coco_no_picture[], coco_no_category[]; // kinds of annotations that are left out (data/left_out.h)

// Leaves out pictures with the id of a later one and segments without a picture or category, merges the categories with
// one name, turns ids into indices and sorts the segments by picture, keeping the file's order within a picture.
void coco_link(Coco *coco, const Links *links);
