"""A recurrent layer as blocks of threads that go over all time steps in one launch; what both cells share.

A block owns some samples ("rows") and some hidden units, of which it computes all gates. Each step has two halves: the
product of what the step before left (forward the states, backward the gates' gradients) with the recurrent weights,
then the arithmetic of the gates, one thread to a unit of a row. Between them stands a barrier.

Two designs, of one code, chosen by size alone:

- "block": the block owns all units, so nothing leaves it, and the barrier is the block's own. For weights that a
  multiprocessor can keep (in shared memory, else in its first-level cache), and wherever "grid" cannot run.
- "grid": many blocks share a row's units, exchange what they computed through global memory, and meet at a barrier of
  the whole grid once a step (twice where the reset gate comes before the product).

What passes between steps lies in `seen`: two buffers in turn, each of (slots, H, rows), a slot holding one (units,
rows) matrix. Every number is written in full by one thread and every sum has one order, which depends on H alone.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from .device import SIMULATED

# A sum over k is made of this many, over every LANES-th k each: parallel work for a small layer's many threads.
LANES = 8
# Units that one thread multiplies at a time.
TILE_UNITS = 4
# What every GPU gives a block without being asked, in bytes.
SHARED_BYTES = 48 * 1024
# Recurrent weights up to this size stay in a multiprocessor's own memory: one block can own all units.
BLOCK_WEIGHT_BYTES = 128 * 1024


def most_threads(itemsize: int) -> int:
    """Of a block; a number of twice the size needs twice the registers."""
    return 4 if SIMULATED else 2048 // itemsize


def sweep_jit(real: Any) -> Any:
    """cuda.jit, told how many threads a block has: the compiler then gives each no more registers than there are."""
    return cuda.jit if SIMULATED else cuda.jit(launch_bounds=most_threads(np.dtype(real).itemsize))


class Sizes(NamedTuple):
    """What a sweep's kernels are told beside arrays; all integers, flags 0 or 1."""

    B: int
    T: int
    H: int
    rows: int  # samples of a block
    span: int  # units of a block
    units: int  # units that a block works on at a time
    slots: int  # (H, rows) matrices in one buffer of `seen`
    backwards: int
    masked: int
    zero_masked: int
    sequences: int
    training: int
    h_masked: int
    biased: int  # GRU: there is a recurrent bias
    has_h: int  # h0, or dhT
    has_c: int  # c0, or dcT
    has_dy: int


