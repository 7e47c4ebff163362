// The cost of one call of each function of kernels.h, in the order of kernels.h. LAYER.c and LAYER.cu both report it to
// the trace with device_launch(dev, "FUNCTION", FUNCTION_cost(...)).
//
// bytes: each input and each output counts once, however often an implementation reads it. Sums over a row or a group,
// and values that a gradient needs again, are assumed to stay in the cache.
// flops: the FLOPs of the formula. A multiply-add counts as 2; exp, log, sin, erf, square root and division as 1 each.
// A derivative that two outputs share counts once. unit: the unit that performs these FLOPs (device.h). Arguments have
// the same names as in kernels.h; a bool tells whether an optional argument is given.
#pragma once
#include "kernels/kernels.h"

enum { X_BYTES = sizeof(floatX), F_BYTES = sizeof(float) };

// The unit of cocogold's own matrix kernels. bf16 (CUDA): mma.sync. fp32: multiply-adds, but convolutions are compared
// with the library's products, since their loops are the same.
#ifdef PRECISION_bf16
enum { CONV2D_UNIT = UNIT_MMA, ATTENTION_UNIT = UNIT_MMA, LARGE_HEAD_UNIT = UNIT_GEMM };
#else
enum { CONV2D_UNIT = UNIT_GEMM, ATTENTION_UNIT = UNIT_FP32, LARGE_HEAD_UNIT = UNIT_FP32 };
#endif

static inline Cost matrix_cost(double bytes, double flops, int unit) {
    Cost cost = {bytes, flops, (Unit)unit};
    return cost;
}
static inline Cost plain_cost(double bytes, double flops) { return matrix_cost(bytes, flops, UNIT_FP32); }

// Bytes of a parameter's gradient of n elements; it is also read if it accumulates (beta != 0).
static inline double gradient_bytes(bool wanted, double n, float beta) {
    return wanted ? F_BYTES * n * (beta != 0 ? 2 : 1) : 0;
}

// ---- linear --------------------------------------------------------------------------------------------------------

// One multiply-add per (row, input, output).
static inline Cost linear_forward_cost(bool bias, bool residual, int N, int IC, int OC) {
    double in = (double)N * IC, out = (double)N * OC, weights = (double)OC * IC;
    return matrix_cost(X_BYTES * (in + weights + out * (residual ? 2 : 1) + (bias ? OC : 0)), 2 * in * OC, UNIT_GEMM);
}

// As many for each of the two products; one addition per element of dout for dbias.
static inline Cost linear_backward_cost(bool dinp, bool dweight, bool dbias, bool dresidual, float beta, int N, int IC,
                                        int OC) {
    double in = (double)N * IC, out = (double)N * OC, weights = (double)OC * IC;
    double bytes = X_BYTES * out + gradient_bytes(dweight, weights, beta) + gradient_bytes(dbias, OC, beta);
    if (dinp) { bytes += X_BYTES * (in * (dresidual ? 2 : 1) + weights); }
    if (dweight) { bytes += X_BYTES * in; }
    return matrix_cost(bytes, 2 * in * OC * (dinp + dweight) + (dbias ? out : 0), UNIT_GEMM);
}

// ---- conv2d --------------------------------------------------------------------------------------------------------

// A 1x1 convolution of all pixels is a matrix product with the token matrix: it calls linear, which reports the cost.
static inline bool conv2d_is_linear(const Conv2d *c) {
    return c->K == 1 && c->stride == 1 && c->pad_before == 0 && c->pad_after == 0;
}

// Number of elements.
static inline double conv2d_inputs(const Conv2d *c) { return (double)c->B * c->H * c->W * c->IC; }
static inline double conv2d_outputs(const Conv2d *c) {
    return (double)c->B * conv2d_out(c, c->H) * conv2d_out(c, c->W) * c->OC;
}
static inline double conv2d_weights(const Conv2d *c) { return (double)c->OC * c->K * c->K * c->IC; }

// Number of output positions along an axis of `size` input positions whose tap k lies inside [0, size).
static inline int conv2d_inside(const Conv2d *c, int k, int size) {
    int count = 0;
    for (int o = 0; o < conv2d_out(c, size); o++) {
        int at = o * c->stride + k - c->pad_before;
        count += at >= 0 && at < size;
    }
    return count;
}

