/* One time step of a chain of layers, for a stream of samples: no allocation, and no thread but the caller's unless a
 * layer is large.
 *
 * Weights are packed once, in the order in which a step reads them: for each group of one or two vectors of units, for
 * each k, the gates side by side, zeros beyond the last unit. A step is then one pass over them with all of a group's
 * sums in registers. In a GRU W sees the gates z, r, h, and U sees z, r, q, as in plan.h; with the reset gate before
 * the product, q is a second pass, over r * h.
 */
#ifndef FRNN_STEP_H
#define FRNN_STEP_H

#include "fastrnn.h"
#include "threads.h"
#include "vmath.h"

enum {
    GROUP = 2
}; /* vectors of units at a time: with 4 gates, as many chains of multiply-adds as hide their latency */

INLINE int64_t stage_columns(int64_t units) { return (units + LANES - 1) / LANES * LANES; }

/* REALs of the packed weights; a GRU's bias has z, r, h and q. */
static int64_t stage_size(const frnn_stage *s) {
    const int64_t columns = stage_columns(s->H);
    if (s->kind == FRNN_STAGE_DENSE) return (1 + s->I) * columns;
    return s->kind == FRNN_STAGE_LSTM ? 4 * (1 + s->I + s->H) * columns : (4 + 3 * (s->I + s->H)) * columns;
}

/* `rows` rows of a (rows, stride) matrix: for each, `gates` gates of the units u.. of `vectors` vectors. */
static REAL *pack_part(REAL *to, const REAL *from, int64_t rows, int64_t stride, int gates, int64_t H, int64_t u,
                       int vectors) {
    for (int64_t k = 0; k < rows; k++)
        for (int v = 0; v < vectors; v++)
            for (int g = 0; g < gates; g++)
                for (int n = 0; n < LANES; n++) {
                    const int64_t unit = u + v * LANES + n;
                    *to++ = from && unit < H ? from[k * stride + g * H + unit] : 0;
                }
    return to;
}

/* z, r, h and q: where both biases reach the same sum, they are added up here */
static REAL *pack_gru_bias(REAL *to, const frnn_stage *s, int64_t u, int vectors) {
    const REAL *b = s->b, *second = b && s->kind == FRNN_STAGE_GRU ? b + 3 * s->H : NULL;
    for (int v = 0; v < vectors; v++)
        for (int g = 0; g < 4; g++)
            for (int n = 0; n < LANES; n++) {
                const int64_t unit = u + v * LANES + n;
                REAL sum = 0;
                if (unit < s->H && b && g < 3) sum = b[g * s->H + unit];
                if (unit < s->H && second && g != 2) sum += second[(g < 2 ? g : 2) * s->H + unit];
                *to++ = sum;
            }
    return to;
}

static void stage_pack(const frnn_stage *s) {
    const REAL *W = s->W, *U = s->U, *b = s->b;
    const int64_t H = s->H, I = s->I;
    REAL *to = s->packed;
    for (int64_t u = 0; u < H; u += GROUP * LANES) {
        const int vectors = H - u > LANES ? GROUP : 1;
        if (s->kind == FRNN_STAGE_DENSE) {
            to = pack_part(to, b, 1, H, 1, H, u, vectors);
            to = pack_part(to, W, I, H, 1, H, u, vectors);
        } else if (s->kind == FRNN_STAGE_LSTM) {
            to = pack_part(to, b, 1, 4 * H, 4, H, u, vectors);
            to = pack_part(to, W, I, 4 * H, 4, H, u, vectors);
            to = pack_part(to, U, H, 4 * H, 4, H, u, vectors);
        } else {
            to = pack_gru_bias(to, s, u, vectors);
            to = pack_part(to, W, I, 3 * H, 3, H, u, vectors);
            to = pack_part(to, U, H, 3 * H, s->kind == FRNN_STAGE_GRU ? 3 : 2, H, u, vectors);
        }
    }
    if (s->kind == FRNN_STAGE_GRU_RESET_BEFORE)
        for (int64_t u = 0; u < H; u += GROUP * LANES)
            to = pack_part(to, U + 2 * H, H, 3 * H, 1, H, u, H - u > LANES ? GROUP : 1);
}

/* -- one group ------------------------------------------------------------------------------------------------------
 * `vectors` and `gates` are constants wherever these are inlined. */

typedef vreal group_sums[GROUP][4];

INLINE const REAL *sums_load(group_sums sums, const REAL *p, const int vectors, const int gates) {
    for (int v = 0; v < vectors; v++)
        for (int g = 0; g < gates; g++, p += LANES) sums[v][g] = vload(p);
    return p;
}

/* sums += x[0..K) times the packed rows; the last gate's go to sum number `last` */
INLINE const REAL *sums_add(group_sums sums, const REAL *p, const REAL *x, int64_t K, const int vectors,
                            const int gates, const int last) {
    for (int64_t k = 0; k < K; k++) {
        const vreal a = vset(x[k]);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
#pragma GCC unroll 4
            for (int g = 0; g < gates; g++, p += LANES) {
                const int to = g == gates - 1 ? last : g;
                sums[v][to] = vfma(a, vload(p), sums[v][to]);
            }
    }
    return p;
}

