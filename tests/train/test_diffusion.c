// One training step: the plan is as large as the step, recomputation changes no bit, nor do gradients in the arena, how
// a batch is cut up does not matter, and the optimizer leaves out steps that are not finite.
#include "tests/train/train_test.h"
#include "tests/data/folder.h"
#include "model/init.h"
#include "train/diffusion.h"
#include "train/step.h"
#include "util/philox.h"

#ifdef BACKEND_emu
enum { SAMPLES = 4 }; // slow
#else
enum { SAMPLES = 16 };
#endif
enum { H = 7, W = 5, L = 4, N = H * W * L }; // in bf16, every second sample begins in the middle of 16 bytes

// Between two ways to cut up the same batch.
#ifdef PRECISION_bf16
#define LOSS_TOLERANCE 1e-2
#define GRAD_TOLERANCE 1e-2
#else
#define LOSS_TOLERANCE 1e-6
#define GRAD_TOLERANCE 1e-5
#endif

static const int white[3] = {255, 255, 255};

static Device dev;
static Pipeline pipeline;
static DiffusionOptions options;
static double pixel_weight; // of --pixel-loss
static PixelLossKind pixel_kind;
static float *image, *target, *weight; // of SAMPLES samples, on the device
static floatX *context;

static float *random_values(size_t n, uint64_t sample) {
    float *values = xmalloc(n * sizeof(float));
    Random random = random_begin(5, PHILOX_INIT, 0, sample);
    for (size_t i = 0; i < n; i++) { values[i] = random_normal(&random); }
    return values;
}

static void upload(float *to, const float *from, size_t n) { device_copy(&dev, to, from, n * sizeof(float), false); }

static void download(float *to, const float *from, size_t n) {
    device_copy(&dev, to, from, n * sizeof(float), false);
    device_sync(&dev);
}

// Frees values.
static float *to_device(float *values, size_t n) {
    float *out = device_alloc(&dev, n * sizeof(float));
    upload(out, values, n);
    free(values);
    return out;
}

static floatX *to_device_as_floatX(float *values, size_t n) {
    float *wide = to_device(values, n);
    floatX *out = device_alloc(&dev, n * sizeof *out);
    cast_to_floatX(out, wide, n, &dev);
    device_sync(&dev);
    device_free(&dev, wide);
    return out;
}

static void init_params(Params *p, const Preset *preset) {
    params_alloc(p, &dev);
    float *flat = xcalloc(p->total, sizeof(float));
    for (int i = 0; i < p->count; i++) { init_slice(flat + p->slices[i].offset, p, i, 3, preset, false); }
    params_upload(p, flat, &dev);
    free(flat);
}

static int begin(void **state) {
    if (folder_begin(state)) { return 1; }
    device_open(&dev, 0);
    const Preset *mini = preset_find("mini");
    tokenizer_write(mini, in_folder("tokenizer"));
    pipeline = (Pipeline){.folder = "test",
                          .unet = unet_create(&mini->unet),
                          .vae_decoder = vae_decoder_create(&mini->vae),
                          .schedule = schedule_create(&mini->schedule),
                          .tokenizer = tokenizer_open(in_folder("tokenizer"))};
    init_params(&pipeline.unet.params, mini);
    init_params(&pipeline.vae_decoder.params, mini);
    options = options_of().diffusion;
    image = to_device(random_values(SAMPLES * N, 1), SAMPLES * N);
    target = to_device(random_values(SAMPLES * N, 2), SAMPLES * N);
    float *weights = random_values(SAMPLES * H * W, 3);
    for (int i = 0; i < SAMPLES * H * W; i++) { weights[i] = fabsf(weights[i]); }
    weight = to_device(weights, SAMPLES * H * W);
    size_t n = (size_t)(SAMPLES * tokenizer_length(pipeline.tokenizer) * mini->unet.cross_attention_dim);
    context = to_device_as_floatX(random_values(n, 4), n);
    return 0;
}

