// How much of the answer the noise schedule leaves in the noisiest training sample. That sample is
//   x_T = a target + sqrt(1 - a^2) noise,  a = sqrt(alphas_cumprod) at the last timestep,
// where sampling begins with noise alone. For an object whose mask changes the target's latent by d, the evidence in
// x_T is the Kullback-Leibler divergence of the two Gaussians, with and without the object:
//   a^2 / (1 - a^2) / 2 * sum over channels of d' S^-1 d   nats,
// with S the noise's covariance over cells (eval/covariance.h). Needs the VAE's encoder and no training.
#pragma once
#include "eval/metrics.h"
#include "eval/stats.h"
#include "eval/targets.h"

enum { NOISE_WHITE, NOISE_RECIPE, NOISES };
enum { COVARIANCE_DRAWS = 256 }; // draws of the level sizes

// Where latent 0 lies on the way from the latent b of the target with an empty mask (0) to the o of the one with a full
// mask (1): sums over cells of -b (o - b) and of (o - b)^2, of which the first divided by the second is the mean of the
// cells' places, each with weight (o - b)^2. Without the weights, cells that look almost the same under both masks
// would decide. With them it says what noise looks like to a reader of the leak: at x_T = 0 the log-likelihood ratio of
// o and b under white noise is a^2 / (1 - a^2) (place - 1/2) times the sum of (o - b)^2.
typedef struct {
    double along, square;
} ZeroPlace;
double zero_place(ZeroPlace place); // NaN without cells

// One representation of one object.
typedef struct {
    double contrast; // sqrt(sum d^2 / cells), with cells = the object's share of the pixels times those of the latent
    ZeroPlace on_background; // over the cells that the object does not touch
    ZeroPlace on_object;     // over those inside it; where there is none, those it touches
    double form[NOISES];     // sum of d' S^-1 d
    double reference;        // the same under the recipe's noise on the reference latent
} Leak;

typedef struct {
    int64_t image_id;
    int category;
    double object_share; // of pixels
    Leak of[REPRESENTATIONS];
} LeakObject;

typedef struct {
    Pipeline *pipeline; // PART_VAE_ENCODER
    const Coco *coco;
    SampleOptions sample; // which samples: resolution, classes, seed
    Paint paint;
    int count;       // samples wanted
    double multires; // strength of the recipe's multi-resolution noise at the last timestep; 0: white
    // The reference latent: d of each object enlarged to this side (nearest cell) and scaled to this contrast.
    int reference_side;
    double reference_contrast;
} LeakAnalysis;

// Analyses up to `count` objects; *count gets their number. The caller frees the list.
LeakObject *leak_analyze(const LeakAnalysis *analysis, int *count, Device *dev);

double leak_nats(double form, double signal); // signal: a, below 1
// The error rate of the best observer who knows both latents and decides which is in x_T, both equally often.
double leak_error_rate(double nats);

typedef struct {
    int objects;
    double cells; // mean of an object's cells
    Interval contrast;
    double zero_background, zero_object; // over the cells of all objects
    double median[NOISES];               // nats
    Interval mean[NOISES];
} LeakSummary;

// size: of the object (eval/metrics.h), or OBJECT_SIZES for all. side: of the latent.
LeakSummary leak_summarize(const LeakObject *objects, int count, int representation, int size, int side, double signal,
                           int resamples, uint64_t seed);
// Median nats over objects on the reference latent; representation REPRESENTATIONS: over the objects of both.
double leak_reference_nats(const LeakObject *objects, int count, int representation, double signal);
// The a that leaves as much evidence in this latent as `signal` does in the reference latent:
//   a^2 / (1 - a^2) = signal^2 / (1 - signal^2) exp(mean over objects of log(reference / form[NOISE_RECIPE])).
// NaN if no object changes the latent.
double leak_matched_signal(const LeakObject *objects, int count, int representation, double signal);
