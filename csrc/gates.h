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
 * zero. Where `mask` is given, in narrow layers, each gate sees A, of at most LANES numbers, times a mask of its own:
 * those of the first two gates are side by side, (rows, 2 LANES) for a tile, and those of the others, (rows, 2 LANES)
 * or (rows, LANES). */
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

/* Whether gates share wide vectors: an LSTM's two by two, or a GRU's z and r. A GRU's that each see numbers of their
 * own do not: what such vectors save, filling them takes. */
INLINE int in_pairs(const int gates) { return NARROW && gates == 4; }
INLINE int in_a_pair(const int gates) { return NARROW && gates < 4; }

/* acc += A B for an LSTM's pairs of gates, each of which sees numbers of its own: a vector of those of either gate side
 * by side, of which a permutation fills both halves with the next ones. Four rows at a time, since more would not stay
 * in registers. To merge a second broadcast into half of a first takes longer (Zen 5: forward under recurrent dropout
 * with 8 units 3 % shorter, and 7 under masks of each gate for inputs, too). */
INLINE void gates_add_spread(const int rows, const gates_product *p, int64_t u, wreal acc[GATE_ROWS][4]) {
    const REAL *B = p->packed + u / LANES * p->K * 4 * LANES;
    for (int64_t k0 = 0; k0 < p->K; k0 += LANES, B += LANES * 4 * LANES) {
        const int count = (int)(p->K - k0 < LANES ? p->K - k0 : LANES);
        UNROLL
        for (int r0 = 0; r0 < rows; r0 += 4) {
            const int end = r0 + 4 < rows ? r0 + 4 : rows;
            wreal a[4][2];
            UNROLL
            for (int r = r0; r < end; r++) {
                UNROLL
                for (int v = 0; v < 2; v++)
                    a[r - r0][v] = wload_two(p->A[r] + k0 + 2 * v * p->a_stride, p->a_stride, count);
            }
            UNROLL
            for (int k = 0; k < LANES; k++) {
                if (k == count) break;
                const wreal b[2] = {wload(B + k * 4 * LANES), wload(B + k * 4 * LANES + WIDE_LANES)};
                UNROLL
                for (int r = r0; r < end; r++) {
                    UNROLL
                    for (int v = 0; v < 2; v++) acc[r][v] = wfma(wspread_two(a[r - r0][v], k), b[v], acc[r][v]);
                }
            }
        }
    }
}

/* sums += (mask A) B for pair v of so many gates. A row's numbers are masked for both gates at once and stay in a
 * register: nobody has to write them for each gate before. */
INLINE void pair_add_masked_of(const int rows, const int K, const gates_product *p, const int v, const int gates,
                               wreal sums[GATE_ROWS]) {
    const REAL *B = p->packed + v * WIDE_LANES;
    wreal a[GATE_ROWS];
    UNROLL
    for (int r = 0; r < rows; r++)
        a[r] = (K == LANES ? wload_twice(p->A[r]) : wload_two(p->A[r], 0, K)) * wload(p->mask[v] + r * WIDE_LANES);
    UNROLL
    for (int k = 0; k < LANES; k++, B += gates * LANES) {
        if (k == K) break;
        const wreal b = wload(B);
        UNROLL
        for (int r = 0; r < rows; r++) sums[r] = wfma(wspread_two(a[r], k), b, sums[r]);
    }
}
INLINE void pair_add_masked(const int rows, const gates_product *p, const int v, const int gates,
                            wreal sums[GATE_ROWS]) {
    if (p->K == LANES)
        pair_add_masked_of(rows, LANES, p, v, gates, sums);
    else
        pair_add_masked_of(rows, (int)p->K, p, v, gates, sums);
}

/* The same for the third of three gates, which is alone: two rows in a wide vector, where the last of an odd number is
 * twice. */
