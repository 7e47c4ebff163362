#include "data/classes.h"
#include "data/coco.h"
#include "data/image.h"
#include "data/segmentation.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>
#include "tests/data/folder.h"
#include "tests/dies.h"

// Annotations before what they refer to, unknown fields of every shape, both number formats, null for missing.
static const char instances[] =
    "{\"info\": {\"a\": [1, [2, {\"id\": 3}]]}, \"annotations\": [\n"
    " {\"id\": 7, \"image_id\": 20, \"category_id\": 3, \"bbox\": [1, 1, 2.5, 2e0], \"area\": 4.0, \"iscrowd\": 0,\n"
    "  \"extra\": [[1], {\"bbox\": [9]}, null, true], \"segmentation\": [[1, 1, 3, 1, 3, 3, 1, 3], [4, 0, 5, 0, 5, 1, "
    "4, 1]]},\n"
    " {\"id\": 8, \"image_id\": 10, \"category_id\": 1, \"bbox\": [0, 0, 1, 1], \"area\": 1,\n"
    "  \"segmentation\": [[0.125, 0, 2.0000001, 0, 2, 3]]},\n"
    " {\"id\": 9, \"image_id\": 20, \"category_id\": 3, \"bbox\": [0, 0, 6, 4], \"area\": 5, \"iscrowd\": 1,\n"
    "  \"segmentation\": {\"size\": [4, 6], \"counts\": [2, 5, 17]}},\n"
    " {\"id\": 6, \"image_id\": 20, \"category_id\": 1, \"bbox\": [0, 0, 6, 4], \"area\": 5, \"iscrowd\": false,\n"
    "  \"segmentation\": {\"size\": [4, 6], \"counts\": \"25a0\", \"note\": [3]}}],\n"
    " \"images\": [{\"id\": 20, \"file_name\": \"b.png\", \"width\": 6, \"height\": 4},\n"
    "  {\"id\": 10, \"file_name\": \"a.png\", \"width\": 3, \"height\": 5, \"date\": null}],\n"
    " \"categories\": [{\"id\": 3, \"name\": \"dog\"}, {\"id\": 1, \"name\": \"hot \\\"dog\\\"\", \"isthing\": 0}]}\n";

static void test_instances(void **state) {
    (void)state;
    Coco c = coco_read(write_text("i.json", instances), false);
    assert_int_equal(c.category_count, 2);
    assert_string_equal(c.categories[1].name, "hot \"dog\"");
    assert_true(c.categories[0].thing && !c.categories[1].thing);
    assert_int_equal(c.picture_count, 2);
    assert_int_equal(c.pictures[0].count, 3);
    assert_int_equal(c.pictures[1].count, 1);
    const Segment *s = c.segments;
    assert_int_equal(s[0].id, 7); // each picture's in the file's order
    assert_int_equal(s[1].id, 9);
    assert_int_equal(s[2].id, 6);
    assert_int_equal(s[3].id, 8);
    assert_true(s[0].bbox[2] == 2.5 && s[0].bbox[3] == 2 && s[0].area == 4);
    assert_true(s[1].crowd && !s[2].crowd && !s[3].crowd);
    assert_true(!s[0].exact && s[3].exact);
    uint8_t mask[24] = {0};
    coco_add_mask(&c, 0, &s[0], NULL, mask);
    const uint8_t squares[24] = {0, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0};
    assert_memory_equal(mask, squares, 24);
    uint8_t *class_mask = coco_class_mask(&c, 0, 0, NULL); // crowd pixels 2..6 down the columns
    int count[256] = {0};
    for (int i = 0; i < 24; i++) { count[class_mask[i]]++; }
    printf("object %d, ignored %d pixels\n", count[MASK_OBJECT], count[MASK_IGNORE]);
    assert_int_equal(count[MASK_OBJECT], 5);
    assert_int_equal(count[MASK_IGNORE], 3); // two of the five lie on the object
    free(class_mask);
    coco_free(&c);
}