/* Runs BODY(u, part) for each vector of a group, whole or not. */
#define FOR_GROUP(u0, H, vectors, BODY)                                                                                \
    for (int v = 0; v < (vectors); v++) {                                                                              \
        const int64_t u = (u0) + v * LANES;                                                                            \
        if (u + LANES <= (H))                                                                                          \
            BODY(LANES);                                                                                               \
        else                                                                                                           \
            BODY((int)((H) - u));                                                                                      \
    }

INLINE void lstm_step_unit(const vreal *sums, REAL *c, REAL *h, const int part) {
    const vreal input = vsigmoid(sums[0]) * vtanh(sums[2]);
    const vreal cell = vfma(vsigmoid(sums[1]), vload_n(c, part), input);
    vstore_n(c, cell, part);
    vstore_n(h, vsigmoid(sums[3]) * vtanh(cell), part);
}

INLINE void lstm_step_group(const frnn_stage *s, const REAL *p, int64_t u0, const REAL *x, const REAL *h, REAL *c,
                            REAL *y, const int vectors) {
    group_sums sums;
    p = sums_load(sums, p, vectors, 4);
    p = sums_add(sums, p, x, s->I, vectors, 4, 3);
    sums_add(sums, p, h, s->H, vectors, 4, 3);
#define BODY(part) lstm_step_unit(sums[v], c + u, y + u, part)
    FOR_GROUP(u0, s->H, vectors, BODY)
#undef BODY
}

/* Sums z, r, h, q. */
INLINE void gru_step_unit(const vreal *sums, const REAL *h_before, REAL *h, const int part) {
    const vreal z = vsigmoid(sums[0]), candidate = vtanh(vfma(vsigmoid(sums[1]), sums[3], sums[2]));
    vstore_n(h, vfma(z, vload_n(h_before, part) - candidate, candidate), part);
}

INLINE void gru_step_group(const frnn_stage *s, const REAL *p, int64_t u0, const REAL *x, const REAL *h, REAL *y,
                           const int vectors) {
    group_sums sums;
    p = sums_load(sums, p, vectors, 4);
    p = sums_add(sums, p, x, s->I, vectors, 3, 2);
    sums_add(sums, p, h, s->H, vectors, 3, 3);
#define BODY(part) gru_step_unit(sums[v], h + u, y + u, part)
    FOR_GROUP(u0, s->H, vectors, BODY)
#undef BODY
}

/* The reset gate before the product, first pass: z and the candidate's sum are kept, rh = r * h. */
INLINE void gru_reset_group(const frnn_stage *s, const REAL *p, int64_t u0, const REAL *x, const REAL *h, REAL *z,
                            REAL *sum, REAL *rh, const int vectors) {
    group_sums sums;
    p = sums_load(sums, p, vectors, 4);
    p = sums_add(sums, p, x, s->I, vectors, 3, 2);
    sums_add(sums, p, h, s->H, vectors, 2, 1);
#define BODY(part)                                                                                                     \
    do {                                                                                                               \
        vstore_n(z + u, vsigmoid(sums[v][0]), part);                                                                   \
        vstore_n(sum + u, sums[v][2], part);                                                                           \
        vstore_n(rh + u, vsigmoid(sums[v][1]) * vload_n(h + u, part), part);                                           \
    } while (0)
    FOR_GROUP(u0, s->H, vectors, BODY)
#undef BODY
}

/* second pass */
INLINE void gru_candidate_group(const frnn_stage *s, const REAL *p, int64_t u0, const REAL *h, const REAL *z,
                                const REAL *sum, const REAL *rh, REAL *y, const int vectors) {
    group_sums sums;
#define BODY(part) sums[v][0] = vload_n(sum + u, part)
    FOR_GROUP(u0, s->H, vectors, BODY)
#undef BODY
    sums_add(sums, p, rh, s->H, vectors, 1, 0);
#define BODY(part)                                                                                                     \
    do {                                                                                                               \
        const vreal candidate = vtanh(sums[v][0]);                                                                     \
        vstore_n(y + u, vfma(vload_n(z + u, part), vload_n(h + u, part) - candidate, candidate), part);                \
    } while (0)
    FOR_GROUP(u0, s->H, vectors, BODY)
#undef BODY
}

INLINE vreal activated(int32_t activation, vreal z) {
    switch (activation) {
    case FRNN_ACTIVATE_SIGMOID:
        return vsigmoid(z);
    case FRNN_ACTIVATE_TANH:
        return vtanh(z);
    case FRNN_ACTIVATE_RELU:
        return vmax(vset(0), z);
    default:
        return z;
    }
}

INLINE void dense_step_group(const frnn_stage *s, const REAL *p, int64_t u0, const REAL *x, REAL *y,
                             const int vectors) {
    group_sums sums;
    p = sums_load(sums, p, vectors, 1);
    sums_add(sums, p, x, s->I, vectors, 1, 0);
#define BODY(part) vstore_n(y + u, activated(s->activation, sums[v][0]), part)
    FOR_GROUP(u0, s->H, vectors, BODY)
#undef BODY
}

