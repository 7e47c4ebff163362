#include "eval/results.h"
#include "util/csv.h"
#include "util/error.h"
#include "util/file.h"
#include "util/text.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- metrics.json --------------------------------------------------------------------------------------------------

// What all numbers are computed from, and where they go.
typedef struct {
    yajl_gen gen;
    const Dataset *dataset;
    const Evaluation *v;
    const EvalRecord *record;
} Writer;

// Which pairs belong to a group: only_class >= 0, or seen/unseen, with or without one class.
typedef struct {
    int seen;        // 1: seen, 0: unseen, -1: both
    int only;        // this class alone; -1: all
    int excluded;    // not this class; -1: none
    const bool *has; // (classes) only these; NULL: all
    int kind;        // this kind alone; -1: all
} Group;

static const Group seen_group = {1, -1, -1, NULL, -1}, unseen_group = {0, -1, -1, NULL, -1},
                   all_group = {-1, -1, -1, NULL, -1};

// A flag for each pair, to be freed.
static bool *members(const Evaluation *v, Group g) {
    bool *keep = xcalloc((size_t)v->count + 1, sizeof *keep);
    for (int i = 0; i < v->count; i++) {
        int c = v->pairs[i].category;
        keep[i] = v->counted[i] && (g.seen < 0 || v->seen[c] == (g.seen == 1)) && (g.only < 0 || c == g.only) &&
                  c != g.excluded && (!g.has || g.has[c]) && (g.kind < 0 || v->pairs[i].kind == g.kind);
    }
    return keep;
}

// Over the scores of one kind, with intervals if resamples > 0.
static Summary summary_with(const Writer *w, int kind, Group g, int resamples, uint64_t seed) {
    const Evaluation *v = w->v;
    const PairScore *scores = v->scores[kind];
    bool *keep = members(v, g);
    Summary s = summarize(scores, scores ? v->count : 0, keep, w->dataset->class_count, resamples, seed);
    free(keep);
    return s;
}

static Summary summary_of(const Writer *w, int kind, Group g) { return summary_with(w, kind, g, 0, 0); }

// The best of the centred boxes and its share of the sides, for each measure, chosen on the group's pairs themselves.
static void put_box(const Writer *w, Group g) {
    static const char *const names[] = {"miou", "giou", "ciou"};
    double best[] = {NAN, NAN, NAN}, share[] = {NAN, NAN, NAN};
    for (int k = 0; k < BOX_SIZES; k++) {
        Summary s = summary_of(w, SCORE_BOX + k, g);
        const double values[] = {s.miou, s.giou, s.ciou};
        for (int i = 0; i < 3; i++) {
            if (isnan(values[i]) || values[i] <= best[i]) { continue; }
            best[i] = values[i];
            share[i] = box_percent(k) / 100.0;
        }
    }
    json_open_map(w->gen, "centre_box");
    for (int i = 0; i < 3; i++) { json_put_number(w->gen, names[i], best[i]); }
    json_open_map(w->gen, "sizes");
    for (int i = 0; i < 3; i++) { json_put_number(w->gen, names[i], share[i]); }
    yajl_gen_map_close(w->gen);
    yajl_gen_map_close(w->gen);
}

static void put_summary_fields(yajl_gen gen, const Summary *s) {
    json_put_integer(gen, "pairs", s->pairs);
    json_put_integer(gen, "classes", s->classes);
    json_put_number(gen, "miou", s->miou);
    json_put_number(gen, "miou_low", s->miou_low);
    json_put_number(gen, "miou_high", s->miou_high);
    json_put_number(gen, "giou", s->giou);
    json_put_number(gen, "giou_low", s->giou_low);
    json_put_number(gen, "giou_high", s->giou_high);
    json_put_number(gen, "class_giou", s->class_giou);
    json_put_number(gen, "ciou", s->ciou);
    json_put_number(gen, "iou_bin", s->iou_bin);
    static const char *const at[] = {"p50", "p60", "p70", "p80", "p90"};
    for (int k = 0; k < 5; k++) { json_put_number(gen, at[k], s->precision_at[k]); }
    json_put_number(gen, "area_ratio", s->area_ratio);
    json_put_number(gen, "missed", s->missed);
    json_put_number(gen, "empty", s->empty);
    json_put_number(gen, "full", s->full);
    static const char *const giou[] = {"giou_small", "giou_medium", "giou_large"};
    static const char *const pairs[] = {"pairs_small", "pairs_medium", "pairs_large"};
    for (int k = 0; k < OBJECT_SIZES; k++) { json_put_number(gen, giou[k], s->giou_of_size[k]); }
    for (int k = 0; k < OBJECT_SIZES; k++) { json_put_integer(gen, pairs[k], s->pairs_of_size[k]); }
}

