#include "train/feed.h"
#include <assert.h>

Feed feed_create(const size_t *bytes, int count, Device *dev) {
    assert(count <= FEED_ARRAYS);
    Feed f = {.count = count};
    for (int a = 0; a < count; a++) {
        f.bytes[a] = bytes[a];
        f.inputs[a] = device_alloc(dev, bytes[a]);
    }
    for (int i = 0; i < 2; i++) {
        FeedSlot *slot = &f.slots[i];
        *slot = (FeedSlot){.arrived = device_event_create(dev), .taken = device_event_create(dev)};
        for (int a = 0; a < count; a++) {
            slot->host[a] = device_alloc_pinned(dev, bytes[a]);
            slot->staged[a] = device_alloc(dev, bytes[a]);
        }
    }
    return f;
}

void feed_destroy(Feed *f, Device *dev) {
    for (int i = 0; i < 2; i++) {
        for (int a = 0; a < f->count; a++) {
            device_free_pinned(dev, f->slots[i].host[a]);
            device_free(dev, f->slots[i].staged[a]);
        }
        device_event_destroy(f->slots[i].arrived);
        device_event_destroy(f->slots[i].taken);
    }
    for (int a = 0; a < f->count; a++) { device_free(dev, f->inputs[a]); }
    *f = (Feed){0};
}

void **feed_arrays(Feed *f) {
    FeedSlot *slot = &f->slots[f->next];
    device_event_sync(slot->arrived);
    return slot->host;
}

void feed_send(Feed *f, Device *dev) {
    FeedSlot *slot = &f->slots[f->next];
    device_event_wait(dev, slot->taken, true);
    for (int a = 0; a < f->count; a++) { device_copy(dev, slot->staged[a], slot->host[a], f->bytes[a], true); }
    device_event_record(dev, slot->arrived, true);
    device_event_wait(dev, slot->arrived, false);
    for (int a = 0; a < f->count; a++) { device_copy(dev, f->inputs[a], slot->staged[a], f->bytes[a], false); }
    device_event_record(dev, slot->taken, false);
    f->next = 1 - f->next;
}
