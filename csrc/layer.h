/* What the cells share: the rows of a call's arrays, the products over a block or a step, masks, and the two ends of a
 * backward sweep. plan.h says how a call is cut into pieces. What is done column by column, a member of a team does for
 * the columns it owns.
 */
#ifndef FRNN_LAYER_H
#define FRNN_LAYER_H

#include "plan.h"

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

/* The owned units of all rows of a (B, H) array, or zeros, to (n, H). */
static void state_load(const layer_task *k, REAL *to, const void *from) {
    const int64_t H = k->plan->H;
    for (int64_t b = 0; b < k->n; b++) {
        if (from)
            row_copy(to + b * H + k->u0, (const REAL *)from + (k->b0 + b) * H + k->u0, k->u1 - k->u0);
        else
            row_zero(to + b * H + k->u0, k->u1 - k->u0);
    }
}
static void state_store(const layer_task *k, void *to, const REAL *from) {
    const int64_t H = k->plan->H;
    for (int64_t b = 0; to && b < k->n; b++)
        row_copy((REAL *)to + (k->b0 + b) * H + k->u0, from + b * H + k->u0, k->u1 - k->u0);
}

/* Where step s puts the outputs of row b, from unit u on, as it computes them, or NULL: without sequences and masks
 * only the last step's is ever seen, and with masks output_store sees to it. */
INLINE REAL *output_now(const layer_task *k, int64_t b, int64_t s, int64_t u) {
    const frnn_call *call = k->plan->call;
    if (call->mask || (!call->sequences && s < call->T - 1)) return NULL;
    return (REAL *)call->y + output_row(k, b, s) + u;
}

/* With a mask: writes the outputs of step s from its new states h (n, H), at a masked step the last output again, or
 * zero. */
static void output_store(const layer_task *k, int64_t s, const REAL *h) {
    const layer_plan *p = k->plan;
    const frnn_call *call = p->call;
    const int64_t H = p->H, units = k->u1 - k->u0, time = time_of(p, s);
    if (!call->mask) return;
    for (int64_t b = 0; b < k->n; b++) {
        REAL *y = (REAL *)call->y + output_row(k, b, s) + k->u0;
        if (!is_masked(k, b, time))
            row_copy(y, h + b * H + k->u0, units);
        else if (call->zero_masked || s == 0)
            row_zero(y, units);
        else if (call->sequences)
            row_copy(y, y - H, units);
    }
}

/* The gate, in Keras' order, whose dropout mask goes with W's packed gate g. */
INLINE int w_gate(const layer_plan *p, int g) { return p->x_groups > 1 && p->u_slot ? (g + 2) % 3 : g; }

/* Row b's dropout mask of the inputs for W's packed gate g, or NULL. */
INLINE const REAL *input_mask(const layer_task *k, int64_t b, int g) {
    const frnn_call *call = k->plan->call;
    return call->x_masks ? (const REAL *)call->x_mask + (w_gate(k->plan, g) * call->B + k->b0 + b) * call->I : NULL;
}

/* Row b's recurrent dropout mask for U's gate g. */
INLINE const REAL *state_mask(const layer_task *k, int64_t b, int g) {
    const frnn_call *call = k->plan->call;
    return (const REAL *)call->h_mask + (g * call->B + k->b0 + b) * call->H;
}

/* x_block (x_groups, block, n, ldx) = the owned inputs of steps [s0, s0 + steps), under the dropout mask of each group.
 * A sample's steps lie side by side in x, so the loop over them is the inner one: strides as long as a sequence would
 * miss every cache. */
static void inputs_gather(const layer_task *k, int64_t s0, int64_t steps) {
    const layer_plan *p = k->plan;
    const int64_t I = p->I, N = k->i1 - k->i0;
    for (int g = 0; g < p->x_groups; g++)
        for (int64_t b = 0; b < k->n; b++) {
            const REAL *x = (const REAL *)p->call->x + (k->b0 + b) * p->T * I + k->i0, *x_mask = input_mask(k, b, g);
            REAL *row = k->x_block + g * p->x_group_reals + b * p->ldx + k->i0;
            for (int64_t s = s0; s < s0 + steps; s++, row += k->n * p->ldx) {
                if (x_mask)
                    row_multiply(row, x + time_of(p, s) * I, x_mask + k->i0, N);
                else
                    row_copy(row, x + time_of(p, s) * I, N);
            }
        }
}

