/* Forward of one sequence whose weights a core's caches do not hold. At every step U's product waits for its weights,
 * while W's, done for a block of steps before it, waits for nothing. So only the first steps' is done before; that of
 * steps to come is cut into pieces, small enough for the first-level cache, and each is multiplied beside as many rows
 * of U, where the multiply-adds would have waited. The sums are the same, in the same order. For processors that do
 * wide vectors as two: others have done W's product sooner.
 */
#ifndef FRNN_AHEAD_H
#define FRNN_AHEAD_H

#include "rows.h"

/* A piece is so many rows of W for a vector of units; it is multiplied by that many steps' inputs in turn. */
enum { AHEAD_ROWS = 32, AHEAD_STEPS = 16 };

/* The next piece: for step `begin + step` of the block that begins at step `first` and has `end` steps, units from u
 * on, rows from k on. All before `begin` are done. */
typedef struct {
    int64_t first, begin, end, step, k, u;
} slots_ahead;

INLINE slots_ahead ahead_begin(const layer_task *task, int64_t first, int64_t steps) {
    return (slots_ahead){.first = first, .begin = AHEAD_STEPS, .end = steps, .u = task->u0};
}
INLINE int ahead_left(const slots_ahead *a) { return a->begin < a->end; }

/* The first row of sum += A times K packed rows of weights that lie at B. */
INLINE void ahead_add(const int gates, int64_t K, const REAL *A, const REAL *B, vreal sum[GATE_ROWS][4]) {
    const gates_product rows = {.K = K, .packed = B, .A = {A}};
    vgates_add(1, gates, 0, 0, 0, gates, &rows, 0, sum);
}

/* Multiplies the next piece, and beside it K rows of U, to acc; where K is zero, neither is looked at. */
INLINE void ahead_multiply(const int gates, const layer_task *task, slots_ahead *a, int64_t K, const REAL *h,
                           const REAL *U, vreal acc[GATE_ROWS][4]) {
    const layer_plan *p = task->plan;
    const int64_t row = a->begin + a->step, rows = smaller(AHEAD_ROWS, p->I - a->k), both = smaller(rows, K);
    const REAL *x = task->x_rows[row] + a->k, *W = p->W + (a->u * p->I + a->k * LANES) * gates;
    REAL *slots = task->slots_block + row * p->lds + a->u;
    const int64_t apart = gates * LANES;
    vreal sum[GATE_ROWS][4];
    UNROLL
    for (int g = 0; g < gates; g++) sum[0][g] = vload((a->k ? slots : p->bias + a->u) + g * p->H);
    for (int64_t i = 0; i < both; i++) {
        ahead_add(gates, 1, h + i, U + i * apart, acc);
        ahead_add(gates, 1, x + i, W + i * apart, sum);
    }
    ahead_add(gates, K - both, h + both, U + both * apart, acc);
    ahead_add(gates, rows - both, x + both, W + both * apart, sum);
    UNROLL
    for (int g = 0; g < gates; g++) vstore(slots + g * p->H, sum[0][g]);
    if (++a->step < smaller(AHEAD_STEPS, a->end - a->begin)) return;
    a->step = 0, a->k += AHEAD_ROWS;
    if (a->k < p->I) return;
    a->k = 0, a->u += LANES;
    if (a->u < task->u1) return;
    a->u = task->u0, a->begin += AHEAD_STEPS;
}

/* What a gates_function does for one row and U alone, no masks; and a piece beside each AHEAD_ROWS rows of U, as long
 * as there are any left. */
INLINE void ahead_tile_of(const int gates, const layer_task *task, slots_ahead *a, const gates_product *U, int64_t u,
                          const REAL *from, const REAL *last, REAL *C) {
    const REAL *h = U->A[0], *B = U->packed + u * U->K * gates;
    vreal acc[GATE_ROWS][4];
    UNROLL
    for (int g = 0; g < gates; g++) acc[0][g] = vload(g == gates - 1 && last ? last : from + g * task->plan->H);
    int64_t i = 0;
    for (int64_t rows; i < U->K && ahead_left(a); i += rows) {
        rows = smaller(AHEAD_ROWS, U->K - i);
        ahead_multiply(gates, task, a, rows, h + i, B + i * gates * LANES, acc);
    }
    ahead_add(gates, U->K - i, h + i, B + i * gates * LANES, acc);
    UNROLL
    for (int g = 0; g < gates; g++) vstore(C + g * LANES, acc[0][g]);
}
NOINLINE void ahead_tile(const layer_task *task, slots_ahead *a, const gates_product *U, int64_t u, const REAL *from,
                         const REAL *last, REAL *C) {
    if (task->plan->gates == 4)
        ahead_tile_of(4, task, a, U, u, from, last, C);
    else
        ahead_tile_of(3, task, a, U, u, from, last, C);
}

/* Before step s: its slots must be there, and are made now where U has not left time enough. */
NOINLINE void ahead_catch_up(const layer_task *task, slots_ahead *a, int64_t s) {
    vreal none[GATE_ROWS][4];
    while (ahead_left(a) && a->begin <= s - a->first) {
        if (task->plan->gates == 4)
            ahead_multiply(4, task, a, 0, NULL, NULL, none);
        else
            ahead_multiply(3, task, a, 0, NULL, NULL, none);
    }
}

#endif
