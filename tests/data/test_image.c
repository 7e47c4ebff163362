#include "data/image.h"
#include "data/paint.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>
#include "tests/data/folder.h"
#include "tests/dies.h"

static Image pattern(int width, int height, int channels) {
    Image image = image_new(width, height, channels);
    for (int i = 0; i < width * height * channels; i++) { image.pixels[i] = (uint8_t)(i * 7 % 251); }
    return image;
}

static int largest_difference(const Image *a, const Image *b) {
    int worst = 0;
    for (int i = 0; i < a->width * a->height * a->channels; i++) {
        int d = abs(a->pixels[i] - b->pixels[i]);
        worst = d > worst ? d : worst;
    }
    return worst;
}

static void test_files(void **state) {
    (void)state;
    for (int channels = 1; channels <= 3; channels += 2) {
        Image image = pattern(37, 21, channels);
        image_save(&image, in_folder("a.png"));
        Image back = image_load(in_folder("a.png"), channels);
        assert_int_equal(back.width, 37);
        assert_int_equal(back.height, 21);
        printf("png, %d channels: largest difference %d\n", channels, largest_difference(&image, &back));
        assert_int_equal(largest_difference(&image, &back), 0);
        image_free(&image);
        image_free(&back);
    }
    Image flat = image_new(32, 16, 3);
    memset(flat.pixels, 200, 32 * 16 * 3);
    image_save(&flat, in_folder("a.jpg"));
    Image back = image_load(in_folder("a.jpg"), 3);
    printf("jpg of one colour: largest difference %d\n", largest_difference(&flat, &back));
    assert_true(largest_difference(&flat, &back) <= 2);
    image_free(&back);
    image_free(&flat);
    Image grey = image_new(4, 4, 1);
    memset(grey.pixels, 9, 16);
    image_save(&grey, in_folder("grey.png"));
    back = image_load(in_folder("grey.png"), 3);
    for (int i = 0; i < 48; i++) { assert_int_equal(back.pixels[i], 9); }
    image_free(&back);
    image_free(&grey);
}

static void cut(const char *from, const char *to, double share) {
    size_t size;
    char *bytes = read_file(from, &size);
    atomic_write(to, bytes, (size_t)((double)size * share));
    free(bytes);
}

static void test_damaged_files(void **state) {
    (void)state;
    Image image = pattern(200, 150, 3);
    image_save(&image, in_folder("b.png"));
    image_save(&image, in_folder("b.jpg"));
    assert_dies("cannot be opened: No such file", image_load(in_folder("none.png"), 3));
    assert_dies("it is a folder", image_load(folder, 3));
    assert_dies("not a JPEG or PNG picture", image_load(write_text("text.jpg", "hello"), 3));
    assert_dies("not a JPEG or PNG picture", image_load(write_text("empty.jpg", ""), 3));
    for (double share = 0.02; share < 1; share += 0.14) {
        cut(in_folder("b.png"), in_folder("cut.png"), share);
        cut(in_folder("b.jpg"), in_folder("cut.jpg"), share);
        assert_dies("cut.png: is damaged, cut off", image_load(in_folder("cut.png"), 3));
        assert_dies("cut.jpg: is damaged, cut off", image_load(in_folder("cut.jpg"), 3));
    }
    assert_dies("ends in .png or .jpg", image_save(&image, in_folder("b.tiff")));
    assert_dies("cannot be written", image_save(&image, in_folder("no/such/folder/b.png")));
    char *why;
    Image none = image_try_load(in_folder("none.png"), 3, &why);
    assert_null(none.pixels);
    assert_non_null(why);
    free(why);
    image_free(&image);
}

// Pixels (x, y) of a stored picture are 10 y + x; what the upright one's first row begins with, and its size.
static void test_upright(void **state) {
    (void)state;
    static const struct {
        int width, first[2];
    } expected[9] = {{3, {0, 1}},  {3, {0, 1}},  {3, {2, 1}},  {3, {12, 11}}, {3, {10, 11}},
                     {2, {0, 10}}, {2, {10, 0}}, {2, {12, 2}}, {2, {2, 12}}};
    for (int orientation = 0; orientation <= 8; orientation++) {
        Image image = image_new(3, 2, 1);
        for (int i = 0; i < 6; i++) { image.pixels[i] = (uint8_t)(10 * (i / 3) + i % 3); }
        image.orientation = orientation;
        image_upright(&image);
        assert_int_equal(image.width, expected[orientation].width);
        assert_int_equal(image.pixels[0], expected[orientation].first[0]);
        assert_int_equal(image.pixels[1], expected[orientation].first[1]);
        image_free(&image);
    }
}

