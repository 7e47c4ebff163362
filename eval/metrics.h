// Segmentation metrics in their usual definitions, computed on the host.
#pragma once
#include <stdbool.h>
#include <stdint.h>

// One scored pair (picture, class).
typedef struct {
    int64_t image_id;
    int class_index;
    double intersection, union_, predicted, truth; // pixels, ignored ones left out
    double valid;                                  // pixels that count
    double object_share;                           // truth / valid
    bool absent;                                   // the class is not in the picture: only false positives are counted
} PairScore;

// Scores mask against truth (H*W, 0 or 1); pixels with ignore != 0 (may be NULL) do not count. image_id, class_index
// and absent are left 0.
PairScore pair_score(const uint8_t *mask, const uint8_t *truth, const uint8_t *ignore, int64_t pixels);
// Intersection over union; empty against empty is 1.
double pair_iou(const PairScore *score);
bool pair_empty(const PairScore *score); // no pixel predicted
bool pair_full(const PairScore *score);  // at least 99% of the pixels predicted

enum { OBJECT_SMALL, OBJECT_MEDIUM, OBJECT_LARGE, OBJECT_SIZES }; // below 2% of the picture, below 15%, rest
int object_size(double share);

typedef struct {
    int pairs, classes;                // classes with at least one pair
    double giou;                       // mean IoU over pairs
    double ciou;                       // sum of intersections / sum of unions
    double miou;                       // mean over classes of the class's cIoU
    double class_giou;                 // mean over classes of the class's mean pair IoU
    double iou_bin;                    // mean of foreground and background cIoU
    double precision_at[5];            // share of pairs with IoU > .5 .6 .7 .8 .9
    double area_ratio;                 // sum of predicted areas / sum of true areas
    double missed;                     // share of pairs with IoU below 0.1
    double empty, full;                // shares of predictions with no pixel, and with at least 99% of the pixels
    double giou_of_size[OBJECT_SIZES]; // gIoU by share of the object in the picture; NaN without pairs
    int pairs_of_size[OBJECT_SIZES];
    double miou_low, miou_high, giou_low, giou_high; // 95% bootstrap intervals over pictures (percentile)
} Summary;

// Over the pairs with keep[i] (NULL: all) that are not absent. class_count: number of class indices. Bootstrap over
// picture ids with `resamples` draws (0: intervals are NaN), deterministic in the seed. Without a pair every mean is
// NaN.
Summary summarize(const PairScore *scores, int count, const bool *keep, int class_count, int resamples, uint64_t seed);
double harmonic_mean(double seen, double unseen); // 2SU / (S + U), 0 if both are 0, NaN if one is NaN

// Results of queries for absent classes: their number, the share answered with an empty mask, and the mean share of the
// picture that was still masked.
typedef struct {
    int pairs;
    double empty, false_area;
} AbsentSummary;
AbsentSummary summarize_absent(const PairScore *scores, int count, const bool *keep); // keep: as for summarize
