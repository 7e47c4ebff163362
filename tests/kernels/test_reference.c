// The gradients of reference.c are those of its forward functions: against central differences of a random weighting of
// the outputs. Nothing here runs a kernel.
#include "tests/kernels/check.h"

enum { MOST = 4 };

// A layer of fixed sizes: inputs of n elements each, of which the first `inputs` have gradients; m outputs in all.
typedef struct {
    const char *name;
    int inputs, n[MOST], m;
    void (*forward)(double *out, double *const *in);
    void (*backward)(double *const *din, const double *dout, double *const *in);
} Layer;

static double *normal_numbers(int n, uint32_t id) {
    Random random = random_begin(5, PHILOX_INIT, id, 0);
    double *values = doubles((size_t)n);
    for (int i = 0; i < n; i++) { values[i] = random_normal(&random); }
    return values;
}

static double weighted_outputs(const Layer *l, const double *dout, double *const *in) {
    double *out = doubles((size_t)l->m), sum = 0;
    l->forward(out, in);
    for (int i = 0; i < l->m; i++) { sum += dout[i] * out[i]; }
    free(out);
    return sum;
}

// (f(x - 2h) - 8 f(x - h) + 8 f(x + h) - f(x + 2h)) / 12 h: exact to fourth order.
static double difference(const Layer *l, const double *dout, double *const *in, double *x) {
    static const double step[4] = {-2, -1, 1, 2}, factor[4] = {1, -8, 8, -1};
    double at = *x, h = 1e-3, sum = 0;
    for (int i = 0; i < 4; i++) {
        *x = at + step[i] * h;
        sum += factor[i] * weighted_outputs(l, dout, in) / (12 * h);
    }
    *x = at;
    return sum;
}

static void check_layer(const Layer *l) {
    double *in[MOST], *din[MOST], *dout = normal_numbers(l->m, 100);
    for (int k = 0; k < MOST; k++) {
        in[k] = normal_numbers(l->n[k], (uint32_t)k);
        din[k] = doubles((size_t)l->n[k]);
        for (int i = 0; i < l->n[k]; i++) { din[k][i] = NAN; }
    }
    printf("  %s\n", l->name);
    l->backward(din, dout, in);
    for (int k = 0; k < l->inputs; k++) {
        double *expected = doubles((size_t)l->n[k]);
        for (int i = 0; i < l->n[k]; i++) { expected[i] = difference(l, dout, in, in[k] + i); }
        check_values("gradient", din[k], expected, (size_t)l->n[k], 1e-8);
        free(expected);
    }
    for (int k = 0; k < MOST; k++) { free(in[k]), free(din[k]); }
    free(dout);
}

// ---- linear, conv2d ------------------------------------------------------------------------------------------------

static void linear(double *out, double *const *in) {
    reference_linear_forward(out, in[0], in[1], in[2], in[3], 3, 4, 5);
}
static void dlinear(double *const *din, const double *dout, double *const *in) {
    reference_linear_backward(din[0], din[1], din[2], dout, in[0], in[1], NULL, 0, 3, 4, 5);
    memcpy(din[3], dout, 15 * sizeof *dout); // the residual's
}

// With rows and columns that stride 2 leaves out, and the VAE's padding.
static const Conv2d conv = {
    .B = 2, .H = 4, .W = 5, .IC = 2, .OC = 3, .K = 3, .stride = 1, .pad_before = 1, .pad_after = 1};
static const Conv2d down = {.B = 2, .H = 4, .W = 5, .IC = 2, .OC = 3, .K = 3, .stride = 2, .pad_after = 1};

static void conv2d(double *out, double *const *in) {
    reference_conv2d_forward(out, in[0], in[1], in[2], in[3], NULL, conv);
}
static void dconv2d(double *const *din, const double *dout, double *const *in) {
    reference_conv2d_backward(din[0], din[1], din[2], din[3], dout, in[0], in[1], NULL, 0, conv);
}
static void conv2d_down(double *out, double *const *in) {
    reference_conv2d_forward(out, in[0], in[1], in[2], in[3], NULL, down);
}
static void dconv2d_down(double *const *din, const double *dout, double *const *in) {
    reference_conv2d_backward(din[0], din[1], din[2], din[3], dout, in[0], in[1], NULL, 0, down);
}

