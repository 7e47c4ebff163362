// A whole training step with random weights and inputs: noise, UNet, loss, backward, norm, Adam, as `cocogold train`
// runs it, except for reading data.
#include "bench/bench.h"
#include "eval/stats.h"
#include "model/init.h"
#include "train/diffusion.h"
#include "train/step.h"
#include "util/error.h"
#include "util/progress.h"
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARM_UP = 2, PROFILE_STEPS = 3 };

// Stable Diffusion 2's UNet at a quarter of its width: 54 M parameters. 80 channels in 16 groups instead of 32.
static const UNetConfig quarter_sd2 = {.in_channels = 8,
                                       .out_channels = 4,
                                       .sample_size = 32,
                                       .levels = 4,
                                       .block_out_channels = {80, 160, 320, 320},
                                       .down_attention = {true, true, true, false},
                                       .up_attention = {false, true, true, true},
                                       .layers_per_block = 2,
                                       .num_heads = {5, 10, 20, 20},
                                       .transformer_layers = 1,
                                       .cross_attention_dim = 256,
                                       .norm_num_groups = 16,
                                       .norm_eps = 1e-5f,
                                       .use_linear_projection = true,
                                       .flip_sin_to_cos = true,
                                       .downsample_padding = 1};

typedef struct {
    DiffusionOptions options;
    Comm comm; // one rank
    UNet unet;
    Schedule schedule;
    Diffusion diffusion;
    Optimizer optimizer;
    Arena arena;
    Step step;
    float *image, *target;
    floatX *context;
} StepBench;

typedef struct {
    UNetConfig unet;
    ScheduleConfig schedule;
    int tokens, batch, size; // defaults of the preset
} StepModel;

// The requested configuration; weights are never read.
static StepModel step_model(const StepOptions *o) {
    const Preset *sd2 = preset_find("sd2");
    if (o->model) {
        char *unet = xprintf("%s/unet/config.json", o->model);
        char *schedule = xprintf("%s/scheduler/scheduler_config.json", o->model);
        StepModel m = {unet_config_read(unet), schedule_config_read(schedule), 77, 2, 32};
        if (m.unet.in_channels != 2 * m.unet.out_channels) {
            die("%s: field \"in_channels\" is %d, expected %d (image latent and noisy latent)", unet,
                m.unet.in_channels, 2 * m.unet.out_channels);
        }
        if (m.unet.sample_size) { m.size = m.unet.sample_size; }
        free(unet);
        free(schedule);
        return m;
    }
    if (strcmp(o->preset, "quarter-sd2") == 0) { return (StepModel){quarter_sd2, sd2->schedule, 77, 2, 32}; }
    const Preset *p = preset_find(o->preset);
    bool mini = strcmp(o->preset, "mini") == 0;
    return (StepModel){p->unet, p->schedule, p->tokens, mini ? 16 : 2, mini ? 16 : 32};
}

// Fills one slice after another, without a second buffer of the parameters' size.
static void draw_weights(Params *params, Device *dev) {
    for (int i = 0; i < params->count; i++) {
        size_t n = params->slices[i].count;
        float *host = device_alloc_pinned(dev, n * sizeof *host), *wide = device_alloc(dev, n * sizeof *wide);
        init_slice(host, params, i, 1, preset_find("sd2"), false);
        device_copy(dev, wide, host, n * sizeof *wide, false);
        cast_to_floatX(params->weights + params->slices[i].offset, wide, n, dev);
        device_sync(dev);
        device_free(dev, wide);
        device_free_pinned(dev, host);
    }
}

static DiffusionOptions step_options(const StepOptions *o, int batch) {
    return (DiffusionOptions){.train = {.train_batch_size = batch,
                                        .gradient_accumulation_steps = 1,
                                        .lr = 3e-5,
                                        .lr_kind = LR_CONSTANT,
                                        .adam_beta1 = 0.9,
                                        .adam_beta2 = 0.999,
                                        .adam_epsilon = 1e-8,
                                        .weight_decay = 0.01,
                                        .max_grad_norm = 1,
                                        .seed = 1},
                              .recompute_level = o->recompute_level,
                              .loss_kind = LOSS_MSE};
}

static float *normal(size_t n, Optimizer *optimizer, Device *dev) {
    float *values = device_alloc(dev, n * sizeof *values);
    normal_noise(values, 1, (int)n, 1, optimizer->scalars, dev);
    return values;
}