static int end(void **state) {
    device_free(&dev, image), device_free(&dev, target), device_free(&dev, weight), device_free(&dev, context);
    unet_destroy(&pipeline.unet, &dev);
    vae_destroy(&pipeline.vae_decoder, &dev);
    schedule_free(&pipeline.schedule);
    tokenizer_close(pipeline.tokenizer);
    device_close(&dev);
    return folder_end(state);
}

static bool in_arena; // where gradients lie

// All samples as micro_steps batches of `rows`: losses (SAMPLES) and, with backward, gradients (copied, to be freed).
// The arena has exactly the planned size; what the step took is compared with it.
static float *run_samples(float *losses, int rows, int micro_steps, bool backward) {
    Params *p = &pipeline.unet.params;
    options.train.train_batch_size = rows;
    options.train.gradient_accumulation_steps = micro_steps;
    Diffusion d = diffusion_open(&pipeline, &options, H, W, &dev);
    d.pixel_loss = pixel_loss_create(&pipeline.vae_decoder, pixel_kind, pixel_weight, white);
    size_t per_sample = (size_t)(d.tokens * pipeline.unet.config.cross_attention_dim);
    StepMemory memory = step_memory(diffusion_step, &d, &p, 1, in_arena, &dev);
    Arena *arena = &memory.arena;
    uint64_t positions[SAMPLES];
    for (int k = 0; k < micro_steps; k++) { positions[k] = (uint64_t)(k * rows); }
    Optimizer o = optimizer_create(&options.train, &alone, p->weights, p->grads, p->total, &dev);
    float *device_losses = device_alloc(&dev, SAMPLES * sizeof(float));
    optimizer_begin(&o, &options.train, 0, positions, &dev);
    for (int k = 0; k < micro_steps; k++) {
        int i = k * rows;
        d.inputs =
            (DiffusionInputs){image + i * N, target + i * N, weight + i * H * W, context + (size_t)i * per_sample};
        diffusion_step(&d, arena, device_losses + i, o.scalars + k, k > 0, backward, &dev);
    }
    if (backward && !in_arena) {
        printf("  batch %2d x %2d: planned %zu bytes, used %zu\n", rows, micro_steps, memory.planned, arena->peak);
        assert_int_equal(arena->peak, memory.planned);
    } else {
        assert_true(arena->peak <= memory.planned);
    }
    download(losses, device_losses, SAMPLES);
    device_free(&dev, device_losses);
    optimizer_destroy(&o, &dev);
    diffusion_destroy(&d, &dev);
    return step_memory_end(&memory, &dev);
}

static void test_accumulation(void **state) {
    (void)state;
    size_t total = pipeline.unet.params.total;
    static const LossKind kinds[] = {LOSS_MSE, LOSS_WEIGHTED, LOSS_FOCAL};
    pixel_kind = PIXEL_DICE;
    for (int i = 0; i < 3; i++) {
        options.loss_kind = kinds[i];
        pixel_weight = i == 2; // focal with Dice
        float one[SAMPLES], two[SAMPLES];
        float *whole = run_samples(one, SAMPLES, 1, true), *parts = run_samples(two, SAMPLES / 2, 2, true);
        double loss_error = relative_error(two, one, SAMPLES), error = relative_error(parts, whole, total);
        printf("  loss %d: two halves against the whole: losses %.2g, gradients %.2g\n", i, loss_error, error);
        assert_true(loss_error < LOSS_TOLERANCE && error < GRAD_TOLERANCE);
        free(whole);
        free(parts);
    }
    options.loss_kind = LOSS_MSE;
    pixel_kind = PIXEL_L1;
    pixel_weight = 0;
}

