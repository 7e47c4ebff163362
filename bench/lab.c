// The kernel lab: tensors of a function, one version's call, and the check of its result.
#include "bench/lab.h"
#include "bench/lab/steps.h"
#include "kernels/peaks.h"
#include "util/error.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Calls the step of a version, if the build has it.
#ifdef BACKEND_cpu
#define STEP(lab, call) ((void)(lab))
bool lab_has_steps(void) { return false; }
#else
#define STEP(lab, call) ((lab)->version < (lab)->last ? (call) : (void)0)
bool lab_has_steps(void) { return true; }
#endif

// Every version reports the bytes and FLOPs of the last one.
static bool calls_own(const Lab *lab) { return lab->version == lab->last || lab->dev->plan_only; }

double lab_tolerance(void) { return sizeof(floatX) == sizeof(float) ? 1e-5 : 1e-2; }

// ---- On the host ---------------------------------------------------------------------------------------------------

static float *host_floats(const Lab *lab, const float *x, size_t n) {
    float *values = xmalloc(n * sizeof *values);
    device_copy(lab->dev, values, x, n * sizeof *values, false);
    device_sync(lab->dev);
    return values;
}

static float *host_values(const Lab *lab, const floatX *x, size_t n) {
    float *wide = device_alloc(lab->dev, n * sizeof *wide);
    cast_to_float(wide, x, n, lab->dev);
    float *values = host_floats(lab, wide, n);
    device_free(lab->dev, wide);
    return values;
}

// ||values - references|| / ||references||
typedef struct {
    double difference, norm;
} Distance;

static void compare(Distance *d, double value, double reference) {
    d->difference += (value - reference) * (value - reference);
    d->norm += reference * reference;
}
static double relative(Distance d) { return sqrt(d.difference) / sqrt(d.norm > 0 ? d.norm : 1); }
static double larger(double a, double b) { return a > b || isnan(a) ? a : b; }

// The stride between checked results, so that about `wanted` of n are checked. It is odd, to reach all channels.
static size_t every(size_t n, size_t wanted) { return n <= wanted ? 1 : (n / wanted) | 1; }

// ---- conv2d --------------------------------------------------------------------------------------------------------

typedef struct {
    Conv2d c;
    int OH, OW;
    size_t in, out_n, weights;
    floatX *out, *inp, *weight, *bias;
} ConvCase;

static void make_conv2d(Lab *lab) {
    const int *s = lab->size, K = s[5];
    if ((K != 1 && K != 3) || s[6] > 2) { die("--shape: expected K 1 or 3 and a stride of 1 or 2"); }
    ConvCase *k = lab->data = xcalloc(1, sizeof *k);
    k->c = (Conv2d){.B = s[0], .H = s[1], .W = s[2], .IC = s[3], .OC = s[4], .K = K, .stride = s[6]};
    k->c.pad_before = k->c.pad_after = K / 2;
    k->OH = conv2d_out(&k->c, k->c.H), k->OW = conv2d_out(&k->c, k->c.W);
    k->in = (size_t)k->c.B * k->c.H * k->c.W * k->c.IC;
    k->out_n = (size_t)k->c.B * k->OH * k->OW * k->c.OC;
    k->weights = (size_t)k->c.OC * K * K * k->c.IC;
    k->out = bench_tensor(lab->bench, k->out_n), k->inp = bench_tensor(lab->bench, k->in);
    k->weight = bench_tensor(lab->bench, k->weights), k->bias = bench_tensor(lab->bench, (size_t)k->c.OC);
}

static void call_conv2d(const Lab *lab) {
    const ConvCase *k = lab->data;
    if (calls_own(lab)) { conv2d_forward(k->out, k->inp, k->weight, k->bias, NULL, NULL, k->c, lab->dev); }
    STEP(lab, lab_conv2d_forward(lab->version, k->out, k->inp, k->weight, k->bias, k->c, lab->dev));
}

