/* The matrix products that a recurrent layer needs, on row-major matrices, accumulating in registers.
 *
 *   gates_multiply:   C[M,g] = start + A[M,K] B[K,g]     for one vector of units of all gates at once, B packed
 *   gemm_packed:      C[M,N] = start + A[M,K] B[K,N]     B packed once per call, for weights
 *   gemm_transposed:  C[M,N] = start + A[K,M]^T B[K,N]   both as they lie, for weight gradients
 *
 * A tile's accumulators, one row of B and one broadcast element of A fill the register file. Every element of C is one
 * chain of fused multiply-adds over k in order, or the sum of two, over even and odd k, where a strip of gemm_packed is
 * one vector wide; whatever tile it falls in. So a result depends neither on the number of rows in a call nor on how
 * rows and columns are split over threads.
 */
#ifndef FRNN_GEMM_H
#define FRNN_GEMM_H

#include "simd.h"

#include <stdint.h>

/* The most rows of a tile that is so many vectors wide: 24 or 12 accumulators, and never more than 12 rows, whose
 * chains hide the latency of a multiply-add. */
#define TILE_ROWS 12
#define ACCUMULATORS (REGISTERS == 32 ? 24 : 12)
INLINE int tile_rows(const int vectors) { return vectors == 1 ? TILE_ROWS : ACCUMULATORS / vectors; }
/* The chains of an element: one vector of a single row would wait for each of its multiply-adds in turn (backward of
 * one sequence takes a seventh longer with 8 units). Where 12 rows leave registers for a second chain, it costs
 * nothing. */
INLINE int tile_chains(const int vectors) { return vectors == 1 && ACCUMULATORS == 2 * TILE_ROWS ? 2 : 1; }
/* Of the products for all gates at once; with 3 gates 8 rows would fit, but 6 need no more loads than the ports give,
 * and 8 rows of states a power of two apart would be all that the ways of a cache's set can hold. */
INLINE int gate_tile_rows(const int gates) { return REGISTERS == 32 ? 6 : 12 / gates; }
/* How many of `left` rows the next tile takes: tiles are dealt out so that none is left with one or two rows, too few
 * chains in flight. */
INLINE int64_t deal_rows(int64_t left, int64_t most) {
    const int64_t tiles = (left + most - 1) / most;
    return (left + tiles - 1) / tiles;
}

/* -- packing --------------------------------------------------------------------------------------------------------
 */

/* A packed matrix: panels of 2 * LANES columns, the last one LANES wide where that is enough, [panel][k][column],
 * columns beyond N zero. */
INLINE int64_t packed_columns(int64_t N) { return (N + LANES - 1) / LANES * LANES; }

