#include "train/step.h"
#include "util/error.h"
#include "util/interrupt.h"
#include "util/threads.h"
#include <math.h>
#include <stdlib.h>

enum {
    BUCKETS = 24,          // of the gradient, for a small model
    BUCKET_MOST = 16 << 20 // elements, 64 MB: larger ones gain no bandwidth
};

static size_t row_of(const Step *s) { return (size_t)(s->micro_steps * s->B) + 1; }

Arena micro_step_plan(MicroStep *micro_step, void *model, size_t grads, Device *dev) {
    bool plan_only = dev->plan_only;
    dev->plan_only = true;
    Arena arena = arena_measure(dev);
    arena_plan_grads(&arena, PLAN_POINTER, grads);
    micro_step(model, &arena, PLAN_POINTER, NULL, 0, true, dev);
    dev->plan_only = plan_only;
    return arena;
}

size_t grads_in_arena(int micro_steps, size_t parameters) { return micro_steps == 1 ? parameters : 0; }

Step step_create(const TrainOptions *o, Comm *comm, Optimizer *optimizer, Params *const params[2], Device *dev) {
    Step s = {.options = o,
              .comm = comm,
              .optimizer = optimizer,
              .params = {params[0], params[1]},
              .B = o->train_batch_size,
              .micro_steps = o->gradient_accumulation_steps,
              .bucket = optimizer->total / BUCKETS,
              .dev = dev};
    if (s.bucket > BUCKET_MOST) { s.bucket = BUCKET_MOST; }
    size_t bytes = (size_t)comm->world * row_of(&s) * sizeof(float);
    s.scalars = device_alloc(dev, sizeof *s.scalars);
    s.losses = device_alloc(dev, (size_t)s.B * sizeof *s.losses);
    s.all_losses = device_alloc(dev, bytes);
    s.stop = device_alloc_pinned(dev, 2 * sizeof *s.stop);
    s.positions = xcalloc((size_t)s.micro_steps, sizeof *s.positions);
    for (int i = 0; i < 2; i++) {
        s.reports[i] = (Report){.losses = device_alloc_pinned(dev, bytes),
                                .norm = device_alloc_pinned(dev, sizeof(GradNorm)),
                                .started = device_event_create(dev),
                                .arrived = device_event_create(dev)};
    }
    return s;
}

static void forget_recordings(Step *s) {
    for (int i = 0; i < 4; i++) {
        Recording *r = &s->recordings[i / 2][i % 2];
        for (int part = 0; part < r->count; part++) { device_graph_destroy(r->parts[part].graph); }
        free(r->parts);
        *r = (Recording){.warm = r->warm};
    }
}

void step_destroy(Step *s, Device *dev) {
    forget_recordings(s);
    for (int i = 0; i < 2; i++) {
        device_free_pinned(dev, s->reports[i].losses);
        device_free_pinned(dev, s->reports[i].norm);
        device_event_destroy(s->reports[i].started);
        device_event_destroy(s->reports[i].arrived);
    }
    device_free(dev, s->scalars);
    device_free(dev, s->losses);
    device_free(dev, s->all_losses);
    device_free_pinned(dev, s->stop);
    free(s->positions);
    *s = (Step){0};
}

// Micro-batch k of all ranks together is a run of consecutive samples; each rank has its part (data/loader.h).
void step_begin(Step *s, int step, Device *dev) {
    uint64_t rank = (uint64_t)s->comm->rank, world = (uint64_t)s->comm->world, B = (uint64_t)s->B;
    uint64_t first = (uint64_t)step * (uint64_t)train_samples(s->options, s->comm->world);
    for (int k = 0; k < s->micro_steps; k++) { s->positions[k] = first + ((uint64_t)k * world + rank) * B; }
    device_event_record(dev, s->reports[step % 2].started, false);
    optimizer_begin(s->optimizer, s->options, step, s->positions, dev);
}

// ---- The gradient, summed over the ranks ---------------------------------------------------------------------------

// Reduces the gradient from `from` to where it is already reduced. With --zero 1 each rank gets only the sum of its own
// part: all these reductions together are a reduce-scatter.
static void reduce(Step *s, size_t from) {
    const Optimizer *opt = s->optimizer;
    size_t until = s->reduced;
    s->reduced = from;
    for (size_t at = from, end; at < until; at = end) {
        if (!opt->sharded) {
            comm_all_reduce_sum(s->comm, opt->grads + at, (end = until) - at);
            continue;
        }
        size_t owner = at / opt->count;
        end = (owner + 1) * opt->count < until ? (owner + 1) * opt->count : until;
        comm_reduce_sum(s->comm, opt->grads + at, end - at, (int)owner);
    }
}

// Makes a graph of what was recorded since the last cut, and launches it.
static void cut_recording(Step *s, size_t from) {
    Recording *r = s->recording;
    DeviceGraph *graph = device_graph_end(s->dev);
    r->parts = xrealloc(r->parts, (size_t)(r->count + 1) * sizeof *r->parts);
    r->parts[r->count++] = (struct RecordedPart){graph, from};
    device_graph_launch(s->dev, graph);
}

// Backward calls this in the last micro-step. step_micro_end reduces the beginning of the buffer.
static void grads_final(void *data, const float *first) {
    Step *s = data;
    size_t from = (size_t)(first - s->optimizer->grads);
    if (from == 0 || s->reduced - from < s->bucket) { return; }
    if (s->recording) { cut_recording(s, from); }
    reduce(s, from);
    if (s->recording) { device_graph_begin(s->dev); }
}

