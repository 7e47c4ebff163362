#include "eval/report/starts_page.h"
#include "eval/report/page.h"
#include "util/csv.h"
#include "util/error.h"
#include <math.h>
#include <stdlib.h>

static const struct {
    const char *key, *name;
} answers[ANSWERS] = {
    [START_NOISE] = {"noise", "noise"},
    [START_TRUTH] = {"truth", "a little of the true map"},
    [START_MEAN] = {"mean", "of the mean map"},
    [START_IMAGE] = {"image", "of the picture"},
    [ANSWER_CONSTANT] = {"constant", "floor: the true mean everywhere"},
    [ANSWER_CEILING] = {"ceiling", "ceiling: the true map through the VAE"},
};
static const char *const error_names[] = {[MAP_DEPTH] = "AbsRel", [MAP_PICTURE] = "mean error"};
static const char *const good_names[] = {[MAP_DEPTH] = "delta1", [MAP_PICTURE] = "within 0.1"};

typedef struct {
    const StartRecord *record;
    const StartItem *items;
    int count;
    double signal; // share of the map at the first timestep
    Interval error[ANSWERS], good[ANSWERS];
    Interval gain[ANSWERS]; // of the starts: the error from noise minus the error from this start, by picture
} StartFindings;

static Interval interval_of(const StartFindings *f, int answer, bool good, bool gain) {
    double *values = xmalloc((size_t)f->count * sizeof *values);
    for (int i = 0; i < f->count; i++) {
        const MapScore *s = &f->items[i].scores[answer], *noise = &f->items[i].scores[START_NOISE];
        values[i] = good ? s->good : gain ? noise->error - s->error : s->error;
    }
    Interval interval = bootstrap_mean(values, f->count, f->record->resamples, f->record->analysis->seed);
    free(values);
    return interval;
}

static StartFindings find(const StartRecord *record, const StartItem *items, int count) {
    StartFindings f = {.record = record, .items = items, .count = count};
    f.signal = schedule_first_signal(&record->analysis->pipeline->schedule, record->analysis->steps);
    for (int k = 0; k < ANSWERS; k++) {
        f.error[k] = interval_of(&f, k, false, false);
        f.good[k] = interval_of(&f, k, true, false);
        f.gain[k] = interval_of(&f, k, false, true);
    }
    return f;
}

// Of fewer pictures that all change in one direction chance alone makes more than 5% (2 of 2^n).
enum { FEWEST = 6 };

// One sentence with the answer, by the interval of the gain. Freed by the caller.
static char *conclusion(const StartFindings *f) {
    const Interval *gain = &f->gain[START_TRUTH];
    if (f->signal < 1e-3) {
        return xprintf("The schedule leaves %.1g of the map at the first timestep: there is nothing to read, and all "
                       "starts are noise.",
                       f->signal);
    }
    char *interval = f->record->resamples ? xprintf(", %.3f to %.3f", gain->low, gain->high) : xstrdup("");
    const char *what = !f->record->resamples ? "Without intervals (--bootstrap 0) chance is not ruled out"
                       : f->count < FEWEST
                           ? "The pictures are too few to say whether the model reads from what the schedule leaves"
                       : gain->low > 0  ? "The model reads from what the schedule leaves"
                       : gain->high < 0 ? "The model is worse with a little of the true map in its start"
                                        : "There is no sign that the model reads from what the schedule leaves";
    char *sentence =
        xprintf("%s: with %.3g of the true map in its start, its %s is %.3f instead of %.3f (%.3f less%s).", what,
                f->signal, error_names[f->record->analysis->kind], f->error[START_TRUTH].value,
                f->error[START_NOISE].value, gain->value, interval);
    free(interval);
    return sentence;
}

static void print_table(const StartFindings *f) {
    MapKind kind = f->record->analysis->kind;
    char a[48], b[48];
    printf("\n%-40s %24s  %24s\n", "start", error_names[kind], good_names[kind]);
    for (int k = 0; k < ANSWERS; k++) {
        printf("%-40s %24s  %24s\n", answers[k].name, interval_text(f->error[k], true, a),
               interval_text(f->good[k], true, b));
    }
    char *sentence = conclusion(f);
    printf("\n%s\n", sentence);
    free(sentence);
}

