/* The C kernels' public interface. cffi reads this file too, from the line below on, so it holds no other
 * preprocessor lines there.
 *
 * One call is one layer over one whole batch of sequences, forward or backward. All arrays are C-contiguous, of the
 * type that `real_bits` names, and were checked by the caller: the kernels trust every shape.
 *
 *   x (B, T, I)   W (I, G H)   U (H, G H)   b (G H), GRU with reset_after (2, G H)   y (B, T, H) or (B, H)
 *   G is 4 for LSTM, gates in the order i, f, c, o; 3 for GRU, in the order z, r, h: Keras' layouts.
 */
#ifndef FASTRNN_H
#define FASTRNN_H

#include <stdint.h>

/* cffi: from here */
enum { FRNN_LSTM = 0, FRNN_GRU = 1 };
enum { FRNN_EXP = 0, FRNN_TANH = 1, FRNN_SIGMOID = 2, FRNN_EXP2 = 3 };

typedef struct {
    int32_t cell;         /* FRNN_LSTM or FRNN_GRU */
    int32_t real_bits;    /* 32 or 64 */
    int64_t B, T, I, H;   /* batch, time steps, inputs, units; all at least 1 */
    int32_t go_backwards; /* 1: step s reads x[:, T-1-s]; y is in the order of the steps */
    int32_t zero_masked;  /* 1: y is zero at masked steps; 0: it repeats the previous output */
    int32_t sequences;    /* 1: y and dy are (B, T, H); 0: (B, H), the last step's */
    int32_t reset_after;  /* GRU: 1: r is applied after the product with U, 0: before */
    int32_t id_bytes;     /* of each of `ids`: 4 or 8, signed */
    int32_t x_masks;      /* input dropout masks: 0 none, 1 shared by the gates, G one per gate */
    int32_t h_masks;      /* recurrent dropout masks: 0 none, G one per gate */
    int64_t V;            /* rows of the table, where there are ids */

    /* from here on addresses only, of which frnn_point sets many at once: first what a call may share with the next */
    const void *W, *U;
    const void *b;       /* NULL: no bias */
    const void *h0, *c0; /* (B, H); NULL: zeros */
    void *reserve;       /* frnn_reserve_size() REALs, written by a training forward, read by backward;
                            NULL in a forward: inference */

    const void *x;
    const void *ids;     /* (B, T) token ids; then x is a table (V, I), and the input is x[ids]; NULL: x is it */
    const uint8_t *mask; /* (B, T), 0: the step is skipped; NULL: none is */
    const void *x_mask;  /* (x_masks, B, I) */
    const void *h_mask;  /* (h_masks, B, H) */
    void *y, *hT, *cT;   /* forward: written; cT for LSTM only */

    const void *dy, *dhT, *dcT; /* backward: gradients of y, hT, cT; NULL: zero */
    void *dx, *dW, *dU;         /* backward: written; db NULL where b is */
    void *db, *dh0, *dc0;
} frnn_call;

/* The number of REALs that a training forward keeps. */
int64_t frnn_reserve_size(const frnn_call *call);

/* 0, or -1 where memory ran out; then the outputs are undefined. Token ids must be in [0, V). Without
 * dropout masks of the input, the product with W is done once per word; with them, each task that a call is cut into
 * has a gradient of the whole table, as it has of weights. */
int frnn_forward(const frnn_call *call);
int frnn_backward(const frnn_call *call);

/* -1, or the place of the first id outside [0, rows). */
int64_t frnn_find_bad_id(const void *ids, int32_t id_bytes, int64_t n, int64_t rows);

/* Both check the ids as they go: they give -1, or the place of the first id outside [0, rows); then out is undefined.
 * id_bytes is 4 or 8, ids are signed.
 *   gather:      out[n] = table[ids[n]], rows of row_bytes
 *   scatter_add: out (rows, D) = 0, then out[ids[n]] += dy[n], in the order of n */
