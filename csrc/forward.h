/* The products of a forward sweep: those with W over a block of steps, those with U over a step, tile by tile. */
#ifndef FRNN_FORWARD_H
#define FRNN_FORWARD_H

#include "ahead.h"
#include "rows.h"

/* M rows of bias + x W for units [u0, u1), `ld` apart: what the slots that W sees begin from. */
static void slots_begin(const layer_plan *p, int64_t M, matrix x, int64_t a_stride, int64_t u0, int64_t u1, REAL *slots,
                        int64_t ld) {
    gates_product product = {.K = p->I, .a_stride = a_stride, .packed = p->W};
    gates_function *multiply = gates_choose(p->gates, NULL, &product, p->far);
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
                multiply(NULL, &product, u, (int)rows, from, p->H, NULL, to, ld, p->H);
                product.next += product.K * product.next_step;
                continue;
            }
            multiply(NULL, &product, u, (int)rows, from, p->H, NULL, own, 4 * LANES, LANES);
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

/* What all steps of a forward sweep have in common, and where the rows of one are: found once, and moved on from step
 * to step. One sequence with 8 units takes a seventh longer where each step looks for all this. Rows are `apart` from
 * the one before them, and further `on` at the next step. */
typedef struct {
    gates_product W, U; /* each tile sets its rows of A */
    int w_too;          /* W's product comes with U's */
    gates_function *multiply;
    gates_two_function *multiply_two; /* of two vectors of units at once, or NULL */
    int64_t most;                     /* rows of a tile */
    const REAL *last; /* what the last vector of a GRU's tile begins from: q's bias, or the candidate's; or NULL */
    const REAL *x;    /* what W sees, if its product comes here */
    const REAL *from; /* what the slots that W sees begin from: bias, or what is their own or their word's already */
    int64_t x_apart, x_on, from_apart, from_on;
    int64_t place, place_on; /* of the first row in the order of x (B, T, I) */
    const uint8_t *mask;     /* as places are; or NULL */
    REAL *y;                 /* outputs as they are computed; or NULL */
    int64_t y_apart, y_on;
    int next_masked;   /* states after this step are also wanted under recurrent dropout masks */
    slots_ahead ahead; /* what of W's product comes with U's, for later steps of the block */
} forward_steps;

/* Whether tiles come two by two: a constant in narrow layers, which have no second vector. */
INLINE int tiles_in_twos(const forward_steps *w) { return !NARROW && w->multiply_two; }

/* Whether U sees copies of the states under recurrent dropout masks: there may be no masks, or tiles apply them. */
INLINE int states_copied(const layer_plan *p) { return p->h_masked && !p->masked_in_tile; }

/* Whether outputs are written as they are computed. */
INLINE int outputs_at_once(const layer_plan *p) { return !p->call->mask && !outputs_by_block(p); }

static forward_steps steps_begin(const layer_task *k) {
    const layer_plan *p = k->plan;
    const frnn_call *call = p->call;
    const int candidate = p->w_by_step && p->u_slot;
    forward_steps w = {.w_too = p->w_by_step, .most = gate_tile_rows(p->u_gates + candidate)};
    w.W.K = p->I, w.W.a_stride = p->x_groups > 1 ? p->x_group_reals : 0, w.W.packed = p->W;
    w.U.K = starts_from_zero(p, 0) ? 0 : p->H, w.U.a_stride = states_copied(p) ? k->n * p->H : 0, w.U.packed = p->U;
    if (p->masked_in_tile) w.U.mask[0] = w.U.mask[1] = k->h_block; /* each tile sets its rows */
    w.multiply = gates_choose(p->u_gates, p->w_by_step ? &w.W : NULL, &w.U, p->far);
    if (p->h_masked && !p->w_by_step) {
        w.multiply_two = gates_choose_two(p->u_gates);
        w.most = gate_tile_rows(4);
    }
    if (candidate)
        w.last = p->bias;
    else if (p->u_gates == 3)
        w.last = p->bias + 3 * p->H;
    w.place = place_of(k, 0, 0), w.place_on = call->go_backwards ? -1 : 1;
    if (p->gathered)
        w.x_apart = p->ldx, w.x_on = k->n * p->ldx;
    else if (!call->ids)
        w.x = (const REAL *)call->x + w.place * p->I, w.x_apart = p->T * p->I, w.x_on = w.place_on * p->I;
    if (p->w_by_step)
        w.from = p->bias;
    else if (p->by_word)
        w.from = p->words, w.from_apart = p->GH;
    else
        w.from_apart = p->lds, w.from_on = k->n * p->lds;
    if (call->mask) w.mask = call->mask + w.place;
    w.y_apart = outputs_apart(p), w.y_on = p->H;
    if (call->sequences && outputs_at_once(p)) w.y = (REAL *)call->y + output_row(k, 0, 0);
    return w;
}