static void put_short(const Writer *w, const char *key, int kind, Group g) {
    Summary s = summary_of(w, kind, g);
    json_open_map(w->gen, key);
    json_put_number(w->gen, "miou", s.miou);
    json_put_number(w->gen, "giou", s.giou);
    json_put_number(w->gen, "ciou", s.ciou);
    yajl_gen_map_close(w->gen);
}

// Answers to what is not there, if a group has such pairs.
static void put_absent(const Writer *w, Group g) {
    bool *keep = members(w->v, g);
    AbsentSummary absent = summarize_absent(w->v->scores[SCORE_MODEL], w->v->count, keep);
    free(keep);
    if (!absent.pairs) { return; }
    json_open_map(w->gen, "absent");
    json_put_integer(w->gen, "pairs", absent.pairs);
    json_put_number(w->gen, "empty", absent.empty);
    json_put_number(w->gen, "false_area", absent.false_area);
    yajl_gen_map_close(w->gen);
}

// Returns the model's summary.
static Summary put_group(const Writer *w, const char *key, Group g, bool absent) {
    Summary model = summary_with(w, SCORE_MODEL, g, w->record->resamples, w->record->pairs.seed);
    json_open_map(w->gen, key);
    put_summary_fields(w->gen, &model);
    json_open_map(w->gen, "floors");
    put_short(w, "all_foreground", SCORE_ALL_FOREGROUND, g);
    put_box(w, g);
    put_short(w, "white_filter", SCORE_WHITE, g);
    yajl_gen_map_close(w->gen);
    put_short(w, "ceiling", SCORE_CEILING, g);
    if (!w->dataset->crops) { put_short(w, "all_objects", SCORE_ALL_OBJECTS, g); }
    if (absent) { put_absent(w, g); }
    yajl_gen_map_close(w->gen);
    return model;
}

static void put_groups(const Writer *w) {
    Summary seen = put_group(w, "seen", seen_group, false), unseen = put_group(w, "unseen", unseen_group, false);
    json_put_number(w->gen, "harmonic", harmonic_mean(seen.miou, unseen.miou));
    json_put_number(w->gen, "harmonic_giou", harmonic_mean(seen.giou, unseen.giou));
    put_group(w, "all", all_group, false);
    for (int c = 0; c < w->dataset->class_count; c++) {
        if (strcmp(w->dataset->class_names[c], "person") != 0) { continue; }
        put_group(w, "without_person", (Group){-1, -1, c, NULL, -1}, false);
    }
}

static void put_named_groups(const Writer *w) {
    json_open_map(w->gen, "groups");
    for (int k = 0; k < w->v->group_count; k++) {
        const PairGroup *group = &w->v->groups[k];
        put_group(w, group->name, (Group){-1, -1, -1, group->has, group->kind}, true);
    }
    yajl_gen_map_close(w->gen);
}