int64_t frnn_gather(const void *table, int64_t rows, int64_t row_bytes, const void *ids, int32_t id_bytes, int64_t n,
                    void *out);
int64_t frnn_scatter_add(const void *dy, int32_t real_bits, int64_t D, const void *ids, int32_t id_bytes, int64_t n,
                         void *out, int64_t rows);

enum { FRNN_BINARY = 0, FRNN_CATEGORICAL = 1, FRNN_SPARSE = 2 };

/* The end of a model: a dense layer, sigmoid or softmax, and the cross-entropy that belongs to it. */
typedef struct {
    int32_t loss_kind; /* FRNN_BINARY: sigmoid; FRNN_CATEGORICAL, FRNN_SPARSE: softmax */
    int32_t real_bits;
    int64_t n, I, C;
    const void *x, *W, *b; /* (n, I), (I, C), (C) or NULL */
    const void *y;         /* targets (n, C); FRNN_SPARSE: classes (n), int64 in [0, C) */
    const void *weights;   /* (n), or NULL for ones */
    void *p, *dz;          /* (n, C), written: probabilities, gradient of what they are the activation of */
    void *dx, *dW, *db;    /* written; db NULL where b is; dW NULL: neither */
    double loss;           /* written: the mean, as Keras takes it */
    int64_t correct;       /* written: how many p are right, by Keras' accuracy for that loss */
} frnn_head;
void frnn_head_run(frnn_head *head);

enum { FRNN_SGD = 0, FRNN_RMSPROP = 1, FRNN_ADAM = 2 };

/* One step of an optimizer over all n parameters w, whose gradient is g; fastrnn/training/optimizers.py has the rules.
 */
typedef struct {
    int32_t rule;     /* FRNN_SGD, FRNN_RMSPROP or FRNN_ADAM */
    int32_t nesterov; /* SGD with momentum: 1 */
    int32_t real_bits;
    int64_t n;
    void *w;
    const void *g;
    void *m; /* Adam; SGD and RMSprop with momentum, else NULL */
    void *v; /* RMSprop and Adam: mean squares */
    void *a; /* RMSprop, centered: mean gradients; Adam with amsgrad: the largest v so far; else NULL */
    double rate, beta_1, beta_2, epsilon; /* beta_1 goes with m, beta_2 with v (RMSprop's rho) and a */
} frnn_update;
void frnn_optimize(const frnn_update *update);

/* What draws a dropout mask: each entry is 0 with probability rate, else `kept`. */
typedef struct {
    const void *generator; /* NumPy's bitgen_t; an entry takes one of its 32-bit numbers, as Generator.random does;
                              NULL: all are 0 */
    double rate, kept;     /* rate in (0, 1) */
    int64_t n;
    void *mask; /* (n), written */
} frnn_drop;

/* One of the arrays of data, an entry for each sample. */
typedef struct {
    const void *entries;   /* NULL: there are none */
    int64_t stride, bytes; /* from an entry to the next, and of each */
    void *room;            /* where a batch's entries are brought together; NULL: they lie so */
} frnn_samples;

/* A whole model with memory for batches of one shape: recurrent layers, each with the outputs of the one before as its
 * inputs, before them an embedding or none, and the end. */
typedef struct {
    int64_t layers, drops;
    frnn_call **layer;
    const void **factors; /* (layers + 1): what a layer's inputs, and those of the end, are multiplied with in place,
                             NULL: nothing; so are their gradients. Not for inputs that are numbers of x */
    frnn_drop *drop;      /* masks for all of these, in the order in which they are drawn */
    frnn_head *head;      /* whose dW is NULL where there is no training */
    frnn_update *update;  /* whose rate is each step's; NULL: weights stay as they are */
    int64_t V;            /* rows of the embedding, 0 where x holds numbers */
    const void *table;    /* (V, I), where rows are looked up before the layers; NULL: they take ids */
    void *dtable;         /* its gradient, written in training */
    uint8_t *mask;        /* (B, T), written: 0 where a token id is; the layers' masks; NULL: 0 is no padding */
    frnn_samples x, y, weights; /* x: (T, I) numbers, or (T) token ids for an embedding */
    const int64_t *order;       /* of samples; NULL: as they lie */
    int64_t done;               /* steps: counted up */
    double total;               /* losses times their batch's samples are added to it */
    int64_t correct;            /* so is how many predictions are right */
} frnn_model;

