#include "train/micro_batch.h"
#include "util/error.h"
#include <stdio.h>

enum { SMALLEST = 2, STEP_SAMPLES = 32 };

// Whether training fits with the model's present size and `micro_steps` micro-batches a step. A tenth of the free
// memory stays for the library's workspace and the inputs.
static bool fits(const MicroBatch *m, int micro_steps, const TrainOptions *o, const Comm *comm, Device *dev) {
    size_t free_bytes, all_bytes, reserved = dev->workspace_needed;
    size_t inside = grads_in_arena(micro_steps, m->parameters);
    OptimizerBytes state = optimizer_bytes(o, optimizer_part(o, comm, m->parameters));
    dev->workspace_needed = 0;
    Arena plan = micro_step_plan(m->micro_step, m->model, inside, dev);
    size_t needed = arena_planned(&plan) + (m->parameters - inside) * sizeof(float) + optimizer_all_bytes(state);
    if (m->others) { needed += m->others(m->owner, dev); }
    needed += dev->workspace_needed;
    dev->workspace_needed = reserved;
    device_memory(dev, &free_bytes, &all_bytes);
    return needed + device_headroom(dev) <= (free_bytes + dev->workspace_size) / 10 * 9;
}

long long micro_batch_samples(const TrainOptions *o, int world) {
    int size = o->train_batch_size, micro_steps = o->gradient_accumulation_steps;
    char batches[48] = "";
    if (micro_steps) { return (long long)(size ? size : SMALLEST) * micro_steps; }
    if (size) { snprintf(batches, sizeof batches, " in micro-batches of %d", size); }
    if (STEP_SAMPLES % ((long long)world * (size ? size : 1))) {
        die("%d samples a step cannot be divided among %d rank%s%s: give --gradient-accumulation-steps", STEP_SAMPLES,
            world, world > 1 ? "s" : "", batches);
    }
    return STEP_SAMPLES / world;
}

// The largest part of `samples` samples that fits rank 0's GPU; on the CPU the smallest.
static int choose_size(const MicroBatch *m, int samples, const TrainOptions *o, Comm *comm, Device *dev) {
    int size = samples % SMALLEST ? 1 : SMALLEST;
    if (!dev->host_memory) {
        for (size = samples; size > 1; size--) {
            *m->B = size;
            if (samples % size == 0 && fits(m, samples / size, o, comm, dev)) { break; }
        }
    }
    comm_host_broadcast(comm, &size, sizeof size, 0);
    return size;
}

void micro_batch_choose(const MicroBatch *m, TrainOptions *o, Comm *comm, Device *dev) {
    long long samples = micro_batch_samples(o, comm->world);
    if (o->train_batch_size == 0) { o->train_batch_size = choose_size(m, (int)samples, o, comm, dev); }
    o->gradient_accumulation_steps = (int)(samples / o->train_batch_size);
    *m->B = o->train_batch_size;
    printf("%lld samples a step: micro-batches of %d x %d a rank x %d rank%s\n", train_samples(o, comm->world),
           o->train_batch_size, o->gradient_accumulation_steps, comm->world, comm->world > 1 ? "s" : "");
}
