// The covariance of multi-resolution training noise over latent cells, and d' S^-1 d for differences d of
// latents. In double precision; results do not depend on the number of threads.
#pragma once
#include <stdint.h>

// S (n, n), n = h w, row-major, the same for each channel: the mean over `draws` draws of the level sizes of
//   2 I + sum_i strength^(2 i) U_i U_i'
// with U_i (n, h_i w_i) the bilinear enlargement of level i (multires_noise in kernels/kernels.h), divided by trace /
// n. strength 0: I. The caller frees it. Draw k has the level sizes of the training sample (seed, step 0, sample k).
//
// An approximation: who sees one sample does not know its level sizes, and the best answer would mix one Gaussian for
// each. Here it is one Gaussian with the mixture's covariance. Knowing the sizes gives more evidence, for a square of a
// tenth of the picture 6% more on 16 x 16 cells and 17% on 48 x 48, so the truth lies between. And training divides
// each sample by its own standard deviation, where here the mean variance is divided out.
double *noise_covariance(int h, int w, double strength, int draws, uint64_t seed);

// Replaces the lower triangle of a positive definite matrix (n, n) by Cholesky's factor L with L L' = the matrix. Reads
// only the lower triangle, and leaves the rest.
void cholesky(double *matrix, int n);
// out (count): b' (L L')^-1 b for each row b of rows (count, n).
void inverse_forms(double *out, const double *L, const float *rows, int n, int count);
