#include "model/config.h"
#include "model/schedule.h"
#include "util/error.h"
#include "util/json.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- Checks --------------------------------------------------------------------------------------------------------

static void want_string(const Json *json, const char *field, const char *fallback, const char *wanted) {
    const char *value = json_string(json, field, fallback);
    if (!value || strcmp(value, wanted) != 0) {
        die("%s: field \"%s\" is \"%s\", only \"%s\" is supported", json->path, field, value ? value : "null", wanted);
    }
}

// Refuses a field that enables an unsupported feature: it must be missing, null or false (lists: all false).
static void want_off(const Json *json, const char *field) {
    yajl_val value = json_find(json->root, field);
    if (!value || YAJL_IS_FALSE(value)) { return; }
    for (size_t i = 0; YAJL_IS_ARRAY(value) && i < YAJL_GET_ARRAY(value)->len; i++) {
        if (!YAJL_IS_FALSE(YAJL_GET_ARRAY(value)->values[i])) { break; }
        if (i + 1 == YAJL_GET_ARRAY(value)->len) { return; }
    }
    die("%s: field \"%s\" is set, which is not supported (only null or false is)", json->path, field);
}

static void want_number(const Json *json, const char *field, double fallback, double wanted) {
    double value = json_number(json, field, fallback);
    if (value != wanted) { die("%s: field \"%s\" is %g, only %g is supported", json->path, field, value, wanted); }
}

// Far above every known model: no config.json takes memory or time before the file of weights is compared with it.
enum { MOST_CHANNELS = 1 << 16, MOST_LAYERS = 256, MOST_BLOCKS = 32, MOST_TOKENS = 1 << 24, MOST_SIDE = 1 << 15 };

static int positive(const Json *json, const char *field, int fallback, int most) {
    return (int)json_integer(json, field, fallback, 1, most);
}

static double positive_number(const Json *json, const char *field, double fallback) {
    double value = json_number(json, field, fallback);
    if (!((float)value > 0 && isfinite((float)value))) { // most of them are used as floats
        die("%s: field \"%s\" is %g, expected a positive number of float's range", json->path, field, value);
    }
    return value;
}

// A side in pixels or latent cells: a number, [height, width] (the first is taken) or missing (0).
static int read_sample_size(const Json *json) {
    int sides[2] = {0};
    json_integers(json, "sample_size", sides, 2, 0, MOST_SIDE);
    return sides[0];
}

// One number, or a list with the same number for every level.
static int same_for_all(const Json *json, const char *field, int fallback, int most) {
    int values[MAX_LEVELS] = {fallback};
    int count = json_integers(json, field, values, MAX_LEVELS, 1, most);
    for (int i = 1; i < count; i++) {
        if (values[i] != values[0]) {
            die("%s: field \"%s\" differs between levels, which is not supported", json->path, field);
        }
    }
    if (count == 0) { die("%s: field \"%s\" is not a positive integer", json->path, field); }
    return values[0];
}

// Reads block_out_channels and returns the number of levels. Each entry must be a multiple of `groups`.
static int read_channels(const Json *json, int *channels, int groups) {
    int levels = json_integers(json, "block_out_channels", channels, MAX_LEVELS, 1, MOST_CHANNELS);
    if (levels < 1) { die("%s: field \"block_out_channels\" is missing or empty", json->path); }
    for (int i = 0; i < levels; i++) {
        if (channels[i] % groups != 0) {
            die("%s: field \"block_out_channels\" has %d, expected a multiple of \"norm_num_groups\" (%d)", json->path,
                channels[i], groups);
        }
    }
    return levels;
}

// Reads the block type of each level: is_second[i] is true if it is `second` (may be NULL) and not `first`.
static void read_blocks(const Json *json, const char *field, const char *first, const char *second, int levels,
                        bool *is_second) {
    const char *names[MAX_LEVELS];
    int count = json_strings(json, field, names, MAX_LEVELS);
    if (count != levels) {
        die("%s: field \"%s\" must list %d block types, one for each of \"block_out_channels\"", json->path, field,
            levels);
    }
    for (int i = 0; i < levels; i++) {
        is_second[i] = second && strcmp(names[i], second) == 0;
        if (!is_second[i] && strcmp(names[i], first) != 0) {
            die("%s: field \"%s\" has \"%s\", only %s%s%s is supported", json->path, field, names[i], first,
                second ? " or " : "", second ? second : "");
        }
    }
}

