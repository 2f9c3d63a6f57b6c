/* Trilinear sampling of a spectrum table, and the score of a turned average over all shifts. */
#ifndef FAML_SCORING_H
#define FAML_SCORING_H

#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "_simd.h"

enum { CHUNK = 128 }; /* samples between two passes over them */

/* Working memory, in large pages where there are any: small ones cost a fault per 4 kB. */
static void *allocate(size_t bytes) {
    const size_t page = (size_t)1 << 21;
    void *memory = NULL;
    if (bytes < 2 * page) return malloc(bytes);
    bytes = (bytes + page - 1) / page * page;
    if (posix_memalign(&memory, page, bytes)) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(memory, bytes, MADV_HUGEPAGE); /* advice: refusing it changes nothing */
#endif
    return memory;
}

/* ---------------------------------------------------------------------------- spectrum table
 * Twice oversampled half spectrum, cropped: kz and ky from -limit to limit, kx from 0 to limit. */
typedef struct {
    const float *samples; /* re, im interleaved */
    int limit, stride_y, stride_z, last; /* strides and last lower corner of a cell, in samples */
} SpectrumTable;

FAML_INLINE SpectrumTable spectrum_table(const float *samples, int limit) {
    int width = limit + 1, depth = 2 * limit + 1;
    SpectrumTable t = {samples, limit, width, depth * width,
                       depth * depth * width - (depth * width + width + 2)};
    return t;
}

/* Up to CHUNK cells: lower corner, weights of the four rows around a point, weight of the upper kx,
 * and the sign bit to give the imaginary part (Friedel: F(-k) is the conjugate of F(k)). */
typedef struct {
    int corner[CHUNK];
    float upper_x[CHUNK], row[4][CHUNK];
    int flip[CHUNK];
} Cells;

FAML_INLINE void locate(const SpectrumTable *t, vec x, vec y, vec z, int i, Cells *c) {
    const ivec sign_bit = ispread((int)0x80000000u);
    const vec limit = spread((float)t->limit);
    ivec flip = (ivec)x & sign_bit;
    ivec ix, iy, iz, corner, low, high;
    vec fy, fz, both;
    x = (vec)((ivec)x ^ flip);
    y = (vec)((ivec)y ^ flip) + limit; /* not negative: truncation is floor */
    z = (vec)((ivec)z ^ flip) + limit;
    ix = __builtin_convertvector(x, ivec);
    iy = __builtin_convertvector(y, ivec);
    iz = __builtin_convertvector(z, ivec);
    fy = y - __builtin_convertvector(iy, vec);
    fz = z - __builtin_convertvector(iz, vec);
    both = fy * fz;
    corner = iz * t->stride_z + iy * t->stride_y + ix;
    low = corner < 0; /* whatever comes in, nothing outside the table is read */
    corner &= ~low;
    high = corner > t->last;
    corner = (corner & ~high) | (ispread(t->last) & high);
    memcpy(c->corner + i, &corner, sizeof corner);
    memcpy(c->flip + i, &flip, sizeof flip);
    store(c->upper_x + i, x - __builtin_convertvector(ix, vec));
    store(c->row[0] + i, spread(1.0f) - fy - (fz - both));
    store(c->row[1] + i, fy - both);
    store(c->row[2] + i, fz - both);
    store(c->row[3] + i, both);
}

/* Four samples of a table at p in the lower half, four at q in the upper. */
FAML_INLINE vec load_pair(const float *p, const float *q) {
    quad a = load4(p), b = load4(q);
    return JOIN(a, b);
}

/* Eight cells at a time: sample i of a group shares a vector with sample i + 4, so that the weights of
 * both are one permutation within halves away, and four such vectors transpose within halves. */