// FLOPs of one of the three products: a multiply-add per (output pixel, tap inside the image, input, output channel).
static inline double conv2d_product_flops(const Conv2d *c) {
    double rows = 0, columns = 0;
    for (int k = 0; k < c->K; k++) { rows += conv2d_inside(c, k, c->H), columns += conv2d_inside(c, k, c->W); }
    return 2 * c->B * rows * columns * c->IC * c->OC;
}

static inline Cost conv2d_forward_cost(bool bias, bool sample_bias, bool residual, Conv2d conv) {
    double elements = conv2d_inputs(&conv) + conv2d_weights(&conv) + conv2d_outputs(&conv) * (residual ? 2 : 1) +
                      (bias ? conv.OC : 0) + (sample_bias ? (double)conv.B * conv.OC : 0);
    return matrix_cost(X_BYTES * elements, conv2d_product_flops(&conv), CONV2D_UNIT);
}

// One product each for dinp and dweight; dbias and dsample_bias share the sums over dout.
static inline Cost conv2d_backward_cost(bool dinp, bool dweight, bool dbias, bool dsample_bias, bool dresidual,
                                        float beta, Conv2d conv) {
    double in = conv2d_inputs(&conv), out = conv2d_outputs(&conv), weights = conv2d_weights(&conv);
    double bytes = X_BYTES * out + gradient_bytes(dweight, weights, beta) + gradient_bytes(dbias, conv.OC, beta);
    if (dinp) { bytes += X_BYTES * (in * (dresidual ? 2 : 1) + weights); }
    if (dweight) { bytes += X_BYTES * in; }
    if (dsample_bias) { bytes += X_BYTES * (double)conv.B * conv.OC; }
    double flops = conv2d_product_flops(&conv) * (dinp + dweight) + (dbias || dsample_bias ? out : 0);
    return matrix_cost(bytes, flops, CONV2D_UNIT);
}

// ---- groupnorm, layernorm ------------------------------------------------------------------------------------------

// Per element: sums of x and of (x - mean)^2 3, (x - mean) scale + bias 3, silu 4.
static inline Cost groupnorm_forward_cost(bool bias, int B, int HW, int C, int G, bool silu) {
    double n = (double)B * HW * C, statistics = 2.0 * B * G;
    return plain_cost(X_BYTES * (2 * n + C + (bias ? C : 0)) + F_BYTES * statistics, (silu ? 10 : 6) * n);
}

// Per element: (x - mean) scale + bias 3, silu 4.
static inline Cost groupnorm_recompute_cost(bool bias, int B, int HW, int C, int G, bool silu) {
    double n = (double)B * HW * C, statistics = 2.0 * B * G;
    return plain_cost(X_BYTES * (2 * n + C + (bias ? C : 0)) + F_BYTES * statistics, (silu ? 7 : 3) * n);
}

// Per element: x^ 2, with silu dy = dout slope(x^ weight + bias) 10; sums of dy and dy x^ 3, which also give dbias and
// dweight; dinp = rstd (w dy - mean - x^ mean) 5, + dresidual 1.
static inline Cost groupnorm_backward_cost(bool dinp, bool dweight, bool dbias, bool bias, bool dresidual, float beta,
                                           int B, int HW, int C, int G, bool silu) {
    double n = (double)B * HW * C, statistics = 2.0 * B * G, arrays = 2.0 + dinp + (dinp && dresidual);
    double bytes = X_BYTES * (arrays * n + C + (bias && silu ? C : 0)) + F_BYTES * statistics;
    bytes += gradient_bytes(dweight, C, beta) + gradient_bytes(dbias, C, beta);
    return plain_cost(bytes, n * (5 + (silu ? 10 : 0) + (dinp ? 5 + dresidual : 0)));
}

// Per element: sum of x 1, x - mean and the sum of its square 3, rstd weight + bias 3.
static inline Cost layernorm_forward_cost(bool bias, int N, int C) {
    double n = (double)N * C, statistics = 2.0 * N;
    return plain_cost(X_BYTES * (2 * n + C + (bias ? C : 0)) + F_BYTES * statistics, 7 * n);
}

