/* What the cells share: the rows of a call's arrays, the products over a block or a step, masks, and the two ends of a
 * backward sweep. plan.h says how a call is cut into pieces.
 */
#ifndef FRNN_LAYER_H
#define FRNN_LAYER_H

#include "plan.h"
#include "threads.h"

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

/* The word of sample b (of the task) at step s. */
INLINE int64_t word_of(const layer_task *k, int64_t b, int64_t s) {
    const layer_plan *p = k->plan;
    const int64_t at = (k->b0 + b) * p->T + time_of(p, s);
    return p->call->id_bytes == 4 ? ((const int32_t *)p->call->ids)[at] : ((const int64_t *)p->call->ids)[at];
}

/* M rows of slots that begin products with U: where W sees them bias + x W, under x's mask of each gate, else bias. The
 * rows of x are the same for all gates, or gathered anew for each. */
static void slots_begin(const layer_plan *p, int64_t M, const REAL *x, int g, REAL *slots) {
    const int64_t N = p->GH / p->x_groups;
    gemm_packed(M, N, p->I, x, p->I, p->W + g * p->I * packed_columns(N), p->I, 0, slots + g * N, p->S,
                (gemm_start){p->bias + g * N, NULL});
    if (p->u_slot && g == 0)
        for (int64_t m = 0; m < M; m++) row_copy(slots + m * p->S + p->GH, p->bias + p->GH, p->H);
}

/* Large enough that a small vocabulary, as one task, needs no other thread. */
enum { WORDS_PER_TASK = 1024, PANELS_PER_TASK = 8 };

static int64_t word_tasks(const layer_plan *p) { return (p->call->V + WORDS_PER_TASK - 1) / WORDS_PER_TASK; }

/* The slots that some words begin from: with fewer words than samples times steps, a lookup in place of a product. */
static void words_multiply(void *plan, int64_t index) {
    const layer_plan *p = plan;
    const int64_t v0 = index * WORDS_PER_TASK, M = smaller(WORDS_PER_TASK, p->call->V - v0);
    slots_begin(p, M, (const REAL *)p->call->x + v0 * p->I, 0, p->words + v0 * p->S);
}

/* The slots of a block of steps before U's part. With token ids, only where that part will begin from, and the slots
 * that U does not see. */
static void inputs_multiply(const layer_task *k, int64_t s0, int64_t steps, REAL *slots) {
    const layer_plan *p = k->plan;
    for (int g = 0; g < p->x_groups && !p->call->ids; g++) {
        inputs_gather(k, s0, steps, w_gate(p, g));
        slots_begin(p, steps * k->n, k->x_block, g, slots);
    }
    for (int64_t b = 0; b < k->n && p->call->ids; b++)
        for (int64_t s = s0; s < s0 + steps; s++) {
            const int64_t row = (s - s0) * k->n + b, from = word_of(k, b, s) * p->S;
            k->word_rows[row] = from;
            if (p->u_slot) row_copy(slots + row * p->S, p->words + from, p->u_slot);
            /* masked rows get no q, and backward multiplies theirs by zero: it must be a number */
            if (p->u_slot && !p->call->reset_after) row_zero(slots + row * p->S + p->GH, p->H);
        }
}

/* slots of U's gates [first, last) += h U, for step s of the block from s0 on. Masks or not, each group has its own
 * product. */
static void states_multiply(const layer_task *k, int first, int last, int64_t s, int64_t s0, const REAL *h,
                            REAL *slots) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, N = p->GH / p->u_groups;
    for (int g = first; g < last; g++) {
        const int64_t slot = p->u_slot + g * N;
        const gemm_start words = {p->words + slot, k->word_rows + (s - s0) * k->n};
        if (p->h_masked) states_mask(k, 1, g, h, k->h_block);
        gemm_packed(k->n, N, H, p->h_masked ? k->h_block : h, H, p->U + g * H * packed_columns(N), H, 0, slots + slot,
                    p->S, p->call->ids ? words : FROM_C);
    }
}

/* dh += dslots U^T for U's gates [first, last), each under its recurrent dropout mask. */
static void dstates_multiply(const layer_task *k, int first, int last, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H;
    const REAL *u_slots = dslots + p->u_slot;
    if (!p->h_masked) {
        gemm_packed(k->n, H, (last - first) * H, u_slots + first * H, p->S, p->Ut, p->GH, first * H, k->dh, H, FROM_C);
        return;
    }
    for (int g = first; g < last; g++) {
        gemm_packed(k->n, H, H, u_slots + g * H, p->S, p->Ut, p->GH, g * H, k->row, H, (gemm_start){p->zeros, NULL});
        row_multiply_add(k->dh, k->row, (const REAL *)p->call->h_mask + (g * p->B + k->b0) * H, k->n * H);
    }
}

/* dx of a block, and what it adds to dW; with token ids what it adds to dwords, from which both come in the end. */
static void dinputs_multiply(const layer_task *k, int64_t s0, int64_t steps, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t I = p->I, M = steps * k->n, N = p->GH / p->x_groups;
    if (p->call->ids) {
        for (int64_t b = 0; b < k->n; b++)
            for (int64_t s = s0; s < s0 + steps; s++)
                row_add(k->dwords + word_of(k, b, s) * p->GH, dslots + ((s - s0) * k->n + b) * p->S, p->GH);
        return;
    }
    for (int g = 0; g < p->x_groups; g++) {
        gemm_packed(M, I, N, dslots + g * N, p->S, p->Wt, p->GH, g * N, k->x_block, I, (gemm_start){p->zeros, NULL});
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
    if (p->call->ids) row_zero(k->dwords, p->call->V * p->GH);
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

/* For some words: the sum of the tasks' dwords, in the first task's place, and dx, the table's gradient. */
static void words_reduce(void *plan, int64_t index) {
    const layer_plan *p = plan;
    const int64_t v0 = index * WORDS_PER_TASK, M = smaller(WORDS_PER_TASK, p->call->V - v0), GH = p->GH;
    REAL *sum = p->dwords + v0 * GH;
    for (int64_t task = 1; task < p->tasks; task++) row_add(sum, sum + task * p->per_task, M * GH);
    gemm_packed(M, p->I, GH, sum, GH, p->Wt, GH, 0, (REAL *)p->call->dx + v0 * p->I, p->I,
                (gemm_start){p->zeros, NULL});
}

/* For some columns: dW from the summed dwords, in the first task's place; the other tasks' dW are zero. */
static void words_weights(void *plan, int64_t index) {
    const layer_plan *p = plan;
    const int64_t columns = PANELS_PER_TASK * 2 * LANES, n0 = index * columns, N = smaller(columns, p->GH - n0);
    gemm_transposed(p->I, N, p->call->V, p->call->x, p->I, p->dwords + n0, p->GH, p->dW + n0, p->GH);
}

static void words_gradients(layer_plan *p) {
    frnn_parallel(word_tasks(p), words_reduce, p);
    const int64_t columns = PANELS_PER_TASK * 2 * LANES;
    frnn_parallel((p->GH + columns - 1) / columns, words_weights, p);
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
