#include "train/loop.h"
#include "kernels/peaks.h"
#include "kernels/runtime/algorithms.h"
#include "model/mapped.h"
#include "util/error.h"
#include "util/interrupt.h"
#include "util/progress.h"
#include <stdio.h>
#include <stdlib.h>

void trainer_open(Trainer *t, const TrainOptions *options) {
    Launch launch = launch_detect();
    t->options = options;
    comm_meet(&t->comm, &launch);
    device_open(&t->dev, device_of_rank(launch.local_rank));
    comm_open(&t->comm, &t->dev);
    // Only rank 0 prints; die() and warn() report on all ranks.
    if (t->comm.rank > 0 && !freopen("/dev/null", "w", stdout)) { die("/dev/null: cannot be opened"); }
    t->run = run_folder_open(options, &t->comm);
    t->log = (RunLog){.run = &t->run};
}

void trainer_close(Trainer *t) {
    interrupt_over(); // before comm_close, behind which ranks end
    step_destroy(&t->step, &t->dev);
    optimizer_destroy(&t->optimizer, &t->dev);
    if (t->grads) { device_free(&t->dev, t->grads); }
    arena_destroy(&t->arena);
    run_log_close(&t->log);
    run_folder_close(&t->run);
    comm_close(&t->comm);
    device_close(&t->dev);
}

void trainer_measure(Trainer *t) {
    if (t->comm.rank > 0 || t->options->no_roofline) { return; }
    t->peaks = device_measure_peaks(&t->dev);
    if (t->peaks.bytes_per_s == 0) {
        warn("too little memory is free to measure the roofline: its column is left out");
    }
}

// ---- Before the first step -----------------------------------------------------------------------------------------

static size_t parameters(const Task *task) {
    size_t total = 0;
    for (int i = 0; i < task->trained.count; i++) { total += task->trained.params[i]->total; }
    return total;
}

// Memory of the frozen weights. *missing: of these, the copies that their first use makes.
static size_t frozen_bytes(const Task *task, size_t *missing) {
    size_t elements = *missing = 0;
    for (int i = 0; i < 2; i++) {
        const Params *p = task->frozen[i];
        elements += p ? p->total : 0;
        *missing += p ? mapped_pending_bytes(p) : 0;
    }
    return elements * sizeof(floatX);
}

static void choose_algorithms(Trainer *t) {
    const char *chosen = algorithms_chosen(&t->dev);
    if (t->options->tune) {
        algorithms_tune(&t->dev, &t->comm);
    } else if (*chosen) {
        printf("matrix products: cuBLASLt's first algorithms (--tune times others)\n");
    }
    t->log.algorithms = algorithms_chosen(&t->dev);
}

// Gradients that are sums over micro-batches have memory of their own.
static void place_gradients(Trainer *t, const Task *task, const Arena *plan) {
    size_t bytes = parameters(task) * sizeof *t->grads;
    t->arena = arena_create_planned(&t->dev, plan);
    if (!plan->grads.count) {
        t->grads = device_alloc(&t->dev, bytes);
        device_fill(&t->dev, t->grads, 0, bytes); // the padding between slices stays zero
    }
    params_set_grads(task->trained.params, task->trained.count, t->grads ? t->grads : t->arena.grads.first);
}

// What training needs, in the rows of the table that is printed.
enum { MEMORY_ROWS = 10 };
typedef struct {
    struct {
        const char *what;
        size_t bytes;
    } rows[MEMORY_ROWS];
    size_t needed, there; // sum of the rows; of it what is there already: weights, workspace
    Arena arena;          // planned
} MemoryPlan;

static MemoryPlan plan_memory(Trainer *t, const Task *task) {
    Device *dev = &t->dev;
    const TrainOptions *o = t->options;
    size_t total = parameters(task), inside = grads_in_arena(o->gradient_accumulation_steps, total);
    size_t missing, trained = total * sizeof(floatX), frozen = frozen_bytes(task, &missing);
    algorithms_note(dev, o->tune);
    Arena arena = micro_step_plan(task->micro_step, task->model, inside, dev);
    algorithms_note(dev, false);
    OptimizerBytes state = optimizer_bytes(o, optimizer_part(o, &t->comm, total));
    MemoryPlan plan = {.rows = {{"trained weights", trained},
                                {"frozen weights", frozen},
                                {"gradients", (total - inside) * sizeof(float)},
                                {"fp32 masters", state.masters},
                                {"Adam's moments", state.moments},
                                {"moving average", state.average},
                                {inside ? "activations and gradients" : "activations", arena_planned(&arena)},
                                {"validation", task->validation_bytes},
                                {"workspace", dev->workspace_needed},
                                {"CUDA's code and graphs", device_headroom(dev)}},
                       .there = trained + frozen - missing + dev->workspace_size,
                       .arena = arena};
    for (int i = 0; i < MEMORY_ROWS; i++) { plan.needed += plan.rows[i].bytes; }
    return plan;
}