static void open_step(StepBench *s, const StepModel *m, int size, Device *dev) {
    s->unet = unet_create(&m->unet);
    params_alloc(&s->unet.params, dev);
    draw_weights(&s->unet.params, dev);
    s->schedule = schedule_create(&m->schedule);
    s->diffusion = diffusion_create(&s->unet, &s->schedule, &s->options, m->tokens, size, size, dev);
    Params *p = &s->unet.params;
    params_set_grads((Params *[]){p}, 1, PLAN_POINTER);
    Arena planned = micro_step_plan(diffusion_step, &s->diffusion, p->total, dev);
    device_reserve_workspace(dev, dev->workspace_needed);
    s->arena = arena_create_planned(dev, &planned);
    params_set_grads((Params *[]){p}, 1, s->arena.grads.first);
    s->optimizer = optimizer_create(&s->options.train, &s->comm, p->weights, p->grads, p->total, dev);
    s->step = step_create(&s->options.train, &s->comm, &s->optimizer, (Params *[2]){p, NULL}, dev);
    const Diffusion *d = &s->diffusion;
    size_t latents = (size_t)d->B * d->h * d->w * d->L, text = (size_t)d->B * d->tokens * m->unet.cross_attention_dim;
    optimizer_begin(&s->optimizer, &s->options.train, 0, &(uint64_t){0}, dev);
    s->image = normal(latents, &s->optimizer, dev);
    s->target = normal(latents, &s->optimizer, dev);
    float *wide = normal(text, &s->optimizer, dev);
    s->context = device_alloc(dev, text * sizeof(floatX));
    cast_to_floatX(s->context, wide, text, dev);
    s->diffusion.inputs = (DiffusionInputs){s->image, s->target, NULL, s->context};
    device_sync(dev);
    device_free(dev, wide);
}

static void close_step(StepBench *s, Device *dev) {
    void *tensors[] = {s->image, s->target, s->context};
    for (int i = 0; i < 3; i++) { device_free(dev, tensors[i]); }
    step_destroy(&s->step, dev);
    diffusion_destroy(&s->diffusion, dev);
    optimizer_destroy(&s->optimizer, dev);
    arena_destroy(&s->arena);
    schedule_free(&s->schedule);
    unet_destroy(&s->unet, dev);
}

// A step as `cocogold train` runs it: on a GPU recorded the second time and replayed from then on.
static void submit_step(StepBench *s, int step, Device *dev) {
    step_begin(&s->step, step, dev);
    if (step_micro_begin(&s->step, 0, dev)) {
        diffusion_step(&s->diffusion, &s->arena, s->step.losses, s->step.scalars, 0, true, dev);
    }
    step_micro_end(&s->step, 0, dev);
    step_end(&s->step, step, dev);
}

// Seconds from one step's results to the next one's; as in train, the host is one step ahead of a GPU.
static void time_steps(StepBench *s, double *seconds, int runs, Device *dev) {
    double before = 0;
    for (int i = 0; i <= WARM_UP + runs; i++) {
        submit_step(s, i, dev);
        if (i > 0) { device_event_sync(s->step.reports[(i - 1) % 2].arrived); }
        double now = now_seconds();
        if (i > WARM_UP) { seconds[i - WARM_UP - 1] = now - before; }
        before = now;
    }
    device_sync(dev);
}

// The same kernel by kernel, for the trace.
static void trace_step(StepBench *s, int step, Device *dev) {
    uint64_t position = (uint64_t)step * (uint64_t)s->diffusion.B;
    optimizer_begin(&s->optimizer, &s->options.train, step, &position, dev);
    diffusion_step(&s->diffusion, &s->arena, s->step.losses, s->optimizer.scalars, 0, true, dev);
    optimizer_update(&s->optimizer, &s->options.train, dev);
    trace_stop(dev);
    device_sync(dev);
}

static double mean_loss(StepBench *s, Device *dev) {
    int B = s->diffusion.B;
    float losses[B];
    double sum = 0;
    device_copy(dev, losses, s->step.losses, sizeof losses, false);
    device_sync(dev);
    for (int i = 0; i < B; i++) { sum += losses[i]; }
    return sum / B;
}