static void want_whole_heads(const Json *json, const char *field, int channels, int heads) {
    if (heads < 1 || channels % heads != 0) {
        die("%s: field \"%s\" gives %d attention heads for %d channels, expected a divisor of the channels", json->path,
            field, heads, channels);
    }
}

// ---- UNet ----------------------------------------------------------------------------------------------------------

// Refuses features of UNet2DConditionModel that Stable Diffusion 1 and 2 do not have.
static void refuse_unet_extras(const Json *json) {
    static const char *const off[] = {"center_input_sample",
                                      "only_cross_attention",
                                      "reverse_transformer_layers_per_block",
                                      "encoder_hid_dim",
                                      "encoder_hid_dim_type",
                                      "dual_cross_attention",
                                      "class_embed_type",
                                      "addition_embed_type",
                                      "num_class_embeds",
                                      "resnet_skip_time_act",
                                      "time_embedding_dim",
                                      "time_embedding_act_fn",
                                      "timestep_post_act",
                                      "time_cond_proj_dim",
                                      "class_embeddings_concat",
                                      "mid_block_only_cross_attention",
                                      "cross_attention_norm"};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) { want_off(json, off[i]); }
    want_string(json, "_class_name", "UNet2DConditionModel", "UNet2DConditionModel");
    want_string(json, "act_fn", "silu", "silu");
    want_string(json, "mid_block_type", "UNetMidBlock2DCrossAttn", "UNetMidBlock2DCrossAttn");
    want_string(json, "resnet_time_scale_shift", "default", "default");
    want_string(json, "time_embedding_type", "positional", "positional");
    want_string(json, "attention_type", "default", "default");
    want_number(json, "mid_block_scale_factor", 1, 1);
    want_number(json, "resnet_out_scale_factor", 1, 1);
    want_number(json, "dropout", 0, 0);
    want_number(json, "conv_in_kernel", 3, 3);
    want_number(json, "conv_out_kernel", 3, 3);
}

static void read_heads(const Json *json, UNetConfig *c) {
    const char *field = json_find(json->root, "num_attention_heads") ? "num_attention_heads" : "attention_head_dim";
    int count = json_integers(json, field, c->num_heads, MAX_LEVELS, 0, MOST_CHANNELS);
    if (count == -1) { c->num_heads[0] = 8; }
    if (count != c->levels && count != 1 && count != -1) {
        die("%s: field \"%s\" has %d entries, expected one for each of the %d levels", json->path, field, count,
            c->levels);
    }
    for (int i = 1; count != c->levels && i < c->levels; i++) { c->num_heads[i] = c->num_heads[0]; }
    for (int i = 0; i < c->levels; i++) {
        bool used = c->down_attention[i] || c->up_attention[c->levels - 1 - i] || i == c->levels - 1;
        if (used) { want_whole_heads(json, field, c->block_out_channels[i], c->num_heads[i]); }
    }
}

