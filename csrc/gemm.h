/* The matrix products that a recurrent layer needs, on row-major matrices, accumulating in registers.
 *
 *   gemm_packed:      C[M,N] = start + A[M,K] B[K,N]     B packed once per call, for weights
 *   gemm_transposed:  C[M,N] = start + A[K,M]^T B[K,N]   both as they lie, or packed on the way, for weight gradients
 *
 * A tile's accumulators, one row of B and one broadcast element of A fill the register file. Every element of C is one
 * chain of fused multiply-adds over k in order, or the sum of two, over even and odd k, where a strip of gemm_packed is
 * one vector wide, or of four where it is half a wide one; whatever tile it falls in. So a result depends neither on
 * the number of rows in a call nor on how rows and columns are split over threads. gates.h has the product for all
 * gates of some units, of such tiles too.
 */
#ifndef FRNN_GEMM_H
#define FRNN_GEMM_H

#include "simd.h"

#include <stdint.h>

/* The most rows of a tile that is so many vectors wide: 24 or 12 accumulators, and never more than 12 rows, whose
 * chains hide the latency of a multiply-add. */
#define TILE_ROWS 12
/* The cases of a switch over a tile's rows, so that they are a constant in each. */
#define UP_TO_TILE_ROWS(CASE)                                                                                          \
    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#define ACCUMULATORS (REGISTERS == 32 ? 24 : 12)
INLINE int tile_rows(const int vectors) { return vectors == 1 ? TILE_ROWS : ACCUMULATORS / vectors; }
/* The chains of an element: one vector of a single row would wait for each of its multiply-adds in turn (backward of
 * one sequence takes a seventh longer with 8 units). Where 12 rows leave registers for a second chain, it costs
 * nothing. */
INLINE int tile_chains(const int vectors) { return vectors == 1 && ACCUMULATORS == 2 * TILE_ROWS ? 2 : 1; }
/* How many of `left` rows the next tile takes: tiles are dealt out so that none is left with one or two rows, too few
 * chains in flight. */
INLINE int64_t deal_rows(int64_t left, int64_t most) {
    if (left <= most) return left;
    const int64_t tiles = (left + most - 1) / most;
    return (left + tiles - 1) / tiles;
}

/* -- packing --------------------------------------------------------------------------------------------------------
 */

/* A packed matrix: panels of 2 * WIDE_LANES columns, the last one WIDE_LANES wide where that is enough,
 * [panel][k][column], columns beyond N zero. Where half of a wide vector is enough, two k are side by side: [k / 2]
 * [column][k % 2], and a last one without its second has zeros there. */
INLINE int in_twos(int64_t columns) { return NARROW && columns <= LANES; }
/* What a panel of those takes. */
INLINE int64_t twos_reals(int64_t K) { return (K + 1) / 2 * 2 * LANES; }
INLINE int64_t packed_columns(int64_t N) { return (N + WIDE_LANES - 1) / WIDE_LANES * WIDE_LANES; }

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

/* Rows [k0, k0 + K) of packed_K of a panel of twos; B[k,n] is at B[k * k_stride + n * n_stride]. */
static void twos_pack(int64_t K, int N, const REAL *RESTRICT B, int64_t k_stride, int64_t n_stride, REAL *RESTRICT to,
                      int64_t packed_K, int64_t k0) {
    const int64_t end = k0 + K == packed_K ? (packed_K + 1) / 2 * 2 : k0 + K;
    for (int64_t k = k0; k < end; k++)
        for (int n = 0; n < LANES; n++)
            to[(k / 2 * LANES + n) * 2 + k % 2] = n < N && k < k0 + K ? B[(k - k0) * k_stride + n * n_stride] : 0;
}

/* B[k,n] is at B[n * ldb + k]: the transpose of a matrix as it lies. Rows [k0, k0 + K) of a packed matrix of packed_K
 * rows. */
