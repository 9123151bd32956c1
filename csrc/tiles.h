/* Tiles, and strips of them, of vectors of one width: gemm.h includes this once for each. */

/* acc[c] += A[:,k+c] B[k+c,:] of one tile for `chains` c; the constants are tile_multiply's. */
INLINE void V(tile_turn)(const int rows, const int vectors, const int transposed, const int chains, int64_t k, matrix A,
                         const REAL *B, int64_t ldb, const int ahead, V(real) acc[2][TILE_ROWS][2]) {
    V(real) b[2][2];
    UNROLL
    for (int c = 0; c < chains; c++) {
        UNROLL
        for (int v = 0; v < vectors; v++) {
            b[c][v] = V(load)(B + (k + c) * ldb + v * V(lanes));
            if (ahead) __builtin_prefetch(B + (k + c + TILE_AHEAD) * ldb + v * V(lanes));
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int c = 0; c < chains; c++) {
            const V(real) a = V(set)(transposed ? row_of(A, k + c)[r] : row_of(A, r)[k + c]);
            UNROLL
            for (int v = 0; v < vectors; v++) acc[c][r][v] = V(fma)(a, b[c][v], acc[c][r][v]);
        }
    }
}

/* One tile, in whole vectors: C = start + A B. `rows`, `vectors`, `transposed` and `chains` are constants wherever this
 * is inlined. A's rows are the tile's, or, transposed, its k. Row r starts from from[r]. */
INLINE void V(tile_multiply)(const int rows, const int vectors, const int transposed, const int chains, int64_t K,
                             matrix A, const REAL *B, int64_t ldb, const REAL *const *from, matrix C) {
    const int ahead = V(lanes) * sizeof(REAL) == 64 && rows > 2;
    V(real) acc[2][TILE_ROWS][2];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++) {
            acc[0][r][v] = V(load)(from[r] + v * V(lanes));
            acc[1][r][v] = V(set)(0);
        }
    }
    int64_t k = 0;
    for (; k + chains <= K; k += chains) V(tile_turn)(rows, vectors, transposed, chains, k, A, B, ldb, ahead, acc);
    if (chains > 1 && k < K) V(tile_turn)(rows, vectors, transposed, 1, k, A, B, ldb, ahead, acc);
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++)
            V(store)(row_of(C, r) + v * V(lanes), chains > 1 ? acc[0][r][v] + acc[1][r][v] : acc[0][r][v]);
    }
}

#define TILE_CASE(n)                                                                                                   \
    case n:                                                                                                            \
        if (n <= tile_rows(vectors))                                                                                   \
            V(tile_multiply)(n, vectors, transposed, transposed ? 1 : tile_chains(vectors), K, A, B, ldb, from,        \
                             C_tile);                                                                                  \
        break;

/* A strip of C, M x (up to 2 vectors), tile by tile: start + A B, or A^T B. At the matrix' edge, where only some of the
 * vectors' columns are real, a tile goes through memory of its own; B must be readable in whole vectors. */
INLINE void V(strip_tiles)(const int vectors, const int lies, int64_t M, int64_t K, matrix A, const REAL *B,
                           int64_t ldb, int64_t columns, matrix C, const REAL *zeros) {
    const int edge = columns < vectors * V(lanes), transposed = lies != A_ROWS;
    REAL own[TILE_ROWS * 2 * V(lanes)], *to[TILE_ROWS];
    const REAL *from[TILE_ROWS];
    const matrix C_tile = {NULL, 0, to, 0};
    if (edge) memset(own, 0, sizeof own);
    for (int64_t m = 0, rows; m < M; m += rows) {
        rows = deal_rows(M - m, tile_rows(lies == A_TILES ? 2 : vectors));
        for (int64_t r = 0; r < rows; r++) {
            to[r] = edge ? own + r * vectors * V(lanes) : row_of(C, m + r);
            from[r] = zeros ? zeros : to[r];
            if (edge && !zeros) memcpy(to[r], row_of(C, m + r), (size_t)columns * sizeof(REAL));
            /* C may have to come from far away: the product gives it time */
            for (int v = 0; !edge && v < vectors; v++) __builtin_prefetch(to[r] + v * V(lanes), 1);
        }
        if (lies == A_TILES) A.stride = rows;
        switch (rows) { UP_TO_TILE_ROWS(TILE_CASE) }
        for (int64_t r = 0; edge && r < rows; r++) memcpy(row_of(C, m + r), to[r], (size_t)columns * sizeof(REAL));
        if (lies == A_COLUMNS)
            A.column += rows;
        else
            A.first += rows * (lies == A_TILES ? K : A.stride);
    }
}

#undef TILE_CASE
