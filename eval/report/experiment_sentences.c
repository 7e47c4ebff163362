// The conclusions of an experiment, by fixed rules that know nothing of the expected outcome.
#include "eval/report/findings.h"
#include "util/error.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((format(printf, 2, 3))) static void say(Sentences *s, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    s->list = xrealloc(s->list, ((size_t)s->count + 1) * sizeof *s->list);
    s->list[s->count++] = xstrdup(text);
}

void sentences_free(Sentences *s) {
    for (int i = 0; i < s->count; i++) { free(s->list[i]); }
    free(s->list);
}

static void append(char *text, size_t size, const char *separator, const char *more) {
    size_t length = strlen(text);
    snprintf(text + length, size - length, "%s%s", length ? separator : "", more);
}

static double listed(const Findings *f, int arm) { return f->giou[arm][GROUP_LISTED].value; }

// The arms of the 2 x 2.
typedef struct {
    int overlay, mask, overlay_leak, mask_leak;
    bool complete;
} Square;

static Square square_of(const Experiment *e) {
    Square q = {experiment_arm(e, "overlay"), experiment_arm(e, "mask"), experiment_arm(e, "overlay+leak"),
                experiment_arm(e, "mask+leak"), false};
    q.complete = q.overlay >= 0 && q.mask >= 0 && q.overlay_leak >= 0 && q.mask_leak >= 0;
    return q;
}

// ---- the failure ---------------------------------------------------------------------------------------------------

// The difference of a contrast on a group; NaN if there is no such contrast.
static Interval difference(const Contrasts *c, const char *name, int group) {
    const Contrast *found = contrast_named(c, name);
    return found ? found->giou[group] : (Interval){NAN, NAN, NAN};
}

static double thousandths(double value) { return round(1000 * value) / 1000 + 0.0; } // no -0.000

// "0.286 (95% interval 0.210 to 0.363)"; sign: "+0.286", even if it is positive.
static char *with_interval(Interval d, bool sign, char buffer[96]) {
    const double values[] = {d.value, d.low, d.high};
    char text[3][32];
    for (int i = 0; i < 3; i++) { snprintf(text[i], sizeof text[i], sign ? "%+.3f" : "%.3f", thousandths(values[i])); }
    snprintf(buffer, 96, isnan(d.low) ? "%s (no interval)" : "%s (95%% interval %s to %s)", text[0], text[1], text[2]);
    return buffer;
}

static void say_difference(Sentences *s, const Contrasts *c, const char *name, const char *what, int group) {
    Interval d = difference(c, name, group);
    char text[96];
    if (isnan(d.value)) { return; }
    say(s, "%s changes gIoU on %s by %s: %s.", what, group_names[group], with_interval(d, true, text),
        !distinguishable(d) ? "not distinguishable from zero"
        : d.value > 0       ? "an improvement"
                            : "a loss");
}

// What a contrast of losses says: `more` if it is above zero.
static const char *verdict(Interval d, const char *more, const char *less) {
    return isnan(d.low)          ? ""
           : !distinguishable(d) ? ", which is not distinguishable from zero"
           : d.value > 0         ? more
                                 : less;
}

// What the leak takes from each target, and how much more from the mask.
static void say_costs(Sentences *s, const Contrasts *c) {
    static const char *const targets[] = {"mask", "overlay"};
    char text[96];
    for (int k = 0; k < 2; k++) {
        char *name = xprintf("%s+leak - %s", targets[k], targets[k]);
        Interval d = difference(c, name, GROUP_LISTED), cost = {-d.value, -d.high, -d.low};
        free(name);
        if (isnan(d.value)) { continue; }
        say(s, "The leak costs the %s %s of gIoU on %s%s.", targets[k], with_interval(cost, false, text),
            group_names[GROUP_LISTED], verdict(cost, "", ", a gain"));
    }
    Interval more = difference(c, "what painting gains more with the leak than without", GROUP_LISTED);
    if (isnan(more.value)) { return; }
    say(s, "It costs the mask %s more than the overlay%s.", with_interval(more, false, text),
        verdict(more, "", ", so it costs the overlay more"));
}

