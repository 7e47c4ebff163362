// Brings samples to the device. A thread fills slots of pinned memory ahead of time. The copy stream sends a slot to
// the device while the compute stream runs the previous micro-step. A short copy on the device then puts it where the
// recorded micro-step reads. Events on both streams ensure that memory is read before it is overwritten.
#pragma once
#include "kernels/runtime/device.h"
#include <pthread.h>

enum {
    FEED_ARRAYS = 4, // of a micro-batch
    FEED_SLOTS = 6   // micro-batches: up to two are being sent while the others are filled
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
    // Micro-batches: filled, sent to the device, and those whose slots may be filled again.
    long long filled, next, free;
    bool stop;
} Feed;

// Starts the thread. An array of 0 bytes is NULL everywhere. *feed must not move.
void feed_open(Feed *feed, const size_t *bytes, int count, int sent, FeedFill *fill, void *source, Device *dev);
void feed_close(Feed *feed, Device *dev);
// Sends the next micro-batch to `inputs`, ordered on the compute stream; waits if it is not filled yet. Returns its
// host arrays, which do not change until the next call.
void *const *feed_next(Feed *feed, Device *dev);
