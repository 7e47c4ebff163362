// What --resume reads: a checkpoint's state.json and the run's log (train/checkpoint.c, train/run_folder.c,
// train/record.c).
#include "tests/fuzz/fuzz.h"
#include "train/checkpoint.h"
#include "train/record.h"
#include "train/run_log.h"
#include "util/file.h"
#include <string.h>

const char *const fuzz_files[] = {"out/checkpoint-000004/trainer/state.json", "out/log.jsonl", NULL};
void fuzz_died(void) {}

static TrainOptions options;
static double rate = 0.5;
static int rows = 2;
static char *classes = "all";
static long long seed = 7;
static Option table[] = {{OPT_DOUBLE, "learning-rate", &rate, "", ""},
                         {OPT_INT, "train-batch-size", &rows, "", ""},
                         {OPT_STRING, "classes", &classes, "", ""},
                         {OPT_LONG, "seed", &seed, "", ""},
                         OPTIONS_END};
static Stream stream;
static char out[512];

void fuzz_begin(void) {
    options = train_options_default();
    options.out = strcpy(out, fuzz_path("out"));
    options.resume = 1;
    options.command = "train";
    options.command_line = "cocogold train";
    options.table = table;
    stream_add(&stream, "samples", "the number of samples", "%d", 40);
    stream_add(&stream, "paint", "the paint", "%s", "--outline 0");
}

void fuzz_one(void) {
    static Comm comm = {.world = 1};
    RunFolder run = run_folder_open(&options, &comm);
    RunLog log = {.run = &run};
    if (run.checkpoint) {
        Json state = json_read(fuzz_path(fuzz_files[0]));
        record_check(&options, json_find(state.root, "options"), state.path);
        stream_check(&stream, json_find(state.root, "stream"), state.path);
        json_free(&state);
    }
    run_folder_begin(&run);
    run_log_open(&log, 1, 1, NULL);
    run_log_close(&log);
    run_folder_close(&run);
    remove_tree(fuzz_path("out/tensorboard"));
}
