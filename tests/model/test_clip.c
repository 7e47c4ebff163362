#include "model_test.h"
#include "model/clip.h"

static const CLIPConfig TINY = {
    .vocab_size = 50,
    .hidden_size = 24,
    .intermediate_size = 56,
    .num_hidden_layers = 3,
    .num_attention_heads = 3,
    .max_position_embeddings = 11,
    .layer_norm_eps = 1e-5f,
};

static const CLIPConfig SD2 = {
    .vocab_size = 49408,
    .hidden_size = 1024,
    .intermediate_size = 4096,
    .num_hidden_layers = 23,
    .num_attention_heads = 16,
    .max_position_embeddings = 77,
    .layer_norm_eps = 1e-5f,
};

typedef struct {
    Device dev;
    CLIPText clip;
    Arena arena;
    int B, T, *ids;
    size_t out_n;
    float *flat, *dout_host;
    floatX *out, *dout;
} Fixture;

static void fixture_create(Fixture *f, const CLIPConfig *config, int B, int T) {
    *f = (Fixture){.B = B, .T = T, .out_n = (size_t)B * T * config->hidden_size};
    device_open(&f->dev, 0);
    f->clip = clip_create(config);
    params_alloc(&f->clip.params, &f->dev);
    params_alloc_grads(&f->clip.params, &f->dev);
    f->flat = random_weights(&f->clip.params, 1, &f->dev);
    f->dout_host = random_floats(f->out_n, 2);
    f->dout = to_device(&f->dev, f->dout_host, f->out_n);
    f->out = device_tensor(&f->dev, f->out_n);
    int *ids = xmalloc(B * T * sizeof(int));
    for (int i = 0; i < B * T; i++) {
        ids[i] = i * 7 % 19; // with repetitions
    }
    f->ids = device_alloc(&f->dev, B * T * sizeof(int));
    device_copy(&f->dev, f->ids, ids, B * T * sizeof(int), false);
    free(ids);
    Device plan = {.plan_only = true};
    f->arena = arena_create(&f->dev, clip_plan(&f->clip, B, T, true, &plan));
    device_fill(&f->dev, f->arena.base, 0xff, f->arena.size);
}

static void fixture_destroy(Fixture *f) {
    arena_destroy(&f->arena);
    device_free(&f->dev, f->clip.params.grads);
    clip_destroy(&f->clip, &f->dev);
    device_free(&f->dev, f->ids), device_free(&f->dev, f->out), device_free(&f->dev, f->dout);
    free(f->flat), free(f->dout_host);
    device_close(&f->dev);
}

static void forward(Fixture *f, bool keep) {
    clip_forward(&f->clip, &f->arena, f->out, f->ids, f->B, f->T, keep, &f->dev);
}

static void forward_to_host(void *model, float *out) {
    Fixture *f = model;
    forward(f, false);
    from_device(&f->dev, out, f->out, f->out_n);
}

static void check_gradients(const CLIPConfig *config, int B, int T) {
    Fixture f;
    fixture_create(&f, config, B, T);
    Params *p = &f.clip.params;
    poison_grads(p, &f.dev);
    // Rows of the two tables that are not used get beta times what was there; 0 * NaN would be NaN.
    forward(&f, true);
    float *out = download(&f.dev, f.out, f.out_n);
    clip_backward(&f.clip, &f.arena, f.dout, 0, &f.dev);
    assert_int_equal(f.arena.peak, f.arena.size);
    float *grads = download_floats(&f.dev, p->grads, p->total);

    forward(&f, true);
    clip_backward(&f.clip, &f.arena, f.dout, 1, &f.dev);
    float *twice = download_floats(&f.dev, p->grads, p->total);
    for (size_t i = 0; i < p->total; i++) { twice[i] /= 2; }
    assert_true(relative_distance(twice, grads, p->total) < 1e-6);

    Device plan = {.plan_only = true};
    size_t bytes = clip_plan(&f.clip, B, T, false, &plan);
    print_message("    arena: inference %zu, training %zu bytes\n", bytes, f.arena.size);
    arena_destroy(&f.arena);
    f.arena = arena_create(&f.dev, bytes);
    forward(&f, false);
    float *again = download(&f.dev, f.out, f.out_n);
    assert_memory_equal(again, out, f.out_n * sizeof(float));
    assert_int_equal(f.arena.peak, f.arena.size);

    Function function = {.forward = forward_to_host,
                         .model = &f,
                         .count = f.out_n,
                         .params = p,
                         .flat = f.flat,
                         .dout = f.dout_host,
                         .dev = &f.dev};
    check_param_gradients(&function, grads, 3e-3, 1e-2);
    free(out), free(grads), free(twice), free(again);
    fixture_destroy(&f);
}

static void test_gelu(void **state) {
    (void)state;
    check_gradients(&TINY, 2, 11);
}

static void test_quick_gelu(void **state) {
    (void)state;
    CLIPConfig config = TINY;
    config.quick_gelu = true;
    check_gradients(&config, 3, 5); // shorter than the table of positions
}

// A token sees itself and those before it.
static void test_causal(void **state) {
    (void)state;
    Fixture f;
    fixture_create(&f, &TINY, 1, 11);
    forward(&f, false);
    float *before = download(&f.dev, f.out, f.out_n);
    int other = 33, C = TINY.hidden_size;
    device_copy(&f.dev, f.ids + 6, &other, sizeof other, false);
    forward(&f, false);
    float *after = download(&f.dev, f.out, f.out_n);
    assert_memory_equal(before, after, 6 * C * sizeof(float));
    for (int t = 6; t < 11; t++) { assert_memory_not_equal(before + t * C, after + t * C, C * sizeof(float)); }
    free(before), free(after);
    fixture_destroy(&f);
}

static void test_sd2_plan(void **state) {
    (void)state;
    CLIPText clip = clip_create(&SD2);
    size_t parameters = 0;
    for (int i = 0; i < clip.params.count; i++) { parameters += clip.params.slices[i].count; }
    assert_int_equal(parameters, 340387840);
    Device dev = {.plan_only = true};
    print_message("    batch 16: %.3f GB\n", clip_plan(&clip, 16, 77, false, &dev) * 1e-9);
    clip_destroy(&clip, &dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sd2_plan),
        cmocka_unit_test(test_gelu),
        cmocka_unit_test(test_quick_gelu),
        cmocka_unit_test(test_causal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
