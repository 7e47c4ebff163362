// Data sets as people have them: ids, names, areas, boxes and file names in other forms than COCO's own.
#include "data/coco.h"
#include "data/segmentation.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>
#include "tests/data/folder.h"
#include "tests/dies.h"

#define POLYGON "\"segmentation\": [[2, 1, 7, 1, 7, 5, 2, 5]]"

// A file of one picture of 12 x 8 pixels, with these fields of it, this annotation and these categories.
static Coco read_one(const char *image, const char *annotation, const char *categories) {
    char *text = xprintf("{\"images\": [{\"width\": 12, \"height\": 8, %s}], \"categories\": [%s], "
                         "\"annotations\": [%s]}",
                         image, categories, annotation);
    Coco c = coco_read(write_text("one.json", text), false);
    free(text);
    return c;
}

static const char image_1[] = "\"id\": 1, \"file_name\": \"a.png\"", cat[] = "{\"id\": 4, \"name\": \"cat\"}";

static void test_derived(void **state) {
    (void)state;
    static const char *const fields[] = {"",
                                         "\"bbox\": [2, 1, 5, 4], ",
                                         "\"area\": 20, ",
                                         "\"area\": 0, \"bbox\": [2, 1, 5, 4], ",
                                         "\"area\": null, \"bbox\": [2, 1, 5, 4], ",
                                         "\"area\": 20, \"bbox\": [0, 0, 0, 0], ",
                                         "\"area\": 20, \"bbox\": [], ",
                                         "\"area\": 20, \"bbox\": null, ",
                                         "\"area\": 1e999, \"bbox\": [2, 1, 5, 4], ",
                                         "\"area\": 7, \"bbox\": [9, 9, 9, 9], \"area\": null, \"bbox\": null, ",
                                         "\"area\": 96, \"bbox\": [2, 1, 5, 4], ", // the picture's
                                         "\"area\": 20, \"bbox\": [2, 1, 1e4, 4], ",
                                         "\"area\": 20, \"bbox\": [-1.9e9, 1, 1.9e9, 4], ",
                                         "\"area\": 1e300, \"bbox\": [2, 1, 5, 4], ",
                                         "\"area\": 5e-324, \"bbox\": [2, 1, 5, 4], "};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        char *a = xprintf("{\"id\": 1, \"image_id\": 1, \"category_id\": 4, %s" POLYGON "}", fields[i]);
        Coco c = read_one(image_1, a, cat);
        const Segment *s = &c.segments[0];
        printf("%-48s area %g, box %g %g %g %g\n", fields[i], s->area, s->bbox[0], s->bbox[1], s->bbox[2], s->bbox[3]);
        assert_true(s->area == 20 && s->bbox[0] == 2 && s->bbox[1] == 1 && s->bbox[2] == 5 && s->bbox[3] == 4);
        assert_int_equal(left_out_any(c.computed), i >= 10);
        coco_free(&c);
        free(a);
    }
    // Run-length codes too: pixels 9..11 and 16 down the columns of 8 pixels.
    Coco c = read_one(image_1,
                      "{\"id\": 1, \"image_id\": 1, \"category_id\": 4, \"iscrowd\": 0, "
                      "\"segmentation\": {\"size\": [8, 12], \"counts\": [9, 3, 4, 1, 79]}}",
                      cat);
    const Segment *s = &c.segments[0];
    assert_true(s->area == 4 && s->bbox[0] == 1 && s->bbox[1] == 0 && s->bbox[2] == 2 && s->bbox[3] == 4);
    coco_free(&c);
}

