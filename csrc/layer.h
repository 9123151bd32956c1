/* What the cells share: how a call is cut into tasks and blocks of time steps, its memory, and the products over a
 * whole block.
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
#ifndef FRNN_LAYER_H
#define FRNN_LAYER_H

#include "fastrnn.h"
#include "gemm.h"
#include "simd.h"
#include "threads.h"
#include "vmath.h"

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
    REAL *zeros; /* a row to begin products from */
    /* per task, `per_task` apart; the pointers are the first task's */
    int64_t per_task;
    REAL *x_block, *slots_block, *h_block, *dh, *dc, *dy_carry, *row, *dW, *dU, *db;
} layer_plan;

/* One task's view of the plan. */
typedef struct {
    const layer_plan *plan;
    int64_t b0, n;                         /* first row of the batch, number of rows */
    REAL *x_block, *slots_block, *h_block; /* (block, n, I), (block, n, S), see h_operand */
    REAL *dh, *dc, *dy_carry, *row;        /* (n, H) */
    REAL *dW, *dU, *db;                    /* (I, GH), (H, GH), (S) in the order of the slots */
    REAL *slots, *h, *c;                   /* the reserve's: (T, n, S), (T, n, H) before each step, (T + 1, n, H) */
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
        p->zeros = take(m, &at, larger(I, H));
    } else {
        p->W = take(m, &at, I * p->x_groups * packed_columns(GH / p->x_groups));
        p->U = take(m, &at, H * p->u_groups * packed_columns(GH / p->u_groups));
    }
    const int64_t shared = at;
    p->x_block = take(m, &at, block_rows * I);
    /* gemm_transposed reads beyond the last row */
    p->slots_block = take(m, &at, p->backward || !training ? block_rows * S + 2 * LANES : 0);
    p->h_block = take(m, &at, p->h_masked ? (p->backward ? block_rows : p->rows * (GH / H)) * H : 0);
    p->row = take(m, &at, p->backward ? p->rows * H : 0);
    if (p->backward) {
        p->dh = take(m, &at, p->rows * H);
        p->dc = take(m, &at, p->rows * H);
        p->dy_carry = take(m, &at, masked ? p->rows * H : 0);
        p->dW = take(m, &at, I * GH);
        p->dU = take(m, &at, H * GH);
        p->db = take(m, &at, S);
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
        row_zero(p->zeros, larger(I, H));
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
    if (p->backward) {
        k.dh = p->dh + off, k.dc = p->dc + off, k.dy_carry = p->dy_carry + off;
        k.dW = p->dW + off, k.dU = p->dU + off, k.db = p->db + off;
    }
    if (p->call->reserve) {
        k.slots = (REAL *)p->call->reserve + b0 * reserve_row(p->call);
        k.h = k.slots + p->T * n * p->S;
        k.c = k.h + p->T * n * p->H;
    }
    return k;
}

/* -- rows of the call's arrays --------------------------------------------------------------------------------------
 */

/* The place in time that step s reads. */
INLINE int64_t time_of(const layer_plan *p, int64_t s) { return p->call->go_backwards ? p->T - 1 - s : s; }

INLINE int is_masked(const layer_task *k, int64_t b, int64_t time) {
    const uint8_t *mask = k->plan->call->mask;
    return mask && !mask[(k->b0 + b) * k->plan->T + time];
}

/* Where the output row of step s begins; without sequences all steps share one. */
INLINE int64_t output_row(const layer_task *k, int64_t b, int64_t s) {
    const layer_plan *p = k->plan;
    return p->call->sequences ? ((k->b0 + b) * p->T + s) * p->H : (k->b0 + b) * p->H;
}

/* (n, H) of a (B, H) array, or zeros. */
static void state_load(const layer_task *k, REAL *to, const void *from) {
    const int64_t H = k->plan->H;
    if (from)
        memcpy(to, (const REAL *)from + k->b0 * H, (size_t)(k->n * H) * sizeof(REAL));
    else
        memset(to, 0, (size_t)(k->n * H) * sizeof(REAL));
}
static void state_store(const layer_task *k, void *to, const REAL *from) {
    const int64_t H = k->plan->H;
    if (to) memcpy((REAL *)to + k->b0 * H, from, (size_t)(k->n * H) * sizeof(REAL));
}