static void print_memory(const Trainer *t, const Task *task, const MemoryPlan *plan, size_t room) {
    char a[24], b[24];
    printf("memory on %s\n", device_name(&t->dev));
    for (int i = 0; i < MEMORY_ROWS; i++) {
        if (plan->rows[i].bytes == 0) { continue; }
        printf("  %-28s %10s\n", plan->rows[i].what, format_bytes((double)plan->rows[i].bytes, a));
    }
    printf("  %-28s %10s of %s\n", "total", format_bytes((double)plan->needed, a), format_bytes((double)room, b));
    char *note = optimizer_note(t->options, &t->comm, parameters(task));
    if (note) { printf("  %s\n", note); }
    free(note);
    fflush(stdout);
}

// A sample of shards is always the same crop, which a run that draws it often may learn by heart.
static void print_samples(const Trainer *t, const Task *task) {
    const TrainOptions *o = t->options;
    double draws = (double)train_samples(o, t->comm.world) * o->max_train_steps / (double)task->samples;
    const char *more = draws > 1.5 ? task->more_samples : NULL;
    printf("the run draws each of %lld samples %.*f times%s%s\n", task->samples, draws < 0.1 ? 3 : 1, draws,
           more ? "; " : "", more ? more : "");
}

static void want_memory(const Device *dev, size_t needed, size_t room, size_t all) {
    char a[24], b[24], c[24], ranks[64] = "";
    if (needed <= room) { return; }
    if (dev->sharers.machine > 1) {
        snprintf(ranks, sizeof ranks, " for each of the %d ranks here", dev->sharers.machine);
    }
    die("training needs %s, but %s has %s of its %s free%s: %stry a smaller --train-batch-size or --recompute blocks",
        format_bytes((double)needed, a), device_name(dev), format_bytes((double)room, b), format_bytes((double)all, c),
        ranks, needed <= all ? "stop other programs that use it, or " : "");
}

// On the CPU ranks share the free memory: all have loaded their weights before one looks, and all have looked before
// one takes more.
static void take_memory(Trainer *t, const Task *task) {
    size_t room, all;
    MemoryPlan plan = plan_memory(t, task);
    comm_barrier(&t->comm);
    device_memory(&t->dev, &room, &all);
    room += plan.there;
    print_memory(t, task, &plan, room);
    want_memory(&t->dev, plan.needed, room, all);
    comm_barrier(&t->comm);
    choose_algorithms(t); // before the memory is taken
    device_reserve_workspace(&t->dev, t->dev.workspace_needed);
    place_gradients(t, task, &plan.arena);
}

size_t average_bytes(const Trainer *t, size_t total, bool validates) {
    const TrainOptions *o = t->options;
    bool gathers = o->validate_every && o->zero && t->comm.world > 1;
    return o->ema_decay > 0 && (validates || gathers) ? total * sizeof(floatX) : 0;
}

static void open_optimizer(Trainer *t, const Task *task) {
    const Trained *trained = &task->trained;
    t->optimizer = optimizer_create(t->options, &t->comm, trained->params[0]->weights, trained->params[0]->grads,
                                    parameters(task), &t->dev);
    if (t->run.checkpoint) {
        checkpoint_load(t->options, &task->stream, t->run.checkpoint, trained, &t->optimizer, &t->dev);
    } else {
        checkpoint_start(t->options->model, trained, &t->optimizer, &t->dev);
    }
}

// The least time of a step by the roofline: that of all micro-steps and one update.
static double least_seconds(Trainer *t, const Task *task) {
    Device *dev = &t->dev;
    Trace micro = {0}, update = {0};
    if (t->peaks.bytes_per_s == 0) { return 0; }
    dev->trace = &micro;
    micro_step_plan(task->micro_step, task->model, 0, dev);
    dev->trace = &update;
    bool plan_only = dev->plan_only;
    dev->plan_only = true;
    optimizer_update(&t->optimizer, t->options, dev);
    dev->plan_only = plan_only;
    dev->trace = NULL;
    double seconds = trace_least_seconds(&micro, &t->peaks) * t->options->gradient_accumulation_steps +
                     trace_least_seconds(&update, &t->peaks);
    trace_free(&micro);
    trace_free(&update);
    return seconds;
}

// ---- The loop ------------------------------------------------------------------------------------------------------

static void save(Trainer *t, const Task *task, int step) {
    device_sync(&t->dev);
    char *folder = checkpoint_write(t->options, &task->stream, run_folder_base(&t->run), step, &task->trained,
                                    &t->optimizer, &t->dev);
    if (!folder) { return; } // only rank 0 gets one
    task->describe(task->owner, folder, &t->dev);
    char *checkpoint = checkpoint_commit(t->options, step, folder, t->step.bad > 0);
    free(t->run.checkpoint);
    t->run.checkpoint = checkpoint;
    printf("saved %s\n", checkpoint);
}

// `weights` takes the place of the models' weights: the optimizer's own, or its average.
static void use_weights(const Trained *models, const floatX *present, floatX *weights) {
    for (int i = 0; i < models->count; i++) {
        models->params[i]->weights = weights + (models->params[i]->weights - present);
    }
}

