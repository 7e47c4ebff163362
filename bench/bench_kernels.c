// Every function of kernels/kernels.h at the shapes of our models. A new kernel gets a function here and a row in the
// table at the end, and a twin in compare.py.
#include "bench/bench.h"
#include "util/error.h"

// The loop that measures one call.
#define TIME(call)                                                                                                     \
    for (bench_start(b); bench_next(b);) { call; }

// Checks a requirement on --shape.
static void expect(bool holds, const char *rule) {
    if (!holds) { die("--shape: expected %s", rule); }
}

static void run_linear(Bench *b, const int *s) {
    int N = s[0], IC = s[1], OC = s[2];
    size_t in = (size_t)N * IC, out_n = (size_t)N * OC, weights = (size_t)OC * IC;
    floatX *out = bench_tensor(b, out_n), *inp = bench_tensor(b, in), *weight = bench_tensor(b, weights);
    floatX *bias = bench_tensor(b, OC), *dout = bench_tensor(b, out_n), *dinp = bench_tensor(b, in);
    float *dweight = bench_floats(b, weights), *dbias = bench_floats(b, OC);
    TIME(linear_forward(out, inp, weight, bias, NULL, N, IC, OC, b->dev))
    TIME(linear_backward(dinp, dweight, dbias, dout, inp, weight, NULL, 0, N, IC, OC, b->dev))
}

static void run_conv2d(Bench *b, const int *s) {
    int K = s[5];
    expect((K == 1 || K == 3) && s[6] <= 2, "K 1 or 3 and a stride of 1 or 2");
    Conv2d c = {.B = s[0], .H = s[1], .W = s[2], .IC = s[3], .OC = s[4], .K = K, .stride = s[6]};
    c.pad_before = c.pad_after = K / 2;
    size_t in = (size_t)c.B * c.H * c.W * c.IC, weights = (size_t)c.OC * K * K * c.IC;
    size_t out_n = (size_t)c.B * conv2d_out(&c, c.H) * conv2d_out(&c, c.W) * c.OC;
    floatX *out = bench_tensor(b, out_n), *inp = bench_tensor(b, in), *weight = bench_tensor(b, weights);
    floatX *bias = bench_tensor(b, c.OC), *dout = bench_tensor(b, out_n), *dinp = bench_tensor(b, in);
    float *dweight = bench_floats(b, weights), *dbias = bench_floats(b, c.OC);
    TIME(conv2d_forward(out, inp, weight, bias, NULL, NULL, c, b->dev))
    TIME(conv2d_backward(dinp, dweight, dbias, NULL, dout, inp, weight, NULL, 0, c, b->dev))
}

static void run_groupnorm(Bench *b, const int *s) {
    int B = s[0], HW = s[1], C = s[2], G = s[3];
    bool silu = s[4];
    expect(C % G == 0, "C to be a multiple of G");
    size_t n = (size_t)B * HW * C;
    floatX *out = bench_tensor(b, n), *inp = bench_tensor(b, n), *dout = bench_tensor(b, n), *dinp = bench_tensor(b, n);
    floatX *weight = bench_tensor(b, C), *bias = bench_tensor(b, C);
    float *mean = bench_floats(b, B * G), *rstd = bench_floats(b, B * G);
    float *dweight = bench_floats(b, C), *dbias = bench_floats(b, C);
    TIME(groupnorm_forward(out, mean, rstd, inp, weight, bias, B, HW, C, G, 1e-5f, silu, b->dev))
    TIME(groupnorm_recompute(out, inp, weight, bias, mean, rstd, B, HW, C, G, silu, b->dev))
    TIME(groupnorm_backward(dinp, dweight, dbias, dout, inp, weight, bias, mean, rstd, NULL, 0, B, HW, C, G, silu,
                            b->dev))
}

static void run_layernorm(Bench *b, const int *s) {
    int N = s[0], C = s[1];
    size_t n = (size_t)N * C;
    floatX *out = bench_tensor(b, n), *inp = bench_tensor(b, n), *dout = bench_tensor(b, n), *dinp = bench_tensor(b, n);
    floatX *weight = bench_tensor(b, C), *bias = bench_tensor(b, C);
    float *mean = bench_floats(b, N), *rstd = bench_floats(b, N);
    float *dweight = bench_floats(b, C), *dbias = bench_floats(b, C);
    TIME(layernorm_forward(out, mean, rstd, inp, weight, bias, N, C, 1e-5f, b->dev))
    TIME(layernorm_backward(dinp, dweight, dbias, dout, inp, weight, mean, rstd, NULL, 0, N, C, b->dev))
}

