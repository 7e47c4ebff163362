// cocogold eval: IoU on seen and unseen classes, with floors, ceiling and intervals.
#include "data/classes.h"
#include "eval/report/evaluation_page.h"
#include "eval/results.h"
#include "util/error.h"
#include "util/file.h"
#include "util/options.h"
#include "util/progress.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    AnswerOptions answer;
    MaskOptions mask;
    char *data, *split, *source, *protocol, *shards, *seen, *unseen, *tune_on, *table, *texts, *out, *run;
    int batch, resolution, per_class, limit, tune_pairs, resamples, masks;
    long long seed;
    double absent;
    int crops; // --protocol crops
    char *start_name, *classes;
    int start; // Start
    char **groups;
} o = {.split = "val",
       .source = "auto",
       .protocol = "images",
       .out = "eval",
       .batch = 8,
       .tune_pairs = 200,
       .resamples = 1000,
       .start_name = "noise",
       .answer = ANSWER_OPTIONS_DEFAULT,
       .mask = MASK_OPTIONS_DEFAULT};

static const char *const protocols[] = {"images", "crops", NULL};
static Option table[] = {
    {OPT_HEADING, "Input and output"},
    MODEL_OPTIONS(o.answer),
    {OPT_STRING, "data", &o.data, "data set in COCO's layout", "DIR"},
    {OPT_STRING, "split", &o.split, "name of the split, e.g. val or val2017", "NAME"},
    {OPT_STRING, "source", &o.source, "annotations to read (auto prefers instances)", "KIND", .choices = coco_sources},
    MAX_PIXELS_OPTION,
    {OPT_STRING, "protocol", &o.protocol,
     "score whole pictures (resized and padded, scored at their own size) or the samples of --shards", "KIND",
     .choices = protocols, .choice = &o.crops},
    {OPT_STRING, "shards", &o.shards, "crops: folder of shards made by `cocogold encode`", "DIR"},
    {OPT_STRING, "run", &o.run, "folder with the training's log.jsonl, for curves (default: near the model)", "DIR"},
    {OPT_STRING, "out", &o.out, "folder for metrics.json, pairs.csv and report.html", "DIR"},
    {OPT_FLAG, "masks", &o.masks,
     "write every predicted mask to OUT/masks/IMAGE-CLASS.png (IMAGE-CLASS-NUMBER.png of crops, and of pictures whose "
     "ids are texts)"},
    {OPT_HEADING, "Pairs of picture and class"},
    {OPT_STRING, "classes", &o.classes, "evaluate only these classes (default: all)", "LIST"},
    {OPT_STRING, "seen", &o.seen, "classes seen in training (default: from the model): " CLASSES_HELP, "LIST"},
    {OPT_STRING, "unseen", &o.unseen, "classes to count as unseen (default: all others)", "LIST"},
    {OPT_LIST, "group", &o.groups,
     "also report on these classes under a name of your own, e.g. \"fruit=apple,orange\" or \"fruit=@fruit.txt\" (may "
     "be repeated)",
     "NAME=LIST"},
    {OPT_INT, "per-class", &o.per_class, "evaluate at most N random pairs of a class (0: all)", "N", .high = 1e9},
    {OPT_INT, "limit", &o.limit, "evaluate at most N random pairs in all (0: all)", "N", .high = 1e9},
    {OPT_DOUBLE, "absent", &o.absent, "probability of also asking a picture for a class that it does not show", "P",
     .high = 1},
    {OPT_HEADING, "Sampling"},
    STEPS_OPTION(o.answer),
    SCHEDULE_OPTIONS(o.answer.schedule),
    {OPT_STRING, "start", &o.start_name,
     "sample from white noise, or from white noise with as much of the true target, the mean target or the picture as "
     "the schedule leaves at the first timestep: shows what a model reads from the target in its start",
     "KIND", .choices = start_names, .choice = &o.start},
    {OPT_STRING, "steps-table", &o.table, "also measure these numbers of steps, e.g. 1,2,4,10,50", "LIST"},
    {OPT_STRING, "text-table", &o.texts,
     "also ask with other texts: templates and @FILEs of synonyms (lines \"class: word, word\"), separated by |",
     "LIST"},
    ENSEMBLE_OPTION(o.answer),
    {OPT_INT, "resolution", &o.resolution, "images: side of the model's square input (0: the training side)", "PIXELS",
     .high = MOST_RESOLUTION},
    {OPT_INT, "batch", &o.batch, "pairs per batch", "N", .low = 1, .high = 1024},
    {OPT_LONG, "seed", &o.seed, "seed of the noise, the choice of pairs and the bootstrap", "N"},
    MASK_OPTIONS(o.mask),
    {OPT_STRING, "tune-on", &o.tune_on,
     "first choose the thresholds on this training split and save them in the model's segmentation.json", "SPLIT"},
    {OPT_INT, "tune-pairs", &o.tune_pairs, "number of pairs of seen classes for --tune-on", "N", .low = 1, .high = 1e7},
    {OPT_HEADING, "Statistics"},
    {OPT_INT, "bootstrap", &o.resamples, "bootstrap resamples for the 95% intervals (0: none)", "N", .high = 1e6},
    OPTIONS_END};

