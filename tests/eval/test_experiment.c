// What an experiment says, on made-up results of both kinds: with collapse and without.
#include "eval/report/findings.h"
#include "util/error.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/data/folder.h"
#include "tests/dies.h"

enum { PAIRS = 40, STEPS = 4, RUNS = 3 };

// IoU of a pair that predicts `hits` of 100 wanted pixels and nothing else.
static PairScore score_of(double iou, int pair) {
    double hits = round(100 * iou);
    PairScore s = {.image_id = pair, .intersection = hits, .union_ = 100, .predicted = hits, .truth = 100};
    s.valid = 1000;
    return s;
}

// The last validation gives `end`, the ones before 0.5; final models give `end`, spread over pairs and runs.
static ArmRun made_up_run(double end, bool constant, int seed) {
    ArmRun r = {.folder = xstrdup("run"), .seed = seed, .step_count = STEPS};
    r.steps = xcalloc(STEPS, sizeof *r.steps);
    r.scores = xcalloc(STEPS * PAIRS, sizeof *r.scores);
    r.final[START_NOISE] = xcalloc(PAIRS, sizeof **r.final);
    r.final[START_TRUTH] = xcalloc(PAIRS, sizeof **r.final);
    r.empty = xcalloc(STEPS, sizeof *r.empty);
    r.full = xcalloc(STEPS, sizeof *r.full);
    r.to_black = xcalloc(STEPS, sizeof *r.to_black);
    r.to_white = xcalloc(STEPS, sizeof *r.to_white);
    r.by_timestep = xcalloc(STEPS, sizeof *r.by_timestep);
    for (int i = 0; i < PAIRS; i++) {
        double own = fmin(1, fmax(0, end + 0.04 * sin(3.7 * i) + 0.01 * seed));
        for (int k = 0; k < STEPS; k++) { r.scores[k * PAIRS + i] = score_of(k + 1 < STEPS ? 0.5 : own, i); }
        r.final[START_NOISE][i] = score_of(own, i);
        r.final[START_TRUTH][i] = score_of(0.85, i);
    }
    r.full[STEPS - 1] = constant ? 0.7 : 0.1;
    for (int g = 0; g < GROUPS; g++) { r.ceiling[g] = 0.9; }
    return r;
}

static Pairs made_up_pairs(void) {
    Pairs p = {.count = PAIRS, .classes = 4, .images = PAIRS / 2};
    p.group = xcalloc(PAIRS, sizeof *p.group);
    p.class_index = xcalloc(PAIRS, sizeof *p.class_index);
    p.image = xcalloc(PAIRS, sizeof *p.image);
    for (int i = 0; i < PAIRS; i++) {
        p.class_index[i] = i % 4;
        p.group[i] = i % 4 == 3 ? GROUP_FREQUENT : i % 4 == 2 ? GROUP_HELD_OUT : GROUP_LISTED;
        p.image[i] = i / 2;
    }
    return p;
}

static const char *const names[4] = {"overlay", "mask", "overlay+leak", "mask+leak"};

static Experiment made_up(const double end[4], const bool collapsed[4]) {
    Experiment e = {.frequent = xstrdup("person"), .arm_count = 4, .arms = xcalloc(4, sizeof(Arm))};
    e.validation = made_up_pairs();
    e.final = made_up_pairs();
    e.box = xcalloc(PAIRS, sizeof *e.box);
    for (int i = 0; i < PAIRS; i++) { e.box[i] = score_of(0.14, i); }
    for (int g = 0; g < GROUPS; g++) { e.floors[FLOOR_CENTRE_BOX][g] = 0.14; }
    for (int a = 0; a < 4; a++) {
        Arm *arm = &e.arms[a];
        *arm = (Arm){xstrdup(names[a]), xstrdup(a % 2 ? "mask" : "overlay"), xstrdup("without"),
                     a < 2 ? 0 : 0.2,   xcalloc(RUNS, sizeof(ArmRun)),       RUNS};
        for (int k = 0; k < RUNS; k++) { arm->runs[k] = made_up_run(end[a], collapsed[a], k); }
    }
    return e;
}

