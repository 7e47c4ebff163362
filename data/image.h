// Pictures in memory: reading and writing files (stb), and resampling as Pillow does it.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Rows from top to bottom, channels last: pixels[(y * width + x) * channels + c].
typedef struct {
    int width, height, channels; // channels: 3 (RGB) or 1 (grey)
    uint8_t *pixels;
    int orientation; // of a file that was read: EXIF's, 1..8; 0: none
} Image;

Image image_new(int width, int height, int channels); // all zero
Image image_copy(const Image *image);
void image_free(Image *image);

// Larger pictures are refused before they are decoded. Default: as Pillow, 2 * 89478485. The option's limit keeps
// width * height * channels within an int.
extern long long image_max_pixels;
// clang-format off
#define MAX_PIXELS_ROWS \
    {OPT_LONG, "max-pixels", &image_max_pixels, "refuse pictures of more pixels", "N", .low = 1, .high = 1 << 29, \
     .may_change = true}
// clang-format on

// Reads a JPEG or PNG as `channels` channels. Grey is spread to RGB, alpha is dropped, and the pixels are as they are
// stored: image_upright turns them as people see the picture. Dies if the file is missing, cut off, not a picture, too
// large, or a JPEG of four components without Adobe's marker (CMYK, as Pillow has it).
Image image_load(const char *path, int channels);
// The same, but on failure it returns an image without pixels and a sentence in *why, freed by the caller.
Image image_try_load(const char *path, int channels, char **why);

// Grey values of a picture with 8 or 16 bits a channel, in [0, 1]; (height, width).
typedef struct {
    int width, height;
    float *values;
} GreyValues;
// Values as they are stored; a picture with colours is refused. On failure there are no values, and *why gets a
// sentence, freed by the caller; else it is NULL.
GreyValues image_try_load_grey(const char *path, char **why);

// Turns and mirrors the pixels as the EXIF orientation says (Pillow's ImageOps.exif_transpose).
void image_upright(Image *image);

// Writes .png, .jpg or .jpeg (quality 95), by the ending of `path`. The file appears whole or not at all.
void image_save(const Image *image, const char *path);
bool image_is_name(const char *path);   // ends in .png, .jpg or .jpeg
void image_want_name(const char *path); // dies if the ending is none of these; for the start of a command
// A picture file in memory, freed by the caller: a JPEG of that quality (1..100), or a PNG if it is 0.
uint8_t *image_encode(const Image *image, int quality, size_t *size);

typedef enum { FILTER_LANCZOS, FILTER_BILINEAR, FILTER_BOX } Filter; // support 3, 1, 1/2 output pixels

// Resamples the box (x, y, w, h; in pixels, may be fractional, must lie inside) to (width, height). When shrinking, the
// filter is stretched by the scale, which antialiases; near the box's border it also uses pixels outside the box. The
// result equals Pillow's fixed-point Image.resize((width, height), filter, box=(x, y, x + w, y + h)) for 8-bit
// pictures, bit for bit: rows to the new width first, then columns to the new height, 22-bit weights. (Pillow from 13
// on swaps the passes for some shapes.)
Image image_resize(const Image *image, double x, double y, double w, double h, int width, int height, Filter filter);
// The sub-picture of whole pixels (x, y, w, h), which must lie inside.
Image image_crop(const Image *image, int x, int y, int w, int h);

// Packs a mask (side, side) of 0 or 1 into rows of bits, the first pixel in the highest bit, as numpy.packbits(mask,
// axis=1) does, and unpacks it. Rows have (side + 7) / 8 bytes.
void mask_pack(const uint8_t *mask, int side, uint8_t *packed);
void mask_unpack(const uint8_t *packed, int side, uint8_t *mask);

// Box average of a 0/1 mask (mask_height, mask_width) over the box (x, y, w, h), then >= 0.5: out (height, width) gets
// 0 or 1. The share of each output pixel's area that is mask is exact, also for fractional borders and for enlarging.
void mask_resize(const uint8_t *mask, int mask_width, int mask_height, double x, double y, double w, double h,
                 uint8_t *out, int width, int height);