/* Units u of row b under the recurrent dropout mask of each gate, to `to` and on, a gate `stride` after the one before.
 */
INLINE void state_mask_store(const layer_task *k, int64_t b, int64_t u, vreal h, REAL *to, int64_t stride,
                             const int part) {
    const layer_plan *p = k->plan;
    const REAL *mask = state_mask(k, b, 0) + u;
    for (int g = 0; g < p->u_gates; g++, mask += p->B * p->H, to += stride) vstore_n(to, h * vload_n(mask, part), part);
}

/* to (u_gates, steps, n, H) = the owned units of h (steps, n, H) under the recurrent dropout mask of each gate. */
static void states_mask(const layer_task *k, int64_t steps, const REAL *h, REAL *to) {
    const int64_t H = k->plan->H, rows = steps * k->n;
    for (int64_t m = 0, b = 0; m < rows; m++, b = b + 1 == k->n ? 0 : b + 1) {
        int64_t u = k->u0, at = m * H + u;
        for (; u + LANES <= k->u1; u += LANES, at += LANES)
            state_mask_store(k, b, u, vload(h + at), to + at, rows * H, LANES);
        const int left = (int)(k->u1 - u);
        if (left) state_mask_store(k, b, u, vload_part(h + at, left), to + at, rows * H, left);
    }
}

/* -- products over a block or a step, forward -----------------------------------------------------------------------
 */

/* The word of sample b (of the task) at step s. */
INLINE int64_t word_of(const layer_task *k, int64_t b, int64_t s) {
    const layer_plan *p = k->plan;
    const int64_t at = (k->b0 + b) * p->T + time_of(p, s);
    return p->call->id_bytes == 4 ? ((const int32_t *)p->call->ids)[at] : ((const int64_t *)p->call->ids)[at];
}

/* M rows of bias + x W for units [u0, u1), `ld` apart: what the slots that W sees begin from. */
static void slots_begin(const layer_plan *p, int64_t M, const REAL *const *x_rows, int64_t a_stride, int64_t u0,
                        int64_t u1, REAL *slots, int64_t ld) {
    const gates_product product = {p->I, a_stride, p->W};
    const int64_t most = gate_tile_rows(p->gates);
    const REAL *from[TILE_ROWS];
    REAL own[TILE_ROWS * 4 * LANES];
    for (int64_t u = u0; u < u1; u += LANES) {
        const int part = (int)smaller(LANES, u1 - u);
        for (int r = 0; r < TILE_ROWS; r++) from[r] = p->bias + u;
        for (int64_t m = 0, rows; m < M; m += rows) {
            rows = deal_rows(M - m, most);
            REAL *to = slots + m * ld + u;
            if (part == LANES) {
                gates_multiply(p->gates, &product, u, (int)rows, x_rows + m, from, p->H, NULL, to, ld, p->H);
                continue;
            }
            gates_multiply(p->gates, &product, u, (int)rows, x_rows + m, from, p->H, NULL, own, 4 * LANES, LANES);
            for (int64_t r = 0; r < rows; r++)
                for (int g = 0; g < p->gates; g++)
                    vstore_part(to + r * ld + g * p->H, vload(own + (r * 4 + g) * LANES), part);
        }
    }
}

/* Large enough that a small vocabulary, as one task, needs no other thread. */
enum { WORDS_PER_TASK = 1024, PANELS_PER_TASK = 8 };

static int64_t word_tasks(const layer_plan *p) { return (p->call->V + WORDS_PER_TASK - 1) / WORDS_PER_TASK; }

/* The slots that some words begin from: with fewer words than samples times steps, a lookup in place of a product. */
static void words_multiply(void *plan, int64_t index) {
    const layer_plan *p = plan;
    const int64_t v0 = index * WORDS_PER_TASK, M = smaller(WORDS_PER_TASK, p->call->V - v0);
    const REAL *rows[WORDS_PER_TASK];
    for (int64_t m = 0; m < M; m++) rows[m] = (const REAL *)p->call->x + (v0 + m) * p->I;
    slots_begin(p, M, rows, 0, 0, p->H, p->words + v0 * p->GH, p->GH);
}

/* The slots of a block of steps before U's part; with token ids these are looked up step by step. Inputs are read where
 * they lie, but under dropout masks. */
