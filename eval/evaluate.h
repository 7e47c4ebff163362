// Evaluation of a model over pairs (picture, class): predictions, floors and ceiling, and the choice of thresholds.
#pragma once
#include "eval/dataset.h"
#include "eval/gallery.h"
#include "eval/metrics.h"
#include "eval/prompt_sets.h"
#include "model/contexts.h"
#include "model/sampler.h"

// What sampling starts from: white noise, as at inference, or a latent + sqrt(1 - a^2) white noise, with a^2 =
// alphas_cumprod at the first timestep and the latent of the true target, the mean target, or the picture. So it holds
// as much of the latent as a training sample of that timestep, in the noise of inference, whatever noise training uses.
// A model that gets much better with START_TRUTH reads its answer from what the schedule leaves of the target.
typedef enum { START_NOISE, START_TRUTH, START_MEAN, START_IMAGE } Start;
extern const char *const start_names[]; // "noise", ..., NULL

// A model in memory with everything that it needs to answer batches of pairs.
typedef struct {
    Pipeline *pipeline;
    Device *dev;
    Sampler sampler;
    ModelSettings settings;
    int side, batch;             // of the model's square in pixels; largest batch
    int steps, ensemble;         // DDIM steps; draws of the noise that are averaged
    uint64_t seed;               // of the noise
    int texts;                   // of a prompt set: the dataset's classes, or its texts
    Contexts contexts;           // of (1 + prompt sets) texts
    floatX *context;             // (batch, T, C) on the device
    float *pixels, *latents;     // (batch, side, side, 3), (batch, h, w, L)
    float *inputs, *predictions; // (batch, side, side, 3) in [0, 1]
    Start start;                 // START_NOISE unless evaluator_start was called
    float *starts, *mean;        // (batch, h, w, L); (h, w, L) for START_MEAN
} Evaluator;

// sets (set_count): further prompts for the classes, in addition to the model's own.
Evaluator evaluator_create(Pipeline *pipeline, const Dataset *dataset, const ModelSettings *settings,
                           const PromptSet *sets, int set_count, int steps, int ensemble, int batch, uint64_t seed,
                           Device *dev);
void evaluator_destroy(Evaluator *e);
// In all functions here, pairs whose picture cannot be read leave the list (eval/dataset.h).
// What predictions start from. START_MEAN takes the mean target of at most 512 of the pairs.
void evaluator_start(Evaluator *e, Start start, const Dataset *dataset, Pair *pairs, int *count);

enum { BOX_SIZES = 9, MAX_STEPS_TABLE = 12 };
int box_percent(int k); // of the sides: centred box k, 20 to 100
// The kinds of scores of every pair.
enum {
    SCORE_MODEL,
    SCORE_CEILING,                       // the true target through the VAE and the same mask extraction
    SCORE_ALL_FOREGROUND,                // floor: every pixel
    SCORE_WHITE,                         // floor: the whiteness filter on the input
    SCORE_ALL_OBJECTS,                   // everything that is annotated, whatever the text says (whole pictures only)
    SCORE_BOX,                           // floor: the centred boxes
    SCORE_STEPS = SCORE_BOX + BOX_SIZES, // the model with the table's numbers of DDIM steps
    SCORE_PROMPTS = SCORE_STEPS + MAX_STEPS_TABLE, // the model asked with other prompts
    SCORE_KINDS = SCORE_PROMPTS + MAX_PROMPT_SETS
};

// Pairs that are reported together: those of some classes, or those of a kind of phrase.
typedef struct {
    char *name;
    bool *has; // (classes); NULL: of every class
    int kind;  // index into the shards' kinds; -1: of every kind
} PairGroup;
enum { MAX_GROUPS = 32, MAX_SHARD_KINDS = 256 }; // of the command line; of phrases

typedef struct {
    Pair *pairs;
    int count;
    MaskRule rule;
    const bool *seen; // (classes)
    int table[MAX_STEPS_TABLE], table_count;
    PromptSet prompt_sets[MAX_PROMPT_SETS]; // owned by the caller
    int prompt_set_count;
    PairGroup groups[MAX_GROUPS + MAX_SHARD_KINDS]; // owned by the caller
    int group_count;
    const char *masks;                // folder for the predicted masks as PNG, or NULL
    PairScore *scores[SCORE_KINDS];   // (count); NULL where a kind does not apply
    bool *counted;                    // (count) false: the class has no pixel in the picture that counts (crowd only)
    double sampling_seconds, seconds; // in the model's sampling and decoding; in all
    Gallery gallery;
} Evaluation;

// Scores all pairs. The caller sets pairs, count, rule, seen, table, groups and masks; this fills the rest.
void evaluate(Evaluator *e, const Dataset *dataset, Evaluation *evaluation);
void evaluation_free(Evaluation *evaluation);

// Chooses tolerance (and changed, for MASK_COMPARE) of the rule by the mIoU over these pairs; returns that mIoU. Pairs
// without a true pixel do not count: *count gets the number of the others. Dies if there is none.
double tune_rule(Evaluator *e, const Dataset *dataset, Pair *pairs, int *count, MaskRule *rule);
