// New models: initial weights as PyTorch draws them, the presets' configurations, and a small byte-pair vocabulary.
#pragma once
#include <stdint.h>
#include "model/config.h"
#include "model/params.h"

typedef struct {
    const char *name;
    UNetConfig unet;
    VAEConfig vae;
    CLIPConfig clip;
    ScheduleConfig schedule;
    int tokens;            // model_max_length
    const char *pad_token; // "!" or the end token
    float text_residual;   // factor of the text encoder's residual branches at the start
    float token_std;       // standard deviation of its token embeddings (CLIP: 0.02)
    float logvar_bias;     // bias of the log-variance half of the VAE's quant_conv; NAN: as in PyTorch
} Preset;

// "mini", "sd1", "sd2"; dies on any other name.
const Preset *preset_find(const char *name);
extern const char *const preset_names[]; // NULL-terminated

// Initial values of one slice in PyTorch's order: uniform(-1/sqrt(fan_in), 1/sqrt(fan_in)) for linear and convolution
// weights and biases (PyTorch's default: Kaiming uniform with a = sqrt(5)), ones and zeros for norms. `clip` chooses
// CLIPTextModel's normal distributions. Slice i of seed s is the same whatever else is drawn.
void init_slice(float *out, const Params *params, int i, uint64_t seed, const Preset *preset, bool clip);

// tokenizer/: vocab.json, merges.txt, special_tokens_map.json, tokenizer_config.json. Bytes, merges learned from the
// names of COCO's classes, colours and shapes, and the begin and end tokens at vocab_size - 2 and vocab_size - 1.
// Returns the number of ids in use.
int tokenizer_write(const Preset *preset, const char *folder);
