// What stb_image does not tell about a picture's file, read from its header: JPEG (ITU T.81, Exif 2.3) and PNG (eXIf).
#pragma once
#include <stdbool.h>
#include <stdio.h>

typedef struct {
    long long width, height; // 0: no picture, or none that the header gives a size of
    int orientation;         // EXIF's, 1..8; 0: none
    int components;          // of a JPEG; 0: no JPEG
    int scans;               // of a JPEG
    bool adobe;              // a JPEG with Adobe's marker (APP14) that says how four components are stored
    bool bad_table;          // a JPEG with a Huffman table of more codes than there are bytes, or cut off
} PictureHeader;

// Reads from the file's start and leaves it anywhere. A damaged header gives what was found before the damage. A JPEG
// is walked to its end: Huffman tables may come between scans. The walk meets every table that stb_image meets, which
// stops wherever its own walk would be another.
PictureHeader picture_header(FILE *file);
