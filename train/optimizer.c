#include "train/optimizer.h"
#include <math.h>

static const bool has_masters = sizeof(floatX) != sizeof(float);

void optimizer_bytes(const TrainOptions *options, size_t total, size_t bytes[3]) {
    bytes[0] = has_masters ? total * sizeof(float) : 0;
    bytes[1] = 2 * total * sizeof(float);
    bytes[2] = options->ema_decay > 0 ? total * sizeof(float) : 0;
}

Optimizer optimizer_create(const TrainOptions *options, floatX *weights, float *grads, size_t total, Device *dev) {
    Optimizer p = {.total = total,
                   .weights = weights,
                   .grads = grads,
                   .micro_steps = options->gradient_accumulation_steps,
                   .last_skipped = -1};
    size_t bytes = total * sizeof(float);
    if (has_masters) {
        p.master = device_alloc(dev, bytes);
        cast_to_float(p.master, weights, total, dev);
    } else {
        p.master = (float *)weights;
    }
    p.m = device_alloc(dev, bytes);
    p.v = device_alloc(dev, bytes);
    device_fill(dev, p.m, 0, bytes);
    device_fill(dev, p.v, 0, bytes);
    if (options->ema_decay > 0) {
        p.ema = device_alloc(dev, bytes);
        device_copy(dev, p.ema, p.master, bytes, false);
    }
    p.norm = device_alloc(dev, sizeof *p.norm);
    p.scalars = device_alloc(dev, (size_t)p.micro_steps * sizeof *p.scalars);
    p.host_scalars = device_alloc_pinned(dev, (size_t)p.micro_steps * sizeof *p.scalars);
    return p;
}

void optimizer_destroy(Optimizer *p, Device *dev) {
    if (has_masters) { device_free(dev, p->master); }
    device_free(dev, p->m);
    device_free(dev, p->v);
    if (p->ema) { device_free(dev, p->ema); }
    device_free(dev, p->norm);
    device_free(dev, p->scalars);
    device_free_pinned(dev, p->host_scalars);
    *p = (Optimizer){0};
}

void optimizer_begin(Optimizer *p, const TrainOptions *o, int step, const uint64_t *positions, Device *dev) {
    int known = p->skipped - (p->skipped > 0 && p->last_skipped == step - 1);
    int t = step + 1 - known; // updates made, this one included
    for (int k = 0; k < p->micro_steps; k++) {
        p->host_scalars[k] = (StepScalars){
            .seed = (uint64_t)o->seed,
            .first_sample = positions[k],
            .step = (uint32_t)step,
            .lr = (float)train_lr(o, step),
            .bias1 = (float)(1 - pow(o->adam_beta1, t)),
            .bias2 = (float)(1 - pow(o->adam_beta2, t)),
            .ema_decay = (float)fmin(o->ema_decay, (1.0 + step) / (10.0 + step)), // warm-up as in TensorFlow's EMA
            .grad_scale = 1,
            .max_norm = (float)o->max_grad_norm,
        };
    }
    device_copy(dev, p->scalars, p->host_scalars, (size_t)p->micro_steps * sizeof *p->scalars, false);
}

void optimizer_update(Optimizer *p, const TrainOptions *o, Device *dev) {
    device_scope(dev, "update");
    grad_norm(p->norm, p->grads, p->total, p->scalars, dev);
    adam_update(p->master, p->weights, p->m, p->v, p->grads, p->norm, (float)o->adam_beta1, (float)o->adam_beta2,
                (float)o->adam_epsilon, (float)o->weight_decay, p->total, p->scalars, dev);
    if (p->ema) { ema_update(p->ema, p->master, p->norm, p->total, p->scalars, dev); }
}

void optimizer_count(Optimizer *p, int step, const GradNorm *norm) {
    if (norm->finite) { return; }
    p->skipped++;
    p->last_skipped = step;
}
