"""What goes over whole arrays outside the recurrence: matrix products, sums, dropout masks, a transposition.

A product is cuBLAS' where CuPy is installed, else that of a tiled kernel. Neither adds in an order that varies.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from .device import SIMULATED, Device, cupy

# A block of the product is SIDE x SIDE threads with TILE x TILE sums each. The simulator has a system thread for each.
SIDE = 2 if SIMULATED else 16
TILE = 4
DEPTH = 16
# A thread of the kernels that go over an array has one of its numbers.
FLAT_THREADS = 8 if SIMULATED else 256


class Matrix(NamedTuple):
    """A matrix within a flat array: where it begins, and how far apart its rows and its columns are."""

    array: Any
    row: int
    column: int = 1
    at: int = 0

    @property
    def T(self) -> Matrix:  # noqa: N802 - NumPy's name
        return self._replace(row=self.column, column=self.row)


@functools.cache
def _product_kernel(real: Any) -> Any:
    zero = real(0)
    side, edge = SIDE, SIDE * TILE

    @cuda.jit
    def product(c, c_row, c_at, a, a_row, a_column, a_at, b, b_row, b_column, b_at, bias, biased, M, N, K, depth):
        a_tile = cuda.shared.array((DEPTH, edge), real)
        b_tile = cuda.shared.array((DEPTH, edge), real)
        sums = cuda.local.array((TILE, TILE), real)
        thread = cuda.threadIdx.x
        m0, n0 = cuda.blockIdx.x * edge, cuda.blockIdx.y * edge
        # each layer of the grid sums its own part of K
        k_first = cuda.blockIdx.z * depth
        k_last = min(k_first + depth, K)
        x, y = thread % side, thread // side
        for i in range(TILE):
            for j in range(TILE):
                sums[i, j] = zero
        for k0 in range(k_first, k_last, DEPTH):
            for e in range(thread, DEPTH * edge, side * side):
                # neighbours among the threads read neighbours in memory, whichever way the matrix lies
                k, m = (e % DEPTH, e // DEPTH) if a_column == 1 else (e // edge, e % edge)
                inside = m0 + m < M and k0 + k < k_last
                a_tile[k, m] = a[a_at + (m0 + m) * a_row + (k0 + k) * a_column] if inside else zero
            for e in range(thread, DEPTH * edge, side * side):
                k, n = (e // edge, e % edge) if b_column == 1 else (e % DEPTH, e // DEPTH)
                inside = n0 + n < N and k0 + k < k_last
                b_tile[k, n] = b[b_at + (k0 + k) * b_row + (n0 + n) * b_column] if inside else zero
            cuda.syncthreads()
            for k in range(DEPTH):
                for i in range(TILE):
                    value = a_tile[np.uint64(k), np.uint64(y + i * side)]
                    for j in range(TILE):
                        sums[i, j] += value * b_tile[np.uint64(k), np.uint64(x + j * side)]
            cuda.syncthreads()
        for i in range(TILE):
            m = m0 + y + i * side
            for j in range(TILE):
                n = n0 + x + j * side
                if m < M and n < N:
                    total = sums[i, j] + bias[n] if biased else sums[i, j]
                    c[c_at + (cuda.blockIdx.z * M + m) * c_row + n] = total

    return product


@functools.cache
def _sum_kernel(real: Any) -> Any:
    @cuda.jit
    def sum_parts(c, c_row, c_at, parts, count, M, N):
        e = cuda.grid(1)
        if e < M * N:
            total = parts[e]
            for part in range(1, count):
                total += parts[part * M * N + e]
            c[c_at + e // N * c_row + e % N] = total

    return sum_parts


@functools.cache
def _columns_kernel(real: Any) -> Any:
    zero = real(0)

    @cuda.jit
    def sum_columns(parts, a, a_row, a_at, rows, columns, depth):
        n, first = cuda.grid(1), cuda.blockIdx.y * depth
        if n < columns:
            total = zero
            for k in range(first, min(first + depth, rows)):
                total += a[a_at + k * a_row + n]
            parts[cuda.blockIdx.y * columns + n] = total

    return sum_columns


@functools.cache
def _mask_kernel(real: Any) -> Any:
    @cuda.jit
    def apply_mask(out, x, mask, mask_at, T, F, count, add):
        e = cuda.grid(1)
        if e < count:
            value = x[e] * mask[mask_at + e // (T * F) * F + e % F]
            out[e] = out[e] + value if add else value

    return apply_mask


@functools.cache
def _transpose_kernel(real: Any) -> Any:
    @cuda.jit
    def transpose(out, a, rows, columns):
        e = cuda.grid(1)
        if e < rows * columns:
            out[e] = a[e % rows * columns + e // rows]

    return transpose


def _flat(count: int) -> tuple[int, int]:
    return -(-count // FLAT_THREADS), FLAT_THREADS


def multiply(
    device: Device, c: Matrix, a: Matrix, b: Matrix, M: int, N: int, K: int, bias: Any = None, *, split: bool = False
) -> None:
    """c (M, N), of adjacent columns, = a (M, K) b (K, N) + bias. `split` lets blocks share the sum over a long K; then
    the order of a sum depends on M and N too."""
    dtype = c.array.dtype
    if cupy is not None:
        with cupy.cuda.ExternalStream(device.stream_pointer):
            got = cupy.matmul(_cupy_view(a, M, K), _cupy_view(b, K, N))
            _cupy_view(c, M, N)[...] = got if bias is None else got + cupy.asarray(bias)
        return
    edge = SIDE * TILE
    across, down = -(-N // edge), -(-M // edge)
    layers = max(1, min(-(-K // 256), 2 * device.processors // (across * down))) if split else 1
    depth = -(-K // layers)
    layers = -(-K // depth)
    parts = c if layers == 1 else Matrix(device.empty(layers * M * N, dtype), N)
    device.launch(
        _product_kernel(dtype.type),
        (down, across, layers),
        SIDE * SIDE,
        *(parts.array, parts.row, parts.at),
        *(a.array, a.row, a.column, a.at),
        *(b.array, b.row, b.column, b.at),
        *(a.array if bias is None else bias, int(bias is not None)),
        *(M, N, K, depth),
    )
    if layers > 1:
        device.launch(_sum_kernel(dtype.type), *_flat(M * N), c.array, c.row, c.at, parts.array, layers, M, N)


def _cupy_view(matrix: Matrix, rows: int, columns: int) -> Any:
    flat = cupy.asarray(matrix.array)[matrix.at :]
    strides = (matrix.row * flat.itemsize, matrix.column * flat.itemsize)
    return cupy.lib.stride_tricks.as_strided(flat, (rows, columns), strides)


def sum_rows(device: Device, c: Matrix, a: Matrix, rows: int, columns: int) -> None:
    """c (columns) = the sum of a's rows; both have adjacent columns."""
    real: Any = a.array.dtype.type
    across, threads = _flat(columns)
    layers = max(1, min(-(-rows // 32), 4 * device.processors // across))
    depth = -(-rows // layers)
    layers = -(-rows // depth)
    parts = device.empty(layers * columns, a.array.dtype)
    device.launch(_columns_kernel(real), (across, layers), threads, parts, a.array, a.row, a.at, rows, columns, depth)
    device.launch(_sum_kernel(real), across, threads, c.array, columns, c.at, parts, layers, 1, columns)


def apply_mask(device: Device, x: Any, mask: Any, gate: int, shape: tuple[int, int, int], out: Any, add: bool) -> None:
    """out (B, T, F) = or += x * the gate's (B, F) of mask."""
    B, T, F = shape
    count = B * T * F
    device.launch(_mask_kernel(x.dtype.type), *_flat(count), out, x, mask, gate * B * F, T, F, count, int(add))


def transpose(device: Device, a: Any, rows: int, columns: int) -> Any:
    """The flat array of a (rows, columns) transposed."""
    out = device.empty(rows * columns, a.dtype)
    device.launch(_transpose_kernel(a.dtype.type), *_flat(rows * columns), out, a, rows, columns)
    return out
