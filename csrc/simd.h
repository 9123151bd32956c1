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

typedef REAL vreal __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL_INT vint __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL_UINT vuint __attribute__((vector_size(VECTOR_BYTES)));
/* the same, for memory of any alignment that REALs alias */
typedef REAL vreal_u __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

#define LANES ((int)(VECTOR_BYTES / sizeof(REAL)))

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

INLINE vreal vload(const REAL *p) { return *(const vreal_u *)p; }
INLINE void vstore(REAL *p, vreal v) { *(vreal_u *)p = v; }

/* a - 0 and not a + 0: it keeps the sign of -0, so compilers fold it away */
INLINE vreal vset(REAL a) { return a - (vreal){0}; }

#if defined(FRNN_AVX2) || defined(FRNN_AVX512)
#if VECTOR_BYTES == 64
#define VOP_WIDTH _mm512
#else
#define VOP_WIDTH _mm256
#endif
#if REAL_BITS == 32
#define VOP_TYPE ps
#else
#define VOP_TYPE pd
#endif
#define VOP_PASTE(width, op, type) width##_##op##_##type
#define VOP_EXPAND(width, op, type) VOP_PASTE(width, op, type)
#define VOP(op) VOP_EXPAND(VOP_WIDTH, op, VOP_TYPE)
#endif

/* The first n < LANES elements, the rest zero. */
#if defined(FRNN_AVX512)
INLINE vreal vload_part(const REAL *p, int n) { return VOP(maskz_loadu)((1u << n) - 1, p); }
INLINE void vstore_part(REAL *p, vreal v, int n) { VOP(mask_storeu)(p, (1u << n) - 1, v); }
#else
INLINE vreal vload_part(const REAL *p, int n) {
    vreal v = {0};
    memcpy(&v, p, (size_t)n * sizeof(REAL));
    return v;
}
INLINE void vstore_part(REAL *p, vreal v, int n) { memcpy(p, &v, (size_t)n * sizeof(REAL)); }
#endif
/* The first n <= LANES; free of the test where n is the constant LANES. */
INLINE vreal vload_n(const REAL *p, const int n) { return n == LANES ? vload(p) : vload_part(p, n); }
INLINE void vstore_n(REAL *p, vreal v, const int n) {
    if (n == LANES)
        vstore(p, v);
    else
        vstore_part(p, v, n);
}

/* vmin(limit, x) and vmax(limit, x) give x where x is NaN: a clamp must not hide one. */
#if defined(FRNN_AVX2) || defined(FRNN_AVX512)
INLINE vreal vfma(vreal a, vreal b, vreal c) { return VOP(fmadd)(a, b, c); }
INLINE vreal vmin(vreal limit, vreal x) { return VOP(min)(limit, x); }
INLINE vreal vmax(vreal limit, vreal x) { return VOP(max)(limit, x); }
#else
INLINE vreal vfma(vreal a, vreal b, vreal c) { return a * b + c; }
INLINE vreal vselect(vint test, vreal yes, vreal no) { return (vreal)(((vint)yes & test) | ((vint)no & ~test)); }
INLINE vreal vmin(vreal limit, vreal x) { return vselect(limit < x, limit, x); }
INLINE vreal vmax(vreal limit, vreal x) { return vselect(limit > x, limit, x); }
#endif

/* -- wide vectors: those of products ---------------------------------------------------------------------------------
 * With AVX-512 and vectors of 32 bytes, a small layer's units fill no wider ones, but its inputs, and the gates side by
 * side in its weights' gradients, do. Where only the lower half of a vector is ever used, which `half`, a constant,
 * says, the upper one is left out: there are processors on which it takes as long again. Elsewhere both kinds are the
 * same, and nothing is ever half. */
#if defined(FRNN_AVX512) && VECTOR_BYTES == 32
#define WIDE_BYTES 64
typedef REAL wreal __attribute__((vector_size(WIDE_BYTES)));
typedef REAL wreal_u __attribute__((vector_size(WIDE_BYTES), aligned(sizeof(REAL)), may_alias));
#if REAL_BITS == 32
INLINE wreal widen(vreal v) { return _mm512_castps256_ps512(v); }
INLINE vreal narrow(wreal v) { return _mm512_castps512_ps256(v); }
INLINE wreal wfma(wreal a, wreal b, wreal c, const int half) {
    return half ? widen(vfma(narrow(a), narrow(b), narrow(c))) : (wreal)_mm512_fmadd_ps(a, b, c);
}
#else
INLINE wreal widen(vreal v) { return _mm512_castpd256_pd512(v); }
INLINE vreal narrow(wreal v) { return _mm512_castpd512_pd256(v); }
INLINE wreal wfma(wreal a, wreal b, wreal c, const int half) {
    return half ? widen(vfma(narrow(a), narrow(b), narrow(c))) : (wreal)_mm512_fmadd_pd(a, b, c);
}
#endif
INLINE wreal wload(const REAL *p, const int half) { return half ? widen(vload(p)) : (wreal) * (const wreal_u *)p; }
INLINE void wstore(REAL *p, wreal v, const int half) {
    if (half)
        vstore(p, narrow(v));
    else
        *(wreal_u *)p = v;
}
INLINE wreal wset(REAL a) { return a - (wreal){0}; }
#else
#define WIDE_BYTES VECTOR_BYTES
typedef vreal wreal;
INLINE wreal wfma(wreal a, wreal b, wreal c, const int half) {
    (void)half;
    return vfma(a, b, c);
}
INLINE wreal wload(const REAL *p, const int half) {
    (void)half;
    return vload(p);
}
INLINE void wstore(REAL *p, wreal v, const int half) {
    (void)half;
    vstore(p, v);
}
INLINE wreal wset(REAL a) { return vset(a); }
#endif

#define WIDE_LANES ((int)(WIDE_BYTES / sizeof(REAL)))

#endif
