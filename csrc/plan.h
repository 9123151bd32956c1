/* How a call is cut into tasks and blocks of time steps, its memory and its packed weights.
 *
 * A task is a slice of the batch; it runs the whole sweep over time for its rows. How many tasks there are depends on
 * the shapes alone, and each sums its own weight gradients, which are then added up in the order of the tasks: so
 * results do not depend on the number of threads. Small layers are cut into tasks of one thread each, which need no
 * barrier. Where weights are large, or rows too few to share out, there is one task only, and a team works on it: each
 * member owns some units, hence some columns of every matrix, and all meet once a step. Every element is still one
 * chain of operations. Or, backward with few rows, one thread sweeps and others follow with the products: see sweep.h.
 *
 * A block is as many time steps as keep the block's inputs and gates in the second-level cache, or as give the products
 * over a block enough rows. The products with W run over a whole block, rows (t, b), only those with U are done step by
 * step; but forward's with W come with U's where a step has rows enough and the weights of both are in the first-level
 * cache, and beside U's, but for a block's first steps, where neither cache holds them and a step is one row: see
 * ahead.h.
 *
 * "Slots" are the gates of one row, 4 H numbers: LSTM i, f, c, o; GRU h, z, r, q, where q is U's part of the
 * candidate (reset_after) or r * h (not). In this order W sees slots 0-2 and U slots 1-3 of a GRU as they lie;
 * therefore its W is packed with its columns rotated against Keras' z, r, h. Until they are activated, they and the
 * words they may begin from are times gate_scale, since forward's packed weights and bias are.
 */
#ifndef FRNN_PLAN_H
#define FRNN_PLAN_H

#include "fastrnn.h"
#include "gates.h"
#include "gemm.h"
#include "scratch.h"
#include "simd.h"
#include "threads.h"
#include "vmath.h"

#include <stdlib.h>

enum {
    BLOCK_REALS = 32768, /* in the second-level cache, beside packed weights */
    BLOCK_ROWS = 384,    /* what a block has at least, time permitting */
    MIN_ROWS = 8,        /* of a task, where there is more than one */
    MAX_TASKS = 16,
    TEAM_REALS = 1 << 18,          /* weights from here on are worked on by a team, */
    TEAM_FEW_ROWS_REALS = 1 << 16, /* or from here on if there are fewer rows than two tasks need; */
    FOLLOWED_REALS = 1 << 14,      /* but of these, backward is swept by one and followed by others, from here on */
    FOLLOWED_ROWS = 16,            /* that the sweep goes on by before it says so */
    BY_STEP_REALS = 1 << 14, /* weights up to which both fit into the first-level cache, a vector of units at a time, */
    ROWS_BY_STEP = 12,       /* and a task's rows from which on they are worth reading for a step */
    LARGE_REALS = 1 << 19,   /* weights whose gradients are worth fewer rounds than blocks of that size */
    FAR_REALS = 1 << 19,     /* of weights that a thread has, from which on they are not all in its caches */
    SMALL_WORK = 1 << 19,    /* multiply-adds below which other threads cost more than they help */
    FEW_WEIGHTS = 1 << 12,   /* up to which a task packs them for itself */
};

/* Large enough that a small vocabulary, as one task, needs no other thread. */
enum { WORDS_PER_TASK = 1024, PANELS_PER_TASK = 8 };

/* How far back a sweep, or what follows it, has come: to this step. */
typedef struct {
    _Alignas(64) atomic_llong step;
    atomic_int taken;
} sweep_progress;

