/* Log-likelihoods over a grid of rotations (rows) and a few shifts (columns) to posteriors.
 *
 * Plain loops over columns that every compiler vectorises; where it can, it makes a second copy for
 * AVX2 that is chosen when the module is loaded.
 */
#ifndef FAML_POSTERIOR_H
#define FAML_POSTERIOR_H

#include <math.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define FAML_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define FAML_CLONES
#endif

enum { MOST_COLUMNS = 64 };

/* Subtract each row's norm, add the prior of its beta and each column's, find the columns' maxima. */
FAML_CLONES
static void add_prior(float *restrict joint, const float *restrict norm,
                      const float *restrict prior, float log_alpha, long n_rows, long n_beta,
                      long n_columns, float *restrict peak) {
    for (long c = 0; c < n_columns; c++) peak[c] = -INFINITY;
    for (long row = 0; row < n_rows; row++) {
        float *restrict values = joint + row * n_columns;
        const float *restrict own = prior + (row % n_beta) * n_columns;
        const float level = log_alpha - norm[row];
        for (long c = 0; c < n_columns; c++) {
            const float value = values[c] + (own[c] + level);
            values[c] = value;
            peak[c] = value > peak[c] ? value : peak[c];
        }
    }
}

/* exp(x) for x in about [-80, 0], relative error below 3e-7; 0 below. */
static inline float exponential(float x) {
    const float clipped = x < -80.0f ? -80.0f : x;
    const float scaled = clipped * 1.44269504088896341f;
    const float whole = (float)(int)(scaled - 0.5f); /* towards zero from below: rounds to nearest */
    const float r = (clipped - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int bits = ((int)whole + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return x < -80.0f ? 0.0f : p * power;
}

/* exp(joint - highest) in place, the columns' sums, and the sum of all squares. */
FAML_CLONES
static void exponentiate(float *restrict joint, float highest, long n_rows, long n_columns,
                         double *restrict mass, double *restrict squared) {
    float part[MOST_COLUMNS], part_squared[MOST_COLUMNS];
    double total = 0.0;
    for (long c = 0; c < n_columns; c++) mass[c] = 0.0;
    for (long start = 0; start < n_rows; start += 64) { /* short float sums, long ones in double */
        const long stop = start + 64 < n_rows ? start + 64 : n_rows;
        for (long c = 0; c < n_columns; c++) part[c] = part_squared[c] = 0.0f;
        for (long row = start; row < stop; row++) {
            float *restrict values = joint + row * n_columns;
            for (long c = 0; c < n_columns; c++) {
                const float value = exponential(values[c] - highest);
                values[c] = value;
                part[c] += value;
                part_squared[c] += value * value;
            }
        }
        for (long c = 0; c < n_columns; c++) {
            mass[c] += part[c];
            total += part_squared[c];
        }
    }
    *squared = total;
}

#endif
