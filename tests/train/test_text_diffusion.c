// One training step from text to image with the text encoder in it: the plan is as large as the step, recomputation
// and gradients in the arena change no bit, how a batch is cut up does not matter, a frozen text encoder gets no
// gradient, and how often the empty text is drawn.
#include "tests/train/train_test.h"
#include "tests/data/folder.h"
#include "model/init.h"
#include "train/step.h"
#include "train/text_diffusion.h"
#include "util/philox.h"

#ifdef BACKEND_emu
enum { SAMPLES = 2 }; // slow
#else
enum { SAMPLES = 8 };
#endif
enum { H = 5, W = 6, L = 4, N = H * W * L };

// Between two ways to cut up the same batch.
#ifdef PRECISION_bf16
#define LOSS_TOLERANCE 1e-2
#define GRAD_TOLERANCE 2e-2
#else
#define LOSS_TOLERANCE 1e-6
#define GRAD_TOLERANCE 1e-5
#endif

static Device dev;
static Pipeline pipeline;
static DiffusionOptions options;
static float *target; // (SAMPLES, N) on the device
static int *ids;      // (SAMPLES, tokens) on the device

static void init_params(Params *p, const Preset *preset, bool clip) {
    params_alloc(p, &dev);
    float *flat = xcalloc(p->total, sizeof(float));
    for (int i = 0; i < p->count; i++) { init_slice(flat + p->slices[i].offset, p, i, 3, preset, clip); }
    params_upload(p, flat, &dev);
    free(flat);
}

static void *to_device(void *values, size_t bytes) {
    void *out = device_alloc(&dev, bytes);
    device_copy(&dev, out, values, bytes, false);
    device_sync(&dev);
    free(values);
    return out;
}

static int begin(void **state) {
    if (folder_begin(state)) { return 1; }
    device_open(&dev, 0);
    const Preset *mini = preset_find("mini");
    UNetConfig unet = mini->unet;
    CLIPConfig clip = mini->clip;
    unet.in_channels = unet.out_channels;
    clip.vocab_size = tokenizer_write(mini, in_folder("tokenizer"));
    pipeline = (Pipeline){.folder = "test",
                          .unet = unet_create(&unet),
                          .clip = clip_create(&clip),
                          .schedule = schedule_create(&mini->schedule),
                          .tokenizer = tokenizer_open(in_folder("tokenizer"))};
    init_params(&pipeline.unet.params, mini, false);
    init_params(&pipeline.clip.params, mini, true);
    params_join(&pipeline.clip.params, &pipeline.unet.params, &dev);
    options = options_of().diffusion;
    int T = tokenizer_length(pipeline.tokenizer), *host = xmalloc((size_t)(SAMPLES * T) * sizeof *host);
    static const char *const texts[] = {"a red circle and a person", "", "the largest square", "two blue rings"};
    for (int i = 0; i < SAMPLES; i++) { tokenizer_encode(pipeline.tokenizer, texts[i % 4], host + i * T, T); }
    ids = to_device(host, (size_t)(SAMPLES * T) * sizeof *host);
    float *values = xmalloc(SAMPLES * N * sizeof *values);
    Random random = random_begin(5, PHILOX_INIT, 0, 1);
    for (int i = 0; i < SAMPLES * N; i++) { values[i] = random_normal(&random); }
    target = to_device(values, SAMPLES * N * sizeof *values);
    return 0;
}

static int end(void **state) {
    device_free(&dev, target), device_free(&dev, ids);
    unet_destroy(&pipeline.unet, &dev);
    clip_destroy(&pipeline.clip, &dev);
    schedule_free(&pipeline.schedule);
    tokenizer_close(pipeline.tokenizer);
    device_close(&dev);
    return folder_end(state);
}

static size_t total(void) { return pipeline.clip.params.total + pipeline.unet.params.total; }

static bool in_arena; // where gradients lie

