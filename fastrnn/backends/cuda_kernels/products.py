"""Matrix products outside the recurrence, and a transposition.

A product is cuBLAS' where CuPy is installed, else that of a tiled kernel. Neither adds in an order that varies. What
goes with a product is done on its way: rows looked up by token ids, dropout masks, a bias, and the sums that are a
bias' gradient. So a layer's gradients take few launches.
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
    """A matrix within a flat array: where it begins, how far apart its rows and its columns are, and how far from it
    the next group's is: groups of a layer's gates have products of their own where each gate has a dropout mask."""

    array: Any
    row: int
    column: int = 1
    at: int = 0
    group: int = 0

    @property
    def T(self) -> Matrix:  # noqa: N802 - NumPy's name
        return self._replace(row=self.column, column=self.row)


class Masks(NamedTuple):
    """Dropout masks (groups, B, F) for rows (B * T, F), a sample's mask being that of all its time steps."""

    array: Any
    T: int
    B: int
    F: int
    first: int = 0  # the first group's


class Rows(NamedTuple):
    """The left factor: a matrix of rows, from a table where there are ids, under masks where there are some, and
    transposed where `turned`."""

    matrix: Matrix
    ids: Any = None
    masks: Masks | None = None
    turned: bool = False


class Sizes(NamedTuple):
    """What the kernel is told beside arrays; all integers, flags 0 or 1. c, a and b are as in `multiply`."""

    M: int
    N: int
    K: int
    depth: int  # how much of K a layer of the grid sums
    layers: int
    ones: int  # the row of c that is b's sums, -1 for none
    c_row: int
    c_at: int
    c_layer: int
    c_ones: int  # where that row is, from the beginning of a layer
    a_row: int
    a_column: int
    a_at: int
    a_group: int
    turned: int
    looked_up: int
    a_masked: int
    c_masked: int
    mask_at: int
    mask_group: int
    mask_width: int
    mask_time: int
    b_row: int
    b_column: int
    b_at: int
    b_group: int
    biased: int


