/* The functions of vmath.h for vectors of one width: it includes this once for each. */

/* p(f) in steps of f^2: one operation more than one after the other, and half the wait. */
INLINE V(real) V(exp2m1_p)(V(real) f) {
    const V(real) f2 = f * f;
    V(real) p = V(set)(EXP2M1[EXP2M1_LAST]);
    if (EXP2M1_LAST % 2) p = V(fma)(f, p, V(set)(EXP2M1[EXP2M1_LAST - 1]));
    UNROLL
    for (int k = (EXP2M1_LAST - 2) / 2 * 2; k >= 0; k -= 2)
        p = V(fma)(p, f2, V(fma)(f, V(set)(EXP2M1[k + 1]), V(set)(EXP2M1[k])));
    return p;
}

/* t = n + f: n in the low mantissa bits of what it gives. */
INLINE V(real) V(exp2_split)(V(real) t, V(real) * f) {
    const V(real) shifted = t + V(set)(ROUND_MAGIC);
    *f = t - (shifted - V(set)(ROUND_MAGIC));
    return shifted;
}

/* 2^n */
INLINE V(real) V(exp2_scale)(V(real) shifted) { return (V(real))(((V(uint))shifted << MANTISSA_BITS) + ONE_BITS); }

/* 2^n (1 + f p(f)): the exponent is added to a number near 1. */
INLINE V(real) V(exp2_join)(V(real) shifted, V(real) f) {
    return (V(real))((V(uint))V(fma)(f, V(exp2m1_p)(f), V(set)(1)) + ((V(uint))shifted << MANTISSA_BITS));
}

INLINE V(real) V(exp2)(V(real) t) {
    V(real) f;
    const V(real) shifted = V(exp2_split)(V(min)(V(set)(EXP2_MAX), V(max)(V(set)(EXP2_MIN), t)), &f);
    return V(exp2_join)(shifted, f);
}

/* x log2 e would have to be known to more digits than it has, or e^x would lose them where x is large. */
INLINE V(real) V(exp)(V(real) x) {
    const V(real) inside = V(min)(V(set)(EXP_MAX), V(max)(V(set)(EXP_MIN), x));
    const V(real) shifted = V(fma)(inside, V(set)(LOG2E), V(set)(ROUND_MAGIC)), n = shifted - V(set)(ROUND_MAGIC);
    const V(real) r = V(fma)(n, V(set)(-LN2_LOW), V(fma)(n, V(set)(-LN2_HIGH), inside));
    return V(exp2_join)(shifted, r * V(set)(LOG2E));
}

INLINE V(real) V(sigmoid)(V(real) x) {
    const V(real) one = V(set)(1);
    return one / (one + V(exp)(-x));
}

/* sigmoid(x) of t = -x log2 e */
INLINE V(real) V(sigmoid_scaled)(V(real) t) {
    const V(real) one = V(set)(1);
    return one / (one + V(exp2)(t));
}

/* tanh(x) of t = 2 x log2 e. That product may be rounded: tanh has no fewer digits than its argument. */
INLINE V(real) V(tanh_scaled)(V(real) t) {
    V(real) f;
    const V(real) shifted = V(exp2_split)(V(min)(V(set)(TANH_MAX), V(max)(V(set)(-TANH_MAX), t)), &f);
    const V(real) scale = V(exp2_scale)(shifted);
    const V(real) e = V(fma)(scale, f * V(exp2m1_p)(f), scale - V(set)(1)); /* expm1(2x) */
    return e / (e + V(set)(2));
}

INLINE V(real) V(tanh)(V(real) x) { return V(tanh_scaled)(x * V(set)(2 * LOG2E)); }
