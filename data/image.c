#include "data/image.h"
#include "data/picture_header.h"
#include "util/error.h"
#include "util/file.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// The only place where stb's code is compiled. Its memory begins as zeros, and no piece of it is larger than what the
// size of the picture explains: a PNG's data may unfold to a thousand times its size, and a chunk may claim 2 GB.
static _Thread_local size_t largest_piece;

static void *stb_resize(void *piece, size_t size) { return size <= largest_piece ? realloc(piece, size) : NULL; }
static void *stb_piece(size_t size) { return size <= largest_piece ? calloc(1, size) : NULL; }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wshift-negative-value"
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_MALLOC stb_piece
#define STBI_REALLOC stb_resize
#define STBI_FREE free
#include <stb_image.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>
#pragma GCC diagnostic pop

Image image_new(int width, int height, int channels) {
    assert(width > 0 && height > 0 && channels > 0);
    return (Image){width, height, channels, xcalloc((size_t)width * (size_t)height, (size_t)channels), 0};
}

Image image_copy(const Image *image) {
    Image copy = image_new(image->width, image->height, image->channels);
    memcpy(copy.pixels, image->pixels, (size_t)image->width * image->height * image->channels);
    return copy;
}

void image_free(Image *image) {
    free(image->pixels);
    *image = (Image){0};
}

// A file that stb reads. Decoding an intact picture never reads past the file's last byte. stb from 2.28 on makes up
// the rest of a JPEG whose end is missing.
typedef struct {
    FILE *file;
    bool cut;
} PictureFile;

static int read_picture(void *context, char *bytes, int size) {
    PictureFile *from = context;
    size_t n = fread(bytes, 1, (size_t)size, from->file);
    from->cut |= n == 0;
    return (int)n;
}

static void skip_picture(void *context, int n) { fseek(((PictureFile *)context)->file, n, SEEK_CUR); }

static int picture_ended(void *context) {
    PictureFile *from = context;
    return from->cut || feof(from->file) || ferror(from->file);
}

// A pipe has no beginning to return to: its bytes are read into *bytes first, which the caller frees.
static FILE *seekable(FILE *file, char **bytes) {
    size_t size = 0, n;
    char block[4096];
    *bytes = NULL;
    if (fseek(file, 0, SEEK_SET) == 0) { return file; }
    FILE *copy = open_memstream(bytes, &size);
    while ((n = fread(block, 1, sizeof block, file)) > 0) { fwrite(block, 1, n, copy); }
    fclose(copy);
    fclose(file);
    return fmemopen(*bytes, size ? size : 1, "rb");
}

long long image_max_pixels = 2 * 89478485LL;

enum { MOST_SIDE = 65535, MOST_SCANS = 200 }; // a JPEG's limit; progressive ones have about ten

// Why a picture of this header is not decoded; NULL: it is. Freed by the caller.
static char *refuse(const char *path, const PictureHeader *h) {
    if (h->components == 4 && !h->adobe) {
        return xprintf("%s: is a CMYK picture without Adobe's marker, expected RGB or grey (convert it first)", path);
    }
    if (h->width > MOST_SIDE || h->height > MOST_SIDE || h->width * h->height > image_max_pixels) {
        return xprintf("%s: has %lld x %lld pixels, expected sides of at most %d and at most %lld pixels "
                       "(--max-pixels)",
                       path, h->width, h->height, MOST_SIDE, image_max_pixels);
    }
    const char *damage = h->bad_table              ? "a Huffman table is wrong"
                         : !h->width || !h->height ? "its header gives no size"
                         : h->scans > MOST_SCANS   ? "it has more than 200 scans"
                                                   : NULL;
    return damage ? xprintf("%s: is damaged, cut off, or not a JPEG or PNG picture (%s)", path, damage) : NULL;
}