/* Writes the outputs of step s from its new states h (n, H): at a masked step the last output again, or zero. Without
 * sequences and masks only the last step's output is ever seen. */
static void output_store(const layer_task *k, int64_t s, const REAL *h) {
    const layer_plan *p = k->plan;
    const frnn_call *call = p->call;
    const int64_t H = p->H;
    if (!call->sequences && !call->mask && s < p->T - 1) return;
    for (int64_t b = 0; b < k->n; b++) {
        REAL *y = (REAL *)call->y + output_row(k, b, s);
        if (!is_masked(k, b, time_of(p, s)))
            row_copy(y, h + b * H, H);
        else if (call->zero_masked || s == 0)
            row_zero(y, H);
        else if (call->sequences)
            row_copy(y, y - H, H);
    }
}

/* x_block = the inputs of steps [s0, s0 + steps), rows (t, b), under the dropout mask of one gate. A sample's steps lie
 * side by side in x, so the loop over them is the inner one: strides as long as a sequence would miss every cache. */
static void inputs_gather(const layer_task *k, int64_t s0, int64_t steps, int gate) {
    const layer_plan *p = k->plan;
    const int64_t I = p->I;
    for (int64_t b = 0; b < k->n; b++) {
        const REAL *x = (const REAL *)p->call->x + (k->b0 + b) * p->T * I;
        const REAL *x_mask = p->call->x_masks ? (const REAL *)p->call->x_mask + (gate * p->B + k->b0 + b) * I : NULL;
        REAL *to = k->x_block + b * I;
        for (int64_t s = s0; s < s0 + steps; s++, to += k->n * I) {
            if (x_mask)
                row_multiply(to, x + time_of(p, s) * I, x_mask, I);
            else
                row_copy(to, x + time_of(p, s) * I, I);
        }
    }
}

/* dx = or += x_block, the gradients of the inputs, under the dropout mask of one gate. */
static void inputs_scatter(const layer_task *k, int64_t s0, int64_t steps, int gate, int add) {
    const layer_plan *p = k->plan;
    const int64_t I = p->I;
    for (int64_t b = 0; b < k->n; b++) {
        REAL *dx = (REAL *)p->call->dx + (k->b0 + b) * p->T * I;
        const REAL *x_mask = p->call->x_masks ? (const REAL *)p->call->x_mask + (gate * p->B + k->b0 + b) * I : NULL;
        const REAL *from = k->x_block + b * I;
        for (int64_t s = s0; s < s0 + steps; s++, from += k->n * I) {
            REAL *to = dx + time_of(p, s) * I;
            if (!x_mask)
                row_copy(to, from, I);
            else if (add)
                row_multiply_add(to, from, x_mask, I);
            else
                row_multiply(to, from, x_mask, I);
        }
    }
}

/* to = h under the recurrent dropout mask of one of U's gates, for `steps` x n rows of h. */
static void states_mask(const layer_task *k, int64_t steps, int gate, const REAL *h, REAL *to) {
    const layer_plan *p = k->plan;
    const REAL *h_mask = (const REAL *)p->call->h_mask + (gate * p->B + k->b0) * p->H;
    for (int64_t s = 0; s < steps; s++, h += k->n * p->H, to += k->n * p->H) row_multiply(to, h, h_mask, k->n * p->H);
}

/* The gate, in Keras' order, whose dropout mask goes with W's product number g. */
INLINE int w_gate(const layer_plan *p, int g) { return p->x_groups > 1 && p->u_slot ? (g + 2) % 3 : g; }

/* -- products over a block or a step --------------------------------------------------------------------------------
 */

/* The slots that W sees = bias + x W, the others = bias, for a block of steps. */
static void inputs_multiply(const layer_task *k, int64_t s0, int64_t steps, REAL *slots) {
    const layer_plan *p = k->plan;
    const int64_t N = p->GH / p->x_groups, M = steps * k->n;
    for (int g = 0; g < p->x_groups; g++) {
        inputs_gather(k, s0, steps, w_gate(p, g));
        gemm_packed(M, N, p->I, k->x_block, p->I, p->W + g * p->I * packed_columns(N), p->I, 0, slots + g * N, p->S,
                    p->bias + g * N);
    }
    if (p->u_slot)
        for (int64_t m = 0; m < M; m++) row_copy(slots + m * p->S + p->GH, p->bias + p->GH, p->H);
}

