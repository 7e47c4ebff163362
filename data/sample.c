#include "data/sample.h"
#include "util/error.h"
#include "util/philox.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const sample_reason_names[SAMPLE_REASONS] = {"ok",         "too_small", "unlabelled", "no_class",
                                                         "only_crowd", "cut_off",   "empty_mask", "damaged",
                                                         "no_text",    "excluded"};

enum { CROP_TRIES = 5 };
static const double least_of_box = 0.75, least_of_crop = 0.15;

static const Segment *segments_of(const Coco *coco, const Sample *s) {
    return coco->segments + coco->pictures[s->picture].first_segment;
}

// An annotation that can become valid in some crop.
static bool is_candidate(const SampleOptions *o, const Segment *s) {
    bool whole = s->form != SEGMENT_NO_MASK && s->area > 0 && s->bbox[2] > 0 && s->bbox[3] > 0;
    return whole && o->allowed[s->category] && !s->crowd;
}

// Area of the bounding box inside the crop; -1 if they do not touch.
static double box_in_crop(const Segment *s, const Sample *crop) {
    double dx = fmin(crop->x + crop->side, s->bbox[0] + s->bbox[2]) - fmax(crop->x, s->bbox[0]);
    double dy = fmin(crop->y + crop->side, s->bbox[1] + s->bbox[3]) - fmax(crop->y, s->bbox[1]);
    return dx >= 0 && dy >= 0 ? dx * dy : -1;
}

static bool is_valid(const SampleOptions *o, const Segment *s, const Sample *crop) {
    if (!is_candidate(o, s)) { return false; }
    double inside = box_in_crop(s, crop), box = s->bbox[2] * s->bbox[3], all = (double)crop->side * crop->side;
    return inside >= 0 && (inside / box >= least_of_box || inside / all >= least_of_crop);
}

static int mark_valid(const Coco *coco, const SampleOptions *o, Sample *s) {
    const Segment *segments = segments_of(coco, s);
    int count = 0;
    for (int i = 0; i < coco->pictures[s->picture].count; i++) { count += s->valid[i] = is_valid(o, &segments[i], s); }
    return count;
}

// Sets the crop's start along the longer axis to a random integer in [low, high], both included.
static void place_crop(const Picture *p, Sample *s, int low, int high, Random *random) {
    int start = low + (int)random_below(random, (uint32_t)(high - low + 1));
    s->x = p->width > p->height ? start : 0;
    s->y = p->width > p->height ? 0 : start;
}

// The original's crop around an annotation. If the free band (longer minus shorter side) ends beyond the box's start,
// the crop begins anywhere up to that start. Otherwise it begins at or after the point where it just includes the box's
// end. The box is rounded as in the original. Ranges that leave the picture, which the original filled with black or
// failed on, are cut to the picture.
static void place_around(const Picture *p, const Segment *segment, Sample *s, Random *random) {
    int axis = p->width > p->height ? 0 : 1, band = abs(p->width - p->height);
    int begin = (int)floor(segment->bbox[axis]), length = (int)rint(segment->bbox[2 + axis]);
    int low = band > begin ? 0 : begin - s->side + length, high = band > begin ? begin : band;
    high = high < 0 ? 0 : high;
    low = low < 0 ? 0 : low > high ? high : low;
    place_crop(p, s, low, high, random);
}

// Draws one of the valid segments with weight round(1 + log2(area / smallest)), halves to even.
static int draw_segment(const Coco *coco, const Sample *s, Random *random) {
    const Segment *segments = segments_of(coco, s);
    int count = coco->pictures[s->picture].count, chosen = -1;
    double smallest = INFINITY;
    for (int i = 0; i < count; i++) { smallest = s->valid[i] ? fmin(smallest, segments[i].area) : smallest; }
    uint32_t total = 0;
    for (int i = 0; i < count; i++) {
        total += s->valid[i] ? (uint32_t)rint(1 + log2(segments[i].area / smallest)) : 0;
    }
    uint32_t ticket = random_below(random, total);
    for (int i = 0; chosen < 0; i++) {
        uint32_t weight = s->valid[i] ? (uint32_t)rint(1 + log2(segments[i].area / smallest)) : 0;
        if (ticket < weight) { chosen = i; }
        ticket -= weight;
    }
    return chosen;
}

// With probability `absent`, asks for an allowed class that has no segment, crowd or not, in the crop.
static void draw_absent(const Coco *coco, const SampleOptions *o, Sample *s, Random *random) {
    if (!(random_uniform(random) < o->absent)) { return; }
    const Segment *segments = segments_of(coco, s);
    bool *present = xcalloc((size_t)coco->category_count, sizeof *present);
    for (int i = 0; i < coco->pictures[s->picture].count; i++) {
        present[segments[i].category] |= box_in_crop(&segments[i], s) >= 0;
    }
    uint32_t choices = 0;
    for (int c = 0; c < coco->category_count; c++) { choices += o->allowed[c] && !present[c]; }
    if (choices) {
        uint32_t ticket = random_below(random, choices);
        for (int c = 0; c < coco->category_count; c++) {
            if (o->allowed[c] && !present[c] && ticket-- == 0) { s->category = c; }
        }
        s->absent = true;
        memset(s->valid, 0, (size_t)coco->pictures[s->picture].count);
    }
    free(present);
}

