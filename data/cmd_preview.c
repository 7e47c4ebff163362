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

static void shown_free(Shown *s) {
    sample_free(&s->sample);
    image_free(&s->mask);
    image_free(&s->target);
    free(s->text);
    free(s->note);
    free(s->crop);
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

// Goes through the pictures in random order until `count` samples are found; returns how many were.
static int collect(const Coco *coco, const SampleOptions *options, int pass, const Paint *paint, bool overlay,
                   Shown *shown, int count) {
    int *order = coco_shuffled(coco, random_begin(options->seed, PHILOX_SHUFFLE, 0, 0)), found = 0;
    long long dropped[SAMPLE_REASONS] = {0};
    for (int i = 0; i < coco->picture_count && found < count; i++) {
        Sample s;
        SampleReason reason = sample_make(coco, options, order[i], (uint32_t)pass, &s);
        dropped[reason]++;
        if (reason == SAMPLE_OK) {
            shown[found++] = show(coco, &s, paint, overlay);
        } else {
            sample_free(&s);
        }
    }
    for (int r = SAMPLE_OK + 1; r < SAMPLE_REASONS; r++) {
        if (dropped[r]) { fprintf(stderr, "passed over %lld pictures: %s\n", dropped[r], sample_reason_names[r]); }
    }
    free(order);
    return found;
}

typedef struct {
    char *data, *split, *source, *classes, *target, *out, *folder, *color;
    int count, size, cell, pass, minimum_side;
    long long seed;
    double absent, alpha, outline;
} Options;

static Options parse_options(int argc, char **argv) {
    static Options o = {.split = "train2017", .source = "auto", .classes = "all-things", .target = "overlay"};
    o.color = "white", o.count = 12, o.size = 512, o.cell = 200, o.minimum_side = 300, o.seed = 2024, o.alpha = 1;
    struct poptOption table[] = {
        {"data", 0, OPT_TEXT, &o.data, 0, "folder of the data set, in COCO's layout", "DIR"},
        {"split", 0, OPT_STRING, &o.split, 0, "train2017, val2017 or whatever the split is called", "NAME"},
        {"source", 0, OPT_STRING, &o.source, 0, "annotations: auto (instances if there), instances, panoptic", "KIND"},
        {"classes", 0, OPT_STRING, &o.classes, 0, CLASSES_HELP, "LIST"},
        {"count", 0, OPT_INT, &o.count, 0, "number of samples", "N"},
        {"out", 0, OPT_TEXT, &o.out, 0, "the contact sheet to write (.png or .jpg)", "FILE"},
        {"dump", 0, OPT_TEXT, &o.folder, 0, "also write every picture and samples.json into this folder", "DIR"},
        {"size", 0, OPT_INT, &o.size, 0, "training resolution", "PIXELS"},
        {"cell", 0, OPT_INT, &o.cell, 0, "side of a picture on the sheet", "PIXELS"},
        {"target", 0, OPT_STRING, &o.target, 0, "overlay or mask", "KIND"},
        {"color", 0, OPT_STRING, &o.color, 0, "of the painted mask: a name, #rrggbb or R,G,B", "COLOR"},
        {"alpha", 0, OPT_DOUBLE, &o.alpha, 0, "opacity of the painted mask", "SHARE"},
        {"outline", 0, OPT_DOUBLE, &o.outline, 0, "line along the border, in pixels at 512 (the original's: 4)",
         "PIXELS"},
        {"absent", 0, OPT_DOUBLE, &o.absent, 0, "share of samples that ask for a class that is not there", "SHARE"},
        {"min-side", 0, OPT_INT, &o.minimum_side, 0, "drop pictures with a shorter side", "PIXELS"},
        {"pass", 0, OPT_INT, &o.pass, 0, "which pass over the data: another one, other crops and classes", "N"},
        {"seed", 0, OPT_LONG, &o.seed, 0, "of order, crops and classes", "SEED"},
        OPTIONS_END};
    options_parse(argc, argv, table, "--data DIR --out FILE [OPTIONS]",
                  "Draws a contact sheet of training samples: picture, mask, target and text.", 0);
    options_require(o.data, "--data", "the folder of a data set");
    if (!o.folder) { options_require(o.out, "--out", "the contact sheet to write"); }
    options_range(o.count, "--count", 1, 1000);
    options_range(o.size, "--size", 8, 4096);
    options_range(o.cell, "--cell", 16, 1024);
    options_range(o.absent, "--absent", 0, 1);
    options_range(o.minimum_side, "--min-side", 1, 32768);
    options_range(o.pass, "--pass", 0, 1e9);
    return o;
}

int cmd_preview(int argc, char **argv) {
    static const char *const targets[] = {"overlay", "mask", NULL};
    Options o = parse_options(argc, argv);
    bool overlay = options_choice(o.target, "--target", targets) == 0;
    Paint paint = paint_parse(o.color, o.alpha, o.outline);
    Coco coco = coco_open(o.data, o.split, o.source);
    bool *allowed = classes_parse(&coco, "--classes", o.classes, NULL);
    SampleOptions options = {.allowed = allowed,
                             .seed = (uint64_t)o.seed,
                             .resolution = o.size,
                             .minimum_side = o.minimum_side,
                             .absent = o.absent};
    Shown *shown = xcalloc((size_t)o.count, sizeof *shown);
    int found = collect(&coco, &options, o.pass, &paint, overlay, shown, o.count);
    if (!found) { die("%s: no picture yields a sample (see --classes and --min-side)", coco.path); }
    if (o.out) { save_sheet(o.out, shown, found, o.cell); }
    if (o.folder) { dump(o.folder, &coco, shown, found); }
    for (int i = 0; i < found; i++) { shown_free(&shown[i]); }
    free(shown);
    free(allowed);
    coco_free(&coco);
    return 0;
}
