// The loader: the shuffle is a permutation and a pure function, ranks and restarts change nothing, damage is a
// sentence.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <sys/resource.h>
#include "data/loader.h"
#include "tests/data/shards.h"
#include "tests/dies.h"
#include "util/half.h"

enum { SHARDS = 3, PER_SHARD = 7, SAMPLES = SHARDS * PER_SHARD, LATENT = 5 * 6 * 4, ROWS = 4, MASK = 20 * 3 };
static char *folder;

typedef struct {
    float image[ROWS * LATENT], target[ROWS * LATENT];
    uint8_t mask[ROWS * MASK];
    int text[ROWS];
    int64_t position[ROWS];
} Buffers;

static LoaderBatch batch_of(Buffers *b) { return (LoaderBatch){b->image, b->target, b->mask, b->position, b->text}; }

// Which of the first `count` samples that test_sample makes is in this row: no two have the same image latent.
static int sample_in(const Buffers *b, int row, const ShardInfo *info, int count) {
    float latent[LATENT];
    for (int i = 0; i < count; i++) {
        test_latent(i, 0, info, latent);
        if (memcmp(latent, b->image + row * LATENT, sizeof latent) == 0) { return i; }
    }
    fail_msg("row %d holds no sample", row);
    return -1;
}

static void write_shards(const char *to, int first, int last) {
    for (int k = first; k < last; k++) {
        ShardInfo info = test_info(SHARDS, k);
        char *path = xprintf("%s/train-%05d.h5", to, k);
        test_shard(path, &info, (long long)k * PER_SHARD, PER_SHARD);
        shard_info_free(&info);
        free(path);
    }
}

static void permutation(void **state) {
    (void)state;
    enum { N = 1000 };
    int64_t a[N], b[N], c[N], d[N];
    int seen[N] = {0}, same_epoch = 0, same_seed = 0;
    loader_permutation(5, 3, N, a);
    loader_permutation(5, 3, N, b);
    loader_permutation(5, 4, N, c);
    loader_permutation(6, 3, N, d);
    for (int i = 0; i < N; i++) {
        assert_true(a[i] >= 0 && a[i] < N && !seen[a[i]]++);
        same_epoch += a[i] == c[i];
        same_seed += a[i] == d[i];
    }
    assert_memory_equal(a, b, sizeof a);
    printf("  %d samples: %d keep their place in the next epoch, %d with another seed (1 expected)\n", (int)N,
           same_epoch, same_seed);
    assert_true(same_epoch < 10 && same_seed < 10);
}

// Every batch holds what its positions say; the stored order is right.
static void contents(void **state) {
    (void)state;
    ShardSet set = shards_open(folder, "train");
    assert_int_equal(set.samples, SAMPLES);
    LoaderOptions options = {.target = TARGET_MASK, .seed = 9, .rows = ROWS, .world = 1};
    Loader *loader = loader_open(&set, &options);
    int64_t order[SAMPLES];
    float expected[LATENT];
    for (int k = 0; k < 14; k++) { // beyond two epochs
        Buffers b;
        LoaderBatch batch = batch_of(&b);
        loader_read(loader, k, &batch);
        for (int row = 0; row < ROWS; row++) {
            long long p = k * ROWS + row;
            assert_int_equal(b.position[row], p);
            loader_permutation(9, p / SAMPLES, SAMPLES, order);
            int sample = sample_in(&b, row, &set.info, SAMPLES);
            assert_int_equal(sample, order[p % SAMPLES]);
            assert_int_equal(b.text[row], sample % TEST_CLASSES);
            test_latent(sample, 2, &set.info, expected);
            assert_memory_equal(expected, b.target + row * LATENT, sizeof expected);
            for (int i = 0; i < MASK; i++) { assert_int_equal(b.mask[row * MASK + i], (uint8_t)(sample * 31 + i * 7)); }
            ShardSample s = {0};
            shards_read(&set, sample, &s);
            assert_int_equal(s.class_index, sample % TEST_CLASSES);
            char *name = loader_name(loader, p);
            char *wanted = xprintf("sample %d of %s/train-%05d.h5 (picture %lld)", sample % PER_SHARD, folder,
                                   sample / PER_SHARD, (long long)s.image_id);
            assert_string_equal(name, wanted);
            free(name);
            free(wanted);
        }
    }
    printf("  56 rows over 2.7 epochs as expected\n");
    loader_close(loader);
    shards_close(&set);
}