typedef struct {
    const frnn_call *call;
    int backward;
    int64_t B, T, I, H, S; /* S = 4 H, the slots of one row */
    int64_t GH;            /* columns of W and U */
    int gates;             /* of W */
    int u_gates;           /* that U's product for a step gives at once: not the candidate of a GRU with reset before */
    int64_t u_slot;        /* the first slot that U sees; W sees slots from 0 on */
    int64_t tasks, rows;   /* rows per task; the last task may have fewer */
    int64_t block;         /* time steps per block */
    int64_t ldx, lds;      /* between rows of x_block and of slots_block: never a power of two */
    int x_groups;          /* how many dropout masks an input has: one (or none), or one per gate */
    int far;               /* the weights that a thread reads at each step do not fit into its second-level cache */
    int ahead;             /* W's product for steps to come is done beside U's: see ahead.h */
    int w_by_step;         /* W's product comes with U's, step by step: no slots to be written before and read again */
    int by_word;           /* with token ids: the product with W is done once per word, not once per row */
    int gathered;          /* inputs are brought together in x_block */
    int64_t x_group_reals; /* what the inputs of a block take under one of them */
    int h_masked;
    int masked_in_tile;       /* states are put under those masks where forward's tiles read them */
    int pack_by_task;         /* each task packs the weights for itself */
    int64_t threads, members; /* at most so many may work; on one task */
    frnn_flag *flags;         /* of the members, where they meet */
    int64_t shares;           /* of the columns, where one member sweeps and others follow: see sweep.h; else none */
    sweep_progress *swept, *done;
    /* shared by the tasks */
    REAL *memory, *W, *U, *Uc, *Wt, *Ut, *Wg, *Ug, *bias;
    REAL *words; /* by word: (V, GH), the slots that each word's rows begin from */
    REAL *zeros; /* a row to begin products from */
    /* per task, `per_task` apart; the pointers are the first task's */
    int64_t per_task;
    REAL *x_block, *slots_block, *h_block, *h_now, *c_now, *dh, *dc, *dy_carry, *row, *dW, *dU, *db;
    REAL *dwords;      /* by word: (V, GH), the gradients of the slots that W sees, summed per word */
    REAL *dtable;      /* with token ids, but not by word: (V, I), dx */
    REAL *packing;     /* (members, packing_reals), for weight gradients */
    REAL **x_rows;     /* (members, 2, block * rows), where a block's rows begin in x, and in dx, */
    int64_t row_reals; /* and what one member's take */
} layer_plan;

/* One member's view of one task. */
typedef struct {
    layer_plan *plan;
    int64_t member, members;
    int64_t b0, n;               /* first row of the batch, number of rows */
    int64_t u0, u1, i0, i1;      /* the units, and the inputs, that this member owns */
    REAL *x_block, *slots_block; /* (x_groups or 1, block, n, ldx), (block, n, lds) */
    REAL *h_block; /* states under recurrent dropout: (2 or 1, u_gates, 1 or block, n, H); or its masks, see gates.h */
    REAL *h_now, *c_now;            /* inference's states: (1 + block or 2, n, H), (n, H) */
    REAL *dh, *dc, *dy_carry, *row; /* (n, H) */
    REAL *dW, *dU, *db; /* (I, GH), of several tasks in the order of the slots, (H, GH), (S) in that order */
    REAL *dwords, *dtable, *packing;
    REAL **x_rows, **dx_rows;
    REAL *slots, *h, *c; /* the reserve's: (T, n, S), (T, n, H) before each step, (T + 1, n, H) */
} layer_task;

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* Rows are short, and a call of memset or memcpy costs more than clearing or copying one; the empty statement keeps
 * compilers from seeing one in the loop. */
INLINE void row_zero(REAL *to, int64_t n) {
    for (; n >= LANES; n -= LANES, to += LANES) {
        vstore(to, vset(0));
        __asm__ volatile("");
    }
    for (; n > 0; n--) {
        *to++ = 0;
        __asm__ volatile("");
    }
}
INLINE void row_copy(REAL *RESTRICT to, const REAL *RESTRICT from, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vstore(to + i, vload(from + i));
        __asm__ volatile("");
    }
    for (; i < n; i++) {
        to[i] = from[i];
        __asm__ volatile("");
    }
}
INLINE void row_add(REAL *RESTRICT to, const REAL *RESTRICT from, int64_t n) {
    int64_t i = 0;
    for (; i + WIDE_LANES <= n; i += WIDE_LANES) wstore(to + i, wload(to + i) + wload(from + i));
    for (; i + LANES <= n; i += LANES) vstore(to + i, vload(to + i) + vload(from + i));
    for (; i < n; i++) to[i] += from[i];
}
/* to may be a */
INLINE void row_multiply(REAL *to, const REAL *a, const REAL *RESTRICT b, int64_t n) {
    int64_t i = 0;
    for (; i + WIDE_LANES <= n; i += WIDE_LANES) wstore(to + i, wload(a + i) * wload(b + i));
    for (; i + LANES <= n; i += LANES) vstore(to + i, vload(a + i) * vload(b + i));
    for (; i < n; i++) to[i] = a[i] * b[i];
}

