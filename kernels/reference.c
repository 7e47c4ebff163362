// Every function of kernels.h as the plain loops over its definition, in double: what each layer means, to be read
// before LAYER.c and LAYER.cu, which compute the same faster. Tests compare the two; the program does not contain this
// file.
//
// reference_NAME takes the arguments of NAME without the device, arrays and numbers as double. What kernels.h says of
// layouts, NULL, beta, dresidual and overlapping arguments holds here too. A gradient is derived by hand; that it is
// the derivative of its forward function is what tests/kernels/test_reference.c checks.
#include "kernels/reference.h"
#include <math.h>
#include "util/philox.h"

// ---- Helpers -------------------------------------------------------------------------------------------------------

// A sum over many terms begins with beta grad (with beta 0 that is 0, whatever was there) or with a residual (NULL: 0).
static void begin_with_beta(double *grad, double beta, long n) {
    for (long i = 0; i < n; i++) { grad[i] = beta == 0 ? 0 : beta * grad[i]; }
}

static void begin_with(double *sum, const double *residual, long n) {
    for (long i = 0; i < n; i++) { sum[i] = residual ? residual[i] : 0; }
}

static double dot(const double *x, const double *y, long n) {
    double sum = 0;
    for (long i = 0; i < n; i++) { sum += x[i] * y[i]; }
    return sum;
}

static double square_of(double x) { return x * x; }
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

// ---- Linear (torch.nn.Linear) --------------------------------------------------------------------------------------

// out[n][o] = sum over i of inp[n][i] weight[o][i], + bias[o] + residual[n][o]
void reference_linear_forward(double *out, const double *inp, const double *weight, const double *bias,
                              const double *residual, int N, int IC, int OC) {
    for (long n = 0; n < N; n++) {
        for (long o = 0; o < OC; o++) {
            double sum = (bias ? bias[o] : 0) + (residual ? residual[n * OC + o] : 0);
            out[n * OC + o] = sum + dot(inp + n * IC, weight + o * IC, IC);
        }
    }
}

// The product rule for each of the products above: inp's factor is weight, weight's is inp.
void reference_linear_backward(double *dinp, double *dweight, double *dbias, const double *dout, const double *inp,
                               const double *weight, const double *dresidual, double beta, int N, int IC, int OC) {
    if (dinp) { begin_with(dinp, dresidual, (long)N * IC); }
    if (dweight) { begin_with_beta(dweight, beta, (long)OC * IC); }
    if (dbias) { begin_with_beta(dbias, beta, OC); }
    for (long n = 0; n < N; n++) {
        for (long o = 0; o < OC; o++) {
            double d = dout[n * OC + o];
            for (long i = 0; dinp && i < IC; i++) { dinp[n * IC + i] += d * weight[o * IC + i]; }
            for (long i = 0; dweight && i < IC; i++) { dweight[o * IC + i] += d * inp[n * IC + i]; }
            if (dbias) { dbias[o] += d; }
        }
    }
}

// ---- Convolution (torch.nn.Conv2d; Dumoulin & Visin 2016 for padding, stride and the transpose) --------------------

// Output pixel (y, x) of sample b meets tap (ky, kx) of the kernel at one pixel of inp: where that pixel's channels
// begin, or -1 in the padding.
static long conv2d_source(const Conv2d *c, long b, long y, long x, long ky, long kx) {
    long iy = y * c->stride + ky - c->pad_before, ix = x * c->stride + kx - c->pad_before;
    bool inside = iy >= 0 && iy < c->H && ix >= 0 && ix < c->W;
    return inside ? ((b * c->H + iy) * c->W + ix) * c->IC : -1;
}

// out[b][y][x][o] = sum over taps (ky, kx) and channels i of inp[b][y stride + ky - pad][x stride + kx - pad][i]
// weight[o][ky][kx][i], + bias[o] + sample_bias[b][o] + residual[b][y][x][o]
void reference_conv2d_forward(double *out, const double *inp, const double *weight, const double *bias,
                              const double *sample_bias, const double *residual, Conv2d conv) {
    long OH = conv2d_out(&conv, conv.H), OW = conv2d_out(&conv, conv.W), OC = conv.OC, K = conv.K, IC = conv.IC;
    long stride = conv2d_sample_stride(&conv);
    for (long i = 0; i < conv.B * OH * OW * OC; i++) {
        long o = i % OC, x = i / OC % OW, y = i / OC / OW % OH, b = i / OC / OW / OH;
        double sum = (bias ? bias[o] : 0) + (residual ? residual[i] : 0);
        if (sample_bias) { sum += sample_bias[b * stride + o]; }
        for (long tap = 0; tap < K * K; tap++) {
            long source = conv2d_source(&conv, b, y, x, tap / K, tap % K);
            if (source >= 0) { sum += dot(inp + source, weight + (o * K * K + tap) * IC, IC); }
        }
        out[i] = sum;
    }
}