static void put_classes(const Writer *w) {
    yajl_gen gen = w->gen;
    json_open_list(gen, "classes");
    for (int c = 0; c < w->dataset->class_count; c++) {
        Group g = {-1, c, -1, NULL, -1};
        Summary s = summary_with(w, SCORE_MODEL, g, w->record->resamples, (uint64_t)c);
        if (s.pairs == 0) { continue; }
        yajl_gen_map_open(gen);
        json_put_string(gen, "name", w->dataset->class_names[c]);
        json_put_boolean(gen, "seen", w->v->seen[c]);
        json_put_integer(gen, "pairs", s.pairs);
        json_put_number(gen, "iou", s.miou);
        json_put_number(gen, "iou_low", s.miou_low);
        json_put_number(gen, "iou_high", s.miou_high);
        json_put_number(gen, "giou", s.giou);
        json_put_number(gen, "ceiling", summary_of(w, SCORE_CEILING, g).miou);
        json_put_number(gen, "empty", s.empty);
        json_put_number(gen, "full", s.full);
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
}

static void put_steps(const Writer *w) {
    json_open_list(w->gen, "steps_table");
    for (int k = 0; k < w->v->table_count; k++) {
        Summary seen = summary_of(w, SCORE_STEPS + k, seen_group),
                unseen = summary_of(w, SCORE_STEPS + k, unseen_group);
        yajl_gen_map_open(w->gen);
        json_put_integer(w->gen, "steps", w->v->table[k]);
        json_put_number(w->gen, "seen_miou", seen.miou);
        json_put_number(w->gen, "unseen_miou", unseen.miou);
        json_put_number(w->gen, "seen_giou", seen.giou);
        json_put_number(w->gen, "unseen_giou", unseen.giou);
        yajl_gen_map_close(w->gen);
    }
    yajl_gen_array_close(w->gen);
}

// A prompt set, over the classes that have such a name; own: the same pairs with the model's own prompts.
static void put_prompts(const Writer *w) {
    json_open_list(w->gen, "text_table");
    for (int k = 0; k < w->v->prompt_set_count; k++) {
        const PromptSet *set = &w->v->prompt_sets[k];
        Group seen_names = {1, -1, -1, set->has, -1}, unseen_names = {0, -1, -1, set->has, -1};
        Summary seen = summary_of(w, SCORE_PROMPTS + k, seen_names);
        Summary unseen = summary_of(w, SCORE_PROMPTS + k, unseen_names);
        yajl_gen_map_open(w->gen);
        json_put_string(w->gen, "text", set->label);
        json_put_integer(w->gen, "pairs", seen.pairs + unseen.pairs);
        json_put_number(w->gen, "seen_miou", seen.miou);
        json_put_number(w->gen, "unseen_miou", unseen.miou);
        json_put_number(w->gen, "own_seen_miou", summary_of(w, SCORE_MODEL, seen_names).miou);
        json_put_number(w->gen, "own_unseen_miou", summary_of(w, SCORE_MODEL, unseen_names).miou);
        yajl_gen_map_close(w->gen);
    }
    yajl_gen_array_close(w->gen);
}

static void put_rule(yajl_gen gen, const MaskRule *rule) {
    json_open_map(gen, "extraction");
    json_put_string(gen, "method", mask_method_names[rule->method]);
    json_put_number(gen, "tolerance", round(rule->tolerance * 1e4) / 1e4);
    if (rule->method == MASK_COMPARE) { json_put_number(gen, "changed", round(rule->changed * 1e4) / 1e4); }
    json_put_boolean(gen, "opening", rule->opening);
    yajl_gen_map_close(gen);
}

static void put_record(yajl_gen gen, const EvalRecord *o, const Evaluation *v, const ModelSettings *settings) {
    json_open_map(gen, "config");
    json_put_string(gen, "model", o->model);
    json_put_boolean(gen, "ema", o->ema);
    json_put_string(gen, "data", o->where);
    json_put_string(gen, "protocol", o->protocol);
    json_put_string(gen, "target", target_names[settings->target - TARGET_OVERLAY]);
    json_put_integer(gen, "resolution", o->resolution);
    json_put_integer(gen, "steps", o->steps);
    int first = schedule_first_timestep(o->schedule, o->steps);
    json_put_string(gen, "timestep_spacing", timestep_spacing_names[o->schedule->config.spacing]);
    json_put_integer(gen, "first_timestep", first);
    json_put_number(gen, "first_signal", sqrt(o->schedule->alphas_cumprod[first]));
    json_put_number(gen, "terminal_signal", sqrt(o->schedule->alphas_cumprod[o->schedule->T - 1]));
    json_put_string(gen, "start", o->start);
    json_put_integer(gen, "ensemble", o->ensemble);
    json_put_integer(gen, "seed", (long long)o->pairs.seed);
    json_put_integer(gen, "per_class", o->pairs.per_class);
    json_put_integer(gen, "limit", o->pairs.limit);
    json_put_number(gen, "absent", o->pairs.absent);
    json_put_integer(gen, "bootstrap_resamples", o->resamples);
    put_rule(gen, &v->rule);
    json_put_string(gen, "device", o->device);
    json_put_string(gen, "command", o->command);
    yajl_gen_map_close(gen);
    if (o->tuned_on) {
        json_open_map(gen, "tuning");
        json_put_string(gen, "on", o->tuned_on);
        json_put_integer(gen, "pairs", o->tune_pairs);
        json_put_number(gen, "miou", o->tune_miou);
        json_put_boolean(gen, "seen", o->tune_seen);
        yajl_gen_map_close(gen);
    }
}

static int by_id(const void *a, const void *b) {
    const int64_t *p = a, *q = b;
    return (*p > *q) - (*p < *q);
}

// Distinct ones: shards of several passes hold a picture several times.
static int count_pictures(const Evaluation *v) {
    int64_t *ids = xmalloc(((size_t)v->count + 1) * sizeof *ids);
    for (int i = 0; i < v->count; i++) { ids[i] = v->pairs[i].image_id; }
    qsort(ids, (size_t)v->count, sizeof *ids, by_id);
    int pictures = 0;
    for (int i = 0; i < v->count; i++) { pictures += i == 0 || ids[i] != ids[i - 1]; }
    free(ids);
    return pictures;
}

yajl_gen result_json(const Dataset *dataset, const Evaluation *v, const EvalRecord *record,
                     const ModelSettings *settings) {
    yajl_gen gen = json_writer();
    Writer w = {gen, dataset, v, record};
    yajl_gen_map_open(gen);
    put_groups(&w);
    put_classes(&w);
    if (v->group_count) { put_named_groups(&w); }
    if (v->table_count) { put_steps(&w); }
    if (v->prompt_set_count) { put_prompts(&w); }
    put_absent(&w, all_group);
    int pictures = count_pictures(v);
    json_put_integer(gen, "pictures", pictures);
    json_put_number(gen, "seconds", v->seconds);
    json_put_number(gen, "seconds_per_picture", pictures ? v->seconds / pictures : NAN);
    json_put_number(gen, "sampling_seconds_per_pair", v->count ? v->sampling_seconds / v->count : NAN);
    put_record(gen, record, v, settings);
    if (!dataset->crops) { coco_put_left_out(&dataset->coco, gen); }
    yajl_gen_map_close(gen);
    return gen;
}

// Columns of shards alone: the sample's number, and of those with texts two more.
static void put_sample(FILE *out, const Dataset *dataset, const Pair *pair) {
    if (dataset->crops) { fprintf(out, ",%d", pair->item); }
    if (dataset->texts) {
        const ShardInfo *info = &dataset->shards.info;
        fputc(',', out);
        csv_put_text(out, info->kind_count ? info->kinds[pair->kind] : "");
        fputc(',', out);
        csv_put_text(out, dataset_text(dataset, pair));
    }
}

static void put_plain(FILE *out, const char *text) { fputs(text, out); }

void result_write_pairs(const Dataset *dataset, const Evaluation *v, const char *path) {
    AtomicFile file = atomic_open(path);
    fputs("image_id,class,seen,absent,iou,intersection,union,predicted,truth,valid,ceiling_iou", file.stream);
    for (int k = 0; k < BOX_SIZES; k++) { fprintf(file.stream, ",box_%d_iou", box_percent(k)); }
    fprintf(file.stream, "%s%s\n", dataset->crops ? ",sample" : "", dataset->texts ? ",kind,text" : "");
    for (int i = 0; i < v->count; i++) {
        const PairScore *s = &v->scores[SCORE_MODEL][i];
        const char *name = dataset->class_names[v->pairs[i].category];
        char number[24];
        const char *image = dataset_image_name(dataset, &v->pairs[i], number);
        (image == number ? put_plain : csv_put_text)(file.stream, image);
        fputc(',', file.stream);
        csv_put_text(file.stream, name);
        fprintf(file.stream, ",%d,%d,%.6f,%.0f,%.0f,%.0f,%.0f,%.0f,%.6f", v->seen[v->pairs[i].category], s->absent,
                pair_iou(s), s->intersection, s->union_, s->predicted, s->truth, s->valid,
                pair_iou(&v->scores[SCORE_CEILING][i]));
        for (int k = 0; k < BOX_SIZES; k++) { fprintf(file.stream, ",%.6f", pair_iou(&v->scores[SCORE_BOX + k][i])); }
        put_sample(file.stream, dataset, &v->pairs[i]);
        fputc('\n', file.stream);
    }
    atomic_commit(&file);
}

// ---- terminal ------------------------------------------------------------------------------------------------------

// The numbers at these paths, which a NULL ends, in columns of 8 after a space of `gap`, and the line's end.
static void print_numbers(yajl_val from, int gap, const char *const *paths) {
    for (; *paths; paths++) {
        double value = json_number_at(from, *paths);
        if (isnan(value)) {
            printf("%*s", gap + 8, "-");
        } else {
            printf("%*.3f", gap + 8, value);
        }
    }
    printf("\n");
}

static void print_row(yajl_val m, const char *name, const char *key) {
    static const char *const columns[] = {"miou", "miou_low", "miou_high", "giou", "ciou", "p50",
                                          "p70",  "p90",      "empty",     "full", NULL};
    yajl_val group = json_find(m, key);
    if (!group) { return; }
    text_column(stdout, 16, name);
    printf("%7.0f%8.0f", json_number_at(group, "pairs"), json_number_at(group, "classes"));
    print_numbers(group, 0, columns);
}

static void print_floors(yajl_val m, const char *key, bool objects) {
    const char *const columns[] = {"floors.all_foreground.miou",
                                   "floors.centre_box.miou",
                                   "floors.white_filter.miou",
                                   "miou",
                                   "ceiling.miou",
                                   objects ? "all_objects.miou" : NULL,
                                   NULL};
    text_column(stdout, 16, key);
    print_numbers(json_find(m, key), 2, columns);
}

static void print_classes(yajl_val m) {
    static const char *const columns[] = {"iou", "iou_low", "iou_high", "ceiling", NULL};
    yajl_val list = json_find(m, "classes");
    printf("\n%-22s%-8s%7s%8s%8s%8s%8s\n", "class", "", "pairs", "IoU", "low", "high", "ceiling");
    for (size_t i = 0; i < list->u.array.len; i++) {
        yajl_val c = list->u.array.values[i];
        text_column(stdout, 22, json_string_at(c, "name"));
        printf("%-8s%7.0f", YAJL_IS_TRUE(json_find(c, "seen")) ? "seen" : "unseen", json_number_at(c, "pairs"));
        print_numbers(c, 0, columns);
    }
}

// The rows of steps_table or text_table, if there is one.
static void print_table(yajl_val m, const char *key, const char *heading, int width, const char *const *columns) {
    yajl_val list = json_find(m, key);
    if (list) { printf("\n%s\n", heading); }
    for (size_t i = 0; list && i < list->u.array.len; i++) {
        yajl_val row = list->u.array.values[i], steps = json_find(row, "steps");
        text_column(stdout, width, steps ? YAJL_GET_NUMBER(steps) : json_string_at(row, "text"));
        print_numbers(row, 2, columns);
    }
}

void result_print(yajl_val m) {
    bool objects = json_at(m, "all.all_objects") != NULL;
    print_classes(m);
    printf("\n%-16s%7s%8s%8s%8s%8s%8s%8s%8s%8s%8s%8s%8s\n", "", "pairs", "classes", "mIoU", "low", "high", "gIoU",
           "cIoU", "P@.5", "P@.7", "P@.9", "empty", "full");
    print_row(m, "seen", "seen");
    print_row(m, "unseen", "unseen");
    print_row(m, "all", "all");
    print_row(m, "without person", "without_person");
    yajl_val groups = json_find(m, "groups");
    for (size_t k = 0; groups && k < groups->u.object.len; k++) {
        bool any = json_number_at(groups->u.object.values[k], "pairs") > 0; // absent phrases have a line of their own
        if (any) { print_row(groups, groups->u.object.keys[k], groups->u.object.keys[k]); }
    }
    double harmonic = json_number_at(m, "harmonic");
    if (!isnan(harmonic)) { printf("harmonic mean of seen and unseen mIoU: %.3f\n", harmonic); }
    printf("\n%-16s%10s%10s%10s%10s%10s%s\n", "mIoU", "all-fg", "box", "white", "model", "ceiling",
           objects ? "   all obj" : "");
    print_floors(m, "seen", objects);
    print_floors(m, "unseen", objects);
    for (size_t k = 0; groups && k < groups->u.object.len; k++) {
        bool any = json_number_at(groups->u.object.values[k], "pairs") > 0;
        if (any) { print_floors(groups, groups->u.object.keys[k], objects); }
    }
    printf("box: the best of nine centred boxes, chosen for each row on its pairs, which favours the floor\n");
    yajl_val absent = json_find(m, "absent");
    if (absent) {
        printf("absent: %.0f queries, %.1f%% answered empty, %.2f%% of the picture masked on average\n",
               json_number_at(absent, "pairs"), 100 * json_number_at(absent, "empty"),
               100 * json_number_at(absent, "false_area"));
    }
    print_table(m, "steps_table", "DDIM steps            seen    unseen", 16,
                (const char *const[]){"seen_miou", "unseen_miou", NULL});
    print_table(m, "text_table", "text                                  seen  own text    unseen  own text", 32,
                (const char *const[]){"seen_miou", "own_seen_miou", "unseen_miou", "own_unseen_miou", NULL});
}
