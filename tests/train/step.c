// Optimizer steps of a UNet on given tensors, for comparison with PyTorch.
//   step MODEL IN.safetensors OUT.safetensors STEPS PARAMETER...
// IN: sample, target (N, C, H, W), timestep (N), encoder_hidden_states. OUT: loss and grad_norm (STEPS), and after the
// first step grad.PARAMETER and PARAMETER. AdamW with lr 1e-5, betas 0.9 and 0.999, eps 1e-8, weight decay 0.01.
#include "model/pipeline.h"
#include "model/weights.h"
#include "train/optimizer.h"
#include "util/error.h"
#include "util/progress.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    float *sample, *target, *timesteps, *context; // on the device, channels-last
    int B, H, W, T;
} Inputs;

static const Tensor *find(const Safetensors *in, const char *name) {
    const Tensor *t = safetensors_find(in, name);
    if (!t) { die("%s: tensor \"%s\" is missing", in->path, name); }
    return t;
}

static float *upload(const Safetensors *in, const char *name, Device *dev) {
    const Tensor *t = find(in, name);
    size_t n = (size_t)t->count, B = (size_t)t->shape[0], C = t->ndim == 4 ? (size_t)t->shape[1] : 1, P = n / B / C;
    float *values = xmalloc(n * sizeof *values), *host = device_alloc_pinned(dev, n * sizeof *host);
    if (t->dtype == DTYPE_I64) {
        int64_t *whole = xmalloc(n * sizeof *whole);
        tensor_to_int64(t, 0, t->count, whole);
        for (size_t i = 0; i < n; i++) { values[i] = (float)whole[i]; }
        free(whole);
    } else {
        tensor_to_float(t, 0, t->count, values);
    }
    for (size_t i = 0; i < n; i++) { host[(i / (C * P) * P + i % P) * C + i / P % C] = values[i]; }
    float *out = device_alloc(dev, n * sizeof *out);
    device_copy(dev, out, host, n * sizeof *host, false);
    device_sync(dev);
    device_free_pinned(dev, host);
    free(values);
    return out;
}

static Inputs inputs_read(const char *path, Device *dev) {
    Safetensors in = safetensors_open(path);
    const int64_t *s = find(&in, "sample")->shape;
    Inputs x = {.B = (int)s[0],
                .H = (int)s[2],
                .W = (int)s[3],
                .T = (int)find(&in, "encoder_hidden_states")->shape[1],
                .sample = upload(&in, "sample", dev),
                .target = upload(&in, "target", dev),
                .timesteps = upload(&in, "timestep", dev),
                .context = upload(&in, "encoder_hidden_states", dev)};
    safetensors_close(&in);
    return x;
}

static floatX *narrow(float *values, size_t n, Device *dev) {
    if (sizeof(floatX) == sizeof(float)) { return (floatX *)values; }
    floatX *out = device_alloc(dev, n * sizeof *out);
    cast_to_floatX(out, values, n, dev);
    return out;
}

// Slice i of a flat float buffer in PyTorch's order.
static float *slice_values(const ParamSlice *s, const float *flat, Device *dev) {
    float *host = xmalloc(s->count * sizeof *host), *out = xmalloc(s->count * sizeof *out);
    device_copy(dev, host, flat + s->offset, s->count * sizeof *host, false);
    device_sync(dev);
    slice_to_torch(s, out, host);
    free(host);
    return out;
}

typedef struct {
    const ParamSlice *slice;
    float *grad, *weight;
} Chosen;

static void write_results(const char *path, int steps, const float *losses, const float *norms, int count,
                          const Chosen *chosen) {
    SafetensorsWriter *w = safetensors_writer(path);
    safetensors_declare(w, "loss", 1, (int64_t[]){steps});
    safetensors_declare(w, "grad_norm", 1, (int64_t[]){steps});
    for (int i = 0; i < count; i++) {
        const ParamSlice *s = chosen[i].slice;
        int64_t shape[4] = {s->shape[0], s->shape[1], s->shape[2], s->shape[3]};
        char *name = xprintf("grad.%s", s->name);
        safetensors_declare(w, name, s->ndim, shape);
        safetensors_declare(w, s->name, s->ndim, shape);
        free(name);
    }
    safetensors_write(w, losses, steps);
    safetensors_write(w, norms, steps);
    for (int i = 0; i < count; i++) {
        safetensors_write(w, chosen[i].grad, chosen[i].slice->count);
        safetensors_write(w, chosen[i].weight, chosen[i].slice->count);
    }
    safetensors_finish(w);
}

