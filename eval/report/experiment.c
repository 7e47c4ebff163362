#include "eval/report/experiment.h"
#include "util/csv.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include <dirent.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const group_names[GROUPS] = {"listed classes", "held-out classes", "new words", "the frequent class",
                                         "all pairs"};
const char *const floor_names[3] = {"all foreground", "best centre box", "white filter on the input"};

// ---- tables --------------------------------------------------------------------------------------------------------

// A CSV file: rows of numbers and texts below a row of names, which is row 1 in messages.
typedef struct {
    char *path, *text;
    char ***cells; // (rows, columns)
    char **names;  // (columns)
    int rows, columns;
} Table;

static int split_line(char *line, char **cells, int capacity) {
    int n = 0;
    while (line && n < capacity) { cells[n++] = csv_take_field(&line); }
    return n;
}

enum { MAX_COLUMNS = 32 };

static Table table_read(const char *path) {
    Table t = {.path = xstrdup(path), .text = read_file(path, NULL)};
    char *rest = t.text, *line = csv_take_line(&rest), *cells[MAX_COLUMNS];
    t.columns = split_line(line, cells, MAX_COLUMNS);
    t.names = xcalloc((size_t)t.columns, sizeof *t.names);
    memcpy(t.names, cells, (size_t)t.columns * sizeof *cells);
    while ((line = csv_take_line(&rest)) && *line) {
        if (split_line(line, cells, MAX_COLUMNS) != t.columns) {
            die("%s: row %d: expected %d columns", path, t.rows + 2, t.columns);
        }
        t.cells = xrealloc(t.cells, ((size_t)t.rows + 1) * sizeof *t.cells);
        t.cells[t.rows] = xcalloc((size_t)t.columns, sizeof **t.cells);
        memcpy(t.cells[t.rows++], cells, (size_t)t.columns * sizeof *cells);
    }
    return t;
}

static void table_free(Table *t) {
    for (int i = 0; i < t->rows; i++) { free(t->cells[i]); }
    free(t->cells);
    free(t->names);
    free(t->text);
    free(t->path);
}

static int column_of(const Table *t, const char *name) {
    for (int i = 0; i < t->columns; i++) {
        if (strcmp(t->names[i], name) == 0) { return i; }
    }
    die("%s: the column \"%s\" is missing", t->path, name);
}

static double number_at(const Table *t, int row, int column) {
    char *end;
    double value = strtod(t->cells[row][column], &end);
    if (end == t->cells[row][column] || *end) {
        die("%s: row %d: \"%s\" is not a number", t->path, row + 2, t->cells[row][column]);
    }
    return value;
}

static double field(const Table *t, int row, const char *name) { return number_at(t, row, column_of(t, name)); }

static double column_mean(const Table *t, const char *name) {
    double sum = 0;
    for (int i = 0; i < t->rows; i++) { sum += field(t, i, name); }
    return t->rows ? sum / t->rows : NAN;
}

// ---- pairs ---------------------------------------------------------------------------------------------------------

// The index of a text in a list, to which new texts are added.
static int number_of(char ***list, int *count, const char *text) {
    for (int i = 0; i < *count; i++) {
        if (strcmp((*list)[i], text) == 0) { return i; }
    }
    *list = xrealloc(*list, ((size_t)*count + 1) * sizeof **list);
    (*list)[*count] = xstrdup(text);
    return (*count)++;
}

static void free_list(char **list, int count) {
    for (int i = 0; i < count; i++) { free(list[i]); }
    free(list);
}

// True if a name has one of the words, which are separated by commas.
static bool has_word(const char *name, const char *words) {
    bool found = false;
    char *copy = xstrdup(words ? words : ""), *rest = copy;
    for (char *word; !found && (word = strsep(&rest, ","));) {
        size_t length = strlen(word);
        for (const char *at = name; length && !found && (at = strstr(at, word)); at++) {
            found = (at == name || at[-1] == ' ') && (at[length] == 0 || at[length] == ' ');
        }
    }
    free(copy);
    return found;
}

