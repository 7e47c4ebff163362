// The runs of an experiment: arm.json, logs and tables of four arms, leak.json and latents.json, and the page that
// `analyze arms` makes of them (eval/report/experiment*.c).
#include "eval/report/experiment_page.h"
#include "tests/fuzz/fuzz.h"
#include <stdlib.h>
#include <string.h>

#define RUN(arm)                                                                                                       \
    "arms/" arm "/seed-1/arm.json", "arms/" arm "/seed-1/log.jsonl", "arms/" arm "/seed-1/noise/metrics.json",         \
        "arms/" arm "/seed-1/noise/pairs.csv", "arms/" arm "/seed-1/truth/pairs.csv",                                  \
        "arms/" arm "/seed-1/absent/pairs.csv", "arms/" arm "/seed-1/validation/step-000000.csv",                      \
        "arms/" arm "/seed-1/validation/step-000000-losses.csv", "arms/" arm "/seed-1/validation/step-000002.csv",     \
        "arms/" arm "/seed-1/validation/step-000002-losses.csv", "arms/" arm "/seed-1/validation/truth.png"
const char *const fuzz_files[] = {
    RUN("mask"), RUN("overlay"), RUN("overlay+leak-a"), RUN("overlay+leak-b"), "leak.json", "latents.json", NULL};
void fuzz_begin(void) {}
void fuzz_died(void) {}

void fuzz_one(void) {
    char *arms = strdup(fuzz_path("arms")), *leak = strdup(fuzz_path("leak.json")),
         *latents = strdup(fuzz_path("latents.json"));
    Experiment e = experiment_read(arms);
    ExperimentRecord record = {.command = "analyze arms", .resamples = 10, .seed = 1};
    if (fuzz_has("leak.json")) { record.leak = leak; }
    if (fuzz_has("latents.json")) { record.latents = latents; }
    experiment_report(&e, &record, fuzz_path(""));
    experiment_free(&e);
    free(latents);
    free(leak);
    free(arms);
}