static void test_rle_text(void **state) {
    (void)state;
    int count;
    int32_t *runs = rle_from_text("25a0", 4, &count); // 2, 5, 17
    assert_int_equal(count, 3);
    assert_true(runs[0] == 2 && runs[1] == 5 && runs[2] == 17);
    free(runs);
    runs = rle_from_text("3X17jNmk0O[UO", 13, &count); // long ones, and differences of both signs
    const int32_t expected_runs[7] = {3, 40, 7, 2, 900, 1, 47};
    assert_int_equal(count, 7);
    assert_memory_equal(runs, expected_runs, sizeof expected_runs);
    free(runs);
    assert_null(rle_from_text("/0", 2, &count));
    assert_null(rle_from_text("a", 1, &count));         // goes on, but ends
    assert_null(rle_from_text(" ", 1, &count));         // no such character
    assert_null(rle_from_text("oooooooo0", 9, &count)); // too long
    assert_null(rle_from_text("O", 1, &count));         // a negative run
    uint8_t mask[6] = {0};
    rle_fill((const int32_t[]){1, 100}, 2, 3, 2, mask); // cut at the end
    const uint8_t expected[6] = {0, 1, 1, 1, 1, 1};
    assert_memory_equal(mask, expected, 6);
}

static const char panoptic[] =
    "{\"images\": [{\"id\": 5, \"file_name\": \"p.jpg\", \"width\": 2, \"height\": 2},"
    " {\"id\": 6, \"file_name\": \"q.jpg\", \"width\": 2, \"height\": 2}], \"annotations\": [{\"segments_info\": ["
    "{\"id\": 66051, \"category_id\": 1, \"bbox\": [0, 0, 1, 2], \"area\": 2, \"iscrowd\": 0},"
    "{\"id\": 9, \"category_id\": 2, \"bbox\": [1, 0, 1, 1], \"area\": 1, \"iscrowd\": 0}],"
    " \"file_name\": \"p.png\", \"image_id\": 5}], \"categories\": [{\"id\": 1, \"name\": \"sky\", \"isthing\": 0},"
    " {\"id\": 2, \"name\": \"kite\", \"isthing\": 1}]}";

static void make_dataset(void) {
    make_folders(in_folder("set/annotations/panoptic_x"));
    make_folders(in_folder("set/images/x"));
    write_text("set/annotations/panoptic_x.json", panoptic);
    Image ids = image_new(2, 2, 3);
    const uint8_t pixels[12] = {3, 2, 1, 9, 0, 0, 3, 2, 1, 0, 0, 0}; // 3 + 2 * 256 + 1 * 65536 = 66051
    memcpy(ids.pixels, pixels, 12);
    image_save(&ids, in_folder("set/annotations/panoptic_x/p.png"));
    image_free(&ids);
}

static void test_panoptic_folder(void **state) {
    (void)state;
    make_dataset();
    Coco c = coco_open(in_folder("set"), "x", "auto");
    assert_true(c.panoptic);
    assert_int_equal(c.pictures[0].count, 2);
    assert_int_equal(c.pictures[1].count, 0);
    uint32_t *ids = coco_segment_ids(&c, 0);
    assert_int_equal(ids[0], 66051);
    uint8_t mask[4] = {0};
    coco_add_mask(&c, 0, &c.segments[0], ids, mask);
    const uint8_t left[4] = {1, 0, 1, 0}, all[4] = {1, 1, 1, 0};
    assert_memory_equal(mask, left, 4);
    coco_add_mask(&c, 0, &c.segments[1], ids, mask); // union
    assert_memory_equal(mask, all, 4);
    assert_null(coco_segment_ids(&c, 1));
    free(ids);
    char *path = coco_picture_path(&c, 0);
    assert_string_equal(path, in_folder("set/images/x/p.jpg"));
    free(path);
    int count;
    free(classes_parse(&c, "--classes", "all-things", &count));
    assert_int_equal(count, 1);
    free(classes_parse(&c, "--classes", "all", &count));
    assert_int_equal(count, 2);
    bool *one = classes_parse(&c, "--classes", " kite ,", &count);
    assert_true(count == 1 && one[1] && !one[0]);
    free(one);
    char *from_file = xprintf("@%s", write_text("list.txt", "sky\r\n\n kite\n"));
    free(classes_parse(&c, "--classes", from_file, &count));
    assert_int_equal(count, 2);
    free(from_file);
    from_file = xprintf("@%s", write_text("bom.txt", "\xef\xbb\xbfsky \r\n"));
    free(classes_parse(&c, "--classes", from_file, &count));
    assert_int_equal(count, 1);
    free(from_file);
    from_file = xprintf("@%s", write_text("utf16.txt", "\xff\xfes"));
    assert_dies("utf16.txt: begins with the byte order mark (BOM) of UTF-16",
                classes_parse(&c, "--classes", from_file, NULL));
    free(from_file);
    assert_dies("class \"cat\" is not among the 2 categories", classes_parse(&c, "--classes", "kite,cat", NULL));
    assert_dies("--classes default14: class \"car\"", classes_parse(&c, "--classes", "default14", NULL));
    assert_dies("names no class", classes_parse(&c, "--classes", ",", NULL));
    assert_dies("cannot be opened", classes_parse(&c, "--classes", "@/no/such/file", NULL));
    coco_free(&c);
}

