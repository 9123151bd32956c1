/* GRU, forward and backward, for the rows of one task, with the reset gate after the product with U or before it. The
 * equations are derived in fastrnn/backends/reference.py; the order of the slots, h z r q, in plan.h. */
#ifndef FRNN_GRU_H
#define FRNN_GRU_H

#include "backward.h"
#include "forward.h"
#include "sweep.h"
#include "vmath.h"

/* Reset after, the gates: pre holds the scaled sums of z and r, and q, and then z and, in the place of q, the
 * candidate before its activation; source is W's part of that. Slots, unless NULL, get z, r, and q as it is. */
INLINE void gru_unit_gates(REAL *pre, const REAL *source, REAL *slots, int64_t H, const int part) {
    vreal gates[2];
    vgates_two_scaled(pre, gates);
    const vreal z = gates[0], r = gates[1], q = vload(pre + 2 * LANES);
    const vreal candidate = vfma(r, q, vload_n(source, part));
    if (slots) {
        vstore_n(slots + H, z, part);
        vstore_n(slots + 2 * H, r, part);
        vstore_n(slots + 3 * H, q, part);
    }
    vstore(pre, z);
    vstore(pre + 2 * LANES, candidate);
}

/* Then the state, and the activated candidate into its slot; y is NULL, or gets the state too. At a masked row the
 * state is as before. */
INLINE vreal gru_unit_output(const REAL *pre, REAL *slots, const REAL *h_before, REAL *h, REAL *y, const int masked,
                             const int part) {
    const vreal candidate = vtanh(vload(pre + 2 * LANES)), before = vload_n(h_before, part);
    vreal out = vfma(vload(pre), before - candidate, candidate);
    if (masked) out = before;
    if (slots) vstore_n(slots, candidate, part);
    vstore_n(h, out, part);
    if (y) vstore_n(y, out, part);
    return out;
}

/* Both for two rows of a tile, `masked` as two_masked gives it. */
INLINE void gru_two_gates(REAL *pre, const REAL *source, const REAL *next_source, REAL *slots, int64_t S, int64_t H,
                          const int part) {
    const wreal z_r = wsigmoid_scaled(wload(pre)), z_r_next = wsigmoid_scaled(wload(pre + 4 * LANES));
    const wreal z = wlowers(z_r, z_r_next), r = wuppers(z_r, z_r_next),
                q = wload_two(pre + 2 * LANES, 4 * LANES, LANES);
    if (slots) wstore_twos(slots + 2 * H, S, H, r, q, part);
    wstore(pre, z);
    wstore(pre + 2 * LANES, wfma(r, q, wjoin(vload_n(source, part), vload_n(next_source, part))));
}
INLINE void gru_two_outputs(const REAL *pre, REAL *slots, int64_t S, const REAL *h_before, REAL *h, int64_t H,
                            int masked, const int part) {
    const wreal candidate = wtanh(wload(pre + 2 * LANES)), z = wload(pre);
    wreal out = wfma(z, wload_two(h_before, H, part) - candidate, candidate);
    /* out of the way of those that are not: 2 to 3 % of forward without a mask */
    if (__builtin_expect(masked, 0)) out = wkeep(masked, wload_two(h_before, H, part), out);
    if (slots) wstore_twos(slots, S, H, candidate, z, part);
    wstore_two(h, H, out, part);
}

/* W's part of the candidate of a tile's row: with U's, or where its slots begin. */
INLINE const REAL *candidate_source(const forward_steps *w, const layer_plan *p, const REAL *pre,
                                    const REAL *const *from, int64_t r) {
    return w->w_too ? pre + (r * 4 + p->u_gates) * LANES : from[r] - p->u_slot;
}

/* Reset after: as lstm_tile. */
INLINE void gru_tile(const layer_task *k, const forward_steps *w, int64_t s, int64_t b0, int64_t rows, int64_t u,
                     REAL *pre, const REAL *const *from, REAL *slots, const REAL *h_before, REAL *h, const int part) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, S = p->S, twos = rows_in_twos(rows);
    const int training = p->call->reserve != NULL, masks = w->mask != NULL;
#define SLOTS(r) (training ? slots + (r) * S : NULL)
#define MASKED(r) (masks ? two_masked(k, w, b0 + (r)) : 0)
#define SOURCE(r) candidate_source(w, p, pre, from, r)
    for (int64_t r = 0; r < twos; r += 2)
        gru_two_gates(tile_row(pre, r), SOURCE(r), SOURCE(r + 1), SLOTS(r), S, H, part);
    for (int64_t r = twos; r < rows; r++) gru_unit_gates(tile_row(pre, r), SOURCE(r), SLOTS(r), H, part);
    /* U sees no copies of these: narrow layers' tiles mask a GRU's states */
    for (int64_t r = 0; r < twos; r += 2)
        gru_two_outputs(tile_row(pre, r), SLOTS(r), S, h_before + r * H, h + r * H, H, MASKED(r), part);
    for (int64_t r = twos; r < rows; r++) {
        const vreal out = gru_unit_output(tile_row(pre, r), SLOTS(r), h_before + r * H, h + r * H,
                                          output_now(w, b0 + r, u), row_masked(k, w, b0 + r), part);
        state_ready(k, w, s, b0 + r, u, out, part);
    }
