// cocogold encode: pictures and masks -> training samples (data/sample.h) -> VAE encoder -> HDF5 shards.
//
// Every pass over the data set is cut into ranges of --shard-size pictures, one shard each. A shard depends on the
// options alone: a restart keeps complete shards, and processes divide the shards by number (--part, or the ranks of a
// launcher). While the VAE works on a batch, a thread reads and crops the next one.
#include "data/classes.h"
#include "data/coco.h"
#include "data/loader.h"
#include "data/paint.h"
#include "data/sample.h"
#include "data/shard.h"
#include "data/shard_report.h"
#include "kernels/runtime/device.h"
#include "kernels/runtime/launch.h"
#include "model/mapped.h"
#include "model/sampler.h"
#include "util/error.h"
#include "util/file.h"
#include "util/interrupt.h"
#include "util/options.h"
#include "util/progress.h"
#include "util/threads.h"
#include <ctype.h>
#include <limits.h>
#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef PRECISION_bf16
#define PRECISION_NAME "bf16"
#else
#define PRECISION_NAME "fp32"
#endif
#define FORMAT_VERSION "1" // version of the shards and of the rules that make them

typedef struct {
    int target_list; // index in target_lists
    int text_list;   // index in text_lists
    char *model, *data, *split, *out, *source, *targets, *classes, *exclude, *color, *part, *texts;
    int resolution, passes, min_side, shard_size, batch, threads, part_index, part_count;
    double alpha, outline, absent;
    long long seed;
} Options;

// Pictures [first, first + count) of a shard: one batch.
typedef struct {
    int shard;
    long long first;
    int count;
    bool last; // batch of its shard
} Work;

// A batch ready for the VAE: one sample per picture (count), and the pixels of the valid ones (rows).
typedef struct {
    Sample *samples;
    SampleReason *reasons;
    int rows, *picture_of;  // (rows) index into samples
    float *pixels[LATENTS]; // (rows, R, R, 3); NULL: not asked for
} Rendered;

typedef struct {
    Options o;
    Coco coco;
    int *order; // pictures by id
    int shards_per_pass;
    SampleOptions sample;
    Phrases phrases; // --texts captions or phrases
    Paint paint;
    ShardInfo info;
    Work *work;
    long long work_count, kept_pictures, todo_pictures;
    long long samples, damaged; // of this run
    Rendered rendered[2];       // indexed by the number of the work modulo 2
    Device dev;
    Pipeline pipeline;
    Arena arena;
    float *device_pixels, *device_latents, *latents[LATENTS]; // latents: (batch, h, w, C) on the host
} Encoder;

// ---- options

static const char *const target_lists[] = {"overlay", "mask", "overlay,mask", "mask,overlay", "none", NULL};
static const int target_bits[] = {TARGET_OVERLAY, TARGET_MASK, TARGET_OVERLAY | TARGET_MASK,
                                  TARGET_OVERLAY | TARGET_MASK, 0};
enum { TEXTS_NAMES, TEXTS_CAPTIONS, TEXTS_PHRASES };
static const char *const text_lists[] = {"names", "captions", "phrases", NULL};