// Per element: x^ 2; dbias 1, dweight 2; w dout, its sum and that of w dout x^ 4, dinp from them 4, + dresidual 1.
static inline Cost layernorm_backward_cost(bool dinp, bool dweight, bool dbias, bool dresidual, float beta, int N,
                                           int C) {
    double n = (double)N * C, statistics = 2.0 * N, arrays = 2.0 + dinp + (dinp && dresidual);
    double bytes = X_BYTES * (arrays * n + (dinp ? C : 0)) + F_BYTES * statistics;
    bytes += gradient_bytes(dweight, C, beta) + gradient_bytes(dbias, C, beta);
    return plain_cost(bytes, n * (2 + dbias + 2 * dweight + (dinp ? 8 + dresidual : 0)));
}

// ---- activation ----------------------------------------------------------------------------------------------------

// sigmoid(x) = 1 / (1 + exp(-x)) 3 (a sign is free), times x 1.
static inline Cost silu_forward_cost(size_t n) { return plain_cost(2.0 * X_BYTES * n, 4.0 * n); }
// s = sigmoid(x) 3, s (1 + x (1 - s)) 4, times dout 1.
static inline Cost silu_backward_cost(size_t n) { return plain_cost(3.0 * X_BYTES * n, 8.0 * n); }
// x (1 + erf(x / sqrt 2)) / 2.
static inline Cost gelu_forward_cost(size_t n) { return plain_cost(2.0 * X_BYTES * n, 5.0 * n); }
// Phi 4, density exp(-x^2 / 2) / sqrt(2 pi) 4, Phi + x density 2, times dout 1.
static inline Cost gelu_backward_cost(size_t n) { return plain_cost(3.0 * X_BYTES * n, 11.0 * n); }
// As silu, plus 1.702 x.
static inline Cost quick_gelu_forward_cost(size_t n) { return plain_cost(2.0 * X_BYTES * n, 5.0 * n); }
static inline Cost quick_gelu_backward_cost(size_t n) { return plain_cost(3.0 * X_BYTES * n, 9.0 * n); }
// Per output element: gelu 5, times the value 1.
static inline Cost geglu_forward_cost(int N, int H) {
    double n = (double)N * H;
    return plain_cost(3 * X_BYTES * n, 6 * n);
}
// Phi and density 8, dvalue = dout g Phi 2, dgate = dout value (Phi + g density) 4, out = value g Phi 1.
static inline Cost geglu_backward_cost(bool out, int N, int H) {
    double n = (double)N * H;
    return plain_cost((5 + out) * X_BYTES * n, (14 + out) * n);
}

// ---- attention -----------------------------------------------------------------------------------------------------

// On CUDA, heads up to this size are tiled in one kernel; larger ones (the VAE's) use the library's products.
enum { ATTENTION_TILED = 160 };
static inline int attention_unit(const Attention *a) {
    return a->HS <= ATTENTION_TILED ? ATTENTION_UNIT : LARGE_HEAD_UNIT;
}

// FLOPs of one product: a multiply-add per element of a head and per pair of a query and a key that it sees.
static inline double attention_product_flops(const Attention *a) {
    double pairs = a->causal ? 0.5 * a->Tq * (a->Tq + 1.0) : (double)a->Tq * a->Tk;
    return 2 * pairs * a->B * a->NH * a->HS;
}

// Two products, q k^T and p v; bytes of q and out, k and v, lse.
static inline Cost attention_forward_cost(Attention a) {
    double heads = (double)a.B * a.NH, elements = heads * a.HS * 2 * ((double)a.Tq + a.Tk);
    return matrix_cost(X_BYTES * elements + F_BYTES * heads * a.Tq, 2 * attention_product_flops(&a),
                       attention_unit(&a));
}

// q k^T again, dout v^T for dq or dk, and one product per gradient; bytes of q, out, dout, k, v, lse and the gradients.
static inline Cost attention_backward_cost(bool dq, bool dk, bool dv, Attention a) {
    double heads = (double)a.B * a.NH, queries = heads * a.Tq * a.HS, keys = heads * a.Tk * a.HS;
    double elements = queries * (3 + dq) + keys * (2 + dk + dv);
    int products = 1 + (dq || dk) + dq + dk + dv;
    return matrix_cost(X_BYTES * elements + F_BYTES * heads * a.Tq, products * attention_product_flops(&a),
                       attention_unit(&a));
}

// ---- embedding -----------------------------------------------------------------------------------------------------

