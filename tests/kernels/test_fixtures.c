// Single layers against what PyTorch and diffusers computed (tests/reference/make_fixtures.py).
#include "check.h"
#define Tensor FileTensor // check.h has one of its own
#include "model/safetensors.h"
#undef Tensor

static Safetensors file;

static const FileTensor *find(const char *name, const char *tensor) {
    char *full = xprintf("%s.%s", name, tensor);
    const FileTensor *t = safetensors_find(&file, full);
    if (!t) { die("%s: tensor \"%s\" is missing", file.path, full); }
    free(full);
    return t;
}

static bool has(const char *name, const char *tensor) {
    char *full = xprintf("%s.%s", name, tensor);
    bool found = safetensors_find(&file, full) != NULL;
    free(full);
    return found;
}

static int side(const char *name, const char *tensor, int axis) { return (int)find(name, tensor)->shape[axis]; }
static size_t count(const char *name, const char *tensor) { return (size_t)find(name, tensor)->count; }

static float *floats(const char *name, const char *tensor) {
    const FileTensor *t = find(name, tensor);
    float *values = xmalloc((size_t)t->count * sizeof *values);
    tensor_to_float(t, 0, t->count, values);
    return values;
}

static Tensor load(const char *name, const char *tensor, bool is_float) {
    float *values = floats(name, tensor);
    Tensor t = tensor_of(values, count(name, tensor), is_float);
    free(values);
    return t;
}

static Tensor input(const char *name, const char *tensor) { return load(name, tensor, false); }
static Tensor optional(const char *name, const char *tensor) {
    return has(name, tensor) ? input(name, tensor) : (Tensor){0};
}
static Tensor result(const char *name, const char *tensor) { return tensor_poisoned(count(name, tensor), false); }
static Tensor result_float(const char *name, const char *tensor) { return tensor_poisoned(count(name, tensor), true); }

static void check(const char *name, const char *tensor, Tensor *got, double tolerance) {
    float *values = floats(name, tensor);
    double *reference = doubles(got->n);
    for (size_t i = 0; i < got->n; i++) { reference[i] = values[i]; }
    check_tensor(tensor, got, reference, tolerance);
    free(values);
    free(reference);
}

static void forward(const char *name, const char *tensor, Tensor *got) { check(name, tensor, got, TOLERANCE_FORWARD); }
static void backward(const char *name, const char *tensor, Tensor *got) {
    check(name, tensor, got, TOLERANCE_BACKWARD);
}

static void release(int n, Tensor *const *tensors) {
    for (int i = 0; i < n; i++) {
        if (tensors[i]->n) { tensor_free(tensors[i]); }
    }
}
#define RELEASE(...) release(sizeof((Tensor *[]){__VA_ARGS__}) / sizeof(Tensor *), (Tensor *[]){__VA_ARGS__})

// ---- Layers --------------------------------------------------------------------------------------------------------

static void conv_case(const char *name, int stride, int before, int after) {
    printf("  %s\n", name);
    Conv2d c = {.B = side(name, "inp", 0),
                .H = side(name, "inp", 1),
                .W = side(name, "inp", 2),
                .IC = side(name, "inp", 3),
                .OC = side(name, "weight", 0),
                .K = side(name, "weight", 1),
                .stride = stride,
                .pad_before = before,
                .pad_after = after};
    assert_int_equal(conv2d_out(&c, c.H), side(name, "out", 1));
    assert_int_equal(conv2d_out(&c, c.W), side(name, "out", 2));
    Tensor inp = input(name, "inp"), weight = input(name, "weight"), bias = input(name, "bias");
    Tensor sample_bias = optional(name, "sample_bias"), residual = optional(name, "residual");
    Tensor out = result(name, "out"), dout = input(name, "dout"), dinp = result(name, "dinp");
    Tensor dweight = result_float(name, "dweight"), dbias = result_float(name, "dbias");
    Tensor dsample = sample_bias.n ? result(name, "dsample_bias") : (Tensor){0};
    conv2d_forward(out.x, inp.x, weight.x, bias.x, sample_bias.x, residual.x, c, &check_dev);
    forward(name, "out", &out);
    conv2d_backward(dinp.x, dweight.f, dbias.f, dsample.x, dout.x, inp.x, weight.x, NULL, 0, c, &check_dev);
    backward(name, "dinp", &dinp);
    backward(name, "dweight", &dweight);
    backward(name, "dbias", &dbias);
    if (dsample.n) { backward(name, "dsample_bias", &dsample); }
    RELEASE(&inp, &weight, &bias, &sample_bias, &residual, &out, &dout, &dinp, &dweight, &dbias, &dsample);
}

