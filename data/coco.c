#include "data/coco.h"
#include "data/coco_derive.h"
#include "data/coco_paths.h"
#include "data/image.h"
#include "util/error.h"
#include "util/file.h"
#include "util/options.h"
#include <stdlib.h>
#include <string.h>

// A folder of pictures: DATA/SPLIT, or DATA/images/SPLIT.
static char *find_pictures(const char *data, const char *split) {
    Path a = path_of("%s/%s", data, split), b = path_of("%s/images/%s", data, split);
    if (!folder_exists(a.text) && !folder_exists(b.text)) {
        die("%s: has neither the folder %s nor images/%s, expected the split's pictures", data, split, split);
    }
    return xstrdup(folder_exists(a.text) ? a.text : b.text);
}

static Path annotations_path(const char *data, bool panoptic, const char *split) {
    return path_of("%s/annotations/%s_%s.json", data, panoptic ? "panoptic" : "instances", split);
}

static bool has_annotations(const char *data, const char *split) {
    return file_exists(annotations_path(data, false, split).text) ||
           file_exists(annotations_path(data, true, split).text);
}

// COCO's splits are called train2017 and val2017; "train" and "val" also work.
static Path split_in_files(const char *data, const char *split) {
    Path year = path_of("%s2017", split);
    return has_annotations(data, year.text) ? year : path_of("%s", split);
}

bool coco_has_split(const char *data, const char *name) {
    return has_annotations(data, split_in_files(data, name).text);
}

const char *const coco_sources[] = {"auto", "instances", "panoptic", NULL};

Coco coco_open(const char *data, const char *name, const char *source) {
    if (!folder_exists(data)) { die("%s: is not a folder, expected a data set in COCO's layout", data); }
    Path found = split_in_files(data, name), ids_folder = path_of("%s/annotations/panoptic_%s", data, found.text);
    const char *split = found.text;
    int kind = options_choice(source, "--source", coco_sources);
    bool is_auto = kind == 0, panoptic = kind == 2;
    if (is_auto && !file_exists(annotations_path(data, false, split).text)) {
        if (!file_exists(annotations_path(data, true, split).text)) {
            die("%s/annotations: has neither instances_%s.json nor panoptic_%s.json", data, split, split);
        }
        panoptic = true;
    }
    if (panoptic && !folder_exists(ids_folder.text)) {
        die("%s: expected a folder with the panoptic PNGs", ids_folder.text);
    }
    char *pictures = find_pictures(data, split);
    Coco coco = coco_read(annotations_path(data, panoptic, split).text, panoptic);
    coco.pictures_folder = pictures;
    coco.ids_folder = panoptic ? xstrdup(ids_folder.text) : NULL;
    coco.folder = xstrdup(data);
    coco.split = xstrdup(split);
    coco_place_foreign(&coco);
    if (panoptic) { coco_derive(&coco); }
    return coco;
}

void coco_want_segments(const Coco *coco) {
    bool any = false;
    for (int i = 0; i < coco->segment_count && !any; i++) { any = coco->segments[i].form != SEGMENT_NO_MASK; }
    if (coco->annotated && !any) {
        die("%s: none of its annotations can be used: %s", coco->path, left_out_text(coco->left_out));
    }
}

void coco_want_exhaustive(const Coco *coco, double absent) {
    if (absent == 0 || !coco->federated) { return; }
    die("%s: field \"neg_category_ids\" or \"not_exhaustive_category_ids\", as in LVIS: a class without an annotation "
        "may still be in the picture, expected no --absent",
        coco->path);
}

void coco_say(const Coco *coco) {
    left_out_say(coco->left_out, coco->path, "left out");
    left_out_say(coco->computed, coco->path, "computed from the mask, since they are wrong in the file");
}

void coco_put_left_out(const Coco *coco, yajl_gen gen) {
    left_out_put(coco->left_out, gen, "left_out");
    left_out_put(coco->computed, gen, "computed");
    left_out_put(coco->texts_left_out, gen, "texts_left_out");
}

void coco_free(Coco *coco) {
    if (coco->path) { coco_say(coco); }
    left_out_free(coco->left_out);
    left_out_free(coco->computed);
    left_out_free(coco->texts_left_out);
    for (void **block = coco->names, **before; block; block = before) {
        before = *block;
        free(block);
    }
    free(coco->path);
    free(coco->pictures_folder);
    free(coco->ids_folder);
    free(coco->folder);
    free(coco->split);
    free(coco->categories);
    free(coco->pictures);
    free(coco->segments);
    free(coco->pool);
    *coco = (Coco){0};
}

const char **coco_class_names(const Coco *coco) {
    const char **names = xcalloc((size_t)coco->category_count + 1, sizeof *names);
    for (int c = 0; c < coco->category_count; c++) { names[c] = coco->categories[c].name; }
    return names;
}

int *coco_shuffled(const Coco *coco, Random random) {
    int *order = xcalloc((size_t)coco->picture_count + 1, sizeof *order);
    for (int i = 0; i < coco->picture_count; i++) {
        int k = (int)random_below(&random, (uint32_t)i + 1);
        order[i] = order[k];
        order[k] = i;
    }
    return order;
}

static const Coco *sorted_coco;
static int by_id(const void *a, const void *b) {
    int64_t x = sorted_coco->pictures[*(const int *)a].id, y = sorted_coco->pictures[*(const int *)b].id;
    return (x > y) - (x < y);
}

