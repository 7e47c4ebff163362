// cocogold synth: draw a procedural data set in COCO's layout.
#include "data/synth.h"
#include "util/error.h"
#include "util/options.h"

int cmd_synth(int argc, char **argv) {
    int width = 64, height = 0, train = 2000, val = 400, colors = 6;
    long long seed = 1;
    double object_size = 1, frequent_share = 0.26;
    char *new_words = NULL;
    Option table[] = {
        {OPT_INT, "size", &width, "width of the pictures in pixels", "PIXELS", .low = 32, .high = 4096},
        {OPT_INT, "height", &height, "height of the pictures (0: same as the width)", "PIXELS"},
        {OPT_INT, "train", &train, "number of training scenes", "N", .low = 1, .high = 999999},
        {OPT_INT, "val", &val, "number of validation scenes, which contain the held-out classes", "N", .low = 1,
         .high = 999999},
        {OPT_LONG, "seed", &seed, "seed of the scenes", "SEED"},
        {OPT_DOUBLE, "object-size", &object_size, "scale of the objects", "FACTOR", .low = 0.25, .high = 2},
        {OPT_DOUBLE, "frequent-share", &frequent_share, "share of objects of the frequent class \"person\"", "SHARE",
         .high = 1},
        {OPT_INT, "colors", &colors,
         "number of colours of the shapes: the first of red, green, blue, yellow, purple, orange, cyan, pink, brown, "
         "black",
         "N", .low = 2, .high = SYNTH_COLORS},
        {OPT_STRING, "new-words", &new_words,
         "also list the classes without and with these words, e.g. orange,cross,person, in "
         "classes/known.txt, new-combinations.txt and new-words.txt",
         "LIST"},
        OPTIONS_END};
    static const OptionsHelp help = {
        .about = "Draws scenes of coloured shapes and people, with annotations in COCO's format.",
        .usage = "[OPTIONS] DIR",
        .example = "--train 2000 --val 400 scenes"};
    const char **folder = options_parse(argc, argv, table, &help, 1);
    options_require(folder[0], "DIR", "the folder to write");
    if (new_words) { options_require(new_words, "--new-words", "words of classes, e.g. orange,cross"); }
    if (height) { options_range(height, "--height", 32, 4096); }
    SynthOptions options = {.width = width,
                            .height = height ? height : width,
                            .train = train,
                            .val = val,
                            .seed = (uint64_t)seed,
                            .colors = colors,
                            .object_size = object_size,
                            .frequent_share = frequent_share,
                            .new_words = new_words};
    synth_write(folder[0], &options);
    return 0;
}