// Four components without Adobe's marker are CMYK, which stb_image would read as another picture.
static void test_cmyk(void **state) {
    (void)state;
    static const uint8_t head[] = {0xff, 0xd8, 0xff, 0xc0, 0, 20, 8,    0, 8, 0,    8, 4,    1,
                                   0x11, 0,    2,    0x11, 0, 3,  0x11, 0, 4, 0x11, 0, 0xff, 0xd9};
    atomic_write(in_folder("cmyk.jpg"), head, sizeof head);
    assert_dies("is a CMYK picture without Adobe's marker", image_load(in_folder("cmyk.jpg"), 3));
}

// ---- hostile files

// A PNG of this size whose data are those bytes. stb_image does not look at checksums.
static const char *write_png(const char *name, uint32_t width, uint32_t height, const uint8_t *data, size_t size) {
    uint8_t *file = xcalloc(size + 64, 1), *to = file;
    const uint32_t lengths[3] = {13, (uint32_t)size, 0};
    const char *const types[3] = {"IHDR", "IDAT", "IEND"};
    memcpy(to, "\x89PNG\r\n\x1a\n", 8);
    to += 8;
    for (int i = 0; i < 3; to += 12 + lengths[i], i++) {
        for (int k = 0; k < 4; k++) { to[k] = (uint8_t)(lengths[i] >> (24 - 8 * k)); }
        memcpy(to + 4, types[i], 4);
        for (int k = 0; i == 0 && k < 8; k++) { to[8 + k] = (uint8_t)((k < 4 ? width : height) >> (24 - 8 * (k & 3))); }
        if (i == 0) { to[16] = 8; } // bits; grey
        if (i == 1 && size) { memcpy(to + 8, data, size); }
    }
    const char *path = in_folder(name);
    atomic_write(path, file, (size_t)(to - file));
    free(file);
    return path;
}

// A JPEG of these segments, each marker, then bytes in hexadecimal; the lengths are put in between.
static const char *write_jpeg(const char *name, const char *const *segments) {
    uint8_t file[16384] = {0xff, 0xd8}, *to = file + 2;
    for (; *segments; segments++) {
        unsigned byte;
        uint8_t *start = to;
        for (const char *at = *segments; sscanf(at, "%2x", &byte) == 1; at += 2) {
            if (to == start) { *to++ = 0xff; }
            *to++ = (uint8_t)byte;
            if (to == start + 2) { to += 2; }
        }
        start[2] = (uint8_t)((to - start - 2) >> 8);
        start[3] = (uint8_t)(to - start - 2);
    }
    *to++ = 0xff;
    *to++ = 0xd9;
    const char *path = in_folder(name);
    atomic_write(path, file, (size_t)(to - file));
    return path;
}

#define FRAME(size) "c008" size "03011100021100031100"
#define COUNTS_0 "00000000000000000000000000000000"

unsigned char *stbi_zlib_compress(unsigned char *data, int size, int *out_size, int quality); // of data/image.c

// Sizes are asked for before anything is decoded: 30 bytes do not take 2 GB.
static void test_sizes(void **state) {
    (void)state;
    assert_dies("has 26000 x 26000 pixels, expected",
                image_load(write_jpeg("bomb.jpg", (const char *const[]){FRAME("65906590"), NULL}), 3));
    assert_dies("at most 178956970 pixels (--max-pixels)", image_load(write_png("b.png", 13378, 13378, NULL, 0), 3));
    assert_dies("(no IDAT)", image_load(write_png("right.png", 13377, 13377, NULL, 0), 3)); // Pillow's limit
    assert_dies("expected sides of at most 65535", image_load(write_png("long.png", 65536, 1, NULL, 0), 3));
    assert_dies("its header gives no size", image_load(write_png("none.png", 0, 7, NULL, 0), 3));
    assert_dies("its header gives no size",
                image_load(write_jpeg("none.jpg", (const char *const[]){FRAME("00000010"), NULL}), 3));
    Image image = image_new(30, 20, 3);
    image_save(&image, in_folder("small.png"));
    image_free(&image);
    image_max_pixels = 599;
    assert_dies("has 30 x 20 pixels, expected", image_load(in_folder("small.png"), 3));
    image_max_pixels = 600;
    image = image_load(in_folder("small.png"), 3);
    image_max_pixels = 2 * 89478485LL;
    image_free(&image);
}

