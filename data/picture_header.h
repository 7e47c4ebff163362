// What stb_image does not tell about a picture's file, read from its header: JPEG (ITU T.81, Exif 2.3) and PNG (eXIf).
#pragma once
#include <stdbool.h>
#include <stdio.h>

typedef struct {
    int orientation; // EXIF's, 1..8; 0: none
    int components;  // of a JPEG; 0: no JPEG
    bool adobe;      // a JPEG with Adobe's marker (APP14) that says how four components are stored
} PictureHeader;

// Reads from the file's start and leaves it anywhere. A damaged header gives what was found before the damage.
PictureHeader picture_header(FILE *file);
