/* Backward under recurrent dropout masks for layers of which half a wide vector holds all units: what it gives for U
 * and for the states. In products by the gate half of such vectors would be empty, and all states masked first.
 */
#ifndef FRNN_MASKED_H
#define FRNN_MASKED_H

#include "rows.h"

/* dh += the sum over gates of mask (dslots U^T) for some rows from b on. One chain a gate: for two, as in gemm.h, there
 * are no registers, and the gates' do not wait for each other. */
INLINE void masked_tile(const int rows, const layer_task *k, int64_t b, const REAL *slots) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H;
    const int part = (int)H;
    wreal total[TILE_ROWS];
    UNROLL
    for (int r = 0; r < rows; r++) total[r] = wset(0);
    for (int g = 0; g < p->u_gates; g++) {
        const REAL *B = p->Ug + g * twos_reals(H), *mask = state_mask(k, b, g);
        const matrix A = rows_apart(slots + g * H, p->lds);
        wreal acc[TILE_ROWS];
        UNROLL
        for (int r = 0; r < rows; r++) acc[r] = wset(0);
        int64_t u = 0;
        for (; u + 2 <= H; u += 2, B += 2 * LANES) twos_add(rows, 2, A, u, B, acc);
        if (u < H) twos_add(rows, 1, A, u, B, acc);
        UNROLL
        for (int r = 0; r < rows; r++) total[r] = wfma(acc[r], wdouble(vload_part(mask + r * H, part)), total[r]);
    }
    twos_store(rows, total, part, rows_apart(k->dh + b * H, H), 1);
}

#define MASKED_CASE(n)                                                                                                 \
    case n:                                                                                                            \
        masked_tile(n, k, b, slots);                                                                                   \
        break;
static void masked_states(const layer_task *k, const REAL *slots) {
    for (int64_t b = 0, rows; b < k->n; b += rows, slots += rows * k->plan->lds) {
        rows = deal_rows(k->n - b, TILE_ROWS);
        switch (rows) { UP_TO_TILE_ROWS(MASKED_CASE) }
    }
}
#undef MASKED_CASE

/* dU = h^T dslots, or += where `begins` is not set, over some steps, U's slots from the first on: row by row, from
 * the last to the first, the states under the mask of each gate times its slots, two units of the former to a wide
 * vector. */
INLINE void masked_weights_of(const int gates, const layer_task *k, int64_t steps, const REAL *h, const REAL *dslots,
                              int begins) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, GH = p->GH, mask_apart = p->B * H;
    const int part = (int)H, half = LANES / 2;
    wreal sum[4][vlanes / 2];
    UNROLL
    for (int g = 0; g < gates; g++) {
        UNROLL
        for (int j = 0; j < half; j++) {
            const REAL *lower = k->dU + j * GH + g * H, *upper = lower + half * GH;
            sum[g][j] = wjoin(begins || j >= H ? vset(0) : vload_n(lower, part),
                              begins || j + half >= H ? vset(0) : vload_n(upper, part));
        }
    }
    h += steps * k->n * H, dslots += steps * k->n * p->lds;
    for (int64_t s = steps - 1; s >= 0; s--) {
        const REAL *mask = state_mask(k, k->n, 0);
        for (int64_t b = k->n - 1; b >= 0; b--) {
            h -= H, mask -= H, dslots -= p->lds;
            const vreal state = vload_part(h, part);
            UNROLL
            for (int g = 0; g < gates; g++) {
                const vreal seen = state * vload_part(mask + g * mask_apart, part);
                const wreal slot = wload_twice(dslots + g * H);
                UNROLL
                for (int j = 0; j < half; j++) sum[g][j] = wfma(wspread(seen, j), slot, sum[g][j]);
            }
        }
    }
    UNROLL
    for (int g = 0; g < gates; g++) {
        UNROLL
        for (int j = 0; j < half; j++) {
            REAL *lower = k->dU + j * GH + g * H, *upper = lower + half * GH;
            if (j < H) vstore_n(lower, wlower(sum[g][j]), part);
            if (j + half < H) vstore_n(upper, wupper(sum[g][j]), part);
        }
    }
}

static void masked_weights(const layer_task *k, int64_t steps, const REAL *h, const REAL *dslots, int begins) {
    switch (k->plan->u_gates) {
    case 4:
        masked_weights_of(4, k, steps, h, dslots, begins);
        break;
    case 3:
        masked_weights_of(3, k, steps, h, dslots, begins);
        break;
    default:
        masked_weights_of(2, k, steps, h, dslots, begins);
    }
}

#endif