// All sentences in one text, to be freed.
static char *sentences_of(const Experiment *e) {
    Findings f = findings_of(e, 300, 1);
    char *text = xstrdup("");
    Sentences s = experiment_sentences(&f, NULL, NULL);
    for (int i = 0; i < s.count; i++) {
        char *longer = xprintf("%s%s\n", text, s.list[i]);
        free(text);
        text = longer;
    }
    sentences_free(&s);
    findings_free(&f);
    printf("%s\n", text);
    return text;
}

// The experiment, which this frees, says all of these.
static void expect_of(Experiment *e, const char *const *expected) {
    char *text = sentences_of(e);
    for (int i = 0; expected[i]; i++) { assert_non_null(strstr(text, expected[i])); }
    assert_null(strstr(text, "nan"));
    free(text);
    experiment_free(e);
}

static void expect(const double end[4], const bool collapsed[4], const char *const *expected) {
    Experiment e = made_up(end, collapsed);
    expect_of(&e, expected);
}

// Gives one run of an arm other answers by its final model.
static void set_run(Experiment *e, int arm, int run, double end) {
    for (int i = 0; i < PAIRS; i++) {
        e->arms[arm].runs[run].final[START_NOISE][i] = score_of(fmax(0, end + 0.04 * sin(3.7 * i)), i);
    }
}

static void no_failure(void **state) {
    (void)state;
    expect((const double[]){0.60, 0.60, 0.60, 0.60}, (const bool[4]){false},
           (const char *const[]){"No run of the 12 failed", "not distinguishable from zero", "does not reproduce here",
                                 "reaches 68% and the mask 68%", NULL});
}

// At the floor of the best centred box, with no empty or full mask.
static void at_the_floor(void **state) {
    (void)state;
    expect((const double[]){0.6, 0.6, 0.4, 0.11}, (const bool[4]){false},
           (const char *const[]){"The leak costs the mask 0.49", "It costs the mask 0.29",
                                 "Failed: mask+leak in 3 of 3 runs", "failure reproduces", "The leak is the cause",
                                 "a fix, but a partial one", "an improvement",
                                 "mask+leak reaches 0.850 instead of 0.120, a gain of 0.730 (95%",
                                 "): it reads from what the schedule leaves of the target", NULL});
    expect(
        (const double[]){0.6, 0.6, 0.1, 0.11}, (const bool[4]){false},
        (const char *const[]){"The leak is the cause", "is no fix: with the leak, the overlay fails in 3 of 3", NULL});
}

// Failures without the leak, by whichever target: the square cannot tell what they come from.
static void fails_without_the_leak(void **state) {
    (void)state;
    expect((const double[]){0.6, 0.11, 0.1, 0.11}, (const bool[4]){false},
           (const char *const[]){"What the failure comes from cannot be told",
                                 "the overlay fails in 0 of 3 runs and the "
                                 "mask in 3 of 3",
                                 NULL});
    expect((const double[]){0.12, 0.12, 0.12, 0.12}, (const bool[4]){false},
           (const char *const[]){"Failed: overlay in 3 of 3 runs, mask in 3 of 3 runs, overlay+leak in 3",
                                 "The leak costs the mask 0.000 (", "which is not distinguishable from zero",
                                 "cannot be told", "too short", NULL});
}

// One of three runs fails: a failure that is counted, and the leak is its cause, since it costs the arm something.
static void one_run_of_three(void **state) {
    (void)state;
    Experiment e = made_up((const double[]){0.6, 0.6, 0.5, 0.3}, (const bool[4]){false});
    set_run(&e, 3, 1, 0.11);
    expect_of(&e, (const char *const[]){"Failed: mask+leak in 1 of 3 runs", "the bare mask fails in 1 of 3 runs",
                                        "The leak is the cause", "a fix, but a partial one", NULL});
}

