// cocogold init: writes a model directory, random or made from Stable Diffusion. At most one tensor is in memory at a
// time.
#include "model/init.h"
#include "model/pipeline.h"
#include "model/weights.h"
#include "util/error.h"
#include "util/file.h"
#include "util/options.h"
#include "util/progress.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- Random --------------------------------------------------------------------------------------------------------

typedef struct {
    const char *folder; // being written
    const Preset *preset;
    const char *vae; // model directory to take the VAE from; NULL: random
    bool text_to_image;
    CLIPConfig clip; // with the tokenizer's vocab_size
    uint64_t seed;
} Plan;

static size_t parameter_count(const Params *params) {
    size_t n = 0;
    for (int i = 0; i < params->count; i++) { n += params->slices[i].count; }
    return n;
}

// Writes random values of all slices of one or two models into one file.
static void write_random(const Plan *plan, const char *file, const Params *const *params, int count, bool clip) {
    SafetensorsWriter *w = safetensors_writer(path_of("%s/%s", plan->folder, file).text);
    long long total = 0;
    for (int m = 0; m < count; m++) {
        weights_declare(w, params[m]);
        total += (long long)parameter_count(params[m]);
    }
    Progress progress = progress_work("init", total);
    progress_phase(&progress, "%s", file);
    for (int m = 0; m < count; m++) {
        for (int i = 0; i < params[m]->count; i++) {
            size_t n = params[m]->slices[i].count;
            float *values = xmalloc(n * sizeof *values);
            init_slice(values, params[m], i, plan->seed, plan->preset, clip);
            safetensors_write(w, values, n);
            free(values);
            progress_add(&progress, (long long)n);
        }
    }
    progress_end(&progress, progress.done);
    safetensors_finish(w);
}

// The path of a file in a new module's folder, which it makes.
static Path module_file(const char *folder, const char *module, const char *file) {
    make_folders(path_of("%s/%s", folder, module).text);
    return path_of("%s/%s/%s", folder, module, file);
}

static void write_unet(const Plan *plan, Device *dev) {
    UNetConfig config = plan->preset->unet;
    if (plan->text_to_image) { config.in_channels = config.out_channels; }
    unet_config_write(&config, module_file(plan->folder, "unet", "config.json").text);
    UNet unet = unet_create(&config);
    write_random(plan, "unet/diffusion_pytorch_model.safetensors", (const Params *[]){&unet.params}, 1, false);
    printf("unet: %zu parameters\n", parameter_count(&unet.params));
    unet_destroy(&unet, dev);
}

static void write_vae(const Plan *plan, Device *dev) {
    vae_config_write(&plan->preset->vae, module_file(plan->folder, "vae", "config.json").text);
    VAEEncoder encoder = vae_encoder_create(&plan->preset->vae);
    VAEDecoder decoder = vae_decoder_create(&plan->preset->vae);
    const Params *both[] = {&encoder.params, &decoder.params};
    write_random(plan, "vae/diffusion_pytorch_model.safetensors", both, 2, false);
    printf("vae: %zu parameters\n", parameter_count(&encoder.params) + parameter_count(&decoder.params));
    vae_destroy(&encoder, dev);
    vae_destroy(&decoder, dev);
}

// Checks a module's weights against its config.json, and prints their file, number and digest.
static void report_module(const char *folder, const Params *const *params, int count) {
    Path path = weights_path(folder);
    Safetensors file = safetensors_open(path.text);
    size_t n = 0;
    for (int m = 0; m < count; m++) {
        free(weights_match(params[m], &file));
        n += parameter_count(params[m]);
    }
    safetensors_close(&file);
    char hex[65];
    weights_digest(folder, hex);
    printf("%s: %zu parameters, sha256 %s\n", path.text, n, hex);
}

static void report_vae(const char *from, Device *dev) {
    VAEConfig config = vae_config_read(path_of("%s/vae/config.json", from).text);
    VAEEncoder encoder = vae_encoder_create(&config);
    VAEDecoder decoder = vae_decoder_create(&config);
    report_module(path_of("%s/vae", from).text, (const Params *[]){&encoder.params, &decoder.params}, 2);
    vae_destroy(&encoder, dev);
    vae_destroy(&decoder, dev);
}

static void link_vae(const Plan *plan, Device *dev) {
    static const char *const others[] = {"unet", "text_encoder", "tokenizer", "scheduler", NULL};
    Path path = path_of("%s/vae/config.json", plan->vae);
    int L = vae_config_read(path.text).latent_channels, expected = plan->preset->unet.out_channels;
    if (L != expected) { die("%s: field \"latent_channels\" is %d, expected %d", path.text, L, expected); }
    report_vae(plan->vae, dev);
    pipeline_link(plan->vae, plan->folder, others);
}

