// Checkpoints: the same bits back, all or nothing, the newest one, how many are kept, what is never touched.
#include "tests/train/train_test.h"
#include "tests/data/folder.h"
#include "model/init.h"
#include "model/weights.h"
#include "train/checkpoint.h"
#include "util/philox.h"
#include <dirent.h>

static Device dev;
static UNet unet;
static TrainOptions options;
static Optimizer optimizer;
static Trained what;
static Stream stream;
static const char *base; // a model directory with a scheduler, which stands for the parts that are not trained

static float *fill_random(float *out, uint64_t seed) {
    Random random = random_begin(seed, PHILOX_INIT, 0, 0);
    for (int i = 0; i < unet.params.count; i++) { // the padding between slices stays zero
        const ParamSlice *s = &unet.params.slices[i];
        for (size_t j = 0; j < s->count; j++) { out[s->offset + j] = random_normal(&random); }
    }
    return out;
}

static float *random_flat(uint64_t seed) { return fill_random(xcalloc(unet.params.total, sizeof(float)), seed); }

static void upload(float *device, uint64_t seed) {
    float *flat = random_flat(seed);
    device_copy(&dev, device, flat, unet.params.total * sizeof(float), false);
    free(flat);
}

static int begin(void **state) {
    if (folder_begin(state)) { return 1; }
    device_open(&dev, 0);
    const Preset *mini = preset_find("mini");
    UNetConfig config = mini->unet; // smaller: 32 and 64 channels
    config.levels = 2;
    config.block_out_channels[0] = 32;
    config.block_out_channels[1] = 64;
    unet = unet_create(&config);
    params_alloc(&unet.params, &dev);
    params_alloc_grads(&unet.params, &dev);
    options = train_options_of("--ema-decay", "0.9");
    options.out = xstrdup(in_folder("run"));
    base = xstrdup(in_folder("base"));
    char *scheduler = xprintf("%s/scheduler", base), *file = xprintf("%s/scheduler_config.json", scheduler);
    make_folders(scheduler);
    schedule_config_write(&mini->schedule, file);
    free(scheduler);
    free(file);
    stream_add(&stream, "samples", "the number of samples", "%d", 40);
    stream_add(&stream, "paint", "the paint", "%s", "");
    stream_add_hash(&stream, "pictures", "the list of pictures", 0x1234567890abcdef);
    optimizer = optimizer_create(&options, &alone, unet.params.weights, unet.params.grads, unet.params.total, &dev);
    what = (Trained){.modules = {"unet"}, .params = {&unet.params}, .count = 1};
    return 0;
}

static int end(void **state) {
    optimizer_destroy(&optimizer, &dev);
    device_free(&dev, unet.params.grads);
    unet_destroy(&unet, &dev);
    device_close(&dev);
    return folder_end(state);
}

static void randomize(uint64_t seed) {
    upload(optimizer.master, seed);
    upload(optimizer.m, seed + 1);
    upload(optimizer.v, seed + 2);
    upload(optimizer.ema, seed + 3);
}

static void same_bits(const float *device, uint64_t seed, const char *name) {
    size_t bytes = unet.params.total * sizeof(float);
    float *expected = random_flat(seed), *host = xmalloc(bytes);
    device_copy(&dev, host, device, bytes, false);
    device_sync(&dev);
    printf("  %-8s %zu elements: %s\n", name, unet.params.total,
           memcmp(host, expected, bytes) ? "differ" : "same bits");
    assert_memory_equal(host, expected, bytes);
    free(expected);
    free(host);
}

static char *save(int step) {
    char *work = checkpoint_write(&options, &stream, base, step, &what, &optimizer, &dev);
    return checkpoint_commit(&options, step, work, false);
}

// Moments are written in the order of the list of slices, wherever the slices lie in the buffer.
static void test_listed(void **state) {
    (void)state;
    randomize(20);
    char *path = save(44), *name = xprintf("%s/trainer/optimizer.safetensors", path);
    Safetensors file = safetensors_open(name);
    const Tensor *moments = safetensors_find(&file, "exp_avg");
    float *flat = random_flat(21);
    int moved = 0;
    for (int i = 0; i < unet.params.count; i++) {
        const ParamSlice *s = &unet.params.slices[i];
        assert_memory_equal((const float *)moments->data + s->listed, flat + s->offset, s->count * sizeof *flat);
        assert_true(i == 0 || s->listed > s[-1].listed);
        moved += s->listed != s->offset;
    }
    printf("  %d of %d slices lie elsewhere\n", moved, unet.params.count);
    assert_true(moved > 0);
    safetensors_close(&file);
    free(flat);
    free(name);
    free(path);
}