static void run_activation(Bench *b, const int *s) {
    size_t n = (size_t)s[0];
    floatX *out = bench_tensor(b, n), *inp = bench_tensor(b, n), *dout = bench_tensor(b, n), *dinp = bench_tensor(b, n);
    TIME(silu_forward(out, inp, n, b->dev))
    TIME(silu_backward(dinp, dout, inp, n, b->dev))
    TIME(gelu_forward(out, inp, n, b->dev))
    TIME(gelu_backward(dinp, dout, inp, n, b->dev))
    TIME(quick_gelu_forward(out, inp, n, b->dev))
    TIME(quick_gelu_backward(dinp, dout, inp, n, b->dev))
}

static void run_geglu(Bench *b, const int *s) {
    int N = s[0], H = s[1];
    size_t n = (size_t)N * H;
    floatX *out = bench_tensor(b, n), *inp = bench_tensor(b, 2 * n), *dout = bench_tensor(b, n);
    floatX *dinp = bench_tensor(b, 2 * n);
    TIME(geglu_forward(out, inp, N, H, b->dev))
    TIME(geglu_backward(dinp, out, dout, inp, N, H, b->dev))
}

// As the models call it: q, k and v packed in one product in self-attention, k and v packed in cross-attention.
static void run_attention(Bench *b, const int *s) {
    int B = s[0], NH = s[1], Tq = s[2], Tk = s[3], HS = s[4], C = NH * HS;
    bool self = Tq == Tk;
    expect(!s[5] || self, "Tq = Tk with causal");
    Attention a = {.B = B, .NH = NH, .Tq = Tq, .Tk = Tk, .HS = HS, .causal = s[5], .out_stride = C};
    a.q_stride = self ? 3 * C : C;
    a.k_stride = a.v_stride = self ? 3 * C : 2 * C;
    size_t nq = (size_t)B * Tq * C, nk = (size_t)B * Tk * C;
    floatX *q = bench_tensor(b, self ? 3 * nq : nq), *dq = bench_tensor(b, self ? 3 * nq : nq);
    floatX *k = self ? q + C : bench_tensor(b, 2 * nk), *dk = self ? dq + C : bench_tensor(b, 2 * nk);
    floatX *out = bench_tensor(b, nq), *dout = bench_tensor(b, nq);
    float *lse = bench_floats(b, (size_t)B * NH * Tq);
    TIME(attention_forward(out, lse, q, k, k + C, a, b->dev))
    TIME(attention_backward(dq, dk, dk + C, dout, q, k, k + C, out, lse, a, b->dev))
}

static void run_embedding(Bench *b, const int *s) {
    int B = s[0], T = s[1], C = s[2], V = s[3];
    size_t n = (size_t)B * T * C;
    floatX *out = bench_tensor(b, n), *tokens = bench_tensor(b, (size_t)V * C), *positions = bench_tensor(b, T * C);
    floatX *dout = bench_tensor(b, n);
    float *dtokens = bench_floats(b, (size_t)V * C), *dpositions = bench_floats(b, T * C);
    int *ids = bench_ids(b, (size_t)B * T, V);
    TIME(embedding_forward(out, ids, tokens, positions, B, T, C, V, b->dev))
    TIME(embedding_backward(dtokens, dpositions, dout, ids, 0, B, T, C, V, T, b->dev))
}

static void run_timestep_embedding(Bench *b, const int *s) {
    int B = s[0], C = s[1];
    floatX *out = bench_tensor(b, (size_t)B * C);
    float *timesteps = bench_floats(b, B);
    sample_timesteps(timesteps, B, 1000, 0, b->scalars, b->dev);
    TIME(timestep_embedding_forward(out, timesteps, B, C, true, 0, b->dev))
}

static void run_upsample(Bench *b, const int *s) {
    int B = s[0], H = s[1], W = s[2], C = s[3];
    size_t n = (size_t)B * H * W * C;
    floatX *out = bench_tensor(b, 4 * n), *inp = bench_tensor(b, n);
    TIME(upsample_nearest_forward(out, inp, B, H, W, C, 2 * H, 2 * W, b->dev))
    TIME(upsample_nearest_backward(inp, out, B, H, W, C, 2 * H, 2 * W, b->dev))
}