// stb's pixels of 8 or 16 bits, freed by the caller; NULL: *why says what is wrong.
static void *decode(const char *path, int channels, bool wide, Image *image, char **why) {
    void *pixels = NULL;
    *why = NULL;
    FILE *file = folder_exists(path) ? NULL : fopen(path, "rb");
    if (!file) {
        *why = xprintf("%s: cannot be opened: %s", path, folder_exists(path) ? "it is a folder" : strerror(errno));
        return NULL;
    }
    char *bytes;
    file = seekable(file, &bytes);
    PictureHeader header = picture_header(file);
    *why = refuse(path, &header);
    rewind(file);
    PictureFile from = {.file = file};
    const stbi_io_callbacks callbacks = {read_picture, skip_picture, picture_ended};
    int in_file, *width = &image->width, *height = &image->height;
    largest_piece = 16 * (size_t)(header.width + 128) * (size_t)(header.height + 128);
    if (!*why && wide) { pixels = stbi_load_16_from_callbacks(&callbacks, &from, width, height, &in_file, channels); }
    if (!*why && !wide) { pixels = stbi_load_from_callbacks(&callbacks, &from, width, height, &in_file, channels); }
    fclose(file);
    free(bytes);
    image->orientation = header.orientation;
    if (*why || (pixels && !from.cut)) { return pixels; }
    *why = xprintf("%s: is damaged, cut off, or not a JPEG or PNG picture (%s)", path,
                   pixels ? "the end is missing" : stbi_failure_reason());
    free(pixels);
    return NULL;
}

Image image_try_load(const char *path, int channels, char **why) {
    Image image = {.channels = channels};
    image.pixels = decode(path, channels, false, &image, why);
    return image.pixels ? image : (Image){0};
}

GreyValues image_try_load_grey(const char *path, char **why) {
    Image size = {0};
    uint16_t *pixels = decode(path, 3, true, &size, why), *p = pixels;
    if (!pixels) { return (GreyValues){0}; }
    size_t n = (size_t)size.width * (size_t)size.height;
    GreyValues grey = {size.width, size.height, xmalloc(n * sizeof *grey.values)};
    for (size_t i = 0; i < n && !*why; i++, p += 3) {
        if (p[0] != p[1] || p[0] != p[2]) { *why = xprintf("%s: has colours, expected grey values", path); }
        grey.values[i] = (float)p[0] / 65535;
    }
    free(pixels);
    if (*why) {
        free(grey.values);
        grey = (GreyValues){0};
    }
    return grey;
}

Image image_load(const char *path, int channels) {
    char *why;
    Image image = image_try_load(path, channels, &why);
    if (why) { die("%s", why); }
    return image;
}

// Where pixel (x, y) of the upright picture is stored. From 5 on rows and columns are exchanged.
static size_t stored_at(const Image *stored, int orientation, int x, int y) {
    int across = orientation >= 5 ? y : x, down = orientation >= 5 ? x : y; // as EXIF counts, from the stored corner
    bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    bool from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    if (from_right) { across = stored->width - 1 - across; }
    if (from_below) { down = stored->height - 1 - down; }
    return (size_t)down * (size_t)stored->width + (size_t)across;
}

void image_upright(Image *image) {
    int orientation = image->orientation;
    bool turned = orientation >= 5;
    if (orientation < 2 || orientation > 8) { return; }
    Image out =
        image_new(turned ? image->height : image->width, turned ? image->width : image->height, image->channels);
    size_t bytes = (size_t)image->channels;
    for (int y = 0; y < out.height; y++) {
        for (int x = 0; x < out.width; x++) {
            memcpy(out.pixels + ((size_t)y * (size_t)out.width + (size_t)x) * bytes,
                   image->pixels + stored_at(image, orientation, x, y) * bytes, bytes);
        }
    }
    image_free(image);
    *image = out;
}

// Files in memory.

static void append(void *stream, void *bytes, int size) { fwrite(bytes, 1, (size_t)size, stream); }

uint8_t *image_encode(const Image *image, int quality, size_t *size) {
    int width = image->width, height = image->height, channels = image->channels, done;
    char *bytes;
    FILE *stream = open_memstream(&bytes, size);
    if (quality) {
        done = stbi_write_jpg_to_func(append, stream, width, height, channels, image->pixels, quality);
    } else {
        done = stbi_write_png_to_func(append, stream, width, height, channels, image->pixels, width * channels);
    }
    if (fclose(stream) != 0 || !done) { die("out of memory: cannot encode a picture of %d x %d", width, height); }
    return (uint8_t *)bytes;
}

