/* Log joint probabilities over a grid of rotations (rows) and a few shifts (columns).
 *
 * Plain loops over columns that every compiler vectorises; where it can, it makes a second copy for
 * AVX2 that is chosen when the module is loaded.
 */
#ifndef FAML_POSTERIOR_H
#define FAML_POSTERIOR_H

#include <math.h>

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define FAML_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define FAML_CLONES
#endif

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

#endif
