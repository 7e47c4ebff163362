#include "eval/report/experiment_page.h"
#include "eval/report/findings.h"
#include "eval/report/page.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include "util/text.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// The contents of both the page and the JSON file.
typedef struct {
    const ExperimentRecord *record;
    Findings main, words, unscaled; // the latter two only where the record has them
    Sentences sentences;
} Report;

// ---- the latents ---------------------------------------------------------------------------------------------------

static void latents_row(FILE *out, const Json *json, const char *name, const char *path) {
    html(out, "<tr><td>%s</td>", name);
    for (int k = 0; k < 2; k++) {
        char *full = xprintf("%s.all.%s", k ? "mask" : "overlay", path);
        fprintf(out, "<td>%.3f</td>", json_number_at(json->root, full));
        free(full);
    }
    fputs("</tr>\n", out);
}

// The scatter pictures are in the folder of latents.json.
static void embed_scatter(FILE *out, const char *latents, const char *representation) {
    const char *slash = strrchr(latents, '/');
    char *path = xprintf("%.*slatents-%s.svg", slash ? (int)(slash - latents + 1) : 0, latents, representation);
    char *id = xprintf("fig-latents-%s", representation);
    if (file_exists(path)) {
        size_t size;
        char *svg = read_file(path, &size);
        figure_begin(out, id, strcmp(representation, "mask") ? "Painted on the picture" : "Bare mask");
        html_file(out, "svg+xml", svg, size); // as a picture, in which no script runs
        html(out, " alt=\"%s\" style=\"width:100%%\">", representation);
        figure_end(out, "Every point is one mask of one object.");
        free(svg);
    }
    free(id);
    free(path);
}

static void latents_section(FILE *out, const char *path) {
    if (!path) { return; }
    Json json = json_read(path);
    fputs("<h2 id=\"latents\">Latents without training</h2>\n<p class=\"small\">Masks of known IoU, encoded by the VAE "
          "without any training (cocogold analyze latents).</p>\n<div class=\"two\">\n",
          out);
    embed_scatter(out, path, "overlay");
    embed_scatter(out, path, "mask");
    fputs("</div>\n<div class=\"card\" "
          "style=\"margin-top:16px\"><table><tr><th></th><th>overlay</th><th>mask</th></tr>\n",
          out);
    latents_row(out, &json, "IoU ordered by latent MSE, within a sample (Spearman)", "order.value");
    latents_row(out, &json, "best constant answer / mask that misses by one pixel", "constant_over_one_pixel");
    latents_row(out, &json, "object's share of a target's energy", "object_energy");
    latents_row(out, &json, "IoU after encoding and decoding", "round_trip_iou.value");
    fputs("</table></div>\n", out);
    json_free(&json);
}

// ---- the page ------------------------------------------------------------------------------------------------------

static void commands(FILE *out, const Experiment *e) {
    for (int a = 0; a < e->arm_count; a++) {
        for (int i = 0; i < e->arms[a].run_count; i++) {
            const ArmRun *run = &e->arms[a].runs[i];
            html(out, "<p><b>%s</b><br><code>%s</code></p>\n", run->folder,
                 run->curves.command ? run->curves.command : "not recorded");
        }
    }
}

static void how(FILE *out, const Report *r) {
    html(out,
         "<h2 id=\"how\">How it was made</h2>\n<div class=\"card\"><p>Report: <code>%s</code></p>"
         "<details><summary>The command of every run</summary>\n",
         r->record->command);
    commands(out, r->main.e);
    if (r->words.e) { commands(out, r->words.e); }
    if (r->unscaled.e) { commands(out, r->unscaled.e); }
    html(
        out,
        "</details><dl><dt>gIoU</dt><dd>Mean IoU over pairs of a picture and a class, on crops at the training "
        "resolution against exact masks. Class mean: averaged first within each class.</dd>"
        "<dt>Classes</dt><dd>Listed: trained in every arm. Held out: combinations that are not trained, of words that "
        "are. New words: classes with a word that is never fine-tuned on. The frequent class: %s, trained only in arms "
        "with &ldquo;frequent&rdquo;.</dd>"
        "<dt>Terminal signal</dt><dd>The share of the target in the noisiest training sample, the root of the "
        "schedule's last cumulative alpha. Sampling starts without it.</dd>"
        "<dt>Failed</dt><dd>A run's gIoU on listed classes is not distinguishably above that of the best centred box: "
        "the 95%% interval of their difference, over pictures, reaches down to zero. Or gIoU over all pairs ends below "
        "half its peak while at least half of the predictions are empty (no pixel) "
        "or full (99%% of them).</dd>"
        "<dt>Training loss</dt><dd>Mean over the last fifth of the steps.</dd>"
        "<dt>Ceiling</dt><dd>gIoU of the true targets after the VAE and the same mask extraction.</dd>"
        "<dt>Intervals</dt><dd>95%% percentile bootstrap over pictures and runs, %d resamples, seed %llu.</dd></dl>"
        "</div>\n",
        r->main.e->frequent, r->record->resamples, (unsigned long long)r->record->seed);
}

