"""LSTM, forward and backward, for the samples of one task. fastrnn/backends/reference.py derives the equations."""

from __future__ import annotations

from numba import njit

from .backward import rows_store, states_back, steps_back, upstream
from .gates import sigmoid, tanh
from .layer import (
    copy,
    gate_product,
    masks_begin,
    meet,
    operand,
    output_store,
    share,
    state_begin,
    state_store,
    steps_begin,
    task_begin,
    time_of,
    zero,
)
from .memory import lanes_of, load, store
from .vectors import fma, select


@njit(error_model="numpy")
def _units(p, units, N, slots, h_before, h_after, c_before, c_after, valid, out):
    """Those units of one step: slots i, f, g, o before their activations become the activated gates, and new states.

    Where a sample is masked, states stay as they are, and the output repeats the one before."""
    plane = p.units * p.width
    for unit in range(units[0], units[1]):
        for n in range(0, N, lanes_of(p)):
            k, ok = unit * p.width + n, load(valid, n)
            i, f = sigmoid(load(slots, k)), sigmoid(load(slots, k + plane))
            g, o = tanh(load(slots, k + 2 * plane)), sigmoid(load(slots, k + 3 * plane))
            h, c = load(h_before, k), load(c_before, k)
            c_new = fma(f, c, i * g)
            h_new = o * tanh(c_new)
            store(slots, k, i)
            store(slots, k + plane, f)
            store(slots, k + 2 * plane, g)
            store(slots, k + 3 * plane, o)
            store(c_after, k, select(ok, c_new, c))
            store(h_after, k, select(ok, h_new, h))
            store(out, k, select(ok, h_new, load(out, k)))


@njit(error_model="numpy")
def lstm_forward(p, task, member, members):
    K, H, width = p.rows, p.units, p.width
    plane, first, kept = H * width, (K - H) * width, p.time if p.training else p.steps
    z_begin, slots_begin = p.z + task * (kept + 1) * K * width, p.slots + task * kept * 4 * plane
    c = p.c + task * (p.time + 1 if p.training else 1) * plane
    sample, row_of = p.sample + task * width, p.row_of + (task + member) * width
    valid, factor = p.valid + task * (p.time if p.masked else 1) * width, p.factor + task * p.factors * K * width
    own, out = p.own + (task + member) * K * width, p.out + task * plane
    units, inputs = share(H, member, members), share(p.inputs, member, members)
    N = task_begin(p, task, sample)[1]
    if member == 0:
        masks_begin(p, N, sample, row_of, valid, factor)
        zero(plane, out)
        state_begin(p, N, p.has_h0, p.h0, sample, z_begin + first)
        state_begin(p, N, p.has_c0, p.c0, sample, c)
    meet(p, members)
    z, slots, done = z_begin, slots_begin, p.inputs + 1 if p.steps > 1 else 0
    for s in range(p.time):
        if s % p.steps == 0:
            if s > 0 and not p.training:
                copy(p, units, N, z + first, z_begin + first)
                z, slots = z_begin, slots_begin
            steps_begin(p, units, inputs, s, N, sample, row_of, factor, z, slots, members)
        for gate in range(4):
            b = operand(p, N, gate, z, factor, own)
            gate_product(p, units, N, gate, done, K, b + done * width, slots + gate * plane, done > 0)
        z_after, c_after = z + K * width, c + (plane if p.training else 0)
        if p.zero_masked:
            zero((units[1] - units[0]) * width, out + units[0] * width)
        ok = valid + (time_of(p, s) * width if p.masked else 0)
        _units(p, units, N, slots, z + first, z_after + first, c, c_after, ok, out)
        output_store(p, units, s, N, sample, row_of, out)
        meet(p, members)
        z, c, slots = z_after, c_after, slots + 4 * plane
    state_store(p, units, N, z + first, sample, p.hT)
    state_store(p, units, N, c, sample, p.cT)


@njit(error_model="numpy")
def _units_back(p, units, N, slots, c_before, c_after, valid, dy, carry, dh, dc, ds):
    """Those units of one step back: from dh and dc, those of the states after it, to ds, and those of the states before
    it, as far as they do not come through U.

    `carry` is what masked steps hand back to the last valid one, whose output they repeat."""
    plane = p.units * p.width
    for unit in range(units[0], units[1]):
        for n in range(0, N, lanes_of(p)):
            k, ok = unit * p.width + n, load(valid, n)
            i, f = load(slots, k), load(slots, k + plane)
            g, o = load(slots, k + 2 * plane), load(slots, k + 3 * plane)
            tanh_c = tanh(load(c_after, k))
            seen = load(dy, k) + load(carry, k)
            if not p.zero_masked:
                store(carry, k, select(ok, 0, seen))
            dh_after, dc_after = load(dh, k), load(dc, k)
            dh_all = dh_after + seen
            dc_all = fma(dh_all * o, 1 - tanh_c * tanh_c, dc_after)
            store(ds, k, select(ok, dc_all * g * i * (1 - i), 0))
            store(ds, k + plane, select(ok, dc_all * load(c_before, k) * f * (1 - f), 0))
            store(ds, k + 2 * plane, select(ok, dc_all * i * (1 - g * g), 0))
            store(ds, k + 3 * plane, select(ok, dh_all * tanh_c * o * (1 - o), 0))
            store(dc, k, select(ok, dc_all * f, dc_after))
            store(dh, k, select(ok, 0, dh_after))


@njit(error_model="numpy")
def lstm_backward(p, task, member, members):
    K, H, width, T = p.rows, p.units, p.width, p.time
    plane = H * width
    z = p.z + (task * (T + 1) + T) * K * width
    c = p.c + (task * (T + 1) + T) * plane
    slots = p.slots + (task + 1) * T * 4 * plane
    sample, row_of = p.sample + task * width, p.row_of + (task + member) * width
    valid, factor = p.valid + task * (T if p.masked else 1) * width, p.factor + task * p.factors * K * width
    own, dh, dc = p.own + (task + member) * K * width, p.dh + task * plane, p.dc + task * plane
    dy, carry = p.dy_step + task * plane, p.carry + task * plane
    units = share(H, member, members)
    count, N = task_begin(p, task, sample)
    if member == 0:
        masks_begin(p, N, sample, row_of, valid, factor)
        zero(plane, carry)
        state_begin(p, N, p.has_dhT, p.dhT, sample, dh)
        state_begin(p, N, p.has_dcT, p.dcT, sample, dc)
    meet(p, members)
    for s in range(T - 1, -1, -1):
        c_after, ds = c, p.ds + (task * p.steps + s % p.steps) * 4 * plane
        z, c, slots = z - K * width, c - plane, slots - 4 * plane
        upstream(p, units, s, N, sample, row_of, dy)
        ok = valid + (time_of(p, s) * width if p.masked else 0)
        _units_back(p, units, N, slots, c, c_after, ok, dy, carry, dh, dc, ds)
        rows_store(p, task, member, members, s, N, count, row_of, z, slots, factor, own, ds)
        meet(p, members)
        states_back(p, units, N, ds, factor, own, dh)
        steps_back(p, task, member, members, s, N, count, sample, row_of, ds, factor, own)
    state_store(p, units, N, dh, sample, p.dh0)
    state_store(p, units, N, dc, sample, p.dc0)
