#include "train/run.h"
#include "train/checkpoint.h"
#include "util/error.h"
#include "util/file.h"
#include "util/progress.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void write_line(Run *run, yajl_gen gen) {
    const unsigned char *text;
    size_t size;
    yajl_gen_get_buf(gen, &text, &size);
    fwrite(text, 1, size, run->log);
    fputc('\n', run->log);
    if (fflush(run->log) != 0 || ferror(run->log)) { die("%s: cannot be written: %s", run->log_path, strerror(errno)); }
    yajl_gen_free(gen);
}

static yajl_gen begin_line(const char *kind) {
    yajl_gen gen = yajl_gen_alloc(NULL);
    yajl_gen_map_open(gen);
    json_put_string(gen, "kind", kind);
    return gen;
}

static void end_line(Run *run, yajl_gen gen) {
    yajl_gen_map_close(gen);
    write_line(run, gen);
}

// Keeps the lines of a log up to the step that a checkpoint had done; a line that was cut off goes.
static void cut_log(const char *path, int last_step) {
    if (!file_exists(path)) { return; }
    char *text = read_file(path, NULL), *rest = text, *end = text; // what is kept moves up in place
    for (char *line; (line = strsep(&rest, "\n"));) {
        const char *field = strstr(line, "\"step\":");
        size_t length = strlen(line);
        if (!length || line[length - 1] != '}' || (field && atoi(field + 7) > last_step)) { continue; }
        memmove(end, line, length);
        end[length] = '\n';
        end += length + 1;
    }
    atomic_write(path, text, (size_t)(end - text));
    free(text);
}

static bool exists(const char *out, const char *name) {
    char *path = xprintf("%s/%s", out, name);
    bool found = access(path, F_OK) == 0;
    free(path);
    return found;
}

static void clear_folder(const char *out) {
    static const char *const ours[] = {"log.jsonl", "tensorboard", "samples", "validation", "model", NULL};
    checkpoint_remove_all(out);
    for (int i = 0; ours[i]; i++) {
        char *path = xprintf("%s/%s", out, ours[i]);
        remove_tree(path);
        free(path);
    }
}

// --overwrite must not throw away the model that it starts from.
static void check_overwrite(const TrainOptions *o) {
    char *out = realpath(o->out, NULL), *model = realpath(o->model, NULL);
    size_t length = out ? strlen(out) : 0;
    if (out && model && strncmp(model, out, length) == 0 && (model[length] == '/' || model[length] == 0)) {
        die("--overwrite: --model %s lies in --out %s, which would be thrown away", o->model, o->out);
    }
    free(out);
    free(model);
}

// Rank 0 may begin to write only when all others have looked.
static void agree(const Run *run, Comm *comm) {
    int first_step = run->first_step;
    comm_host_broadcast(comm, &first_step, sizeof first_step, 0);
    if (first_step != run->first_step) {
        die("--out %s: the newest checkpoint is that of step %d here, but that of step %d for rank 0: expected the "
            "same folder on all ranks",
            run->options->out, run->first_step, first_step);
    }
    comm_barrier(comm);
}

static Run find_run(const TrainOptions *o, const Comm *comm) {
    Run run = {.options = o, .log_path = xprintf("%s/log.jsonl", o->out), .rank = comm->rank, .world = comm->world};
    if (o->resume && o->overwrite) { die("--resume and --overwrite contradict each other"); }
    if (o->overwrite) {
        check_overwrite(o);
        return run;
    }
    char *newest = checkpoint_newest(o->out, &run.first_step);
    if (!o->resume && (newest || exists(o->out, "log.jsonl") || exists(o->out, "model"))) {
        die("%s: holds a run already: continue it with --resume, or throw it away with --overwrite", o->out);
    }
    if (newest) { printf("resuming from %s\n", newest); }
    run.checkpoint = newest;
    return run;
}

Run run_open(const TrainOptions *o, Comm *comm) {
    Run run = find_run(o, comm);
    agree(&run, comm);
    return run;
}

void run_close(Run *run) {
    if (run->log) { fclose(run->log); }
    if (run->board) { tensorboard_close(run->board); }
    free(run->log_path);
    free(run->checkpoint);
}

const char *run_base(const Run *run) { return run->checkpoint ? run->checkpoint : run->options->model; }

void run_saved(Run *run, char *checkpoint) {
    free(run->checkpoint);
    run->checkpoint = checkpoint;
}

void run_publish(const Run *run, int step) {
    const TrainOptions *o = run->options;
    if (run->rank > 0 || step < o->max_train_steps) { return; }
    checkpoint_publish(run->checkpoint, o->out);
    printf("the model is in %s/model\n", o->out);
}