static bool ends_in(const char *path, const char *ending) {
    const char *dot = strrchr(path, '.');
    return dot && strcasecmp(dot, ending) == 0;
}

static bool is_jpeg_name(const char *path) { return ends_in(path, ".jpg") || ends_in(path, ".jpeg"); }

bool image_is_name(const char *path) { return ends_in(path, ".png") || is_jpeg_name(path); }

void image_want_name(const char *path) {
    if (!image_is_name(path)) { die("%s: expected a name that ends in .png or .jpg", path); }
}

void image_save(const Image *image, const char *path) {
    size_t size;
    image_want_name(path);
    uint8_t *bytes = image_encode(image, is_jpeg_name(path) ? 95 : 0, &size);
    atomic_write(path, bytes, size);
    free(bytes);
}

// Resampling.

static double sinc(double x) { return x == 0 ? 1 : sin(M_PI * x) / (M_PI * x); }

static double filter_value(Filter filter, double x) {
    switch (filter) {
    case FILTER_LANCZOS:
        return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
    case FILTER_BILINEAR:
        return fabs(x) < 1 ? 1 - fabs(x) : 0;
    default:
        return x > -0.5 && x <= 0.5 ? 1 : 0;
    }
}

// One axis: output i = sum over j < count[i] of weight[i * taps + j] * input[first[i] + j], in units of 2^-22.
typedef struct {
    int taps, *first, *count, *weight;
} Axis;

enum { WEIGHT_BITS = 22 };

static Axis axis_new(int in_size, double begin, double length, int out_size, Filter filter) {
    double scale = length / out_size, stretch = fmax(scale, 1);
    double support = (filter == FILTER_LANCZOS ? 3 : filter == FILTER_BILINEAR ? 1 : 0.5) * stretch;
    Axis axis = {.taps = (int)ceil(support) * 2 + 1};
    axis.first = xcalloc((size_t)out_size, sizeof(int));
    axis.count = xcalloc((size_t)out_size, sizeof(int));
    axis.weight = xcalloc((size_t)out_size * (size_t)axis.taps, sizeof(int));
    double *w = xcalloc((size_t)axis.taps, sizeof(double));
    for (int i = 0; i < out_size; i++) {
        double center = begin + (i + 0.5) * scale, sum = 0;
        int low = (int)fmax(center - support + 0.5, 0), high = (int)fmin(center + support + 0.5, in_size);
        for (int j = 0; j < high - low; j++) { sum += w[j] = filter_value(filter, (low + j - center + 0.5) / stretch); }
        axis.first[i] = low;
        axis.count[i] = high - low;
        for (int j = 0; j < high - low; j++) {
            axis.weight[i * axis.taps + j] = (int)lround(w[j] / sum * (1 << WEIGHT_BITS));
        }
    }
    free(w);
    return axis;
}

static void axis_free(Axis *axis) {
    free(axis->first);
    free(axis->count);
    free(axis->weight);
}

static uint8_t clip8(int value) {
    value >>= WEIGHT_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

// Rows [first, first + rows) of the image, each resampled to `width` pixels.
static void resize_rows(const Image *image, int first, int rows, const Axis *axis, int width, uint8_t *out) {
    int channels = image->channels;
    for (int y = 0; y < rows; y++) {
        const uint8_t *row = image->pixels + (size_t)(first + y) * image->width * channels;
        for (int x = 0; x < width; x++) {
            const int *weight = axis->weight + x * axis->taps;
            const uint8_t *in = row + axis->first[x] * channels;
            int sum[4] = {1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1),
                          1 << (WEIGHT_BITS - 1)};
            for (int j = 0; j < axis->count[x]; j++) {
                for (int c = 0; c < channels; c++) { sum[c] += weight[j] * in[j * channels + c]; }
            }
            for (int c = 0; c < channels; c++) { *out++ = clip8(sum[c]); }
        }
    }
}