// A run fails, but over the arm's runs its difference to the arm without the leak may be none.
static void cause_not_shown(void **state) {
    (void)state;
    Experiment e = made_up((const double[]){0.6, 0.4, 0.4, 0.6}, (const bool[4]){false});
    set_run(&e, 3, 1, 0.11);
    expect_of(
        &e, (const char *const[]){"Failed: mask+leak in 1 of 3 runs", "That the leak is the cause is not shown", NULL});
}

// A start from the true target that changes nothing.
static void reads_nothing(void **state) {
    (void)state;
    Experiment e = made_up((const double[]){0.6, 0.6, 0.6, 0.6}, (const bool[4]){false});
    for (int k = 0; k < RUNS; k++) {
        ArmRun *run = &e.arms[3].runs[k];
        memcpy(run->final[START_TRUTH], run->final[START_NOISE], PAIRS * sizeof **run->final);
    }
    expect_of(&e, (const char *const[]){"mask+leak reaches 0.610 instead of 0.610, a gain of 0.000 (95%",
                                        "there is no sign that it reads", NULL});
}

// Both answers of a run are compared with each other: how much runs differ is no part of the gain's interval.
static void gain_by_run(void **state) {
    (void)state;
    Experiment e = made_up((const double[]){0.6, 0.6, 0.6, 0.6}, (const bool[4]){false});
    for (int k = 0; k < RUNS; k++) {
        for (int i = 0; i < PAIRS; i++) {
            e.arms[3].runs[k].final[START_NOISE][i] = score_of(0.2 + 0.2 * k, i);
            e.arms[3].runs[k].final[START_TRUTH][i] = score_of(0.3 + 0.2 * k, i);
        }
    }
    Interval gain = start_gain(&e, 3, START_TRUTH, 300, 1);
    printf("%.4f (%.4f-%.4f)\n", gain.value, gain.low, gain.high);
    assert_true(fabs(gain.value - 0.1) < 1e-9 && fabs(gain.low - 0.1) < 1e-9 && fabs(gain.high - 0.1) < 1e-9);
    assert_true(isnan(start_gain(&e, 3, START_MEAN, 300, 1).value)); // no run was asked
    experiment_free(&e);
}

// Without a pair of the listed classes nothing can be told.
static void no_listed_pair(void **state) {
    (void)state;
    Experiment e = made_up((const double[]){0.6, 0.6, 0.6, 0.11}, (const bool[4]){false});
    for (int i = 0; i < PAIRS; i++) { e.final.group[i] = GROUP_HELD_OUT; }
    for (int a = 0; a < 4; a++) { e.arms[a].runs[0].ceiling[GROUP_LISTED] = NAN; }
    expect_of(&e, (const char *const[]){"Whether 12 of the 12 runs failed cannot be told",
                                        "What the leak does cannot be told", NULL});
}

// Against the box by pair: a run whose own interval reaches below the box is above it in every pair.
static void box_by_pair(void **state) {
    (void)state;
    Experiment e = made_up((const double[]){0.6, 0.6, 0.6, 0.6}, (const bool[4]){false});
    for (int i = 0; i < PAIRS; i++) { e.arms[0].runs[0].final[START_NOISE][i] = score_of(i / 4 % 2 ? 0.02 : 0.27, i); }
    Failure f = run_failure(&e, &e.arms[0].runs[0], 300, 1);
    printf("interval from %.3f\n", f.listed.low);
    assert_true(f.at_floor && f.known && f.listed.low < 0.14);
    for (int i = 0; i < PAIRS; i++) { e.box[i] = score_of(i / 4 % 2 ? 0.01 : 0.26, i); }
    f = run_failure(&e, &e.arms[0].runs[0], 300, 1);
    printf("%.4f above the box (%.4f-%.4f)\n", f.above_box.value, f.above_box.low, f.above_box.high);
    assert_true(!f.at_floor && fabs(f.above_box.value - 0.01) < 1e-9 && fabs(f.above_box.low - 0.01) < 1e-9);
    e.box[0] = score_of(1, 0);
    assert_true(run_failure(&e, &e.arms[0].runs[0], 300, 1).at_floor);
    experiment_free(&e);
}

