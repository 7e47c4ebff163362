#include "eval/stats.h"
#include "util/error.h"
#include "util/philox.h"
#include <math.h>
#include <stdlib.h>

double mean_of(const double *values, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) { sum += values[i]; }
    return n ? sum / n : NAN;
}

double mean_square(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]); }
    return sum / (double)n;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double percentile(double *values, int n, double share) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    double at = share * (n - 1);
    int low = (int)at, high = low + 1 < n ? low + 1 : low;
    return values[low] + (at - low) * (values[high] - values[low]);
}

typedef struct {
    double value; // first, for by_value
    int index;
} Ranked;

// ranks (n), from 1; equal values share the mean of their places.
static void rank(double *ranks, const double *values, int n) {
    Ranked *sorted = xmalloc(((size_t)n + 1) * sizeof *sorted);
    for (int i = 0; i < n; i++) { sorted[i] = (Ranked){values[i], i}; }
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    for (int i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && sorted[end].value == sorted[i].value;) { end++; }
        for (int k = i; k < end; k++) { ranks[sorted[k].index] = 0.5 * (i + 1 + end); }
    }
    free(sorted);
}

double spearman(const double *x, const double *y, int n) {
    double *rx = xmalloc(((size_t)n + 1) * sizeof *rx), *ry = xmalloc(((size_t)n + 1) * sizeof *ry);
    rank(rx, x, n);
    rank(ry, y, n);
    double mean = 0.5 * (n + 1), xx = 0, yy = 0, xy = 0;
    for (int i = 0; i < n; i++) {
        xx += (rx[i] - mean) * (rx[i] - mean);
        yy += (ry[i] - mean) * (ry[i] - mean);
        xy += (rx[i] - mean) * (ry[i] - mean);
    }
    free(rx);
    free(ry);
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : NAN;
}

Interval bootstrap_mean(const double *values, int n, int resamples, uint64_t seed) {
    double *kept = xmalloc(((size_t)n + 1) * sizeof *kept), *means = xmalloc(((size_t)resamples + 1) * sizeof *means);
    int count = 0;
    for (int i = 0; i < n; i++) {
        if (!isnan(values[i])) { kept[count++] = values[i]; }
    }
    Interval out = {mean_of(kept, count), NAN, NAN};
    for (int r = 0; r < resamples && count; r++) {
        Random random = random_begin(seed, PHILOX_BOOTSTRAP, 1, (uint64_t)r);
        double sum = 0;
        for (int i = 0; i < count; i++) { sum += kept[random_below(&random, (uint32_t)count)]; }
        means[r] = sum / count;
    }
    if (resamples && count) {
        out.low = percentile(means, resamples, 0.025);
        out.high = percentile(means, resamples, 0.975);
    }
    free(kept);
    free(means);
    return out;
}
