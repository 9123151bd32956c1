"""What both cells' backward sweeps share, beside layer.py: upstream gradients, and the products after a cell's part.

The gradients of a step's slots, ds, are columns (4, H, n) as the slots are. They give those of the states and inputs at
once; for those of the weights, the sum goes over samples and steps, so ds and z are transposed into rows, and a block
of steps is multiplied in one go. Each task has sums of its own, `partial`, which `gradients_reduce` adds up in the
order of the tasks.
"""

from __future__ import annotations

from numba import njit

from .layer import (
    meet,
    multiply,
    multiply_add,
    operand,
    panels_product,
    share,
    steps_product,
    time_of,
    x_slot,
    zero,
)
from .products import product
from .transposes import columns_to_rows, rows_to_columns
from .vectors import TILE_ROWS

# Rows of ds are longer than the slots: whole vectors are read from any slot on, and rows that are a power of two apart
# would share one set of the cache.
SPARE = 32


@njit(error_model="numpy")
def h_slot(p, gate):
    """The slot whose gradient U sees for a gate."""
    return gate if p.lstm else 0 if gate == 2 and not p.reset_after else gate + 1


@njit(error_model="numpy")
def upstream(p, units, s, N, sample, row_of, dy):
    """Those units of the columns dy (H, n) of step s: the gradient of its output, or zero."""
    count, given, to = units[1] - units[0], p.dy + units[0], dy + units[0] * p.width
    if p.has_dy and p.sequences:
        for n in range(N):
            row_of[n] = sample[n] * p.time + s
        rows_to_columns(count, N, given, row_of, p.units, to, p.width)
    elif p.has_dy and s == p.time - 1:
        rows_to_columns(count, N, given, sample, p.units, to, p.width)
    elif s >= p.time - 2:
        zero(count * p.width, to)


@njit(error_model="numpy")
def states_back(p, units, N, ds, factor, own, dh):
    """dh += what comes through U, each gate's part under its mask: those units. r * h, if U saw that, is the cell's own
    affair."""
    H, width, panel, count = p.units, p.width, p.gates * p.units * TILE_ROWS, units[1] - units[0]
    gates, first = p.gates if p.lstm or p.reset_after else 2, units[0] * width
    panels = p.U_panels + units[0] * p.gates * H
    if p.factors <= 1:
        seen = ds + h_slot(p, 0) * H * width
        panels_product(p, count, N, gates * H, panels, panel, seen, dh + first, True)
        return
    for g in range(gates):
        seen = ds + h_slot(p, g) * H * width
        panels_product(p, count, N, H, panels + g * H * TILE_ROWS, panel, seen, own, False)
        multiply_add(p, count, N, own, factor + ((g * p.rows + p.rows - H) * width + first), dh + first)


@njit(error_model="numpy")
def steps_back(p, task, member, members, s, N, count, sample, row_of, ds, factor, own):
    """What is done for some steps at once, if s is the last of them on the way back: dx, and the weights' gradients."""
    last_of_steps, last_of_block = s % p.steps == 0, s % p.block == 0
    if last_of_steps:
        inputs_back(p, share(p.inputs, member, members), task, s, N, sample, row_of, ds, factor, own)
    if last_of_block:
        weights_back(p, task, member, members, s, min(p.block, p.time - s) * count)
    if last_of_steps or last_of_block:
        meet(p, members)  # before ds or the block's rows are written again


@njit(error_model="numpy")
def inputs_back(p, inputs, task, s, N, sample, row_of, ds, factor, own):
    """Those inputs of the call's dx, of as many steps from s on as take one product; `own` is room for columns."""
    H, I, width, columns, first = p.units, inputs[1] - inputs[0], p.width, p.gates * p.units, inputs[0] * p.width
    steps, step = min(p.steps, p.time - s), p.inputs * width
    panels, dx = p.W_panels + inputs[0] * columns, p.dx_step + (task * p.steps * step + first)
    if p.factors <= 1:
        steps_product(p, steps, I, N, columns, panels, columns * TILE_ROWS, ds, 4 * H * width, dx, step)
    else:
        zero(I * width, dx)
        for g in range(p.gates):
            seen, some = ds + x_slot(p, g) * H * width, panels + x_slot(p, g) * H * TILE_ROWS
            panels_product(p, I, N, H, some, columns * TILE_ROWS, seen, own, False)
            multiply_add(p, I, N, own, factor + (g * p.rows * width + first), dx)
    for j in range(steps):
        if p.factors == 1:
            multiply(p, I, N, dx + j * step, factor + first, dx + j * step)
        for n in range(N):
            row_of[n] = sample[n] * p.time + time_of(p, s + j)
        columns_to_rows(I, N, dx + j * step, width, p.dx + inputs[0], row_of, p.inputs)


