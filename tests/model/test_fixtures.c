// Whole models and schedules against what PyTorch computed (tests/reference/make_fixtures.py): forward and every
// gradient. fp32 builds: 1e-5 and 1e-4. bf16 builds: at most twice (gradients three times) the error that PyTorch makes
// in bf16 with the same weights.
#include "model_test.h"
#include "model/pipeline.h"
#include "model/weights.h"
#include "util/text.h"

#define FOLDER "tests/fixtures/"

typedef struct {
    Device dev;
    Safetensors file;
    Arena arena;
    int B, worst_of;
    double total;       // norm of all gradients
    float *bf16_errors; // of PyTorch, of the gradients in the order of their names
    double bf16_median;
    double worst; // error in units of what is allowed
    const char *worst_name;
} Case;

// ---- Tensors -------------------------------------------------------------------------------------------------------

static const Tensor *find(const Case *c, const char *name) {
    const Tensor *t = safetensors_find(&c->file, name);
    if (!t) { die("%s: tensor \"%s\" is missing", c->file.path, name); }
    return t;
}

static float *torch_values(const Tensor *t) {
    float *values = xmalloc((size_t)t->count * sizeof *values);
    tensor_to_float(t, 0, t->count, values);
    return values;
}

// In this program's order: NCHW becomes channels-last.
static float *file_values(const Tensor *t) {
    float *values = torch_values(t);
    if (t->ndim != 4) { return values; }
    float *out = xmalloc((size_t)t->count * sizeof *out);
    size_t C = (size_t)t->shape[1], HW = (size_t)(t->shape[2] * t->shape[3]);
    for (size_t i = 0; i < (size_t)t->count; i++) {
        size_t b = i / (C * HW), c = i / HW % C, p = i % HW;
        out[(b * HW + p) * C + c] = values[i];
    }
    free(values);
    return out;
}

static floatX *input(Case *c, const char *name) {
    float *values = file_values(find(c, name));
    floatX *out = to_device(&c->dev, values, (size_t)find(c, name)->count);
    free(values);
    return out;
}

static floatX *output(Case *c, const char *name) { return device_tensor(&c->dev, (size_t)find(c, name)->count); }

// ---- Comparison ----------------------------------------------------------------------------------------------------

static double distance(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]); }
    return sqrt(sum);
}

static double norm_of(const float *a, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += (double)a[i] * a[i]; }
    return sqrt(sum);
}

static double tensor_norm(const Tensor *t) {
    float *values = torch_values(t);
    double norm = norm_of(values, (size_t)t->count);
    free(values);
    return norm;
}