// Formats that nobody asked for are not compiled in.
static void test_formats(void **state) {
    (void)state;
    static const char *const others[] = {"P5\n2 2\n255\nabcd",       "P5\n0 0\n255\n", "GIF89a\2", "BM6", "8BPS",
                                         "#?RADIANCE\n\n-Y 1 +X 1\n"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        assert_dies("not a JPEG or PNG picture", image_load(write_text("other.png", others[i]), 3));
    }
}

// A Huffman table has at most 256 codes, in the header or between scans, and lies within its segment.
static void test_huffman_tables(void **state) {
    (void)state;
    char counts[33], many[2 * 300 + 64];
    for (int i = 0; i < 16; i++) { memcpy(counts + 2 * i, i < 14 ? "00" : "ff", 3); }
    snprintf(many, sizeof many, "c400%s", counts);
    const char *const tables[] = {many, "c400" COUNTS_0 "00" COUNTS_0 "0000", "c40000", "c400"};
    for (int i = 0; i < 4; i++) {
        const char *const header[] = {tables[i], FRAME("00080008"), NULL};
        const char *const later[] = {FRAME("00080008"), "c400" COUNTS_0, "da03010002000300003f00", tables[i], NULL};
        assert_dies("a Huffman table is wrong", image_load(write_jpeg("table.jpg", header), 3));
        assert_dies("a Huffman table is wrong", image_load(write_jpeg("table.jpg", later), 3));
    }
    const char *scans[300] = {FRAME("00080008")};
    for (int i = 1; i < 299; i++) { scans[i] = "da03010002000300003f00"; }
    assert_dies("more than 200 scans", image_load(write_jpeg("scans.jpg", scans), 3));
}

// A PNG's data that unfold to more than the picture: 32 MB of zeros, refused at the picture's own size.
static void test_unfolding(void **state) {
    (void)state;
    uint8_t *zeros = xcalloc(1 << 25, 1);
    int size;
    uint8_t *packed = stbi_zlib_compress(zeros, 1 << 25, &size, 8);
    printf("%d bytes unfold to %d\n", size, 1 << 25);
    assert_dies("(outofmem)", image_load(write_png("unfold.png", 40, 30, packed, (size_t)size), 3));
    free(packed);
    free(zeros);
}

static void test_resize(void **state) {
    (void)state;
    Image image = pattern(23, 31, 3), same = image_resize(&image, 0, 0, 23, 31, 23, 31, FILTER_LANCZOS);
    printf("resize to its own size: largest difference %d\n", largest_difference(&image, &same));
    assert_int_equal(largest_difference(&image, &same), 0);
    Image part = image_crop(&image, 3, 5, 11, 13), box = image_resize(&image, 3, 5, 11, 13, 11, 13, FILTER_BOX);
    assert_int_equal(largest_difference(&part, &box), 0);
    Image flat = image_new(40, 30, 1);
    memset(flat.pixels, 77, 1200);
    for (Filter f = FILTER_LANCZOS; f <= FILTER_BOX; f++) {
        Image out = image_resize(&flat, 1.25, 2.5, 30.5, 20, 77, 9, f);
        for (int i = 0; i < 77 * 9; i++) { assert_int_equal(out.pixels[i], 77); }
        image_free(&out);
    }
    Image stripes = image_new(64, 64, 1); // a fine pattern shrinks to its mean
    for (int i = 0; i < 64 * 64; i++) { stripes.pixels[i] = (i + i / 64) % 2 ? 200 : 100; }
    for (Filter f = FILTER_LANCZOS; f <= FILTER_BOX; f++) {
        Image small = image_resize(&stripes, 0, 0, 64, 64, 8, 8, f);
        int worst = 0;
        for (int i = 0; i < 64; i++) {
            worst = abs(small.pixels[i] - 150) > worst ? abs(small.pixels[i] - 150) : worst;
        }
        printf("checkerboard shrunk by 8, filter %d: largest distance from its mean %d\n", f, worst);
        assert_true(worst <= 2);
        image_free(&small);
    }
    image_free(&stripes);
    image_free(&image);
    image_free(&same);
    image_free(&part);
    image_free(&box);
    image_free(&flat);
}

