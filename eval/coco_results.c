#include "eval/coco_results.h"
#include "data/segmentation.h"
#include "data/texts.h"
#include "util/error.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *file_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// The number that is a file's name up to its last dot, or -1.
static long long number_of(const char *file) {
    const char *dot = strrchr(file, '.');
    size_t digits = strspn(file, "0123456789"), length = dot ? (size_t)(dot - file) : strlen(file);
    return digits > 0 && digits < 19 && digits == length ? atoll(file) : -1;
}

// How often the texts of a table were added.
typedef struct {
    TextTable texts;
    int *times; // (count of pictures)
} Tally;

static int tally_add(Tally *tally, const char *text) {
    int at = text_table_add(&tally->texts, text);
    tally->times[at]++;
    return at;
}

static void tally_free(Tally *tally) {
    text_table_free(&tally->texts);
    free(tally->times);
}

CocoImage *coco_images(char *const *paths, int count) {
    size_t n = (size_t)count + 1;
    CocoImage *images = xcalloc(n, sizeof *images);
    Tally files = {.times = xcalloc(n, sizeof(int))}, numbers = {.times = xcalloc(n, sizeof(int))};
    int *file = xcalloc(n, sizeof *file), *number = xcalloc(n, sizeof *number);
    for (int i = 0; i < count; i++) {
        char text[24];
        images[i].number = number_of(file_of(paths[i]));
        snprintf(text, sizeof text, "%lld", images[i].number);
        file[i] = tally_add(&files, file_of(paths[i]));
        number[i] = tally_add(&numbers, text);
    }
    for (int i = 0; i < count; i++) {
        images[i].file_name = xstrdup(files.times[file[i]] > 1 ? paths[i] : file_of(paths[i]));
        if (numbers.times[number[i]] > 1) { images[i].number = -1; }
    }
    tally_free(&files);
    tally_free(&numbers);
    free(file);
    free(number);
    return images;
}

void coco_images_free(CocoImage *images, int count) {
    for (int i = 0; i < count; i++) { free(images[i].file_name); }
    free(images);
}

static void put_image(yajl_gen gen, const CocoImage *image) {
    if (image->number >= 0) {
        json_put_integer(gen, "image_id", image->number);
    } else {
        json_put_string(gen, "image_id", image->file_name);
    }
    json_put_string(gen, "file_name", image->file_name);
}

static void put_segmentation(yajl_gen gen, const uint8_t *mask, int width, int height) {
    char *counts = rle_to_text(mask, width, height);
    json_open_map(gen, "segmentation");
    json_put_integers(gen, "size", (int[]){height, width}, 2);
    json_put_string(gen, "counts", counts);
    yajl_gen_map_close(gen);
    free(counts);
}

static void put_extent(yajl_gen gen, const uint8_t *mask, int width, int height) {
    int left = width, right = -1, top = height, bottom = -1;
    long long area = 0;
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            if (!mask[(size_t)y * (size_t)width + (size_t)x]) { continue; }
            area++;
            left = x < left ? x : left;
            right = x > right ? x : right;
            top = y < top ? y : top;
            bottom = y;
        }
    }
    json_put_integer(gen, "area", area);
    json_put_integers(gen, "bbox", (int[]){left, top, right - left + 1, bottom - top + 1}, 4);
}

void coco_result_put(yajl_gen gen, const CocoImage *image, int category_id, const char *text, const uint8_t *mask,
                     int width, int height, double score) {
    yajl_gen_map_open(gen);
    put_image(gen, image);
    json_put_integer(gen, "category_id", category_id);
    json_put_string(gen, "text", text);
    json_put_number(gen, "score", score);
    put_extent(gen, mask, width, height);
    put_segmentation(gen, mask, width, height);
    yajl_gen_map_close(gen);
}
