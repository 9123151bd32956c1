"""GRU, forward and backward, for the samples of one task, with the reset gate after the product with U or before it.

fastrnn/backends/reference.py derives the equations; the order of the slots, h z r q, is explained in layer.py.
"""

from __future__ import annotations

from numba import njit

from .backward import rows_store, states_back, steps_back, upstream
from .gates import sigmoid, tanh
from .layer import (
    copy,
    gate_product,
    masks_begin,
    meet,
    multiply,
    operand,
    output_store,
    panels_product,
    share,
    state_begin,
    state_store,
    steps_begin,
    task_begin,
    time_of,
    zero,
)
from .memory import lanes_of, load, store
from .vectors import TILE_ROWS, fma, select


@njit(error_model="numpy")
def _gates(p, units, N, slots, h_before):
    """Those units of slots z and r of one step are activated; with the reset gate before the product, q = r * h, which
    U is to see."""
    plane = p.units * p.width
    for unit in range(units[0], units[1]):
        for k in range(unit * p.width, unit * p.width + N, lanes_of(p)):
            r = sigmoid(load(slots, k + 2 * plane))
            store(slots, k + plane, sigmoid(load(slots, k + plane)))
            store(slots, k + 2 * plane, r)
            if not p.reset_after:
                store(slots, k + 3 * plane, r * load(h_before, k))


@njit(error_model="numpy")
def _units(p, units, N, slots, h_before, h_after, valid, out):
    """Those units of slot h of one step, before its activation, become the candidate; and new states.

    Where a sample is masked, its state stays as it is, and the output repeats the one before."""
    plane = p.units * p.width
    for unit in range(units[0], units[1]):
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
def gru_forward(p, task, member, members):
    K, H, width = p.rows, p.units, p.width
    plane, first, split, kept = H * width, (K - H) * width, p.inputs + 1, p.time if p.training else p.steps
    z_begin, slots_begin = p.z + task * (kept + 1) * K * width, p.slots + task * kept * 4 * plane
    sample, row_of = p.sample + task * width, p.row_of + (task + member) * width
    valid, factor = p.valid + task * (p.time if p.masked else 1) * width, p.factor + task * p.factors * K * width
    own, out = p.own + (task + member) * K * width, p.out + task * plane
    units, inputs = share(H, member, members), share(p.inputs, member, members)
    mine, size = units[0] * width, units[1] - units[0]
    N = task_begin(p, task, sample)[1]
    if member == 0:
        masks_begin(p, N, sample, row_of, valid, factor)
        zero(plane, out)
        state_begin(p, N, p.has_h0, p.h0, sample, z_begin + first)
    meet(p, members)
    z, slots, done = z_begin, slots_begin, split if p.steps > 1 else 0
    for s in range(p.time):
        if s % p.steps == 0:
            if s > 0 and not p.training:
                copy(p, units, N, z + first, z_begin + first)
                z, slots = z_begin, slots_begin
            steps_begin(p, units, inputs, s, N, sample, row_of, factor, z, slots, members)
        z_after, h, q = z + K * width, z + first, slots + 3 * plane
        for gate in range(2):
            b = operand(p, N, gate, z, factor, own)
            gate_product(p, units, N, gate, done, K, b + done * width, slots + (gate + 1) * plane, done > 0)
        b = operand(p, N, 2, z, factor, own)
        if done == 0:
            gate_product(p, units, N, 2, 0, split, b, slots, False)
        if p.reset_after:
            gate_product(p, units, N, 2, split, K, b + split * width, q, False)
        _gates(p, units, N, slots, h)
        if not p.reset_after:
            if p.factors > 1:
                multiply(p, size, N, q + mine, factor + ((3 * K - H) * width + mine), q + mine)
            meet(p, members)
            gate_product(p, units, N, 2, split, K, q, slots, True)
        if p.zero_masked:
            zero(size * width, out + mine)
        ok = valid + (time_of(p, s) * width if p.masked else 0)
        _units(p, units, N, slots, h, z_after + first, ok, out)
        output_store(p, units, s, N, sample, row_of, out)
        meet(p, members)
        z, slots = z_after, slots + 4 * plane
    state_store(p, units, N, z + first, sample, p.hT)


@njit(error_model="numpy")
def _units_back(p, units, N, slots, h_before, valid, dy, carry, dh, ds):
    """Those units of one step back: from dh, that of the states after it, to ds, and that of the states before it, as
    far as it does not come through U. With the reset gate before the product, r and q are left to `_reset_back`.

    `carry` is what masked steps hand back to the last valid one, whose output they repeat."""
    plane = p.units * p.width
    for unit in range(units[0], units[1]):
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
def _reset_back(p, units, N, slots, h_before, valid, dq, dh, ds):
    """The reset gate before the product: dq, the gradient of r * h for those units, is known once the candidate's went
    through U."""
    plane = p.units * p.width
    for unit in range(units[0], units[1]):
        for n in range(0, N, lanes_of(p)):
            k, ok = unit * p.width + n, load(valid, n)
            r, d, dh_before = load(slots, k + 2 * plane), load(dq, k - units[0] * p.width), load(dh, k)
            store(ds, k + 2 * plane, select(ok, d * load(h_before, k) * r * (1 - r), 0))
            store(ds, k + 3 * plane, 0)
            store(dh, k, select(ok, fma(d, r, dh_before), dh_before))


@njit(error_model="numpy")
def gru_backward(p, task, member, members):
    K, H, width, T = p.rows, p.units, p.width, p.time
    plane = H * width
    z = p.z + (task * (T + 1) + T) * K * width
    slots = p.slots + (task + 1) * T * 4 * plane
    sample, row_of = p.sample + task * width, p.row_of + (task + member) * width
    valid, factor = p.valid + task * (T if p.masked else 1) * width, p.factor + task * p.factors * K * width
    own, dh = p.own + (task + member) * K * width, p.dh + task * plane
    dy, carry = p.dy_step + task * plane, p.carry + task * plane
    units = share(H, member, members)
    size = units[1] - units[0]
    count, N = task_begin(p, task, sample)
    if member == 0:
        masks_begin(p, N, sample, row_of, valid, factor)
        zero(plane, carry)
        state_begin(p, N, p.has_dhT, p.dhT, sample, dh)
    meet(p, members)
    for s in range(T - 1, -1, -1):
        z, slots, ds = z - K * width, slots - 4 * plane, p.ds + (task * p.steps + s % p.steps) * 4 * plane
        h, ok = z + (K - H) * width, valid + (time_of(p, s) * width if p.masked else 0)
        upstream(p, units, s, N, sample, row_of, dy)
        _units_back(p, units, N, slots, h, ok, dy, carry, dh, ds)
        if not p.reset_after:
            meet(p, members)
            panels = p.U_panels + (2 * H * TILE_ROWS + units[0] * 3 * H)
            panels_product(p, size, N, H, panels, 3 * H * TILE_ROWS, ds, own, False)
            if p.factors > 1:
                multiply(p, size, N, own, factor + ((3 * K - H) * width + units[0] * width), own)
            _reset_back(p, units, N, slots, h, ok, own, dh, ds)
        rows_store(p, task, member, members, s, N, count, row_of, z, slots, factor, own, ds)
        meet(p, members)
        states_back(p, units, N, ds, factor, own, dh)
        steps_back(p, task, member, members, s, N, count, sample, row_of, ds, factor, own)
    state_store(p, units, N, dh, sample, p.dh0)