// The tables of all shards become one; without texts, the classes are the table.
static void texts(void **state) {
    (void)state;
    char *place = xprintf("%s/texts", folder);
    make_folders(place);
    for (int k = 0; k < SHARDS; k++) {
        ShardInfo info = test_info(SHARDS, k);
        snprintf(info.text_source, sizeof info.text_source, "captions");
        info.targets = 0;
        char *path = xprintf("%s/train-%05d.h5", place, k);
        test_shard(path, &info, (long long)k * PER_SHARD, k ? PER_SHARD : 2); // the first lacks the third text
        shard_info_free(&info);
        free(path);
    }
    ShardSet set = shards_open(place, "train"), classes = shards_open(folder, "train");
    assert_int_equal(set.text_count, TEST_TEXTS);
    for (int i = 0; i < TEST_TEXTS; i++) { assert_string_equal(set.texts[i], test_texts[i]); }
    LoaderOptions options = {.seed = 4, .rows = ROWS, .world = 1};
    Loader *loader = loader_open(&set, &options), *named = loader_open(&classes, &options);
    for (int k = 0; k < 4; k++) {
        Buffers b;
        LoaderBatch batch = {.image_latent = b.image, .text = b.text};
        loader_read(loader, k, &batch);
        for (int row = 0; row < ROWS; row++) {
            int written = sample_in(&b, row, &set.info, SAMPLES);
            int stored = written < 2 ? written : written - PER_SHARD + 2;
            assert_int_equal(b.text[row], written % TEST_TEXTS);
            assert_int_equal(shards_text(&set, stored), b.text[row]);
        }
        loader_read(named, k, &batch);
        for (int row = 0; row < ROWS; row++) {
            assert_int_equal(b.text[row], sample_in(&b, row, &set.info, SAMPLES) % TEST_CLASSES);
        }
    }
    assert_string_equal(classes.texts[3], test_classes[3]);
    loader_close(loader);
    loader_close(named);
    shards_close(&set);
    shards_close(&classes);
    free(place);
}

static void resume(void **state) {
    (void)state;
    ShardSet set = shards_open(folder, "train");
    LoaderOptions options = {.target = TARGET_OVERLAY, .seed = 4, .rows = ROWS, .world = 1};
    Loader *whole = loader_open(&set, &options);
    for (int k = 0; k < 12; k++) {
        Buffers a, b;
        LoaderBatch batch = batch_of(&a);
        loader_read(whole, k, &batch);
        options.start = k * ROWS;
        Loader *resumed = loader_open(&set, &options); // two loaders and a reader side by side
        batch = batch_of(&b);
        loader_read(resumed, 0, &batch);
        ShardSample sample = {.latents = {b.image}};
        assert_memory_equal(&a, &b, sizeof a);
        shards_read(&set, k, &sample);
        loader_close(resumed);
    }
    printf("  resumed at 12 positions: equal to the uninterrupted stream\n");
    loader_close(whole);
    shards_close(&set);
}

// Two ranks of two rows are one rank of four: micro-batches are contiguous, rank after rank.
static void ranks(void **state) {
    (void)state;
    ShardSet set = shards_open(folder, "train");
    LoaderOptions one = {.target = TARGET_OVERLAY, .seed = 4, .start = 3, .rows = 4, .world = 1};
    LoaderOptions two = {.target = TARGET_OVERLAY, .seed = 4, .start = 3, .rows = 2, .world = 2};
    Loader *whole = loader_open(&set, &one), *part[2];
    for (int r = 0; r < 2; r++) {
        two.rank = r;
        part[r] = loader_open(&set, &two);
    }
    for (int k = 0; k < 10; k++) {
        Buffers a, b;
        LoaderBatch batch = batch_of(&a);
        loader_read(whole, k, &batch);
        for (int r = 0; r < 2; r++) {
            batch = (LoaderBatch){b.image + 2 * r * LATENT, b.target + 2 * r * LATENT, b.mask + 2 * r * MASK,
                                  b.position + 2 * r, b.text + 2 * r};
            loader_read(part[r], k, &batch);
        }
        assert_memory_equal(&a, &b, sizeof a);
    }
    printf("  2 ranks x 2 rows = 1 rank x 4 rows over 10 micro-batches\n");
    loader_close(whole);
    loader_close(part[0]);
    loader_close(part[1]);
    shards_close(&set);
}