typedef REAL v4 __attribute__((vector_size(4 * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
typedef REAL_INT v4_int __attribute__((vector_size(4 * sizeof(REAL))));
#if defined(__clang__)
#define SHUFFLE4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE4(a, b, i, j, k, l) __builtin_shuffle(a, b, (v4_int){i, j, k, l})
#endif

/* to[k * to_stride + n] = from[n * from_stride + k] for k, n < 4. */
INLINE void transpose4(const REAL *from, int64_t from_stride, REAL *to, int64_t to_stride) {
    const v4 a = *(const v4 *)from, b = *(const v4 *)(from + from_stride);
    const v4 c = *(const v4 *)(from + 2 * from_stride), d = *(const v4 *)(from + 3 * from_stride);
    const v4 ab01 = SHUFFLE4(a, b, 0, 4, 1, 5), ab23 = SHUFFLE4(a, b, 2, 6, 3, 7);
    const v4 cd01 = SHUFFLE4(c, d, 0, 4, 1, 5), cd23 = SHUFFLE4(c, d, 2, 6, 3, 7);
    *(v4 *)to = SHUFFLE4(ab01, cd01, 0, 1, 4, 5);
    *(v4 *)(to + to_stride) = SHUFFLE4(ab01, cd01, 2, 3, 6, 7);
    *(v4 *)(to + 2 * to_stride) = SHUFFLE4(ab23, cd23, 0, 1, 4, 5);
    *(v4 *)(to + 3 * to_stride) = SHUFFLE4(ab23, cd23, 2, 3, 6, 7);
}

/* B[k,n] is at B[n * ldb + k]: the transpose of a matrix as it lies. Rows [k0, k0 + K) of a packed matrix of packed_K
 * rows. */
static void gemm_pack_transposed(int64_t K, int64_t N, const REAL *RESTRICT B, int64_t ldb, REAL *RESTRICT packed,
                                 int64_t packed_K, int64_t k0) {
    enum { RUN = 64 }; /* so many k side by side are read of each n in turn */
    for (int64_t n0 = 0; n0 < N; n0 += 2 * LANES) {
        const int64_t left = packed_columns(N) - n0;
        const int width = left < 2 * LANES ? LANES : 2 * LANES;
        REAL *to = packed + n0 * packed_K + k0 * width;
        for (int64_t run = 0; run < K; run += RUN) {
            const int64_t end = run + RUN < K ? run + RUN : K;
            int n = 0;
            for (; n + 4 <= width && n0 + n + 4 <= N; n += 4) {
                const REAL *from = B + (n0 + n) * ldb;
                int64_t k = run;
                for (; k + 4 <= end; k += 4) transpose4(from + k, ldb, to + k * width + n, width);
                for (; k < end; k++)
                    for (int m = 0; m < 4; m++) to[k * width + n + m] = from[m * ldb + k];
            }
            for (; n < width; n++)
                for (int64_t k = run; k < end; k++) to[k * width + n] = n0 + n < N ? B[(n0 + n) * ldb + k] : 0;
        }
    }
}

/* B[k,n] is at B[k * ldb + n]: a matrix as it lies. */
static void gemm_pack(int64_t K, int64_t N, const REAL *RESTRICT B, int64_t ldb, REAL *RESTRICT packed) {
    for (int64_t n0 = 0; n0 < N; n0 += LANES) {
        const int64_t panel = n0 / (2 * LANES) * (2 * LANES);
        const int width = packed_columns(N) - panel < 2 * LANES ? LANES : 2 * LANES;
        const int part = (int)(N - n0 < LANES ? N - n0 : LANES);
        REAL *to = packed + panel * K + (n0 - panel);
        for (int64_t k = 0; k < K; k++) vstore(to + k * width, vload_n(B + k * ldb + n0, part));
    }
}

/* Weights (K, all * H) for gates_multiply, the first `gates` of `all` in an order that begins with `first`: [vector of
 * units][k][gate][lane], units beyond H zero, each gate times its scale, of `all`. Packs `vectors`, a constant, side by
 * side, from unit u on, each of `part` units. */
INLINE void gates_pack_vectors(const int vectors, int64_t K, int64_t H, int gates, int first, int all,
                               const REAL *scales, const REAL *RESTRICT B, REAL *RESTRICT packed, int64_t u,
                               const int part) {
    REAL *to = packed + u * K * gates;
    for (int64_t k = 0; k < K; k++)
        for (int g = 0; g < gates; g++, to += LANES) {
            const int gate = (g + first) % all;
            const REAL *from = B + (k * all + gate) * H + u;
            UNROLL
            for (int v = 0; v < vectors; v++)
                vstore(to + v * K * gates * LANES, vload_n(from + v * LANES, part) * vset(scales[gate]));
        }
}

/* Packs units [u0, u1), u0 being a multiple of LANES. Four vectors side by side where a share has as many: from memory
 * that comes faster, in longer runs (1024 units: forward a twentieth shorter); two cost more than they bring. */
static void gates_pack(int64_t K, int64_t H, int gates, int first, int all, const REAL *scales, const REAL *RESTRICT B,
                       REAL *RESTRICT packed, int64_t u0, int64_t u1) {
    for (; u0 + 4 * LANES <= u1; u0 += 4 * LANES)
        gates_pack_vectors(4, K, H, gates, first, all, scales, B, packed, u0, LANES);
    for (; u0 < u1; u0 += LANES)
        gates_pack_vectors(1, K, H, gates, first, all, scales, B, packed, u0, (int)(u1 - u0 < LANES ? u1 - u0 : LANES));
}

/* The transposes of weights' (N, H) blocks of columns, one for each gate, for gates_multiply: [vector of n][k][gate]
 * [lane], k being a gate's unit. Packs n of [n0, n1), n0 being a multiple of LANES. */
static void gates_pack_transposed(int64_t H, int gates, int first, int all, const REAL *RESTRICT B,
                                  REAL *RESTRICT packed, int64_t n0, int64_t n1) {
    for (int64_t n = n0; n < n1; n += LANES) {
        REAL *to = packed + n * H * gates;
        for (int64_t k = 0; k < H; k++)
            for (int g = 0; g < gates; g++, to += LANES)
                for (int lane = 0; lane < LANES; lane++)
                    to[lane] = n + lane < n1 ? B[(n + lane) * all * H + (g + first) % all * H + k] : 0;
    }
}

/* -- tiles ----------------------------------------------------------------------------------------------------------
 */

/* Part of a matrix: its rows begin at rows[r] where that is given, else `stride` apart from `first` on; the part, at
 * `column` of them. */
typedef struct {
    REAL *first;
    int64_t stride;
    REAL *const *rows;
    int64_t column;
} matrix;

INLINE REAL *row_of(matrix A, int64_t r) { return (A.rows ? A.rows[r] : A.first + r * A.stride) + A.column; }
INLINE matrix rows_apart(const REAL *first, int64_t stride) { return (matrix){(REAL *)first, stride, NULL, 0}; }
INLINE matrix rows_given(REAL *const *rows) { return (matrix){NULL, 0, rows, 0}; }

/* acc[c] += A[:,k+c] B[k+c,:] of one tile for `chains` c; the constants are tile_multiply's. */
INLINE void tile_turn(const int rows, const int vectors, const int transposed, const int per_vector, const int chains,
                      int64_t k, matrix A, int64_t a_stride, const REAL *B, int64_t ldb, vreal acc[2][TILE_ROWS][4]) {
    vreal b[2][4];
    UNROLL
    for (int c = 0; c < chains; c++) {
        UNROLL
        for (int v = 0; v < vectors; v++) b[c][v] = vload(B + (k + c) * ldb + v * LANES);
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int c = 0; c < chains; c++) {
            const REAL *a = transposed ? row_of(A, k + c) + r : row_of(A, r) + k + c;
            UNROLL
            for (int v = 0; v < vectors; v++)
                acc[c][r][v] = vfma(vset(per_vector ? a[v * a_stride] : *a), b[c][v], acc[c][r][v]);
        }
    }
}

/* One tile, in whole vectors: C = start + A B. `rows`, `vectors`, `transposed`, `per_vector` and `chains` are constants
 * wherever this is inlined. A's rows are the tile's, or, transposed, its k; with per_vector each vector has an A of its
 * own, a_stride after the one before. Row r starts from from[r], vector v from v * from_stride after it; but the last
 * vector of all rows from `last` where that is given. C's vectors are c_stride apart. */
INLINE void tile_multiply(const int rows, const int vectors, const int transposed, const int per_vector,
                          const int chains, int64_t K, matrix A, int64_t a_stride, const REAL *B, int64_t ldb,
                          const REAL *const *from, int64_t from_stride, const REAL *last, matrix C, int64_t c_stride) {
    vreal acc[2][TILE_ROWS][4];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++) {
            acc[0][r][v] = vload(v == vectors - 1 && last ? last : from[r] + v * from_stride);
            acc[1][r][v] = vset(0);
        }
    }
    int64_t k = 0;
    for (; k + chains <= K; k += chains)
        tile_turn(rows, vectors, transposed, per_vector, chains, k, A, a_stride, B, ldb, acc);
    if (chains > 1 && k < K) tile_turn(rows, vectors, transposed, per_vector, 1, k, A, a_stride, B, ldb, acc);
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++)
            vstore(row_of(C, r) + v * c_stride, chains > 1 ? acc[0][r][v] + acc[1][r][v] : acc[0][r][v]);
    }
}