static void run_concat(Bench *b, const int *s) {
    int N = s[0], CA = s[1], CB = s[2];
    floatX *out = bench_tensor(b, (size_t)N * (CA + CB));
    floatX *x = bench_tensor(b, (size_t)N * CA), *y = bench_tensor(b, (size_t)N * CB);
    TIME(concat_forward(out, x, y, N, CA, CB, b->dev))
    TIME(concat_backward(x, y, out, N, CA, CB, b->dev))
}

static void run_elementwise(Bench *b, const int *s) {
    size_t n = (size_t)s[0];
    floatX *out = bench_tensor(b, n), *x = bench_tensor(b, n), *y = bench_tensor(b, n);
    float *wide = bench_floats(b, n), *sum = bench_floats(b, n);
    TIME(add_forward(out, x, y, n, b->dev))
    TIME(scale_shift_forward(out, x, 0.18215f, 0.5f, n, b->dev))
    TIME(add_scaled(sum, wide, 0.1f, n, b->dev))
    TIME(cast_to_floatX(out, wide, n, b->dev))
    TIME(cast_to_float(wide, x, n, b->dev))
}

static void run_gaussian(Bench *b, const int *s) {
    int B = s[0], N = B * s[1], L = s[2];
    size_t n = (size_t)N * L;
    floatX *z = bench_tensor(b, n), *moments = bench_tensor(b, 2 * n), *dmoments = bench_tensor(b, 2 * n);
    float *noise = bench_floats(b, n), *kl = bench_floats(b, B);
    TIME(gaussian_forward(z, moments, noise, N, L, b->dev))
    TIME(gaussian_backward(dmoments, z, moments, noise, 1e-6f, N, L, b->dev))
    TIME(gaussian_kl(kl, moments, B, N, L, b->dev))
}

static void run_noise(Bench *b, const int *s) {
    int B = s[0], H = s[1], W = s[2], C = s[3], n = H * W * C, T = 1000;
    size_t N = (size_t)B * n;
    float *noise = bench_floats(b, N), *x0 = bench_floats(b, N), *x = bench_floats(b, N), *target = bench_floats(b, N);
    float *timesteps = bench_floats(b, B), *alphas_cumprod = bench_floats(b, T);
    floatX *out = bench_tensor(b, N);
    device_fill(b->dev, alphas_cumprod, 0x3f, T * sizeof *alphas_cumprod); // 0.747, everywhere
    TIME(normal_noise(noise, B, n, 1, b->scalars, b->dev))
    TIME(sample_timesteps(timesteps, B, T, 0.5f, b->scalars, b->dev))
    TIME(multires_noise(noise, timesteps, 0.9f, true, T, B, H, W, C, b->scalars, b->dev))
    TIME(add_noise_forward(out, target, x0, noise, timesteps, alphas_cumprod, PREDICT_V, B, n, b->dev))
    TIME(predict_x0(x0, out, x, timesteps, alphas_cumprod, PREDICT_V, B, n, b->dev))
    TIME(predict_x0_backward(out, out, timesteps, alphas_cumprod, PREDICT_V, 1, B, n, b->dev))
    TIME(ddim_step(x, out, 0.5f, 0.6f, PREDICT_V, B, n, b->dev))
}

static void run_loss(Bench *b, const int *s) {
    int B = s[0], C = s[2], n = s[1] * C;
    size_t N = (size_t)B * n;
    floatX *pred = bench_tensor(b, N), *dpred = bench_tensor(b, N);
    float *target = bench_floats(b, N), *loss = bench_floats(b, B), *weight = bench_floats(b, N / C);
    TIME(mse_loss(loss, dpred, pred, target, 1, B, n, b->dev))
    TIME(l1_mse_loss(loss, dpred, pred, target, 1, 1, B, n, b->dev))
    TIME(weighted_mse_loss(loss, dpred, pred, target, weight, 1, B, n, C, b->dev))
    TIME(focal_mse_loss(loss, dpred, pred, target, 2, 1, B, n, C, b->dev))
}

