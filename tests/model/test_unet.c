#include "model_test.h"
#include "model/unet.h"

// Two levels with attention, one without; widths that change on the way; odd sides.
static const UNetConfig TINY = {
    .in_channels = 8,
    .out_channels = 4,
    .levels = 3,
    .block_out_channels = {16, 24, 32},
    .down_attention = {true, true, false},
    .up_attention = {false, true, true},
    .layers_per_block = 2,
    .num_heads = {2, 3, 4},
    .transformer_layers = 2,
    .cross_attention_dim = 20,
    .norm_num_groups = 4,
    .norm_eps = 1e-5f,
    .use_linear_projection = true,
    .flip_sin_to_cos = true,
    .downsample_padding = 1,
};

static const UNetConfig SD2 = {
    .in_channels = 4,
    .out_channels = 4,
    .sample_size = 96,
    .levels = 4,
    .block_out_channels = {320, 640, 1280, 1280},
    .down_attention = {true, true, true, false},
    .up_attention = {false, true, true, true},
    .layers_per_block = 2,
    .num_heads = {5, 10, 20, 20},
    .transformer_layers = 1,
    .cross_attention_dim = 1024,
    .norm_num_groups = 32,
    .norm_eps = 1e-5f,
    .use_linear_projection = true,
    .flip_sin_to_cos = true,
    .downsample_padding = 1,
};

// A model with weights, inputs and an arena, on the device.
typedef struct {
    Device dev;
    UNet unet;
    Arena arena;
    int B, H, W, T;
    size_t sample_n, context_n, out_n;
    float *flat, *sample_host, *context_host, *timesteps_host, *dout_host; // on the host
    floatX *sample, *context, *out, *dout, *dsample, *dcontext;            // on the device
    float *timesteps;
} Fixture;

// The arena points to f->dev: a fixture stays where it was created.
static void fixture_create(Fixture *f, const UNetConfig *config, int B, int H, int W, int T, Recompute recompute) {
    *f = (Fixture){.B = B, .H = H, .W = W, .T = T};
    device_open(&f->dev, 0);
    f->unet = unet_create(config);
    f->unet.recompute = recompute;
    params_alloc(&f->unet.params, &f->dev);
    params_alloc_grads(&f->unet.params, &f->dev);
    f->flat = random_weights(&f->unet.params, 1, &f->dev);
    f->sample_n = (size_t)B * H * W * config->in_channels;
    f->context_n = (size_t)B * T * config->cross_attention_dim;
    f->out_n = (size_t)B * H * W * config->out_channels;
    f->sample_host = random_floats(f->sample_n, 2);
    f->context_host = random_floats(f->context_n, 3);
    f->dout_host = random_floats(f->out_n, 4);
    f->timesteps_host = xmalloc(B * sizeof(float));
    for (int b = 0; b < B; b++) { f->timesteps_host[b] = (float)((b * 379 + 417) % 1000); }
    f->sample = to_device(&f->dev, f->sample_host, f->sample_n);
    f->context = to_device(&f->dev, f->context_host, f->context_n);
    f->dout = to_device(&f->dev, f->dout_host, f->out_n);
    f->timesteps = floats_to_device(&f->dev, f->timesteps_host, B);
    f->out = device_tensor(&f->dev, f->out_n);
    f->dsample = device_tensor(&f->dev, f->sample_n);
    f->dcontext = device_tensor(&f->dev, f->context_n);
    Device plan = {.plan_only = true};
    f->arena = arena_create(&f->dev, unet_plan(&f->unet, B, H, W, T, true, &plan));
    device_fill(&f->dev, f->arena.base, 0xff, f->arena.size);
}

static void fixture_destroy(Fixture *f) {
    Device *dev = &f->dev;
    arena_destroy(&f->arena);
    device_free(dev, f->unet.params.grads);
    unet_destroy(&f->unet, dev);
    device_free(dev, f->sample), device_free(dev, f->context), device_free(dev, f->dout);
    device_free(dev, f->timesteps), device_free(dev, f->out), device_free(dev, f->dsample);
    device_free(dev, f->dcontext);
    free(f->flat), free(f->sample_host), free(f->context_host), free(f->timesteps_host), free(f->dout_host);
    device_close(dev);
}

static void forward(Fixture *f, bool keep) {
    unet_forward(&f->unet, &f->arena, f->out, f->sample, f->timesteps, f->context, f->B, f->H, f->W, f->T, keep,
                 &f->dev);
}

