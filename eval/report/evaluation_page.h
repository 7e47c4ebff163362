// Self-contained HTML pages: one evaluation, and several runs side by side. They are made from metrics.json and
// log.jsonl alone, so that page and files agree.
#pragma once
#include "eval/gallery.h"
#include "eval/report/curves.h"
#include "util/json.h"

// metrics: as of result_json. gallery and dataset (for its captions) may be NULL; runs may be none.
void report_evaluation(const char *path, const Json *metrics, const Gallery *gallery, const Dataset *dataset,
                       const RunCurves *runs, int run_count);
// names: one per evaluation.
void report_comparison(const char *path, const Json *metrics, const char *const *names, int count,
                       const RunCurves *runs, int run_count);
