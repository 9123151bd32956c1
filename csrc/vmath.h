/* exp, tanh and sigmoid on vectors, from one core: 2^n and expm1(r) with y = n ln 2 + r, |r| <= ln 2 / 2.
 *
 * expm1(r) = r + r^2 q(r); the coefficients of q are minimax fits (Remez exchange, relative error of expm1 below
 * 1.4e-8 for float, 1.8e-17 for double) of this project's own. tanh goes through expm1, so it keeps its relative
 * accuracy near zero; sigmoid goes through exp, so it keeps it for very negative x.
 *
 * Bounds, held by tests/test_vmath.py on a dense grid of all magnitudes: exp and sigmoid within 4 ulp, tanh within
 * 5 ulp, for both types, wherever the result is a normal number; smaller results may be flushed to zero.
 * NaN gives NaN; tanh(+-inf) = +-1, sigmoid(-inf) = 0 (flushed), sigmoid(inf) = 1.
 */
#ifndef FRNN_VMATH_H
#define FRNN_VMATH_H

#include "simd.h"

#if REAL_BITS == 32
#define MANTISSA_BITS 23
#define ONE_BITS 0x3f800000u
#define ROUND_MAGIC 12582912.0f /* 1.5 * 2^23: adding it leaves the nearest integer in the low mantissa bits */
#define LOG2E 1.442695040888963f
#define LN2_HIGH 0.693145751953125f /* few enough bits that n * LN2_HIGH is exact */
#define LN2_LOW 1.428606820309417e-6f
#define EXP_MAX 88.37f /* rounds to n = 127, the largest exponent */
#define EXP_MIN -87.3f /* rounds to n = -126, the smallest normal one */
#define TANH_MAX 9.5f  /* tanh is 1 from here on */
static const REAL EXPM1_Q[] = {0.50000000618790144664f, 0.1666654292411188657f, 0.041666281874621427436f,
                               0.008366598092909300402f, 0.0013946471823713328971f};
#else
#define MANTISSA_BITS 52
#define ONE_BITS 0x3ff0000000000000u
#define ROUND_MAGIC 6755399441055744.0
#define LOG2E 1.442695040888963407
#define LN2_HIGH 0.6931471803691238165
#define LN2_LOW 1.9082149292705877e-10
#define EXP_MAX 709.43
#define EXP_MIN -708.3
#define TANH_MAX 20.0
static const REAL EXPM1_Q[] = {0.50000000000000055155,     0.16666666666666685965,   0.041666666666573805805,
                               0.0083333333333145973767,   0.0013888888932359827478, 0.00019841269903047059759,
                               0.000024801504437548850513, 2.7557227917282148314e-6, 2.7626338867141220026e-7,
                               2.5114490644108182341e-8};
#endif
#define EXPM1_Q_DEGREE ((int)(sizeof EXPM1_Q / sizeof EXPM1_Q[0]) - 1)

/* q(r) in steps of r^2: as many operations as one after the other, and half the wait. */
INLINE vreal expm1_q(vreal r, vreal r2) {
    const int odd = EXPM1_Q_DEGREE % 2, last = EXPM1_Q_DEGREE - odd;
    vreal q = vset(EXPM1_Q[last]);
    if (odd) q = vfma(r, vset(EXPM1_Q[last + 1]), q);
    UNROLL
    for (int k = last - 2; k >= 0; k -= 2) q = vfma(q, r2, vfma(r, vset(EXPM1_Q[k + 1]), vset(EXPM1_Q[k])));
    return q;
}

/* e^y = scale * (1 + m), for y already within [EXP_MIN, EXP_MAX] (or NaN) */
INLINE void exp_parts(vreal y, vreal *scale, vreal *m) {
    const vreal magic = vset(ROUND_MAGIC);
    const vreal shifted = vfma(y, vset(LOG2E), magic);
    const vreal n = shifted - magic;
    const vreal r = vfma(n, vset(-LN2_LOW), vfma(n, vset(-LN2_HIGH), y));
    const vreal r2 = r * r;
    *m = vfma(r2, expm1_q(r, r2), r);
    *scale = (vreal)(((vuint)shifted << MANTISSA_BITS) + ONE_BITS);
}

INLINE vreal vexp(vreal x) {
    vreal scale, m;
    exp_parts(vmin(vset(EXP_MAX), vmax(vset(EXP_MIN), x)), &scale, &m);
    return vfma(scale, m, scale);
}

INLINE vreal vsigmoid(vreal x) {
    const vreal one = vset(1);
    return one / (one + vexp(-x));
}

INLINE vreal vtanh(vreal x) {
    const vreal inside = vmin(vset(TANH_MAX), vmax(vset(-TANH_MAX), x));
    vreal scale, m;
    exp_parts(inside + inside, &scale, &m);
    const vreal e = vfma(scale, m, scale - vset(1)); /* expm1(2x) */
    return e / (e + vset(2));
}

#endif
