#include "eval/report/runlog.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// Points at or after a step that comes again were written by a run that was then continued from an earlier checkpoint.
static void curve_add(Curve *c, double step, double value) {
    while (c->count > 0 && c->step[c->count - 1] >= step) { c->count--; }
    if (c->count == c->capacity) {
        c->capacity = c->capacity ? 2 * c->capacity : 256;
        c->step = xrealloc(c->step, (size_t)c->capacity * sizeof *c->step);
        c->value = xrealloc(c->value, (size_t)c->capacity * sizeof *c->value);
    }
    c->step[c->count] = step;
    c->value[c->count++] = value;
}

void curve_free(Curve *c) {
    free(c->step);
    free(c->value);
    *c = (Curve){0};
}

Curve curve_smooth(const Curve *curve, int points) {
    Curve out = {0};
    int stretch = (curve->count + points - 1) / points;
    for (int first = 0; first < curve->count; first += stretch) {
        int n = curve->count - first < stretch ? curve->count - first : stretch;
        double step = 0, value = 0;
        for (int i = first; i < first + n; i++) {
            step += curve->step[i] / n;
            value += curve->value[i] / n;
        }
        curve_add(&out, step, value);
    }
    return out;
}

static void add_field(Curve *curve, const Json *line, const char *field, double step) {
    double value = json_number(line, field, NAN);
    if (!isnan(value)) { curve_add(curve, step, value); }
}

static void read_line(RunLog *log, const Json *line) {
    const char *kind = json_string(line, "kind", "");
    double step = json_number(line, "step", 0);
    if (strcmp(kind, "run") == 0) {
        free(log->target);
        log->target = xstrdup(json_string(line, "target", ""));
        const char *command = json_string(line, "command", NULL);
        if (command && !log->command) { log->command = xstrdup(command); }
    } else if (strcmp(kind, "step") == 0) {
        add_field(&log->loss, line, "loss", step);
    } else if (strcmp(kind, "validation") == 0) {
        add_field(&log->validation_loss, line, "loss", step);
        add_field(&log->miou_seen, line, "miou_seen", step);
        add_field(&log->miou_unseen, line, "miou_unseen", step);
        add_field(&log->giou_seen, line, "giou_seen", step);
        add_field(&log->giou_unseen, line, "giou_unseen", step);
        add_field(&log->empty, line, "empty", step);
        add_field(&log->full, line, "full", step);
    }
}

// "runs/overlay/model/.." -> "overlay"
static char *last_part(const char *folder) {
    char *full = realpath(folder, NULL), *slash = full ? strrchr(full, '/') : NULL;
    char *name = xstrdup(slash && slash[1] ? slash + 1 : folder);
    free(full);
    return name;
}

RunLog runlog_read(const char *folder) {
    RunLog log = {.name = last_part(folder), .target = xstrdup("")};
    char *path = xprintf("%s/log.jsonl", folder), *text = read_file(path, NULL);
    int number = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = 0;
        number++;
        if (end == line) { continue; }
        char message[256], *where = xprintf("%s: line %d", path, number);
        Json json = {where, yajl_tree_parse(line, message, sizeof message)};
        if (!json.root || !YAJL_IS_OBJECT(json.root)) { die("%s: expected one JSON object", where); }
        read_line(&log, &json);
        yajl_tree_free(json.root);
        free(where);
    }
    free(text);
    free(path);
    return log;
}

void runlog_free(RunLog *log) {
    Curve *curves[] = {&log->loss,      &log->validation_loss, &log->miou_seen, &log->miou_unseen,
                       &log->giou_seen, &log->giou_unseen,     &log->empty,     &log->full};
    for (size_t i = 0; i < sizeof curves / sizeof *curves; i++) { curve_free(curves[i]); }
    free(log->name);
    free(log->target);
    free(log->command);
}
