// Every layer of cocogold, forward and backward: the contract that each backend implements (LAYER.c on the CPU,
// LAYER.cu on CUDA). No other header declares a kernel. reference.c has each of these functions as the plain loops over
// its definition: read that first, the tests compare with it.
//
// Conventions
// - Activations are channels-last: a feature map (B, H, W, C) is the token matrix (B*H*W, C). Convolution weights are
//   (OC, K, K, IC), linear weights (OC, IC). All arrays are dense and row-major, aligned to 16 bytes, unless a stride
//   is given; pointers to different arguments must not overlap unless the comment allows it.
// - Outputs first, then inputs, then sizes, then the device. Work is queued on the device's compute stream.
// - Gradients of activations overwrite (=). A function with the argument `dresidual` computes
//   dinp = gradient + dresidual, where dresidual is the gradient that reaches the same tensor on another path. It may
//   be NULL (none) or dinp itself (which makes it +=).
// - Gradients of parameters are float: grad = gradient + beta * grad, with beta 0 (first micro-step) or 1. With beta 0
//   the old value is never read.
// - Any gradient output may be NULL; it is then not computed. Any bias may be NULL.
// - Statistics, softmax and sums are fp32 or better. Every function is deterministic: the same input gives the same
//   bits, with any number of threads. Functions access host memory only through their arguments.
// - A function that needs scratch takes it from device_workspace.
// - Counts fit an int: a batch has fewer than 2^30 pixels and rows, and where n is an int, a sample has fewer than 2^30
//   elements. Offsets are size_t: a map may have more elements (at 2048 pixels, one of SD's decoder has 2^30 a sample).
//   geglu and attention take fewer than 2^30 vectors of 16 bytes (elements, if rows are not made of whole vectors).
// - CUDA's grids take at most 65535 samples, and attention at most 65535 heads of all samples together (B NH).
#pragma once
#include "kernels/runtime/device.h"

