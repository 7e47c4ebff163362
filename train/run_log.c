#include "train/run_log.h"
#include "train/checkpoint.h"
#include "train/optimizer.h"
#include "train/record.h"
#include "util/csv.h"
#include "util/error.h"
#include "util/file.h"
#include "util/lock.h"
#include "util/progress.h"
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static yajl_gen begin_line(const char *kind) {
    yajl_gen gen = yajl_gen_alloc(NULL);
    yajl_gen_map_open(gen);
    json_put_string(gen, "kind", kind);
    return gen;
}

static void end_line(RunLog *log, yajl_gen gen) {
    const unsigned char *text;
    size_t size;
    yajl_gen_map_close(gen);
    yajl_gen_get_buf(gen, &text, &size);
    fwrite(text, 1, size, log->file);
    fputc('\n', log->file);
    if (fflush(log->file) != 0 || ferror(log->file)) {
        die("%s: cannot be written: %s", log->log_path, strerror(errno));
    }
    yajl_gen_free(gen);
}

// Keeps the log's lines up to the checkpoint's step, and drops incomplete lines. Returns whether that step's validation
// is among them.
static bool cut_log(const char *path, int last_step) {
    if (!file_exists(path)) { return false; }
    bool validated = false;
    char *text = read_file(path, NULL), *rest = text, *end = text; // kept lines move up in place
    for (char *line; (line = strsep(&rest, "\n"));) {
        const char *field = strstr(line, "\"step\":");
        size_t length = strlen(line);
        if (!length || line[length - 1] != '}' || (field && atoi(field + 7) > last_step)) { continue; }
        validated |= field && atoi(field + 7) == last_step && strstr(line, "\"kind\":\"validation\"");
        memmove(end, line, length);
        end[length] = '\n';
        end += length + 1;
    }
    atomic_write(path, text, (size_t)(end - text));
    free(text);
    return validated;
}

static bool exists(const char *out, const char *name) {
    char *path = xprintf("%s/%s", out, name);
    bool found = access(path, F_OK) == 0;
    free(path);
    return found;
}

static void clear_folder(const char *out) {
    static const char *const ours[] = {"tensorboard", "samples", "validation", "model", "log.jsonl", NULL};
    checkpoint_remove_all(out);
    for (int i = 0; ours[i]; i++) {
        char *path = xprintf("%s/%s", out, ours[i]);
        remove_tree(path);
        free(path);
    }
}

// Whether the log is that of a run, or empty: the run was killed before the first line.
static bool is_log(const char *path) {
    char begin[9] = "";
    FILE *file = fopen(path, "r");
    if (!file) { return false; }
    size_t length = fread(begin, 1, 8, file);
    fclose(file);
    return length == 0 || strcmp(begin, "{\"kind\":") == 0;
}

// What a command wrote has a log, which is deleted last. An empty folder is as good; hidden files do not count.
static bool may_overwrite(const char *out, const char *log_path) {
    DIR *entries = opendir(out);
    bool empty = true;
    for (struct dirent *e; entries && (e = readdir(entries));) { empty &= e->d_name[0] == '.'; }
    if (entries) { closedir(entries); }
    return empty || is_log(log_path);
}

// Whether an option's value names something in `out`: the folder itself, or lists @FILE, separated by |.
static bool reads_in(const char *value, bool folder, const char *out) {
    if (folder && path_inside(value, out)) { return true; }
    char *parts = xstrdup(value), *rest = parts;
    bool found = false;
    for (char *part; (part = strsep(&rest, "|"));) { found |= part[0] == '@' && path_inside(part + 1, out); }
    free(parts);
    return found;
}

// --overwrite must not delete what the run reads, nor what no run has written.
static void check_overwrite(const TrainOptions *o, const char *log_path) {
    static const char *const folders[] = {"model", "shards", "data"};
    for (const Option *row = o->table; row->kind != OPT_END; row++) {
        const char *value = row->kind == OPT_STRING ? *(char **)row->value : NULL;
        bool folder = false;
        for (int i = 0; value && i < 3; i++) { folder |= strcmp(row->name, folders[i]) == 0; }
        if (!value || !reads_in(value, folder, o->out)) { continue; }
        die("--overwrite: --%s %s lies in --out %s, which would be deleted", row->name, value, o->out);
    }
    if (!may_overwrite(o->out, log_path)) {
        die("--overwrite: --out %s holds files, but not a run (no log.jsonl): expected another folder", o->out);
    }
}

