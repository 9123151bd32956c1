"""What both cells share: how a call is laid out, the inputs and outputs of a step, and all products but a cell's own.

A call is cut into tasks, slices of the batch, each of which runs the whole sweep over time for its samples with no
barrier. Where there is one task only, a team of threads may share it: each member owns some units, and some inputs, in
whole panels of the weights, and all meet once a step, when everybody's states are there.

Within a task samples lie side by side: a step's gates are (4, H, n), its states (H, n), n being a whole number of
vectors. So weights are the numbers that are broadcast, every vector is full whatever H and I are, and only samples may
be lacking at the end of a task (see transposes.py).

The operand of a step is z = [x; 1; h], K rows: the bias is the weight of an input that is always 1, and its gradient
comes out of the product that gives those of W and U. A GRU with reset_after has two biases, of which one belongs to
each side: z = [x; 1; 1; h]. Slots, as in csrc/, are i, f, c, o for LSTM, but h, z, r, q for GRU, where q is the
recurrent part of the candidate: so W sees slots 0 to 2 and U sees 1 to 3.

Most calls take z as it is for all gates. With a dropout mask per gate, or where a GRU's candidate sees r * h in place
of h, each gate has an operand of its own.
"""

from __future__ import annotations

from numba import njit

from .crew import barrier_wait
from .memory import lanes_of, load, store
from .products import few_columns, product
from .transposes import columns_to_rows, rows_to_columns
from .vectors import TILE_ROWS, fma

# So many rows of weights are packed panel by panel, then the next: they are written in order, and both panels that
# share a line of cache find it there, though rows are often a power of two apart.
PACK_ROWS = 32

# -- packing the weights ----------------------------------------------------------------------------------------------