#undef SLOTS
#undef MASKED
#undef SOURCE
}

/* Reset before, first half: the gates, and q = r * h under the candidate's recurrent dropout mask, which U then sees;
 * W's part of the candidate comes into its slot, where it may be already. */
INLINE void gru_unit_reset(const REAL *pre, const REAL *source, REAL *slots, int64_t H, const REAL *h_before,
                           const REAL *h_mask, const int part) {
    vreal gates[2];
    vgates_two_scaled(pre, gates);
    vreal q = gates[1] * vload_n(h_before, part);
    if (h_mask) q = q * vload_n(h_mask, part);
    vstore_n(slots, vload_n(source, part), part);
    vstore_n(slots + H, gates[0], part);
    vstore_n(slots + 2 * H, gates[1], part);
    vstore_n(slots + 3 * H, q, part);
}

/* Reset before, second half: slot h is now complete. */
INLINE vreal gru_unit_candidate(REAL *slots, int64_t H, const REAL *h_before, REAL *h, REAL *y, const int part) {
    const vreal candidate = vtanh(vload_n(slots, part));
    const vreal out = vfma(vload_n(slots + H, part), vload_n(h_before, part) - candidate, candidate);
    vstore_n(slots, candidate, part);
    vstore_n(h, out, part);
    if (y) vstore_n(y, out, part);
    return out;
}

/* The mask of the candidate's recurrent product for row b from unit u on, or NULL. */
INLINE const REAL *candidate_mask(const layer_task *k, int64_t b, int64_t u) {
    const layer_plan *p = k->plan;
    return p->h_masked ? state_mask(k, b, 2) + u : NULL;
}

static void gru_step(const layer_task *k, forward_steps *w, int64_t s, REAL *slots, const REAL *h_before, REAL *h) {
    const layer_plan *p = k->plan;
    const int training = p->call->reserve != NULL;
    const int64_t H = p->H, S = training ? p->S : p->lds, time = time_of(p, s);
    if (p->call->reset_after) {
#define TILE(b0, rows, u, part, pre, from)                                                                             \
    gru_tile(k, w, s, b0, rows, u, pre, from, slots + (b0) * S + u, h_before + (b0) * H + u, h + (b0) * H + u, part)
        FOR_TILES(k, w, s, h_before, TILE);
#undef TILE
        return;
    }
#define TILE(b0, rows, u, part, pre, from)                                                                             \
    for (int64_t r = 0; r < rows; r++)                                                                                 \
    gru_unit_reset(tile_row(pre, r), candidate_source(w, p, pre, from, r), slots + (b0 + r) * S + u, H,                \
                   h_before + (b0 + r) * H + u, candidate_mask(k, b0 + r, u), part)
    FOR_TILES(k, w, s, h_before, TILE);
#undef TILE
    meet(k);
    /* q lies in slot 3 of each row; its dropout mask is in it already */
    const matrix to = rows_apart(slots + k->u0, S);
    gemm_packed(k->n, k->u1 - k->u0, H, slots + 3 * H, S, p->Uc + k->u0 * H, H, 0, &to, NULL);
#define UNIT(row, u, part)                                                                                             \
    state_ready(k, w, s, row.b, u,                                                                                     \
                gru_unit_candidate(slots + row.b * S + u, H, h_before + row.h + u, h + row.h + u,                      \
                                   output_now(w, row.b, u), part),                                                     \
                part)
    FOR_UNITS(k, time, UNIT);
#undef UNIT
    /* at masked rows the states go on, and so does what U sees of them */
    for (int64_t b = 0; p->call->mask && b < k->n; b++) {
        if (!row_masked(k, w, b)) continue;
        row_copy(h + b * H + k->u0, h_before + b * H + k->u0, k->u1 - k->u0);
        for (int64_t u = k->u0; u < k->u1; u += LANES) {
            const int part = (int)smaller(LANES, k->u1 - u);
            state_ready(k, w, s, b, u, vload_n(h + b * H + u, part), part);
        }
    }
}

