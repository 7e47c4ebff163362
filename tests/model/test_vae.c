#include "model_test.h"
#include "model/vae.h"

static const VAEConfig TINY = {
    .in_channels = 3,
    .out_channels = 3,
    .latent_channels = 4,
    .levels = 3,
    .block_out_channels = {8, 16, 24},
    .layers_per_block = 2,
    .norm_num_groups = 4,
    .scaling_factor = 0.18215f,
    .mid_block_attention = true,
    .quant_conv = true,
    .post_quant_conv = true,
};

static const VAEConfig SD2 = {
    .in_channels = 3,
    .out_channels = 3,
    .latent_channels = 4,
    .sample_size = 768,
    .levels = 4,
    .block_out_channels = {128, 256, 512, 512},
    .layers_per_block = 2,
    .norm_num_groups = 32,
    .scaling_factor = 0.18215f,
    .mid_block_attention = true,
    .quant_conv = true,
    .post_quant_conv = true,
};

// One of the two halves with weights, its input and an arena, on the device.
typedef struct {
    Device dev;
    VAEEncoder encoder;
    VAEDecoder decoder;
    bool decode;
    Params *params;
    Arena arena;
    int B, H, W; // of the input
    size_t inp_n, out_n;
    float *flat, *inp_host, *dout_host;
    floatX *inp, *out, *dout, *dinp;
} Fixture;

static size_t plan(Fixture *f, bool train) {
    Device dev = {.plan_only = true};
    return f->decode ? vae_decoder_plan(&f->decoder, f->B, f->H, f->W, train, &dev)
                     : vae_encoder_plan(&f->encoder, f->B, f->H, f->W, train, &dev);
}

static void fixture_create(Fixture *f, const VAEConfig *c, bool decode, int B, int H, int W) {
    *f = (Fixture){.decode = decode, .B = B, .H = H, .W = W};
    device_open(&f->dev, 0);
    f->encoder = vae_encoder_create(c);
    f->decoder = vae_decoder_create(c);
    f->params = decode ? &f->decoder.params : &f->encoder.params;
    int h = vae_latent_size(c, H), w = vae_latent_size(c, W), factor = vae_factor(c);
    f->inp_n = (size_t)B * H * W * (decode ? c->latent_channels : c->in_channels);
    f->out_n =
        decode ? (size_t)B * H * W * factor * factor * c->out_channels : (size_t)B * h * w * 2 * c->latent_channels;
    params_alloc(f->params, &f->dev);
    params_alloc_grads(f->params, &f->dev);
    f->flat = random_weights(f->params, 1, &f->dev);
    f->inp_host = random_floats(f->inp_n, 2);
    f->dout_host = random_floats(f->out_n, 3);
    f->inp = to_device(&f->dev, f->inp_host, f->inp_n);
    f->dout = to_device(&f->dev, f->dout_host, f->out_n);
    f->out = device_tensor(&f->dev, f->out_n);
    f->dinp = device_tensor(&f->dev, f->inp_n);
    f->arena = arena_create(&f->dev, plan(f, true));
    device_fill(&f->dev, f->arena.base, 0xff, f->arena.size);
}

static void fixture_destroy(Fixture *f) {
    Device *dev = &f->dev;
    arena_destroy(&f->arena);
    device_free(dev, f->params->grads);
    vae_destroy(&f->encoder, dev);
    vae_destroy(&f->decoder, dev);
    device_free(dev, f->inp), device_free(dev, f->out), device_free(dev, f->dout), device_free(dev, f->dinp);
    free(f->flat), free(f->inp_host), free(f->dout_host);
    device_close(dev);
}

static void forward(Fixture *f, bool keep) {
    if (f->decode) {
        vae_decoder_forward(&f->decoder, &f->arena, f->out, f->inp, f->B, f->H, f->W, keep, &f->dev);
    } else {
        vae_encoder_forward(&f->encoder, &f->arena, f->out, f->inp, f->B, f->H, f->W, keep, &f->dev);
    }
}

static void backward(Fixture *f, float beta) {
    if (f->decode) {
        vae_decoder_backward(&f->decoder, &f->arena, f->dinp, f->dout, beta, &f->dev);
    } else {
        vae_encoder_backward(&f->encoder, &f->arena, f->dinp, f->dout, beta, &f->dev);
    }
}

static void forward_to_host(void *model, float *out) {
    Fixture *f = model;
    forward(f, false);
    from_device(&f->dev, out, f->out, f->out_n);
}

static void put_input(void *model, const float *values) {
    Fixture *f = model;
    put_floats(&f->dev, f->inp, values, f->inp_n);
}