static double conv2d_at(const ConvCase *k, const float *inp, const float *weight, size_t i) {
    const Conv2d *c = &k->c;
    int oc = (int)(i % c->OC), ox = (int)(i / c->OC % k->OW), oy = (int)(i / c->OC / k->OW % k->OH);
    size_t b = i / c->OC / k->OW / k->OH;
    double sum = 0;
    for (int tap = 0; tap < c->K * c->K; tap++) {
        int y = oy * c->stride + tap / c->K - c->pad_before, x = ox * c->stride + tap % c->K - c->pad_before;
        if (y < 0 || y >= c->H || x < 0 || x >= c->W) { continue; }
        const float *from = inp + ((b * c->H + y) * c->W + x) * c->IC;
        const float *w = weight + ((size_t)oc * c->K * c->K + tap) * c->IC;
        for (int ic = 0; ic < c->IC; ic++) { sum += (double)from[ic] * w[ic]; }
    }
    return sum;
}

static double error_conv2d(const Lab *lab) {
    const ConvCase *k = lab->data;
    float *out = host_values(lab, k->out, k->out_n), *inp = host_values(lab, k->inp, k->in);
    float *weight = host_values(lab, k->weight, k->weights), *bias = host_values(lab, k->bias, (size_t)k->c.OC);
    Distance d = {0, 0};
    for (size_t i = 0; i < k->out_n; i += every(k->out_n, 20000)) {
        compare(&d, out[i], conv2d_at(k, inp, weight, i) + bias[i % k->c.OC]);
    }
    free(out), free(inp), free(weight), free(bias);
    return relative(d);
}

// ---- attention -----------------------------------------------------------------------------------------------------

typedef struct {
    Attention a;
    size_t nq, nk; // elements of q's and k's tensors
    floatX *out, *q, *k, *v;
    float *lse;
} AttentionCase;

// q, k and v packed in one product in self-attention, k and v packed in cross-attention.
static void make_attention(Lab *lab) {
    const int *s = lab->size, C = s[1] * s[4];
    bool self = s[2] == s[3];
    if (s[4] % 8 || s[4] > 160 || (s[5] && !self)) {
        die("--shape: expected HS to be a multiple of 8, 160 at most, and Tq = Tk with causal");
    }
    AttentionCase *k = lab->data = xcalloc(1, sizeof *k);
    k->a = (Attention){.B = s[0], .NH = s[1], .Tq = s[2], .Tk = s[3], .HS = s[4], .causal = s[5], .out_stride = C};
    k->a.q_stride = self ? 3 * C : C;
    k->a.k_stride = k->a.v_stride = self ? 3 * C : 2 * C;
    k->nq = (size_t)s[0] * s[2] * k->a.q_stride, k->nk = (size_t)s[0] * s[3] * k->a.k_stride;
    k->q = bench_tensor(lab->bench, k->nq);
    k->k = self ? k->q + C : bench_tensor(lab->bench, k->nk);
    k->v = k->k + C;
    k->out = bench_tensor(lab->bench, (size_t)s[0] * s[2] * C);
    k->lse = bench_floats(lab->bench, (size_t)s[0] * s[1] * s[2]);
}

static void call_attention(const Lab *lab) {
    const AttentionCase *k = lab->data;
    if (calls_own(lab)) { attention_forward(k->out, k->lse, k->q, k->k, k->v, k->a, lab->dev); }
    STEP(lab, lab_attention_forward(lab->version, k->out, k->lse, k->q, k->k, k->v, k->a, lab->dev));
}