static uint64_t hash_of(const ShardSet *set, const bool *keep) {
    LoaderOptions options = {.target = TARGET_OVERLAY, .rows = ROWS, .world = 1, .keep = keep};
    Loader *loader = loader_open(set, &options);
    uint64_t hash = loader_hash(loader);
    loader_close(loader);
    return hash;
}

// It is that of the samples, wherever the shards are cut, and of the classes that are kept.
static void hash(void **state) {
    (void)state;
    char *place = xprintf("%s/one", folder), *path = xprintf("%s/train-00000.h5", place);
    make_folders(place);
    ShardInfo info = test_info(1, 0);
    test_shard(path, &info, 0, SAMPLES);
    ShardSet three = shards_open(folder, "train"), one = shards_open(place, "train");
    uint64_t all = hash_of(&three, NULL);
    assert_true(all == hash_of(&one, NULL));
    assert_true(all != hash_of(&one, (const bool[TEST_CLASSES]){true, true, true}));
    one.shards[0].crop[3 * 5]++;
    assert_true(all != hash_of(&one, NULL));
    one.shards[0].crop[3 * 5]--, one.shards[0].area[5] += 0.125f;
    assert_true(all != hash_of(&one, NULL));
    one.shards[0].area[5] -= 0.125f, one.texts[3][0] = 'k';
    assert_true(all != hash_of(&one, NULL));
    one.texts[3][0] = 'c', one.shards[0].image_id[0] = 1;
    assert_true(all != hash_of(&one, NULL));
    shards_close(&three);
    shards_close(&one);
    shard_info_free(&info);
    free(path);
    free(place);
}

static void class_filter(void **state) {
    (void)state;
    ShardSet set = shards_open(folder, "train");
    bool *keep = shards_classes(&set, "--classes", "dining table, caf\xc3\xa9");
    LoaderOptions options = {.target = TARGET_OVERLAY, .rows = ROWS, .world = 1, .keep = keep};
    Loader *loader = loader_open(&set, &options);
    int expected = 0, seen[SAMPLES] = {0};
    for (int i = 0; i < SAMPLES; i++) { expected += i % TEST_CLASSES >= 2; }
    assert_int_equal(loader_samples(loader), expected);
    Buffers b;
    LoaderBatch batch = batch_of(&b);
    batch.target_latent = NULL; // skipped
    for (int p = 0; p < expected; p++) {
        if (p % ROWS == 0) { loader_read(loader, p / ROWS, &batch); }
        assert_true(b.text[p % ROWS] >= 2);
        assert_true(!seen[sample_in(&b, p % ROWS, &set.info, SAMPLES)]++); // once an epoch
    }
    loader_close(loader);
    assert_dies("class \"cat\" is not among", shards_classes(&set, "--classes", "person,cat"));
    memset(keep, 0, TEST_CLASSES);
    assert_dies("no sample of the requested classes", loader_open(&set, &options));
    set.info.targets = TARGET_MASK;
    assert_dies("the shards have no \"target_overlay\"", loader_open(&set, &options));
    free(keep);
    shards_close(&set);
}

static void damaged_sets(void **state) {
    (void)state;
    char *other = xprintf("%s/other", folder), *path = xprintf("%s/train-00001.h5", other);
    assert_dies("is not a folder", shards_open("/nowhere", "train"));
    make_folders(other);
    assert_dies("holds no shard train-00000.h5", shards_open(other, "train"));
    write_shards(other, 0, 2);
    assert_dies("holds 2 of the 3 shards", shards_open(other, "train"));
    write_shards(other, 2, 3);
    unlink(path);
    assert_dies("train-00001.h5: is missing among 2 shards", shards_open(other, "train"));
    ShardInfo info = test_info(SHARDS, 1);
    info.alpha = 0.5;
    test_shard(path, &info, PER_SHARD, PER_SHARD);
    assert_dies("attribute \"alpha\" is 0.5, but", shards_open(other, "train"));
    info.alpha = 0.75;
    info.classes[3][0] = 'k';
    test_shard(path, &info, PER_SHARD, PER_SHARD);
    assert_dies("attribute \"classes\" is \"kaf\xc3\xa9\" at 3", shards_open(other, "train"));
    shard_info_free(&info);
    free(path);
    free(other);
}

// More shards than files may be open: those used last stay open, the others are opened again, if they are still the
// same.
static int open_files(void) {
    int count = 0;
    DIR *entries = opendir("/proc/self/fd");
    while (readdir(entries)) { count++; }
    closedir(entries);
    return count;
}

