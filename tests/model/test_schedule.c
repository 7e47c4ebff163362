#include "scratch.h"
#include <math.h>
#include "model/schedule.h"

static const ScheduleConfig sd2 = {.num_train_timesteps = 1000,
                                   .steps_offset = 1,
                                   .beta_start = 0.00085,
                                   .beta_end = 0.012,
                                   .scaled_linear = true,
                                   .prediction = PREDICT_V,
                                   .spacing = SPACING_TRAILING,
                                   .terminal_signal = AS_BETAS};

// alpha_bar in double from the formula.
static void alphas_by_definition(const ScheduleConfig *c, double *alphas) {
    int T = c->num_train_timesteps;
    double product = 1;
    for (int t = 0; t < T; t++) {
        double u = (double)t / (T - 1);
        double root = sqrt(c->beta_start) + u * (sqrt(c->beta_end) - sqrt(c->beta_start));
        double beta = c->scaled_linear ? root * root : c->beta_start + u * (c->beta_end - c->beta_start);
        alphas[t] = product *= 1 - beta;
    }
    if (c->terminal_signal < 0) { return; }
    double first = sqrt(alphas[0]), last = sqrt(alphas[T - 1]), a = c->terminal_signal;
    for (int t = 0; t < T; t++) { alphas[t] = pow((sqrt(alphas[t]) - last) * (first - a) / (first - last) + a, 2); }
}

static void test_alphas(void **state) {
    (void)state;
    static double expected[1000];
    static const double signals[] = {AS_BETAS, 0, 0.14, 0.27};
    for (int variant = 0; variant < 8; variant++) {
        ScheduleConfig c = sd2;
        c.scaled_linear = variant & 1;
        c.terminal_signal = signals[variant / 2];
        Schedule s = schedule_create(&c);
        alphas_by_definition(&c, expected);
        double worst = 0;
        for (int t = 0; t < 1000; t++) {
            double error = fabs(s.alphas_cumprod[t] - expected[t]);
            worst = fmax(worst, error / fmax(expected[t], 1e-3));
            assert_true(t == 0 || s.alphas_cumprod[t] < s.alphas_cumprod[t - 1]);
        }
        print_message("alphas_cumprod, variant %d: error %.1e\n", variant, worst);
        assert_true(worst < 1e-4); // the product of a thousand floats close to 1
        assert_true((s.alphas_cumprod[999] == 0) == (c.terminal_signal == 0));
        if (c.terminal_signal > 0) { assert_float_equal(sqrt(s.alphas_cumprod[999]), c.terminal_signal, 1e-5); }
        assert_true(s.final_alpha_cumprod == s.alphas_cumprod[0]);
        schedule_free(&s);
    }
}

static void check_timesteps(TimestepSpacing spacing, int steps, const int *expected) {
    ScheduleConfig c = sd2;
    c.spacing = spacing;
    Schedule s = schedule_create(&c);
    int found[10];
    schedule_timesteps(&s, steps, found);
    for (int i = 0; i < steps; i++) { assert_int_equal(found[i], expected[i]); }
    schedule_free(&s);
}

static void test_timesteps(void **state) {
    (void)state;
    check_timesteps(SPACING_TRAILING, 1, (int[]){999});
    check_timesteps(SPACING_TRAILING, 3, (int[]){999, 666, 332});
    check_timesteps(SPACING_TRAILING, 4, (int[]){999, 749, 499, 249});
    check_timesteps(SPACING_LEADING, 3, (int[]){667, 334, 1});
    check_timesteps(SPACING_LINSPACE, 3, (int[]){999, 500, 0}); // 499.5 rounds to even
    check_timesteps(SPACING_LINSPACE, 1, (int[]){0});
    for (int steps = 1; steps <= 1000; steps++) {
        ScheduleConfig c = sd2;
        Schedule s = schedule_create(&c);
        int found[1000];
        schedule_timesteps(&s, steps, found);
        assert_int_equal(found[0], 999);
        for (int i = 1; i < steps; i++) { assert_true(found[i] < found[i - 1] && found[i] >= 0); }
        schedule_free(&s);
    }
}

static void test_step_alphas(void **state) {
    (void)state;
    ScheduleConfig c = sd2;
    Schedule s = schedule_create(&c);
    float now, previous;
    schedule_step_alphas(&s, 666, 3, &now, &previous); // 666 - 1000 / 3 = 333, though the next timestep is 332
    assert_true(now == s.alphas_cumprod[666] && previous == s.alphas_cumprod[333]);
    schedule_step_alphas(&s, 332, 3, &now, &previous);
    assert_true(previous == s.alphas_cumprod[0]);
    schedule_free(&s);
    c.set_alpha_to_one = true;
    s = schedule_create(&c);
    schedule_step_alphas(&s, 332, 3, &now, &previous);
    assert_true(previous == 1);
    schedule_free(&s);
}