static Options parse_options(int argc, char **argv) {
    Options o = {.split = "train",
                 .source = "auto",
                 .texts = "names",
                 .color = "white",
                 .passes = 1,
                 .min_side = 300,
                 .shard_size = 1024,
                 .batch = 8,
                 .alpha = 1,
                 .seed = 2024};
    Option table[] = {
        {OPT_HEADING, "Input and output"},
        {OPT_STRING, "model", &o.model, "pipeline directory with the VAE", "DIR", .required = "a pipeline directory"},
        DATA_ROWS(&o.data),
        {OPT_STRING, "split", &o.split, "split of the data set; train2017 gives train-00000.h5", "NAME"},
        SOURCE_ROWS(&o.source),
        MAX_PIXELS_ROWS,
        {OPT_STRING, "out", &o.out, "output folder for SPLIT-00000.h5, ... and SPLIT.json", "DIR",
         .required = "the folder for the shards"},
        {OPT_HEADING, "Samples"},
        {OPT_STRING, "texts", &o.texts,
         "what samples are asked with: names of classes, captions_SPLIT.json, or phrases of refs_SPLIT.json with the "
         "masks of their objects",
         "KIND", .choices = text_lists, .choice = &o.text_list},
        {OPT_STRING, "classes", &o.classes,
         "classes to draw samples of (default: seen.txt of the data set or default14; of other splits than train "
         "all-things; with phrases all): " CLASSES_HELP,
         "LIST"},
        {OPT_STRING, "exclude", &o.exclude,
         "leave out pictures that show one of these classes, so that training never sees them", "LIST"},
        {OPT_INT, "resolution", &o.resolution, "side of the training pictures (0: from the model's configs)", "PIXELS",
         .high = MOST_RESOLUTION},
        {OPT_INT, "passes", &o.passes, "passes over the pictures, each with different crops and classes", "N", .low = 1,
         .high = 100000},
        SAMPLE_ROWS(&o.absent, &o.min_side),
        {OPT_LONG, "seed", &o.seed, "seed of crops and classes", "SEED"},
        {OPT_HEADING, "Targets"},
        {OPT_STRING, "targets", &o.targets,
         "targets to encode in addition to the input (default: overlay; for captions none)", "LIST",
         .choices = target_lists, .choice = &o.target_list},
        PAINT_ROWS(&o.color, &o.alpha, &o.outline),
        {OPT_HEADING, "Work"},
        {OPT_INT, "shard-size", &o.shard_size, "pictures per shard, the unit of restart", "N", .low = 1, .high = 1e6},
        {OPT_INT, "batch", &o.batch, "pictures per call of the VAE", "N", .low = 1, .high = 4096},
        {OPT_STRING, "part", &o.part,
         "write only every N-th shard, starting with the K-th (for several processes; the ranks of mpirun, torchrun or "
         "srun divide the part, or all shards)",
         "K/N"},
        {OPT_INT, "threads", &o.threads, "number of threads that read and crop pictures (0: a quarter of the cores)",
         "N", .high = 1024},
        OPTIONS_END};
    static const OptionsHelp help = {
        .about = "Encodes pictures and masks into HDF5 shards of latents. Run it again to continue after an "
                 "interruption.",
        .usage = "--model DIR --data DIR --out DIR [OPTIONS]",
        .example = "--model model --data coco --split train2017 --resolution 512 --passes 13 --out latents"};
    options_parse(argc, argv, table, &help, 0);
    if (!o.targets) {
        o.target_list = options_choice(o.text_list == TEXTS_CAPTIONS ? "none" : "overlay", "--targets", target_lists);
    }
    if (!target_bits[o.target_list] && o.text_list != TEXTS_CAPTIONS) {
        die("--targets none: expected a target, except with --texts captions");
    }
    if (target_bits[o.target_list] && o.text_list == TEXTS_CAPTIONS && o.targets) {
        die("--targets %s: captions have no masks, expected none", o.targets);
    }
    if (o.classes && o.text_list == TEXTS_CAPTIONS) {
        die("--classes %s: captions are of whole pictures, expected no classes", o.classes);
    }
    if (o.absent > 0 && o.text_list != TEXTS_NAMES) {
        die("--absent %g: expected with --texts names; phrases bring absent ones of their own", o.absent);
    }
    if (!o.threads) { o.threads = omp_get_num_procs() < 8 ? 1 : omp_get_num_procs() / 4; }
    return o;
}

// This process's part: of the shards of --part, or of all, every world-th.
static void choose_part(Options *o, const Launch *launch) {
    int index = 1, count = 1, end = 0;
    if (o->part && (sscanf(o->part, "%9d/%9d%n", &index, &count, &end) != 2 || o->part[end] || index < 1 ||
                    index > count || count > INT_MAX / launch->world)) {
        die("--part %s: expected K/N with 1 <= K <= N", o->part);
    }
    o->part_index = index + launch->rank * count;
    o->part_count = count * launch->world;
}

