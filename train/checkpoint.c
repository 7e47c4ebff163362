#include "train/checkpoint.h"
#include "eval/settings.h"
#include "model/safetensors.h"
#include "util/error.h"
#include "util/file.h"
#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *checkpoint_path(const char *out, int step) { return xprintf("%s/checkpoint-%06d", out, step); }

// The step of a name that checkpoint_path gives, else -1: any other folder is the user's.
static int checkpoint_step(const char *name) {
    char expected[32];
    int step = -1;
    if (sscanf(name, "checkpoint-%d", &step) != 1) { return -1; }
    snprintf(expected, sizeof expected, "checkpoint-%06d", step);
    return strcmp(name, expected) == 0 ? step : -1;
}

// A folder under a temporary name (see commit_rename): its process was killed while it wrote or removed.
static bool is_leftover(const char *name) {
    const char *end = strstr(name, ".tmp-");
    if (!end) { end = strstr(name, ".old-"); }
    bool ours = strncmp(name, "checkpoint-", 11) == 0 || strncmp(name, "model.", 6) == 0;
    return ours && end && end[5] && strspn(end + 5, "0123456789") == strlen(end + 5);
}

// Moves the folder out of sight at once, then removes it: a checkpoint is never half there.
static void remove_checkpoint(const char *path) {
    char *old = xprintf("%s.old-%ld", path, (long)getpid());
    remove_tree(old);
    remove_tree(rename(path, old) == 0 ? old : path);
    free(old);
}

static int descending(const void *a, const void *b) { return *(const int *)b - *(const int *)a; }

// Steps of the complete checkpoints in `out`, newest first, to be freed.
static int *list_steps(const char *out, int *count) {
    int *steps = NULL;
    *count = 0;
    DIR *folder = opendir(out);
    for (struct dirent *e; folder && (e = readdir(folder));) {
        int step = checkpoint_step(e->d_name);
        char *state = xprintf("%s/%s/trainer/state.json", out, e->d_name);
        if (step >= 0 && file_exists(state)) {
            steps = xrealloc(steps, (size_t)(*count + 1) * sizeof *steps);
            steps[(*count)++] = step;
        }
        free(state);
    }
    if (folder) { closedir(folder); }
    if (steps) { qsort(steps, (size_t)*count, sizeof *steps, descending); }
    return steps;
}

char *checkpoint_newest(const char *out, int *step) {
    int count, *steps = list_steps(out, &count);
    *step = count ? steps[0] : 0;
    free(steps);
    return count ? checkpoint_path(out, *step) : NULL;
}

static void remove_leftovers(const char *out) {
    DIR *folder = opendir(out);
    for (struct dirent *e; folder && (e = readdir(folder));) {
        char *path = xprintf("%s/%s", out, e->d_name);
        if (is_leftover(e->d_name)) { remove_tree(path); }
        free(path);
    }
    if (folder) { closedir(folder); }
}

static void remove_but(const char *out, int kept) {
    int count, *steps = list_steps(out, &count);
    for (int i = kept; i < count; i++) {
        char *path = checkpoint_path(out, steps[i]);
        remove_checkpoint(path);
        free(path);
    }
    free(steps);
    remove_leftovers(out);
}

void checkpoint_remove_all(const char *out) { remove_but(out, 0); }

// The flat host array of one part from the state's array of all parts.
static float *download(const Optimizer *p, const float *array, size_t first, size_t count, Device *dev) {
    float *host = xmalloc(count * sizeof(float));
    optimizer_fetch(p, array, first, count, host, dev);
    return host;
}

static void write_module(const Trained *t, const Optimizer *p, const float *array, const char *folder, Device *dev) {
    make_folders(folder);
    char *config = xprintf("%s/config.json", folder), *file = xprintf("%s/%s", folder, t->file);
    if (t->unet_config) { unet_config_write(t->unet_config, config); }
    if (t->vae_config) { vae_config_write(t->vae_config, config); }
    float *hosts[2] = {0};
    size_t first = 0;
    for (int i = 0; i < t->count; first += t->params[i++]->total) {
        hosts[i] = download(p, array, first, t->params[i]->total, dev);
    }
    weights_write(t->params, (const float *const *)hosts, t->count, file);
    for (int i = 0; i < t->count; i++) { free(hosts[i]); }
    free(config);
    free(file);
}

