/* The backward sweep over a task's steps, block by block from the last to the first, and the products that follow it.
 *
 * A task has one member, or a team whose members sweep together, each for the columns it owns, and meet at every step.
 * Or one member sweeps alone and the others follow with the products over the steps it has been through: where a step
 * is short next to a meeting, but weights are large. The columns are dealt out in shares for that, of which each is
 * taken on as far as the sweep has come, by whoever is free; in the end by the one that swept, too.
 */
#ifndef FRNN_SWEEP_H
#define FRNN_SWEEP_H

#include "backward.h"

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
    if (p->by_word)
        words_clear(k);
    else if (p->call->ids)
        for (int64_t v = 0; v < p->call->V; v++) row_zero(k->dtable + v * p->I + k->i0, k->i1 - k->i0);
    for (int s = 0; s < 4; s++) row_zero(k->db + s * p->H + k->u0, k->u1 - k->u0);
}

/* All that steps [s0, s0 + steps) give beyond the gradients of states, for the owned columns. */
static void steps_back(const layer_task *k, int64_t s0, int64_t steps, const REAL *dslots) {
    inputs_back(k, s0, steps, dslots);
    dstates_accumulate(k, s0, steps, dslots);
    dbias_accumulate(k, steps, dslots);
}

/* The products of a block that begins at step s0: returns when all shares have come so far, for until then the sweep
 * does not go on to the next block. */
static void follow(layer_plan *p, int64_t s0) {
    for (int left = 1, spins = 0; left; frnn_pause(spins++)) {
        left = 0;
        for (int64_t share = 0; share < p->shares; share++) {
            sweep_progress *done = &p->done[share];
            const int64_t seen = atomic_load(&done->step);
            if (seen <= s0) continue;
            left = 1;
            if (seen == atomic_load(&p->swept->step) || atomic_exchange(&done->taken, 1)) continue;
            const int64_t end = atomic_load(&done->step); /* somebody may have had the share since it was seen */
            if (end > s0) {
                const int64_t s = atomic_load(&p->swept->step);
                const layer_task k = task_make(p, 0, share, p->shares);
                steps_back(&k, s, end - s, k.slots_block + (s - s0) * k.n * p->lds);
                atomic_store(&done->step, s);
            }
            atomic_store(&done->taken, 0);
            spins = 0;
        }
    }
}

INLINE void sweep_back(layer_plan *p, int64_t index, int64_t member, int64_t members,
                       void (*step_back)(const layer_task *, int64_t, REAL *)) {
    const int followed = p->shares > 0, sweeps = !followed || member == 0;
    const layer_task k = followed ? task_make(p, 0, 0, 1) : task_make(p, index, member, members);
    const int64_t blocks = (p->T + p->block - 1) / p->block;
    if (sweeps) backward_begin(&k);
    for (int64_t s0 = (blocks - 1) * p->block; s0 >= 0; s0 -= p->block) {
        const int64_t steps = smaller(p->block, p->T - s0);
        for (int64_t s = s0 + steps - 1; sweeps && s >= s0; s--) {
            step_back(&k, s, k.slots_block + (s - s0) * k.n * p->lds);
            if (followed && (s - s0) * k.n % FOLLOWED_ROWS < k.n) atomic_store(&p->swept->step, s);
        }
        if (followed) {
            follow(p, s0);
        } else {
            steps_back(&k, s0, steps, k.slots_block);
            meet(&k);
        }
    }
    if (!sweeps) return;
    state_store(&k, p->call->dh0, k.dh);
    state_store(&k, p->call->dc0, k.dc);
}

#endif