static bool there(const char *name) { return access(in_folder(name), F_OK) == 0; }

static void test_bits(void **state) {
    (void)state;
    options.checkpoints_total_limit = 0;
    randomize(10);
    optimizer.skipped = 3;
    optimizer.last_skipped = 41;
    char *path = save(42);
    assert_string_equal(path + strlen(path) - 17, "checkpoint-000042");
    randomize(50);
    optimizer.skipped = optimizer.last_skipped = 0;
    checkpoint_load(&options, &stream, path, &what, &optimizer, &dev);
    same_bits(optimizer.m, 11, "exp_avg");
    same_bits(optimizer.v, 12, "exp_avg_sq");
    same_bits(optimizer.ema, 13, "average");
    assert_true(optimizer.skipped == 3 && optimizer.last_skipped == 41);
    char *module = xprintf("%s/unet", path); // weights come with the pipeline
    weights_read(&unet.params, module, (float *)optimizer.master);
    same_bits(optimizer.master, 10, "weights");
    assert_true(there("run/checkpoint-000042/scheduler/scheduler_config.json"));
    assert_true(there("run/checkpoint-000042/model_index.json"));
    assert_false(checkpoint_is_published(path, &what, options.out));
    checkpoint_publish(path, options.out);
    assert_true(checkpoint_is_published(path, &what, options.out));
    write_text("run/model/unet/diffusion_pytorch_model.safetensors", "others");
    assert_false(checkpoint_is_published(path, &what, options.out));
    checkpoint_publish(path, options.out);
    assert_true(there("run/model/unet_ema/diffusion_pytorch_model.safetensors") && !there("run/model/trainer"));
    free(module);
    free(path);
}

static void test_limit(void **state) {
    (void)state;
    static const char *const leftovers[] = {"run/checkpoint-000007.cocogold-tmp-node-4321/unet",
                                            "run/checkpoint-000005.cocogold-old-node-3-99/unet",
                                            "run/model.cocogold-tmp-node-77/vae", "run/model.cocogold-old-node-1/vae"};
    static const char *const users[] = {"run/checkpoint-best/unet",
                                        "run/checkpoint-5/trainer",
                                        "run/notes.cocogold-tmp-node-1/x",
                                        "run/model.cocogold-old-1/vae",
                                        "run/model.cocogold-tmp-77/vae",
                                        "run/model.cocogold-old-node-1b/vae",
                                        "run/model.v2.cocogold-old-node-1/vae",
                                        "run/checkpoint-5.cocogold-old-node-1/unet",
                                        "run/checkpoint-000003/unet"}; // the last one: not complete
    make_folders(in_folder("run/model"));                              // the old one is not put back
    for (int i = 0; i < 4; i++) { make_folders(in_folder(leftovers[i])); }
    for (int i = 0; i < 9; i++) { make_folders(in_folder(users[i])); }
    write_text("run/checkpoint-5/trainer/state.json", "{}"); // the name is not ours
    options.checkpoints_total_limit = 2;
    checkpoint_remove_leftovers(options.out);
    for (int step = 50; step <= 80; step += 10) { free(save(step)); }
    for (int i = 0; i < 4; i++) {
        printf("  %-40s removed: %s\n", leftovers[i], there(leftovers[i]) ? "no" : "yes");
        assert_false(there(leftovers[i]));
    }
    for (int i = 0; i < 9; i++) {
        printf("  %-40s kept: %s\n", users[i], there(users[i]) ? "yes" : "no");
        assert_true(there(users[i]));
    }
    assert_true(there("run/checkpoint-000005/unet")); // put back, since there was no other
    assert_true(there("run/checkpoint-000080") && there("run/checkpoint-000070"));
    assert_false(there("run/checkpoint-000060") || there("run/checkpoint-000050") || there("run/checkpoint-000042"));
    int step;
    char *newest = checkpoint_newest(options.out, &step);
    assert_int_equal(step, 80);
    assert_string_equal(newest, in_folder("run/checkpoint-000080"));
    free(newest);
}