/* slots of U's gates [first, last) += h U, for one step. Masks or not, each group has its own product. */
static void states_multiply(const layer_task *k, int first, int last, const REAL *h, REAL *slots) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, N = p->GH / p->u_groups;
    for (int g = first; g < last; g++) {
        if (p->h_masked) states_mask(k, 1, g, h, k->h_block);
        gemm_packed(k->n, N, H, p->h_masked ? k->h_block : h, H, p->U + g * H * packed_columns(N), H, 0,
                    slots + p->u_slot + g * N, p->S, NULL);
    }
}

/* dh += dslots U^T for U's gates [first, last), each under its recurrent dropout mask. */
static void dstates_multiply(const layer_task *k, int first, int last, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H;
    const REAL *u_slots = dslots + p->u_slot;
    if (!p->h_masked) {
        gemm_packed(k->n, H, (last - first) * H, u_slots + first * H, p->S, p->Ut, p->GH, first * H, k->dh, H, NULL);
        return;
    }
    for (int g = first; g < last; g++) {
        gemm_packed(k->n, H, H, u_slots + g * H, p->S, p->Ut, p->GH, g * H, k->row, H, p->zeros);
        row_multiply_add(k->dh, k->row, (const REAL *)p->call->h_mask + (g * p->B + k->b0) * H, k->n * H);
    }
}

/* dx of a block, and what it adds to dW. */
static void dinputs_multiply(const layer_task *k, int64_t s0, int64_t steps, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t I = p->I, M = steps * k->n, N = p->GH / p->x_groups;
    for (int g = 0; g < p->x_groups; g++) {
        gemm_packed(M, I, N, dslots + g * N, p->S, p->Wt, p->GH, g * N, k->x_block, I, p->zeros);
        inputs_scatter(k, s0, steps, w_gate(p, g), g > 0);
    }
    for (int g = 0; g < p->x_groups; g++) {
        inputs_gather(k, s0, steps, w_gate(p, g));
        gemm_transposed(I, N, M, k->x_block, I, dslots + g * N, p->S, k->dW + g * N, p->GH);
    }
}

/* What a block adds to dU for U's gates [first, last): h is (steps, n, H), the states before each step. */
static void dstates_accumulate(const layer_task *k, int64_t steps, int first, int last, const REAL *h,
                               const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, M = steps * k->n;
    const REAL *u_slots = dslots + p->u_slot;
    if (!p->h_masked) {
        gemm_transposed(H, (last - first) * H, M, h, H, u_slots + first * H, p->S, k->dU + first * H, p->GH);
        return;
    }
    for (int g = first; g < last; g++) {
        states_mask(k, steps, g, h, k->h_block);
        gemm_transposed(H, H, M, k->h_block, H, u_slots + g * H, p->S, k->dU + g * H, p->GH);
    }
}

static void dbias_accumulate(const layer_task *k, int64_t steps, const REAL *dslots) {
    const int64_t S = k->plan->S, M = steps * k->n;
    for (int64_t s = 0; s < S; s += LANES) {
        const int part = (int)smaller(LANES, S - s);
        vreal sum = vload_n(k->db + s, part);
        for (int64_t m = 0; m < M; m++)
            sum = sum + vload(dslots + m * S + s); /* slots_block is readable beyond its end */
        vstore_n(k->db + s, sum, part);
    }
}

/* Calls unit(b, u, part) for all units u of the task's rows b that are not masked at this time, LANES units at a time
 * and last what is left of each row. One loop, not two nested ones: rows may be a single vector, and the many constants
 * of the gates are then loaded once. */