// Two arms that differ in the pretraining alone: sentences on words, and none on a leak that no arm has.
static void words_alone(void **state) {
    (void)state;
    Experiment e = made_up((const double[]){0.3, 0.3, 0.6, 0.6}, (const bool[4]){false});
    e.new_words = xstrdup("orange");
    for (int i = 0; i < PAIRS; i++) {
        if (e.final.group[i] == GROUP_HELD_OUT) { e.final.group[i] = GROUP_NEW_WORDS; }
    }
    for (int a = 2; a < 4; a++) {
        free(e.arms[a].name);
        e.arms[a].name = xprintf("%s+pretrained", names[a - 2]);
    }
    char *text = sentences_of(&e);
    assert_non_null(strstr(text, "Words that were never fine-tuned on (orange): pretraining"));
    assert_null(strstr(text, "annot tell"));
    free(text);
    experiment_free(&e);
}

// A low IoU that is above the floor, or constant answers alone, are no failure.
static void half_a_collapse(void **state) {
    (void)state;
    expect((const double[]){0.6, 0.22, 0.6, 0.6}, (const bool[]){false, false, false, true},
           (const char *const[]){"No run of the 12 failed", "an improvement", NULL});
}

static void collapses(void **state) {
    (void)state;
    expect(
        (const double[]){0.6, 0.6, 0.61, 0.2}, (const bool[]){false, false, false, true},
        (const char *const[]){"Failed: mask+leak in 3 of 3 runs", "is not distinguishably worse than without", NULL});
    // a difference that is none, of either sign
    expect((const double[]){0.6, 0.6, 0.599, 0.2}, (const bool[]){false, false, false, true},
           (const char *const[]){"is not distinguishably worse than without", NULL});
}

// Contrasts are sums of arms' means, and the interval holds the value.
static void numbers(void **state) {
    (void)state;
    Experiment e = made_up((const double[]){0.7, 0.5, 0.6, 0.3}, (const bool[4]){false});
    Contrasts c = contrasts_of(&e, 500, 3);
    double mean[4];
    for (int a = 0; a < 4; a++) {
        mean[a] = 0;
        for (int k = 0; k < RUNS; k++) {
            for (int i = 0; i < PAIRS; i++) {
                if (i % 4 < 2) { mean[a] += pair_iou(&e.arms[a].runs[k].final[START_NOISE][i]) / (RUNS * PAIRS / 2); }
            }
        }
        Interval found = arm_average(&e, a, FINAL, GROUP_LISTED, GIOU, 500, 3);
        printf("%s: %.6f (%.4f-%.4f), expected %.6f\n", names[a], found.value, found.low, found.high, mean[a]);
        assert_true(fabs(found.value - mean[a]) < 1e-12 && found.low < mean[a] && mean[a] < found.high);
    }
    const Contrast *target = contrast_named(&c, "overlay+leak - mask+leak"),
                   *leak = contrast_named(&c, "mask+leak - mask"),
                   *more = contrast_named(&c, "what painting gains more with the leak than without");
    assert_true(fabs(target->giou[GROUP_LISTED].value - (mean[2] - mean[3])) < 1e-12);
    assert_true(fabs(leak->giou[GROUP_LISTED].value - (mean[3] - mean[1])) < 1e-12);
    assert_true(fabs(more->giou[GROUP_LISTED].value - (mean[2] - mean[3] - mean[0] + mean[1])) < 1e-12);
    assert_true(distinguishable(target->giou[GROUP_LISTED]));
    assert_null(contrast_named(&c, "overlay - nothing"));
    assert_true(fabs(arm_average(&e, 0, 0, GROUP_ALL, CLASS_MEAN, 0, 0).value - 0.5) < 1e-12);
    contrasts_free(&c);
    experiment_free(&e);
}

