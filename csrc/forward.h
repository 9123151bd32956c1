/* The products of a forward sweep: those with W over a block of steps, those with U over a step, tile by tile. */
#ifndef FRNN_FORWARD_H
#define FRNN_FORWARD_H

#include "rows.h"

/* M rows of bias + x W for units [u0, u1), `ld` apart: what the slots that W sees begin from. */
static void slots_begin(const layer_plan *p, int64_t M, matrix x, int64_t a_stride, int64_t u0, int64_t u1, REAL *slots,
                        int64_t ld) {
    const gates_product product = {p->I, a_stride, p->W};
    const int64_t most = gate_tile_rows(p->gates);
    const REAL *from[TILE_ROWS], *A[TILE_ROWS];
    REAL own[TILE_ROWS * 4 * LANES];
    for (int64_t u = u0; u < u1; u += LANES) {
        const int part = (int)smaller(LANES, u1 - u);
        for (int r = 0; r < TILE_ROWS; r++) from[r] = p->bias + u;
        for (int64_t m = 0, rows; m < M; m += rows) {
            rows = deal_rows(M - m, most);
            for (int64_t r = 0; r < rows; r++) A[r] = row_of(x, m + r);
            REAL *to = slots + m * ld + u;
            if (part == LANES) {
                gates_multiply(p->gates, &product, u, (int)rows, A, from, p->H, NULL, to, ld, p->H);
                continue;
            }
            gates_multiply(p->gates, &product, u, (int)rows, A, from, p->H, NULL, own, 4 * LANES, LANES);
            for (int64_t r = 0; r < rows; r++)
                for (int g = 0; g < p->gates; g++)
                    vstore_part(to + r * ld + g * p->H, vload(own + (r * 4 + g) * LANES), part);
        }
    }
}

/* The slots that some words begin from: with fewer words than samples times steps, a lookup in place of a product. */
static void words_multiply(void *plan, int64_t index) {
    const layer_plan *p = plan;
    const int64_t v0 = index * WORDS_PER_TASK, M = smaller(WORDS_PER_TASK, p->call->V - v0);
    slots_begin(p, M, rows_apart((const REAL *)p->call->x + v0 * p->I, p->I), 0, 0, p->H, p->words + v0 * p->GH, p->GH);
}

/* The slots of a block of steps before U's part; with token ids these are looked up step by step. Inputs are read where
 * they lie, but under dropout masks. */
static void inputs_multiply(const layer_task *k, int64_t s0, int64_t steps, REAL *slots) {
    const layer_plan *p = k->plan;
    if (p->call->ids) return;
    matrix x = rows_given(k->x_rows);
    if (p->gathered) {
        inputs_gather(k, s0, steps);
        meet(k);
        x = rows_apart(k->x_block, p->ldx);
    } else {
        inputs_locate(k, s0, steps);
    }
    slots_begin(p, steps * k->n, x, p->x_groups > 1 ? p->x_group_reals : 0, k->u0, k->u1, slots, p->S);
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
 * from, or NULL. A last vector that is not whole also reads the next gate's first slots, which another member may be
 * writing: what comes of them is never stored. */
#define FOR_TILE_ROWS(k, s, h, slots, last, first, second)                                                             \
    do {                                                                                                               \
        const layer_plan *p_ = (k)->plan;                                                                              \
        const REAL *seen_ = states_seen(k, s, h), *last_ = last;                                                       \
        const gates_product product_ = {starts_from_zero(p_, s) ? 0 : p_->H, p_->h_masked ? (k)->n * p_->H : 0,        \
                                        p_->U};                                                                        \
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

#endif