static void inputs_multiply(const layer_task *k, int64_t s0, int64_t steps, REAL *slots) {
    const layer_plan *p = k->plan;
    if (p->call->ids) return;
    const REAL **x_rows = k->x_rows;
    for (int64_t s = s0; s < s0 + steps; s++)
        for (int64_t b = 0; b < k->n; b++)
            *x_rows++ = p->call->x_masks ? k->x_block + ((s - s0) * k->n + b) * p->ldx
                                         : (const REAL *)p->call->x + ((k->b0 + b) * p->T + time_of(p, s)) * p->I;
    if (p->call->x_masks) {
        inputs_gather(k, s0, steps);
        meet(k);
    }
    slots_begin(p, steps * k->n, k->x_rows, p->x_groups > 1 ? p->x_group_reals : 0, k->u0, k->u1, slots, p->S);
}

/* Where row b's slots begin from, those that W sees: its own, or its word's. */
INLINE const REAL *slots_source(const layer_task *k, int64_t b, int64_t s, const REAL *slots) {
    const layer_plan *p = k->plan;
    return p->call->ids ? p->words + word_of(k, b, s) * p->GH : slots + b * p->S;
}

/* The states that U sees at step s as it sees them: under the masks of its gates where there are some. */
INLINE const REAL *states_seen(const layer_task *k, int64_t s, const REAL *h) {
    const layer_plan *p = k->plan;
    return p->h_masked ? k->h_block + (s & 1) * p->u_gates * k->n * p->H : h;
}

/* Makes what states_seen gives at step s: for units u of row b, from the states before it. */
INLINE void state_ready(const layer_task *k, int64_t s, int64_t b, int64_t u, vreal h, const int part) {
    const layer_plan *p = k->plan;
    const int64_t nH = k->n * p->H;
    if (p->h_masked && s < p->T)
        state_mask_store(k, b, u, h, k->h_block + (s & 1) * p->u_gates * nH + b * p->H + u, nH, part);
}

/* Slots of U's gates for all owned units and rows of step s, tile by tile, in `pre` (rows, 4 LANES). For each tile
 * calls first(b, u, part, pre, source) for all its rows and then second(b, u, part, pre): b, the first unit u and how
 * many, the row's slots with U's part, and what the row began from. In two turns, since a row's chain of operations is
 * longer than what processors look ahead: shorter ones of several rows overlap. `last` is where U's last gate begins
 * from, or NULL. */