int main(int argc, char **argv) {
    if (argc < 5) { die("usage: step MODEL IN.safetensors OUT.safetensors STEPS PARAMETER..."); }
    Device dev, plan = {.plan_only = true};
    device_open(&dev, 0);
    char *folder = xprintf("%s/unet", argv[1]), *config_path = xprintf("%s/config.json", folder);
    int steps = atoi(argv[4]), count = argc - 5;
    if (steps < 1) { die("STEPS is %s, expected at least 1", argv[4]); }
    double start = now_seconds();
    UNetConfig config = unet_config_read(config_path);
    UNet unet = unet_create(&config);
    Inputs x = inputs_read(argv[2], &dev);
    weights_load(&unet.params, folder, WEIGHTS_WRITE, &dev);
    params_alloc_grads(&unet.params, &dev);
    printf("load %.2f s\n", now_seconds() - start);

    TrainOptions options = {.lr = 1e-5,
                            .lr_kind = LR_CONSTANT,
                            .adam_beta1 = 0.9,
                            .adam_beta2 = 0.999,
                            .adam_epsilon = 1e-8,
                            .weight_decay = 0.01,
                            .gradient_accumulation_steps = 1};
    Comm alone = {.world = 1};
    Optimizer optimizer =
        optimizer_create(&options, &alone, unet.params.weights, unet.params.grads, unet.params.total, &dev);
    size_t pixels = (size_t)(x.B * x.H * x.W), n = pixels * (size_t)config.out_channels;
    size_t bytes = unet_plan(&unet, x.B, x.H, x.W, x.T, true, &plan);
    Arena arena = arena_create(&dev, bytes);
    device_reserve_workspace(&dev, plan.workspace_needed);
    floatX *sample = narrow(x.sample, pixels * (size_t)config.in_channels, &dev);
    floatX *context = narrow(x.context, (size_t)(x.B * x.T * config.cross_attention_dim), &dev);
    floatX *out = device_alloc(&dev, n * sizeof *out), *dout = device_alloc(&dev, n * sizeof *dout);
    float *loss = device_alloc(&dev, (size_t)x.B * sizeof *loss);
    float *host = device_alloc_pinned(&dev, (size_t)x.B * sizeof *host);
    GradNorm *norm = device_alloc_pinned(&dev, sizeof *norm);
    float *losses = xcalloc((size_t)steps, sizeof *losses), *norms = xcalloc((size_t)steps, sizeof *norms);
    Chosen *chosen = xcalloc((size_t)count + 1, sizeof *chosen);
    printf("activations %.2f GiB, workspace %.2f GiB\n", (double)bytes / (1 << 30),
           (double)plan.workspace_needed / (1 << 30));

    for (int step = 0; step < steps; step++) {
        start = now_seconds();
        optimizer_begin(&optimizer, &options, step, (uint64_t[]){(uint64_t)step}, &dev);
        unet_forward(&unet, &arena, out, sample, x.timesteps, context, x.B, x.H, x.W, x.T, true, &dev);
        device_sync(&dev);
        double forward = now_seconds();
        mse_loss(loss, dout, out, x.target, 1.0f / (float)x.B, x.B, (int)(n / (size_t)x.B), &dev);
        unet_backward(&unet, &arena, NULL, NULL, dout, 0, &dev);
        device_sync(&dev);
        double backward = now_seconds();
        optimizer_update(&optimizer, &options, &dev);
        device_sync(&dev);
        double update = now_seconds();
        device_copy(&dev, host, loss, (size_t)x.B * sizeof *host, false);
        device_copy(&dev, norm, optimizer.norm, sizeof *norm, false);
        device_sync(&dev);
        for (int b = 0; b < x.B; b++) { losses[step] += host[b] / (float)x.B; }
        norms[step] = norm->norm;
        printf("step %.2f s: forward %.2f, backward %.2f, update %.2f; loss %.6f, norm %.6f\n", update - start,
               forward - start, backward - forward, update - backward, losses[step], norms[step]);
        fflush(stdout);
        for (int i = 0; step == 0 && i < count; i++) {
            const ParamSlice *s = params_find(&unet.params, argv[5 + i]);
            if (!s) { die("%s: has no parameter \"%s\"", config_path, argv[5 + i]); }
            chosen[i] = (Chosen){s, slice_values(s, unet.params.grads, &dev), slice_values(s, optimizer.master, &dev)};
        }
    }
    write_results(argv[3], steps, losses, norms, count, chosen);
    return 0;
}
