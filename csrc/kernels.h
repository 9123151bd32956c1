/* The one kernel body. A stub, kernels_<isa>_<type>.c, sets REAL_BITS, the instruction set and KERNELS, the name of
 * its table, and includes this. */
#include "gru.h"
#include "head.h"
#include "lstm.h"
#include "optimizers.h"
#include "peak.h"
#include "step.h"
#include "table.h"
#include "vmath.h"

static void work_on_task(layer_plan *p, int64_t index, int64_t member, int64_t members) {
    const int lstm = p->call->cell == FRNN_LSTM;
    if (p->backward)
        (lstm ? lstm_backward_task : gru_backward_task)(p, index, member, members);
    else
        (lstm ? lstm_forward_task : gru_forward_task)(p, index, member, members);
}
static void whole_task(void *plan, int64_t index) {
    layer_plan *p = plan, own;
    if (p->pack_by_task) {
        own = plan_of_task(p, index);
        if (own.by_word && !own.backward) words_multiply(&own, 0);
        p = &own;
    }
    work_on_task(p, index, 0, 1);
}
static void team_task(void *plan, int64_t member, int64_t members) { work_on_task(plan, 0, member, members); }
static void following_task(void *plan, int64_t member) {
    layer_plan *p = plan;
    work_on_task(p, 0, member, p->members);
}

static int run(const frnn_call *call, int backward) {
    layer_plan plan;
    if (plan_make(&plan, call, backward)) return -1;
    if (!plan.pack_by_task) {
        frnn_parallel(plan.threads, weight_pieces(&plan), pack_weights, &plan);
        if (plan.by_word && !backward) frnn_parallel(plan.threads, word_tasks(&plan), words_multiply, &plan);
    }
    if (plan.shares) /* whoever comes late is not waited for, and the first task waits for no other */
        frnn_parallel(plan.threads, plan.members, following_task, &plan);
    else if (plan.members > 1)
        frnn_team(plan.members, team_task, &plan);
    else
        frnn_parallel(plan.threads, plan.tasks, whole_task, &plan);
    if (plan.by_word && backward) words_gradients(&plan);
    if (backward) {
        if (plan.tasks > 1) frnn_parallel(plan.threads, weight_pieces(&plan), weight_gradients, &plan);
        bias_gradients(&plan);
    }
    frnn_scratch_give(plan.memory);
    return 0;
}

static int forward(const frnn_call *call) { return run(call, 0); }
static int backward(const frnn_call *call) { return run(call, 1); }

static int64_t reserve_size(const frnn_call *call) { return call->B * reserve_row(call) + RESERVE_PADDING; }

static void elementwise(int32_t function, int64_t n, const void *x, void *y) {
    for (int64_t k = 0; k < n; k += LANES) {
        const int part = (int)smaller(LANES, n - k);
        const vreal v = vload_part((const REAL *)x + k, part);
        vstore_part((REAL *)y + k,
                    function == FRNN_EXP    ? vexp(v)
                    : function == FRNN_EXP2 ? vexp2(v)
                    : function == FRNN_TANH ? vtanh(v)
                                            : vsigmoid(v),
                    part);
    }
}

const frnn_kernels KERNELS = {forward, backward, reserve_size, elementwise, peak,
                              head,    optimize, stage_size,   stage_pack,  stream_step};

#if defined(FRNN_CLANG_TARGET)
#pragma clang attribute pop
#endif