UNetConfig unet_config_read(const char *path) {
    Json json = json_read(path);
    refuse_unet_extras(&json);
    UNetConfig c = {.in_channels = positive(&json, "in_channels", 4, MOST_CHANNELS),
                    .out_channels = positive(&json, "out_channels", 4, MOST_CHANNELS),
                    .sample_size = read_sample_size(&json),
                    .layers_per_block = same_for_all(&json, "layers_per_block", 2, MOST_BLOCKS),
                    .transformer_layers = same_for_all(&json, "transformer_layers_per_block", 1, MOST_BLOCKS),
                    .cross_attention_dim = same_for_all(&json, "cross_attention_dim", 1280, MOST_CHANNELS),
                    .norm_num_groups = positive(&json, "norm_num_groups", 32, MOST_CHANNELS),
                    .norm_eps = (float)positive_number(&json, "norm_eps", 1e-5),
                    .use_linear_projection = json_boolean(&json, "use_linear_projection", false),
                    .flip_sin_to_cos = json_boolean(&json, "flip_sin_to_cos", true),
                    .freq_shift = (int)json_integer(&json, "freq_shift", 0, 0, MOST_CHANNELS),
                    .downsample_padding = (int)json_integer(&json, "downsample_padding", 1, 0, 1)};
    c.levels = read_channels(&json, c.block_out_channels, c.norm_num_groups);
    read_blocks(&json, "down_block_types", "DownBlock2D", "CrossAttnDownBlock2D", c.levels, c.down_attention);
    read_blocks(&json, "up_block_types", "UpBlock2D", "CrossAttnUpBlock2D", c.levels, c.up_attention);
    read_heads(&json, &c);
    if (c.freq_shift > 0 && c.freq_shift >= c.block_out_channels[0] / 2) {
        die("%s: field \"freq_shift\" is %d, expected 0 or a small positive number", path, c.freq_shift);
    }
    json_free(&json);
    return c;
}

static void put_strings(yajl_gen gen, const char *key, const char *first, const char *second, const bool *is_second,
                        int count) {
    json_open_list(gen, key);
    for (int i = 0; i < count; i++) { json_put_string(gen, NULL, is_second && is_second[i] ? second : first); }
    yajl_gen_array_close(gen);
}

// A float as the shortest decimal that reads back as the same float: 1e-05, not 9.99999974737875e-06.
static void put_float(yajl_gen gen, const char *key, float value) {
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) { break; }
    }
    json_put_number(gen, key, strtod(text, NULL));
}

static void put_sample_size(yajl_gen gen, int size) {
    if (size) {
        json_put_integer(gen, "sample_size", size);
    } else {
        json_put_string(gen, "sample_size", NULL);
    }
}

void unet_config_write(const UNetConfig *c, const char *path) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_string(gen, "_class_name", "UNet2DConditionModel");
    json_put_string(gen, "act_fn", "silu");
    json_put_integers(gen, "attention_head_dim", c->num_heads, c->levels);
    json_put_integers(gen, "block_out_channels", c->block_out_channels, c->levels);
    json_put_boolean(gen, "center_input_sample", false);
    json_put_integer(gen, "cross_attention_dim", c->cross_attention_dim);
    put_strings(gen, "down_block_types", "DownBlock2D", "CrossAttnDownBlock2D", c->down_attention, c->levels);
    json_put_integer(gen, "downsample_padding", c->downsample_padding);
    json_put_boolean(gen, "dual_cross_attention", false);
    json_put_boolean(gen, "flip_sin_to_cos", c->flip_sin_to_cos);
    json_put_integer(gen, "freq_shift", c->freq_shift);
    json_put_integer(gen, "in_channels", c->in_channels);
    json_put_integer(gen, "layers_per_block", c->layers_per_block);
    json_put_integer(gen, "mid_block_scale_factor", 1);
    json_put_string(gen, "mid_block_type", "UNetMidBlock2DCrossAttn");
    put_float(gen, "norm_eps", c->norm_eps);
    json_put_integer(gen, "norm_num_groups", c->norm_num_groups);
    json_put_boolean(gen, "only_cross_attention", false);
    json_put_integer(gen, "out_channels", c->out_channels);
    put_sample_size(gen, c->sample_size);
    json_put_integer(gen, "transformer_layers_per_block", c->transformer_layers);
    put_strings(gen, "up_block_types", "UpBlock2D", "CrossAttnUpBlock2D", c->up_attention, c->levels);
    json_put_boolean(gen, "use_linear_projection", c->use_linear_projection);
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

// ---- VAE -----------------------------------------------------------------------------------------------------------