static void test_mask_resize(void **state) {
    (void)state;
    uint8_t mask[6 * 4] = {0};
    mask[1 * 6 + 2] = mask[1 * 6 + 3] = mask[3 * 6 + 5] = 1;
    uint8_t out[6], big[11 * 8];
    mask_resize(mask, 6, 4, 0, 0, 6, 4, out, 3, 2); // 2 x 2 blocks, of which two, one and no pixels are mask
    const uint8_t halves[6] = {0, 1, 0, 0, 0, 0};   // one half counts
    assert_memory_equal(out, halves, 6);
    mask_resize(mask, 6, 4, 0.5, 0, 5.5, 4, big, 11, 8); // each pixel becomes 2 x 2
    for (int i = 0; i < 88; i++) { assert_int_equal(big[i], mask[i / 11 / 2 * 6 + (i % 11 + 1) / 2]); }
}

static void test_paint(void **state) {
    (void)state;
    Image rgb = pattern(16, 8, 3);
    uint8_t mask[128] = {0};
    mask[3 * 16 + 5] = 1;
    Paint white = paint_parse("white", 1, 0), half = paint_parse("#ff8000", 0.5, 0),
          fat = paint_parse("10,20,30", 1, 64);
    Image a = paint_overlay(&rgb, mask, &white), b = paint_overlay(&rgb, mask, &half);
    const uint8_t color[3] = {255, 128, 0};
    for (int i = 0; i < 128 * 3; i++) {
        int expected = mask[i / 3] ? 255 : rgb.pixels[i];
        int mixed = mask[i / 3] ? (int)lrint(0.5 * rgb.pixels[i] + 0.5 * color[i % 3]) : rgb.pixels[i];
        assert_int_equal(a.pixels[i], expected);
        assert_int_equal(b.pixels[i], mixed);
    }
    Image m = paint_mask(mask, 16, 8, &white), f = paint_mask(mask, 16, 8, &fat); // 64 / 2 * 16 / 512 = 1 pixel
    int exact = 0, grown = 0;
    for (int i = 0; i < 128; i++) {
        exact += m.pixels[3 * i] == 255;
        grown += f.pixels[3 * i] == 255;
    }
    printf("painted pixels: %d, with an outline of radius 1: %d\n", exact, grown);
    assert_int_equal(exact, 1);
    assert_int_equal(grown, 5);
    float values[128 * 3];
    image_to_floats(&rgb, values);
    Image back = image_from_floats(values, 16, 8, 3);
    assert_int_equal(largest_difference(&rgb, &back), 0);
    const float odd[3] = {-7, 9, NAN};
    Image clipped = image_from_floats(odd, 3, 1, 1);
    assert_int_equal(clipped.pixels[0], 0);
    assert_int_equal(clipped.pixels[1], 255);
    assert_int_equal(clipped.pixels[2], 0);
    assert_dies("--color mauve", paint_parse("mauve", 1, 0));
    assert_dies("--color 1,2,300", paint_parse("1,2,300", 1, 0));
    assert_dies("--color #12345g", paint_parse("#12345g", 1, 0));
    assert_dies("--alpha 1.5", paint_parse("white", 1.5, 0));
    assert_dies("--outline -1", paint_parse("white", 1, -1));
    Image *all[] = {&rgb, &a, &b, &m, &f, &back, &clipped};
    for (int i = 0; i < 7; i++) { image_free(all[i]); }
}

// The disc by definition.
static void test_mask_grow(void **state) {
    (void)state;
    enum { W = 31, H = 23 };
    for (float radius = 0; radius < 7; radius += 0.7f) {
        uint8_t mask[W * H], out[W * H];
        for (int i = 0; i < W * H; i++) { mask[i] = i * i % 97 == 3; }
        memcpy(out, mask, sizeof mask);
        mask_grow(out, W, H, radius);
        int wrong = 0;
        for (int i = 0; i < W * H; i++) {
            int near = 0;
            for (int j = 0; j < W * H; j++) {
                float dx = (float)(i % W - j % W), dy = (float)(i / W - j / W);
                near |= mask[j] && dx * dx + dy * dy <= radius * radius;
            }
            wrong += near != out[i];
        }
        printf("grow by %.1f: %d pixels wrong\n", (double)radius, wrong);
        assert_int_equal(wrong, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),          cmocka_unit_test(test_damaged_files), cmocka_unit_test(test_upright),
        cmocka_unit_test(test_cmyk),           cmocka_unit_test(test_sizes),         cmocka_unit_test(test_formats),
        cmocka_unit_test(test_huffman_tables), cmocka_unit_test(test_unfolding),     cmocka_unit_test(test_resize),
        cmocka_unit_test(test_mask_resize),    cmocka_unit_test(test_paint),         cmocka_unit_test(test_mask_grow)};
    return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