// One query: its output in out[HS], returns the log-sum-exp.
static double attention_row(double *out, double *p, const float *q, const float *k, const float *v, const Attention *a,
                            int keys) {
    double top = -INFINITY, sum = 0;
    for (int t = 0; t < keys; t++) {
        p[t] = 0;
        for (int d = 0; d < a->HS; d++) { p[t] += (double)q[d] * k[(size_t)t * a->k_stride + d] / sqrt(a->HS); }
        top = fmax(top, p[t]);
    }
    memset(out, 0, (size_t)a->HS * sizeof *out);
    for (int t = 0; t < keys; t++) {
        p[t] = exp(p[t] - top);
        sum += p[t];
        for (int d = 0; d < a->HS; d++) { out[d] += p[t] * v[(size_t)t * a->v_stride + d]; }
    }
    for (int d = 0; d < a->HS; d++) { out[d] /= sum; }
    return top + log(sum);
}

static double error_attention(const Lab *lab) {
    const AttentionCase *k = lab->data;
    const Attention *a = &k->a;
    bool self = k->k == k->q + a->NH * a->HS;
    size_t rows = (size_t)a->B * a->NH * a->Tq, C = (size_t)a->NH * a->HS;
    float *out = host_values(lab, k->out, (size_t)a->B * a->Tq * C), *lse = host_floats(lab, k->lse, rows);
    float *q = host_values(lab, k->q, k->nq), *keys = self ? q + C : host_values(lab, k->k, k->nk);
    double *reference = xcalloc((size_t)a->HS + a->Tk, sizeof *reference);
    Distance d = {0, 0}, of_lse = {0, 0};
    for (size_t row = 0; row < rows; row += every(rows, 400)) {
        size_t t = row % a->Tq, h = row / a->Tq % a->NH, b = row / a->Tq / a->NH;
        const float *of_keys = keys + b * a->Tk * a->k_stride + h * a->HS;
        double log_sum = attention_row(reference, reference + a->HS, q + (b * a->Tq + t) * a->q_stride + h * a->HS,
                                       of_keys, of_keys + C, a, a->causal ? (int)t + 1 : a->Tk);
        compare(&of_lse, lse[row], log_sum);
        for (int i = 0; i < a->HS; i++) { compare(&d, out[(b * a->Tq + t) * C + h * a->HS + i], reference[i]); }
    }
    free(out), free(lse), free(reference), free(q);
    if (!self) { free(keys); }
    return larger(relative(d), relative(of_lse));
}

// ---- groupnorm and layernorm ---------------------------------------------------------------------------------------

// layernorm: B = N rows, HW = 1, G = 1.
typedef struct {
    int B, HW, C, G;
    bool silu;
    size_t n;
    floatX *out, *inp, *weight, *bias;
    float *mean, *rstd;
    floatX *dinp, *dout; // of backward
    float *dweight, *dbias;
} NormCase;

static const float norm_eps = 1e-5f;

static NormCase *make_norm(Lab *lab, NormCase norm) {
    NormCase *k = lab->data = xmalloc(sizeof *k);
    *k = norm;
    k->n = (size_t)k->B * k->HW * k->C;
    k->inp = bench_tensor(lab->bench, k->n);
    k->weight = bench_tensor(lab->bench, (size_t)k->C), k->bias = bench_tensor(lab->bench, (size_t)k->C);
    k->mean = bench_floats(lab->bench, (size_t)k->B * k->G), k->rstd = bench_floats(lab->bench, (size_t)k->B * k->G);
    return k;
}

static NormCase *make_groups(Lab *lab) {
    const int *s = lab->size;
    if (s[2] % s[3]) { die("--shape: expected C to be a multiple of G"); }
    return make_norm(lab, (NormCase){.B = s[0], .HW = s[1], .C = s[2], .G = s[3], .silu = s[4]});
}
static void make_groupnorm(Lab *lab) {
    NormCase *k = make_groups(lab);
    k->out = bench_tensor(lab->bench, k->n);
}
static void make_layernorm(Lab *lab) {
    NormCase *k = make_norm(lab, (NormCase){.B = lab->size[0], .HW = 1, .C = lab->size[1], .G = 1});
    k->out = bench_tensor(lab->bench, k->n);
}