// ---- Normalisation -------------------------------------------------------------------------------------------------

enum { B = 2, HW = 5, C = 12, G = 3 };
static double mean[B * HW], rstd[B * HW];

static void groupnorm(double *out, double *const *in) {
    reference_groupnorm_forward(out, mean, rstd, in[0], in[1], in[2], B, HW, C, G, 1e-5, false);
}
static void dgroupnorm(double *const *din, const double *dout, double *const *in) {
    double out[B * HW * C];
    groupnorm(out, in);
    reference_groupnorm_backward(din[0], din[1], din[2], dout, in[0], in[1], in[2], mean, rstd, NULL, 0, B, HW, C, G,
                                 false);
}
static void groupnorm_silu(double *out, double *const *in) {
    reference_groupnorm_forward(out, mean, rstd, in[0], in[1], in[2], B, HW, C, G, 1e-5, true);
}
static void dgroupnorm_silu(double *const *din, const double *dout, double *const *in) {
    double out[B * HW * C];
    groupnorm_silu(out, in);
    reference_groupnorm_backward(din[0], din[1], din[2], dout, in[0], in[1], in[2], mean, rstd, NULL, 0, B, HW, C, G,
                                 true);
}
static void layernorm(double *out, double *const *in) {
    reference_layernorm_forward(out, mean, rstd, in[0], in[1], in[2], B * HW, C, 1e-5);
}
static void dlayernorm(double *const *din, const double *dout, double *const *in) {
    double out[B * HW * C];
    layernorm(out, in);
    reference_layernorm_backward(din[0], din[1], din[2], dout, in[0], in[1], mean, rstd, NULL, 0, B * HW, C);
}

// ---- Activations ---------------------------------------------------------------------------------------------------

enum { N = 12 };
static void silu(double *out, double *const *in) { reference_silu_forward(out, in[0], N); }
static void dsilu(double *const *din, const double *dout, double *const *in) {
    reference_silu_backward(din[0], dout, in[0], N);
}
static void gelu(double *out, double *const *in) { reference_gelu_forward(out, in[0], N); }
static void dgelu(double *const *din, const double *dout, double *const *in) {
    reference_gelu_backward(din[0], dout, in[0], N);
}
static void quick_gelu(double *out, double *const *in) { reference_quick_gelu_forward(out, in[0], N); }
static void dquick_gelu(double *const *din, const double *dout, double *const *in) {
    reference_quick_gelu_backward(din[0], dout, in[0], N);
}
static void geglu(double *out, double *const *in) { reference_geglu_forward(out, in[0], 2, N / 2); }
static void dgeglu(double *const *din, const double *dout, double *const *in) {
    reference_geglu_backward(din[0], NULL, dout, in[0], 2, N / 2);
}

// ---- Attention -----------------------------------------------------------------------------------------------------

// 2 heads of 3 elements.
static const Attention cross = {2, 2, 4, 5, 3, 6, 6, 6, 6, false}, causal = {2, 2, 5, 5, 3, 6, 6, 6, 6, true};
static double lse[20];

static void attention(double *out, double *const *in) {
    reference_attention_forward(out, lse, in[0], in[1], in[2], cross);
}
static void dattention(double *const *din, const double *dout, double *const *in) {
    double out[48];
    attention(out, in);
    reference_attention_backward(din[0], din[1], din[2], dout, in[0], in[1], in[2], out, lse, cross);
}
static void attention_causal(double *out, double *const *in) {
    reference_attention_forward(out, lse, in[0], in[1], in[2], causal);
}
static void dattention_causal(double *const *din, const double *dout, double *const *in) {
    double out[60];
    attention_causal(out, in);
    reference_attention_backward(din[0], din[1], din[2], dout, in[0], in[1], in[2], out, lse, causal);
}

// ---- Embedding, resize, concat -------------------------------------------------------------------------------------