#define FOR_TILE_ROWS(k, s, h, slots, last, first, second)                                                             \
    do {                                                                                                               \
        const layer_plan *p_ = (k)->plan;                                                                              \
        const REAL *seen_ = states_seen(k, s, h), *last_ = last;                                                       \
        const gates_product product_ = {p_->H, p_->h_masked ? (k)->n * p_->H : 0, p_->U};                              \
        const int64_t most_ = gate_tile_rows(p_->u_gates);                                                             \
        REAL pre_[6 * 4 * LANES];                                                                                      \
        const REAL *from_[6], *A_[6];                                                                                  \
        for (int64_t u = (k)->u0; u < (k)->u1; u += LANES) {                                                           \
            const int left_ = (int)smaller(LANES, (k)->u1 - u);                                                        \
            for (int64_t b0_ = 0, rows_; b0_ < (k)->n; b0_ += rows_) {                                                 \
                rows_ = deal_rows((k)->n - b0_, most_);                                                                \
                for (int64_t r_ = 0; r_ < rows_; r_++) {                                                               \
                    A_[r_] = seen_ + (b0_ + r_) * p_->H;                                                               \
                    from_[r_] = slots_source(k, b0_ + r_, s, slots) + p_->u_slot + u;                                  \
                }                                                                                                      \
                gates_multiply(p_->u_gates, &product_, u, (int)rows_, A_, from_, p_->H, last_ ? last_ + u : NULL,      \
                               pre_, 4 * LANES, LANES);                                                                \
                if (left_ == LANES) {                                                                                  \
                    for (int64_t r_ = 0; r_ < rows_; r_++)                                                             \
                        first(b0_ + r_, u, LANES, pre_ + r_ * 4 * LANES, from_[r_] - p_->u_slot);                      \
                    for (int64_t r_ = 0; r_ < rows_; r_++) second(b0_ + r_, u, LANES, pre_ + r_ * 4 * LANES);          \
                } else {                                                                                               \
                    for (int64_t r_ = 0; r_ < rows_; r_++)                                                             \
                        first(b0_ + r_, u, left_, pre_ + r_ * 4 * LANES, from_[r_] - p_->u_slot);                      \
                    for (int64_t r_ = 0; r_ < rows_; r_++) second(b0_ + r_, u, left_, pre_ + r_ * 4 * LANES);          \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

/* -- products over a block or a step, backward ----------------------------------------------------------------------
 */

/* For M rows of dslots, columns [n0, n1), N columns in all: each gate's dslots B_g^T, from the slot on that the gates
 * of B begin with, B packed by gates_pack_transposed; tile by tile, calls row(m, n, part, pre) with a vector for each
 * gate in pre. The product for gradients that go through masks of each gate: they are applied before the gates are
 * summed. */
#define FOR_GATE_PRODUCTS(k, M, gates, B, slots, n0, n1, row)                                                          \
    do {                                                                                                               \
        const layer_plan *p_ = (k)->plan;                                                                              \
        const gates_product product_ = {p_->H, p_->H, B};                                                              \
        REAL pre_[6 * 4 * LANES];                                                                                      \
        const REAL *from_[6], *A_[6];                                                                                  \
        for (int r_ = 0; r_ < 6; r_++) from_[r_] = p_->zeros;                                                          \
        for (int64_t n = n0; n < n1; n += LANES) {                                                                     \
            const int left_ = (int)smaller(LANES, n1 - n);                                                             \
            for (int64_t m0_ = 0, rows_; m0_ < M; m0_ += rows_) {                                                      \
                rows_ = deal_rows(M - m0_, gate_tile_rows(gates));                                                     \
                for (int64_t r_ = 0; r_ < rows_; r_++) A_[r_] = (slots) + (m0_ + r_) * p_->lds;                        \
                gates_multiply(gates, &product_, n, (int)rows_, A_, from_, 0, NULL, pre_, 4 * LANES, LANES);           \
                for (int64_t r_ = 0; r_ < rows_; r_++) row(m0_ + r_, n, left_, pre_ + r_ * 4 * LANES);                 \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

/* to + the gates' vectors in pre, gate g's times what lies at mask + g * mask_stride. */
INLINE void gates_sum(REAL *to, const REAL *pre, int gates, const REAL *mask, int64_t mask_stride, const int add,
                      const int part) {
    vreal sum = add ? vload_n(to, part) : vset(0);
    for (int g = 0; g < gates; g++) sum = vfma(vload(pre + g * LANES), vload_n(mask + g * mask_stride, part), sum);
    vstore_n(to, sum, part);
}

/* The owned units' dh += dslots U^T for U's gates, but for the candidate of a GRU with reset before; each under its
 * recurrent dropout mask. */
static void dstates_multiply(const layer_task *k, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, mask_stride = p->B * H;
    const REAL *u_slots = dslots + p->u_slot;
    if (!p->h_masked) {
        gemm_packed(k->n, k->u1 - k->u0, p->u_gates * H, u_slots, p->lds, p->Ut + k->u0 * p->GH, p->GH, 0,
                    k->dh + k->u0, H, NULL);
        return;
    }
#define ROW(b, u, part, pre)                                                                                           \
    gates_sum(k->dh + (b) * H + u, pre, p->u_gates, state_mask(k, b, 0) + u, mask_stride, 1, part)
    FOR_GATE_PRODUCTS(k, k->n, p->u_gates, p->Ug, u_slots, k->u0, k->u1, ROW);
#undef ROW
}

/* The owned inputs' dx of a block. */
static void dinputs_multiply(const layer_task *k, int64_t s0, int64_t steps, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t I = p->I, N = k->i1 - k->i0, M = steps * k->n, mask_stride = p->B * I;
    REAL *dx = (REAL *)p->call->dx + k->b0 * p->T * I;
    if (p->x_groups > 1) {
        /* packed gates are in the order of the slots, masks in Keras' order: for a GRU its last one comes first */
#define ROW(m, i, part, pre)                                                                                           \
    do {                                                                                                               \
        const int64_t b_ = (m) % k->n;                                                                                 \
        REAL *to_ = dx + (b_ * p->T + time_of(p, s0 + (m) / k->n)) * I + i;                                            \
        const int turn_ = p->u_slot ? 1 : 0;                                                                           \
        if (turn_) gates_sum(to_, pre, 1, input_mask(k, b_, 0) + i, 0, 0, part);                                       \
        gates_sum(to_, pre + turn_ * LANES, p->gates - turn_, input_mask(k, b_, turn_) + i, mask_stride, turn_, part); \
    } while (0)
        FOR_GATE_PRODUCTS(k, M, p->gates, p->Wg, dslots, k->i0, k->i1, ROW);
#undef ROW
        return;
    }
    gemm_packed(M, N, p->GH, dslots, p->lds, p->Wt + k->i0 * p->GH, p->GH, 0, k->x_block + k->i0, p->ldx, p->zeros);
    for (int64_t b = 0; b < k->n; b++) {
        const REAL *x_mask = input_mask(k, b, 0), *from = k->x_block + b * p->ldx + k->i0;
        for (int64_t s = s0; s < s0 + steps; s++, from += k->n * p->ldx) {
            REAL *to = dx + (b * p->T + time_of(p, s)) * I + k->i0;
            if (x_mask)
                row_multiply(to, from, x_mask + k->i0, N);
            else
                row_copy(to, from, N);
        }
    }
}

/* With token ids: what a block adds to the words' gradients, from which dx and dW come in the end. */
static void words_accumulate(const layer_task *k, int64_t s0, int64_t steps, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, units = k->u1 - k->u0;
    for (int64_t b = 0; b < k->n; b++)
        for (int64_t s = s0; s < s0 + steps; s++) {
            REAL *to = k->dwords + word_of(k, b, s) * p->GH;
            const REAL *from = dslots + ((s - s0) * k->n + b) * p->lds;
            if (units == H)
                row_add(to, from, p->GH);
            else
                for (int g = 0; g < p->gates; g++) row_add(to + g * H + k->u0, from + g * H + k->u0, units);
        }
}

/* C[:, owned units of `gates` gates from `column` on] = or += A^T dslots[those of the slots from `slot` on]; A is
 * (rows, M), of a block that begins at step s0: the last block in time is the first that comes. */
static void weights_accumulate(const layer_task *k, int64_t s0, int64_t M, int64_t rows, const REAL *A, int64_t lda,
                               const REAL *dslots, int slot, int gates, REAL *C, int column) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, GH = p->GH;
    const REAL *zeros = s0 + p->block >= p->T ? p->zeros : NULL;
    if (k->members == 1) {
        gemm_transposed(M, gates * H, rows, A, lda, dslots + slot * H, p->lds, C + column * H, GH, zeros);
        return;
    }
    for (int g = 0; g < gates; g++)
        gemm_transposed(M, k->u1 - k->u0, rows, A, lda, dslots + (slot + g) * H + k->u0, p->lds,
                        C + (column + g) * H + k->u0, GH, zeros);
}

/* What a block adds to dW. */
static void dinputs_accumulate(const layer_task *k, int64_t s0, int64_t steps, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t M = steps * k->n;
    inputs_gather(k, s0, steps);
    meet(k);
    if (p->x_groups > 1) {
        for (int g = 0; g < p->gates; g++)
            weights_accumulate(k, s0, p->I, M, k->x_block + g * p->x_group_reals, p->ldx, dslots, g, 1, k->dW,
                               w_gate(p, g));
    } else if (p->u_slot) {
        weights_accumulate(k, s0, p->I, M, k->x_block, p->ldx, dslots, 0, 1, k->dW, 2);
        weights_accumulate(k, s0, p->I, M, k->x_block, p->ldx, dslots, 1, 2, k->dW, 0);
    } else {
        weights_accumulate(k, s0, p->I, M, k->x_block, p->ldx, dslots, 0, 4, k->dW, 0);
    }
}

/* What a block adds to dU, but for the candidate of a GRU with reset before: h is (steps, n, H), the states before each
 * step. */
static void dstates_accumulate(const layer_task *k, int64_t s0, int64_t steps, const REAL *h, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, M = steps * k->n;
    const int slot = p->u_slot ? 1 : 0;
    if (!p->h_masked) {
        weights_accumulate(k, s0, H, M, h, H, dslots, slot, p->u_gates, k->dU, 0);
        return;
    }
    states_mask(k, steps, h, k->h_block);
    meet(k);
    for (int g = 0; g < p->u_gates; g++)
        weights_accumulate(k, s0, H, M, k->h_block + g * M * H, H, dslots, slot + g, 1, k->dU, g);
}

/* The sums over a block's rows of `vectors` vectors of the slots from s on. */
INLINE void slots_sum(const layer_task *k, const int vectors, int64_t M, const REAL *dslots, int64_t s, int64_t end) {
    vreal sum[4];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) sum[v] = vload_n(k->db + s + v * LANES, (int)smaller(LANES, end - s - v * LANES));
    for (int64_t m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) /* slots_block is readable beyond its end */
            sum[v] = sum[v] + vload(dslots + m * k->plan->lds + s + v * LANES);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) vstore_n(k->db + s + v * LANES, sum[v], (int)smaller(LANES, end - s - v * LANES));
}

static void dbias_accumulate(const layer_task *k, int64_t steps, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t M = steps * k->n, alone = k->members == 1;
    for (int64_t g = 0; g < (alone ? 1 : 4); g++) {
        int64_t s = alone ? 0 : g * p->H + k->u0;
        const int64_t end = alone ? p->S : g * p->H + k->u1;
        for (; end - s > 3 * LANES; s += 4 * LANES) slots_sum(k, 4, M, dslots, s, end);
        for (; s < end; s += LANES) slots_sum(k, 1, M, dslots, s, end);
    }
}

/* Calls unit(b, u, part) for all owned units u of the task's rows b that are not masked at this time, LANES units at a
 * time and last what is left of each row. One loop, not two nested ones: rows may be a single vector, and the many
 * constants of the gates are then loaded once. */
#define FOR_UNITS(k, time, unit)                                                                                       \
    do {                                                                                                               \
        const int64_t end_ = (k)->u1, whole_ = (k)->u0 + (end_ - (k)->u0) / LANES * LANES;                             \
        for (int64_t b = 0, u = (k)->u0; whole_ > (k)->u0 && b < (k)->n;) {                                            \
            if (!is_masked(k, b, time)) unit(b, u, LANES);                                                             \
            if ((u += LANES) == whole_) u = (k)->u0, b++;                                                              \
        }                                                                                                              \
        for (int64_t b = 0; whole_ < end_ && b < (k)->n; b++)                                                          \
            if (!is_masked(k, b, time)) unit(b, whole_, (int)(end_ - whole_));                                         \
    } while (0)

/* -- the ends of a backward sweep -----------------------------------------------------------------------------------
 */

/* The owned units of every gate of the words' gradients: zero. */
static void words_clear(const layer_task *k) {
    const layer_plan *p = k->plan;
    if (k->members == 1) {
        memset(k->dwords, 0, (size_t)(p->call->V * p->GH) * sizeof(REAL));
        return;
    }
    for (int64_t v = 0; v < p->call->V; v++)
        for (int g = 0; g < p->gates; g++) row_zero(k->dwords + v * p->GH + g * p->H + k->u0, k->u1 - k->u0);
}

static void backward_begin(const layer_task *k) {
    const layer_plan *p = k->plan;
    state_load(k, k->dh, p->call->dhT);
    state_load(k, k->dc, p->call->dcT);
    if (p->call->mask) state_load(k, k->dy_carry, NULL);
    if (p->call->ids) words_clear(k);
    for (int s = 0; s < 4; s++) row_zero(k->db + s * p->H + k->u0, k->u1 - k->u0);
}

/* Without a mask: the gradient of row b's outputs of step s, from unit u on, or NULL where there is none. */
INLINE const REAL *dy_now(const layer_task *k, int64_t b, int64_t s, int64_t u) {
    const frnn_call *call = k->plan->call;
    if (call->mask || !call->dy || (!call->sequences && s < call->T - 1)) return NULL;
    return (const REAL *)call->dy + output_row(k, b, s) + u;
}

/* With a mask: dh += what reaches the outputs of step s: at a valid step dy, and what later masked steps, whose outputs
 * repeat this one, passed back; at a masked step dy is passed back further, or lost where such outputs are zero. */
static void dy_collect(const layer_task *k, int64_t s) {
    const layer_plan *p = k->plan;
    const frnn_call *call = p->call;
    const int64_t H = p->H, N = k->u1 - k->u0, time = time_of(p, s),
                  seen = call->dy && (call->sequences || s == p->T - 1);
    if (!call->mask) return;
    for (int64_t b = 0; b < k->n; b++) {
        const REAL *dy = seen ? (const REAL *)call->dy + output_row(k, b, s) + k->u0 : NULL;
        REAL *dh = k->dh + b * H + k->u0, *carry = k->dy_carry + b * H + k->u0;
        if (!is_masked(k, b, time)) {
            if (dy) row_add(dh, dy, N);
            row_add(dh, carry, N);
            row_zero(carry, N);
        } else if (dy && !call->zero_masked) {
            row_add(carry, dy, N);
        }
    }
}

/* The gradients of the slots at masked rows: zero. */
static void dslots_mask(const layer_task *k, int64_t s, REAL *dslots) {
    const layer_plan *p = k->plan;
    if (!p->call->mask) return;
    const int64_t time = time_of(p, s);
    for (int64_t b = 0; b < k->n; b++)
        for (int g = 0; g < 4 && is_masked(k, b, time); g++)
            row_zero(dslots + b * p->lds + g * p->H + k->u0, k->u1 - k->u0);
}

/* Some rows of the tasks' sums, added up in the order of the tasks. */
static void partials_reduce(const layer_plan *p, const REAL *from, int64_t width, REAL *to, int64_t first,
                            int64_t last) {
    const int64_t n = (last - first) * width;
    row_copy(to + first * width, from + first * width, n);
    for (int64_t task = 1; task < p->tasks; task++)
        row_add(to + first * width, from + task * p->per_task + first * width, n);
}

/* For some words: the sum of the tasks' dwords, in the first task's place, and dx, the table's gradient. */
static void words_reduce(void *plan, int64_t index) {
    const layer_plan *p = plan;
    const int64_t v0 = index * WORDS_PER_TASK, M = smaller(WORDS_PER_TASK, p->call->V - v0), GH = p->GH;
    REAL *sum = p->dwords + v0 * GH;
    for (int64_t task = 1; task < p->tasks; task++) row_add(sum, sum + task * p->per_task, M * GH);
    gemm_packed(M, p->I, GH, sum, GH, p->Wt, GH, 0, (REAL *)p->call->dx + v0 * p->I, p->I, p->zeros);
}

/* For some columns: dW from the summed dwords, column groups rotated to Keras' order. */
static void words_weights(void *plan, int64_t index) {
    const layer_plan *p = plan;
    const int64_t columns = PANELS_PER_TASK * 2 * LANES, GH = p->GH, turn = p->u_slot;
    const int64_t n0 = index * columns, n1 = smaller(n0 + columns, GH), cut = larger(n0, smaller(n1, turn));
    REAL *dW = p->call->dW;
    if (cut > n0)
        gemm_transposed(p->I, cut - n0, p->call->V, p->call->x, p->I, p->dwords + n0, GH, dW + GH - turn + n0, GH,
                        p->zeros);
    if (n1 > cut)
        gemm_transposed(p->I, n1 - cut, p->call->V, p->call->x, p->I, p->dwords + cut, GH, dW + cut - turn, GH,
                        p->zeros);
}

static void words_gradients(layer_plan *p) {
    frnn_parallel(p->threads, word_tasks(p), words_reduce, p);
    const int64_t columns = PANELS_PER_TASK * 2 * LANES;
    frnn_parallel(p->threads, (p->GH + columns - 1) / columns, words_weights, p);
}

/* Some rows of the sums over tasks, of which there are several: one alone has written to the call's arrays. */
static void weight_gradients(void *plan, int64_t piece) {
    const layer_plan *p = plan;
    const int64_t I = p->I, H = p->H, pieces = weight_pieces(p);
    if (!p->call->ids) partials_reduce(p, p->dW, p->GH, p->call->dW, I * piece / pieces, I * (piece + 1) / pieces);
    partials_reduce(p, p->dU, p->GH, p->call->dU, H * piece / pieces, H * (piece + 1) / pieces);
}

static void bias_gradients(layer_plan *p) {
    const int64_t H = p->H, GH = p->GH;
    REAL *db = p->call->db;
    if (!db) return;
    for (int64_t task = 1; task < p->tasks; task++) row_add(p->db, p->db + task * p->per_task, p->S);
    row_copy(db, p->db + p->u_slot, GH - p->u_slot);
    if (!p->u_slot) return;
    row_copy(db + 2 * H, p->db, H);
    if (p->call->reset_after) row_copy(db + GH, p->db + H, GH);
}

#endif