VAEConfig vae_config_read(const char *path) {
    Json json = json_read(path);
    want_string(&json, "_class_name", "AutoencoderKL", "AutoencoderKL");
    want_string(&json, "act_fn", "silu", "silu");
    want_off(&json, "shift_factor");
    want_off(&json, "latents_mean");
    want_off(&json, "latents_std");
    want_number(&json, "in_channels", 3, 3);
    want_number(&json, "out_channels", 3, 3);
    VAEConfig c = {.in_channels = 3,
                   .out_channels = 3,
                   .latent_channels = positive(&json, "latent_channels", 4, MOST_CHANNELS),
                   .sample_size = read_sample_size(&json),
                   .layers_per_block = positive(&json, "layers_per_block", 1, MOST_BLOCKS),
                   .norm_num_groups = positive(&json, "norm_num_groups", 32, MOST_CHANNELS),
                   .scaling_factor = (float)positive_number(&json, "scaling_factor", 0.18215),
                   .mid_block_attention = json_boolean(&json, "mid_block_add_attention", true),
                   .quant_conv = json_boolean(&json, "use_quant_conv", true),
                   .post_quant_conv = json_boolean(&json, "use_post_quant_conv", true)};
    c.levels = read_channels(&json, c.block_out_channels, c.norm_num_groups);
    bool unused[MAX_LEVELS];
    read_blocks(&json, "down_block_types", "DownEncoderBlock2D", NULL, c.levels, unused);
    read_blocks(&json, "up_block_types", "UpDecoderBlock2D", NULL, c.levels, unused);
    json_free(&json);
    return c;
}

void vae_config_write(const VAEConfig *c, const char *path) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_string(gen, "_class_name", "AutoencoderKL");
    json_put_string(gen, "act_fn", "silu");
    json_put_integers(gen, "block_out_channels", c->block_out_channels, c->levels);
    put_strings(gen, "down_block_types", "DownEncoderBlock2D", NULL, NULL, c->levels);
    json_put_integer(gen, "in_channels", c->in_channels);
    json_put_integer(gen, "latent_channels", c->latent_channels);
    json_put_integer(gen, "layers_per_block", c->layers_per_block);
    json_put_boolean(gen, "mid_block_add_attention", c->mid_block_attention);
    json_put_integer(gen, "norm_num_groups", c->norm_num_groups);
    json_put_integer(gen, "out_channels", c->out_channels);
    put_sample_size(gen, c->sample_size);
    put_float(gen, "scaling_factor", c->scaling_factor);
    put_strings(gen, "up_block_types", "UpDecoderBlock2D", NULL, NULL, c->levels);
    json_put_boolean(gen, "use_post_quant_conv", c->post_quant_conv);
    json_put_boolean(gen, "use_quant_conv", c->quant_conv);
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

// ---- CLIP ----------------------------------------------------------------------------------------------------------

// The dropout rates are not read: the text encoder is frozen, so no dropout is applied.
CLIPConfig clip_config_read(const char *path) {
    Json json = json_read(path);
    want_string(&json, "model_type", "clip_text_model", "clip_text_model");
    const char *architecture[1];
    if (json_strings(&json, "architectures", architecture, 1) == 1 && strcmp(architecture[0], "CLIPTextModel") != 0) {
        die("%s: field \"architectures\" has \"%s\", only CLIPTextModel is supported", path, architecture[0]);
    }
    const char *act = json_string(&json, "hidden_act", "quick_gelu");
    bool quick = strcmp(act, "quick_gelu") == 0;
    if (!quick && strcmp(act, "gelu") != 0) {
        die("%s: field \"hidden_act\" is \"%s\", only \"gelu\" and \"quick_gelu\" are supported", path, act);
    }
    CLIPConfig c = {.vocab_size = positive(&json, "vocab_size", 49408, MOST_TOKENS),
                    .hidden_size = positive(&json, "hidden_size", 512, MOST_CHANNELS),
                    .intermediate_size = positive(&json, "intermediate_size", 2048, MOST_CHANNELS * 4),
                    .num_hidden_layers = positive(&json, "num_hidden_layers", 12, MOST_LAYERS),
                    .num_attention_heads = positive(&json, "num_attention_heads", 8, MOST_CHANNELS),
                    .max_position_embeddings = positive(&json, "max_position_embeddings", 77, MOST_CHANNELS),
                    .layer_norm_eps = (float)positive_number(&json, "layer_norm_eps", 1e-5),
                    .quick_gelu = quick};
    want_whole_heads(&json, "num_attention_heads", c.hidden_size, c.num_attention_heads);
    json_free(&json);
    return c;
}

