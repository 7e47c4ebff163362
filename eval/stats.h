// Statistics of small samples, in double precision.
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef struct {
    double value, low, high; // an estimate with its 95% interval; NaN: none
} Interval;

double mean_of(const double *values, int n);                  // NaN without values
double mean_square(const float *a, const float *b, size_t n); // of their differences
// The value below which `share` of the values lies, by linear interpolation between sorted ones (numpy's default).
// Sorts the values.
double percentile(double *values, int n, double share);
// Spearman's rank correlation: Pearson's of the ranks, ties have the mean of their ranks. NaN with fewer than two
// values or where one side is constant.
double spearman(const double *x, const double *y, int n);
// Mean with Efron's percentile bootstrap over the values, deterministic in the seed. NaNs are left out.
Interval bootstrap_mean(const double *values, int n, int resamples, uint64_t seed);
