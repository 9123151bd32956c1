"""The end of a model, from the last output, or the input of a small Dense, to loss, metrics and gradient: one kernel.

Losses and metrics are those of fastrnn/training/losses.py and metrics.py; a thread has a row of predictions.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from numba import cuda

from .plain import activate_row
from .products import FLAT_THREADS

# Keras' backend.epsilon(): how near to 0 and 1 a probability may come before its logarithm is taken.
EPSILON = 1e-7


class Loss(NamedTuple):
    """Two device functions of a row (dz, z, y, row, width). `enter` gives the loss, and leaves predictions in dz where
    z are logits; `leave` makes of that the gradient."""

    enter: Any
    leave: Any


def _clip(real: Any) -> Any:
    low, high = real(EPSILON), real(1.0 - EPSILON)

    @cuda.jit(device=True)
    def clip(p):
        """p, kept off 0 and 1, and 1, or 0 where no gradient flows."""
        if p < low:
            return low, real(0)
        if p > high:
            return high, real(0)
        return p, real(1)

    return clip


def _log_sum(real: Any) -> Any:
    zero = real(0)

    @cuda.jit(device=True)
    def log_sum(z, at, width):
        """The largest of a row of logits, and the logarithm of the sum of exponentials relative to it."""
        top, total = z[at], zero
        for k in range(at + 1, at + width):
            top = max(top, z[k])
        for k in range(at, at + width):
            total += real(math.exp(z[k] - top))
        return top, real(math.log(total))

    return log_sum


def _distance(real: Any, squared: bool) -> Loss:
    zero, one = real(0), real(1)

    @cuda.jit(device=True)
    def enter(dz, z, y, row, width):
        total = zero
        for k in range(row * width, (row + 1) * width):
            d = z[k] - y[k]
            total += d * d if squared else abs(d)
        return total

    @cuda.jit(device=True)
    def leave(dz, z, y, row, width):
        for k in range(row * width, (row + 1) * width):
            d = z[k] - y[k]
            if squared:
                dz[k] = d + d
            else:
                dz[k] = one if d > zero else -one if d < zero else d * zero  # NaN stays

    return Loss(enter, leave)


def _binary(real: Any, from_logits: bool) -> Loss:
    zero, one = real(0), real(1)
    sigmoid, clip = activate_row(real, "sigmoid"), _clip(real)

    @cuda.jit(device=True)
    def enter(dz, z, y, row, width):
        total = zero
        for k in range(row * width, (row + 1) * width):
            if from_logits:
                total += real(math.log1p(math.exp(-abs(z[k])))) + max(z[k], zero) - z[k] * y[k]
            else:
                q, _ = clip(z[k])
                total -= y[k] * real(math.log(q)) + (one - y[k]) * real(math.log(one - q))
        if from_logits:
            sigmoid(dz, z, row * width, width)
        return total

    @cuda.jit(device=True)
    def leave(dz, z, y, row, width):
        for k in range(row * width, (row + 1) * width):
            if from_logits:
                dz[k] -= y[k]
            else:
                q, inside = clip(z[k])
                dz[k] = (q - y[k]) / (q * (one - q)) * inside

    return Loss(enter, leave)


def _categorical(real: Any, from_logits: bool) -> Loss:
    zero = real(0)
    softmax, clip, log_sum = activate_row(real, "softmax"), _clip(real), _log_sum(real)

    @cuda.jit(device=True)
    def enter(dz, z, y, row, width):
        total, scale, at = zero, zero, row * width
        if from_logits:
            top, scale = log_sum(z, at, width)
            for k in range(at, at + width):
                total -= y[k] * (z[k] - top - scale)
            softmax(dz, z, at, width)
        else:
            for k in range(at, at + width):
                scale += z[k]
            for k in range(at, at + width):
                q, _ = clip(z[k] / scale)
                total -= y[k] * real(math.log(q))
        return total

    @cuda.jit(device=True)
    def leave(dz, z, y, row, width):
        at = row * width
        if from_logits:
            for k in range(at, at + width):
                dz[k] -= y[k]
        else:
            scale, dot = zero, zero
            for k in range(at, at + width):
                scale += z[k]
            for k in range(at, at + width):
                q, inside = clip(z[k] / scale)
                dz[k] = -y[k] / q * inside
                dot += dz[k] * (z[k] / scale)
            for k in range(at, at + width):
                dz[k] = (dz[k] - dot) / scale

    return Loss(enter, leave)


def _sparse(real: Any, from_logits: bool) -> Loss:
    zero, one = real(0), real(1)
    softmax, clip, log_sum = activate_row(real, "softmax"), _clip(real), _log_sum(real)

    @cuda.jit(device=True)
    def enter(dz, z, y, row, width):
        scale, at = zero, row * width
        if from_logits:
            top, logarithm = log_sum(z, at, width)
            softmax(dz, z, at, width)
            return logarithm - (z[at + y[row]] - top)
        for k in range(at, at + width):
            q, _ = clip(z[k])
            scale += q
        q, _ = clip(z[at + y[row]])
        return -real(math.log(q / scale))

    @cuda.jit(device=True)
    def leave(dz, z, y, row, width):
        at = row * width
        if from_logits:
            dz[at + y[row]] -= one
        else:
            scale = zero
            for k in range(at, at + width):
                q, _ = clip(z[k])
                scale += q
            for k in range(at, at + width):
                q, inside = clip(z[k])
                share = q / scale
                if k == at + y[row]:
                    share -= one
                dz[k] = share / q * inside

    return Loss(enter, leave)


_LOSSES: dict[str, Any] = {
    "mean_squared_error": lambda real, from_logits: _distance(real, True),
    "mean_absolute_error": lambda real, from_logits: _distance(real, False),
    "binary_crossentropy": _binary,
    "categorical_crossentropy": _categorical,
    "sparse_categorical_crossentropy": _sparse,
}


# -- metrics


def _measure(real: Any, sparse: bool) -> Any:
    """The device function (kind, p, y, row, width): a row's sum for the metric, its place in METRICS."""
    zero, one, half = real(0), real(1), real(0.5)

    @cuda.jit(device=True)
    def largest(p, at, width):
        best = 0
        for k in range(1, width):
            if p[at + k] > p[at + best]:
                best = k
        return best

    if sparse:

        @cuda.jit(device=True)
        def measure(kind, p, y, row, width):
            return one if largest(p, row * width, width) == y[row] else zero

    else:

        @cuda.jit(device=True)
        def measure(kind, p, y, row, width):
            at = row * width
            if kind == 1:
                return one if largest(p, at, width) == largest(y, at, width) else zero
            total = zero
            for k in range(at, at + width):
                if kind == 0:
                    total += one if (one if p[k] > half else zero) == y[k] else zero
                else:
                    d = p[k] - y[k]
                    total += d * d if kind == 3 else abs(d)
            return total

    return measure