static void gemm_pack_transposed(int64_t K, int64_t N, const REAL *RESTRICT B, int64_t ldb, REAL *RESTRICT packed,
                                 int64_t packed_K, int64_t k0) {
    enum { RUN = 64 }; /* so many k side by side are read of each n in turn */
    for (int64_t n0 = 0; n0 < N; n0 += 2 * WIDE_LANES) {
        if (in_twos(N - n0)) {
            twos_pack(K, (int)(N - n0), B + n0 * ldb, 1, ldb, packed + n0 * packed_K, packed_K, k0);
            return;
        }
        const int64_t left = packed_columns(N) - n0;
        const int width = left < 2 * WIDE_LANES ? WIDE_LANES : 2 * WIDE_LANES;
        REAL *to = packed + n0 * packed_K + k0 * width;
        for (int64_t run = 0; run < K; run += RUN) {
            const int64_t end = run + RUN < K ? run + RUN : K;
            int n = 0;
            for (; n + 4 <= width && n0 + n + 4 <= N; n += 4) {
                const REAL *from = B + (n0 + n) * ldb;
                int64_t k = run;
                /* Neither is what a processor looks ahead for: the same rows further on, and this panel. */
                for (int q = 0; run + RUN < K && q < 4 * RUN; q += 64 / sizeof(REAL)) {
                    __builtin_prefetch(from + q / RUN * ldb + run + 2 * RUN + q % RUN, 0, 2);
                    __builtin_prefetch(to + (run + RUN) * width + n * RUN + q, 1, 2);
                }
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
    for (int64_t n0 = 0; n0 < N; n0 += WIDE_LANES) {
        const int64_t panel = n0 / (2 * WIDE_LANES) * (2 * WIDE_LANES);
        if (n0 == panel && in_twos(N - n0)) {
            twos_pack(K, (int)(N - n0), B + n0, ldb, 1, packed + n0 * K, K, 0);
            return;
        }
        const int width = packed_columns(N) - panel < 2 * WIDE_LANES ? WIDE_LANES : 2 * WIDE_LANES;
        const int part = (int)(N - n0 < WIDE_LANES ? N - n0 : WIDE_LANES);
        REAL *to = packed + panel * K + (n0 - panel);
        for (int64_t k = 0; k < K; k++) wstore(to + k * width, wload_n(B + k * ldb + n0, part));
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
/* The same part from row r on. */
INLINE matrix rows_from(matrix A, int64_t r) {
    if (A.rows)
        A.rows += r;
    else
        A.first += r * A.stride;
    return A;
}

/* How many k ahead the lines of B are fetched, where they come from further than the first-level cache: multiply-adds
 * that wait fill what a processor looks ahead with before it comes to them. With AVX-512, where a vector is a line,
 * training is 1 to 2 % faster with 128 to 512 units; and weight gradients, which go from the last row to the first, are
 * not what the first-level cache expects by itself: backward 1 to 2 % with 8 to 64. */
enum { TILE_AHEAD = 8 };

/* What a strip's A is: rows like C's; or, transposed, rows of k, as they lie or packed by tiles_pack. */
enum { A_ROWS, A_COLUMNS, A_TILES };

#define V(name) w##name
#include "tiles.h"
#undef V
#define V(name) v##name
#include "tiles.h"
#undef V

/* A strip as wide as its columns ask for: there are processors on which half of a wide vector would take as long again.
 */
INLINE void strip_multiply(const int lies, int64_t M, int64_t K, matrix A, const REAL *B, int64_t ldb, int64_t columns,
                           matrix C, const REAL *zeros) {
    if (columns > WIDE_LANES)
        wstrip_tiles(2, lies, M, K, A, B, ldb, columns, C, zeros);
    else if (!NARROW || columns > LANES)
        wstrip_tiles(1, lies, M, K, A, B, ldb, columns, C, zeros);
    else
        vstrip_tiles(1, lies, M, K, A, B, ldb, columns, C, zeros);
}

/* -- whole matrices -------------------------------------------------------------------------------------------------
 */

/* A single row by two whole panels side by side, `apart` from each other: by one alone it waits for its multiply-adds
 * (backward of one sequence takes a tenth longer with 128 units, a fifth with 64). */
INLINE void row_multiply_panels(int64_t K, const REAL *A, const REAL *B, int64_t apart, REAL *C, const REAL *zeros) {
    wreal acc[4];
    UNROLL
    for (int v = 0; v < 4; v++) acc[v] = wload(zeros ? zeros : C + v * WIDE_LANES);
    for (int64_t k = 0; k < K; k++, B += 2 * WIDE_LANES) {
        UNROLL
        for (int v = 0; v < 4; v++) acc[v] = wfma(wset(A[k]), wload(B + v / 2 * apart + v % 2 * WIDE_LANES), acc[v]);
    }
    UNROLL
    for (int v = 0; v < 4; v++) wstore(C + v * WIDE_LANES, acc[v]);
}

/* acc += A[:, k] B[k, :] for k and the next, or, where `count` is one, for k alone, of a panel of twos. */
INLINE void twos_add(const int rows, const int count, matrix A, int64_t k, const REAL *B, wreal acc[TILE_ROWS]) {
    UNROLL
    for (int r = 0; r < rows; r++)
        acc[r] = wfma(count == 2 ? wset_two(row_of(A, r) + k) : wset_one(row_of(A, r) + k), wload(B), acc[r]);
}

/* C = or += the sums of every two lanes. */
INLINE void twos_store(const int rows, const wreal acc[TILE_ROWS], int columns, matrix C, const int add) {
    UNROLL
    for (int r = 0; r < rows; r += 2) {
        const int next = r + 1 < rows ? r + 1 : r;
        const wreal sums = wsum_twos(acc[r], acc[next]);
        UNROLL
        for (int q = r; q <= next; q++) {
            vreal sum = q == r ? wlower(sums) : wupper(sums);
            if (add) sum = sum + vload_n(row_of(C, q), columns);
            vstore_n(row_of(C, q), sum, columns);
        }
    }
}

/* C = A B or C += A B for a panel of twos: wide vectors take two k at once, though the columns fill half of one. Every
 * element is the sum of four chains, so that a single row does not wait for its multiply-adds. */
INLINE void twos_tile(const int rows, int64_t K, matrix A, const REAL *B, int columns, matrix C, const int add) {
    wreal acc[2][TILE_ROWS];
    UNROLL
    for (int r = 0; r < rows; r++) acc[0][r] = acc[1][r] = wset(0);
    int64_t k = 0;
    for (; k + 4 <= K; k += 4, B += 4 * LANES) {
        UNROLL
        for (int c = 0; c < 2; c++) {
            twos_add(rows, 2, A, k + 2 * c, B + 2 * c * LANES, acc[c]);
        }
    }
    if (k + 2 <= K) {
        twos_add(rows, 2, A, k, B, acc[0]);
        k += 2, B += 2 * LANES;
    }
    if (k < K) twos_add(rows, 1, A, k, B, acc[0]);
    UNROLL
    for (int r = 0; r < rows; r++) acc[0][r] = acc[0][r] + acc[1][r];
    twos_store(rows, acc[0], columns, C, add);
}

#define TWOS_CASE(n)                                                                                                   \
    case n:                                                                                                            \
        twos_tile(n, K, A, B, columns, C, add);                                                                        \
        break;

INLINE void twos_strip(int64_t M, int64_t K, matrix A, const REAL *B, int columns, matrix C, const int add) {
    for (int64_t m = 0, rows; m < M; m += rows) {
        rows = deal_rows(M - m, TILE_ROWS);
        switch (rows) { UP_TO_TILE_ROWS(TWOS_CASE) }
        A = rows_from(A, rows), C = rows_from(C, rows);
    }
}
#undef TWOS_CASE

INLINE void packed_multiply(int64_t M, int64_t N, int64_t K, const REAL *A, const int64_t lda, const REAL *packed,
                            int64_t packed_K, int64_t k0, const matrix *to, const REAL *zeros) {
    matrix C = *to;
    int64_t n = 0;
    for (; M == 1 && N - n >= 4 * WIDE_LANES; n += 4 * WIDE_LANES, C.column += 4 * WIDE_LANES)
        row_multiply_panels(K, A, packed + n * packed_K + k0 * 2 * WIDE_LANES, 2 * WIDE_LANES * packed_K, row_of(C, 0),
                            zeros);
    for (; n < N; n += 2 * WIDE_LANES, C.column += 2 * WIDE_LANES) {
        if (in_twos(N - n)) { /* then k0 is even */
            twos_strip(M, K, rows_apart(A, lda), packed + n * packed_K + k0 * LANES, (int)(N - n), C, zeros == NULL);
            return;
        }
        const int64_t width = N - n > WIDE_LANES ? 2 * WIDE_LANES : WIDE_LANES;
        strip_multiply(A_ROWS, M, K, rows_apart(A, lda), packed + n * packed_K + k0 * width, width, N - n, C, zeros);
    }
}

/* B is rows [k0, k0 + K) of a packed matrix of packed_K rows; C = A B where `zeros`, two vectors of them, is given,
 * else C += A B. C is not passed by value: compilers copy it by loads that are wider than the stores just before, which
 * then wait for those (a twelfth of backward of one sequence with 8 units). Where rows of A are as far apart as those
 * of a narrow layer's slots, a constant, a tile's rows need no register each, of which there are too few (backward
 * with 8 units 5 to 7 % shorter, with 8 inputs a tenth). */
NOINLINE void gemm_packed(int64_t M, int64_t N, int64_t K, const REAL *A, int64_t lda, const REAL *packed,
                          int64_t packed_K, int64_t k0, const matrix *to, const REAL *zeros) {
    if (NARROW && lda == 4 * LANES)
        packed_multiply(M, N, K, A, 4 * LANES, packed, packed_K, k0, to, zeros);
    else
        packed_multiply(M, N, K, A, lda, packed, packed_K, k0, to, zeros);
}

/* C = A^T B where `zeros` is given, else C += A^T B. B's rows are read in whole vectors: up to 2 * WIDE_LANES - 1
 * elements after its last one must be readable. */
NOINLINE void gemm_transposed(int64_t M, int64_t N, int64_t K, matrix A, const REAL *B, int64_t ldb, REAL *C,
                              int64_t ldc, const REAL *zeros) {
    for (int64_t n = 0; n < N; n += 2 * WIDE_LANES) {
        const matrix to = rows_apart(C + n, ldc), apart = {A.first, A.stride, NULL, A.column};
        /* where a row begins must not be a question within the loops */
        if (A.rows)
            strip_multiply(A_COLUMNS, M, K, A, B + n, ldb, N - n, to, zeros);
        else
            strip_multiply(A_COLUMNS, M, K, apart, B + n, ldb, N - n, to, zeros);
    }
}

/* -- the same, packed on the way ------------------------------------------------------------------------------------
 * Rows of A and B lie far apart, so where there are many columns no cache holds a panel of them as it lies. So many
 * rows and columns of A are packed at a time, and panels of so many rows of B, which the second-level cache holds while
 * all tiles of A go by it. With fewer rows C, which lies far apart too, would be gone through more often, with fewer
 * columns a panel packed more often: with 192 rows, for the first-level cache, and 240 columns backward takes 5 %
 * longer with 256 units, 6 with 512, 8 with 1024 (Zen 4). For few columns a panel is read as it lies: packing it takes
 * what it brings. */
enum { PACKED_ROWS = 2560 / sizeof(REAL), PACKED_COLUMNS = 516, PANEL_COLUMNS = 64 };
/* Where a row of A is no more than a line of cache, packing gains nothing. */
INLINE int worth_packing(int64_t M) { return M > 64 / (int64_t)sizeof(REAL); }
/* The memory it takes. */
INLINE int64_t packing_reals(int64_t M) {
    if (!worth_packing(M)) return 0;
    return PACKED_ROWS * ((M < PACKED_COLUMNS ? M : PACKED_COLUMNS) + 2 * WIDE_LANES);
}

/* M columns of A's K rows to [tile][k][column of the tile], for strips of either width; a tile has four columns at
 * least. */
static void tiles_pack(int64_t M, int64_t K, matrix A, REAL *to) {
    for (int64_t m = 0, columns; m < M; m += columns) {
        columns = deal_rows(M - m, tile_rows(2));
        for (int64_t k = 0; k < K; k++, to += columns) {
            const REAL *from = row_of(A, k) + m;
            __builtin_prefetch(from + 2 * TILE_ROWS); /* of the next tiles */
            for (int64_t c = 0; c + 4 <= columns; c += 4) *(v4 *)(to + c) = *(const v4 *)(from + c);
            *(v4 *)(to + columns - 4) = *(const v4 *)(from + columns - 4);
        }
    }
}

/* gemm_transposed for `runs` times N columns, which are `run` apart in both B and C. */
static void gemm_transposed_packing(int64_t M, int64_t N, int64_t K, matrix A, const REAL *B, int64_t ldb, REAL *C,
                                    int64_t ldc, int64_t runs, int64_t run, const REAL *zeros, REAL *memory) {
    REAL *tiles = memory + PACKED_ROWS * 2 * WIDE_LANES;
    for (int64_t k = 0, rows; k < K; k += rows, B += rows * ldb) {
        rows = deal_rows(K - k, PACKED_ROWS);
        for (int64_t m = 0, columns; m < M; m += columns) {
            columns = deal_rows(M - m, PACKED_COLUMNS);
            matrix part = rows_from(A, k);
            part.column += m;
            tiles_pack(columns, rows, part, tiles);
            for (int64_t r = 0; r < runs; r++)
                for (int64_t n = 0; n < N; n += 2 * WIDE_LANES) {
                    const int vectors = N - n > WIDE_LANES ? 2 : 1;
                    const REAL *panel = B + r * run + n;
                    int64_t apart = ldb;
                    if (columns > PANEL_COLUMNS) {
                        apart = vectors * WIDE_LANES;
                        for (int64_t q = 0; q < rows; q++)
                            for (int v = 0; v < vectors; v++)
                                wstore(memory + q * apart + v * WIDE_LANES, wload(panel + q * ldb + v * WIDE_LANES));
                        panel = memory;
                    }
                    const matrix to = rows_apart(C + m * ldc + r * run + n, ldc), packed = rows_apart(tiles, 0);
                    strip_multiply(A_TILES, columns, rows, packed, panel, apart, N - n, to, k ? NULL : zeros);
                }
        }
    }
}

#endif
