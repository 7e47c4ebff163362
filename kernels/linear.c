// linear: products with rows of tokens, which are long, and weights, which are small. The plain loops (reference.c)
// read a row of inp and a row of weight again for every element of out, and each sum is one chain of additions; here
// both run through gemm.c's tiles. dinp is a product of the same kind, with the weight transposed as it is packed.
// dweight, a product of columns, and dbias are sums over all rows, cut into chunks among the threads.
#include "kernels/cost.h"
#include "kernels/gemm.h"
#include <string.h>

typedef struct {
    float *out;
    const float *inp, *init, *bias;
    int rows, tiles, K, N;
} Rows;

static void fill_rows(GemmTile *tile, int index, const void *context) {
    const Rows *r = context;
    int first = tile_first(index, r->tiles, r->rows), end = tile_first(index + 1, r->tiles, r->rows);
    size_t at = (size_t)first * r->N;
    tile->c = r->out + at;
    tile->init = r->init ? r->init + at : NULL;
    tile->bias = r->bias;
    tile->stride = r->N;
    tile->rows = end - first;
    for (int i = 0; i < tile->rows; i++) { tile->a[0][i] = r->inp + (size_t)(first + i) * r->K; }
}

// out (rows, N) = inp (rows, K) w + init + bias.
static void product(float *out, const float *inp, const GemmWeight *w, const float *init, const float *bias, int rows,
                    float *scratch) {
    Rows r = {out, inp, init, bias, rows, tile_count(rows), w->K, w->N};
    gemm_tiles(r.tiles, rows, w, fill_rows, &r, scratch);
}

void linear_forward(floatX *out, const floatX *inp, const floatX *weight, const floatX *bias, const floatX *residual,
                    int N, int IC, int OC, Device *dev) {
    bool run = device_launch(dev, "linear_forward", linear_forward_cost(bias, residual, N, IC, OC));
    GemmWeight w = {weight, 0, 1, IC, 1, IC, OC};
    float *scratch = device_workspace(dev, gemm_scratch(N, &w) * sizeof(float));
    if (!run) { return; }
    product(out, inp, &w, residual, bias, N, scratch);
}

void linear_backward(floatX *dinp, float *dweight, float *dbias, const floatX *dout, const floatX *inp,
                     const floatX *weight, const floatX *dresidual, float beta, int N, int IC, int OC, Device *dev) {
    bool run =
        device_launch(dev, "linear_backward", linear_backward_cost(dinp, dweight, dbias, dresidual, beta, N, IC, OC));
    GemmWeight w = {weight, 0, IC, 1, 1, OC, IC};
    size_t need = dinp ? gemm_scratch(N, &w) : 0;
    size_t sums = dbias ? column_sum_scratch(N, OC) : 0, outer = gemm_outer_scratch(N, OC, IC, OUTER_CHUNK);
    if (dweight && outer > need) { need = outer; }
    float *scratch = device_workspace(dev, (need > sums ? need : sums) * sizeof(float));
    if (!run) { return; }
    if (dinp) { product(dinp, dout, &w, dresidual, NULL, N, scratch); }
    if (dweight) {
        gemm_outer(dweight, dout, beta, N, OC, IC, OUTER_CHUNK, gemm_gather_rows, &(GemmRows){inp, IC}, scratch);
    }
    if (dbias) { column_sum(dbias, dout, beta, N, OC, scratch); }
}