// As for linear: each product passes d to both of its factors.
void reference_conv2d_backward(double *dinp, double *dweight, double *dbias, double *dsample_bias, const double *dout,
                               const double *inp, const double *weight, const double *dresidual, double beta,
                               Conv2d conv) {
    long OH = conv2d_out(&conv, conv.H), OW = conv2d_out(&conv, conv.W), OC = conv.OC, K = conv.K, IC = conv.IC;
    if (dinp) { begin_with(dinp, dresidual, (long)conv.B * conv.H * conv.W * IC); }
    if (dweight) { begin_with_beta(dweight, beta, OC * K * K * IC); }
    if (dbias) { begin_with_beta(dbias, beta, OC); }
    long stride = conv2d_sample_stride(&conv);
    for (long b = 0; dsample_bias && b < conv.B; b++) { begin_with(dsample_bias + b * stride, NULL, OC); }
    for (long i = 0; i < conv.B * OH * OW * OC; i++) {
        long o = i % OC, x = i / OC % OW, y = i / OC / OW % OH, b = i / OC / OW / OH;
        double d = dout[i];
        if (dbias) { dbias[o] += d; }
        if (dsample_bias) { dsample_bias[b * stride + o] += d; }
        for (long tap = 0; tap < K * K; tap++) {
            long source = conv2d_source(&conv, b, y, x, tap / K, tap % K), w = (o * K * K + tap) * IC;
            if (source < 0) { continue; }
            for (long c = 0; dinp && c < IC; c++) { dinp[source + c] += d * weight[w + c]; }
            for (long c = 0; dweight && c < IC; c++) { dweight[w + c] += d * inp[source + c]; }
        }
    }
}

// ---- Group normalisation (Wu & He 2018; torch.nn.GroupNorm) --------------------------------------------------------

static double silu_of(double x) { return x * sigmoid(x); }
static double silu_slope(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }

// mean and variance over the pixels p and channels c of group g of sample b; rstd = 1 / sqrt(variance + eps);
// y = (x - mean) rstd weight[c] + bias[c]; out = y or silu(y)
void reference_groupnorm_forward(double *out, double *mean, double *rstd, const double *inp, const double *weight,
                                 const double *bias, int B, int HW, int C, int G, double eps, bool silu) {
    long width = C / G;
    double count = (double)HW * width;
    for (long group = 0; group < (long)B * G; group++) {
        long b = group / G, c0 = group % G * width;
        double sum = 0, square = 0;
        for (long p = b * HW; p < (b + 1) * HW; p++) {
            for (long c = c0; c < c0 + width; c++) { sum += inp[p * C + c]; }
        }
        mean[group] = sum / count;
        for (long p = b * HW; p < (b + 1) * HW; p++) {
            for (long c = c0; c < c0 + width; c++) { square += square_of(inp[p * C + c] - mean[group]); }
        }
        rstd[group] = 1 / sqrt(square / count + eps);
    }
    reference_groupnorm_recompute(out, inp, weight, bias, mean, rstd, B, HW, C, G, silu);
}

void reference_groupnorm_recompute(double *out, const double *inp, const double *weight, const double *bias,
                                   const double *mean, const double *rstd, int B, int HW, int C, int G, bool silu) {
    for (long p = 0; p < (long)B * HW; p++) {
        for (long c = 0; c < C; c++) {
            long group = p / HW * G + c / (C / G);
            double y = (inp[p * C + c] - mean[group]) * rstd[group] * weight[c] + (bias ? bias[c] : 0);
            out[p * C + c] = silu ? silu_of(y) : y;
        }
    }
}

// With dy = dout, times silu'(y) where there is a SiLU, and x^ = (x - mean) rstd:
// dbias[c] = sum of dy, dweight[c] = sum of dy x^. With g = weight[c] dy, and since mean and rstd are functions of x:
// dinp = rstd (g - mean(g) - x^ mean(g x^)), means over the group.
void reference_groupnorm_backward(double *dinp, double *dweight, double *dbias, const double *dout, const double *inp,
                                  const double *weight, const double *bias, const double *mean, const double *rstd,
                                  const double *dresidual, double beta, int B, int HW, int C, int G, bool silu) {
    long width = C / G;
    double count = (double)HW * width;
    if (dweight) { begin_with_beta(dweight, beta, C); }
    if (dbias) { begin_with_beta(dbias, beta, C); }
    for (long group = 0; group < (long)B * G; group++) {
        long b = group / G, c0 = group % G * width;
        double mean_g = 0, mean_gx = 0;
        for (int pass = 0; pass < (dinp ? 2 : 1); pass++) { // the sums, then dinp, which needs them
            for (long p = b * HW; p < (b + 1) * HW; p++) {
                for (long c = c0; c < c0 + width; c++) {
                    double xhat = (inp[p * C + c] - mean[group]) * rstd[group], dy = dout[p * C + c];
                    if (silu) { dy *= silu_slope(xhat * weight[c] + (bias ? bias[c] : 0)); }
                    if (pass == 1) {
                        double g = rstd[group] * (weight[c] * dy - mean_g - xhat * mean_gx);
                        dinp[p * C + c] = g + (dresidual ? dresidual[p * C + c] : 0);
                        continue;
                    }
                    mean_g += weight[c] * dy / count;
                    mean_gx += weight[c] * dy * xhat / count;
                    if (dweight) { dweight[c] += dy * xhat; }
                    if (dbias) { dbias[c] += dy; }
                }
            }
        }
    }
}

// ---- Layer normalisation (Ba et al. 2016; torch.nn.LayerNorm) ------------------------------------------------------

