/* Eight floats at a time, in GCC's vector extensions: the same source compiles for every processor.
 *
 * FAML_CLONES before a function makes a second copy of it for AVX2, where the compiler can; which one
 * runs is decided when the module is loaded.
 */
#ifndef FAML_SIMD_H
#define FAML_SIMD_H

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

enum { LANES = 8 };

typedef float vec __attribute__((vector_size(32)));
typedef int ivec __attribute__((vector_size(32)));
typedef float quad __attribute__((vector_size(16)));

FAML_INLINE vec load(const float *p) { vec v; memcpy(&v, p, sizeof v); return v; }
FAML_INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }
FAML_INLINE quad load4(const float *p) { quad v; memcpy(&v, p, sizeof v); return v; }
FAML_INLINE vec spread(float x) { return (vec){x, x, x, x, x, x, x, x}; }
FAML_INLINE ivec ispread(int x) { return (ivec){x, x, x, x, x, x, x, x}; }
/* Lanes of a (0 to 7) and b (8 to 15) in a given order. */
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define JOIN(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7)
#else
#define JOIN(a, b) (vec){a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]}
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif
FAML_INLINE float total(vec v) {
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

#endif