// More validations than a figure has points: the curve goes on to the last of them, at step 1000.
static void many_validations(void **state) {
    (void)state;
    enum { VALIDATIONS = 101 };
    Experiment e = made_up((const double[]){0.6, 0.6, 0.6, 0.6}, (const bool[4]){false});
    double step[VALIDATIONS], value[VALIDATIONS];
    for (int i = 0; i < VALIDATIONS; i++) { step[i] = 10 * i, value[i] = 1; }
    Curve curve = {step, value, VALIDATIONS, VALIDATIONS};
    e.arms[3].runs[0].curves.validation_loss = curve;
    Findings f = {.e = &e};
    char *page;
    size_t size;
    FILE *out = open_memstream(&page, &size);
    diagnostic_curves(out, &f);
    fclose(out);
    const char *figure = strstr(page, "fig-validation-loss"), *next = strstr(figure, "fig-timesteps"),
               *tick = strstr(figure, ">800</text>");
    assert_true(tick && tick < next);
    free(page);
    e.arms[3].runs[0].curves.validation_loss = (Curve){0};
    experiment_free(&e);
}

// Asked for what is not there: the share of the picture that is marked, over the pairs of runs that were all asked.
static void absent_classes(void **state) {
    (void)state;
    Experiment e = made_up((const double[]){0.6, 0.6, 0.6, 0.6}, (const bool[4]){false});
    assert_true(isnan(arm_average(&e, 0, FINAL, GROUP_ALL, FALSE_AREA, 100, 3).value)); // nobody was
    e.absent = made_up_pairs();
    for (int a = 0; a < 4; a++) {
        for (int k = 0; k < RUNS; k++) {
            PairScore *scores = e.arms[a].runs[k].absent = xcalloc(PAIRS, sizeof *scores);
            for (int i = 0; i < PAIRS; i++) {
                scores[i] = (PairScore){.absent = true, .predicted = 10 * (a + 1) + 2 * (i / 2 % 2), .valid = 1000};
            }
        }
    }
    Interval overlay = arm_average(&e, 0, FINAL, GROUP_ALL, FALSE_AREA, 100, 3);
    printf("%.6f (%.6f-%.6f)\n", overlay.value, overlay.low, overlay.high);
    assert_true(fabs(overlay.value - 0.011) < 1e-12 && overlay.low < 0.011 && overlay.high > 0.011);
    Contrasts c = contrasts_of(&e, 100, 3);
    assert_true(fabs(contrast_named(&c, "overlay - mask")->false_area.value + 0.01) < 1e-12); // 11 against 21
    contrasts_free(&c);
    char *text = sentences_of(&e);
    assert_non_null(strstr(text, "overlay 1.1%, mask 2.1%, overlay+leak 3.1%, mask+leak 4.1%"));
    free(text);
    free(e.arms[1].runs[2].absent);
    e.arms[1].runs[2].absent = NULL; // one run was not
    assert_true(isnan(arm_average(&e, 1, FINAL, GROUP_ALL, FALSE_AREA, 100, 3).value));
    experiment_free(&e);
}

// ---- tables of files that contradict each other

static const char losses[] = "sample,timestep,loss\n0,295,1\n",
                  head[] = "image_id,class,seen,intersection,union,predicted,truth,valid,to_black,to_white\n",
                  row[] = "7,\"cat\",1,2,4,3,3,16,1,1\n",
                  pairs[] = "image_id,class,seen,absent,iou,intersection,union,predicted,truth,valid,ceiling_iou,"
                            "box_20_iou,box_30_iou,box_40_iou,box_50_iou,box_60_iou,box_70_iou,box_80_iou,box_90_iou,"
                            "box_100_iou\n7,\"cat\",1,0,0.5,2,4,3,3,16,1,0,0,0,0.1,0.3,0.2,0.2,0.1,0.1\n";

