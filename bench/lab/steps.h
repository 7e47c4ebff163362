// The steps of bench/lab/*.cu: the versions of a function before the last. They take the version, then the arguments of
// the function in kernels.h (without a residual and beta, which is 0). They use no trace and no device_launch: the
// model's own function reports bytes and FLOPs.
#pragma once
#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

void lab_conv2d_forward(int version, floatX *out, const floatX *inp, const floatX *weight, const floatX *bias,
                        Conv2d conv, Device *dev);
void lab_attention_forward(int version, floatX *out, float *lse, const floatX *q, const floatX *k, const floatX *v,
                           Attention a, Device *dev);
void lab_groupnorm_forward(int version, floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight,
                           const floatX *bias, int B, int HW, int C, int G, float eps, bool silu, Device *dev);
// dinp may not be dout; C / G is at most 256.
void lab_groupnorm_backward(int version, floatX *dinp, float *dweight, float *dbias, const floatX *dout,
                            const floatX *inp, const floatX *weight, const floatX *bias, const float *mean,
                            const float *rstd, int B, int HW, int C, int G, bool silu, Device *dev);
void lab_layernorm_forward(int version, floatX *out, float *mean, float *rstd, const floatX *inp, const floatX *weight,
                           const floatX *bias, int N, int C, float eps, Device *dev);
void lab_adam_update(int version, float *master, floatX *param, float *m, float *v, const float *grad,
                     const GradNorm *result, float beta1, float beta2, float eps, float weight_decay, size_t n,
                     const StepScalars *s, Device *dev);

#ifdef __cplusplus
}
#endif
