#include "eval/labels.h"
#include "data/draw.h"
#include "data/indexed_png.h"
#include "util/error.h"
#include "util/text.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

LabelMap labels_new(int width, int height) {
    return (LabelMap){image_new(width, height, 1), image_new(width, height, 1)};
}

void labels_free(LabelMap *map) {
    image_free(&map->label);
    image_free(&map->certainty);
}

void labels_add(LabelMap *map, int label, const uint8_t *mask, const Image *certainty) {
    for (size_t i = 0; i < (size_t)certainty->width * (size_t)certainty->height; i++) {
        uint8_t c = certainty->pixels[i];
        if (!mask[i] || (map->label.pixels[i] && c <= map->certainty.pixels[i])) { continue; }
        map->label.pixels[i] = (uint8_t)label;
        map->certainty.pixels[i] = c;
    }
}

// Neighbours in the list get hues that are far apart: steps of the golden ratio. Every other round of hues is darker.
static void label_color(int label, uint8_t rgb[3]) {
    double hue = 6 * fmod((label - 1) * 0.61803398875, 1), value = label % 2 ? 255 : 190;
    for (int c = 0; c < 3; c++) {
        double distance = fabs(remainder(hue - 2 * c, 6)); // 0 at the channel's own hue
        rgb[c] = (uint8_t)lround(label ? value * (0.15 + 0.85 * fmin(1, fmax(0, 2 - distance))) : 0);
    }
}

void labels_save(const LabelMap *map, int label_count, const char *path) {
    uint8_t palette[MOST_LABELS + 1][3];
    for (int i = 0; i <= label_count; i++) { label_color(i, palette[i]); }
    indexed_png_save(&map->label, (const uint8_t(*)[3])palette, label_count + 1, path);
}

void labels_save_legend(char *const *texts, int count, const char *path) {
    int columns = (int)ceil(sqrt(count)), rows = (count + columns - 1) / columns;
    Cell *cells = xcalloc((size_t)(rows * columns), sizeof *cells);
    Image *swatches = xcalloc((size_t)count, sizeof *swatches);
    char **captions = xcalloc((size_t)count, sizeof *captions);
    for (int i = 0; i < count; i++) {
        swatches[i] = image_new(1, 1, 3);
        label_color(i + 1, swatches[i].pixels);
        char *shown = text_shown(texts[i]);
        captions[i] = xprintf("%d %s", i + 1, shown);
        free(shown);
        cells[i] = (Cell){&swatches[i], captions[i]};
    }
    Image sheet = draw_sheet(NULL, cells, rows, columns, 96);
    image_save(&sheet, path);
    image_free(&sheet);
    for (int i = 0; i < count; i++) {
        image_free(&swatches[i]);
        free(captions[i]);
    }
    free(swatches);
    free(captions);
    free(cells);
}