static void run_dice(Bench *b, const int *s) {
    static const float white[3] = {1, 1, 1};
    int B = s[0], n = s[1] * 3;
    size_t N = (size_t)B * n;
    floatX *pred = bench_tensor(b, N), *dpred = bench_tensor(b, N);
    float *target = bench_floats(b, N), *loss = bench_floats(b, B);
    TIME(dice_loss(loss, dpred, pred, target, white, 1, B, n, b->dev))
}

static void run_optimizer(Bench *b, const int *s) {
    size_t n = (size_t)s[0];
    float *master = bench_floats(b, n), *grad = bench_floats(b, n), *m = bench_floats(b, n), *v = bench_floats(b, n);
    float *ema = bench_floats(b, n);
    floatX *param = sizeof(floatX) == sizeof(float) ? (floatX *)master : bench_tensor(b, n);
    GradNorm *norm = (GradNorm *)bench_floats(b, 64);
    device_fill(b->dev, v, 0, n * sizeof *v);
    TIME(grad_norm(norm, grad, n, b->scalars, b->dev))
    TIME(adam_update(master, param, m, v, grad, norm, 0.9f, 0.999f, 1e-8f, 0.01f, n, b->scalars, b->dev))
    TIME(ema_update(ema, master, norm, n, b->scalars, b->dev))
}