// The text with its first `from` replaced.
static const char *replaced(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    assert_non_null(at);
    char *out = xprintf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    const char *path = write_text("damaged.json", out);
    free(out);
    return path;
}

// A panoptic box that leaves the picture, at any side, becomes that of the pixels.
static void test_panoptic_leaving(void **state) {
    (void)state;
    static const char *const boxes[] = {"[-50, 0, 51, 2]", "[0, -50, 1, 52]", "[0, 0, 51, 2]", "[0, 0, 1, 52]"};
    make_dataset();
    for (int i = 0; i < 4; i++) {
        rename(replaced(panoptic, "[0, 0, 1, 2]", boxes[i]), in_folder("set/annotations/panoptic_x.json"));
        Coco c = coco_open(in_folder("set"), "x", "panoptic");
        const double *box = c.segments[0].bbox;
        printf("%s: %g %g %g %g\n", boxes[i], box[0], box[1], box[2], box[3]);
        assert_true(box[0] == 0 && box[1] == 0 && box[2] == 1 && box[3] == 2);
        coco_free(&c);
    }
}

static void test_damaged_folders(void **state) {
    (void)state;
    make_dataset();
    const char *set = in_folder("set");
    assert_dies("is not a folder", coco_open(in_folder("nowhere"), "x", "auto"));
    assert_dies("neither instances_y.json nor panoptic_y.json", coco_open(set, "y", "auto"));
    assert_dies("expected one of auto, instances, panoptic", coco_open(set, "x", "both"));
    assert_dies("instances_x.json: cannot be opened", coco_open(set, "x", "instances"));
    Image wrong = image_new(3, 2, 3);
    image_save(&wrong, in_folder("set/annotations/panoptic_x/p.png"));
    image_free(&wrong);
    Coco c = coco_open(set, "x", "panoptic");
    assert_dies("p.png: is 3 x 2 pixels, expected 2 x 2", coco_segment_ids(&c, 0));
    remove(in_folder("set/annotations/panoptic_x/p.png"));
    assert_dies("p.png: cannot be opened", coco_segment_ids(&c, 0));
    coco_free(&c);
    remove_tree(in_folder("set/annotations/panoptic_x"));
    assert_dies("panoptic_x: expected a folder", coco_open(set, "x", "auto"));
    remove_tree(in_folder("set/images/x"));
    make_folders(in_folder("set/annotations/panoptic_x"));
    assert_dies("neither the folder x nor images/x", coco_open(set, "x", "auto"));
}

// One change, and how many annotations of the file keep their masks, of 4 (0: dies with `expected`).
typedef struct {
    const char *from, *to;
    int stay;
    const char *expected; // the kind that is left out, with one id; NULL: none
} Change;

static void read_and_want(const char *path, bool is_panoptic) {
    Coco c = coco_read(path, is_panoptic);
    coco_want_segments(&c);
}

static int count_masks(const Coco *c) {
    int count = 0;
    for (int i = 0; i < c->segment_count; i++) { count += c->segments[i].form != SEGMENT_NO_MASK; }
    return count;
}