// Gradients against slopes; inference gives the bits of the training forward in the memory that was planned; a second
// backward with beta = 1 doubles; without memory for gradients the input's gradient is the same.
static void check_half(const VAEConfig *config, bool decode, int B, int H, int W) {
    Fixture f;
    fixture_create(&f, config, decode, B, H, W);
    size_t n = f.params->total;
    poison_grads(f.params, &f.dev);
    forward(&f, true);
    float *out = download(&f.dev, f.out, f.out_n);
    assert_true(all_finite(out, f.out_n));
    backward(&f, 0);
    assert_int_equal(f.arena.peak, f.arena.size);
    assert_int_equal(f.arena.bottom, 0);
    float *grads = download_floats(&f.dev, f.params->grads, n), *dinp = download(&f.dev, f.dinp, f.inp_n);

    FinalWatch watch = {.params = f.params, .dev = &f.dev};
    f.params->grads_final = (GradsFinal){final_watch_call, &watch};
    forward(&f, true);
    backward(&f, 1);
    float *twice = download_floats(&f.dev, f.params->grads, n);
    check_finals(&watch, twice);
    f.params->grads_final = (GradsFinal){0};
    for (size_t i = 0; i < n; i++) { twice[i] /= 2; }
    assert_true(relative_distance(twice, grads, n) < 1e-6);

    float *memory = f.params->grads;
    f.params->grads = NULL;
    device_fill(&f.dev, f.dinp, 0xff, f.inp_n * sizeof(floatX));
    forward(&f, true);
    backward(&f, 0);
    float *frozen = download(&f.dev, f.dinp, f.inp_n);
    assert_memory_equal(frozen, dinp, f.inp_n * sizeof(float));
    f.params->grads = memory;

    size_t bytes = plan(&f, false);
    print_message("    arena: inference %zu, training %zu bytes\n", bytes, f.arena.size);
    arena_destroy(&f.arena);
    f.arena = arena_create(&f.dev, bytes);
    device_fill(&f.dev, f.out, 0xff, f.out_n * sizeof(floatX));
    forward(&f, false);
    float *again = download(&f.dev, f.out, f.out_n);
    assert_memory_equal(again, out, f.out_n * sizeof(float));
    assert_int_equal(f.arena.peak, f.arena.size);

    Function function = {.forward = forward_to_host,
                         .model = &f,
                         .count = f.out_n,
                         .params = f.params,
                         .flat = f.flat,
                         .dout = f.dout_host,
                         .dev = &f.dev};
    check_param_gradients(&function, grads, 3e-3, 1e-2);
    put_floats(&f.dev, f.dinp, dinp, f.inp_n);
    check_input_gradient(&function, decode ? "latent" : "image", f.inp_host, f.dinp, f.inp_n, put_input);
    free(out), free(grads), free(dinp), free(twice), free(frozen), free(again);
    fixture_destroy(&f);
}

static void test_encoder(void **state) {
    (void)state;
    check_half(&TINY, false, 2, 14, 19); // odd sides round down at each level
}

static void test_decoder(void **state) {
    (void)state;
    check_half(&TINY, true, 2, 3, 5);
}

static void test_plain(void **state) {
    (void)state;
    VAEConfig config = TINY;
    config.mid_block_attention = config.quant_conv = config.post_quant_conv = false;
    config.layers_per_block = 1;
    check_half(&config, false, 1, 8, 12);
    check_half(&config, true, 1, 4, 2);
}

static void test_sd2_plan(void **state) {
    (void)state;
    VAEEncoder encoder = vae_encoder_create(&SD2);
    VAEDecoder decoder = vae_decoder_create(&SD2);
    size_t parameters = 0;
    for (int i = 0; i < encoder.params.count; i++) { parameters += encoder.params.slices[i].count; }
    for (int i = 0; i < decoder.params.count; i++) { parameters += decoder.params.slices[i].count; }
    assert_int_equal(parameters, 83653863); // AutoencoderKL of Stable Diffusion
    Trace trace = {0};
    Device dev = {.plan_only = true, .trace = &trace};
    size_t encode = vae_encoder_plan(&encoder, 1, 512, 512, false, &dev);
    double flops = trace.flops;
    size_t decode = vae_decoder_plan(&decoder, 1, 64, 64, false, &dev);
    print_message("    512x512: encode %.3f GB and %.2f TFLOP, decode %.3f GB and %.2f TFLOP\n", encode * 1e-9,
                  flops * 1e-12, decode * 1e-9, (trace.flops - flops) * 1e-12);
    assert_true(fabs(flops - 1.12e12) < 0.04e12);
    trace_free(&trace);
    vae_destroy(&encoder, &dev);
    vae_destroy(&decoder, &dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sd2_plan),
        cmocka_unit_test(test_encoder),
        cmocka_unit_test(test_decoder),
        cmocka_unit_test(test_plain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
