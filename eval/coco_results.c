#include "eval/coco_results.h"
#include "data/segmentation.h"
#include <stdlib.h>
#include <string.h>

static void put_image(yajl_gen gen, const char *path) {
    const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
    size_t digits = strspn(file, "0123456789");
    if (digits > 0 && digits < 19 && (file[digits] == '.' || !file[digits])) {
        json_put_integer(gen, "image_id", atoll(file));
    } else {
        json_put_string(gen, "image_id", file);
    }
    json_put_string(gen, "file_name", file);
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

void coco_result_put(yajl_gen gen, const char *path, int category_id, const char *text, const uint8_t *mask, int width,
                     int height, double score) {
    yajl_gen_map_open(gen);
    put_image(gen, path);
    json_put_integer(gen, "category_id", category_id);
    json_put_string(gen, "text", text);
    json_put_number(gen, "score", score);
    put_extent(gen, mask, width, height);
    put_segmentation(gen, mask, width, height);
    yajl_gen_map_close(gen);
}
