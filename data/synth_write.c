// The scenes' folder in COCO's layout: pictures, panoptic PNGs, annotation files.
#include "data/image.h"
#include "data/synth.h"
#include "data/synth_text.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include "util/progress.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The parts of a scene that go into the annotation files.
typedef struct {
    int count;
    SynthObject objects[SYNTH_OBJECTS];
    int *runs[SYNTH_OBJECTS], run_count[SYNTH_OBJECTS]; // RLE
} Annotated;

typedef struct {
    const char *folder, *name; // "train"
    const SynthOptions *options;
    bool held_out;
    int count;
    long long first_id; // of the pictures; validation has its own range
    Annotated *scenes;
} Split;

// Run lengths of label == value down the columns, zeros first: COCO's uncompressed RLE. Returns how many.
static int run_lengths(const SynthScene *scene, int value, int **runs) {
    int count = 0, length = 0;
    *runs = NULL;
    bool current = false;
    for (int i = 0; i < scene->width * scene->height; i++) {
        bool inside = scene->label[i % scene->height * scene->width + i / scene->height] == value;
        if (inside != current) {
            GROW(*runs, count);
            (*runs)[count++] = length;
            length = 0;
            current = inside;
        }
        length++;
    }
    GROW(*runs, count);
    (*runs)[count++] = length;
    return count;
}

// The value of an object's pixels in the panoptic PNG, R + 256 G + 65536 B: its number in the picture and its class.
static int segment_id(int k, int class_index) { return (k + 1) * 65793 + class_index * 257 + 1; }

static void write_png(const char *folder, const char *name, long long id, const char *prefix, uint8_t *rgb, int width,
                      int height) {
    Image image = {width, height, 3, rgb};
    size_t size;
    uint8_t *png = image_encode(&image, 0, &size);
    Path path = path_of("%s/%s%s/%012lld.png", folder, prefix, name, id);
    FILE *f = create_file(path.text);
    // the folder as a whole is flushed to disk before it gets its name
    if (fwrite(png, 1, size, f) != size || fclose(f) != 0) {
        die("%s: cannot be written: %s", path.text, strerror(errno));
    }
    free(png);
}

static void write_ids(const Split *split, const SynthScene *scene, long long id) {
    uint8_t *rgb = xcalloc((size_t)scene->width * (size_t)scene->height, 3);
    for (int i = 0; i < scene->width * scene->height; i++) {
        int k = scene->label[i] - 1;
        if (k < 0) { continue; }
        int value = segment_id(k, scene->objects[k].class_index);
        for (int c = 0; c < 3; c++) { rgb[3 * i + c] = (uint8_t)(value >> (8 * c)); }
    }
    write_png(split->folder, split->name, id, "annotations/panoptic_", rgb, scene->width, scene->height);
    free(rgb);
}

static void draw_split(Split *split) {
    split->scenes = xcalloc((size_t)split->count, sizeof *split->scenes);
    Progress progress = progress_begin(split->name, "scenes", split->count, 0);
    int done = 0;
#pragma omp parallel for schedule(dynamic, 8)
    for (int i = 0; i < split->count; i++) {
        SynthScene scene = synth_draw(split->options, split->held_out, i);
        write_png(split->folder, split->name, split->first_id + i, "", scene.rgb, scene.width, scene.height);
        write_ids(split, &scene, split->first_id + i);
        Annotated *a = &split->scenes[i];
        a->count = scene.count;
        for (int k = 0; k < scene.count; k++) {
            a->objects[k] = scene.objects[k];
            a->run_count[k] = run_lengths(&scene, k + 1, &a->runs[k]);
        }
        synth_free(&scene);
#pragma omp critical(synth_progress)
        progress_update(&progress, ++done);
    }
    progress_end(&progress, done);
}

static void free_split(Split *split) {
    for (int i = 0; i < split->count; i++) {
        for (int k = 0; k < split->scenes[i].count; k++) { free(split->scenes[i].runs[k]); }
    }
    free(split->scenes);
}

static void to_stream(void *stream, const char *text, size_t size) { fwrite(text, 1, size, stream); }

static void put_info(yajl_gen gen) {
    json_open_map(gen, "info");
    json_put_string(gen, "description", "cocogold synth: procedural scenes");
    yajl_gen_map_close(gen);
    json_open_list(gen, "licenses");
    yajl_gen_array_close(gen);
}

