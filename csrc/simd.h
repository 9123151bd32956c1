/* Vectors of REAL at the width of the instruction set being compiled.
 *
 * Included by kernels.h once per (instruction set, type). A stub sets REAL_BITS (32 or 64) and, for x86 beyond
 * the baseline, FRNN_AVX2 or FRNN_AVX512; AVX-512 also comes with 32-byte vectors, for layers too small to fill wider
 * ones. Everything else (SSE2, NEON, any other machine) goes through the compilers' generic vectors, whose + - * / and
 * shifts are used everywhere: only what they lack, or compile poorly, is spelled out here.
 */
#ifndef FRNN_SIMD_H
#define FRNN_SIMD_H

#include <float.h>
#include <stdint.h>
#include <string.h>

#if defined(FRNN_AVX2) || defined(FRNN_AVX512)
#include <immintrin.h>
#endif

#if REAL_BITS == 32
#define REAL_SMALLEST FLT_MIN /* that is normal */
typedef float REAL;
typedef int32_t REAL_INT;
typedef uint32_t REAL_UINT;
#else
#define REAL_SMALLEST DBL_MIN
typedef double REAL;
typedef int64_t REAL_INT;
typedef uint64_t REAL_UINT;
#endif

#ifndef VECTOR_BYTES
#if defined(FRNN_AVX512)
#define VECTOR_BYTES 64
#elif defined(FRNN_AVX2)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#endif

/* How many vector registers there are. */
#if defined(FRNN_AVX512) || defined(__aarch64__)
#define REGISTERS 32
#else
#define REGISTERS 16
#endif

/* Wide vectors, those of products whose columns are not units, and of gates side by side: with AVX-512 and vectors of
 * 32 bytes a small layer's units fill no wider ones, but these do. Elsewhere both kinds are the same. */
#if defined(FRNN_AVX512)
#define WIDE_BYTES 64
#else
#define WIDE_BYTES VECTOR_BYTES
#endif

/* Everything is inlined into the few functions that the kernel table exports, so that tile sizes become constants
 * and no vector crosses a call. */
#define INLINE static inline __attribute__((always_inline))
#define RESTRICT __restrict__
/* Before a loop of a constant, small number of turns, so that arrays of vectors become registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
/* The products have many tiles; a copy for every caller would only take long to compile. */
#if defined(__clang__)
#define NOINLINE static __attribute__((noinline))
#else
#define NOINLINE static __attribute__((noinline, noclone))
#endif

#if defined(FRNN_AVX2) || defined(FRNN_AVX512)
#if REAL_BITS == 32
#define VOP_TYPE ps
#else
#define VOP_TYPE pd
#endif
#define VOP_PASTE(width, op, type) width##_##op##_##type
#define VOP_EXPAND(width, op, type) VOP_PASTE(width, op, type)
#define VOP(op) VOP_EXPAND(VOP_WIDTH, op, VOP_TYPE)
#endif

/* What there is for vectors of either width is a file that is included twice, with V(name) giving the names of wide
 * vectors and then those of the others: wreal and vreal, wfma and vfma. */
#define V(name) w##name
#define BYTES WIDE_BYTES
#include "vectors.h"
#undef V
#undef BYTES
#define V(name) v##name
#define BYTES VECTOR_BYTES
#include "vectors.h"
#undef V
#undef BYTES

#define LANES ((int)vlanes)
#define WIDE_LANES ((int)wlanes)
/* Whether these are the kernels of layers that have one vector of units or less. */
#define NARROW (WIDE_LANES > LANES)

/* Two vectors as one wide one, one with zeros above it, the halves of a wide vector, and the same halves of two of
 * them, side by side; two numbers for every two lanes, or one and zero, and of each of two such vectors the sums of
 * every two lanes, side by side; number k of a vector for all lanes of the lower half, and for those of the upper one
 * the number that is half a vector after it; number k of either half of a wide vector for all lanes of that half; a
 * vector in both halves; each of its numbers for two lanes. Where none is as wide, nobody asks. */