// All samples as micro_steps batches of `rows`: losses (SAMPLES) and gradients (copied, to be freed), the text
// encoder's first. The arena has exactly the planned size.
static float *run_samples(float *losses, int rows, int micro_steps, bool train_text) {
    Params *p[] = {&pipeline.clip.params, &pipeline.unet.params};
    options.train.train_batch_size = rows;
    options.train.gradient_accumulation_steps = micro_steps;
    TextDiffusion t = text_diffusion_open(&pipeline, &options, train_text, H, W, &dev);
    StepMemory memory = step_memory(text_diffusion_step, &t, p, 2, in_arena, &dev);
    Arena *arena = &memory.arena;
    uint64_t positions[SAMPLES];
    for (int k = 0; k < micro_steps; k++) { positions[k] = (uint64_t)(k * rows); }
    Optimizer o = optimizer_create(&options.train, &alone, p[0]->weights, p[0]->grads, total(), &dev);
    float *device_losses = device_alloc(&dev, SAMPLES * sizeof(float));
    optimizer_begin(&o, &options.train, 0, positions, &dev);
    for (int k = 0; k < micro_steps; k++) {
        int i = k * rows;
        t.diffusion.inputs = (DiffusionInputs){.target = target + i * N};
        t.ids = ids + i * t.diffusion.tokens;
        text_diffusion_step(&t, arena, device_losses + i, o.scalars + k, k > 0, true, &dev);
    }
    printf("  batch %2d x %2d: planned %zu bytes, used %zu\n", rows, micro_steps, memory.planned, arena->peak);
    assert_true(in_arena ? arena->peak <= memory.planned : arena->peak == memory.planned);
    device_copy(&dev, losses, device_losses, SAMPLES * sizeof(float), false);
    device_sync(&dev);
    device_free(&dev, device_losses);
    optimizer_destroy(&o, &dev);
    text_diffusion_destroy(&t, &dev);
    return step_memory_end(&memory, &dev);
}

static void test_accumulation(void **state) {
    (void)state;
    size_t text = pipeline.clip.params.total, unet = pipeline.unet.params.total;
    float one[SAMPLES], two[SAMPLES];
    float *whole = run_samples(one, SAMPLES, 1, true), *parts = run_samples(two, SAMPLES / 2, 2, true);
    double losses = relative_error(two, one, SAMPLES), of_text = relative_error(parts, whole, text),
           of_unet = relative_error(parts + text, whole + text, unet);
    printf("  two halves against the whole: losses %.2g, gradients of the text encoder %.2g, of the UNet %.2g\n",
           losses, of_text, of_unet);
    assert_true(losses < LOSS_TOLERANCE && of_text < GRAD_TOLERANCE && of_unet < GRAD_TOLERANCE);
    free(whole);
    free(parts);
}

static void test_recompute(void **state) {
    (void)state;
    float none[SAMPLES], blocks[SAMPLES];
    float *grads = run_samples(none, SAMPLES, 1, true);
    options.recompute_level = RECOMPUTE_BLOCKS;
    float *again = run_samples(blocks, SAMPLES, 1, true);
    options.recompute_level = RECOMPUTE_NONE;
    assert_memory_equal(none, blocks, sizeof none);
    assert_memory_equal(grads, again, total() * sizeof(float));
    free(grads);
    free(again);
}

// Both models' backward write into one run of gradients.
static void test_gradients_in_arena(void **state) {
    (void)state;
    float outside[SAMPLES], inside[SAMPLES];
    float *grads = run_samples(outside, SAMPLES, 1, true);
    in_arena = true;
    float *again = run_samples(inside, SAMPLES, 1, true);
    in_arena = false;
    assert_memory_equal(outside, inside, sizeof outside);
    assert_memory_equal(grads, again, total() * sizeof(float));
    free(grads);
    free(again);
}

static void test_frozen_text_encoder(void **state) {
    (void)state;
    size_t text = pipeline.clip.params.total;
    float trained[SAMPLES], frozen[SAMPLES];
    float *grads = run_samples(trained, SAMPLES, 1, true), *without = run_samples(frozen, SAMPLES, 1, false);
    double norm = 0;
    for (size_t i = 0; i < text; i++) {
        assert_true(without[i] == 0);
        norm += (double)grads[i] * grads[i];
    }
    printf("  norm of the text encoder's gradient: %.3g, frozen: 0\n", sqrt(norm));
    assert_true(norm > 0);
    assert_memory_equal(trained, frozen, sizeof trained);
    assert_memory_equal(grads + text, without + text, pipeline.unet.params.total * sizeof(float));
    free(grads);
    free(without);
}

static void test_empty_text(void **state) {
    (void)state;
    int count = 0, never = 0, always = 0, other = 0;
    for (int i = 0; i < 10000; i++) {
        count += empty_text_drawn(0.1, 7, i);
        never += empty_text_drawn(0, 7, i);
        always += empty_text_drawn(1, 7, i);
        other += empty_text_drawn(0.1, 7, i) != empty_text_drawn(0.1, 8, i);
    }
    printf("  the empty text in %d of 10000 samples; another seed differs in %d\n", count, other);
    assert_true(abs(count - 1000) < 120 && never == 0 && always == 10000 && other > 1500);
}

static void test_refusals(void **state) {
    (void)state;
    assert_dies("field \"in_channels\" is 8, expected the latent's 4", pipeline.unet.config.in_channels = 8;
                text_diffusion_open(&pipeline, &options, false, H, W, &dev));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accumulation),       cmocka_unit_test(test_recompute),
        cmocka_unit_test(test_gradients_in_arena), cmocka_unit_test(test_frozen_text_encoder),
        cmocka_unit_test(test_empty_text),         cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