// ---- A micro-step --------------------------------------------------------------------------------------------------

static bool may_record(const Step *s, const Recording *r) {
#ifdef DEBUG_GUARDS
    (void)s, (void)r;
    return false; // the arena's checks wait for the device
#else
    return r->warm && !s->options->no_cuda_graph && !s->dev->trace;
#endif
}

static void replay(Step *s, const Recording *r) {
    device_scope(s->dev, "micro-step");
    for (int i = 0; i < r->count; i++) {
        device_graph_launch(s->dev, r->parts[i].graph);
        if (r->parts[i].from) { reduce(s, r->parts[i].from); }
    }
    device_scope(s->dev, "");
}

static bool reduces(const Step *s, int k) { return k + 1 == s->micro_steps && s->comm->world > 1; }

bool step_micro_begin(Step *s, int k, Device *dev) {
    threads_adapt();
    Recording *r = &s->recordings[k > 0][reduces(s, k)];
    for (int i = 0; i < 2 && s->params[i]; i++) {
        s->params[i]->grads_final = (GradsFinal){reduces(s, k) ? grads_final : NULL, s};
    }
    s->reduced = s->optimizer->total;
    if (s->workspace != dev->workspace) { forget_recordings(s); }
    device_copy(dev, s->scalars, s->optimizer->scalars + k, sizeof *s->scalars, false);
    if (r->count) {
        replay(s, r);
        return false;
    }
    if (may_record(s, r) && device_graph_begin(dev)) {
        s->recording = r;
        s->workspace = dev->workspace;
    }
    r->warm = true;
    return true;
}

void step_micro_end(Step *s, int k, Device *dev) {
    if (s->recording) { cut_recording(s, 0); }
    s->recording = NULL;
    if (reduces(s, k)) { reduce(s, 0); }
    float *row = s->all_losses + (size_t)s->comm->rank * row_of(s);
    device_copy(dev, row + (size_t)(k * s->B), s->losses, (size_t)s->B * sizeof *row, false);
}

// ---- The end of a step ---------------------------------------------------------------------------------------------

static void send_report(Step *s, int step, Device *dev) {
    Report *r = &s->reports[step % 2];
    size_t row = row_of(s);
    s->stop[step % 2] = (float)interrupt_signal();
    device_copy(dev, s->all_losses + (size_t)(s->comm->rank + 1) * row - 1, s->stop + step % 2, sizeof *s->stop, false);
    comm_all_gather(s->comm, s->all_losses, row * sizeof(float));
    comm_wait(s->comm);
    device_copy(dev, r->losses, s->all_losses, (size_t)s->comm->world * row * sizeof(float), false);
    device_copy(dev, r->norm, s->optimizer->norm, sizeof *r->norm, false);
    device_event_record(dev, r->arrived, false);
    r->step = step + 1;
}

void step_end(Step *s, int step, Device *dev) {
    comm_wait(s->comm);
    optimizer_update(s->optimizer, s->options, dev);
    send_report(s, step, dev);
}

// "the loss of sample 3 of train-00000.h5 (picture 42) is NaN", to be freed; NULL if all losses are finite.
static char *bad_losses(const Step *s, const Report *r) {
    long long first = (long long)(r->step - 1) * train_samples(s->options, s->comm->world);
    char *name = NULL;
    int count = 0;
    float loss = 0;
    for (int k = 0; k < s->micro_steps; k++) { // in the order of the stream
        for (int rank = 0; rank < s->comm->world; rank++) {
            const float *losses = r->losses + (size_t)rank * row_of(s) + k * s->B;
            for (int i = 0; i < s->B; i++) {
                if (isfinite(losses[i]) || count++) { continue; }
                name = s->name_sample(s->owner, first + ((long long)k * s->comm->world + rank) * s->B + i);
                loss = losses[i];
            }
        }
    }
    if (!count) { return NULL; }
    char *others = count > 1 ? xprintf(" (and %d more of the step)", count - 1) : xstrdup("");
    char *text = xprintf("the loss of %s is %s%s", name, isnan(loss) ? "NaN" : "infinite", others);
    free(name);
    free(others);
    return text;
}

void step_print(Step *s, RunLog *log, int step) {
    Report *r = step < 0 ? NULL : &s->reports[step % 2];
    if (!r || !r->step) { return; }
    device_event_sync(r->arrived);
    size_t row = row_of(s);
    double sum = 0;
    for (size_t rank = 0; rank < (size_t)s->comm->world; rank++) {
        for (size_t i = 0; i + 1 < row; i++) { sum += r->losses[rank * row + i]; }
        int signal = (int)r->losses[(rank + 1) * row - 1];
        if (signal > s->stopped) { s->stopped = signal; }
    }
    optimizer_count(s->optimizer, r->step - 1, r->norm);
    log_step(log, r->step, sum / (double)train_samples(s->options, s->comm->world), r->norm->norm,
             device_event_seconds(r->started, r->arrived));
    s->bad = isfinite(sum) && r->norm->finite ? 0 : s->bad + 1;
    if (s->bad && log->run->rank == 0) {
        char *text = bad_losses(s, r);
        const char *gradient = isfinite(r->norm->norm) ? "the gradient is too large, but all losses are finite"
                                                       : "the gradient is not finite, but all losses are";
        warn("step %d: %s%s", r->step, text ? text : gradient, r->norm->finite ? "" : ": the step is skipped");
        free(text);
    }
    r->step = 0;
}

int step_stopped(const Step *s) { return s->comm->world > 1 ? s->stopped : interrupt_signal(); }