static void name_split(const Options *o, char name[32]) {
    size_t length = strlen(o->split);
    while (length > 1 && isdigit((unsigned char)o->split[length - 1])) { length--; }
    if (length > 31) { die("--split %s: expected at most 31 letters", o->split); }
    snprintf(name, 32, "%.*s", (int)length, o->split);
}

// ---- what to do

static void choose_classes(Encoder *e, bool train) {
    const Options *o = &e->o;
    int count = e->coco.category_count;
    bool *sampled = classes_to_encode(&e->coco, o->classes, train, o->text_list != TEXTS_NAMES);
    bool *excluded = o->exclude ? classes_parse(&e->coco, "--exclude", o->exclude, NULL) : xcalloc((size_t)count, 1);
    for (int c = 0; c < count; c++) { sampled[c] &= !excluded[c]; }
    const char **names = coco_class_names(&e->coco);
    shard_info_classes(&e->info, count, names);
    for (int c = 0; c < count; c++) { e->info.sampled[c] = excluded[c] ? CLASS_EXCLUDED : sampled[c]; }
    e->sample.allowed = sampled;
    e->sample.excluded = excluded;
    free(names);
}

static void open_data(Encoder *e) {
    const Options *o = &e->o;
    e->coco = coco_open(o->data, o->split, o->source);
    if (o->text_list != TEXTS_CAPTIONS) { coco_want_segments(&e->coco); } // captions need no masks
    coco_want_exhaustive(&e->coco, o->absent);
    e->order = coco_by_id(&e->coco);
    e->shards_per_pass = (e->coco.picture_count + o->shard_size - 1) / o->shard_size;
    if ((long long)e->shards_per_pass * o->passes > 99999) {
        die("--shard-size %d: %d pictures in %d passes would be more than 99999 shards", o->shard_size,
            e->coco.picture_count, o->passes);
    }
    if (!e->coco.picture_count) { die("%s: has no pictures", e->coco.path); }
    if (o->text_list == TEXTS_PHRASES && e->coco.panoptic) {
        die("--source %s: phrases name the annotations of instances_%s.json, expected --source instances", o->source,
            o->split);
    }
    if (o->text_list != TEXTS_NAMES) { e->phrases = phrases_open(&e->coco, o->text_list == TEXTS_CAPTIONS); }
}

static void describe(Encoder *e) {
    const Options *o = &e->o;
    ShardInfo *info = &e->info;
    const VAEConfig *vae = &e->pipeline.vae_encoder.config;
    *info = (ShardInfo){.precision = PRECISION_NAME,
                        .version = FORMAT_VERSION,
                        .alpha = o->alpha,
                        .outline = o->outline,
                        .absent = o->absent,
                        .min_side = o->min_side,
                        .passes = o->passes,
                        .seed = o->seed};
    info->resolution = pipeline_resolution(&e->pipeline, o->resolution);
    name_split(o, info->split);
    snprintf(info->source, sizeof info->source, "%s", e->coco.panoptic ? "panoptic" : "instances");
    sha256_file(e->coco.path, info->annotations_sha256);
    pipeline_vae_digest(o->model, info->vae_sha256);
    e->paint = paint_parse(o->color, o->alpha, o->outline);
    for (int i = 0; i < 3; i++) { info->color[i] = e->paint.color[i]; }
    info->targets = target_bits[o->target_list];
    if (e->phrases.count) {
        snprintf(info->text_source, sizeof info->text_source, "%s", o->texts);
        sha256_file(e->phrases.path, info->texts_sha256);
        shard_info_kinds(info, e->phrases.kind_count, (const char *const *)e->phrases.kinds);
        e->sample.phrases = &e->phrases;
    }
    info->shards = e->shards_per_pass * o->passes;
    info->height = info->width = vae_latent_size(vae, info->resolution);
    info->channels = vae->latent_channels;
    choose_classes(e, strcmp(info->split, "train") == 0);
    e->sample.seed = (uint64_t)o->seed;
    e->sample.resolution = info->resolution;
    e->sample.minimum_side = o->min_side;
    e->sample.absent = o->absent;
    e->sample.skip_damaged = true;
}

