/* The rows of a call's arrays as a task sees them: in the order of its steps, under masks and dropout masks. What is
 * done column by column, a member of a team does for the columns it owns.
 */
#ifndef FRNN_ROWS_H
#define FRNN_ROWS_H

#include "plan.h"

/* The place in time that step s reads. */
INLINE int64_t time_of(const layer_plan *p, int64_t s) { return p->call->go_backwards ? p->T - 1 - s : s; }

/* Whether the states before step s are zeros that nobody gave: products with them are left out, so that NaN in U comes
 * into the outputs a step later. */
INLINE int starts_from_zero(const layer_plan *p, int64_t s) { return s == 0 && !p->call->h0; }

INLINE int is_masked(const layer_task *k, int64_t b, int64_t time) {
    const uint8_t *mask = k->plan->call->mask;
    return mask && !mask[(k->b0 + b) * k->plan->T + time];
}

/* Where the output row of step s begins; without sequences all steps share one. */
INLINE int64_t output_row(const layer_task *k, int64_t b, int64_t s) {
    const layer_plan *p = k->plan;
    return p->call->sequences ? ((k->b0 + b) * p->T + s) * p->H : (k->b0 + b) * p->H;
}
/* How far the next row's are from there. */
INLINE int64_t outputs_apart(const layer_plan *p) { return (p->call->sequences ? p->T : 1) * p->H; }

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

/* Where outputs are not written as they are computed: those of steps [s0, s0 + steps) from the states after them,
 * (steps, n, H), but for those after the last step of all, which are hT: at a masked step the last output again, or
 * zero. */
static void outputs_store(const layer_task *k, int64_t s0, int64_t steps, const REAL *after) {
    const layer_plan *p = k->plan;
    const frnn_call *call = p->call;
    const int64_t H = p->H, nH = k->n * H, units = k->u1 - k->u0, end = s0 + steps;
    /* without sequences and masks only the last step's are ever seen */
    const int64_t first = call->sequences || call->mask ? s0 : larger(s0, p->T - 1);
    const int64_t apart = call->sequences ? H : 0;
    for (int64_t b = 0; b < k->n; b++) {
        const REAL *h = after + (first - s0) * nH + b * H + k->u0;
        REAL *y = (REAL *)call->y + output_row(k, b, first) + k->u0;
        int64_t s = first;
        if (!call->mask) /* then it is a narrow layer, whose rows are vectors or part of one */
            for (; s < end && s < p->T - 1; s++, h += nH, y += apart) vstore_n(y, vload_n(h, (int)units), (int)units);
        for (; s < end; s++, h += nH, y += apart) {
            if (s == p->T - 1) h = (const REAL *)call->hT + (k->b0 + b) * H + k->u0;
            if (!is_masked(k, b, time_of(p, s)))
                row_copy(y, h, units);
            else if (call->zero_masked || s == 0)
                row_zero(y, units);
            else if (call->sequences)
                row_copy(y, y - H, units);
        }
    }
}

/* Where the states after step s go, whose own are at h: those of a block lie side by side in training, and where
 * outputs come from them; else there are two places in turn. The last ones are hT. */
INLINE REAL *states_after(const layer_task *k, int64_t s, REAL *h) {
    const layer_plan *p = k->plan;
    if (s == p->T - 1) return (REAL *)p->call->hT + k->b0 * p->H;
    return p->call->reserve || outputs_by_block(p) || h == k->h_now ? h + k->n * p->H : k->h_now;
}

/* What is to be done about outputs after step s of the block [s0, end), which began with the states at `first` and came
 * to those at h. */
INLINE void outputs_after(const layer_task *k, int64_t s, int64_t s0, int64_t end, const REAL *first, const REAL *h) {
    const layer_plan *p = k->plan;
    if (!outputs_by_block(p)) {
        if (p->call->mask) outputs_store(k, s, 1, h);
    } else if (s + 1 == end) {
        outputs_store(k, s0, end - s0, first + k->n * p->H);
    }
}

/* Where the next block begins from, after the states at h: those of inference that lie side by side go back to the
 * start. Such layers have no team, so the rows are whole. */
