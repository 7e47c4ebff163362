#include "data/draw.h"
#include "data/canvas.h"
#include "util/error.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// Splits text at blanks into at most `most` lines of `width` pixels. The caller frees each line. Returns their number.
static int wrap_text(const Canvas *c, const char *text, double width, int most, char **lines) {
    int count = 0;
    while (*text && count < most) {
        size_t taken = strlen(text);
        char *out = xmalloc(taken + 4);
        strcpy(out, text);
        while (count + 1 < most && canvas_text_width(c, out) > width) {
            char *blank = strrchr(out, ' ');
            if (!blank) { break; }
            *blank = 0;
            taken = (size_t)(blank - out);
        }
        canvas_fit_text(c, out, width);
        lines[count++] = out;
        text += taken + (text[taken] == ' ');
    }
    return count;
}

enum { MARGIN = 28, GAP = 12, CAPTION_LINES = 2, LEADING = 16 };

// Lines centred at x, the first one's baseline at y. Frees them.
static void put_lines(Canvas *c, double x, double y, int color, char **lines, int count) {
    for (int i = 0; i < count; i++) {
        canvas_text(c, x, y + i * LEADING, ALIGN_CENTER, color, lines[i]);
        free(lines[i]);
    }
}

// The picture scaled into a square cell; x and y get its upper left corner in the cell.
static Image fit_picture(const Image *image, int side, int *x, int *y) {
    double scale = fmin((double)side / image->width, (double)side / image->height);
    int width = (int)fmax(1, round(image->width * scale)), height = (int)fmax(1, round(image->height * scale));
    *x = (side - width) / 2;
    *y = (side - height) / 2;
    return image_resize(image, 0, 0, image->width, image->height, width, height, FILTER_LANCZOS);
}

static void paste(Image *sheet, const Image *image, int x, int y) {
    for (int j = 0; j < image->height; j++) {
        for (int i = 0; i < image->width; i++) {
            const uint8_t *from = image->pixels + ((size_t)j * image->width + i) * image->channels;
            uint8_t *to = sheet->pixels + ((size_t)(y + j) * sheet->width + x + i) * 3;
            for (int c = 0; c < 3; c++) { to[c] = from[image->channels == 3 ? c : 0]; }
        }
    }
}

// The largest number of lines of a caption.
static int caption_lines(const Cell *cells, int count, int width) {
    Canvas canvas = canvas_picture(1, 1);
    canvas_font(&canvas, 12, false);
    int most = 0;
    for (int i = 0; i < count; i++) {
        char *lines[CAPTION_LINES];
        int n = cells[i].caption ? wrap_text(&canvas, cells[i].caption, width, CAPTION_LINES, lines) : 0;
        most = n > most ? n : most;
        for (int k = 0; k < n; k++) { free(lines[k]); }
    }
    canvas_end(&canvas);
    return most;
}

Image draw_sheet(const char *const *headings, const Cell *cells, int rows, int columns, int cell_side) {
    int captions = caption_lines(cells, rows * columns, cell_side), top = MARGIN + 22;
    int row = cell_side + GAP + (captions ? captions * LEADING + 8 : 0), column = cell_side + GAP;
    int width = 2 * MARGIN + columns * column - GAP, height = top + rows * row - GAP + MARGIN;
    Canvas canvas = canvas_picture(width, height);
    char *lines[CAPTION_LINES];
    canvas_font(&canvas, 12, true);
    for (int c = 0; c < columns; c++) {
        int n = wrap_text(&canvas, headings[c], cell_side, 1, lines);
        put_lines(&canvas, MARGIN + c * column + cell_side / 2.0, top - 8, COLOR_FAINT, lines, n);
    }
    canvas_font(&canvas, 12, false);
    for (int i = 0; i < rows * columns; i++) {
        double x = MARGIN + i % columns * column, y = top + i / columns * row + cell_side + 15;
        int n = cells[i].caption ? wrap_text(&canvas, cells[i].caption, cell_side, CAPTION_LINES, lines) : 0;
        put_lines(&canvas, x + cell_side / 2.0, y, COLOR_INK, lines, n);
        if (!cells[i].image) { continue; }
        double top_left = y - cell_side - 15.5, side = cell_side + 1;
        double xs[] = {x - 0.5, x - 0.5 + side, x - 0.5 + side, x - 0.5, x - 0.5};
        double ys[] = {top_left, top_left, top_left + side, top_left + side, top_left};
        canvas_path(&canvas, xs, ys, 5, 1, COLOR_LINE, false);
    }
    Image sheet = canvas_image(&canvas);
    canvas_end(&canvas);
    for (int i = 0; i < rows * columns; i++) {
        if (!cells[i].image) { continue; }
        int x, y;
        Image fitted = fit_picture(cells[i].image, cell_side, &x, &y);
        paste(&sheet, &fitted, MARGIN + i % columns * column + x, top + i / columns * row + y);
        image_free(&fitted);
    }
    return sheet;
}
