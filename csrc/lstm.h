/* LSTM, forward and backward, for the rows of one task. The equations are derived in fastrnn/backends/reference.py. */
#ifndef FRNN_LSTM_H
#define FRNN_LSTM_H

#include "layer.h"
#include "vmath.h"

/* One row: slots hold i, f, g, o before their activations and, afterwards, the activated gates. In place is allowed,
 * c over c_before and h over anything. `part` is LANES, or how many units are left. */
INLINE void lstm_unit(REAL *slots, int64_t H, const REAL *c_before, REAL *c_after, REAL *h, const int part) {
    const vreal i = vsigmoid(vload_n(slots, part)), f = vsigmoid(vload_n(slots + H, part));
    const vreal g = vtanh(vload_n(slots + 2 * H, part)), o = vsigmoid(vload_n(slots + 3 * H, part));
    const vreal c = vfma(f, vload_n(c_before, part), i * g);
    vstore_n(slots, i, part);
    vstore_n(slots + H, f, part);
    vstore_n(slots + 2 * H, g, part);
    vstore_n(slots + 3 * H, o, part);
    vstore_n(c_after, c, part);
    vstore_n(h, o * vtanh(c), part);
}

static void lstm_step(const layer_task *k, int64_t s, REAL *slots, const REAL *h_before, const REAL *c_before, REAL *h,
                      REAL *c) {
    const int64_t H = k->plan->H, S = k->plan->S;
#define UNIT(b, u, part) lstm_unit(slots + b * S + u, H, c_before + b * H + u, c + b * H + u, h + b * H + u, part)
    FOR_UNITS(k, time_of(k->plan, s), UNIT);
#undef UNIT
    state_carry(k, s, h_before, h);
    state_carry(k, s, c_before, c);
}

/* Inference has one state, which it keeps in hT and cT; training has the reserve's, one before each step. */
static void lstm_forward_task(void *plan, int64_t index) {
    const layer_plan *p = plan;
    const frnn_call *call = p->call;
    const layer_task k = task_make(p, index);
    const int64_t nH = k.n * p->H, training = call->reserve != NULL;
    REAL *hT = (REAL *)call->hT + k.b0 * p->H, *cT = (REAL *)call->cT + k.b0 * p->H;
    state_load(&k, training ? k.h : hT, call->h0);
    state_load(&k, training ? k.c : cT, call->c0);
    for (int64_t s0 = 0; s0 < p->T; s0 += p->block) {
        const int64_t steps = smaller(p->block, p->T - s0);
        REAL *slots = training ? k.slots + s0 * k.n * p->S : k.slots_block;
        inputs_multiply(&k, s0, steps, slots);
        for (int64_t s = s0; s < s0 + steps; s++, slots += k.n * p->S) {
            const REAL *h_before = training ? k.h + s * nH : hT, *c_before = training ? k.c + s * nH : cT;
            REAL *h = training && s < p->T - 1 ? k.h + (s + 1) * nH : hT, *c = training ? k.c + (s + 1) * nH : cT;
            states_multiply(&k, 0, p->u_groups, s, s0, h_before, slots);
            lstm_step(&k, s, slots, h_before, c_before, h, c);
            output_store(&k, s, h);
        }
    }
    if (training) state_store(&k, call->cT, k.c + p->T * nH);
}

/* One row of one step back: dh is the whole gradient of h, dc that of c from the step after; dc becomes that of
 * c_before, and dh zero, since all of h_before's comes through U. */
INLINE void lstm_unit_back(const REAL *slots, int64_t H, const REAL *c_before, const REAL *c, REAL *dh, REAL *dc,
                           REAL *dslots, const int part) {
    const vreal i = vload_n(slots, part), f = vload_n(slots + H, part), g = vload_n(slots + 2 * H, part),
                o = vload_n(slots + 3 * H, part);
    const vreal one = vset(1), tanh_c = vtanh(vload_n(c, part)), dh_all = vload_n(dh, part);
    const vreal dc_all = vfma(dh_all * o, one - tanh_c * tanh_c, vload_n(dc, part));
    vstore_n(dslots, dc_all * g * i * (one - i), part);
    vstore_n(dslots + H, dc_all * vload_n(c_before, part) * f * (one - f), part);
    vstore_n(dslots + 2 * H, dc_all * i * (one - g * g), part);
    vstore_n(dslots + 3 * H, dh_all * tanh_c * o * (one - o), part);
    vstore_n(dc, dc_all * f, part);
    vstore_n(dh, vset(0), part);
}

static void lstm_step_back(const layer_task *k, int64_t s, REAL *dslots) {
    const int64_t H = k->plan->H, S = k->plan->S;
    const REAL *slots = k->slots + s * k->n * S, *c_before = k->c + s * k->n * H, *c = c_before + k->n * H;
    dy_collect(k, s);
    dslots_mask(k, s, dslots);
#define UNIT(b, u, part)                                                                                               \
    lstm_unit_back(slots + b * S + u, H, c_before + b * H + u, c + b * H + u, k->dh + b * H + u, k->dc + b * H + u,    \
                   dslots + b * S + u, part)
    FOR_UNITS(k, time_of(k->plan, s), UNIT);
#undef UNIT
}

static void lstm_backward_task(void *plan, int64_t index) {
    const layer_plan *p = plan;
    const layer_task k = task_make(p, index);
    const int64_t blocks = (p->T + p->block - 1) / p->block;
    backward_begin(&k);
    for (int64_t s0 = (blocks - 1) * p->block; s0 >= 0; s0 -= p->block) {
        const int64_t steps = smaller(p->block, p->T - s0);
        for (int64_t s = s0 + steps - 1; s >= s0; s--) {
            REAL *dslots = k.slots_block + (s - s0) * k.n * p->S;
            lstm_step_back(&k, s, dslots);
            dstates_multiply(&k, 0, 4, dslots);
        }
        dinputs_multiply(&k, s0, steps, k.slots_block);
        dstates_accumulate(&k, steps, 0, 4, k.h + s0 * k.n * p->H, k.slots_block);
        dbias_accumulate(&k, steps, k.slots_block);
    }
    state_store(&k, p->call->dh0, k.dh);
    state_store(&k, p->call->dc0, k.dc);
}

#endif