// One addition per element; bytes of the used rows of the token table, the first T positions, and ids.
static inline Cost embedding_forward_cost(int B, int T, int C) {
    double rows = (double)B * T, n = rows * C;
    return plain_cost(X_BYTES * (2 * n + (double)T * C) + sizeof(int) * rows, n);
}
// One addition per element and table. With beta 0 whole tables are written, else the used rows are read and written.
static inline Cost embedding_backward_cost(bool dtoken, bool dposition, float beta, int B, int T, int C, int V,
                                           int positions) {
    double rows = (double)B * T, n = rows * C;
    double tokens = beta == 0 ? (double)V * C : n, places = beta == 0 ? (double)positions * C : (double)T * C;
    double bytes = X_BYTES * n + sizeof(int) * rows;
    bytes += gradient_bytes(dtoken, tokens, beta) + gradient_bytes(dposition, places, beta);
    return plain_cost(bytes, n * (dtoken + dposition));
}
// t f, its sine and its cosine.
static inline Cost timestep_embedding_forward_cost(int B, int C) {
    return plain_cost(X_BYTES * (double)B * C + F_BYTES * B, 1.5 * B * C);
}

// ---- resize, tensor ------------------------------------------------------------------------------------------------

static inline Cost upsample_nearest_forward_cost(int B, int H, int W, int C, int OH, int OW) {
    return plain_cost(X_BYTES * (double)B * C * ((double)H * W + (double)OH * OW), 0);
}
// One addition per element of dout.
static inline Cost upsample_nearest_backward_cost(int B, int H, int W, int C, int OH, int OW) {
    return plain_cost(X_BYTES * (double)B * C * ((double)H * W + (double)OH * OW), (double)B * C * OH * OW);
}
static inline Cost concat_forward_cost(int N, int CA, int CB) {
    return plain_cost(2.0 * X_BYTES * N * ((double)CA + CB), 0);
}
static inline Cost concat_backward_cost(bool da, bool db, int N, int CA, int CB) {
    return plain_cost(2.0 * X_BYTES * N * ((da ? CA : 0.0) + (db ? CB : 0)), 0);
}
static inline Cost add_forward_cost(size_t n) { return plain_cost(3.0 * X_BYTES * n, (double)n); }
static inline Cost scale_shift_forward_cost(size_t n) { return plain_cost(2.0 * X_BYTES * n, 2.0 * n); }
static inline Cost add_scaled_cost(size_t n) { return plain_cost(3.0 * F_BYTES * n, 2.0 * n); }
// No cost if out is inp.
static inline Cost cast_cost(const void *out, const void *inp, size_t n) {
    return plain_cost(out == inp ? 0 : ((double)X_BYTES + F_BYTES) * n, 0);
}
static inline Cost cast_to_floatX_cost(const floatX *out, const float *inp, size_t n) { return cast_cost(out, inp, n); }
static inline Cost cast_to_float_cost(const float *out, const floatX *inp, size_t n) { return cast_cost(out, inp, n); }

// ---- gaussian ------------------------------------------------------------------------------------------------------

// With noise: exp(logvar / 2) 2, mean + deviation noise 2, bytes of all moments. Without it the means are copied.
static inline Cost gaussian_forward_cost(bool noise, int N, int L) {
    double n = (double)N * L;
    return plain_cost(n * (noise ? 3 * X_BYTES + F_BYTES : 2 * X_BYTES), noise ? 4 * n : 0);
}
// For the KL: k mean 1, exp(logvar) 1, k / 2 (e - 1) 2. For dz: + dz 1, and with noise adding dz noise exp(logvar / 2)
// / 2 is 5.
static inline Cost gaussian_backward_cost(bool dz, bool noise, int N, int L) {
    double n = (double)N * L;
    return plain_cost(n * ((4 + dz) * X_BYTES + (noise ? F_BYTES : 0)), n * (4 + (dz ? 1 + 5 * noise : 0)));
}
// The sum of mean^2 + exp(logvar) - 1 - logvar.
static inline Cost gaussian_kl_cost(int B, int N, int L) {
    double n = (double)N * L;
    return plain_cost(2 * X_BYTES * n + F_BYTES * B, 6 * n);
}

// ---- noise ---------------------------------------------------------------------------------------------------------

