#include "eval/results.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// Which pairs belong to a group: only_class >= 0, or seen/unseen, with or without one class.
typedef struct {
    int seen;        // 1: seen, 0: unseen, -1: both
    int only;        // this class alone; -1: all
    int excluded;    // not this class; -1: none
    const bool *has; // (classes) only these; NULL: all
} Group;

static Summary summary_of(const Evaluation *v, const PairScore *scores, Group g, int classes, int resamples,
                          uint64_t seed) {
    bool *keep = xcalloc((size_t)v->count + 1, sizeof *keep);
    for (int i = 0; scores && i < v->count; i++) {
        int c = v->pairs[i].category;
        keep[i] = v->counted[i] && (g.seen < 0 || v->seen[c] == (g.seen == 1)) && (g.only < 0 || c == g.only) &&
                  c != g.excluded && (!g.has || g.has[c]);
    }
    Summary s = summarize(scores, scores ? v->count : 0, keep, classes, resamples, seed);
    free(keep);
    return s;
}

static GroupResult group_result(const Evaluation *v, Group g, int classes, int box, const EvalRecord *r) {
    GroupResult out;
    out.model = summary_of(v, v->scores[SCORE_MODEL], g, classes, r->resamples, r->seed);
    out.ceiling = summary_of(v, v->scores[SCORE_CEILING], g, classes, 0, 0);
    out.all_foreground = summary_of(v, v->scores[SCORE_ALL_FOREGROUND], g, classes, 0, 0);
    out.white = summary_of(v, v->scores[SCORE_WHITE], g, classes, 0, 0);
    out.all_objects = summary_of(v, v->scores[SCORE_ALL_OBJECTS], g, classes, 0, 0);
    out.box = summary_of(v, v->scores[SCORE_BOX + box], g, classes, 0, 0);
    return out;
}

static int best_box(const Evaluation *v, int classes) {
    int best = 0;
    double best_miou = -1;
    for (int k = 0; k < BOX_SIZES; k++) {
        Summary s = summary_of(v, v->scores[SCORE_BOX + k], (Group){-1, -1, -1, NULL}, classes, 0, 0);
        if (s.miou > best_miou) {
            best = k;
            best_miou = s.miou;
        }
    }
    return best;
}

static PromptResult prompt_result(const Evaluation *v, int set, int classes) {
    Group seen = {1, -1, -1, v->prompt_sets[set].has}, unseen = {0, -1, -1, v->prompt_sets[set].has};
    const PairScore *scores = v->scores[SCORE_PROMPTS + set], *own = v->scores[SCORE_MODEL];
    return (PromptResult){summary_of(v, scores, seen, classes, 0, 0), summary_of(v, scores, unseen, classes, 0, 0),
                          summary_of(v, own, seen, classes, 0, 0), summary_of(v, own, unseen, classes, 0, 0)};
}

EvalResult result_summarize(const Dataset *dataset, const Evaluation *v, const EvalRecord *record) {
    int classes = dataset->class_count, person = -1;
    for (int c = 0; c < classes; c++) {
        if (strcmp(dataset->class_names[c], "person") == 0) { person = c; }
    }
    EvalResult r = {.has_person = person >= 0, .has_objects = v->scores[SCORE_ALL_OBJECTS] != NULL};
    r.box = best_box(v, classes);
    r.seen = group_result(v, (Group){1, -1, -1, NULL}, classes, r.box, record);
    r.unseen = group_result(v, (Group){0, -1, -1, NULL}, classes, r.box, record);
    r.all = group_result(v, (Group){-1, -1, -1, NULL}, classes, r.box, record);
    r.without_person = group_result(v, (Group){-1, -1, person, NULL}, classes, r.box, record);
    r.harmonic = harmonic_mean(r.seen.model.miou, r.unseen.model.miou);
    r.harmonic_giou = harmonic_mean(r.seen.model.giou, r.unseen.model.giou);
    r.absent = summarize_absent(v->scores[SCORE_MODEL], v->count);
    for (int k = 0; k < v->table_count; k++) {
        r.steps_seen[k] = summary_of(v, v->scores[SCORE_STEPS + k], (Group){1, -1, -1, NULL}, classes, 0, 0);
        r.steps_unseen[k] = summary_of(v, v->scores[SCORE_STEPS + k], (Group){0, -1, -1, NULL}, classes, 0, 0);
    }
    for (int k = 0; k < v->prompt_set_count; k++) { r.prompts[k] = prompt_result(v, k, classes); }
    for (int k = 0; k < v->group_count; k++) {
        r.groups[k] = group_result(v, (Group){-1, -1, -1, v->groups[k].has}, classes, r.box, record);
    }
    r.classes = xcalloc((size_t)classes + 1, sizeof *r.classes);
    r.class_ceilings = xcalloc((size_t)classes + 1, sizeof *r.class_ceilings);
    for (int c = 0; c < classes; c++) {
        r.classes[c] = summary_of(v, v->scores[SCORE_MODEL], (Group){-1, c, -1, NULL}, classes, record->resamples, c);
        r.class_ceilings[c] = summary_of(v, v->scores[SCORE_CEILING], (Group){-1, c, -1, NULL}, classes, 0, 0);
    }
    return r;
}