// clang-format off
const BenchLayer bench_layers[] = {
    {"linear", "N,IC,OC", run_linear,
     {{"mini", {1024, 64, 64}}, {"mini", {1024, 64, 512}}, {"mini", {1024, 256, 64}}, {"mini", {256, 64, 128}},
      {"mini", {16, 128, 128}}, {"sd2", {2048, 320, 320}}, {"sd2", {2048, 320, 2560}}, {"sd2", {512, 640, 640}},
      {"sd2", {154, 1024, 640}}, {"sd2", {128, 1280, 1280}}, {"sd2", {2, 1280, 1280}},
      {"sd2-64", {8192, 320, 320}}, {"sd2-64", {8192, 320, 2560}}, {"sd2-64", {8192, 1280, 320}},
      {"sd2-64", {2048, 640, 640}}, {"sd2-64", {2048, 640, 5120}}, {"sd2-64", {512, 1280, 1280}},
      {"sd2-64", {512, 1280, 10240}}, {"sd2-64", {154, 1024, 1280}}}},
    {"conv2d", "B,H,W,IC,OC,K,stride", run_conv2d,
     {{"mini", {16, 16, 16, 8, 32, 3, 1}}, {"mini", {16, 16, 16, 32, 32, 3, 1}}, {"mini", {16, 8, 8, 64, 64, 3, 1}},
      {"mini", {16, 8, 8, 128, 64, 3, 1}}, {"mini", {16, 16, 16, 32, 32, 3, 2}}, {"mini", {16, 16, 16, 96, 32, 1, 1}},
      {"vae", {8, 64, 64, 16, 16, 3, 1}}, {"sd2", {2, 32, 32, 320, 320, 3, 1}}, {"sd2", {2, 16, 16, 640, 640, 3, 1}},
      {"sd2", {2, 8, 8, 1280, 1280, 3, 1}}, {"sd2", {2, 4, 4, 1280, 1280, 3, 1}}, {"sd2", {2, 32, 32, 320, 320, 3, 2}},
      {"sd2-64", {2, 64, 64, 8, 320, 3, 1}}, {"sd2-64", {2, 64, 64, 320, 320, 3, 1}},
      {"sd2-64", {2, 64, 64, 960, 320, 3, 1}}, {"sd2-64", {2, 64, 64, 320, 320, 3, 2}},
      {"sd2-64", {2, 32, 32, 640, 640, 3, 1}}, {"sd2-64", {2, 32, 32, 1920, 640, 3, 1}},
      {"sd2-64", {2, 16, 16, 1280, 1280, 3, 1}}, {"sd2-64", {2, 16, 16, 2560, 1280, 3, 1}},
      {"sd2-64", {2, 8, 8, 1280, 1280, 3, 1}}}},
    {"groupnorm", "B,HW,C,G,silu", run_groupnorm,
     {{"mini", {16, 256, 32, 8, 1}}, {"mini", {16, 64, 128, 8, 1}}, {"mini", {16, 64, 64, 8, 0}},
      {"vae", {8, 4096, 16, 4, 1}}, {"sd2", {2, 1024, 320, 32, 1}}, {"sd2", {2, 1024, 320, 32, 0}},
      {"sd2", {2, 4096, 320, 32, 1}}, {"sd2", {2, 64, 2560, 32, 1}},
      {"sd2-64", {2, 4096, 320, 32, 1}}, {"sd2-64", {2, 4096, 320, 32, 0}}, {"sd2-64", {2, 4096, 960, 32, 1}},
      {"sd2-64", {2, 1024, 640, 32, 1}}, {"sd2-64", {2, 256, 1280, 32, 1}}, {"sd2-64", {2, 64, 2560, 32, 1}}}},
    {"layernorm", "N,C", run_layernorm,
     {{"mini", {1024, 64}}, {"clip", {1280, 64}}, {"sd2", {2048, 320}}, {"sd2", {8192, 320}}, {"sd2", {512, 1280}},
      {"sd2-64", {8192, 320}}, {"sd2-64", {2048, 640}}, {"sd2-64", {512, 1280}}}},
    {"activation", "n", run_activation, {{"mini", {131072}}, {"sd2", {655360}}, {"sd2", {5242880}},
      {"sd2-64", {2560}}}},
    {"geglu", "N,H", run_geglu, {{"mini", {1024, 256}}, {"sd2", {2048, 1280}}, {"sd2", {8192, 1280}},
      {"sd2-64", {8192, 1280}}, {"sd2-64", {2048, 2560}}, {"sd2-64", {512, 5120}}}},
    {"attention", "B,NH,Tq,Tk,HS,causal", run_attention,
     {{"mini", {16, 4, 64, 64, 16, 0}}, {"mini", {16, 4, 64, 16, 16, 0}}, {"clip", {2, 16, 77, 77, 64, 1}},
      {"vae", {1, 1, 1024, 1024, 512, 0}}, {"sd2", {2, 5, 1024, 1024, 64, 0}}, {"sd2", {2, 5, 1024, 77, 64, 0}},
      {"sd2", {1, 5, 4096, 4096, 64, 0}},
      {"sd2-64", {2, 5, 4096, 4096, 64, 0}}, {"sd2-64", {2, 10, 1024, 1024, 64, 0}},
      {"sd2-64", {2, 20, 256, 256, 64, 0}}, {"sd2-64", {2, 5, 4096, 77, 64, 0}},
      {"sd2-64", {2, 10, 1024, 77, 64, 0}}}},
    {"embedding", "B,T,C,V", run_embedding, {{"mini", {80, 16, 64, 1000}}, {"clip", {2, 77, 1024, 49408}}}},
    {"timestep_embedding", "B,C", run_timestep_embedding, {{"mini", {16, 32}}, {"sd2", {32, 320}}, {"sd2-64", {2, 320}}}},
    {"upsample", "B,H,W,C", run_upsample, {{"mini", {16, 8, 8, 64}}, {"vae", {8, 32, 32, 32}}, {"sd2", {2, 16, 16, 640}},
      {"sd2-64", {2, 32, 32, 640}}}},
    {"concat", "N,CA,CB", run_concat, {{"mini", {4096, 64, 32}}, {"mini", {4096, 4, 4}}, {"sd2", {8192, 320, 320}},
      {"sd2-64", {8192, 640, 320}}}},
    {"elementwise", "n", run_elementwise, {{"mini", {131072}}, {"sd2", {2621440}}, {"sd2-64", {2621440}}}},
    {"gaussian", "B,HW,L", run_gaussian, {{"mini", {8, 256, 4}}, {"sd2", {8, 4096, 4}}}},
    {"noise", "B,H,W,C", run_noise, {{"mini", {16, 16, 16, 4}}, {"sd2", {32, 64, 64, 4}}, {"sd2-64", {2, 64, 64, 4}}}},
    {"loss", "B,HW,C", run_loss, {{"mini", {16, 256, 4}}, {"sd2", {32, 4096, 4}}, {"sd2-64", {2, 4096, 4}}}},
    {"dice", "B,HW", run_dice, {{"mini", {1, 4096}}, {"sd2", {1, 262144}}}},
    // sd2-64: an eighth of SD2's parameters, with tensors of 2.2 GB (bf16: 2.8); the times are in proportion.
    {"optimizer", "n", run_optimizer, {{"mini", {1 << 20}}, {"sd2", {50 << 20}}, {"sd2-64", {108240280}}},
     .of_parameters = true},
    {0},
};
// clang-format on