static const int ids[6] = {1, 3, 1, 0, 3, 3}; // 2 is not used, and the last of 4 positions is not either
static void embedding(double *out, double *const *in) {
    reference_embedding_forward(out, ids, in[0], in[1], 2, 3, 2, 4);
}
static void dembedding(double *const *din, const double *dout, double *const *in) {
    (void)in;
    reference_embedding_backward(din[0], din[1], dout, ids, 0, 2, 3, 2, 4, 4);
}
static void upsample(double *out, double *const *in) {
    reference_upsample_nearest_forward(out, in[0], 1, 2, 3, 2, 3, 5);
}
static void dupsample(double *const *din, const double *dout, double *const *in) {
    (void)in;
    reference_upsample_nearest_backward(din[0], dout, 1, 2, 3, 2, 3, 5);
}
static void concat(double *out, double *const *in) { reference_concat_forward(out, in[0], in[1], 3, 2, 4); }
static void dconcat(double *const *din, const double *dout, double *const *in) {
    (void)in;
    reference_concat_backward(din[0], din[1], dout, 3, 2, 4);
}

// ---- Gaussian, prediction, losses ----------------------------------------------------------------------------------

// in: moments of 3 rows, noise. out: z, then KL.
static void gaussian(double *out, double *const *in) {
    reference_gaussian_forward(out, in[0], in[1], 3, 2);
    reference_gaussian_kl(out + 6, in[0], 1, 3, 2);
}
static void dgaussian(double *const *din, const double *dout, double *const *in) {
    reference_gaussian_backward(din[0], dout, in[0], in[1], dout[6], 3, 2);
}

// in: the model's output for 2 samples, x_t.
static Prediction prediction;
static const double abar[2] = {0.9, 0.3}, timesteps[2] = {1, 0};
static void x0(double *out, double *const *in) {
    reference_predict_x0(out, in[0], in[1], timesteps, abar, prediction, 2, 4);
}
static void dx0(double *const *din, const double *dout, double *const *in) {
    (void)in;
    for (int i = 0; i < 8; i++) {
        din[0][i] = 0; // which is added to
    }
    reference_predict_x0_backward(din[0], dout, timesteps, abar, prediction, 1, 2, 4);
}

// in: prediction, target of one sample, so that `scale` is all that weights the loss; weights.
static const float color[3] = {0.5f, -1, 0.25f};
static void mse(double *out, double *const *in) { reference_mse_loss(out, NULL, in[0], in[1], 1, 1, N); }
static void dmse(double *const *din, const double *dout, double *const *in) {
    double loss;
    reference_mse_loss(&loss, din[0], in[0], in[1], *dout, 1, N);
}
static void l1_mse(double *out, double *const *in) { reference_l1_mse_loss(out, NULL, in[0], in[1], 0.7, 1, 1, N); }
static void dl1_mse(double *const *din, const double *dout, double *const *in) {
    double loss;
    reference_l1_mse_loss(&loss, din[0], in[0], in[1], 0.7, *dout, 1, N);
}
static void weighted_mse(double *out, double *const *in) {
    reference_weighted_mse_loss(out, NULL, in[0], in[1], (double[]){0.3, 0, 2, 1}, 1, 1, N, 3);
}
static void dweighted_mse(double *const *din, const double *dout, double *const *in) {
    double loss;
    reference_weighted_mse_loss(&loss, din[0], in[0], in[1], (double[]){0.3, 0, 2, 1}, *dout, 1, N, 3);
}
static void dice(double *out, double *const *in) { reference_dice_loss(out, NULL, in[0], in[1], color, 1, 1, N); }
static void ddice(double *const *din, const double *dout, double *const *in) {
    double loss;
    reference_dice_loss(&loss, din[0], in[0], in[1], color, *dout, 1, N);
}

// ---- Tests ---------------------------------------------------------------------------------------------------------

