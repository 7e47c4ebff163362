// Nearest-neighbour up-sampling to a given size. Backward turns the plain loops (reference.c) round: they add each
// pixel of dout to its source, here each pixel of dinp sums the rectangle of dout that came from it, and belongs to one
// thread.
#include "kernels/cost.h"
#include "kernels/cpu.h"
#include <string.h>

void upsample_nearest_forward(floatX *out, const floatX *inp, int B, int H, int W, int C, int OH, int OW, Device *dev) {
    size_t n_out = (size_t)B * OH * OW * C, row = (size_t)OW * C;
    if (!device_launch(dev, "upsample_nearest_forward", upsample_nearest_forward_cost(B, H, W, C, OH, OW))) { return; }
#pragma omp parallel for schedule(static) if (n_out >= PARALLEL_MIN)
    for (int i = 0; i < B * OH; i++) {
        int b = i / OH, y = (int)((int64_t)(i % OH) * H / OH);
        const floatX *source = inp + ((size_t)b * H + y) * W * C;
        floatX *o = out + i * row;
        for (int x = 0; x < OW; x++) {
            memcpy(o + (size_t)x * C, source + (size_t)((int64_t)x * W / OW) * C, C * sizeof(floatX));
        }
    }
}

// The first output coordinate whose source is i.
static int first_output(int i, int size, int out_size) { return (int)(((int64_t)i * out_size + size - 1) / size); }

void upsample_nearest_backward(floatX *dinp, const floatX *dout, int B, int H, int W, int C, int OH, int OW,
                               Device *dev) {
    size_t n_out = (size_t)B * OH * OW * C;
    if (!device_launch(dev, "upsample_nearest_backward", upsample_nearest_backward_cost(B, H, W, C, OH, OW))) {
        return;
    }
#pragma omp parallel for schedule(static) if (n_out >= PARALLEL_MIN)
    for (int i = 0; i < B * H; i++) {
        int b = i / H, y0 = first_output(i % H, H, OH), y1 = first_output(i % H + 1, H, OH);
        for (int x = 0; x < W; x++) {
            int x0 = first_output(x, W, OW), x1 = first_output(x + 1, W, OW);
            float *d = dinp + ((size_t)i * W + x) * C;
            memset(d, 0, C * sizeof(float));
            for (int oy = y0; oy < y1; oy++) {
                for (int ox = x0; ox < x1; ox++) {
                    const float *dy = dout + (((size_t)b * OH + oy) * OW + ox) * C;
#pragma omp simd
                    for (int c = 0; c < C; c++) { d[c] += dy[c]; }
                }
            }
        }
    }
}