static void check_changes(const char *text, bool is_panoptic, const Change *changes, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const char *path = replaced(text, changes[i].from, changes[i].to), *expected = changes[i].expected;
        if (!changes[i].stay) {
            assert_dies(expected, read_and_want(path, is_panoptic));
            continue;
        }
        Coco c = coco_read(path, is_panoptic);
        printf("%s -> %s: %d stay\n", changes[i].from, changes[i].to, count_masks(&c));
        assert_int_equal(count_masks(&c), changes[i].stay);
        if (expected) { assert_int_equal(left_out_count(c.left_out, expected), 1); }
        assert_int_equal(left_out_any(c.left_out), expected != NULL);
        coco_free(&c);
    }
}

static void test_damaged_instances(void **state) {
    (void)state;
    static const char mask[] = "annotations with a damaged mask", none[] = "annotations without a mask",
                      picture[] = "annotations of pictures that are not there",
                      category[] = "annotations of categories that are not there",
                      no_name[] = "pictures without an id or a name", no_class[] = "categories without an id or a name",
                      ring[] = "annotations with polygons of fewer than three points or an odd number of coordinates, "
                               "which are left out";
    static const Change changes[] = {
        {"\"image_id\": 20", "\"image_id\": 99", 3, picture},
        {"\"image_id\": 20", "\"image_id\": \"20\"", 4, NULL},
        {"\"image_id\": 20", "\"image_id\": 20.0", 4, NULL},
        {"\"image_id\": 20,", "", 3, picture},
        {"\"category_id\": 3", "\"category_id\": 4", 3, category},
        {"\"category_id\": 3", "\"category_id\": 3.5", 3, category},
        {"\"category_id\": 3", "\"category_id\": null", 3, category},
        {"\"id\": 7, ", "\"id\": 7.5, ", 4, NULL},
        // fields of other objects
        {"\"id\": 7, ", "\"id\": 7, \"size\": \"small\", \"counts\": 3, \"name\": 7, \"width\": 33.25, ", 4, NULL},
        {"\"id\": 7, ", "\"id\": 7, \"file_name\": [], \"isthing\": {}, \"segments_info\": true, ", 4, NULL},
        {"\"id\": 20, ", "\"id\": 20, \"size\": 34567, \"segmentation\": [[7], {}], \"category_id\": \"\", ", 4, NULL},
        {"{\"id\": 3, ", "{\"id\": 3, \"size\": 5, \"width\": 1.5, \"image_id\": [], \"bbox\": 3, ", 4, NULL},
        {"\"size\": [4, 6], \"counts\": [2", "\"size\": [4, 6], \"id\": [], \"name\": 5, \"counts\": [2", 4, NULL},
        {"[1, 1, 2.5, 2e0]", "[1, 1, 2.5]", 4, NULL},
        {"[1, 1, 2.5, 2e0]", "[1, 1, 2.5, \"2\"]", 4, NULL},
        {"[1, 1, 2.5, 2e0]", "[1, 1, 2.5, null]", 4, NULL},
        {"[1, 1, 2.5, 2e0]", "{\"x\": 1}", 4, NULL},
        {"\"area\": 4.0", "\"area\": [4]", 4, NULL},
        {"\"area\": 4.0, ", "", 4, NULL},
        {"\"area\": 4.0", "\"area\": NaN", 4, NULL},
        {"\"area\": 4.0", "\"area\": -Infinity", 4, NULL},
        {"\"iscrowd\": 0", "\"iscrowd\": \"no\"", 4, NULL},
        {"[1, 1, 3, 1, 3, 3, 1, 3]", "[1, 1, 3, 1, 3]", 4, ring},
        {"[1, 1, 3, 1, 3, 3, 1, 3]", "[1, 1, 3, 1]", 4, ring},
        {"[1, 1, 3, 1, 3, 3, 1, 3]", "[]", 4, ring},
        {"[0.125, 0, 2.0000001, 0, 2, 3]", "[1, 1, 3, 1, 3]", 3, "annotations without a polygon of three points"},
        {"[1, 1, 3, 1, 3, 3, 1, 3]", "[1, 1, 3, 1, 3, 1e9]", 3, mask},
        {"[1, 1, 3, 1, 3, 3, 1, 3]", "[1, 1, 3, 1, 3, NaN]", 3, mask},
        {"[1, 1, 3, 1, 3, 3, 1, 3]", "1, 1, 3, 1, 3, 3", 3, mask},
        {"[1, 1, 3, 1, 3, 3, 1, 3]", "[1, 1, 3, 1, 3, \"3\"]", 3, mask},
        {"[1, 1, 3, 1, 3, 3, 1, 3]", "[[1, 1, 3, 1, 3, 3]]", 3, mask},
        {"[[1, 1, 3, 1, 3, 3, 1, 3]", "[{\"a\": 5}", 3, mask},
        {"[[1, 1, 3, 1, 3, 3, 1, 3]", "[[1, 1, 3, 1, 3, 3], {\"counts\": 5, \"a\": [7]}", 3, mask},
        {"[2, 5, 17]", "{\"a\": 24}", 3, mask},
        {"[[0.125, 0, 2.0000001, 0, 2, 3]]", "[]", 3, none},
        {"[[0.125, 0, 2.0000001, 0, 2, 3]]", "[[]]", 3, none},
        {"[[0.125, 0, 2.0000001, 0, 2, 3]]", "[[], []]", 3, none},
        {"[[0.125, 0, 2.0000001, 0, 2, 3]]", "null", 3, none},
        {"[[0.125, 0, 2.0000001, 0, 2, 3]]", "\"\"", 3, mask},
        {"[[0.125, 0, 2.0000001, 0, 2, 3]]", "7", 3, mask},
        {"\"segmentation\": [[0.125", "\"no\": [[0.125", 3, none},
        {"[2, 5, 17]", "[2, 5, 18]", 3, mask},
        {"[2, 5, 17]", "[]", 3, none},
        {"[2, 5, 17]", "null", 3, none},
        {"[2, 5, 17]", "[2, -5, 27]", 3, mask},
        {"\"size\": [4, 6]", "\"size\": [4]", 3, mask},
        {"\"size\": [4, 6]", "\"size\": [4, 1e300]", 3, mask},
        {"\"size\": [4, 6]", "\"size\": [6, 4]", 3, "annotations with a mask of another size than the picture's"},
        {"\"25a0\"", "\"25a\"", 3, mask},
        {"\"counts\": \"25a0\"", "\"counts\": \"!\", \"counts\": \"25a0\"", 4, NULL},
        {"\"counts\": \"25a0\"", "\"counts\": true, \"counts\": 7, \"counts\": \"25a0\"", 4, NULL},
        {"\"size\": [4, 6], \"counts\": [2", "\"size\": \"x\", \"size\": [4, 6], \"counts\": [2", 4, NULL},
        {"\"size\": [4, 6], \"counts\": [2, 5,", "\"size\": \"x\", \"counts\": [2, 7, -2,", 3, mask},
        {"\"size\": [4, 6], \"counts\": [2, 5, 17]", "\"size\": \"x\", \"counts\": [2, 7, -2, 17], \"size\": [4, 6]", 3,
         mask},
        {"\"segmentation\": {\"size\"", "\"segmentation\": {\"counts\": \"!\"}, \"segmentation\": {\"size\"", 4, NULL},
        {"\"note\": [3]", "\"note\": true", 4, NULL},
        {"\"size\": [4, 6], \"counts\": [2, 5, 17]", "\"counts\": [2, 5, 17], \"size\": [1], \"size\": [4, 6]", 4,
         NULL},
        {"\"segmentation\": [[1", "\"segmentation\": [[9, 9]], \"segmentation\": [[1", 4, NULL}, // the last one
        {"\"segmentation\": [[1", "\"segmentation\": \"x\", \"segmentation\": [[1", 4, NULL},
        {"\"segmentation\": [[1", "\"image_id\": [5], \"image_id\": 10, \"segmentation\": [[1", 4, NULL},
        {"\"bbox\": [0, 0, 1, 1]", "\"bbox\": [9], \"bbox\": [0, 0, 1, 1]", 4, NULL},
        {"\"categories\": [", "\"categories\": [{\"id\": 1, \"name\": \"cat\"}, ", 4,
         "categories with the id of a later one"},
        {"\"categories\": [", "\"categories\": [{\"id\": 8, \"name\": null}, ", 4, no_class},
        {"\"categories\": [", "\"categories\": [{\"id\": 8, \"name\": \" \"}, ", 4, no_class},
        {"\"categories\": [", "\"categories\": [{\"id\": 8, \"name\": []}, ", 4, no_class},
        {"\"categories\": [", "\"categories\": [{\"name\": \"cat\"}, ", 4, no_class},
        {"\"categories\": [", "\"categories\": [null, ", 4, "entries that are no objects"},
        {"\"categories\": [", "\"categories\": [[], ", 4, "entries that are no objects"},
        {"\"categories\": [{\"id\"", "\"categories\": [null], \"x\": [{\"id\"", 0,
         "none of its categories can be used"},
        {"\"name\": \"dog\"", "\"name\": 7", 4, NULL},
        {"\"images\"", "\"pictures\"", 0, "field \"images\" is missing"},
        {"\"annotations\": [", "\"annotations\": {}, \"x\": [", 0, "field \"annotations\": expected a list"},
        {"\"annotations\": [", "\"annotations\": 3, \"x\": [", 0, "field \"annotations\": expected a list of objects"},
        {"\"annotations\": [", "\"annotations\": [null, ", 4, "entries that are no objects"},
        {"\"annotations\": [", "\"annotations\": [3, ", 4, "entries that are no objects"},
        {"\"images\": [", "\"images\": [\"a\", ", 4, "entries that are no objects"},
        {"\"images\": [", "\"images\": [[1], ", 4, "entries that are no objects"},
        {"\"annotations\": [", "\"annotations\": [[{\"id\": 1, \"bbox\": [[]]}], ", 4, "entries that are no objects"},
        {"\"categories\": [", "\"categories\": 3, \"x\": [", 0, "field \"categories\": expected a list of objects"},
        {"\"annotations\": [",
         "\"annotations\": [{\"image_id\": 20, \"category_id\": 3, \"segmentation\": [[1, 1, 3, 1, 3, 3]]}], "
         "\"annotations\": [",
         4, NULL}, // the last list
        {"\"images\": [", "\"images\": [{\"id\": 20}], \"images\": [", 4, no_name},
        {"\"images\": [", "\"images\": [], \"images\": [", 4, NULL},
        {"\"categories\": [", "\"categories\": [{\"id\": 3, \"name\": \"x\"}], \"categories\": [", 4, NULL},
        {"\"category_id\": 3", "\"category_id\": 1, \"category_id\": null", 3, category},
        {"\"category_id\": 3", "\"category_id\": 99, \"category_id\": 3", 4, NULL},
        {"\"width\": 6", "\"width\": 4294967302", 1, "pictures without a size"},
        {"\"images\": [", "\"images\": \"x\", \"y\": [", 0, "field \"images\": expected a list of objects"},
        {"\"area\": 4.0,", "\"area\": 4.0.1,", 0, "is not valid JSON"},
        {"\"area\": 4.0,", "\"area\": Nan,", 0, "is not valid JSON"},
    };
    check_changes(instances, false, changes, sizeof changes / sizeof *changes);
    for (size_t n = 0; n + 2 < sizeof instances; n += 41) { // cut off anywhere
        char *text = xprintf("%.*s", (int)n, instances);
        assert_dies("is not valid JSON", coco_read(write_text("cut.json", text), false));
        free(text);
    }
    char *bom = xprintf("\xef\xbb\xbf%s", instances);
    Coco c = coco_read(write_text("bom.json", bom), false);
    assert_int_equal(c.segment_count, 4);
    coco_free(&c);
    free(bom);
    assert_dies("UTF-16", coco_read(write_text("utf16.json", "\xff\xfe{"), false));
}

