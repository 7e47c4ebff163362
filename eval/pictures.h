// The pictures that a command line names: files, folders and lists.
#pragma once
#include <stdbool.h>

typedef struct {
    int count;
    char **paths, **names; // (count) names: part of output files' names, all different
    bool several;          // false: one file was named
} PictureList;

// given and more (NULL-terminated, may be NULL): each a picture's file, a folder, whose .jpg, .jpeg and .png files are
// taken in the order of their names, or @FILE with a path a line. A path that was there before is skipped. Dies if
// there is no picture; option: for messages.
PictureList pictures_find(const char *option, const char *const *given, const char *const *more);
void pictures_free(PictureList *list);