// The side decides over the cost of all that follows: SD2's configs say 768, which has 2.25 times the pixels of 512.
static void print_size(const Encoder *e) {
    const ShardInfo *info = &e->info;
    if (!error_first_rank()) { return; }
    printf("%s: squares of %d pixels (%s), latents of %d x %d x %d\n", info->split, info->resolution,
           e->o.resolution ? "--resolution" : "from the model's configs; --resolution chooses another side",
           info->height, info->width, info->channels);
    fflush(stdout);
}

static Path shard_path(const Encoder *e, int shard) { return path_of("%s/%s-%05d.h5", e->o.out, e->info.split, shard); }

static ShardInfo shard_info(const Encoder *e, int shard) {
    ShardInfo info = e->info; // borrows the class table
    info.pass = shard / e->shards_per_pass;
    info.first_picture = (long long)(shard % e->shards_per_pass) * e->o.shard_size;
    info.pictures = e->coco.picture_count - info.first_picture;
    if (info.pictures > e->o.shard_size) { info.pictures = e->o.shard_size; }
    return info;
}

static bool readable(const Coco *coco, int picture) {
    char *why, *why_ids;
    Image image = coco_load_picture(coco, picture, &why);
    free(coco_try_segment_ids(coco, picture, &why_ids));
    bool both = !why && !why_ids;
    image_free(&image);
    free(why);
    free(why_ids);
    return both;
}

// The index of a picture that the shard lacks because it could not be read; -1: it was dropped for another reason.
static int damaged_picture(const Encoder *e, const ShardFile *shard, long long dropped) {
    if (shard->dropped_reason[dropped] != SAMPLE_DAMAGED) { return -1; }
    return coco_find_picture(&e->coco, e->order, shard->dropped_image[dropped]);
}

// Why a shard has to be made again; NULL: it is kept. One without a sample may come from a wrong folder
// (want_readable).
static const char *why_again(const Encoder *e, const ShardFile *kept) {
    long long damaged = 0;
    for (long long i = 0; i < kept->dropped; i++) {
        int picture = damaged_picture(e, kept, i);
        if (picture >= 0 && readable(&e->coco, picture)) { return "pictures that could not be read now can"; }
        damaged += picture >= 0;
    }
    return damaged && !kept->samples && damaged == kept->dropped ? "none of its pictures could be read" : NULL;
}

// An existing shard must equal what this command would write. Returns why it has to be made again, or NULL.
static const char *check_kept(const Encoder *e, const char *path, int shard) {
    ShardFile kept = shard_open(path);
    ShardInfo wanted = shard_info(e, shard);
    char have[128], want[128];
    const char *name = shard_info_difference(&kept.info, &wanted, true, have, want);
    if (name) {
        die("%s: attribute \"%s\" is %s, but this command asks for %s: choose another --out, or remove these shards "
            "first",
            path, name, have, want);
    }
    const char *why = why_again(e, &kept);
    shard_close(&kept);
    return why;
}

static void add_work(Encoder *e, int shard) {
    ShardInfo info = shard_info(e, shard);
    long long batches = (info.pictures + e->o.batch - 1) / e->o.batch;
    e->work = xrealloc(e->work, (size_t)(e->work_count + batches) * sizeof *e->work);
    for (long long b = 0; b < batches; b++) {
        long long done = b * e->o.batch, left = info.pictures - done;
        e->work[e->work_count++] =
            (Work){shard, info.first_picture + done, (int)(left < e->o.batch ? left : e->o.batch), b == batches - 1};
    }
    e->todo_pictures += info.pictures;
}