static int64_t reserve_row(const frnn_call *call) {
    const int64_t c = call->cell == FRNN_LSTM ? (call->T + 1) * call->H : 0;
    return call->T * 5 * call->H + c;
}
/* From the first line of cache that is wholly the reserve's: a vector that lies across two lines takes two loads. */
static REAL *reserve_begin(const frnn_call *call) { return (REAL *)(((uintptr_t)call->reserve + 63) / 64 * 64); }
/* before that; and beyond the last row, which is read in whole vectors */
enum { RESERVE_PADDING = 64 / sizeof(REAL) + 16 };

/* Where outputs are written: as they are computed; but with masks after a step, and those of narrow layers after a
 * block of them. A sample's steps lie side by side in y, and a core that writes a step of each sample fetches ahead
 * into the samples that are another's: where two cores are far apart, forward of 64 sequences with 8 units took a
 * quarter longer. Layers that are not narrow would wait for the lines of y. */
INLINE int outputs_by_block(const layer_plan *p) { return p->H <= LANES; }

/* -- memory --------------------------------------------------------------------------------------------------------
 * Laid out by one function that is run twice: once from offset zero to learn the size, once for good. */

static REAL *take(REAL *memory, int64_t *offset, int64_t count) {
    REAL *p = memory ? memory + *offset : NULL;
    *offset += (count + 15) / 16 * 16;
    return p;
}

/* A stride for rows of n numbers that many products walk down: rows a power of two apart would share a few sets of the
 * caches. */
static int64_t spread(int64_t n) {
    const int64_t whole = (n + 15) / 16 * 16;
    return whole % 256 ? whole : whole + 16;
}

static int64_t lay_out(layer_plan *p, REAL *m) {
    const int64_t I = p->I, H = p->H, S = p->S, GH = p->GH, block_rows = p->block * p->rows, units = packed_columns(H);
    const int training = p->call->reserve != NULL, masked = p->call->mask != NULL, alone = p->tasks == 1;
    const int64_t V = p->by_word ? p->call->V : 0;
    int64_t at = 0;
    p->flags = (frnn_flag *)take(m, &at, p->members * (int64_t)(sizeof(frnn_flag) / sizeof(REAL)));
    p->swept = (sweep_progress *)take(m, &at, (1 + p->shares) * (int64_t)(sizeof(sweep_progress) / sizeof(REAL)));
    p->done = p->swept + 1;
    p->bias = take(m, &at, S + 2 * WIDE_LANES);
    if (p->backward) {
        /* under dropout masks of each gate, the gates' parts are products of their own */
        const int64_t inputs = packed_columns(I);
        p->Wg = p->x_groups > 1 ? take(m, &at, GH * inputs) : NULL;
        p->Wt = p->x_groups > 1 ? NULL : take(m, &at, GH * inputs);
        p->Ug = p->h_masked ? take(m, &at, p->u_gates * H * units) : NULL;
        p->Ut = p->h_masked && p->u_gates == p->gates ? NULL : take(m, &at, GH * units);
        p->zeros = take(m, &at, 2 * WIDE_LANES);
    } else {
        p->W = take(m, &at, I * p->gates * units);
        p->U = take(m, &at, H * p->u_gates * units);
        p->Uc = take(m, &at, p->u_gates == 2 ? H * units : 0);
        p->words = take(m, &at, V * GH + 2 * WIDE_LANES);
    }
    const int64_t shared = p->pack_by_task ? 0 : at;
    p->x_block = take(m, &at, p->gathered ? p->x_groups * p->x_group_reals : 0);
    const int64_t pointers = V ? 0 : 2 * block_rows * (int64_t)sizeof(REAL *) * 8 / REAL_BITS;
    p->row_reals = (pointers + 15) / 16 * 16;
    const int64_t views = larger(p->members, p->shares);
    p->x_rows = (REAL **)take(m, &at, p->row_reals * views);
    /* products read beyond the last row */
    p->slots_block = take(m, &at, block_rows * p->lds + 2 * WIDE_LANES);
    const int64_t masked_rows = !p->backward ? 2 * p->rows : in_twos(H) ? 0 : block_rows;
    const int64_t masked_reals = p->masked_in_tile ? p->rows * LANES : masked_rows * H;
    p->h_block = take(m, &at, p->h_masked ? masked_reals * p->u_gates : 0);
    if (p->backward) {
        p->row = take(m, &at, p->rows * H);
        p->dh = take(m, &at, p->rows * H);
        p->dc = take(m, &at, p->rows * H);
        p->dy_carry = take(m, &at, masked ? p->rows * H : 0);
        p->dW = take(m, &at, alone ? 0 : I * GH);
        p->dU = take(m, &at, alone ? 0 : H * GH);
        p->db = take(m, &at, S);
        p->packing = take(m, &at, views * packing_reals(larger(I, H)));
        p->dwords = take(m, &at, V ? V * GH + 2 * WIDE_LANES : 0);
        p->dtable = take(m, &at, p->call->ids && !V && !alone ? p->call->V * I : 0);
    } else {
        p->h_now = take(m, &at, training ? 0 : (outputs_by_block(p) ? 1 + p->block : 2) * p->rows * H);
        p->c_now = take(m, &at, training || p->u_slot ? 0 : p->rows * H);
    }
    p->per_task = at - shared;
    return shared + p->per_task * p->tasks;
}