@njit(error_model="numpy")
def share(M, member, members):
    """A member's part of M rows, in whole panels: from where on, up to where."""
    panels = -(-M // TILE_ROWS)
    return min(M, panels * member // members * TILE_ROWS), min(M, panels * (member + 1) // members * TILE_ROWS)


@njit(error_model="numpy")
def pack(p, piece):
    """panels[gate, panel, k, r] = the weight of z's row k for unit panel * TILE_ROWS + r of the gate; 0 beyond them."""
    H, K, columns = p.units, p.rows, p.gates * p.units
    panels = -(-H // TILE_ROWS)
    begin, end = share(H, piece, p.pieces)
    for k_begin in range(0, K, PACK_ROWS):
        for g in range(p.gates):
            for first in range(begin, end, TILE_ROWS):
                to = p.panels + ((g * panels + first // TILE_ROWS) * K + k_begin) * TILE_ROWS
                for k in range(k_begin, min(K, k_begin + PACK_ROWS)):
                    row, given = p.W + k * columns, True
                    if k >= K - H:
                        row = p.U + (k - K + H) * columns
                    elif k >= p.inputs:
                        row, given = p.b + (k - p.inputs) * columns, p.biased != 0
                    _pack_row(row + (g * H + first), min(TILE_ROWS, H - first) if given else 0, to)
                    to = to + TILE_ROWS


@njit(error_model="numpy")
def _pack_row(row, count, to):
    """A panel's numbers for one k: so many of a row, then zeros."""
    if count == TILE_ROWS:
        for r in range(TILE_ROWS):
            to[r] = row[r]
    else:
        for r in range(TILE_ROWS):
            to[r] = 0
        for r in range(count):
            to[r] = row[r]


@njit(error_model="numpy")
def pack_transposed(A, begin, rows, columns, first, panels):
    """panels[panel, j, r] = A[panel * TILE_ROWS + r, column], columns in the order of slots: from `first` on, round.

    A's rows from `begin`, where a panel begins, up to `rows`."""
    for row in range(begin, rows, TILE_ROWS):
        count = min(TILE_ROWS, rows - row)
        for j in range(columns):  # written in order; read along as many rows as a panel has
            column = j + first if j + first < columns else j + first - columns
            to, at = panels + (row * columns + j * TILE_ROWS), A + (row * columns + column)
            if count == TILE_ROWS:
                for r in range(TILE_ROWS):
                    to[r] = at[r * columns]
            else:
                for r in range(TILE_ROWS):
                    to[r] = 0
                for r in range(count):
                    to[r] = at[r * columns]


@njit(error_model="numpy")
def pack_back(p, piece):
    """W_panels and U_panels, for dx and dh. W's slots begin with the candidate, which is the last gate of a GRU."""
    inputs, units = share(p.inputs, piece, p.pieces), share(p.units, piece, p.pieces)
    pack_transposed(p.W, inputs[0], inputs[1], p.gates * p.units, 0 if p.lstm else 2 * p.units, p.W_panels)
    pack_transposed(p.U, units[0], units[1], p.gates * p.units, 0, p.U_panels)


# -- the beginning of a task ------------------------------------------------------------------------------------------


@njit(error_model="numpy")
def task_begin(p, task, sample):
    """How many samples the task has, and that in whole vectors; `sample` becomes the one that each lane holds."""
    count = min(p.width, p.batch - task * p.width)
    for n in range(p.width):
        sample[n] = task * p.width + min(n, count - 1)
    return count, -(-count // lanes_of(p)) * lanes_of(p)


@njit(error_model="numpy")
def masks_begin(p, N, sample, row_of, valid, factor):
    """Which steps are valid; the factors of dropout for z, gate by gate, or for x only and all gates."""
    H, I, K, width = p.units, p.inputs, p.rows, p.width
    for t in range(p.time if p.masked else 1):
        for n in range(width):
            valid[t * width + n] = 1 if not p.masked or p.mask[sample[n] * p.time + t] != 0 else 0
    for g in range(p.factors):
        to = factor + g * K * width
        for k in range(K * width):
            to[k] = 1
        if p.x_factors > 0:
            x_mask = p.x_mask + (g * p.batch * I if p.x_factors > 1 else 0)
            rows_to_columns(I, N, x_mask, sample, I, to, width)
        if p.h_masked:
            rows_to_columns(H, N, p.h_mask + g * p.batch * H, sample, H, to + (K - H) * width, width)


@njit(error_model="numpy")
def state_begin(p, N, given, state, sample, to):
    """columns (H, n) = the rows of a (B, H) state, or zeros if none is given."""
    if given:
        rows_to_columns(p.units, N, state, sample, p.units, to, p.width)
    else:
        zero(p.units * p.width, to)


@njit(error_model="numpy")
def zero(number, to):
    for k in range(number):
        to[k] = 0


@njit(error_model="numpy")
def meet(p, members):
    """Waits for the others of a team."""
    if members > 1:
        barrier_wait(p.barrier, members)


# -- forward, step by step --------------------------------------------------------------------------------------------


@njit(error_model="numpy")
def time_of(p, s):
    """The place in time that step s reads."""
    return p.time - 1 - s if p.go_backwards else s


@njit(error_model="numpy")
def x_slot(p, gate):
    """The slot of W's product for a gate."""
    return gate if p.lstm else (gate + 1) % 3


@njit(error_model="numpy")
def steps_begin(p, units, inputs, s, N, sample, row_of, factor, z, slots, members):
    """The steps from s on that take one product with W: their inputs, and if they are several, that product."""
    count, K, width = min(p.steps, p.time - s), p.rows, p.width
    for step in range(count):
        inputs_begin(p, inputs, s + step, N, sample, row_of, factor, z + step * K * width)
    meet(p, members)
    if p.steps > 1:
        plane = p.units * width
        for gate in range(p.gates):
            panels = gate_panels(p, gate) + units[0] * K
            to = slots + (x_slot(p, gate) * plane + units[0] * width)
            steps_product(
                p, count, units[1] - units[0], N, p.inputs + 1, panels, K * TILE_ROWS, z, K * width, to, 4 * plane
            )


@njit(error_model="numpy")
def inputs_begin(p, inputs, s, N, sample, row_of, factor, z):
    """z's rows [x; 1] of step s, of those inputs."""
    first, I, width, t = inputs[0], inputs[1] - inputs[0], p.width, time_of(p, s)
    for n in range(N):
        at = sample[n] * p.time + t
        row_of[n] = p.ids[at] if p.by_id else at
    rows_to_columns(I, N, p.x + first, row_of, p.inputs, z + first * width, width)
    if p.factors == 1:
        multiply(p, I, N, z + first * width, factor + first * width, z + first * width)
    for k in range(p.inputs * width, (p.inputs + p.biases) * width):
        z[k] = 1


@njit(error_model="numpy")
def copy(p, units, N, a, b):
    """Those units of the columns b (H, n) = those of a."""
    for unit in range(units[0], units[1]):
        for n in range(unit * p.width, unit * p.width + N, lanes_of(p)):
            store(b, n, load(a, n))


@njit(error_model="numpy")
def multiply(p, rows, N, a, b, c):
    """c = a * b, columns (rows, n) each."""
    for k in range(rows):
        for n in range(k * p.width, k * p.width + N, lanes_of(p)):
            store(c, n, load(a, n) * load(b, n))


@njit(error_model="numpy")
def multiply_add(p, rows, N, a, b, c):
    """c += a * b, columns (rows, n) each."""
    for k in range(rows):
        for n in range(k * p.width, k * p.width + N, lanes_of(p)):
            store(c, n, fma(load(a, n), load(b, n), load(c, n)))


@njit(error_model="numpy")
def operand(p, N, gate, z, factor, own):
    """z as one gate sees it: z itself, or `own`, made here, if gates have dropout masks of their own."""
    if p.factors <= 1:
        return z
    multiply(p, p.rows, N, z, factor + gate * p.rows * p.width, own)
    return own


@njit(error_model="numpy")
def panels_product(p, M, N, K, panels, panel, b, c, add):
    """C (M, n) = or += packed weights (M, K) times B (K, n)."""
    m, width = 0, p.width
    if lanes_of(p) <= 4 and p.few and M >= 4 * TILE_ROWS:
        m = few_columns(M, K, p.batch == 1, panels, panel, b, width, c, width, add)
    product(M - m, N, K, panels + m // TILE_ROWS * panel, panel, TILE_ROWS, b, width, c + m * width, width, add)


@njit(error_model="numpy")
def steps_product(p, steps, M, N, K, panels, panel, b, b_step, c, c_step):
    """C = packed weights times B for several steps, whose B and C are so far apart: a few panels at a time meet all
    steps, while they are in the nearest caches."""
    for m in range(0, M, 8 * TILE_ROWS):
        for step in range(steps):
            some, to = panels + m // TILE_ROWS * panel, c + (m * p.width + step * c_step)
            panels_product(p, min(8 * TILE_ROWS, M - m), N, K, some, panel, b + step * b_step, to, False)


@njit(error_model="numpy")
def gate_panels(p, gate):
    return p.panels + gate * -(-p.units // TILE_ROWS) * p.rows * TILE_ROWS


@njit(error_model="numpy")
def gate_product(p, units, N, gate, first, last, z, slot, add):
    """A slot (H, n) = or += a gate's weights for rows [first, last) of z, times those rows; z is the first of them.
    Of the slot, those units."""
    panels, to = gate_panels(p, gate) + (units[0] * p.rows + first * TILE_ROWS), slot + units[0] * p.width
    panels_product(p, units[1] - units[0], N, last - first, panels, p.rows * TILE_ROWS, z, to, add)


@njit(error_model="numpy")
def state_store(p, units, N, columns, sample, to):
    """Those units of a (B, H) state, from its columns."""
    columns_to_rows(units[1] - units[0], N, columns + units[0] * p.width, p.width, to + units[0], sample, p.units)


@njit(error_model="numpy")
def output_store(p, units, s, N, sample, row_of, out):
    """y of step s, from the columns `out`: those units."""
    if p.sequences:
        for n in range(N):
            row_of[n] = sample[n] * p.time + s
        state_store(p, units, N, out, row_of, p.y)
    elif s == p.time - 1:
        state_store(p, units, N, out, sample, p.y)