FAML_INLINE vec pair_at(const SpectrumTable *t, const Cells *c, int i, vec w0, vec w1, vec w2, vec w3) {
    const int dy = 2 * t->stride_y, dz = 2 * t->stride_z;
    const float *p = t->samples + 2 * (long)c->corner[i], *q = t->samples + 2 * (long)c->corner[i + 4];
    vec v = load_pair(p, q) * w0 + load_pair(p + dy, q + dy) * w1;
    vec u = load_pair(p + dz, q + dz) * w2 + load_pair(p + dz + dy, q + dz + dy) * w3;
    return v + u; /* re and im at the lower kx, then at the upper */
}
#define BOTH(v, k) SHUFFLE(v, v, k, k, k, k, k + 4, k + 4, k + 4, k + 4)
#define PAIR(k) pair_at(t, c, i + k, BOTH(w0, k), BOTH(w1, k), BOTH(w2, k), BOTH(w3, k))

FAML_INLINE void interpolate8(const SpectrumTable *t, const Cells *c, int i, vec *re, vec *im) {
    const vec w0 = load(c->row[0] + i), w1 = load(c->row[1] + i), w2 = load(c->row[2] + i),
              w3 = load(c->row[3] + i), x = load(c->upper_x + i);
    ivec flip;
    vec a = PAIR(0), b = PAIR(1), d = PAIR(2), e = PAIR(3);
    vec ab = SHUFFLE(a, b, 0, 8, 1, 9, 4, 12, 5, 13), de = SHUFFLE(d, e, 0, 8, 1, 9, 4, 12, 5, 13);
    vec low_re = SHUFFLE(ab, de, 0, 1, 8, 9, 4, 5, 12, 13), low_im = SHUFFLE(ab, de, 2, 3, 10, 11, 6, 7, 14, 15);
    ab = SHUFFLE(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    de = SHUFFLE(d, e, 2, 10, 3, 11, 6, 14, 7, 15);
    vec high_re = SHUFFLE(ab, de, 0, 1, 8, 9, 4, 5, 12, 13), high_im = SHUFFLE(ab, de, 2, 3, 10, 11, 6, 7, 14, 15);
    memcpy(&flip, c->flip + i, sizeof flip);
    *re = low_re + x * (high_re - low_re);
    *im = (vec)((ivec)(low_im + x * (high_im - low_im)) ^ flip);
}

/* Cells of n points (up to CHUNK) at matrix @ point. */
FAML_INLINE void locate_chunk(const SpectrumTable *t, const float *const points[3], long start,
                              int n, const float *m, Cells *cells) {
    float tail[3][LANES];
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec a = load(points[0] + start + i), b = load(points[1] + start + i),
            c = load(points[2] + start + i);
        locate(t, m[0] * a + m[1] * b + m[2] * c, m[3] * a + m[4] * b + m[5] * c,
               m[6] * a + m[7] * b + m[8] * c, i, cells);
    }
    if (i < n) {
        memset(tail, 0, sizeof tail);
        for (int axis = 0; axis < 3; axis++)
            memcpy(tail[axis], points[axis] + start + i, (n - i) * sizeof(float));
        vec a = load(tail[0]), b = load(tail[1]), c = load(tail[2]);
        locate(t, m[0] * a + m[1] * b + m[2] * c, m[3] * a + m[4] * b + m[5] * c,
               m[6] * a + m[7] * b + m[8] * c, i, cells);
    }
}

/* All points, turned, lie within a table; the matrix is a rotation times a scale: its first row gives
 * the scale. False for NaN. */
static int is_within(int limit, const float *const points[3], long n_points, const double *matrix) {
    const float scale_sq = (float)(matrix[0] * matrix[0] + matrix[1] * matrix[1]
                                   + matrix[2] * matrix[2]);
    const float limit_sq = (float)limit * (float)limit;
    int is_inside = 1;
    for (long j = 0; j < n_points; j++) {
        float far = points[0][j] * points[0][j] + points[1][j] * points[1][j]
                    + points[2][j] * points[2][j];
        is_inside &= far * scale_sq < limit_sq;
    }
    return is_inside;
}