static void gru_forward_task(layer_plan *p, int64_t index, int64_t member, int64_t members) {
    const frnn_call *call = p->call;
    const layer_task k = task_make(p, index, member, members);
    const int64_t training = call->reserve != NULL;
    REAL *h = training ? k.h : k.h_now;
    state_load(&k, h, call->h0);
    states_begin(&k, h);
    meet(&k);
    forward_steps w = steps_begin(&k);
    for (int64_t s0 = 0; s0 < p->T; s0 += p->block) {
        const int64_t steps = smaller(p->block, p->T - s0);
        REAL *begun = k.slots_block, *first = h;
        inputs_multiply(&k, &w, s0, steps);
        for (int64_t s = s0; s < s0 + steps; s++, begun += k.n * p->lds) {
            REAL *after = states_after(&k, s, h);
            step_begin(&k, &w, s);
            gru_step(&k, &w, s, training ? k.slots + s * k.n * p->S : begun, h, after);
            step_end(&k, &w);
            h = after;
            outputs_after(&k, s, s0, s0 + steps, first, h);
            meet(&k);
        }
        h = states_carried(&k, h);
    }
}

/* dh, with dy, which may be NULL, the gradient of h, becomes that part of h_before's which does not come through U. */
INLINE void gru_unit_back(const REAL *slots, int64_t H, const REAL *h_before, const REAL *dy, REAL *dh, REAL *dslots,
                          const int reset_after, const int part) {
    const vreal candidate = vload_n(slots, part), z = vload_n(slots + H, part), one = vset(1),
                dh_all = dy ? vload_n(dh, part) + vload_n(dy, part) : vload_n(dh, part);
    const vreal dp = dh_all * (one - z) * (one - candidate * candidate);
    vstore_n(dslots, dp, part);
    vstore_n(dslots + H, dh_all * (vload_n(h_before, part) - candidate) * z * (one - z), part);
    if (reset_after) {
        const vreal r = vload_n(slots + 2 * H, part);
        vstore_n(dslots + 2 * H, dp * vload_n(slots + 3 * H, part) * r * (one - r), part);
        vstore_n(dslots + 3 * H, dp * r, part);
    }
    vstore_n(dh, dh_all * z, part);
}

/* reset before: dq, the gradient of r * h (masked), is known once dp has gone through U */
INLINE void gru_unit_reset_back(const REAL *slots, int64_t H, const REAL *h_before, const REAL *h_mask, const REAL *dq,
                                REAL *dh, REAL *dslots, const int part) {
    const vreal r = vload_n(slots + 2 * H, part), one = vset(1);
    vreal drh = vload_n(dq, part);
    if (h_mask) drh = drh * vload_n(h_mask, part);
    vstore_n(dslots + 2 * H, drh * vload_n(h_before, part) * r * (one - r), part);
    vstore_n(dslots + 3 * H, vset(0), part);
    vstore_n(dh, vfma(drh, r, vload_n(dh, part)), part);
}

static void gru_step_back(const layer_task *k, int64_t s, REAL *dslots) {
    const layer_plan *p = k->plan;
    const int64_t H = p->H, S = p->S, lds = p->lds, time = time_of(p, s);
    const int reset_after = p->call->reset_after;
    const REAL *slots = k->slots + s * k->n * S, *h_before = k->h + s * k->n * H;
    const REAL *dy = dy_begin(k, s);
    if (p->call->mask) masked_back(k, s, dy, dslots);
#define UNIT(row, u, part)                                                                                             \
    do {                                                                                                               \
        rows_fetch(k, slots, h_before, NULL, dy, row.b, u);                                                            \
        gru_unit_back(slots + row.slots + u, H, h_before + row.h + u, dy ? dy + row.y + u : NULL, k->dh + row.h + u,   \
                      dslots + row.dslots + u, reset_after, part);                                                     \
    } while (0)
    FOR_UNITS(k, time, UNIT);
#undef UNIT
    if (!reset_after) {
        REAL *dq = k->row;
        const matrix to = rows_apart(dq + k->u0, H);
        meet(k);
        gemm_packed(k->n, k->u1 - k->u0, H, dslots, lds, p->Ut + k->u0 * p->GH, p->GH, 2 * H, &to, p->zeros);
#define UNIT(row, u, part)                                                                                             \
    gru_unit_reset_back(slots + row.slots + u, H, h_before + row.h + u, candidate_mask(k, row.b, u), dq + row.h + u,   \
                        k->dh + row.h + u, dslots + row.dslots + u, part)
        FOR_UNITS(k, time, UNIT);
#undef UNIT
    }
    meet(k);
    dstates_multiply(k, s, dslots);
}

static void gru_backward_task(layer_plan *p, int64_t index, int64_t member, int64_t members) {
    sweep_back(p, index, member, members, gru_step_back);
}

#endif
