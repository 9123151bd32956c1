"""GRU, forward and backward, for the samples of one task, with the reset gate after the product with U or before it.

fastrnn/backends/reference.py derives the equations; the order of the slots, h z r q, is explained in layer.py.
"""

from __future__ import annotations

from numba import njit

from .backward import inputs_back, rows_store, states_back, upstream, weights_back
from .gates import sigmoid, tanh
from .layer import (
    gate_product,
    inputs_begin,
    masks_begin,
    multiply,
    operand,
    output_store,
    panels_product,
    state_begin,
    task_begin,
    time_of,
    zero,
)
from .memory import lanes_of, load, store
from .transposes import columns_to_rows
from .vectors import TILE_ROWS, fma, select


@njit(error_model="numpy")
def _gates(p, N, slots, h_before):
    """Slots z and r of one step are activated; with the reset gate before the product, q = r * h, which U is to see."""
    plane = p.units * p.width
    for unit in range(p.units):
        for k in range(unit * p.width, unit * p.width + N, lanes_of(p)):
            r = sigmoid(load(slots, k + 2 * plane))
            store(slots, k + plane, sigmoid(load(slots, k + plane)))
            store(slots, k + 2 * plane, r)
            if not p.reset_after:
                store(slots, k + 3 * plane, r * load(h_before, k))


@njit(error_model="numpy")
def _units(p, N, slots, h_before, h_after, valid, out):
    """Slot h of one step, before its activation, becomes the candidate; and new states.

    Where a sample is masked, its state stays as it is, and the output repeats the one before."""
    plane = p.units * p.width
    for unit in range(p.units):
        for n in range(0, N, lanes_of(p)):
            k, ok = unit * p.width + n, load(valid, n)
            a, z, h = load(slots, k), load(slots, k + plane), load(h_before, k)
            if p.reset_after:
                a = fma(load(slots, k + 2 * plane), load(slots, k + 3 * plane), a)
            candidate = tanh(a)
            h_new = fma(z, h - candidate, candidate)
            store(slots, k, candidate)
            store(h_after, k, select(ok, h_new, h))
            store(out, k, select(ok, h_new, load(out, k)))


@njit(error_model="numpy")
def gru_forward(p, task):
    K, H, width = p.rows, p.units, p.width
    plane, split, keep = H * width, p.inputs + 1, 1 if p.training else 0
    z = p.z + task * (keep * p.time + 1) * K * width
    slots = p.slots + task * (p.time if p.training else 1) * 4 * plane
    sample, row_of = p.sample + task * width, p.row_of + task * width
    valid, factor = p.valid + task * (p.time if p.masked else 1) * width, p.factor + task * p.factors * K * width
    own, out = p.own + task * K * width, p.out + task * plane
    _, N = task_begin(p, task, sample)
    masks_begin(p, N, sample, row_of, valid, factor)
    zero(plane, out)
    state_begin(p, N, p.has_h0, p.h0, sample, z + (K - H) * width)
    for s in range(p.time):
        z_after, h, q = z + keep * K * width, z + (K - H) * width, slots + 3 * plane
        inputs_begin(p, s, N, sample, row_of, factor, z)
        for gate in range(2):
            b = operand(p, N, gate, z, factor, own)
            gate_product(p, N, gate, 0, K, b, slots + (gate + 1) * plane, False)
        b = operand(p, N, 2, z, factor, own)
        gate_product(p, N, 2, 0, split, b, slots, False)
        if p.reset_after:
            gate_product(p, N, 2, split, K, b + split * width, q, False)
        _gates(p, N, slots, h)
        if not p.reset_after:
            if p.factors > 1:
                multiply(p, H, N, q, factor + (3 * K - H) * width, q)
            gate_product(p, N, 2, split, K, q, slots, True)
        if p.zero_masked:
            zero(plane, out)
        ok = valid + (time_of(p, s) * width if p.masked else 0)
        _units(p, N, slots, h, z_after + (K - H) * width, ok, out)
        output_store(p, s, N, sample, row_of, out)
        z, slots = z_after, slots + keep * 4 * plane
    columns_to_rows(H, N, z + (K - H) * width, width, p.hT, sample, H)