static int group_of(const Experiment *e, const Table *t, int row) {
    const char *name = t->cells[row][column_of(t, "class")];
    if (strcmp(name, e->frequent) == 0) { return GROUP_FREQUENT; }
    if (has_word(name, e->new_words)) { return GROUP_NEW_WORDS; }
    return field(t, row, "seen") != 0 ? GROUP_LISTED : GROUP_HELD_OUT;
}

static Pairs pairs_of_table(const Experiment *e, const Table *t) {
    size_t n = (size_t)t->rows + 1;
    Pairs p = {.count = t->rows};
    p.group = xcalloc(n, sizeof *p.group);
    p.class_index = xcalloc(n, sizeof *p.class_index);
    p.image = xcalloc(n, sizeof *p.image);
    char **images = NULL;
    for (int i = 0; i < t->rows; i++) {
        p.group[i] = group_of(e, t, i);
        p.class_index[i] = number_of(&p.class_names, &p.classes, t->cells[i][column_of(t, "class")]);
        p.image[i] = number_of(&images, &p.images, t->cells[i][column_of(t, "image_id")]);
    }
    free_list(images, p.images);
    return p;
}

static void pairs_free(Pairs *p) {
    free(p->group);
    free(p->class_index);
    free(p->image);
    if (p->class_names) { free_list(p->class_names, p->classes); }
}

// Every run must have the same pairs. The first table defines them. A validation calls seen what its own run has
// trained on: classes that another run has not are not listed.
static void check_pairs(const Experiment *e, const Table *t, Pairs *p) {
    Pairs own = pairs_of_table(e, t);
    if (!p->group) {
        *p = own;
        return;
    }
    bool same = own.count == p->count && own.classes == p->classes && own.images == p->images;
    for (int i = 0; same && i < p->count; i++) {
        if (p == &e->validation && own.group[i] != p->group[i]) { own.group[i] = p->group[i] = GROUP_HELD_OUT; }
        same = own.group[i] == p->group[i] && own.class_index[i] == p->class_index[i] && own.image[i] == p->image[i] &&
               strcmp(own.class_names[own.class_index[i]], p->class_names[p->class_index[i]]) == 0;
    }
    if (!same) { die("%s: its pairs differ from those of the first run of the experiment", t->path); }
    pairs_free(&own);
}

// Scores of a table whose pairs were checked.
static void read_scores(const Table *t, PairScore *scores) {
    for (int i = 0; i < t->rows; i++) {
        PairScore *s = &scores[i];
        *s = (PairScore){.intersection = field(t, i, "intersection"), .union_ = field(t, i, "union")};
        s->predicted = field(t, i, "predicted"), s->truth = field(t, i, "truth"), s->valid = field(t, i, "valid");
        s->object_share = s->valid > 0 ? s->truth / s->valid : 0;
        s->absent = s->truth == 0;
    }
}

// ---- runs ----------------------------------------------------------------------------------------------------------

