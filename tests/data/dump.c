// Not a test itself: prints what the Python reference tests compare (tests/reference/test_data_*.py).
//
//     dump masks FILE.json [FOLDER]     per segment: id, category, picture id, pixels, runs of the mask in row order
//     dump resize IN OUT X Y W H WIDTH HEIGHT FILTER
//     dump upright IN OUT               the picture turned as its EXIF orientation says
//     dump shapes FILE.json             per segment: id, area, bbox as the program takes them
//     dump shrink X Y W H WIDTH HEIGHT MASK_WIDTH MASK_HEIGHT   0/1 bytes on stdin, 0/1 bytes on stdout
//     dump plan DATA SPLIT SOURCE CLASSES SEED PASSES MINIMUM_SIDE ABSENT
#include "data/classes.h"
#include "data/coco.h"
#include "data/image.h"
#include "data/sample.h"
#include "util/error.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_runs(const uint8_t *mask, size_t count) {
    size_t begin = 0;
    uint8_t value = 0;
    for (size_t i = 0; i <= count; i++) {
        if (i < count && mask[i] == value) { continue; }
        printf(" %zu", i - begin);
        begin = i;
        value = !value;
    }
    printf("\n");
}

static int masks(int argc, char **argv) {
    Coco coco = coco_read(argv[2], argc > 3);
    coco.ids_folder = argc > 3 ? xstrdup(argv[3]) : NULL;
    for (int p = 0; p < coco.picture_count; p++) {
        const Picture *picture = &coco.pictures[p];
        size_t count = (size_t)picture->width * (size_t)picture->height;
        uint32_t *ids = coco_segment_ids(&coco, p);
        for (int i = 0; i < picture->count; i++) {
            const Segment *s = &coco.segments[picture->first_segment + i];
            uint8_t *mask = xcalloc(count, 1);
            coco_add_mask(&coco, p, s, ids, mask);
            printf("%lld %lld %lld", (long long)s->id, (long long)coco.categories[s->category].id,
                   (long long)picture->id);
            print_runs(mask, count);
            free(mask);
        }
        free(ids);
    }
    coco_free(&coco);
    return 0;
}

static int resize(char **argv) {
    Image in = image_load(argv[2], 3);
    Filter filter = strcmp(argv[10], "lanczos") == 0    ? FILTER_LANCZOS
                    : strcmp(argv[10], "bilinear") == 0 ? FILTER_BILINEAR
                                                        : FILTER_BOX;
    Image out = image_resize(&in, atof(argv[4]), atof(argv[5]), atof(argv[6]), atof(argv[7]), atoi(argv[8]),
                             atoi(argv[9]), filter);
    image_save(&out, argv[3]);
    return 0;
}

static int upright(char **argv) {
    Image image = image_load(argv[2], 3);
    image_upright(&image);
    image_save(&image, argv[3]);
    image_free(&image);
    return 0;
}

static int shapes(char **argv) {
    Coco coco = coco_read(argv[2], false);
    for (int i = 0; i < coco.segment_count; i++) {
        const Segment *s = &coco.segments[i];
        printf("%lld %.17g %.17g %.17g %.17g %.17g\n", (long long)s->id, s->area, s->bbox[0], s->bbox[1], s->bbox[2],
               s->bbox[3]);
    }
    coco_free(&coco);
    return 0;
}

static int shrink(char **argv) {
    int width = atoi(argv[6]), height = atoi(argv[7]), mask_width = atoi(argv[8]), mask_height = atoi(argv[9]);
    uint8_t *mask = xcalloc((size_t)mask_width, (size_t)mask_height), *out = xcalloc((size_t)width, (size_t)height);
    if (fread(mask, (size_t)mask_width, (size_t)mask_height, stdin) != (size_t)mask_height) { die("stdin: too short"); }
    mask_resize(mask, mask_width, mask_height, atof(argv[2]), atof(argv[3]), atof(argv[4]), atof(argv[5]), out, width,
                height);
    fwrite(out, (size_t)width, (size_t)height, stdout);
    return 0;
}

static int plan(char **argv) {
    Coco coco = coco_open(argv[2], argv[3], argv[4]);
    SampleOptions options = {.allowed = classes_parse(&coco, "--classes", argv[5], NULL),
                             .seed = strtoull(argv[6], NULL, 10),
                             .resolution = 64,
                             .minimum_side = atoi(argv[8]),
                             .absent = atof(argv[9])};
    for (int pass = 0; pass < atoi(argv[7]); pass++) {
        for (int p = 0; p < coco.picture_count; p++) {
            Sample s;
            SampleReason reason = sample_plan(&coco, &options, p, (uint32_t)pass, &s);
            const char *name = reason == SAMPLE_OK ? coco.categories[s.category].name : "-";
            printf("%d\t%lld\t%s\t%s\t%d\t%d\t%d\t%d\t", pass, (long long)s.image_id, sample_reason_names[reason], name,
                   s.x, s.y, s.side, s.absent);
            for (int i = 0; reason == SAMPLE_OK && i < coco.pictures[p].count; i++) { putchar('0' + s.valid[i]); }
            putchar('\n');
            sample_free(&s);
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[1], "masks") == 0) { return masks(argc, argv); }
    if (argc == 4 && strcmp(argv[1], "upright") == 0) { return upright(argv); }
    if (argc == 3 && strcmp(argv[1], "shapes") == 0) { return shapes(argv); }
    if (argc == 11 && strcmp(argv[1], "resize") == 0) { return resize(argv); }
    if (argc == 10 && strcmp(argv[1], "shrink") == 0) { return shrink(argv); }
    if (argc == 10 && strcmp(argv[1], "plan") == 0) { return plan(argv); }
    die("dump: unknown arguments (see tests/data/dump.c)");
}
