// cocogold synth: draw a procedural data set in COCO's layout.
#include "data/synth.h"
#include "util/error.h"
#include "util/options.h"

int cmd_synth(int argc, char **argv) {
    int width = 64, height = 0, train = 2000, val = 400;
    long long seed = 1;
    struct poptOption table[] = {
        {"size", 0, OPT_INT, &width, 0, "width of the pictures in pixels", "PIXELS"},
        {"height", 0, OPT_INT, &height, 0, "height of the pictures (0: as wide)", "PIXELS"},
        {"train", 0, OPT_INT, &train, 0, "number of training scenes", "N"},
        {"val", 0, OPT_INT, &val, 0, "number of validation scenes, which contain the held-out classes", "N"},
        {"seed", 0, OPT_LONG, &seed, 0, "another seed, other scenes", "SEED"},
        OPTIONS_END};
    const char **folder =
        options_parse(argc, argv, table, "[OPTIONS] DIR",
                      "Draws scenes of coloured shapes and persons, with annotations as COCO has them.", 1);
    options_require(folder[0], "DIR", "the folder to write");
    options_range(width, "--size", 32, 4096);
    if (height) { options_range(height, "--height", 32, 4096); }
    options_range(train, "--train", 1, 999999);
    options_range(val, "--val", 1, 999999);
    SynthOptions options = {width, height ? height : width, train, val, (uint64_t)seed};
    synth_write(folder[0], &options);
    return 0;
}