// y = (x - mean) rstd weight[c] + bias[c], mean and variance over the C elements of a row
void reference_layernorm_forward(double *out, double *mean, double *rstd, const double *inp, const double *weight,
                                 const double *bias, int N, int C, double eps) {
    for (long n = 0; n < N; n++) {
        const double *x = inp + n * C;
        double sum = 0, square = 0;
        for (long c = 0; c < C; c++) { sum += x[c]; }
        mean[n] = sum / C;
        for (long c = 0; c < C; c++) { square += square_of(x[c] - mean[n]); }
        rstd[n] = 1 / sqrt(square / C + eps);
        for (long c = 0; c < C; c++) { out[n * C + c] = (x[c] - mean[n]) * rstd[n] * weight[c] + (bias ? bias[c] : 0); }
    }
}

// dinp = rstd (g - mean(g) - x^ mean(g x^)) with g = weight[c] dout, as above
void reference_layernorm_backward(double *dinp, double *dweight, double *dbias, const double *dout, const double *inp,
                                  const double *weight, const double *mean, const double *rstd, const double *dresidual,
                                  double beta, int N, int C) {
    if (dweight) { begin_with_beta(dweight, beta, C); }
    if (dbias) { begin_with_beta(dbias, beta, C); }
    for (long n = 0; n < N; n++) {
        double mean_g = 0, mean_gx = 0;
        for (long c = 0; c < C; c++) {
            double xhat = (inp[n * C + c] - mean[n]) * rstd[n], dy = dout[n * C + c];
            mean_g += weight[c] * dy / C;
            mean_gx += weight[c] * dy * xhat / C;
            if (dweight) { dweight[c] += dy * xhat; }
            if (dbias) { dbias[c] += dy; }
        }
        for (long c = 0; dinp && c < C; c++) {
            double xhat = (inp[n * C + c] - mean[n]) * rstd[n], dy = dout[n * C + c];
            double g = rstd[n] * (weight[c] * dy - mean_g - xhat * mean_gx);
            dinp[n * C + c] = g + (dresidual ? dresidual[n * C + c] : 0);
        }
    }
}

// ---- Activations ---------------------------------------------------------------------------------------------------

// Elfwing et al. 2017: x s with s = sigmoid(x); the derivative is s + x s (1 - s).
void reference_silu_forward(double *out, const double *inp, size_t n) {
    for (size_t i = 0; i < n; i++) { out[i] = silu_of(inp[i]); }
}

void reference_silu_backward(double *dinp, const double *dout, const double *inp, size_t n) {
    for (size_t i = 0; i < n; i++) { dinp[i] = dout[i] * silu_slope(inp[i]); }
}

// Hendrycks & Gimpel 2016: x Phi(x) with Phi(x) = (1 + erf(x / sqrt 2)) / 2, the normal distribution function, whose
// derivative is the density exp(-x^2 / 2) / sqrt(2 pi).
static double gelu_of(double x) { return x * 0.5 * erfc(-x / sqrt(2)); }
static double gelu_slope(double x) { return 0.5 * erfc(-x / sqrt(2)) + x * exp(-x * x / 2) / sqrt(2 * M_PI); }

void reference_gelu_forward(double *out, const double *inp, size_t n) {
    for (size_t i = 0; i < n; i++) { out[i] = gelu_of(inp[i]); }
}

void reference_gelu_backward(double *dinp, const double *dout, const double *inp, size_t n) {
    for (size_t i = 0; i < n; i++) { dinp[i] = dout[i] * gelu_slope(inp[i]); }
}

// The same paper's approximation, which OpenAI's CLIP has: x sigmoid(a x) = silu(a x) / a with a = 1.702.
void reference_quick_gelu_forward(double *out, const double *inp, size_t n) {
    for (size_t i = 0; i < n; i++) { out[i] = inp[i] * sigmoid(1.702 * inp[i]); }
}

void reference_quick_gelu_backward(double *dinp, const double *dout, const double *inp, size_t n) {
    for (size_t i = 0; i < n; i++) { dinp[i] = dout[i] * silu_slope(1.702 * inp[i]); }
}

// Shazeer 2020, halves as diffusers has them: out[n][h] = inp[n][h] gelu(inp[n][H + h])
void reference_geglu_forward(double *out, const double *inp, int N, int H) {
    for (long n = 0; n < N; n++) {
        for (long h = 0; h < H; h++) { out[n * H + h] = inp[n * 2 * H + h] * gelu_of(inp[n * 2 * H + H + h]); }
    }
}

// With d = dout: d gelu(gate) for the value, d value gelu'(gate) for the gate
void reference_geglu_backward(double *dinp, double *out, const double *dout, const double *inp, int N, int H) {
    for (long n = 0; n < N; n++) {
        for (long h = 0; h < H; h++) {
            double d = dout[n * H + h], value = inp[n * 2 * H + h], gate = inp[n * 2 * H + H + h];
            if (out) { out[n * H + h] = value * gelu_of(gate); }
            dinp[n * 2 * H + h] = d * gelu_of(gate);
            dinp[n * 2 * H + H + h] = d * value * gelu_slope(gate);
        }
    }
}

// ---- Attention (Vaswani et al. 2017; torch.nn.functional.scaled_dot_product_attention) -----------------------------

// Where the HS elements of token t, head h, sample b begin in a tensor of T tokens a sample.
static long head_at(const Attention *a, long b, long h, long t, long T, long stride) {
    return (b * T + t) * stride + h * a->HS;
}

// How many keys query t sees.
static long keys_seen(const Attention *a, long t) { return a->causal ? t + 1 : a->Tk; }

