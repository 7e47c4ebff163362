// cocogold eval: IoU on seen and unseen classes, with floors, ceiling and intervals.
#include "data/classes.h"
#include "eval/report/evaluation_page.h"
#include "eval/results.h"
#include "kernels/runtime/launch.h"
#include "util/error.h"
#include "util/file.h"
#include "util/options.h"
#include "util/progress.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
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
} Options;

static void want_other_split(const Options *o, bool same) {
    if (same) { die("--tune-on %s: thresholds must not be chosen on the split that is evaluated", o->tune_on); }
}

static const char *const protocols[] = {"images", "crops", NULL};

static Options parse_options(int argc, char **argv) {
    Options o = {.split = "val",
                 .source = "auto",
                 .protocol = "images",
                 .out = "eval",
                 .batch = 8,
                 .tune_pairs = 200,
                 .resamples = 1000,
                 .start_name = "noise",
                 .answer = ANSWER_OPTIONS_DEFAULT,
                 .mask = MASK_OPTIONS_DEFAULT};
    Option table[] = {
        {OPT_HEADING, "Input and output"},
        MODEL_ROWS(o.answer),
        {OPT_STRING, "data", &o.data, "folder of the data set, in COCO's layout", "DIR"},
        {OPT_STRING, "split", &o.split, "name of the split, e.g. val or val2017", "NAME"},
        SOURCE_ROWS(&o.source),
        MAX_PIXELS_ROWS,
        {OPT_STRING, "protocol", &o.protocol,
         "score whole pictures (resized and padded, scored at their own size) or the samples of --shards", "KIND",
         .choices = protocols, .choice = &o.crops},
        {OPT_STRING, "shards", &o.shards, "crops: folder of shards made by `cocogold encode`", "DIR"},
        {OPT_STRING, "run", &o.run, "folder with the training's log.jsonl, for curves (default: near the model)",
         "DIR"},
        {OPT_STRING, "out", &o.out, "folder for metrics.json, pairs.csv and report.html", "DIR"},
        {OPT_FLAG, "masks", &o.masks,
         "write every predicted mask to OUT/masks/IMAGE-CLASS.png (IMAGE-CLASS-NUMBER.png of crops, and of pictures "
         "whose ids are texts)"},
        {OPT_HEADING, "Pairs of picture and class"},
        {OPT_STRING, "classes", &o.classes, "evaluate only these classes (default: all)", "LIST"},
        {OPT_STRING, "seen", &o.seen, "classes seen in training (default: from the model): " CLASSES_HELP, "LIST"},
        {OPT_STRING, "unseen", &o.unseen, "classes to count as unseen (default: all others)", "LIST"},
        {OPT_LIST, "group", &o.groups,
         "also report on these classes under a name of your own, e.g. \"fruit=apple,orange\" or \"fruit=@fruit.txt\" "
         "(may be repeated)",
         "NAME=LIST"},
        {OPT_INT, "per-class", &o.per_class, "evaluate at most N random pairs of a class (0: all)", "N", .high = 1e9},
        {OPT_INT, "limit", &o.limit, "evaluate at most N random pairs in all (0: all)", "N", .high = 1e9},
        {OPT_DOUBLE, "absent", &o.absent,
         "images: probability of also asking a picture for a class that it does not show", "P", .high = 1},
        {OPT_HEADING, "Sampling"},
        STEPS_ROWS(o.answer),
        SCHEDULE_ROWS(o.answer.schedule),
        {OPT_STRING, "start", &o.start_name,
         "what sampling starts from; truth, mean and image add as much of that latent to the noise as the schedule "
         "leaves at the first timestep",
         "KIND", .choices = start_names, .choice = &o.start},
        {OPT_STRING, "steps-table", &o.table, "also measure these numbers of steps, e.g. 1,2,4,10,50", "LIST"},
        {OPT_STRING, "text-table", &o.texts,
         "also ask with other texts: templates and @FILEs of synonyms (lines \"class: word, word\"), separated by |",
         "LIST"},
        ENSEMBLE_ROWS(o.answer),
        {OPT_INT, "resolution", &o.resolution, "images: side of the model's square input (0: the training side)",
         "PIXELS", .high = MOST_RESOLUTION},
        {OPT_INT, "batch", &o.batch, "pairs per batch", "N", .low = 1, .high = 1024},
        {OPT_LONG, "seed", &o.seed, "seed of the noise, the choice of pairs and the bootstrap", "N"},
        MASK_ROWS(o.mask),
        {OPT_STRING, "tune-on", &o.tune_on,
         "first choose the thresholds on this training split and save them in the model's segmentation.json", "SPLIT"},
        {OPT_INT, "tune-pairs", &o.tune_pairs, "number of pairs for --tune-on, of seen classes if there are some", "N",
         .low = 1, .high = 1e7},
        {OPT_HEADING, "Statistics"},
        {OPT_INT, "bootstrap", &o.resamples, "bootstrap resamples for the 95% intervals (0: none)", "N", .high = 1e6},
        OPTIONS_END};
    static const OptionsHelp help = {
        .about = "Segments the pictures of a validation split by the names of their classes and measures IoU.",
        .usage = "--model DIR --data DIR --split val [--tune-on train]",
        .example = "--model run/model --data coco --split val2017 --out run"};
    options_parse(argc, argv, table, &help, 0);
    if (o.crops) {
        options_require(o.shards, "--shards", "a folder of shards, for --protocol crops");
        if (o.absent > 0) {
            die("--absent %g: expected with --protocol images; shards hold absent queries of their own", o.absent);
        }
    } else {
        options_require(o.data, "--data", "a data set in COCO's layout");
    }
    if (o.classes && o.unseen) { die("--classes and --unseen: expected only one of them"); }
    want_other_split(&o, o.tune_on && strcmp(o.tune_on, o.split) == 0);
    return o;
}

