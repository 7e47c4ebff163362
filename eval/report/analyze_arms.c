// `cocogold analyze arms`: what the runs of an experiment say together.
#include "eval/report/analyze.h"
#include "eval/report/experiment_page.h"
#include "util/error.h"
#include "util/options.h"

int analyze_arms(int argc, char **argv, const char *command) {
    char *arms = NULL, *latents = NULL, *out = ".";
    int resamples = 1000;
    long long seed = 2024;
    Option table[] = {{OPT_STRING, "arms", &arms, "folder with ARM/seed-N/, as failure_and_fix.sh makes it", "DIR",
                       .required = "a folder with ARM/seed-N/"},
                      {OPT_STRING, "latents", &latents,
                       "latents.json of `cocogold analyze latents`, which the page shows too", "FILE"},
                      {OPT_STRING, "out", &out, "folder for report.html and experiment.json", "DIR"},
                      {OPT_INT, "bootstrap", &resamples, "resamples for the 95% intervals (over pictures and runs)",
                       "N", .low = 10, .high = 1e6},
                      {OPT_LONG, "seed", &seed, "seed of the bootstrap", "N"},
                      OPTIONS_END};
    static const OptionsHelp help = {
        .about = "Compares the arms of an experiment: curves, differences with intervals, collapse, "
                 "filmstrips.",
        .usage = "--arms DIR [--latents FILE] [--out DIR]",
        .example = "--arms reproduce --out reproduce"};
    options_parse(argc, argv, table, &help, 0);
    Experiment e = experiment_read(arms);
    ExperimentRecord record = {.command = command, .latents = latents, .resamples = resamples, .seed = (uint64_t)seed};
    experiment_report(&e, &record, out);
    experiment_free(&e);
    return 0;
}