static void many_shards(void **state) {
    (void)state;
    enum { MANY = 300, LIMIT = 48 };
    struct rlimit before, few;
    getrlimit(RLIMIT_NOFILE, &before);
    few = before, few.rlim_cur = LIMIT;
    char *place = xprintf("%s/many", folder), *first = xprintf("%s/train-00000.h5", place);
    make_folders(place);
    ShardInfo info = test_info(MANY, 0);
    test_shard(first, &info, 0, 2);
    size_t size;
    char *bytes = read_file(first, &size);
    for (int k = 1; k < MANY; k++) {
        FILE *copy = fopen(path_of("%s/train-%05d.h5", place, k).text, "wb");
        assert_int_equal(fwrite(bytes, 1, size, copy), size);
        fclose(copy);
    }
    free(bytes);
    int already = open_files();
    setrlimit(RLIMIT_NOFILE, &few);
    ShardSet set = shards_open(place, "train");
    LoaderOptions options = {.target = TARGET_MASK, .seed = 9, .rows = ROWS, .world = 1};
    Loader *loader = loader_open(&set, &options);
    for (int k = 0; k < 2 * MANY / ROWS; k++) {
        Buffers b;
        float expected[LATENT];
        LoaderBatch batch = batch_of(&b);
        loader_read(loader, k, &batch);
        for (int row = 0; row < ROWS; row++) {
            test_latent(sample_in(&b, row, &set.info, 2), 2, &set.info, expected);
            assert_memory_equal(expected, b.target + row * LATENT, sizeof expected);
        }
    }
    int open = open_files() - already;
    printf("  %d shards, at most %d files: %d are open\n", (int)MANY, (int)LIMIT, open);
    assert_true(open > 0 && open <= LIMIT / 2);
    test_shard(first, &info, 0, 2);
    Buffers b;
    ShardSample sample = {.latents = {b.image}};
    for (int k = MANY - LIMIT; k < MANY; k++) { shards_read(&set, 2 * k, &sample); }
    assert_dies("train-00000.h5: was written again while this program read it", shards_read(&set, 0, &sample));
    unlink(first);
    assert_dies("train-00000.h5: does not exist", shards_read(&set, 0, &sample));
    loader_close(loader);
    shards_close(&set);
    assert_int_equal(open_files(), already);
    setrlimit(RLIMIT_NOFILE, &before);
    shard_info_free(&info);
    free(place);
    free(first);
}

// A chunk that is damaged while training runs ends the program with a sentence.
static void stream_through(const char *where) {
    ShardSet set = shards_open(where, "train");
    LoaderOptions options = {.target = TARGET_OVERLAY, .rows = ROWS, .world = 1};
    Loader *loader = loader_open(&set, &options);
    Buffers b;
    LoaderBatch batch = batch_of(&b);
    for (int k = 0; k < 100; k++) { loader_read(loader, k, &batch); }
}

static void damaged_chunk(void **state) {
    (void)state;
    write_shards(folder, 0, SHARDS);
    char *path = xprintf("%s/train-00002.h5", folder);
    ShardInfo info = test_info(SHARDS, 2);
    float values[LATENT];
    test_latent(2 * PER_SHARD + 3, 1, &info, values); // find the chunk of this target by its bytes
    uint16_t half[LATENT];
    for (int k = 0; k < LATENT; k++) { half[k] = float_to_half(values[k]); }
    size_t size;
    char *bytes = read_file(path, &size), *chunk = memmem(bytes, size, half, sizeof half);
    assert_non_null(chunk);
    chunk[57] ^= 1;
    atomic_write(path, bytes, size);
    assert_dies("train-00002.h5: dataset \"target_overlay\" cannot be read at sample 3: the file is damaged",
                stream_through(folder));
    shard_info_free(&info);
    free(bytes);
    free(path);
}

int main(void) {
    folder = test_folder();
    write_shards(folder, 0, SHARDS);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(permutation),   cmocka_unit_test(contents),     cmocka_unit_test(texts),
        cmocka_unit_test(resume),        cmocka_unit_test(ranks),        cmocka_unit_test(class_filter),
        cmocka_unit_test(hash),          cmocka_unit_test(damaged_sets), cmocka_unit_test(many_shards),
        cmocka_unit_test(damaged_chunk),
    };
    int failures = cmocka_run_group_tests_name("data/loader", tests, NULL, NULL);
    remove_tree(folder);
    return failures;
}