// An evaluation in progress.
typedef struct {
    Options o;
    char *command;
    ModelSettings settings;
    Device dev;
    Pipeline pipeline;
    Dataset dataset;
    bool *seen, *wanted; // (classes) wanted NULL: all
    EvalRecord record;
    Evaluation v;
    char *masks;
    RunCurves curves; // of the training, if `runs` is 1
    int runs;
} Work;

// ---- classes, pairs and texts --------------------------------------------------------------------------------------

static Dataset open_dataset(const Work *w, const char *split) {
    const Options *o = &w->o;
    if (o->crops) { return dataset_of_shards(o->shards, split, o->answer.model, &w->settings); }
    return dataset_of_pictures(o->data, split, o->source);
}

// One flag per class of a list on the command line; freed by the caller.
static bool *flags_of(const Dataset *dataset, const char *option, const char *list) {
    if (!dataset->crops) { return classes_parse(&dataset->coco, option, list, NULL); }
    bool *flags = shards_classes(&dataset->shards, option, list);
    flags = xrealloc(flags, (size_t)dataset->class_count * sizeof *flags);
    if (dataset->texts) { flags[dataset->class_count - 1] = false; } // no single class
    return flags;
}

static bool *seen_flags(const Work *w, const Dataset *dataset) {
    const char *list = w->o.seen;
    const ModelSettings *settings = &w->settings;
    bool *seen = list ? flags_of(dataset, "--seen", list) : xcalloc((size_t)dataset->class_count + 1, sizeof *seen);
    if (dataset->texts) { seen[dataset->class_count - 1] = true; } // texts that are no single class count as seen
    if (list) { return seen; }
    for (int c = 0; c < dataset->class_count - dataset->texts; c++) {
        seen[c] = settings_is_trained(settings, dataset->class_names[c]);
    }
    if (!settings->train_class_count) {
        warn("%s does not say which classes it was trained on: all count as unseen (see --seen)", w->o.answer.model);
    }
    return seen;
}

