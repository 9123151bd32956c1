"""tanh and sigmoid on vectors: csrc/vmath.h in Numba, with its coefficients and its bounds.

From one core: e^y = 2^n (1 + m) with y = n ln 2 + r, |r| <= ln 2 / 2, m = expm1(r) = r + r^2 q(r). tanh goes through
expm1, so it keeps its relative accuracy near zero; sigmoid goes through exp, so it keeps it for very negative x.
"""

from __future__ import annotations

from numba import njit, types
from numba.extending import overload

from .vectors import clamp, fma, power_of_two

LOG2E = 1.442695040888963407


def _exp_parts(y):
    """2^n and m, with e^y = 2^n (1 + m), for y within the limits of `_sigmoid` and `_tanh`."""


@overload(_exp_parts)
def _exp_parts_of(y):
    if y.dtype is types.float32:

        def parts32(y):
            magic = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest whole number in the low bits
            shifted = fma(y, LOG2E, magic)
            n = shifted - magic
            r = fma(n, -1.428606820309417e-6, fma(n, -0.693145751953125, y))
            q = fma(r, 0.0013946471823713328971, 0.008366598092909300402)
            q = fma(q, r, 0.041666281874621427436)
            q = fma(q, r, 0.1666654292411188657)
            q = fma(q, r, 0.50000000618790144664)
            return power_of_two(shifted), fma(r * r, q, r)

        return parts32

    def parts64(y):
        magic = 6755399441055744.0
        shifted = fma(y, LOG2E, magic)
        n = shifted - magic
        r = fma(n, -1.9082149292705877e-10, fma(n, -0.6931471803691238165, y))
        q = fma(r, 2.5114490644108182341e-8, 2.7626338867141220026e-7)
        q = fma(q, r, 2.7557227917148282314e-6)
        q = fma(q, r, 0.000024801504437548850513)
        q = fma(q, r, 0.00019841269903047059759)
        q = fma(q, r, 0.0013888888932359827478)
        q = fma(q, r, 0.0083333333333145973767)
        q = fma(q, r, 0.041666666666573805805)
        q = fma(q, r, 0.16666666666666685965)
        q = fma(q, r, 0.50000000000000055155)
        return power_of_two(shifted), fma(r * r, q, r)

    return parts64


def _kept(y):
    """y, kept where e^y is a normal number."""


@overload(_kept)
def _kept_of(y):
    if y.dtype is types.float32:
        return lambda y: clamp(y, -87.3, 88.37)
    return lambda y: clamp(y, -708.3, 709.43)


@njit(error_model="numpy")
def sigmoid(x):
    scale, m = _exp_parts(_kept(-x))
    return 1 / (fma(scale, m, scale) + 1)


@njit(error_model="numpy")
def tanh(x):
    scale, m = _exp_parts(clamp(x + x, -40, 40))  # tanh is 1 from 20 on
    e = fma(scale, m, scale - 1)  # expm1(2 x)
    return e / (e + 2)