static void test_conv2d(void **state) {
    (void)state;
    conv_case("conv2d.plain", 1, 1, 1);
    conv_case("conv2d.extras", 1, 1, 1);
    conv_case("conv2d.stride", 2, 1, 1);
    conv_case("conv2d.asymmetric", 2, 0, 1);
    conv_case("conv2d.asymmetric_even", 2, 0, 1);
    conv_case("conv2d.pointwise", 1, 0, 0);
}

static void test_linear(void **state) {
    (void)state;
    const char *name = "linear.residual";
    int N = side(name, "inp", 0), IC = side(name, "inp", 1), OC = side(name, "out", 1);
    Tensor inp = input(name, "inp"), weight = input(name, "weight"), bias = input(name, "bias");
    Tensor residual = input(name, "residual"), out = result(name, "out"), dout = input(name, "dout");
    Tensor dinp = result(name, "dinp"), dweight = result_float(name, "dweight"), dbias = result_float(name, "dbias");
    linear_forward(out.x, inp.x, weight.x, bias.x, residual.x, N, IC, OC, &check_dev);
    forward(name, "out", &out);
    linear_backward(dinp.x, dweight.f, dbias.f, dout.x, inp.x, weight.x, NULL, 0, N, IC, OC, &check_dev);
    backward(name, "dinp", &dinp);
    backward(name, "dweight", &dweight);
    backward(name, "dbias", &dbias);
    RELEASE(&inp, &weight, &bias, &residual, &out, &dout, &dinp, &dweight, &dbias);
}

static void groupnorm_case(const char *name, bool silu) {
    printf("  %s\n", name);
    int B = side(name, "inp", 0), HW = side(name, "inp", 1), C = side(name, "inp", 2), G = 4;
    Tensor inp = input(name, "inp"), weight = input(name, "weight"), bias = input(name, "bias");
    Tensor out = result(name, "out"), dout = input(name, "dout"), dinp = result(name, "dinp");
    Tensor dweight = result_float(name, "dweight"), dbias = result_float(name, "dbias");
    Tensor mean = tensor_poisoned((size_t)(B * G), true), rstd = tensor_poisoned((size_t)(B * G), true);
    groupnorm_forward(out.x, mean.f, rstd.f, inp.x, weight.x, bias.x, B, HW, C, G, 1e-5f, silu, &check_dev);
    forward(name, "out", &out);
    groupnorm_backward(dinp.x, dweight.f, dbias.f, dout.x, inp.x, weight.x, bias.x, mean.f, rstd.f, NULL, 0, B, HW, C,
                       G, silu, &check_dev);
    backward(name, "dinp", &dinp);
    backward(name, "dweight", &dweight);
    backward(name, "dbias", &dbias);
    RELEASE(&inp, &weight, &bias, &out, &dout, &dinp, &dweight, &dbias, &mean, &rstd);
}

static void test_groupnorm(void **state) {
    (void)state;
    groupnorm_case("groupnorm.plain", false);
    groupnorm_case("groupnorm.silu", true);
}

