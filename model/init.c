#include "model/init.h"
#include "util/error.h"
#include "util/philox.h"
#include "util/text.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- Presets -------------------------------------------------------------------------------------------------------

// What all presets share: Stable Diffusion's betas with zero terminal SNR and trailing timesteps (Lin et al. 2023).
#define SCHEDULE(p)                                                                                                    \
    {                                                                                                                  \
        .num_train_timesteps = 1000, .steps_offset = 1, .beta_start = 0.00085, .beta_end = 0.012,                      \
        .scaled_linear = true, .prediction = p, .spacing = SPACING_TRAILING,                                           \
        .terminal_signal = (p) != PREDICT_EPSILON ? 0 : AS_BETAS                                                       \
    }
#define SD_VAE(size)                                                                                                   \
    {                                                                                                                  \
        .in_channels = 3, .out_channels = 3, .latent_channels = 4, .sample_size = size, .levels = 4,                   \
        .block_out_channels = {128, 256, 512, 512}, .layers_per_block = 2, .norm_num_groups = 32,                      \
        .scaling_factor = 0.18215f, .mid_block_attention = true, .quant_conv = true, .post_quant_conv = true           \
    }

// clang-format off
static const Preset presets[] = {
    {
        .name = "mini", // 64x64 pictures, 16x16 latents
        .unet = {.in_channels = 8, .out_channels = 4, .sample_size = 16, .levels = 2, .block_out_channels = {32, 64},
                 .down_attention = {false, true}, .up_attention = {true, false}, .layers_per_block = 1,
                 .num_heads = {2, 4}, .transformer_layers = 1, .cross_attention_dim = 64, .norm_num_groups = 8,
                 .norm_eps = 1e-5f, .use_linear_projection = true, .flip_sin_to_cos = true, .downsample_padding = 1},
        .vae = {.in_channels = 3, .out_channels = 3, .latent_channels = 4, .sample_size = 64, .levels = 3,
                .block_out_channels = {16, 32, 32}, .layers_per_block = 1, .norm_num_groups = 4,
                .scaling_factor = 0.18215f, .mid_block_attention = true, .quant_conv = true, .post_quant_conv = true},
        .clip = {.hidden_size = 64, .intermediate_size = 256, .num_hidden_layers = 2, .num_attention_heads = 4,
                 .max_position_embeddings = 16, .layer_norm_eps = 1e-5f}, // vocab_size: the tokenizer's
        .schedule = SCHEDULE(PREDICT_V),
        .tokens = 16, .pad_token = "<|endoftext|>", .text_residual = 0.25f, .token_std = 1, .logvar_bias = -5,
    },
    {
        .name = "sd1",
        .unet = {.in_channels = 8, .out_channels = 4, .sample_size = 64, .levels = 4,
                 .block_out_channels = {320, 640, 1280, 1280}, .down_attention = {true, true, true, false},
                 .up_attention = {false, true, true, true}, .layers_per_block = 2, .num_heads = {8, 8, 8, 8},
                 .transformer_layers = 1, .cross_attention_dim = 768, .norm_num_groups = 32, .norm_eps = 1e-5f,
                 .use_linear_projection = false, .flip_sin_to_cos = true, .downsample_padding = 1},
        .vae = SD_VAE(512),
        .clip = {.vocab_size = 49408, .hidden_size = 768, .intermediate_size = 3072, .num_hidden_layers = 12,
                 .num_attention_heads = 12, .max_position_embeddings = 77, .layer_norm_eps = 1e-5f,
                 .quick_gelu = true},
        .schedule = SCHEDULE(PREDICT_EPSILON),
        .tokens = 77, .pad_token = "<|endoftext|>", .text_residual = 1, .token_std = 0.02f, .logvar_bias = NAN,
    },
    {
        .name = "sd2",
        .unet = {.in_channels = 8, .out_channels = 4, .sample_size = 96, .levels = 4,
                 .block_out_channels = {320, 640, 1280, 1280}, .down_attention = {true, true, true, false},
                 .up_attention = {false, true, true, true}, .layers_per_block = 2, .num_heads = {5, 10, 20, 20},
                 .transformer_layers = 1, .cross_attention_dim = 1024, .norm_num_groups = 32, .norm_eps = 1e-5f,
                 .use_linear_projection = true, .flip_sin_to_cos = true, .downsample_padding = 1},
        .vae = SD_VAE(768),
        .clip = {.vocab_size = 49408, .hidden_size = 1024, .intermediate_size = 4096, .num_hidden_layers = 23,
                 .num_attention_heads = 16, .max_position_embeddings = 77, .layer_norm_eps = 1e-5f},
        .schedule = SCHEDULE(PREDICT_V),
        .tokens = 77, .pad_token = "!", .text_residual = 1, .token_std = 0.02f, .logvar_bias = NAN,
    },
};
// clang-format on
const char *const preset_names[] = {"mini", "sd1", "sd2", NULL};

