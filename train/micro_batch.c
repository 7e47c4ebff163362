#include "train/micro_batch.h"
#include <stdio.h>

enum { SMALLEST = 2 };

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

void micro_batch_choose(const MicroBatch *m, TrainOptions *o, Comm *comm, Device *dev) {
    if (o->train_batch_size == 0) {
        int samples = SMALLEST * o->gradient_accumulation_steps, size = SMALLEST;
        if (!dev->host_memory) {
            for (size = samples; size > 1; size--) {
                *m->B = size;
                if (samples % size == 0 && fits(m, samples / size, o, comm, dev)) { break; }
            }
        }
        comm_host_broadcast(comm, &size, sizeof size, 0);
        o->train_batch_size = size;
        o->gradient_accumulation_steps = samples / size;
        if (!dev->host_memory) {
            printf("--train-batch-size 0: micro-batches of %d samples, %d per step\n", size, samples / size);
        }
    }
    *m->B = o->train_batch_size;
}