// Largest resident memory of this process so far, in bytes. getrusage would include the memory of the parent process
// from before this program began.
static double peak_resident(void) {
    long kilobytes = 0;
    FILE *status = fopen("/proc/self/status", "r");
    char line[128];
    while (status && fgets(line, sizeof line, status)) { sscanf(line, "VmHWM: %ld", &kilobytes); }
    if (status) { fclose(status); }
    return 1024.0 * (double)kilobytes;
}

// What this process and others have of the device's memory, in bytes.
static double taken(Device *dev) {
    size_t free_bytes, total_bytes;
    device_memory(dev, &free_bytes, &total_bytes);
    return (double)(total_bytes - free_bytes);
}

// Noise, forward, loss and backward of one micro-step with Marigold's noise, then norm and Adam.
static void plan_step(StepPlan *p, const StepOptions *o, const StepModel *m) {
    StepBench s = {.options = step_options(o, p->B)};
    Device plan = {.plan_only = true, .trace = &p->step};
    s.options.multires_noise = 0.9;
    s.options.multires_annealed = true;
    s.unet = unet_create(&m->unet);
    Params real = params_plan(&s.unet.params, true);
    s.schedule = schedule_create(&m->schedule);
    s.diffusion = diffusion_create(&s.unet, &s.schedule, &s.options, m->tokens, p->size, p->size, &plan);
    Arena arena = arena_measure(&plan);
    arena.table = &p->saved;
    arena_plan_grads(&arena, PLAN_POINTER, s.unet.params.total);
    diffusion_step(&s.diffusion, &arena, PLAN_POINTER, NULL, 0, true, &plan);
    p->arena = (double)arena_planned(&arena);
    p->saved_bytes = (double)arena.most_saved;
    size_t n = s.unet.params.total;
    p->parameters = (double)n;
    device_scope(&plan, "update");
    grad_norm(NULL, NULL, n, NULL, &plan);
    adam_update(NULL, NULL, NULL, NULL, NULL, NULL, 0.9f, 0.999f, 1e-8f, 0.01f, n, NULL, &plan);
    p->workspace = (double)plan.workspace_needed;
    schedule_free(&s.schedule);
    s.unet.params = real;
    unet_destroy(&s.unet, &plan);
}

// Pictures of vae_factor times the latents' side.
static void plan_vae(StepPlan *p, const VAEConfig *config) {
    Device plan = {.plan_only = true, .trace = &p->vae};
    VAEEncoder encoder = vae_encoder_create(config);
    VAEDecoder decoder = vae_decoder_create(config);
    int side = p->size * vae_factor(config);
    device_scope(&plan, "encoder");
    double encode = (double)vae_encoder_plan(&encoder, p->B, side, side, true, &plan);
    device_scope(&plan, "decoder");
    double decode = (double)vae_decoder_plan(&decoder, p->B, p->size, p->size, true, &plan);
    p->vae_arena = encode > decode ? encode : decode;
    vae_destroy(&encoder, &plan);
    vae_destroy(&decoder, &plan);
}

StepPlan bench_plan(const StepOptions *o) {
    StepModel m = step_model(o);
    StepPlan p = {.name = xstrdup(o->model ? o->model : o->preset),
                  .B = o->batch ? o->batch : m.batch,
                  .size = o->size ? o->size : m.size,
                  .step = {.by_size = true},
                  .vae = {.by_size = true}};
    const Preset *preset = o->model || strcmp(o->preset, "quarter-sd2") == 0 ? NULL : preset_find(o->preset);
    plan_step(&p, o, &m);
    if (preset) { plan_vae(&p, &preset->vae); }
    return p;
}

void bench_plan_free(StepPlan *p) {
    trace_free(&p->step);
    trace_free(&p->vae);
    free(p->saved.tensors);
    free(p->name);
}

