/* How a call is cut into tasks and blocks of time steps, its memory and its packed weights.
 *
 * A task is a slice of the batch; it runs the whole sweep over time for its rows with no barrier. How many tasks
 * there are depends on the shapes alone, and each task sums its own weight gradients, which are then added up in the
 * order of the tasks: so results do not depend on the number of threads.
 *
 * A block is as many time steps as keep the block's inputs and gates in the second-level cache. Its inputs are
 * gathered time-major (rows t, b), which is where dropout masks and go_backwards are dealt with; the products with W
 * run over a whole block, only those with U are done step by step.
 *
 * "Slots" are the gates of one row, 4 H numbers: LSTM i, f, c, o; GRU h, z, r, q, where q is U's part of the
 * candidate (reset_after) or r * h (not). In this order W sees slots 0-2 and U slots 1-3 of a GRU as they lie;
 * therefore W's columns are rotated by 2 H against Keras' z, r, h.
 */
#ifndef FRNN_PLAN_H
#define FRNN_PLAN_H

#include "fastrnn.h"
#include "gemm.h"
#include "simd.h"

#include <stdlib.h>

enum { BLOCK_REALS = 32768, MIN_ROWS = 8, MAX_TASKS = 16, MAX_PARTIAL_REALS = 1 << 25 };

typedef struct {
    const frnn_call *call;
    int backward;
    int64_t B, T, I, H, S;  /* S = 4 H, the slots of one row */
    int64_t GH;             /* columns of W and U */
    int64_t u_slot;         /* the first slot that U sees; W sees slots from 0 on */
    int64_t tasks, rows;    /* rows per task; the last task may have fewer */
    int64_t block;          /* time steps per block */
    int x_groups, u_groups; /* in how many separate products W and U take part: one, or one per gate */
    int h_masked;
    /* shared by the tasks */
    REAL *memory, *W_slots, *W, *U, *Wt, *Ut, *bias;
    REAL *words; /* with token ids: (V, S), the slots that each word's rows begin from */
    REAL *zeros; /* a row to begin products from */
    /* per task, `per_task` apart; the pointers are the first task's */
    int64_t per_task;
    REAL *x_block, *slots_block, *h_block, *dh, *dc, *dy_carry, *row, *dW, *dU, *db;
    int64_t *word_rows; /* with token ids: (block, n), where in `words` each row begins */
    REAL *dwords;       /* with token ids: (V, GH), the gradients of the slots that W sees, summed per word */
} layer_plan;

/* One task's view of the plan. */
typedef struct {
    const layer_plan *plan;
    int64_t b0, n;                         /* first row of the batch, number of rows */
    REAL *x_block, *slots_block, *h_block; /* (block, n, I), (block, n, S), see h_operand */
    REAL *dh, *dc, *dy_carry, *row;        /* (n, H) */
    REAL *dW, *dU, *db;                    /* (I, GH), (H, GH), (S) in the order of the slots */
    int64_t *word_rows;
    REAL *dwords;
    REAL *slots, *h, *c; /* the reserve's: (T, n, S), (T, n, H) before each step, (T + 1, n, H) */
} layer_task;

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE void row_zero(REAL *to, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = 0;
}
/* Rows are short, and a call of memcpy costs more than copying one; the empty statement keeps compilers from seeing
 * one in the loop. */
INLINE void row_copy(REAL *RESTRICT to, const REAL *RESTRICT from, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vstore(to + i, vload(from + i));
        __asm__ volatile("");
    }
    for (; i < n; i++) {
        to[i] = from[i];
        __asm__ volatile("");
    }
}
INLINE void row_add(REAL *RESTRICT to, const REAL *RESTRICT from, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) vstore(to + i, vload(to + i) + vload(from + i));
    for (; i < n; i++) to[i] += from[i];
}
INLINE void row_multiply(REAL *RESTRICT to, const REAL *RESTRICT a, const REAL *RESTRICT b, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) vstore(to + i, vload(a + i) * vload(b + i));
    for (; i < n; i++) to[i] = a[i] * b[i];
}
INLINE void row_multiply_add(REAL *RESTRICT to, const REAL *RESTRICT a, const REAL *RESTRICT b, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) vstore(to + i, vfma(vload(a + i), vload(b + i), vload(to + i)));
    for (; i < n; i++) to[i] += a[i] * b[i];
}

