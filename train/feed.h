// Samples on their way to the device. A thread fills slots of pinned memory ahead of their use. The copy stream brings
// a slot to the device while the compute stream is at the micro-step before; there a short copy puts it where the
// recorded micro-step reads. Events on both sides keep memory from being written before it was read.
#pragma once
#include "kernels/runtime/device.h"
#include <pthread.h>

enum {
    FEED_ARRAYS = 4, // of a micro-batch
    FEED_SLOTS = 6   // micro-batches: two are sent, or on their way, while the others are filled
};

// Fills the host arrays of micro-batch `number` (from 0); called from the feed's thread, in order.
typedef void FeedFill(void *source, long long number, void *const *arrays);

typedef struct {
    int count, sent; // arrays; the first `sent` of them go to the device
    size_t bytes[FEED_ARRAYS];
    void *host[FEED_SLOTS][FEED_ARRAYS]; // pinned
    void *staged[2][FEED_ARRAYS];        // on the device
    void *inputs[FEED_ARRAYS];           // on the device: what every micro-step reads
    DeviceEvent *arrived[2], *taken[2];  // host -> staged is done, staged -> inputs is done
    FeedFill *fill;
    void *source;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    long long filled, next,
        free; // micro-batches: filled, sent to the device, and those whose slots may be filled again
    bool stop;
} Feed;

// Starts the thread. An array of 0 bytes is NULL everywhere. *feed must stay where it is.
void feed_open(Feed *feed, const size_t *bytes, int count, int sent, FeedFill *fill, void *source, Device *dev);
void feed_close(Feed *feed, Device *dev);
// Sends the next micro-batch, waiting if it is not filled yet; the compute stream has it in `inputs` then. Returns its
// host arrays, which stay as they are until the next call.
void *const *feed_next(Feed *feed, Device *dev);