static const OptionsHelp help = {
    .about = "Segments the pictures of a validation split by the names of their classes and measures "
             "IoU.",
    .usage = "--model DIR --data DIR --split val [--tune-on train]",
    .example = "--model run/model --data coco --split val2017 --out run"};

static void want_other_split(bool same) {
    if (same) { die("--tune-on %s: thresholds must not be chosen on the split that is evaluated", o.tune_on); }
}

static bool parse(int argc, char **argv) {
    options_parse(argc, argv, table, &help, 0);
    if (o.crops) {
        options_require(o.shards, "--shards", "a folder of shards, for --protocol crops");
    } else {
        options_require(o.data, "--data", "a data set in COCO's layout");
    }
    want_other_split(o.tune_on && strcmp(o.tune_on, o.split) == 0);
    return o.crops;
}

static Dataset open_dataset(bool crops, const char *split, const ModelSettings *settings, const Pipeline *p) {
    if (crops) { return dataset_of_shards(o.shards, split, o.answer.model, settings); }
    int side = pipeline_resolution(p, o.resolution ? o.resolution : settings->resolution);
    return dataset_of_pictures(o.data, split, o.source, side);
}

// One flag per class of a list on the command line; freed by the caller.
static bool *flags_of(const Dataset *dataset, const char *option, const char *list) {
    if (!dataset->crops) { return classes_parse(&dataset->coco, option, list, NULL); }
    bool *flags = shards_classes(&dataset->shards, option, list);
    flags = xrealloc(flags, (size_t)dataset->class_count * sizeof *flags);
    if (dataset->texts) { flags[dataset->class_count - 1] = false; } // no single class
    return flags;
}

static bool *seen_flags(const Dataset *dataset, const ModelSettings *settings) {
    bool *seen = o.seen ? flags_of(dataset, "--seen", o.seen) : xcalloc((size_t)dataset->class_count + 1, sizeof *seen);
    if (dataset->texts) { seen[dataset->class_count - 1] = true; } // texts that are no single class count as seen
    if (o.seen) { return seen; }
    for (int c = 0; c < dataset->class_count - dataset->texts; c++) {
        seen[c] = settings->train_class_count ? settings_is_trained(settings, dataset->class_names[c])
                                              : dataset->crops && dataset->shards.info.trained[c];
    }
    if (!settings->train_class_count && !dataset->crops) {
        warn("%s does not say which classes it was trained on: all count as unseen (see --seen)", o.answer.model);
    }
    return seen;
}

// Classes that are evaluated: NULL for all.
static bool *wanted_flags(const Dataset *dataset, const bool *seen) {
    if (o.classes && o.unseen) { die("--classes and --unseen: expected only one of them"); }
    if (o.classes) { return flags_of(dataset, "--classes", o.classes); }
    if (!o.unseen) { return NULL; }
    bool *wanted = flags_of(dataset, "--unseen", o.unseen);
    for (int c = 0; c < dataset->class_count; c++) {
        if (wanted[c] && seen[c]) { die("class \"%s\" is both seen and unseen", dataset->class_names[c]); }
        wanted[c] = wanted[c] || seen[c];
    }
    return wanted;
}

static void add_group(Evaluation *v, PairGroup group) {
    for (int k = 0; k < v->group_count; k++) {
        if (strcmp(v->groups[k].name, group.name) == 0) {
            die("--group %s: %s, expected another name", group.name,
                group.kind < 0 ? "is given twice" : "the shards have a kind of phrases with this name");
        }
    }
    v->groups[v->group_count++] = group;
}

// --group NAME=LIST and the kinds of phrases, into v->groups, which free_groups frees.
static void parse_groups(Evaluation *v, const Dataset *dataset) {
    for (char **text = o.groups; text && *text; text++) {
        char *equals = strchr(*text, '=');
        if (!equals || equals == *text) { die("--group %s: expected a name, \"=\" and a list of classes", *text); }
        if (v->group_count == MAX_GROUPS) { die("--group: expected at most %d of them", MAX_GROUPS); }
        char *name = xprintf("%.*s", (int)(equals - *text), *text), *option = xprintf("--group %s", name);
        add_group(v, (PairGroup){name, flags_of(dataset, option, equals + 1), -1});
        free(option);
    }
    for (int k = 0; dataset->crops && k < dataset->shards.info.kind_count; k++) {
        add_group(v, (PairGroup){xstrdup(dataset->shards.info.kinds[k]), NULL, k});
    }
}

