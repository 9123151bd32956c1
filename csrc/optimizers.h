/* The update rules of optimizers, one pass over flat arrays each: the formulas of fastrnn/training/optimizers.py.
 *
 * Each element goes through the same vector code wherever it lies, so results do not depend on how the arrays are cut
 * for the threads. Denormals are flushed: squares of gradients that have stopped coming fade into them.
 */
#ifndef FRNN_OPTIMIZERS_H
#define FRNN_OPTIMIZERS_H

#include "fastrnn.h"
#include "simd.h"
#include "threads.h"

#if !defined(VOP) && defined(__SSE2__)
#include <emmintrin.h>
#endif

/* Per task: some microseconds. Training steps of 8809 parameters take 0.96 to 0.98 of the time that they take where one
 * thread does all of them; with half as many per task, the same. */
enum { UPDATE_REALS = 2048 };

INLINE vreal vsqrt(vreal x) {
#if defined(VOP)
    return VOP(sqrt)(x);
#elif defined(__SSE2__) && REAL_BITS == 32
    return (vreal)_mm_sqrt_ps((__m128)x);
#elif defined(__SSE2__)
    return (vreal)_mm_sqrt_pd((__m128d)x);
#else
    for (int k = 0; k < LANES; k++) x[k] = REAL_BITS == 32 ? __builtin_sqrtf((float)x[k]) : __builtin_sqrt(x[k]);
    return x;
#endif
}

/* m = momentum m - rate g; with nesterov the step looks ahead along m. */
INLINE void sgd_update(const frnn_update *u, int64_t k, const int part) {
    REAL *w = (REAL *)u->w + k, *m = u->m ? (REAL *)u->m + k : NULL;
    const vreal step = vload_n((const REAL *)u->g + k, part) * vset((REAL)u->rate);
    vreal change = -step;
    if (m) {
        const vreal momentum = vset((REAL)u->beta_1), moved = vload_n(m, part) * momentum - step;
        vstore_n(m, moved, part);
        change = u->nesterov ? moved * momentum - step : moved;
    }
    vstore_n(w, vload_n(w, part) + change, part);
}

/* v is the running mean of squares, a that of gradients (centered), m the sum of steps (momentum). */
INLINE void rmsprop_update(const frnn_update *u, int64_t k, const int part) {
    REAL *w = (REAL *)u->w + k, *v = (REAL *)u->v + k;
    const vreal g = vload_n((const REAL *)u->g + k, part);
    const vreal keep = vset((REAL)u->beta_2), add = vset((REAL)(1 - u->beta_2));
    const vreal squares = vload_n(v, part) * keep + g * g * add;
    vreal variance = squares;
    vstore_n(v, squares, part);
    if (u->a) {
        REAL *a = (REAL *)u->a + k;
        const vreal mean = vload_n(a, part) * keep + g * add;
        vstore_n(a, mean, part);
        variance = squares - mean * mean;
    }
    vreal step = g * vset((REAL)u->rate) / vsqrt(variance + vset((REAL)u->epsilon));
    if (u->m) {
        REAL *m = (REAL *)u->m + k;
        step = vload_n(m, part) * vset((REAL)u->beta_1) + step;
        vstore_n(m, step, part);
    }
    vstore_n(w, vload_n(w, part) - step, part);
}

/* m and v are the running means of gradients and squares, a the largest v so far (amsgrad); the rate carries the
 * correction of their bias. */
INLINE void adam_update(const frnn_update *u, int64_t k, const int part) {
    REAL *w = (REAL *)u->w + k, *m = (REAL *)u->m + k, *v = (REAL *)u->v + k;
    const vreal g = vload_n((const REAL *)u->g + k, part), m_before = vload_n(m, part), v_before = vload_n(v, part);
    const vreal mean = m_before + (g - m_before) * vset((REAL)(1 - u->beta_1));
    vreal squares = v_before + (g * g - v_before) * vset((REAL)(1 - u->beta_2));
    vstore_n(m, mean, part);
    vstore_n(v, squares, part);
    if (u->a) {
        REAL *a = (REAL *)u->a + k;
        squares = vmax(vload_n(a, part), squares);
        vstore_n(a, squares, part);
    }
    const vreal step = mean * vset((REAL)u->rate) / (vsqrt(squares) + vset((REAL)u->epsilon));
    vstore_n(w, vload_n(w, part) - step, part);
}

static void update_task(void *update, int64_t index) {
    const frnn_update here = *(const frnn_update *)update, *u = &here; /* a copy that no store can change */
    const int64_t begin = index * UPDATE_REALS;
    const int64_t end = begin + UPDATE_REALS < u->n ? begin + UPDATE_REALS : u->n;
#define UPDATE(rule)                                                                                                   \
    do {                                                                                                               \
        int64_t k = begin;                                                                                             \
        for (; k + LANES <= end; k += LANES) rule(u, k, LANES);                                                        \
        if (k < end) rule(u, k, (int)(end - k));                                                                       \
    } while (0)
    if (u->rule == FRNN_SGD)
        UPDATE(sgd_update);
    else if (u->rule == FRNN_RMSPROP)
        UPDATE(rmsprop_update);
    else
        UPDATE(adam_update);
#undef UPDATE
}

static void optimize(const frnn_update *u) {
    const int64_t tasks = (u->n + UPDATE_REALS - 1) / UPDATE_REALS;
    frnn_parallel(tasks, tasks, update_task, (void *)u);
}

#endif
