/* The candidate nearest to each of many points: the largest of a few dot products per point. */
#ifndef FAML_VORONOI_H
#define FAML_VORONOI_H

#include "_simd.h"

enum { FEATURES = 13, STRIP = 2 * LANES };

/* count[m]: of the points, (FEATURES, stride) floats, those whose product with row m of
 * closeness (n_candidates, FEATURES) is the largest; of equal products the first counts. */
FAML_CLONES
static void count_nearest(const float *points, long n_points, long stride, const float *closeness,
                          int n_candidates, long *count) {
    float tail[FEATURES][STRIP];
    memset(tail, 0, sizeof tail);
    for (long first = 0; first < n_points; first += STRIP) {
        const int n = n_points - first < STRIP ? (int)(n_points - first) : STRIP;
        const float *p = points + first;
        long step = stride;
        if (n < STRIP) {
            for (int k = 0; k < FEATURES; k++) memcpy(tail[k], p + k * stride, n * sizeof(float));
            p = tail[0];
            step = STRIP;
        }
        vec best_0 = spread(-3e38f), best_1 = best_0;
        ivec nearest_0 = ispread(0), nearest_1 = nearest_0;
        for (int m = 0; m < n_candidates; m++) {
            const float *c = closeness + (long)m * FEATURES;
            vec a = c[0] * load(p), b = c[0] * load(p + LANES);
            for (int k = 1; k < FEATURES; k++) {
                a += c[k] * load(p + k * step);
                b += c[k] * load(p + k * step + LANES);
            }
            const ivec above_0 = a > best_0, above_1 = b > best_1, own = ispread(m);
            best_0 = (vec)(((ivec)a & above_0) | ((ivec)best_0 & ~above_0));
            best_1 = (vec)(((ivec)b & above_1) | ((ivec)best_1 & ~above_1));
            nearest_0 = (own & above_0) | (nearest_0 & ~above_0);
            nearest_1 = (own & above_1) | (nearest_1 & ~above_1);
        }
        for (int i = 0; i < n; i++) count[i < LANES ? nearest_0[i] : nearest_1[i - LANES]]++;
    }
}

#endif