// Why a picture can yield no sample, whatever it is asked with.
static SampleReason unwanted(const Coco *coco, const SampleOptions *o, const Sample *s) {
    const Picture *p = &coco->pictures[s->picture];
    const Segment *segments = segments_of(coco, s);
    if (p->width < o->minimum_side || p->height < o->minimum_side) { return SAMPLE_TOO_SMALL; }
    for (int i = 0; o->excluded && i < p->count; i++) {
        if (o->excluded[segments[i].category]) { return SAMPLE_EXCLUDED; }
    }
    return SAMPLE_OK;
}

// Why no crop of a picture can yield a class.
static SampleReason hopeless(const Coco *coco, const SampleOptions *o, const Sample *s) {
    const Picture *p = &coco->pictures[s->picture];
    const Segment *segments = segments_of(coco, s);
    if (!p->count) { return SAMPLE_UNLABELLED; }
    int allowed = 0, candidates = 0;
    for (int i = 0; i < p->count; i++) {
        allowed += o->allowed[segments[i].category];
        candidates += is_candidate(o, &segments[i]);
    }
    return candidates ? SAMPLE_OK : allowed ? SAMPLE_ONLY_CROWD : SAMPLE_NO_CLASS;
}

// ---- captions and phrases

// Whether a phrase may be drawn: all its objects can become valid in some crop.
static bool usable(const Coco *coco, const SampleOptions *o, const Phrase *phrase) {
    bool all = true;
    for (int i = 0; i < phrase->count; i++) {
        all &= is_candidate(o, &coco->segments[o->phrases->objects[phrase->first + i]]);
    }
    return all;
}

// A kind among those that the picture has, then a phrase of it, all with equal chances; NULL if there is none.
static const Phrase *draw_phrase(const Coco *coco, const SampleOptions *o, int picture, Random *random) {
    const Phrases *all = o->phrases;
    int begin = all->first[picture], end = all->first[picture + 1];
    uint32_t of_kind[MAX_KINDS] = {0}, kinds = 0;
    for (int i = begin; i < end; i++) {
        if (usable(coco, o, &all->phrases[i])) { kinds += of_kind[all->phrases[i].kind]++ == 0; }
    }
    if (!kinds) { return NULL; }
    uint32_t ticket = random_below(random, kinds);
    int kind = 0;
    while (!of_kind[kind] || ticket-- > 0) { kind++; }
    ticket = random_below(random, of_kind[kind]);
    for (int i = begin;; i++) {
        const Phrase *phrase = &all->phrases[i];
        if (phrase->kind == kind && usable(coco, o, phrase) && ticket-- == 0) { return phrase; }
    }
}

// Marks the phrase's objects; returns whether all are valid in the crop.
static bool mark_phrase(const Coco *coco, const SampleOptions *o, const Phrase *phrase, Sample *s) {
    bool all = true;
    for (int i = 0; i < phrase->count; i++) {
        int segment = o->phrases->objects[phrase->first + i];
        s->valid[segment - coco->pictures[s->picture].first_segment] = 1;
        all &= is_valid(o, &coco->segments[segment], s);
    }
    return all;
}

static SampleReason plan_text(const Coco *coco, const SampleOptions *o, uint32_t pass, Sample *s) {
    const Picture *p = &coco->pictures[s->picture];
    Random random = random_begin(o->seed, PHILOX_CROP, pass, (uint64_t)p->id);
    const Phrase *phrase = draw_phrase(coco, o, s->picture, &random);
    if (!phrase) { return SAMPLE_NO_TEXT; }
    s->text = phrase->text;
    s->kind = phrase->kind;
    s->category = phrase->category;
    s->absent = phrase->count == 0; // so are captions, which have no mask
    s->valid = xcalloc((size_t)p->count + 1, 1);
    bool right = false;
    for (int i = 0; i < CROP_TRIES && !right; i++) {
        place_crop(p, s, 0, abs(p->width - p->height), &random);
        right = mark_phrase(coco, o, phrase, s);
    }
    for (int i = 0; i < phrase->count && !right; i++) {
        place_around(p, &coco->segments[o->phrases->objects[phrase->first + i]], s, &random);
        right = mark_phrase(coco, o, phrase, s);
    }
    return right ? SAMPLE_OK : SAMPLE_CUT_OFF;
}