static void call_groupnorm(const Lab *lab) {
    const NormCase *k = lab->data;
    if (calls_own(lab)) {
        groupnorm_forward(k->out, k->mean, k->rstd, k->inp, k->weight, k->bias, k->B, k->HW, k->C, k->G, norm_eps,
                          k->silu, lab->dev);
    }
    STEP(lab, lab_groupnorm_forward(lab->version, k->out, k->mean, k->rstd, k->inp, k->weight, k->bias, k->B, k->HW,
                                    k->C, k->G, norm_eps, k->silu, lab->dev));
}

static void call_layernorm(const Lab *lab) {
    const NormCase *k = lab->data;
    if (calls_own(lab)) {
        layernorm_forward(k->out, k->mean, k->rstd, k->inp, k->weight, k->bias, k->B, k->C, norm_eps, lab->dev);
    }
    STEP(lab, lab_layernorm_forward(lab->version, k->out, k->mean, k->rstd, k->inp, k->weight, k->bias, k->B, k->C,
                                    norm_eps, lab->dev));
}

// Group i of all samples' groups: its first channel and element; element j of it, counted from the first.
static int group_channel(const NormCase *k, size_t i) { return (int)(i % k->G) * (k->C / k->G); }
static size_t group_start(const NormCase *k, size_t i) { return i / k->G * k->HW * k->C + group_channel(k, i); }
static size_t in_group(const NormCase *k, int j) {
    int width = k->C / k->G;
    return (size_t)(j / width) * k->C + j % width;
}

// Mean and 1 / standard deviation of a group, whose first element is x[0].
static void group_moments(double *mean, double *rstd, const NormCase *k, const float *x) {
    int count = k->HW * (k->C / k->G);
    double sum = 0, square = 0;
    for (int i = 0; i < count; i++) { sum += (double)x[in_group(k, i)] / count; }
    for (int i = 0; i < count; i++) { square += pow(x[in_group(k, i)] - sum, 2) / count; }
    *mean = sum, *rstd = 1 / sqrt(square + norm_eps);
}

static void compare_group(Distance d[3], const NormCase *k, const float *x, const float *out, const float *weight,
                          const float *bias, double mean, double rstd) {
    int width = k->C / k->G;
    double m, s;
    group_moments(&m, &s, k, x);
    compare(&d[0], mean + 1, m + 1); // a mean may be zero
    compare(&d[1], rstd, s);
    for (int i = 0; i < k->HW * width; i++) {
        size_t e = in_group(k, i);
        double y = (x[e] - m) * s * weight[i % width] + bias[i % width];
        compare(&d[2], out[e], k->silu ? y / (1 + exp(-y)) : y);
    }
}

static double error_norm(const Lab *lab) {
    const NormCase *k = lab->data;
    size_t groups = (size_t)k->B * k->G;
    float *out = host_values(lab, k->out, k->n), *inp = host_values(lab, k->inp, k->n);
    float *weight = host_values(lab, k->weight, (size_t)k->C), *bias = host_values(lab, k->bias, (size_t)k->C);
    float *mean = host_floats(lab, k->mean, groups), *rstd = host_floats(lab, k->rstd, groups);
    Distance d[3] = {{0, 0}};
    for (size_t i = 0; i < groups; i++) {
        int c = group_channel(k, i);
        size_t first = group_start(k, i);
        compare_group(d, k, inp + first, out + first, weight + c, bias + c, mean[i], rstd[i]);
    }
    free(out), free(inp), free(weight), free(bias), free(mean), free(rstd);
    return larger(relative(d[0]), larger(relative(d[1]), relative(d[2])));
}

// ---- groupnorm_backward --------------------------------------------------------------------------------------------

