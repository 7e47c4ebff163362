// Options of train: learning rate schedules against their formulas, checks of values, what --resume may change.
#include "tests/train/train_test.h"
#include "tests/data/folder.h"
#include "train/micro_batch.h"
#include "train/optimizer.h"
#include "train/record.h"

// Marigold's IterExponential as its paper's code states it, for steps after the warm-up.
static double iter_exponential(double lr, int step, int warmup, int total, double final_ratio) {
    if (step >= total) { return lr * final_ratio; }
    return lr * exp((double)(step - warmup) / (total - warmup) * log(final_ratio));
}

static void close_to(double value, double expected) {
    if (fabs(value - expected) > 1e-12 * fabs(expected)) { fail_msg("%.15g, expected %.15g", value, expected); }
}

static void test_defaults(void **state) {
    (void)state;
    DiffusionOptions d = options_of().diffusion;
    TrainOptions o = d.train;
    assert_true(o.lr == 3e-5 && o.lr_warmup_steps == 100 && o.lr_total_steps == 25000 && o.lr_final == 0.01);
    assert_int_equal(o.train_batch_size, 0);
    assert_int_equal(o.gradient_accumulation_steps, 0); // 32 samples a step
    assert_true(d.multires_noise == 0.9 && d.multires_annealed && o.seed == 2024 && o.ema_decay == 0);
    assert_true(d.loss_kind == LOSS_MSE && o.lr_kind == LR_EXPONENTIAL && !schedule_changes(&d.schedule));
    printf("  Marigold's recipe: lr %g, warm-up %d, to %g at %d\n", o.lr, o.lr_warmup_steps, o.lr_final,
           o.lr_total_steps);
}

static void test_exponential(void **state) {
    (void)state;
    TrainOptions o = train_options_of();
    for (int step = 0; step < 100; step++) { close_to(learning_rate(&o, step), 3e-5 * (step + 1) / 100); }
    for (int step = 100; step < 30000; step += 73) {
        close_to(learning_rate(&o, step), iter_exponential(3e-5, step, 100, 25000, 0.01));
    }
    printf("  lr at 0, 99, 100, 12550, 25000, 30000: %g %g %g %g %g %g\n", learning_rate(&o, 0), learning_rate(&o, 99),
           learning_rate(&o, 100), learning_rate(&o, 12550), learning_rate(&o, 25000), learning_rate(&o, 30000));
    close_to(learning_rate(&o, 12550), 3e-6); // half of the way to 1% is 10%
}

static void test_other_schedules(void **state) {
    (void)state;
    TrainOptions o = train_options_of();
    o.lr = 1;
    o.lr_warmup_steps = 10;
    o.lr_total_steps = 110;
    o.lr_final = 0.1;
    o.lr_kind = LR_CONSTANT;
    close_to(learning_rate(&o, 4), 0.5), close_to(learning_rate(&o, 10), 1), close_to(learning_rate(&o, 5000), 1);
    o.lr_kind = LR_LINEAR;
    close_to(learning_rate(&o, 10), 1), close_to(learning_rate(&o, 60), 0.55), close_to(learning_rate(&o, 110), 0.1);
    close_to(learning_rate(&o, 500), 0.1);
    o.lr_kind = LR_COSINE;
    close_to(learning_rate(&o, 10), 1), close_to(learning_rate(&o, 60), 0.55), close_to(learning_rate(&o, 110), 0.1);
    close_to(learning_rate(&o, 35), 0.1 + 0.9 * 0.5 * (1 + cos(M_PI / 4)));
    o.lr_kind = LR_WSD;
    o.lr_decay_share = 0.3; // falls over steps 77..109
    close_to(learning_rate(&o, 10), 1), close_to(learning_rate(&o, 75), 1), close_to(learning_rate(&o, 109), 0.1);
    close_to(learning_rate(&o, 93), 1 - 0.9 * 17 / 33);
    o.lr_warmup_steps = 0;
    o.lr_kind = LR_LINEAR;
    close_to(learning_rate(&o, 0), 1);
    o.lr_warmup_steps = o.lr_total_steps = 5; // nothing but warm-up: no division by zero
    close_to(learning_rate(&o, 5), 0.1);
}

static void test_total_steps(void **state) {
    (void)state;
    TrainOptions o = train_options_of("--lr-scheduler", "cosine", "--max-train-steps", "700", "--lr-total-steps", "0");
    assert_int_equal(o.lr_total_steps, 700);
    o = train_options_of("--lr-scheduler", "cosine", "--max-train-steps", "700", "--lr-total-steps", "900");
    assert_int_equal(o.lr_total_steps, 900);
    o = train_options_of("--lr-scheduler", "constant", "--max-train-steps", "700"); // no end: it can be extended
    assert_int_equal(o.lr_total_steps, 0);
}

// What a checkpoint records, read back.
static yajl_val recorded(const TrainOptions *o, Json *json) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    record_options(o, gen);
    yajl_gen_map_close(gen);
    json_write(gen, in_folder("options.json"));
    *json = json_read(in_folder("options.json"));
    return json->root;
}