static Schedule changed(Prediction prediction, double signal) {
    Schedule s = schedule_create(&sd2);
    ScheduleChange change = SCHEDULE_AS_MODEL;
    change.prediction = (int)prediction;
    change.terminal_signal = signal;
    schedule_change(&s, &change);
    return s;
}

// A model of any signal that the option accepts can be opened again, and its last timestep is not all noise.
static void test_signals(void **state) {
    (void)state;
    static const double signals[] = {LEAST_TERMINAL_SIGNAL, 0.0123456, 0.3, MOST_TERMINAL_SIGNAL};
    char *path = scratch_path("scheduler_config.json");
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        Schedule s = changed(PREDICT_EPSILON, signals[i]);
        assert_true(s.alphas_cumprod[999] > 0);
        schedule_config_write(&s.config, path);
        ScheduleConfig c = schedule_config_read(path);
        Schedule again = schedule_create(&c);
        double found = sqrt(again.alphas_cumprod[999]);
        print_message("terminal signal %g: read back as %g\n", signals[i], found);
        assert_float_equal(found, signals[i], 1e-6);
        schedule_free(&s), schedule_free(&again);
    }
}

static void wrong_steps(const char *steps) {
    ScheduleConfig c = sd2;
    c.spacing = SPACING_LEADING;
    Schedule s = schedule_create(&c);
    int timesteps[2000];
    schedule_timesteps(&s, atoi(steps), timesteps);
}

static void test_refusals(void **state) {
    (void)state;
    assert_dies("prediction_type", changed(PREDICT_EPSILON, 0));
    const double signals[] = {1e-9, 1e-7, 9e-5, -0.5, -2};
    for (int i = 0; i < 5; i++) {
        assert_dies("expected -1, 0, or a value from 0.0001", changed(PREDICT_V, signals[i]));
    }
    assert_dies("expected 1 to 1000", wrong_steps("0"));
    assert_dies("expected 1 to 1000", wrong_steps("1001"));
    assert_dies("steps_offset", wrong_steps("1000")); // begins at 1000, one too late
}

static void warn_steps(double signal, TimestepSpacing spacing, int steps) {
    ScheduleConfig c = sd2;
    c.terminal_signal = signal;
    c.spacing = spacing;
    Schedule s = schedule_create(&c);
    schedule_warn_steps(&s, steps);
    schedule_free(&s);
}

// Few leading timesteps begin where training samples show more of the target than at the last timestep.
static void test_warnings(void **state) {
    (void)state;
    static const struct {
        double signal;
        TimestepSpacing spacing;
        int steps;
        const char *said; // NULL: nothing
    } cases[] = {{AS_BETAS, SPACING_LEADING, 4, "timestep 751 of 1000, where training samples are 24% target (at the"},
                 {AS_BETAS, SPACING_LEADING, 10, "timestep 901 of 1000, where training samples are 12% target (at the"},
                 {AS_BETAS, SPACING_LEADING, 15, "sampling in 15 steps"},
                 {AS_BETAS, SPACING_LEADING, 20, NULL},
                 {AS_BETAS, SPACING_LEADING, 25, NULL},
                 {AS_BETAS, SPACING_LEADING, 50, NULL},
                 {0, SPACING_LEADING, 4, "18% target (at the last timestep 0%)"},
                 {0, SPACING_LEADING, 50, NULL},
                 {0.27, SPACING_LEADING, 10, "31% target (at the last timestep 27%)"},
                 {0.27, SPACING_LEADING, 50, NULL},
                 {AS_BETAS, SPACING_LINSPACE, 1, "sampling in 1 step begins at timestep 0"},
                 {AS_BETAS, SPACING_LINSPACE, 2, NULL},
                 {0, SPACING_TRAILING, 1, NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char said[1024];
        int code;
        run_in_child(code, said, sizeof said, warn_steps(cases[i].signal, cases[i].spacing, cases[i].steps));
        print_message("%s", said);
        assert_int_equal(code, 0);
        if (cases[i].said ? !strstr(said, cases[i].said) : *said) { fail_msg("case %zu: %s", i, said); }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_alphas),      cmocka_unit_test(test_timesteps),
                                       cmocka_unit_test(test_step_alphas), cmocka_unit_test(test_signals),
                                       cmocka_unit_test(test_refusals),    cmocka_unit_test(test_warnings)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
