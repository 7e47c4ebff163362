#include "model/pipeline.h"
#include "model/text_batch.h"
#include "model/weights.h"
#include "util/error.h"
#include "util/file.h"
#include "util/json.h"
#include "util/progress.h"
#include <stdlib.h>
#include <string.h>

// ---- Opening -------------------------------------------------------------------------------------------------------

static Path config_path(const char *module, const char *file) {
    Path path = path_of("%s/%s", module, file);
    if (!file_exists(path.text)) { die("%s: is missing, expected in a model directory", path.text); }
    return path;
}

Path pipeline_module(const char *folder, const char *module, bool ema) {
    if (ema && !folder_exists(path_of("%s/unet_ema", folder).text)) {
        die("%s/unet_ema: is not a folder, expected averaged weights (--ema; see --ema-decay of train)", folder);
    }
    Path average = path_of("%s/%s_ema", folder, module);
    return ema && folder_exists(average.text) ? average : path_of("%s/%s", folder, module);
}

static WeightsUse use_of(bool trained) { return trained ? WEIGHTS_WRITE : WEIGHTS_READ; }

static void open_unet(Pipeline *p, bool ema, bool trained, Device *dev) {
    Path module = pipeline_module(p->folder, "unet", ema);
    UNetConfig config = unet_config_read(config_path(module.text, "config.json").text);
    p->unet = unet_create(&config);
    weights_load(&p->unet.params, module.text, use_of(trained), dev);
}

static void open_vae(Pipeline *p, int parts, int trained, Device *dev) {
    Path module = path_of("%s/vae", p->folder);
    VAEConfig config = vae_config_read(config_path(module.text, "config.json").text);
    if (parts & PART_VAE_ENCODER) {
        p->vae_encoder = vae_encoder_create(&config);
        weights_load(&p->vae_encoder.params, module.text, use_of(trained & PART_VAE_ENCODER), dev);
    }
    if (parts & PART_VAE_DECODER) {
        p->vae_decoder = vae_decoder_create(&config);
        weights_load(&p->vae_decoder.params, module.text, use_of(trained & PART_VAE_DECODER), dev);
    }
}

static void open_text(Pipeline *p, bool ema, bool trained, Device *dev) {
    Path module = pipeline_module(p->folder, "text_encoder", ema), path = config_path(module.text, "config.json");
    Path tokens = path_of("%s/tokenizer", p->folder);
    CLIPConfig config = clip_config_read(path.text);
    p->tokenizer = tokenizer_open(tokens.text);
    if (tokenizer_vocab_size(p->tokenizer) > config.vocab_size) {
        die("%s: field \"vocab_size\" is %d, but the tokenizer in %s has %d tokens", path.text, config.vocab_size,
            tokens.text, tokenizer_vocab_size(p->tokenizer));
    }
    if (tokenizer_length(p->tokenizer) > config.max_position_embeddings) {
        die("%s: field \"max_position_embeddings\" is %d, but the tokenizer in %s gives %d ids", path.text,
            config.max_position_embeddings, tokens.text, tokenizer_length(p->tokenizer));
    }
    p->clip = clip_create(&config);
    weights_load(&p->clip.params, module.text, use_of(trained), dev);
}

// Dies if the sizes that modules share differ.
static void check_sizes(const Pipeline *p) {
    bool both = p->parts & PART_UNET && p->parts & PART_TEXT;
    if (both && p->unet.config.cross_attention_dim != p->clip.config.hidden_size) {
        die("%s/unet/config.json: field \"cross_attention_dim\" is %d, but the text encoder's \"hidden_size\" is %d",
            p->folder, p->unet.config.cross_attention_dim, p->clip.config.hidden_size);
    }
    int latents = p->parts & PART_VAE_ENCODER   ? p->vae_encoder.config.latent_channels
                  : p->parts & PART_VAE_DECODER ? p->vae_decoder.config.latent_channels
                                                : p->unet.config.out_channels;
    if (p->parts & PART_UNET && p->unet.config.out_channels != latents) {
        die("%s/unet/config.json: field \"out_channels\" is %d, but the VAE's \"latent_channels\" is %d", p->folder,
            p->unet.config.out_channels, latents);
    }
}

void pipeline_want_folder(const char *folder) {
    if (!folder_exists(folder)) { die("%s: is not a folder, expected a model directory", folder); }
}

Pipeline pipeline_open(const char *folder, int parts, int trained, Device *dev) {
    pipeline_want_folder(folder);
    Pipeline p = {.folder = xstrdup(folder), .parts = parts};
    if (parts & PART_SCHEDULE) {
        Path path = config_path(path_of("%s/scheduler", folder).text, "scheduler_config.json");
        ScheduleConfig config = schedule_config_read(path.text);
        if (schedule_hides_all(&config)) {
            die("%s: field \"prediction_type\" is \"epsilon\" and \"rescale_betas_zero_snr\" is true: at the last "
                "timestep the noise says nothing about the picture, expected v_prediction or sample, or false",
                path.text);
        }
        p.schedule = schedule_create(&config);
    }
    if (parts & PART_TEXT) { open_text(&p, parts & PART_UNET_EMA, trained & PART_TEXT, dev); }
    if (parts & (PART_VAE_ENCODER | PART_VAE_DECODER)) { open_vae(&p, parts, trained, dev); }
    if (parts & PART_UNET) { open_unet(&p, parts & PART_UNET_EMA, trained & PART_UNET, dev); }
    check_sizes(&p);
    return p;
}