static void test_layernorm(void **state) {
    (void)state;
    const char *name = "layernorm.plain";
    int N = side(name, "inp", 0), C = side(name, "inp", 1);
    Tensor inp = input(name, "inp"), weight = input(name, "weight"), bias = input(name, "bias");
    Tensor out = result(name, "out"), dout = input(name, "dout"), dinp = result(name, "dinp");
    Tensor dweight = result_float(name, "dweight"), dbias = result_float(name, "dbias");
    Tensor mean = tensor_poisoned((size_t)N, true), rstd = tensor_poisoned((size_t)N, true);
    layernorm_forward(out.x, mean.f, rstd.f, inp.x, weight.x, bias.x, N, C, 1e-5f, &check_dev);
    forward(name, "out", &out);
    layernorm_backward(dinp.x, dweight.f, dbias.f, dout.x, inp.x, weight.x, mean.f, rstd.f, NULL, 0, N, C, &check_dev);
    backward(name, "dinp", &dinp);
    backward(name, "dweight", &dweight);
    backward(name, "dbias", &dbias);
    RELEASE(&inp, &weight, &bias, &out, &dout, &dinp, &dweight, &dbias, &mean, &rstd);
}

static void activation_case(const char *name, void (*forward_of)(floatX *, const floatX *, size_t, Device *),
                            void (*backward_of)(floatX *, const floatX *, const floatX *, size_t, Device *)) {
    printf("  %s\n", name);
    Tensor inp = input(name, "inp"), out = result(name, "out"), dout = input(name, "dout"), dinp = result(name, "dinp");
    forward_of(out.x, inp.x, inp.n, &check_dev);
    forward(name, "out", &out);
    backward_of(dinp.x, dout.x, inp.x, inp.n, &check_dev);
    backward(name, "dinp", &dinp);
    RELEASE(&inp, &out, &dout, &dinp);
}

static void test_activations(void **state) {
    (void)state;
    activation_case("activation.silu", silu_forward, silu_backward);
    activation_case("activation.gelu", gelu_forward, gelu_backward);
    activation_case("activation.quick_gelu", quick_gelu_forward, quick_gelu_backward);
    const char *name = "activation.geglu";
    int N = side(name, "out", 0), H = side(name, "out", 1);
    Tensor inp = input(name, "inp"), out = result(name, "out"), dout = input(name, "dout"), dinp = result(name, "dinp");
    geglu_forward(out.x, inp.x, N, H, &check_dev);
    forward(name, "out", &out);
    geglu_backward(dinp.x, NULL, dout.x, inp.x, N, H, &check_dev);
    backward(name, "dinp", &dinp);
    RELEASE(&inp, &out, &dout, &dinp);
}

static void attention_case(const char *name, bool causal) {
    printf("  %s\n", name);
    Attention a = {.B = side(name, "q", 0),
                   .Tq = side(name, "q", 1),
                   .NH = side(name, "q", 2),
                   .HS = side(name, "q", 3),
                   .Tk = side(name, "k", 1),
                   .causal = causal};
    a.q_stride = a.k_stride = a.v_stride = a.out_stride = a.NH * a.HS;
    Tensor q = input(name, "q"), k = input(name, "k"), v = input(name, "v"), out = result(name, "out");
    Tensor dout = input(name, "dout"), dq = result(name, "dq"), dk = result(name, "dk"), dv = result(name, "dv");
    Tensor lse = tensor_poisoned((size_t)(a.B * a.NH * a.Tq), true);
    attention_forward(out.x, lse.f, q.x, k.x, v.x, a, &check_dev);
    forward(name, "out", &out);
    attention_backward(dq.x, dk.x, dv.x, dout.x, q.x, k.x, v.x, out.x, lse.f, a, &check_dev);
    backward(name, "dq", &dq);
    backward(name, "dk", &dk);
    backward(name, "dv", &dv);
    RELEASE(&q, &k, &v, &out, &dout, &dq, &dk, &dv, &lse);
}