static void say_failures(Sentences *s, const Findings *findings) {
    const Experiment *e = findings->e;
    char failed[512] = "", part[160], box[16] = "not known";
    int runs = 0, unknown = 0;
    for (int a = 0; a < e->arm_count; a++) {
        Failures f = findings->failures[a];
        runs += f.runs, unknown += f.unknown;
        snprintf(part, sizeof part, "%s in %d of %d runs", e->arms[a].name, f.failed, f.runs);
        if (f.failed) { append(failed, sizeof failed, ", ", part); }
    }
    double floor = e->floors[FLOOR_CENTRE_BOX][GROUP_LISTED];
    if (!isnan(floor)) { snprintf(box, sizeof box, "%.3f", floor); }
    if (*failed) {
        say(s,
            "Failed: %s (not distinguishably above the best centred box, whose gIoU is %s, or collapsed to empty or "
            "full masks).",
            failed, box);
    } else if (!unknown) {
        say(s,
            "No run of the %d failed (all are distinguishably above the best centred box, whose gIoU is %s, and none "
            "collapsed to empty or full masks).",
            runs, box);
    }
    if (unknown) {
        say(s, "Whether %d of the %d runs failed cannot be told: no pair of %s was evaluated, or no box.", unknown,
            runs, group_names[GROUP_LISTED]);
    }
}

// Whether painting prevents the failure. overlay: the runs of overlay+leak.
static void say_fix(Sentences *s, const Contrasts *c, Failures overlay) {
    Interval loss = difference(c, "overlay+leak - overlay", GROUP_LISTED),
             gain = difference(c, "overlay+leak - mask+leak", GROUP_LISTED);
    if (overlay.failed) {
        say(s, "Painting the mask on the picture is no fix: with the leak, the overlay fails in %d of %d runs.",
            overlay.failed, overlay.runs);
    } else if (!(gain.low > 0)) {
        say(s, "That painting the mask on the picture is a fix is not shown: with the leak, the overlay is not "
               "distinguishably better than the mask.");
    } else if (loss.high < 0) {
        say(s,
            "Painting the mask on the picture is a fix, but a partial one: with the leak, the overlay does not fail, "
            "but stays below what it reaches without.");
    } else {
        say(s,
            "Painting the mask on the picture is a fix: with the leak, the overlay is not distinguishably worse than "
            "without.");
    }
}

// The cause, of a square whose runs without the leak work.
static void say_cause(Sentences *s, const Contrasts *c, Failures mask_leak, Failures overlay_leak) {
    bool worse = difference(c, "mask+leak - mask", GROUP_LISTED).high < 0;
    if (!mask_leak.failed) {
        say(s, "The original's failure does not reproduce here: with the leak, the mask fails in none of %d runs%s.",
            mask_leak.runs, worse ? ", but it is worse than without" : "");
        return;
    }
    say(s, "The original's failure reproduces: with the schedule's leak, the bare mask fails in %d of %d runs.",
        mask_leak.failed, mask_leak.runs);
    if (!worse) {
        say(s, "That the leak is the cause is not shown: the mask with it is not distinguishably worse than without.");
        return;
    }
    say(s,
        "The leak is the cause: the same mask without it (zero terminal SNR, trailing timesteps) is better, and fails "
        "in no run.");
    say_fix(s, c, overlay_leak);
}

// Cause, failure and fix, from the 2 x 2 of target and leak. Nothing where no arm has the leak.
static void say_story(Sentences *s, const Findings *f) {
    Square q = square_of(f->e);
    if (!q.complete) {
        if (q.overlay_leak < 0 && q.mask_leak < 0) { return; }
        say(s,
            "Cannot tell what the failure comes from: this needs the arms overlay, mask, overlay+leak and mask+leak.");
        return;
    }
    Failures overlay = f->failures[q.overlay], mask = f->failures[q.mask], overlay_leak = f->failures[q.overlay_leak],
             mask_leak = f->failures[q.mask_leak];
    if (overlay.failed + mask.failed) {
        say(s,
            "What the failure comes from cannot be told: without the leak, the overlay fails in %d of %d runs and the "
            "mask in %d of %d. Training may have been too short.",
            overlay.failed, overlay.runs, mask.failed, mask.runs);
    } else if (overlay.unknown + mask.unknown + overlay_leak.unknown + mask_leak.unknown) {
        say(s, "What the leak does cannot be told: some runs may have failed or not.");
    } else {
        say_cause(s, &f->contrasts, mask_leak, overlay_leak);
    }
}

