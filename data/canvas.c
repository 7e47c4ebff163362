#include "data/canvas.h"
#include "util/error.h"
#include <math.h>
#include <string.h>

void xml_text(FILE *out, const char *text) {
    static const char special[] = "&<>\"";
    static const char *const escaped[] = {"&amp;", "&lt;", "&gt;", "&quot;"};
    for (; *text; text++) {
        const char *found = strchr(special, *text);
        if (found) {
            fputs(escaped[found - special], out);
        } else if ((unsigned char)*text < 0x20 && !strchr("\t\n\r", *text)) {
            fputs("\xef\xbf\xbd", out); // U+FFFD: control characters are not allowed in XML
        } else {
            fputc(*text, out);
        }
    }
}

// ---- begin and end -------------------------------------------------------------------------------------------------

static void set_color(const Canvas *c, int color, double opacity) {
    cairo_set_source_rgba(c->cr, (color >> 16) / 255.0, (color >> 8 & 255) / 255.0, (color & 255) / 255.0, opacity);
}

static Canvas canvas_new(FILE *svg, int width, int height) {
    Canvas c = {.svg = svg, .surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height)};
    if (cairo_surface_status(c.surface) != CAIRO_STATUS_SUCCESS) {
        die("cannot draw a picture of %d x %d pixels: %s", width, height,
            cairo_status_to_string(cairo_surface_status(c.surface)));
    }
    c.cr = cairo_create(c.surface);
    set_color(&c, 0xffffff, 1);
    cairo_paint(c.cr);
    return c;
}

Canvas canvas_picture(int width, int height) { return canvas_new(NULL, width, height); }

Canvas canvas_svg(FILE *out, int width, int height) {
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" "
            "font-family=\"system-ui,'DejaVu Sans',sans-serif\">\n",
            width, height);
    return canvas_new(out, 1, 1);
}

Image canvas_image(const Canvas *c) {
    cairo_surface_flush(c->surface);
    int width = cairo_image_surface_get_width(c->surface), height = cairo_image_surface_get_height(c->surface);
    int stride = cairo_image_surface_get_stride(c->surface);
    const unsigned char *data = cairo_image_surface_get_data(c->surface);
    Image image = image_new(width, height, 3);
    for (int y = 0; y < height; y++) {
        const uint32_t *row = (const uint32_t *)(data + (size_t)y * stride);
        uint8_t *out = image.pixels + (size_t)y * width * 3;
        for (int x = 0; x < width; x++) {
            for (int k = 0; k < 3; k++) { *out++ = (uint8_t)(row[x] >> (16 - 8 * k)); }
        }
    }
    return image;
}

void canvas_end(Canvas *c) {
    if (c->svg) { fputs("</svg>\n", c->svg); }
    cairo_destroy(c->cr);
    cairo_surface_destroy(c->surface);
}

// ---- texts ---------------------------------------------------------------------------------------------------------

void canvas_font(Canvas *c, double size, bool bold) {
    c->font_size = size;
    c->bold = bold;
    cairo_select_font_face(c->cr, "DejaVu Sans", CAIRO_FONT_SLANT_NORMAL,
                           bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(c->cr, size);
}

double canvas_text_width(const Canvas *c, const char *text) {
    cairo_text_extents_t extents;
    cairo_text_extents(c->cr, text, &extents);
    return extents.x_advance;
}

static void svg_text(const Canvas *c, const char *place, Align align, int color, const char *text) {
    static const char *const anchors[] = {"start", "middle", "end"};
    fprintf(c->svg, "<text %s text-anchor=\"%s\" font-size=\"%g\"%s fill=\"#%06x\">", place, anchors[align],
            c->font_size, c->bold ? " font-weight=\"bold\"" : "", (unsigned)color);
    xml_text(c->svg, text);
    fputs("</text>\n", c->svg);
}

void canvas_text(Canvas *c, double x, double y, Align align, int color, const char *text) {
    if (!isfinite(x) || !isfinite(y)) { return; }
    if (c->svg) {
        char place[64];
        snprintf(place, sizeof place, "x=\"%.1f\" y=\"%.1f\"", x, y);
        svg_text(c, place, align, color, text);
        return;
    }
    set_color(c, color, 1);
    cairo_move_to(c->cr, round(x - canvas_text_width(c, text) * align / 2), y);
    cairo_show_text(c->cr, text);
}

void canvas_text_upwards(Canvas *c, double x, double y, int color, const char *text) {
    char place[64];
    snprintf(place, sizeof place, "transform=\"translate(%.1f %.1f) rotate(-90)\"", x, y);
    svg_text(c, place, ALIGN_CENTER, color, text);
}

void canvas_fit_text(const Canvas *c, char *text, double width) {
    if (canvas_text_width(c, text) <= width) { return; }
    for (size_t n = strlen(text); n > 0;) {
        do { n--; } while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80);
        strcpy(text + n, "…");
        if (canvas_text_width(c, text) <= width) { return; }
    }
}

