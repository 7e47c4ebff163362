// Samples on their way to the device. The loader fills one of two slots of pinned memory; the copy stream brings it to
// the device while the compute stream is at the micro-step before; there a short copy puts it where the recorded
// micro-step reads. Events on both sides keep a slot from being written before it was read.
#pragma once
#include "kernels/runtime/device.h"

enum { FEED_ARRAYS = 3 };

typedef struct {
    void *host[FEED_ARRAYS];   // pinned
    void *staged[FEED_ARRAYS]; // on the device
    DeviceEvent *arrived;      // host -> staged is done
    DeviceEvent *taken;        // staged -> inputs is done
} FeedSlot;

typedef struct {
    int count; // arrays
    size_t bytes[FEED_ARRAYS];
    void *inputs[FEED_ARRAYS]; // on the device: what every micro-step reads
    FeedSlot slots[2];
    int next;
} Feed;

Feed feed_create(const size_t *bytes, int count, Device *dev);
void feed_destroy(Feed *feed, Device *dev);
// The host arrays to fill for the next micro-step, when the copy that read them last is done.
void **feed_arrays(Feed *feed);
// Sends them; the compute stream waits for them and has them in `inputs` then.
void feed_send(Feed *feed, Device *dev);