// score(t, s) = q_t . k_s / sqrt(HS); p(t, s) = exp(score(t, s)) / sum over s of exp(score(t, s)) = exp(score - lse);
// out_t = sum over s of p(t, s) v_s. The largest score is taken out of the sum, where exp could overflow.
void reference_attention_forward(double *out, double *lse, const double *q, const double *k, const double *v,
                                 Attention a) {
    double scale = 1 / sqrt(a.HS);
    for (long i = 0; i < (long)a.B * a.NH * a.Tq; i++) { // i: the place in lse
        long t = i % a.Tq, h = i / a.Tq % a.NH, b = i / a.Tq / a.NH;
        const double *q_t = q + head_at(&a, b, h, t, a.Tq, a.q_stride);
        double *out_t = out + head_at(&a, b, h, t, a.Tq, a.out_stride), top = -INFINITY, sum = 0;
        for (long s = 0; s < keys_seen(&a, t); s++) {
            top = fmax(top, scale * dot(q_t, k + head_at(&a, b, h, s, a.Tk, a.k_stride), a.HS));
        }
        for (long s = 0; s < keys_seen(&a, t); s++) {
            sum += exp(scale * dot(q_t, k + head_at(&a, b, h, s, a.Tk, a.k_stride), a.HS) - top);
        }
        lse[i] = top + log(sum);
        begin_with(out_t, NULL, a.HS);
        for (long s = 0; s < keys_seen(&a, t); s++) {
            const double *v_s = v + head_at(&a, b, h, s, a.Tk, a.v_stride);
            double p = exp(scale * dot(q_t, k + head_at(&a, b, h, s, a.Tk, a.k_stride), a.HS) - lse[i]);
            for (long e = 0; e < a.HS; e++) { out_t[e] += p * v_s[e]; }
        }
    }
}

// dv_s = sum over t of p(t, s) dout_t. Through the softmax: dscore(t, s) = p(t, s) (dp(t, s) - D_t) with dp(t, s) =
// dout_t . v_s and D_t = sum over s of p dp = dout_t . out_t (Dao et al. 2022, appendix B). Then dq_t = sum over s of
// dscore k_s / sqrt(HS) and dk_s = sum over t of dscore q_t / sqrt(HS).
void reference_attention_backward(double *dq, double *dk, double *dv, const double *dout, const double *q,
                                  const double *k, const double *v, const double *out, const double *lse, Attention a) {
    double scale = 1 / sqrt(a.HS);
    for (long i = 0; i < (long)a.B * a.NH; i++) { // what lies between the rows is left alone
        long h = i % a.NH, b = i / a.NH;
        for (long t = 0; dq && t < a.Tq; t++) { begin_with(dq + head_at(&a, b, h, t, a.Tq, a.q_stride), NULL, a.HS); }
        for (long s = 0; dk && s < a.Tk; s++) { begin_with(dk + head_at(&a, b, h, s, a.Tk, a.k_stride), NULL, a.HS); }
        for (long s = 0; dv && s < a.Tk; s++) { begin_with(dv + head_at(&a, b, h, s, a.Tk, a.v_stride), NULL, a.HS); }
    }
    for (long i = 0; i < (long)a.B * a.NH * a.Tq; i++) {
        long t = i % a.Tq, h = i / a.Tq % a.NH, b = i / a.Tq / a.NH;
        long at_q = head_at(&a, b, h, t, a.Tq, a.q_stride), at_out = head_at(&a, b, h, t, a.Tq, a.out_stride);
        double D = dot(dout + at_out, out + at_out, a.HS);
        for (long s = 0; s < keys_seen(&a, t); s++) {
            long at_k = head_at(&a, b, h, s, a.Tk, a.k_stride), at_v = head_at(&a, b, h, s, a.Tk, a.v_stride);
            double p = exp(scale * dot(q + at_q, k + at_k, a.HS) - lse[i]);
            double dscore = p * (dot(dout + at_out, v + at_v, a.HS) - D);
            for (long e = 0; e < a.HS; e++) {
                if (dq) { dq[at_q + e] += dscore * scale * k[at_k + e]; }
                if (dk) { dk[at_k + e] += dscore * scale * q[at_q + e]; }
                if (dv) { dv[at_v + e] += p * dout[at_out + e]; }
            }
        }
    }
}

// ---- Embeddings ----------------------------------------------------------------------------------------------------

// torch.nn.Embedding twice, as CLIP's text model has it: out[b][t] = token_weight[ids[b][t]] + position_weight[t]
void reference_embedding_forward(double *out, const int *ids, const double *token_weight, const double *position_weight,
                                 int B, int T, int C, int V) {
    (void)V;
    for (long row = 0; row < (long)B * T; row++) {
        for (long c = 0; c < C; c++) {
            out[row * C + c] = token_weight[(long)ids[row] * C + c] + position_weight[row % T * C + c];
        }
    }
}

// A row of a table gets the gradients of all places where it stands.
void reference_embedding_backward(double *dtoken, double *dposition, const double *dout, const int *ids, double beta,
                                  int B, int T, int C, int V, int positions) {
    if (dtoken) { begin_with_beta(dtoken, beta, (long)V * C); }
    if (dposition) { begin_with_beta(dposition, beta, (long)positions * C); }
    for (long row = 0; row < (long)B * T; row++) {
        for (long c = 0; c < C; c++) {
            if (dtoken) { dtoken[(long)ids[row] * C + c] += dout[row * C + c]; }
            if (dposition) { dposition[row % T * C + c] += dout[row * C + c]; }
        }
    }
}