static void free_groups(Evaluation *v) {
    for (int k = 0; k < v->group_count; k++) {
        free(v->groups[k].name);
        free(v->groups[k].has);
    }
}

static int parse_steps_table(int *steps) {
    int count = 0;
    char *text = xstrdup(o.table ? o.table : ""), *rest = text;
    for (char *part; *text && (part = strsep(&rest, ","));) {
        char *end;
        long value = strtol(part, &end, 10);
        if (*end || end == part || value < 1 || value > 1000 || count == MAX_STEPS_TABLE) {
            die("--steps-table %s: expected at most %d numbers from 1 to 1000, separated by commas", o.table,
                MAX_STEPS_TABLE);
        }
        steps[count++] = (int)value;
    }
    free(text);
    return count;
}

static void want_memory(Pipeline *p, int side, Device *dev) {
    int cells = side / vae_factor(&p->vae_decoder.config);
    sampler_want_memory(sampler_bytes(p, o.batch, cells, cells, dev), o.batch, side, dev);
}

// Shards hold no pictures.
static Compared compared(bool crops) { return crops ? COMPARED_LATENT : COMPARED_PICTURE; }

// Chooses thresholds on pairs of seen classes of a training split.
static void tune(bool crops, const Dataset *evaluated, Pipeline *p, const ModelSettings *settings, MaskRule *rule,
                 EvalRecord *record, Device *dev) {
    Dataset dataset = open_dataset(crops, o.tune_on, settings, p);
    // A split has two names, val and val2017, and a file may have several.
    want_other_split(!crops && strcmp(file_place(dataset.coco.path).text, file_place(evaluated->coco.path).text) == 0);
    bool *seen = seen_flags(&dataset, settings), any = false;
    for (int c = 0; c < dataset.class_count; c++) { any |= seen[c]; }
    PairOptions options = {.limit = o.tune_pairs, .wanted = any ? seen : NULL, .seed = (uint64_t)o.seed};
    int count;
    Pair *pairs = dataset_pairs(&dataset, &options, &count);
    if (count == 0) { die("%s: no pair of a picture and a seen class to choose thresholds on", dataset.where); }
    Evaluator e = evaluator_create(p, &dataset, settings, NULL, 0, record->steps, o.answer.ensemble, o.batch,
                                   (uint64_t)o.seed, dev);
    record->tune_miou = tune_rule(&e, &dataset, pairs, &count, rule);
    record->tune_pairs = count;
    record->tuned_on = xstrdup(dataset.where);
    printf("thresholds chosen on %d pairs of %s: tolerance %.2f", count, dataset.where, rule->tolerance);
    if (rule->method == MASK_COMPARE) { printf(", changed %.2f", rule->changed); }
    printf(" (mIoU %.3f there)\n", record->tune_miou);
    if (access(o.answer.model, W_OK) == 0) {
        settings_rule_write(rule, compared(crops), o.answer.model, dataset.where, count, record->tune_miou);
    } else {
        warn("cannot write to %s: the thresholds are not saved in its segmentation.json", o.answer.model);
    }
    evaluator_destroy(&e);
    free(pairs);
    free(seen);
    dataset_close(&dataset);
}

// The log of --run, or else one in the model's folder or up to two folders above it; returns their number. One that was
// found there and cannot be read is named and left out.
static int find_curves(RunCurves *curves) {
    static const char *const up[] = {"", "/..", "/../.."};
    if (o.run) {
        *curves = curves_read(o.run);
        return 1;
    }
    for (int i = 0; i < 3; i++) {
        Path folder = path_of("%s%s", o.answer.model, up[i]);
        if (!file_exists(path_of("%s/log.jsonl", folder.text).text)) { continue; }
        char *why = NULL;
        *curves = curves_try_read(folder.text, &why);
        if (why) { warn("%s: the report has no training curves", why); }
        free(why);
        return curves->name != NULL;
    }
    return 0;
}

static void write_results(const Dataset *dataset, const Evaluation *v, const EvalRecord *record,
                          const ModelSettings *settings, const RunCurves *curves, int runs) {
    char *json = xprintf("%s/metrics.json", o.out), *csv = xprintf("%s/pairs.csv", o.out);
    char *html = xprintf("%s/report.html", o.out);
    result_write_json(dataset, v, record, settings, json);
    result_write_pairs(dataset, v, csv);
    Json metrics = json_read(json);
    result_print(&metrics);
    report_evaluation(html, &metrics, &v->gallery, dataset, curves, runs);
    printf("\nwrote %s, %s and %s\n", json, csv, html);
    json_free(&metrics);
    free(json);
    free(csv);
    free(html);
}

