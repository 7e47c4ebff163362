#include "train/optimizer.h"
#include "util/error.h"
#include "util/progress.h"
#include <math.h>
#include <stdlib.h>

static const bool has_masters = sizeof(floatX) != sizeof(float);

enum {
    SHARD_ALIGN = 64, // elements: shards begin at 128 bytes or more
    NORMS = 256,      // largest number of ranks with --zero 1
    PIECE = 1 << 22   // floats sent between ranks, or copied through the host, at a time
};

OptimizerBytes optimizer_bytes(const TrainOptions *options, size_t total) {
    size_t bytes = total * sizeof(float);
    return (OptimizerBytes){has_masters ? bytes : 0, 2 * bytes, options->ema_decay > 0 ? bytes : 0};
}

size_t optimizer_part(const TrainOptions *options, const Comm *comm, size_t total) {
    if (!options->zero || comm->world == 1) { return total; }
    size_t world = (size_t)comm->world;
    if (world > NORMS) { die("--zero 1: expected at most %d ranks, not %zu", NORMS, world); }
    if (total % (world * SHARD_ALIGN)) {
        die("--zero 1: the %zu parameters cannot be divided into %zu equal parts: use another number of ranks, "
            "such as a power of two",
            total, world);
    }
    return total / world;
}

char *optimizer_note(const TrainOptions *options, const Comm *comm, size_t total) {
    if (comm->world == 1) { return NULL; }
    char text[24];
    format_bytes((double)optimizer_all_bytes(optimizer_bytes(options, total)) * (1 - 1.0 / comm->world), text);
    return xprintf("--zero 1 %s %s on each of the %d ranks", options->zero ? "saves" : "would save", text, comm->world);
}

static float *zeros(size_t bytes, Device *dev) {
    float *buffer = device_alloc(dev, bytes);
    device_fill(dev, buffer, 0, bytes);
    return buffer;
}

Optimizer optimizer_create(const TrainOptions *options, Comm *comm, floatX *weights, float *grads, size_t total,
                           Device *dev) {
    Optimizer opt = {.comm = comm,
                     .total = total,
                     .count = optimizer_part(options, comm, total),
                     .weights = weights,
                     .grads = grads,
                     .micro_steps = options->gradient_accumulation_steps,
                     .last_skipped = -1};
    opt.sharded = opt.count < total;
    if (opt.sharded) { opt.first = opt.count * (size_t)comm->rank; }
    size_t bytes = opt.count * sizeof(float), scalars = (size_t)(opt.micro_steps + 1) * sizeof *opt.scalars;
    if (has_masters) {
        opt.master = device_alloc(dev, bytes);
        cast_to_float(opt.master, weights + opt.first, opt.count, dev);
    } else {
        opt.master = (float *)weights + opt.first;
    }
    opt.m = zeros(bytes, dev);
    opt.v = zeros(bytes, dev);
    if (options->ema_decay > 0) {
        opt.ema = device_alloc(dev, bytes);
        device_copy(dev, opt.ema, opt.master, bytes, false);
    }
    opt.norm = device_alloc(dev, sizeof *opt.norm);
    if (opt.sharded) {
        opt.shard_norm = device_alloc(dev, sizeof *opt.shard_norm);
        opt.norms = zeros(NORMS * sizeof *opt.norms, dev);
    }
    opt.scalars = device_alloc(dev, scalars);
    opt.host_scalars = device_alloc_pinned(dev, 2 * scalars);
    return opt;
}

void optimizer_destroy(Optimizer *opt, Device *dev) {
    if (has_masters) { device_free(dev, opt->master); }
    void *buffers[] = {opt->m, opt->v, opt->ema, opt->norm, opt->shard_norm, opt->norms, opt->scalars};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        if (buffers[i]) { device_free(dev, buffers[i]); }
    }
    device_free_pinned(dev, opt->host_scalars);
    *opt = (Optimizer){0};
}

double learning_rate(const TrainOptions *o, int step) {
    int warmup = o->lr_warmup_steps, total = o->lr_total_steps;
    double f = o->lr_final;
    if (step < warmup) { return o->lr * (step + 1) / warmup; }
    double x = total > warmup ? fmin(1, (double)(step - warmup) / (total - warmup)) : 1;
    switch (o->lr_kind) {
    case LR_EXPONENTIAL:
        return o->lr * pow(f, x);
    case LR_LINEAR:
        return o->lr * (1 - (1 - f) * x);
    case LR_COSINE:
        return o->lr * (f + (1 - f) * 0.5 * (1 + cos(M_PI * x)));
    case LR_WSD: {
        double start = total * (1 - o->lr_decay_share), length = fmax(1, total - start);
        return o->lr * (1 - (1 - f) * fmin(1, fmax(0, (step + 1 - start) / length)));
    }
    default:
        return o->lr;
    }
}