// Polygons that leave the picture at one of its sides: area and box are those of what is in it.
static void test_leaving(void **state) {
    (void)state;
    static const struct {
        int low[2], high[2], box[4];
    } cases[] = {{{-30, 1}, {7, 5}, {0, 1, 7, 4}},
                 {{2, -30}, {7, 5}, {2, 0, 5, 5}},
                 {{2, 1}, {70, 5}, {2, 1, 10, 4}},
                 {{2, 1}, {7, 50}, {2, 1, 5, 7}}};
    for (int i = 0; i < 4; i++) {
        int x = cases[i].low[0], y = cases[i].low[1], z = cases[i].high[0], w = cases[i].high[1];
        const int *box = cases[i].box;
        for (int given = 0; given < 3; given++) { // of the polygon: area and box, the box alone, the area alone
            int area = given == 1 ? box[2] * box[3] : (z - x) * (w - y);
            int left = given == 2 ? box[0] : x, top = given == 2 ? box[1] : y;
            int width = given == 2 ? box[2] : z - x, height = given == 2 ? box[3] : w - y;
            char *a = xprintf("{\"id\": 1, \"image_id\": 1, \"category_id\": 4, \"area\": %d, "
                              "\"bbox\": [%d, %d, %d, %d], \"segmentation\": [[%d, %d, %d, %d, %d, %d, %d, %d]]}",
                              area, left, top, width, height, x, y, z, y, z, w, x, w);
            Coco c = read_one(image_1, a, cat);
            const Segment *s = &c.segments[0];
            printf("%s: area %g, box %g %g %g %g\n", a, s->area, s->bbox[0], s->bbox[1], s->bbox[2], s->bbox[3]);
            assert_true(s->area == box[2] * box[3] && s->bbox[0] == box[0] && s->bbox[1] == box[1]);
            assert_true(s->bbox[2] == box[2] && s->bbox[3] == box[3] && left_out_any(c.computed));
            coco_free(&c);
            free(a);
        }
    }
}

// Masks without a pixel are left out, whatever area and box the file has.
static void test_empty(void **state) {
    (void)state;
    static const char *const segmentations[] = {"{\"size\": [8, 12], \"counts\": [96]}",
                                                "{\"size\": [8, 12], \"counts\": [9, 0, 87]}",
                                                "[[-9, -9, -2, -9, -2, -2, -9, -2]]",
                                                "[[13, 1, 19, 1, 19, 7, 13, 7]]",
                                                "[[3.1, 1, 3.3, 1, 3.3, 1.2, 3.1, 1.2]]",
                                                "[[5.1, 1, 5.4, 1, 5.4, 7, 5.1, 7]]",
                                                "[[2, 1, 7, 1, 7, 5, 2, 5]]"};
    enum { COUNT = sizeof segmentations / sizeof *segmentations };
    for (int i = 0; i < COUNT; i++) {
        char *a = xprintf("{\"id\": \"x\", \"image_id\": 1, \"category_id\": 4, \"area\": 20, \"bbox\": [2, 1, 5, 4], "
                          "\"segmentation\": %s}",
                          segmentations[i]);
        Coco c = read_one(image_1, a, cat);
        uint8_t mask[96] = {0};
        Segment s = c.segments[0];
        bool empty = i + 1 < COUNT;
        printf("%s: form %d\n", segmentations[i], s.form);
        assert_int_equal(s.form == SEGMENT_NO_MASK, empty);
        assert_int_equal(left_out_count(c.left_out, "annotations with an empty mask"), empty);
        assert_false(left_out_any(c.computed));
        if (empty && segmentations[i][0] == '[') { // the mask itself
            s.form = SEGMENT_POLYGONS;
            coco_add_mask(&c, 0, &s, NULL, mask);
            assert_null(memchr(mask, 1, sizeof mask));
        }
        coco_free(&c);
        free(a);
    }
}

// Values that are right, or nearly, stay as they are in the file.
static void test_kept(void **state) {
    (void)state;
    Coco c = read_one(
        image_1,
        "{\"id\": 1, \"image_id\": 1, \"category_id\": 4, \"area\": 17.5, \"bbox\": [2.25, 1, 5, 3.5], " POLYGON "}",
        cat);
    const Segment *s = &c.segments[0];
    assert_true(s->area == 17.5 && s->bbox[0] == 2.25 && s->bbox[3] == 3.5 && !left_out_any(c.computed));
    coco_free(&c);
}

// Ids as the file has them, also where they are texts or missing.
static void test_computed_names(void **state) {
    (void)state;
    static const char *const ids[] = {"\"id\": 9, ", "\"id\": \"a1\", ", ""}, *const names[] = {"9", "a1", "number 1"};
    for (int i = 0; i < 3; i++) {
        char *a = xprintf("{%s\"image_id\": 1, \"category_id\": 4, \"area\": 96, \"bbox\": [2, 1, 5, 4], " POLYGON "}",
                          ids[i]);
        Coco c = read_one(image_1, a, cat);
        char *text = left_out_text(c.computed), *expected = xprintf("1 areas and boxes of annotations (%s)", names[i]);
        assert_string_equal(text, expected);
        free(expected);
        free(text);
        coco_free(&c);
        free(a);
    }
}