// Beside the latent loss and proportional to its weight.
static void test_pixel_loss(void **state) {
    (void)state;
    float none[SAMPLES], once[SAMPLES], twice[SAMPLES], smallest = INFINITY;
    free(run_samples(none, SAMPLES, 1, true));
    pixel_weight = 1;
    free(run_samples(once, SAMPLES, 1, true));
    pixel_weight = 2;
    free(run_samples(twice, SAMPLES, 1, true));
    pixel_weight = 0;
    for (int i = 0; i < SAMPLES; i++) {
        once[i] -= none[i];
        twice[i] = (twice[i] - none[i]) / 2;
        smallest = fminf(smallest, once[i]);
    }
    double error = relative_error(twice, once, SAMPLES);
    printf("  L1: least %.3f, half of the double weight's: %.2g\n", smallest, error);
    assert_true(smallest > 0 && error < 1e-5);
}

static void test_recompute(void **state) {
    (void)state;
    size_t total = pipeline.unet.params.total;
    static const Recompute levels[] = {RECOMPUTE_NONE, RECOMPUTE_PRODUCTS, RECOMPUTE_TRANSFORMERS, RECOMPUTE_BLOCKS};
    float losses[4][SAMPLES], *grads[4];
    for (int i = 0; i < 4; i++) {
        options.recompute_level = levels[i];
        grads[i] = run_samples(losses[i], SAMPLES, 1, true);
    }
    for (int i = 1; i < 4; i++) {
        bool same =
            !memcmp(losses[i], losses[0], sizeof losses[0]) && !memcmp(grads[i], grads[0], total * sizeof(float));
        printf("  recompute level %d: %s\n", levels[i], same ? "same bits" : "other bits");
        assert_true(same);
    }
    for (int i = 0; i < 4; i++) { free(grads[i]); }
    options.recompute_level = RECOMPUTE_NONE;
}

// Gradients that take the place of freed tensors have the same bits, and the padding between them is 0.
static void test_gradients_in_arena(void **state) {
    (void)state;
    size_t total = pipeline.unet.params.total;
    for (int level = RECOMPUTE_NONE; level <= RECOMPUTE_BLOCKS; level++) {
        float losses[2][SAMPLES], *grads[2];
        options.recompute_level = level;
        pixel_weight = level == RECOMPUTE_NONE; // its decoder's backward comes before the first gradient
        for (int i = 0; i < 2; i++) {
            in_arena = i;
            grads[i] = run_samples(losses[i], SAMPLES, 1, true);
        }
        bool same =
            !memcmp(losses[0], losses[1], sizeof losses[0]) && !memcmp(grads[0], grads[1], total * sizeof(float));
        printf("  recompute level %d, gradients in the arena: %s\n", level, same ? "same bits" : "other bits");
        assert_true(same);
        free(grads[0]), free(grads[1]);
    }
    in_arena = false;
    options.recompute_level = RECOMPUTE_NONE;
    pixel_weight = 0;
}

static void test_validation(void **state) {
    (void)state;
    static const int rows[] = {SAMPLES, SAMPLES / 2, 1};
    float losses[3][SAMPLES];
    options.recompute_level = RECOMPUTE_BLOCKS; // the smallest plan: validation must fit into it too
    for (int i = 0; i < 3; i++) { free(run_samples(losses[i], rows[i], SAMPLES / rows[i], false)); }
    for (int i = 1; i < 3; i++) {
        double error = relative_error(losses[i], losses[0], SAMPLES);
        printf("  losses of %d samples in batches of %d and of all: %.2g\n", SAMPLES, rows[i], error);
        assert_true(error < LOSS_TOLERANCE);
    }
    options.recompute_level = RECOMPUTE_NONE;
}

static void test_refusals(void **state) {
    (void)state;
    assert_dies("prediction_type \"epsilon\" cannot be used", options.schedule.prediction = PREDICT_EPSILON;
                diffusion_open(&pipeline, &options, H, W, &dev));
    assert_dies("field \"in_channels\" is 4, expected 8", pipeline.unet.config.in_channels = 4;
                diffusion_open(&pipeline, &options, H, W, &dev));
}

