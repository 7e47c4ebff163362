// cocogold preview: a contact sheet of training samples.
#include "data/classes.h"
#include "data/coco.h"
#include "data/draw.h"
#include "data/paint.h"
#include "data/sample.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include "util/options.h"
#include "util/philox.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    Sample sample;
    Image mask, target;
    char *text, *note, *crop;
} Shown;

// A permutation of 0..count-1 (Fisher and Yates).
static int *shuffled(int count, uint64_t seed) {
    int *order = xcalloc((size_t)count + 1, sizeof *order);
    Random random = random_begin(seed, PHILOX_SHUFFLE, 0, 0);
    for (int i = 0; i < count; i++) {
        int j = (int)random_below(&random, (uint32_t)i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    return order;
}

static Shown show(const Coco *coco, const Sample *s, const Paint *paint, bool overlay) {
    int r = s->rgb.width;
    Shown shown = {.sample = *s};
    Paint exact = {.outline = 0};
    shown.mask = paint_mask(s->mask, r, r, &exact);
    for (int i = 0; i < r * r; i++) { // grey: left out of an evaluation
        if (s->ignore[i]) { memset(shown.mask.pixels + 3 * i, 96, 3); }
    }
    shown.target = overlay ? paint_overlay(&s->rgb, s->mask, paint) : paint_mask(s->mask, r, r, paint);
    shown.text = xprintf("“%s”%s", coco->categories[s->category].name, s->absent ? " (absent)" : "");
    shown.note = xprintf("%.*f%% of the crop", s->area < 0.01f ? 2 : 1, 100 * s->area);
    shown.crop = xprintf("%lld: %d px at %d, %d", (long long)s->image_id, s->side, s->x, s->y);
    return shown;
}

static void save_sheet(const char *path, const Shown *shown, int count, int cell) {
    static const char *const headings[] = {"picture", "mask", "target", "picture", "mask", "target"};
    int rows = (count + 1) / 2, columns = count > 1 ? 6 : 3;
    Cell *cells = xcalloc((size_t)rows * (size_t)columns, sizeof *cells);
    for (int i = 0; i < count; i++) {
        cells[3 * i + 0] = (Cell){&shown[i].sample.rgb, shown[i].text};
        cells[3 * i + 1] = (Cell){&shown[i].mask, shown[i].note};
        cells[3 * i + 2] = (Cell){&shown[i].target, shown[i].crop};
    }
    Image sheet = draw_sheet(NULL, headings, cells, rows, columns, cell);
    image_save(&sheet, path);
    image_free(&sheet);
    free(cells);
}

static void save_one(const char *folder, int64_t id, const char *what, const Image *image) {
    char *path = xprintf("%s/%lld_%s.png", folder, (long long)id, what);
    image_save(image, path);
    free(path);
}

// Single pictures of every sample, and samples.json with what was drawn.
static void dump(const char *folder, const Coco *coco, const Shown *shown, int count) {
    make_folders(folder);
    yajl_gen g = json_writer();
    yajl_gen_array_open(g);
    for (int i = 0; i < count; i++) {
        const Sample *s = &shown[i].sample;
        yajl_gen_map_open(g);
        json_put_integer(g, "image_id", s->image_id);
        json_put_string(g, "class", coco->categories[s->category].name);
        json_put_integers(g, "crop", (int[]){s->x, s->y, s->side}, 3);
        json_put_number(g, "area", s->area);
        json_put_boolean(g, "absent", s->absent);
        yajl_gen_map_close(g);
        save_one(folder, s->image_id, "image", &s->rgb);
        save_one(folder, s->image_id, "mask", &shown[i].mask);
        save_one(folder, s->image_id, "target", &shown[i].target);
    }
    yajl_gen_array_close(g);
    char *path = xprintf("%s/samples.json", folder);
    json_write(g, path);
    free(path);
}

int cmd_preview(int argc, char **argv) {
    char *data = NULL, *split = "train2017", *source = "auto", *classes = "all-things", *target = "overlay";
    char *out = NULL, *folder = NULL, *color = "white";
    int count = 12, size = 512, cell = 200, pass = 0, minimum_side = 300;
    long long seed = 2024;
    double absent = 0, alpha = 1, outline = 0;
    struct poptOption table[] = {
        {"data", 0, OPT_STRING, &data, 0, "folder of the data set, in COCO's layout", "DIR"},
        {"split", 0, OPT_STRING, &split, 0, "train2017, val2017 or whatever the split is called", "NAME"},
        {"source", 0, OPT_STRING, &source, 0, "annotations: auto (instances if there), instances, panoptic", "KIND"},
        {"classes", 0, OPT_STRING, &classes, 0, CLASSES_HELP, "LIST"},
        {"count", 0, OPT_INT, &count, 0, "number of samples", "N"},
        {"out", 0, OPT_STRING, &out, 0, "the contact sheet to write (.png or .jpg)", "FILE"},
        {"dump", 0, OPT_STRING, &folder, 0, "also write every picture and samples.json into this folder", "DIR"},
        {"size", 0, OPT_INT, &size, 0, "training resolution", "PIXELS"},
        {"cell", 0, OPT_INT, &cell, 0, "side of a picture on the sheet", "PIXELS"},
        {"target", 0, OPT_STRING, &target, 0, "overlay or mask", "KIND"},
        {"color", 0, OPT_STRING, &color, 0, "of the painted mask: a name, #rrggbb or R,G,B", "COLOR"},
        {"alpha", 0, OPT_DOUBLE, &alpha, 0, "opacity of the painted mask", "SHARE"},
        {"outline", 0, OPT_DOUBLE, &outline, 0, "line along the mask's border, pixels at 512 (the original's: 4)",
         "PIXELS"},
        {"absent", 0, OPT_DOUBLE, &absent, 0, "share of samples that ask for a class that is not there", "SHARE"},
        {"min-side", 0, OPT_INT, &minimum_side, 0, "drop pictures with a shorter side", "PIXELS"},
        {"pass", 0, OPT_INT, &pass, 0, "which pass over the data: another one, other crops and classes", "N"},
        {"seed", 0, OPT_LONG, &seed, 0, "of order, crops and classes", "SEED"},
        OPTIONS_END};
    options_parse(argc, argv, table, "--data DIR --out FILE [OPTIONS]",
                  "Draws a contact sheet of training samples: picture, mask, target and text.", 0);
    static const char *const targets[] = {"overlay", "mask", NULL};
    options_require(data, "--data", "the folder of a data set");
    if (!folder) { options_require(out, "--out", "the contact sheet to write"); }
    options_range(count, "--count", 1, 100000);
    options_range(size, "--size", 8, 4096);
    options_range(cell, "--cell", 16, 2048);
    options_range(absent, "--absent", 0, 1);
    options_range(minimum_side, "--min-side", 1, 32768);
    options_range(pass, "--pass", 0, 1e9);
    bool overlay = options_choice(target, "--target", targets) == 0;
    Paint paint = paint_parse(color, alpha, outline);
    Coco coco = coco_open(data, split, source);
    SampleOptions options = {.allowed = classes_parse(&coco, classes, NULL),
                             .seed = (uint64_t)seed,
                             .resolution = size,
                             .minimum_side = minimum_side,
                             .absent = absent};
    Shown *shown = xcalloc((size_t)count, sizeof *shown);
    int *order = shuffled(coco.picture_count, (uint64_t)seed), found = 0;
    long long dropped[SAMPLE_REASONS] = {0};
    for (int i = 0; i < coco.picture_count && found < count; i++) {
        Sample s;
        SampleReason reason = sample_make(&coco, &options, order[i], (uint32_t)pass, &s);
        dropped[reason]++;
        if (reason == SAMPLE_OK) {
            shown[found++] = show(&coco, &s, &paint, overlay);
        } else {
            sample_free(&s);
        }
    }
    for (int r = SAMPLE_OK + 1; r < SAMPLE_REASONS; r++) {
        if (dropped[r]) {
            fprintf(stderr, "preview: passed over %lld pictures: %s\n", dropped[r], sample_reason_names[r]);
        }
    }
    if (!found) { die("%s: no picture yields a sample (see --classes and --min-side)", coco.path); }
    if (out) { save_sheet(out, shown, found, cell); }
    if (folder) { dump(folder, &coco, shown, found); }
    for (int i = 0; i < found; i++) {
        sample_free(&shown[i].sample);
        image_free(&shown[i].mask);
        image_free(&shown[i].target);
        free(shown[i].text);
        free(shown[i].note);
        free(shown[i].crop);
    }
    free(shown);
    free(order);
    free((void *)options.allowed);
    coco_free(&coco);
    return 0;
}
