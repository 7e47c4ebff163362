// cocogold preview: a contact sheet of training samples.
#include "data/classes.h"
#include "data/coco.h"
#include "data/draw.h"
#include "data/paint.h"
#include "data/sample.h"
#include "data/shard.h"
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

static Shown show(const Coco *coco, const SampleOptions *options, const Sample *s, const Paint *paint, bool overlay) {
    int r = s->rgb.width;
    Shown shown = {.sample = *s};
    Paint exact = {.outline = 0};
    shown.mask = paint_mask(s->mask, r, r, &exact);
    uint8_t *unpainted = sample_unpainted(coco, options, s);
    for (int i = 0; i < r * r; i++) { // grey: of the class, but background in training and to `eval --protocol crops`
        if (unpainted[i]) { memset(shown.mask.pixels + 3 * i, 96, 3); }
    }
    free(unpainted);
    shown.target = overlay ? paint_overlay(&s->rgb, s->mask, paint) : paint_mask(s->mask, r, r, paint);
    shown.text =
        xprintf("“%s”%s", s->text ? s->text : coco->categories[s->category].name, s->absent ? " (absent)" : "");
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
    Image sheet = draw_sheet(headings, cells, rows, columns, cell);
    image_save(&sheet, path);
    image_free(&sheet);
    free(cells);
}

static void save_one(const char *folder, int64_t id, const char *what, const Image *image) {
    image_save(image, path_of("%s/%lld_%s.png", folder, (long long)id, what).text);
}

// Writes every sample's pictures as files, and samples.json with what was drawn.
static void dump(const char *folder, const Coco *coco, const Shown *shown, int count) {
    make_folders(folder);
    yajl_gen g = json_writer();
    yajl_gen_array_open(g);
    for (int i = 0; i < count; i++) {
        const Sample *s = &shown[i].sample;
        yajl_gen_map_open(g);
        json_put_integer(g, "image_id", s->image_id);
        json_put_string(g, "class", s->category >= 0 ? coco->categories[s->category].name : NULL);
        if (s->text) { json_put_string(g, "text", s->text); }
        json_put_integers(g, "crop", (int[]){s->x, s->y, s->side}, 3);
        json_put_number(g, "area", s->area);
        json_put_boolean(g, "absent", s->absent);
        yajl_gen_map_close(g);
        save_one(folder, s->image_id, "image", &s->rgb);
        save_one(folder, s->image_id, "mask", &shown[i].mask);
        save_one(folder, s->image_id, "target", &shown[i].target);
    }
    yajl_gen_array_close(g);
    json_write(g, path_of("%s/samples.json", folder).text);
}

// Goes through the pictures in random order until `count` samples are found; returns the number found.
static int collect(const Coco *coco, const SampleOptions *options, int pass, const Paint *paint, bool overlay,
                   Shown *shown, int count) {
    int *order = coco_shuffled(coco, random_begin(options->seed, PHILOX_SHUFFLE, 0, 0)), found = 0;
    long long dropped[SAMPLE_REASONS] = {0};
    for (int i = 0; i < coco->picture_count && found < count; i++) {
        Sample s;
        SampleReason reason = sample_make(coco, options, order[i], (uint32_t)pass, &s);
        dropped[reason]++;
        if (reason == SAMPLE_OK) {
            shown[found++] = show(coco, options, &s, paint, overlay);
        } else {
            sample_free(&s);
        }
    }
    for (int r = SAMPLE_OK + 1; r < SAMPLE_REASONS; r++) {
        if (dropped[r]) { fprintf(stderr, "skipped %lld pictures: %s\n", dropped[r], sample_reason_names[r]); }
    }
    free(order);
    return found;
}

typedef struct {
    char *data, *split, *source, *classes, *target, *out, *folder, *color;
    char *texts;
    int count, size, cell, pass, minimum_side, target_index, text_index;
    long long seed;
    double absent, alpha, outline;
} Options;

static const char *const text_names[] = {"names", "phrases", NULL};

