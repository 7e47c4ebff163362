// cocogold analyze arms: comparison of the runs of an experiment.
#include "eval/report/experiment_page.h"
#include "util/file.h"
#include "util/options.h"

int analyze_arms(int argc, char **argv, const char *command) {
    char *arms = NULL, *words = NULL, *unscaled = NULL, *latents = NULL, *leak = NULL, *out = ".";
    int resamples = 1000;
    long long seed = 2024;
    Option table[] = {
        {OPT_STRING, "arms", &arms, "folder with ARM/seed-N/, from failure_and_fix.sh", "DIR",
         .required = "a folder with ARM/seed-N/"},
        {OPT_STRING, "words", &words, "the same, of the runs from scratch and pretrained", "DIR"},
        {OPT_STRING, "unscaled", &unscaled, "the same, of the runs with Stable Diffusion's schedule and latent size",
         "DIR"},
        {OPT_STRING, "leak", &leak, "leak.json of `cocogold analyze leak`, to include in the page", "FILE"},
        {OPT_STRING, "latents", &latents, "latents.json of `cocogold analyze latents`, to include in the page", "FILE"},
        {OPT_STRING, "out", &out, "folder for report.html and experiment.json", "DIR"},
        {OPT_INT, "bootstrap", &resamples, "bootstrap resamples (over pictures and runs)", "N", .low = 10, .high = 1e6},
        {OPT_LONG, "seed", &seed, "seed of the bootstrap", "N"},
        OPTIONS_END};
    static const OptionsHelp help = {
        .about = "Compares the arms of an experiment: failures, differences with intervals, curves, pictures.",
        .usage = "--arms DIR [--latents FILE] [--out DIR]",
        .example = "--arms reproduce/arms --out reproduce"};
    options_parse(argc, argv, table, &help, 0);
    want_folder(out);
    Experiment e = experiment_read(arms), more[2] = {0};
    ExperimentRecord record = {
        .command = command, .latents = latents, .leak = leak, .resamples = resamples, .seed = (uint64_t)seed};
    if (words) { record.words = &more[0], more[0] = experiment_read(words); }
    if (unscaled) { record.unscaled = &more[1], more[1] = experiment_read(unscaled); }
    experiment_report(&e, &record, out);
    experiment_free(&e);
    for (int i = 0; i < 2; i++) { experiment_free(&more[i]); }
    return 0;
}
