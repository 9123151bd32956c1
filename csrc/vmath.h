/* exp, tanh and sigmoid on vectors, from one core: 2^t = 2^n (1 + f p(f)) with t = n + f, |f| <= 1/2.
 *
 * The coefficients of p are minimax fits (Remez exchange, relative error of f p(f) = 2^f - 1 below 1.1e-8 for float,
 * 1.8e-17 for double) of this project's own. tanh goes through 2^f - 1, so it keeps its relative accuracy near zero;
 * sigmoid goes through exp, so it keeps it for very negative x.
 *
 * Gates take their sums already multiplied with what brings them to powers of two, see gate_scale: then n and f are
 * three additions, which other units do than those of the multiply-adds that bound everything here.
 *
 * Bounds, held by tests/test_vmath.py on a dense grid of all magnitudes: e^x and 2^t within 2 ulp, sigmoid within 3,
 * tanh within 4, for both types, wherever the result is a normal number; smaller results may be flushed to zero. NaN
 * gives NaN; tanh(+-inf) = +-1, sigmoid(-inf) = 0 (flushed), sigmoid(inf) = 1.
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
#define EXP2_MAX 127.49f /* rounds to n = 127, the largest exponent */
#define EXP2_MIN -126.0f /* the smallest normal one */
#define EXP_MAX 88.37f   /* the same for e^x */
#define EXP_MIN -87.3f
#define TANH_MAX 27.4f /* tanh is 1 from here on, in units of ln 2 / 2 */
static const REAL EXP2M1[] = {0.69314718792669223781f,   0.24022649794966478798f,   0.055503574336348943528f,
                              0.0096182374937355822565f, 0.0013390735478205202809f, 0.0001540351275964241093f};
#else
#define MANTISSA_BITS 52
#define ONE_BITS 0x3ff0000000000000u
#define ROUND_MAGIC 6755399441055744.0
#define LOG2E 1.442695040888963407
#define LN2_HIGH 0.6931471803691238165
#define LN2_LOW 1.9082149292705877e-10
#define EXP2_MAX 1023.49
#define EXP2_MIN -1022.0
#define EXP_MAX 709.43
#define EXP_MIN -708.3
#define TANH_MAX 57.0
static const REAL EXP2M1[] = {0.6931471805599453112,      0.24022650695910097889,   0.0555041086648212365,
                              0.0096181291076070652907,   0.0013333558146531643895, 0.00015403530441481298573,
                              0.000015252733701202012005, 1.3215442723870117944e-6, 1.0178121305080868717e-7,
                              7.0725617698653604207e-9,   4.4455362630234542506e-10};
#endif
#define EXP2M1_LAST ((int)(sizeof EXP2M1 / sizeof EXP2M1[0]) - 1)

/* What the weights of one of so many gates, in Keras' order, are multiplied with when forward packs them. A GRU's
 * candidate is as it is: its sum is kept for backward. */
INLINE REAL gate_scale(int gates, int gate) { return gate != 2 ? -LOG2E : gates == 4 ? 2 * LOG2E : 1; }

#define V(name) w##name
#include "vmath_width.h"
#undef V
#define V(name) v##name
#include "vmath_width.h"
#undef V

/* -- gates of their scaled sums, a vector each, side by side -------------------------------------------------------
 * Two at a time where a wide vector holds them, which gives the same. */

/* A GRU's z and r, or an LSTM's i and f. */
INLINE void vgates_two_scaled(const REAL *sums, vreal gates[2]) {
    if (!NARROW) {
        gates[0] = vsigmoid_scaled(vload(sums)), gates[1] = vsigmoid_scaled(vload(sums + LANES));
        return;
    }
    const wreal both = wsigmoid_scaled(wload(sums));
    gates[0] = wlower(both), gates[1] = wupper(both);
}

/* An LSTM's i, f, g and o. */
INLINE void vgates_scaled(const REAL *sums, vreal gates[4]) {
    vgates_two_scaled(sums, gates);
    if (!NARROW) {
        gates[2] = vtanh_scaled(vload(sums + 2 * LANES)), gates[3] = vsigmoid_scaled(vload(sums + 3 * LANES));
        return;
    }
    const vreal zero = vset(0), one = vset(1), two = vset(2);
    /* one chain for tanh and sigmoid: e = 2^t - 1 or 2^t, and e / (e + 2) or 1 / (e + 1) */
    const wreal least = wjoin(vset(-TANH_MAX), vset(EXP2_MIN)), most = wjoin(vset(TANH_MAX), vset(EXP2_MAX));
    wreal f;
    const wreal shifted = wexp2_split(wmin(most, wmax(least, wload(sums + WIDE_LANES))), &f);
    const wreal scale = wexp2_scale(shifted), part = wfma(f, wexp2m1_p(f), wjoin(zero, one));
    const wreal e = wfma(scale, part, wextend(wlower(scale) - one));
    const wreal g_o = wjoin(wlower(e), one) / (e + wjoin(two, one));
    gates[2] = wlower(g_o), gates[3] = wupper(g_o);
}

#endif