void clip_config_write(const CLIPConfig *c, const char *path) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    put_strings(gen, "architectures", "CLIPTextModel", NULL, NULL, 1);
    json_put_number(gen, "attention_dropout", 0);
    json_put_string(gen, "hidden_act", c->quick_gelu ? "quick_gelu" : "gelu");
    json_put_integer(gen, "hidden_size", c->hidden_size);
    json_put_number(gen, "initializer_factor", 1);
    json_put_number(gen, "initializer_range", 0.02);
    json_put_integer(gen, "intermediate_size", c->intermediate_size);
    put_float(gen, "layer_norm_eps", c->layer_norm_eps);
    json_put_integer(gen, "max_position_embeddings", c->max_position_embeddings);
    json_put_string(gen, "model_type", "clip_text_model");
    json_put_integer(gen, "num_attention_heads", c->num_attention_heads);
    json_put_integer(gen, "num_hidden_layers", c->num_hidden_layers);
    json_put_integer(gen, "projection_dim", c->hidden_size);
    json_put_integer(gen, "vocab_size", c->vocab_size);
    // SD's own files have 0, 2 and 1 here; only the tokenizer's files are used.
    json_put_integer(gen, "bos_token_id", c->vocab_size - 2);
    json_put_integer(gen, "eos_token_id", c->vocab_size - 1);
    json_put_integer(gen, "pad_token_id", c->vocab_size - 1);
    yajl_gen_map_close(gen);
    json_write(gen, path);
}

// ---- Scheduler -----------------------------------------------------------------------------------------------------

const char *const prediction_names[] = {
    [PREDICT_EPSILON] = "epsilon", [PREDICT_V] = "v_prediction", [PREDICT_SAMPLE] = "sample", NULL};
const char *const timestep_spacing_names[] = {
    [SPACING_LEADING] = "leading", [SPACING_TRAILING] = "trailing", [SPACING_LINSPACE] = "linspace", NULL};
static const char *const beta_schedules[] = {"linear", "scaled_linear", NULL};

enum { SIGNAL_STEPS = 1000000 }; // signals are read as multiples of 1 / SIGNAL_STEPS

// The terminal signal of "trained_betas": the root of the product of 1 - beta; AS_BETAS where the field is missing.
static double trained_signal(const Json *json) {
    yajl_val betas = json_find(json->root, "trained_betas");
    if (!betas) { return AS_BETAS; }
    double product = 1;
    for (size_t t = 0; YAJL_IS_ARRAY(betas) && t < YAJL_GET_ARRAY(betas)->len; t++) {
        yajl_val beta = YAJL_GET_ARRAY(betas)->values[t];
        product *= 1 - (YAJL_IS_NUMBER(beta) ? YAJL_GET_DOUBLE(beta) : 2);
    }
    return round(sqrt(fmax(product, 0)) * SIGNAL_STEPS) / SIGNAL_STEPS;
}

// Dies unless "trained_betas" are the ones that the rest of the file gives with the terminal signal in *c.
static void want_own_betas(const Json *json, const ScheduleConfig *c) {
    yajl_val betas = json_find(json->root, "trained_betas");
    bool same = YAJL_IS_ARRAY(betas) && (int)YAJL_GET_ARRAY(betas)->len == c->num_train_timesteps &&
                c->terminal_signal > 0 && c->terminal_signal <= MOST_TERMINAL_SIGNAL + 1.5 / SIGNAL_STEPS;
    Schedule schedule = same ? schedule_create(c) : (Schedule){0};
    for (int t = 0; same && t < c->num_train_timesteps; t++) {
        yajl_val beta = YAJL_GET_ARRAY(betas)->values[t];
        same =
            YAJL_IS_NUMBER(beta) && fabs(YAJL_GET_DOUBLE(beta) - schedule.betas[t]) < 1e-6 + 1e-3 * schedule.betas[t];
    }
    schedule_free(&schedule);
    if (!same) {
        die("%s: field \"trained_betas\" is not what `cocogold train --terminal-signal` writes: only null and "
            "beta_schedule rescaled to another last signal are supported",
            json->path);
    }
}

