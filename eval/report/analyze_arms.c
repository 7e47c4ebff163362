// `cocogold analyze arms`: what the runs of an experiment say together.
#include "eval/report/analyze.h"
#include "eval/report/experiment_page.h"
#include "util/error.h"
#include "util/options.h"

int analyze_arms(int argc, char **argv, const char *command) {
    char *arms = NULL, *latents = NULL, *out = ".";
    int resamples = 1000;
    long long seed = 2024;
    struct poptOption table[] = {
        {"arms", 0, POPT_ARG_STRING, &arms, 0, "folder with ARM/seed-N/, as failure_and_fix.sh makes it", "DIR"},
        {"latents", 0, POPT_ARG_STRING, &latents, 0, "latents.json of `cocogold analyze latents`, to be shown as well",
         "FILE"},
        {"out", 0, OPT_STRING, &out, 0, "folder for report.html and experiment.json", "DIR"},
        {"bootstrap", 0, OPT_INT, &resamples, 0, "resamples for the 95% intervals (over pictures and runs)", "N"},
        {"seed", 0, OPT_LONG, &seed, 0, "of the bootstrap", "N"},
        OPTIONS_END};
    options_parse(argc, argv, table, "--arms DIR [--latents FILE] [--out DIR]",
                  "Compares the arms of an experiment: curves, differences with intervals, collapse, filmstrips.", 0);
    options_require(arms, "--arms", "a folder with ARM/seed-N/");
    options_range(resamples, "--bootstrap", 10, 1e6);
    Experiment e = experiment_read(arms);
    ExperimentRecord record = {.command = command, .latents = latents, .resamples = resamples, .seed = (uint64_t)seed};
    experiment_report(&e, &record, out);
    experiment_free(&e);
    return 0;
}