void optimizer_begin(Optimizer *opt, const TrainOptions *o, int step, const uint64_t *positions, Device *dev) {
    int known = opt->skipped - (opt->skipped > 0 && opt->last_skipped == step - 1);
    int t = step + 1 - known; // updates made, this one included
    // Two halves: the previous step's copy may still be in flight.
    StepScalars *host = opt->host_scalars + (step % 2) * (opt->micro_steps + 1);
    for (int k = 0; k < opt->micro_steps; k++) {
        host[k] = (StepScalars){
            .seed = (uint64_t)o->seed,
            .first_sample = positions[k],
            .step = (uint32_t)step,
            .lr = (float)learning_rate(o, step),
            .bias1 = (float)(1 - pow(o->adam_beta1, t)),
            .bias2 = (float)(1 - pow(o->adam_beta2, t)),
            .ema_decay = (float)fmin(o->ema_decay, (1.0 + step) / (10.0 + step)), // warm-up as in TensorFlow's EMA
            .grad_scale = 1.0f / (float)opt->comm->world, // turns the sum over ranks into the mean
            .max_norm = (float)o->max_grad_norm,
        };
    }
    host[opt->micro_steps] = (StepScalars){.grad_scale = 1}; // for the norm of a part
    device_copy(dev, opt->scalars, host, (size_t)(opt->micro_steps + 1) * sizeof *host, false);
}

// The norm of the gradient is the norm of its parts' norms.
static void norm_of_parts(Optimizer *opt, Device *dev) {
    grad_norm(opt->shard_norm, opt->grads + opt->first, opt->count, opt->scalars + opt->micro_steps, dev);
    device_copy(dev, opt->norms + opt->comm->rank, &opt->shard_norm->norm, sizeof *opt->norms, false);
    comm_all_gather(opt->comm, opt->norms, sizeof *opt->norms);
    comm_wait(opt->comm);
    grad_norm(opt->norm, opt->norms, NORMS, opt->scalars, dev);
}

void optimizer_update(Optimizer *opt, const TrainOptions *o, Device *dev) {
    device_scope(dev, "update");
    if (opt->sharded) {
        norm_of_parts(opt, dev);
    } else {
        grad_norm(opt->norm, opt->grads, opt->total, opt->scalars, dev);
    }
    adam_update(opt->master, opt->weights + opt->first, opt->m, opt->v, opt->grads + opt->first, opt->norm,
                (float)o->adam_beta1, (float)o->adam_beta2, (float)o->adam_epsilon, (float)o->weight_decay, opt->count,
                opt->scalars, dev);
    if (opt->ema) { ema_update(opt->ema, opt->master, opt->norm, opt->count, opt->scalars, dev); }
    if (opt->sharded) {
        comm_all_gather(opt->comm, opt->weights, opt->count * sizeof *opt->weights);
        comm_wait(opt->comm);
    }
    device_scope(dev, "");
}

void optimizer_count(Optimizer *opt, int step, const GradNorm *norm) {
    if (norm->finite) { return; }
    opt->skipped++;
    opt->last_skipped = step;
}

// ---- The state as one flat array -----------------------------------------------------------------------------------

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

void optimizer_fetch(const Optimizer *opt, const float *array, size_t first, size_t count, float *host, Device *dev) {
    if (!opt->sharded) {
        if (host) {
            device_copy(dev, host, array + first, count * sizeof *host, false);
            device_sync(dev);
        }
        return;
    }
    float *piece = device_alloc(dev, smaller(PIECE, count) * sizeof *piece);
    for (size_t done = 0, n; done < count; done += n) {
        size_t at = first + done, owner = at / opt->count;
        n = smaller(smaller(PIECE, count - done), (owner + 1) * opt->count - at);
        if ((int)owner == opt->comm->rank) {
            device_copy(dev, piece, array + at - opt->first, n * sizeof *piece, false);
        }
        comm_broadcast(opt->comm, piece, n * sizeof *piece, (int)owner);
        comm_wait(opt->comm);
        if (host) { device_copy(dev, host + done, piece, n * sizeof *piece, false); }
        device_sync(dev);
    }
    device_free(dev, piece);
}

void optimizer_store(const Optimizer *opt, float *array, size_t first, size_t count, const float *host, Device *dev) {
    size_t begin = first > opt->first ? first : opt->first, end = smaller(first + count, opt->first + opt->count);
    if (begin >= end) { return; }
    device_copy(dev, array + begin - opt->first, host + begin - first, (end - begin) * sizeof *host, false);
    device_sync(dev);
}

void optimizer_average(const Optimizer *opt, floatX *weights, Device *dev) {
    cast_to_floatX(weights + opt->first, opt->ema, opt->count, dev);
    if (!opt->sharded) { return; }
    comm_all_gather(opt->comm, weights, opt->count * sizeof *weights);
    comm_wait(opt->comm);
}
