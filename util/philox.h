// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// A number is a pure function of (seed, stream, step, sample, element): it does not depend on the backend, threads,
// ranks or restarts. Compiles as C and as CUDA.
#pragma once
#include "util/host_device.h"
#include <math.h>

// One stream for each use of random numbers; different streams are independent.
enum PhiloxStream {
    PHILOX_NOISE = 1,    // diffusion noise
    PHILOX_MULTIRES = 2, // the coarser levels of multi-resolution noise
    PHILOX_TIMESTEP = 3,
    PHILOX_POSTERIOR = 4, // VAE posterior samples
    PHILOX_INIT = 5,      // initial weights
    PHILOX_SHUFFLE = 6,
    PHILOX_CROP = 7,
    PHILOX_SCENE = 8,
    PHILOX_INFERENCE = 9, // initial noise of sampling
    PHILOX_BOOTSTRAP = 10,
    PHILOX_MIX = 11,      // kind of picture in VAE training
    PHILOX_VARIANTS = 12, // masks of known IoU (eval/variants.h)
    PHILOX_TEXT = 13,     // choice of the text template
    PHILOX_EMPTY = 14,    // samples trained without their text
};

typedef struct {
    uint32_t x[4];
} Philox4;

HOST_DEVICE Philox4 philox4x32(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    Philox4 r = {{c0, c1, c2, c3}};
    return r;
}

// The four random words of block number `block` of the sequence (seed, stream, step, sample). Of stream 16 bits count,
// of sample 48.
HOST_DEVICE Philox4 philox(uint64_t seed, uint32_t stream, uint32_t step, uint64_t sample, uint32_t block) {
    return philox4x32(block, (uint32_t)sample, ((uint32_t)(sample >> 32) & 0xffffu) | stream << 16, step,
                      (uint32_t)seed, (uint32_t)(seed >> 32));
}

// Maps a word to the open interval (0, 1).
HOST_DEVICE float philox_uniform(uint32_t word) { return ((float)(word >> 9) + 0.5f) * (1.0f / 8388608.0f); }

// Maps two words to two standard normal numbers (Box and Muller 1958).
HOST_DEVICE void philox_normal2(uint32_t a, uint32_t b, float *n0, float *n1) {
    float radius = sqrtf(-2.0f * logf(philox_uniform(a))), angle = 6.2831853071795865f * philox_uniform(b);
    *n0 = radius * cosf(angle);
    *n1 = radius * sinf(angle);
}

// Sequential random numbers for host code: uniform, integer below n, normal.
typedef struct {
    uint64_t seed, sample;
    uint32_t stream, step, used;
    Philox4 words;
} Random;

HOST_DEVICE Random random_begin(uint64_t seed, uint32_t stream, uint32_t step, uint64_t sample) {
    Random r = {seed, sample, stream, step, 0, {{0, 0, 0, 0}}};
    return r;
}

HOST_DEVICE uint32_t random_word(Random *r) {
    if (r->used % 4 == 0) { r->words = philox(r->seed, r->stream, r->step, r->sample, r->used / 4); }
    return r->words.x[r->used++ % 4];
}

HOST_DEVICE float random_uniform(Random *r) { return philox_uniform(random_word(r)); }
// An integer in [0, n), n >= 1 (multiply and shift: bias below n / 2^32).
HOST_DEVICE uint32_t random_below(Random *r, uint32_t n) { return (uint32_t)((uint64_t)random_word(r) * n >> 32); }
HOST_DEVICE float random_normal(Random *r) {
    uint32_t a = random_word(r), b = random_word(r);
    float n0, n1;
    philox_normal2(a, b, &n0, &n1);
    return n0;
}