static void test_ids(void **state) {
    (void)state;
    static const struct {
        const char *image, *annotation;
        int64_t expected; // 0: only that they belong together
    } cases[] = {{"9", "9", 9},
                 {"9", "9.0", 9},
                 {"\"000000000009\"", "\"000000000009\"", 9},
                 {"\"frame_0001\"", "\"frame_0001\"", 0},
                 {"6565196475424199681", "6565196475424199681", 6565196475424199681},
                 {"18446744073709551615", "18446744073709551615", 0},
                 {"123456789012345678901234567890", "123456789012345678901234567890", 0},
                 {"\"6565196475424199681\"", "6565196475424199681", 6565196475424199681},
                 {"\"123456789012345678901234567890\"", "123456789012345678901234567890", 0},
                 {"\"-3\"", "-3", -3},
                 {"-3", "-3", -3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *image = xprintf("\"file_name\": \"a.png\", \"id\": %s", cases[i].image), number[24];
        char *a =
            xprintf("{\"id\": \"a1\", \"image_id\": %s, \"category_id\": \"c\", " POLYGON "}", cases[i].annotation);
        Coco c = read_one(image, a, "{\"id\": \"c\", \"name\": \"cat\"}");
        assert_int_equal(c.pictures[0].count, 1);
        if (cases[i].expected) { assert_true(c.pictures[0].id == cases[i].expected); }
        if (cases[i].image[0] == '"') { assert_non_null(strstr(cases[i].image, coco_picture_name(&c, 0, number))); }
        coco_free(&c);
        free(image);
        free(a);
    }
    // Neighbours beyond 2^53, where doubles are even.
    assert_true(coco_id_of_text("frame_0001", 10) != coco_id_of_text("frame_0002", 10));
    Coco c = read_one("\"file_name\": \"a.png\", \"id\": 9007199254740993",
                      "{\"id\": 1, \"image_id\": 9007199254740993, \"category_id\": 4, " POLYGON "},"
                      "{\"id\": 2, \"image_id\": 9007199254740992, \"category_id\": 4, " POLYGON "}",
                      cat);
    assert_int_equal(c.segment_count, 1);
    assert_int_equal(left_out_count(c.left_out, "annotations of pictures that are not there"), 1);
    coco_free(&c);
}

static void test_one_name_twice(void **state) {
    (void)state;
    Coco c = read_one(image_1,
                      "{\"id\": 1, \"image_id\": 1, \"category_id\": 4, " POLYGON "},"
                      "{\"id\": 2, \"image_id\": 1, \"category_id\": 7, \"iscrowd\": false, "
                      "\"segmentation\": [[8, 1, 10, 1, 10, 3, 8, 3]]},"
                      "{\"id\": 3, \"image_id\": 1, \"category_id\": 5, " POLYGON "}",
                      "{\"id\": 4, \"name\": \"cat\"}, {\"id\": 5, \"name\": \"dog\"}, "
                      "{\"id\": 7, \"name\": \"\xef\xbb\xbf"
                      "cat \"}");
    assert_int_equal(c.category_count, 2);
    uint8_t *mask = coco_class_mask(&c, 0, 0, NULL);
    int pixels = 0;
    for (int i = 0; i < 12 * 8; i++) { pixels += mask[i] == MASK_OBJECT; }
    assert_int_equal(pixels, 20 + 4); // the union
    assert_string_equal(c.categories[c.segments[2].category].name, "dog");
    free(mask);
    coco_free(&c);
}

// ---- where pictures are --------------------------------------------------------------------------------------------

static void write_picture_at(const char *name) {
    char *folder = xprintf("%s", in_folder(name));
    *strrchr(folder, '/') = 0;
    make_folders(folder);
    Image image = image_new(12, 8, 3);
    image_save(&image, in_folder(name));
    image_free(&image);
    free(folder);
}

// LVIS says of each picture of which classes it has none, or not all.
static void test_federated(void **state) {
    (void)state;
    static const struct {
        const char *field;
        bool federated;
    } rows[] = {{"", false},
                {", \"neg_category_ids\": [4, 7]", true},
                {", \"not_exhaustive_category_ids\": []", true},
                {", \"my\": {\"neg_category_ids\": [4]}", false}};
    for (int i = 0; i < 4; i++) {
        char *image = xprintf("%s%s", image_1, rows[i].field);
        Coco c = read_one(image, "{\"id\": 1, \"image_id\": 1, \"category_id\": 4, " POLYGON "}", cat);
        assert_int_equal(c.picture_count, 1);
        assert_int_equal(c.federated, rows[i].federated);
        coco_want_exhaustive(&c, 0);
        if (c.federated) {
            assert_dies("may still be in the picture, expected no --absent", coco_want_exhaustive(&c, 0.1));
        }
        coco_free(&c);
        free(image);
    }
}

// Opens a data set whose only picture has these fields and is stored at `place`, and reads it.
static bool is_found(const char *fields, const char *place) {
    remove_tree(in_folder("set"));
    make_folders(in_folder("set/train2017"));
    make_folders(in_folder("set/annotations"));
    write_picture_at(place);
    char *text = xprintf("{\"images\": [{\"id\": 1, \"width\": 12, \"height\": 8, %s}], \"annotations\": [], "
                         "\"categories\": [%s]}",
                         fields, cat);
    write_text("set/annotations/instances_train2017.json", text);
    Coco c = coco_open(in_folder("set"), "train", "auto");
    char *why;
    Image image = coco_load_picture(&c, 0, &why);
    printf("%s: %s\n", fields, why ? why : "found");
    bool found = !why;
    image_free(&image);
    free(why);
    coco_free(&c);
    free(text);
    return found;
}

static void test_file_names(void **state) {
    (void)state;
    assert_true(is_found("\"file_name\": \"a b/\xc3\xbc.png\"", "set/train2017/a b/\xc3\xbc.png"));
    assert_true(is_found("\"file_name\": \"train2017/p.png\"", "set/train2017/p.png"));
    assert_true(is_found("\"file_name\": \"train/p.png\"", "set/train2017/p.png"));
    assert_true(is_found("\"file_name\": \"images/train2017/p.png\"", "set/images/train2017/p.png"));
    assert_true(is_found("\"file_name\": \"other/p.png\"", "set/other/p.png"));
    assert_true(is_found("\"file_name\": \"sub\\\\p.png\"", "set/train2017/sub/p.png"));
    assert_true(is_found("\"file_name\": \"p\\\\q.png\"", "set/train2017/p\\q.png")); // a name here, a path there
    assert_true(is_found("\"file_name\": \"C:\\\\data\\\\train2017\\\\sub\\\\p.png\"", "set/train2017/sub/p.png"));
    assert_true(is_found("\"file_name\": \"D:\\\\my pictures\\\\p.png\"", "set/train2017/p.png"));
    assert_true(is_found("\"file_name\": \"/home/x/data/p.png\"", "set/train2017/p.png"));
    assert_true(is_found("\"coco_url\": \"http://images.cocodataset.org/val2017/9.png\"", "set/val2017/9.png"));
    assert_true(is_found("\"coco_url\": \"http://images.cocodataset.org/train2017/9.png\"", "set/train2017/9.png"));
    assert_false(is_found("\"file_name\": \"sub/p.png\"", "set/train2017/p.png")); // never a picture of another folder
    // COCO's names until 2014 beside those of 2017, as in LVIS v0.5 and RefCOCO
    static const char url[] = "\"coco_url\": \"http://images.cocodataset.org/train2017/000000391895.png\"";
    assert_true(is_found("\"file_name\": \"COCO_train2014_000000391895.png\"", "set/train2017/000000391895.png"));
    assert_false(is_found("\"file_name\": \"train2014_000000391895.png\"", "set/train2017/000000391895.png"));
    assert_false(is_found("\"file_name\": \"COCO_../../abcd/p.png\"", "abcd/p.png"));
    assert_false(is_found("\"file_name\": \"q.png\", \"coco_url\": \"http://x.org/../p.png\"", "set/p.png"));
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"\"\"", "5", "\"old.png\""};
        char *both = xprintf("\"file_name\": %s, %s", names[i], url);
        assert_true(is_found(both, "set/train2017/000000391895.png"));
        free(both);
    }
    // of another machine
    assert_true(is_found("\"file_name\": \"..\\\\..\\\\label-studio\\\\media\\\\4\\\\cb06-x.png\"",
                         "set/train2017/cb06-x.png"));
    assert_true(is_found("\"file_name\": \"../label/12.png\"", "set/train2017/12.png"));
    assert_true(is_found("\"file_name\": \"../label/12.png\"", "set/label/12.png")); // it is a file here
    assert_true(is_found("\"file_name\": \"https://x.org/train2017/sub/p.png\"", "set/train2017/sub/p.png"));
    assert_true(is_found("\"file_name\": \"s3://bucket/p.png\"", "set/train2017/p.png"));
    assert_true(is_found("\"file_name\": \"/train/run-1/p.png\"", "set/train2017/p.png")); // "train" by chance
    assert_false(is_found("\"file_name\": \"/x/train2017/../../p.png\"", "p.png"));        // out of the folder
    char *absolute = xprintf("\"file_name\": \"%s\"", in_folder("elsewhere/p.png"));
    assert_true(is_found(absolute, "elsewhere/p.png"));
    free(absolute);
}

