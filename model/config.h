// Architectures as the config.json files of diffusers and transformers describe them. The functions die on an
// unsupported value and name the file and the field.
#pragma once
#include <stdbool.h>
#include "kernels/kernels.h"

enum { MAX_LEVELS = 8 };

// unet/config.json (UNet2DConditionModel)
typedef struct {
    int in_channels, out_channels, sample_size; // sample_size 0: not given
    int levels, block_out_channels[MAX_LEVELS];
    // CrossAttnDownBlock2D or DownBlock2D, CrossAttnUpBlock2D or UpBlock2D, in the order of the file's lists: up blocks
    // begin with the deepest level
    bool down_attention[MAX_LEVELS], up_attention[MAX_LEVELS];
    int layers_per_block;
    int num_heads[MAX_LEVELS]; // num_attention_heads, else attention_head_dim, which also is the number of heads
    int transformer_layers;    // transformer_layers_per_block
    int cross_attention_dim, norm_num_groups;
    float norm_eps;
    bool use_linear_projection, flip_sin_to_cos;
    int freq_shift, downsample_padding;
} UNetConfig;

// vae/config.json (AutoencoderKL)
typedef struct {
    int in_channels, out_channels, latent_channels, sample_size; // sample_size 0: not given
    int levels, block_out_channels[MAX_LEVELS];
    int layers_per_block, norm_num_groups;
    float scaling_factor;
    bool mid_block_attention;         // mid_block_add_attention, true by default
    bool quant_conv, post_quant_conv; // use_quant_conv, use_post_quant_conv, true by default
} VAEConfig;

// text_encoder/config.json (CLIPTextModel)
typedef struct {
    int vocab_size, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, max_position_embeddings;
    float layer_norm_eps;
    bool quick_gelu;
} CLIPConfig;

typedef enum { SPACING_LEADING, SPACING_TRAILING, SPACING_LINSPACE } TimestepSpacing;
extern const char *const timestep_spacing_names[]; // "leading", ..., NULL
extern const char *const prediction_names[];       // as Prediction: "epsilon", ..., NULL

enum { AS_BETAS = -1 }; // ScheduleConfig.terminal_signal
// Between 0 and the least, floats of the betas cannot tell it from 0; sqrt(alphas_cumprod) has to decrease from 0.9996.
#define LEAST_TERMINAL_SIGNAL 1e-4
#define MOST_TERMINAL_SIGNAL 0.95

// scheduler/scheduler_config.json
typedef struct {
    int num_train_timesteps, steps_offset;
    double beta_start, beta_end;
    bool scaled_linear; // beta_schedule "scaled_linear" (else "linear")
    Prediction prediction;
    TimestepSpacing spacing;
    // sqrt(alphas_cumprod) at the last timestep, how much of the target is left in the noisiest sample. 0: none
    // (rescale_betas_zero_snr); AS_BETAS: as the betas give it.
    double terminal_signal;
    bool set_alpha_to_one;
} ScheduleConfig;

UNetConfig unet_config_read(const char *path);
VAEConfig vae_config_read(const char *path);
CLIPConfig clip_config_read(const char *path);
ScheduleConfig schedule_config_read(const char *path);

// Written as diffusers and transformers read them.
void unet_config_write(const UNetConfig *config, const char *path);
void vae_config_write(const VAEConfig *config, const char *path);
void clip_config_write(const CLIPConfig *config, const char *path);
void schedule_config_write(const ScheduleConfig *config, const char *path);