// What is set after parsing, such as the size of a micro-batch, is recorded.
static void test_recorded(void **state) {
    (void)state;
    Json json;
    UNetOptions u;
    unet_options_parse(&u, 7, (char *[]){"train", "--model", "m", "--shards", "s", "--out", "o", NULL});
    u.diffusion.train.train_batch_size = 8;
    yajl_val value = json_find(recorded(&u.diffusion.train, &json), "train-batch-size");
    assert_string_equal(YAJL_GET_NUMBER(value), "8");
    json_free(&json);
}

// A step has 32 samples on any number of ranks, unless --gradient-accumulation-steps is given.
static void test_samples(void **state) {
    (void)state;
    TrainOptions o = train_options_of();
    for (int world = 1; world <= 32; world *= 2) { assert_int_equal(micro_batch_samples(&o, world) * world, 32); }
    assert_dies("32 samples a step cannot be divided among 3 ranks: give", micro_batch_samples(&o, 3));
    assert_dies("32 samples a step cannot be divided among 64 ranks: give", micro_batch_samples(&o, 64));
    o = train_options_of("--train-batch-size", "4");
    assert_int_equal(micro_batch_samples(&o, 8), 4);
    assert_dies("among 16 ranks in micro-batches of 4: give --gradient-acc", micro_batch_samples(&o, 16));
    o = train_options_of("--train-batch-size", "3");
    assert_dies("among 1 rank in micro-batches of 3: give", micro_batch_samples(&o, 1));
    o = train_options_of("--gradient-accumulation-steps", "5");
    assert_int_equal(micro_batch_samples(&o, 3), 10);
    o = train_options_of("--gradient-accumulation-steps", "65536", "--train-batch-size", "65536");
    assert_true(micro_batch_samples(&o, 3) == 1LL << 32);
}

static void test_mistakes(void **state) {
    (void)state;
    assert_dies("--loss l2: expected one of mse, weighted, focal", options_of("--loss", "l2"));
    assert_dies("--lr 11: expected a value from 0 to 10", options_of("--lr", "11"));
    assert_dies("--lr nan: expected", options_of("--lr", "nan"));
    assert_dies("--seed -1: expected", options_of("--seed", "-1"));
    assert_dies("--train-batch-size -1: expected", options_of("--train-batch-size", "-1"));
    assert_dies("--zero 2: expected a value from 0 to 1", options_of("--zero", "2"));
    assert_dies("--text-template a photo: expected {}", options_of("--text-template", "a photo"));
    assert_dies("train: --lr fast: invalid numeric value", options_of("--lr", "fast"));
    assert_dies("train: --lr=fast: invalid numeric value", options_of("--lr=fast"));
    assert_dies("--lr \"\": expected a number", options_of("--lr", ""));
    assert_dies("--terminal-signal \"\": expected a number", options_of("--terminal-signal="));
    assert_dies("--seed \"\": expected a number", options_of("--seed", "7", "--seed", ""));
    assert_dies("--zero=1 : invalid numeric value", options_of("--zero=1 "));
    assert_dies("--kl-weight: unknown option", options_of("--kl-weight", "1")); // train-vae's
    assert_dies("--no-such-option", options_of("--no-such-option"));
}

static void test_resume(void **state) {
    (void)state;
    Json json;
    TrainOptions o = train_options_of("--loss", "focal", "--lr", "0.00123", "--max-train-steps", "100");
    yajl_val old = recorded(&o, &json);
    record_check(&o, old, "state.json");
    o = train_options_of("--loss", "focal", "--lr", "0.00123", "--max-train-steps", "200", "--recompute", "blocks",
                         "--checkpoint-every", "7", "--log-every", "3");
    record_check(&o, old, "state.json"); // these change no number
    assert_dies("--resume: --seed differs from what state.json recorded (2024)",
                o = train_options_of("--loss", "focal", "--lr", "0.00123", "--seed", "5");
                record_check(&o, old, "state.json"));
    assert_dies("--lr-total-steps differs from what state.json recorded (25000): give --lr-total-steps 25000",
                o = train_options_of("--loss", "focal", "--lr", "0.00123", "--lr-total-steps", "700");
                record_check(&o, old, "state.json"));
    assert_dies("--resume: --loss differs from what state.json recorded (focal)", o = train_options_of("--loss", "mse");
                record_check(&o, old, "state.json"));
    assert_dies("--resume: --classes differs from what state.json recorded (none)",
                o = train_options_of("--classes", "cat,dog");
                record_check(&o, old, "state.json"));
    assert_dies("field \"options\" is missing", record_check(&o, NULL, "state.json"));
    json_free(&json);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),        cmocka_unit_test(test_exponential), cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_other_schedules), cmocka_unit_test(test_total_steps), cmocka_unit_test(test_resume),
        cmocka_unit_test(test_recorded),        cmocka_unit_test(test_samples),
    };
    return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