/* -- packing the weights --------------------------------------------------------------------------------------------
 */

/* A share of N columns, in whole panels of packed matrices: [*from, *to). */
static void share(int64_t N, int64_t index, int64_t shares, int64_t *from, int64_t *to) {
    const int64_t panels = (N + 2 * WIDE_LANES - 1) / (2 * WIDE_LANES);
    *from = smaller(N, panels * index / shares * 2 * WIDE_LANES);
    *to = smaller(N, panels * (index + 1) / shares * 2 * WIDE_LANES);
}

static void pack_bias(const layer_plan *p) {
    const REAL *b = p->call->b;
    const int64_t H = p->H, GH = p->GH;
    row_zero(p->bias, p->S + 2 * WIDE_LANES);
    if (b && !p->u_slot) row_copy(p->bias, b, GH);
    if (b && p->u_slot) { /* GRU: h; z and r, where the two biases add up; q */
        row_copy(p->bias, b + 2 * H, H);
        row_copy(p->bias + H, b, 2 * H);
        if (p->call->reset_after) row_add(p->bias + H, b + GH, GH);
    }
    for (int slot = 0; slot < 4; slot++) {
        const REAL scale = gate_scale(p->gates, p->u_slot ? (slot + 2) % 3 : slot);
        for (int64_t u = 0; u < H; u++) p->bias[slot * H + u] *= scale;
    }
}

/* Pieces that are worth another thread, and no more than there are: long runs of a row of weights come faster from
 * memory (one sequence with 512 units: inference a twentieth shorter than with 16 pieces). */
static int64_t weight_pieces(const layer_plan *p) {
    return larger(1, smaller(p->threads, (p->I + p->H) * p->GH / 16384));
}