// Models that read their answer from the leak get it when sampling starts from a training sample.
static void say_starts(Sentences *s, const Findings *f) {
    const Experiment *e = f->e;
    int arms[2] = {experiment_arm(e, "overlay+leak"), experiment_arm(e, "mask+leak")};
    for (int k = 0; k < 2; k++) {
        if (arms[k] < 0) { continue; }
        const Interval *starts = f->starts[arms[k]];
        Interval gain = start_gain(e, arms[k], START_TRUTH, f->resamples, f->seed);
        char text[96];
        if (isnan(gain.value)) { continue; }
        say(s,
            "Started from white noise with as much of the true target as the schedule leaves, instead of noise alone, "
            "%s reaches %.3f instead of %.3f, a gain of %s: %s.",
            e->arms[arms[k]].name, starts[START_TRUTH].value, starts[START_NOISE].value,
            with_interval(gain, false, text),
            gain.low > 0 ? "it reads from what the schedule leaves of the target"
                         : "there is no sign that it reads from what the schedule leaves of the target");
    }
}

// Whether the loss shows that the leak costs the mask something.
static void say_loss(Sentences *s, const Findings *f) {
    const Experiment *e = f->e;
    Square q = square_of(e);
    if (!q.complete || !(difference(&f->contrasts, "mask+leak - mask", GROUP_LISTED).high < 0)) { return; }
    double leak = arm_training_loss(e, q.mask_leak), none = arm_training_loss(e, q.mask);
    if (isnan(leak) || isnan(none)) { return; }
    say(s,
        "The training loss %s that the mask is worse with the leak: at the end it is %.3f for mask+leak and %.3f for "
        "mask.",
        leak > none ? "shows" : "does not show", leak, none);
}

// Overlay and mask have different ceilings: the IoU of a perfect answer after the VAE.
static void say_ceilings(Sentences *s, const Findings *f) {
    const Experiment *e = f->e;
    Square q = square_of(e);
    if (q.overlay < 0 || q.mask < 0) { return; }
    double overlay = e->arms[q.overlay].runs[0].ceiling[GROUP_LISTED],
           mask = e->arms[q.mask].runs[0].ceiling[GROUP_LISTED];
    if (!(overlay > 0 && mask > 0)) { return; }
    say(s,
        "Of the VAE's ceiling (%.3f for the overlay, %.3f for the mask), the overlay reaches %.0f%% and the mask "
        "%.0f%% without the leak.",
        overlay, mask, 100 * listed(f, q.overlay) / overlay, 100 * listed(f, q.mask) / mask);
}

static void say_absent(Sentences *s, const Findings *f) {
    const Experiment *e = f->e;
    char shares[512] = "", part[128];
    for (int a = 0; a < e->arm_count; a++) {
        if (isnan(f->false_area[a].value)) { continue; }
        snprintf(part, sizeof part, "%s %.1f%%", e->arms[a].name, 100 * f->false_area[a].value);
        append(shares, sizeof shares, ", ", part);
    }
    if (*shares) {
        say(s, "When asked for a class that is not in the picture, the models still mark a share of the picture: %s.",
            shares);
    }
}

// ---- the other parts -----------------------------------------------------------------------------------------------

// An arm of this target that differs from it only in the leak.
static bool is_dose(const Arm *arm, const char *target) {
    const char *plus = strchr(arm->name, '+');
    return plus && strcmp(arm->target, target) == 0 && strncmp(plus, "+leak", 5) == 0 && !strchr(plus + 1, '+');
}

// The leak from which on every arm of a target has less than half of what it reaches without.
static void say_dose(Sentences *s, const Findings *f) {
    const Experiment *e = f->e;
    static const char *const targets[] = {"overlay", "mask"};
    for (int k = 0; k < 2; k++) {
        int none = experiment_arm(e, targets[k]), doses = 0, lost = 0;
        double least = INFINITY, most = 0, kept = 0; // kept: the largest signal that leaves more than half
        for (int a = 0; none >= 0 && a < e->arm_count; a++) {
            if (!is_dose(&e->arms[a], targets[k])) { continue; }
            bool less = listed(f, a) < 0.5 * listed(f, none);
            doses++, lost += less;
            most = fmax(most, e->arms[a].signal);
            kept = less ? kept : fmax(kept, e->arms[a].signal);
        }
        for (int a = 0; doses && a < e->arm_count; a++) {
            bool above = is_dose(&e->arms[a], targets[k]) && e->arms[a].signal > kept;
            if (above) { least = fmin(least, e->arms[a].signal); }
        }
        if (doses < 2) { continue; }
        Failures without = f->failures[none];
        if (without.failed + without.unknown) {
            say(s, "From which terminal signal on the %s is worse cannot be told: it %s without a leak.", targets[k],
                without.failed ? "fails" : "may fail");
        } else if (isfinite(least)) {
            say(s, "The %s loses half of its gIoU from a terminal signal of %.3f on.", targets[k], least);
        } else {
            say(s, "The %s keeps more than half of its gIoU at %s terminal signal%s %.3f.", targets[k],
                lost ? "the largest" : "every", lost ? "," : " up to", most);
        }
    }
}

