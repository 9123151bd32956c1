"""Optimizer steps over a flat array of parameters: the rules of fastrnn/training/optimizers.py, and clipping."""

from __future__ import annotations

import functools
import math
from typing import Any

from numba import cuda

from .products import FLAT_THREADS


@functools.cache
def norm_kernel(real: Any, whole: bool) -> Any:
    """The kernel: a block for each variable finds what its gradient is to be scaled with. `whole`: there is but one,
    of all parameters, and a gradient that is not finite makes the step NaN."""
    zero, nan = real(0), real(math.nan)

    @cuda.jit
    def norms(scales, g, ends, limit):
        parts = cuda.shared.array(FLAT_THREADS, real)
        thread, variable = cuda.threadIdx.x, cuda.blockIdx.x
        total = zero
        for e in range(ends[variable] + thread, ends[variable + 1], FLAT_THREADS):
            total += g[e] * g[e]
        parts[thread] = total
        step = FLAT_THREADS // 2
        while step > 0:
            cuda.syncthreads()
            if thread < step:
                parts[thread] += parts[thread + step]
            step //= 2
        if thread == 0:
            norm = real(math.sqrt(parts[0]))
            scale = limit / (limit if norm <= limit else norm)
            scales[variable] = nan if whole and not math.isfinite(norm) else scale

    return norms


@functools.cache
def update_kernel(real: Any, rule: str, has_m: bool, has_a: bool, nesterov: bool, clip: str | None) -> Any:
    """The kernel. m, v and a are the slots of the contract's `optimize`, looked at where the rule has them; `rest_1` is
    1 - beta_1, `limit` that of clipping by value."""
    zero, nan = real(0), real(math.nan)
    by_value, by_norm = clip == "value", clip in ("norm", "global_norm")

    @cuda.jit
    def update(w, g, m, v, a, scales, ends, count, rate, beta_1, beta_2, rest_1, rest_2, epsilon, limit):
        e = cuda.grid(1)
        if e >= count:
            return
        d = g[e]
        if by_value:
            d = limit if d > limit else -limit if d < -limit else d  # NaN stays
        if by_norm:
            variable = 0
            while e >= ends[variable + 1]:
                variable += 1
            d *= scales[variable]
        if rule == "sgd":
            step = d * rate
            if has_m:
                m[e] = m[e] * beta_1 - step
                w[e] += m[e] * beta_1 - step if nesterov else m[e]
            else:
                w[e] -= step
        elif rule == "rmsprop":
            v[e] = v[e] * beta_2 + d * d * rest_2
            under = v[e] + epsilon
            if has_a:
                a[e] = a[e] * beta_2 + d * rest_2
                under = v[e] - a[e] * a[e] + epsilon
            step = d * rate / (real(math.sqrt(under)) if under >= zero else nan)
            if has_m:
                m[e] = m[e] * beta_1 + step
                step = m[e]
            w[e] -= step
        else:
            m[e] += (d - m[e]) * rest_1
            v[e] += (d * d - v[e]) * rest_2
            under = v[e]
            if has_a:
                if not a[e] >= v[e]:
                    a[e] = v[e]
                under = a[e]
            w[e] -= m[e] * rate / (real(math.sqrt(under)) + epsilon)

    return update