#define FOR_UNITS(k, time, unit)                                                                                       \
    do {                                                                                                               \
        const int64_t H_ = (k)->plan->H, whole_ = H_ / LANES * LANES;                                                  \
        for (int64_t b = 0, u = 0; whole_ && b < (k)->n;) {                                                            \
            if (!is_masked(k, b, time)) unit(b, u, LANES);                                                             \
            if ((u += LANES) == whole_) u = 0, b++;                                                                    \
        }                                                                                                              \
        for (int64_t b = 0; whole_ < H_ && b < (k)->n; b++)                                                            \
            if (!is_masked(k, b, time)) unit(b, whole_, (int)(H_ - whole_));                                           \
    } while (0)

/* At masked rows the state after a step is the state before. */
static void state_carry(const layer_task *k, int64_t s, const REAL *before, REAL *after) {
    const layer_plan *p = k->plan;
    if (!p->call->mask || before == after) return;
    for (int64_t b = 0; b < k->n; b++)
        if (is_masked(k, b, time_of(p, s))) row_copy(after + b * p->H, before + b * p->H, p->H);
}

/* -- the ends of a backward sweep -----------------------------------------------------------------------------------
 */

static void backward_begin(const layer_task *k) {
    const layer_plan *p = k->plan;
    state_load(k, k->dh, p->call->dhT);
    state_load(k, k->dc, p->call->dcT);
    if (p->call->mask) state_load(k, k->dy_carry, NULL);
    row_zero(k->dW, p->I * p->GH);
    row_zero(k->dU, p->H * p->GH);
    row_zero(k->db, p->S);
}

/* dh += what reaches the outputs of step s: at a valid step dy, and what later masked steps, whose outputs repeat this
 * one, passed back; at a masked step dy is passed back further, or lost where such outputs are zero. */
static void dy_collect(const layer_task *k, int64_t s) {
    const layer_plan *p = k->plan;
    const frnn_call *call = p->call;
    const int64_t H = p->H, seen = call->dy && (call->sequences || s == p->T - 1);
    if (!call->mask && !seen) return;
    for (int64_t b = 0; b < k->n; b++) {
        const REAL *dy = seen ? (const REAL *)call->dy + output_row(k, b, s) : NULL;
        REAL *dh = k->dh + b * H, *carry = k->dy_carry + b * H;
        if (!call->mask) {
            row_add(dh, dy, H);
        } else if (!is_masked(k, b, time_of(p, s))) {
            if (dy) row_add(dh, dy, H);
            row_add(dh, carry, H);
            row_zero(carry, H);
        } else if (dy && !call->zero_masked) {
            row_add(carry, dy, H);
        }
    }
}

/* The gradients of the slots at masked rows: zero. */
static void dslots_mask(const layer_task *k, int64_t s, REAL *dslots) {
    const layer_plan *p = k->plan;
    if (!p->call->mask) return;
    for (int64_t b = 0; b < k->n; b++)
        if (is_masked(k, b, time_of(p, s))) row_zero(dslots + b * p->S, p->S);
}

/* The tasks' sums, added up in their order: rows x width, `from` and `to` per row. */
static void partials_reduce(const layer_plan *p, const REAL *from, int64_t from_stride, REAL *to, int64_t to_stride,
                            int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++) {
        row_copy(to + r * to_stride, from + r * from_stride, width);
        for (int64_t task = 1; task < p->tasks; task++)
            row_add(to + r * to_stride, from + task * p->per_task + r * from_stride, width);
    }
}

static void weight_gradients(const layer_plan *p) {
    const frnn_call *call = p->call;
    const int64_t I = p->I, H = p->H, GH = p->GH;
    REAL *dW = call->dW, *dU = call->dU, *db = call->db;
    partials_reduce(p, p->dU, GH, dU, GH, H, GH);
    if (!p->u_slot) {
        partials_reduce(p, p->dW, GH, dW, GH, I, GH);
        if (db) partials_reduce(p, p->db, GH, db, GH, 1, GH);
        return;
    }
    partials_reduce(p, p->dW + H, GH, dW, GH, I, 2 * H);
    partials_reduce(p, p->dW, GH, dW + 2 * H, GH, I, H);
    if (db) {
        partials_reduce(p, p->db + H, GH, db, GH, 1, 2 * H);
        partials_reduce(p, p->db, GH, db + 2 * H, GH, 1, H);
        if (call->reset_after) partials_reduce(p, p->db + H, GH, db + GH, GH, 1, GH);
    }
}

#endif
