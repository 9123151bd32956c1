/* The end of a small model in one call: z = x W + b, its sigmoid or softmax, the cross-entropy that belongs to it, and
 * the gradients. The formulas are those of fastrnn/training/losses.py, from z and so exact in both tails.
 *
 * Plain loops: this is for sizes at which a call of BLAS costs more than its work.
 */
#ifndef FRNN_HEAD_H
#define FRNN_HEAD_H

#include "fastrnn.h"
#include "vmath.h"

#include <math.h>

INLINE REAL scalar_exp(REAL x) { return REAL_BITS == 32 ? (REAL)expf((float)x) : (REAL)exp(x); }
INLINE REAL scalar_log(REAL x) { return REAL_BITS == 32 ? (REAL)logf((float)x) : (REAL)log(x); }
INLINE REAL scalar_log1p(REAL x) { return REAL_BITS == 32 ? (REAL)log1pf((float)x) : (REAL)log1p(x); }

/* C is a constant where there is one output. */
INLINE void head_linear(const frnn_head *h, REAL *z, const int64_t C) {
    const REAL *x = h->x, *W = h->W, *b = h->b;
    for (int64_t k = 0; k < h->n; k++, x += h->I, z += C) {
        for (int64_t c = 0; c < C; c++) z[c] = b ? b[c] : 0;
        for (int64_t i = 0; i < h->I; i++)
            for (int64_t c = 0; c < C; c++) z[c] += x[i] * W[i * C + c];
    }
}

/* From dz: dW, db and dx. */
INLINE void head_backward(const frnn_head *h, const REAL *RESTRICT dz, const int64_t C) {
    const REAL *RESTRICT x = h->x, *RESTRICT W = h->W;
    REAL *RESTRICT dW = h->dW, *RESTRICT db = h->db, *RESTRICT dx = h->dx;
    const int64_t n = h->n, I = h->I;
    for (int64_t k = 0; k < I * C; k++) dW[k] = 0;
    for (int64_t c = 0; db && c < C; c++) db[c] = 0;
    for (int64_t k = 0; k < n; k++, x += I, dx += I, dz += C) {
        for (int64_t i = 0; i < I; i++) {
            REAL sum = 0;
            for (int64_t c = 0; c < C; c++) {
                dW[i * C + c] += x[i] * dz[c];
                sum += dz[c] * W[i * C + c];
            }
            dx[i] = sum;
        }
        for (int64_t c = 0; db && c < C; c++) db[c] += dz[c];
    }
}

/* z becomes p in place; dz is written, scaled for the mean. */
static void head_sigmoid(frnn_head *h, REAL *p, REAL *dz) {
    const int64_t C = h->C;
    const REAL *y = h->y, *weights = h->weights, scale = (REAL)(1.0 / (double)(h->n * C));
    double loss = 0;
    int64_t correct = 0;
    for (int64_t k = 0; k < h->n * C; k++) {
        /* one exp for both; it only ever sees a number below zero */
        const REAL z = p[k], e = scalar_exp(z > 0 ? -z : z), weight = weights ? weights[k / C] : 1;
        const REAL probability = (z >= 0 ? 1 : e) / (1 + e);
        loss += (scalar_log1p(e) + (z > 0 ? z : 0) - z * y[k]) * weight;
        correct += (probability > (REAL)0.5) == y[k];
        p[k] = probability;
        dz[k] = (probability - y[k]) * (weight * scale);
    }
    h->loss = loss / (double)(h->n * C);
    h->correct = correct;
}

static int64_t head_argmax(const REAL *p, int64_t C) {
    int64_t best = 0;
    for (int64_t c = 1; c < C; c++)
        if (p[c] > p[best]) best = c;
    return best;
}

static void head_softmax(frnn_head *h, REAL *p, REAL *dz) {
    const int64_t C = h->C;
    const REAL *weights = h->weights, scale = (REAL)(1.0 / (double)h->n);
    double loss = 0;
    int64_t correct = 0;
    for (int64_t k = 0; k < h->n; k++, p += C, dz += C) {
        const REAL *y = h->loss_kind == FRNN_CATEGORICAL ? (const REAL *)h->y + k * C : NULL;
        const int64_t class = y ? head_argmax(y, C) : ((const int64_t *)h->y)[k];
        const REAL weight = weights ? weights[k] : 1;
        REAL top = p[0], sum = 0, value = 0;
        for (int64_t c = 1; c < C; c++) top = p[c] > top || p[c] != p[c] ? p[c] : top;
        for (int64_t c = 0; c < C; c++) {
            dz[c] = p[c] - top;
            sum += p[c] = scalar_exp(dz[c]);
        }
        const REAL log_sum = scalar_log(sum);
        for (int64_t c = 0; c < C; c++) {
            const REAL target = y ? y[c] : c == class;
            if (target != 0) value -= target * (dz[c] - log_sum);
            p[c] /= sum;
            dz[c] = (p[c] - target) * (weight * scale);
        }
        loss += value * weight;
        correct += head_argmax(p, C) == class;
    }
    h->loss = loss / (double)h->n;
    h->correct = correct;
}

static void head(frnn_head *h) {
    REAL *p = h->p, *dz = h->dz;
    if (h->C == 1)
        head_linear(h, p, 1);
    else
        head_linear(h, p, h->C);
    if (h->loss_kind == FRNN_BINARY)
        head_sigmoid(h, p, dz);
    else
        head_softmax(h, p, dz);
    if (!h->dW) return;
    if (h->C == 1)
        head_backward(h, dz, 1);
    else
        head_backward(h, dz, h->C);
}

#endif