/* The table at matrix @ (points[0], points[1], points[2]); 0 if a point lies outside the table. */
FAML_CLONES
static int gather_points(SpectrumTable t, const float *const points[3], long n_points,
                         const double *matrix, float *out) {
    Cells cells;
    float m[9];
    for (int i = 0; i < 9; i++) m[i] = (float)matrix[i];
    if (!is_within(t.limit, points, n_points, matrix)) return 0;
    for (long start = 0; start < n_points; start += CHUNK) {
        int n = n_points - start < CHUNK ? (int)(n_points - start) : CHUNK;
        locate_chunk(&t, points, start, n, m, &cells);
        for (int i = 0; i < n; i += LANES) {
            vec re, im;
            interpolate8(&t, &cells, i, &re, &im);
            for (int k = 0; k < LANES && i + k < n; k++) {
                out[2 * (start + i + k)] = re[k];
                out[2 * (start + i + k) + 1] = im[k];
            }
        }
    }
    return 1;
}

/* Two samples of a real table at each of four cells, in order: lower and upper kx. */
FAML_INLINE vec load_twos(const float *a, const float *b, const float *c, const float *d) {
    typedef double four __attribute__((vector_size(32)));
    double v[4];
    memcpy(v, a, 8);
    memcpy(v + 1, b, 8);
    memcpy(v + 2, c, 8);
    memcpy(v + 3, d, 8);
    return (vec)(four){v[0], v[1], v[2], v[3]};
}

/* Cells i, i + 1, i + 4 and i + 5 of a real table: two values of kx each; weights likewise. */
FAML_INLINE vec twos_at(const SpectrumTable *t, const float *samples, const Cells *c, int i, vec w0,
                        vec w1, vec w2, vec w3) {
    const int dy = t->stride_y, dz = t->stride_z;
    const float *p = samples + c->corner[i], *q = samples + c->corner[i + 1],
                *r = samples + c->corner[i + 4], *s = samples + c->corner[i + 5];
    vec v = load_twos(p, q, r, s) * w0 + load_twos(p + dy, q + dy, r + dy, s + dy) * w1;
    vec u = load_twos(p + dz, q + dz, r + dz, s + dz) * w2
            + load_twos(p + dz + dy, q + dz + dy, r + dz + dy, s + dz + dy) * w3;
    return v + u;
}
#define FIRST_TWO(v) SHUFFLE(v, v, 0, 0, 1, 1, 4, 4, 5, 5)
#define LAST_TWO(v) SHUFFLE(v, v, 2, 2, 3, 3, 6, 6, 7, 7)