static void plan_work(Encoder *e) {
    Path beyond = shard_path(e, e->info.shards);
    if (file_exists(beyond.text)) {
        die("%s: this command writes only %d shards: choose another --out, or remove these shards first", beyond.text,
            e->info.shards);
    }
    for (int shard = e->o.part_index - 1; shard < e->info.shards; shard += e->o.part_count) {
        Path path = shard_path(e, shard);
        bool there = file_exists(path.text);
        const char *why = there ? check_kept(e, path.text, shard) : NULL;
        if (why) { printf("%s: is made again: %s\n", path.text, why); }
        if (there && !why) {
            e->kept_pictures += shard_info(e, shard).pictures;
        } else {
            add_work(e, shard);
        }
    }
}

// ---- memory

static void allocate(Encoder *e) {
    int R = e->info.resolution;
    size_t rows = (size_t)e->o.batch, pixels = rows * (size_t)R * (size_t)R * 3 * sizeof(float);
    size_t latents = rows * (size_t)e->info.height * (size_t)e->info.width * (size_t)e->info.channels * sizeof(float);
    size_t arena = pipeline_encode_bytes(&e->pipeline, e->o.batch, R, R, &e->dev);
    size_t weights = mapped_pending_bytes(&e->pipeline.vae_encoder.params);
    sampler_want_memory(arena + pixels + latents + weights, e->o.batch, R, &e->dev);
    e->arena = arena_create(&e->dev, arena);
    e->device_pixels = device_alloc(&e->dev, pixels);
    e->device_latents = device_alloc(&e->dev, latents);
    for (int kind = 0; kind < LATENTS; kind++) {
        if (!shard_has_latent(&e->info, kind)) { continue; }
        e->latents[kind] = device_alloc_pinned(&e->dev, latents);
        for (int i = 0; i < 2; i++) { e->rendered[i].pixels[kind] = device_alloc_pinned(&e->dev, pixels); }
    }
    for (int i = 0; i < 2; i++) {
        e->rendered[i].samples = xcalloc(rows, sizeof(Sample));
        e->rendered[i].reasons = xcalloc(rows, sizeof(SampleReason));
        e->rendered[i].picture_of = xcalloc(rows, sizeof(int));
    }
}

static void release(Encoder *e) {
    for (int i = 0; i < 2; i++) {
        for (int kind = 0; kind < LATENTS; kind++) {
            if (e->latents[kind]) { device_free_pinned(&e->dev, e->rendered[i].pixels[kind]); }
        }
        free(e->rendered[i].samples);
        free(e->rendered[i].reasons);
        free(e->rendered[i].picture_of);
    }
    for (int kind = 0; kind < LATENTS; kind++) {
        if (e->latents[kind]) { device_free_pinned(&e->dev, e->latents[kind]); }
    }
    device_free(&e->dev, e->device_pixels);
    device_free(&e->dev, e->device_latents);
    arena_destroy(&e->arena);
}

// ---- pictures to samples, on a separate thread

static void render_row(const Encoder *e, const Sample *s, Rendered *r, int row) {
    int R = e->info.resolution;
    size_t at = (size_t)row * (size_t)R * (size_t)R * 3;
    image_to_floats(&s->rgb, r->pixels[LATENT_IMAGE] + at);
    for (int kind = TARGET_OVERLAY; kind <= TARGET_MASK; kind++) {
        if (!shard_has_latent(&e->info, kind)) { continue; }
        Image target =
            kind == TARGET_OVERLAY ? paint_overlay(&s->rgb, s->mask, &e->paint) : paint_mask(s->mask, R, R, &e->paint);
        image_to_floats(&target, r->pixels[kind] + at);
        image_free(&target);
    }
}

static void render(const Encoder *e, const Work *work, Rendered *r) {
    uint32_t pass = (uint32_t)(work->shard / e->shards_per_pass);
#pragma omp parallel for schedule(dynamic) num_threads(e->o.threads)
    for (int i = 0; i < work->count; i++) {
        r->samples[i] = (Sample){0};
        r->reasons[i] = sample_make(&e->coco, &e->sample, e->order[work->first + i], pass, &r->samples[i]);
    }
    r->rows = 0;
    for (int i = 0; i < work->count; i++) {
        if (r->reasons[i] == SAMPLE_OK) { r->picture_of[r->rows++] = i; }
    }
#pragma omp parallel for schedule(dynamic) num_threads(e->o.threads)
    for (int row = 0; row < r->rows; row++) { render_row(e, &r->samples[r->picture_of[row]], r, row); }
}