enum { PIECE = 1 << 22 }; // floats that pass through the host at a time

static void write_moments(const Optimizer *p, const char *path, Device *dev) {
    SafetensorsWriter *w = safetensors_writer(path);
    int64_t shape[] = {(int64_t)p->total};
    safetensors_declare(w, "exp_avg", DTYPE_F32, 1, shape);
    safetensors_declare(w, "exp_avg_sq", DTYPE_F32, 1, shape);
    const float *arrays[] = {p->m, p->v};
    for (int a = 0; a < 2; a++) {
        for (size_t i = 0; i < p->total; i += PIECE) {
            size_t count = p->total - i < PIECE ? p->total - i : PIECE;
            float *piece = download(p, arrays[a], i, count, dev);
            safetensors_write(w, piece, count * sizeof(float));
            free(piece);
        }
    }
    safetensors_finish(w);
}

static int world_of(const Optimizer *p) { return p->comm ? p->comm->world : 1; }

static void write_state(const TrainOptions *o, int step, const Optimizer *p, const char *path, const Device *dev) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_integer(gen, "step", step);
    json_put_integer(gen, "skipped", p->skipped);
    json_put_integer(gen, "last_skipped", p->last_skipped);
    json_put_string(gen, "device", device_name(dev));
    json_put_integer(gen, "world", world_of(p));
    json_put_integer(gen, "samples", step * train_samples(o, world_of(p)));
    json_key(gen, "options");
    yajl_gen_map_open(gen);
    train_options_put(o, gen);
    yajl_gen_map_close(gen);
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

char *checkpoint_save(const TrainOptions *o, const char *base, int step, const Trained *t, const Optimizer *p,
                      void (*extra)(void *data, const char *folder), void *data, Device *dev) {
    char *path = checkpoint_path(o->out, step), *work = temporary_name(path);
    remove_tree(work);
    cleanup_add(work);
    pipeline_link(base, work, t->module);
    char *name = xprintf("%s/%s", work, t->module);
    write_module(t, p, p->master, name, dev);
    free(name);
    if (p->ema) {
        name = xprintf("%s/%s_ema", work, t->module);
        remove_tree(name);
        write_module(t, p, p->ema, name, dev);
        free(name);
    }
    name = xprintf("%s/trainer", work);
    remove_tree(name);
    make_folders(name);
    free(name);
    name = xprintf("%s/trainer/optimizer.safetensors", work);
    write_moments(p, name, dev);
    free(name);
    name = xprintf("%s/trainer/state.json", work);
    write_state(o, step, p, name, dev);
    free(name);
    if (extra) { extra(data, work); }
    commit_rename(work, path);
    cleanup_remove(work);
    free(work);
    remove_but(o->out, o->checkpoints_total_limit ? o->checkpoints_total_limit : INT_MAX);
    return path;
}

void checkpoint_help(const Trained *t, const Optimizer *p, Device *dev) {
    if (!p->sharded) { return; }
    const float *arrays[] = {p->master, p->ema, p->m, p->v}; // as checkpoint_save asks for them
    for (int a = 0; a < 4; a++) {
        size_t first = 0;
        for (int i = 0; arrays[a] && a < 2 && i < t->count; first += t->params[i++]->total) {
            optimizer_fetch(p, arrays[a], first, t->params[i]->total, NULL, dev);
        }
        for (size_t i = 0; a >= 2 && i < p->total; i += PIECE) {
            optimizer_fetch(p, arrays[a], i, p->total - i < PIECE ? p->total - i : PIECE, NULL, dev);
        }
    }
}