// Mean and rstd are those of the input, as forward writes them.
static void make_groupnorm_backward(Lab *lab) {
    NormCase *k = make_groups(lab);
    if (k->C / k->G > 256) { die("--shape: expected at most 256 channels per group"); } // version 2
    k->dout = bench_tensor(lab->bench, k->n), k->dinp = bench_tensor(lab->bench, k->n);
    k->dweight = bench_floats(lab->bench, (size_t)k->C), k->dbias = bench_floats(lab->bench, (size_t)k->C);
    size_t groups = (size_t)k->B * k->G;
    float *inp = host_values(lab, k->inp, k->n), *moments = xmalloc(2 * groups * sizeof *moments);
    for (size_t i = 0; i < groups; i++) {
        double mean, rstd;
        group_moments(&mean, &rstd, k, inp + group_start(k, i));
        moments[i] = (float)mean, moments[groups + i] = (float)rstd;
    }
    k->mean = bench_upload(lab->bench, moments, 2 * groups * sizeof *moments);
    k->rstd = k->mean + groups;
    free(inp), free(moments);
}

static void call_groupnorm_backward(const Lab *lab) {
    const NormCase *k = lab->data;
    if (calls_own(lab)) {
        groupnorm_backward(k->dinp, k->dweight, k->dbias, k->dout, k->inp, k->weight, k->bias, k->mean, k->rstd, NULL,
                           0, k->B, k->HW, k->C, k->G, k->silu, lab->dev);
    }
    STEP(lab, lab_groupnorm_backward(lab->version, k->dinp, k->dweight, k->dbias, k->dout, k->inp, k->weight, k->bias,
                                     k->mean, k->rstd, k->B, k->HW, k->C, k->G, k->silu, lab->dev));
}

// The inputs on the host.
typedef struct {
    float *dout, *inp, *weight, *bias, *mean, *rstd;
} NormInputs;

// dy, the gradient of y = x^ weight + bias, of element e of channel c and group i.
static double gradient_of_y(double *xhat, const NormCase *k, const NormInputs *in, size_t e, int c, size_t i) {
    *xhat = ((double)in->inp[e] - in->mean[i]) * in->rstd[i];
    double y = *xhat * in->weight[c] + in->bias[c], s = 1 / (1 + exp(-y));
    return k->silu ? in->dout[e] * s * (1 + y * (1 - s)) : in->dout[e];
}

// dinp of group i; adds to the sums of dy and of dy x^, each (C).
static void compare_group_gradient(Distance *d, double *sum, double *dot, const NormCase *k, const NormInputs *in,
                                   const float *dinp, size_t i) {
    int width = k->C / k->G, count = k->HW * width, c0 = group_channel(k, i);
    double mean_dy = 0, mean_dot = 0, xhat;
    for (int j = 0; j < count; j++) {
        int c = c0 + j % width;
        double dy = gradient_of_y(&xhat, k, in, group_start(k, i) + in_group(k, j), c, i);
        sum[c] += dy, dot[c] += dy * xhat;
        mean_dy += in->weight[c] * dy / count, mean_dot += in->weight[c] * dy * xhat / count;
    }
    for (int j = 0; j < count; j++) {
        size_t e = group_start(k, i) + in_group(k, j);
        double dy = gradient_of_y(&xhat, k, in, e, c0 + j % width, i);
        compare(d, dinp[e], in->rstd[i] * (in->weight[c0 + j % width] * dy - mean_dy - xhat * mean_dot));
    }
}

