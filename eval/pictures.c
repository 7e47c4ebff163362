#include "eval/pictures.h"
#include "data/image.h"
#include "data/texts.h"
#include "util/error.h"
#include "util/file.h"
#include "util/text.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

static int is_picture(const struct dirent *entry) { return entry->d_name[0] != '.' && image_is_name(entry->d_name); }

static void add_folder(TextTable *paths, const char *option, const char *folder) {
    struct dirent **entries;
    int count = scandir(folder, &entries, is_picture, versionsort);
    if (count <= 0) {
        die("%s %s: the folder has no pictures, expected files that end in .jpg or .png", option, folder);
    }
    for (int i = 0; i < count; i++) {
        size_t length = strlen(folder);
        text_table_add(paths, path_of("%s%s%s", folder, folder[length - 1] == '/' ? "" : "/", entries[i]->d_name).text);
        free(entries[i]);
    }
    free(entries);
}

// Returns whether it may stand for more than one.
static bool add(TextTable *paths, const char *option, const char *given) {
    bool list = given[0] == '@', folder = folder_exists(given);
    if (list) {
        text_table_add_lines(paths, given + 1, "paths of pictures");
    } else if (folder) {
        add_folder(paths, option, given);
    } else {
        text_table_add(paths, given);
    }
    return list || folder;
}

// The file's name without its ending; the whole path where another picture has that name too.
static char *name_of(TextTable *names, const char *path) {
    const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path, *dot = strrchr(file, '.');
    char *stem = xprintf("%.*s", (int)(dot && dot > file ? (size_t)(dot - file) : strlen(file)), file);
    char *name = text_file_name(stem);
    int known = names->count;
    if (text_table_add(names, name) < known) {
        free(name);
        name = text_file_name(path);
        known = names->count;
        if (text_table_add(names, name) < known) { die("%s: another picture has the same name", path); }
    }
    free(stem);
    return name;
}

PictureList pictures_find(const char *option, const char *const *given, const char *const *more) {
    TextTable paths = {0}, names = {0};
    PictureList list = {0};
    for (; given && *given; given++) { list.several |= add(&paths, option, *given); }
    for (; more && *more; more++) { list.several |= add(&paths, option, *more); }
    if (!paths.count) { die("%s is missing: expected a picture", option); }
    list.count = paths.count;
    list.several |= paths.count > 1;
    list.paths = xcalloc((size_t)paths.count, sizeof *list.paths);
    list.names = xcalloc((size_t)paths.count, sizeof *list.names);
    for (int i = 0; i < paths.count; i++) {
        list.paths[i] = xstrdup(paths.texts[i]);
        list.names[i] = name_of(&names, paths.texts[i]);
    }
    text_table_free(&names);
    text_table_free(&paths);
    return list;
}

void pictures_free(PictureList *list) {
    for (int i = 0; i < list->count; i++) {
        free(list->paths[i]);
        free(list->names[i]);
    }
    free(list->paths);
    free(list->names);
    *list = (PictureList){0};
}