INLINE void third_add_masked_of(const int rows, const int K, const gates_product *p, vreal sums[GATE_ROWS]) {
    const REAL *B = p->packed + 2 * LANES, *mask = p->mask[1];
    wreal a[GATE_ROWS], two[GATE_ROWS];
    UNROLL
    for (int r = 0; r < rows; r += 2) {
        const int next = r + 1 < rows ? r + 1 : r;
        a[r] = wjoin(vload_n(p->A[r], K), vload_n(p->A[next], K)) *
               wjoin(vload(mask + r * LANES), vload(mask + next * LANES));
        two[r] = wjoin(sums[r], sums[next]);
    }
    UNROLL
    for (int k = 0; k < LANES; k++, B += 3 * LANES) {
        if (k == K) break;
        const wreal b = wload_twice(B);
        UNROLL
        for (int r = 0; r < rows; r += 2) two[r] = wfma(wspread_two(a[r], k), b, two[r]);
    }
    UNROLL
    for (int r = 0; r < rows; r += 2) {
        sums[r] = wlower(two[r]);
        if (r + 1 < rows) sums[r + 1] = wupper(two[r]);
    }
}
INLINE void third_add_masked(const int rows, const gates_product *p, vreal sums[GATE_ROWS]) {
    if (p->K == LANES)
        third_add_masked_of(rows, LANES, p, sums);
    else
        third_add_masked_of(rows, (int)p->K, p, sums);
}

/* gates_tile for pairs of such gates; W's may see the same numbers, and U's too. */
INLINE void gates_tile_spread(const int rows, const int w_gates, const int w_per_gate, const gates_product *W,
                              const gates_product *U, int64_t u, const REAL *const *from, int64_t from_stride, REAL *C,
                              int64_t ldc, int64_t c_stride) {
    wreal acc[GATE_ROWS][4];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < 2; v++) acc[r][v] = wload_apart(from[r] + 2 * v * from_stride, from_stride);
    }
    if (w_gates && w_per_gate) gates_add_spread(rows, W, u, acc);
    if (w_gates && !w_per_gate) wgates_add(rows, 2, 0, 0, 0, 2, W, u, acc);
    if (!U->mask[0] && w_gates) wgates_add(rows, 2, 0, 0, 0, 2, U, u, acc);
    if (!U->mask[0] && !w_gates) gates_add_spread(rows, U, u, acc);
    UNROLL
    for (int v = 0; v < 2; v++) {
        wreal sums[GATE_ROWS];
        UNROLL
        for (int r = 0; r < rows; r++) sums[r] = acc[r][v];
        if (U->mask[0]) pair_add_masked(rows, U, v, 4, sums);
        UNROLL
        for (int r = 0; r < rows; r++) wstore(C + r * ldc + 2 * v * c_stride, sums[r]);
    }
}

/* Split: where each gate sees numbers of its own, it is multiplied alone, for one of them fills its vector by a load,
 * but half of a wide one by a permutation. That is for processors that do wide vectors as two (Zen 4: under recurrent
 * dropout masks forward takes 0.85 of the time, backward 0.92). Others do them at once, and narrow ones slower beside
 * them. Here W's product is in pairs all the same, and U's is split. */
INLINE void gates_tile_split(const int rows, const gates_product *W, const gates_product *U, int64_t u,
                             const REAL *const *from, int64_t from_stride, REAL *C, int64_t ldc, int64_t c_stride) {
    wreal pairs[GATE_ROWS][4];
    vreal acc[GATE_ROWS][4];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < 2; v++) pairs[r][v] = wload_apart(from[r] + 2 * v * from_stride, from_stride);
    }
    wgates_add(rows, 2, 0, 0, 0, 2, W, u, pairs);
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < 2; v++) acc[r][2 * v] = wlower(pairs[r][v]), acc[r][2 * v + 1] = wupper(pairs[r][v]);
    }
    vgates_add(rows, 4, 1, 0, 0, 4, U, u, acc);
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < 4; v++) vstore(C + r * ldc + v * c_stride, acc[r][v]);
    }
}

/* gates_add for a GRU: z and r are a pair, the third gate, if there is one, is alone; of W's it is packed first. An
 * element of A fills one register for both. */
INLINE void gates_add_pair(const int rows, const int gates, const int pair_first, const gates_product *p, int64_t u,
                           wreal pair[GATE_ROWS], vreal alone[GATE_ROWS]) {
    const REAL *B = p->packed + u / LANES * p->K * gates * LANES;
    for (int64_t k = 0; k < p->K; k++, B += gates * LANES) {
        const wreal b = wload(B + (pair_first ? 0 : LANES));
        const vreal c = gates == 3 ? vload(B + (pair_first ? 2 * LANES : 0)) : vset(0);
        UNROLL
        for (int r = 0; r < rows; r++) {
            const wreal a = wset(p->A[r][k]);
            pair[r] = wfma(a, b, pair[r]);
            if (gates == 3) alone[r] = vfma(wlower(a), c, alone[r]);
        }
    }
}