static void backward(Fixture *f, float beta) {
    unet_backward(&f->unet, &f->arena, f->dsample, f->dcontext, f->dout, beta, &f->dev);
}

static void forward_to_host(void *model, float *out) {
    Fixture *f = model;
    forward(f, false);
    from_device(&f->dev, out, f->out, f->out_n);
}

static void put_sample(void *model, const float *values) {
    Fixture *f = model;
    put_floats(&f->dev, f->sample, values, f->sample_n);
}

static void put_context(void *model, const float *values) {
    Fixture *f = model;
    put_floats(&f->dev, f->context, values, f->context_n);
}

static void check_gradients(const UNetConfig *config, int B, int H, int W, int T) {
    Fixture f;
    fixture_create(&f, config, B, H, W, T, RECOMPUTE_NONE);
    poison_grads(&f.unet.params, &f.dev);
    forward(&f, true);
    backward(&f, 0);
    float *grads = download_floats(&f.dev, f.unet.params.grads, f.unet.params.total);
    Function function = {.forward = forward_to_host,
                         .model = &f,
                         .count = f.out_n,
                         .params = &f.unet.params,
                         .flat = f.flat,
                         .dout = f.dout_host,
                         .dev = &f.dev};
    check_param_gradients(&function, grads, 3e-3, 1e-2);
    check_input_gradient(&function, "sample", f.sample_host, f.dsample, f.sample_n, put_sample);
    check_input_gradient(&function, "encoder_hidden_states", f.context_host, f.dcontext, f.context_n, put_context);
    free(grads);
    fixture_destroy(&f);
}

static void test_gradients(void **state) {
    (void)state;
    check_gradients(&TINY, 2, 9, 7, 5);
}

// 1x1 convolutions around the transformers, one level, one layer, sides that divide, sin before cos, no padding above.
static void test_gradients_variant(void **state) {
    (void)state;
    UNetConfig config = TINY;
    config.levels = 2;
    config.layers_per_block = config.transformer_layers = 1;
    config.down_attention[0] = config.up_attention[1] = false;
    config.up_attention[0] = true;
    config.use_linear_projection = config.flip_sin_to_cos = false;
    config.freq_shift = 1;
    config.downsample_padding = 0;
    config.in_channels = 4;
    check_gradients(&config, 1, 4, 8, 3);
}

// Everything that a training step leaves behind, on the host.
typedef struct {
    float *out, *grads, *dsample, *dcontext;
} Step;

static Step run_step(Fixture *f, float beta) {
    forward(f, true);
    Step s = {.out = download(&f->dev, f->out, f->out_n)};
    backward(f, beta);
    s.grads = download_floats(&f->dev, f->unet.params.grads, f->unet.params.total);
    s.dsample = download(&f->dev, f->dsample, f->sample_n);
    s.dcontext = download(&f->dev, f->dcontext, f->context_n);
    assert_int_equal(f->arena.bottom, 0);
    assert_int_equal(f->arena.top, 0);
    return s;
}

static void step_free(Step *s) { free(s->out), free(s->grads), free(s->dsample), free(s->dcontext); }

static void assert_same_step(const Fixture *f, const Step *a, const Step *b) {
    assert_memory_equal(a->out, b->out, f->out_n * sizeof(float));
    assert_memory_equal(a->grads, b->grads, f->unet.params.total * sizeof(float));
    assert_memory_equal(a->dsample, b->dsample, f->sample_n * sizeof(float));
    assert_memory_equal(a->dcontext, b->dcontext, f->context_n * sizeof(float));
}

// Same bits with and without recomputation; the arena is used up to the last byte that was planned.
static void test_recompute(void **state) {
    (void)state;
    Fixture none;
    fixture_create(&none, &TINY, 2, 9, 7, 5, RECOMPUTE_NONE);
    Step reference = run_step(&none, 0);
    size_t peaks[4] = {none.arena.size};
    assert_int_equal(none.arena.peak, none.arena.size);
    for (int level = RECOMPUTE_PRODUCTS; level <= RECOMPUTE_BLOCKS; level++) {
        Fixture f;
        fixture_create(&f, &TINY, 2, 9, 7, 5, level);
        Step step = run_step(&f, 0);
        assert_same_step(&f, &reference, &step);
        assert_int_equal(f.arena.peak, f.arena.size);
        peaks[level] = f.arena.size;
        step_free(&step);
        fixture_destroy(&f);
    }
    print_message("    arena: %zu bytes, %zu with products again, %zu with transformers again, %zu with blocks again\n",
                  peaks[0], peaks[1], peaks[2], peaks[3]);
    assert_true(peaks[1] < peaks[0] && peaks[2] < peaks[1] && peaks[3] < peaks[2]);
    step_free(&reference);
    fixture_destroy(&none);
}

