// Token, position and timestep embeddings. Against the plain loops (reference.c), threads share the columns in
// backward, and the angles of timesteps are rounded as diffusers rounds them.
#include "kernels/cost.h"
#include "kernels/cpu.h"
#include <assert.h>
#include <math.h>
#include <string.h>

void embedding_forward(floatX *out, const int *ids, const floatX *token_weight, const floatX *position_weight, int B,
                       int T, int C, int V, Device *dev) {
    size_t rows = (size_t)B * T, n = rows * C;
    if (!device_launch(dev, "embedding_forward", embedding_forward_cost(B, T, C))) { return; }
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (size_t row = 0; row < rows; row++) {
        assert(ids[row] >= 0 && ids[row] < V);
        const float *token = token_weight + (size_t)ids[row] * C, *position = position_weight + row % T * C;
        float *o = out + row * C;
#pragma omp simd
        for (int c = 0; c < C; c++) { o[c] = token[c] + position[c]; }
    }
    (void)V;
}

// grad = beta grad for a whole table; beta is 0 or 1.
static void scale_table(float *grad, float beta, size_t n) {
    if (beta == 0) { memset(grad, 0, n * sizeof(float)); }
}

static void add_columns(float *grad, const float *dy, int first, int end) {
#pragma omp simd
    for (int c = first; c < end; c++) { grad[c] += dy[c]; }
}

// Each block of columns belongs to one thread, which adds the rows in order: no atomics, always the same bits.
void embedding_backward(float *dtoken, float *dposition, const floatX *dout, const int *ids, float beta, int B, int T,
                        int C, int V, int positions, Device *dev) {
    enum { WIDTH = 128 };
    size_t rows = (size_t)B * T, n = rows * C;
    if (!device_launch(dev, "embedding_backward",
                       embedding_backward_cost(dtoken, dposition, beta, B, T, C, V, positions))) {
        return;
    }
    if (dtoken) { scale_table(dtoken, beta, (size_t)V * C); }
    if (dposition) { scale_table(dposition, beta, (size_t)positions * C); }
#pragma omp parallel for schedule(static) if (n >= PARALLEL_MIN)
    for (int first = 0; first < C; first += WIDTH) {
        int end = C - first < WIDTH ? C : first + WIDTH;
        for (size_t row = 0; row < rows; row++) {
            const float *dy = dout + row * C;
            float *token = dtoken ? dtoken + (size_t)ids[row] * C : NULL;
            float *position = dposition ? dposition + row % T * C : NULL;
            if (token) { add_columns(token, dy, first, end); }
            if (position) { add_columns(position, dy, first, end); }
        }
    }
}

// The angle is rounded to fp32 where diffusers rounds it: at t = 999 an angle of full precision would differ by 6e-5.
void timestep_embedding_forward(floatX *out, const float *timesteps, int B, int C, bool flip_sin_to_cos,
                                float freq_shift, Device *dev) {
    int half = C / 2;
    if (!device_launch(dev, "timestep_embedding_forward", timestep_embedding_forward_cost(B, C))) { return; }
    for (int i = 0; i < half; i++) {
        float exponent = -9.21034037f * (float)i / ((float)half - freq_shift); // ln(10000)
        float frequency = (float)exp(exponent);
        for (int b = 0; b < B; b++) {
            float angle = timesteps[b] * frequency, *sine = out + (size_t)b * C + i, *cosine = sine + half;
            *(flip_sin_to_cos ? cosine : sine) = (float)sin(angle);
            *(flip_sin_to_cos ? sine : cosine) = (float)cos(angle);
        }
    }
    for (int b = 0; C % 2 && b < B; b++) { out[(size_t)b * C + C - 1] = 0; }
}
