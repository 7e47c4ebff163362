#include "train/tensorboard.h"
#include "util/error.h"
#include "util/file.h"
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct TensorBoard {
    FILE *file;
    char *path;
};

// CRC-32C (Castagnoli), one bit at a time: records are small.
static uint32_t crc32c(const uint8_t *bytes, size_t size) {
    uint32_t crc = ~0u;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int k = 0; k < 8; k++) { crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0); }
    }
    return ~crc;
}

static uint32_t masked(const void *bytes, size_t size) { // TFRecord stores checksums rotated and offset
    uint32_t crc = crc32c(bytes, size);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

typedef struct {
    uint8_t *bytes;
    size_t size, capacity;
} Buffer;

static void put(Buffer *b, const void *bytes, size_t size) {
    if (b->size + size > b->capacity) {
        b->capacity = 2 * (b->size + size);
        b->bytes = xrealloc(b->bytes, b->capacity);
    }
    memcpy(b->bytes + b->size, bytes, size);
    b->size += size;
}

// Protocol buffers: a varint, and fields of wire types 0 (varint), 1 (64 bit), 2 (length-delimited), 5 (32 bit).
static void put_varint(Buffer *b, uint64_t value) {
    do {
        uint8_t byte = (value & 127) | (value > 127 ? 128 : 0);
        put(b, &byte, 1);
        value >>= 7;
    } while (value);
}
static void put_integer(Buffer *b, int field, uint64_t value) {
    put_varint(b, (uint64_t)field << 3), put_varint(b, value);
}
static void put_double(Buffer *b, int field, double value) {
    put_varint(b, (uint64_t)field << 3 | 1), put(b, &value, 8);
}
static void put_float(Buffer *b, int field, float value) { put_varint(b, (uint64_t)field << 3 | 5), put(b, &value, 4); }
static void put_bytes(Buffer *b, int field, const void *bytes, size_t size) {
    put_varint(b, (uint64_t)field << 3 | 2), put_varint(b, size), put(b, bytes, size);
}

// An Event with its wall_time.
static Buffer begin_event(void) {
    Buffer event = {0};
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    put_double(&event, 1, (double)t.tv_sec + 1e-9 * (double)t.tv_nsec);
    return event;
}

static void write_record(TensorBoard *board, Buffer *event) {
    uint64_t length = event->size;
    uint32_t head = masked(&length, 8), body = masked(event->bytes, event->size);
    fwrite(&length, 8, 1, board->file);
    fwrite(&head, 4, 1, board->file);
    fwrite(event->bytes, 1, event->size, board->file);
    fwrite(&body, 4, 1, board->file);
    if (fflush(board->file) != 0 || ferror(board->file)) {
        die("%s: cannot be written: %s", board->path, strerror(errno));
    }
    free(event->bytes);
}

static void write_value(TensorBoard *board, int step, Buffer *value) { // Event{step, summary{value}}
    Buffer summary = {0}, event = begin_event();
    put_bytes(&summary, 1, value->bytes, value->size);
    put_integer(&event, 2, (uint64_t)step);
    put_bytes(&event, 5, summary.bytes, summary.size);
    free(value->bytes);
    free(summary.bytes);
    write_record(board, &event);
}

TensorBoard *tensorboard_open(const char *folder, int first_step) {
    make_folders(folder);
    TensorBoard *board = xcalloc(1, sizeof *board);
    board->path = xprintf("%s/events.out.tfevents.%ld.cocogold.%ld", folder, (long)time(NULL), (long)getpid());
    board->file = create_file(board->path);
    Buffer event = begin_event();
    put_bytes(&event, 3, "brain.Event:2", 13);
    write_record(board, &event);
    Buffer session = {0}; // SessionLog{status = START}
    put_integer(&session, 1, 1);
    event = begin_event();
    put_integer(&event, 2, (uint64_t)first_step + 1);
    put_bytes(&event, 7, session.bytes, session.size);
    free(session.bytes);
    write_record(board, &event);
    return board;
}

void tensorboard_scalar(TensorBoard *board, const char *tag, int step, double number) {
    Buffer value = {0};
    put_bytes(&value, 1, tag, strlen(tag));
    put_float(&value, 2, (float)number);
    write_value(board, step, &value);
}

void tensorboard_image(TensorBoard *board, const char *tag, int step, int width, int height, const void *png,
                       size_t size) {
    Buffer image = {0}, value = {0};
    put_integer(&image, 1, (uint64_t)height);
    put_integer(&image, 2, (uint64_t)width);
    put_integer(&image, 3, 3); // RGB
    put_bytes(&image, 4, png, size);
    put_bytes(&value, 1, tag, strlen(tag));
    put_bytes(&value, 4, image.bytes, image.size);
    free(image.bytes);
    write_value(board, step, &value);
}

void tensorboard_close(TensorBoard *board) {
    fclose(board->file);
    free(board->path);
    free(board);
}