#if WIDE_BYTES == VECTOR_BYTES
INLINE wreal wjoin(vreal lower, vreal upper) { return (void)upper, lower; }
INLINE wreal wextend(vreal v) { return v; }
INLINE vreal wlower(wreal v) { return v; }
INLINE vreal wupper(wreal v) { return v; }
INLINE wreal wlowers(wreal a, wreal b) { return (void)b, a; }
INLINE wreal wuppers(wreal a, wreal b) { return (void)b, a; }
INLINE wreal wset_two(const REAL *p) { return vset(*p); }
INLINE wreal wset_one(const REAL *p) { return vset(*p); }
INLINE wreal wsum_twos(wreal a, wreal b) { return (void)b, a; }
INLINE wreal wspread(vreal v, const int k) { return (void)k, v; }
INLINE wreal wspread_two(wreal v, const int k) { return (void)k, v; }
INLINE wreal wload_twice(const REAL *p) { return vload(p); }
INLINE wreal wdouble(vreal v) { return v; }
#elif REAL_BITS == 32
INLINE wreal wjoin(vreal lower, vreal upper) {
    return (wreal)_mm512_insertf64x4(_mm512_castpd256_pd512((__m256d)lower), (__m256d)upper, 1);
}
INLINE wreal wextend(vreal v) { return _mm512_zextps256_ps512(v); }
INLINE vreal wlower(wreal v) { return _mm512_castps512_ps256(v); }
INLINE vreal wupper(wreal v) { return (vreal)_mm512_extractf64x4_pd((__m512d)v, 1); }
INLINE wreal wlowers(wreal a, wreal b) { return _mm512_shuffle_f32x4(a, b, 0x44); }
INLINE wreal wuppers(wreal a, wreal b) { return _mm512_shuffle_f32x4(a, b, 0xee); }
INLINE wreal wset_two(const REAL *p) {
    double both;
    memcpy(&both, p, sizeof both);
    return (wreal)_mm512_set1_pd(both);
}
INLINE wreal wset_one(const REAL *p) { return _mm512_maskz_broadcastss_ps(0x5555, _mm_load_ss(p)); }
INLINE wreal wsum_twos(wreal a, wreal b) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_ps(a, even, b) + _mm512_permutex2var_ps(a, odd, b);
}
INLINE wreal wspread(vreal v, const int k) {
    const __m512i lower = _mm512_set1_epi32(k), from = _mm512_mask_set1_epi32(lower, 0xff00, k + 4);
    return _mm512_permutexvar_ps(from, wextend(v));
}
INLINE wreal wspread_two(wreal v, const int k) {
    return _mm512_permutexvar_ps(_mm512_mask_set1_epi32(_mm512_set1_epi32(k), 0xff00, k + 8), v);
}
INLINE wreal wload_twice(const REAL *p) { return (wreal)_mm512_broadcast_f64x4((__m256d)vload(p)); }
INLINE wreal wdouble(vreal v) {
    const __m512i from = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(from, wextend(v));
}
#else
INLINE wreal wjoin(vreal lower, vreal upper) { return _mm512_insertf64x4(_mm512_castpd256_pd512(lower), upper, 1); }
INLINE wreal wextend(vreal v) { return _mm512_zextpd256_pd512(v); }
INLINE vreal wlower(wreal v) { return _mm512_castpd512_pd256(v); }
INLINE vreal wupper(wreal v) { return _mm512_extractf64x4_pd(v, 1); }
INLINE wreal wlowers(wreal a, wreal b) { return _mm512_shuffle_f64x2(a, b, 0x44); }
INLINE wreal wuppers(wreal a, wreal b) { return _mm512_shuffle_f64x2(a, b, 0xee); }
INLINE wreal wset_two(const REAL *p) { return (wreal)_mm512_broadcast_f32x4((__m128)_mm_loadu_pd(p)); }
INLINE wreal wset_one(const REAL *p) { return _mm512_maskz_broadcastsd_pd(0x55, _mm_load_sd(p)); }
INLINE wreal wsum_twos(wreal a, wreal b) {
    const __m512i even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14),
                  odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
    return _mm512_permutex2var_pd(a, even, b) + _mm512_permutex2var_pd(a, odd, b);
}
INLINE wreal wspread(vreal v, const int k) {
    const __m512i lower = _mm512_set1_epi64(k), from = _mm512_mask_set1_epi64(lower, 0xf0, k + 2);
    return _mm512_permutexvar_pd(from, wextend(v));
}
INLINE wreal wspread_two(wreal v, const int k) {
    return _mm512_permutexvar_pd(_mm512_mask_set1_epi64(_mm512_set1_epi64(k), 0xf0, k + 4), v);
}
INLINE wreal wload_twice(const REAL *p) { return _mm512_broadcast_f64x4(vload(p)); }
INLINE wreal wdouble(vreal v) { return _mm512_permutexvar_pd(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), wextend(v)); }
#endif

/* What fills one of either kind: a vector, or two of them that lie `apart`. */
INLINE vreal vload_apart(const REAL *p, int64_t apart) { return (void)apart, vload(p); }
INLINE wreal wload_apart(const REAL *p, int64_t apart) {
    return apart == LANES ? wload(p) : wjoin(vload(p), vload(p + apart));
}

/* v, but `kept` in the lower half where bit 0 of `halves` is set, in the upper one where bit 1 is. */
#if WIDE_BYTES == VECTOR_BYTES
INLINE wreal wkeep(int halves, wreal kept, wreal v) { return halves ? kept : v; }
#else
INLINE wreal wkeep(int halves, wreal kept, wreal v) {
    const unsigned half = (1u << LANES) - 1, lanes = (halves & 1 ? half : 0) | (halves & 2 ? half << LANES : 0);
#if REAL_BITS == 32
    return _mm512_mask_mov_ps(v, (__mmask16)lanes, kept);
#else
    return _mm512_mask_mov_pd(v, (__mmask8)lanes, kept);
#endif
}
#endif

/* The first `part` lanes of a vector in each of two rows that are `apart`. */
INLINE wreal wload_two(const REAL *p, int64_t apart, const int part) {
    return wjoin(vload_n(p, part), vload_n(p + apart, part));
}
INLINE void wstore_two(REAL *p, int64_t apart, wreal v, const int part) {
    vstore_n(p, wlower(v), part);
    vstore_n(p + apart, wupper(v), part);
}
/* Two such, `next` after one another in each row: as one vector of each where it is right after. */
INLINE void wstore_twos(REAL *p, int64_t apart, int64_t next, wreal v, wreal w, const int part) {
    if (next == LANES && part == LANES) {
        wstore(p, wlowers(v, w));
        wstore(p + apart, wuppers(v, w));
        return;
    }
    wstore_two(p, apart, v, part);
    wstore_two(p + next, apart, w, part);
}

#endif