// Rank 0 may start to write only after all others have read the folder.
static void agree(const RunLog *log, Comm *comm) {
    int first_step = log->first_step;
    comm_host_broadcast(comm, &first_step, sizeof first_step, 0);
    if (first_step != log->first_step) {
        die("--out %s: the newest checkpoint is of step %d here, but of step %d on rank 0: expected the same folder "
            "on all ranks",
            log->options->out, log->first_step, first_step);
    }
    comm_barrier(comm);
}

// A run that begins, also with --resume, must not replace a model, nor a log unless a run without a checkpoint left it.
static void check_start(const TrainOptions *o, const char *log_path) {
    bool log = exists(o->out, "log.jsonl"), ours = log && is_log(log_path);
    const char *or_delete = ours ? ", or delete the run with --overwrite" : "";
    if (exists(o->out, "model")) {
        die("%s: holds a model, but no checkpoint to go on from: give another folder%s", o->out, or_delete);
    }
    if (log && !(ours && o->resume)) {
        die("%s: holds a log.jsonl, but no checkpoint to go on from: give another folder%s", o->out, or_delete);
    }
}

static RunLog find_run(const TrainOptions *o, const Comm *comm) {
    RunLog log = {.options = o, .log_path = xprintf("%s/log.jsonl", o->out), .rank = comm->rank, .world = comm->world};
    if (o->resume && o->overwrite) { die("--resume and --overwrite: expected only one of them"); }
    char *other = checkpoint_other(o->out); // a checkpoint of this run would replace it
    if (other) { die("%s: has a checkpoint's name, but no run wrote it: move it away, or give another folder as --out", other); }
    if (o->overwrite) {
        check_overwrite(o, log.log_path);
        return log;
    }
    log.checkpoint = checkpoint_newest(o->out, &log.first_step);
    if (!log.checkpoint) {
        check_start(o, log.log_path);
        return log;
    }
    if (!o->resume) {
        die("%s: already holds a run: continue it with --resume, or delete it with --overwrite", o->out);
    }
    if (comm->rank == 0) { checkpoint_want_whole(o->out); }
    checkpoint_check_command(o->command, log.checkpoint);
    printf("resuming from %s\n", log.checkpoint);
    return log;
}

RunLog run_log_open(const TrainOptions *o, Comm *comm) {
    bool locked = false;
    if (comm->rank == 0) {
        want_folder(o->out);
        locked = folder_exists(o->out) && folder_lock(o->out);
    }
    RunLog log = find_run(o, comm);
    log.locked = locked;
    agree(&log, comm);
    if (locked) { checkpoint_remove_leftovers(o->out); }
    if (locked && !log.checkpoint && !o->overwrite) { check_start(o, log.log_path); } // an old model has its name back
    return log;
}

void run_log_close(RunLog *log) {
    if (log->file) { fclose(log->file); }
    if (log->board) { tensorboard_close(log->board); }
    free(log->log_path);
    free(log->checkpoint);
}

const char *run_log_base(const RunLog *log) { return log->checkpoint ? log->checkpoint : log->options->model; }

void run_log_publish(const RunLog *log, const Trained *trained, int step) {
    const TrainOptions *o = log->options;
    if (log->rank > 0 || step < o->max_train_steps) { return; }
    // Whoever has added something to the model, such as thresholds, keeps it.
    bool there = step == log->first_step && checkpoint_is_published(log->checkpoint, trained, o->out);
    if (!there) { checkpoint_publish(log->checkpoint, o->out); }
    printf("the model is in %s/model\n", o->out);
}

void run_log_begin(RunLog *log, long long parameters, long long samples, const char *vae_sha256) {
    const char *out = log->options->out;
    if (log->rank > 0) { return; }
    make_folders(out);
    if (!log->locked && folder_lock(out) && exists(out, "log.jsonl") && !log->options->overwrite) {
        die("%s: holds a run that began at the same time: give another folder", out);
    }
    if (log->options->overwrite) { clear_folder(out); }
    if (log->checkpoint) {
        log->validated = cut_log(log->log_path, log->first_step);
    } else {
        remove_tree(log->log_path);
    }
    log->file = append_file(log->log_path);
    char *folder = xprintf("%s/tensorboard", out);
    log->board = tensorboard_open(folder, log->first_step);
    free(folder);
    const char *const folders[] = {"samples", "validation"};
    for (int i = 0; i < 2; i++) {
        folder = xprintf("%s/%s", out, folders[i]);
        make_folders(folder);
        remove_temporaries(folder);
        free(folder);
    }
    yajl_gen gen = begin_line("run");
    json_put_integer(gen, "first_step", log->first_step);
    json_put_string(gen, "command", log->options->command_line);
    json_put_integer(gen, "world", log->world);
    record_options(log->options, gen);
    json_put_integer(gen, "parameters", parameters);
    json_put_integer(gen, "samples", samples);
    json_put_number(gen, "least_seconds", log->least_seconds);
    if (log->algorithms && *log->algorithms) { json_put_string(gen, "algorithms", log->algorithms); }
    if (vae_sha256) { json_put_string(gen, "vae_sha256", vae_sha256); }
    end_line(log, gen);
    log->started = now_seconds();
}

