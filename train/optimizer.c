#include "train/optimizer.h"
#include "util/error.h"
#include "util/progress.h"
#include <math.h>
#include <stdlib.h>

static const bool has_masters = sizeof(floatX) != sizeof(float);

enum {
    SHARD_ALIGN = 64, // elements: shards begin at 128 bytes or more
    NORMS = 256,      // ranks at most, with --zero 1
    PIECE = 1 << 22   // floats that pass from rank to rank, or through the host, at a time
};

void optimizer_bytes(const TrainOptions *options, size_t total, size_t bytes[3]) {
    bytes[0] = has_masters ? total * sizeof(float) : 0;
    bytes[1] = 2 * total * sizeof(float);
    bytes[2] = options->ema_decay > 0 ? total * sizeof(float) : 0;
}

size_t optimizer_part(const TrainOptions *options, const Comm *comm, size_t total) {
    if (!options->zero || !comm || comm->world == 1) { return total; }
    size_t world = (size_t)comm->world;
    if (world > NORMS || total % (world * SHARD_ALIGN)) {
        die("--zero 1: the %zu parameters cannot be divided into %zu equal parts: expected another number of ranks, "
            "such as a power of two",
            total, world);
    }
    return total / world;
}

char *optimizer_note(const TrainOptions *options, const Comm *comm, size_t total) {
    size_t bytes[3], all = 0;
    if (comm->world == 1) { return NULL; }
    optimizer_bytes(options, total, bytes);
    for (int i = 0; i < 3; i++) { all += bytes[i]; }
    char text[24];
    format_bytes((double)all * (1 - 1.0 / comm->world), text);
    return xprintf("--zero 1 %s %s on each of the %d ranks", options->zero ? "saves" : "would save", text, comm->world);
}

static float *zeros(size_t bytes, Device *dev) {
    float *buffer = device_alloc(dev, bytes);
    device_fill(dev, buffer, 0, bytes);
    return buffer;
}

Optimizer optimizer_create(const TrainOptions *options, Comm *comm, floatX *weights, float *grads, size_t total,
                           Device *dev) {
    Optimizer p = {.comm = comm,
                   .total = total,
                   .count = optimizer_part(options, comm, total),
                   .weights = weights,
                   .grads = grads,
                   .micro_steps = options->gradient_accumulation_steps,
                   .last_skipped = -1};
    p.sharded = p.count < total;
    if (p.sharded) { p.first = p.count * (size_t)comm->rank; }
    size_t bytes = p.count * sizeof(float), scalars = (size_t)(p.micro_steps + 1) * sizeof *p.scalars;
    if (has_masters) {
        p.master = device_alloc(dev, bytes);
        cast_to_float(p.master, weights + p.first, p.count, dev);
    } else {
        p.master = (float *)weights + p.first;
    }
    p.m = zeros(bytes, dev);
    p.v = zeros(bytes, dev);
    if (options->ema_decay > 0) {
        p.ema = device_alloc(dev, bytes);
        device_copy(dev, p.ema, p.master, bytes, false);
    }
    p.norm = device_alloc(dev, sizeof *p.norm);
    if (p.sharded) {
        p.shard_norm = device_alloc(dev, sizeof *p.shard_norm);
        p.norms = zeros(NORMS * sizeof *p.norms, dev);
    }
    p.scalars = device_alloc(dev, scalars);
    p.host_scalars = device_alloc_pinned(dev, 2 * scalars);
    return p;
}

void optimizer_destroy(Optimizer *p, Device *dev) {
    if (has_masters) { device_free(dev, p->master); }
    void *buffers[] = {p->m, p->v, p->ema, p->norm, p->shard_norm, p->norms, p->scalars};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        if (buffers[i]) { device_free(dev, buffers[i]); }
    }
    device_free_pinned(dev, p->host_scalars);
    *p = (Optimizer){0};
}

