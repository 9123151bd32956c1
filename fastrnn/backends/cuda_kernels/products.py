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
# In one launch: what the kernel is told of them must fit into 4 KB.
MOST_PRODUCTS = 6


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

    @property
    def size(self) -> int:
        """Of one group's."""
        return self.B * self.F


class Rows(NamedTuple):
    """The left factor: a matrix of rows, from a table where there are ids, under masks where there are some, and
    transposed where `turned`."""

    matrix: Matrix
    ids: Any = None
    masks: Masks | None = None
    turned: bool = False


class Product(NamedTuple):
    """c (M, N), of adjacent columns, = a (M, K) b (K, N) + bias, for each group; shape is (M, N, K).

    With `c_masks`, c is one matrix: the sum over the groups of their products under their masks. `sums` is where, from
    where c begins, the sums over b's rows go, for each group. `split` lets blocks share the sum over a long K; then the
    order of a sum depends on what else is launched too.
    """

    c: Matrix
    a: Rows
    b: Matrix
    shape: tuple[int, int, int]
    bias: Any = None
    groups: int = 1
    sums: int | None = None
    c_masks: Masks | None = None
    split: bool = False


class Sizes(NamedTuple):
    """What the kernel is told of a product beside arrays; all integers, flags 0 or 1."""

    first: int  # of its blocks
    down: int  # tiles of c
    across: int
    M: int
    N: int
    K: int
    layers: int
    depth: int  # how much of K a layer sums
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


class Sum(NamedTuple):
    """What the kernel that adds parts up is told of a product: c as above, and its parts (groups, parts, M, N)."""

    first: int  # of its threads
    M: int
    N: int
    parts: int
    ones: int
    c_row: int
    c_at: int
    c_group: int
    c_ones: int
    parts_at: int


@functools.cache
def _product_kernel(real: Any) -> Any:
    zero, one = real(0), real(1)
    side, edge = SIDE, SIDE * TILE

    @cuda.jit
    def product(sizes, c, bias, a_s, ids_s, masks, b_s):
        a_tile = cuda.shared.array((DEPTH, edge), real)
        b_tile = cuda.shared.array((DEPTH, edge), real)
        sums = cuda.local.array((TILE, TILE), real)
        thread, which = cuda.threadIdx.x, 0
        while which + 1 < len(sizes) and cuda.blockIdx.x >= sizes[which + 1].first:
            which += 1
        size, a, ids, mask, b = sizes[which], a_s[which], ids_s[which], masks[which], b_s[which]
        block = cuda.blockIdx.x - size.first
        m0, n0 = block % size.down * edge, block // size.down % size.across * edge
        layer = block // (size.down * size.across)
        # each layer sums its own part of K, for one group
        group = layer // size.layers
        k_first = layer % size.layers * size.depth
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
                    c[size.c_at + layer * size.c_layer + row + n] = total

    return product


@functools.cache
def _sum_kernel(real: Any) -> Any:
    @cuda.jit
    def sum_parts(sums, c, parts, total):
        e, which = cuda.grid(1), 0
        if e < total:
            while which + 1 < len(sums) and e >= sums[which + 1].first:
                which += 1
            size = sums[which]
            e -= size.first
            each = size.M * size.N
            group, m, n = e // each, e // size.N % size.M, e % size.N
            at = size.parts_at + group * size.parts * each + m * size.N + n
            value = parts[at]
            for part in range(1, size.parts):
                value += parts[at + part * each]
            row = size.c_ones if m == size.ones else m * size.c_row
            c[size.c_at + group * size.c_group + row + n] = value

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


def multiply(device: Device, *products: Product) -> None:
    """Carries products out that go into one array, in one launch and, where some are split, another that adds up. At
    most one of them has a bias."""
    if cupy is not None:
        for product in products:
            _multiply_by_cupy(device, product)
        return
    for first in range(0, len(products), MOST_PRODUCTS):
        _launch(device, products[first : first + MOST_PRODUCTS])


def _launch(device: Device, products: tuple[Product, ...]) -> None:
    c, edge = products[0].c.array, SIDE * TILE
    tiles = [(-(-(p.shape[0] + (p.sums is not None)) // edge), -(-p.shape[1] // edge)) for p in products]
    blocks = sum(down * across * p.groups for (down, across), p in zip(tiles, products, strict=True))
    layers = []
    for product in products:
        K = product.shape[2]
        wanted = max(1, min(-(-K // 256), 2 * device.processors // blocks)) if product.split else 1
        layers.append(max(1, -(-K // max(1, -(-K // wanted)))))
    direct = all(k * (1 if p.c_masks is None else p.groups) == 1 for k, p in zip(layers, products, strict=True))

    sizes: list[Sizes] = []
    sums: list[Sum] = []
    blocks = threads = parts_size = 0
    for product, (down, across), k in zip(products, tiles, layers, strict=True):
        (M, N, K), to, of_a, of_b, groups = product.shape, product.c, product.a.matrix, product.b, product.groups
        ones = -1 if product.sums is None else M
        M += product.sums is not None
        masks = product.a.masks or product.c_masks
        there = (to.row, to.at, to.group, product.sums or 0) if direct else (N, parts_size, M * N, ones * N)
        sizes.append(
            Sizes(
                *(blocks, down, across, M, N, K, k, max(1, -(-K // k)), ones, *there),
                *(of_a.row, of_a.column, of_a.at, of_a.group, int(product.a.turned), int(product.a.ids is not None)),
                *(int(product.a.masks is not None), int(product.c_masks is not None)),
                *((0, 0, 1, 1) if masks is None else (masks.first * masks.size, masks.size, masks.F, masks.T)),
                *(of_b.row, of_b.column, of_b.at, of_b.group, int(product.bias is not None)),
            )
        )
        added = 1 if product.c_masks is None else groups  # groups that become one matrix
        sums.append(Sum(threads, M, N, k * added, ones, to.row, to.at, to.group, product.sums or 0, parts_size))
        blocks += down * across * k * groups
        threads += groups // added * M * N
        parts_size += groups * k * M * N
    # in place of arrays that are not there, some that the kernel does not look at
    ids = next((p.a.ids for p in products if p.a.ids is not None), None)
    if ids is None:
        ids = device.empty(1, np.int32)
    bias = next((p.bias for p in products if p.bias is not None), c)
    masked = [p.a.masks or p.c_masks for p in products]
    target = c if direct else device.empty(parts_size, c.dtype)
    device.launch(
        _product_kernel(c.dtype.type),
        *(blocks, SIDE * SIDE),
        *(tuple(sizes), target, bias),
        tuple(p.a.matrix.array for p in products),
        tuple(ids if p.a.ids is None else p.a.ids for p in products),
        tuple(c if masks is None else masks.array for masks in masked),
        tuple(p.b.array for p in products),
    )
    if not direct:
        device.launch(_sum_kernel(c.dtype.type), *flat(threads), tuple(sums), c, target, threads)


def _multiply_by_cupy(device: Device, product: Product) -> None:
    c, a, b, (M, N, K), bias, groups, sums, c_masks, _ = product
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
    first = (masks.first + group) * masks.size
    return cupy.asarray(masks.array)[first : first + masks.size].reshape(masks.B, 1, masks.F)


def transpose(device: Device, a: Any, rows: int, columns: int, at: int = 0) -> Any:
    """The flat array of a (rows, columns), which begins at `at`, transposed."""
    out = device.empty(rows * columns, a.dtype)
    device.launch(_transpose_kernel(a.dtype.type), *flat(rows * columns), out, a, at, rows, columns)
    return out
