// DDIM from Gaussian noise, decoded by the VAE, with one of two kinds of UNet:
//   segmentation of pictures by text: [image latent | noisy latent]; Marigold's inference (Ke et al. 2024) with a text
//   text to image: the noisy latent alone; classifier-free guidance (Ho & Salimans 2022) by a negative text
#pragma once
#include "model/pipeline.h"
#include "util/progress.h"

// The memory of sampling for a largest batch and a fixed size; made once and used for many batches.
typedef struct {
    Pipeline *pipeline;
    Arena arena;
    int B, h, w, T, L, f;            // largest batch; latent size; text length; latent channels; pixels per latent cell
    bool conditioned;                // on an image latent
    float guidance;                  // above 1: the UNet runs on rows = 2B, first with the negative text; else rows = B
    float *image_latent, *latent;    // (B, h, w, L) on the device
    float *timesteps;                // (rows) on the device
    float *images;                   // (B, h f, w f, 3) on the device
    floatX *image_part, *noisy_part; // (B, h, w, L)
    floatX *sample, *output;         // (rows, h, w, 2L), or L without condition; (rows, h, w, L)
    floatX *context;                 // (rows, T, C) with guidance; the first is sampler_negative's
    StepScalars *scalars;            // (B) on the device: what the noise of each sample depends on
    float *host_timesteps;           // (rows) pinned
    StepScalars *host_scalars;       // (B) pinned
    // (n, h, w, L) on the host, set by the caller: sampling starts from a * start + sqrt(1 - a^2) * white noise with
    // a^2 = alphas_cumprod at the first timestep, the share that a training sample of that timestep has. NULL: from
    // white noise alone.
    const float *start;
    int broken; // the first row of the last decoding, or ensemble, with a pixel that is NaN or infinite; -1: none
} Sampler;

// The pipeline must have PART_UNET, PART_VAE_DECODER, PART_TEXT and PART_SCHEDULE open, and PART_VAE_ENCODER for
// sampler_encode. Dies if the UNet does not take twice the latent's channels.
Sampler sampler_create(Pipeline *pipeline, int B, int h, int w, Device *dev);
void sampler_destroy(Sampler *sampler, Device *dev);
// The same for text to image; dies if the UNet does not take the latent's channels. The encoder is not needed. A
// guidance of at most 1 means none, as in diffusers.
Sampler sampler_create_text(Pipeline *pipeline, int B, int h, int w, double guidance, Device *dev);
// Sets the negative text's embedding (T, C), on the device. Call it if and only if there is guidance.
void sampler_negative(Sampler *sampler, const floatX *context, Device *dev);
// Bytes of device memory that sampler_create and sampler_create_text take, and the weights of UNet and VAE when they
// are first used: those that are mapped in another type than float are converted. The workspace that the kernels need
// is noted in dev->workspace_needed.
size_t sampler_bytes(Pipeline *pipeline, int B, int h, int w, Device *dev);
size_t sampler_text_bytes(Pipeline *pipeline, int B, int h, int w, double guidance, Device *dev);
// Of either, without the weights, for training, which counts them itself. conditioned: sampler_create's, guidance 0.
size_t sampler_own_bytes(Pipeline *pipeline, int B, int h, int w, bool conditioned, double guidance, Device *dev);
// `batch`, or the largest of its half, quarter, ... for which sampler_create finds memory; 0: there is none for 1. The
// workspace is noted, of 1 if the result is 0.
int sampler_batch(Pipeline *pipeline, int batch, int h, int w, Device *dev);
// Dies, naming the options --resolution and, for a batch of more than 1, --batch, unless so many bytes and the noted
// workspace are free.
void sampler_want_memory(size_t needed, int batch, int side, Device *dev);

// What encoding a picture, a step of a sample and decoding it add to the device's progress. Nothing is run.
typedef struct {
    long long encode, step, decode;
} SamplerWork;
SamplerWork sampler_work(const Sampler *sampler);

// Predicted clean latents, left in sampler->latent: n <= B samples. image_latent (n, h, w, L) on the host, scaled, NULL
// for text to image; context (n, T, C) floatX on the device; sample_ids (n): noise of sample i depends only on (seed,
// sample_ids[i], member) (stream PHILOX_INFERENCE, step = member).
void sampler_run(Sampler *sampler, const float *image_latent, const floatX *context, const uint64_t *sample_ids, int n,
                 int steps, int member, uint64_t seed, Device *dev);
// Decoded predictions (n, h f, w f, 3) in [0, 1] on the host, averaged over the members 0 .. members - 1.
void sampler_ensemble(Sampler *sampler, float *predictions, const float *image_latent, const floatX *context,
                      const uint64_t *sample_ids, int n, int steps, int members, uint64_t seed, Device *dev);
// Dies if there is such a row. The format says what was drawn: "picture 7".
void sampler_want_finite(const Sampler *sampler, const char *format, ...) __attribute__((format(printf, 2, 3)));
// noise (h, w, L) on the host: sampler_run's start for that id and member 0.
void sampler_noise(Sampler *sampler, float *noise, uint64_t sample_id, uint64_t seed, Device *dev);
// Decodes sampler->latent (n) to pictures (n, h f, w f, 3) in [0, 1] on the host.
void sampler_decode(Sampler *sampler, float *pictures, int n, Device *dev);
// Decodes given latents (n, h, w, L) on the host; overwrites sampler->latent.
void sampler_decode_latents(Sampler *sampler, float *pictures, const float *latents, int n, Device *dev);
// Latents (n, h, w, L) on the host, scaled, of pictures (n, h f, w f, 3) in [-1, 1] on the host.
void sampler_encode(Sampler *sampler, float *latents, const float *pictures, int n, Device *dev);