void run_begin(Run *run, void (*put)(yajl_gen gen, void *data), void *data) {
    const char *out = run->options->out;
    if (run->rank > 0) { return; }
    make_folders(out);
    if (run->options->overwrite) { clear_folder(out); }
    cut_log(run->log_path, run->checkpoint ? run->first_step : -1);
    run->log = fopen(run->log_path, run->checkpoint ? "a" : "w");
    if (!run->log) { die("%s: cannot be written: %s", run->log_path, strerror(errno)); }
    char *folder = xprintf("%s/tensorboard", out);
    run->board = tensorboard_open(folder, run->first_step);
    free(folder);
    const char *const folders[] = {"samples", "validation"};
    for (int i = 0; i < 2; i++) {
        folder = xprintf("%s/%s", out, folders[i]);
        make_folders(folder);
        free(folder);
    }
    yajl_gen gen = begin_line("run");
    json_put_integer(gen, "first_step", run->first_step);
    json_put_string(gen, "command", run->options->command);
    json_put_integer(gen, "world", run->world);
    train_options_put(run->options, gen);
    if (put) { put(gen, data); }
    end_line(run, gen);
    run->started = now_seconds();
}

static void print_step(const Run *run, int step, double loss, double norm, double seconds, double average) {
    const TrainOptions *o = run->options;
    char left[24], roofline[32] = "", ranks[32] = "";
    double samples = (double)train_samples(o, run->world);
    if (run->world > 1) { snprintf(ranks, sizeof ranks, " on %d ranks", run->world); }
    if (run->least_seconds > 0) {
        snprintf(roofline, sizeof roofline, "  %3.0f%% of roofline", 100 * run->least_seconds / seconds);
    }
    printf("step %d/%d  loss %.4f  norm %.3f  lr %.2e  %.1f samples/s%s%s  %s left\n", step, o->max_train_steps, loss,
           norm, train_lr(o, step - 1), samples / seconds, ranks, roofline,
           format_duration(average * (o->max_train_steps - step), left));
    fflush(stdout);
}

void run_step(Run *run, int step, double loss, double norm, bool finite, double seconds) {
    const TrainOptions *o = run->options;
    double samples = (double)train_samples(o, run->world);
    if (run->rank > 0) { return; }
    run->working += seconds;
    yajl_gen gen = begin_line("step");
    json_put_integer(gen, "step", step);
    json_put_number(gen, "loss", loss);
    json_put_number(gen, "grad_norm", norm);
    json_put_number(gen, "lr", train_lr(o, step - 1));
    json_put_number(gen, "samples_per_s", round(samples / seconds * 100) / 100);
    json_put_integer(gen, "world", run->world);
    json_put_number(gen, "seconds", round((now_seconds() - run->started) * 1000) / 1000);
    if (run->least_seconds > 0) { json_put_number(gen, "roofline", round(run->least_seconds / seconds * 1e4) / 1e4); }
    end_line(run, gen);
    tensorboard_scalar(run->board, "train/loss", step, loss);
    tensorboard_scalar(run->board, "train/grad_norm", step, norm);
    tensorboard_scalar(run->board, "train/lr", step, train_lr(o, step - 1));
    tensorboard_scalar(run->board, "train/samples_per_s", step, samples / seconds);
    if (!finite) { warn("step %d: the gradient is not finite, the step was left out", step); }
    if (step % o->log_every == 0 || step == o->max_train_steps) {
        print_step(run, step, loss, norm, seconds, run->working / (step - run->first_step));
    }
}

static void save_sheet(Run *run, int step, const Image *sheet) {
    if (!sheet->pixels) { return; }
    char *path = xprintf("%s/samples/step-%06d.png", run->options->out, step);
    image_save(sheet, path);
    size_t size;
    uint8_t *png = image_encode_png(sheet, &size);
    tensorboard_image(run->board, "validation/samples", step, sheet->width, sheet->height, png, size);
    free(png);
    free(path);
}

static void put_summary(Run *run, yajl_gen gen, int step, const char *name, const Summary *s) {
    if (!s->pairs) { return; }
    const struct {
        const char *name;
        double value;
    } rows[] = {{"giou", s->giou}, {"ciou", s->ciou}, {"miou", s->miou}};
    for (int i = 0; i < 3; i++) {
        char *field = xprintf("%s_%s", rows[i].name, name), *tag = xprintf("validation/%s", field);
        json_put_number(gen, field, rows[i].value);
        tensorboard_scalar(run->board, tag, step, rows[i].value);
        free(field);
        free(tag);
    }
}

static void save_strip(const Run *run, const Image *image, const char *name) {
    char *path = xprintf("%s/validation/%s.png", run->options->out, name);
    image_save(image, path);
    free(path);
}

