/* Trilinear sampling of a spectrum table, and the score of a turned average over all shifts.
 *
 * GCC's vector extensions in place of intrinsics: the same source compiles for every processor, and
 * where the compiler can, it makes a second copy for AVX2 that is chosen when the module is loaded.
 */
#ifndef FAML_SCORING_H
#define FAML_SCORING_H

#include <math.h>
#include <string.h>

#pragma GCC diagnostic ignored "-Wpsabi"

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__clang__) && __clang_major__ >= 14
#define FAML_CLONES __attribute__((target_clones("avx2", "default")))
#elif defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define FAML_CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#elif defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 7
#define FAML_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define FAML_CLONES
#endif
#define FAML_INLINE static inline __attribute__((always_inline))

enum { LANES = 8, CHUNK = 64 };

typedef float vec __attribute__((vector_size(32)));
typedef int ivec __attribute__((vector_size(32)));
typedef float quad __attribute__((vector_size(16)));

FAML_INLINE vec load(const float *p) { vec v; memcpy(&v, p, sizeof v); return v; }
FAML_INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }
FAML_INLINE quad load4(const float *p) { quad v; memcpy(&v, p, sizeof v); return v; }
FAML_INLINE vec spread(float x) { return (vec){x, x, x, x, x, x, x, x}; }
FAML_INLINE ivec ispread(int x) { return (ivec){x, x, x, x, x, x, x, x}; }
FAML_INLINE float total(vec v) {
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
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

FAML_INLINE void interpolate(const SpectrumTable *t, const Cells *c, int n, float *re, float *im) {
    const int dy = 2 * t->stride_y, dz = 2 * t->stride_z;
    for (int i = 0; i < n; i++) {
        const float *p = t->samples + 2 * (long)c->corner[i];
        quad v = load4(p) * c->row[0][i] + load4(p + dy) * c->row[1][i];
        quad u = load4(p + dz) * c->row[2][i] + load4(p + dz + dy) * c->row[3][i];
        v += u; /* re and im at the lower kx, then at the upper */
        re[i] = v[0] + c->upper_x[i] * (v[2] - v[0]);
        im[i] = v[1] + c->upper_x[i] * (v[3] - v[1]);
    }
    for (int i = 0; i < n; i += LANES) {
        ivec bits, flip;
        memcpy(&bits, im + i, sizeof bits);
        memcpy(&flip, c->flip + i, sizeof flip);
        bits ^= flip;
        memcpy(im + i, &bits, sizeof bits);
    }
}

static const float STEPS[LANES] = {0, 1, 2, 3, 4, 5, 6, 7};

/* The table at matrix @ (points[0], points[1], points[2]); 0 if a point lies outside it. */
FAML_CLONES
static int gather_points(SpectrumTable t, const float *const points[3], long n_points,
                         const double *matrix, float *out) {
    Cells cells;
    float re[CHUNK], im[CHUNK], in[3][CHUNK], m[9];
    float farthest = 0.0f, limit = (float)t.limit;
    for (int i = 0; i < 9; i++) m[i] = (float)matrix[i];
    memset(in, 0, sizeof in);
    for (long start = 0; start < n_points; start += CHUNK) {
        int n = n_points - start < CHUNK ? (int)(n_points - start) : CHUNK;
        for (int a = 0; a < 3; a++) memcpy(in[a], points[a] + start, n * sizeof(float));
        for (int i = 0; i < n; i += LANES) {
            vec a = load(in[0] + i), b = load(in[1] + i), c = load(in[2] + i);
            locate(&t, m[0] * a + m[1] * b + m[2] * c, m[3] * a + m[4] * b + m[5] * c,
                   m[6] * a + m[7] * b + m[8] * c, i, &cells);
        }
        for (int i = 0; i < n; i++) {
            float far = in[0][i] * in[0][i] + in[1][i] * in[1][i] + in[2][i] * in[2][i];
            farthest = far > farthest ? far : farthest;
        }
        interpolate(&t, &cells, n, re, im);
        for (int i = 0; i < n; i++) {
            out[2 * (start + i)] = re[i];
            out[2 * (start + i) + 1] = im[i];
        }
    }
    /* The matrix is a rotation times a scale: its first row gives the scale. */
    return farthest * (m[0] * m[0] + m[1] * m[1] + m[2] * m[2]) < limit * limit;
}

/* ------------------------------------------------------------------------------------- scores
 * Samples in rows of kx, each padded to a multiple of LANES with weight 0. */
typedef struct {
    int n_rows, n_padded, radius;
    const int *rows;     /* (n_rows, 5): kz, ky, first kx, samples, offset; planes of kz together */
    const float *weight; /* (n_padded,) wedge times multiplicity */
    const float *re, *im; /* (n_padded,) the particle, times weight */
} RowSamples;

/* Shifts: multiples of `step` voxels up to `reach` and one beyond, the same along each axis. */
typedef struct {
    int n_box, reach, n_lanes; /* lanes: reach + 2 rounded up to LANES */
    double step, max_shift;
    const float *cosines, *sines; /* (radius + 1 + LANES, n_lanes) of 2 pi k shift / n_box */
} ShiftWindow;

/* Working memory, all in floats. */
typedef struct {
    float *re, *im;    /* (n_padded,) products of particle and turned average */
    float *plane;      /* (2 radius + 1, 4, n_lanes) rows of a plane after the kx sum */
    float *after_y;    /* (8, n_lanes) of one shift in y */
    float *parts;      /* (8, reach + 2, reach + 2, n_lanes) */
    float *ramp;       /* (2, radius + 1 + LANES) */
} Scratch;

/* Sum over a row of p exp(i k t) in four parts: re cos, re sin, im cos, im sin, for shifts t >= 0. */
FAML_INLINE void sum_over_x(const float *re, const float *im, int n, const float *cosines,
                            const float *sines, int n_lanes, float *out) {
    for (int b = 0; b < n_lanes; b += LANES) {
        vec rc0 = spread(0), rs0 = rc0, ic0 = rc0, is0 = rc0, rc1 = rc0, rs1 = rc0, ic1 = rc0,
            is1 = rc0;
        int i = 0;
        for (; i + 1 < n; i += 2) {
            const float *c = cosines + i * n_lanes + b, *s = sines + i * n_lanes + b;
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
            vec c0 = load(cosines + i * n_lanes + b), s0 = load(sines + i * n_lanes + b);
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
FAML_INLINE void sum_over_y(const float *plane, const int *rows, int n_rows, int shift,
                            const ShiftWindow *w, float *out) {
    const int n_lanes = w->n_lanes;
    for (int b = 0; b < n_lanes; b += LANES) {
        vec sum[8];
        for (int e = 0; e < 8; e++) sum[e] = spread(0);
        for (int r = 0; r < n_rows; r++) {
            int ky = rows[5 * r + 1], at = (ky < 0 ? -ky : ky) * n_lanes + shift;
            float c = w->cosines[at], s = ky < 0 ? -w->sines[at] : w->sines[at];
            const float *p = plane + 4 * r * n_lanes + b;
            vec rc = load(p), rs = load(p + n_lanes), ic = load(p + 2 * n_lanes),
                is = load(p + 3 * n_lanes);
            sum[0] += c * rc;
            sum[1] += c * rs;
            sum[2] += s * rc;
            sum[3] += s * rs;
            sum[4] += c * ic;
            sum[5] += c * is;
            sum[6] += s * ic;
            sum[7] += s * is;
        }
        for (int e = 0; e < 8; e++) store(out + e * n_lanes + b, sum[e]);
    }
}

/* Re p exp(i (a + b + c)) expands into eight products of sines and cosines; bit 0, 1, 2 of a part's
 * number says that x, y, z enters by its sine. An even number of sines goes with re p, an odd one
 * with im p. Each part is even or odd in each shift, so shifts >= 0 hold them all. */
FAML_INLINE void add_plane(const float *after_y, int kz, int shift_y, const ShiftWindow *w,
                           float *parts) {
    const int n_lanes = w->n_lanes, n = w->reach + 2;
    const int at = (kz < 0 ? -kz : kz) * n_lanes;
    for (int q = 0; q < 8; q++) {
        int xy = q & 3, odd = (xy ^ (xy >> 1)) & 1, by_sine = (q >> 2) ^ odd;
        float *part = parts + (long)(by_sine * 4 + xy) * n * n * n_lanes;
        for (int shift_z = 0; shift_z < n; shift_z++) {
            float f = by_sine ? (kz < 0 ? -w->sines[at + shift_z] : w->sines[at + shift_z])
                              : w->cosines[at + shift_z];
            float *out = part + ((long)shift_z * n + shift_y) * n_lanes;
            for (int b = 0; b < n_lanes; b += LANES)
                store(out + b, load(out + b) + f * load(after_y + q * n_lanes + b));
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
FAML_INLINE double cross_at(const RowSamples *s, const float *re, const float *im, int n_box,
                            const double *shift_xyz, float *ramp) {
    const double unit = 6.283185307179586476925 / n_box;
    const int n_ramp = s->radius + 1 + LANES;
    double cross = 0.0, row_re = 1.0, row_im = 0.0;
    for (int k = 0; k < n_ramp; k++) {
        ramp[k] = (float)cos(unit * k * shift_xyz[0]);
        ramp[n_ramp + k] = (float)sin(unit * k * shift_xyz[0]);
    }
    /* Rows of a plane follow each other along ky: their phase turns by one step. */
    const double step_re = cos(unit * shift_xyz[1]), step_im = sin(unit * shift_xyz[1]);
    for (int r = 0; r < s->n_rows; r++) {
        const int *row = s->rows + 5 * r;
        const float *pr = re + row[4], *pi = im + row[4];
        const float *cx = ramp + row[2], *sx = ramp + n_ramp + row[2];
        vec sum_re = spread(0), sum_im = spread(0);
        for (int i = 0; i < row[3]; i += LANES) {
            vec a = load(pr + i), b = load(pi + i), c = load(cx + i), d = load(sx + i);
            sum_re += a * c - b * d;
            sum_im += a * d + b * c;
        }
        if (r > 0 && row[0] == row[-5] && row[1] == row[-4] + 1) {
            double turned = row_re * step_re - row_im * step_im;
            row_im = row_re * step_im + row_im * step_re;
            row_re = turned;
        } else {
            double angle = unit * (row[0] * shift_xyz[2] + row[1] * shift_xyz[1]);
            row_re = cos(angle);
            row_im = sin(angle);
        }
        cross += row_re * total(sum_re) - row_im * total(sum_im);
    }
    return cross;
}

/* Products conj(turned average) times particle of a row; returns its share of the power. */
FAML_INLINE float row_products(const SpectrumTable *t, const RowSamples *s, const int *row,
                               const double *m, float *re, float *im) {
    Cells cells;
    float ar[CHUNK], ai[CHUNK];
    vec power = spread(0);
    const vec lane = load(STEPS);
    const vec dx = spread((float)m[0]), dy = spread((float)m[3]), dz = spread((float)m[6]);
    for (int start = 0; start < row[3]; start += CHUNK) {
        int n = row[3] - start < CHUNK ? row[3] - start : CHUNK;
        double kx = row[2] + start, ky = row[1], kz = row[0];
        const vec x = spread((float)(m[0] * kx + m[1] * ky + m[2] * kz));
        const vec y = spread((float)(m[3] * kx + m[4] * ky + m[5] * kz));
        const vec z = spread((float)(m[6] * kx + m[7] * ky + m[8] * kz));
        long at = row[4] + start;
        for (int i = 0; i < n; i += LANES) {
            vec k = lane + spread((float)i);
            locate(t, x + k * dx, y + k * dy, z + k * dz, i, &cells);
        }
        for (int i = n & ~(LANES - 1); i < n; i++) ar[i] = ai[i] = 0.0f;
        for (int i = n; i % LANES; i++) ar[i] = ai[i] = 0.0f;
        interpolate(t, &cells, n, ar, ai);
        for (int i = 0; i < n; i += LANES) {
            vec a = load(ar + i), b = load(ai + i);
            vec xr = load(s->re + at + i), xi = load(s->im + at + i);
            power += load(s->weight + at + i) * (a * a + b * b);
            store(re + at + i, xr * a + xi * b);
            store(im + at + i, xi * a - xr * b);
        }
    }
    return total(power);
}

/* Best shift of one rotation, and what Eq. 1 and 15 need there: out = x, y, z, cross, power. */
FAML_CLONES
static void score_rotation(SpectrumTable t, RowSamples s, ShiftWindow w, Scratch work,
                           const double *matrix, double *out) {
    const int n = w.reach + 2, n_lanes = w.n_lanes;
    const long n_part = (long)n * n * n_lanes;
    double power = 0.0;
    memset(work.parts, 0, 8 * n_part * sizeof(float));
    for (int first = 0, stop; first < s.n_rows; first = stop) {
        const int *rows = s.rows + 5 * first;
        for (stop = first; stop < s.n_rows && s.rows[5 * stop] == rows[0]; stop++) {
            const int *row = s.rows + 5 * stop;
            power += row_products(&t, &s, row, matrix, work.re, work.im);
            sum_over_x(work.re + row[4], work.im + row[4], row[3], w.cosines + row[2] * n_lanes,
                       w.sines + row[2] * n_lanes, n_lanes, work.plane + 4 * (stop - first) * n_lanes);
        }
        for (int shift_y = 0; shift_y < n; shift_y++) {
            sum_over_y(work.plane, rows, stop - first, shift_y, &w, work.after_y);
            add_plane(work.after_y, rows[0], shift_y, &w, work.parts);
        }
    }
    parts_to_octants(work.parts, n_part);
    best_shift(work.parts, &w, out);
    out[3] = cross_at(&s, work.re, work.im, w.n_box, out, work.ramp);
    out[4] = power;
}

#endif