static void test_gradients(void **state) {
    (void)state;
    const Layer layers[] = {
        {"linear", 4, {12, 20, 5, 15}, 15, linear, dlinear},
        {"conv2d", 4, {80, 54, 3, 6}, 120, conv2d, dconv2d},
        {"conv2d, stride 2", 4, {80, 54, 3, 6}, 24, conv2d_down, dconv2d_down},
        {"groupnorm", 3, {B * HW * C, C, C}, B * HW * C, groupnorm, dgroupnorm},
        {"groupnorm and silu", 3, {B * HW * C, C, C}, B * HW * C, groupnorm_silu, dgroupnorm_silu},
        {"layernorm", 3, {B * HW * C, C, C}, B * HW * C, layernorm, dlayernorm},
        {"silu", 1, {N}, N, silu, dsilu},
        {"gelu", 1, {N}, N, gelu, dgelu},
        {"quick_gelu", 1, {N}, N, quick_gelu, dquick_gelu},
        {"geglu", 1, {2 * N}, N, geglu, dgeglu},
        {"attention", 3, {48, 60, 60}, 48, attention, dattention},
        {"attention, causal", 3, {60, 60, 60}, 60, attention_causal, dattention_causal},
        {"embedding", 2, {8, 8}, 12, embedding, dembedding},
        {"upsample_nearest", 1, {12}, 30, upsample, dupsample},
        {"concat", 2, {6, 12}, 18, concat, dconcat},
        {"gaussian", 1, {12, 6}, 7, gaussian, dgaussian},
        {"mse_loss", 1, {N, N}, 1, mse, dmse},
        {"l1_mse_loss", 1, {N, N}, 1, l1_mse, dl1_mse},
        {"weighted_mse_loss", 1, {N, N}, 1, weighted_mse, dweighted_mse},
        {"dice_loss", 1, {N, N}, 1, dice, ddice},
    };
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++) { check_layer(layers + i); }
    for (prediction = PREDICT_EPSILON; prediction <= PREDICT_SAMPLE; prediction++) {
        check_layer(&(Layer){"predict_x0", 1, {8, 8}, 8, x0, dx0});
    }
}

// The gradient of focal_mse_loss holds its factors constant: it is that of weighted_mse_loss with the factors as
// weights.
static void test_focal(void **state) {
    (void)state;
    double *pred = normal_numbers(N, 0), *target = normal_numbers(N, 1), weights[N / 3];
    double loss, expected, dpred[N], dexpected[N];
    for (int cell = 0; cell < N / 3; cell++) {
        double e = 0;
        for (int c = 0; c < 3; c++) { e += pow(pred[3 * cell + c] - target[3 * cell + c], 2) / 3; }
        weights[cell] = pow(1 - exp(-e), 1.5);
    }
    reference_focal_mse_loss(&loss, dpred, pred, target, 1.5, 0.4, 1, N, 3);
    reference_weighted_mse_loss(&expected, dexpected, pred, target, weights, 0.4, 1, N, 3);
    check_values("loss", &loss, &expected, 1, 1e-12);
    check_values("dpred", dpred, dexpected, N, 1e-12);
    free(pred), free(target);
}

// With dresidual it is added; with beta = 1 parameter gradients add up; NULL leaves the others as they are.
static void test_sums(void **state) {
    (void)state;
    double *dout = normal_numbers(120, 0), *inp = normal_numbers(80, 1), *w = normal_numbers(54, 2);
    double *residual = normal_numbers(80, 3), *before = normal_numbers(54, 4);
    double dinp[2][80], dweight[2][54], dbias[2][3], dsample[2][6];
    for (int i = 0; i < 54; i++) { dweight[0][i] = NAN, dweight[1][i] = before[i]; }
    for (int i = 0; i < 3; i++) { dbias[0][i] = NAN, dbias[1][i] = 0.5; }
    reference_conv2d_backward(dinp[0], dweight[0], dbias[0], dsample[0], dout, inp, w, NULL, 0, conv);
    reference_conv2d_backward(dinp[1], NULL, NULL, NULL, dout, NULL, w, residual, 1, conv);
    reference_conv2d_backward(NULL, dweight[1], NULL, NULL, dout, inp, NULL, NULL, 1, conv);
    reference_conv2d_backward(NULL, NULL, dbias[1], dsample[1], dout, NULL, NULL, NULL, 1, conv);
    for (int i = 0; i < 80; i++) { dinp[0][i] += residual[i]; }
    for (int i = 0; i < 54; i++) { dweight[0][i] += before[i]; }
    for (int i = 0; i < 3; i++) { dbias[0][i] += 0.5; }
    check_values("dinp", dinp[1], dinp[0], 80, 1e-12);
    check_values("dweight", dweight[1], dweight[0], 54, 1e-12);
    check_values("dbias", dbias[1], dbias[0], 3, 1e-12);
    check_values("dsample_bias", dsample[1], dsample[0], 6, 0);
    free(dout), free(inp), free(w), free(residual), free(before);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients), cmocka_unit_test(test_focal),
                                       cmocka_unit_test(test_sums)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