// Ho et al. 2020, diffusers' get_timestep_embedding: out[b] = [sin(t f_i) | cos(t f_i)], i < half = floor(C / 2),
// f_i = 10000^(-i / (half - freq_shift)); the halves change places with flip_sin_to_cos; 0 at the end of an odd C.
void reference_timestep_embedding_forward(double *out, const double *timesteps, int B, int C, bool flip_sin_to_cos,
                                          double freq_shift) {
    long half = C / 2;
    for (long b = 0; b < B; b++) {
        double *sine = out + b * C + (flip_sin_to_cos ? half : 0), *cosine = out + b * C + (flip_sin_to_cos ? 0 : half);
        for (long i = 0; i < half; i++) {
            double angle = timesteps[b] * pow(10000, -(double)i / ((double)half - freq_shift));
            sine[i] = sin(angle);
            cosine[i] = cos(angle);
        }
        if (C % 2) { out[b * C + C - 1] = 0; }
    }
}

// ---- Data movement -------------------------------------------------------------------------------------------------

// torch.nn.Upsample(mode="nearest"): out[b][y][x] = inp[b][floor(y H / OH)][floor(x W / OW)], all channels.
void reference_upsample_nearest_forward(double *out, const double *inp, int B, int H, int W, int C, int OH, int OW) {
    for (long i = 0; i < (long)B * OH * OW * C; i++) {
        long c = i % C, x = i / C % OW, y = i / C / OW % OH, b = i / C / OW / OH;
        out[i] = inp[((b * H + y * H / OH) * W + x * W / OW) * C + c];
    }
}

// Each pixel of dinp is the sum over its copies.
void reference_upsample_nearest_backward(double *dinp, const double *dout, int B, int H, int W, int C, int OH, int OW) {
    begin_with(dinp, NULL, (long)B * H * W * C);
    for (long i = 0; i < (long)B * OH * OW * C; i++) {
        long c = i % C, x = i / C % OW, y = i / C / OW % OH, b = i / C / OW / OH;
        dinp[((b * H + y * H / OH) * W + x * W / OW) * C + c] += dout[i];
    }
}

// torch.cat: out[n] = [a[n] | b[n]]
void reference_concat_forward(double *out, const double *a, const double *b, int N, int CA, int CB) {
    long C = CA + CB;
    for (long n = 0; n < N; n++) {
        for (long c = 0; c < CA; c++) { out[n * C + c] = a[n * CA + c]; }
        for (long c = 0; c < CB; c++) { out[n * C + CA + c] = b[n * CB + c]; }
    }
}

void reference_concat_backward(double *da, double *db, const double *dout, int N, int CA, int CB) {
    long C = CA + CB;
    for (long n = 0; n < N; n++) {
        for (long c = 0; da && c < CA; c++) { da[n * CA + c] = dout[n * C + c]; }
        for (long c = 0; db && c < CB; c++) { db[n * CB + c] = dout[n * C + CA + c]; }
    }
}

// out = a + b; out = scale inp + shift; out += scale inp
void reference_add_forward(double *out, const double *a, const double *b, size_t n) {
    for (size_t i = 0; i < n; i++) { out[i] = a[i] + b[i]; }
}

void reference_scale_shift_forward(double *out, const double *inp, double scale, double shift, size_t n) {
    for (size_t i = 0; i < n; i++) { out[i] = scale * inp[i] + shift; }
}

void reference_add_scaled(double *out, const double *inp, double scale, size_t n) {
    for (size_t i = 0; i < n; i++) { out[i] += scale * inp[i]; }
}

// To the nearest number with floatX's digits, 24 for a float and 8 for a bf16, of two equally near ones to the even one
// (IEEE 754's default). Subnormal numbers and what is too large for a float are left out.
void reference_cast_to_floatX(double *out, const double *inp, size_t n) {
    int digits = sizeof(floatX) == 2 ? 8 : 24;
    for (size_t i = 0; i < n; i++) {
        int exponent;
        double fraction = frexp(inp[i], &exponent); // inp = fraction 2^exponent, fraction in [1/2, 1)
        out[i] = ldexp(nearbyint(ldexp(fraction, digits)), exponent - digits);
    }
}

// A float holds every floatX.
void reference_cast_to_float(double *out, const double *inp, size_t n) {
    for (size_t i = 0; i < n; i++) { out[i] = inp[i]; }
}

// ---- The VAE's diagonal Gaussian (Kingma & Welling 2013; diffusers' DiagonalGaussianDistribution) ------------------

static double clamp_logvar(double logvar) { return fmin(fmax(logvar, -30), 20); }

// z = mean + sigma noise with sigma = exp(logvar / 2): the reparametrised sample
void reference_gaussian_forward(double *z, const double *moments, const double *noise, int N, int L) {
    for (long n = 0; n < N; n++) {
        for (long i = 0; i < L; i++) {
            double mean = moments[n * 2 * L + i], logvar = clamp_logvar(moments[n * 2 * L + L + i]);
            z[n * L + i] = mean + (noise ? exp(logvar / 2) * noise[n * L + i] : 0);
        }
    }
}