const Preset *preset_find(const char *name) {
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        if (strcmp(presets[i].name, name) == 0) { return &presets[i]; }
    }
    die("--preset %s: expected mini, sd1 or sd2", name);
}

// ---- Weights -------------------------------------------------------------------------------------------------------

// The weight that belongs to a bias: the same name with another ending.
static const ParamSlice *weight_of(const Params *params, const ParamSlice *bias) {
    char name[sizeof bias->name + 8];
    snprintf(name, sizeof name, "%.*sweight", (int)(strlen(bias->name) - strlen("bias")), bias->name);
    return params_find(params, name);
}

static void fill(float *out, size_t n, float value) {
    for (size_t i = 0; i < n; i++) { out[i] = value; }
}

// Element e comes from word e % 4 of block e / 4.
static void fill_uniform(float *out, size_t n, float bound, uint64_t seed, uint32_t slice) {
    for (size_t i = 0; i < n; i += 4) {
        Philox4 words = philox(seed, PHILOX_INIT, slice, 0, (uint32_t)(i / 4));
        for (size_t k = 0; k < 4 && i + k < n; k++) { out[i + k] = bound * (2 * philox_uniform(words.x[k]) - 1); }
    }
}

static void fill_normal(float *out, size_t n, float deviation, uint64_t seed, uint32_t slice) {
    for (size_t i = 0; i < n; i += 4) {
        Philox4 w = philox(seed, PHILOX_INIT, slice, 0, (uint32_t)(i / 4));
        float four[4];
        philox_normal2(w.x[0], w.x[1], &four[0], &four[1]);
        philox_normal2(w.x[2], w.x[3], &four[2], &four[3]);
        for (size_t k = 0; k < 4 && i + k < n; k++) { out[i + k] = deviation * four[k]; }
    }
}

// A number that depends only on the name, so that a slice's values do not depend on its position (FNV-1a).
static uint32_t hash_name(const char *name) {
    uint32_t hash = 2166136261u;
    for (; *name; name++) { hash = (hash ^ (uint8_t)*name) * 16777619u; }
    return hash;
}

// Standard deviations of transformers' CLIPPreTrainedModel: attention's inputs C^-1/2 (2 layers)^-1/2, its output
// C^-1/2; fc1 (2 C)^-1/2, fc2 as attention's inputs; biases zero.
static float clip_deviation(const ParamSlice *slice, const Preset *preset) {
    float C = (float)preset->clip.hidden_size, layers = (float)preset->clip.num_hidden_layers;
    float inner = 1 / sqrtf(C) / sqrtf(2 * layers);
    if (text_ends_with(slice->name, "token_embedding.weight")) { return preset->token_std; }
    if (text_ends_with(slice->name, "position_embedding.weight")) { return 0.02f; }
    if (text_ends_with(slice->name, "out_proj.weight")) { return preset->text_residual / sqrtf(C); }
    if (text_ends_with(slice->name, "fc1.weight")) { return 1 / sqrtf(2 * C); }
    if (text_ends_with(slice->name, "fc2.weight")) { return preset->text_residual * inner; }
    return inner;
}

void init_slice(float *out, const Params *params, int i, uint64_t seed, const Preset *preset, bool clip) {
    const ParamSlice *slice = &params->slices[i];
    bool bias = text_ends_with(slice->name, ".bias");
    const ParamSlice *weight = bias ? weight_of(params, slice) : slice;
    if (weight->ndim == 1) {
        fill(out, slice->count, bias ? 0 : 1); // a norm
    } else if (clip && bias) {
        fill(out, slice->count, 0);
    } else if (clip) {
        fill_normal(out, slice->count, clip_deviation(slice, preset), seed, hash_name(slice->name));
    } else {
        float fan_in = (float)weight->count / (float)weight->shape[0];
        fill_uniform(out, slice->count, 1 / sqrtf(fan_in), seed, hash_name(slice->name));
    }
    if (!isnan(preset->logvar_bias) && strcmp(slice->name, "quant_conv.bias") == 0) {
        fill(out + slice->count / 2, slice->count / 2, preset->logvar_bias);
    }
}
