/* The products for all gates of one vector of units at once, C[M,g] = start + A[M,K] B[K,g], on tiles like gemm.h's, in
 * one order of summation too; and how weights are packed for them. A tile may sum W's product and U's.
 */
#ifndef FRNN_GATES_H
#define FRNN_GATES_H

#include "fastrnn.h"
#include "gemm.h"
#include "simd.h"

#include <stdint.h>

/* The most rows of a tile of so many vectors, and of any. With 3 vectors 8 rows would fit, but 6 need no more loads
 * than the ports give, and 8 rows of states a power of two apart would be all that the ways of a cache's set can hold.
 * A narrow layer's states are close together, its products short, and its gates in fewer vectors: with 8 rows forward
 * of a GRU takes 6 % less, of an LSTM under recurrent dropout 3 (Zen 5). */
enum { GATE_ROWS = NARROW ? 8 : 6 };
INLINE int gate_tile_rows(const int vectors) { return REGISTERS == 32 ? GATE_ROWS : ACCUMULATORS / vectors; }

/* The cases of a switch over a tile's rows; above GATE_ROWS they are empty. */
#define UP_TO_GATE_ROWS(CASE) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)

/* The slots of a tile. */
enum { TILE_REALS = GATE_ROWS * 4 * LANES };

/* -- packing --------------------------------------------------------------------------------------------------------
 */

/* So many numbers of weights a core's caches do not keep from call to call, and so many of their vectors are fetched
 * ahead then: one step of one sequence with 512 units takes 0.7 of the time. */
enum { FAR_TO_PACK = 1 << 18, PACKED_AHEAD = 16 };

/* Weights (K, all * H) for a gates_function, the first `gates` of `all` in an order that begins with `first`: [vector
 * of units][k][gate][lane], units beyond H zero, each gate times its scale, of `all`. Packs `vectors`, a constant, side
 * by side, from unit u on, each of `part` units. `far`, a constant too, since to ask in the loop
 * costs 2 to 9 % of packing: both matrices come from beyond a core's caches, and processors look ahead for neither. */
INLINE void gates_pack_vectors(const int vectors, int64_t K, int64_t H, int gates, int first, int all,
                               const REAL *scales, const REAL *RESTRICT B, REAL *RESTRICT packed, int64_t u,
                               const int part, const int far) {
    REAL *to = packed + u * K * gates;
    for (int64_t k = 0; k < K; k++)
        for (int g = 0; g < gates; g++, to += LANES) {
            const int gate = (g + first) % all;
            const REAL *from = B + (k * all + gate) * H + u;
            UNROLL
            for (int v = 0; v < vectors; v++) {
                if (far) __builtin_prefetch(to + (v * K * gates + PACKED_AHEAD) * LANES, 1, 2);
                if (far) __builtin_prefetch(from + v * LANES + PACKED_AHEAD * H, 0, 2);
                vstore(to + v * K * gates * LANES, vload_n(from + v * LANES, part) * vset(scales[gate]));
            }
        }
}

/* Packs units [u0, u1), u0 being a multiple of LANES. Four vectors side by side where a share has as many: from memory
 * that comes faster, in longer runs (1024 units: forward a twentieth shorter); two cost more than they bring. What is
 * left is too little to fetch ahead. */
static void gates_pack(int64_t K, int64_t H, int gates, int first, int all, const REAL *scales, const REAL *RESTRICT B,
                       REAL *RESTRICT packed, int64_t u0, int64_t u1) {
    const int far = K * H * all >= FAR_TO_PACK;
    for (; u0 + 4 * LANES <= u1; u0 += 4 * LANES)
        if (far)
            gates_pack_vectors(4, K, H, gates, first, all, scales, B, packed, u0, LANES, 1);
        else
            gates_pack_vectors(4, K, H, gates, first, all, scales, B, packed, u0, LANES, 0);
    for (; u0 < u1; u0 += LANES)
        gates_pack_vectors(1, K, H, gates, first, all, scales, B, packed, u0, (int)(u1 - u0 < LANES ? u1 - u0 : LANES),
                           0);
}

