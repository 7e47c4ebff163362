// cocogold report: one page that shows runs and their evaluations side by side.
#include "eval/report/evaluation_page.h"
#include "util/error.h"
#include "util/file.h"
#include "util/options.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int length(char **list) {
    int n = 0;
    while (list && list[n]) { n++; }
    return n;
}

// A column's name: "runs/overlay/metrics.json" -> "overlay", and "runs/overlay/eval/metrics.json" -> "overlay/eval".
static char *name_of(const char *path) {
    char *name = xstrdup(path), *slash = strrchr(name, '/');
    if (slash && strcmp(slash, "/metrics.json") == 0) { *slash = 0; }
    slash = strrchr(name, '/');
    if (slash && strncmp(slash, "/eval", 5) == 0) {
        *slash = 0;
        char *before = strrchr(name, '/');
        *slash = '/';
        slash = before;
    }
    char *tail = xstrdup(slash ? slash + 1 : name);
    free(name);
    return tail;
}

// Those with the same name, such as the runs demo/unet and demo-mask/unet, get their whole path as name.
static void tell_apart(char **names, char *const *paths, int count) {
    bool *same = xcalloc((size_t)count + 1, sizeof *same);
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < count; k++) { same[i] |= k != i && strcmp(names[i], names[k]) == 0; }
    }
    for (int i = 0; i < count; i++) {
        if (!same[i]) { continue; }
        free(names[i]);
        names[i] = xstrdup(paths[i]);
    }
    free(same);
}

static RunCurves *read_curves(char *const *runs, int count) {
    RunCurves *curves = xcalloc((size_t)count + 1, sizeof *curves);
    char **names = xcalloc((size_t)count + 1, sizeof *names);
    for (int i = 0; i < count; i++) {
        curves[i] = curves_read(runs[i]);
        names[i] = curves[i].name;
    }
    tell_apart(names, runs, count);
    for (int i = 0; i < count; i++) { curves[i].name = names[i]; }
    free(names);
    return curves;
}

int cmd_report(int argc, char **argv) {
    char **runs = NULL, **evaluations = NULL, *out = "report.html";
    Option table[] = {{OPT_LIST, "run", &runs, "folder of a training run with its log.jsonl (may be repeated)", "DIR"},
                      {OPT_LIST, "eval", &evaluations, "metrics.json of an evaluation (may be repeated)", "FILE"},
                      {OPT_STRING, "out", &out, "the page to write", "FILE"},
                      OPTIONS_END};
    static const OptionsHelp help = {
        .about = "Writes one HTML page with the training curves and the evaluations of several runs.",
        .usage = "[--run DIR ...] [--eval metrics.json ...] [--out report.html]",
        .example = "--run overlay --run mask --eval overlay/metrics.json --eval mask/metrics.json"};
    options_parse(argc, argv, table, &help, 0);
    int run_count = length(runs), count = length(evaluations);
    if (run_count + count == 0) { die("nothing to report: expected --run DIR or --eval metrics.json"); }
    RunCurves *curves = read_curves(runs, run_count);
    want_output("--out", out);
    Json *metrics = xcalloc((size_t)count + 1, sizeof *metrics);
    char **names = xcalloc((size_t)count + 1, sizeof *names);
    for (int i = 0; i < count; i++) {
        metrics[i] = json_read(evaluations[i]);
        if (!json_find(metrics[i].root, "seen")) {
            die("%s: the field \"seen\" is missing: expected metrics.json of `cocogold eval`", evaluations[i]);
        }
        names[i] = name_of(evaluations[i]);
    }
    tell_apart(names, evaluations, count);
    report_comparison(out, metrics, (const char *const *)names, count, curves, run_count);
    printf("wrote %s\n", out);
    for (int i = 0; i < run_count; i++) { curves_free(&curves[i]); }
    for (int i = 0; i < count; i++) {
        json_free(&metrics[i]);
        free(names[i]);
    }
    free(curves);
    free(metrics);
    free(names);
    return 0;
}
