// TensorBoard's event files: framing, CRC-32C, and the fields of the messages, read by a small reader of its own.
#include "tests/train/train_test.h"
#include "tests/data/folder.h"
#include "train/tensorboard.h"
#include <dirent.h>

// CRC-32C by the definition: the remainder of the reflected polynomial, with a table made on the fly.
static uint32_t crc32c(const uint8_t *bytes, size_t size) {
    uint32_t table[256], crc = 0xffffffffu;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int k = 0; k < 8; k++) { table[i] = table[i] & 1 ? table[i] >> 1 ^ 0x82f63b78u : table[i] >> 1; }
    }
    for (size_t i = 0; i < size; i++) { crc = table[(crc ^ bytes[i]) & 255] ^ crc >> 8; }
    return crc ^ 0xffffffffu;
}

static uint32_t unmask(const uint8_t *at) {
    uint32_t x;
    memcpy(&x, at, 4);
    x -= 0xa282ead8u;
    return x >> 17 | x << 15;
}

typedef struct {
    const uint8_t *at, *end;
} Message;

static uint64_t varint(Message *m) {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
        assert_true(m->at < m->end && shift < 64);
        uint8_t byte = *m->at++;
        value |= (uint64_t)(byte & 127) << shift;
        if (!(byte & 128)) { return value; }
    }
}

// The field's contents (its last occurrence); numbers as 8 or 4 bytes, varints in *number.
static bool field(Message m, int wanted, Message *contents, uint64_t *number) {
    bool found = false;
    while (m.at < m.end) {
        uint64_t key = varint(&m), size = 0;
        switch (key & 7) {
        case 0:
            size = varint(&m);
            if (key >> 3 == (uint64_t)wanted && number) { *number = size, found = true; }
            continue;
        case 1:
            size = 8;
            break;
        case 5:
            size = 4;
            break;
        case 2:
            size = varint(&m);
            break;
        default:
            fail_msg("wire type %d", (int)(key & 7));
        }
        assert_true(size <= (uint64_t)(m.end - m.at));
        if (key >> 3 == (uint64_t)wanted && contents) { *contents = (Message){m.at, m.at + size}, found = true; }
        m.at += size;
    }
    return found;
}

static Message part(Message m, int wanted) {
    Message contents;
    if (!field(m, wanted, &contents, NULL)) { fail_msg("field %d is missing", wanted); }
    return contents;
}

static uint64_t integer(Message m, int wanted) {
    uint64_t value;
    if (!field(m, wanted, NULL, &value)) { fail_msg("field %d is missing", wanted); }
    return value;
}

static void same_text(Message m, const char *text) {
    assert_int_equal(m.end - m.at, strlen(text));
    assert_memory_equal(m.at, text, strlen(text));
}

// The next record, its checksums checked.
static Message next(const uint8_t **at, const uint8_t *end) {
    uint64_t length;
    assert_true(end - *at >= 16);
    memcpy(&length, *at, 8);
    assert_int_equal(unmask(*at + 8), crc32c(*at, 8));
    assert_true(length <= (uint64_t)(end - *at) - 16);
    Message m = {*at + 12, *at + 12 + length};
    assert_int_equal(unmask(m.end), crc32c(m.at, length));
    *at = m.end + 4;
    return m;
}

static char *only_file(const char *where) {
    DIR *d = opendir(where);
    char *path = NULL;
    for (struct dirent *e; (e = readdir(d));) {
        if (strncmp(e->d_name, "events.out.tfevents.", 20) == 0) { path = xprintf("%s/%s", where, e->d_name); }
    }
    closedir(d);
    assert_non_null(path);
    return path;
}

static void test_crc(void **state) { // RFC 3720, B.4
    (void)state;
    uint8_t bytes[32] = {0};
    assert_int_equal(crc32c(bytes, 32), 0x8a9136aau);
    memset(bytes, 0xff, 32);
    assert_int_equal(crc32c(bytes, 32), 0x62a8ab43u);
    for (int i = 0; i < 32; i++) { bytes[i] = (uint8_t)i; }
    assert_int_equal(crc32c(bytes, 32), 0x46dd794eu);
    assert_int_equal(crc32c((const uint8_t *)"123456789", 9), 0xe3069283u);
}

static void test_records(void **state) {
    (void)state;
    const char *where = in_folder("board");
    TensorBoard *board = tensorboard_open(where, 1000);
    tensorboard_scalar(board, "train/loss", 300, 0.3125);
    static const uint8_t png[300] = {0x89, 'P', 'N', 'G'};
    tensorboard_image(board, "samples", 1 << 20, 640, 48, png, sizeof png);
    tensorboard_close(board);

    size_t size;
    char *path = only_file(where), *bytes = read_file(path, &size);
    const uint8_t *at = (const uint8_t *)bytes, *end = at + size;
    same_text(part(next(&at, end), 3), "brain.Event:2");
    Message start = next(&at, end);
    assert_int_equal(integer(part(start, 7), 1), 1); // SessionLog START: later points of older files are dropped
    assert_int_equal(integer(start, 2), 1001);

    Message event = next(&at, end), value = part(part(event, 5), 1);
    double wall_time;
    float number;
    memcpy(&wall_time, part(event, 1).at, 8);
    memcpy(&number, part(value, 2).at, 4);
    printf("  scalar at step %d: %g, wall time %.3f\n", (int)integer(event, 2), number, wall_time);
    assert_int_equal(integer(event, 2), 300);
    same_text(part(value, 1), "train/loss");
    assert_true(number == 0.3125f && wall_time > 1.6e9);

    event = next(&at, end);
    value = part(part(event, 5), 1);
    Message image = part(value, 4), pixels = part(image, 4);
    assert_int_equal(integer(event, 2), 1 << 20);
    assert_true(integer(image, 1) == 48 && integer(image, 2) == 640 && integer(image, 3) == 3);
    assert_int_equal(pixels.end - pixels.at, sizeof png);
    assert_memory_equal(pixels.at, png, sizeof png);
    assert_ptr_equal(at, end);
    free(bytes);
    free(path);
}

static void test_bad_folder(void **state) {
    (void)state;
    assert_dies("board2: exists and is not a folder", tensorboard_open(write_text("board2", ""), 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc),
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_bad_folder),
    };
    return cmocka_run_group_tests(tests, folder_begin, folder_end);
}