/* The transposes of weights' (N, H) blocks of columns, one for each gate, for a gates_function: [vector of n][k][gate]
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

/* One of two products that are summed: the weights, packed by gates_pack, and the rows of A for a tile. Each next
 * gate's row is a_stride further on, the same for all where that is zero. What each tile has fetched into the
 * second-level cache meanwhile begins at `next` and is `next_step` bytes further on with each k, nothing where that is
 * zero. Where `mask` is given, which is for narrow layers, each gate sees A, at most LANES numbers then, times a mask
 * of its own: those of the first two gates for the rows of a tile, side by side, (rows, 2 LANES), and those of the
 * other two, or one. */
typedef struct {
    int64_t K, a_stride;
    const REAL *packed, *mask[2];
    const char *next;
    int64_t next_step;
    const REAL *A[GATE_ROWS];
} gates_product;

/* Has units `next` fetched by so many tiles that take part in the same product before; by none: nothing. */
INLINE void gates_fetch(gates_product *p, int gates, int64_t next, int64_t tiles) {
    p->next = (const char *)(p->packed + (tiles ? next * p->K * gates : 0));
    p->next_step = tiles ? gates * VECTOR_BYTES / tiles : 0;
}

#define V(name) w##name
#include "gate_tiles.h"
#undef V
#define V(name) v##name
#include "gate_tiles.h"
#undef V

#include "gates_narrow.h"

/* Whether gates share wide vectors: an LSTM's two by two, or a GRU's z and r. */
INLINE int in_pairs(const int gates) { return NARROW && gates == 4; }
INLINE int in_a_pair(const int gates) { return NARROW && gates < 4; }

/* One tile: `rows` rows, at most gate_tile_rows of the number of vectors; the rest as in gates_tile. */
typedef void gates_function(const gates_product *W, const gates_product *U, int64_t u, int rows,
                            const REAL *const *from, int64_t from_stride, const REAL *last, REAL *C, int64_t ldc,
                            int64_t c_stride);

#define GATES_CASE(n)                                                                                                  \
    case n:                                                                                                            \
        if (n > gate_tile_rows(vectors)) break;                                                                        \
        if (in_pairs(u_gates) && u_per_gate && !split)                                                                 \
            gates_tile_spread(n, w_gates, w_per_gate, W, U, u, from, from_stride, C, ldc, c_stride);                   \
        else if (in_pairs(u_gates) && !split)                                                                          \
            wgates_tile(n, 2, w_gates / 2, 2, 0, 0, 0, W, U, u, from, from_stride, NULL, C, ldc, c_stride);            \
        else if (in_pairs(w_gates) && !w_per_gate)                                                                     \
            gates_tile_split(n, W, U, u, from, from_stride, C, ldc, c_stride);                                         \
        else if (in_a_pair(u_gates))                                                                                   \
            gates_tile_pair(n, vectors, w_gates, u_gates, w_per_gate, u_per_gate, W, U, u, from, from_stride, last, C, \
                            ldc, c_stride);                                                                            \
        else                                                                                                           \
            vgates_tile(n, vectors, w_gates, u_gates, w_per_gate, u_per_gate, far, W, U, u, from, from_stride, last,   \
                        C, ldc, c_stride);                                                                             \
        break;
INLINE void gates_tiles(const int vectors, const int w_gates, const int u_gates, const int w_per_gate,
                        const int u_per_gate, const int far, const int split, const gates_product *W,
                        const gates_product *U, int64_t u, int rows, const REAL *const *from, int64_t from_stride,
                        const REAL *last, REAL *C, int64_t ldc, int64_t c_stride) {
    switch (rows) { UP_TO_GATE_ROWS(GATES_CASE) }
}
#undef GATES_CASE

#define GATES_FUNCTION(name, vectors, w_gates, u_gates, w_per_gate, u_per_gate, far, split)                            \
    NOINLINE void name(const gates_product *W, const gates_product *U, int64_t u, int rows, const REAL *const *from,   \
                       int64_t from_stride, const REAL *last, REAL *C, int64_t ldc, int64_t c_stride) {                \
        gates_tiles(vectors, w_gates, u_gates, w_per_gate, u_per_gate, far, split, W, U, u, rows, from, from_stride,   \
                    last, C, ldc, c_stride);                                                                           \
    }