class Plan(NamedTuple):
    """How a sweep is launched. `tile`, `resident`, `shared` and `grid` choose the kernel, see `Cell` below."""

    rows: int
    span: int
    units: int
    tile: int  # rows that one thread multiplies at a time
    resident: bool  # the block's recurrent weights lie in shared memory
    shared: bool  # `seen` lies in shared memory
    grid: bool
    blocks: int
    threads: int
    shared_bytes: int

    @property
    def variant(self) -> tuple[int, bool, bool, bool]:
        return self.tile, self.resident, self.shared, self.grid

    def scratch_size(self, B: int, H: int, slots: int) -> int:
        """How many numbers `seen` needs in global memory."""
        return 1 if self.shared else -(-B // self.rows) * 2 * slots * H * self.rows


def make_plan(B: int, H: int, gates: int, slots: int, itemsize: int, processors: int, *, grid: bool) -> Plan:
    """The plan for a layer; `processors` is how many multiprocessors there are, `grid` whether they can meet."""
    most_rows = 256 // itemsize
    grid = grid and gates * H * H * itemsize > BLOCK_WEIGHT_BYTES and -(-B // most_rows) <= processors
    rows = min(B if grid else -(-B // processors), most_rows if grid else 16)
    tile = 4 if rows >= 4 else 1
    rows = -(-rows // tile) * tile
    slices = -(-B // rows)
    span = -(-H // min(H, max(1, processors // slices))) if grid else H

    state = 2 * slots * H * rows * itemsize
    shared = not grid and state <= SHARED_BYTES // 2
    free = SHARED_BYTES - state * shared
    out = LANES * gates * rows * itemsize
    units = min(span, free // out)
    weights = gates * H * span * itemsize
    resident = weights + units * out <= free
    work = LANES * gates * -(-units // TILE_UNITS) * (rows // tile)
    return Plan(
        rows=rows,
        span=span,
        units=units,
        tile=tile,
        resident=resident,
        shared=shared,
        grid=grid,
        blocks=slices * -(-H // span),
        threads=min(most_threads(itemsize), -(-work // 32) * 32),
        shared_bytes=state * shared + weights * resident + units * out,
    )


class Shared(NamedTuple):
    """What the kernels of both cells are made of, for one type and variant."""

    both: tuple[Any, ...]  # directions
    forward: tuple[Any, ...]
    backward: tuple[Any, ...]


@functools.cache
def shared_code(real: Any, tile: int, resident: bool, shared: bool, grid: bool) -> Shared:
    """The device functions, for real numbers of type `real` and a plan's variant."""
    zero, one = real(0), real(1)

    # Read each time: the simulator puts its own module in cuda's place while a kernel runs.
    if grid:

        @cuda.jit(device=True)
        def barrier():
            cuda.cg.this_grid().sync()

    else:

        @cuda.jit(device=True)
        def barrier():
            cuda.syncthreads()

    @cuda.jit(device=True)
    def place(size):
        """The block's slice of rows, its first row, its first unit and the one after its last."""
        across = (size.H + size.span - 1) // size.span
        part = cuda.blockIdx.x // across
        first = cuda.blockIdx.x % across * size.span
        return part, part * size.rows, first, min(first + size.span, size.H)

    @cuda.jit(device=True)
    def lay_out(size, memory, weights, scratch, gates, part, first, last):
        """Where the block finds its weights, how wide their rows are, `seen`, where in it its own begins, and where in
        its memory products go. Weights (gates * H, H) that are to be resident are loaded."""
        width, seen_at, out_at = size.H, part * 2 * size.slots * size.H * size.rows, 0
        seen = scratch
        if resident:
            width, n = size.span, last - first
            out_at = gates * size.H * width
            for e in range(cuda.threadIdx.x, gates * size.H * n, cuda.blockDim.x):
                memory[e // n * width + e % n] = weights[e // n * size.H + first + e % n]
            weights = memory
        if shared:
            seen, seen_at = memory, out_at
            out_at += 2 * size.slots * size.H * size.rows
        return weights, width, seen, seen_at, out_at

    @cuda.jit(device=True)
    def product(
        out, out_at, seen, seen_at, seen_gate, weights, weights_at, weights_step, weights_gate, K, gates, rows, units
    ):
        """out (LANES, gates, rows, units) = sums over k of seen[gate][k, row] * weights[k, gate, unit]."""
        sums = cuda.local.array((TILE_UNITS, tile), real)
        columns = cuda.local.array(TILE_UNITS, np.uint64)
        across = (units + TILE_UNITS - 1) // TILE_UNITS
        down = rows // tile
        for item in range(cuda.threadIdx.x, LANES * gates * down * across, cuda.blockDim.x):
            u = item % across
            rest = item // across
            row = rest % down * tile
            gate = rest // down % gates
            lane = rest // down // gates
            for i in range(TILE_UNITS):
                unit = min(u + i * across, units - 1)
                columns[i] = np.uint64(weights_at + gate * weights_gate + lane * weights_step + unit)
                for j in range(tile):
                    sums[i, j] = zero
            # unsigned, or each access would ask whether its index counts from the end
            state = np.uint64(seen_at + gate * seen_gate + lane * rows + row)
            state_step, step = np.uint64(LANES * rows), np.uint64(LANES * weights_step)
            for _ in range(lane, K, LANES):
                for i in range(TILE_UNITS):
                    weight = weights[columns[i]]
                    columns[i] += step
                    for j in range(tile):
                        sums[i, j] += weight * seen[state + np.uint64(j)]
                state += state_step
            for i in range(TILE_UNITS):
                if u + i * across < units:
                    for j in range(tile):
                        at = ((lane * gates + gate) * rows + row + j) * units + u + i * across
                        out[out_at + at] = sums[i, j]

    @cuda.jit(device=True)
    def lane_sum(out, out_at, gate, gates, row, rows, u, units):
        at = out_at + (gate * rows + row) * units + u
        total = out[at]
        for lane in range(1, LANES):
            total += out[at + lane * gates * rows * units]
        return total

    @cuda.jit(device=True)
    def sigmoid(a):
        e = real(math.exp(-abs(a)))
        return (one if a >= zero else e) / (one + e)

    @cuda.jit(device=True)
    def tanh(a):
        return real(math.tanh(a))

    @cuda.jit(device=True)
    def dropped(size, h_mask, slot, b, u):
        """What dropout multiplies a state with, as gate `slot` sees it."""
        return h_mask[(slot * size.B + b) * size.H + u] if size.h_masked and b < size.B else one

    @cuda.jit(device=True)
    def show(size, seen, at, slots, h_mask, b, row, u, state):
        """Puts a state where the next step's product finds it, in so many slots."""
        for slot in range(slots):
            seen[at + (slot * size.H + u) * size.rows + row] = state * dropped(size, h_mask, slot, b, u)

    @cuda.jit(device=True)
    def begin(size, seen, seen_at, h_mask, h0, h, b, row, u):
        """A state before the first step; in rows beyond the batch zero, and it stays so."""
        start = zero
        if b < size.B:
            if size.has_h:
                start = h0[b * size.H + u]
            h[b * size.H + u] = start
        show(size, seen, seen_at, size.slots, h_mask, b, row, u, start)
        show(size, seen, seen_at + size.slots * size.H * size.rows, size.slots, h_mask, b, row, u, zero)

    @cuda.jit(device=True)
    def begin_back(size, seen, seen_at, dhT, dh, passed_back, b, row, u):
        """The gradient of a state after the last step; what is seen of gates' gradients is zero beyond the batch."""
        if b < size.B:
            dh[b * size.H + u] = dhT[b * size.H + u] if size.has_h else zero
            if size.masked:
                passed_back[b * size.H + u] = zero
        for slot in range(2 * size.slots):
            seen[seen_at + (slot * size.H + u) * size.rows + row] = zero

    @cuda.jit(device=True)
    def passed_on(size, out, out_at, gates, h_mask, b, row, u, unit, units):
        """What so many gates pass back to the state that they saw."""
        total = zero
        for gate in range(gates):
            total += lane_sum(out, out_at, gate, gates, row, size.rows, unit, units) * dropped(size, h_mask, gate, b, u)
        return total

    @cuda.jit(device=True)
    def store_output(size, y, b, s, u, valid, h):
        """The output of step s: h; at a masked step the last output again, or zero."""
        if size.sequences or size.masked or s == size.T - 1:
            at = ((b * size.T + s) * size.H if size.sequences else b * size.H) + u
            if valid:
                y[at] = h
            elif size.zero_masked or s == 0:
                y[at] = zero
            elif size.sequences:
                y[at] = y[at - size.H]

    @cuda.jit(device=True)
    def collect_dy(size, dy, passed_back, b, s, u, valid):
        """What reaches h through the outputs of step s: dy, and that of later masked steps that repeat this one's."""
        got = zero
        if size.has_dy and (size.sequences or s == size.T - 1):
            got = dy[((b * size.T + s) * size.H if size.sequences else b * size.H) + u]
        if size.masked:
            at = b * size.H + u
            if valid:
                got += passed_back[at]
                passed_back[at] = zero
            else:
                if not size.zero_masked:
                    passed_back[at] += got
                got = zero
        return got

    return Shared(
        both=(barrier, place, lay_out, product, lane_sum, tanh),
        forward=(begin, sigmoid, show, store_output),
        backward=(begin_back, collect_dy, passed_on),
    )