// Writes a number to the log's line and, as PART/NAME, to TensorBoard.
static void put(RunLog *log, yajl_gen gen, const char *part, int step, const char *name, double value) {
    char *tag = xprintf("%s/%s", part, name);
    json_put_number(gen, name, value);
    tensorboard_scalar(log->board, tag, step, value);
    free(tag);
}

static void print_step(const RunLog *log, int step, double loss, double norm, double seconds, double average) {
    const TrainOptions *o = log->options;
    char left[24], roofline[32] = "", ranks[32] = "";
    double samples = (double)train_samples(o, log->world);
    if (log->world > 1) { snprintf(ranks, sizeof ranks, " on %d ranks", log->world); }
    if (log->least_seconds > 0) {
        snprintf(roofline, sizeof roofline, "  %3.0f%% of roofline", 100 * log->least_seconds / seconds);
    }
    printf("step %d/%d  loss %.4f  norm %.3f  lr %.2e  %.1f samples/s%s%s  %s left\n", step, o->max_train_steps, loss,
           norm, learning_rate(o, step - 1), samples / seconds, ranks, roofline,
           format_duration(average * (o->max_train_steps - step), left));
    fflush(stdout);
}

static void watch_loss(RunLog *log, int step, double loss) {
    if (!isfinite(loss)) { return; }
    log->losses[log->loss_count++ % LOSS_WINDOW] = loss;
    if (log->loss_count < LOSS_WINDOW) { return; }
    double mean = 0;
    for (int i = 0; i < LOSS_WINDOW; i++) { mean += log->losses[i] / LOSS_WINDOW; }
    if (log->loss_count == LOSS_WINDOW || mean < log->lowest) { log->lowest = mean; }
    if (log->exploded || mean <= LOSS_EXPLODES * log->lowest) { return; }
    log->exploded = true;
    warn(
        "step %d: the loss explodes: its mean over the last %d steps is %.4g, more than %d times the lowest such mean, "
        "%.4g (a lower --lr or --max-grad-norm may help)",
        step, LOSS_WINDOW, mean, LOSS_EXPLODES, log->lowest);
}

void log_step(RunLog *log, int step, double loss, double norm, double seconds) {
    const TrainOptions *o = log->options;
    double samples = (double)train_samples(o, log->world);
    if (log->rank > 0) { return; }
    log->working += seconds;
    yajl_gen gen = begin_line("step");
    json_put_integer(gen, "step", step);
    put(log, gen, "train", step, "loss", loss);
    put(log, gen, "train", step, "grad_norm", norm);
    put(log, gen, "train", step, "lr", learning_rate(o, step - 1));
    json_put_number(gen, "samples_per_s", round(samples / seconds * 100) / 100);
    json_put_integer(gen, "world", log->world);
    json_put_number(gen, "seconds", round((now_seconds() - log->started) * 1000) / 1000);
    if (log->least_seconds > 0) { json_put_number(gen, "roofline", round(log->least_seconds / seconds * 1e4) / 1e4); }
    end_line(log, gen);
    tensorboard_scalar(log->board, "train/samples_per_s", step, samples / seconds);
    watch_loss(log, step, loss);
    if (step % o->log_every == 0 || step == o->max_train_steps) {
        print_step(log, step, loss, norm, seconds, log->working / (step - log->first_step));
    }
}

static void save_sheet(RunLog *log, int step, const Image *sheet) {
    if (!sheet->pixels) { return; }
    char *path = xprintf("%s/samples/step-%06d.png", log->options->out, step);
    image_save(sheet, path);
    size_t size;
    uint8_t *png = image_encode(sheet, 0, &size);
    tensorboard_image(log->board, "validation/samples", step, sheet->width, sheet->height, png, size);
    free(png);
    free(path);
}