// Pictures that cannot be used take their annotations with them.
static void test_damaged_pictures(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *kind;
    } cases[] = {{"\"width\": 6", "\"width\": 0", "pictures without a size"},
                 {"\"width\": 6", "\"width\": 32769", "pictures without a size"},
                 {"\"width\": 6, ", "", "pictures without a size"},
                 {"\"file_name\": \"b.png\"", "\"file_name\": 5", "pictures without an id or a name"},
                 {"\"file_name\": \"b.png\", ", "", "pictures without an id or a name"},
                 {"\"file_name\": \"b.png\"", "\"file_name\": \"\"", "pictures without an id or a name"},
                 {"\"width\": 6", "\"width\": 33.25", "pictures without a size"},
                 {"{\"id\": 10,", "{\"id\": 20,", "pictures with the id of a later one"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Coco c = coco_read(replaced(instances, cases[i].from, cases[i].to), false);
        assert_int_equal(c.picture_count, 1);
        assert_int_equal(count_masks(&c), 1);
        assert_int_equal(left_out_count(c.left_out, cases[i].kind), 1);
        coco_free(&c);
    }
}

static void test_damaged_panoptic(void **state) {
    (void)state;
    static const Change changes[] = {
        {"\"file_name\": \"p.png\", ", "", 0, "none of its annotations can be used"},
        {"\"segments_info\"", "\"segments\"", 0, "none of its annotations can be used"},
        {"\"image_id\": 5", "\"image_id\": 4", 0, "none of its annotations can be used"},
        {"[0, 0, 1, 2]", "[0, 0, 1]", 2, NULL},
        {"\"area\": 2, ", "", 2, NULL},
        {"\"category_id\": 2", "\"category_id\": 3", 1, "annotations of categories that are not there"},
        {"{\"id\": 9, ", "{", 1, "annotations with a damaged id"},
        {"\"annotations\": [",
         "\"annotations\": [{\"image_id\": 5, \"file_name\": \"o.png\", \"segments_info\": [{\"id\": 9, "
         "\"category_id\": 2}]}, ",
         2, "annotations of a picture with a later one"},
        {"\"image_id\": 5}]",
         "\"image_id\": 5}, {\"image_id\": 5, \"file_name\": \"o.png\", \"segments_info\": [{\"id\": 9, "
         "\"category_id\": 2}]}]",
         1, "annotations of a picture with a later one"},
    };
    check_changes(panoptic, true, changes, sizeof changes / sizeof *changes);
}