@njit(error_model="numpy")
def rows_store(p, task, member, members, s, N, count, row_of, z, slots, factor, own, ds):
    """A step's ds and z, for each gate if theirs differ, as rows of the block's: the member's units of ds, which are
    all that it has, and its share of z."""
    H, K, width, I = p.units, p.rows, p.width, p.rows - p.units
    for n in range(N):
        row_of[n] = s % p.block * count + min(n, count - 1)
    length, units, inputs = 4 * H + SPARE, share(H, member, members), share(I, member, members)
    ds_rows = p.ds_rows + task * p.block * width * length
    for slot in range(4):
        some_to_rows(units, N, ds + slot * H * width, width, ds_rows + slot * H, row_of, length)
    for g in range(p.groups):
        b, to = operand(p, N, g, z, factor, own), p.z_rows + (task * p.groups + g) * p.block * width * K
        h = b + I * width
        if g == 2 and not (p.lstm or p.reset_after):  # U saw r * h, which is slot 3
            h = slots + 3 * H * width
        some_to_rows(inputs, N, b, width, to, row_of, K)
        some_to_rows(units, N, h, width, to + I, row_of, K)


@njit(error_model="numpy")
def some_to_rows(some, N, columns, width, rows, row_of, length):
    """Those numbers of each sample from columns to rows."""
    columns_to_rows(some[1] - some[0], N, columns + some[0] * width, width, rows + some[0], row_of, length)


@njit(error_model="numpy")
def weights_back(p, task, member, members, s, rows):
    """partial = what a block of so many rows, from step s on, gives: for W and its bias, then for U and its own. Blocks
    before it, that is later in time, are added to."""
    H, K, length, split, add = p.units, p.rows, 4 * p.units + SPARE, p.inputs + 1, s + p.block < p.time
    ds, first, second = (
        p.ds_rows + task * p.block * p.width * length,
        share(split, member, members),
        share(K - split, member, members),
    )
    for g in range(p.groups):
        z = p.z_rows + (task * p.groups + g) * p.block * p.width * K
        to = p.partial + (task * p.groups + g) * K * p.columns
        N, x_ds = p.gates * H, ds
        if p.groups > 1:
            N, x_ds = H, ds + x_slot(p, g) * H
        part = to + first[0] * p.columns
        product(first[1] - first[0], N, rows, z + first[0], TILE_ROWS, K, x_ds, length, part, p.columns, add)
        h_ds, part = ds + h_slot(p, g) * H, to + (split + second[0]) * p.columns
        product(second[1] - second[0], N, rows, z + split + second[0], TILE_ROWS, K, h_ds, length, part, p.columns, add)


@njit(error_model="numpy")
def gradients_reduce(p, piece):
    """gradient (K, G * H) = the tasks' sums, added up in their order; its columns are in Keras' order of gates."""
    columns = p.gates * p.units
    length = columns // p.groups
    for k in range(p.rows * piece // p.pieces, p.rows * (piece + 1) // p.pieces):
        # W's slots begin with the candidate, which is the last gate of a GRU
        shift = 2 * p.units if k <= p.inputs and p.groups == 1 and not p.lstm else 0
        for g in range(p.groups):
            _add_up(p, k, g, 0, length - shift, g * length + shift)
            _add_up(p, k, g, length - shift, length, 0)


@njit(error_model="numpy")
def _add_up(p, k, g, first, last, at):
    """gradient[k, at and so on] = the sum of the tasks' partial[g, k, first to last)."""
    to = p.gradient + (k * p.gates * p.units + at)
    stride = p.groups * p.rows * p.columns
    for task in range(p.tasks):
        part = p.partial + (task * stride + (g * p.rows + k) * p.columns + first)
        if task == 0:
            for j in range(last - first):
                to[j] = part[j]
        else:
            for j in range(last - first):
                to[j] += part[j]


@njit(error_model="numpy")
def rows_add(p):
    """The gradient of a table, x (rows, I): the sum of dx's rows by their ids, in order."""
    zero(p.rows * p.inputs, p.x)
    for k in range(p.batch):
        to, row = p.x + p.ids[k] * p.inputs, p.dx + k * p.inputs
        for d in range(p.inputs):
            to[d] += row[d]