typedef struct {
    pthread_t thread;
    const Encoder *encoder;
    const Work *work;
    Rendered *into;
} Reader;

static void *read_thread(void *reader) {
    Reader *r = reader;
    render(r->encoder, r->work, r->into);
    return NULL;
}

static void reader_start(Reader *reader, Encoder *e, long long number) {
    *reader = (Reader){.encoder = e, .work = &e->work[number], .into = &e->rendered[number % 2]};
    if (pthread_create(&reader->thread, NULL, read_thread, reader) != 0) { die("cannot start the reading thread"); }
}

// ---- samples to latents to shards

static void run_vae(Encoder *e, const Rendered *r) {
    size_t R = (size_t)e->info.resolution, rows = (size_t)r->rows;
    size_t latents = rows * (size_t)e->info.height * (size_t)e->info.width * (size_t)e->info.channels;
    for (int kind = 0; kind < LATENTS && rows; kind++) {
        if (!shard_has_latent(&e->info, kind)) { continue; }
        device_copy(&e->dev, e->device_pixels, r->pixels[kind], rows * R * R * 3 * sizeof(float), false);
        pipeline_encode(&e->pipeline, &e->arena, e->device_latents, e->device_pixels, r->rows, (int)R, (int)R, &e->dev);
        device_copy(&e->dev, e->latents[kind], e->device_latents, latents * sizeof(float), false);
    }
    device_sync(&e->dev);
}

static void add_sample(const Encoder *e, ShardWriter *writer, const Sample *s, int row) {
    int R = e->info.resolution;
    size_t at = (size_t)row * (size_t)e->info.height * (size_t)e->info.width * (size_t)e->info.channels;
    ShardSample out = {.class_index = s->category,
                       .image_id = s->image_id,
                       .crop = {s->x, s->y, s->side},
                       .area = s->area,
                       .text = s->text,
                       .kind = s->kind};
    for (int kind = 0; kind < LATENTS; kind++) {
        out.latents[kind] = shard_has_latent(&e->info, kind) ? e->latents[kind] + at : NULL;
    }
    out.mask = xmalloc((size_t)R * (size_t)((R + 7) / 8));
    mask_pack(s->mask, R, out.mask);
    shard_add(writer, &out);
    free(out.mask);
}

static void add_batch(Encoder *e, ShardWriter *writer, const Work *work, const Rendered *r) {
    int row = 0;
    for (int i = 0; i < work->count; i++) {
        int64_t image_id = e->coco.pictures[e->order[work->first + i]].id;
        if (r->reasons[i] == SAMPLE_OK) {
            add_sample(e, writer, &r->samples[i], row++);
        } else {
            shard_drop(writer, image_id, r->reasons[i]);
        }
        e->samples += r->reasons[i] == SAMPLE_OK;
        e->damaged += r->reasons[i] == SAMPLE_DAMAGED;
        sample_free(&r->samples[i]);
    }
}

// Processes the list. Returns false if a signal stopped it.
static bool encode_all(Encoder *e) {
    Progress progress =
        progress_begin(e->info.split, "pictures", e->kept_pictures + e->todo_pictures, e->kept_pictures);
    long long done = e->kept_pictures;
    ShardWriter *writer = NULL;
    Reader reader;
    reader_start(&reader, e, 0);
    for (long long n = 0; n < e->work_count; n++) {
        threads_adapt();
        const Work *work = &e->work[n];
        pthread_join(reader.thread, NULL);
        if (interrupt_signal()) {
            if (writer) { shard_abandon(writer); }
            return false;
        }
        if (n + 1 < e->work_count) { reader_start(&reader, e, n + 1); }
        if (!writer) {
            ShardInfo info = shard_info(e, work->shard);
            writer = shard_begin(shard_path(e, work->shard).text, &info);
        }
        run_vae(e, &e->rendered[n % 2]);
        add_batch(e, writer, work, &e->rendered[n % 2]);
        if (work->last) {
            shard_commit(writer);
            writer = NULL;
        }
        progress_update(&progress, done += work->count);
    }
    progress_end(&progress, done);
    return true;
}