StepResult bench_step(const StepOptions *o, Device *dev) {
    StepModel m = step_model(o);
    int size = o->size ? o->size : m.size, batch = o->batch ? o->batch : m.batch;
    if (o->write_config) { unet_config_write(&m.unet, o->write_config); }
    StepBench s = {.options = step_options(o, batch), .comm = {.world = 1}};
    open_step(&s, &m, size, dev);
    StepResult r = {.name = xstrdup(o->model ? o->model : o->preset),
                    .B = batch,
                    .size = size,
                    .tokens = m.tokens,
                    .threads = omp_get_max_threads(),
                    .runs = o->runs,
                    .arena_bytes = (double)s.arena.size,
                    .profile = {.timed = true},
                    .profile_steps = PROFILE_STEPS};
    for (int i = 0; i < s.unet.params.count; i++) { r.parameters += s.unet.params.slices[i].count; }
    double seconds[MAX_RUNS];
    time_steps(&s, seconds, o->runs, dev);
    dev->trace = &r.profile;
    for (int i = 0; i < PROFILE_STEPS; i++) { trace_step(&s, WARM_UP + 1 + o->runs + i, dev); }
    dev->trace = NULL;
    for (int i = 0; i < o->runs; i++) { r.mean += seconds[i] / o->runs; }
    r.seconds = percentile(seconds, o->runs, 0.5);
    r.low = seconds[0], r.high = seconds[o->runs - 1];
    r.loss = mean_loss(&s, dev);
    r.peak_bytes = taken(dev);
    close_step(&s, dev);
    if (dev->host_memory) { r.peak_bytes = peak_resident(); }
    return r;
}

void step_result_free(StepResult *r) {
    trace_free(&r->profile);
    free(r->name);
}

static int slower_first(const void *a, const void *b) {
    const TraceRow *x = a, *y = b;
    return (x->seconds < y->seconds) - (x->seconds > y->seconds);
}

static void print_row(const TraceRow *row, double steps, double total, const Peaks *peaks) {
    char share[16];
    printf("%-28s %-9s %7.0f %10.3f %6.1f%% %9.1f %8.1f %8s\n", row->name, row->scope, row->launches / steps,
           1e3 * row->seconds / steps, 100 * row->seconds / total, 1e-9 * row->flops / row->seconds,
           1e-9 * row->bytes / row->seconds, format_share(roofline_share(row, row->seconds, peaks), share));
}

// Sums of the profile's rows by scope ("forward", "backward", ...).
static void print_scopes(const Trace *profile, double steps, double total) {
    const char *separator = "";
    for (int i = 0; i < profile->count; i++) {
        const char *scope = profile->rows[i].scope;
        double seconds = 0;
        bool seen = false;
        for (int k = 0; k < profile->count; k++) {
            if (strcmp(profile->rows[k].scope, scope) != 0) { continue; }
            seen |= k < i;
            seconds += profile->rows[k].seconds;
        }
        if (seen) { continue; }
        printf("%s%s %.2f ms (%.1f%%)", separator, scope, 1e3 * seconds / steps, 100 * seconds / total);
        separator = ", ";
    }
    printf("\n");
}

double step_roofline_share(const StepResult *r, const Peaks *peaks) {
    return peaks->bytes_per_s > 0 ? trace_least_seconds(&r->profile, peaks) / r->profile_steps / r->seconds : 0;
}

void step_result_print(const StepResult *r, const Peaks *peaks) {
    double steps = r->profile_steps, total = 0;
    char memory[24], arena[24], share[16];
    for (int i = 0; i < r->profile.count; i++) { total += r->profile.rows[i].seconds; }
    printf("%s: %.1f M parameters, batch %d, %dx%d latents, %d tokens\n", r->name, 1e-6 * (double)r->parameters, r->B,
           r->size, r->size, r->tokens);
    printf("step %.4g s (%.4g to %.4g in %d), %.3g samples/s, %.1f GFLOP/s, %s of the roofline, peak memory %s "
           "(activations and gradients %s), loss %.3f\n",
           r->seconds, r->low, r->high, r->runs, r->B / r->seconds, 1e-9 * r->profile.flops / steps / r->seconds,
           format_share(step_roofline_share(r, peaks), share), format_bytes(r->peak_bytes, memory),
           format_bytes(r->arena_bytes, arena), r->loss);
    print_scopes(&r->profile, steps, total);
    printf("\n%-28s %-9s %7s %10s %7s %9s %8s %8s\n", "function", "scope", "calls", "ms", "share", "GFLOP/s", "GB/s",
           "roofline");
    qsort(r->profile.rows, (size_t)r->profile.count, sizeof *r->profile.rows, slower_first);
    for (int i = 0; i < r->profile.count; i++) { print_row(&r->profile.rows[i], steps, total, peaks); }
}