static int count_runs(const Experiment *e) {
    int runs = 0;
    for (int a = 0; e && a < e->arm_count; a++) { runs += e->arms[a].run_count; }
    return runs;
}

static void head(FILE *out, const Report *r) {
    const Experiment *e = r->main.e;
    fputs("<style>.film td{border:0;padding:1px 6px 1px 0;font-size:12px;white-space:nowrap}.film img{display:block;"
          "width:100%;height:auto;image-rendering:pixelated}.film{width:100%}.film td:last-child{width:100%}"
          ".arms td,.arms th{padding-left:6px;padding-right:6px}.asked{display:flex}.asked "
          "span{flex:1;text-align:center;font-size:11px;line-height:1.2;white-space:normal}"
          ".interval{display:block;white-space:nowrap;font-size:11px;opacity:.7}</style>\n"
          "<h1>Why training on binary masks fails, and what fixes it</h1>\n",
          out);
    fprintf(out, "<p class=\"lead\">%d runs, %d validation samples and %d pairs at the end for each.</p>\n",
            count_runs(e) + count_runs(r->words.e) + count_runs(r->unscaled.e), e->validation.count, e->final.count);
    fputs("<div class=\"card\"><ul id=\"conclusions\">\n", out);
    for (int i = 0; i < r->sentences.count; i++) { html(out, "<li>%s</li>\n", r->sentences.list[i]); }
    fputs("</ul></div>\n", out);
}

// How the matched terminal signal was found.
static void matched(FILE *out, const char *leak) {
    if (!leak) { return; }
    Json json = json_read(leak);
    yajl_val m = json.root;
    html(out,
         "<p class=\"small\" id=\"matched\">The matched leak: on latents of %.0f x %.0f cells with a contrast of %.1f "
         "between object and surroundings (Stable Diffusion at 512 pixels, approximately) and a terminal signal of "
         "%.3f, the noisiest training sample holds %.1f nats of evidence for a typical object of this data set, under "
         "the recipe's own noise. Here the same objects get as much from a terminal signal of %.3f (overlay %.3f, mask "
         "%.3f; cocogold analyze leak).</p>\n",
         json_number_at(m, "reference.cells"), json_number_at(m, "reference.cells"),
         json_number_at(m, "reference.contrast"), json_number_at(m, "reference.signal"),
         json_number_at(m, "reference.nats"), json_number_at(m, "matched_signal"), json_number_at(m, "matched.overlay"),
         json_number_at(m, "matched.mask"));
    json_free(&json);
}

static void write_page(const Report *r, const char *path) {
    AtomicFile page = page_begin(path, "Why the mask fails");
    FILE *out = page.stream;
    const Experiment *e = r->main.e;
    head(out, r);
    final_strips(out, e, (const char *const[]){"mask+leak", "overlay+leak", "mask", "overlay", NULL});
    arms_table(out, &r->main, "arms", "Target and leak");
    matched(out, r->record->leak);
    contrasts_table(out, &r->main);
    dose_figure(out, &r->main, r->record->leak);
    starts_table(out, &r->main);
    if (r->words.e) {
        arms_table(out, &r->words, "words", "Words that were never fine-tuned on");
        group_curves(out, &r->words, "fig-words");
    }
    if (r->unscaled.e) {
        arms_table(out, &r->unscaled, "unscaled", "Stable Diffusion's own schedule and latent size");
        starts_table(out, &r->unscaled);
    }
    fputs("<h2>During training</h2>\n", out);
    group_curves(out, &r->main, "fig");
    diagnostic_curves(out, &r->main);
    filmstrips(out, e);
    latents_section(out, r->record->latents);
    how(out, r);
    page_end(&page);
}

// ---- JSON ----------------------------------------------------------------------------------------------------------

static const char *const group_keys[GROUPS] = {"listed", "held_out", "new_words", "frequent", "all"};

static void put_groups(yajl_gen gen, const char *name, const Interval values[GROUPS]) {
    json_open_map(gen, name);
    for (int g = 0; g < GROUPS; g++) { json_put_interval(gen, group_keys[g], values[g]); }
    yajl_gen_map_close(gen);
}

static void put_run(yajl_gen gen, int seed, Failure failure) {
    yajl_gen_map_open(gen);
    json_put_integer(gen, "seed", seed);
    json_put_interval(gen, "listed", failure.listed);
    json_put_interval(gen, "above_box", failure.above_box);
    json_put_number(gen, "peak", failure.peak);
    json_put_number(gen, "end", failure.end);
    json_put_number(gen, "empty_or_full", failure.constant);
    json_put_boolean(gen, "at_floor", failure.at_floor);
    json_put_boolean(gen, "collapsed", failure.collapsed);
    yajl_gen_map_close(gen);
}