static void test_attention(void **state) {
    (void)state;
    attention_case("attention.self", false);
    attention_case("attention.causal", true);
    attention_case("attention.cross", false);
}

static int *device_ids(const char *name, const char *tensor) {
    const FileTensor *t = find(name, tensor);
    size_t n = (size_t)t->count;
    int64_t *wide = xmalloc(n * sizeof *wide);
    int *pinned = device_alloc_pinned(&check_dev, n * sizeof *pinned), *ids = device_alloc(&check_dev, n * sizeof *ids);
    tensor_to_int64(t, 0, t->count, wide);
    for (size_t i = 0; i < n; i++) { pinned[i] = (int)wide[i]; }
    device_copy(&check_dev, ids, pinned, n * sizeof *ids, false);
    device_sync(&check_dev);
    device_free_pinned(&check_dev, pinned);
    free(wide);
    return ids;
}

static void test_embedding(void **state) {
    (void)state;
    const char *name = "embedding.tokens";
    int B = side(name, "ids", 0), T = side(name, "ids", 1), V = side(name, "token_weight", 0);
    int C = side(name, "token_weight", 1), positions = side(name, "position_weight", 0), *ids = device_ids(name, "ids");
    Tensor token = input(name, "token_weight"), position = input(name, "position_weight"), out = result(name, "out");
    Tensor dout = input(name, "dout"), dtoken = result_float(name, "dtoken_weight");
    Tensor dposition = result_float(name, "dposition_weight");
    embedding_forward(out.x, ids, token.x, position.x, B, T, C, V, &check_dev);
    forward(name, "out", &out);
    embedding_backward(dtoken.f, dposition.f, dout.x, ids, 0, B, T, C, V, positions, &check_dev);
    backward(name, "dtoken_weight", &dtoken);
    backward(name, "dposition_weight", &dposition);
    device_free(&check_dev, ids);
    RELEASE(&token, &position, &out, &dout, &dtoken, &dposition);
}

static void test_timestep_embedding(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        char *name = xprintf("timestep.flip%d_shift%d", i / 2, i % 2);
        printf("  %s\n", name);
        Tensor timesteps = load(name, "timesteps", true), out = result(name, "out");
        timestep_embedding_forward(out.x, timesteps.f, side(name, "out", 0), side(name, "out", 1), i / 2, i % 2,
                                   &check_dev);
        forward(name, "out", &out); // a float holds the angle at timestep 999 to 3e-5
        RELEASE(&timesteps, &out);
        free(name);
    }
}

static void test_upsample(void **state) {
    (void)state;
    static const char *const names[] = {"upsample.6x10", "upsample.5x9", "upsample.7x6"};
    for (int i = 0; i < 3; i++) {
        const char *name = names[i];
        printf("  %s\n", name);
        int B = side(name, "inp", 0), H = side(name, "inp", 1), W = side(name, "inp", 2), C = side(name, "inp", 3);
        int OH = side(name, "out", 1), OW = side(name, "out", 2);
        Tensor inp = input(name, "inp"), out = result(name, "out"), dout = input(name, "dout");
        Tensor dinp = result(name, "dinp");
        upsample_nearest_forward(out.x, inp.x, B, H, W, C, OH, OW, &check_dev);
        forward(name, "out", &out);
        upsample_nearest_backward(dinp.x, dout.x, B, H, W, C, OH, OW, &check_dev);
        backward(name, "dinp", &dinp);
        RELEASE(&inp, &out, &dout, &dinp);
    }
}