Pipeline pipeline_open_sampling(const char *folder, int parts, bool ema, const ScheduleChange *change, int steps,
                                Device *dev) {
    Pipeline p = pipeline_open(folder, parts | PART_UNET | PART_SCHEDULE | (ema ? PART_UNET_EMA : 0), 0, dev);
    Path average = path_of("%s/unet_ema", folder);
    if (!ema && folder_exists(average.text)) {
        warn("%s: the averaged weights are used only with --ema", average.text);
    }
    if (schedule_changes(change)) { schedule_change(&p.schedule, change); }
    schedule_warn_steps(&p.schedule, steps);
    return p;
}

// As the configs give it; 0: neither does.
static int configured_resolution(const Pipeline *p, const VAEConfig *vae) {
    Path path = path_of("%s/unet/config.json", p->folder);
    int cells = p->parts & PART_UNET     ? p->unet.config.sample_size
                : file_exists(path.text) ? unet_config_read(path.text).sample_size
                                         : 0;
    return cells ? cells * vae_factor(vae) : vae->sample_size;
}

int pipeline_resolution(const Pipeline *p, int wanted) {
    const VAEConfig *vae = p->parts & PART_VAE_ENCODER ? &p->vae_encoder.config : &p->vae_decoder.config;
    int resolution = wanted ? wanted : configured_resolution(p, vae), factor = vae_factor(vae);
    if (!resolution) {
        die("%s: neither unet/config.json nor vae/config.json has \"sample_size\": give --resolution", p->folder);
    }
    if (resolution % factor != 0 || resolution > MOST_RESOLUTION) {
        die("--resolution %d: expected a multiple of %d, the VAE's pixels per latent cell, up to %d", resolution,
            factor, MOST_RESOLUTION);
    }
    return resolution;
}

int pipeline_multiple(const Pipeline *p, int side) {
    int f = vae_factor(&p->vae_decoder.config), multiple = f << (p->unet.config.levels - 1);
    return multiple <= side / 4 ? multiple : f;
}

void pipeline_close(Pipeline *p, Device *dev) {
    if (p->parts & PART_UNET) { unet_destroy(&p->unet, dev); }
    if (p->parts & PART_VAE_ENCODER) { vae_destroy(&p->vae_encoder, dev); }
    if (p->parts & PART_VAE_DECODER) { vae_destroy(&p->vae_decoder, dev); }
    if (p->parts & PART_TEXT) { clip_destroy(&p->clip, dev); }
    if (p->parts & PART_SCHEDULE) { schedule_free(&p->schedule); }
    tokenizer_close(p->tokenizer);
    free(p->folder);
    *p = (Pipeline){0};
}

void pipeline_release(Pipeline *p, int parts, Device *dev) {
    parts &= p->parts;
    if (parts & PART_UNET) { params_release(&p->unet.params, dev); }
    if (parts & PART_VAE_ENCODER) { params_release(&p->vae_encoder.params, dev); }
    if (parts & PART_VAE_DECODER) { params_release(&p->vae_decoder.params, dev); }
    if (parts & PART_TEXT) { params_release(&p->clip.params, dev); }
}

// ---- Folders -------------------------------------------------------------------------------------------------------

void pipeline_vae_digest(const char *folder, char hex[65]) { weights_digest(path_of("%s/vae", folder).text, hex); }

// "unet" stands for all averages too.
static bool is_excepted(const char *module, const char *const *except) {
    for (; except && *except; except++) {
        if (strcmp(module, *except) == 0) { return true; }
        if (strcmp(*except, "unet") == 0 && strstr(module, "_ema")) { return true; }
    }
    return false;
}

void pipeline_link(const char *from, const char *to, const char *const *except) {
    static const char *const modules[] = {"unet",      "unet_ema", "vae", "text_encoder", "text_encoder_ema",
                                          "tokenizer", "scheduler"};
    make_folders(to);
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) {
        Path source = path_of("%s/%s", from, modules[i]), target = path_of("%s/%s", to, modules[i]);
        if (!is_excepted(modules[i], except) && folder_exists(source.text)) { link_tree(source.text, target.text); }
    }
    pipeline_index_write(to);
}

static void put_pair(yajl_gen gen, const char *key, const char *library, const char *class) {
    json_open_list(gen, key);
    json_put_string(gen, NULL, library);
    json_put_string(gen, NULL, class);
    yajl_gen_array_close(gen);
}