/* The same where each gate sees numbers of its own, as they lie: then narrow vectors are multiplied. Vectors are the
 * pair's and one more, and gate g adds to number g + turn. */
INLINE void gates_add_alone(const int rows, const int gates, const int turn, const gates_product *p, int64_t u,
                            wreal pair[GATE_ROWS], vreal alone[GATE_ROWS]) {
    vreal acc[GATE_ROWS][4];
    UNROLL
    for (int r = 0; r < rows; r++) acc[r][0] = wlower(pair[r]), acc[r][1] = wupper(pair[r]), acc[r][2] = alone[r];
    vgates_add(rows, gates, 1, 0, turn, 3, p, u, acc);
    UNROLL
    for (int r = 0; r < rows; r++) pair[r] = wjoin(acc[r][0], acc[r][1]), alone[r] = acc[r][2];
}

/* gates_tile for a GRU in a pair. */
INLINE void gates_tile_pair(const int rows, const int vectors, const int w_gates, const int u_gates,
                            const int w_per_gate, const int u_per_gate, const gates_product *W, const gates_product *U,
                            int64_t u, const REAL *const *from, int64_t from_stride, const REAL *last, REAL *C,
                            int64_t ldc, int64_t c_stride) {
    wreal pair[GATE_ROWS];
    vreal alone[2][GATE_ROWS]; /* the vectors after the pair */
    UNROLL
    for (int r = 0; r < rows; r++) {
        pair[r] = wload_apart(from[r], from_stride);
        UNROLL
        for (int v = 2; v < vectors; v++)
            alone[v - 2][r] = vload(v == vectors - 1 && last ? last : from[r] + v * from_stride);
    }
    if (w_gates && w_per_gate) gates_add_alone(rows, w_gates, 2, W, u, pair, alone[vectors - 3]);
    if (w_gates && !w_per_gate) gates_add_pair(rows, w_gates, 0, W, u, pair, alone[vectors - 3]);
    if (u_per_gate && U->mask[0]) {
        pair_add_masked(rows, U, 0, u_gates, pair);
        if (u_gates == 3) third_add_masked(rows, U, alone[0]);
    } else if (u_per_gate && !w_gates) {
        gates_add_alone(rows, u_gates, 0, U, u, pair, alone[0]);
    } else {
        gates_add_pair(rows, u_gates, 1, U, u, pair, alone[0]);
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        wstore(C + r * ldc, pair[r]);
        UNROLL
        for (int v = 2; v < vectors; v++) vstore(C + r * ldc + v * c_stride, alone[v - 2][r]);
    }
}

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

/* C = start + U's product of two vectors of units from u on, of the second one `next` after that of the first; the
 * rest as in gates_tile. */
INLINE void gates_tile_two(const int rows, const int gates, const gates_product *U, int64_t u, const REAL *const *from,
                           int64_t from_stride, const REAL *last, REAL *C, int64_t next) {
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
                vstore(C + (r * 4 + g) * LANES + next, acc[r][g - g0][1]);
            }
        }
    }
}

/* At most gate_tile_rows(4) rows. */
typedef void gates_two_function(const gates_product *U, int64_t u, int rows, const REAL *const *from,
                                int64_t from_stride, const REAL *last, REAL *C, int64_t next);

#define GATES_CASE(n)                                                                                                  \
    case n:                                                                                                            \
        if (n <= gate_tile_rows(4)) gates_tile_two(n, gates, U, u, from, from_stride, last, C, next);                  \
        break;
INLINE void gates_tiles_two(const int gates, const gates_product *U, int64_t u, int rows, const REAL *const *from,
                            int64_t from_stride, const REAL *last, REAL *C, int64_t next) {
    switch (rows) { UP_TO_GATE_ROWS(GATES_CASE) }
}
#undef GATES_CASE

#define GATES_TWO_FUNCTION(name, gates)                                                                                \
    NOINLINE void name(const gates_product *U, int64_t u, int rows, const REAL *const *from, int64_t from_stride,      \
                       const REAL *last, REAL *C, int64_t next) {                                                      \
        gates_tiles_two(gates, U, u, rows, from, from_stride, last, C, next);                                          \
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
