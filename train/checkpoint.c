#include "train/checkpoint.h"
#include "eval/settings.h"
#include "kernels/runtime/algorithms.h"
#include "model/weights.h"
#include "train/digests.h"
#include "train/record.h"
#include "util/error.h"
#include "util/file.h"
#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char digests_name[] = "trainer/sha256.txt";

static char *checkpoint_path(const char *out, int step) { return xprintf("%s/checkpoint-%06d", out, step); }

// The step in a name made by checkpoint_path, or -1: any other folder belongs to the user.
static int checkpoint_step(const char *name) {
    char expected[32];
    int step = -1;
    if (sscanf(name, "checkpoint-%d", &step) != 1) { return -1; }
    snprintf(expected, sizeof expected, "checkpoint-%06d", step);
    return strcmp(name, expected) == 0 ? step : -1;
}

// Renames the folder first, then removes it, so that no incomplete checkpoint is ever visible.
static void remove_checkpoint(const char *path) {
    char *old = temporary_name(path);
    remove_tree(old);
    cleanup_add(old); // a second signal ends the removal too
    remove_tree(rename(path, old) == 0 ? old : path);
    cleanup_remove(old);
    free(old);
}

static int descending(const void *a, const void *b) { return *(const int *)b - *(const int *)a; }

// Whether a run wrote this checkpoint, be it damaged by now.
static bool is_checkpoint(const char *out, const char *name) {
    return file_exists(path_of("%s/%s/trainer/state.json", out, name).text) ||
           file_exists(path_of("%s/%s/%s", out, name, digests_name).text);
}

