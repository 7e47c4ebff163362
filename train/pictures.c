#include "train/pictures.h"
#include "data/loader.h"
#include "data/paint.h"
#include "util/error.h"
#include "util/philox.h"
#include <stdlib.h>

struct Pictures {
    PictureOptions options;
    int64_t *order; // permutation of `epoch`
    long long epoch;
};

void pictures_at(const PictureOptions *o, const int64_t *order, long long position, PictureKind kind, float *out) {
    long long n = o->coco->picture_count;
    SampleOptions options = {.allowed = o->classes,
                             .seed = o->seed,
                             .resolution = o->resolution,
                             .minimum_side = o->min_side,
                             .skip_damaged = true};
    for (long long k = 0; k < n; k++) {
        Sample s;
        long long i = (position + k) % n;
        SampleReason reason = sample_make(o->coco, &options, (int)(order ? order[i] : i), (uint32_t)(position / n), &s);
        if (reason == SAMPLE_OK) {
            Paint paint = paint_parse("white", 1, 0);
            Image picture = kind == KIND_OVERLAY ? paint_overlay(&s.rgb, s.mask, &paint)
                            : kind == KIND_MASK  ? paint_mask(s.mask, o->resolution, o->resolution, &paint)
                                                 : image_copy(&s.rgb);
            image_to_floats(&picture, out);
            image_free(&picture);
        }
        sample_free(&s);
        if (reason == SAMPLE_OK) { return; }
    }
    die("%s: no picture yields a sample (all are too small or have no annotation)", o->coco->path);
}

static PictureKind draw_kind(const PictureOptions *o, long long position) {
    Random random = random_begin(o->seed, PHILOX_MIX, 0, (uint64_t)position);
    float u = random_uniform(&random);
    return u < o->mix_overlay ? KIND_OVERLAY : u < o->mix_overlay + o->mix_mask ? KIND_MASK : KIND_SCENE;
}

// A batch may cross the end of an epoch.
void pictures_read(Pictures *p, long long number, float *out) {
    const PictureOptions *o = &p->options;
    size_t size = (size_t)o->resolution * (size_t)o->resolution * 3;
    long long n = o->coco->picture_count, first = o->start + (number * o->world + o->rank) * o->rows;
    for (int done = 0; done < o->rows;) {
        long long epoch = (first + done) / n, until = (epoch + 1) * n - first;
        int end = until < o->rows ? (int)until : o->rows;
        if (epoch != p->epoch) { loader_permutation(o->seed, p->epoch = epoch, n, p->order); }
#pragma omp parallel for num_threads(o->workers) schedule(dynamic)
        for (int row = done; row < end; row++) {
            pictures_at(o, p->order, first + row, draw_kind(o, first + row), out + (size_t)row * size);
        }
        done = end;
    }
}

Pictures *pictures_open(const PictureOptions *o) {
    Pictures *p = xcalloc(1, sizeof *p);
    p->options = *o;
    p->order = xmalloc((size_t)(o->coco->picture_count + 1) * sizeof *p->order);
    p->epoch = -1;
    if (o->coco->picture_count == 0) { die("%s: field \"images\" is empty", o->coco->path); }
    return p;
}

void pictures_close(Pictures *p) {
    free(p->order);
    free(p);
}