void optimizer_begin(Optimizer *p, const TrainOptions *o, int step, const uint64_t *positions, Device *dev) {
    int known = p->skipped - (p->skipped > 0 && p->last_skipped == step - 1);
    int t = step + 1 - known; // updates made, this one included
    int world = p->comm ? p->comm->world : 1;
    // Two halves: the copy of the step before may still be on its way.
    StepScalars *host = p->host_scalars + (step % 2) * (p->micro_steps + 1);
    for (int k = 0; k < p->micro_steps; k++) {
        host[k] = (StepScalars){
            .seed = (uint64_t)o->seed,
            .first_sample = positions[k],
            .step = (uint32_t)step,
            .lr = (float)train_lr(o, step),
            .bias1 = (float)(1 - pow(o->adam_beta1, t)),
            .bias2 = (float)(1 - pow(o->adam_beta2, t)),
            .ema_decay = (float)fmin(o->ema_decay, (1.0 + step) / (10.0 + step)), // warm-up as in TensorFlow's EMA
            .grad_scale = 1.0f / (float)world,                                    // the sum over ranks is their mean
            .max_norm = (float)o->max_grad_norm,
        };
    }
    host[p->micro_steps] = (StepScalars){.grad_scale = 1}; // for the norm of a part
    device_copy(dev, p->scalars, host, (size_t)(p->micro_steps + 1) * sizeof *host, false);
}

// The norm of the parts' norms is the norm.
static void norm_of_parts(Optimizer *p, Device *dev) {
    grad_norm(p->shard_norm, p->grads + p->first, p->count, p->scalars + p->micro_steps, dev);
    device_copy(dev, p->norms + p->comm->rank, &p->shard_norm->norm, sizeof *p->norms, false);
    comm_all_gather(p->comm, p->norms, sizeof *p->norms);
    comm_wait(p->comm);
    grad_norm(p->norm, p->norms, NORMS, p->scalars, dev);
}

void optimizer_update(Optimizer *p, const TrainOptions *o, Device *dev) {
    device_scope(dev, "update");
    if (p->sharded) {
        norm_of_parts(p, dev);
    } else {
        grad_norm(p->norm, p->grads, p->total, p->scalars, dev);
    }
    adam_update(p->master, p->weights + p->first, p->m, p->v, p->grads + p->first, p->norm, (float)o->adam_beta1,
                (float)o->adam_beta2, (float)o->adam_epsilon, (float)o->weight_decay, p->count, p->scalars, dev);
    if (p->ema) { ema_update(p->ema, p->master, p->norm, p->count, p->scalars, dev); }
    if (p->sharded) {
        comm_all_gather(p->comm, p->weights, p->count * sizeof *p->weights);
        comm_wait(p->comm);
    }
    device_scope(dev, "");
}

void optimizer_count(Optimizer *p, int step, const GradNorm *norm) {
    if (norm->finite) { return; }
    p->skipped++;
    p->last_skipped = step;
}

// ---- The state as one flat array -----------------------------------------------------------------------------------

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

void optimizer_fetch(const Optimizer *p, const float *array, size_t first, size_t count, float *host, Device *dev) {
    if (!p->sharded) {
        if (host) {
            device_copy(dev, host, array + first, count * sizeof *host, false);
            device_sync(dev);
        }
        return;
    }
    float *piece = device_alloc(dev, smaller(PIECE, count) * sizeof *piece);
    for (size_t done = 0, n; done < count; done += n) {
        size_t at = first + done, owner = at / p->count;
        n = smaller(smaller(PIECE, count - done), (owner + 1) * p->count - at);
        if ((int)owner == p->comm->rank) { device_copy(dev, piece, array + at - p->first, n * sizeof *piece, false); }
        comm_broadcast(p->comm, piece, n * sizeof *piece, (int)owner);
        comm_wait(p->comm);
        if (host) { device_copy(dev, host + done, piece, n * sizeof *piece, false); }
        device_sync(dev);
    }
    device_free(dev, piece);
}

void optimizer_store(const Optimizer *p, float *array, size_t first, size_t count, const float *host, Device *dev) {
    size_t begin = first > p->first ? first : p->first, end = smaller(first + count, p->first + p->count);
    if (begin >= end) { return; }
    device_copy(dev, array + begin - p->first, host + begin - first, (end - begin) * sizeof *host, false);
    device_sync(dev);
}

void optimizer_average(const Optimizer *p, floatX *weights, Device *dev) {
    cast_to_floatX(weights + p->first, p->ema, p->count, dev);
    if (!p->sharded) { return; }
    comm_all_gather(p->comm, weights, p->count * sizeof *weights);
    comm_wait(p->comm);
}