METRICS = (
    "binary_accuracy",
    "categorical_accuracy",
    "sparse_categorical_accuracy",
    "mean_squared_error",
    "mean_absolute_error",
)


class End(NamedTuple):
    """What the end's kernel is told beside arrays; all integers."""

    rows: int
    inputs: int  # of the Dense that it computes, if it does
    width: int  # of a row of predictions
    blocks: int  # of the largest batch
    at: int  # where this batch's results begin
    weighted: int
    masked: int
    biased: int


@functools.cache
def end_kernel(real: Any, loss: str, source: str, metrics: tuple[int, ...], dense: bool) -> Any:
    """The kernel. z (rows, width) are predictions, or logits where `source` is not "predictions"; where it is "linked",
    metrics see the logits' activation. With `dense`, z is x W + b, computed here, and so is x's gradient.

    It leaves dz, and in results (measures, blocks), from `at` on, each block's sums: of the loss, and of the metrics. A
    row's loss and gradient count `weights` times, and `valid` times where it is not masked, its gradient `share` times.
    """
    zero, from_logits = real(0), source != "predictions"
    enter, leave = _LOSSES[loss](real, from_logits)
    measure = _measure(real, loss == "sparse_categorical_crossentropy")
    sums = 1 + len(metrics)
    linked = source == "linked"
    kinds = metrics or (0,)

    @cuda.jit
    def end(size, dz, dx, results, z, x, W, b, y, weights, mask, valid, share):
        parts = cuda.shared.array((sums, FLAT_THREADS), real)
        thread, row = cuda.threadIdx.x, cuda.grid(1)
        width = size.width
        for k in range(sums):
            parts[k, thread] = zero
        if row < size.rows:
            at = row * width
            if dense:
                for c in range(width):
                    total = b[c] if size.biased else zero
                    for i in range(size.inputs):
                        total += x[row * size.inputs + i] * W[i * width + c]
                    z[at + c] = total
            counts = not size.masked or mask[row] != 0
            weight = valid if counts else zero
            if size.weighted:
                weight *= weights[row]
            parts[0, thread] = enter(dz, z, y, row, width) * weight
            if counts:
                for k in range(1, sums):
                    parts[k, thread] = measure(kinds[k - 1], dz if linked else z, y, row, width)
            leave(dz, z, y, row, width)
            for c in range(width):
                dz[at + c] *= weight * share
            if dense:
                for i in range(size.inputs):
                    total = zero
                    for c in range(width):
                        total += dz[at + c] * W[i * width + c]
                    dx[row * size.inputs + i] = total
        step = FLAT_THREADS // 2
        while step > 0:
            cuda.syncthreads()
            if thread < step:
                for k in range(sums):
                    parts[k, thread] += parts[k, thread + step]
            step //= 2
        if thread == 0:
            for k in range(sums):
                results[size.at + k * size.blocks + cuda.blockIdx.x] = parts[k, 0]

    return end


def codes(names: tuple[str, ...]) -> tuple[int, ...]:
    """Metrics as `end_kernel` knows them."""
    return tuple(METRICS.index(name) for name in names)