static void test_gaussian(void **state) {
    (void)state;
    for (int mode = 0; mode < 2; mode++) {
        const char *name = mode ? "gaussian.mode" : "gaussian.sample";
        printf("  %s\n", name);
        int N = side(name, "out", 0), L = side(name, "out", 1);
        Tensor moments = input(name, "moments"), noise = mode ? (Tensor){0} : load(name, "noise", true);
        Tensor z = result(name, "out"), dz = input(name, "dout"), dmoments = result(name, "dmoments");
        gaussian_forward(z.x, moments.x, noise.f, N, L, &check_dev);
        forward(name, "out", &z);
        gaussian_backward(dmoments.x, dz.x, moments.x, noise.f, 0, N, L, &check_dev);
        backward(name, "dmoments", &dmoments);
        RELEASE(&moments, &noise, &z, &dz, &dmoments);
    }
    const char *name = "gaussian.kl";
    printf("  %s\n", name);
    int N = side(name, "moments", 0), L = side(name, "moments", 1) / 2;
    Tensor moments = input(name, "moments"), kl = result_float(name, "out"), dmoments = result(name, "dmoments");
    gaussian_kl(kl.f, moments.x, 1, N, L, &check_dev);
    forward(name, "out", &kl);
    gaussian_backward(dmoments.x, NULL, moments.x, NULL, 1, N, L, &check_dev);
    backward(name, "dmoments", &dmoments);
    RELEASE(&moments, &kl, &dmoments);
}

static void test_losses(void **state) {
    (void)state;
    for (int l1 = 0; l1 < 2; l1++) {
        const char *name = l1 ? "loss.l1_mse" : "loss.mse";
        printf("  %s\n", name);
        int B = side(name, "pred", 0), n = side(name, "pred", 1);
        Tensor pred = input(name, "pred"), target = load(name, "target", true), loss = result_float(name, "out");
        Tensor dpred = result(name, "dpred");
        if (l1) {
            l1_mse_loss(loss.f, dpred.x, pred.x, target.f, 0.5f, 1.0f / (float)B, B, n, &check_dev);
        } else {
            mse_loss(loss.f, dpred.x, pred.x, target.f, 1.0f / (float)B, B, n, &check_dev);
        }
        forward(name, "out", &loss);
        backward(name, "dpred", &dpred);
        RELEASE(&pred, &target, &loss, &dpred);
    }
}

// ---- Optimizer, diffusion ------------------------------------------------------------------------------------------

// Step i of a (steps, n) tensor.
static void check_step(const char *name, const char *tensor, int i, const Tensor *got) {
    float *values = floats(name, tensor);
    double *reference = doubles(got->n);
    for (size_t k = 0; k < got->n; k++) { reference[k] = values[(size_t)i * got->n + k]; }
    check_tensor(tensor, got, reference, TOLERANCE_FORWARD);
    free(values);
    free(reference);
}

static void test_adamw(void **state) {
    (void)state;
    const char *name = "adamw.steps";
    size_t n = count(name, "master");
    Tensor master = load(name, "master", true), param = tensor_poisoned(n, false);
    Tensor m = tensor_poisoned(n, true), v = tensor_poisoned(n, true);
    device_fill(&check_dev, m.f, 0, n * sizeof(float));
    device_fill(&check_dev, v.f, 0, n * sizeof(float));
    floatX *weights = sizeof(floatX) == sizeof(float) ? (floatX *)master.f : param.x;
    GradNorm *norm = device_alloc(&check_dev, sizeof *norm), *host = device_alloc_pinned(&check_dev, sizeof *host);
    StepScalars *scalars = device_alloc(&check_dev, sizeof *scalars);
    StepScalars *pinned = device_alloc_pinned(&check_dev, sizeof *pinned);
    float *grads = floats(name, "grads"), *norms = floats(name, "norms");
    for (int i = 0; i < 3; i++) {
        *pinned = (StepScalars){.step = (uint32_t)i,
                                .lr = 1e-2f,
                                .bias1 = (float)(1 - pow(0.9, i + 1)),
                                .bias2 = (float)(1 - pow(0.99, i + 1)),
                                .grad_scale = 1,
                                .max_norm = 5};
        device_copy(&check_dev, scalars, pinned, sizeof *scalars, false);
        Tensor grad = tensor_of(grads + (size_t)i * n, n, true);
        grad_norm(norm, grad.f, n, scalars, &check_dev);
        adam_update(master.f, weights, m.f, v.f, grad.f, norm, 0.9f, 0.99f, 1e-8f, 0.1f, n, scalars, &check_dev);
        device_copy(&check_dev, host, norm, sizeof *host, false);
        device_sync(&check_dev);
        printf("    step %d: norm %g, expected %g\n", i, host->norm, norms[i]);
        assert_true(fabs(host->norm - norms[i]) <= 1e-5 * norms[i]);
        check_step(name, "masters", i, &master);
        tensor_free(&grad);
    }
    forward(name, "exp_avg", &m);
    forward(name, "exp_avg_sq", &v);
    free(grads);
    free(norms);
    device_free(&check_dev, norm);
    device_free(&check_dev, scalars);
    device_free_pinned(&check_dev, host);
    device_free_pinned(&check_dev, pinned);
    RELEASE(&master, &param, &m, &v);
}