Image image_resize(const Image *image, double x, double y, double w, double h, int width, int height, Filter filter) {
    assert(x >= 0 && y >= 0 && w > 0 && h > 0 && x + w <= image->width && y + h <= image->height);
    Axis columns = axis_new(image->width, x, w, width, filter), rows = axis_new(image->height, y, h, height, filter);
    int first = rows.first[0], last = rows.first[height - 1] + rows.count[height - 1];
    size_t stride = (size_t)width * image->channels;
    uint8_t *middle = xcalloc((size_t)(last - first), stride);
    resize_rows(image, first, last - first, &columns, width, middle);
    Image out = image_new(width, height, image->channels);
    int *sum = xcalloc(stride, sizeof *sum);
    for (int i = 0; i < height; i++) {
        for (size_t e = 0; e < stride; e++) { sum[e] = 1 << (WEIGHT_BITS - 1); }
        for (int j = 0; j < rows.count[i]; j++) {
            const uint8_t *in = middle + (size_t)(rows.first[i] + j - first) * stride;
            int weight = rows.weight[i * rows.taps + j];
            for (size_t e = 0; e < stride; e++) { sum[e] += weight * in[e]; }
        }
        for (size_t e = 0; e < stride; e++) { out.pixels[(size_t)i * stride + e] = clip8(sum[e]); }
    }
    free(sum);
    free(middle);
    axis_free(&columns);
    axis_free(&rows);
    return out;
}

Image image_crop(const Image *image, int x, int y, int w, int h) {
    assert(x >= 0 && y >= 0 && x + w <= image->width && y + h <= image->height);
    Image out = image_new(w, h, image->channels);
    size_t stride = (size_t)w * image->channels;
    for (int i = 0; i < h; i++) {
        const uint8_t *row = image->pixels + ((size_t)(y + i) * image->width + x) * image->channels;
        memcpy(out.pixels + (size_t)i * stride, row, stride);
    }
    return out;
}

// Masks.

void mask_pack(const uint8_t *mask, int side, uint8_t *packed) {
    memset(packed, 0, (size_t)side * (size_t)((side + 7) / 8));
    for (int y = 0; y < side; y++, packed += (side + 7) / 8) {
        for (int x = 0; x < side; x++) { packed[x / 8] |= (uint8_t)((*mask++ != 0) << (7 - x % 8)); }
    }
}

void mask_unpack(const uint8_t *packed, int side, uint8_t *mask) {
    for (int y = 0; y < side; y++, packed += (side + 7) / 8) {
        for (int x = 0; x < side; x++) { *mask++ = packed[x / 8] >> (7 - x % 8) & 1; }
    }
}

// The part of [begin, end) inside input pixel j.
static double overlap(int j, double begin, double end) { return fmax(0, fmin(j + 1, end) - fmax(j, begin)); }

void mask_resize(const uint8_t *mask, int mask_width, int mask_height, double x, double y, double w, double h,
                 uint8_t *out, int width, int height) {
    assert(x >= 0 && y >= 0 && w > 0 && h > 0 && x + w <= mask_width && y + h <= mask_height);
    double sx = w / width, sy = h / height;
    // Shares are doubles, so that a tie at one half stays a tie.
    double *share = xcalloc((size_t)width * (size_t)height, sizeof *share);
    double *row = xcalloc((size_t)width, sizeof *row);
    for (int j = (int)y; j < mask_height && j < y + h; j++) { // input rows
        const uint8_t *in = mask + (size_t)j * mask_width;
        if (!memchr(in, 1, (size_t)mask_width)) { continue; }
        for (int i = 0; i < width; i++) {
            double begin = x + i * sx, end = x + (i + 1) * sx;
            row[i] = 0;
            for (int k = (int)begin; k < mask_width && k < end; k++) { row[i] += in[k] ? overlap(k, begin, end) : 0; }
        }
        for (int i = (int)fmax(floor((j - y) / sy) - 1, 0); i < height && y + i * sy < j + 1; i++) { // output rows
            double part = overlap(j, y + i * sy, y + (i + 1) * sy) / (sx * sy);
            if (part <= 0) { continue; }
            for (int k = 0; k < width; k++) { share[(size_t)i * width + k] += part * row[k]; }
        }
    }
    for (size_t i = 0; i < (size_t)width * height; i++) { out[i] = share[i] >= 0.5 - 1e-9; } // a tie counts as mask
    free(row);
    free(share);
}