// Everything that later questions may need: every pair, every loss.
static void save_rows(const Run *run, int step, const Validation *v) {
    char *path = xprintf("%s/validation/step-%06d.csv", run->options->out, step);
    AtomicFile file = atomic_open(path);
    fprintf(file.stream, "image_id,class,seen,intersection,union,predicted,truth,valid,to_black,to_white\n");
    for (int i = 0; i < v->count; i++) {
        const ValidationRow *r = &v->rows[i];
        const PairScore *s = &r->score;
        fprintf(file.stream, "%lld,\"%s\",%d,%.0f,%.0f,%.0f,%.0f,%.0f,%.6g,%.6g\n", (long long)s->image_id,
                r->class_name, r->seen, s->intersection, s->union_, s->predicted, s->truth, s->valid, r->to_black,
                r->to_white);
    }
    atomic_commit(&file);
    free(path);
    path = xprintf("%s/validation/step-%06d-losses.csv", run->options->out, step);
    file = atomic_open(path);
    fprintf(file.stream, "sample,timestep,loss\n");
    for (int i = 0; i < v->loss_count; i++) {
        fprintf(file.stream, "%d,%d,%.7g\n", v->losses[i].sample, v->losses[i].timestep, v->losses[i].loss);
    }
    atomic_commit(&file);
    free(path);
    path = xprintf("step-%06d", step);
    save_strip(run, &v->predictions, path);
    save_strip(run, &v->inputs, "input");
    save_strip(run, &v->truths, "truth");
    free(path);
}

void run_validation(Run *run, int step, const Validation *v) {
    yajl_gen gen = begin_line("validation");
    json_put_integer(gen, "step", step);
    json_put_number(gen, "loss", v->loss);
    put_summary(run, gen, step, "seen", &v->seen);
    put_summary(run, gen, step, "unseen", &v->unseen);
    json_put_number(gen, "empty", v->empty);
    json_put_number(gen, "full", v->full);
    json_put_number(gen, "to_black", v->to_black);
    json_put_number(gen, "to_white", v->to_white);
    end_line(run, gen);
    tensorboard_scalar(run->board, "validation/loss", step, v->loss);
    tensorboard_scalar(run->board, "validation/empty", step, v->empty);
    tensorboard_scalar(run->board, "validation/full", step, v->full);
    tensorboard_scalar(run->board, "validation/to_black", step, v->to_black);
    tensorboard_scalar(run->board, "validation/to_white", step, v->to_white);
    save_sheet(run, step, &v->sheet);
    save_rows(run, step, v);
    printf("validation at step %d: loss %.4f", step, v->loss);
    if (v->seen.pairs) { printf("  gIoU seen %.3f (%d)", v->seen.giou, v->seen.pairs); }
    if (v->unseen.pairs) { printf("  unseen %.3f (%d)", v->unseen.giou, v->unseen.pairs); }
    printf("  empty %.0f%%  full %.0f%%\n", 100 * v->empty, 100 * v->full);
    fflush(stdout);
}

void run_validation_vae(Run *run, int step, double loss, double psnr, const Image *sheet) {
    yajl_gen gen = begin_line("validation");
    json_put_integer(gen, "step", step);
    json_put_number(gen, "loss", loss);
    json_put_number(gen, "psnr", psnr);
    end_line(run, gen);
    tensorboard_scalar(run->board, "validation/loss", step, loss);
    tensorboard_scalar(run->board, "validation/psnr", step, psnr);
    save_sheet(run, step, sheet);
    printf("validation at step %d: loss %.4f  PSNR %.2f dB\n", step, loss, psnr);
    fflush(stdout);
}

Peaks run_peaks(const TrainOptions *o, const Comm *comm, Device *dev) {
    Peaks peaks = {0};
    if (comm->rank > 0 || o->no_roofline) { return peaks; }
    peaks = device_measure_peaks(dev);
    if (peaks.bytes_per_s == 0) { warn("too little memory is free to measure the roofline: its column is left out"); }
    return peaks;
}

void memory_table(const MemoryRow *rows, int count, size_t held, const char *note, Device *dev) {
    char text[24], room[24], whole[24];
    size_t total = 0, free_bytes, device_bytes;
    device_memory(dev, &free_bytes, &device_bytes);
    free_bytes += held + dev->workspace_size; // which becomes a part of the one in the table
    printf("memory on %s\n", device_name(dev));
    for (int i = 0; i < count; i++) {
        total += rows[i].bytes;
        printf("  %-28s %10s\n", rows[i].what, format_bytes((double)rows[i].bytes, text));
    }
    format_bytes((double)total, text);
    format_bytes((double)free_bytes, room);
    printf("  %-28s %10s of %s\n", "total", text, room);
    if (note) { printf("  %s\n", note); }
    fflush(stdout);
    if (total > free_bytes) {
        die("training needs %s, but %s has %s of its %s free: %stry a smaller --train-batch-size or --recompute blocks",
            text, device_name(dev), room, format_bytes((double)device_bytes, whole),
            total <= device_bytes ? "end what else uses it, or " : "");
    }
}