static void pack_weights(void *plan, int64_t piece) {
    const layer_plan *p = plan;
    const int64_t pieces = weight_pieces(p);
    const int64_t I = p->I, H = p->H, GH = p->GH;
    const int rotate = p->u_slot ? 2 : 0;
    const REAL *W = p->call->W, *U = p->call->U;
    int64_t u0, u1, i0, i1;
    share(H, piece, pieces, &u0, &u1);
    share(I, piece, pieces, &i0, &i1);
    if (!p->backward) {
        REAL scales[4];
        for (int g = 0; g < p->gates; g++) scales[g] = gate_scale(p->gates, g);
        gates_pack(I, H, p->gates, rotate, p->gates, scales, W, p->W, u0, u1);
        gates_pack(H, H, p->u_gates, 0, p->gates, scales, U, p->U, u0, u1);
        if (p->u_gates == 2) gemm_pack(H, u1 - u0, U + 2 * H + u0, GH, p->Uc + u0 * H);
        if (piece == 0) pack_bias(p);
        return;
    }
    if (p->Wg) {
        gates_pack_transposed(H, p->gates, rotate, p->gates, W, p->Wg, i0, i1);
    } else {
        REAL *Wt = p->Wt + i0 * GH;
        W += i0 * GH;
        gemm_pack_transposed(rotate * H, i1 - i0, W, GH, Wt, GH, GH - rotate * H);
        gemm_pack_transposed(GH - rotate * H, i1 - i0, W + rotate * H, GH, Wt, GH, 0);
    }
    if (p->Ug && in_twos(H)) /* for masked.h */
        for (int g = 0; g < p->u_gates; g++) twos_pack(H, (int)H, U + g * H, 1, GH, p->Ug + g * twos_reals(H), H, 0);
    else if (p->Ug)
        gates_pack_transposed(H, p->u_gates, 0, p->gates, U, p->Ug, u0, u1);
    if (p->Ut) gemm_pack_transposed(GH, u1 - u0, U + u0 * GH, GH, p->Ut + u0 * GH, GH, 0);
    if (piece == 0) row_zero(p->zeros, 2 * WIDE_LANES);
}

static int plan_make(layer_plan *p, const frnn_call *call, int backward) {
    const int lstm = call->cell == FRNN_LSTM;
    *p = (layer_plan){.call = call, .backward = backward, .B = call->B, .T = call->T, .I = call->I, .H = call->H};
    p->gates = lstm ? 4 : 3;
    p->u_gates = lstm ? 4 : call->reset_after ? 3 : 2;
    p->S = 4 * p->H;
    p->GH = p->gates * p->H;
    p->u_slot = lstm ? 0 : p->H;
    p->h_masked = call->h_masks > 0;
    /* a Zen 4 multiplies an LSTM's gates one by one, see gates_tile_split: it reads the states as they are written */
    p->masked_in_tile = NARROW && !backward && p->h_masked && !(lstm && frnn_wide_is_halved);
    p->x_groups = call->x_masks > 1 ? p->gates : 1;
    p->ldx = spread(p->I);
    p->lds = spread(p->S);
    /* Two tasks of at least MIN_ROWS rows as soon as possible, then tasks of 32 rows, where a row of weights from
     * the second-level cache feeds enough multiply-adds. */
    const int64_t weights = (p->I + p->H) * p->GH, work = p->B * p->T * weights;
    const int few = p->B < 2 * MIN_ROWS, team = weights >= (few ? TEAM_FEW_ROWS_REALS : TEAM_REALS);
    /* under dropout masks members would have to meet on the way */
    const int followed =
        backward && few && !call->x_masks && !call->h_masks && weights >= FOLLOWED_REALS && weights < TEAM_REALS;
    const int64_t tasks = larger(smaller((p->B + 31) / 32, MAX_TASKS), smaller(2, p->B / MIN_ROWS));
    p->rows = team ? p->B : (p->B + larger(tasks, 1) - 1) / larger(tasks, 1);
    p->tasks = (p->B + p->rows - 1) / p->rows;
    const int64_t least = backward ? (weights >= LARGE_REALS ? 5 * BLOCK_ROWS / 3 : BLOCK_ROWS) : BLOCK_ROWS / 3;
    p->block = larger(BLOCK_REALS / (p->rows * (p->I + p->S)), least / p->rows);
    p->block = deal_rows(p->T, larger(1, smaller(p->T, p->block)));
    p->gathered = call->x_masks > 0;
    p->by_word = call->ids && !call->x_masks;
    /* tiles of two vectors of units, for gates that see numbers of their own, are of U's product alone */
    p->w_by_step = !p->by_word && p->rows >= ROWS_BY_STEP && weights <= BY_STEP_REALS && !(p->h_masked && p->H > LANES);
    p->x_group_reals = p->block * p->rows * p->ldx;
    p->threads = work < SMALL_WORK ? 1 : frnn_get_threads();
    const int64_t panels = (p->H + 2 * WIDE_LANES - 1) / (2 * WIDE_LANES);
    p->members = followed ? smaller(p->threads, 1 + panels) : team ? smaller(p->threads, panels) : 1;
    p->shares = followed && p->members > 1 ? smaller(panels, 2 * p->members) : 0;
    const int large = weights / p->members >= FAR_REALS;
    p->far = large && p->B >= 2 * MIN_ROWS;
    /* pieces of it are in whole vectors, of gates that U has too; where multiply-adds take half the time it does not
     * pay, on an Intel Emerald Rapids inference with 512 units takes a fifth longer */
    p->ahead = large && frnn_wide_is_halved && p->B == 1 && !backward && !p->by_word && !p->gathered && !p->h_masked &&
               p->u_gates == p->gates && p->H % LANES == 0;
    p->pack_by_task = p->tasks > 1 && weights <= FEW_WEIGHTS &&
                      (!p->by_word || (call->V <= WORDS_PER_TASK && p->tasks <= p->threads));
    const int64_t size = lay_out(p, NULL);
    p->memory = frnn_scratch_take((size_t)size * sizeof(REAL));
    if (!p->memory) return -1;
    lay_out(p, p->memory);
    memset(p->flags, 0, (size_t)p->members * sizeof(frnn_flag));
    for (int64_t k = 0; k <= p->shares; k++) atomic_init(&p->swept[k].step, p->T), atomic_init(&p->swept[k].taken, 0);
    return 0;
}