static int64_t reserve_row(const frnn_call *call) {
    const int64_t c = call->cell == FRNN_LSTM ? (call->T + 1) * call->H : 0;
    return call->T * 5 * call->H + c;
}

/* -- memory --------------------------------------------------------------------------------------------------------
 * Laid out by one function that is run twice: once from offset zero to learn the size, once for good. */

static REAL *take(REAL *memory, int64_t *offset, int64_t count) {
    REAL *p = memory ? memory + *offset : NULL;
    *offset += (count + 15) / 16 * 16;
    return p;
}

static int64_t lay_out(layer_plan *p, REAL *m) {
    const int64_t I = p->I, H = p->H, S = p->S, GH = p->GH, block_rows = p->block * p->rows;
    const int training = p->call->reserve != NULL, masked = p->call->mask != NULL;
    int64_t at = 0;
    p->W_slots = take(m, &at, p->u_slot ? I * GH : 0);
    p->bias = take(m, &at, S + 2 * LANES);
    if (p->backward) {
        p->Wt = take(m, &at, GH * packed_columns(I));
        p->Ut = take(m, &at, GH * packed_columns(H));
        p->zeros = take(m, &at, larger(I, H) + 2 * LANES);
    } else {
        p->W = take(m, &at, I * p->x_groups * packed_columns(GH / p->x_groups));
        p->U = take(m, &at, H * p->u_groups * packed_columns(GH / p->u_groups));
    }
    const int64_t V = p->call->ids ? p->call->V : 0;
    p->words = take(m, &at, p->backward || !V ? 0 : V * S + 2 * LANES);
    const int64_t shared = at;
    p->x_block = take(m, &at, V ? 0 : block_rows * I);
    /* gemm_transposed reads beyond the last row */
    p->slots_block = take(m, &at, p->backward || !training ? block_rows * S + 2 * LANES : 0);
    p->h_block = take(m, &at, p->h_masked ? (p->backward ? block_rows : p->rows * (GH / H)) * H : 0);
    p->row = take(m, &at, p->backward ? p->rows * H : 0);
    const int64_t word_reals = block_rows * (int64_t)(sizeof(int64_t) / sizeof(REAL));
    p->word_rows = (int64_t *)take(m, &at, p->backward || !V ? 0 : word_reals);
    if (p->backward) {
        p->dh = take(m, &at, p->rows * H);
        p->dc = take(m, &at, p->rows * H);
        p->dy_carry = take(m, &at, masked ? p->rows * H : 0);
        p->dW = take(m, &at, I * GH);
        p->dU = take(m, &at, H * GH);
        p->db = take(m, &at, S);
        p->dwords = take(m, &at, V ? V * GH + 2 * LANES : 0);
    }
    p->per_task = at - shared;
    return shared + p->per_task * p->tasks;
}

/* -- packing the weights --------------------------------------------------------------------------------------------
 */

/* A (K, GH) matrix as `groups` packed ones of GH / groups columns each. */
static void pack_groups(int64_t K, int64_t GH, int groups, const REAL *from, REAL *to) {
    const int64_t N = GH / groups;
    for (int g = 0; g < groups; g++) gemm_pack(K, N, from + g * N, GH, 1, to + g * K * packed_columns(N));
}