void pipeline_index_write(const char *folder) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_string(gen, "_class_name", "StableDiffusionPipeline");
    json_put_string(gen, "_diffusers_version", "0.42.1");
    put_pair(gen, "feature_extractor", NULL, NULL);
    put_pair(gen, "image_encoder", NULL, NULL);
    json_put_boolean(gen, "requires_safety_checker", false);
    put_pair(gen, "safety_checker", NULL, NULL);
    put_pair(gen, "scheduler", "diffusers", "DDIMScheduler");
    put_pair(gen, "text_encoder", "transformers", "CLIPTextModel");
    put_pair(gen, "tokenizer", "transformers", "CLIPTokenizer");
    put_pair(gen, "unet", "diffusers", "UNet2DConditionModel");
    put_pair(gen, "vae", "diffusers", "AutoencoderKL");
    yajl_gen_map_close(gen);
    json_write(gen, path_of("%s/model_index.json", folder).text);
}

// ---- Texts ---------------------------------------------------------------------------------------------------------

enum { TEXT_BATCH = 16 };

void pipeline_embed_texts(Pipeline *p, const char *const *texts, int count, floatX *out, Device *dev) {
    if (count == 0) { return; }
    TextBatch batch = text_batch_create(p, count < TEXT_BATCH ? count : TEXT_BATCH, dev);
    size_t row = (size_t)tokenizer_length(p->tokenizer) * (size_t)p->clip.config.hidden_size;
    Progress progress = progress_work("texts", count);
    for (int done = 0; done < count; done += batch.batch) {
        int n = count - done < batch.batch ? count - done : batch.batch;
        text_batch_embed(&batch, out + (size_t)done * row, texts + done, NULL, n, dev);
        device_sync(dev);
        progress_add(&progress, n);
    }
    progress_end(&progress, progress.done);
    text_batch_destroy(&batch, dev);
}

// ---- Pixels and latents --------------------------------------------------------------------------------------------

void pipeline_encode(Pipeline *p, Arena *arena, float *latents, const float *images, int B, int H, int W, Device *dev) {
    const VAEConfig *c = &p->vae_encoder.config;
    ArenaMark mark = arena_mark(arena);
    int L = c->latent_channels, cells = B * vae_latent_size(c, H) * vae_latent_size(c, W);
    size_t pixels = (size_t)B * H * W * c->in_channels, n = (size_t)cells * L;
    floatX *input = arena_push(arena, pixels), *moments = arena_push(arena, 2 * n), *mode = arena_push(arena, n);
    cast_to_floatX(input, images, pixels, dev);
    vae_encoder_forward(&p->vae_encoder, arena, moments, input, B, H, W, false, dev);
    gaussian_forward(mode, moments, NULL, cells, L, dev);
    scale_shift_forward(mode, mode, c->scaling_factor, 0, n, dev);
    cast_to_float(latents, mode, n, dev);
    arena_release(arena, mark);
}

void pipeline_decode(Pipeline *p, Arena *arena, float *images, const float *latents, int B, int h, int w, Device *dev) {
    const VAEConfig *c = &p->vae_decoder.config;
    ArenaMark mark = arena_mark(arena);
    int f = vae_factor(c);
    size_t n = (size_t)B * h * w * c->latent_channels, pixels = (size_t)B * h * f * w * f * c->out_channels;
    floatX *input = arena_push(arena, n), *output = arena_push(arena, pixels);
    cast_to_floatX(input, latents, n, dev);
    scale_shift_forward(input, input, 1 / c->scaling_factor, 0, n, dev);
    vae_decoder_forward(&p->vae_decoder, arena, output, input, B, h, w, false, dev);
    cast_to_float(images, output, pixels, dev);
    arena_release(arena, mark);
}

typedef void Coder(Pipeline *p, Arena *arena, float *out, const float *in, int B, int H, int W, Device *dev);

// Runs the same calls on a plan-only device. Reserves the workspace that they need on `dev`, or notes it in `dev`.
static size_t plan_coder(Pipeline *p, Params *params, Coder *code, int B, int H, int W, Device *dev) {
    Device own = {.plan_only = true}, *plan = dev->plan_only ? dev : &own;
    Params real = params_plan(params, false);
    Arena arena = arena_measure(plan);
    code(p, &arena, PLAN_POINTER, PLAN_POINTER, B, H, W, plan);
    *params = real;
    if (plan != dev) { device_reserve_workspace(dev, own.workspace_needed); }
    return arena.peak;
}

size_t pipeline_encode_bytes(Pipeline *p, int B, int H, int W, Device *dev) {
    return plan_coder(p, &p->vae_encoder.params, pipeline_encode, B, H, W, dev);
}

size_t pipeline_decode_bytes(Pipeline *p, int B, int h, int w, Device *dev) {
    return plan_coder(p, &p->vae_decoder.params, pipeline_decode, B, h, w, dev);
}