// The parameters' gradients are fp32 and must agree to 1e-5 in every precision: their error is scaled to the tolerance.
static double error_groupnorm_backward(const Lab *lab) {
    const NormCase *k = lab->data;
    size_t C = (size_t)k->C, groups = (size_t)k->B * k->G;
    NormInputs in = {host_values(lab, k->dout, k->n),   host_values(lab, k->inp, k->n),
                     host_values(lab, k->weight, C),    host_values(lab, k->bias, C),
                     host_floats(lab, k->mean, groups), host_floats(lab, k->rstd, groups)};
    float *dinp = host_values(lab, k->dinp, k->n);
    float *dweight = host_floats(lab, k->dweight, C), *dbias = host_floats(lab, k->dbias, C);
    double *sum = xcalloc(2 * C, sizeof *sum), *dot = sum + C;
    Distance d[3] = {{0, 0}};
    for (size_t i = 0; i < groups; i++) { compare_group_gradient(&d[0], sum, dot, k, &in, dinp, i); }
    for (size_t c = 0; c < C; c++) { compare(&d[1], dbias[c], sum[c]), compare(&d[2], dweight[c], dot[c]); }
    free(in.dout), free(in.inp), free(in.weight), free(in.bias), free(in.mean), free(in.rstd);
    free(dinp), free(dweight), free(dbias), free(sum);
    return larger(relative(d[0]), larger(relative(d[1]), relative(d[2])) * lab_tolerance() / 1e-5);
}

// ---- adam ----------------------------------------------------------------------------------------------------------

typedef struct {
    size_t n;
    float *master, *m, *v, *grad;
    float *before[3]; // on the host: master, m, v
    floatX *param;
    StepScalars *scalars;
    GradNorm *norm;
} AdamCase;

static const StepScalars adam_scalars = {.lr = 0.1f, .bias1 = 0.1f, .bias2 = 0.001f, .grad_scale = 1};
static const GradNorm adam_norm = {.norm = 2, .factor = 0.5f, .finite = 1};
static const float beta1 = 0.9f, beta2 = 0.999f, adam_eps = 1e-8f, decay = 0.01f;

static void make_adam(Lab *lab) {
    AdamCase *k = lab->data = xcalloc(1, sizeof *k);
    size_t n = k->n = (size_t)lab->size[0];
    k->master = bench_floats(lab->bench, n), k->m = bench_floats(lab->bench, n);
    k->v = bench_floats(lab->bench, n), k->grad = bench_floats(lab->bench, n);
    device_fill(lab->dev, k->v, 0x3c, n * sizeof *k->v); // 0.0115, everywhere
    k->param = sizeof(floatX) == sizeof(float) ? (floatX *)k->master : bench_tensor(lab->bench, n);
    k->scalars = bench_upload(lab->bench, &adam_scalars, sizeof adam_scalars);
    k->norm = bench_upload(lab->bench, &adam_norm, sizeof adam_norm);
    float *state[3] = {k->master, k->m, k->v};
    for (int i = 0; i < 3; i++) { k->before[i] = host_floats(lab, state[i], n); }
}

static void call_adam(const Lab *lab) {
    const AdamCase *k = lab->data;
    if (calls_own(lab)) {
        adam_update(k->master, k->param, k->m, k->v, k->grad, k->norm, beta1, beta2, adam_eps, decay, k->n, k->scalars,
                    lab->dev);
    }
    STEP(lab, lab_adam_update(lab->version, k->master, k->param, k->m, k->v, k->grad, k->norm, beta1, beta2, adam_eps,
                              decay, k->n, k->scalars, lab->dev));
}

// fp32 state must agree to 1e-5 in every precision, so its error is scaled to the tolerance.
static double error_adam(const Lab *lab) {
    const AdamCase *k = lab->data;
    float *p = host_floats(lab, k->master, k->n), *m = host_floats(lab, k->m, k->n), *v = host_floats(lab, k->v, k->n);
    float *grad = host_floats(lab, k->grad, k->n), *param = host_values(lab, k->param, k->n);
    Distance d[4] = {{0, 0}};
    for (size_t i = 0; i < k->n; i++) {
        double g = (double)adam_norm.factor * grad[i];
        double mi = beta1 * (double)k->before[1][i] + (1 - (double)beta1) * g;
        double vi = beta2 * (double)k->before[2][i] + (1 - (double)beta2) * g * g;
        double step = mi / adam_scalars.bias1 / (sqrt(vi / adam_scalars.bias2) + adam_eps);
        double pi = k->before[0][i] - (double)adam_scalars.lr * (step + (double)decay * k->before[0][i]);
        compare(&d[0], p[i], pi), compare(&d[1], m[i], mi), compare(&d[2], v[i], vi), compare(&d[3], param[i], pi);
    }
    free(p), free(m), free(v), free(grad), free(param);
    for (int i = 0; i < 3; i++) { free(k->before[i]); }
    double of_state = larger(relative(d[0]), larger(relative(d[1]), relative(d[2])));
    return larger(of_state * lab_tolerance() / 1e-5, relative(d[3]));
}