// Inference and training forward give the same bits; inference needs less memory, exactly what its plan says, whatever
// backward would compute again.
static size_t check_inference(Recompute recompute) {
    Fixture f;
    fixture_create(&f, &TINY, 2, 6, 10, 5, recompute);
    Step step = run_step(&f, 0);
    Device plan = {.plan_only = true};
    size_t bytes = unet_plan(&f.unet, f.B, f.H, f.W, f.T, false, &plan);
    print_message("    arena: inference %zu, training %zu bytes\n", bytes, f.arena.size);
    assert_true(bytes < f.arena.size / (recompute == RECOMPUTE_NONE ? 2 : 1));
    arena_destroy(&f.arena);
    f.arena = arena_create(&f.dev, bytes);
    device_fill(&f.dev, f.out, 0xff, f.out_n * sizeof(floatX));
    forward(&f, false);
    float *out = download(&f.dev, f.out, f.out_n);
    assert_memory_equal(out, step.out, f.out_n * sizeof(float));
    assert_int_equal(f.arena.peak, f.arena.size);
    free(out);
    step_free(&step);
    fixture_destroy(&f);
    return bytes;
}

static void test_inference(void **state) {
    (void)state;
    size_t bytes = check_inference(RECOMPUTE_NONE);
    for (int level = RECOMPUTE_PRODUCTS; level <= RECOMPUTE_BLOCKS; level++) {
        assert_int_equal(check_inference(level), bytes);
    }
}

// Gradients of a pass that adds to those of another: what is said to be final does not change any more.
static void test_grads_final(void **state) {
    (void)state;
    Fixture f;
    fixture_create(&f, &TINY, 2, 9, 7, 5, RECOMPUTE_NONE);
    forward(&f, true);
    backward(&f, 0);
    FinalWatch watch = {.params = &f.unet.params, .dev = &f.dev};
    f.unet.params.grads_final = (GradsFinal){final_watch_call, &watch};
    forward(&f, true);
    backward(&f, 1);
    float *grads = download_floats(&f.dev, f.unet.params.grads, f.unet.params.total);
    check_finals(&watch, grads);
    free(grads);
    fixture_destroy(&f);
}

// beta = 1 adds a second, equal gradient; beta = 0 starts anew.
static void test_accumulation(void **state) {
    (void)state;
    Fixture f;
    fixture_create(&f, &TINY, 1, 8, 8, 5, RECOMPUTE_NONE);
    size_t n = f.unet.params.total;
    Step once = run_step(&f, 0), twice = run_step(&f, 1), again = run_step(&f, 0);
    assert_same_step(&f, &once, &again);
    for (size_t i = 0; i < n; i++) { once.grads[i] *= 2; }
    double error = relative_distance(twice.grads, once.grads, n);
    print_message("    two gradients against twice one: %.1e\n", error);
    assert_true(error < 1e-6);
    step_free(&once), step_free(&twice), step_free(&again);
    fixture_destroy(&f);
}

// Samples do not know each other: the outputs and input gradients of swapped samples are swapped.
static void test_batch_permutation(void **state) {
    (void)state;
    Fixture f;
    fixture_create(&f, &TINY, 2, 7, 8, 5, RECOMPUTE_NONE);
    Step step = run_step(&f, 0);
    size_t s = f.sample_n / 2, c = f.context_n / 2, o = f.out_n / 2;
    put_floats(&f.dev, f.sample, f.sample_host + s, s);
    put_floats(&f.dev, f.sample + s, f.sample_host, s);
    put_floats(&f.dev, f.context, f.context_host + c, c);
    put_floats(&f.dev, f.context + c, f.context_host, c);
    put_floats(&f.dev, f.dout, f.dout_host + o, o);
    put_floats(&f.dev, f.dout + o, f.dout_host, o);
    device_copy(&f.dev, f.timesteps, f.timesteps_host + 1, sizeof(float), false);
    device_copy(&f.dev, f.timesteps + 1, f.timesteps_host, sizeof(float), false);
    Step swapped = run_step(&f, 0);
    double errors[] = {relative_distance(swapped.out, step.out + o, o), relative_distance(swapped.out + o, step.out, o),
                       relative_distance(swapped.dsample, step.dsample + s, s),
                       relative_distance(swapped.dcontext + c, step.dcontext, c),
                       relative_distance(swapped.grads, step.grads, f.unet.params.total)};
    print_message("    output %.1e %.1e, sample's gradient %.1e, context's %.1e, parameters' %.1e\n", errors[0],
                  errors[1], errors[2], errors[3], errors[4]);
    for (int i = 0; i < 5; i++) { assert_true(errors[i] < (sizeof(floatX) == 2 ? 1e-2 : 2e-6)); }
    step_free(&step), step_free(&swapped);
    fixture_destroy(&f);
}