// ---- EXIF ----------------------------------------------------------------------------------------------------------

// Writes a JPEG of 12 x 8 or 8 x 12 pixels with an EXIF orientation, in either byte order.
static void write_turned(const char *path, int width, int height, int orientation, bool little) {
    Image image = image_new(width, height, 3);
    size_t size;
    uint8_t *jpeg = image_encode(&image, 95, &size), *whole = xmalloc(size + 36);
    static const uint8_t big_exif[36] = {0xff, 0xe1, 0, 34, 'E', 'x',  'i', 'f', 0, 0, 'M', 'M', 0, '*', 0, 0,
                                         0,    8,    0, 1,  1,   0x12, 0,   3,   0, 0, 0,   1,   0, 0,   0, 0};
    static const uint8_t little_exif[36] = {0xff, 0xe1, 0, 34, 'E',  'x', 'i', 'f', 0, 0, 'I', 'I', '*', 0, 8, 0,
                                            0,    0,    1, 0,  0x12, 1,   3,   0,   1, 0, 0,   0,   0,   0, 0, 0};
    memcpy(whole, jpeg, 2);
    memcpy(whole + 2, little ? little_exif : big_exif, 36);
    whole[2 + (little ? 28 : 29)] = (uint8_t)orientation;
    memcpy(whole + 38, jpeg + 2, size - 2);
    atomic_write(path, whole, size + 36);
    free(jpeg);
    free(whole);
    image_free(&image);
}

