"""The lookup by token ids and its gradient.

The gradient of a table's row is a sum over the places where its id stands. They are brought into order first, by
counting: an id's place is the number of ids below it, and of equal ones before it. So the sum has one order; atomic
operations count integers alone. One block orders a batch, in work that grows with its ids and the table's rows.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from .device import SIMULATED, Device

# Ids that a block orders together, and a row's columns times the parts of its sum.
CHUNK = 4 if SIMULATED else 256
COLUMNS, PARTS = (2, 2) if SIMULATED else (16, 16)
# Counters of ids that blocks may have together.
MOST_PLACES = 1 << 25


@functools.cache
def _find_kernel() -> Any:
    @cuda.jit
    def find_bad(bad, ids, count, rows):
        e = cuda.grid(1)
        # many threads may write, but they write the same
        if e < count and (ids[e] < 0 or ids[e] >= rows):
            bad[0] = 1

    return find_bad


@functools.cache
def _gather_kernel(real: Any) -> Any:
    @cuda.jit
    def gather(out, table, ids, count, width):
        e = cuda.grid(1)
        if e < count:
            out[e] = table[ids[e // width] * width + e % width]

    return gather


@functools.cache
def _sort_kernel() -> Any:
    @cuda.jit
    def sort(order, sorted_ids, places, ids, total, size, batches, rows):
        chunk = cuda.shared.array(CHUNK, np.int64)
        thread, at = cuda.threadIdx.x, cuda.blockIdx.x * rows
        each = (rows + CHUNK - 1) // CHUNK
        low, high = at + min(thread * each, rows), at + min((thread + 1) * each, rows)
        for batch in range(cuda.blockIdx.x, batches, cuda.gridDim.x):
            start = batch * size
            count = min(size, total - start)
            # how often each id stands there, and from that where the first of them goes
            for row in range(low, high):
                places[row] = 0
            cuda.syncthreads()
            for e in range(thread, count, CHUNK):
                cuda.atomic.add(places, at + ids[start + e], 1)
            cuda.syncthreads()
            here = 0
            for row in range(low, high):
                here += places[row]
            chunk[thread] = here
            cuda.syncthreads()
            place = start
            for k in range(thread):
                place += chunk[k]
            for row in range(low, high):
                here = places[row]
                places[row] = place
                place += here
            cuda.syncthreads()
            for first in range(0, count, CHUNK):
                e = first + thread
                mine = -1
                if e < count:
                    mine = ids[start + e]
                chunk[thread] = mine
                cuda.syncthreads()
                last = True
                if e < count:
                    place = places[at + mine]
                    for k in range(thread):
                        if chunk[k] == mine:
                            place += 1
                    for k in range(thread + 1, CHUNK):
                        if chunk[k] == mine:
                            last = False
                    order[place] = e
                    sorted_ids[place] = mine
                cuda.syncthreads()
                if e < count and last:
                    places[at + mine] = place + 1
                cuda.syncthreads()

    return sort


@functools.cache
def _segments_kernel(real: Any) -> Any:
    zero = real(0)

    @cuda.jit
    def sum_segments(out, dy, order, sorted_ids, start, count, width):
        """A block sums one row's gradient, COLUMNS at a time, in PARTS parts."""
        parts = cuda.shared.array((PARTS, COLUMNS), real)
        row = cuda.blockIdx.x
        column, part = cuda.threadIdx.x % COLUMNS, cuda.threadIdx.x // COLUMNS
        low, high = start, start + count
        while low < high:
            middle = (low + high) // 2
            if sorted_ids[middle] < row:
                low = middle + 1
            else:
                high = middle
        for d0 in range(0, width, COLUMNS):
            d = d0 + column
            total = zero
            k = low + part
            while k < start + count and sorted_ids[k] == row:
                if d < width:
                    total += dy[order[k] * width + d]
                k += PARTS
            parts[part, column] = total
            cuda.syncthreads()
            if part == 0 and d < width:
                for other in range(1, PARTS):
                    total += parts[other, column]
                out[row * width + d] = total
            cuda.syncthreads()

    return sum_segments


def check_ids(device: Device, ids: Any, rows: int) -> None:
    """IndexError if one of the flat ids is outside [0, rows)."""
    bad = device.to_device(np.zeros(1, np.int32))
    device.launch(_find_kernel(), *_flat(ids.size), bad, ids, ids.size, rows)
    if device.give(bad, (1,), to_host=True)[0]:
        raise IndexError(f"an id is not in [0, {rows})")


def gather(device: Device, table: Any, ids: Any, width: int) -> Any:
    """The flat rows (ids.size, width) of the table; ids have been checked."""
    count = ids.size * width
    out = device.empty(count, table.dtype)
    device.launch(_gather_kernel(table.dtype.type), *_flat(count), out, table, ids, count, width)
    return out


class Order(NamedTuple):
    """Where the ids of each batch stand in it, from the smallest id on, and these ids. A batch has `size` of them."""

    places: Any
    ids: Any
    size: int


def sort(device: Device, ids: Any, rows: int, size: int | None = None) -> Order:
    """The order of flat ids below `rows`, in batches of that size, the last one maybe smaller; all are one batch
    without a size."""
    size = ids.size if size is None else size
    order = Order(device.empty(ids.size, np.int64), device.empty(ids.size, np.int64), size)
    batches = max(1, -(-ids.size // max(1, size)))
    blocks = max(1, min(batches, 2 * device.processors, MOST_PLACES // max(1, rows)))
    places = device.empty(blocks * rows, np.int64)
    args = (order.places, order.ids, places, ids, ids.size, size, batches, rows)
    device.launch(_sort_kernel(), blocks, CHUNK, *args)
    return order


def scatter_add(device: Device, order: Order, dy: Any, out: Any, rows: int, width: int, batch: int = 0) -> None:
    """out (rows, width) = for each row the sum of dy (ids, width) where its id stands in that batch; ids have been
    checked."""
    start = batch * order.size
    count = min(order.size, order.ids.size - start)
    kernel = _segments_kernel(dy.dtype.type)
    args = (out, dy, order.places, order.ids, start, count, width)
    device.launch(kernel, max(1, rows), COLUMNS * PARTS, *args)


def _flat(count: int) -> tuple[int, int]:
    """Blocks and threads to go over `count` things, none included."""
    return max(1, -(-count // CHUNK)), CHUNK
