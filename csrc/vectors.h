/* Vectors of one width, of BYTES bytes: see simd.h, which includes this once for each. */

enum { V(lanes) = BYTES / sizeof(REAL) };
typedef REAL V(real) __attribute__((vector_size(BYTES)));
typedef REAL_INT V(int) __attribute__((vector_size(BYTES)));
typedef REAL_UINT V(uint) __attribute__((vector_size(BYTES)));
/* the same, for memory of any alignment that REALs alias */
typedef REAL V(real_u) __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));

#undef VOP_WIDTH
#if BYTES == 64
#define VOP_WIDTH _mm512
#else
#define VOP_WIDTH _mm256
#endif

INLINE V(real) V(load)(const REAL *p) { return *(const V(real_u) *)p; }
INLINE void V(store)(REAL *p, V(real) v) { *(V(real_u) *)p = v; }

/* a - 0 and not a + 0: it keeps the sign of -0, so compilers fold it away */
INLINE V(real) V(set)(REAL a) { return a - (V(real)){0}; }

/* The first n < lanes elements, the rest zero. */
#if defined(FRNN_AVX512)
INLINE V(real) V(load_part)(const REAL *p, int n) { return VOP(maskz_loadu)((1u << n) - 1, p); }
INLINE void V(store_part)(REAL *p, V(real) v, int n) { VOP(mask_storeu)(p, (1u << n) - 1, v); }
#else
INLINE V(real) V(load_part)(const REAL *p, int n) {
    V(real) v = {0};
    memcpy(&v, p, (size_t)n * sizeof(REAL));
    return v;
}
INLINE void V(store_part)(REAL *p, V(real) v, int n) { memcpy(p, &v, (size_t)n * sizeof(REAL)); }
#endif
/* The first n <= lanes; free of the test where n is the constant lanes. */
INLINE V(real) V(load_n)(const REAL *p, const int n) { return n == V(lanes) ? V(load)(p) : V(load_part)(p, n); }
INLINE void V(store_n)(REAL *p, V(real) v, const int n) {
    if (n == V(lanes))
        V(store)(p, v);
    else
        V(store_part)(p, v, n);
}

/* vmin(limit, x) and vmax(limit, x) give x where x is NaN: a clamp must not hide one. */
#if defined(FRNN_AVX2) || defined(FRNN_AVX512)
INLINE V(real) V(fma)(V(real) a, V(real) b, V(real) c) { return VOP(fmadd)(a, b, c); }
INLINE V(real) V(min)(V(real) limit, V(real) x) { return VOP(min)(limit, x); }
INLINE V(real) V(max)(V(real) limit, V(real) x) { return VOP(max)(limit, x); }
#else
INLINE V(real) V(fma)(V(real) a, V(real) b, V(real) c) { return a * b + c; }
INLINE V(real) V(select)(V(int) test, V(real) yes, V(real) no) {
    return (V(real))(((V(int))yes & test) | ((V(int))no & ~test));
}
INLINE V(real) V(min)(V(real) limit, V(real) x) { return V(select)(limit < x, limit, x); }
INLINE V(real) V(max)(V(real) limit, V(real) x) { return V(select)(limit > x, limit, x); }
#endif