// ---- shapes --------------------------------------------------------------------------------------------------------

static void put_points(Canvas *c, const double *x, const double *y, int n) {
    bool started = false;
    if (c->svg) { fputs("<path d=\"", c->svg); }
    for (int i = 0; i < n; i++) {
        if (!isfinite(x[i]) || !isfinite(y[i])) { continue; }
        if (c->svg) {
            fprintf(c->svg, "%c%.1f %.1f", started ? 'L' : 'M', x[i], y[i]);
        } else {
            (started ? cairo_line_to : cairo_move_to)(c->cr, x[i], y[i]);
        }
        started = true;
    }
}

void canvas_path(Canvas *c, const double *x, const double *y, int n, double width, int color, bool dashed) {
    put_points(c, x, y, n);
    if (c->svg) {
        fprintf(c->svg, "\" fill=\"none\" stroke=\"#%06x\" stroke-width=\"%g\" stroke-linejoin=\"round\"%s/>\n",
                (unsigned)color, width, dashed ? " stroke-dasharray=\"6 4\"" : "");
        return;
    }
    set_color(c, color, 1);
    cairo_set_line_width(c->cr, width);
    cairo_set_dash(c->cr, (const double[]){6, 4}, dashed ? 2 : 0, 0);
    cairo_stroke(c->cr);
}

void canvas_line(Canvas *c, double x0, double y0, double x1, double y1, double width, int color) {
    canvas_path(c, (const double[]){x0, x1}, (const double[]){y0, y1}, 2, width, color, false);
}

void canvas_area(Canvas *c, const double *x, const double *y, int n, int color, double opacity) {
    put_points(c, x, y, n);
    fprintf(c->svg, "\" fill=\"#%06x\" fill-opacity=\"%g\"/>\n", (unsigned)color, opacity);
}

void canvas_bar(Canvas *c, double x, double y, double width, double height, int color) {
    if (c->svg) {
        fprintf(c->svg, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"3\" fill=\"#%06x\"/>\n", x, y,
                width, height, (unsigned)color);
        return;
    }
    set_color(c, color, 1);
    cairo_rectangle(c->cr, x, y, width, height);
    cairo_fill(c->cr);
}

void canvas_dot(Canvas *c, double x, double y, double radius, int color, double opacity) {
    if (c->svg) {
        fprintf(c->svg, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%g\" fill=\"#%06x\" fill-opacity=\"%g\"/>\n", x, y, radius,
                (unsigned)color, opacity);
        return;
    }
    set_color(c, color, opacity);
    cairo_arc(c->cr, x, y, radius, 0, 2 * M_PI);
    cairo_fill(c->cr);
}

void canvas_note(Canvas *c, const char *text) {
    if (!c->svg) { return; }
    fputs("<g>", c->svg);
    if (!text) { return; }
    fputs("<title>", c->svg);
    xml_text(c->svg, text);
    fputs("</title>", c->svg);
}

void canvas_note_end(Canvas *c) {
    if (c->svg) { fputs("</g>\n", c->svg); }
}