// Philox and Box-Muller, about 30 per element.
static inline Cost normal_noise_cost(int B, int n) { return plain_cost(F_BYTES * (double)B * n, 30.0 * B * n); }
// About 40 per element: around three levels with a bilinear sum of 8 each; the finest level's noise, 30 for each of at
// most a quarter of the elements; sqrt(2), mean, deviation and division 6.
static inline Cost multires_noise_cost(int B, int H, int W, int C) {
    double n = (double)B * H * W * C;
    return plain_cost(2 * F_BYTES * n + F_BYTES * B, 40 * n);
}
static inline Cost sample_timesteps_cost(int B) { return plain_cost(F_BYTES * (double)B, 0); }
// A sum of two products for each output; bytes of a timestep and its alpha per sample.
static inline Cost add_noise_forward_cost(bool target, int B, int n) {
    double all = (double)B * n, schedule = 2.0 * F_BYTES * B;
    return plain_cost(all * (X_BYTES + (target ? 3 : 2) * F_BYTES) + schedule, all * (target ? 6 : 3));
}
static inline Cost predict_x0_cost(int B, int n) {
    double all = (double)B * n, schedule = 2.0 * F_BYTES * B;
    return plain_cost(all * (X_BYTES + 2 * F_BYTES) + schedule, 3 * all);
}
static inline Cost predict_x0_backward_cost(int B, int n) {
    double all = (double)B * n, schedule = 2.0 * F_BYTES * B;
    return plain_cost(3 * X_BYTES * all + schedule, 2 * all);
}
// x0, eps and the next x: a sum of two products each.
static inline Cost ddim_step_cost(int B, int n) {
    double all = (double)B * n;
    return plain_cost(all * (X_BYTES + 2 * F_BYTES), 9 * all);
}

// ---- loss ----------------------------------------------------------------------------------------------------------

// pred and target, dpred if given, one loss per sample.
static inline double loss_bytes(bool dpred, int B, int n) {
    return (double)B * n * ((1 + dpred) * X_BYTES + F_BYTES) + F_BYTES * (double)B;
}

// d = p - t and the sum of its square 3, times a factor 1.
static inline Cost mse_loss_cost(bool dpred, int B, int n) {
    return plain_cost(loss_bytes(dpred, B, n), (3.0 + dpred) * B * n);
}
// d, |d| + w d^2 and the sum 5, sign + factor d 3.
static inline Cost l1_mse_loss_cost(bool dpred, int B, int n) {
    return plain_cost(loss_bytes(dpred, B, n), (dpred ? 8.0 : 5.0) * B * n);
}
// As mse_loss; per cell the weight's product and two sums 3, its factor 1.
static inline Cost weighted_mse_loss_cost(bool dpred, int B, int n, int C) {
    double all = (double)B * n, cells = (double)B * (n / C);
    return plain_cost(loss_bytes(dpred, B, n) + F_BYTES * cells, (3 + dpred) * all + (3 + dpred) * cells);
}
// As weighted_mse_loss, with the weight (1 - exp(-e))^gamma of the cell's mean: 6.
static inline Cost focal_mse_loss_cost(bool dpred, int B, int n, int C) {
    double all = (double)B * n, cells = (double)B * (n / C);
    return plain_cost(loss_bytes(dpred, B, n), (3 + dpred) * all + (9 + dpred) * cells);
}
// Per pixel: two soft masks of three channels 2 x 10, sums of s m, s^2 and m^2 6; the mask's slope 3, a sign per
// channel 3.
static inline Cost dice_loss_cost(bool dpred, int B, int n) {
    double pixels = (double)B * (n / 3);
    return plain_cost(loss_bytes(dpred, B, n), (dpred ? 32 : 26) * pixels);
}

// ---- optimizer -----------------------------------------------------------------------------------------------------

// The sum of squares.
static inline Cost grad_norm_cost(size_t n) { return plain_cost((double)F_BYTES * n, 2.0 * n); }
// g 1, m 3, v 4, the step from both 5, subtracting step and decay from the master 4. The gradient is read, masters and
// moments are read and written, and param is written unless it is master.
static inline Cost adam_update_cost(size_t n) {
    double param = sizeof(floatX) == sizeof(float) ? 0 : X_BYTES;
    return plain_cost((7 * F_BYTES + param) * n, 17.0 * n);
}
static inline Cost ema_update_cost(size_t n) { return plain_cost(3.0 * F_BYTES * n, 3.0 * n); }
