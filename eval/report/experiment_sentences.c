// The conclusions of an experiment, by fixed rules that know nothing of the expected outcome.
#include "eval/report/experiment.h"
#include "util/error.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char **list;
    int count;
} Sentences;

__attribute__((format(printf, 2, 3))) static void say(Sentences *s, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    s->list = xrealloc(s->list, ((size_t)s->count + 1) * sizeof *s->list);
    s->list[s->count++] = xstrdup(text);
}

static void append(char *text, size_t size, const char *separator, const char *more) {
    size_t length = strlen(text);
    snprintf(text + length, size - length, "%s%s", length ? separator : "", more);
}

static void say_collapses(Sentences *s, const Experiment *e) {
    char collapsed[512] = "", part[128];
    int runs = 0;
    for (int a = 0; a < e->arm_count; a++) {
        int count = arm_collapses(e, a);
        runs += e->arms[a].run_count;
        snprintf(part, sizeof part, "%s in %d of %d runs", e->arms[a].name, count, e->arms[a].run_count);
        if (count) { append(collapsed, sizeof collapsed, ", ", part); }
    }
    if (*collapsed) {
        say(s, "Collapsed: %s (final IoU below half its peak, and at least half of the predictions empty or full).",
            collapsed);
    } else {
        say(s,
            "No run of the %d collapsed (final IoU below half its peak, and at least half of the predictions "
            "empty or full).",
            runs);
    }
}

static void say_effect(Sentences *s, const Contrast *c, const char *what) {
    for (int g = GROUP_LISTED; g <= GROUP_HELD_OUT; g++) {
        Interval d = c->giou[g];
        if (isnan(d.value)) { continue; }
        if (isnan(d.low)) {
            say(s, "%s changes gIoU on %s by %+.3f; there is no interval.", what, group_names[g], d.value);
            continue;
        }
        say(s, "%s changes gIoU on %s by %+.3f (95%% interval %+.3f to %+.3f): %s.", what, group_names[g], d.value,
            d.low, d.high,
            !distinguishable(d) ? "not distinguishable from zero"
            : d.value > 0       ? "an improvement"
                                : "a loss");
    }
}

// Overlay and mask have different ceilings: the IoU of a perfect answer after the VAE.
static void say_ceilings(Sentences *s, const Experiment *e) {
    int overlay = experiment_arm(e, "overlay"), mask = experiment_arm(e, "mask");
    if (overlay < 0 || mask < 0) { return; }
    double share[2], ceiling[2];
    for (int k = 0; k < 2; k++) {
        int arm = k ? mask : overlay;
        ceiling[k] = e->arms[arm].runs[0].ceiling[GROUP_ALL];
        if (!(ceiling[k] > 0)) { return; }
        share[k] = 100 * arm_average(e, arm, -1, GROUP_ALL, GIOU, 0, 0).value / ceiling[k];
    }
    say(s,
        "Of the VAE's ceiling (%.3f for the overlay, %.3f for the mask), the overlay reaches %.0f%% and "
        "the mask %.0f%%.",
        ceiling[0], ceiling[1], share[0], share[1]);
}

static void say_absent(Sentences *s, const Experiment *e) {
    char shares[512] = "", part[128];
    for (int a = 0; a < e->arm_count; a++) {
        Interval area = arm_average(e, a, -1, GROUP_ALL, FALSE_AREA, 0, 0);
        if (isnan(area.value)) { continue; }
        snprintf(part, sizeof part, "%s %.1f%%", e->arms[a].name, 100 * area.value);
        append(shares, sizeof shares, ", ", part);
    }
    if (*shares) {
        say(s, "When asked for a class that is not in the picture, the models still mark a share of the picture: %s.",
            shares);
    }
}

static bool mostly_collapsed(const Experiment *e, int arm) {
    return 2 * arm_collapses(e, arm) > e->arms[arm].run_count;
}

// The original story: the bare mask with all classes fails, the overlay with the short list does not.
static void say_story(Sentences *s, const Experiment *e) {
    int failing = experiment_arm(e, "mask+frequent"), fixed = experiment_arm(e, "overlay");
    if (failing < 0 || fixed < 0) {
        say(s, "Cannot tell whether the original's failure and fix reproduce: this needs the arms mask+frequent and "
               "overlay.");
        return;
    }
    Collapse last = run_collapse(e, &e->arms[failing].runs[0]);
    if (!mostly_collapsed(e, failing)) {
        say(s,
            "The original's failure does not reproduce here: its arm, mask+frequent, did not collapse (first run: peak "
            "gIoU %.3f, final gIoU %.3f, %.0f%% of the predictions empty or full).",
            last.peak, last.end, 100 * last.constant);
        return;
    }
    if (mostly_collapsed(e, fixed)) {
        say(s, "The original's failure reproduces, its fix does not: both mask+frequent and overlay collapsed.");
        return;
    }
    int target = experiment_arm(e, "overlay+frequent"), classes = experiment_arm(e, "mask");
    bool by_target = target >= 0 && !mostly_collapsed(e, target),
         by_classes = classes >= 0 && !mostly_collapsed(e, classes);
    say(s, "The original's failure and its fix reproduce: mask+frequent collapsed, overlay did not. %s",
        target < 0 || classes < 0 ? "Telling which of the two changes was enough needs the other two arms."
        : by_target && by_classes ? "Either change alone is enough."
        : by_target               ? "Painting the mask on the picture is enough; leaving out the frequent class is not."
        : by_classes              ? "Leaving out the frequent class is enough; painting the mask on the picture is not."
                                  : "Neither change alone is enough.");
}

static void say_limits(Sentences *s, const Experiment *e) {
    int least = e->arms[0].run_count;
    for (int a = 1; a < e->arm_count; a++) { least = e->arms[a].run_count < least ? e->arms[a].run_count : least; }
    if (least == 1) {
        say(s,
            "At least one arm has a single run: its interval covers the choice of pictures, not of the training seed.");
    } else {
        say(s, "Intervals are over pictures and over seeds; with %d runs per arm, the part over seeds is rough.",
            least);
    }
}

char **experiment_sentences(const Experiment *e, const Contrasts *c, int *count) {
    Sentences s = {0};
    say_collapses(&s, e);
    if (c->target >= 0) {
        say_effect(&s, &c->list[c->target], "Painting the mask on the picture");
        char *what = xprintf("Training with \"%s\"", e->frequent);
        say_effect(&s, &c->list[c->classes], what);
        free(what);
    }
    say_ceilings(&s, e);
    say_absent(&s, e);
    say_story(&s, e);
    say_limits(&s, e);
    *count = s.count;
    return s.list;
}
