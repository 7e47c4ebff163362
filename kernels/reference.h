// The functions of reference.c: those of kernels.h, which describes them, on double and without a device.
#pragma once
#include "kernels/kernels.h"

void reference_linear_forward(double *out, const double *inp, const double *weight, const double *bias,
                              const double *residual, int N, int IC, int OC);
void reference_linear_backward(double *dinp, double *dweight, double *dbias, const double *dout, const double *inp,
                               const double *weight, const double *dresidual, double beta, int N, int IC, int OC);
void reference_conv2d_forward(double *out, const double *inp, const double *weight, const double *bias,
                              const double *sample_bias, const double *residual, Conv2d conv);
void reference_conv2d_backward(double *dinp, double *dweight, double *dbias, double *dsample_bias, const double *dout,
                               const double *inp, const double *weight, const double *dresidual, double beta,
                               Conv2d conv);
void reference_groupnorm_forward(double *out, double *mean, double *rstd, const double *inp, const double *weight,
                                 const double *bias, int B, int HW, int C, int G, double eps, bool silu);
void reference_groupnorm_recompute(double *out, const double *inp, const double *weight, const double *bias,
                                   const double *mean, const double *rstd, int B, int HW, int C, int G, bool silu);
void reference_groupnorm_backward(double *dinp, double *dweight, double *dbias, const double *dout, const double *inp,
                                  const double *weight, const double *bias, const double *mean, const double *rstd,
                                  const double *dresidual, double beta, int B, int HW, int C, int G, bool silu);
void reference_layernorm_forward(double *out, double *mean, double *rstd, const double *inp, const double *weight,
                                 const double *bias, int N, int C, double eps);
void reference_layernorm_backward(double *dinp, double *dweight, double *dbias, const double *dout, const double *inp,
                                  const double *weight, const double *mean, const double *rstd, const double *dresidual,
                                  double beta, int N, int C);
void reference_silu_forward(double *out, const double *inp, size_t n);
void reference_silu_backward(double *dinp, const double *dout, const double *inp, size_t n);
void reference_gelu_forward(double *out, const double *inp, size_t n);
void reference_gelu_backward(double *dinp, const double *dout, const double *inp, size_t n);
void reference_quick_gelu_forward(double *out, const double *inp, size_t n);
void reference_quick_gelu_backward(double *dinp, const double *dout, const double *inp, size_t n);
void reference_geglu_forward(double *out, const double *inp, int N, int H);
void reference_geglu_backward(double *dinp, double *out, const double *dout, const double *inp, int N, int H);
void reference_attention_forward(double *out, double *lse, const double *q, const double *k, const double *v,
                                 Attention a);
void reference_attention_backward(double *dq, double *dk, double *dv, const double *dout, const double *q,
                                  const double *k, const double *v, const double *out, const double *lse, Attention a);
void reference_embedding_forward(double *out, const int *ids, const double *token_weight, const double *position_weight,
                                 int B, int T, int C, int V);
void reference_embedding_backward(double *dtoken, double *dposition, const double *dout, const int *ids, double beta,
                                  int B, int T, int C, int V, int positions);
void reference_timestep_embedding_forward(double *out, const double *timesteps, int B, int C, bool flip_sin_to_cos,
                                          double freq_shift);
void reference_upsample_nearest_forward(double *out, const double *inp, int B, int H, int W, int C, int OH, int OW);
void reference_upsample_nearest_backward(double *dinp, const double *dout, int B, int H, int W, int C, int OH, int OW);
void reference_concat_forward(double *out, const double *a, const double *b, int N, int CA, int CB);
void reference_concat_backward(double *da, double *db, const double *dout, int N, int CA, int CB);
void reference_add_forward(double *out, const double *a, const double *b, size_t n);
void reference_scale_shift_forward(double *out, const double *inp, double scale, double shift, size_t n);
void reference_add_scaled(double *out, const double *inp, double scale, size_t n);
void reference_cast_to_floatX(double *out, const double *inp, size_t n);
void reference_cast_to_float(double *out, const double *inp, size_t n);
void reference_gaussian_forward(double *z, const double *moments, const double *noise, int N, int L);
void reference_gaussian_backward(double *dmoments, const double *dz, const double *moments, const double *noise,
                                 double kl_scale, int N, int L);
void reference_gaussian_kl(double *kl, const double *moments, int B, int N, int L);
void reference_normal_noise(double *out, int B, int n, uint32_t stream, const StepScalars *s);
void reference_multires_noise(double *out, const double *timesteps, double strength, bool annealed, int T, int B, int H,
                              int W, int C, const StepScalars *s);
void reference_sample_timesteps(double *timesteps, int B, int T, double t_max_prob, const StepScalars *s);
void reference_add_noise_forward(double *noisy, double *target, const double *x0, const double *noise,
                                 const double *timesteps, const double *alphas_cumprod, Prediction prediction, int B,
                                 int n);
void reference_predict_x0(double *x0, const double *model_out, const double *noisy, const double *timesteps,
                          const double *alphas_cumprod, Prediction prediction, int B, int n);
void reference_predict_x0_backward(double *dmodel_out, const double *dx0, const double *timesteps,
                                   const double *alphas_cumprod, Prediction prediction, double scale, int B, int n);
void reference_ddim_step(double *x, const double *model_out, double alpha_cumprod_t, double alpha_cumprod_prev,
                         Prediction prediction, int B, int n);
void reference_mse_loss(double *loss, double *dpred, const double *pred, const double *target, double scale, int B,
                        int n);
void reference_l1_mse_loss(double *loss, double *dpred, const double *pred, const double *target, double mse_weight,
                           double scale, int B, int n);
void reference_weighted_mse_loss(double *loss, double *dpred, const double *pred, const double *target,
                                 const double *weight, double scale, int B, int n, int C);
void reference_focal_mse_loss(double *loss, double *dpred, const double *pred, const double *target, double gamma,
                              double scale, int B, int n, int C);
void reference_dice_loss(double *loss, double *dpred, const double *pred, const double *target, const float *color,
                         double scale, int B, int n);
void reference_grad_norm(GradNorm *result, const double *grad, size_t n, const StepScalars *s);
void reference_adam_update(double *master, double *param, double *m, double *v, const double *grad,
                           const GradNorm *result, double beta1, double beta2, double eps, double weight_decay,
                           size_t n, const StepScalars *s);
void reference_ema_update(double *ema, const double *master, const GradNorm *result, size_t n, const StepScalars *s);
