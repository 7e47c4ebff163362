// The frame of a self-contained HTML page, and the parts that several reports have.
#pragma once
#include "data/image.h"
#include "eval/metrics.h"
#include "eval/report/curves.h"
#include "eval/stats.h"
#include "util/file.h"
#include "util/json.h"
#include <stdbool.h>
#include <stdio.h>

AtomicFile page_begin(const char *path, const char *title); // write to its stream
void page_end(AtomicFile *page);
// As fprintf, for the conversions %s %d %u %lld %llu %f %g and %%; the texts of %s are escaped.
void html(FILE *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
// The start of an <img> with a picture file inside, without attributes and ">". kind: "png", "jpeg" or "svg+xml".
void html_file(FILE *out, const char *kind, const void *bytes, size_t size);
void html_image(FILE *out, const Image *image, const char *alternative); // <img> with the picture inside
// <figure id=...> with its caption, around one of the charts: figure_begin, chart_..., figure_end.
void figure_begin(FILE *out, const char *id, const char *title);
void figure_end(FILE *out, const char *caption); // caption may be NULL
// <td> with a number, or a dash where it is NaN. format: of the number, e.g. "%.3f".
void html_cell(FILE *out, const char *format, double value);

// "0.931 (0.924-0.938)": with three decimals, else with four digits.
const char *interval_text(Interval interval, bool decimals, char buffer[48]);
void json_put_interval(yajl_gen gen, const char *key, Interval interval);

// Sizes of objects (eval/metrics.h), the last for all: in tables, in JSON, and the order of both.
extern const char *const size_names[OBJECT_SIZES + 1], *const size_keys[OBJECT_SIZES + 1];
extern const int size_order[OBJECT_SIZES + 1];

// Training curves of several runs, and what the numbers of metrics.json (`cocogold eval`) mean.
void page_training(FILE *out, const RunCurves *runs, int count);
void page_definitions(FILE *out, const Json *metrics, int count);