GATES_FUNCTION(gates_u4, 4, 0, 4, 0, 0, 0, 0)
GATES_FUNCTION(gates_u4_masked, 4, 0, 4, 0, 1, 0, 0)
GATES_FUNCTION(gates_u4_far, 4, 0, 4, 0, 0, 1, 0)
GATES_FUNCTION(gates_u3, 3, 0, 3, 0, 0, 0, 0)
GATES_FUNCTION(gates_u3_masked, 3, 0, 3, 0, 1, 0, 0)
GATES_FUNCTION(gates_u3_far, 3, 0, 3, 0, 0, 1, 0)
GATES_FUNCTION(gates_u2, 2, 0, 2, 0, 0, 0, 0)
GATES_FUNCTION(gates_u2_masked, 2, 0, 2, 0, 1, 0, 0)
GATES_FUNCTION(gates_u2_far, 2, 0, 2, 0, 0, 1, 0)
GATES_FUNCTION(gates_w4_u4, 4, 4, 4, 0, 0, 0, 0)
GATES_FUNCTION(gates_w4_u4_masked, 4, 4, 4, 0, 1, 0, 0)
GATES_FUNCTION(gates_w4_u4_both_masked, 4, 4, 4, 1, 1, 0, 0)
GATES_FUNCTION(gates_w3_u3, 4, 3, 3, 0, 0, 0, 0)
GATES_FUNCTION(gates_w3_u3_masked, 4, 3, 3, 0, 1, 0, 0)
GATES_FUNCTION(gates_w3_u3_both_masked, 4, 3, 3, 1, 1, 0, 0)
GATES_FUNCTION(gates_w3_u2, 3, 3, 2, 0, 0, 0, 0)
GATES_FUNCTION(gates_w3_u2_masked, 3, 3, 2, 0, 1, 0, 0)
GATES_FUNCTION(gates_w3_u2_both_masked, 3, 3, 2, 1, 1, 0, 0)
#if WIDE_BYTES != VECTOR_BYTES
GATES_FUNCTION(gates_u4_split, 4, 0, 4, 0, 1, 0, 1)
GATES_FUNCTION(gates_w4_u4_split, 4, 4, 4, 0, 1, 0, 1)
GATES_FUNCTION(gates_w4_u4_both_split, 4, 4, 4, 1, 1, 0, 1)
#endif
#undef GATES_FUNCTION

/* -- tiles of two vectors of units ----------------------------------------------------------------------------------
 * Where each gate sees numbers of its own, a tile of one vector of units reads a number of A for every multiply-add:
 * more than the ports give, and on Intel, where such an operand has an index, as many instructions again. Two vectors
 * of units beside each other, two gates at a time, share a number of A. */

/* C = start + U's product of two vectors of units from u on, of the second one TILE_REALS after that of the
 * first; the rest as in gates_tile. */
INLINE void gates_tile_two(const int rows, const int gates, const gates_product *U, int64_t u, const REAL *const *from,
                           int64_t from_stride, const REAL *last, REAL *C) {
    const int64_t panel = U->K * gates * LANES;
    UNROLL
    for (int g0 = 0; g0 < gates; g0 += 2) {
        const int end = g0 + 2 < gates ? g0 + 2 : gates;
        const REAL *B = U->packed + u / LANES * panel;
        vreal acc[GATE_ROWS][2][2];
        UNROLL
        for (int r = 0; r < rows; r++) {
            UNROLL
            for (int g = g0; g < end; g++) {
                const REAL *begin = g == gates - 1 && last ? last : from[r] + g * from_stride;
                acc[r][g - g0][0] = vload(begin), acc[r][g - g0][1] = vload(begin + LANES);
            }
        }
        for (int64_t k = 0; k < U->K; k++, B += gates * LANES) {
            vreal b[2][2];
            UNROLL
            for (int g = g0; g < end; g++)
                b[g - g0][0] = vload(B + g * LANES), b[g - g0][1] = vload(B + panel + g * LANES);
            UNROLL
            for (int r = 0; r < rows; r++) {
                UNROLL
                for (int g = g0; g < end; g++) {
                    const vreal a = vset(U->A[r][k + g * U->a_stride]);
                    acc[r][g - g0][0] = vfma(a, b[g - g0][0], acc[r][g - g0][0]);
                    acc[r][g - g0][1] = vfma(a, b[g - g0][1], acc[r][g - g0][1]);
                }
            }
        }
        UNROLL
        for (int r = 0; r < rows; r++) {
            UNROLL
            for (int g = g0; g < end; g++) {
                vstore(C + (r * 4 + g) * LANES, acc[r][g - g0][0]);
                vstore(C + (r * 4 + g) * LANES + TILE_REALS, acc[r][g - g0][1]);
            }
        }
    }
}