/* -- all gates of one vector of units -------------------------------------------------------------------------------
 */

/* The weights, packed by gates_pack; a row of A, given by its beginning, is a_stride further on for each next gate, the
 * same for all where that is zero. */
typedef struct {
    int64_t K, a_stride;
    const REAL *packed;
} gates_product;

#define GATES_CASE(n)                                                                                                  \
    case n:                                                                                                            \
        if (n <= gate_tile_rows(gates))                                                                                \
            tile_multiply(n, gates, 0, per_gate, 1, p->K, rows_given((REAL *const *)A), p->a_stride, B, gates *LANES,  \
                          from, from_stride, last, rows_apart(C, ldc), c_stride);                                      \
        break;

/* One tile: `rows` rows, at most gate_tile_rows(gates), of the units from u on. */
INLINE void gates_tile(const int gates, const int per_gate, const gates_product *p, int64_t u, int rows,
                       const REAL *const *A, const REAL *const *from, int64_t from_stride, const REAL *last, REAL *C,
                       int64_t ldc, int64_t c_stride) {
    const REAL *B = p->packed + u * p->K * gates;
    switch (rows) {
        GATES_CASE(1)
        GATES_CASE(2)
        GATES_CASE(3)
        GATES_CASE(4)
        GATES_CASE(5)
        GATES_CASE(6)
    }
}

