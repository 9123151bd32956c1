/* The products of a forward sweep: those with W over a block of steps, those with U over a step, tile by tile. */
#ifndef FRNN_FORWARD_H
#define FRNN_FORWARD_H

#include "rows.h"

/* M rows of bias + x W for units [u0, u1), `ld` apart: what the slots that W sees begin from. */
static void slots_begin(const layer_plan *p, int64_t M, matrix x, int64_t a_stride, int64_t u0, int64_t u1, REAL *slots,
                        int64_t ld) {
    gates_product product = {.K = p->I, .a_stride = a_stride, .packed = p->W};
    const int64_t most = gate_tile_rows(p->gates);
    const REAL *from[GATE_ROWS];
    REAL own[GATE_ROWS * 4 * LANES];
    for (int64_t u = u0; u < u1; u += LANES) {
        const int part = (int)smaller(LANES, u1 - u);
        for (int r = 0; r < GATE_ROWS; r++) from[r] = p->bias + u;
        gates_fetch(&product, p->gates, u + LANES, p->far && u + LANES < u1 ? (M + most - 1) / most : 0);
        for (int64_t m = 0, rows; m < M; m += rows) {
            rows = deal_rows(M - m, most);
            for (int64_t r = 0; r < rows; r++) product.A[r] = row_of(x, m + r);
            REAL *to = slots + m * ld + u;
            if (part == LANES) {
                gates_multiply(p->gates, NULL, &product, u, (int)rows, from, p->H, NULL, to, ld, p->H);
                product.next += product.K * product.next_step;
                continue;
            }
            gates_multiply(p->gates, NULL, &product, u, (int)rows, from, p->H, NULL, own, 4 * LANES, LANES);
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

/* Before a block of steps: its inputs under dropout masks, which are read where they lie if there are none, and the
 * product with W, unless that comes with U's, step by step. By word it is done already. */
static void inputs_multiply(const layer_task *k, int64_t s0, int64_t steps) {
    const layer_plan *p = k->plan;
    if (p->by_word) return;
    matrix x = rows_given(k->x_rows);
    if (p->gathered) {
        inputs_gather(k, s0, steps);
        meet(k);
        x = rows_apart(k->x_block, p->ldx);
    } else if (!p->w_by_step) {
        inputs_locate(k, s0, steps);
    }
    if (!p->w_by_step)
        slots_begin(p, steps * k->n, x, p->x_groups > 1 ? p->x_group_reals : 0, k->u0, k->u1, k->slots_block, p->lds);
}

/* Whether to have the lines fetched that slots will be kept in, while there is a product to be done before. Where W's
 * was done before, training forward takes a tenth longer without it with 128 units; else it gains nothing. */
INLINE int slots_are_far(const layer_plan *p) { return p->call->reserve && !p->w_by_step && !outputs_by_block(p); }
/* Those of row b at step s, for a vector of units. */
INLINE void slots_fetch(const layer_task *k, int64_t b, int64_t s, int64_t u) {
    const layer_plan *p = k->plan;
    for (int g = 0; g < 4; g++) __builtin_prefetch(k->slots + (s * k->n + b) * p->S + g * p->H + u, 1, 2);
}

/* Where at one step the rows begin that the products read, and that slots begin from: those that W sees, at the bias,
 * or at what is their own or their word's already. Each is `apart` from the one before it in the order of the rows, or
 * of the words. */
typedef struct {
    const REAL *x, *from;
    int64_t x_apart, from_apart;
    int by_id;
    int64_t place; /* of the first row, in the order of the token ids */
} step_rows;

static step_rows rows_find(const layer_task *k, int64_t s, const REAL *begun) {
    const layer_plan *p = k->plan;
    const frnn_call *call = p->call;
    step_rows rows = {.by_id = call->ids && !p->gathered, .place = place_of(k, 0, s)};
    if (p->gathered)
        rows.x = k->x_block + s % p->block * k->n * p->ldx, rows.x_apart = p->ldx;
    else if (call->ids)
        rows.x = call->x, rows.x_apart = p->I;
    else
        rows.x = input_row(k, 0, s), rows.x_apart = p->T * p->I;
    if (p->w_by_step)
        rows.from = p->bias, rows.from_apart = 0;
    else if (p->by_word)
        rows.from = p->words, rows.from_apart = p->GH;
    else
        rows.from = begun, rows.from_apart = p->lds, rows.by_id = 0;
    return rows;
}

/* The states that U sees at step s as it sees them: under the masks of its gates where there are some. */
INLINE const REAL *states_seen(const layer_task *k, int64_t s, const REAL *h) {
    const layer_plan *p = k->plan;
    return p->h_masked ? k->h_block + (s & 1) * p->u_gates * k->n * p->H : h;
}

/* Makes what states_seen gives after step s: for units u of row b, from its new states. */
INLINE void state_ready(const layer_task *k, const layer_step *step, int64_t s, int64_t b, int64_t u, vreal h,
                        const int part) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, nH = k->n * H;
    if (!step->next_masked) return;
    const REAL *mask = state_mask(k, b, 0) + u;
    REAL *to = k->h_block + ((s + 1) & 1) * p->u_gates * nH + b * H + u;
    for (int g = 0; g < p->u_gates; g++, mask += p->B * H, to += nH) vstore_n(to, h * vload_n(mask, part), part);
}

/* Slots of U's gates for all owned units and rows of step s, tile by tile, in `pre` (rows, 4 LANES), and after them
 * that of the candidate of a GRU if W's product comes here too. For each tile calls first(b, u, part, pre, source) for
 * all its rows and then second(b, u, part, pre): b, the first unit u and how many, the row's slots with U's part, and
 * W's part of the first slot. In two turns, since a row's chain of operations is longer than what processors look
 * ahead: shorter ones of several rows overlap. A last vector that is not whole also reads the next gate's first slots,
 * which another member may be writing: what comes of them is never stored. Every other step goes through the units from
 * the last to the first, so that it begins with the weights that are still in a cache. */
#define FOR_TILE_ROWS(k, s, h, begun, first, second)                                                                   \
    do {                                                                                                               \
        const layer_plan *p_ = (k)->plan;                                                                              \
        const int both_ = p_->w_by_step, after_ = p_->u_gates == 3, fetch_ = slots_are_far(p_);                        \
        gates_product W_; /* its rows, and what is fetched, matter only where they are set */                          \
        W_.K = p_->I, W_.a_stride = p_->x_groups > 1 ? p_->x_group_reals : 0, W_.packed = p_->W, W_.next_step = 0;     \
        gates_product U_;                                                                                              \
        U_.K = starts_from_zero(p_, s) ? 0 : p_->H, U_.a_stride = p_->h_masked ? (k)->n * p_->H : 0;                   \
        U_.packed = p_->U, U_.next_step = 0;                                                                           \
        const step_rows at_ = rows_find(k, s, begun);                                                                  \
        const REAL *seen_ = states_seen(k, s, h);                                                                      \
        /* a GRU's last vector: q's bias, or the candidate's */                                                        \
        const REAL *last_ = p_->u_slot && both_ ? p_->bias : after_ ? p_->bias + 3 * p_->H : NULL;                     \
        const int64_t most_ = gate_tile_rows(p_->u_gates + (p_->u_slot && both_ ? 1 : 0)),                             \
                      vectors_ = ((k)->u1 - (k)->u0 + LANES - 1) / LANES;                                              \
        REAL pre_[GATE_ROWS * 4 * LANES];                                                                              \
        const REAL *from_[GATE_ROWS];                                                                                  \
        for (int64_t v_ = 0; v_ < vectors_; v_++) {                                                                    \
            const int64_t on_ = (s) & 1 ? -LANES : LANES;                                                              \
            const int64_t u = (k)->u0 + ((s) & 1 ? vectors_ - 1 : 0) * LANES + v_ * on_;                               \
            if (p_->far) gates_fetch(&U_, p_->u_gates, u + on_, v_ + 1 < vectors_ ? ((k)->n + most_ - 1) / most_ : 0); \
            const int left_ = (int)smaller(LANES, (k)->u1 - u);                                                        \
            for (int64_t b0_ = 0, rows_; b0_ < (k)->n; b0_ += rows_) {                                                 \
                rows_ = deal_rows((k)->n - b0_, most_);                                                                \
                for (int64_t r_ = 0; r_ < rows_; r_++) {                                                               \
                    const int64_t b_ = b0_ + r_;                                                                       \
                    if (fetch_) slots_fetch(k, b_, s, u);                                                              \
                    const int64_t row_ = at_.by_id ? word_at(p_->call, at_.place + b_ * p_->T) : b_;                   \
                    if (both_) W_.A[r_] = at_.x + row_ * at_.x_apart;                                                  \
                    U_.A[r_] = seen_ + b_ * p_->H;                                                                     \
                    from_[r_] = at_.from + row_ * at_.from_apart + p_->u_slot + u;                                     \
                }                                                                                                      \
                gates_multiply(p_->u_gates, both_ ? &W_ : NULL, &U_, u, (int)rows_, from_, p_->H,                      \
                               last_ ? last_ + u : NULL, pre_, 4 * LANES, LANES);                                      \
                if (p_->far) U_.next += U_.K * U_.next_step;                                                           \
                if (left_ == LANES) {                                                                                  \
                    for (int64_t r_ = 0; r_ < rows_; r_++)                                                             \
                        first(b0_ + r_, u, LANES, pre_ + r_ * 4 * LANES,                                               \
                              both_ ? pre_ + (r_ * 4 + p_->u_gates) * LANES : from_[r_] - p_->u_slot);                 \
                    for (int64_t r_ = 0; r_ < rows_; r_++) second(b0_ + r_, u, LANES, pre_ + r_ * 4 * LANES);          \
                } else {                                                                                               \
                    for (int64_t r_ = 0; r_ < rows_; r_++)                                                             \
                        first(b0_ + r_, u, left_, pre_ + r_ * 4 * LANES,                                               \
                              both_ ? pre_ + (r_ * 4 + p_->u_gates) * LANES : from_[r_] - p_->u_slot);                 \
                    for (int64_t r_ = 0; r_ < rows_; r_++) second(b0_ + r_, u, left_, pre_ + r_ * 4 * LANES);          \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

#endif
