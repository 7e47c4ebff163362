// Nearest-neighbour up-sampling to a given size.
#include "kernels/cuda_common.cuh"

enum { THREADS = 256 };

// The vector of V channels that a thread handles: pixel (y, x) of sample b, in a map of `width` columns. The block
// index is b rows + y.
template <int V> struct Pixel {
    int x, c;
    bool inside;
    __device__ Pixel(int width, int C) {
        const int vectors = C / V, i = blockIdx.x * THREADS + threadIdx.x;
        x = i / vectors, c = i % vectors * V;
        inside = x < width;
    }
};

static dim3 grid_of(int rows, int width, int C, int V) { return dim3(ceil_div(width * (C / V), (int)THREADS), rows); }

// The first output coordinate whose source is i.
__device__ static int first_output(int i, int size, int out_size) {
    return (int)(((int64_t)i * out_size + size - 1) / size);
}

// Each vector is read once and written to all outputs whose source it is.
template <int V>
static __global__ void __launch_bounds__(THREADS)
    copy_nearest(floatX *out, const floatX *inp, int first, int H, int W, int C, int OH, int OW) {
    const Pixel<V> p(W, C);
    if (!p.inside) { return; }
    const int row = first + blockIdx.y, b = row / H, y = row % H;
    floatX v[V];
    load_words(v, inp + ((size_t)row * W + p.x) * C + p.c);
    for (int oy = first_output(y, H, OH); oy < first_output(y + 1, H, OH); oy++) {
        for (int ox = first_output(p.x, W, OW); ox < first_output(p.x + 1, W, OW); ox++) {
            store_words(out + (((size_t)b * OH + oy) * OW + ox) * C + p.c, v);
        }
    }
}

// The grid's y dimension is limited to 65535 blocks.
template <class Run> static void over_rows(int rows, Run run) {
    for (int first = 0; first < rows; first += 65535) { run(first, rows - first < 65535 ? rows - first : 65535); }
}

void upsample_nearest_forward(floatX *out, const floatX *inp, int B, int H, int W, int C, int OH, int OW, Device *dev) {
    if (!device_launch(dev, "upsample_nearest_forward", upsample_nearest_forward_cost(B, H, W, C, OH, OW))) { return; }
    over_rows(B * H, [&](int first, int rows) {
        if (C % VEC) {
            launch<copy_nearest<1>>(dev, grid_of(rows, W, C, 1), THREADS, 0, out, inp, first, H, W, C, OH, OW);
        } else {
            launch<copy_nearest<VEC>>(dev, grid_of(rows, W, C, VEC), THREADS, 0, out, inp, first, H, W, C, OH, OW);
        }
    });
}

template <int V>
static __global__ void __launch_bounds__(THREADS)
    sum_nearest(floatX *dinp, const floatX *dout, int first, int H, int W, int C, int OH, int OW) {
    const Pixel<V> p(W, C);
    if (!p.inside) { return; }
    const int row = first + blockIdx.y, b = row / H, y = row % H;
    float sum[V] = {};
    for (int oy = first_output(y, H, OH); oy < first_output(y + 1, H, OH); oy++) {
        for (int ox = first_output(p.x, W, OW); ox < first_output(p.x + 1, W, OW); ox++) {
            float dy[V];
            load(dy, dout + (((size_t)b * OH + oy) * OW + ox) * C + p.c);
#pragma unroll
            for (int i = 0; i < V; i++) { sum[i] += dy[i]; }
        }
    }
    store(dinp + ((size_t)row * W + p.x) * C + p.c, sum);
}

void upsample_nearest_backward(floatX *dinp, const floatX *dout, int B, int H, int W, int C, int OH, int OW,
                               Device *dev) {
    if (!device_launch(dev, "upsample_nearest_backward", upsample_nearest_backward_cost(B, H, W, C, OH, OW))) {
        return;
    }
    over_rows(B * H, [&](int first, int rows) {
        if (C % VEC) {
            launch<sum_nearest<1>>(dev, grid_of(rows, W, C, 1), THREADS, 0, dinp, dout, first, H, W, C, OH, OW);
        } else {
            launch<sum_nearest<VEC>>(dev, grid_of(rows, W, C, VEC), THREADS, 0, dinp, dout, first, H, W, C, OH, OW);
        }
    });
}