static void put_images(yajl_gen gen, const Split *split) {
    json_open_list(gen, "images");
    for (int i = 0; i < split->count; i++) {
        char file[32];
        snprintf(file, sizeof file, "%012lld.png", split->first_id + i);
        yajl_gen_map_open(gen);
        json_put_integer(gen, "id", split->first_id + i);
        json_put_string(gen, "file_name", file);
        json_put_integer(gen, "width", split->options->width);
        json_put_integer(gen, "height", split->options->height);
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
}

static void put_categories(yajl_gen gen, const SynthOptions *options, bool panoptic) {
    json_open_list(gen, "categories");
    for (int c = 0; c < synth_classes(options); c++) {
        yajl_gen_map_open(gen);
        json_put_integer(gen, "id", c + 1);
        json_put_string(gen, "name", synth_class_name(c));
        json_put_string(gen, "supercategory", c == 0 ? "person" : "shape");
        if (panoptic) { json_put_integer(gen, "isthing", 1); }
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
}

static void put_object(yajl_gen gen, const SynthObject *o) {
    json_put_integer(gen, "category_id", o->class_index + 1);
    json_put_integers(gen, "bbox", (int[]){o->x, o->y, o->width, o->height}, 4);
    json_put_integer(gen, "area", o->area);
    json_put_integer(gen, "iscrowd", 0);
}

static void put_instances(yajl_gen gen, const Split *split, int i, long long *next_id) {
    const Annotated *a = &split->scenes[i];
    for (int k = 0; k < a->count; k++) {
        yajl_gen_map_open(gen);
        json_put_integer(gen, "id", (*next_id)++);
        json_put_integer(gen, "image_id", split->first_id + i);
        put_object(gen, &a->objects[k]);
        json_open_map(gen, "segmentation");
        json_put_integers(gen, "size", (int[]){split->options->height, split->options->width}, 2);
        json_put_integers(gen, "counts", a->runs[k], a->run_count[k]);
        yajl_gen_map_close(gen);
        yajl_gen_map_close(gen);
    }
}

static void put_panoptic(yajl_gen gen, const Split *split, int i) {
    const Annotated *a = &split->scenes[i];
    char file[32];
    snprintf(file, sizeof file, "%012lld.png", split->first_id + i);
    yajl_gen_map_open(gen);
    json_put_integer(gen, "image_id", split->first_id + i);
    json_put_string(gen, "file_name", file);
    json_open_list(gen, "segments_info");
    for (int k = 0; k < a->count; k++) {
        yajl_gen_map_open(gen);
        json_put_integer(gen, "id", segment_id(k, a->objects[k].class_index));
        put_object(gen, &a->objects[k]);
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
    yajl_gen_map_close(gen);
}

// Two captions a scene, in both orders of its objects; COCO has about five.
static void put_captions(yajl_gen gen, const Split *split, int i) {
    const Annotated *a = &split->scenes[i];
    for (int reverse = 0; reverse < 2 && reverse < a->count; reverse++) {
        char caption[256];
        synth_caption(a->objects, a->count, reverse, caption);
        yajl_gen_map_open(gen);
        json_put_integer(gen, "image_id", split->first_id + i);
        json_put_integer(gen, "id", 2 * (split->first_id + i) + reverse);
        json_put_string(gen, "caption", caption);
        yajl_gen_map_close(gen);
    }
}

// first_id: of the scene's instances.
static void put_refs(yajl_gen gen, const Split *split, int i, long long first_id) {
    const Annotated *a = &split->scenes[i];
    static _Thread_local SynthPhrase phrases[SYNTH_PHRASES];
    int count = synth_phrases(split->options, a->objects, a->count, split->held_out, i, phrases);
    for (int n = 0; n < count; n++) {
        const SynthPhrase *p = &phrases[n];
        yajl_gen_map_open(gen);
        json_put_integer(gen, "image_id", split->first_id + i);
        json_open_list(gen, "ann_id");
        for (int k = 0; k < p->count; k++) { yajl_gen_integer(gen, first_id + p->objects[k]); }
        yajl_gen_array_close(gen);
        json_put_strings(gen, "sentences", (const char *const[]){p->text}, 1);
        json_put_string(gen, "kind", phrase_kind_names[p->kind]);
        yajl_gen_map_close(gen);
    }
}

typedef enum { INSTANCES, PANOPTIC, CAPTIONS, REFS, FILES } AnnotationFile;
static const char *const file_names[] = {"instances", "panoptic", "captions", "refs"};

static void put_list(yajl_gen gen, const Split *split, AnnotationFile what) {
    json_open_list(gen, what == REFS ? "refs" : "annotations");
    long long next_id = split->first_id * SYNTH_OBJECTS; // of the instances
    for (int i = 0; i < split->count; i++) {
        long long first_id = next_id;
        switch (what) {
        case INSTANCES:
            put_instances(gen, split, i, &next_id);
            break;
        case PANOPTIC:
            put_panoptic(gen, split, i);
            break;
        case CAPTIONS:
            put_captions(gen, split, i);
            break;
        default:
            put_refs(gen, split, i, first_id);
            next_id += split->scenes[i].count;
        }
    }
    yajl_gen_array_close(gen);
}

static void write_annotations(const Split *split, AnnotationFile what) {
    AtomicFile file =
        atomic_open(path_of("%s/annotations/%s_%s.json", split->folder, file_names[what], split->name).text);
    yajl_gen gen = yajl_gen_alloc(NULL);
    if (!gen) { die("out of memory: cannot allocate a JSON writer"); }
    yajl_gen_config(gen, yajl_gen_print_callback, to_stream, file.stream);
    yajl_gen_map_open(gen);
    put_info(gen);
    if (what != REFS) { put_images(gen, split); }
    put_list(gen, split, what);
    if (what <= PANOPTIC) { put_categories(gen, split->options, what == PANOPTIC); }
    yajl_gen_map_close(gen);
    yajl_gen_free(gen);
    fputc('\n', file.stream);
    atomic_commit(&file);
}

static void write_split(const char *folder, const SynthOptions *options, bool held_out) {
    Split split = {.folder = folder,
                   .name = held_out ? "val" : "train",
                   .options = options,
                   .held_out = held_out,
                   .count = held_out ? options->val : options->train,
                   .first_id = held_out ? 1000001 : 1};
    make_folders(path_of("%s/%s", folder, split.name).text);
    make_folders(path_of("%s/annotations/panoptic_%s", folder, split.name).text);
    draw_split(&split);
    for (int what = 0; what < FILES; what++) { write_annotations(&split, (AnnotationFile)what); }
    free_split(&split);
}

// Whether a class name contains one of the words of a list "orange,cross".
static bool has_word(const char *name, const char *list) {
    for (const char *word = list; word && *word;) {
        size_t length = strcspn(word, ",");
        for (const char *at = name; length && at; at = strchr(at, ' ')) {
            at += *at == ' ';
            if (strncmp(at, word, length) == 0 && (at[length] == ' ' || !at[length])) { return true; }
        }
        word += length + (word[length] == ',');
    }
    return false;
}

// Every word must be one of some class.
static void check_new_words(const SynthOptions *options) {
    const char *list = options->new_words;
    for (const char *word = list; word && *word;) {
        size_t length = strcspn(word, ",");
        char *one = xprintf("%.*s", (int)length, word);
        bool found = false;
        for (int c = 0; c < synth_classes(options); c++) { found |= has_word(synth_class_name(c), one); }
        if (!found) {
            die("--new-words %s: \"%s\" is no word of a class, expected colours, shapes or person", list, one);
        }
        free(one);
        word += length + (word[length] == ',');
    }
}

typedef enum { SEEN, UNSEEN, KNOWN, NEW_COMBINATIONS, NEW_WORDS, LISTS } ClassList;
static const char *const list_names[] = {"seen", "unseen", "known", "new-combinations", "new-words"};

static bool belongs(int class_index, ClassList list, const char *new_words) {
    bool held_out = synth_held_out(class_index), new_word = has_word(synth_class_name(class_index), new_words);
    return list == NEW_WORDS ? new_word
                             : !(list >= KNOWN && new_word) && held_out == (list == UNSEEN || list == NEW_COMBINATIONS);
}

static void write_class_list(const char *folder, ClassList list, const SynthOptions *options) {
    make_folders(path_of("%s/classes", folder).text);
    AtomicFile file = atomic_open(path_of("%s/classes/%s.txt", folder, list_names[list]).text);
    for (int c = 0; c < synth_classes(options); c++) {
        if (belongs(c, list, options->new_words)) { fprintf(file.stream, "%s\n", synth_class_name(c)); }
    }
    atomic_commit(&file);
}

typedef struct {
    const char *name;
    double value, absent; // absent: what a file without the field means
} Field;
// The versions of the code that draws and of the code that speaks: raise them when pictures or texts change.
enum { FIELDS = 9, SCENES_VERSION = 1, TEXTS_VERSION = 1 };

static void options_fields(const SynthOptions *o, Field fields[FIELDS]) {
    const Field all[FIELDS] = {{"scenes_version", SCENES_VERSION},
                               {"width", o->width},
                               {"height", o->height},
                               {"train", o->train},
                               {"val", o->val},
                               {"texts_version", TEXTS_VERSION},
                               {"object_size", o->object_size},
                               {"frequent_share", o->frequent_share, -1},
                               {"colors", o->colors, 6}};
    memcpy(fields, all, sizeof all);
}

static void write_options(const char *folder, const SynthOptions *options) {
    Field fields[FIELDS];
    options_fields(options, fields);
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_integer(gen, "seed", (long long)options->seed);
    for (int i = 0; i < FIELDS; i++) {
        long long whole = (long long)fields[i].value;
        if (fields[i].value == (double)whole) {
            json_put_integer(gen, fields[i].name, whole);
        } else {
            json_put_number(gen, fields[i].name, fields[i].value);
        }
    }
    if (options->new_words) { json_put_string(gen, "new_words", options->new_words); }
    yajl_gen_map_close(gen);
    json_write(gen, path_of("%s/synth.json", folder).text);
}

static void compare_options(const Json *json, const SynthOptions *options) {
    static const char advice[] = "choose another folder, or remove this one first";
    Field fields[FIELDS];
    options_fields(options, fields);
    long long seed = json_integer(json, "seed", -1, LLONG_MIN, LLONG_MAX);
    if (seed != (long long)options->seed) {
        die("%s: field \"seed\" is %lld, but %lld is asked for: %s", json->path, seed, (long long)options->seed,
            advice);
    }
    for (int i = 0; i < FIELDS; i++) {
        double value = json_number(json, fields[i].name, fields[i].absent);
        if (value == fields[i].value) { continue; }
        die("%s: field \"%s\" is %g, but %g is asked for: %s", json->path, fields[i].name, value, fields[i].value,
            advice);
    }
    const char *words = json_string(json, "new_words", ""), *wanted = options->new_words ? options->new_words : "";
    if (strcmp(words, wanted) != 0) {
        die("%s: field \"new_words\" is \"%s\", but \"%s\" is asked for: %s", json->path, words, wanted, advice);
    }
}

// True if the folder holds these scenes already; dies if it holds something else.
static bool already_there(const char *folder, const SynthOptions *options) {
    Path path = path_of("%s/synth.json", folder);
    if (!file_exists(path.text)) {
        if (!file_exists(folder) && folder_empty(folder)) { return false; }
        die("%s: exists and is not a folder of `cocogold synth`: expected a new or empty folder", folder);
    }
    Json json = json_read(path.text);
    compare_options(&json, options);
    json_free(&json);
    return true;
}

void synth_write(const char *folder, const SynthOptions *options) {
    check_new_words(options);
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/') { length--; }
    char *final = xprintf("%.*s", (int)length, folder);
    free(temporary_name(final)); // brings back a folder that a killed process has moved away
    if (already_there(final, options)) {
        printf("%s: already holds the %d + %d scenes\n", final, options->train, options->val);
    } else {
        char *temporary = temporary_folder(final);
        write_split(temporary, options, false);
        write_split(temporary, options, true);
        for (int list = 0; list < (options->new_words ? LISTS : KNOWN); list++) {
            write_class_list(temporary, (ClassList)list, options);
        }
        write_options(temporary, options);
        commit_rename(temporary, final);
        cleanup_remove(temporary);
        printf("%s: %d training and %d validation scenes of %dx%d pixels, %d classes (%d held out)\n", final,
               options->train, options->val, options->width, options->height, synth_classes(options), options->colors);
        free(temporary);
    }
    free(final);
}