// Without memory for gradients only those of the inputs come out, the same bits as with.
static void test_frozen(void **state) {
    (void)state;
    for (int level = RECOMPUTE_NONE; level <= RECOMPUTE_BLOCKS; level++) {
        Fixture f;
        fixture_create(&f, &TINY, 2, 6, 6, 5, level);
        Step step = run_step(&f, 0);
        float *grads = f.unet.params.grads;
        f.unet.params.grads = NULL;
        device_fill(&f.dev, f.dsample, 0xff, f.sample_n * sizeof(floatX));
        forward(&f, true);
        backward(&f, 0);
        float *dsample = download(&f.dev, f.dsample, f.sample_n);
        assert_memory_equal(dsample, step.dsample, f.sample_n * sizeof(float));
        f.unet.params.grads = grads;
        free(dsample);
        step_free(&step);
        fixture_destroy(&f);
    }
}

// Multiply-adds of all matrix products and convolutions, and of attention.
static double gmac(const Trace *trace, const char *scope) {
    double flops = 0;
    for (int i = 0; i < trace->count; i++) {
        const TraceRow *r = &trace->rows[i];
        bool counted =
            !strncmp(r->name, "linear", 6) || !strncmp(r->name, "conv2d", 6) || !strncmp(r->name, "attention", 9);
        if (counted && strcmp(r->scope, scope) == 0) { flops += r->flops; }
    }
    return flops / 2e9;
}

// Known figures of Stable Diffusion 2; nothing of that size is allocated. A forward at 64x64 is 402.1 GMAC with the
// taps of 3x3 convolutions that fall on the padding, 391.4 without them.
static void test_sd2_plan(void **state) {
    (void)state;
    UNet unet = unet_create(&SD2);
    size_t parameters = 0;
    for (int i = 0; i < unet.params.count; i++) { parameters += unet.params.slices[i].count; }
    assert_int_equal(parameters, 865910724);
    assert_int_equal(unet.params.count, 686);

    Trace trace = {0};
    Device plan = {.plan_only = true, .trace = &trace};
    unet_plan(&unet, 1, 64, 64, 77, true, &plan);
    double macs = gmac(&trace, "forward");
    print_message("    forward at 64x64: %.1f GMAC, backward %.1f\n", macs, gmac(&trace, "backward"));
    assert_true(fabs(macs - 391.37) < 0.01);
    trace_free(&trace);

    const char *const names[] = {"nothing", "products", "transformers", "blocks"};
    for (int level = RECOMPUTE_NONE; level <= RECOMPUTE_BLOCKS; level++) {
        Device again = {.plan_only = true};
        unet.recompute = level;
        size_t bytes = unet_plan(&unet, 2, 64, 64, 77, true, &again);
        print_message("    training, batch 2, 64x64, %s again: %.3f GB\n", names[level], bytes * 1e-9);
    }
    Device again = {.plan_only = true};
    print_message("    inference, batch 2: %.3f GB, workspace %.3f GB\n",
                  unet_plan(&unet, 2, 64, 64, 77, false, &again) * 1e-9, again.workspace_needed * 1e-9);
    unet_destroy(&unet, &again);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sd2_plan),  cmocka_unit_test(test_recompute),         cmocka_unit_test(test_inference),
        cmocka_unit_test(test_frozen),    cmocka_unit_test(test_batch_permutation), cmocka_unit_test(test_accumulation),
        cmocka_unit_test(test_gradients), cmocka_unit_test(test_gradients_variant), cmocka_unit_test(test_grads_final),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
