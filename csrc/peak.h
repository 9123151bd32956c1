/* As many multiply-adds as the processor can do: what the benchmarks hold the kernels against. */
#ifndef FRNN_PEAK_H
#define FRNN_PEAK_H

#include "simd.h"
#include "threads.h"

/* More chains than the pipes can have under way (8 where two units take 4 cycles each), and few enough for the 16
 * registers of the smaller instruction sets, the two factors beside them. */
enum { PEAK_CHAINS = 12 };

static void peak_task(void *context, int64_t index) {
    /* through memory that the compiler must read, so that it can work nothing out; the chains tend to 1 */
    volatile REAL half = (REAL)0.5, sink;
    const vreal a = vset(half), b = vset(half);
    vreal chains[PEAK_CHAINS];
    for (int k = 0; k < PEAK_CHAINS; k++) chains[k] = vset(half * (REAL)(k + index));
    for (int64_t step = *(const int64_t *)context; step > 0; step--) {
#pragma GCC unroll 12
        for (int k = 0; k < PEAK_CHAINS; k++) chains[k] = vfma(chains[k], a, b);
    }
    for (int k = 1; k < PEAK_CHAINS; k++) chains[0] += chains[k];
    sink = chains[0][0];
    (void)sink;
}

/* Runs `tasks` tasks of `steps` steps and gives the operations in them, two to a multiply-add. */
static double peak(int64_t tasks, int64_t steps) {
    frnn_parallel(tasks, tasks, peak_task, &steps);
    return 2.0 * PEAK_CHAINS * LANES * (double)tasks * (double)steps;
}

#endif