static void diffusion_case(const char *name, Prediction prediction) {
    printf("  %s\n", name);
    int B = side(name, "x0", 0), n = side(name, "x0", 1);
    Tensor x0 = load(name, "x0", true), noise = load(name, "noise", true), alphas = load(name, "alphas_cumprod", true);
    int64_t steps[8];
    float values[8];
    tensor_to_int64(find(name, "timesteps"), 0, B, steps);
    for (int b = 0; b < B; b++) { values[b] = (float)steps[b]; }
    Tensor timesteps = tensor_of(values, (size_t)B, true), noisy = result(name, "noisy"),
           target = result_float(name, "x0");
    add_noise_forward(noisy.x, target.f, x0.f, noise.f, timesteps.f, alphas.f, prediction, B, n, &check_dev);
    forward(name, "noisy", &noisy);
    const char *const targets[] = {[PREDICT_EPSILON] = "noise", [PREDICT_V] = "velocity", [PREDICT_SAMPLE] = "x0"};
    forward(name, targets[prediction], &target);
    // one step from 699 to 599; the file's x0 serves as the current sample
    Tensor x = load(name, "x0", true), out = input(name, "model_out"), predicted = result_float(name, "x0");
    for (int b = 0; b < B; b++) { values[b] = 699; }
    tensor_set(&timesteps, values);
    predict_x0(predicted.f, out.x, x.f, timesteps.f, alphas.f, prediction, B, n, &check_dev);
    forward(name, "predicted_x0", &predicted);
    ddim_step(x.f, out.x, (float)alphas.host[699], (float)alphas.host[599], prediction, B, n, &check_dev);
    forward(name, "stepped", &x);
    RELEASE(&x0, &noise, &alphas, &timesteps, &noisy, &target, &x, &out, &predicted);
}

static void test_diffusion(void **state) {
    (void)state;
    diffusion_case("diffusion.epsilon", PREDICT_EPSILON);
    diffusion_case("diffusion.v_prediction", PREDICT_V);
    diffusion_case("diffusion.sample", PREDICT_SAMPLE);
}

static int open_file(void **state) {
    file = safetensors_open("tests/fixtures/layers.safetensors");
    return check_open(state);
}

static int close_file(void **state) {
    safetensors_close(&file);
    return check_close(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv2d),      cmocka_unit_test(test_linear),
        cmocka_unit_test(test_groupnorm),   cmocka_unit_test(test_layernorm),
        cmocka_unit_test(test_activations), cmocka_unit_test(test_attention),
        cmocka_unit_test(test_embedding),   cmocka_unit_test(test_timestep_embedding),
        cmocka_unit_test(test_upsample),    cmocka_unit_test(test_gaussian),
        cmocka_unit_test(test_losses),      cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_diffusion),
    };
    return cmocka_run_group_tests(tests, open_file, close_file);
}