void result_free(EvalResult *r) {
    free(r->classes);
    free(r->class_ceilings);
}

// ---- terminal ------------------------------------------------------------------------------------------------------

// Numbers in columns of 8 after a space of `gap`, and the line's end.
static void print_numbers(FILE *out, int gap, const double *values, int count) {
    for (int i = 0; i < count; i++) {
        if (isnan(values[i])) {
            fprintf(out, "%*s", gap + 8, "-");
        } else {
            fprintf(out, "%*.3f", gap + 8, values[i]);
        }
    }
    fprintf(out, "\n");
}

static void print_row(FILE *out, const char *name, const Summary *s) {
    fprintf(out, "%-16s%7d%8d", name, s->pairs, s->classes);
    const double *p = s->precision_at;
    print_numbers(
        out, 0,
        (const double[]){s->miou, s->miou_low, s->miou_high, s->giou, s->ciou, p[0], p[2], p[4], s->empty, s->full},
        10);
}

static void print_group(FILE *out, const char *name, const GroupResult *g, bool objects) {
    fprintf(out, "%-16s", name);
    print_numbers(out, 2,
                  (const double[]){g->all_foreground.miou, g->box.miou, g->white.miou, g->model.miou, g->ceiling.miou,
                                   g->all_objects.miou},
                  5 + objects);
}

static void print_classes(FILE *out, const EvalResult *r, const Dataset *dataset, const Evaluation *v) {
    fprintf(out, "\n%-22s%-8s%7s%8s%8s%8s%8s\n", "class", "", "pairs", "IoU", "low", "high", "ceiling");
    for (int c = 0; c < dataset->class_count; c++) {
        const Summary *s = &r->classes[c];
        if (s->pairs == 0) { continue; }
        fprintf(out, "%-22s%-8s%7d", dataset->class_names[c], v->seen[c] ? "seen" : "unseen", s->pairs);
        print_numbers(out, 0, (const double[]){s->miou, s->miou_low, s->miou_high, r->class_ceilings[c].miou}, 4);
    }
}

void result_print(FILE *out, const EvalResult *r, const Dataset *dataset, const Evaluation *v) {
    print_classes(out, r, dataset, v);
    fprintf(out, "\n%-16s%7s%8s%8s%8s%8s%8s%8s%8s%8s%8s%8s%8s\n", "", "pairs", "classes", "mIoU", "low", "high", "gIoU",
            "cIoU", "P@.5", "P@.7", "P@.9", "empty", "full");
    print_row(out, "seen", &r->seen.model);
    print_row(out, "unseen", &r->unseen.model);
    print_row(out, "all", &r->all.model);
    if (r->has_person) { print_row(out, "without person", &r->without_person.model); }
    for (int k = 0; k < v->group_count; k++) { print_row(out, v->groups[k].name, &r->groups[k].model); }
    if (!isnan(r->harmonic)) { fprintf(out, "harmonic mean of seen and unseen mIoU: %.3f\n", r->harmonic); }
    fprintf(out, "\n%-16s%10s%10s%10s%10s%10s%s\n", "mIoU", "all-fg", "box", "white", "model", "ceiling",
            r->has_objects ? "   all obj" : "");
    print_group(out, "seen", &r->seen, r->has_objects);
    print_group(out, "unseen", &r->unseen, r->has_objects);
    for (int k = 0; k < v->group_count; k++) { print_group(out, v->groups[k].name, &r->groups[k], r->has_objects); }
    fprintf(out,
            "box: the best of nine centred boxes (%.1f of the sides), chosen on these pairs, which favours the floor\n",
            (r->box + 2) / 10.0);
    if (r->absent.pairs) {
        fprintf(out, "absent classes: %d queries, %.1f%% answered empty, %.2f%% of the picture masked on average\n",
                r->absent.pairs, 100 * r->absent.empty, 100 * r->absent.false_area);
    }
    if (v->table_count) { fprintf(out, "\n%-16s%10s%10s\n", "DDIM steps", "seen", "unseen"); }
    for (int k = 0; k < v->table_count; k++) {
        fprintf(out, "%-16d", v->table[k]);
        print_numbers(out, 2, (const double[]){r->steps_seen[k].miou, r->steps_unseen[k].miou}, 2);
    }
    if (v->prompt_set_count) {
        fprintf(out, "\n%-32s%10s%10s%10s%10s\n", "text", "seen", "own text", "unseen", "own text");
    }
    for (int k = 0; k < v->prompt_set_count; k++) {
        const PromptResult *p = &r->prompts[k];
        fprintf(out, "%-32s", v->prompt_sets[k].label);
        print_numbers(out, 2, (const double[]){p->seen.miou, p->own_seen.miou, p->unseen.miou, p->own_unseen.miou}, 4);
    }
}

