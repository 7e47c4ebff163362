#include "train/feed.h"
#include "util/error.h"
#include <assert.h>

static void *fill_ahead(void *data) {
    Feed *f = data;
    pthread_mutex_lock(&f->lock);
    for (;;) {
        while (!f->stop && f->filled - f->free == FEED_SLOTS) { pthread_cond_wait(&f->changed, &f->lock); }
        if (f->stop) { break; }
        long long number = f->filled;
        pthread_mutex_unlock(&f->lock);
        f->fill(f->source, number, f->host[number % FEED_SLOTS]);
        pthread_mutex_lock(&f->lock);
        f->filled++;
        pthread_cond_signal(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

void feed_open(Feed *f, const size_t *bytes, int count, int sent, FeedFill *fill, void *source, Device *dev) {
    assert(sent <= count && count <= FEED_ARRAYS);
    *f = (Feed){.count = count, .sent = sent, .fill = fill, .source = source};
    for (int a = 0; a < count; a++) {
        f->bytes[a] = bytes[a];
        if (!bytes[a]) { continue; }
        for (int i = 0; i < FEED_SLOTS; i++) { f->host[i][a] = device_alloc_pinned(dev, bytes[a]); }
        for (int i = 0; i < 2 && a < sent; i++) { f->staged[i][a] = device_alloc(dev, bytes[a]); }
        if (a < sent) { f->inputs[a] = device_alloc(dev, bytes[a]); }
    }
    for (int i = 0; i < 2; i++) {
        f->arrived[i] = device_event_create(dev);
        f->taken[i] = device_event_create(dev);
    }
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    if (pthread_create(&f->thread, NULL, fill_ahead, f) != 0) { die("cannot start the thread that reads samples"); }
}

void feed_close(Feed *f, Device *dev) {
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_cond_signal(&f->changed);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->thread, NULL);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
    for (int a = 0; a < f->count; a++) {
        if (!f->bytes[a]) { continue; }
        for (int i = 0; i < FEED_SLOTS; i++) { device_free_pinned(dev, f->host[i][a]); }
        for (int i = 0; i < 2 && a < f->sent; i++) { device_free(dev, f->staged[i][a]); }
        if (a < f->sent) { device_free(dev, f->inputs[a]); }
    }
    for (int i = 0; i < 2; i++) {
        device_event_destroy(f->arrived[i]);
        device_event_destroy(f->taken[i]);
    }
}

static void copy(Device *dev, void *to, const void *from, size_t bytes, bool on_copy_stream) {
    if (bytes) { device_copy(dev, to, from, bytes, on_copy_stream); }
}

void *const *feed_next(Feed *f, Device *dev) {
    int stage = (int)(f->next % 2);
    void *const *host = f->host[f->next % FEED_SLOTS];
    device_event_sync(f->arrived[stage]); // micro-batch next - 2 has arrived: its slot is free
    pthread_mutex_lock(&f->lock);
    if (f->next > 0) { f->free = f->next - 1; }
    pthread_cond_signal(&f->changed);
    while (f->filled == f->next) { pthread_cond_wait(&f->changed, &f->lock); }
    pthread_mutex_unlock(&f->lock);

    device_event_wait(dev, f->taken[stage], true);
    for (int a = 0; a < f->sent; a++) { copy(dev, f->staged[stage][a], host[a], f->bytes[a], true); }
    device_event_record(dev, f->arrived[stage], true);
    device_event_wait(dev, f->arrived[stage], false);
    for (int a = 0; a < f->sent; a++) { copy(dev, f->inputs[a], f->staged[stage][a], f->bytes[a], false); }
    device_event_record(dev, f->taken[stage], false);
    f->next++;
    return host;
}