/* At most gate_tile_rows(4) rows. */
typedef void gates_two_function(const gates_product *U, int64_t u, int rows, const REAL *const *from,
                                int64_t from_stride, const REAL *last, REAL *C);

#define GATES_CASE(n)                                                                                                  \
    case n:                                                                                                            \
        if (n <= gate_tile_rows(4)) gates_tile_two(n, gates, U, u, from, from_stride, last, C);                        \
        break;
INLINE void gates_tiles_two(const int gates, const gates_product *U, int64_t u, int rows, const REAL *const *from,
                            int64_t from_stride, const REAL *last, REAL *C) {
    switch (rows) { UP_TO_GATE_ROWS(GATES_CASE) }
}
#undef GATES_CASE

#define GATES_TWO_FUNCTION(name, gates)                                                                                \
    NOINLINE void name(const gates_product *U, int64_t u, int rows, const REAL *const *from, int64_t from_stride,      \
                       const REAL *last, REAL *C) {                                                                    \
        gates_tiles_two(gates, U, u, rows, from, from_stride, last, C);                                                \
    }
#if WIDE_BYTES == VECTOR_BYTES
GATES_TWO_FUNCTION(gates_two_u4, 4)
GATES_TWO_FUNCTION(gates_two_u3, 3)
GATES_TWO_FUNCTION(gates_two_u2, 2)
static gates_two_function *gates_choose_two(int gates) {
    return gates == 4 ? gates_two_u4 : gates == 3 ? gates_two_u3 : gates_two_u2;
}
#else /* narrow layers have no second vector */
static gates_two_function *gates_choose_two(int gates) { return (void)gates, NULL; }
#endif
#undef GATES_TWO_FUNCTION

/* The function for tiles of so many of U's gates alone; or, where W is given, of W's too: with those of a GRU, for
 * which there is one more vector then. By what is masked per gate, or whether weights are fetched ahead. Chosen once
 * for all tiles: a GRU of 8 units takes a tenth longer for one row where each tile chooses. */
static gates_function *gates_choose(int gates, const gates_product *W, const gates_product *U, int far) {
    static gates_function *const alone[3][3] = {{gates_u2, gates_u2_masked, gates_u2_far},
                                                {gates_u3, gates_u3_masked, gates_u3_far},
                                                {gates_u4, gates_u4_masked, gates_u4_far}};
    static gates_function *const both[3][3] = {{gates_w3_u2, gates_w3_u2_masked, gates_w3_u2_both_masked},
                                               {gates_w3_u3, gates_w3_u3_masked, gates_w3_u3_both_masked},
                                               {gates_w4_u4, gates_w4_u4_masked, gates_w4_u4_both_masked}};
#if WIDE_BYTES != VECTOR_BYTES
    if (gates == 4 && frnn_wide_is_halved && (U->a_stride || (W && W->a_stride)))
        return !W ? gates_u4_split : W->a_stride ? gates_w4_u4_both_split : gates_w4_u4_split;
#endif
    const int per_gate = U->a_stride || U->mask[0];
    if (W) return both[gates - 2][W->a_stride ? 2 : per_gate];
    return alone[gates - 2][per_gate ? 1 : far ? 2 : 0];
}

#endif