static void put_summary(RunLog *log, yajl_gen gen, int step, bool seen, const Summary *s) {
    if (!s->pairs) { return; }
    put(log, gen, "validation", step, seen ? "giou_seen" : "giou_unseen", s->giou);
    put(log, gen, "validation", step, seen ? "ciou_seen" : "ciou_unseen", s->ciou);
    put(log, gen, "validation", step, seen ? "miou_seen" : "miou_unseen", s->miou);
}

static void save_strip(const RunLog *log, const Image *image, const char *name) {
    char *path = xprintf("%s/validation/%s.png", log->options->out, name);
    image_save(image, path);
    free(path);
}

// Saves every pair and every loss, for later analysis.
static void save_rows(const RunLog *log, int step, const Validation *v) {
    char *path = xprintf("%s/validation/step-%06d.csv", log->options->out, step);
    AtomicFile file = atomic_open(path);
    fprintf(file.stream, "image_id,class,seen,intersection,union,predicted,truth,valid,to_black,to_white\n");
    for (int i = 0; i < v->count; i++) {
        const ValidationRow *r = &v->rows[i];
        const PairScore *s = &r->score;
        fprintf(file.stream, "%lld,", (long long)s->image_id);
        csv_put_text(file.stream, r->class_name);
        fprintf(file.stream, ",%d,%.0f,%.0f,%.0f,%.0f,%.0f,%.6g,%.6g\n", r->seen, s->intersection, s->union_,
                s->predicted, s->truth, s->valid, r->to_black, r->to_white);
    }
    atomic_commit(&file);
    free(path);
    path = xprintf("%s/validation/step-%06d-losses.csv", log->options->out, step);
    file = atomic_open(path);
    fprintf(file.stream, "sample,timestep,loss\n");
    for (int i = 0; i < v->loss_count; i++) {
        fprintf(file.stream, "%d,%d,%.7g\n", v->losses[i].sample, v->losses[i].timestep, v->losses[i].loss);
    }
    atomic_commit(&file);
    free(path);
    path = xprintf("step-%06d", step);
    save_strip(log, &v->predictions, path);
    save_strip(log, &v->inputs, "input");
    save_strip(log, &v->truths, "truth");
    free(path);
}

void log_validation(RunLog *log, int step, const Validation *v) {
    yajl_gen gen = begin_line("validation");
    json_put_integer(gen, "step", step);
    put(log, gen, "validation", step, "loss", v->loss);
    put_summary(log, gen, step, true, &v->seen);
    put_summary(log, gen, step, false, &v->unseen);
    put(log, gen, "validation", step, "empty", v->empty);
    put(log, gen, "validation", step, "full", v->full);
    put(log, gen, "validation", step, "to_black", v->to_black);
    put(log, gen, "validation", step, "to_white", v->to_white);
    save_sheet(log, step, &v->sheet);
    save_rows(log, step, v);
    end_line(log, gen);
    if (v->broken) { warn("validation at step %d: what the model draws is NaN or infinite", step); }
    printf("validation at step %d: loss %.4f", step, v->loss);
    if (v->seen.pairs) { printf("  gIoU seen %.3f (%d)", v->seen.giou, v->seen.pairs); }
    if (v->unseen.pairs) { printf("  unseen %.3f (%d)", v->unseen.giou, v->unseen.pairs); }
    printf("  empty %.0f%%  full %.0f%%\n", 100 * v->empty, 100 * v->full);
    fflush(stdout);
}

void log_vae_validation(RunLog *log, int step, double loss, double psnr, const Image *sheet) {
    yajl_gen gen = begin_line("validation");
    json_put_integer(gen, "step", step);
    put(log, gen, "validation", step, "loss", loss);
    put(log, gen, "validation", step, "psnr", psnr);
    save_sheet(log, step, sheet);
    end_line(log, gen);
    printf("validation at step %d: loss %.4f  PSNR %.2f dB\n", step, loss, psnr);
    fflush(stdout);
}

void log_text_validation(RunLog *log, int step, double loss, const Image *sheet) {
    yajl_gen gen = begin_line("validation");
    json_put_integer(gen, "step", step);
    put(log, gen, "validation", step, "loss", loss);
    save_sheet(log, step, sheet);
    end_line(log, gen);
    printf("validation at step %d: loss %.4f\n", step, loss);
    fflush(stdout);
}