#ifdef __cplusplus
extern "C" {
#endif

// ---- linear.c: matrix products -------------------------------------------------------------------------------------

// out (N, OC) = inp (N, IC) weight^T + bias (OC) + residual (N, OC). residual may be NULL or out itself.
void linear_forward(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, const floatX *residual,
                    int N, int IC, int OC, Device *dev);
// dinp (N, IC) = dout weight + dresidual; dweight (OC, IC) = dout^T inp + beta dweight; dbias (OC) = sum of dout over N
// + beta dbias. inp is read only for dweight, weight only for dinp.
void linear_backward(floatX *dinp, float *dweight, float *dbias, const floatX *dout, const floatX *inp,
                     const floatX *weight, const floatX *dresidual, float beta, int N, int IC, int OC, Device *dev);

// ---- conv2d.c: convolution as an implicit matrix product -----------------------------------------------------------

typedef struct {
    int B, H, W, IC;           // input (B, H, W, IC)
    int OC, K;                 // output channels, kernel size (1 or 3)
    int stride;                // 1 or 2
    int pad_before, pad_after; // zero padding at top/left and at bottom/right (0 and 1 in the VAE's down-sampling)
    bool torch_order;          // weight is (OC, IC, K, K), as in PyTorch's files: only on the CPU, and not for dweight
    int sample_stride;         // row stride of sample_bias and dsample_bias in elements; 0: OC
} Conv2d;
static inline int conv2d_out(const Conv2d *c, int size) {
    return (size + c->pad_before + c->pad_after - c->K) / c->stride + 1;
}
static inline int conv2d_sample_stride(const Conv2d *c) { return c->sample_stride ? c->sample_stride : c->OC; }

// out (B, OH, OW, OC) = conv(inp, weight) + bias (OC) + sample_bias (B, OC) + residual (B, OH, OW, OC).
// sample_bias (a resnet's time embedding, columns of a wider matrix) needs no alignment; it and residual may be NULL;
// residual may be out itself.
void conv2d_forward(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, const floatX *sample_bias,
                    const floatX *residual, Conv2d conv, Device *dev);
// dinp = transposed convolution of dout + dresidual; dweight, dbias with beta; dsample_bias (B, OC) = sum of dout over
// the pixels of each sample, without alignment.
void conv2d_backward(floatX *dinp, float *dweight, float *dbias, floatX *dsample_bias, const floatX *dout,
                     const floatX *inp, const floatX *weight, const floatX *dresidual, float beta, Conv2d conv,
                     Device *dev);

// ---- groupnorm.c, layernorm.c --------------------------------------------------------------------------------------

// Wu & He 2018. x^ = (x - mean) rstd over the HW * C/G elements of a group of a sample; y = x^ weight + bias; out = y
// or silu(y). mean and rstd (B, G) are saved for backward. inp, out (B, HW, C); out may be inp. C is a multiple of G.
void groupnorm_forward(floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight,
                       const floatX *bias, int B, int HW, int C, int G, float eps, bool silu, Device *dev);
// groupnorm_forward's out again, to the bit, from the mean and rstd that it wrote: for backward, if out was not saved.
void groupnorm_recompute(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, const float *mean,
                         const float *rstd, int B, int HW, int C, int G, bool silu, Device *dev);
// dinp (B, HW, C) = gradient + dresidual; dinp may be dout.
void groupnorm_backward(floatX *dinp, float *dweight, float *dbias, const floatX *dout, const floatX *inp,
                        const floatX *weight, const floatX *bias, const float *mean, const float *rstd,
                        const floatX *dresidual, float beta, int B, int HW, int C, int G, bool silu, Device *dev);

// Ba et al. 2016, over the C elements of each of N rows. mean and rstd (N) are saved for backward. out may be inp.
void layernorm_forward(floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight,
                       const floatX *bias, int N, int C, float eps, Device *dev);
// dinp (N, C) = gradient + dresidual; dinp may be dout.
void layernorm_backward(floatX *dinp, float *dweight, float *dbias, const floatX *dout, const floatX *inp,
                        const floatX *weight, const float *mean, const float *rstd, const floatX *dresidual, float beta,
                        int N, int C, Device *dev);

// ---- activation.c: n elements each; out may be inp, dinp may be dout -----------------------------------------------

void silu_forward(floatX *out, const floatX *inp, size_t n, Device *dev); // x sigmoid(x)
void silu_backward(floatX *dinp, const floatX *dout, const floatX *inp, size_t n, Device *dev);
void gelu_forward(floatX *out, const floatX *inp, size_t n, Device *dev); // x Phi(x), the erf form
void gelu_backward(floatX *dinp, const floatX *dout, const floatX *inp, size_t n, Device *dev);
void quick_gelu_forward(floatX *out, const floatX *inp, size_t n, Device *dev); // x sigmoid(1.702 x)
void quick_gelu_backward(floatX *dinp, const floatX *dout, const floatX *inp, size_t n, Device *dev);
// Shazeer 2020: out (N, H) = inp[:, :H] gelu(inp[:, H:]), inp (N, 2H). No aliasing, but in geglu_backward dinp may be
// inp and out may be dout. It writes out again, from what it reads anyway, unless out is NULL.
void geglu_forward(floatX *out, const floatX *inp, int N, int H, Device *dev);
void geglu_backward(floatX *dinp, floatX *out, const floatX *dout, const floatX *inp, int N, int H, Device *dev);

// ---- attention.c: softmax(q k^T / sqrt(HS)) v, without a T x T matrix kept for backward ----------------------------

// Row strides are in elements: q of token t, head h begins at q + (b Tq + t) q_stride + h HS, and so on. A packed QKV
// product (B, T, 3 NH HS) is read in place with stride 3 NH HS and q, k, v pointing into it. dq, dk, dv have the
// strides of q, k, v; dout has out's. Any head size and strides are allowed. If all of them are multiples of 8, the
// CUDA kernels use the tensors directly, which must then be aligned to 16 bytes; otherwise they use padded copies in
// the workspace.
typedef struct {
    int B, NH, Tq, Tk, HS; // samples, heads, queries, keys, head size
    int q_stride, k_stride, v_stride, out_stride;
    bool causal; // query t sees keys 0..t (then Tq == Tk)
} Attention;

// out (B, Tq, NH, HS); lse (B, NH, Tq): log-sum-exp of the scaled scores, saved for backward.
void attention_forward(floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v, Attention a,
                       Device *dev);
// dk and dv are overwritten; if keys are used several times, the caller adds their gradients.
void attention_backward(floatX *dq, floatX *dk, floatX *dv, const floatX *dout, const floatX *q, const floatX *k,
                        const floatX *v, const floatX *out, const float *lse, Attention a, Device *dev);

// ---- embedding.c ---------------------------------------------------------------------------------------------------

// out (B, T, C) = token_weight[ids] + position_weight[t]; ids (B, T) int32 on the device, each in [0, V).
void embedding_forward(floatX *out, const int *ids, const floatX *token_weight, const floatX *position_weight, int B,
                       int T, int C, int V, Device *dev);
// dtoken (V, C) and dposition (T', C): used rows get their sums plus beta times the old values, all other rows beta
// times the old values. positions is T' >= T.
void embedding_backward(float *dtoken, float *dposition, const floatX *dout, const int *ids, float beta, int B, int T,
                        int C, int V, int positions, Device *dev);
// Sinusoids of Ho et al. 2020 as in diffusers: half = floor(C/2), f_i = exp(-ln(10000) i / (half - freq_shift)),
// out (B, C) = [sin(t f), cos(t f)], or [cos, sin] with flip_sin_to_cos, followed by a zero if C is odd. timesteps (B)
// are floats on the device. They are drawn, not computed: no backward.
void timestep_embedding_forward(floatX *out, const float *timesteps, int B, int C, bool flip_sin_to_cos,
                                float freq_shift, Device *dev);

// ---- resize.c, tensor.c: data movement -----------------------------------------------------------------------------

// out (B, OH, OW, C): pixel (y, x) is inp's (floor(y H / OH), floor(x W / OW)), torch's "nearest". OH >= H, OW >= W.
void upsample_nearest_forward(floatX *out, const floatX *inp, int B, int H, int W, int C, int OH, int OW, Device *dev);
void upsample_nearest_backward(floatX *dinp, const floatX *dout, int B, int H, int W, int C, int OH, int OW,
                               Device *dev);
// out (N, CA + CB) = [a | b]; backward splits: da (N, CA), db (N, CB).
void concat_forward(floatX *out, const floatX *a, const floatX *b, int N, int CA, int CB, Device *dev);
void concat_backward(floatX *da, floatX *db, const floatX *dout, int N, int CA, int CB, Device *dev);
// out = a + b, n elements; out may be a or b. Backward is the identity for both.
void add_forward(floatX *out, const floatX *a, const floatX *b, size_t n, Device *dev);
// out = scale inp + shift, n elements; out may be inp (pixels to [0, 1], the VAE's scaling factor and their backward).
void scale_shift_forward(floatX *out, const floatX *inp, float scale, float shift, size_t n, Device *dev);
// out += scale * inp, n elements.
void add_scaled(float *out, const float *inp, float scale, size_t n, Device *dev);
// Conversions between float and floatX, n elements. In fp32 builds they copy, or do nothing if out == inp.
void cast_to_floatX(floatX *out, const float *inp, size_t n, Device *dev);
void cast_to_float(float *out, const floatX *inp, size_t n, Device *dev);

// ---- gaussian.c: the VAE's diagonal Gaussian (Kingma & Welling 2013) -----------------------------------------------

// moments (N, 2L) = [mean | log-variance]; the log-variance is clamped to [-30, 20], with gradient 0 outside.
// z (N, L) = mean + exp(logvar / 2) noise; noise (N, L) is float; if it is NULL, z = mean (the mode).
void gaussian_forward(floatX *z, const floatX *moments, const float *noise, int N, int L, Device *dev);
// dmoments (N, 2L) = gradient of dz (N, L) (may be NULL: none) + kl_scale * gradient of KL, where
// KL = 1/2 sum(mean^2 + exp(logvar) - 1 - logvar).
void gaussian_backward(floatX *dmoments, const floatX *dz, const floatX *moments, const float *noise, float kl_scale,
                       int N, int L, Device *dev);
// kl (B): KL of each sample; moments (B, N/B, 2L) has N rows in total.
void gaussian_kl(float *kl, const floatX *moments, int B, int N, int L, Device *dev);

// ---- Values that change from step to step: one struct on the device, filled by one asynchronous copy ---------------

typedef struct {
    uint64_t seed;
    uint64_t first_sample; // global index, within the step, of the first sample of this rank's micro-batch
    uint32_t step;         // optimizer step, from 0
    float lr;
    float bias1, bias2; // Adam's 1 - beta^t, t = step + 1 minus the skipped steps
    float ema_decay;
    float grad_scale; // factor of the gradient before norm and update: 1 / ranks
    float max_norm;   // clip to this global norm; 0: no clipping
} StepScalars;

// Results of grad_norm, on the device.
typedef struct {
    float norm;   // of the scaled gradient
    float factor; // grad_scale times the clip factor min(1, max_norm / (norm + 1e-6)); adam multiplies gradients by it
    int finite;   // 0: norm, or its square after clipping, is inf or NaN: adam and ema skip the step
} GradNorm;

// ---- noise.c: Philox noise and the forward diffusion ---------------------------------------------------------------

// out (B, n): element e of row b depends only on (seed, stream, step, first_sample + b, e) (util/philox.h: words
// 4i..4i+3 give elements 4i..4i+3 by two Box-Muller pairs). stream is a PhiloxStream.
void normal_noise(float *out, int B, int n, uint32_t stream, const StepScalars *s, Device *dev);
// Annealed multi-resolution noise of Marigold, per sample: noise = sqrt(2) n0 + sum over levels i = 1..9 of
// strength_b^i bilinear_up(randn(h_i, w_i)), divided by its standard deviation over the sample (n - 1); strength_b =
// strength * t_b / T with annealed, else strength. (The original adds two full-size draws, which has the same
// distribution.) Level sizes: h_i = max(1, (int)(h_(i-1) / r_i^i)), r_i = 2 + 2u drawn per sample; the levels end after
// the first one with a side of 1.
// out (B, H, W, C) holds n0 (normal_noise) on entry. Level i is the sequence of PHILOX_MULTIRES that begins at block
// i << 24, and u is philox_uniform of word 0 of block i. The bilinear filter is torch's with align_corners = false.
void multires_noise(float *out, const float *timesteps, float strength, bool annealed, int T, int B, int H, int W,
                    int C, const StepScalars *s, Device *dev);
// timesteps (B): T - 1 with probability t_max_prob (if word 0 of block 0, as a uniform number, lies below it), else
// uniform in [0, T) (word 1, random_below). Whole numbers, stored as floats.
void sample_timesteps(float *timesteps, int B, int T, float t_max_prob, const StepScalars *s, Device *dev);

typedef enum { PREDICT_EPSILON, PREDICT_V, PREDICT_SAMPLE } Prediction;
// noisy (B, n) = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise; target (B, n) = noise, x0 or v = sqrt(abar_t) noise -
// sqrt(1 - abar_t) x0 (Salimans & Ho 2022). alphas_cumprod (T) on the device. target may be NULL. All inputs are data:
// no backward.
void add_noise_forward(floatX *noisy, float *target, const float *x0, const float *noise, const float *timesteps,
                       const float *alphas_cumprod, Prediction prediction, int B, int n, Device *dev);
// x0 (B, n) predicted from the model's output at timesteps: the inverse of add_noise_forward.
void predict_x0(float *x0, const floatX *model_out, const float *noisy, const float *timesteps,
                const float *alphas_cumprod, Prediction prediction, int B, int n, Device *dev);
// dmodel_out (B, n) += scale * dx0 (B, n) * (d x0 / d model_out).
void predict_x0_backward(floatX *dmodel_out, const floatX *dx0, const float *timesteps, const float *alphas_cumprod,
                         Prediction prediction, float scale, int B, int n, Device *dev);
// One deterministic DDIM step (Song et al. 2020, eta = 0): x (B, n), in place, from abar_t to abar_prev:
// x <- sqrt(abar_prev) x0 + sqrt(1 - abar_prev) eps, with x0 and eps from the model's output.
void ddim_step(float *x, const floatX *model_out, float alpha_cumprod_t, float alpha_cumprod_prev,
               Prediction prediction, int B, int n, Device *dev);

// ---- loss.c: losses with their gradients ---------------------------------------------------------------------------
// loss (B) gets each sample's mean; dpred (B, n) the gradient of scale * sum over b of loss[b] (scale = 1/B gives the
// mean over the batch). pred floatX, target float. dpred may be NULL (validation).

// (p - t)^2.
void mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, float scale, int B, int n,
              Device *dev);