static void put_arm(yajl_gen gen, const Findings *f, int a) {
    const Arm *arm = &f->e->arms[a];
    yajl_gen_map_open(gen);
    json_put_string(gen, "name", arm->name);
    json_put_string(gen, "target", arm->target);
    json_put_string(gen, "classes", arm->classes);
    json_put_number(gen, "signal", arm->signal);
    put_groups(gen, "giou", f->giou[a]);
    put_groups(gen, "class_mean", f->class_mean[a]);
    json_open_map(gen, "starts");
    for (int start = 0; start < STARTS; start++) { json_put_interval(gen, start_names[start], f->starts[a][start]); }
    yajl_gen_map_close(gen);
    json_put_interval(gen, "false_area", f->false_area[a]);
    json_put_number(gen, "ceiling", arm->runs[0].ceiling[GROUP_ALL]);
    json_put_number(gen, "training_loss", arm_training_loss(f->e, a));
    json_put_integer(gen, "failed", f->failures[a].failed);
    json_put_integer(gen, "failure_unknown", f->failures[a].unknown);
    json_open_list(gen, "runs");
    for (int i = 0; i < arm->run_count; i++) { put_run(gen, arm->runs[i].seed, f->run_failures[a][i]); }
    yajl_gen_array_close(gen);
    yajl_gen_map_close(gen);
}

static void put_findings(yajl_gen gen, const Findings *f, const char *arms, const char *differences) {
    json_open_list(gen, arms);
    for (int a = 0; a < f->e->arm_count; a++) { put_arm(gen, f, a); }
    yajl_gen_array_close(gen);
    json_open_list(gen, differences);
    for (int i = 0; i < f->contrasts.count; i++) {
        const Contrast *c = &f->contrasts.list[i];
        yajl_gen_map_open(gen);
        json_put_string(gen, "name", c->name);
        put_groups(gen, "giou", c->giou);
        put_groups(gen, "class_mean", c->class_mean);
        json_put_interval(gen, "false_area", c->false_area);
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
}

static void write_json(const Report *r, const char *path) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_strings(gen, "sentences", (const char *const *)r->sentences.list, r->sentences.count);
    put_findings(gen, &r->main, "arms", "differences");
    if (r->words.e) { put_findings(gen, &r->words, "words_arms", "words_differences"); }
    if (r->unscaled.e) { put_findings(gen, &r->unscaled, "unscaled_arms", "unscaled_differences"); }
    json_put_string(gen, "command", r->record->command);
    json_put_integer(gen, "bootstrap", r->record->resamples);
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

// ---- terminal ------------------------------------------------------------------------------------------------------

static void print_arms(const Findings *f, const char *title) {
    if (!f->e) { return; }
    char text[48];
    printf("\n%-32s %4s %7s", title, "runs", "signal");
    for (int g = 0; g < GROUP_ALL; g++) {
        if (experiment_has_group(f->e, g)) { printf("  %-21s", group_names[g]); }
    }
    printf("  failed\n");
    for (int a = 0; a < f->e->arm_count; a++) {
        const Arm *arm = &f->e->arms[a];
        text_column(stdout, 32, arm->name);
        printf(" %4d %7.3f", arm->run_count, arm->signal);
        for (int g = 0; g < GROUP_ALL; g++) {
            if (experiment_has_group(f->e, g)) { printf("  %-21s", interval_text(f->giou[a][g], true, text)); }
        }
        printf("  %s\n", failures_text(f->failures[a], text));
    }
}

static void print(const Report *r) {
    print_arms(&r->main, "final gIoU");
    print_arms(&r->words, "words");
    print_arms(&r->unscaled, "unscaled");
    printf("\n");
    for (int i = 0; i < r->sentences.count; i++) { printf("- %s\n", r->sentences.list[i]); }
}

// Dies unless a JSON file has this field.
static void want_file(const char *path, const char *field, const char *from) {
    if (!path) { return; }
    Json json = json_read(path);
    if (!json_at(json.root, field)) {
        die("%s: the field \"%s\" is missing, expected the JSON of %s", path, field, from);
    }
    json_free(&json);
}

void experiment_report(const Experiment *e, const ExperimentRecord *record, const char *folder) {
    want_file(record->leak, "matched_signal", "`cocogold analyze leak`");
    want_file(record->latents, "overlay.all.order", "`cocogold analyze latents`");
    Report r = {.record = record, .main = findings_of(e, record->resamples, record->seed)};
    if (record->words) { r.words = findings_of(record->words, record->resamples, record->seed); }
    if (record->unscaled) { r.unscaled = findings_of(record->unscaled, record->resamples, record->seed); }
    r.sentences = experiment_sentences(&r.main, record->words ? &r.words : NULL, record->unscaled ? &r.unscaled : NULL);
    char *page = xprintf("%s/report.html", folder), *json = xprintf("%s/experiment.json", folder);
    make_folders(folder);
    write_page(&r, page);
    write_json(&r, json);
    print(&r);
    printf("\nwrote %s and %s\n", page, json);
    sentences_free(&r.sentences);
    findings_free(&r.main);
    findings_free(&r.words);
    findings_free(&r.unscaled);
    free(page);
    free(json);
}
