"""LSTM, forward and backward, for the samples of one task. fastrnn/backends/reference.py derives the equations."""

from __future__ import annotations

from numba import njit

from .backward import inputs_back, rows_store, states_back, upstream, weights_back
from .gates import sigmoid, tanh
from .layer import (
    gate_product,
    inputs_begin,
    masks_begin,
    operand,
    output_store,
    state_begin,
    task_begin,
    time_of,
    zero,
)
from .memory import lanes_of, load, store
from .transposes import columns_to_rows
from .vectors import fma, select


@njit(error_model="numpy")
def _units(p, N, slots, h_before, h_after, c_before, c_after, valid, out):
    """All units of one step: slots i, f, g, o before their activations become the activated gates, and new states.

    Where a sample is masked, states stay as they are, and the output repeats the one before."""
    plane = p.units * p.width
    for unit in range(p.units):
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
def lstm_forward(p, task):
    K, H, width = p.rows, p.units, p.width
    plane, keep = H * width, 1 if p.training else 0
    z = p.z + task * (keep * p.time + 1) * K * width
    c = p.c + task * (keep * p.time + 1) * plane
    slots = p.slots + task * (p.time if p.training else 1) * 4 * plane
    sample, row_of = p.sample + task * width, p.row_of + task * width
    valid, factor = p.valid + task * (p.time if p.masked else 1) * width, p.factor + task * p.factors * K * width
    own, out = p.own + task * K * width, p.out + task * plane
    _, N = task_begin(p, task, sample)
    masks_begin(p, N, sample, row_of, valid, factor)
    zero(plane, out)
    state_begin(p, N, p.has_h0, p.h0, sample, z + (K - H) * width)
    state_begin(p, N, p.has_c0, p.c0, sample, c)
    for s in range(p.time):
        inputs_begin(p, s, N, sample, row_of, factor, z)
        for gate in range(4):
            b = operand(p, N, gate, z, factor, own)
            gate_product(p, N, gate, 0, K, b, slots + gate * plane, False)
        z_after, c_after = z + keep * K * width, c + keep * plane
        h, h_after = z + (K - H) * width, z_after + (K - H) * width
        if p.zero_masked:
            zero(plane, out)
        _units(p, N, slots, h, h_after, c, c_after, valid + (time_of(p, s) * width if p.masked else 0), out)
        output_store(p, s, N, sample, row_of, out)
        z, c, slots = z_after, c_after, slots + keep * 4 * plane
    columns_to_rows(H, N, z + (K - H) * width, width, p.hT, sample, H)
    columns_to_rows(H, N, c, width, p.cT, sample, H)


@njit(error_model="numpy")
def _units_back(p, N, slots, c_before, c_after, valid, dy, carry, dh, dc, ds):
    """All units of one step back: from dh and dc, those of the states after it, to ds, and those of the states before
    it, as far as they do not come through U.

    `carry` is what masked steps hand back to the last valid one, whose output they repeat."""
    plane = p.units * p.width
    for unit in range(p.units):
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
def lstm_backward(p, task):
    K, H, width, T = p.rows, p.units, p.width, p.time
    plane = H * width
    z = p.z + (task * (T + 1) + T) * K * width
    c = p.c + (task * (T + 1) + T) * plane
    slots = p.slots + (task + 1) * T * 4 * plane
    sample, row_of = p.sample + task * width, p.row_of + task * width
    valid, factor = p.valid + task * (T if p.masked else 1) * width, p.factor + task * p.factors * K * width
    own, dx, ds = p.own + task * K * width, p.dx_step + task * p.inputs * width, p.ds + task * 4 * plane
    dh, dc = p.dh + task * plane, p.dc + task * plane
    dy, carry = p.dy_step + task * plane, p.carry + task * plane
    count, N = task_begin(p, task, sample)
    masks_begin(p, N, sample, row_of, valid, factor)
    zero(plane, carry)
    zero(p.groups * K * p.columns, p.partial + task * p.groups * K * p.columns)
    state_begin(p, N, p.has_dhT, p.dhT, sample, dh)
    state_begin(p, N, p.has_dcT, p.dcT, sample, dc)
    for s in range(T - 1, -1, -1):
        c_after = c
        z, c, slots = z - K * width, c - plane, slots - 4 * plane
        upstream(p, s, N, sample, row_of, dy)
        ok = valid + (time_of(p, s) * width if p.masked else 0)
        _units_back(p, N, slots, c, c_after, ok, dy, carry, dh, dc, ds)
        states_back(p, N, ds, factor, own, dh)
        inputs_back(p, s, N, sample, row_of, ds, factor, own, dx)
        rows_store(p, task, s, N, count, row_of, z, slots, factor, own, ds)
        if s % p.block == 0:
            weights_back(p, task, min(p.block, T - s) * count)
    columns_to_rows(H, N, dh, width, p.dh0, sample, H)
    columns_to_rows(H, N, dc, width, p.dc0, sample, H)
