// log.jsonl of a run and metrics.json of an evaluation, and the page that `report` makes of them (eval/report).
#include "eval/report/evaluation_page.h"
#include "tests/fuzz/fuzz.h"
#include "util/error.h"
#include <unistd.h>

const char *const fuzz_files[] = {"log.jsonl", "metrics.json", NULL};
void fuzz_begin(void) {}
void fuzz_died(void) {}

void fuzz_one(void) {
    static const char *const names[] = {"overlay"};
    RunCurves run = {0};
    Json metrics = {0};
    int runs = fuzz_has("log.jsonl"), evaluations = fuzz_has("metrics.json");
    if (runs) { run = curves_read(fuzz_path("")); }
    if (evaluations) { metrics = json_read(fuzz_path("metrics.json")); }
    if (evaluations && !json_find(metrics.root, "seen")) { die("as cmd_report.c"); }
    report_comparison(fuzz_path("report.html"), &metrics, names, evaluations, &run, runs);
    if (evaluations) { report_evaluation(fuzz_path("one.html"), &metrics, NULL, NULL, &run, runs); }
    if (runs) { curves_free(&run); }
    if (evaluations) { json_free(&metrics); }
}