static void say_words(Sentences *s, const Findings *f) {
    const Experiment *words = f->e;
    static const char *const targets[] = {"overlay", "mask"};
    for (int k = 0; k < 2; k++) {
        char *pretrained = xprintf("%s+pretrained", targets[k]);
        char *name = xprintf("%s - %s", pretrained, targets[k]);
        int from_scratch = experiment_arm(words, targets[k]), arm = experiment_arm(words, pretrained);
        const Contrast *d = contrast_named(&f->contrasts, name);
        if (from_scratch >= 0 && arm >= 0 && d && !isnan(d->giou[GROUP_NEW_WORDS].value)) {
            say(s,
                "Words that were never fine-tuned on (%s): pretraining from text to image takes gIoU of the %s from "
                "%.3f to %.3f (difference %+.3f, 95%% interval %+.3f to %+.3f).",
                words->new_words ? words->new_words : "none", targets[k], f->giou[from_scratch][GROUP_NEW_WORDS].value,
                f->giou[arm][GROUP_NEW_WORDS].value, d->giou[GROUP_NEW_WORDS].value, d->giou[GROUP_NEW_WORDS].low,
                d->giou[GROUP_NEW_WORDS].high);
        }
        free(name);
        free(pretrained);
    }
}

static void say_unscaled(Sentences *s, const Findings *u) {
    Square q = u ? square_of(u->e) : (Square){0};
    if (!q.complete || isnan(listed(u, q.mask))) { return; }
    say(s,
        "With Stable Diffusion's own schedule and latent size: without leak mask %.3f and overlay %.3f, with it mask "
        "%.3f and overlay %.3f on %s.",
        listed(u, q.mask), listed(u, q.overlay), listed(u, q.mask_leak), listed(u, q.overlay_leak),
        group_names[GROUP_LISTED]);
}

static void say_limits(Sentences *s, const Experiment *e) {
    int least = e->arms[0].run_count, most = least;
    for (int a = 1; a < e->arm_count; a++) {
        least = e->arms[a].run_count < least ? e->arms[a].run_count : least;
        most = e->arms[a].run_count > most ? e->arms[a].run_count : most;
    }
    if (least == 1) {
        say(s, "%s a single run: its interval covers the choice of pictures, not of the training seed.",
            most == 1 ? "Every arm has" : "Some arms have");
    }
    if (most > 1) {
        say(s, "%s are over pictures and over seeds; with %d runs per arm, the part over seeds is rough.",
            least == 1 ? "The other intervals" : "Intervals", most);
    }
}

Sentences experiment_sentences(const Findings *f, const Findings *words, const Findings *unscaled) {
    const Contrasts *c = &f->contrasts;
    Sentences s = {0};
    say_costs(&s, c);
    say_failures(&s, f);
    say_story(&s, f);
    say_difference(&s, c, "overlay+leak - mask+leak", "With the leak, painting the mask on the picture", GROUP_LISTED);
    say_difference(&s, c, "overlay - mask", "Without the leak, painting the mask on the picture", GROUP_LISTED);
    say_starts(&s, f);
    say_loss(&s, f);
    say_dose(&s, f);
    say_unscaled(&s, unscaled);
    say_words(&s, words ? words : f);
    say_difference(&s, c, "overlay+frequent - overlay", "Training on the frequent class too (overlay)", GROUP_LISTED);
    say_difference(&s, c, "mask+frequent - mask", "Training on the frequent class too (mask)", GROUP_LISTED);
    say_difference(&s, c, "mask+leak+frequent - mask+leak", "Training on the frequent class too (mask+leak)",
                   GROUP_LISTED);
    say_ceilings(&s, f);
    say_absent(&s, f);
    say_limits(&s, f->e);
    return s;
}