static void read_moment(const Optimizer *p, float *array, const Safetensors *file, const char *name, Device *dev) {
    const Tensor *tensor = safetensors_find(file, name);
    if (!tensor || tensor->count != (int64_t)p->total || tensor->dtype != DTYPE_F32) {
        die("%s: tensor \"%s\" is missing or not of %zu F32 elements", file->path, name, p->total);
    }
    float *piece = xmalloc(PIECE * sizeof(float));
    for (size_t i = 0; i < p->total; i += PIECE) {
        size_t count = p->total - i < PIECE ? p->total - i : PIECE;
        tensor_to_float(tensor, (int64_t)i, (int64_t)count, piece);
        optimizer_store(p, array, i, count, piece, dev);
    }
    free(piece);
}

static void read_module(const Trained *t, const Optimizer *p, float *array, const char *model, const char *suffix,
                        Device *dev) {
    char *folder = xprintf("%s/%s%s", model, t->module, suffix);
    size_t first = 0;
    for (int i = 0; i < t->count; first += t->params[i++]->total) {
        float *host = xmalloc(t->params[i]->total * sizeof(float));
        weights_read(t->params[i], folder, host);
        optimizer_store(p, array, first, t->params[i]->total, host, dev);
        free(host);
    }
    free(folder);
}

static bool has_masters(const Optimizer *p) { return (void *)p->master != (void *)(p->weights + p->first); }

void checkpoint_start(const char *model, const Trained *t, Optimizer *p, Device *dev) {
    if (!has_masters(p)) { return; }
    read_module(t, p, p->master, model, "", dev);
    if (p->ema) { device_copy(dev, p->ema, p->master, p->count * sizeof *p->ema, false); }
}

// Ranks and micro-batches may be others than before, as long as a step has as many samples.
static void check_launch(const TrainOptions *o, const Json *state, const char *checkpoint, const Optimizer *p,
                         const Device *dev) {
    long long batch = train_samples(o, world_of(p)), step = json_integer(state, "step", 1);
    long long recorded = json_integer(state, "samples", 0) / (step > 0 ? step : 1);
    if (batch != recorded) {
        die("--resume: %d rank%s x --train-batch-size %d x --gradient-accumulation-steps %d is a batch of %lld, but %s "
            "recorded one of %lld",
            world_of(p), world_of(p) > 1 ? "s" : "", o->train_batch_size, o->gradient_accumulation_steps, batch,
            checkpoint, recorded);
    }
    if (p->comm && p->comm->rank > 0) { return; }
    const char *device = json_string(state, "device", "");
    int world = (int)json_integer(state, "world", 1);
    if (strcmp(device, device_name(dev)) != 0 || world != world_of(p)) {
        warn("%s was saved on \"%s\" (ranks: %d), this is \"%s\" (ranks: %d): the numbers go on equal to rounding, "
             "not bit for bit",
             checkpoint, device, world, device_name(dev), world_of(p));
    }
}

void checkpoint_load(const TrainOptions *o, const char *checkpoint, const Trained *t, Optimizer *p, Device *dev) {
    char *path = xprintf("%s/trainer/state.json", checkpoint);
    Json state = json_read(path);
    train_options_check(o, json_find(state.root, "options"), path);
    p->skipped = (int)json_integer(&state, "skipped", 0);
    p->last_skipped = (int)json_integer(&state, "last_skipped", -1);
    check_launch(o, &state, checkpoint, p, dev);
    json_free(&state);
    free(path);
    path = xprintf("%s/trainer/optimizer.safetensors", checkpoint);
    Safetensors file = safetensors_open(path);
    read_moment(p, p->m, &file, "exp_avg", dev);
    read_moment(p, p->v, &file, "exp_avg_sq", dev);
    safetensors_close(&file);
    free(path);
    if (has_masters(p)) { read_module(t, p, p->master, checkpoint, "", dev); }
    if (p->ema) { read_module(t, p, p->ema, checkpoint, "_ema", dev); }
}

void checkpoint_publish(const char *checkpoint, const char *out) {
    char *model = xprintf("%s/model", out), *work = temporary_name(model);
    char *trainer = xprintf("%s/trainer", work);
    remove_tree(work);
    cleanup_add(work);
    pipeline_link(checkpoint, work, NULL);
    settings_copy(checkpoint, work);
    remove_tree(trainer);
    commit_rename(work, model);
    cleanup_remove(work);
    free(trainer);
    free(work);
    free(model);
}