static Options parse_options(int argc, char **argv) {
    static Options o = {.split = "train2017", .source = "auto", .classes = "all-things", .target = "overlay"};
    o.color = "white", o.texts = "names", o.count = 12, o.size = 512, o.cell = 200, o.minimum_side = 300, o.seed = 2024,
    o.alpha = 1;
    Option table[] = {
        {OPT_HEADING, "Input and output"},
        DATA_ROWS(&o.data),
        {OPT_STRING, "split", &o.split, "name of the split, e.g. train2017 or val2017", "NAME"},
        SOURCE_ROWS(&o.source),
        MAX_PIXELS_ROWS,
        {OPT_STRING, "out", &o.out, "the contact sheet to write (.png or .jpg)", "FILE"},
        {OPT_STRING, "dump", &o.folder, "also write every picture and samples.json into this folder", "DIR"},
        {OPT_INT, "count", &o.count, "number of samples", "N", .low = 1, .high = 1000},
        {OPT_INT, "cell", &o.cell, "side of a picture on the sheet", "PIXELS", .low = 16, .high = 1024},
        {OPT_HEADING, "Samples"},
        {OPT_STRING, "classes", &o.classes, "classes to draw samples of: " CLASSES_HELP, "LIST"},
        {OPT_STRING, "texts", &o.texts, "ask with names of classes, or with phrases of refs_SPLIT.json", "KIND",
         .choices = text_names, .choice = &o.text_index},
        {OPT_INT, "size", &o.size, "training resolution", "PIXELS", .low = 8, .high = 4096},
        {OPT_STRING, "target", &o.target, "target that training draws", "KIND", .choices = target_names,
         .choice = &o.target_index},
        PAINT_ROWS(&o.color, &o.alpha, &o.outline),
        SAMPLE_ROWS(&o.absent, &o.minimum_side),
        {OPT_INT, "pass", &o.pass, "number of the pass over the data; every pass has other crops", "N", .high = 1e9},
        {OPT_LONG, "seed", &o.seed, "seed of the order, the crops and the classes", "SEED"},
        OPTIONS_END};
    static const OptionsHelp help = {.about =
                                         "Draws a contact sheet of training samples: picture, mask, target and text.",
                                     .usage = "--data DIR --out FILE [OPTIONS]",
                                     .example = "--data coco --split val2017 --out samples.jpg"};
    options_parse(argc, argv, table, &help, 0);
    if (!o.folder) { options_require(o.out, "--out", "the contact sheet to write"); }
    return o;
}

int cmd_preview(int argc, char **argv) {
    Options o = parse_options(argc, argv);
    if (o.out) {
        image_want_name(o.out);
        want_output("--out", o.out);
    }
    if (o.folder) { want_folder(o.folder); }
    Paint paint = paint_parse(o.color, o.alpha, o.outline);
    Coco coco = coco_open(o.data, o.split, o.source);
    coco_want_segments(&coco);
    coco_want_exhaustive(&coco, o.absent);
    bool *allowed = classes_parse(&coco, "--classes", o.classes, NULL);
    SampleOptions options = {.allowed = allowed,
                             .seed = (uint64_t)o.seed,
                             .resolution = o.size,
                             .minimum_side = o.minimum_side,
                             .absent = o.absent,
                             .skip_damaged = true};
    Phrases phrases = {0};
    if (o.text_index) {
        phrases = phrases_open(&coco, false);
        options.phrases = &phrases;
    }
    Shown *shown = xcalloc((size_t)o.count, sizeof *shown);
    int found = collect(&coco, &options, o.pass, &paint, o.target_index == 0, shown, o.count);
    if (!found) { coco_say(&coco); }
    if (!found) { die("%s: no picture yields a sample (see --classes and --min-side)", coco.path); }
    if (o.out) { save_sheet(o.out, shown, found, o.cell); }
    if (o.folder) { dump(o.folder, &coco, shown, found); }
    for (int i = 0; i < found; i++) { shown_free(&shown[i]); }
    free(shown);
    free(allowed);
    phrases_free(&phrases);
    coco_free(&coco);
    return 0;
}
