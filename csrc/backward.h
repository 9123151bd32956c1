/* The products of a backward sweep, from the gradients of the slots: states' step by step, inputs' and weights' over a
 * block of steps; what reaches the outputs; and the sums over tasks and words in the end. */
#ifndef FRNN_BACKWARD_H
#define FRNN_BACKWARD_H

#include "masked.h"
#include "rows.h"

/* -- products over a step or a block --------------------------------------------------------------------------------
 */

/* For M rows of dslots, columns [n0, n1), N columns in all: each gate's dslots B_g^T, from the slot on that the gates
 * of B begin with, B packed by gates_pack_transposed; tile by tile, calls row(m, n, part, pre) with a vector for each
 * gate in pre. The product for gradients that go through masks of each gate: they are applied before the gates are
 * summed. */
#define FOR_GATE_PRODUCTS(k, M, gates, B, slots, n0, n1, row)                                                          \
    do {                                                                                                               \
        const layer_plan *p_ = (k)->plan;                                                                              \
        gates_product product_ = {.K = p_->H, .a_stride = p_->H, .packed = B};                                         \
        gates_function *multiply_ = gates_choose(gates, NULL, &product_, 0);                                           \
        gates_two_function *multiply_two_ = gates_choose_two(gates);                                                   \
        REAL pre_[2 * TILE_REALS];                                                                                     \
        const REAL *from_[GATE_ROWS];                                                                                  \
        for (int r_ = 0; r_ < GATE_ROWS; r_++) from_[r_] = p_->zeros;                                                  \
        for (int64_t n_ = n0, tiles_; n_ < n1; n_ += tiles_ * LANES) {                                                 \
            tiles_ = !NARROW && n1 - n_ > LANES ? 2 : 1;                                                               \
            for (int64_t m0_ = 0, rows_; m0_ < M; m0_ += rows_) {                                                      \
                rows_ = deal_rows(M - m0_, gate_tile_rows(4));                                                         \
                for (int64_t r_ = 0; r_ < rows_; r_++) product_.A[r_] = (slots) + (m0_ + r_) * p_->lds;                \
                if (tiles_ == 2)                                                                                       \
                    multiply_two_(&product_, n_, (int)rows_, from_, 0, NULL, pre_);                                    \
                else                                                                                                   \
                    multiply_(NULL, &product_, n_, (int)rows_, from_, 0, NULL, pre_, 4 * LANES, LANES);                \
                for (int64_t t_ = 0; t_ < tiles_; t_++) {                                                              \
                    const int64_t n = n_ + t_ * LANES;                                                                 \
                    const int left_ = (int)smaller(LANES, n1 - n);                                                     \
                    for (int64_t r_ = 0; r_ < rows_; r_++)                                                             \
                        row(m0_ + r_, n, left_, pre_ + t_ * TILE_REALS + r_ * 4 * LANES);                              \
                }                                                                                                      \
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
static void dstates_multiply(const layer_task *k, int64_t s, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, mask_stride = p->B * H;
    const REAL *u_slots = dslots + p->u_slot;
    if (!p->h_masked) {
        /* two panels at a time, every other step from the last to the first: see FOR_TILES */
        const int64_t pairs = (k->u1 - k->u0 + 4 * WIDE_LANES - 1) / (4 * WIDE_LANES);
        for (int64_t v = 0; v < pairs; v++) {
            const int64_t u = k->u0 + (s & 1 ? pairs - 1 - v : v) * 4 * WIDE_LANES;
            const matrix dh = rows_apart(k->dh + u, H);
            gemm_packed(k->n, smaller(4 * WIDE_LANES, k->u1 - u), p->u_gates * H, u_slots, p->lds, p->Ut + u * p->GH,
                        p->GH, 0, &dh, NULL);
        }
        return;
    }
    if (in_twos(H)) {
        masked_states(k, u_slots);
        return;
    }
#define ROW(b, u, part, pre)                                                                                           \
    gates_sum(k->dh + (b) * H + u, pre, p->u_gates, state_mask(k, b, 0) + u, mask_stride, 1, part)
    FOR_GATE_PRODUCTS(k, k->n, p->u_gates, p->Ug, u_slots, k->u0, k->u1, ROW);
#undef ROW
}

/* The owned inputs' dx of a block; under masks that the gates share, before those. */
static void dinputs_multiply(const layer_task *k, int64_t s0, int64_t steps, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t I = p->I, N = k->i1 - k->i0, M = steps * k->n, mask_stride = p->B * I;
    inputs_locate(k, s0, steps);
    if (p->x_groups > 1) {
        /* packed gates are in the order of the slots, masks in Keras' order: for a GRU its last one comes first */
#define ROW(m, i, part, pre)                                                                                           \
    do {                                                                                                               \
        const int64_t b_ = (m) % k->n;                                                                                 \
        REAL *to_ = k->dx_rows[m] + i;                                                                                 \
        const int turn_ = p->u_slot ? 1 : 0;                                                                           \
        if (turn_) gates_sum(to_, pre, 1, input_mask(k, b_, 0) + i, 0, 0, part);                                       \
        gates_sum(to_, pre + turn_ * LANES, p->gates - turn_, input_mask(k, b_, turn_) + i, mask_stride, turn_, part); \
    } while (0)
        FOR_GATE_PRODUCTS(k, M, p->gates, p->Wg, dslots, k->i0, k->i1, ROW);
#undef ROW
        return;
    }
    matrix dx = rows_given(k->dx_rows);
    dx.column = k->i0;
    gemm_packed(M, N, p->GH, dslots, p->lds, p->Wt + k->i0 * p->GH, p->GH, 0, &dx, p->zeros);
}

/* A row of inputs' gradients is added to its word's, under a mask, and the inputs under the mask take its place: both
 * at once, since apart a row is gone through twice (backward with ids and dropout, 8 units, takes 4 % longer). */
INLINE void row_exchange(REAL *RESTRICT to, REAL *RESTRICT own, const REAL *RESTRICT x, const REAL *RESTRICT mask,
                         int64_t n) {
    int64_t i = 0;
    for (; i + WIDE_LANES <= n; i += WIDE_LANES) {
        const wreal m = wload(mask + i);
        wstore(to + i, wfma(wload(own + i), m, wload(to + i)));
        wstore(own + i, wload(x + i) * m);
    }
    for (; i + LANES <= n; i += LANES) {
        const vreal m = vload(mask + i);
        vstore(to + i, vfma(vload(own + i), m, vload(to + i)));
        vstore(own + i, vload(x + i) * m);
    }
    for (; i < n; i++) {
        to[i] += own[i] * mask[i];
        own[i] = x[i] * mask[i];
    }
}

/* Whether that is done: with token ids, of which the table's gradient consists, and a mask that the gates share. */
INLINE int exchanged(const layer_plan *p) { return p->gathered && p->call->ids && p->x_groups == 1; }

/* After the product for dx: x_block, its rows, becomes what dW's product needs. */
static void inputs_exchange(const layer_task *k, int64_t s0, int64_t steps) {
    const layer_plan *p = k->plan;
    const int64_t n = k->n, I = p->I, N = k->i1 - k->i0, ldx = p->ldx;
    const REAL *x = p->call->x, *const masks = input_mask(k, 0, 0) + k->i0;
    REAL *own = k->x_block + k->i0, *const table = k->dtable + k->i0;
    REAL *const *inputs = k->x_rows + steps * n; /* located from the last to the first */
    for (int64_t s = s0; s < s0 + steps; s++) {
        const REAL *mask = masks;
        for (int64_t b = 0; b < n; b++, own += ldx, mask += I) {
            const REAL *row = *--inputs; /* where that is in x, the gradient is in the table's */
            row_exchange(table + (row - x), own, row + k->i0, mask, N);
        }
    }
}

/* dx under masks, after the product, where there is something left to do: a mask that the gates share is applied, or
 * with token ids, under masks of each gate, rows are added to their words' gradients. */
static void dinputs_finish(const layer_task *k, int64_t s0, int64_t steps) {
    const layer_plan *p = k->plan;
    const int64_t I = p->I, N = k->i1 - k->i0;
    const REAL *x = p->call->x;
    /* inputs are located from the last to the first, as in inputs_exchange */
    REAL **rows = k->dx_rows, **inputs = k->x_rows + steps * k->n, *const table = k->dtable + k->i0;
    for (int64_t s = s0; s < s0 + steps; s++) {
        const REAL *mask = input_mask(k, 0, 0) + k->i0;
        for (int64_t b = 0; b < k->n; b++, mask += I) {
            REAL *dx = *rows++ + k->i0;
            inputs--;
            if (p->call->ids)
                row_add(table + (*inputs - x), dx, N);
            else
                row_multiply(dx, dx, mask, N);
        }
    }
}

/* By word: what some steps add to the words' gradients, from which dx and dW come in the end. */
static void words_accumulate(const layer_task *k, int64_t s0, int64_t steps, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, units = k->u1 - k->u0;
    dslots += steps * k->n * p->lds;
    for (int64_t s = s0 + steps - 1; s >= s0; s--)
        for (int64_t b = k->n - 1; b >= 0; b--) {
            dslots -= p->lds;
            REAL *to = k->dwords + word_of(k, b, s) * p->GH;
            if (units == H)
                row_add(to, dslots, p->GH);
            else
                for (int g = 0; g < p->gates; g++) row_add(to + g * H + k->u0, dslots + g * H + k->u0, units);
        }
}

/* C[:, owned units of `gates` gates from `column` on] = or += A^T dslots[those of the slots from `slot` on]; A is
 * (rows, M), of steps up to `end`. The last row is added first, as the sweep goes: then it does not matter how many
 * steps come at a time. */
static void weights_accumulate(const layer_task *k, int64_t end, int64_t M, int64_t rows, matrix A, const REAL *dslots,
                               int slot, int gates, REAL *C, int column) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, GH = p->GH, ldb = -p->lds;
    const REAL *zeros = end == p->T ? p->zeros : NULL, *B = dslots + (rows - 1) * p->lds + slot * H + k->u0;
    const int64_t runs = k->members == 1 ? 1 : gates, N = k->members == 1 ? gates * H : k->u1 - k->u0;
    C += column * H + k->u0;
    if (!A.rows) A.first += (rows - 1) * A.stride, A.stride = -A.stride; /* x_rows are so already */
    if (worth_packing(M) && rows > 0) /* without rows there is nothing to begin from zeros */
        gemm_transposed_packing(M, N, rows, A, B, ldb, C, GH, runs, H, zeros, k->packing);
    else
        for (int64_t r = 0; r < runs; r++) gemm_transposed(M, N, rows, A, B + r * H, ldb, C + r * H, GH, zeros);
}

/* What a block adds to dW; dinputs_multiply has located its inputs. */
static void dweights_accumulate(const layer_task *k, int64_t s0, int64_t steps, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t M = steps * k->n, end = s0 + steps;
    matrix x = rows_given(k->x_rows);
    if (p->gathered) {
        if (!exchanged(p)) inputs_gather(k, s0, steps);
        meet(k);
        x = rows_apart(k->x_block, p->ldx);
    }
    if (p->x_groups > 1) {
        for (int g = 0; g < p->gates; g++, x.first += p->x_group_reals)
            weights_accumulate(k, end, p->I, M, x, dslots, g, 1, k->dW, p->tasks > 1 ? g : w_gate(p, g));
    } else if (p->u_slot && p->tasks == 1) {
        weights_accumulate(k, end, p->I, M, x, dslots, 0, 1, k->dW, 2);
        weights_accumulate(k, end, p->I, M, x, dslots, 1, 2, k->dW, 0);
    } else {
        weights_accumulate(k, end, p->I, M, x, dslots, 0, p->gates, k->dW, 0);
    }
}

/* All that a block gives for inputs and W: dx, or the table's gradient, and dW. */
static void inputs_back(const layer_task *k, int64_t s0, int64_t steps, const REAL *dslots) {
    const layer_plan *p = k->plan;
    if (p->by_word) {
        words_accumulate(k, s0, steps, dslots);
        return;
    }
    dinputs_multiply(k, s0, steps, dslots);
    if (exchanged(p))
        inputs_exchange(k, s0, steps);
    else if (p->call->x_masks && (p->x_groups == 1 || p->call->ids))
        dinputs_finish(k, s0, steps);
    dweights_accumulate(k, s0, steps, dslots);
}

/* What a block adds to dU, from the states before each step. */
static void dstates_accumulate(const layer_task *k, int64_t s0, int64_t steps, const REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, skipped = starts_from_zero(p, s0) ? 1 : 0, M = (steps - skipped) * k->n;
    const int slot = p->u_slot ? 1 : 0;
    if (p->u_slot && !p->call->reset_after) /* U's candidate part saw q, slot 3, and its gradient is slot 0 */
        weights_accumulate(k, s0 + steps, H, steps * k->n, rows_apart(k->slots + s0 * k->n * p->S + 3 * H, p->S),
                           dslots, 0, 1, k->dU, 2);
    const REAL *h = k->h + (s0 + skipped) * k->n * H;
    dslots += skipped * k->n * p->lds;
    if (!p->h_masked) {
        weights_accumulate(k, s0 + steps, H, M, rows_apart(h, H), dslots, slot, p->u_gates, k->dU, 0);
        return;
    }
    if (in_twos(H)) {
        masked_weights(k, steps - skipped, h, dslots + slot * H, s0 + steps == p->T);
        return;
    }
    states_mask(k, steps - skipped, h, k->h_block);
    meet(k);
    for (int g = 0; g < p->u_gates; g++)
        weights_accumulate(k, s0 + steps, H, M, rows_apart(k->h_block + g * M * H, H), dslots, slot + g, 1, k->dU, g);
}

/* The sums over a block's rows of `vectors` vectors of the slots from s on. */
INLINE void slots_sum(const layer_task *k, const int vectors, int64_t M, const REAL *dslots, int64_t s, int64_t end) {
    vreal sum[4];
    UNROLL
    for (int v = 0; v < vectors; v++) sum[v] = vload_n(k->db + s + v * LANES, (int)smaller(LANES, end - s - v * LANES));
    for (int64_t m = M - 1; m >= 0; m--) {
        UNROLL
        for (int v = 0; v < vectors; v++) /* slots_block is readable beyond its end */
            sum[v] = sum[v] + vload(dslots + m * k->plan->lds + s + v * LANES);
    }
    UNROLL
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

/* -- gradients of outputs, and masks ---------------------------------------------------------------------------------
 */

/* Where the gradient of the first row's outputs of step s is, or NULL where there is none. */
INLINE const REAL *dy_begin(const layer_task *k, int64_t s) {
    const frnn_call *call = k->plan->call;
    if (!call->dy || (!call->sequences && s < call->T - 1)) return NULL;
    return (const REAL *)call->dy + output_row(k, 0, s);
}

/* Has fetched what a step back reads from afar for units u of a row that comes a little later, maybe of the step
 * before; h, c and dy may be NULL. Processors do not look ahead for it by themselves where a row's gates are far apart
 * (Zen 5: backward with 64 to 256 units 2 to 4 % shorter, with 32 no more). */
enum { FETCHED_ROWS = 2, FETCHED_SLOTS = 1024 / sizeof(REAL) };
INLINE void rows_fetch(const layer_task *k, const REAL *slots, const REAL *h, const REAL *c, const REAL *dy, int64_t b,
                       int64_t u) {
    const layer_plan *p = k->plan;
    if (NARROW || p->S < FETCHED_SLOTS) return;
    const int64_t next = b + FETCHED_ROWS, row = next < k->n ? next : next - 2 * k->n;
    for (int g = 0; g < 4; g++) __builtin_prefetch(slots + row * p->S + g * p->H + u);
    if (h) __builtin_prefetch(h + row * p->H + u);
    if (c) __builtin_prefetch(c + row * p->H + u);
    if (dy && next < k->n) __builtin_prefetch(dy + next * outputs_apart(p) + u);
}

/* With a mask, before step s, whose gradients of outputs begin at dy. At a masked row they are passed back, since its
 * outputs repeat those before, or lost where such outputs are zero; and the gradients of the slots are zero. The valid
 * row before masked ones takes what they passed back. */
static void masked_back(const layer_task *k, int64_t s, const REAL *dy, REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, T = p->T, N = k->u1 - k->u0, passed = !p->call->zero_masked, y_apart = outputs_apart(p);
    const int all = N == H ? 4 : 1; /* gates that lie side by side */
    const uint8_t *mask = p->call->mask + k->b0 * T + time_of(p, s);
    const int64_t later = s + 1 == T ? 0 : time_of(p, s + 1) - time_of(p, s);
    for (int64_t b = 0; b < k->n; b++, mask += T) {
        REAL *carry = k->dy_carry + b * H + k->u0;
        if (!*mask) {
            if (dy && passed) row_add(carry, dy + b * y_apart + k->u0, N);
            for (int g = 0; g < 4; g += all) row_zero(dslots + b * p->lds + g * H + k->u0, all * N);
        } else if (passed && !mask[later]) { /* at the last step there is no later one, and this one is valid */
            row_add(k->dh + b * H + k->u0, carry, N);
            row_zero(carry, N);
        }
    }
}

/* -- sums over tasks and words --------------------------------------------------------------------------------------
 */

/* Some rows of the tasks' sums, added up in the order of the tasks; the first `turn` columns become the last. */
static void partials_reduce(const layer_plan *p, const REAL *from, int64_t width, int64_t turn, REAL *to, int64_t first,
                            int64_t last) {
    const int64_t run = turn ? width : (last - first) * width;
    for (int64_t at = first * width; at < last * width; at += run) {
        row_copy(to + at + run - turn, from + at, turn);
        row_copy(to + at, from + at + turn, run - turn);
        for (int64_t task = 1; task < p->tasks; task++) {
            const REAL *part = from + task * p->per_task + at;
            row_add(to + at + run - turn, part, turn);
            row_add(to + at, part + turn, run - turn);
        }
    }
}

/* For some words: the sum of the tasks' dwords, in the first task's place, and dx, the table's gradient. */
static void words_reduce(void *plan, int64_t index) {
    const layer_plan *p = plan;
    const int64_t v0 = index * WORDS_PER_TASK, M = smaller(WORDS_PER_TASK, p->call->V - v0), GH = p->GH;
    REAL *sum = p->dwords + v0 * GH;
    for (int64_t task = 1; task < p->tasks; task++) row_add(sum, sum + task * p->per_task, M * GH);
    const matrix dx = rows_apart((REAL *)p->call->dx + v0 * p->I, p->I);
    gemm_packed(M, p->I, GH, sum, GH, p->Wt, GH, 0, &dx, p->zeros);
}

/* Columns [n0, n1) of x^T dwords, to C. Words that did not come have gradients of zero, and must not matter even where
 * their rows hold NaN or infinity: if anything else than numbers comes out, it is done again without them. */
static void words_product(const layer_plan *p, int64_t n0, int64_t n1, REAL *C) {
    const int64_t I = p->I, GH = p->GH, V = p->call->V, N = n1 - n0;
    const REAL *x = p->call->x, *dwords = p->dwords + n0;
    gemm_transposed(I, N, V, rows_apart(x, I), dwords, GH, C, GH, p->zeros);
    vreal lost = vset(0); /* x * 0 is 0, but for NaN and infinity */
    for (int64_t i = 0; i < I; i++)
        for (int64_t n = 0; n < N; n += LANES) lost += vload_n(C + i * GH + n, (int)smaller(LANES, N - n)) * vset(0);
    int finite = 1;
    for (int lane = 0; lane < LANES; lane++) finite &= lost[lane] == 0;
    if (finite) return;
    gemm_transposed(I, N, 0, rows_apart(x, I), dwords, GH, C, GH, p->zeros);
    for (int64_t v = 0; v < V; v++, x += I, dwords += GH) {
        int64_t n = 0;
        while (n < N && dwords[n] == 0) n++;
        if (n < N) gemm_transposed(I, N, 1, rows_apart(x, I), dwords, GH, C, GH, NULL);
    }
}

/* For some columns: dW from the summed dwords, column groups rotated to Keras' order. */
static void words_weights(void *plan, int64_t index) {
    const layer_plan *p = plan;
    const int64_t columns = PANELS_PER_TASK * 2 * WIDE_LANES, GH = p->GH, turn = p->u_slot;
    const int64_t n0 = index * columns, n1 = smaller(n0 + columns, GH), cut = larger(n0, smaller(n1, turn));
    REAL *dW = p->call->dW;
    if (cut > n0) words_product(p, n0, cut, dW + GH - turn + n0);
    if (n1 > cut) words_product(p, cut, n1, dW + cut - turn);
}

static void words_gradients(layer_plan *p) {
    frnn_parallel(p->threads, word_tasks(p), words_reduce, p);
    const int64_t columns = PANELS_PER_TASK * 2 * WIDE_LANES;
    frnn_parallel(p->threads, (p->GH + columns - 1) / columns, words_weights, p);
}

/* Some rows of the sums over tasks, of which there are several: one alone has written to the call's arrays. */
static void weight_gradients(void *plan, int64_t piece) {
    const layer_plan *p = plan;
    const int64_t I = p->I, H = p->H, V = p->call->V, pieces = weight_pieces(p);
    if (!p->by_word)
        partials_reduce(p, p->dW, p->GH, p->u_slot, p->call->dW, I * piece / pieces, I * (piece + 1) / pieces);
    if (!p->by_word && p->call->ids)
        partials_reduce(p, p->dtable, I, 0, p->call->dx, V * piece / pieces, V * (piece + 1) / pieces);
    partials_reduce(p, p->dU, p->GH, 0, p->call->dU, H * piece / pieces, H * (piece + 1) / pieces);
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
