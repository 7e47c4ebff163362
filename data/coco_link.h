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

// What a segment refers to.
typedef struct {
    int64_t picture, category; // ids
    const char *problem; // what is wrong with it (a kind of data/left_out.h), or NULL. An instance's has been noted
} Link;

typedef struct {
    Link *segments; // one per segment
    IdFile *files;
    int file_count;
} Links;

extern const char coco_no_picture[], coco_no_category[]; // kinds of annotations that are left out (data/left_out.h)

// Leaves out pictures and categories with the id of a later one, and segments without a picture or category; those with
// another problem lose their mask. Merges the categories with one name, turns ids into indices and sorts the segments
// by picture, keeping the file's order within a picture.
void coco_link(Coco *coco, const Links *links);