/* Eight values of a real table of the same shape, which starts at samples. */
FAML_INLINE vec interpolate_real8(const SpectrumTable *t, const float *samples, const Cells *c, int i) {
    const vec w0 = load(c->row[0] + i), w1 = load(c->row[1] + i), w2 = load(c->row[2] + i),
              w3 = load(c->row[3] + i);
    vec a = twos_at(t, samples, c, i, FIRST_TWO(w0), FIRST_TWO(w1), FIRST_TWO(w2), FIRST_TWO(w3));
    vec b = twos_at(t, samples, c, i + 2, LAST_TWO(w0), LAST_TWO(w1), LAST_TWO(w2), LAST_TWO(w3));
    vec low = SHUFFLE(a, b, 0, 2, 8, 10, 4, 6, 12, 14), high = SHUFFLE(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
    return low + load(c->upper_x + i) * (high - low);
}

/* Samples in runs of consecutive kx, none longer than LONGEST_RUN. */
enum { LONGEST_RUN = 16 };

/* Phase factors of the runs from `first` to `stop`: separable. ramp: cosines and sines for kx, then
 * ky, then kz = -radius..radius, `width` floats each, of which the last LONGEST_RUN are padding. */
FAML_INLINE void phases(const int *runs, const int *rows, int first, int stop, const float *ramp,
                        int radius, int width, float *re, float *im) {
    const float *x = ramp + radius, *y = x + 2 * width, *z = y + 2 * width;
    for (int r = first; r < stop; r++) {
        const int kx = runs[3 * r], n = runs[3 * r + 1], *row = rows + 2 * runs[3 * r + 2];
        const float a = z[row[0]], b = z[row[0] + width], c = y[row[1]], d = y[row[1] + width];
        const float f = a * c - b * d, g = a * d + b * c;
        for (int i = 0; i < n; i += LANES) { /* what is written beyond n, the next run overwrites */
            vec p = load(x + kx + i), q = load(x + kx + width + i);
            store(re + i, p * f - q * g);
            store(im + i, p * g + q * f);
        }
        re += n;
        im += n;
    }
}

/* Add n poses of a particle, moved back, to signal (re, im) and its wedge to coverage, at index. */
FAML_CLONES
static void add_turned_back(SpectrumTable t, const float *wedge, const float *const points[3],
                            const int *runs, int n_runs, const int *rows, const long *index,
                            const double *matrices, int n_poses, const float *ramps, int radius,
                            int width, const double *weights, double *signal, double *coverage) {
    Cells cells;
    float re[CHUNK], im[CHUNK], w[CHUNK], m[9];
    float phase_re[CHUNK + LANES], phase_im[CHUNK + LANES];
    double sum_re[CHUNK], sum_im[CHUNK], sum_w[CHUNK];
    long start = 0;
    for (int first = 0, stop; first < n_runs; first = stop) {
        int n = 0;
        for (stop = first; stop < n_runs && n + runs[3 * stop + 1] <= CHUNK; stop++)
            n += runs[3 * stop + 1];
        memset(sum_re, 0, sizeof sum_re);
        memset(sum_im, 0, sizeof sum_im);
        memset(sum_w, 0, sizeof sum_w);
        for (int pose = 0; pose < n_poses; pose++) {
            const double weight = weights[pose];
            for (int i = 0; i < 9; i++) m[i] = (float)matrices[9 * pose + i];
            locate_chunk(&t, points, start, n, m, &cells);
            for (int i = 0; i < n; i += LANES) {
                vec a, b;
                interpolate8(&t, &cells, i, &a, &b);
                store(re + i, a);
                store(im + i, b);
                store(w + i, interpolate_real8(&t, wedge, &cells, i));
            }
            phases(runs, rows, first, stop, ramps + (long)pose * 6 * width, radius, width, phase_re,
                   phase_im);
            for (int i = 0; i < n; i++) {
                sum_re[i] += weight * (re[i] * phase_re[i] - im[i] * phase_im[i]);
                sum_im[i] += weight * (re[i] * phase_im[i] + im[i] * phase_re[i]);
                sum_w[i] += weight * w[i];
            }
        }
        for (int i = 0; i < n; i++) {
            const long at = index[start + i];
            signal[2 * at] += sum_re[i];
            signal[2 * at + 1] += sum_im[i];
            coverage[at] += sum_w[i];
        }
        start += n;
    }
}

/* ------------------------------------------------------------------------------------- scores
 * Samples in runs of kx; runs in any order (tiles keep what is read of the table in the cache). */
typedef struct {
    long n_samples;
    int n_runs, n_rows, n_planes, n_tiles, radius;
    const float *axes[3];          /* (n_samples,) kx, ky, kz */
    const float *weight, *re, *im; /* (n_samples,) wedge times multiplicity; that times the particle */
    const int *runs;               /* (n_runs, 3): first kx, samples, row */
    const int *rows;               /* (n_rows, 2): kz, ky, ascending */
    const int *tiles;              /* (n_tiles + 1,): first sample of each tile of neighbours */
} RunSamples;

/* Shifts: multiples of `step` voxels up to `reach` and one beyond, the same along each axis. */
typedef struct {
    int n_box, reach, n_lanes; /* lanes: reach + 2 rounded up to LANES */
    double step, max_shift;
    const float *cosines, *sines; /* (2 radius + 1, n_lanes) of 2 pi k shift / n; k from -radius */
} ShiftWindow;

/* Working memory, all in floats. */
typedef struct {
    float *after_x; /* (n_rows, 4, n_lanes) */
    float *after_y; /* (n_planes, reach + 2, 8, n_lanes) */
    float *parts;   /* (8, reach + 2, reach + 2, n_lanes) */
    float *phase;   /* (2, n_planes, n_lanes) */
    float *ramp;    /* (2, radius + 1 + LANES) */
    float *row_ramp; /* (n_rows, 2) */
} Scratch;

/* Products conj(turned average) times particle from `first` to `stop`; returns their power. */
FAML_INLINE double products(const SpectrumTable *t, const RunSamples *s, long first, long stop,
                            const double *matrix, float *re, float *im) {
    Cells cells;
    float m[9];
    double power = 0.0;
    for (int i = 0; i < 9; i++) m[i] = (float)matrix[i];
    for (long start = first; start < stop; start += CHUNK) {
        int n = stop - start < CHUNK ? (int)(stop - start) : CHUNK;
        int i = 0;
        vec a, b, sum = spread(0);
        float rest = 0.0f;
        locate_chunk(t, s->axes, start, n, m, &cells);
        const float *w = s->weight + start, *xr = s->re + start, *xi = s->im + start;
        for (; i + LANES <= n; i += LANES) {
            interpolate8(t, &cells, i, &a, &b);
            vec x = load(xr + i), y = load(xi + i);
            sum += load(w + i) * (a * a + b * b);
            store(re + start + i, x * a + y * b);
            store(im + start + i, y * a - x * b);
        }
        if (i < n) interpolate8(t, &cells, i, &a, &b);
        for (int k = 0; i < n; i++, k++) {
            rest += w[i] * (a[k] * a[k] + b[k] * b[k]);
            re[start + i] = xr[i] * a[k] + xi[i] * b[k];
            im[start + i] = xi[i] * a[k] - xr[i] * b[k];
        }
        power += total(sum) + rest;
    }
    return power;
}

/* The block of the table, BLOCK samples wide, that holds a tile's middle sample when turned. */
enum { BLOCK = 32 };

FAML_INLINE int block_of(const SpectrumTable *t, const RunSamples *s, int tile, const double *m,
                         int n_across) {
    const long middle = ((long)s->tiles[tile] + s->tiles[tile + 1]) / 2;
    const double a = s->axes[0][middle], b = s->axes[1][middle], c = s->axes[2][middle];
    double x = m[0] * a + m[1] * b + m[2] * c, y = m[3] * a + m[4] * b + m[5] * c,
           z = m[6] * a + m[7] * b + m[8] * c, sign = x < 0 ? -1.0 : 1.0;
    return ((int)(sign * z + t->limit) / BLOCK * n_across + (int)(sign * y + t->limit) / BLOCK)
               * n_across + (int)(sign * x) / BLOCK;
}

/* Products of all rotations, (n, 2, stride) floats, and power. A table beyond the cache is read
 * block by block, each by all rotations before the next: otherwise memory is the bound. */
FAML_CLONES
static void turn_and_multiply(SpectrumTable t, RunSamples s, const double *matrices, int n,
                              int *start, int *order, long stride, float *product, double *power) {
    const int n_across = 2 * t.limit / BLOCK + 1, n_blocks = n_across * n_across * n_across;
    const int n_parts = n * s.n_tiles;
    /* Counting sort of (rotation, tile) by block; within a block in their own order. */
    memset(start, 0, (n_blocks + 1) * sizeof(int));
    for (int i = 0; i < n_parts; i++)
        start[block_of(&t, &s, i % s.n_tiles, matrices + 9 * (i / s.n_tiles), n_across) + 1]++;
    for (int b = 0; b < n_blocks; b++) start[b + 1] += start[b];
    for (int i = 0; i < n_parts; i++)
        order[start[block_of(&t, &s, i % s.n_tiles, matrices + 9 * (i / s.n_tiles), n_across)]++] = i;
    memset(power, 0, n * sizeof(double));
    for (int i = 0; i < n_parts; i++) {
        const int rotation = order[i] / s.n_tiles, tile = order[i] % s.n_tiles;
        float *re = product + 2 * rotation * stride;
        power[rotation] += products(&t, &s, s.tiles[tile], s.tiles[tile + 1],
                                    matrices + 9 * rotation, re, re + stride);
    }
}

/* Add the sum over a run of p exp(i k t) in four parts, for shifts t >= 0:
 * re cos, re sin, im cos, im sin. */
FAML_INLINE void sum_over_x(const float *re, const float *im, int n, const float *cosines,
                            const float *sines, int n_lanes, float *out) {
    for (int b = 0; b < n_lanes; b += LANES) {
        vec rc0 = load(out + b), rs0 = load(out + n_lanes + b), ic0 = load(out + 2 * n_lanes + b),
            is0 = load(out + 3 * n_lanes + b);
        vec rc1 = spread(0), rs1 = rc1, ic1 = rc1, is1 = rc1;
        const float *c = cosines + b, *s = sines + b;
        int i = 0;
        for (; i + 1 < n; i += 2, c += 2 * n_lanes, s += 2 * n_lanes) {
            vec c0 = load(c), s0 = load(s), c1 = load(c + n_lanes), s1 = load(s + n_lanes);
            rc0 += re[i] * c0;
            rs0 += re[i] * s0;
            ic0 += im[i] * c0;
            is0 += im[i] * s0;
            rc1 += re[i + 1] * c1;
            rs1 += re[i + 1] * s1;
            ic1 += im[i + 1] * c1;
            is1 += im[i + 1] * s1;
        }
        if (i < n) {
            vec c0 = load(c), s0 = load(s);
            rc0 += re[i] * c0;
            rs0 += re[i] * s0;
            ic0 += im[i] * c0;
            is0 += im[i] * s0;
        }
        store(out + b, rc0 + rc1);
        store(out + n_lanes + b, rs0 + rs1);
        store(out + 2 * n_lanes + b, ic0 + ic1);
        store(out + 3 * n_lanes + b, is0 + is1);
    }
}

/* Sum over the rows of a plane for one shift in y: out[4 * is_im + 2 * is_sin_y + is_sin_x]. */
FAML_INLINE void sum_over_y(const float *after_x, const int *rows, int n_rows, int shift,
                            const ShiftWindow *w, int radius, float *out) {
    const int n_lanes = w->n_lanes;
    for (int b = 0; b < n_lanes; b += LANES) {
        vec s0 = spread(0), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
        const float *p = after_x + b;
        for (int r = 0; r < n_rows; r++, p += 4 * n_lanes) {
            const long at = (long)(rows[2 * r + 1] + radius) * n_lanes + shift;
            const float c = w->cosines[at], s = w->sines[at];
            vec rc = load(p), rs = load(p + n_lanes), ic = load(p + 2 * n_lanes),
                is = load(p + 3 * n_lanes);
            s0 += c * rc;
            s1 += c * rs;
            s2 += s * rc;
            s3 += s * rs;
            s4 += c * ic;
            s5 += c * is;
            s6 += s * ic;
            s7 += s * is;
        }
        store(out + b, s0);
        store(out + n_lanes + b, s1);
        store(out + 2 * n_lanes + b, s2);
        store(out + 3 * n_lanes + b, s3);
        store(out + 4 * n_lanes + b, s4);
        store(out + 5 * n_lanes + b, s5);
        store(out + 6 * n_lanes + b, s6);
        store(out + 7 * n_lanes + b, s7);
    }
}

/* Re p exp(i (a + b + c)) expands into eight products of sines and cosines; bit 0, 1, 2 of a part's
 * number says that x, y, z enters by its sine. An even number of sines goes with re p, an odd one
 * with im p. Each part is even or odd in each shift, so shifts >= 0 hold them all.
 * phase: cosines, then sines of the planes' kz. */
FAML_INLINE void sum_over_z(const float *after_y, const float *phase, int n_planes,
                            const ShiftWindow *w, float *parts) {
    const int n_lanes = w->n_lanes, n = w->reach + 2;
    const long plane = (long)n * 8 * n_lanes;
    for (int q = 0; q < 8; q++) {
        const int xy = q & 3, odd = (xy ^ (xy >> 1)) & 1, by_sine = (q >> 2) ^ odd;
        const float *factor = phase + (long)by_sine * n_planes * n_lanes;
        float *part = parts + (long)(by_sine * 4 + xy) * n * n * n_lanes;
        for (int y = 0; y < n; y++)
            for (int b = 0; b < n_lanes; b += LANES)
                for (int first = 0; first < n; first += LANES) {
                    vec s0 = spread(0), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0,
                        s7 = s0;
                    const float *p = after_y + ((long)y * 8 + q) * n_lanes + b;
                    const float *f = factor + first;
                    for (int k = 0; k < n_planes; k++, p += plane, f += n_lanes) {
                        vec v = load(p);
                        s0 += f[0] * v;
                        s1 += f[1] * v;
                        s2 += f[2] * v;
                        s3 += f[3] * v;
                        s4 += f[4] * v;
                        s5 += f[5] * v;
                        s6 += f[6] * v;
                        s7 += f[7] * v;
                    }
                    const vec sums[LANES] = {s0, s1, s2, s3, s4, s5, s6, s7};
                    for (int z = first; z < n && z < first + LANES; z++)
                        store(part + ((long)z * n + y) * n_lanes + b, sums[z - first]);
                }
    }
}

/* From the eight parts to the eight octants of shifts, in place: bit a of an octant's number says
 * that the shift along axis a (x, y, z) is negative. */
FAML_INLINE void parts_to_octants(float *parts, long size) {
    static const float SIGN[8] = {1, -1, -1, -1, -1, -1, -1, 1};
    for (long i = 0; i < size; i += LANES) {
        vec v[8];
        for (int e = 0; e < 8; e++) v[e] = SIGN[e] * load(parts + e * size + i);
        for (int bit = 1; bit < 8; bit *= 2)
            for (int e = 0; e < 8; e++)
                if (!(e & bit)) {
                    vec a = v[e], b = v[e | bit];
                    v[e] = a + b;
                    v[e | bit] = a - b;
                }
        for (int e = 0; e < 8; e++) store(parts + e * size + i, v[e]);
    }
}

FAML_INLINE float score_at(const float *octants, const ShiftWindow *w, const int *shift) {
    const long n = w->reach + 2;
    int octant = (shift[0] < 0) | (shift[1] < 0) << 1 | (shift[2] < 0) << 2;
    long x = shift[0] < 0 ? -shift[0] : shift[0], y = shift[1] < 0 ? -shift[1] : shift[1],
         z = shift[2] < 0 ? -shift[2] : shift[2];
    return octants[((octant * n + z) * n + y) * w->n_lanes + x];
}

/* The highest score on the grid within max_shift, then a parabola along each axis. */
FAML_INLINE void best_shift(const float *octants, const ShiftWindow *w, double *shift_xyz) {
    const int n = w->reach + 2;
    int peak[3] = {0, 0, 0};
    float highest = score_at(octants, w, peak);
    const double radius_sq = w->max_shift * w->max_shift, step_sq = w->step * w->step;
    for (int octant = 0; octant < 8; octant++)
        for (int z = 0; z <= w->reach; z++)
            for (int y = 0; y <= w->reach; y++) {
                const float *row = octants + (((long)octant * n + z) * n + y) * w->n_lanes;
                for (int x = 0; x <= w->reach; x++) {
                    if (step_sq * (x * x + y * y + z * z) > radius_sq) break;
                    if (row[x] > highest) {
                        highest = row[x];
                        peak[0] = octant & 1 ? -x : x;
                        peak[1] = octant & 2 ? -y : y;
                        peak[2] = octant & 4 ? -z : z;
                    }
                }
            }
    for (int a = 0; a < 3; a++) {
        int near[3] = {peak[0], peak[1], peak[2]};
        double below, above, curvature, offset = 0.0;
        near[a] = peak[a] - 1;
        below = score_at(octants, w, near);
        near[a] = peak[a] + 1;
        above = score_at(octants, w, near);
        curvature = below - 2.0 * highest + above;
        if (curvature < 0.0) offset = 0.5 * (below - above) / fmin(curvature, -1e-30);
        shift_xyz[a] = (peak[a] + fmax(-0.5, fmin(0.5, offset))) * w->step;
    }
}

/* Re sum p exp(2 pi i k t / n) at any shift. */
FAML_INLINE double cross_at(const RunSamples *s, const float *re, const float *im, int n_box,
                            const double *shift_xyz, float *ramp, float *row_ramp) {
    static const int KEEP[2 * LANES] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    const double unit = 6.283185307179586476925 / n_box;
    const int n_ramp = s->radius + 1 + LANES;
    for (int k = 0; k < n_ramp; k++) {
        ramp[k] = (float)cos(unit * k * shift_xyz[0]);
        ramp[n_ramp + k] = (float)sin(unit * k * shift_xyz[0]);
    }
    /* Rows of a plane follow each other along ky: their phase turns by one step. */
    const double step_re = cos(unit * shift_xyz[1]), step_im = sin(unit * shift_xyz[1]);
    double row_re = 1.0, row_im = 0.0, cross = 0.0;
    for (int r = 0; r < s->n_rows; r++) {
        const int *row = s->rows + 2 * r;
        if (r > 0 && row[0] == row[-2] && row[1] == row[-1] + 1) {
            double turned = row_re * step_re - row_im * step_im;
            row_im = row_re * step_im + row_im * step_re;
            row_re = turned;
        } else {
            double angle = unit * (row[0] * shift_xyz[2] + row[1] * shift_xyz[1]);
            row_re = cos(angle);
            row_im = sin(angle);
        }
        row_ramp[2 * r] = (float)row_re;
        row_ramp[2 * r + 1] = (float)row_im;
    }
    vec sum = spread(0);
    for (int r = 0; r < s->n_runs; r++) {
        const int *run = s->runs + 3 * r, n = run[1];
        const float *cx = ramp + run[0], *sx = ramp + n_ramp + run[0];
        vec sum_re = spread(0), sum_im = spread(0);
        for (int i = 0; i < n; i += LANES) {
            ivec keep;
            memcpy(&keep, KEEP + (n - i < LANES ? LANES - (n - i) : 0), sizeof keep);
            vec a = (vec)((ivec)load(re + i) & keep), b = (vec)((ivec)load(im + i) & keep);
            vec c = load(cx + i), d = load(sx + i);
            sum_re += a * c - b * d;
            sum_im += a * d + b * c;
        }
        sum += row_ramp[2 * run[2]] * sum_re - row_ramp[2 * run[2] + 1] * sum_im;
        if (r % 32 == 31) {
            cross += total(sum);
            sum = spread(0);
        }
        re += n;
        im += n;
    }
    return cross + total(sum);
}

/* Best shift of one rotation from its products, and the sum of Eq. 1 there: x, y, z, cross. */
FAML_CLONES
static void score_shifts(RunSamples s, ShiftWindow w, Scratch work, const float *product_re,
                         const float *product_im, double *out) {
    const int n = w.reach + 2, n_lanes = w.n_lanes;
    const float *re = product_re, *im = product_im;
    memset(work.after_x, 0, (size_t)s.n_rows * 4 * n_lanes * sizeof(float));
    for (int r = 0; r < s.n_runs; r++) {
        const int *run = s.runs + 3 * r;
        const long at = (long)(run[0] + s.radius) * n_lanes;
        sum_over_x(re, im, run[1], w.cosines + at, w.sines + at, n_lanes,
                   work.after_x + (long)run[2] * 4 * n_lanes);
        re += run[1];
        im += run[1];
    }
    int plane = 0;
    for (int first = 0, stop; first < s.n_rows; first = stop, plane++) {
        const int kz = s.rows[2 * first];
        for (stop = first; stop < s.n_rows && s.rows[2 * stop] == kz; stop++) continue;
        for (int y = 0; y < n; y++)
            sum_over_y(work.after_x + (long)first * 4 * n_lanes, s.rows + 2 * first, stop - first, y,
                       &w, s.radius, work.after_y + ((long)plane * n + y) * 8 * n_lanes);
        const long at = (long)(kz + s.radius) * n_lanes;
        memcpy(work.phase + (long)plane * n_lanes, w.cosines + at, n_lanes * sizeof(float));
        memcpy(work.phase + (long)(s.n_planes + plane) * n_lanes, w.sines + at,
               n_lanes * sizeof(float));
    }
    sum_over_z(work.after_y, work.phase, s.n_planes, &w, work.parts);
    parts_to_octants(work.parts, (long)n * n * n_lanes);
    best_shift(work.parts, &w, out);
    out[3] = cross_at(&s, product_re, product_im, w.n_box, out, work.ramp, work.row_ramp);
}

#endif