static int compare_floats(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static Case case_open(const char *path) {
    Case c = {.worst_name = ""};
    device_open(&c.dev, 0);
    c.file = safetensors_open(path);
    double sum = 0;
    for (int i = 0; i < c.file.count; i++) {
        if (strncmp(c.file.tensors[i].name, "grad.", 5) == 0) { sum += pow(tensor_norm(&c.file.tensors[i]), 2); }
    }
    c.total = sqrt(sum);
    const Tensor *errors = find(&c, "bf16.grad");
    c.bf16_errors = torch_values(errors);
    float *sorted = torch_values(errors);
    qsort(sorted, (size_t)errors->count, sizeof *sorted, compare_floats);
    c.bf16_median = sorted[errors->count / 2];
    free(sorted);
    return c;
}

static void case_close(Case *c) {
    arena_destroy(&c->arena);
    safetensors_close(&c->file);
    free(c->bf16_errors);
    device_close(&c->dev);
}

static void make_arena(Case *c, size_t bytes, const Device *plan) {
    c->arena = arena_create(&c->dev, bytes);
    device_reserve_workspace(&c->dev, plan->workspace_needed);
}

static void check_output(Case *c, const floatX *out, const char *what) {
    const Tensor *t = find(c, "output");
    float *values = download(&c->dev, out, (size_t)t->count), *reference = file_values(t);
    double allowed = 1e-5;
#ifdef PRECISION_bf16
    float *bf16 = torch_values(find(c, "bf16.output"));
    allowed = 2.0 * bf16[0];
    free(bf16);
#endif
    double error = distance(values, reference, (size_t)t->count) / norm_of(reference, (size_t)t->count);
    print_message("    %s: relative error %.1e (at most %.1e)\n", what, error, allowed);
    assert_true(error <= allowed);
    free(values);
    free(reference);
}

// The norm that an error is relative to: at least 1e-6 of all gradients'. Key biases change no softmax; what is left of
// their gradient is the rounding of a sum of rows as large as those that make the weight's.
static double scale_of(const Case *c, const Tensor *t) {
    double norm = fmax(tensor_norm(t), 1e-6 * c->total);
    if (text_ends_with(t->name, "to_k.bias") || text_ends_with(t->name, "k_proj.bias")) {
        char *weight = xprintf("%.*sweight", (int)(strlen(t->name) - strlen("bias")), t->name);
        norm = fmax(norm, 0.1 * tensor_norm(find(c, weight)));
        free(weight);
    }
    return norm;
}

// `values` in the order of `reference`.
static void compare_gradient(Case *c, const Tensor *t, const float *values, const float *reference) {
    double allowed = 1e-4;
#ifdef PRECISION_bf16
    int index = 0;
    for (const Tensor *u = c->file.tensors; u < t; u++) { index += strncmp(u->name, "grad.", 5) == 0; }
    allowed = 3 * fmax(c->bf16_errors[index], c->bf16_median);
#endif
    double error = distance(values, reference, (size_t)t->count) / scale_of(c, t) / allowed;
    c->worst_of++;
    if (isnan(error)) { error = INFINITY; }
    if (error > c->worst) {
        c->worst = error;
        c->worst_name = t->name;
    }
}

static void check_input(Case *c, const floatX *grad, const char *name) {
    const Tensor *t = find(c, name);
    float *values = download(&c->dev, grad, (size_t)t->count), *reference = file_values(t);
    compare_gradient(c, t, values, reference);
    free(values);
    free(reference);
}

// All parameters' gradients; in the end every grad. tensor of the file must have been compared.
static void check_gradients(Case *c, const Params *params) {
    for (int i = 0; i < params->count; i++) {
        const ParamSlice *s = &params->slices[i];
        char *name = xprintf("grad.%s", s->name);
        const Tensor *t = find(c, name);
        float *flat = download_floats(&c->dev, params->grads + s->offset, s->count);
        float *values = xmalloc(s->count * sizeof *values), *reference = torch_values(t);
        slice_to_torch(s, values, flat);
        assert_int_equal(t->count, s->count);
        compare_gradient(c, t, values, reference);
        free(values);
        free(reference);
        free(flat);
        free(name);
    }
    print_message("    %d gradients: largest error %.2f of what is allowed (%s)\n", c->worst_of, c->worst,
                  c->worst_name);
    assert_true(c->worst <= 1);
    assert_int_equal(c->worst_of, find(c, "bf16.grad")->count);
}

// ---- Models --------------------------------------------------------------------------------------------------------

static void unet_case(const char *name) {
    char *folder = xprintf(FOLDER "%s", name), *path = xprintf("%s/case.safetensors", folder);
    char *config_path = xprintf("%s/config.json", folder);
    Case c = case_open(path);
    UNetConfig config = unet_config_read(config_path);
    UNet unet = unet_create(&config);
    weights_load(&unet.params, folder, WEIGHTS_WRITE, &c.dev);
    params_alloc_grads(&unet.params, &c.dev);
    const int64_t *s = find(&c, "sample")->shape;
    int B = (int)s[0], H = (int)s[2], W = (int)s[3], T = (int)find(&c, "encoder_hidden_states")->shape[1];
    int64_t steps[8];
    float timesteps[8];
    tensor_to_int64(find(&c, "timestep"), 0, B, steps);
    for (int b = 0; b < B; b++) { timesteps[b] = (float)steps[b]; }
    float *device_timesteps = floats_to_device(&c.dev, timesteps, (size_t)B);
    floatX *sample = input(&c, "sample"), *context = input(&c, "encoder_hidden_states");
    floatX *dout = input(&c, "grad_output"), *out = output(&c, "output"), *dsample = output(&c, "sample");
    floatX *dcontext = output(&c, "encoder_hidden_states");
    poison_grads(&unet.params, &c.dev);
    for (Recompute level = RECOMPUTE_NONE; level <= RECOMPUTE_BLOCKS; level++) {
        Device plan = {.plan_only = true};
        unet.recompute = level;
        arena_destroy(&c.arena);
        make_arena(&c, unet_plan(&unet, B, H, W, T, true, &plan), &plan);
        unet_forward(&unet, &c.arena, out, sample, device_timesteps, context, B, H, W, T, true, &c.dev);
        check_output(&c, out, name);
        unet_backward(&unet, &c.arena, dsample, dcontext, dout, 0, &c.dev);
        c.worst = c.worst_of = 0;
        check_input(&c, dsample, "grad.sample");
        check_input(&c, dcontext, "grad.encoder_hidden_states");
        check_gradients(&c, &unet.params);
    }
    floatX *tensors[] = {sample, context, dout, out, dsample, dcontext};
    for (int i = 0; i < 6; i++) { device_free(&c.dev, tensors[i]); }
    device_free(&c.dev, device_timesteps);
    device_free(&c.dev, unet.params.grads);
    unet_destroy(&unet, &c.dev);
    case_close(&c);
    free(config_path);
    free(path);
    free(folder);
}

static void test_unet_sd2(void **state) {
    (void)state;
    unet_case("unet-sd2");
}

static void test_unet_sd1(void **state) {
    (void)state;
    unet_case("unet-sd1");
}

static void test_vae_encoder(void **state) {
    (void)state;
    Case c = case_open(FOLDER "vae/encoder.safetensors");
    VAEConfig config = vae_config_read(FOLDER "vae/config.json");
    VAEEncoder encoder = vae_encoder_create(&config);
    weights_load(&encoder.params, FOLDER "vae", WEIGHTS_WRITE, &c.dev);
    params_alloc_grads(&encoder.params, &c.dev);
    const int64_t *s = find(&c, "sample")->shape;
    int B = (int)s[0], H = (int)s[2], W = (int)s[3];
    floatX *sample = input(&c, "sample"), *dout = input(&c, "grad_output"), *out = output(&c, "output");
    floatX *dsample = output(&c, "sample");
    Device plan = {.plan_only = true};
    make_arena(&c, vae_encoder_plan(&encoder, B, H, W, true, &plan), &plan);
    poison_grads(&encoder.params, &c.dev);
    vae_encoder_forward(&encoder, &c.arena, out, sample, B, H, W, true, &c.dev);
    check_output(&c, out, "encoder");
    vae_encoder_backward(&encoder, &c.arena, dsample, dout, 0, &c.dev);
    check_input(&c, dsample, "grad.sample");
    check_gradients(&c, &encoder.params);
    floatX *tensors[] = {sample, dout, out, dsample};
    for (int i = 0; i < 4; i++) { device_free(&c.dev, tensors[i]); }
    device_free(&c.dev, encoder.params.grads);
    vae_destroy(&encoder, &c.dev);
    case_close(&c);
}

static void test_vae_decoder(void **state) {
    (void)state;
    Case c = case_open(FOLDER "vae/decoder.safetensors");
    VAEConfig config = vae_config_read(FOLDER "vae/config.json");
    VAEDecoder decoder = vae_decoder_create(&config);
    weights_load(&decoder.params, FOLDER "vae", WEIGHTS_WRITE, &c.dev);
    params_alloc_grads(&decoder.params, &c.dev);
    const int64_t *s = find(&c, "latent")->shape;
    int B = (int)s[0], h = (int)s[2], w = (int)s[3];
    floatX *latent = input(&c, "latent"), *dout = input(&c, "grad_output"), *out = output(&c, "output");
    floatX *dlatent = output(&c, "latent");
    Device plan = {.plan_only = true};
    make_arena(&c, vae_decoder_plan(&decoder, B, h, w, true, &plan), &plan);
    poison_grads(&decoder.params, &c.dev);
    vae_decoder_forward(&decoder, &c.arena, out, latent, B, h, w, true, &c.dev);
    check_output(&c, out, "decoder");
    vae_decoder_backward(&decoder, &c.arena, dlatent, dout, 0, &c.dev);
    check_input(&c, dlatent, "grad.latent");
    check_gradients(&c, &decoder.params);
    floatX *tensors[] = {latent, dout, out, dlatent};
    for (int i = 0; i < 4; i++) { device_free(&c.dev, tensors[i]); }
    device_free(&c.dev, decoder.params.grads);
    vae_destroy(&decoder, &c.dev);
    case_close(&c);
}

static void text_case(const char *name) {
    char *folder = xprintf(FOLDER "%s", name), *path = xprintf("%s/case.safetensors", folder);
    char *config_path = xprintf("%s/config.json", folder);
    Case c = case_open(path);
    CLIPConfig config = clip_config_read(config_path);
    CLIPText clip = clip_create(&config);
    weights_load(&clip.params, folder, WEIGHTS_WRITE, &c.dev);
    params_alloc_grads(&clip.params, &c.dev);
    const Tensor *t = find(&c, "input_ids");
    int B = (int)t->shape[0], T = (int)t->shape[1], host[64];
    int64_t wide[64];
    assert_true(t->count <= 64);
    tensor_to_int64(t, 0, t->count, wide);
    for (int i = 0; i < B * T; i++) { host[i] = (int)wide[i]; }
    int *ids = device_alloc(&c.dev, (size_t)(B * T) * sizeof *ids);
    device_copy(&c.dev, ids, host, (size_t)(B * T) * sizeof *ids, false);
    floatX *dout = input(&c, "grad_output"), *out = output(&c, "output");
    Device plan = {.plan_only = true};
    make_arena(&c, clip_plan(&clip, B, T, true, &plan), &plan);
    poison_grads(&clip.params, &c.dev);
    clip_forward(&clip, &c.arena, out, ids, B, T, true, &c.dev);
    check_output(&c, out, name);
    clip_backward(&clip, &c.arena, dout, 0, &c.dev);
    check_gradients(&c, &clip.params);
    device_free(&c.dev, ids);
    device_free(&c.dev, dout);
    device_free(&c.dev, out);
    device_free(&c.dev, clip.params.grads);
    clip_destroy(&clip, &c.dev);
    case_close(&c);
    free(config_path);
    free(path);
    free(folder);
}

static void test_text_gelu(void **state) {
    (void)state;
    text_case("text_encoder-gelu");
}

static void test_text_quick_gelu(void **state) {
    (void)state;
    text_case("text_encoder-quick_gelu");
}

// ---- Schedules -----------------------------------------------------------------------------------------------------

static void check_steps(const Schedule *s, const Safetensors *file, int steps, double tolerance) {
    char *name = xprintf("timesteps.%d", steps), *alphas_name = xprintf("alpha_prev.%d", steps);
    const Tensor *timesteps = safetensors_find(file, name), *alphas = safetensors_find(file, alphas_name);
    assert_non_null(timesteps);
    assert_non_null(alphas);
    int got[64];
    int64_t wanted[64];
    float previous[64];
    schedule_timesteps(s, steps, got);
    tensor_to_int64(timesteps, 0, steps, wanted);
    tensor_to_float(alphas, 0, steps, previous);
    for (int i = 0; i < steps; i++) {
        assert_int_equal(got[i], wanted[i]);
        float alpha, prev;
        schedule_step_alphas(s, got[i], steps, &alpha, &prev);
        assert_true(alpha == s->alphas_cumprod[got[i]]);
        assert_true(fabs(prev - previous[i]) <= tolerance * previous[i]);
    }
    free(name);
    free(alphas_name);
}

static void test_schedules(void **state) {
    (void)state;
    static const char *const spacings[] = {"leading", "trailing", "linspace"};
    for (int k = 0; k < 3; k++) {
        char *config_path = xprintf(FOLDER "schedule-%s/scheduler_config.json", spacings[k]);
        char *path = xprintf(FOLDER "schedule-%s/steps.safetensors", spacings[k]);
        ScheduleConfig config = schedule_config_read(config_path);
        Schedule s = schedule_create(&config);
        Safetensors file = safetensors_open(path);
        // with zero SNR small numbers come from differences of square roots
        double tolerance = config.terminal_signal == 0 ? 1e-5 : 2e-6, worst = 0;
        float *alphas = torch_values(safetensors_find(&file, "alphas_cumprod"));
        for (int t = 0; t < s.T; t++) {
            assert_true((alphas[t] == 0) == (s.alphas_cumprod[t] == 0));
            worst = alphas[t] > 0 ? fmax(worst, fabs(s.alphas_cumprod[t] / alphas[t] - 1.0)) : worst;
        }
        print_message("    %s: alphas_cumprod differ by at most %.1e\n", spacings[k], worst);
        assert_true(worst <= tolerance);
        static const int steps[] = {1, 2, 3, 4, 10, 50};
        for (int i = 0; i < 6; i++) { check_steps(&s, &file, steps[i], tolerance); }
        free(alphas);
        safetensors_close(&file);
        schedule_free(&s);
        free(config_path);
        free(path);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unet_sd2),    cmocka_unit_test(test_unet_sd1),  cmocka_unit_test(test_vae_encoder),
        cmocka_unit_test(test_vae_decoder), cmocka_unit_test(test_text_gelu), cmocka_unit_test(test_text_quick_gelu),
        cmocka_unit_test(test_schedules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