// The file may be of any of diffusers' schedulers for Stable Diffusion (SD1: PNDM). Their common fields are read with
// DDIM's defaults, as DDIMScheduler.from_config does; but latents are never clipped, whatever "clip_sample" says, as
// StableDiffusionPipeline sets it: they are no pixels in [-1, 1].
ScheduleConfig schedule_config_read(const char *path) {
    Json json = json_read(path);
    want_off(&json, "thresholding");
    if (json_boolean(&json, "clip_sample", false)) {
        warn("%s: field \"clip_sample\" is true: latents are not clipped, as in diffusers' pipelines", path);
    }
    ScheduleConfig c = {
        .num_train_timesteps = (int)json_integer(&json, "num_train_timesteps", 1000, 2, 1000000),
        .steps_offset = (int)json_integer(&json, "steps_offset", 0, 0, 1000000),
        .beta_start = positive_number(&json, "beta_start", 0.0001),
        .beta_end = positive_number(&json, "beta_end", 0.02),
        .scaled_linear = json_choice(&json, "beta_schedule", beta_schedules, 0) == 1,
        .prediction = (Prediction)json_choice(&json, "prediction_type", prediction_names, PREDICT_EPSILON),
        .spacing = (TimestepSpacing)json_choice(&json, "timestep_spacing", timestep_spacing_names, SPACING_LEADING),
        .terminal_signal = json_boolean(&json, "rescale_betas_zero_snr", false) ? 0 : trained_signal(&json),
        .set_alpha_to_one = json_boolean(&json, "set_alpha_to_one", true)};
    if (c.beta_start >= 1 || c.beta_end >= 1) {
        die("%s: fields \"beta_start\" and \"beta_end\" are %g and %g, expected numbers below 1", path, c.beta_start,
            c.beta_end);
    }
    if (c.steps_offset >= c.num_train_timesteps) {
        die("%s: field \"steps_offset\" is %d, expected 0 or 1", path, c.steps_offset);
    }
    if (json_find(json.root, "trained_betas")) { want_own_betas(&json, &c); }
    json_free(&json);
    return c;
}

// diffusers has no field for a terminal signal other than 0: the betas themselves are written.
static void put_trained_betas(yajl_gen gen, const ScheduleConfig *c) {
    Schedule schedule = schedule_create(c);
    json_open_list(gen, "trained_betas");
    for (int t = 0; t < schedule.T; t++) { put_float(gen, NULL, schedule.betas[t]); }
    yajl_gen_array_close(gen);
    schedule_free(&schedule);
}

void schedule_config_write(const ScheduleConfig *c, const char *path) {
    yajl_gen gen = json_writer();
    yajl_gen_map_open(gen);
    json_put_string(gen, "_class_name", "DDIMScheduler");
    json_put_number(gen, "beta_end", c->beta_end);
    json_put_string(gen, "beta_schedule", beta_schedules[c->scaled_linear]);
    json_put_number(gen, "beta_start", c->beta_start);
    json_put_boolean(gen, "clip_sample", false);
    json_put_number(gen, "clip_sample_range", 1); // unused then, but DDIMScheduler writes it too
    json_put_integer(gen, "num_train_timesteps", c->num_train_timesteps);
    json_put_string(gen, "prediction_type", prediction_names[c->prediction]);
    json_put_boolean(gen, "rescale_betas_zero_snr", c->terminal_signal == 0);
    json_put_boolean(gen, "set_alpha_to_one", c->set_alpha_to_one);
    json_put_integer(gen, "steps_offset", c->steps_offset);
    json_put_string(gen, "timestep_spacing", timestep_spacing_names[c->spacing]);
    if (c->terminal_signal > 0) {
        put_trained_betas(gen, c);
    } else {
        json_put_string(gen, "trained_betas", NULL);
    }
    yajl_gen_map_close(gen);
    json_write(gen, path);
}