// A folder of one arm with two runs of two validations each; these are the rows of the tables in the order of reading.
static const char *write_arms(const char *const rows[4], const char *timesteps) {
    remove_tree(in_folder("arms"));
    for (int i = 0; i < 4; i++) {
        char name[96];
        const char *run = i < 2 ? "arms/overlay/seed-1" : "arms/overlay/seed-2";
        snprintf(name, sizeof name, "%s/validation", run);
        make_folders(in_folder(name));
        snprintf(name, sizeof name, "%s/noise", run);
        make_folders(in_folder(name));
        snprintf(name, sizeof name, "%s/noise/pairs.csv", run);
        write_text(name, pairs);
        snprintf(name, sizeof name, "%s/noise/metrics.json", run);
        write_text(name, "{}");
        snprintf(name, sizeof name, "%s/log.jsonl", run);
        write_text(name, "");
        snprintf(name, sizeof name, "%s/arm.json", run);
        write_text(name, "{\"target\": \"overlay\", \"classes\": \"all\", \"frequent\": \"person\", \"seed\": 1}");
        char *table = xprintf("%s%s", head, rows[i]);
        snprintf(name, sizeof name, "%s/validation/step-%06d.csv", run, i % 2);
        write_text(name, table);
        free(table);
        snprintf(name, sizeof name, "%s/validation/step-%06d-losses.csv", run, i % 2);
        write_text(name, timesteps);
    }
    return in_folder("arms");
}

static void tables(void **state) {
    (void)state;
    char *many = xstrdup("");
    for (int i = 0; i < 200; i++) {
        char *longer = xprintf("%s%s", many, row);
        free(many);
        many = longer;
    }
    Experiment e = experiment_read(write_arms((const char *const[]){row, row, row, row}, losses));
    assert_true(e.validation.count == 1 && e.arms[0].run_count == 2 && e.arms[0].runs[1].scores[1].truth == 3);
    assert_true(e.floors[FLOOR_CENTRE_BOX][GROUP_LISTED] == 0.3 && pair_iou(e.box) == 0.3);
    assert_int_equal(e.validation.group[0], GROUP_LISTED);
    experiment_free(&e);
    static const char unseen[] = "7,\"cat\",0,2,4,3,3,16,1,1\n"; // of a run that did not train on this class
    e = experiment_read(write_arms((const char *const[]){row, row, unseen, unseen}, losses));
    assert_true(e.validation.count == 1 && e.validation.group[0] == GROUP_HELD_OUT && e.final.group[0] == GROUP_LISTED);
    experiment_free(&e);
    e = experiment_read(write_arms((const char *const[]){"", "", "", ""}, losses)); // validated on nothing
    assert_int_equal(e.validation.count, 0);
    experiment_free(&e);
    const char *const others[][4] = {
        {"", many, many, many}, {row, many, row, row}, {many, many, many, row}, {"", "", "", row}, {row, row, "", row}};
    for (int i = 0; i < 5; i++) {
        assert_dies("its pairs differ from those of the first run", experiment_read(write_arms(others[i], losses)));
    }
    const char *const timesteps[] = {"1000", "-1", "1e300", "nan", "inf"};
    for (int i = 0; i < 5; i++) {
        char *text = xprintf("sample,timestep,loss\n0,%s,1\n", timesteps[i]);
        assert_dies("timestep out of range",
                    experiment_read(write_arms((const char *const[]){row, row, row, row}, text)));
        free(text);
    }
    free(many);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_failure),      cmocka_unit_test(at_the_floor),     cmocka_unit_test(half_a_collapse),
        cmocka_unit_test(collapses),       cmocka_unit_test(one_run_of_three), cmocka_unit_test(fails_without_the_leak),
        cmocka_unit_test(cause_not_shown), cmocka_unit_test(no_listed_pair),   cmocka_unit_test(box_by_pair),
        cmocka_unit_test(words_alone),     cmocka_unit_test(reads_nothing),    cmocka_unit_test(gain_by_run),
        cmocka_unit_test(numbers),         cmocka_unit_test(absent_classes),   cmocka_unit_test(many_validations),
        cmocka_unit_test(tables)};
    return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
