#include "train/pictures.h"
#include "data/loader.h"
#include "data/paint.h"
#include "util/error.h"
#include "util/philox.h"
#include "util/text.h"
#include <stdlib.h>

void pictures_at(const Pictures *p, long long position, PictureKind kind, float *out) {
    long long n = p->coco->picture_count;
    SampleOptions options = {.allowed = p->classes,
                             .seed = p->seed,
                             .resolution = p->resolution,
                             .minimum_side = p->min_side,
                             .skip_damaged = true};
    for (long long k = 0; k < n; k++) {
        Sample s;
        long long i = (position + k) % n;
        SampleReason reason =
            sample_make(p->coco, &options, (int)(p->order ? p->order[i] : i), (uint32_t)(position / n), &s);
        if (reason == SAMPLE_OK) {
            Paint paint = paint_parse("white", 1, 0);
            Image picture = kind == KIND_OVERLAY ? paint_overlay(&s.rgb, s.mask, &paint)
                            : kind == KIND_MASK  ? paint_mask(s.mask, p->resolution, p->resolution, &paint)
                                                 : image_copy(&s.rgb);
            image_to_floats(&picture, out);
            image_free(&picture);
        }
        sample_free(&s);
        if (reason == SAMPLE_OK) { return; }
    }
    coco_say(p->coco);
    die("%s: no picture yields a sample (all are too small, cannot be read or have no annotation)", p->coco->path);
}

static PictureKind draw_kind(const Pictures *p, long long position) {
    Random random = random_begin(p->seed, PHILOX_MIX, 0, (uint64_t)position);
    float u = random_uniform(&random);
    return u < p->mix_overlay ? KIND_OVERLAY : u < p->mix_overlay + p->mix_mask ? KIND_MASK : KIND_SCENE;
}

// A batch may cross the end of an epoch.
void pictures_read(Pictures *p, long long number, float *out) {
    size_t size = (size_t)p->resolution * (size_t)p->resolution * 3;
    long long n = p->coco->picture_count, first = p->start + (number * p->world + p->rank) * p->rows;
    for (int done = 0; done < p->rows;) {
        long long epoch = (first + done) / n, until = (epoch + 1) * n - first;
        int end = until < p->rows ? (int)until : p->rows;
        if (epoch != p->epoch) { loader_permutation(p->seed, p->epoch = epoch, n, p->order); }
#pragma omp parallel for num_threads(p->workers) schedule(dynamic)
        for (int row = done; row < end; row++) {
            pictures_at(p, first + row, draw_kind(p, first + row), out + (size_t)row * size);
        }
        done = end;
    }
}

uint64_t pictures_hash(const Pictures *p) {
    const Coco *coco = p->coco;
    uint64_t hash = HASH_BEGIN;
    for (int i = 0; i < coco->picture_count; i++) {
        const Picture *picture = &coco->pictures[i];
        hash = hash_more(hash, &picture->id, sizeof picture->id);
        hash = hash_more(hash, (int[]){picture->width, picture->height, picture->count}, 3 * sizeof(int));
        for (int k = 0; k < picture->count; k++) {
            const Segment *s = &coco->segments[picture->first_segment + k];
            hash = hash_more(hash, s->bbox, sizeof s->bbox);
            hash = hash_more(hash, &s->area, sizeof s->area);
            hash = hash_more(hash, (int[]){s->category, s->crowd}, 2 * sizeof(int));
        }
    }
    return hash;
}

char *pictures_name(const Pictures *p, long long position) {
    long long n = p->coco->picture_count;
    int64_t *order = xmalloc((size_t)n * sizeof *order);
    loader_permutation(p->seed, position / n, n, order);
    char *name = xprintf("picture %s", p->coco->pictures[order[position % n]].file_name);
    free(order);
    return name;
}

void pictures_open(Pictures *p) {
    p->order = xmalloc((size_t)(p->coco->picture_count + 1) * sizeof *p->order);
    p->epoch = -1;
    if (p->coco->picture_count == 0) { die("%s: field \"images\" is empty", p->coco->path); }
}

void pictures_close(Pictures *p) { free(p->order); }