// ---- The table -----------------------------------------------------------------------------------------------------

// clang-format off
const LabLayer lab_layers[] = {
    {"conv2d", "conv2d_forward", "B,H,W,IC,OC,K,stride", {2, 64, 64, 320, 320, 3, 1}, {1, 9, 9, 16, 24, 3, 1},
     {"a thread per output number", "tiles in shared memory, 4 x 4 results per thread", "tensor cores, no overlap",
      "two buffers, copies run ahead", "swizzled instead of padded", "kernels/conv2d.cu: larger tiles, four stages"}, make_conv2d, call_conv2d, error_conv2d},
    {"attention", "attention_forward", "B,NH,Tq,Tk,HS,causal", {2, 5, 4096, 4096, 64, 0}, {1, 2, 40, 40, 16, 0},
     {"scores in memory, three kernels", "both products on tensor cores", "online softmax, a warp per query",
      "keys and values through shared memory", "tensor cores and online softmax", "kernels/attention.cu: copies run ahead"}, make_attention, call_attention, error_attention},
    {"groupnorm", "groupnorm_forward", "B,HW,C,G,silu", {2, 4096, 320, 32, 1}, {2, 70, 40, 4, 1},
     {"a block per group, three walks", "two walks", "whole rows, sums per channel, chunks",
      "kernels/groupnorm.cu: 128 bits per lane"}, make_groupnorm, call_groupnorm, error_norm},
    {"groupnorm_backward", "groupnorm_backward", "B,HW,C,G,silu", {2, 4096, 320, 32, 1}, {2, 70, 40, 4, 1},
     {"a thread per group, then per channel: three reads", "a block per group, sums in shared memory: two reads",
      "whole rows, sums per channel, chunks", "128 bits per lane",
      "kernels/groupnorm.cu: two pixels under way"}, make_groupnorm_backward, call_groupnorm_backward,
     error_groupnorm_backward},
    {"layernorm", "layernorm_forward", "N,C", {8192, 320}, {70, 64},
     {"a thread per row", "a warp per row", "128 bits per lane", "kernels/layernorm.cu: rows in registers"},
     make_layernorm, call_layernorm, error_norm},
    {"adam", "adam_update", "n", {50 << 20}, {5000},
     {"a thread per parameter, the copy by a second kernel", "in one pass", "128 bits per lane",
      "kernels/optimizer.cu: two quads per lane, scalars once"}, make_adam, call_adam, error_adam},
    {0},
};
// clang-format on

int lab_last(const LabLayer *layer) {
    int last = 0;
    while (layer->versions[last]) { last++; }
    return last;
}

LabResult lab_run(Bench *b, const LabLayer *layer, int version, const int *size, bool timed) {
    Lab lab = {.bench = b, .dev = b->dev, .version = version, .last = lab_last(layer), .size = size};
    LabResult r = {0};
    layer->make(&lab);
    b->dev->plan_only = true;
    layer->call(&lab);
    b->dev->plan_only = false;
    device_reserve_workspace(b->dev, b->dev->workspace_needed);
    layer->call(&lab);
    device_sync(b->dev);
    r.error = layer->error(&lab);
    if (timed) {
        b->current = (BenchResult){.layer = layer->layer};
        for (bench_start(b); bench_next(b);) { layer->call(&lab); }
        r.timing = b->results[b->count - 1];
    }
    free(lab.data);
    bench_free_tensors(b);
    return r;
}

// ---- cocogold bench LAYER --version --------------------------------------------------------------------------------