static void write_text_encoder(const Plan *plan, Device *dev) {
    clip_config_write(&plan->clip, module_file(plan->folder, "text_encoder", "config.json").text);
    CLIPText clip = clip_create(&plan->clip);
    write_random(plan, "text_encoder/model.safetensors", (const Params *[]){&clip.params}, 1, true);
    printf("text_encoder: %zu parameters, vocabulary of %d\n", parameter_count(&clip.params), plan->clip.vocab_size);
    clip_destroy(&clip, dev);
}

static void write_preset(Plan *plan, Device *dev) {
    int used = tokenizer_write(plan->preset, path_of("%s/tokenizer", plan->folder).text);
    plan->clip = plan->preset->clip;
    if (!plan->clip.vocab_size) { plan->clip.vocab_size = used; }
    Path scheduler = module_file(plan->folder, "scheduler", "scheduler_config.json");
    schedule_config_write(&plan->preset->schedule, scheduler.text);
    write_unet(plan, dev);
    if (plan->vae) {
        link_vae(plan, dev);
    } else {
        write_vae(plan, dev);
    }
    write_text_encoder(plan, dev);
    pipeline_index_write(plan->folder);
}

// ---- From Stable Diffusion -----------------------------------------------------------------------------------------

static void report_config(const char *path) {
    char *text = read_file(path, NULL), hex[65];
    sha256_file(path, hex);
    printf("%s: sha256 %s\n%s\n", path, hex, text);
    free(text);
}

static void report_frozen(const char *from, const char *text_encoder, Device *dev) {
    Path vae_path = path_of("%s/vae/config.json", from), clip_path = path_of("%s/config.json", text_encoder);
    CLIPConfig text = clip_config_read(clip_path.text);
    tokenizer_close(tokenizer_open(path_of("%s/tokenizer", from).text));
    CLIPText clip = clip_create(&text);
    report_config(vae_path.text);
    report_vae(from, dev);
    report_config(clip_path.text);
    report_module(text_encoder, (const Params *[]){&clip.params}, 1);
    clip_destroy(&clip, dev);
}

// conv_in (OC, IC, 3, 3) to (OC, 2 IC, 3, 3): both halves get the old weights times 1/2, so that two equal inputs give
// the old output (Ke et al. 2024, "Marigold").
static void double_conv_in(float *out, const float *in, int OC, size_t row) {
    for (int o = 0; o < OC; o++) {
        for (size_t i = 0; i < 2 * row; i++) { out[(size_t)o * 2 * row + i] = 0.5f * in[(size_t)o * row + i % row]; }
    }
}

// from: the folder of the UNet.
static void convert_unet(const char *from, const char *to, Device *dev) {
    Path path = path_of("%s/config.json", from);
    UNetConfig config = unet_config_read(path.text);
    if (config.in_channels != config.out_channels) {
        die("%s: field \"in_channels\" is %d, expected %d as \"out_channels\" of a text-to-image model", path.text,
            config.in_channels, config.out_channels);
    }
    UNet old = unet_create(&config);
    report_config(path.text);
    report_module(from, (const Params *[]){&old.params}, 1);
    config.in_channels *= 2;
    UNet new = unet_create(&config);

    unet_config_write(&config, module_file(to, "unet", "config.json").text);
    Safetensors file = safetensors_open(weights_path(from).text);
    const Tensor **tensors = weights_match(&old.params, &file);
    SafetensorsWriter *w = safetensors_writer(path_of("%s/unet/diffusion_pytorch_model.safetensors", to).text);
    weights_declare(w, &new.params);
    Progress progress = progress_work("init", (long long)parameter_count(&new.params));
    progress_phase(&progress, "unet");
    for (int i = 0; i < old.params.count; i++) {
        const ParamSlice *slice = &old.params.slices[i], *grown = &new.params.slices[i];
        float *values = xmalloc(slice->count * sizeof *values), *doubled = xmalloc(grown->count * sizeof *doubled);
        tensor_to_float(tensors[i], 0, tensors[i]->count, values);
        tensor_want_finite(tensors[i], values, slice->count);
        bool first = strcmp(slice->name, "conv_in.weight") == 0;
        if (first) { double_conv_in(doubled, values, slice->shape[0], slice->count / (size_t)slice->shape[0]); }
        safetensors_write(w, first ? doubled : values, grown->count);
        free(values);
        free(doubled);
        progress_add(&progress, (long long)grown->count);
    }
    progress_end(&progress, progress.done);
    safetensors_finish(w);
    safetensors_close(&file);
    free(tensors);
    unet_destroy(&old, dev);
    unet_destroy(&new, dev);
}