/* Takes `steps` steps, on batches that begin at sample `first` and follow one another; step k updates weights at
 * rates[k]. Ends early before a batch with a token id outside [0, V). 0, or -1 where memory ran out. */
int frnn_steps(frnn_model *model, int64_t first, int64_t steps, const double *rates);

/* Streams: a chain of layers that takes one time step at a time and keeps its states. Arrays are the caller's. */
enum { FRNN_STAGE_LSTM = 0, FRNN_STAGE_GRU = 1, FRNN_STAGE_GRU_RESET_BEFORE = 2, FRNN_STAGE_DENSE = 3 };
enum {
    FRNN_ACTIVATE_LINEAR = 0,
    FRNN_ACTIVATE_SIGMOID = 1,
    FRNN_ACTIVATE_TANH = 2,
    FRNN_ACTIVATE_RELU = 3,
    FRNN_ACTIVATE_SOFTMAX = 4
};

typedef struct {
    int32_t kind;       /* FRNN_STAGE_... */
    int32_t activation; /* of a dense layer: FRNN_ACTIVATE_... */
    int64_t I, H;       /* inputs, units */
    const void *W, *U,
        *b;        /* as in frnn_call, dense (I, H) and (H); U NULL for dense, b NULL for none; read when packed */
    void *packed;  /* frnn_stage_size() REALs */
    void *scratch; /* 4 H REALs */
    void *h, *c;   /* (B, H), read and written: the states; NULL where there are none */
    void *y;       /* (B, H), written: the output */
} frnn_stage;

typedef struct {
    int32_t real_bits, isa; /* the instruction set it was packed for, an index as below */
    int64_t B, I, stages;
    frnn_stage *stage;
    const void *table; /* (V, I): steps take token ids; NULL: inputs (B, I) */
    int64_t V;
} frnn_stream;

int64_t frnn_stage_size(const frnn_stream *stream, int64_t stage);
void frnn_stream_pack(const frnn_stream *stream);
/* x: (B, I) REALs, or (B) int64 token ids; -1, or the place of the first id outside [0, V), and nothing was done */
int64_t frnn_stream_step(const frnn_stream *stream, const void *x);

/* y[k] = function(x[k]), by the vector code that the kernels use: FRNN_EXP, FRNN_EXP2, FRNN_TANH or
 * FRNN_SIGMOID. */
void frnn_elementwise(int32_t function, int32_t real_bits, int64_t n, const void *x, void *y);

/* Does nothing but multiply-adds, in `tasks` tasks over the threads, and gives the number of operations: over the time
 * it takes, what no kernel can exceed on this instruction set. */
double frnn_peak(int32_t real_bits, int64_t tasks, int64_t steps);

/* The instruction sets of this build, from the lowest; NULL past the end. */
const char *frnn_isa_name(int32_t index);
/* Whether this machine (processor and operating system) can run it. */
int frnn_isa_supported(int32_t index);
/* Chooses one that is supported; the highest is in use until then. */
void frnn_isa_choose(int32_t index);
int32_t frnn_isa_chosen(void);
/* Whether this processor does vectors of 64 bytes as two of 32: then some kernels are others. Results are the same. */
extern int32_t frnn_wide_is_halved;

/* At most this many threads, the caller's included, work on one call; at least 1. */
void frnn_set_threads(int32_t threads);
int32_t frnn_get_threads(void);

#endif
