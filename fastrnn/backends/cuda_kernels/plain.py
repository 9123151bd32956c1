"""What a model has beside recurrent layers and products: activations, dropout, the mask of padding."""

from __future__ import annotations

import functools
import math
from typing import Any

from numba import cuda


@functools.cache
def scale_kernel() -> Any:
    @cuda.jit
    def scale(out, x, factors, count):
        e = cuda.grid(1)
        if e < count:
            out[e] = x[e] * factors[e]

    return scale


@functools.cache
def mask_kernel() -> Any:
    @cuda.jit
    def find_words(mask, ids, count):
        """Where ids are not 0, which is padding."""
        e = cuda.grid(1)
        if e < count:
            mask[e] = 1 if ids[e] != 0 else 0

    return find_words


# -- activations, each a row of `width` numbers: 1, or for softmax all that go together


@functools.cache
def activate_row(real: Any, name: str) -> Any:
    """The device function (y, z, at, width): y's row from z's, which may be the same memory."""
    zero, one = real(0), real(1)

    if name == "sigmoid":

        @cuda.jit(device=True)
        def activate(y, z, at, width):
            for k in range(at, at + width):
                e = real(math.exp(-abs(z[k])))
                y[k] = (one if z[k] >= zero else e) / (one + e)

    elif name == "tanh":

        @cuda.jit(device=True)
        def activate(y, z, at, width):
            for k in range(at, at + width):
                y[k] = real(math.tanh(z[k]))

    elif name == "relu":

        @cuda.jit(device=True)
        def activate(y, z, at, width):
            for k in range(at, at + width):
                y[k] = zero if z[k] < zero else z[k]  # NaN stays

    else:  # softmax

        @cuda.jit(device=True)
        def activate(y, z, at, width):
            top = z[at]
            for k in range(at + 1, at + width):
                top = max(top, z[k])
            total = zero
            for k in range(at, at + width):
                e = real(math.exp(z[k] - top))
                y[k] = e
                total += e
            for k in range(at, at + width):
                y[k] = y[k] / total

    return activate


@functools.cache
def activation_kernel(real: Any, name: str) -> Any:
    row = activate_row(real, name)

    @cuda.jit
    def activation(y, z, count, width):
        e = cuda.grid(1)
        if e < count:
            row(y, z, e * width, width)

    return activation


@functools.cache
def activation_gradient_kernel(real: Any, name: str) -> Any:
    zero, one = real(0), real(1)

    @cuda.jit
    def activation_gradient(dz, y, dy, count, width):
        e = cuda.grid(1)
        if e < count:
            at = e * width
            if name == "softmax":
                dot = zero
                for k in range(at, at + width):
                    dot += dy[k] * y[k]
                for k in range(at, at + width):
                    dz[k] = y[k] * (dy[k] - dot)
            elif name == "sigmoid":
                dz[e] = dy[e] * y[e] * (one - y[e])
            elif name == "tanh":
                dz[e] = dy[e] * (one - y[e] * y[e])
            else:
                dz[e] = dy[e] * (one if y[e] > zero else zero)

    return activation_gradient
