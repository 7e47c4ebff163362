// A picture of numbers, each with a colour: PNG with a palette (colour type 3), by libpng. stb writes none.
#pragma once
#include "data/image.h"

// grey (one channel): indices below `colors` (at most 256); palette: their red, green and blue. The file appears whole
// or not at all. Viewers show the colours; programs read the indices (Pillow: numpy.array of an image of mode "P").
void indexed_png_save(const Image *grey, const uint8_t (*palette)[3], int colors, const char *path);