// d sigma / d logvar = sigma / 2; dKL / dmean = mean, dKL / dlogvar = (exp(logvar) - 1) / 2
void reference_gaussian_backward(double *dmoments, const double *dz, const double *moments, const double *noise,
                                 double kl_scale, int N, int L) {
    for (long n = 0; n < N; n++) {
        for (long i = 0; i < L; i++) {
            double mean = moments[n * 2 * L + i], raw = moments[n * 2 * L + L + i], logvar = clamp_logvar(raw);
            double d = dz ? dz[n * L + i] : 0, dsigma = noise ? d * noise[n * L + i] : 0;
            dmoments[n * 2 * L + i] = d + kl_scale * mean;
            double dlogvar = dsigma * exp(logvar / 2) / 2 + kl_scale * (exp(logvar) - 1) / 2;
            dmoments[n * 2 * L + L + i] = raw == logvar ? dlogvar : 0;
        }
    }
}

// Appendix B of the paper: KL(N(mean, sigma^2) || N(0, 1)), summed over a sample.
void reference_gaussian_kl(double *kl, const double *moments, int B, int N, int L) {
    begin_with(kl, NULL, B);
    for (long n = 0; n < N; n++) {
        for (long i = 0; i < L; i++) {
            double mean = moments[n * 2 * L + i], logvar = clamp_logvar(moments[n * 2 * L + L + i]);
            kl[n / (N / B)] += 0.5 * (mean * mean + exp(logvar) - 1 - logvar);
        }
    }
}

// ---- Random numbers (Philox: Salmon et al. 2011, util/philox.h) ----------------------------------------------------

// Element e of a sequence of standard normal numbers. Box & Muller 1958: of two uniform numbers u and v,
// sqrt(-2 ln u) cos(2 pi v) and sqrt(-2 ln u) sin(2 pi v) are two independent normal ones.
static double normal_at(const StepScalars *s, uint32_t stream, uint64_t sample, uint32_t first_block, long e) {
    Philox4 words = philox(s->seed, stream, s->step, sample, first_block + (uint32_t)(e / 4));
    long pair = e % 4 / 2;
    double u = philox_uniform(words.x[2 * pair]), v = philox_uniform(words.x[2 * pair + 1]);
    return sqrt(-2 * log(u)) * (e % 2 ? sin(2 * M_PI * v) : cos(2 * M_PI * v));
}

// Each sample is a sequence of its own.
void reference_normal_noise(double *out, int B, int n, uint32_t stream, const StepScalars *s) {
    for (long b = 0; b < B; b++) {
        for (long e = 0; e < n; e++) { out[b * n + e] = normal_at(s, stream, s->first_sample + (uint64_t)b, 0, e); }
    }
}

// A level's noise, (h, w, C), between its grid points. torch.nn.Upsample(mode="bilinear", align_corners=False): pixel
// (y, x) of (H, W) lies at ((y + 1/2) h / H - 1/2, (x + 1/2) w / W - 1/2), not below 0; beyond the last point is the
// last.
static double level_at(const StepScalars *s, uint64_t sample, int level, long h, long w, long C, double at_y,
                       double at_x, long c) {
    long y0 = (long)at_y, x0 = (long)at_x;
    double sum = 0;
    for (long corner = 0; corner < 4; corner++) {
        long y = corner / 2 ? (y0 + 1 < h ? y0 + 1 : y0) : y0, x = corner % 2 ? (x0 + 1 < w ? x0 + 1 : x0) : x0;
        double part_y = corner / 2 ? at_y - (double)y0 : 1 - (at_y - (double)y0);
        double part_x = corner % 2 ? at_x - (double)x0 : 1 - (at_x - (double)x0);
        uint32_t first_block = (uint32_t)level << 24;
        sum += part_y * part_x * normal_at(s, PHILOX_MULTIRES, sample, first_block, (y * w + x) * C + c);
    }
    return sum;
}

// Ke et al. 2023 (Marigold): noise = sqrt(2) n0 + sum over levels i of strength_b^i level_i, over its standard
// deviation; annealed, the coarse levels are weak where t, and with it the noise to be added, is small.
void reference_multires_noise(double *out, const double *timesteps, double strength, bool annealed, int T, int B, int H,
                              int W, int C, const StepScalars *s) {
    long n = (long)H * W * C;
    for (long b = 0; b < B; b++, out += n) {
        uint64_t sample = s->first_sample + (uint64_t)b;
        double strength_b = annealed ? strength * timesteps[b] / T : strength;
        for (long i = 0; i < n; i++) { out[i] *= sqrt(2); }
        long h = H, w = W;
        for (int level = 1; level <= 9 && h > 1 && w > 1; level++) {
            double u = philox_uniform(philox(s->seed, PHILOX_MULTIRES, s->step, sample, (uint32_t)level).x[0]);
            double shrink = pow(2 + 2 * u, level);
            h = (long)fmax(1, (double)h / shrink);
            w = (long)fmax(1, (double)w / shrink);
            for (long i = 0; i < n; i++) {
                double at_y = fmax(0, ((double)(i / C / W) + 0.5) * (double)h / H - 0.5);
                double at_x = fmax(0, ((double)(i / C % W) + 0.5) * (double)w / W - 0.5);
                out[i] += pow(strength_b, level) * level_at(s, sample, level, h, w, C, at_y, at_x, i % C);
            }
        }
        double mean = 0, square = 0;
        for (long i = 0; i < n; i++) { mean += out[i] / (double)n; }
        for (long i = 0; i < n; i++) { square += square_of(out[i] - mean); }
        for (long i = 0; i < n && square > 0; i++) { out[i] /= sqrt(square / (double)(n - 1)); }
    }
}

