#include "data/indexed_png.h"
#include "util/error.h"
#include "util/file.h"
#include <assert.h>
#include <png.h>
#include <stdlib.h>

void indexed_png_save(const Image *grey, const uint8_t (*palette)[3], int colors, const char *path) {
    assert(grey->channels == 1 && colors > 0 && colors <= 256);
    png_image png = {.version = PNG_IMAGE_VERSION,
                     .width = (png_uint_32)grey->width,
                     .height = (png_uint_32)grey->height,
                     .format = PNG_FORMAT_RGB_COLORMAP,
                     .colormap_entries = (png_uint_32)colors};
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(png);
    uint8_t *bytes = xmalloc(size);
    if (!png_image_write_to_memory(&png, bytes, &size, 0, grey->pixels, grey->width, palette)) {
        die("%s: cannot be encoded: %s", path, png.message);
    }
    atomic_write(path, bytes, size);
    free(bytes);
}
