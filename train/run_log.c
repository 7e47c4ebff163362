#include "train/run_log.h"
#include "train/optimizer.h"
#include "train/record.h"
#include "util/csv.h"
#include "util/error.h"
#include "util/file.h"
#include "util/progress.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

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
        die("%s: cannot be written: %s", log->run->log_path, strerror(errno));
    }
    yajl_gen_free(gen);
}

void run_log_open(RunLog *log, long long parameters, long long samples, const char *vae_sha256) {
    const RunFolder *run = log->run;
    if (run->rank > 0) { return; }
    log->file = append_file(run->log_path);
    log->board = tensorboard_open(path_of("%s/tensorboard", run->options->out).text, run->first_step);
    yajl_gen gen = begin_line("run");
    json_put_integer(gen, "first_step", run->first_step);
    json_put_string(gen, "command", run->options->command_line);
    json_put_integer(gen, "world", run->world);
    record_options(run->options, gen);
    json_put_integer(gen, "parameters", parameters);
    json_put_integer(gen, "samples", samples);
    json_put_number(gen, "least_seconds", log->least_seconds);
    if (log->algorithms && *log->algorithms) { json_put_string(gen, "algorithms", log->algorithms); }
    if (vae_sha256) { json_put_string(gen, "vae_sha256", vae_sha256); }
    end_line(log, gen);
    log->started = now_seconds();
}

void run_log_close(RunLog *log) {
    if (log->file) { fclose(log->file); }
    if (log->board) { tensorboard_close(log->board); }
}

// Writes a number to the log's line and, as PART/NAME, to TensorBoard.
static void put(RunLog *log, yajl_gen gen, const char *part, int step, const char *name, double value) {
    char *tag = xprintf("%s/%s", part, name);
    json_put_number(gen, name, value);
    tensorboard_scalar(log->board, tag, step, value);
    free(tag);
}

static void print_step(const RunLog *log, int step, double loss, double norm, double seconds, double average) {
    const TrainOptions *o = log->run->options;
    char left[24], roofline[32] = "", ranks[32] = "";
    double samples = (double)train_samples(o, log->run->world);
    if (log->run->world > 1) { snprintf(ranks, sizeof ranks, " on %d ranks", log->run->world); }
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
    const TrainOptions *o = log->run->options;
    double samples = (double)train_samples(o, log->run->world);
    if (log->run->rank > 0) { return; }
    log->working += seconds;
    yajl_gen gen = begin_line("step");
    json_put_integer(gen, "step", step);
    put(log, gen, "train", step, "loss", loss);
    put(log, gen, "train", step, "grad_norm", norm);
    put(log, gen, "train", step, "lr", learning_rate(o, step - 1));
    json_put_number(gen, "samples_per_s", round(samples / seconds * 100) / 100);
    json_put_integer(gen, "world", log->run->world);
    json_put_number(gen, "seconds", round((now_seconds() - log->started) * 1000) / 1000);
    if (log->least_seconds > 0) { json_put_number(gen, "roofline", round(log->least_seconds / seconds * 1e4) / 1e4); }
    end_line(log, gen);
    tensorboard_scalar(log->board, "train/samples_per_s", step, samples / seconds);
    watch_loss(log, step, loss);
    if (step % o->log_every == 0 || step == o->max_train_steps) {
        print_step(log, step, loss, norm, seconds, log->working / (step - log->run->first_step));
    }
}

static void save_sheet(RunLog *log, int step, const Image *sheet) {
    if (!sheet->pixels) { return; }
    char *path = xprintf("%s/samples/step-%06d.png", log->run->options->out, step);
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
    char *path = xprintf("%s/validation/%s.png", log->run->options->out, name);
    image_save(image, path);
    free(path);
}

// Saves every pair and every loss, for later analysis.
static void save_rows(const RunLog *log, int step, const Validation *v) {
    char *path = xprintf("%s/validation/step-%06d.csv", log->run->options->out, step);
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
    path = xprintf("%s/validation/step-%06d-losses.csv", log->run->options->out, step);
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
