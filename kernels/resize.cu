// Nearest-neighbour up-sampling to a given size.
#include "kernels/cuda_common.cuh"

// The vector of V channels that a thread handles: pixel (y, x) of sample b, in a map of H rows and W columns. Blocks
// (b H + y, piece of the row).
template <int V> struct Pixel {
    int row, b, y, x, c;
    bool inside;
    __device__ Pixel(int H, int W, int C) {
        const int vectors = C / V, i = blockIdx.y * THREADS + threadIdx.x;
        row = blockIdx.x, b = row / H, y = row % H;
        x = i / vectors, c = i % vectors * V;
        inside = x < W;
    }
};

static dim3 grid_of(int rows, int W, int C) { return dim3(rows, ceil_div(W * (C % VEC ? C : C / VEC), (int)THREADS)); }

// The first output coordinate whose source is i.
__device__ static int first_output(int i, int size, int out_size) {
    return (int)(((int64_t)i * out_size + size - 1) / size);
}

// Each vector is read once and written to all outputs whose source it is.
template <int V>
static __global__ void __launch_bounds__(THREADS)
    copy_nearest(floatX *out, const floatX *inp, int H, int W, int C, int OH, int OW) {
    const Pixel<V> p(H, W, C);
    if (!p.inside) { return; }
    floatX v[V];
    load_words(v, inp + ((size_t)p.row * W + p.x) * C + p.c);
    for (int oy = first_output(p.y, H, OH); oy < first_output(p.y + 1, H, OH); oy++) {
        for (int ox = first_output(p.x, W, OW); ox < first_output(p.x + 1, W, OW); ox++) {
            store_words(out + (((size_t)p.b * OH + oy) * OW + ox) * C + p.c, v);
        }
    }
}

void upsample_nearest_forward(floatX *out, const floatX *inp, int B, int H, int W, int C, int OH, int OW, Device *dev) {
    if (!device_launch(dev, "upsample_nearest_forward", upsample_nearest_forward_cost(B, H, W, C, OH, OW))) { return; }
    launch_one_of<copy_nearest<1>, copy_nearest<VEC>>(C % VEC, dev, grid_of(B * H, W, C), THREADS, 0, out, inp, H, W, C,
                                                      OH, OW);
}

template <int V>
static __global__ void __launch_bounds__(THREADS)
    sum_nearest(floatX *dinp, const floatX *dout, int H, int W, int C, int OH, int OW) {
    const Pixel<V> p(H, W, C);
    if (!p.inside) { return; }
    float sum[V] = {};
    for (int oy = first_output(p.y, H, OH); oy < first_output(p.y + 1, H, OH); oy++) {
        for (int ox = first_output(p.x, W, OW); ox < first_output(p.x + 1, W, OW); ox++) {
            float dy[V];
            load(dy, dout + (((size_t)p.b * OH + oy) * OW + ox) * C + p.c);
#pragma unroll
            for (int i = 0; i < V; i++) { sum[i] += dy[i]; }
        }
    }
    store(dinp + ((size_t)p.row * W + p.x) * C + p.c, sum);
}

void upsample_nearest_backward(floatX *dinp, const floatX *dout, int B, int H, int W, int C, int OH, int OW,
                               Device *dev) {
    if (!device_launch(dev, "upsample_nearest_backward", upsample_nearest_backward_cost(B, H, W, C, OH, OW))) {
        return;
    }
    launch_one_of<sum_nearest<1>, sum_nearest<VEC>>(C % VEC, dev, grid_of(B * H, W, C), THREADS, 0, dinp, dout, H, W, C,
                                                    OH, OW);
}