/* What a task needs of the plan if it packs the weights for itself: what another core has just written would come to
 * this one line by line. Where cores are far apart, that was a twentieth of backward of 64 sequences with 8 units. */
static layer_plan plan_of_task(const layer_plan *plan, int64_t index) {
    layer_plan p = *plan;
    const int64_t off = index * p.per_task;
    REAL **const packed[] = {&p.bias, &p.W, &p.U, &p.Uc, &p.Wt, &p.Ut, &p.Wg, &p.Ug, &p.words, &p.zeros};
    for (size_t k = 0; k < sizeof packed / sizeof packed[0]; k++)
        if (*packed[k]) *packed[k] += off;
    pack_weights(&p, 0);
    return p;
}

static layer_task task_make(layer_plan *p, int64_t index, int64_t member, int64_t members) {
    const int64_t b0 = index * p->rows, n = smaller(p->rows, p->B - b0), off = index * p->per_task;
    layer_task k = {.plan = p, .member = member, .members = members, .b0 = b0, .n = n};
    share(p->H, member, members, &k.u0, &k.u1);
    share(p->I, member, members, &k.i0, &k.i1);
    k.x_block = p->x_block + off, k.slots_block = p->slots_block + off, k.h_block = p->h_block + off;
    k.x_rows = (REAL **)((REAL *)p->x_rows + off + member * p->row_reals);
    k.dx_rows = k.x_rows + p->block * p->rows;
    if (p->backward) {
        k.row = p->row + off, k.dh = p->dh + off, k.dc = p->dc + off, k.dy_carry = p->dy_carry + off;
        k.dW = p->tasks == 1 ? p->call->dW : p->dW + off, k.dU = p->tasks == 1 ? p->call->dU : p->dU + off;
        k.db = p->db + off, k.dwords = p->dwords + off;
        k.dtable = p->tasks == 1 ? p->call->dx : p->dtable + off;
        k.packing = p->packing + off + member * packing_reals(larger(p->I, p->H));
    } else {
        k.h_now = p->h_now + off, k.c_now = p->c_now + off;
    }
    if (p->call->reserve) {
        k.slots = reserve_begin(p->call) + b0 * reserve_row(p->call);
        k.h = k.slots + p->T * n * p->S;
        k.c = k.h + p->T * n * p->H;
    }
    return k;
}

static int64_t word_tasks(const layer_plan *p) { return (p->call->V + WORDS_PER_TASK - 1) / WORDS_PER_TASK; }

/* Where all members of a task meet: what each wrote before is there for all after. */
INLINE void meet(const layer_task *k) {
    if (k->members > 1) frnn_meet(k->plan->flags, k->member, k->members);
}

#endif
