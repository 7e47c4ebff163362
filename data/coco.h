// COCO annotations, instances_*.json and panoptic_*.json (Lin et al., "Microsoft COCO", 2014; Kirillov et al.,
// "Panoptic Segmentation", 2019), streamed into compact arrays, and the masks of their segments.
#pragma once
#include "data/image.h"
#include "data/left_out.h"
#include "data/segmentation.h"
#include "util/philox.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    int64_t id;
    const char *name;
    bool thing; // false: stuff (sky, grass, ...), only in panoptic files
} Category;

// SEGMENT_NO_MASK: it is left out where masks are asked for (missing, damaged, empty), but its class is in the picture.
typedef enum { SEGMENT_POLYGONS, SEGMENT_RLE, SEGMENT_PANOPTIC, SEGMENT_NO_MASK } SegmentForm;

// Where area and bbox come from: the file; the mask, since the file has none, or wrong ones, or the mask is empty.
typedef enum { SHAPE_GIVEN, SHAPE_MISSING, SHAPE_WRONG, SHAPE_EMPTY } ShapeSource;

// One object or one stuff region of a picture.
typedef struct {
    int64_t id;          // the annotation's id, or the value of its pixels in the panoptic PNG
    const char *id_name; // the id if it is a text, "number 3" where it has none, else NULL
    double bbox[4];      // x, y, width, height in pixels
    double area;         // in pixels
    int32_t category;    // index into categories
    uint8_t crowd;       // iscrowd
    uint8_t form;        // SegmentForm
    uint8_t shape;       // ShapeSource
    uint8_t exact;       // polygons: 0 = coordinates in hundredths of a pixel, 1 = doubles
    size_t data;         // polygons, RLE: their offset in the pool
} Segment;

typedef struct {
    int64_t id;          // a number of the file, or coco_id_of_text
    const char *id_name; // the id if it is a text, else NULL
    int width, height;
    const char *file_name;
    const char *url_name;     // the end of coco_url, or NULL
    const char *ids_name;     // panoptic PNG, or NULL
    int first_segment, count; // segments[first_segment .. + count), in the file's order
} Picture;

typedef struct {
    char *path;            // the annotation file, named in every message
    char *pictures_folder; // NULL if only an annotation file was read
    char *ids_folder;      // panoptic PNGs, or NULL
    char *folder, *split;  // the data set's; NULL likewise
    bool panoptic;
    bool annotated; // the file has annotations
    bool federated; // as LVIS's: a class without an annotation may still be in the picture
    int category_count, picture_count, segment_count;
    Category *categories; // in the file's order; "class" elsewhere means an index into this array
    Picture *pictures;    // in the file's order
    Segment *segments;    // sorted by picture
    int32_t *pool;        // coordinates and run lengths
    size_t pool_size;
    LeftOut *left_out;       // what cannot be used; coco_free says it
    LeftOut *computed;       // annotations whose area and bbox were wrong
    LeftOut *texts_left_out; // of data/phrases.h, which names them
    void *names;             // the text of all names, in linked blocks
} Coco;

extern const char *const coco_sources[]; // "auto", "instances", "panoptic", NULL
// Rows of option tables (util/options.h): the data set's folder, and the source.
// clang-format off
#define DATA_ROWS(data) \
    {OPT_STRING, "data", data, "folder of the data set, in COCO's layout", "DIR", \
     .required = "a data set in COCO's layout", .may_change = true}
#define SOURCE_ROWS(source) \
    {OPT_STRING, "source", source, "annotations to read (auto prefers instances)", "KIND", .choices = coco_sources}
// clang-format on