// Classes that are evaluated: NULL for all.
static bool *wanted_flags(const Work *w) {
    const Options *o = &w->o;
    const Dataset *dataset = &w->dataset;
    if (o->classes) { return flags_of(dataset, "--classes", o->classes); }
    if (!o->unseen) { return NULL; }
    bool *wanted = flags_of(dataset, "--unseen", o->unseen);
    for (int c = 0; c < dataset->class_count; c++) {
        if (wanted[c] && w->seen[c]) { die("class \"%s\" is both seen and unseen", dataset->class_names[c]); }
        wanted[c] = wanted[c] || w->seen[c];
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

// --group NAME=LIST and the kinds of phrases.
static void parse_groups(Evaluation *v, const Dataset *dataset, char **list) {
    for (char **text = list; text && *text; text++) {
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

static int parse_steps_table(const char *list, int *steps) {
    int count = 0;
    char *text = xstrdup(list ? list : ""), *rest = text;
    for (char *part; *text && (part = strsep(&rest, ","));) {
        char *end;
        long value = strtol(part, &end, 10);
        if (*end || end == part || value < 1 || value > 1000 || count == MAX_STEPS_TABLE) {
            die("--steps-table %s: expected at most %d numbers from 1 to 1000, separated by commas", list,
                MAX_STEPS_TABLE);
        }
        steps[count++] = (int)value;
    }
    free(text);
    return count;
}

static void choose_pairs(Work *w) {
    const Options *o = &w->o;
    Dataset *dataset = &w->dataset;
    Evaluation *v = &w->v;
    v->seen = w->seen = seen_flags(w, dataset);
    w->record.pairs.wanted = w->wanted = wanted_flags(w);
    v->pairs = dataset_pairs(dataset, &w->record.pairs, &v->count);
    if (v->count == 0) { die("%s: no pair of a picture and a class to evaluate", dataset->where); }
    parse_groups(v, dataset, o->groups);
    if (!o->texts) { return; }
    if (dataset->texts) { die("--text-table: expected class names, but %s has other texts", dataset->where); }
    v->prompt_set_count =
        prompt_sets_parse(v->prompt_sets, o->texts, "--text-table", dataset->class_names, dataset->class_count);
}

static void open_data(Work *w) {
    const Options *o = &w->o;
    pipeline_want_folder(o->answer.model);
    settings_read(&w->settings, o->answer.model);
    w->dataset = open_dataset(w, o->split);
    if (!o->crops) { coco_want_exhaustive(&w->dataset.coco, o->absent); }
    w->record = (EvalRecord){.model = o->answer.model,
                             .where = w->dataset.where,
                             .protocol = o->protocol,
                             .command = w->command,
                             .ema = o->answer.ema,
                             .steps = o->answer.steps ? o->answer.steps : w->settings.steps,
                             .start = start_names[o->start],
                             .ensemble = o->answer.ensemble,
                             .pairs = {o->per_class, o->limit, o->absent, NULL, (uint64_t)o->seed},
                             .resamples = o->resamples};
    w->v.table_count = parse_steps_table(o->table, w->v.table);
    choose_pairs(w); // mistakes in lists of classes and texts are found before the model is opened
}

// ---- the model -----------------------------------------------------------------------------------------------------

// Shards hold no pictures.
static Compared compared(const Options *o) { return o->crops ? COMPARED_LATENT : COMPARED_PICTURE; }

static void open_model(Work *w) {
    const Options *o = &w->o;
    // Thresholds that --tune-on replaces need no warning.
    w->v.rule = settings_rule(&w->settings, o->answer.model, &o->mask, o->tune_on ? COMPARED_LATENT : compared(o));
    device_open(&w->dev, 0);
    int parts = PART_VAE_DECODER | PART_TEXT | (o->crops ? 0 : PART_VAE_ENCODER);
    w->pipeline =
        pipeline_open_sampling(o->answer.model, parts, o->answer.ema, &o->answer.schedule, w->record.steps, &w->dev);
    Schedule *schedule = &w->pipeline.schedule;
    for (int k = 0; k < w->v.table_count; k++) { // dies if there is no such timestep
        schedule_first_timestep(schedule, w->v.table[k]);
    }
    w->record.schedule = schedule;
    w->record.device = device_name(&w->dev);
}

static void choose_resolution(Work *w) {
    const Options *o = &w->o;
    Dataset *dataset = &w->dataset;
    if (!o->crops) {
        dataset->resolution = pipeline_resolution(&w->pipeline, o->resolution ? o->resolution : w->settings.resolution);
    }
    int side = dataset->resolution, cells = side / vae_factor(&w->pipeline.vae_decoder.config);
    sampler_want_memory(sampler_bytes(&w->pipeline, o->batch, cells, cells, &w->dev), o->batch, side, &w->dev);
    w->record.resolution = side;
}

static void say_start(const Work *w) {
    const Schedule *schedule = &w->pipeline.schedule;
    int steps = w->record.steps, first = schedule_first_timestep(schedule, steps);
    printf("%d DDIM step%s from timestep %d of %d, where a training sample is %.1f%% target; start: %s\n", steps,
           steps > 1 ? "s" : "", first, schedule->T, 100 * sqrt(schedule->alphas_cumprod[first]), w->record.start);
}

static Evaluator create_evaluator(Work *w, const Dataset *dataset, int prompt_sets) {
    return evaluator_create(&w->pipeline, dataset, &w->settings, w->v.prompt_sets, prompt_sets, w->record.steps,
                            w->o.answer.ensemble, w->o.batch, (uint64_t)w->o.seed, &w->dev);
}

// Pairs to choose thresholds on: of seen classes, or of all if the split has no seen one (zero-shot transfer).
static Pair *tuning_pairs(Work *w, const Dataset *dataset, int *count) {
    const Options *o = &w->o;
    bool *seen = seen_flags(w, dataset);
    PairOptions options = {.limit = o->tune_pairs, .wanted = seen, .seed = (uint64_t)o->seed};
    Pair *pairs = dataset_pairs(dataset, &options, count);
    w->record.tune_seen = *count > 0;
    if (!*count && !o->seen) {
        if (w->settings.train_class_count) {
            warn("%s: shows none of the classes that %s was trained on: thresholds are chosen on others",
                 dataset->where, o->answer.model);
        }
        options.wanted = NULL;
        free(pairs);
        pairs = dataset_pairs(dataset, &options, count);
    }
    free(seen);
    if (!*count) {
        die("%s: no pair of a picture and a%s class to choose thresholds on", dataset->where, o->seen ? " seen" : "");
    }
    return pairs;
}

// Chooses thresholds on pairs of a training split.
static void tune(Work *w) {
    const Options *o = &w->o;
    EvalRecord *record = &w->record;
    MaskRule *rule = &w->v.rule;
    Dataset dataset = open_dataset(w, o->tune_on);
    if (!o->crops) { dataset.resolution = w->dataset.resolution; }
    // A split has two names, val and val2017, and a file may have several.
    want_other_split(o, !o->crops &&
                            strcmp(file_place(dataset.coco.path).text, file_place(w->dataset.coco.path).text) == 0);
    int count;
    Pair *pairs = tuning_pairs(w, &dataset, &count);
    Evaluator e = create_evaluator(w, &dataset, 0);
    record->tune_miou = tune_rule(&e, &dataset, pairs, &count, rule);
    record->tune_pairs = count;
    record->tuned_on = xstrdup(dataset.where);
    printf("thresholds chosen on %d pairs of %s: tolerance %.2f", count, dataset.where, rule->tolerance);
    if (rule->method == MASK_COMPARE) { printf(", changed %.2f", rule->changed); }
    printf(" (mIoU %.3f there)\n", record->tune_miou);
    if (access(o->answer.model, W_OK) == 0) {
        settings_rule_write(rule, compared(o), o->answer.model, dataset.where, count, record->tune_miou);
    } else {
        warn("cannot write to %s: the thresholds are not saved in its segmentation.json", o->answer.model);
    }
    evaluator_destroy(&e);
    free(pairs);
    dataset_close(&dataset);
}

static void answer(Work *w) {
    Evaluator e = create_evaluator(w, &w->dataset, w->v.prompt_set_count);
    if (e.contexts.table) { pipeline_release(&w->pipeline, PART_TEXT, &w->dev); } // 1.4 GB with SD2
    make_folders(w->o.out);                                                       // before the long part
    if (w->o.masks) {
        w->v.masks = w->masks = xprintf("%s/masks", w->o.out);
        make_folders(w->masks);
    }
    evaluator_start(&e, (Start)w->o.start, &w->dataset, w->v.pairs, &w->v.count);
    evaluate(&e, &w->dataset, &w->v);
    evaluator_destroy(&e);
}

// ---- results -------------------------------------------------------------------------------------------------------

// The log of --run, or else one in the model's folder or up to two folders above it. One that was found there and
// cannot be read is named and left out.
static void find_curves(Work *w) {
    static const char *const up[] = {"", "/..", "/../.."};
    if (w->o.run) {
        w->curves = curves_read(w->o.run);
        w->runs = 1;
        return;
    }
    for (int i = 0; i < 3; i++) {
        Path folder = path_of("%s%s", w->o.answer.model, up[i]);
        if (!file_exists(path_of("%s/log.jsonl", folder.text).text)) { continue; }
        char *why = NULL;
        w->curves = curves_try_read(folder.text, &why);
        if (why) { warn("%s: the report has no training curves", why); }
        free(why);
        w->runs = w->curves.name != NULL;
        return;
    }
}

static void write_results(const Work *w) {
    const char *out = w->o.out;
    Path json = path_of("%s/metrics.json", out), csv = path_of("%s/pairs.csv", out),
         html = path_of("%s/report.html", out);
    yajl_gen gen = result_json(&w->dataset, &w->v, &w->record, &w->settings);
    Json metrics = {xstrdup(json.text), json_written(gen)};
    result_print(metrics.root); // before the first write: on a full disk the numbers are here
    json_write(gen, json.text);
    result_write_pairs(&w->dataset, &w->v, csv.text);
    report_evaluation(html.text, &metrics, &w->v.gallery, &w->dataset, &w->curves, w->runs);
    printf("\nwrote %s, %s and %s\n", json.text, csv.text, html.text);
    json_free(&metrics);
}

static void close_all(Work *w) {
    Evaluation *v = &w->v;
    curves_free(&w->curves);
    for (int k = 0; k < v->prompt_set_count; k++) { prompt_set_free(&v->prompt_sets[k], w->dataset.class_count); }
    for (int k = 0; k < v->group_count; k++) {
        free(v->groups[k].name);
        free(v->groups[k].has);
    }
    evaluation_free(v);
    free(v->pairs);
    dataset_close(&w->dataset);
    pipeline_close(&w->pipeline, &w->dev);
    device_close(&w->dev);
    settings_free(&w->settings);
    free(w->seen);
    free(w->wanted);
    free((char *)w->record.tuned_on);
    free(w->command);
    free(w->masks);
}

int cmd_eval(int argc, char **argv) {
    Work w = {.command = options_command(argc, argv)};
    w.o = parse_options(argc, argv);
    launch_want_alone("eval");
    want_folder(w.o.out);
    find_curves(&w);
    open_data(&w);
    open_model(&w);
    choose_resolution(&w);
    say_start(&w);
    if (w.o.tune_on) { tune(&w); }
    answer(&w);
    write_results(&w);
    close_all(&w);
    return 0;
}
