#include "eval/report/curves.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Points at or after a repeated step were written by a run that was then continued from an earlier checkpoint.
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

// The fields of each kind of line.
static const struct {
    const char *kind, *field;
    size_t curve;
} curves[] = {{"step", "loss", offsetof(RunCurves, loss)},
              {"validation", "loss", offsetof(RunCurves, validation_loss)},
              {"validation", "miou_seen", offsetof(RunCurves, miou_seen)},
              {"validation", "miou_unseen", offsetof(RunCurves, miou_unseen)},
              {"validation", "empty", offsetof(RunCurves, empty)},
              {"validation", "full", offsetof(RunCurves, full)}};
enum { CURVES = sizeof curves / sizeof *curves };

static Curve *curve_of(RunCurves *run, int i) { return (Curve *)((char *)run + curves[i].curve); }

// What is wrong with a line, to be freed, or NULL.
static char *line_problem(const Json *line) {
    static const char *const texts[] = {"kind", "command"};
    if (!line->root || !YAJL_IS_OBJECT(line->root)) { return xprintf("%s: expected one JSON object", line->path); }
    for (int i = 0; i < 2; i++) {
        yajl_val value = json_find(line->root, texts[i]);
        if (value && !YAJL_IS_STRING(value)) {
            return xprintf("%s: field \"%s\" is not a string", line->path, texts[i]);
        }
    }
    const char *kind = json_string(line, "kind", "");
    for (int i = 0; i < 2 * CURVES; i++) {
        const char *field = i % 2 ? "step" : curves[i / 2].field;
        if (strcmp(kind, curves[i / 2].kind) == 0 && json_find(line->root, field) &&
            isnan(json_number_at(line->root, field))) {
            return xprintf("%s: field \"%s\" is not a finite number", line->path, field);
        }
    }
    return NULL;
}

static void read_line(RunCurves *run, const Json *line) {
    const char *kind = json_string(line, "kind", "");
    if (strcmp(kind, "run") == 0) {
        const char *command = json_string(line, "command", NULL);
        if (command && !run->command) { run->command = xstrdup(command); }
    }
    for (int i = 0; i < CURVES; i++) {
        double value = strcmp(kind, curves[i].kind) == 0 ? json_number(line, curves[i].field, NAN) : NAN;
        if (!isnan(value)) { curve_add(curve_of(run, i), json_number(line, "step", 0), value); }
    }
}

// "runs/overlay/model/.." -> "overlay"
static char *last_part(const char *folder) {
    char *full = realpath(folder, NULL), *slash = full ? strrchr(full, '/') : NULL;
    char *name = xstrdup(slash && slash[1] ? slash + 1 : folder);
    free(full);
    return name;
}

RunCurves curves_try_read(const char *folder, char **why) {
    RunCurves run = {.name = last_part(folder)};
    char *path = xprintf("%s/log.jsonl", folder);
    *why = access(path, R_OK) ? xprintf("%s: cannot be read: %s", path, strerror(errno)) : NULL;
    char *text = *why ? xstrdup("") : read_file(path, NULL);
    int number = 0;
    for (char *line = text, *end; !*why && (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = 0;
        number++;
        if (end == line) { continue; }
        char message[256], *where = xprintf("%s: line %d", path, number);
        Json json = {where, json_parse(line, message, sizeof message)};
        *why = line_problem(&json);
        if (!*why) { read_line(&run, &json); }
        yajl_tree_free(json.root);
        free(where);
    }
    free(text);
    free(path);
    if (*why) {
        curves_free(&run);
        run = (RunCurves){0};
    }
    return run;
}

RunCurves curves_read(const char *folder) {
    char *why;
    RunCurves run = curves_try_read(folder, &why);
    if (why) { die("%s", why); }
    return run;
}

void curves_free(RunCurves *run) {
    for (int i = 0; i < CURVES; i++) { curve_free(curve_of(run, i)); }
    free(run->name);
    free(run->command);
}
