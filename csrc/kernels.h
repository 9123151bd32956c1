/* The one kernel body. A stub, kernels_<isa>_<type>.c, sets REAL_BITS, the instruction set and KERNELS, the name of
 * its table, and includes this. */
#include "gru.h"
#include "lstm.h"
#include "peak.h"
#include "table.h"
#include "vmath.h"

static int run(const frnn_call *call, int backward, void (*task)(void *, int64_t)) {
    layer_plan plan;
    if (plan_make(&plan, call, backward)) return -1;
    if (call->ids && !backward) frnn_parallel(word_tasks(&plan), words_multiply, &plan);
    frnn_parallel(plan.tasks, task, &plan);
    if (call->ids && backward) words_gradients(&plan);
    if (backward) weight_gradients(&plan);
    free(plan.memory);
    return 0;
}

static int forward(const frnn_call *call) {
    return run(call, 0, call->cell == FRNN_LSTM ? lstm_forward_task : gru_forward_task);
}

static int backward(const frnn_call *call) {
    return run(call, 1, call->cell == FRNN_LSTM ? lstm_backward_task : gru_backward_task);
}

static int64_t reserve_size(const frnn_call *call) { return call->B * reserve_row(call); }

static void elementwise(int32_t function, int64_t n, const void *x, void *y) {
    for (int64_t k = 0; k < n; k += LANES) {
        const int part = (int)smaller(LANES, n - k);
        const vreal v = vload_part((const REAL *)x + k, part);
        vstore_part((REAL *)y + k,
                    function == FRNN_EXP    ? vexp(v)
                    : function == FRNN_TANH ? vtanh(v)
                                            : vsigmoid(v),
                    part);
    }
}

const frnn_kernels KERNELS = {forward, backward, reserve_size, elementwise, peak};

#if defined(FRNN_CLANG_TARGET)
#pragma clang attribute pop
#endif
