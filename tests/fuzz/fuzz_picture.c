// Pictures, from bytes to pixels that are turned as EXIF says (data/image.c, data/picture_header.c).
#include "data/image.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>

const char *const fuzz_files[] = {"picture", NULL};
void fuzz_begin(void) { image_max_pixels = 1 << 18; } // so that no input takes long
void fuzz_died(void) {}

void fuzz_one(void) {
    for (int channels = 1; channels <= 3; channels += 2) {
        char *why = NULL;
        Image image = image_try_load(fuzz_path("picture"), channels, &why);
        if (image.pixels) {
            image_upright(&image);
            Image small = image_resize(&image, 0, 0, image.width, image.height, 8, 8, FILTER_LANCZOS);
            image_free(&small);
        }
        image_free(&image);
        free(why);
    }
    char *why = NULL;
    GreyValues grey = image_try_load_grey(fuzz_path("picture"), &why);
    free(grey.values);
    free(why);
}