// The list of names in a folder, to see that nothing came or went.
static char *names_in(const char *where) {
    struct dirent **entries;
    int count = scandir(where, &entries, NULL, alphasort);
    char *list = xstrdup("");
    for (int i = 0; i < count; i++) {
        char *longer = xprintf("%s%s ", list, entries[i]->d_name);
        free(list);
        free(entries[i]);
        list = longer;
    }
    free(entries);
    return list;
}

static void test_failure(void **state) {
    (void)state;
    char *before = names_in(options.out);
    assert_dies("no space", checkpoint_write(&options, &stream, base, 90, &what, &optimizer, &dev); die("no space"));
    char *after = names_in(options.out);
    assert_string_equal(after, before);
    free(before);
    free(after);
}

static void test_damage(void **state) {
    (void)state;
    const char *path = in_folder("run/checkpoint-000080");
    const char *moments = in_folder("run/checkpoint-000080/trainer/optimizer.safetensors");
    size_t size;
    char *bytes = read_file(moments, &size);
    atomic_write(moments, bytes, size / 2);
    assert_dies("optimizer.safetensors", checkpoint_load(&options, &stream, path, &what, &optimizer, &dev));
    unet.params.listed -= 64;
    atomic_write(moments, bytes, size);
    assert_dies("tensor \"exp_avg\" is missing or not of",
                checkpoint_load(&options, &stream, path, &what, &optimizer, &dev));
    unet.params.listed += 64;
    write_text("run/checkpoint-000080/trainer/state.json", "{\"step\": 80, ");
    assert_dies("state.json: is not valid JSON", checkpoint_load(&options, &stream, path, &what, &optimizer, &dev));
    free(bytes);
}

// Other data than a checkpoint recorded, and a record that is missing.
static void test_stream(void **state) {
    (void)state;
    char *path = save(84), *name = xprintf("%s/trainer/state.json", path);
    Stream more = {0}, others = {0};
    stream_add(&more, "samples", "the number of samples", "%d", 45);
    assert_dies("--resume: the number of samples differs from what ",
                checkpoint_load(&options, &more, path, &what, &optimizer, &dev));
    assert_dies("state.json recorded (40, now 45): give what the run began with, or begin another run",
                checkpoint_load(&options, &more, path, &what, &optimizer, &dev));
    stream_add(&others, "samples", "the number of samples", "%d", 40);
    stream_add_hash(&others, "pictures", "the list of pictures", 0xf);
    assert_dies("--resume: the list of pictures differs from what ",
                checkpoint_load(&options, &others, path, &what, &optimizer, &dev));
    assert_dies("recorded (1234567890abcdef, now 000000000000000f)",
                checkpoint_load(&options, &others, path, &what, &optimizer, &dev));
    char *text = read_file(name, NULL), *field = strstr(text, "\"stream\"");
    assert_non_null(field);
    memcpy(field, "\"former\"", 8);
    atomic_write(name, text, strlen(text));
    assert_dies("state.json: field \"stream\" is missing",
                checkpoint_load(&options, &more, path, &what, &optimizer, &dev));
    free(text);
    free(name);
    free(path);
}

// Of another command, or of none.
static void test_command(void **state) {
    (void)state;
    char *path = save(85);
    checkpoint_check_command("train", path);
    assert_dies("is a checkpoint of `cocogold train`, not of `cocogold train-vae`",
                checkpoint_check_command("train-vae", path));
    write_text("run/checkpoint-000085/trainer/state.json", "{\"step\": 85}");
    assert_dies("state.json: field \"command\" is missing", checkpoint_check_command("train", path));
    free(path);
}

static void test_remove_all(void **state) {
    (void)state;
    make_folders(in_folder("run/checkpoint-000081.cocogold-tmp-node-5"));
    checkpoint_remove_all(options.out);
    checkpoint_remove_leftovers(options.out);
    int step;
    assert_null(checkpoint_newest(options.out, &step));
    assert_false(there("run/checkpoint-000081.cocogold-tmp-node-5") || there("run/checkpoint-000070"));
    assert_true(there("run/checkpoint-best"));
    assert_null(checkpoint_newest(in_folder("no such run"), &step));
    assert_int_equal(step, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),    cmocka_unit_test(test_listed),     cmocka_unit_test(test_limit),
        cmocka_unit_test(test_failure), cmocka_unit_test(test_damage),     cmocka_unit_test(test_stream),
        cmocka_unit_test(test_command), cmocka_unit_test(test_remove_all),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