// Pictures of too many pixels are refused when they are read: their places in the data set stay.
static void test_large_pictures(void **state) {
    (void)state;
    Coco c =
        coco_read(replaced(instances, "\"width\": 6, \"height\": 4", "\"width\": 32768, \"height\": 32768"), false);
    assert_true(c.picture_count == 2 && c.segment_count == 4);
    coco_free(&c);
}

// What is left out of the masks stays a segment of its class; what has no picture or class does not. Each is counted.
static void test_without_mask(void **state) {
    (void)state;
    static const char *const segmentations[] = {"[]", "null", "{\"size\": [6, 4], \"counts\": [24]}", "[[1, 2]]",
                                                "{\"size\": [4, 6], \"counts\": \"x\"}"};
    for (size_t i = 0; i < sizeof segmentations / sizeof *segmentations; i++) {
        char *to = xprintf("%s, \"x\": [", segmentations[i]);
        Coco c = coco_read(replaced(instances, "[[1, 1, 3, 1, 3, 3, 1, 3], ", to), false);
        const Segment *s = &c.segments[0];
        assert_true(c.segment_count == 4 && s->id == 7 && s->form == SEGMENT_NO_MASK && s->category == 0);
        assert_true(s->area == 4 && s->bbox[0] == 1 && s->bbox[2] == 2.5); // as in the file
        uint8_t mask[24] = {0};
        coco_add_mask(&c, 0, s, NULL, mask);
        for (int k = 0; k < 24; k++) { assert_int_equal(mask[k], 0); }
        coco_free(&c);
        free(to);
    }
    Coco c = coco_read(replaced(instances,
                                "\"id\": 7, \"image_id\": 20, \"category_id\": 3, \"bbox\": [1, 1, 2.5, 2e0], "
                                "\"area\": 4.0, \"iscrowd\": 0,\n  \"extra\": [[1], {\"bbox\": [9]}, null, "
                                "true], \"segmentation\": ",
                                "\"image_id\": 20, \"category_id\": 3, \"x\": "),
                       false);
    const Segment *s = &c.segments[0];
    assert_true(s->form == SEGMENT_NO_MASK && s->bbox[2] == 6 && s->bbox[3] == 4); // no box: anywhere in the picture
    assert_string_equal(s->id_name, "number 1");
    coco_free(&c);
    // A category of id 0 is not the one of annotations without any.
    c = coco_read(write_text("zero.json",
                             "{\"images\": [{\"id\": 0, \"file_name\": \"a\", \"width\": 4, \"height\": 4}], "
                             "\"categories\": [{\"id\": 0, \"name\": \"cat\"}], \"annotations\": ["
                             "{\"id\": 0, \"image_id\": 0, \"segmentation\": 5}, "
                             "{\"id\": 0, \"category_id\": 0, \"segmentation\": 5}, "
                             "{\"id\": 0, \"image_id\": 0, \"category_id\": 0, \"segmentation\": []}, "
                             "{\"id\": 0, \"image_id\": 0, \"category_id\": 0, \"segmentation\": []}]}"),
                  false);
    assert_int_equal(c.segment_count, 2);
    assert_int_equal(left_out_count(c.left_out, "annotations of categories that are not there"), 1);
    assert_int_equal(left_out_count(c.left_out, "annotations of pictures that are not there"), 1);
    assert_int_equal(left_out_count(c.left_out, "annotations without a mask"), 2); // of one id
    char *text = left_out_text(c.left_out);
    assert_non_null(strstr(text, "2 annotations without a mask (0, 0)"));
    free(text);
    coco_unreadable(&c, 0, NULL);
    coco_unreadable(&c, 0, "twice"); // a picture counts once
    assert_int_equal(left_out_count(c.left_out, "pictures that cannot be read"), 1);
    coco_free(&c);
}