INLINE REAL *states_carried(const layer_task *k, REAL *h) {
    const layer_plan *p = k->plan;
    if (p->call->reserve || !outputs_by_block(p)) return h;
    row_copy(k->h_now, h, k->n * p->H);
    return k->h_now;
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

/* Where sample b (of the task) at step s is in the order of x (B, T, I). */
INLINE int64_t place_of(const layer_task *k, int64_t b, int64_t s) {
    return (k->b0 + b) * k->plan->T + time_of(k->plan, s);
}
/* The word there, with token ids. */
INLINE int64_t word_at(const frnn_call *call, int64_t place) {
    return call->id_bytes == 4 ? ((const int32_t *)call->ids)[place] : ((const int64_t *)call->ids)[place];
}
INLINE int64_t word_of(const layer_task *k, int64_t b, int64_t s) { return word_at(k->plan->call, place_of(k, b, s)); }
/* Its inputs. */
INLINE const REAL *input_row(const layer_task *k, int64_t b, int64_t s) {
    const frnn_call *call = k->plan->call;
    return (const REAL *)call->x + (call->ids ? word_of(k, b, s) : place_of(k, b, s)) * call->I;
}

/* x_rows and dx_rows: where the rows of steps [s0, s0 + steps), in the order (step, sample), lie in x and dx; in
 * backward x_rows from the last to the first, see weights_accumulate. With token ids, the gradient of a row is made in
 * x_block, from where it is added to its word's. */
static void inputs_locate(const layer_task *k, int64_t s0, int64_t steps) {
    const layer_plan *p = k->plan;
    const frnn_call *call = p->call;
    const int64_t n = k->n, I = p->I, apart = p->T * I, ldx = p->ldx, last = steps * n - 1;
    const int by_id = call->ids != NULL, backward = p->backward;
    REAL *own = k->x_block, **x_rows = k->x_rows, **dx_rows = k->dx_rows;
    for (int64_t s = s0, m = 0; s < s0 + steps; s++) {
        const int64_t place = place_of(k, 0, s);
        REAL *x = (REAL *)call->x + place * I, *dx = (REAL *)call->dx + place * I;
        for (int64_t b = 0; b < n; b++, m++, x += apart, dx += apart, own += ldx) {
            x_rows[backward ? last - m : m] = by_id ? (REAL *)input_row(k, b, s) : x;
            if (backward) dx_rows[m] = by_id ? own : dx;
        }
    }
}

/* x_block (x_groups, block, n, ldx) = the owned inputs of steps [s0, s0 + steps), under the dropout mask of each group.
 * A sample's steps lie side by side in x, so the loop over them is the inner one: strides as long as a sequence would
 * miss every cache. What lies where is not asked in it: a row is no more than a few operations. */
static void inputs_gather(const layer_task *k, int64_t s0, int64_t steps) {
    const layer_plan *p = k->plan;
    const frnn_call *call = p->call;
    const REAL *x = (const REAL *)call->x + k->i0;
    const int64_t I = p->I, N = k->i1 - k->i0, on = call->go_backwards ? -1 : 1, apart = k->n * p->ldx;
    const int32_t *short_ids = call->id_bytes == 4 ? call->ids : NULL;
    const int64_t *long_ids = call->ids;
#define ROWS(word)                                                                                                     \
    for (int64_t s = 0; s < steps; s++, place += on, row += apart) row_multiply(row, x + (word) * I, x_mask, N)
    for (int g = 0; g < p->x_groups; g++)
        for (int64_t b = 0; b < k->n; b++) {
            const REAL *x_mask = input_mask(k, b, g) + k->i0;
            REAL *row = k->x_block + g * p->x_group_reals + b * p->ldx + k->i0;
            int64_t place = place_of(k, b, s0);
            if (short_ids)
                ROWS(short_ids[place]);
            else if (long_ids)
                ROWS(long_ids[place]);
            else
                ROWS(place);
        }
#undef ROWS
}

/* to (u_gates, steps, n, H) = the owned units of h (steps, n, H) under the recurrent dropout mask of each gate. A
 * member alone owns all, which lie side by side. */
static void states_mask(const layer_task *k, int64_t steps, const REAL *h, REAL *to) {
    const int64_t H = k->plan->H, nH = k->n * H, alone = k->members == 1;
    const int64_t rows = alone ? 1 : k->n, N = alone ? nH : k->u1 - k->u0;
    for (int64_t s = 0; s < steps; s++)
        for (int g = 0; g < k->plan->u_gates; g++)
            for (int64_t b = 0; b < rows; b++) {
                const int64_t at = s * nH + b * H + k->u0;
                row_multiply(to + g * steps * nH + at, h + at, state_mask(k, b, g) + k->u0, N);
            }
}

/* Where row b begins in arrays of the task's rows, which are H, S or lds apart, and in those of outputs. */
typedef struct {
    int64_t b, h, slots, dslots, y;
} row_place;

/* The row after `row`, by what FOR_UNITS has at hand. */
#define ROW_NEXT ((row_place){row.b + 1, row.h + H_, row.slots + S_, row.dslots + lds_, row.y + y_})

/* Calls unit(row, u, part) for all owned units u of the task's rows that are not masked at this time, LANES units at a
 * time and last what is left of each row. One loop, not two nested ones: rows may be a single vector, and the many
 * constants of the gates are then loaded once. */
#define FOR_UNITS(k, time, unit)                                                                                       \
    do {                                                                                                               \
        const layer_plan *p_ = (k)->plan;                                                                              \
        const uint8_t *mask_ = p_->call->mask ? p_->call->mask + (k)->b0 * p_->T + (time) : NULL;                      \
        const int64_t T_ = p_->T, n_ = (k)->n, H_ = p_->H, S_ = p_->S, lds_ = p_->lds, y_ = outputs_apart(p_);         \
        const int64_t end_ = (k)->u1, whole_ = (k)->u0 + (end_ - (k)->u0) / LANES * LANES;                             \
        row_place row = {0};                                                                                           \
        for (int64_t u = (k)->u0; whole_ > (k)->u0 && row.b < n_;) {                                                   \
            if (!mask_ || mask_[row.b * T_]) unit(row, u, LANES);                                                      \
            if (NARROW || (u += LANES) == whole_) u = (k)->u0, row = ROW_NEXT;                                         \
        }                                                                                                              \
        row = (row_place){0};                                                                                          \
        for (; whole_ < end_ && row.b < n_; row = ROW_NEXT)                                                            \
            if (!mask_ || mask_[row.b * T_]) unit(row, whole_, (int)(end_ - whole_));                                  \
    } while (0)

#endif
