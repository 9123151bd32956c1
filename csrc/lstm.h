/* LSTM, forward and backward, for the rows of one task. The equations are derived in fastrnn/backends/reference.py. */
#ifndef FRNN_LSTM_H
#define FRNN_LSTM_H

#include "backward.h"
#include "forward.h"
#include "sweep.h"
#include "vmath.h"

/* One row, up to c: pre holds the scaled sums of i, f, g, o, a vector each, and then, of those, o and c in the
 * place of g; slots, unless NULL, get the activated gates. At a masked row c is as before. `part` is LANES, or how many
 * units are left. c_after may be c_before. */
INLINE void lstm_unit_cell(REAL *pre, REAL *slots, int64_t H, const REAL *c_before, REAL *c_after, const int masked,
                           const int part) {
    vreal gates[4];
    vgates_scaled(pre, gates);
    const vreal i = gates[0], f = gates[1], g = gates[2], o = gates[3];
    const vreal before = vload_n(c_before, part), c = vfma(f, before, i * g);
    if (slots) {
        vstore_n(slots, i, part);
        vstore_n(slots + H, f, part);
        vstore_n(slots + 2 * H, g, part);
        vstore_n(slots + 3 * H, o, part);
    }
    vstore_n(c_after, masked ? before : c, part);
    vstore(pre + 2 * LANES, c);
    vstore(pre + 3 * LANES, o);
}

/* Then its output, which is its state, and is given; y is NULL, or gets it too. */
INLINE vreal lstm_unit_output(const REAL *pre, const REAL *h_before, REAL *h, REAL *y, const int masked,
                              const int part) {
    vreal out = vload(pre + 3 * LANES) * vtanh(vload(pre + 2 * LANES));
    if (masked) out = vload_n(h_before, part);
    vstore_n(h, out, part);
    if (y) vstore_n(y, out, part);
    return out;
}

/* Both for two rows of a tile, `masked` as two_masked gives it: the vectors of gates, two side by side, become such of
 * one gate in both rows. */
INLINE void lstm_two_cells(REAL *pre, REAL *slots, int64_t S, int64_t H, const REAL *c_before, REAL *c_after,
                           int masked, const int part) {
    const wreal i_f = wload(pre), g_o = wload(pre + 2 * LANES);
    const wreal i_f_next = wload(pre + 4 * LANES), g_o_next = wload(pre + 6 * LANES);
    const wreal i = wsigmoid_scaled(wlowers(i_f, i_f_next)), f = wsigmoid_scaled(wuppers(i_f, i_f_next));
    const wreal g = wtanh_scaled(wlowers(g_o, g_o_next)), o = wsigmoid_scaled(wuppers(g_o, g_o_next));
    const wreal before = wload_two(c_before, H, part), c = wfma(f, before, i * g);
    if (slots) {
        wstore_twos(slots, S, H, i, f, part);
        wstore_twos(slots + 2 * H, S, H, g, o, part);
    }
    wstore_two(c_after, H, masked ? wkeep(masked, before, c) : c, part);
    wstore(pre, c);
    wstore(pre + 2 * LANES, o);
}
INLINE wreal lstm_two_outputs(const REAL *pre, int64_t H, const REAL *h_before, REAL *h, int masked, const int part) {
    wreal out = wload(pre + 2 * LANES) * wtanh(wload(pre));
    if (masked) out = wkeep(masked, wload_two(h_before, H, part), out);
    wstore_two(h, H, out, part);
    return out;
}

/* The rows of a tile from b0 on, units from u on: all else is where those of the first row are. In two turns, since a
 * row's chain of operations is longer than what processors look ahead: shorter ones of several rows overlap. */
INLINE void lstm_tile(const layer_task *k, const forward_steps *w, int64_t s, int64_t b0, int64_t rows, int64_t u,
                      REAL *pre, REAL *slots, const REAL *h_before, const REAL *c_before, REAL *h, REAL *c,
                      const int part) {
    const int64_t H = k->plan->H, S = k->plan->S, twos = rows_in_twos(rows);
    const int training = k->plan->call->reserve != NULL, masks = w->mask != NULL;
#define SLOTS(r) (training ? slots + (r) * S : NULL)
#define MASKED(r) (masks ? two_masked(k, w, b0 + (r)) : 0)
    for (int64_t r = 0; r < twos; r += 2)
        lstm_two_cells(tile_row(pre, r), SLOTS(r), S, H, c_before + r * H, c + r * H, MASKED(r), part);
    for (int64_t r = twos; r < rows; r++)
        lstm_unit_cell(tile_row(pre, r), SLOTS(r), H, c_before + r * H, c + r * H, row_masked(k, w, b0 + r), part);
    for (int64_t r = 0; r < twos; r += 2) {
        const wreal two = lstm_two_outputs(tile_row(pre, r), H, h_before + r * H, h + r * H, MASKED(r), part);
        states_ready(k, w, s, b0 + r, u, two, part);
    }
    for (int64_t r = twos; r < rows; r++) {
        const vreal out = lstm_unit_output(tile_row(pre, r), h_before + r * H, h + r * H, output_now(w, b0 + r, u),
                                           row_masked(k, w, b0 + r), part);
        state_ready(k, w, s, b0 + r, u, out, part);
    }
#undef SLOTS
#undef MASKED
}