/* Before a block of steps: its inputs under dropout masks, which are read where they lie if there are none, and the
 * product with W, unless that comes with U's, step by step or, but for the first steps, ahead. By word it is done
 * already. */
static void inputs_multiply(const layer_task *k, forward_steps *w, int64_t s0, int64_t steps) {
    const layer_plan *p = k->plan;
    if (p->by_word) return;
    matrix x = rows_given(k->x_rows);
    if (p->gathered) {
        inputs_gather(k, s0, steps);
        meet(k);
        x = rows_apart(k->x_block, p->ldx);
        w->x = k->x_block;
    } else if (!p->w_by_step) {
        inputs_locate(k, s0, steps);
    }
    if (p->w_by_step) return;
    w->from = k->slots_block;
    if (p->ahead) {
        w->ahead = ahead_begin(k, s0, steps);
        steps = smaller(steps, AHEAD_STEPS);
    }
    slots_begin(p, steps * k->n, x, w->W.a_stride, k->u0, k->u1, k->slots_block, p->lds);
}

/* Before step s, and after it. */
INLINE void step_begin(const layer_task *k, forward_steps *w, int64_t s) {
    const layer_plan *p = k->plan;
    w->next_masked = states_copied(p) && s + 1 < p->T;
    if (ahead_left(&w->ahead)) ahead_catch_up(k, &w->ahead, s);
    /* without sequences only the last step's outputs are ever seen */
    if (s == p->T - 1 && !p->call->sequences && outputs_at_once(p)) w->y = (REAL *)p->call->y + output_row(k, 0, s);
}
INLINE void step_end(const layer_task *k, forward_steps *w) {
    w->U.K = k->plan->H;
    w->x += w->x_on, w->from += w->from_on, w->place += w->place_on;
    if (w->mask) w->mask += w->place_on;
    if (w->y) w->y += w->y_on;
}
INLINE int row_masked(const layer_task *k, const forward_steps *w, int64_t b) {
    return w->mask && !w->mask[b * k->plan->T];
}
INLINE REAL *output_now(const forward_steps *w, int64_t b, int64_t u) {
    return w->y ? w->y + b * w->y_apart + u : NULL;
}

/* Whether to have the lines fetched that slots will be kept in, while there is a product to be done before. Where W's
 * was done before, training forward takes a tenth longer without it with 128 units; else it gains nothing. */
INLINE int slots_are_far(const layer_plan *p) { return p->call->reserve && !p->w_by_step && !outputs_by_block(p); }
/* Those of row b at step s, for a vector of units. */
INLINE void slots_fetch(const layer_task *k, int64_t b, int64_t s, int64_t u) {
    const layer_plan *p = k->plan;
    for (int g = 0; g < 4; g++) __builtin_prefetch(k->slots + (s * k->n + b) * p->S + g * p->H + u, 1, 2);
}

/* The states that U sees at step s as it sees them: under the masks of its gates where there are some. */
INLINE const REAL *states_seen(const layer_task *k, int64_t s, const REAL *h) {
    const layer_plan *p = k->plan;
    return states_copied(p) ? k->h_block + (s & 1) * p->u_gates * k->n * p->H : h;
}

