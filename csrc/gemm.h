/* The two matrix products that a recurrent layer needs, on row-major matrices, accumulating in registers.
 *
 *   gemm_packed:      C[M,N]  = start + A[M,K] B[K,N]    B packed once per call, for weights
 *   gemm_transposed:  C[M,N] += A[K,M]^T B[K,N]          both as they lie, for weight gradients
 *
 * A tile is one or two vectors wide: its accumulators, one row of B and one broadcast element of A fill the register
 * file. Every element of C is one chain of fused multiply-adds over k in order, whatever tile it falls in; so a
 * result depends neither on the number of rows in a call nor on the split of the batch over threads.
 */
#ifndef FRNN_GEMM_H
#define FRNN_GEMM_H

#include "simd.h"

#include <stdint.h>

/* The most rows of a tile that is one vector wide, and of one two wide: 16 registers hold 6 x 2 accumulators, 32 hold
 * 12 x 2; and 12 chains hide the latency of a multiply-add. */
#define TILE_ROWS 12
#if defined(FRNN_AVX512) || defined(__aarch64__)
#define WIDE_TILE_ROWS 12
#else
#define WIDE_TILE_ROWS 6
#endif

/* A packed matrix: panels of 2 * LANES columns, the last one LANES wide where that is enough, [panel][k][column],
 * columns beyond N zero. */
INLINE int64_t packed_columns(int64_t N) { return (N + LANES - 1) / LANES * LANES; }

/* B[k,n] is at B[k * k_stride + n * n_stride]. */
static void gemm_pack(int64_t K, int64_t N, const REAL *RESTRICT B, int64_t k_stride, int64_t n_stride,
                      REAL *RESTRICT packed) {
    for (int64_t n0 = 0; n0 < N; n0 += 2 * LANES) {
        const int64_t left = packed_columns(N) - n0;
        const int width = left < 2 * LANES ? LANES : 2 * LANES;
        for (int64_t k = 0; k < K; k++)
            for (int n = 0; n < width; n++) *packed++ = n0 + n < N ? B[k * k_stride + (n0 + n) * n_stride] : 0;
    }
}

/* What C's rows begin from: C itself where `from` is NULL; or that row, the same for all; or, where there are offsets,
 * the row at from + offsets[r]. */
typedef struct {
    const REAL *from;
    const int64_t *offsets;
} gemm_start;

static const gemm_start FROM_C = {NULL, NULL};

/* One tile, in whole vectors: C = start + A B. `rows` and `vectors` are constants wherever this is inlined. A[r,k] is
 * at A[r * row_stride + k * k_stride]. */
INLINE void tile_multiply(const int rows, const int vectors, int64_t K, const REAL *A, int64_t row_stride,
                          int64_t k_stride, const REAL *B, int64_t ldb, REAL *C, int64_t ldc, gemm_start start) {
    vreal acc[TILE_ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        const REAL *from = !start.from ? C + r * ldc : start.offsets ? start.from + start.offsets[r] : start.from;
        acc[r][0] = vload(from);
        if (vectors == 2) acc[r][1] = vload(from + LANES);
    }
    for (int64_t k = 0; k < K; k++) {
        const vreal b0 = vload(B + k * ldb);
        const vreal b1 = vectors == 2 ? vload(B + k * ldb + LANES) : b0;
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            const vreal a = vset(A[r * row_stride + k * k_stride]);
            acc[r][0] = vfma(a, b0, acc[r][0]);
            if (vectors == 2) acc[r][1] = vfma(a, b1, acc[r][1]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        vstore(C + r * ldc, acc[r][0]);
        if (vectors == 2) vstore(C + r * ldc + LANES, acc[r][1]);
    }
}

#define TILE_CASE(n)                                                                                                   \
    case n:                                                                                                            \
        if (n <= most) tile_multiply(n, vectors, K, A, row_stride, k_stride, B, ldb, to, ldto, start);                 \
        break;

/* A strip of C, M x (up to 2 vectors), tile by tile. The rows are dealt out so that no tile is left with one or two:
 * a short tile has too few chains in flight. At the matrix' edge, where only some columns of the vectors are real, a
 * tile goes through memory of its own; B and what it starts from must be readable in whole vectors. */
INLINE void strip_multiply(const int vectors, int64_t M, int64_t K, const REAL *A, int64_t row_stride, int64_t k_stride,
                           const REAL *B, int64_t ldb, int64_t columns, REAL *C, int64_t ldc, gemm_start start) {
    const int most = vectors == 1 ? TILE_ROWS : WIDE_TILE_ROWS;
    const int edge = columns < vectors * LANES;
    REAL own[TILE_ROWS * 2 * LANES];
    if (edge) memset(own, 0, sizeof own);
    while (M > 0) {
        const int64_t tiles = (M + most - 1) / most, rows = (M + tiles - 1) / tiles;
        REAL *to = edge ? own : C;
        const int64_t ldto = edge ? vectors * LANES : ldc;
        if (edge && !start.from)
            for (int64_t r = 0; r < rows; r++) memcpy(own + r * ldto, C + r * ldc, (size_t)columns * sizeof(REAL));
        switch (rows) {
            TILE_CASE(1)
            TILE_CASE(2)
            TILE_CASE(3)
            TILE_CASE(4)
            TILE_CASE(5)
            TILE_CASE(6)
            TILE_CASE(7)
            TILE_CASE(8)
            TILE_CASE(9)
            TILE_CASE(10)
            TILE_CASE(11)
            TILE_CASE(12)
        }
        if (edge)
            for (int64_t r = 0; r < rows; r++) memcpy(C + r * ldc, own + r * ldto, (size_t)columns * sizeof(REAL));
        A += rows * row_stride, C += rows * ldc, M -= rows;
        if (start.offsets) start.offsets += rows;
    }
}

/* B is rows [k0, k0 + K) of a packed matrix of packed_K rows. */
NOINLINE void gemm_packed(int64_t M, int64_t N, int64_t K, const REAL *A, int64_t lda, const REAL *packed,
                          int64_t packed_K, int64_t k0, REAL *C, int64_t ldc, gemm_start start) {
    for (int64_t n = 0; n < N; n += 2 * LANES) {
        const REAL *panel = packed + n * packed_K;
        if (N - n > LANES)
            strip_multiply(2, M, K, A, lda, 1, panel + k0 * 2 * LANES, 2 * LANES, N - n, C + n, ldc, start);
        else
            strip_multiply(1, M, K, A, lda, 1, panel + k0 * LANES, LANES, N - n, C + n, ldc, start);
        if (start.from) start.from += 2 * LANES;
    }
}

/* B's rows are read in whole vectors: up to 2 * LANES - 1 elements after its last one must be readable. */
NOINLINE void gemm_transposed(int64_t M, int64_t N, int64_t K, const REAL *A, int64_t lda, const REAL *B, int64_t ldb,
                              REAL *C, int64_t ldc) {
    for (int64_t n = 0; n < N; n += 2 * LANES) {
        if (N - n > LANES)
            strip_multiply(2, M, K, A, 1, lda, B + n, ldb, N - n, C + n, ldc, FROM_C);
        else
            strip_multiply(1, M, K, A, 1, lda, B + n, ldb, N - n, C + n, ldc, FROM_C);
    }
}

#endif