// Steps of the complete checkpoints in `out`, newest first; to be freed.
static int *list_steps(const char *out, int *count) {
    int *steps = NULL;
    *count = 0;
    DIR *folder = opendir(out);
    for (struct dirent *e; folder && (e = readdir(folder));) {
        int step = checkpoint_step(e->d_name);
        if (step >= 0 && is_checkpoint(out, e->d_name)) {
            steps = xrealloc(steps, (size_t)(*count + 1) * sizeof *steps);
            steps[(*count)++] = step;
        }
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

char *checkpoint_other(const char *out) {
    char *other = NULL;
    DIR *folder = opendir(out);
    for (struct dirent *e; folder && !other && (e = readdir(folder));) {
        bool ours = checkpoint_step(e->d_name) < 0 || is_checkpoint(out, e->d_name);
        if (!ours) { other = xprintf("%s/%s", out, e->d_name); }
    }
    if (folder) { closedir(folder); }
    return other;
}

void checkpoint_want_whole(const char *out) {
    int count, *steps = list_steps(out, &count);
    char *newest = count ? checkpoint_path(out, steps[0]) : NULL;
    char *damage = newest ? digests_check(newest, digests_name) : NULL;
    for (int i = 1; damage && i < count; i++) {
        char *older = checkpoint_path(out, steps[i]);
        if (digests_check(older, digests_name)) { continue; }
        die("--resume: %s is damaged (%s), but %s is whole: move the damaged one away to go on from there", newest,
            damage, older);
    }
    if (damage) { die("--resume: %s is damaged (%s), and no older checkpoint is whole", newest, damage); }
    free(newest);
    free(steps);
}

static bool is_ours(const TemporaryName *t, const char *unused) {
    (void)unused;
    return strcmp(t->name, "model") == 0 || checkpoint_step(t->name) >= 0;
}

void checkpoint_remove_leftovers(const char *out) { remove_temporaries_if(out, is_ours, NULL); }

static void remove_but(const char *out, int kept) {
    int count, *steps = list_steps(out, &count);
    for (int i = kept; i < count; i++) {
        char *path = checkpoint_path(out, steps[i]);
        remove_checkpoint(path);
        free(path);
    }
    free(steps);
}

void checkpoint_remove_all(const char *out) { remove_but(out, 0); }

// Elements [first, first + count) of a state array. Rank 0 gets them, to be freed; the other ranks send their parts and
// get NULL.
static float *gather(const Optimizer *opt, const float *array, size_t first, size_t count, Device *dev) {
    float *host = opt->comm->rank == 0 ? xmalloc(count * sizeof(float)) : NULL;
    optimizer_fetch(opt, array, first, count, host, dev);
    return host;
}

static bool in_one_file(const Trained *t) { return t->count == 2 && strcmp(t->modules[0], t->modules[1]) == 0; }

// transformers' name, else diffusers'
static const char *weights_name(const char *module) {
    return strcmp(module, "text_encoder") == 0 ? "model" : "diffusion_pytorch_model";
}

// Writes a weights file to FOLDER/MODULE[suffix].
static void write_weights(Params *const *params, float *const *hosts, int count, const char *folder, const char *name,
                          const char *suffix) {
    Path module = path_of("%s/%s%s", folder, name, suffix);
    Path file = path_of("%s/%s.safetensors", module.text, weights_name(name));
    remove_tree(module.text); // of an earlier checkpoint
    make_folders(module.text);
    weights_write((const Params *const *)params, (const float *const *)hosts, count, file.text);
}

// Writes the trained modules. `folder` is NULL on all ranks except 0.
static void write_modules(const Trained *t, const Optimizer *opt, const float *array, const char *folder,
                          const char *suffix, Device *dev) {
    float *hosts[2] = {0};
    size_t first = 0;
    for (int i = 0; i < t->count; first += t->params[i++]->total) {
        hosts[i] = gather(opt, array, first, t->params[i]->total, dev);
    }
    int count = in_one_file(t) ? 2 : 1;
    for (int i = 0; folder && i < t->count; i += count) {
        write_weights(t->params + i, hosts + i, count, folder, t->modules[i], suffix);
    }
    for (int i = 0; i < t->count; i++) { free(hosts[i]); }
}

static size_t listed_total(const Trained *t) {
    size_t total = 0;
    for (int i = 0; i < t->count; i++) { total += t->params[i]->listed; }
    return total;
}

static void write_zeros(SafetensorsWriter *w, size_t count) {
    static const float zeros[256];
    for (size_t n; count > 0; count -= n) { safetensors_write(w, zeros, n = count < 256 ? count : 256); }
}

// A flat array, in the order of the list.
static void write_listed(SafetensorsWriter *w, const Trained *t, const float *flat) {
    for (int m = 0; m < t->count; flat += t->params[m++]->total) {
        const Params *p = t->params[m];
        size_t end = 0;
        for (int i = 0; i < p->count; i++) {
            const ParamSlice *slice = &p->slices[i];
            write_zeros(w, slice->listed - end);
            safetensors_write(w, flat + slice->offset, slice->count);
            end = slice->listed + slice->count;
        }
        write_zeros(w, p->listed - end);
    }
}

static void write_moments(const Trained *t, const Optimizer *opt, const char *folder, Device *dev) {
    const float *arrays[] = {opt->m, opt->v};
    SafetensorsWriter *w = NULL;
    if (folder) {
        char *trainer = xprintf("%s/trainer", folder), *path = xprintf("%s/optimizer.safetensors", trainer);
        make_folders(trainer);
        free(trainer);
        int64_t shape[] = {(int64_t)listed_total(t)};
        w = safetensors_writer(path);
        safetensors_declare(w, "exp_avg", 1, shape);
        safetensors_declare(w, "exp_avg_sq", 1, shape);
        free(path);
    }
    for (int a = 0; a < 2; a++) {
        float *host = gather(opt, arrays[a], 0, opt->total, dev);
        if (w) { write_listed(w, t, host); }
        free(host);
    }
    if (w) { safetensors_finish(w); }
}

static void write_state(const TrainOptions *o, const Stream *stream, int step, const Optimizer *opt, const char *folder,
                        const Device *dev) {
    char *path = xprintf("%s/trainer/state.json", folder);
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_string(gen, "command", o->command);
    json_put_integer(gen, "step", step);
    json_put_integer(gen, "skipped", opt->skipped);
    json_put_integer(gen, "last_skipped", opt->last_skipped);
    json_put_string(gen, "device", device_name(dev));
    if (*algorithms_chosen(dev)) { json_put_string(gen, "algorithms", algorithms_chosen(dev)); }
    json_put_integer(gen, "world", opt->comm->world);
    json_put_integer(gen, "samples", step * train_samples(o, opt->comm->world));
    json_key(gen, "options");
    yajl_gen_map_open(gen);
    record_options(o, gen);
    yajl_gen_map_close(gen);
    json_open_map(gen, "stream");
    stream_record(stream, gen);
    yajl_gen_map_close(gen);
    yajl_gen_map_close(gen);
    json_write(gen, path);
    free(path);
}

// Begins the folder `path` under a temporary name, with the parts of the pipeline `base` except some, without trainer/.
// A fine-tuned UNet may be among them, which cocogold.json describes.
static char *begin_folder(const char *path, const char *base, const char *const *except) {
    char *work = temporary_folder(path), *trainer = xprintf("%s/trainer", work);
    pipeline_link(base, work, except);
    settings_copy(base, work);
    remove_tree(trainer);
    free(trainer);
    return work;
}

static void finish_folder(const char *path, char *work) {
    commit_rename(work, path);
    cleanup_remove(work);
    free(work);
}

char *checkpoint_write(const TrainOptions *o, const Stream *stream, const char *base, int step, const Trained *t,
                       const Optimizer *opt, Device *dev) {
    if (opt->comm->rank > 0 && !opt->sharded) { return NULL; }
    char *path = checkpoint_path(o->out, step);
    char *work = opt->comm->rank == 0 ? begin_folder(path, base, t->modules) : NULL;
    free(path);
    write_modules(t, opt, opt->master, work, "", dev);
    if (opt->ema) { write_modules(t, opt, opt->ema, work, "_ema", dev); }
    write_moments(t, opt, work, dev);
    if (work) { write_state(o, stream, step, opt, work, dev); }
    return work;
}

char *checkpoint_commit(const TrainOptions *o, int step, char *work, bool keep_all) {
    char *path = checkpoint_path(o->out, step);
    digests_write(work, digests_name);
    finish_folder(path, work);
    remove_but(o->out, o->checkpoints_total_limit && !keep_all ? o->checkpoints_total_limit : INT_MAX);
    return path;
}

static void read_listed(const Tensor *tensor, const Trained *t, float *flat) {
    size_t first = 0;
    for (int m = 0; m < t->count; flat += t->params[m]->total, first += t->params[m++]->listed) {
        const Params *p = t->params[m];
        for (int i = 0; i < p->count; i++) {
            const ParamSlice *slice = &p->slices[i];
            tensor_to_float(tensor, (int64_t)(first + slice->listed), (int64_t)slice->count, flat + slice->offset);
        }
    }
}

static void read_moment(const Trained *t, const Optimizer *opt, float *array, const Safetensors *file, const char *name,
                        Device *dev) {
    const Tensor *tensor = safetensors_find(file, name);
    size_t count = listed_total(t);
    if (!tensor || tensor->count != (int64_t)count || tensor->dtype != DTYPE_F32) {
        die("%s: tensor \"%s\" is missing or not of %zu F32 elements", file->path, name, count);
    }
    float *host = xcalloc(opt->total, sizeof(float));
    read_listed(tensor, t, host);
    tensor_want_finite(tensor, host, opt->total);
    optimizer_store(opt, array, 0, opt->total, host, dev);
    free(host);
}

static void read_modules(const Trained *t, const Optimizer *opt, float *array, const char *model, const char *suffix,
                         Device *dev) {
    size_t first = 0;
    for (int i = 0; i < t->count; first += t->params[i++]->total) {
        char *folder = xprintf("%s/%s%s", model, t->modules[i], suffix);
        float *host = xmalloc(t->params[i]->total * sizeof(float));
        weights_read(t->params[i], folder, host);
        optimizer_store(opt, array, first, t->params[i]->total, host, dev);
        free(host);
        free(folder);
    }
}

static bool masters_are_weights(const Optimizer *opt) {
    return (void *)opt->master == (void *)(opt->weights + opt->first);
}

void checkpoint_start(const char *model, const Trained *t, Optimizer *opt, Device *dev) {
    if (masters_are_weights(opt)) { return; }
    read_modules(t, opt, opt->master, model, "", dev);
    if (opt->ema) { device_copy(dev, opt->ema, opt->master, opt->count * sizeof *opt->ema, false); }
}

static int recorded_integer(const Json *state, const char *option) {
    yajl_val value = json_find(json_find(state->root, "options"), option);
    if (!YAJL_IS_INTEGER(value)) { die("%s: field \"options.%s\" is missing", state->path, option); }
    return (int)YAJL_GET_INTEGER(value);
}

// The numbers of ranks and micro-batches may change, as long as a step keeps its number of samples.
static void check_launch(const TrainOptions *o, const Json *state, const char *checkpoint, const Optimizer *opt,
                         const Device *dev) {
    long long batch = train_samples(o, opt->comm->world), step = json_integer(state, "step", 1, 0, INT_MAX);
    long long recorded = json_integer(state, "samples", 0, 0, LLONG_MAX) / (step > 0 ? step : 1);
    if (batch != recorded) {
        die("--resume: %d rank%s x --train-batch-size %d x --gradient-accumulation-steps %d is a batch of %lld, but %s "
            "recorded one of %lld",
            opt->comm->world, opt->comm->world > 1 ? "s" : "", o->train_batch_size, o->gradient_accumulation_steps,
            batch, checkpoint, recorded);
    }
    if (opt->comm->rank > 0) { return; }
    const char *device = json_string(state, "device", "");
    int world = (int)json_integer(state, "world", 1, 1, INT_MAX), size = recorded_integer(state, "train-batch-size");
    if (strcmp(device, device_name(dev)) != 0 || world != opt->comm->world) {
        warn("%s was saved on \"%s\" (ranks: %d), but this is \"%s\" (ranks: %d): the results will agree up to "
             "rounding, not bit for bit",
             checkpoint, device, world, device_name(dev), opt->comm->world);
        return;
    }
    if (size != o->train_batch_size) {
        warn("%s was saved with micro-batches of %d samples, but these have %d: the results will agree up to rounding, "
             "not bit for bit",
             checkpoint, size, o->train_batch_size);
        return;
    }
    const char *chosen = algorithms_chosen(dev), *algorithms = json_string(state, "algorithms", "first");
    if (*chosen && strcmp(algorithms, chosen) != 0) {
        warn("%s was saved with cuBLASLt's algorithms \"%s\", but these are \"%s\" (--tune): the results will agree up "
             "to rounding, not bit for bit",
             checkpoint, algorithms, chosen);
    }
}

void checkpoint_check_command(const char *command, const char *checkpoint) {
    char *path = xprintf("%s/trainer/state.json", checkpoint);
    Json state = json_read(path);
    const char *recorded = json_string(&state, "command", NULL);
    if (!recorded) { die("%s: field \"command\" is missing", path); }
    if (strcmp(recorded, command) != 0) {
        die("--resume: %s is a checkpoint of `cocogold %s`, not of `cocogold %s`", checkpoint, recorded, command);
    }
    json_free(&state);
    free(path);
}

void checkpoint_load(const TrainOptions *o, const Stream *stream, const char *checkpoint, const Trained *t,
                     Optimizer *opt, Device *dev) {
    char *path = xprintf("%s/trainer/state.json", checkpoint);
    Json state = json_read(path);
    record_check(o, json_find(state.root, "options"), path);
    stream_check(stream, json_find(state.root, "stream"), path);
    opt->skipped = (int)json_integer(&state, "skipped", 0, 0, INT_MAX);
    opt->last_skipped = (int)json_integer(&state, "last_skipped", -1, -1, INT_MAX);
    check_launch(o, &state, checkpoint, opt, dev);
    json_free(&state);
    free(path);
    path = xprintf("%s/trainer/optimizer.safetensors", checkpoint);
    Safetensors file = safetensors_open(path);
    read_moment(t, opt, opt->m, &file, "exp_avg", dev);
    read_moment(t, opt, opt->v, &file, "exp_avg_sq", dev);
    safetensors_close(&file);
    free(path);
    if (!masters_are_weights(opt)) { read_modules(t, opt, opt->master, checkpoint, "", dev); }
    if (opt->ema) { read_modules(t, opt, opt->ema, checkpoint, "_ema", dev); }
}

static bool same_file(const char *a, const char *b) {
    struct stat one, other;
    if (stat(a, &one) != 0 || stat(b, &other) != 0 || one.st_size != other.st_size) { return false; }
    if (one.st_dev == other.st_dev && one.st_ino == other.st_ino) { return true; }
    char digest[65], other_digest[65];
    return sha256_try(a, digest) && sha256_try(b, other_digest) && strcmp(digest, other_digest) == 0;
}

bool checkpoint_is_published(const char *checkpoint, const Trained *t, const char *out) {
    bool same = true;
    for (int i = 0; i < t->count && same; i++) {
        const char *module = t->modules[i], *name = weights_name(module);
        same = same_file(path_of("%s/%s/%s.safetensors", checkpoint, module, name).text,
                         path_of("%s/model/%s/%s.safetensors", out, module, name).text);
    }
    return same;
}

void checkpoint_publish(const char *checkpoint, const char *out) {
    char *model = xprintf("%s/model", out), *work = begin_folder(model, checkpoint, NULL);
    finish_folder(model, work);
    free(model);
}