static int by_number(const void *a, const void *b) {
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

// Steps N of validation/step-N.csv, sorted.
static void find_steps(ArmRun *run) {
    char *folder = xprintf("%s/validation", run->folder);
    DIR *dir = opendir(folder);
    if (!dir) { die("%s: is not a folder: the run has no validations", folder); }
    for (struct dirent *entry; (entry = readdir(dir));) {
        int step, end = 0;
        if (sscanf(entry->d_name, "step-%9d.csv%n", &step, &end) != 1 || !end || entry->d_name[end]) { continue; }
        run->steps = xrealloc(run->steps, ((size_t)run->step_count + 1) * sizeof *run->steps);
        run->steps[run->step_count++] = step;
    }
    closedir(dir);
    if (!run->step_count) { die("%s: has no step-N.csv: the run has no validations", folder); }
    qsort(run->steps, (size_t)run->step_count, sizeof *run->steps, by_number);
    free(folder);
}

static void read_losses(ArmRun *run, int index) {
    char *path = xprintf("%s/validation/step-%06d-losses.csv", run->folder, run->steps[index]);
    Table t = table_read(path);
    int count[TIMESTEP_BINS] = {0}, timestep = column_of(&t, "timestep"), loss = column_of(&t, "loss");
    double *bins = run->by_timestep[index];
    for (int i = 0; i < TIMESTEP_BINS; i++) { bins[i] = 0; }
    for (int i = 0; i < t.rows; i++) {
        double at = number_at(&t, i, timestep);
        if (!(at >= 0 && at < TRAINED_TIMESTEPS)) { die("%s: row %d: timestep out of range", path, i + 2); }
        int bin = (int)at * TIMESTEP_BINS / TRAINED_TIMESTEPS;
        bins[bin] += number_at(&t, i, loss);
        count[bin]++;
    }
    for (int i = 0; i < TIMESTEP_BINS; i++) { bins[i] = count[i] ? bins[i] / count[i] : NAN; }
    table_free(&t);
    free(path);
}

static void read_validation(Experiment *e, ArmRun *run, int index) {
    char *path = xprintf("%s/validation/step-%06d.csv", run->folder, run->steps[index]);
    Table t = table_read(path);
    check_pairs(e, &t, &e->validation);
    size_t count = (size_t)e->validation.count;
    if (index == 0) { run->scores = xcalloc((size_t)run->step_count * count + 1, sizeof *run->scores); }
    PairScore *scores = run->scores + (size_t)index * count;
    read_scores(&t, scores);
    run->to_black[index] = column_mean(&t, "to_black");
    run->to_white[index] = column_mean(&t, "to_white");
    for (int i = 0; i < t.rows; i++) {
        run->empty[index] += (double)pair_empty(&scores[i]) / t.rows;
        run->full[index] += (double)pair_full(&scores[i]) / t.rows;
    }
    table_free(&t);
    free(path);
}

static void read_ceilings(const Experiment *e, const Table *t, ArmRun *run) {
    double sum[GROUPS] = {0};
    int count[GROUPS] = {0}, ceiling = column_of(t, "ceiling_iou");
    for (int i = 0; i < t->rows; i++) {
        if (run->final[START_NOISE][i].absent) { continue; }
        for (int g = 0; g < GROUPS; g++) {
            if (g != GROUP_ALL && g != e->final.group[i]) { continue; }
            sum[g] += number_at(t, i, ceiling);
            count[g]++;
        }
    }
    for (int g = 0; g < GROUPS; g++) { run->ceiling[g] = count[g] ? sum[g] / count[g] : NAN; }
}

// RUN/KIND/pairs.csv; NULL if there is no such file. The first table that is read defines the pairs.
static PairScore *read_pairs(const Experiment *e, ArmRun *run, const char *kind, Pairs *pairs) {
    char *path = xprintf("%s/%s/pairs.csv", run->folder, kind);
    PairScore *scores = NULL;
    if (file_exists(path)) {
        Table t = table_read(path);
        check_pairs(e, &t, pairs);
        scores = xcalloc((size_t)t.rows + 1, sizeof *scores);
        read_scores(&t, scores);
        if (strcmp(kind, start_names[START_NOISE]) == 0) {
            run->final[START_NOISE] = scores;
            read_ceilings(e, &t, run);
        }
        table_free(&t);
    }
    free(path);
    return scores;
}

static void read_run(Experiment *e, ArmRun *run) {
    run->curves = curves_read(run->folder);
    find_steps(run);
    size_t n = (size_t)run->step_count;
    run->to_black = xcalloc(n, sizeof *run->to_black);
    run->to_white = xcalloc(n, sizeof *run->to_white);
    run->empty = xcalloc(n, sizeof *run->empty);
    run->full = xcalloc(n, sizeof *run->full);
    run->by_timestep = xcalloc(n, sizeof *run->by_timestep);
    for (int i = 0; i < run->step_count; i++) {
        read_validation(e, run, i);
        read_losses(run, i);
    }
    for (int start = 0; start < STARTS; start++) {
        run->final[start] = read_pairs(e, run, start_names[start], &e->final);
    }
    run->absent = read_pairs(e, run, "absent", &e->absent);
}

static void run_free(ArmRun *run) {
    curves_free(&run->curves);
    free(run->folder), free(run->steps), free(run->scores), free(run->absent);
    for (int start = 0; start < STARTS; start++) { free(run->final[start]); }
    free(run->by_timestep);
    free(run->to_black), free(run->to_white), free(run->empty), free(run->full);
}

// ---- arms ----------------------------------------------------------------------------------------------------------

static char *copy_field(const Json *json, const char *name) {
    const char *text = json_string(json, name, NULL);
    if (!text) { die("%s: the field \"%s\" is missing", json->path, name); }
    return xstrdup(text);
}

static double read_signal(const char *folder) {
    char *path = xprintf("%s/%s/metrics.json", folder, start_names[START_NOISE]);
    Json json = json_read(path);
    double signal = json_number_at(json.root, "config.terminal_signal");
    json_free(&json);
    free(path);
    return signal;
}

static void add_run(Experiment *e, Arm *arm, char *folder) {
    char *path = xprintf("%s/arm.json", folder);
    Json json = json_read(path);
    if (!arm->target) {
        arm->target = copy_field(&json, "target");
        arm->classes = copy_field(&json, "classes");
        arm->signal = read_signal(folder);
    }
    if (!e->frequent) {
        const char *words = json_string(&json, "new_words", NULL);
        e->frequent = copy_field(&json, "frequent");
        e->new_words = words ? xstrdup(words) : NULL;
    }
    arm->runs = xrealloc(arm->runs, ((size_t)arm->run_count + 1) * sizeof *arm->runs);
    ArmRun *run = &arm->runs[arm->run_count++];
    *run = (ArmRun){.folder = folder, .seed = (int)json_integer(&json, "seed", 0, 0, INT_MAX)};
    read_run(e, run);
    json_free(&json);
    free(path);
}

static int by_seed(const void *a, const void *b) { return ((const ArmRun *)a)->seed - ((const ArmRun *)b)->seed; }

// Fewer changes first, overlay before mask; then by name.
static int arm_rank(const Arm *arm) {
    int changes = 0;
    for (const char *c = arm->name; *c; c++) { changes += *c == '+'; }
    return 2 * changes + (strcmp(arm->target, "mask") == 0);
}
static int by_arm(const void *a, const void *b) {
    int difference = arm_rank(a) - arm_rank(b);
    return difference ? difference : strcmp(((const Arm *)a)->name, ((const Arm *)b)->name);
}

// Names of the entries of a folder that do not begin with a dot, sorted; *count gets their number.
static struct dirent **entries_of(const char *folder, int *count) {
    struct dirent **entries;
    *count = scandir(folder, &entries, NULL, alphasort);
    if (*count < 0) { die("%s: is not a folder, expected one with the arms of an experiment", folder); }
    return entries;
}

static void read_arm(Experiment *e, const char *arms_folder, const char *name) {
    char *folder = xprintf("%s/%s", arms_folder, name);
    Arm arm = {.name = xstrdup(name)};
    int count;
    struct dirent **entries = entries_of(folder, &count);
    for (int i = 0; i < count; i++) {
        char *run = xprintf("%s/%s", folder, entries[i]->d_name),
             *done = xprintf("%s/%s/pairs.csv", run, start_names[START_NOISE]);
        if (strncmp(entries[i]->d_name, "seed-", 5) == 0 && file_exists(done)) {
            add_run(e, &arm, run);
        } else {
            free(run);
        }
        free(done);
        free(entries[i]);
    }
    free(entries);
    free(folder);
    if (!arm.run_count) {
        warn("%s/%s: no finished run, left out", arms_folder, name);
        free(arm.name);
        return;
    }
    qsort(arm.runs, (size_t)arm.run_count, sizeof *arm.runs, by_seed);
    e->arms = xrealloc(e->arms, ((size_t)e->arm_count + 1) * sizeof *e->arms);
    e->arms[e->arm_count++] = arm;
}

// The gIoU of the centred box that is the best for each group of classes, and the scores of the one that is the best on
// listed classes.
static void read_boxes(Experiment *e, const ArmRun *run) {
    Path path = path_of("%s/%s/pairs.csv", run->folder, start_names[START_NOISE]);
    Table t = table_read(path.text);
    PairScore *scores = xcalloc((size_t)t.rows + 1, sizeof *scores);
    for (int k = 0; k < BOX_SIZES; k++) {
        int column = column_of(&t, path_of("box_%d_iou", box_percent(k)).text);
        for (int i = 0; i < t.rows; i++) {
            scores[i] = (PairScore){.intersection = number_at(&t, i, column), .union_ = 1};
            scores[i].absent = run->final[START_NOISE][i].absent;
        }
        for (int g = 0; g < GROUPS; g++) {
            double *best = &e->floors[FLOOR_CENTRE_BOX][g], giou = pairs_giou(&e->final, scores, g);
            if (isnan(giou) || giou <= *best) { continue; }
            *best = giou;
            if (g != GROUP_LISTED) { continue; }
            e->box = xrealloc(e->box, ((size_t)t.rows + 1) * sizeof *scores);
            memcpy(e->box, scores, (size_t)t.rows * sizeof *scores);
        }
    }
    free(scores);
    table_free(&t);
}

// Taken from the first run: floors do not depend on a model. Those that are not computed here are known of two groups.
static void read_floors(Experiment *e) {
    static const char *const keys[3] = {"all_foreground", NULL, "white_filter"};
    Path path = path_of("%s/%s/metrics.json", e->arms[0].runs[0].folder, start_names[START_NOISE]);
    Json json = json_read(path.text);
    for (int k = 0; k < 3; k++) {
        for (int g = 0; g < GROUPS; g++) { e->floors[k][g] = NAN; }
        if (!keys[k]) { continue; }
        e->floors[k][GROUP_LISTED] = json_number_at(json.root, path_of("seen.floors.%s.giou", keys[k]).text);
        e->floors[k][GROUP_ALL] = json_number_at(json.root, path_of("all.floors.%s.giou", keys[k]).text);
    }
    json_free(&json);
    read_boxes(e, &e->arms[0].runs[0]);
}

Experiment experiment_read(const char *arms_folder) {
    Experiment e = {0};
    int count;
    struct dirent **entries = entries_of(arms_folder, &count);
    for (int i = 0; i < count; i++) {
        char *folder = xprintf("%s/%s", arms_folder, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.' && folder_exists(folder)) { read_arm(&e, arms_folder, entries[i]->d_name); }
        free(folder);
        free(entries[i]);
    }
    free(entries);
    if (!e.arm_count) { die("%s: no finished run of an arm", arms_folder); }
    qsort(e.arms, (size_t)e.arm_count, sizeof *e.arms, by_arm);
    read_floors(&e);
    return e;
}

void experiment_free(Experiment *e) {
    for (int a = 0; a < e->arm_count; a++) {
        Arm *arm = &e->arms[a];
        for (int i = 0; i < arm->run_count; i++) { run_free(&arm->runs[i]); }
        free(arm->runs), free(arm->name), free(arm->target), free(arm->classes);
    }
    free(e->arms);
    free(e->frequent);
    free(e->new_words);
    free(e->box);
    pairs_free(&e->validation);
    pairs_free(&e->final);
    pairs_free(&e->absent);
}

int experiment_arm(const Experiment *e, const char *name) {
    for (int a = 0; a < e->arm_count; a++) {
        if (strcmp(e->arms[a].name, name) == 0) { return a; }
    }
    return -1;
}

bool experiment_has_group(const Experiment *e, int group) {
    for (int i = 0; i < e->final.count; i++) {
        if (group == GROUP_ALL || e->final.group[i] == group) { return true; }
    }
    return false;
}