// ---- metrics.json --------------------------------------------------------------------------------------------------

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

static void put_short(yajl_gen gen, const char *key, const Summary *s) {
    json_open_map(gen, key);
    json_put_number(gen, "miou", s->miou);
    json_put_number(gen, "giou", s->giou);
    json_put_number(gen, "ciou", s->ciou);
    yajl_gen_map_close(gen);
}

static void put_group(yajl_gen gen, const char *key, const GroupResult *g, bool objects) {
    json_open_map(gen, key);
    put_summary_fields(gen, &g->model);
    json_open_map(gen, "floors");
    put_short(gen, "all_foreground", &g->all_foreground);
    put_short(gen, "centre_box", &g->box);
    put_short(gen, "white_filter", &g->white);
    yajl_gen_map_close(gen);
    put_short(gen, "ceiling", &g->ceiling);
    if (objects) { put_short(gen, "all_objects", &g->all_objects); }
    yajl_gen_map_close(gen);
}

static void put_classes(yajl_gen gen, const EvalResult *r, const Dataset *dataset, const Evaluation *v) {
    json_open_list(gen, "classes");
    for (int c = 0; c < dataset->class_count; c++) {
        const Summary *s = &r->classes[c];
        if (s->pairs == 0) { continue; }
        yajl_gen_map_open(gen);
        json_put_string(gen, "name", dataset->class_names[c]);
        json_put_boolean(gen, "seen", v->seen[c]);
        json_put_integer(gen, "pairs", s->pairs);
        json_put_number(gen, "iou", s->miou);
        json_put_number(gen, "iou_low", s->miou_low);
        json_put_number(gen, "iou_high", s->miou_high);
        json_put_number(gen, "giou", s->giou);
        json_put_number(gen, "ceiling", r->class_ceilings[c].miou);
        json_put_number(gen, "empty", s->empty);
        json_put_number(gen, "full", s->full);
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
}

static void put_steps(yajl_gen gen, const EvalResult *r, const Evaluation *v) {
    json_open_list(gen, "steps_table");
    for (int k = 0; k < v->table_count; k++) {
        yajl_gen_map_open(gen);
        json_put_integer(gen, "steps", v->table[k]);
        json_put_number(gen, "seen_miou", r->steps_seen[k].miou);
        json_put_number(gen, "unseen_miou", r->steps_unseen[k].miou);
        json_put_number(gen, "seen_giou", r->steps_seen[k].giou);
        json_put_number(gen, "unseen_giou", r->steps_unseen[k].giou);
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
}

static void put_prompts(yajl_gen gen, const EvalResult *r, const Evaluation *v) {
    json_open_list(gen, "text_table");
    for (int k = 0; k < v->prompt_set_count; k++) {
        const PromptResult *t = &r->prompts[k];
        yajl_gen_map_open(gen);
        json_put_string(gen, "text", v->prompt_sets[k].label);
        json_put_integer(gen, "pairs", t->seen.pairs + t->unseen.pairs);
        json_put_number(gen, "seen_miou", t->seen.miou);
        json_put_number(gen, "unseen_miou", t->unseen.miou);
        json_put_number(gen, "own_seen_miou", t->own_seen.miou);
        json_put_number(gen, "own_unseen_miou", t->own_unseen.miou);
        yajl_gen_map_close(gen);
    }
    yajl_gen_array_close(gen);
}

static void put_groups(yajl_gen gen, const EvalResult *r, const Evaluation *v) {
    json_open_map(gen, "groups");
    for (int k = 0; k < v->group_count; k++) { put_group(gen, v->groups[k].name, &r->groups[k], r->has_objects); }
    yajl_gen_map_close(gen);
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
    json_put_string(gen, "target", settings->target == TARGET_MASK ? "mask" : "overlay");
    json_put_integer(gen, "resolution", o->resolution);
    json_put_integer(gen, "steps", o->steps);
    int first = schedule_first_timestep(o->schedule, o->steps);
    json_put_string(gen, "timestep_spacing", timestep_spacing_names[o->schedule->config.spacing]);
    json_put_integer(gen, "first_timestep", first);
    json_put_number(gen, "first_signal", sqrt(o->schedule->alphas_cumprod[first]));
    json_put_number(gen, "terminal_signal", sqrt(o->schedule->alphas_cumprod[o->schedule->T - 1]));
    json_put_string(gen, "start", o->start);
    json_put_integer(gen, "ensemble", o->ensemble);
    json_put_integer(gen, "seed", (long long)o->seed);
    json_put_integer(gen, "per_class", o->per_class);
    json_put_integer(gen, "limit", o->limit);
    json_put_number(gen, "absent", o->absent);
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
        yajl_gen_map_close(gen);
    }
}

void result_write_json(const EvalResult *r, const Dataset *dataset, const Evaluation *v, const EvalRecord *record,
                       const ModelSettings *settings, const char *path) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    put_group(gen, "seen", &r->seen, r->has_objects);
    put_group(gen, "unseen", &r->unseen, r->has_objects);
    json_put_number(gen, "harmonic", r->harmonic);
    json_put_number(gen, "harmonic_giou", r->harmonic_giou);
    put_group(gen, "all", &r->all, r->has_objects);
    if (r->has_person) { put_group(gen, "without_person", &r->without_person, r->has_objects); }
    json_put_number(gen, "centre_box_size", (r->box + 2) / 10.0);
    put_classes(gen, r, dataset, v);
    if (v->group_count) { put_groups(gen, r, v); }
    if (v->table_count) { put_steps(gen, r, v); }
    if (v->prompt_set_count) { put_prompts(gen, r, v); }
    if (r->absent.pairs) {
        json_open_map(gen, "absent");
        json_put_integer(gen, "pairs", r->absent.pairs);
        json_put_number(gen, "empty", r->absent.empty);
        json_put_number(gen, "false_area", r->absent.false_area);
        yajl_gen_map_close(gen);
    }
    int pictures = 0;
    for (int i = 0; i < v->count; i++) { pictures += i == 0 || v->pairs[i].item != v->pairs[i - 1].item; }
    json_put_integer(gen, "pictures", pictures);
    json_put_number(gen, "seconds", v->seconds);
    json_put_number(gen, "seconds_per_picture", pictures ? v->seconds / pictures : NAN);
    json_put_number(gen, "sampling_seconds_per_pair", v->count ? v->sampling_seconds / v->count : NAN);
    put_record(gen, record, v, settings);
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

void result_write_pairs(const Dataset *dataset, const Evaluation *v, const char *path) {
    AtomicFile file = atomic_open(path);
    fprintf(file.stream, "image_id,class,seen,absent,iou,intersection,union,predicted,truth,valid,ceiling_iou\n");
    for (int i = 0; i < v->count; i++) {
        const PairScore *s = &v->scores[SCORE_MODEL][i];
        const char *name = dataset->class_names[v->pairs[i].category];
        fprintf(file.stream, "%lld,\"%s\",%d,%d,%.6f,%.0f,%.0f,%.0f,%.0f,%.0f,%.6f\n", (long long)s->image_id, name,
                v->seen[v->pairs[i].category], s->absent, pair_iou(s), s->intersection, s->union_, s->predicted,
                s->truth, s->valid, pair_iou(&v->scores[SCORE_CEILING][i]));
    }
    atomic_commit(&file);
}