int cmd_eval(int argc, char **argv) {
    char *command = options_command(argc, argv), *masks = NULL;
    bool crops = parse(argc, argv);
    want_folder(o.out);
    RunCurves curves;
    int runs = find_curves(&curves);
    ModelSettings settings;
    settings_read(&settings, o.answer.model);
    Device dev;
    device_open(&dev, 0);
    int parts = PART_UNET | PART_VAE_DECODER | PART_TEXT | PART_SCHEDULE | (o.answer.ema ? PART_UNET_EMA : 0);
    Pipeline p = pipeline_open(o.answer.model, parts | (crops ? 0 : PART_VAE_ENCODER), 0, &dev);
    if (schedule_changes(&o.answer.schedule)) { schedule_change(&p.schedule, &o.answer.schedule); }
    EvalRecord record = {.model = o.answer.model,
                         .protocol = o.protocol,
                         .command = command,
                         .device = device_name(&dev),
                         .ema = o.answer.ema,
                         .steps = o.answer.steps ? o.answer.steps : settings.steps,
                         .schedule = &p.schedule,
                         .start = start_names[o.start],
                         .ensemble = o.answer.ensemble,
                         .pairs = {o.per_class, o.limit, o.absent, NULL, (uint64_t)o.seed},
                         .resamples = o.resamples};
    schedule_warn_steps(&p.schedule, record.steps);
    int first = schedule_first_timestep(&p.schedule, record.steps);
    printf("%d DDIM step%s from timestep %d of %d, where a training sample is %.1f%% target; start: %s\n", record.steps,
           record.steps > 1 ? "s" : "", first, p.schedule.T, 100 * sqrt(p.schedule.alphas_cumprod[first]),
           record.start);
    // Thresholds that --tune-on replaces need no warning.
    Compared with = o.tune_on ? COMPARED_LATENT : compared(crops);
    Evaluation v = {.rule = settings_rule(&settings, o.answer.model, &o.mask, with)};
    v.table_count = parse_steps_table(v.table);
    for (int k = 0; k < v.table_count; k++) {
        schedule_first_timestep(&p.schedule, v.table[k]);
    } // dies if there is none
    Dataset dataset = open_dataset(crops, o.split, &settings, &p);
    want_memory(&p, dataset.resolution, &dev);
    if (o.tune_on) { tune(crops, &dataset, &p, &settings, &v.rule, &record, &dev); }

    bool *seen = seen_flags(&dataset, &settings), *wanted = wanted_flags(&dataset, seen);
    record.pairs.wanted = wanted;
    Pair *pairs = dataset_pairs(&dataset, &record.pairs, &v.count);
    if (v.count == 0) { die("%s: no pair of a picture and a class to evaluate", dataset.where); }
    v.pairs = pairs;
    v.seen = seen;
    parse_groups(&v, &dataset);
    record.where = dataset.where;
    record.resolution = dataset.resolution;
    if (o.texts && dataset.texts) { die("--text-table: expected class names, but %s has other texts", dataset.where); }
    if (o.texts) {
        v.prompt_set_count =
            prompt_sets_parse(v.prompt_sets, o.texts, "--text-table", dataset.class_names, dataset.class_count);
    }
    Evaluator e = evaluator_create(&p, &dataset, &settings, v.prompt_sets, v.prompt_set_count, record.steps,
                                   o.answer.ensemble, o.batch, (uint64_t)o.seed, &dev);
    if (e.contexts.table) { pipeline_release(&p, PART_TEXT, &dev); } // 1.4 GB with SD2
    make_folders(o.out);                                             // before the long part
    if (o.masks) {
        masks = xprintf("%s/masks", o.out);
        make_folders(masks);
        v.masks = masks;
    }
    evaluator_start(&e, (Start)o.start, &dataset, pairs, &v.count);
    evaluate(&e, &dataset, &v);
    write_results(&dataset, &v, &record, &settings, &curves, runs);

    if (runs) { curves_free(&curves); }
    evaluator_destroy(&e);
    for (int k = 0; k < v.prompt_set_count; k++) { prompt_set_free(&v.prompt_sets[k], dataset.class_count); }
    free_groups(&v);
    evaluation_free(&v);
    dataset_close(&dataset);
    pipeline_close(&p, &dev);
    device_close(&dev);
    settings_free(&settings);
    free(pairs);
    free(seen);
    free(wanted);
    free((char *)record.tuned_on);
    free(command);
    free(masks);
    return 0;
}