// In a data set, a picture is turned where its stored size contradicts the annotations and the turned one fits.
static void test_turned(void **state) {
    (void)state;
    Coco c = read_one("\"id\": 1, \"file_name\": \"turned.jpg\"",
                      "{\"id\": 1, \"image_id\": 1, \"category_id\": 4, " POLYGON "}", cat);
    c.pictures_folder = xstrdup(folder);
    for (int i = 0; i < 4; i++) {
        bool lies = i / 2; // the annotations have 12 x 8
        write_turned(in_folder("turned.jpg"), lies ? 8 : 12, lies ? 12 : 8, 6, i % 2);
        char *why;
        Image image = coco_load_picture(&c, 0, &why);
        assert_null(why);
        assert_int_equal(image.width, 12);
        assert_int_equal(image.orientation, lies ? 0 : 6);
        image_free(&image);
        write_turned(in_folder("turned.jpg"), 8, 12, 3, i % 2); // upside down: still 8 x 12
        image = coco_load_picture(&c, 0, &why);
        assert_non_null(strstr(why, "is 8 x 12 pixels, expected 12 x 8"));
        assert_null(image.pixels);
        free(why);
    }
    coco_free(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_leaving),        cmocka_unit_test(test_derived),
                                       cmocka_unit_test(test_kept),           cmocka_unit_test(test_empty),
                                       cmocka_unit_test(test_computed_names), cmocka_unit_test(test_ids),
                                       cmocka_unit_test(test_one_name_twice), cmocka_unit_test(test_file_names),
                                       cmocka_unit_test(test_turned),         cmocka_unit_test(test_federated)};
    return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