// Opens the dataset folder `data`: annotations/instances_SPLIT.json, or annotations/panoptic_SPLIT.json with its PNGs
// in annotations/panoptic_SPLIT/; pictures in SPLIT/ or images/SPLIT/. source: "instances", "panoptic" or "auto".
// "auto" prefers instances where both exist: the original's published loader opens that file, it has exactly the 80
// thing classes, and its polygons need no PNG. "panoptic" adds the stuff classes. If something is missing or damaged,
// dies with a sentence that names file, annotation and field.
Coco coco_open(const char *data, const char *split, const char *source);
// Whether this split has annotations. "train" and "val" stand for COCO's train2017 and val2017, here and above.
bool coco_has_split(const char *data, const char *split);
// Reads one annotation file alone (no pictures, no PNGs). panoptic: whether it is a panoptic file.
Coco coco_read(const char *path, bool panoptic);
void coco_want_segments(const Coco *coco); // dies if it has annotations, but none can be used
// Dies if a share of the samples is to ask for absent classes, and the file is federated.
void coco_want_exhaustive(const Coco *coco, double absent);
void coco_free(Coco *coco); // also says what was left out
// The number that stands for an id that is a text: its value if it is an integer of up to 64 bits, else a hash of it.
int64_t coco_id_of_text(const char *text, size_t length);
// An id that is a JSON number: an integer as coco_id_of_text has it, or one that is written like 9.0. false: neither.
// A character that is no part of the number follows the text.
bool coco_id_of_number(const char *text, size_t length, int64_t *id);

const char **coco_class_names(const Coco *coco); // free the list, but not the names
// A random permutation of the pictures (Fisher-Yates), freed by the caller.
int *coco_shuffled(const Coco *coco, Random random);
int *coco_by_id(const Coco *coco); // the pictures sorted by their ids, freed by the caller
int coco_find_picture(const Coco *coco, const int *by_id, int64_t id); // index, or -1
char *coco_picture_path(const Coco *coco, int picture);                // freed by the caller (data/coco_paths.h)
// The picture's id as the file has it.
const char *coco_picture_name(const Coco *coco, int picture, char number[24]);
// The segment's id as the file has it, freed by the caller; of panoptic files PICTURE/ID, since pictures share ids.
char *coco_segment_name(const Coco *coco, const char *picture, const Segment *segment);

// Reads a picture. If its size contradicts the annotations and it fits when turned as its EXIF orientation says, it is
// turned: annotations are of the picture as people see it, or of the stored one, and only the size can tell. On failure
// an image without pixels, and a sentence in *why, freed by the caller.
Image coco_load_picture(const Coco *coco, int picture, char **why);
// Counts a picture whose file or panoptic PNG cannot be read: it is left out. why: a sentence, or NULL.
void coco_unreadable(const Coco *coco, int picture, const char *why);
// Prints what was left out since the last call; writes all of it as fields of a JSON object.
void coco_say(const Coco *coco);
void coco_put_left_out(const Coco *coco, yajl_gen gen);

// The panoptic PNG as ids R + 256 G + 65536 B (height, width), freed by the caller; NULL for instances. Dies if it is
// missing or its size differs from the picture's; coco_try_segment_ids returns NULL and a sentence in *why instead.
uint32_t *coco_segment_ids(const Coco *coco, int picture);
uint32_t *coco_try_segment_ids(const Coco *coco, int picture, char **why);

// Sets mask (height, width of the picture) to 1 inside the segment and leaves other pixels unchanged, so that several
// calls give a union. SEGMENT_NO_MASK adds nothing. ids: from coco_segment_ids. The result equals pycocotools' decoding
// of polygons and both RLE forms, pixel for pixel.
void coco_add_mask(const Coco *coco, int picture, const Segment *segment, const uint32_t *ids, uint8_t *mask);

// The runs of a segment of polygons, in the order of the polygons; they may overlap. The caller frees the list.
Runs coco_polygon_runs(const Coco *coco, const Picture *picture, const Segment *segment);

// For evaluation: values of a full class mask.
enum { MASK_BACKGROUND = 0, MASK_OBJECT = 1, MASK_IGNORE = 255 };
// The mask of a class in the whole picture (height, width), freed by the caller. Instances are MASK_OBJECT; pixels
// covered only by a crowd region of the class are MASK_IGNORE. ids: as for coco_add_mask.
uint8_t *coco_class_mask(const Coco *coco, int picture, int category, const uint32_t *ids);