static void test_categories(void **state) {
    (void)state;
    Coco c = coco_read(replaced(instances, "{\"id\": 3, \"name\": \"dog\"}",
                                "{\"id\": 3, \"name\": \"dog\"}, {\"id\": 3, \"name\": 7}"),
                       false);
    assert_int_equal(c.category_count, 2);
    assert_string_equal(c.categories[0].name, "7"); // the last
    assert_int_equal(c.segments[0].category, 0);
    coco_free(&c);
    c = coco_read(replaced(instances, "\"name\": \"dog\"", "\"title\": \"dog\""), false);
    assert_true(c.category_count == 1 && c.segment_count == 2);
    assert_int_equal(left_out_count(c.left_out, "annotations of categories that are not there"), 2);
    coco_free(&c);
}

// Ids of panoptic segments are named with their picture's; those of a picture without a PNG lose their masks alone.
static void test_panoptic_names(void **state) {
    (void)state;
    Coco c = coco_read(replaced(panoptic, "\"category_id\": 2, ", ""), true);
    char *text = left_out_text(c.left_out);
    assert_non_null(strstr(text, "1 annotations of categories that are not there (5/9)"));
    free(text);
    coco_free(&c);
    c = coco_read(replaced(panoptic, "\"file_name\": \"p.png\"", "\"file_name\": null"), true);
    assert_true(c.segment_count == 2 && count_masks(&c) == 0 && c.pictures[0].count == 2);
    coco_free(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_instances),         cmocka_unit_test(test_rle_text),
        cmocka_unit_test(test_panoptic_folder),   cmocka_unit_test(test_damaged_folders),
        cmocka_unit_test(test_damaged_instances), cmocka_unit_test(test_damaged_pictures),
        cmocka_unit_test(test_damaged_panoptic),  cmocka_unit_test(test_without_mask),
        cmocka_unit_test(test_categories),        cmocka_unit_test(test_panoptic_names),
        cmocka_unit_test(test_large_pictures),    cmocka_unit_test(test_panoptic_leaving)};
    return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