int *coco_by_id(const Coco *coco) {
    int *order = xcalloc((size_t)coco->picture_count + 1, sizeof *order);
    for (int i = 0; i < coco->picture_count; i++) { order[i] = i; }
    sorted_coco = coco;
    qsort(order, (size_t)coco->picture_count, sizeof *order, by_id);
    return order;
}

int coco_find_picture(const Coco *coco, const int *by_id, int64_t id) {
    int low = 0, high = coco->picture_count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (coco->pictures[by_id[middle]].id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < coco->picture_count && coco->pictures[by_id[low]].id == id ? by_id[low] : -1;
}

const char *coco_picture_name(const Coco *coco, int picture, char number[24]) {
    const Picture *p = &coco->pictures[picture];
    snprintf(number, 24, "%lld", (long long)p->id);
    return p->id_name ? p->id_name : number;
}

char *coco_segment_name(const Coco *coco, const char *picture, const Segment *s) {
    const char *front = coco->panoptic ? picture : "", *slash = coco->panoptic ? "/" : "";
    if (s->id_name) { return xprintf("%s%s%s", front, slash, s->id_name); }
    return xprintf("%s%s%lld", front, slash, (long long)s->id);
}

static const char unreadable[] = "pictures that cannot be read";

void coco_unreadable(const Coco *coco, int picture, const char *why) {
    char number[24];
    left_out_once(coco->left_out, unreadable, coco_picture_name(coco, picture, number), why);
}

uint32_t *coco_try_segment_ids(const Coco *coco, int picture, char **why) {
    const Picture *p = &coco->pictures[picture];
    *why = NULL;
    if (!coco->ids_folder || !p->ids_name) { return NULL; }
    char *path = coco_ids_path(coco, picture);
    Image png = image_try_load(path, 3, why);
    if (!*why && (png.width != p->width || png.height != p->height)) {
        *why = xprintf("%s: is %d x %d pixels, expected %d x %d as in %s", path, png.width, png.height, p->width,
                       p->height, coco->path);
    }
    free(path);
    uint32_t *ids = NULL;
    size_t count = (size_t)p->width * (size_t)p->height;
    if (!*why) { ids = xmalloc(count * sizeof *ids); }
    for (size_t i = 0; ids && i < count; i++) {
        ids[i] = png.pixels[3 * i] | (uint32_t)png.pixels[3 * i + 1] << 8 | (uint32_t)png.pixels[3 * i + 2] << 16;
    }
    image_free(&png);
    return ids;
}

uint32_t *coco_segment_ids(const Coco *coco, int picture) {
    char *why;
    uint32_t *ids = coco_try_segment_ids(coco, picture, &why);
    if (why) { die("%s", why); }
    return ids;
}

Image coco_load_picture(const Coco *coco, int picture, char **why) {
    const Picture *p = &coco->pictures[picture];
    char *path = coco_picture_path(coco, picture);
    Image image = image_try_load(path, 3, why);
    if (!*why && (image.width != p->width || image.height != p->height)) {
        int width = image.width, height = image.height;
        image_upright(&image);
        if (image.width != p->width || image.height != p->height) {
            *why = xprintf("%s: is %d x %d pixels, expected %d x %d as in %s", path, width, height, p->width, p->height,
                           coco->path);
            image_free(&image);
        }
    }
    free(path);
    return image;
}

Runs coco_polygon_runs(const Coco *coco, const Picture *p, const Segment *segment) {
    const int32_t *data = coco->pool + segment->data;
    Runs runs = {0};
    int polygons = *data++;
    for (int i = 0; i < polygons; i++) {
        int n = *data++;
        double *points = xmalloc((size_t)n * sizeof *points);
        if (segment->exact) {
            memcpy(points, data, (size_t)n * sizeof *points);
            data += 2 * n;
        } else {
            for (int j = 0; j < n; j++) { points[j] = *data++ / 100.0; }
        }
        polygon_runs(points, n / 2, p->width, p->height, &runs);
        free(points);
    }
    return runs;
}

void coco_add_mask(const Coco *coco, int picture, const Segment *segment, const uint32_t *ids, uint8_t *mask) {
    const Picture *p = &coco->pictures[picture];
    if (segment->form == SEGMENT_POLYGONS) {
        Runs runs = coco_polygon_runs(coco, p, segment);
        runs_fill(&runs, p->width, p->height, mask);
        free(runs.list);
    } else if (segment->form == SEGMENT_RLE) {
        const int32_t *data = coco->pool + segment->data;
        rle_fill(data + 3, data[2], p->width, p->height, mask);
    } else if (segment->form == SEGMENT_PANOPTIC && ids) {
        size_t count = (size_t)p->width * (size_t)p->height;
        for (size_t i = 0; i < count; i++) { mask[i] |= ids[i] == segment->id; }
    }
}

uint8_t *coco_class_mask(const Coco *coco, int picture, int category, const uint32_t *ids) {
    const Picture *p = &coco->pictures[picture];
    size_t count = (size_t)p->width * (size_t)p->height;
    uint8_t *mask = xcalloc(count, 1), *crowd = xcalloc(count, 1);
    for (int i = 0; i < p->count; i++) {
        const Segment *s = &coco->segments[p->first_segment + i];
        if (s->category == category) { coco_add_mask(coco, picture, s, ids, s->crowd ? crowd : mask); }
    }
    for (size_t i = 0; i < count; i++) {
        if (!mask[i] && crowd[i]) { mask[i] = MASK_IGNORE; }
    }
    free(crowd);
    return mask;
}
