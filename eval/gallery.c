#include "eval/gallery.h"
#include "util/error.h"
#include "util/philox.h"
#include <stdlib.h>
#include <string.h>

enum { THUMBNAIL = 224 }; // longest side in pixels

Image outcome_picture(const Image *rgb, const uint8_t *mask, const uint8_t *truth, const uint8_t *ignore) {
    static const uint8_t hit[3] = {40, 180, 90}, alarm[3] = {225, 60, 50}, miss[3] = {50, 110, 230};
    Image out = image_new(rgb->width, rgb->height, 3);
    for (size_t i = 0; i < (size_t)rgb->width * rgb->height; i++) {
        const uint8_t *in = rgb->pixels + 3 * i;
        int grey = (in[0] * 3 + in[1] * 6 + in[2]) / 10, t = truth ? truth[i] : mask[i];
        const uint8_t *color = ignore && ignore[i] ? NULL : mask[i] && t ? hit : mask[i] ? alarm : t ? miss : NULL;
        for (int c = 0; c < 3; c++) { out.pixels[3 * i + c] = (uint8_t)(color ? (grey + 2 * color[c]) / 3 : grey); }
    }
    return out;
}

static Image thumbnail(Image image) {
    int longest = image.width > image.height ? image.width : image.height;
    if (longest <= THUMBNAIL) { return image; }
    int w = image.width * THUMBNAIL / longest, h = image.height * THUMBNAIL / longest;
    Image small = image_resize(&image, 0, 0, image.width, image.height, w < 1 ? 1 : w, h < 1 ? 1 : h, FILTER_LANCZOS);
    image_free(&image);
    return small;
}

static void entry_free(GalleryEntry *e) {
    image_free(&e->input);
    image_free(&e->prediction);
    image_free(&e->outcome);
}

// Makes room for an entry of this rank in the sorted list of a kind. Returns its index, or -1.
static int make_room(Gallery *g, GalleryKind kind, double rank) {
    GalleryEntry *list = g->entries[kind];
    int n = g->count[kind], at = n;
    while (at > 0 && list[at - 1].rank < rank) { at--; }
    if (at == GALLERY_SIZE) { return -1; }
    if (n == GALLERY_SIZE) {
        entry_free(&list[n - 1]);
    } else {
        g->count[kind]++;
    }
    memmove(&list[at + 1], &list[at], (size_t)(g->count[kind] - 1 - at) * sizeof *list);
    return at;
}

// The picture itself if there is one, else the VAE's decoding of its latent.
static Image picture_of(const DatasetItem *item, const float *input) {
    if (!item->pixels) { return frame_restore_picture(&item->frame, input); }
    size_t count = (size_t)item->frame.H * item->frame.W * 3;
    float *pixels = xmalloc(count * sizeof *pixels);
    for (size_t i = 0; i < count; i++) { pixels[i] = item->pixels[i] / 2 + 0.5f; }
    Image image = frame_restore_picture(&item->frame, pixels);
    free(pixels);
    return image;
}

void gallery_offer(Gallery *g, const DatasetItem *item, const float *input, const float *prediction,
                   const uint8_t *mask, double iou, bool seen) {
    Philox4 r = philox(0, PHILOX_SHUFFLE, (uint32_t)item->pair.category, (uint64_t)item->pair.image_id, 1);
    double chance = philox_uniform(r.x[0]), rank[GALLERY_KINDS];
    rank[GALLERY_TYPICAL] = chance;
    rank[GALLERY_BEST] = iou;
    rank[GALLERY_WORST] = -iou + 1e-3 * chance; // many have an IoU of 0: choose among them at random
    for (GalleryKind kind = 0; kind < GALLERY_KINDS; kind++) {
        int at = make_room(g, kind, rank[kind]);
        if (at < 0) { continue; }
        GalleryEntry *e = &g->entries[kind][at];
        *e = (GalleryEntry){.pair = item->pair, .iou = iou, .rank = rank[kind], .seen = seen};
        Image rgb = picture_of(item, input);
        e->outcome = thumbnail(outcome_picture(&rgb, mask, item->truth, item->ignore));
        e->input = thumbnail(rgb);
        e->prediction = thumbnail(frame_restore_picture(&item->frame, prediction));
    }
}

void gallery_free(Gallery *g) {
    for (int kind = 0; kind < GALLERY_KINDS; kind++) {
        for (int i = 0; i < g->count[kind]; i++) { entry_free(&g->entries[kind][i]); }
    }
    memset(g, 0, sizeof *g);
}