// t = T - 1 with probability t_max_prob, else floor(u T) for u uniform in [0, 1)
void reference_sample_timesteps(double *timesteps, int B, int T, double t_max_prob, const StepScalars *s) {
    for (long b = 0; b < B; b++) {
        Philox4 words = philox(s->seed, PHILOX_TIMESTEP, s->step, s->first_sample + (uint64_t)b, 0);
        uint64_t below_T = (uint64_t)words.x[1] * (uint64_t)T >> 32; // u = word / 2^32
        timesteps[b] = philox_uniform(words.x[0]) < t_max_prob ? T - 1 : (double)below_T;
    }
}

// ---- The forward diffusion and the way back ------------------------------------------------------------------------

// Ho et al. 2020, equation 4: x_t = alpha x0 + sigma noise with alpha = sqrt(abar_t), sigma = sqrt(1 - abar_t).
// Salimans & Ho 2022: v = alpha noise - sigma x0.
void reference_add_noise_forward(double *noisy, double *target, const double *x0, const double *noise,
                                 const double *timesteps, const double *alphas_cumprod, Prediction prediction, int B,
                                 int n) {
    for (long i = 0; i < (long)B * n; i++) {
        double abar = alphas_cumprod[(long)timesteps[i / n]], alpha = sqrt(abar), sigma = sqrt(1 - abar);
        noisy[i] = alpha * x0[i] + sigma * noise[i];
        if (!target) { continue; }
        double v = alpha * noise[i] - sigma * x0[i];
        target[i] = prediction == PREDICT_EPSILON ? noise[i] : prediction == PREDICT_V ? v : x0[i];
    }
}

// x0 and eps, given x_t = alpha x0 + sigma eps and the model's output `out`, an estimate of eps, v or x0. At alpha = 0
// (or sigma = 0) the division fails: x_t then holds no x0 (or no eps).
static double predicted_x0(Prediction prediction, double x_t, double out, double abar) {
    double alpha = sqrt(abar), sigma = sqrt(1 - abar);
    if (prediction == PREDICT_EPSILON) { return (x_t - sigma * out) / alpha; }
    return prediction == PREDICT_V ? alpha * x_t - sigma * out : out;
}

static double predicted_eps(Prediction prediction, double x_t, double out, double abar) {
    double alpha = sqrt(abar), sigma = sqrt(1 - abar);
    if (prediction == PREDICT_SAMPLE) { return (x_t - alpha * out) / sigma; }
    return prediction == PREDICT_V ? alpha * out + sigma * x_t : out;
}

// x0 from x_t = noisy
void reference_predict_x0(double *x0, const double *model_out, const double *noisy, const double *timesteps,
                          const double *alphas_cumprod, Prediction prediction, int B, int n) {
    for (long i = 0; i < (long)B * n; i++) {
        x0[i] = predicted_x0(prediction, noisy[i], model_out[i], alphas_cumprod[(long)timesteps[i / n]]);
    }
}

// dmodel_out += scale dx0 (d x0 / d out): predicted_x0 is linear in `out`, and its slope is its value at x_t = 0, out
// = 1.
void reference_predict_x0_backward(double *dmodel_out, const double *dx0, const double *timesteps,
                                   const double *alphas_cumprod, Prediction prediction, double scale, int B, int n) {
    for (long i = 0; i < (long)B * n; i++) {
        dmodel_out[i] += scale * dx0[i] * predicted_x0(prediction, 0, 1, alphas_cumprod[(long)timesteps[i / n]]);
    }
}

// Song et al. 2020, equation 12 with eta = 0: x = sqrt(abar_prev) x0 + sqrt(1 - abar_prev) eps.
void reference_ddim_step(double *x, const double *model_out, double alpha_cumprod_t, double alpha_cumprod_prev,
                         Prediction prediction, int B, int n) {
    for (long i = 0; i < (long)B * n; i++) {
        double x0 = predicted_x0(prediction, x[i], model_out[i], alpha_cumprod_t);
        double eps = predicted_eps(prediction, x[i], model_out[i], alpha_cumprod_t);
        x[i] = sqrt(alpha_cumprod_prev) * x0 + sqrt(1 - alpha_cumprod_prev) * eps;
    }
}

// ---- Losses --------------------------------------------------------------------------------------------------------

static double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }

// torch.nn.MSELoss, per sample: loss = mean of d^2, d = pred - target
void reference_mse_loss(double *loss, double *dpred, const double *pred, const double *target, double scale, int B,
                        int n) {
    begin_with(loss, NULL, B);
    for (long i = 0; i < (long)B * n; i++) {
        double d = pred[i] - target[i];
        loss[i / n] += d * d / n;
        if (dpred) { dpred[i] = scale * 2 * d / n; }
    }
}

// torch.nn.L1Loss and torch.nn.MSELoss: loss = mean of |d| + mse_weight d^2; the slope of |d| at 0 is taken as 0.
void reference_l1_mse_loss(double *loss, double *dpred, const double *pred, const double *target, double mse_weight,
                           double scale, int B, int n) {
    begin_with(loss, NULL, B);
    for (long i = 0; i < (long)B * n; i++) {
        double d = pred[i] - target[i];
        loss[i / n] += (fabs(d) + mse_weight * d * d) / n;
        if (dpred) { dpred[i] = scale * (sign(d) + mse_weight * 2 * d) / n; }
    }
}