const LabLayer *lab_find(const char *name) {
    for (const LabLayer *layer = lab_layers; layer->layer; layer++) {
        if (strcmp(layer->layer, name) == 0) { return layer; }
    }
    die("bench %s --version: expected conv2d, attention, groupnorm, groupnorm_backward, layernorm or adam, which have "
        "versions",
        name);
}

// 0 for all.
static int parse_version(const char *text, const LabLayer *layer) {
    char *end;
    long version = strtol(text, &end, 10);
    int last = lab_last(layer);
    if (strcmp(text, "all") == 0) { return 0; }
    if (*end || version < 1 || version > last) { die("--version %s: expected 1 to %d or all", text, last); }
    if (version < last && !lab_has_steps()) {
        die("bench %s --version %ld: is in CUDA; BACKEND=cpu has only version %d (BACKEND=cuda and emu have all)",
            layer->layer, version, last);
    }
    return (int)version;
}

static void print_head(const LabLayer *layer, const int *size, bool timed, const Device *dev, const Peaks *peaks) {
    if (timed) { print_peaks(dev, peaks); }
    char shape[96];
    printf("%s, %s = %s\n", layer->function, layer->sizes, format_shape(layer->sizes, size, shape));
    printf("  %-55s %8s", "version", "error");
    if (timed) { printf(" %12s %9s %8s %8s", "us", "GFLOP/s", "GB/s", "roofline"); }
    printf("\n");
}

static void print_row(const LabLayer *layer, int version, const LabResult *r, const Peaks *peaks) {
    const char *what = lab_has_steps() ? layer->versions[version - 1] : "the CPU's own";
    printf("  %d  %-52s %8.1e", version, what, r->error);
    if (r->timing.seconds > 0) { print_timing(&r->timing, peaks); }
    printf("\n");
    fflush(stdout);
}

// LAB_TORCH=1: also without a GPU, to test this row.
static bool beside_torch(void) {
#ifdef BACKEND_cuda
    return true;
#else
    return getenv("LAB_TORCH") != NULL;
#endif
}

// last: the result of the last version, whose FLOPs and bytes count.
static void print_torch(const Bench *b, const LabLayer *layer, const int *size, const LabResult *last,
                        const Peaks *peaks) {
    TorchTime torch = torch_time(layer, size, b->runs);
    BenchResult timing = last->timing;
    timing.seconds = torch.seconds;
    if (torch.seconds > 0) {
        printf("  -  %-52s %8s", torch.name, "-");
        print_timing(&timing, peaks);
        printf("\n");
    } else {
        printf("  -  %s\n", torch.name);
    }
}

void lab_command(Bench *b, const LabLayer *layer, const char *version, const int *size, bool timed) {
    int wanted = parse_version(version, layer), last = lab_last(layer), wrong = 0;
#ifdef BACKEND_emu
    if (!size) { size = layer->small; }
#else
    if (!size) { size = timed ? layer->shape : layer->small; }
#endif
    Peaks peaks = {0};
    if (timed) { peaks = device_measure_peaks(b->dev); }
    print_head(layer, size, timed, b->dev, &peaks);
    for (int v = lab_has_steps() ? 1 : last; v <= last; v++) {
        if (wanted && v != wanted) { continue; }
        LabResult r = lab_run(b, layer, v, size, timed);
        print_row(layer, v, &r, &peaks);
        if (!(r.error <= lab_tolerance())) { wrong = v; }
        if (v == last && !wanted && timed && beside_torch()) { print_torch(b, layer, size, &r, &peaks); }
    }
    if (!lab_has_steps()) {
        printf("  Versions 1 to %d are in CUDA (bench/lab/%s.cu): BACKEND=cuda and emu have them.\n", last - 1,
               layer->layer);
    }
    if (wrong) { die("bench %s: version %d is off by more than %.0e", layer->layer, wrong, lab_tolerance()); }
}