// Keeps betas and prediction type; sets the rest for few-step sampling from pure noise (Lin et al. 2023).
static void convert_scheduler(const char *from, const char *to) {
    Path path = path_of("%s/scheduler/scheduler_config.json", from);
    ScheduleConfig config = schedule_config_read(path.text);
    report_config(path.text);
    config.terminal_signal = config.prediction != PREDICT_EPSILON ? 0 : AS_BETAS;
    config.spacing = SPACING_TRAILING;
    config.set_alpha_to_one = false;
    if (config.terminal_signal != 0) {
        printf("The model predicts noise (epsilon), which says nothing about the picture at zero signal-to-noise "
               "ratio: rescale_betas_zero_snr is written as false.\n");
    }
    schedule_config_write(&config, module_file(to, "scheduler", "scheduler_config.json").text);
}

static void convert(const char *from, const char *to, bool ema, Device *dev) {
    if (!folder_exists(from)) { die("--from %s: is not a folder, expected a Stable Diffusion directory", from); }
    Path unet = pipeline_module(from, "unet", ema), text_encoder = pipeline_module(from, "text_encoder", ema);
    report_frozen(from, text_encoder.text, dev);
    convert_unet(unet.text, to, dev);
    pipeline_link(from, to, (const char *[]){"unet", "text_encoder", NULL});
    link_tree(text_encoder.text, path_of("%s/text_encoder", to).text);
    convert_scheduler(from, to);
}

// ---- Command -------------------------------------------------------------------------------------------------------

// Makes the temporary folder to fill, next to the final one.
static char *begin_folder(char *to, bool force) {
    for (size_t n = strlen(to); n > 1 && to[n - 1] == '/'; n--) { to[n - 1] = 0; }
    free(temporary_name(to)); // brings back a folder that a killed process has moved away
    if (file_exists(to)) { die("%s: is a file, expected a folder to write", to); }
    if (!folder_empty(to) && !force) { die("%s: is not empty (use --force to replace it)", to); }
    if (!folder_empty(to) && !file_exists(path_of("%s/model_index.json", to).text)) {
        die("%s: is no model directory, the only thing that --force replaces: expected another folder", to);
    }
    return temporary_folder(to);
}

int cmd_init(int argc, char **argv) {
    char *preset = NULL, *from = NULL, *vae = NULL;
    long long seed = 0;
    int force = 0, text_to_image = 0, ema = 0;
    Option table[] = {
        {OPT_STRING, "preset", &preset,
         "write random weights of this architecture; mini is for 64x64 pictures and two cores", "NAME",
         .choices = preset_names},
        {OPT_STRING, "from", &from,
         "Stable Diffusion directory to convert; the new UNet has 8 input channels (conv_in halved and repeated)",
         "DIR"},
        {OPT_FLAG, "ema", &ema,
         "--from: take the averaged weights of unet_ema/, and of text_encoder_ema/ if it is there"},
        {OPT_FLAG, "text-to-image", &text_to_image,
         "--preset: the UNet has 4 input channels, for `cocogold pretrain`, whose result --from converts"},
        {OPT_STRING, "vae", &vae, "--preset: take the VAE of this model directory", "DIR"},
        {OPT_LONG, "seed", &seed, "seed of the random weights", "N"},
        {OPT_FLAG, "force", &force, "replace the model directory DIR"},
        OPTIONS_END};
    static const OptionsHelp help = {.about = "Writes a model directory in diffusers' layout.",
                                     .usage = "--preset mini|sd1|sd2 DIR  |  --from SD_DIR DIR",
                                     .example = "--from stable-diffusion-2 model"};
    const char **arguments = options_parse(argc, argv, table, &help, 1);
    options_require(arguments[0], "DIR", "the folder to write");
    if (!preset == !from) { die("expected either --preset NAME or --from DIR"); }
    if (from && text_to_image) { die("--text-to-image: expected with --preset, not with --from"); }
    if (preset && ema) { die("--ema: expected with --from, not with --preset"); }
    if (from && vae) { die("--vae: expected with --preset, not with --from"); }
    const char *reads = from ? from : vae;
    if (force && reads && path_inside(reads, arguments[0])) {
        die("--force: %s lies in %s, which would be replaced", reads, arguments[0]);
    }
    char *to = xstrdup(arguments[0]), *work = begin_folder(to, force);
    Device dev;
    device_open(&dev, 0);
    if (from) {
        convert(from, work, ema, &dev);
    } else {
        Plan plan = {.folder = work,
                     .preset = preset_find(preset),
                     .vae = vae,
                     .text_to_image = text_to_image,
                     .seed = (uint64_t)seed};
        write_preset(&plan, &dev);
    }
    device_close(&dev);
    commit_rename(work, to);
    cleanup_remove(work);
    printf("wrote %s\n", to);
    free(work);
    free(to);
    return 0;
}