// With w of a cell of C channels: loss = sum of w d^2 / (C sum of w), sums over a sample; 0 where all w are 0.
void reference_weighted_mse_loss(double *loss, double *dpred, const double *pred, const double *target,
                                 const double *weight, double scale, int B, int n, int C) {
    begin_with(loss, NULL, B);
    for (long b = 0; b < B; b++) {
        double weights = 0;
        for (long cell = b * n / C; cell < (b + 1) * n / C; cell++) { weights += weight[cell]; }
        for (long i = b * n; i < (b + 1) * n; i++) {
            double d = pred[i] - target[i], share = weights > 0 ? weight[i / C] / (weights * C) : 0;
            loss[b] += share * d * d;
            if (dpred) { dpred[i] = scale * share * 2 * d; }
        }
    }
}

// The same with a cell's own f = (1 - exp(-e))^gamma as its weight, e the cell's mean of d^2 (after Lin et al. 2017).
static double focal_factor(const double *pred, const double *target, double gamma, long C) {
    double e = 0;
    for (long c = 0; c < C; c++) { e += square_of(pred[c] - target[c]) / (double)C; }
    return pow(-expm1(-e), gamma);
}

void reference_focal_mse_loss(double *loss, double *dpred, const double *pred, const double *target, double gamma,
                              double scale, int B, int n, int C) {
    begin_with(loss, NULL, B);
    for (long b = 0; b < B; b++) {
        double factors = 0;
        for (long i = b * n; i < (b + 1) * n; i += C) { factors += focal_factor(pred + i, target + i, gamma, C); }
        for (long i = b * n; i < (b + 1) * n; i++) {
            double d = pred[i] - target[i], f = focal_factor(pred + i / C * C, target + i / C * C, gamma, C);
            double share = factors > 0 ? f / (factors * C) : 0;
            loss[b] += share * d * d;
            if (dpred) { dpred[i] = scale * share * 2 * d; }
        }
    }
}

// 1 for a pixel of this very color, less the farther it is away.
static double soft_mask(const double *pixel, const float *color) {
    double distance = 0;
    for (int c = 0; c < 3; c++) { distance += fabs(pixel[c] - color[c]) / 3; }
    return 1 - distance / 2;
}

// Milletari et al. 2016: loss = 1 - P / Q with P = 2 sum of s m + 1, Q = sum of s^2 + sum of m^2 + 1, so dloss / ds =
// (2 s P / Q - 2 m) / Q; ds / dpred = -sign(pred - color) / 6.
void reference_dice_loss(double *loss, double *dpred, const double *pred, const double *target, const float *color,
                         double scale, int B, int n) {
    for (long b = 0; b < B; b++) {
        double P = 1, Q = 1;
        for (long i = b * n; i < (b + 1) * n; i += 3) {
            double s = soft_mask(pred + i, color), m = soft_mask(target + i, color);
            P += 2 * s * m;
            Q += s * s + m * m;
        }
        loss[b] = 1 - P / Q;
        for (long i = b * n; dpred && i < (b + 1) * n; i++) {
            double s = soft_mask(pred + i / 3 * 3, color), m = soft_mask(target + i / 3 * 3, color);
            dpred[i] = scale * (2 * s * P / Q - 2 * m) / Q * -sign(pred[i] - color[i % 3]) / 6;
        }
    }
}

// ---- Optimizer -----------------------------------------------------------------------------------------------------

// torch.nn.utils.clip_grad_norm_ (Pascanu et al. 2012): norm = sqrt(sum of (grad_scale grad)^2), clip to max_norm.
void reference_grad_norm(GradNorm *result, const double *grad, size_t n, const StepScalars *s) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += grad[i] * grad[i]; }
    double norm = fabs(s->grad_scale) * sqrt(sum), clip = s->max_norm > 0 ? fmin(1, s->max_norm / (norm + 1e-6)) : 1;
    float clipped = (float)norm * (float)clip;
    *result = (GradNorm){.norm = (float)norm, .factor = (float)(s->grad_scale * clip)};
    result->finite = isfinite(clipped * clipped) != 0; // in float: Adam's second moment is a mean of squares
}

// torch.optim.AdamW (Loshchilov & Hutter 2017): m and v are running means of g and g^2, bias1 and bias2 undo that they
// begin at 0. param is the copy that the model computes with, here with all digits.
void reference_adam_update(double *master, double *param, double *m, double *v, const double *grad,
                           const GradNorm *result, double beta1, double beta2, double eps, double weight_decay,
                           size_t n, const StepScalars *s) {
    if (!result->finite) { return; }
    for (size_t i = 0; i < n; i++) {
        double g = result->factor * grad[i];
        m[i] = beta1 * m[i] + (1 - beta1) * g;
        v[i] = beta2 * v[i] + (1 - beta2) * g * g;
        double step = m[i] / s->bias1 / (sqrt(v[i] / s->bias2) + eps);
        master[i] -= s->lr * (step + weight_decay * master[i]);
        param[i] = master[i];
    }
}

// A running mean of the weights, as Ho et al. 2020 take it for sampling: ema = decay ema + (1 - decay) master
void reference_ema_update(double *ema, const double *master, const GradNorm *result, size_t n, const StepScalars *s) {
    if (!result->finite) { return; }
    for (size_t i = 0; i < n; i++) { ema[i] = s->ema_decay * ema[i] + (1 - s->ema_decay) * master[i]; }
}