// Validates the moving average, if there is one, because it is used later. Its parts are gathered from all ranks.
static void validate_weights(Trainer *t, const Task *task, int step) {
    Device *dev = &t->dev;
    const Optimizer *opt = &t->optimizer;
    floatX *average = NULL;
    if (opt->ema && (task->validates || opt->sharded)) {
        average = device_alloc(dev, opt->total * sizeof *average);
        optimizer_average(opt, average, dev);
        use_weights(&task->trained, opt->weights, average);
    }
    if (task->validates) { task->validate(task->owner, step, dev); }
    if (!average) { return; }
    use_weights(&task->trained, average, opt->weights);
    device_free(dev, average);
}

// A signal to the rank that validates, rank 0, ends the validation without a result; then all ranks stop after the same
// step.
static void validate(Trainer *t, const Task *task, int step) {
    validate_weights(t, task, step);
    int signal = interrupt_signal();
    comm_host_broadcast(&t->comm, &signal, sizeof signal, 0);
    if (signal) { t->step.stopped = signal; }
}

static bool due(int step, int period) { return period > 0 && step % period == 0; }

static bool validates_after(const TrainOptions *o, int step) {
    return o->validate_every && (due(step, o->validate_every) || step == o->max_train_steps);
}

// The validation that is due before the next step: of the beginning, or of the checkpoint if a signal or a kill has
// ended it. The same on all ranks.
static bool validates_first(Trainer *t, int step) {
    bool missing = !t->run.validated;
    comm_host_broadcast(&t->comm, &missing, sizeof missing, 0);
    return missing && validates_after(t->options, step) && !step_stopped(&t->step);
}

// While steps are skipped nothing is saved, unless a signal comes or the last step is made, and no older checkpoint is
// removed: the last good one stays.
static bool gives_up(const Trainer *t) {
    int limit = t->options->skipped_steps_limit;
    return limit && t->step.bad >= limit;
}

// The end of a run that has gone wrong: the same on all ranks.
static bool went_wrong(const Trainer *t, int step) {
    int skipped = t->optimizer.skipped;
    bool none = t->options->skipped_steps_limit && step >= t->options->max_train_steps && skipped >= step;
    if (!gives_up(t) && !none) { return false; }
    if (t->comm.rank > 0) { return true; }
    const char *checkpoint = t->run.checkpoint;
    complain("training ends: the loss or gradient of the last %d steps was not finite or too large "
             "(--skipped-steps-limit): look at the samples named above, or begin a new run with a lower --lr or "
             "--max-grad-norm; %s%s",
             none ? skipped : t->step.bad, checkpoint ? "the last good checkpoint is " : "there is no checkpoint yet",
             checkpoint ? checkpoint : "");
    return true;
}

// Losses and norm return through pinned memory and are printed one step late, so that no step waits for the host. While
// rank 0 writes a checkpoint, the others wait in the next reduction; while it validates, in the broadcast of the
// signal. A step is saved before it is validated: a validation may take long.
int train(Trainer *t, const Task *task) {
    const TrainOptions *o = t->options;
    Device *dev = &t->dev;
    Step *s = &t->step;
    print_samples(t, task);
    take_memory(t, task);
    open_optimizer(t, task);
    *s = step_create(o, &t->comm, &t->optimizer, task->trained.params, dev);
    s->name_sample = task->name_sample;
    s->owner = task->owner;
    t->log.least_seconds = least_seconds(t, task);
    run_folder_begin(&t->run);
    run_log_open(&t->log, (long long)parameters(task), task->samples, task->vae_sha256);
    interrupt_install("saving a checkpoint before leaving");

    int step = t->run.first_step, saved = step;
    if (validates_first(t, step)) { validate(t, task, step); }
    while (step < o->max_train_steps && !step_stopped(s) && !gives_up(t)) {
        step_begin(s, step, dev);
        for (int k = 0; k < o->gradient_accumulation_steps; k++) {
            task->next_batch(task->owner, dev);
            if (step_micro_begin(s, k, dev)) { // else it has replayed a recording
                task->micro_step(task->model, &t->arena, s->losses, s->scalars, k ? 1.0f : 0.0f, true, dev);
            }
            step_micro_end(s, k, dev);
        }
        step_end(s, step, dev);
        step_print(s, &t->log, step - 1); // the previous step, while the device runs this one
        step++;
        bool validates = validates_after(o, step), saves = due(step, o->checkpoint_every) || step == o->max_train_steps;
        if (validates || saves) { step_print(s, &t->log, step - 1); }
        if (gives_up(t)) { break; }
        if (saves && !s->bad) { save(t, task, saved = step); }
        if (validates) { validate(t, task, step); }
    }
    step_print(s, &t->log, step - 1);
    if (went_wrong(t, step)) { return 1; }
    if (step > saved) { save(t, task, step); }
    // A validation that a signal has ended is done again by --resume, which then publishes the model.
    if (!step_stopped(s)) { run_folder_publish(&t->run, &task->trained, step); }
    char *kept = t->run.checkpoint ? xprintf("the last checkpoint is %s", t->run.checkpoint)
                                   : xstrdup("there is no checkpoint yet");
    int code = interrupt_code(step_stopped(s), kept);
    free(kept);
    return code;
}