static void pack_weights(layer_plan *p) {
    const frnn_call *call = p->call;
    const int64_t I = p->I, H = p->H, GH = p->GH;
    const REAL *W = call->W, *U = call->U, *b = call->b;
    if (p->u_slot) {
        for (int64_t i = 0; i < I; i++) {
            row_copy(p->W_slots + i * GH, W + i * GH + 2 * H, H);
            row_copy(p->W_slots + i * GH + H, W + i * GH, 2 * H);
        }
        W = p->W_slots;
    }
    if (p->backward) {
        gemm_pack(GH, I, W, 1, GH, p->Wt);
        gemm_pack(GH, H, U, 1, GH, p->Ut);
        row_zero(p->zeros, larger(I, H) + 2 * LANES);
        return;
    }
    pack_groups(I, GH, p->x_groups, W, p->W);
    pack_groups(H, GH, p->u_groups, U, p->U);
    row_zero(p->bias, p->S + 2 * LANES);
    if (b && !p->u_slot) row_copy(p->bias, b, GH);
    if (b && p->u_slot) { /* GRU: h; z and r, where the two biases add up; q */
        row_copy(p->bias, b + 2 * H, H);
        row_copy(p->bias + H, b, 2 * H);
        if (call->reset_after) row_add(p->bias + H, b + GH, GH);
    }
}

static int plan_make(layer_plan *p, const frnn_call *call, int backward) {
    const int lstm = call->cell == FRNN_LSTM, gates = lstm ? 4 : 3;
    *p = (layer_plan){.call = call, .backward = backward, .B = call->B, .T = call->T, .I = call->I, .H = call->H};
    p->S = 4 * p->H;
    p->GH = gates * p->H;
    p->u_slot = lstm ? 0 : p->H;
    p->h_masked = call->h_masks > 0;
    p->x_groups = call->x_masks > 1 ? gates : 1;
    p->u_groups = p->h_masked || (!lstm && !call->reset_after) ? gates : 1;
    /* Two tasks of at least MIN_ROWS rows as soon as possible, then tasks of 32 rows, where a row of weights from
     * the second-level cache feeds enough multiply-adds; no more of them than their sums of gradients may take. */
    const int64_t weights = (p->I + p->H) * p->GH;
    const int64_t most = larger(2, smaller(MAX_TASKS, MAX_PARTIAL_REALS / weights));
    const int64_t tasks = larger(smaller((p->B + 31) / 32, most), smaller(2, p->B / MIN_ROWS));
    p->rows = (p->B + larger(tasks, 1) - 1) / larger(tasks, 1);
    p->tasks = (p->B + p->rows - 1) / p->rows;
    p->block = larger(1, smaller(p->T, BLOCK_REALS / (p->rows * (p->I + p->S))));
    const int64_t size = lay_out(p, NULL);
    void *memory = NULL;
    if (posix_memalign(&memory, 64, (size_t)size * sizeof(REAL))) return -1;
    p->memory = memory;
    lay_out(p, p->memory);
    pack_weights(p);
    return 0;
}

static layer_task task_make(const layer_plan *p, int64_t index) {
    const int64_t b0 = index * p->rows, n = smaller(p->rows, p->B - b0), off = index * p->per_task;
    layer_task k = {.plan = p, .b0 = b0, .n = n};
    k.x_block = p->x_block + off, k.slots_block = p->slots_block + off, k.h_block = p->h_block + off;
    k.row = p->row + off;
    k.word_rows = (int64_t *)((REAL *)p->word_rows + off);
    if (p->backward) {
        k.dh = p->dh + off, k.dc = p->dc + off, k.dy_carry = p->dy_carry + off;
        k.dW = p->dW + off, k.dU = p->dU + off, k.db = p->db + off, k.dwords = p->dwords + off;
    }
    if (p->call->reserve) {
        k.slots = (REAL *)p->call->reserve + b0 * reserve_row(p->call);
        k.h = k.slots + p->T * n * p->S;
        k.c = k.h + p->T * n * p->H;
    }
    return k;
}

#endif