// Also one that gave no sample because it lacks the classes.
static bool any_readable(const Encoder *e) {
    for (long long n = 0; n < e->work_count; n++) {
        for (int i = 0; i < e->work[n].count; i++) {
            if (readable(&e->coco, e->order[e->work[n].first + i])) { return true; }
        }
    }
    return false;
}

// A first run that could read no picture is a mistake (a wrong folder, ...): its shards must not count as done.
static void want_readable(const Encoder *e) {
    if (e->samples || !e->damaged || e->kept_pictures || any_readable(e)) { return; }
    for (long long n = 0; n < e->work_count; n++) { remove(shard_path(e, e->work[n].shard).text); }
    coco_say(&e->coco);
    die("%s: none of %lld pictures can be read: no shard is written", e->coco.pictures_folder, e->todo_pictures);
}

// Pictures that could not be read when a shard was made, by an earlier run or another part, count too.
static void note_unreadable(const Encoder *e, const ShardSet *set) {
    for (int k = 0; k < set->count; k++) {
        for (long long i = 0; i < set->shards[k].dropped; i++) {
            int picture = damaged_picture(e, &set->shards[k], i);
            if (picture >= 0) { coco_unreadable(&e->coco, picture, NULL); }
        }
    }
}

// The report needs the shards of all parts; the last part to finish writes it. Of several ranks that had nothing to do,
// only the first does.
static void finish(const Encoder *e) {
    int missing = 0;
    if (!e->work_count && !error_first_rank()) { return; }
    for (int shard = 0; shard < e->info.shards; shard++) { missing += !file_exists(shard_path(e, shard).text); }
    if (missing) {
        printf("%s: part %d/%d is complete; other parts still have to write %d of %d shards\n", e->o.out,
               e->o.part_index, e->o.part_count, missing, e->info.shards);
        return;
    }
    ShardSet set = shards_open(e->o.out, e->info.split);
    note_unreadable(e, &set);
    shard_report(&set, &e->coco);
    if (!set.samples) { warn("%s: no picture gave a sample", e->o.out); }
    shards_close(&set);
}

int cmd_encode(int argc, char **argv) {
    Encoder e = {.o = parse_options(argc, argv)};
    Launch launch = launch_detect();
    if (launch.world > 1) { error_set_rank(launch.rank); }
    choose_part(&e.o, &launch);
    want_folder(e.o.out);
    open_data(&e);
    device_open(&e.dev, device_of_rank(launch.local_rank));
    e.pipeline = pipeline_open(e.o.model, PART_VAE_ENCODER, 0, &e.dev);
    describe(&e);
    print_size(&e);
    make_folders(e.o.out);
    plan_work(&e);
    static const char kept[] = "complete shards are kept; run the same command again to continue";
    bool complete = true;
    if (e.work_count) {
        allocate(&e);
        interrupt_install("stopping after this batch");
        complete = encode_all(&e);
        if (complete) { interrupt_install(NULL); }
        release(&e);
    }
    if (complete) {
        want_readable(&e);
        finish(&e);
    } else if (interrupt_signal() != SIGPIPE) {
        fprintf(stderr, "\ncocogold: stopped: %s\n", kept);
    }
    pipeline_close(&e.pipeline, &e.dev);
    device_close(&e.dev);
    free((bool *)e.sample.allowed);
    free((bool *)e.sample.excluded);
    free(e.order);
    free(e.work);
    shard_info_free(&e.info);
    phrases_free(&e.phrases);
    coco_free(&e.coco);
    return complete ? 0 : interrupt_code(interrupt_signal(), kept);
}