/* Before the first step: what states_seen gives then, from the states at h; or, where tiles mask the states, the masks
 * as those read them, zero beyond a row's units. */
static void states_begin(const layer_task *k, const REAL *h) {
    const layer_plan *p = k->plan;
    if (states_copied(p)) states_mask(k, 1, h, k->h_block);
    if (!p->masked_in_tile) return;
    REAL *to = k->h_block;
    for (int g0 = 0; g0 < p->u_gates; g0 += 2)
        for (int64_t b = 0; b < k->n; b++)
            for (int g = g0; g < g0 + 2 && g < p->u_gates; g++, to += LANES)
                vstore(to, vload_n(state_mask(k, b, g), (int)p->H));
}

/* Makes what states_seen gives after step s: for units u of row b, from its new states. */
INLINE void state_ready(const layer_task *k, const forward_steps *w, int64_t s, int64_t b, int64_t u, vreal h,
                        const int part) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, nH = k->n * H;
    if (!w->next_masked) return;
    const REAL *mask = state_mask(k, b, 0) + u;
    REAL *to = k->h_block + ((s + 1) & 1) * p->u_gates * nH + b * H + u;
    for (int g = 0; g < p->u_gates; g++, mask += p->B * H, to += nH) vstore_n(to, h * vload_n(mask, part), part);
}

INLINE void states_ready(const layer_task *k, const forward_steps *w, int64_t s, int64_t b, int64_t u, wreal two,
                         const int part) {
    state_ready(k, w, s, b, u, wlower(two), part);
    state_ready(k, w, s, b + 1, u, wupper(two), part);
}

/* Rows `apart` from each other. The empty statement keeps compilers from storing them as vectors: a product reads them
 * one by one, which waits for a vector that lies across two lines, and for all stores before it, until they are in the
 * cache (training with 8 units a third longer where that is slow). */
INLINE void rows_begin(const REAL **row, int64_t rows, const REAL *first, int64_t apart) {
    for (int64_t r = 0; r < rows; r++, first += apart) {
        row[r] = first;
        __asm__ volatile("");
    }
}
/* Where the rows of a tile begin in what its products and sums read, and its slots fetched if they are far. One loop
 * for each, since a loop that asks for every row what there is takes longer (forward with 8 units 7 %, by word 13). */
INLINE void tile_begin(const layer_task *k, forward_steps *w, const REAL *seen, int64_t s, int64_t b0, int64_t rows,
                       int64_t u, const REAL *from[GATE_ROWS]) {
    const layer_plan *p = k->plan;
    const int64_t slot = p->u_slot + u;
    if (slots_are_far(p))
        for (int64_t r = 0; r < rows; r++) slots_fetch(k, b0 + r, s, u);
    if (w->w_too) rows_begin(w->W.A, rows, w->x + b0 * w->x_apart, w->x_apart);
    rows_begin(w->U.A, rows, seen + b0 * p->H, p->H);
    if (p->masked_in_tile) {
        w->U.mask[0] = k->h_block + b0 * 2 * LANES;
        w->U.mask[1] = k->h_block + (k->n * 2 + b0 * (p->u_gates - 2)) * LANES;
    }
    if (p->by_word)
        for (int64_t r = 0; r < rows; r++) {
            from[r] = w->from + word_at(p->call, w->place + (b0 + r) * p->T) * w->from_apart + slot;
            __asm__ volatile("");
        }
    else
        rows_begin(from, rows, w->from + b0 * w->from_apart + slot, w->from_apart);
}

/* Slots of U's gates for all owned units and rows of step s, tile by tile, in `pre` (rows, 4 LANES), and after them
 * that of the candidate of a GRU if W's product comes here too. For each tile, of which there may be two beside each
 * other at once, calls tile(b0, rows, u, part, pre, from): its first row and how many, the first unit and how many, its
 * rows' slots with U's part, and where W's part of the first slot that U sees is read from. A last vector that is not
 * whole also reads the next gate's first slots, which another member may be writing: what comes of them is never
 * stored. Every other step goes through the units from the last to the first, so that it begins with the weights that
 * are still in a cache. */