static void lstm_step(const layer_task *k, forward_steps *w, int64_t s, REAL *slots, const REAL *h_before,
                      const REAL *c_before, REAL *h, REAL *c) {
    const int64_t H = k->plan->H, S = k->plan->S;
#define TILE(b0, rows, u, part, pre, from)                                                                             \
    lstm_tile(k, w, s, b0, rows, u, pre, slots + (b0) * S + u, h_before + (b0) * H + u, c_before + (b0) * H + u,       \
              h + (b0) * H + u, c + (b0) * H + u, part)
    FOR_TILES(k, w, s, h_before, TILE);
#undef TILE
}

/* Training has the states of all steps in the reserve, inference one c. */
static void lstm_forward_task(layer_plan *p, int64_t index, int64_t member, int64_t members) {
    const frnn_call *call = p->call;
    const layer_task k = task_make(p, index, member, members);
    const int64_t nH = k.n * p->H, training = call->reserve != NULL;
    REAL *h = training ? k.h : k.h_now, *c = training ? k.c : k.c_now;
    state_load(&k, h, call->h0);
    state_load(&k, c, call->c0);
    states_begin(&k, h);
    meet(&k);
    forward_steps w = steps_begin(&k);
    for (int64_t s0 = 0; s0 < p->T; s0 += p->block) {
        const int64_t steps = smaller(p->block, p->T - s0);
        REAL *slots = k.slots + s0 * k.n * p->S, *first = h;
        inputs_multiply(&k, &w, s0, steps);
        for (int64_t s = s0; s < s0 + steps; s++, slots += k.n * p->S) {
            REAL *after = states_after(&k, s, h), *c_before = c;
            if (training) c += nH;
            step_begin(&k, &w, s);
            lstm_step(&k, &w, s, slots, h, c_before, after, c);
            step_end(&k, &w);
            h = after;
            outputs_after(&k, s, s0, s0 + steps, first, h);
            meet(&k);
        }
        h = states_carried(&k, h);
    }
    state_store(&k, call->cT, c);
}

/* One row of one step back: dh and dy, which may be NULL, are the gradient of h, dc that of c from the step after; dc
 * becomes that of c_before, and dh zero, since all of h_before's comes through U. h may be NULL; where it is given,
 * tanh c is h / o, which is cheaper, and as exact but where o is so small that nothing of it reaches c. */
INLINE void lstm_unit_back(const REAL *slots, int64_t H, const REAL *c_before, const REAL *c, const REAL *h,
                           const REAL *dy, REAL *dh, REAL *dc, REAL *dslots, const int part) {
    const vreal i = vload_n(slots, part), f = vload_n(slots + H, part), g = vload_n(slots + 2 * H, part),
                o = vload_n(slots + 3 * H, part);
    const vreal one = vset(1), tanh_c = h ? vload_n(h, part) / vmax(vset(REAL_SMALLEST), o) : vtanh(vload_n(c, part));
    const vreal dh_all = dy ? vload_n(dh, part) + vload_n(dy, part) : vload_n(dh, part);
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
    const REAL *h = s == k->plan->T - 1 ? NULL : k->h + (s + 1) * k->n * H; /* the last is not kept */
    const REAL *dy = dy_begin(k, s);
    if (k->plan->call->mask) masked_back(k, s, dy, dslots);
#define UNIT(row, u, part)                                                                                             \
    do {                                                                                                               \
        rows_fetch(k, slots, h, c_before, dy, row.b, u);                                                               \
        lstm_unit_back(slots + row.slots + u, H, c_before + row.h + u, c + row.h + u, h ? h + row.h + u : NULL,        \
                       dy ? dy + row.y + u : NULL, k->dh + row.h + u, k->dc + row.h + u, dslots + row.dslots + u,      \
                       part);                                                                                          \
    } while (0)
    FOR_UNITS(k, time_of(k->plan, s), UNIT);
#undef UNIT
    meet(k);
    dstates_multiply(k, s, dslots);
}

static void lstm_backward_task(layer_plan *p, int64_t index, int64_t member, int64_t members) {
    sweep_back(p, index, member, members, lstm_step_back);
}

#endif