@functools.cache
def _product_kernel(real: Any) -> Any:
    zero, one = real(0), real(1)
    side, edge = SIDE, SIDE * TILE

    @cuda.jit
    def product(size, c, a, ids, mask, b, bias):
        a_tile = cuda.shared.array((DEPTH, edge), real)
        b_tile = cuda.shared.array((DEPTH, edge), real)
        sums = cuda.local.array((TILE, TILE), real)
        thread = cuda.threadIdx.x
        m0, n0 = cuda.blockIdx.x * edge, cuda.blockIdx.y * edge
        # each layer of the grid sums its own part of K, for one group
        group = cuda.blockIdx.z // size.layers
        k_first = cuda.blockIdx.z % size.layers * size.depth
        k_last = min(k_first + size.depth, size.K)
        a_at, b_at = size.a_at + group * size.a_group, size.b_at + group * size.b_group
        mask_at = size.mask_at + group * size.mask_group
        x, y = thread % side, thread // side
        for i in range(TILE):
            for j in range(TILE):
                sums[i, j] = zero
        for k0 in range(k_first, k_last, DEPTH):
            for e in range(thread, DEPTH * edge, side * side):
                # neighbours among the threads read neighbours in memory, whichever way the matrix lies
                k, m = (e // edge, e % edge) if size.turned else (e % DEPTH, e // DEPTH)
                value = zero
                if m0 + m < size.M and k0 + k < k_last:
                    r, f = (k0 + k, m0 + m) if size.turned else (m0 + m, k0 + k)
                    if m0 + m == size.ones:
                        value = one
                    else:
                        value = a[a_at + (ids[r] if size.looked_up else r) * size.a_row + f * size.a_column]
                        if size.a_masked:
                            value *= mask[mask_at + r // size.mask_time * size.mask_width + f]
                a_tile[k, m] = value
            for e in range(thread, DEPTH * edge, side * side):
                k, n = (e // edge, e % edge) if size.b_column == 1 else (e % DEPTH, e // DEPTH)
                inside = n0 + n < size.N and k0 + k < k_last
                b_tile[k, n] = b[b_at + (k0 + k) * size.b_row + (n0 + n) * size.b_column] if inside else zero
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
                if m < size.M and n < size.N:
                    total = sums[i, j]
                    if size.biased:
                        total += bias[group * size.N + n]
                    if size.c_masked:
                        total *= mask[mask_at + m // size.mask_time * size.mask_width + n]
                    row = size.c_ones if m == size.ones else m * size.c_row
                    c[size.c_at + cuda.blockIdx.z * size.c_layer + row + n] = total

    return product


@functools.cache
def _sum_kernel(real: Any) -> Any:
    @cuda.jit
    def sum_parts(c, c_row, c_at, c_group, ones, c_ones, parts, count, M, N, groups):
        e = cuda.grid(1)
        if e < groups * M * N:
            group, m, n = e // (M * N), e // N % M, e % N
            first = group * count * M * N + m * N + n
            total = parts[first]
            for part in range(1, count):
                total += parts[first + part * M * N]
            c[c_at + group * c_group + (c_ones if m == ones else m * c_row) + n] = total

    return sum_parts


@functools.cache
def _transpose_kernel(real: Any) -> Any:
    @cuda.jit
    def transpose(out, a, at, rows, columns):
        e = cuda.grid(1)
        if e < rows * columns:
            out[e] = a[at + e % rows * columns + e // rows]

    return transpose


def flat(count: int) -> tuple[int, int]:
    """Blocks and threads to go over `count` things, none included."""
    return max(1, -(-count // FLAT_THREADS)), FLAT_THREADS


def multiply(
    device: Device,
    c: Matrix,
    a: Rows,
    b: Matrix,
    shape: tuple[int, int, int],
    bias: Any = None,
    *,
    groups: int = 1,
    sums: int | None = None,
    c_masks: Masks | None = None,
    split: bool = False,
) -> None:
    """c (M, N), of adjacent columns, = a (M, K) b (K, N) + bias, for each group; shape is (M, N, K).

    With `c_masks`, c is one matrix: the sum over the groups of their products under their masks. `sums` is where in c's
    array, from where c begins, the sums over b's rows go, for each group. `split` lets blocks share the sum over a long
    K; then the order of a sum depends on M and N too.
    """
    if cupy is not None:
        _multiply_by_cupy(device, c, a, b, shape, bias, groups, sums, c_masks)
        return
    (M, N, K), dtype = shape, c.array.dtype
    ones = -1 if sums is None else M
    M += sums is not None
    edge = SIDE * TILE
    across, down = -(-N // edge), -(-M // edge)
    layers = max(1, min(-(-K // 256), 2 * device.processors // (across * down * groups))) if split else 1
    depth = max(1, -(-K // layers))
    layers = max(1, -(-K // depth))
    added = groups if c_masks is not None else 1  # groups that become one matrix
    direct = layers * added == 1
    to = c if direct else Matrix(device.empty(layers * groups * M * N, dtype), N, group=M * N)
    masks = a.masks or c_masks
    of_a = a.matrix
    nothing = device.empty(1, np.int32) if a.ids is None else a.ids
    size = Sizes(
        **dict(M=M, N=N, K=K, depth=depth, layers=layers, ones=ones),
        **dict(c_row=to.row, c_at=to.at, c_layer=to.group, c_ones=(sums or 0) if direct else ones * N),
        **dict(a_row=of_a.row, a_column=of_a.column, a_at=of_a.at, a_group=of_a.group),
        **dict(turned=int(a.turned), looked_up=int(a.ids is not None)),
        **dict(a_masked=int(a.masks is not None), c_masked=int(c_masks is not None)),
        mask_at=0 if masks is None else masks.first * masks.B * masks.F,
        mask_group=0 if masks is None else masks.B * masks.F,
        mask_width=1 if masks is None else masks.F,
        mask_time=1 if masks is None else masks.T,
        **dict(b_row=b.row, b_column=b.column, b_at=b.at, b_group=b.group),
        biased=int(bias is not None),
    )
    # in place of an array that is not there, one that the kernel does not look at
    arrays = (to.array, of_a.array, nothing, b.array if masks is None else masks.array, b.array)
    kernel = _product_kernel(dtype.type)
    device.launch(
        kernel, (down, across, layers * groups), SIDE * SIDE, size, *arrays, b.array if bias is None else bias
    )
    if not direct:
        kept = groups // added
        ends = (c.array, c.row, c.at, c.group, ones, sums or 0, to.array, layers * added, M, N, kept)
        device.launch(_sum_kernel(dtype.type), *flat(kept * M * N), *ends)


def _multiply_by_cupy(
    device: Device,
    c: Matrix,
    a: Rows,
    b: Matrix,
    shape: tuple[int, int, int],
    bias: Any,
    groups: int,
    sums: int | None,
    c_masks: Masks | None,
) -> None:
    M, N, K = shape
    rows, columns = (K, M) if a.turned else (M, K)
    with cupy.cuda.ExternalStream(device.stream_pointer):
        for g in range(groups):
            if a.ids is None:
                left = _view(a.matrix, g, rows, columns)
            else:
                left = _view(a.matrix, g, a.matrix.array.size // a.matrix.row, columns)[cupy.asarray(a.ids)]
            if a.masks is not None:
                left = (left.reshape(-1, a.masks.T, columns) * _mask_view(a.masks, g)).reshape(rows, columns)
            right, out = _view(b, g, K, N), _view(c, 0 if c_masks else g, M, N)
            got = cupy.matmul(left.T if a.turned else left, right)
            if bias is not None:
                got = got + cupy.asarray(bias)[g * N : (g + 1) * N]
            if c_masks is not None:
                got = (got.reshape(-1, c_masks.T, N) * _mask_view(c_masks, g)).reshape(M, N)
            out[...] = got if c_masks is None or g == 0 else out + got
            if sums is not None:
                _view(c._replace(at=c.at + sums), g, 1, N)[...] = right.sum(axis=0)


def _view(matrix: Matrix, group: int, rows: int, columns: int) -> Any:
    array = cupy.asarray(matrix.array)[matrix.at + group * matrix.group :]
    strides = (matrix.row * array.itemsize, matrix.column * array.itemsize)
    return cupy.lib.stride_tricks.as_strided(array, (rows, columns), strides)


def _mask_view(masks: Masks, group: int) -> Any:
    """(B, 1, F)"""
    size = masks.B * masks.F
    first = (masks.first + group) * size
    return cupy.asarray(masks.array)[first : first + size].reshape(masks.B, 1, masks.F)


def transpose(device: Device, a: Any, rows: int, columns: int, at: int = 0) -> Any:
    """The flat array of a (rows, columns), which begins at `at`, transposed."""
    out = device.empty(rows * columns, a.dtype)
    device.launch(_transpose_kernel(a.dtype.type), *flat(rows * columns), out, a, at, rows, columns)
    return out