SampleReason sample_plan(const Coco *coco, const SampleOptions *o, int picture, uint32_t pass, Sample *s) {
    const Picture *p = &coco->pictures[picture];
    *s = (Sample){.picture = picture, .image_id = p->id, .category = -1};
    s->side = p->width < p->height ? p->width : p->height;
    SampleReason reason = unwanted(coco, o, s);
    if (reason != SAMPLE_OK) { return reason; }
    if (o->phrases) { return plan_text(coco, o, pass, s); }
    reason = hopeless(coco, o, s);
    if (reason != SAMPLE_OK) { return reason; }
    s->valid = xcalloc((size_t)p->count, 1);
    Random random = random_begin(o->seed, PHILOX_CROP, pass, (uint64_t)p->id);
    int count = 0;
    for (int i = 0; i < CROP_TRIES && !count; i++) {
        place_crop(p, s, 0, abs(p->width - p->height), &random);
        count = mark_valid(coco, o, s);
    }
    int chosen = count ? draw_segment(coco, s, &random) : -1;
    for (int i = 0; i < p->count && chosen < 0; i++) {
        const Segment *segment = &segments_of(coco, s)[i];
        if (!is_candidate(o, segment)) { continue; }
        place_around(p, segment, s, &random);
        if (is_valid(o, segment, s)) { chosen = i; }
    }
    if (chosen < 0) { return SAMPLE_CUT_OFF; }
    mark_valid(coco, o, s);
    s->category = segments_of(coco, s)[chosen].category;
    for (int i = 0; i < p->count; i++) { s->valid[i] &= segments_of(coco, s)[i].category == s->category; }
    draw_absent(coco, o, s, &random);
    return SAMPLE_OK;
}

static size_t pixels_of(const SampleOptions *o) { return (size_t)o->resolution * (size_t)o->resolution; }

// The union of the valid segments, or of the others of the sample's class: at the picture's own size, then cropped and
// resampled to the training resolution.
static uint8_t *render_segments(const Coco *coco, const SampleOptions *o, const uint32_t *ids, const Sample *s,
                                bool valid) {
    const Picture *p = &coco->pictures[s->picture];
    uint8_t *whole = xcalloc((size_t)p->width * (size_t)p->height, 1), *mask = xcalloc(pixels_of(o), 1);
    for (int i = 0; i < p->count; i++) {
        const Segment *segment = &segments_of(coco, s)[i];
        bool other = !s->text && segment->category == s->category && !s->valid[i];
        if (valid ? s->valid[i] : other) { coco_add_mask(coco, s->picture, segment, ids, whole); }
    }
    mask_resize(whole, p->width, p->height, s->x, s->y, s->side, s->side, mask, o->resolution, o->resolution);
    free(whole);
    return mask;
}

static void render_mask(const Coco *coco, const SampleOptions *o, const uint32_t *ids, Sample *s) {
    size_t count = 0;
    s->mask = render_segments(coco, o, ids, s, true);
    for (size_t i = 0; i < pixels_of(o); i++) { count += s->mask[i]; }
    s->area = (float)((double)count / (double)pixels_of(o));
}

void sample_render_mask(const Coco *coco, const SampleOptions *o, Sample *s) {
    uint32_t *ids = coco_segment_ids(coco, s->picture);
    render_mask(coco, o, ids, s);
    free(ids);
}

uint8_t *sample_unpainted(const Coco *coco, const SampleOptions *o, const Sample *s) {
    uint32_t *ids = coco_segment_ids(coco, s->picture);
    uint8_t *unpainted = render_segments(coco, o, ids, s, false);
    for (size_t i = 0; i < pixels_of(o); i++) { unpainted[i] &= !s->mask[i]; }
    free(ids);
    return unpainted;
}

// A picture or panoptic PNG that cannot be read.
static SampleReason damaged(const Coco *coco, const SampleOptions *o, const Sample *s, char *why) {
    if (!o->skip_damaged) { die("%s", why); }
    coco_unreadable(coco, s->picture, why);
    free(why);
    return SAMPLE_DAMAGED;
}

SampleReason sample_render(const Coco *coco, const SampleOptions *o, Sample *s) {
    char *why;
    uint32_t *ids = coco_try_segment_ids(coco, s->picture, &why);
    if (why) { return damaged(coco, o, s, why); }
    Image whole = coco_load_picture(coco, s->picture, &why); // before a mask is made of a size that no picture has
    if (why) {
        free(ids);
        return damaged(coco, o, s, why);
    }
    render_mask(coco, o, ids, s);
    free(ids);
    if (!s->absent && s->area == 0) {
        image_free(&whole);
        return SAMPLE_EMPTY_MASK;
    }
    // Crop first, as in the original, so that the filter sees no pixels outside the crop.
    Image crop = image_crop(&whole, s->x, s->y, s->side, s->side);
    s->rgb = image_resize(&crop, 0, 0, s->side, s->side, o->resolution, o->resolution, FILTER_LANCZOS);
    image_free(&crop);
    image_free(&whole);
    return SAMPLE_OK;
}

SampleReason sample_make(const Coco *coco, const SampleOptions *o, int picture, uint32_t pass, Sample *s) {
    SampleReason reason = sample_plan(coco, o, picture, pass, s);
    return reason == SAMPLE_OK ? sample_render(coco, o, s) : reason;
}

void sample_free(Sample *s) {
    free(s->valid);
    free(s->mask);
    image_free(&s->rgb);
    *s = (Sample){0};
}