NOINLINE void gates_multiply(int gates, const gates_product *p, int64_t u, int rows, const REAL *const *A,
                             const REAL *const *from, int64_t from_stride, const REAL *last, REAL *C, int64_t ldc,
                             int64_t c_stride) {
#define GATES_TILE(gates, per_gate)                                                                                    \
    gates_tile(gates, per_gate, p, u, rows, A, from, from_stride, last, C, ldc, c_stride)
    if (p->a_stride) {
        if (gates == 4)
            GATES_TILE(4, 1);
        else if (gates == 3)
            GATES_TILE(3, 1);
        else
            GATES_TILE(2, 1);
    } else {
        if (gates == 4)
            GATES_TILE(4, 0);
        else if (gates == 3)
            GATES_TILE(3, 0);
        else
            GATES_TILE(2, 0);
    }
#undef GATES_TILE
}

/* -- whole matrices -------------------------------------------------------------------------------------------------
 */

#define TILE_CASE(n)                                                                                                   \
    case n:                                                                                                            \
        if (n <= tile_rows(vectors))                                                                                   \
            tile_multiply(n, vectors, transposed, 0, transposed ? 1 : tile_chains(vectors), K, A, 0, B, ldb, from,     \
                          LANES, NULL, C_tile, LANES);                                                                 \
        break;

/* A strip of C, M x (up to 2 vectors), tile by tile: start + A B, or A^T B if `transposed`. At the matrix' edge, where
 * only some of the vectors' columns are real, a tile goes through memory of its own; B must be readable in whole
 * vectors. */
INLINE void strip_multiply(const int vectors, const int transposed, int64_t M, int64_t K, matrix A, const REAL *B,
                           int64_t ldb, int64_t columns, matrix C, const REAL *zeros) {
    const int edge = columns < vectors * LANES;
    REAL own[TILE_ROWS * 2 * LANES], *to[TILE_ROWS];
    const REAL *from[TILE_ROWS];
    const matrix C_tile = {NULL, 0, to, 0};
    if (edge) memset(own, 0, sizeof own);
    for (int64_t m = 0, rows; m < M; m += rows) {
        rows = deal_rows(M - m, tile_rows(vectors));
        for (int64_t r = 0; r < rows; r++) {
            to[r] = edge ? own + r * vectors * LANES : row_of(C, m + r);
            from[r] = zeros ? zeros : to[r];
            if (edge && !zeros) memcpy(to[r], row_of(C, m + r), (size_t)columns * sizeof(REAL));
        }
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
        for (int64_t r = 0; edge && r < rows; r++) memcpy(row_of(C, m + r), to[r], (size_t)columns * sizeof(REAL));
        if (transposed)
            A.column += rows;
        else
            A.first += rows * A.stride;
    }
}

/* B is rows [k0, k0 + K) of a packed matrix of packed_K rows; C = A B where `zeros`, two vectors of them, is given,
 * else C += A B. */
NOINLINE void gemm_packed(int64_t M, int64_t N, int64_t K, const REAL *A, int64_t lda, const REAL *packed,
                          int64_t packed_K, int64_t k0, matrix C, const REAL *zeros) {
    for (int64_t n = 0; n < N; n += 2 * LANES, C.column += 2 * LANES) {
        const REAL *panel = packed + n * packed_K;
        if (N - n > LANES)
            strip_multiply(2, 0, M, K, rows_apart(A, lda), panel + k0 * 2 * LANES, 2 * LANES, N - n, C, zeros);
        else
            strip_multiply(1, 0, M, K, rows_apart(A, lda), panel + k0 * LANES, LANES, N - n, C, zeros);
    }
}

/* C = A^T B where `zeros` is given, else C += A^T B. B's rows are read in whole vectors: up to 2 * LANES - 1 elements
 * after its last one must be readable. */
NOINLINE void gemm_transposed(int64_t M, int64_t N, int64_t K, matrix A, const REAL *B, int64_t ldb, REAL *C,
                              int64_t ldc, const REAL *zeros) {
    for (int64_t n = 0; n < N; n += 2 * LANES) {
        const matrix to = rows_apart(C + n, ldc), apart = {A.first, A.stride, NULL, A.column};
        /* where a row begins must not be a question within the loops */
        if (A.rows && N - n > LANES)
            strip_multiply(2, 1, M, K, A, B + n, ldb, N - n, to, zeros);
        else if (A.rows)
            strip_multiply(1, 1, M, K, A, B + n, ldb, N - n, to, zeros);
        else if (N - n > LANES)
            strip_multiply(2, 1, M, K, apart, B + n, ldb, N - n, to, zeros);
        else
            strip_multiply(1, 1, M, K, apart, B + n, ldb, N - n, to, zeros);
    }
}

#endif