static void softmax_row(REAL *y, int64_t n) {
    REAL top = y[0], sum = 0;
    for (int64_t k = 1; k < n; k++) top = y[k] > top || y[k] != y[k] ? y[k] : top;
    for (int64_t k = 0; k < n; k += LANES) {
        const int part = n - k < LANES ? (int)(n - k) : LANES;
        vstore_n(y + k, vexp(vload_n(y + k, part) - vset(top)), part);
    }
    for (int64_t k = 0; k < n; k++) sum += y[k];
    for (int64_t k = 0; k < n; k++) y[k] /= sum;
}

/* -- one row of the batch -------------------------------------------------------------------------------------------
 */

/* From so many packed REALs on a layer's groups are shared by threads: one takes some 6 microseconds over these, and a
 * fork-join 1 or 2. Who is not awake in time is not waited for. */
enum { SHARED_REALS = 1 << 17 };

/* A layer's step for one row. */
typedef struct {
    const frnn_stage *s;
    const REAL *x, *h; /* the state before */
    REAL *c, *y;
    int candidates; /* GRU with the reset before: the second pass */
} stage_row;

/* The group of units that begins with u0; where it lies follows from what is packed for each column before it. */
static void stage_group(void *row, int64_t index) {
    const stage_row *k = row;
    const frnn_stage *s = k->s;
    const int64_t H = s->H, I = s->I, u0 = index * GROUP * LANES;
    const int whole = H - u0 > LANES;
    REAL *z = k->y + H, *sum = z + H, *rh = sum + H;
    const REAL *p = s->packed;
#define STEP(function, ...)                                                                                            \
    do {                                                                                                               \
        if (whole)                                                                                                     \
            function(s, p, u0, __VA_ARGS__, GROUP);                                                                    \
        else                                                                                                           \
            function(s, p, u0, __VA_ARGS__, 1);                                                                        \
    } while (0)
    switch (s->kind) {
    case FRNN_STAGE_LSTM:
        p += u0 * 4 * (1 + I + H);
        STEP(lstm_step_group, k->x, k->h, k->c, k->y);
        break;
    case FRNN_STAGE_GRU:
        p += u0 * (4 + 3 * (I + H));
        STEP(gru_step_group, k->x, k->h, k->y);
        break;
    case FRNN_STAGE_GRU_RESET_BEFORE:
        if (k->candidates) {
            p += stage_columns(H) * (4 + 3 * I + 2 * H) + u0 * H;
            STEP(gru_candidate_group, k->h, z, sum, rh, k->y);
        } else {
            p += u0 * (4 + 3 * I + 2 * H);
            STEP(gru_reset_group, k->x, k->h, z, sum, rh);
        }
        break;
    default:
        p += u0 * (1 + I);
        STEP(dense_step_group, k->x, k->y);
    }
#undef STEP
}

static void stage_groups(stage_row *k) {
    const int64_t groups = (k->s->H + GROUP * LANES - 1) / (GROUP * LANES);
    if (stage_size(k->s) >= SHARED_REALS)
        frnn_parallel(groups, groups, stage_group, k);
    else
        for (int64_t index = 0; index < groups; index++) stage_group(k, index);
}

static void stage_run(const frnn_stage *s, int64_t b, const REAL *x) {
    const int64_t H = s->H;
    REAL *y = s->scratch, *h = s->h ? (REAL *)s->h + b * H : NULL;
    stage_row row = {s, x, h, s->c ? (REAL *)s->c + b * H : NULL, y, 0};
    stage_groups(&row);
    if (s->kind == FRNN_STAGE_GRU_RESET_BEFORE) {
        row.candidates = 1;
        stage_groups(&row);
    }
    if (s->kind == FRNN_STAGE_DENSE && s->activation == FRNN_ACTIVATE_SOFTMAX) softmax_row(y, H);
    /* Only now: every unit sees the state before, and x may be the last output. */
    if (h) memcpy(h, y, (size_t)H * sizeof(REAL));
    memcpy((REAL *)s->y + b * H, y, (size_t)H * sizeof(REAL));
}

typedef struct {
    const frnn_stream *stream;
    const void *x;
} stream_step_call;

static void stream_step_task(void *context, int64_t index) {
    const stream_step_call *call = context;
    const frnn_stream *stream = call->stream;
    (void)index;
    for (int64_t b = 0; b < stream->B; b++) {
        const int64_t I = stream->I;
        const REAL *x = stream->table ? (const REAL *)stream->table + ((const int64_t *)call->x)[b] * I
                                      : (const REAL *)call->x + b * I;
        for (int64_t k = 0; k < stream->stages; k++) {
            const frnn_stage *s = stream->stage + k;
            stage_run(s, b, x);
            x = (const REAL *)s->y + b * s->H;
        }
    }
}

/* as a single task, which flushes denormals as the kernels do */
static void stream_step(const frnn_stream *stream, const void *x) {
    stream_step_call call = {stream, x};
    frnn_parallel(1, 1, stream_step_task, &call);
}

#endif