@njit(error_model="numpy")
def _units_back(p, N, slots, h_before, valid, dy, carry, dh, ds):
    """All units of one step back: from dh, that of the states after it, to ds, and that of the states before it, as far
    as it does not come through U. With the reset gate before the product, r and q are left to `_reset_back`.

    `carry` is what masked steps hand back to the last valid one, whose output they repeat."""
    plane = p.units * p.width
    for unit in range(p.units):
        for n in range(0, N, lanes_of(p)):
            k, ok = unit * p.width + n, load(valid, n)
            candidate, z = load(slots, k), load(slots, k + plane)
            seen = load(dy, k) + load(carry, k)
            if not p.zero_masked:
                store(carry, k, select(ok, 0, seen))
            dh_after = load(dh, k)
            dh_all = dh_after + seen
            dp = dh_all * (1 - z) * (1 - candidate * candidate)
            store(ds, k, select(ok, dp, 0))
            store(ds, k + plane, select(ok, dh_all * (load(h_before, k) - candidate) * z * (1 - z), 0))
            if p.reset_after:
                r = load(slots, k + 2 * plane)
                store(ds, k + 2 * plane, select(ok, dp * load(slots, k + 3 * plane) * r * (1 - r), 0))
                store(ds, k + 3 * plane, select(ok, dp * r, 0))
            store(dh, k, select(ok, dh_all * z, dh_after))


@njit(error_model="numpy")
def _reset_back(p, N, slots, h_before, valid, dq, dh, ds):
    """The reset gate before the product: dq, the gradient of r * h, is known once the candidate's went through U."""
    plane = p.units * p.width
    for unit in range(p.units):
        for n in range(0, N, lanes_of(p)):
            k, ok = unit * p.width + n, load(valid, n)
            r, d, dh_before = load(slots, k + 2 * plane), load(dq, k), load(dh, k)
            store(ds, k + 2 * plane, select(ok, d * load(h_before, k) * r * (1 - r), 0))
            store(ds, k + 3 * plane, 0)
            store(dh, k, select(ok, fma(d, r, dh_before), dh_before))


@njit(error_model="numpy")
def gru_backward(p, task):
    K, H, width, T = p.rows, p.units, p.width, p.time
    plane = H * width
    z = p.z + (task * (T + 1) + T) * K * width
    slots = p.slots + (task + 1) * T * 4 * plane
    sample, row_of = p.sample + task * width, p.row_of + task * width
    valid, factor = p.valid + task * (T if p.masked else 1) * width, p.factor + task * p.factors * K * width
    own, dx, ds = p.own + task * K * width, p.dx_step + task * p.inputs * width, p.ds + task * 4 * plane
    dh, dy, carry = p.dh + task * plane, p.dy_step + task * plane, p.carry + task * plane
    count, N = task_begin(p, task, sample)
    masks_begin(p, N, sample, row_of, valid, factor)
    zero(plane, carry)
    zero(p.groups * K * p.columns, p.partial + task * p.groups * K * p.columns)
    state_begin(p, N, p.has_dhT, p.dhT, sample, dh)
    for s in range(T - 1, -1, -1):
        z, slots = z - K * width, slots - 4 * plane
        h, ok = z + (K - H) * width, valid + (time_of(p, s) * width if p.masked else 0)
        upstream(p, s, N, sample, row_of, dy)
        _units_back(p, N, slots, h, ok, dy, carry, dh, ds)
        if not p.reset_after:
            panels = p.U_panels + 2 * H * TILE_ROWS
            panels_product(p, H, N, H, panels, 3 * H * TILE_ROWS, ds, own, False)
            if p.factors > 1:
                multiply(p, H, N, own, factor + (3 * K - H) * width, own)
            _reset_back(p, N, slots, h, ok, own, dh, ds)
        states_back(p, N, ds, factor, own, dh)
        inputs_back(p, s, N, sample, row_of, ds, factor, own, dx)
        rows_store(p, task, s, N, count, row_of, z, slots, factor, own, ds)
        if s % p.block == 0:
            weights_back(p, task, min(p.block, T - s) * count)
    columns_to_rows(H, N, dh, width, p.dh0, sample, H)