static void test_cell_weights(void **state) {
    (void)state;
    enum { R = 20, STRIDE = 3 };
    uint8_t packed[R * STRIDE] = {0};
    float cells[25];
    cell_weights(cells, packed, R, 5, 5);
    for (int i = 0; i < 25; i++) { assert_true(cells[i] == 1); } // empty
    memset(packed, 0xff, sizeof packed);
    cell_weights(cells, packed, R, 5, 5);
    for (int i = 0; i < 25; i++) { assert_true(cells[i] == 1); } // full
    memset(packed, 0, sizeof packed);
    for (int y = 0; y < 4; y++) { packed[y * STRIDE] = 0xfc; } // cell (0, 0) full, (0, 1) half: F = 1.5 / 25
    cell_weights(cells, packed, R, 5, 5);
    double F = 1.5 / 25, object = 0, background = 0;
    for (int i = 0; i < 25; i++) {
        double f = i == 0 ? 1 : i == 1 ? 0.5 : 0;
        object += f / (2 * F), background += (1 - f) / (2 * (1 - F));
        assert_true(fabs(cells[i] - (f / (2 * F) + (1 - f) / (2 * (1 - F)))) < 1e-5);
    }
    printf("  weights %.3f %.3f %.3f; object %.3f, background %.3f of 25\n", cells[0], cells[1], cells[2], object,
           background);
    assert_true(fabs(object - background) < 1e-9);
    float odd[9]; // 20 pixels in 3 cells: 6, 7 and 7 wide; the mean weight stays about 1
    cell_weights(odd, packed, R, 3, 3);
    double sum = 0;
    for (int i = 0; i < 9; i++) { sum += odd[i]; }
    assert_true(fabs(sum / 9 - 1) < 1e-5);
}

// What the device holds of n values, as floats.
static void read_weights(float *to, const floatX *from, size_t n) {
    float *wide = device_alloc(&dev, n * sizeof(float));
    cast_to_float(wide, from, n, &dev);
    download(to, wide, n);
    device_free(&dev, wide);
}

static void test_skipped_steps(void **state) {
    (void)state;
    enum { n = 256 };
    options.train.gradient_accumulation_steps = 1;
    options.train.ema_decay = 0.999;
    options.train.lr = 1; // changes that bf16 can see
    floatX *weights = to_device_as_floatX(random_values(n, 7), n);
    float *values = random_values(n, 8), *grads = device_alloc(&dev, n * sizeof(float)), before[n], after[n], ema[n];
    uint64_t position = 0;
    Optimizer o = optimizer_create(&options.train, &alone, weights, grads, n, &dev);
    for (int step = 0; step < 4; step++) { // step 1 is not finite
        values[3] = step == 1 ? NAN : 1;
        upload(grads, values, n);
        read_weights(before, weights, n);
        optimizer_begin(&o, &options.train, step, &position, &dev);
        int updates = step < 3 ? step + 1 : step; // step 2 does not know of it yet
        StepScalars scalars;
        GradNorm norm;
        device_copy(&dev, &scalars, o.scalars, sizeof scalars, false);
        optimizer_update(&o, &options.train, &dev);
        device_copy(&dev, &norm, o.norm, sizeof norm, false);
        device_sync(&dev);
        assert_true(scalars.bias1 == (float)(1 - pow(0.9, updates)));
        assert_true(scalars.ema_decay == (float)((1.0 + step) / (10 + step)));
        optimizer_count(&o, step, &norm);
        read_weights(after, weights, n);
        assert_int_equal(memcmp(before, after, sizeof before) == 0, step == 1);
        assert_int_equal(o.skipped, step > 0);
    }
    download(ema, o.ema, n);
    for (size_t i = 0; i < n; i++) { assert_true(isfinite(after[i]) && isfinite(ema[i])); }
    printf("  skipped %d, the last one at %d\n", o.skipped, o.last_skipped);
    optimizer_destroy(&o, &dev);
    free(values);
    device_free(&dev, weights);
    device_free(&dev, grads);
    options.train.ema_decay = 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accumulation),  cmocka_unit_test(test_pixel_loss),
        cmocka_unit_test(test_recompute),     cmocka_unit_test(test_validation),
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_cell_weights),
        cmocka_unit_test(test_skipped_steps), cmocka_unit_test(test_gradients_in_arena),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