#define FOR_TILES(k, w, s, h, tile)                                                                                    \
    do {                                                                                                               \
        const layer_plan *p_ = (k)->plan;                                                                              \
        const REAL *seen_ = states_seen(k, s, h);                                                                      \
        const int64_t units_ = tiles_in_twos(w) ? 2 * LANES : LANES,                                                   \
                      strips_ = ((k)->u1 - (k)->u0 + units_ - 1) / units_;                                             \
        REAL pre_[2 * TILE_REALS];                                                                                     \
        const REAL *from_[GATE_ROWS];                                                                                  \
        for (int64_t v_ = 0; v_ < strips_; v_++) {                                                                     \
            const int64_t on_ = (s) & 1 ? -units_ : units_;                                                            \
            const int64_t u_ = (k)->u0 + ((s) & 1 ? strips_ - 1 : 0) * units_ + v_ * on_;                              \
            const int tiles_ = (k)->u1 - u_ > LANES ? (int)(units_ / LANES) : 1;                                       \
            if (p_->far)                                                                                               \
                gates_fetch(&(w)->U, p_->u_gates, u_ + on_,                                                            \
                            v_ + 1 < strips_ ? ((k)->n + (w)->most - 1) / (w)->most : 0);                              \
            for (int64_t b0_ = 0, rows_; b0_ < (k)->n; b0_ += rows_) {                                                 \
                const REAL *last_ = (w)->last ? (w)->last + u_ : NULL;                                                 \
                rows_ = deal_rows((k)->n - b0_, (w)->most);                                                            \
                tile_begin(k, w, seen_, s, b0_, rows_, u_, from_);                                                     \
                if (ahead_left(&(w)->ahead))                                                                           \
                    ahead_tile(k, &(w)->ahead, &(w)->U, u_, from_[0], last_, pre_);                                    \
                else if (tiles_ == 2)                                                                                  \
                    (w)->multiply_two(&(w)->U, u_, (int)rows_, from_, p_->H, last_, pre_);                             \
                else                                                                                                   \
                    (w)->multiply((w)->w_too ? &(w)->W : NULL, &(w)->U, u_, (int)rows_, from_, p_->H, last_, pre_,     \
                                  4 * LANES, LANES);                                                                   \
                if (p_->far) (w)->U.next += (w)->U.K * (w)->U.next_step;                                               \
                for (int t_ = 0; t_ < tiles_; t_++) {                                                                  \
                    REAL *const tile_ = pre_ + t_ * TILE_REALS;                                                        \
                    const int64_t u = u_ + t_ * LANES;                                                                 \
                    const int left_ = (int)smaller(LANES, (k)->u1 - u);                                                \
                    for (int64_t r_ = 0; t_ && r_ < rows_; r_++) from_[r_] += LANES;                                   \
                    if (left_ == LANES)                                                                                \
                        tile(b0_, rows_, u, LANES, tile_, from_);                                                      \
                    else                                                                                               \
                        tile(b0_, rows_, u, left_, tile_, from_);                                                      \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

/* The slots of a tile's row. */
INLINE REAL *tile_row(REAL *pre, int64_t r) { return pre + r * 4 * LANES; }

/* How many rows of a tile are done two by two, in wide vectors of which one row of a narrow layer fills half: forward
 * with 8 units is 5 to 7 % shorter (Zen 5). */
INLINE int64_t rows_in_twos(int64_t rows) { return NARROW ? rows / 2 * 2 : 0; }
/* Of row b and the next: bit 0 where the one is masked, bit 1 where the other is. */
INLINE int two_masked(const layer_task *k, const forward_steps *w, int64_t b) {
    return row_masked(k, w, b) + 2 * row_masked(k, w, b + 1);
}

#endif
