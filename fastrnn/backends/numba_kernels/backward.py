"""What both cells' backward sweeps share, beside layer.py: upstream gradients, and the products after a cell's part.

The gradients of a step's slots, ds, are columns (4, H, n) as the slots are. They give those of the states and inputs at
once; for those of the weights, the sum goes over samples and steps, so ds and z are transposed into rows, and a block
of steps is multiplied in one go. Each task has sums of its own, `partial`, which `gradients_reduce` adds up in the
order of the tasks.
"""

from __future__ import annotations

from numba import njit

from .layer import multiply, multiply_add, operand, panels_product, time_of, zero
from .products import product
from .transposes import columns_to_rows, rows_to_columns
from .vectors import TILE_ROWS

# Rows of ds are longer than the slots: whole vectors are read from any slot on, and rows that are a power of two apart
# would share one set of the cache.
SPARE = 32


@njit(error_model="numpy")
def x_slot(p, gate):
    """The slot of W's product for a gate."""
    return gate if p.lstm else (gate + 1) % 3


@njit(error_model="numpy")
def h_slot(p, gate):
    """The slot whose gradient U sees for a gate."""
    return gate if p.lstm else 0 if gate == 2 and not p.reset_after else gate + 1


@njit(error_model="numpy")
def upstream(p, s, N, sample, row_of, dy):
    """The columns dy (H, n) of step s: the gradient of its output, or zero."""
    if p.has_dy and p.sequences:
        for n in range(N):
            row_of[n] = sample[n] * p.time + s
        rows_to_columns(p.units, N, p.dy, row_of, p.units, dy, p.width)
    elif p.has_dy and s == p.time - 1:
        rows_to_columns(p.units, N, p.dy, sample, p.units, dy, p.width)
    elif s >= p.time - 2:
        zero(p.units * p.width, dy)


@njit(error_model="numpy")
def states_back(p, N, ds, factor, own, dh):
    """dh += what comes through U, each gate's part under its mask. r * h, if U saw that, is the cell's own affair."""
    H, width, panel = p.units, p.width, p.gates * p.units * TILE_ROWS
    gates = p.gates if p.lstm or p.reset_after else 2
    if p.factors <= 1:
        seen = ds + h_slot(p, 0) * H * width
        panels_product(p, H, N, gates * H, p.U_panels, panel, seen, dh, True)
        return
    for g in range(gates):
        seen, panels = ds + h_slot(p, g) * H * width, p.U_panels + g * H * TILE_ROWS
        panels_product(p, H, N, H, panels, panel, seen, own, False)
        multiply_add(p, H, N, own, factor + (g * p.rows + p.rows - H) * width, dh)


@njit(error_model="numpy")
def inputs_back(p, s, N, sample, row_of, ds, factor, own, dx):
    """The call's dx of step s; `dx` and `own` are room for columns (I, n)."""
    H, I, width, columns = p.units, p.inputs, p.width, p.gates * p.units
    if p.factors <= 1:
        panels_product(p, I, N, columns, p.W_panels, columns * TILE_ROWS, ds, dx, False)
        if p.factors == 1:
            multiply(p, I, N, dx, factor, dx)
    else:
        zero(I * width, dx)
        for g in range(p.gates):
            seen, panels = ds + x_slot(p, g) * H * width, p.W_panels + x_slot(p, g) * H * TILE_ROWS
            panels_product(p, I, N, H, panels, columns * TILE_ROWS, seen, own, False)
            multiply_add(p, I, N, own, factor + g * p.rows * width, dx)
    for n in range(N):
        row_of[n] = sample[n] * p.time + time_of(p, s)
    columns_to_rows(I, N, dx, width, p.dx, row_of, I)


@njit(error_model="numpy")
def rows_store(p, task, s, N, count, row_of, z, slots, factor, own, ds):
    """A step's ds and z, for each gate if theirs differ, as rows of the block's."""
    H, K, width = p.units, p.rows, p.width
    for n in range(N):
        row_of[n] = s % p.block * count + min(n, count - 1)
    length = 4 * H + SPARE
    columns_to_rows(4 * H, N, ds, width, p.ds_rows + task * p.block * width * length, row_of, length)
    for g in range(p.groups):
        b, to = operand(p, N, g, z, factor, own), p.z_rows + (task * p.groups + g) * p.block * width * K
        if g == 2 and not (p.lstm or p.reset_after):  # U saw r * h, which is slot 3
            columns_to_rows(K - H, N, b, width, to, row_of, K)
            columns_to_rows(H, N, slots + 3 * H * width, width, to + (K - H), row_of, K)
        else:
            columns_to_rows(K, N, b, width, to, row_of, K)


@njit(error_model="numpy")
def weights_back(p, task, rows):
    """partial += what a block of so many rows adds: for W and its bias, then for U and its own."""
    H, K, length, split = p.units, p.rows, 4 * p.units + SPARE, p.inputs + 1
    ds = p.ds_rows + task * p.block * p.width * length
    for g in range(p.groups):
        z = p.z_rows + (task * p.groups + g) * p.block * p.width * K
        to = p.partial + (task * p.groups + g) * K * p.columns
        N, x_ds = p.gates * H, ds
        if p.groups > 1:
            N, x_ds = H, ds + x_slot(p, g) * H
        product(split, N, rows, z, TILE_ROWS, K, x_ds, length, to, p.columns, True)
        h_ds, to = ds + h_slot(p, g) * H, to + split * p.columns
        product(K - split, N, rows, z + split, TILE_ROWS, K, h_ds, length, to, p.columns, True)


@njit(error_model="numpy")
def gradients_reduce(p):
    """gradient (K, G * H) = the tasks' sums, added up in their order; its columns are in Keras' order of gates."""
    columns = p.gates * p.units
    length = columns // p.groups
    for k in range(p.rows):
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