// |p - t| + mse_weight (p - t)^2: the VAE's reconstruction loss.
void l1_mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, float mse_weight, float scale,
                 int B, int n, Device *dev);
// w (p - t)^2 / sum(w) * (number of cells): weight (B, n/C) per latent cell, e.g. to balance object and background.
// This loss is cocogold's own.
void weighted_mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, const float *weight,
                       float scale, int B, int n, int C, Device *dev);
// Focal loss in latent space, adapted from Lin et al. 2017: per cell e = mean over its C channels of (p - t)^2,
// f = (1 - exp(-e))^gamma, held constant in the gradient; loss = mean over cells of f e / mean over cells of f
// (0 if all f are 0).
void focal_mse_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, float gamma, float scale,
                    int B, int n, int C, Device *dev);
// Dice (Milletari et al. 2016) of soft masks, for pictures (B, n / 3, 3) in [-1, 1] with a mask painted in color (3, on
// the host): s = 1 - mean over channels of |p - color| / 2 of the prediction's pixels, m of the target's;
// loss = 1 - (2 sum(s m) + 1) / (sum(s^2) + sum(m^2) + 1). The soft mask is cocogold's own.
void dice_loss(float *loss, floatX *dpred, const floatX *pred, const float *target, const float *color, float scale,
               int B, int n, Device *dev);

// ---- optimizer.c: over the flat buffers of all parameters ----------------------------------------------------------

// *result from grad (n): norm of s->grad_scale * grad, clip factor and finite flag. fp64 or compensated partial sums.
void grad_norm(GradNorm *result, const float *grad, size_t n, const StepScalars *s, Device *dev);
// Adam (Kingma & Ba 2014) with decoupled weight decay (AdamW, Loshchilov & Hutter 2017): g = factor * grad;
// m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
// master -= lr (m / bias1 / (sqrt(v / bias2) + eps) + weight_decay master); param = cast(master). In fp32 builds param
// is master. Does nothing if result->finite is 0.
void adam_update(float *master, floatX *param, float *m, float *v, const float *grad, const GradNorm *result,
                 float beta1, float beta2, float eps, float weight_decay, size_t n, const StepScalars *s, Device *dev);
// ema = decay ema + (1 - decay) master; skips a non-finite step, as adam does.
void ema_update(float *ema, const float *master, const GradNorm *result, size_t n, const StepScalars *s, Device *dev);

#ifdef __cplusplus
}
#endif