static void write_json(const StartFindings *f, const char *path) {
    const StartAnalysis *a = f->record->analysis;
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_integer(gen, "pictures", f->count);
    json_put_integer(gen, "left_out", f->record->left_out);
    json_put_number(gen, "first_signal", f->signal);
    json_open_map(gen, "starts");
    for (int k = 0; k < ANSWERS; k++) {
        json_open_map(gen, answers[k].key);
        json_put_interval(gen, "error", f->error[k]);
        json_put_interval(gen, "good", f->good[k]);
        if (k != START_NOISE && k <= START_IMAGE) { json_put_interval(gen, "gain", f->gain[k]); }
        yajl_gen_map_close(gen);
    }
    yajl_gen_map_close(gen);
    char *sentence = conclusion(f);
    json_put_string(gen, "conclusion", sentence);
    free(sentence);
    json_open_map(gen, "config");
    json_put_string(gen, "command", f->record->command);
    json_put_string(gen, "model", a->pipeline->folder);
    json_put_string(gen, "maps", a->maps);
    json_put_string(gen, "kind", map_kind_names[a->kind]);
    json_put_string(gen, "text", a->text);
    json_put_boolean(gen, "pad_text", a->pad_text);
    json_put_integer(gen, "resolution", a->side);
    json_put_integer(gen, "steps", a->steps);
    json_put_integer(gen, "bootstrap", f->record->resamples);
    json_put_integer(gen, "seed", (long long)a->seed);
    json_put_string(gen, "device", f->record->device);
    yajl_gen_map_close(gen);
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

static void write_pictures(const StartFindings *f, const char *path) {
    AtomicFile file = atomic_open(path);
    fputs("picture", file.stream);
    for (int k = 0; k < ANSWERS; k++) { fprintf(file.stream, ",error_%s,good_%s", answers[k].key, answers[k].key); }
    fputs("\n", file.stream);
    for (int i = 0; i < f->count; i++) {
        csv_put_text(file.stream, f->items[i].path);
        for (int k = 0; k < ANSWERS; k++) {
            fprintf(file.stream, ",%.6g,%.6g", f->items[i].scores[k].error, f->items[i].scores[k].good);
        }
        fputs("\n", file.stream);
    }
    atomic_commit(&file);
}

static void table(FILE *out, const StartFindings *f) {
    MapKind kind = f->record->analysis->kind;
    char a[48], b[48];
    html(out, "<div class=\"card scroll\"><table id=\"starts\"><tr><th>start</th><th>%s</th><th>%s</th></tr>\n",
         error_names[kind], good_names[kind]);
    for (int k = 0; k < ANSWERS; k++) {
        html(out, "<tr><td>%s</td><td>%s</td><td>%s</td></tr>\n", answers[k].name, interval_text(f->error[k], true, a),
             interval_text(f->good[k], true, b));
    }
    fputs("</table></div>\n", out);
}

static void examples(FILE *out, const StartFindings *f) {
    fputs("<h2>Examples</h2>\n<div class=\"card scroll\"><table class=\"strips\" id=\"examples\"><tr><th>picture</th>"
          "<th>true map</th>",
          out);
    for (int k = 0; k <= START_IMAGE; k++) { html(out, "<th>%s</th>", answers[k].name); }
    fputs("</tr>\n", out);
    for (int i = 0; i < f->count && i < START_EXAMPLES; i++) {
        const StartItem *item = &f->items[i];
        fputs("<tr><td>", out);
        html_image(out, &item->picture, "picture");
        fputs("</td><td>", out);
        html_image(out, &item->truth, "true map");
        for (int k = 0; k <= START_IMAGE; k++) {
            fputs("</td><td>", out);
            html_image(out, &item->answers[k], answers[k].name);
        }
        fputs("</td></tr>\n", out);
    }
    fputs("</table></div>\n", out);
}

static void definitions(FILE *out, const StartFindings *f) {
    const StartAnalysis *a = f->record->analysis;
    fputs(
        "<h2 id=\"definitions\">What the numbers mean</h2>\n<div class=\"card\"><dl>"
        "<dt>Start</dt><dd>Sampling starts from white noise, or from a &middot; latent + &radic;(1 - a&sup2;) &middot; "
        "white noise, with a the root of the first timestep's cumulative alpha. The latent "
        "is that of the true map, of the mean map (the mean of each channel), or of the picture. All starts of a "
        "picture have the same noise.</dd>"
        "<dt>AbsRel, delta1</dt><dd>Of depth, after the scale and shift that fit best: the mean of |answer - truth| "
        "/ truth, and the share of pixels whose answer is within a factor of 1.25 of the truth. Measured at the "
        "model's resolution, where the truth is not 0.</dd>"
        "<dt>Mean error, within 0.1</dt><dd>Of pictures: the mean of |answer - truth|, and the share of values with "
        "less than 0.1 of it, in [0, 1].</dd>"
        "<dt>Intervals</dt><dd>95% percentile bootstrap over pictures; for differences, of the differences by "
        "picture.</dd></dl></div>\n",
        out);
    html(
        out,
        "<details open><summary>How it was made</summary><p><code>%s</code></p><p class=\"small\">%d pictures (%d left "
        "out), %d pixels, %d steps, seed %llu, %s</p></details>\n",
        f->record->command, f->count, f->record->left_out, a->side, a->steps, (unsigned long long)a->seed,
        f->record->device);
}

static void write_page(const StartFindings *f, const char *path) {
    static const char title[] = "What does the model read from its start?";
    AtomicFile page = page_begin(path, title);
    char *sentence = conclusion(f);
    html(page.stream, "<h1>%s</h1>\n<p class=\"lead\">%d pictures, answered by %s.</p>\n", title, f->count,
         f->record->analysis->pipeline->folder);
    html(page.stream, "<ul class=\"lead\" id=\"conclusions\"><li>%s</li></ul>\n", sentence);
    table(page.stream, f);
    examples(page.stream, f);
    definitions(page.stream, f);
    page_end(&page);
    free(sentence);
}

void starts_report(const StartRecord *record, const StartItem *items, int count, const char *folder) {
    StartFindings f = find(record, items, count);
    print_table(&f);
    Path json = path_of("%s/starts.json", folder), csv = path_of("%s/pictures.csv", folder);
    Path page = path_of("%s/starts.html", folder);
    write_json(&f, json.text);
    write_pictures(&f, csv.text);
    write_page(&f, page.text);
    printf("wrote %s, %s, %s\n", page.text, json.text, csv.text);
}
