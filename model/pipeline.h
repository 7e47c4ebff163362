// A model directory: a diffusers pipeline (model_index.json, unet/, vae/, text_encoder/, tokenizer/, scheduler/).
#pragma once
#include "model/clip.h"
#include "model/schedule.h"
#include "model/tokenizer.h"
#include "model/unet.h"
#include "model/vae.h"
#include "util/file.h"

// Parts to open: their weights are loaded onto the device.
enum {
    PART_UNET = 1,
    PART_VAE_ENCODER = 2,
    PART_VAE_DECODER = 4,
    PART_TEXT = 8,
    PART_SCHEDULE = 16,
    PART_UNET_EMA = 32 /* with PART_UNET: weights from unet_ema/, and text_encoder_ema/ where it exists */
};

typedef struct {
    char *folder;
    UNet unet;
    VAEEncoder vae_encoder;
    VAEDecoder vae_decoder;
    CLIPText clip;
    Tokenizer *tokenizer;
    Schedule schedule;
    int parts;
} Pipeline;

// Dies if the folder, a file, a tensor or a field is missing or wrong. `trained`: parts whose weights are to be
// written; the others' are mapped where they can be. PART_TEXT opens tokenizer and text encoder.
Pipeline pipeline_open(const char *folder, int parts, int trained, Device *dev);
// Opens what draws: `parts`, the UNet and the schedule, changed. `ema`: the averaged weights; else a line on stderr
// says if there are some. Another warns of too few `steps` (schedule_warn_steps).
Pipeline pipeline_open_sampling(const char *folder, int parts, bool ema, const ScheduleChange *change, int steps,
                                Device *dev);
void pipeline_want_folder(const char *folder); // dies early if there is no such folder
void pipeline_close(Pipeline *pipeline, Device *dev);

enum { MOST_RESOLUTION = 4096 };
// The side of pictures in pixels, for the option --resolution: what is `wanted`, or if that is 0 what the model
// directory was made for: the UNet's sample_size, else the VAE's. Dies unless it is a multiple of the VAE's factor from
// 1 to MOST_RESOLUTION. A half of the VAE must be open.
int pipeline_resolution(const Pipeline *pipeline, int wanted);
// What the sides of an input of another shape should be multiples of, if its longer one is `side`: whole cells of the
// UNet's coarsest level, unless they are too large for the picture; then those of the latent.
int pipeline_multiple(const Pipeline *pipeline, int side);

// Frees the weights of parts that are no longer run; their configurations and the tokenizer remain.
void pipeline_release(Pipeline *pipeline, int parts, Device *dev);

// SHA-256 of the VAE's weights file (of the sharded files' digests, if sharded). Latents depend on it.
void pipeline_vae_digest(const char *folder, char hex[65]);

// FOLDER/MODULE, or with `ema` FOLDER/MODULE_ema if it exists. Dies if `ema` is asked for and there is no unet_ema/.
Path pipeline_module(const char *folder, const char *module, bool ema);

// Fills a new pipeline folder `to`: parts other than those of the NULL-terminated list `except` ("unet", which stands
// for all averages too, "vae", ...) are hard-linked (copied across file systems) from `from`, and model_index.json is
// written.
void pipeline_link(const char *from, const char *to, const char *const *except);
void pipeline_index_write(const char *folder); // model_index.json: StableDiffusionPipeline

// Embeddings of texts by the frozen text encoder: out (count, T, hidden) floatX on the device, T = the tokenizer's
// length. Runs in batches; scratch is allocated and freed inside.
void pipeline_embed_texts(Pipeline *pipeline, const char *const *texts, int count, floatX *out, Device *dev);

// Pixels to scaled latents (posterior mean times scaling factor) and back; images (B, H, W, 3) float in [-1, 1] and
// latents (B, h, w, L) float, on the device. The arena must be large enough (pipeline_..._bytes).
void pipeline_encode(Pipeline *pipeline, Arena *arena, float *latents, const float *images, int B, int H, int W,
                     Device *dev);
void pipeline_decode(Pipeline *pipeline, Arena *arena, float *images, const float *latents, int B, int h, int w,
                     Device *dev);
// Arena bytes that these need. They reserve the kernels' workspace on `dev`, or note it in `dev` if it is plan-only.
size_t pipeline_encode_bytes(Pipeline *pipeline, int B, int H, int W, Device *dev);
size_t pipeline_decode_bytes(Pipeline *pipeline, int B, int h, int w, Device *dev);
