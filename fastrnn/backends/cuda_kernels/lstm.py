"""LSTM, forward and backward. The equations are derived in fastrnn/backends/reference.py; sweep.py tells what a block
does in which order."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import cuda

from .sweep import shared_code, sweep_jit


@functools.cache
def forward(real: Any, tile: int, resident: bool, shared: bool, grid: bool) -> Any:
    """The kernel. `gates` (B, T, 4H) holds x W + b and, in training, the activated gates afterwards."""
    zero = real(0)
    dtype = np.dtype(real)
    code = shared_code(real, tile, resident, shared, grid)
    barrier, place, lay_out, product, lane_sum, tanh = code.both
    begin, sigmoid, show, store_output = code.forward

    @sweep_jit(real)
    def lstm_forward(size, gates, U, scratch, mask, h_mask, h0, c0, y, h, c, h_before, c_before):
        B, T, H, rows, slots = size.B, size.T, size.H, size.rows, size.slots
        part, b0, first, last = place(size)
        memory = cuda.shared.array(0, dtype)
        weights, width, seen, seen_at, out_at = lay_out(size, memory, U, scratch, 4, part, first, last)

        for e in range(cuda.threadIdx.x, (last - first) * rows, cuda.blockDim.x):
            u, row = first + e % (last - first), e // (last - first)
            b = b0 + row
            begin(size, seen, seen_at, h_mask, h0, h, b, row, u)
            if b < B:
                c[b * H + u] = c0[b * H + u] if size.has_c else zero
        barrier()

        for s in range(T):
            t = T - 1 - s if size.backwards else s
            before = seen_at + s % 2 * slots * H * rows
            after = seen_at + (s + 1) % 2 * slots * H * rows
            for u0 in range(first, last, size.units):
                n = min(size.units, last - u0)
                at = u0 - first if resident else u0
                slot_step = H * rows if size.h_masked else 0
                product(memory, out_at, seen, before, slot_step, weights, at, 4 * width, width, H, 4, rows, n)
                cuda.syncthreads()
                for e in range(cuda.threadIdx.x, n * rows, cuda.blockDim.x):
                    k, row = e % n, e // n
                    u, b = u0 + k, b0 + row
                    if b < B:
                        valid = not size.masked or mask[b * T + t] != 0
                        gate = (b * T + t) * 4 * H + u
                        h_new, c_new = h[b * H + u], c[b * H + u]
                        if size.training:
                            h_before[(b * T + t) * H + u], c_before[(b * T + t) * H + u] = h_new, c_new
                        i = sigmoid(gates[gate] + lane_sum(memory, out_at, 0, 4, row, rows, k, n))
                        f = sigmoid(gates[gate + H] + lane_sum(memory, out_at, 1, 4, row, rows, k, n))
                        g = tanh(gates[gate + 2 * H] + lane_sum(memory, out_at, 2, 4, row, rows, k, n))
                        o = sigmoid(gates[gate + 3 * H] + lane_sum(memory, out_at, 3, 4, row, rows, k, n))
                        if size.training:
                            gates[gate], gates[gate + H] = i, f
                            gates[gate + 2 * H], gates[gate + 3 * H] = g, o
                        if valid:
                            c_new = f * c_new + i * g
                            h_new = o * tanh(c_new)
                            h[b * H + u], c[b * H + u] = h_new, c_new
                        store_output(size, y, b, s, u, valid, h_new)
                        show(size, seen, after, slots, h_mask, b, row, u, h_new)
                if u0 + n < last:
                    cuda.syncthreads()
            barrier()

    return lstm_forward


@functools.cache
def backward(real: Any, tile: int, resident: bool, shared: bool, grid: bool) -> Any:
    """The kernel. `Ut` (4H, H) is U transposed; `dgates` (B, T, 4H) the gradients before activation; dh and dc end as
    those of the initial states."""
    zero, one = real(0), real(1)
    dtype = np.dtype(real)
    code = shared_code(real, tile, resident, shared, grid)
    barrier, place, lay_out, product, _, tanh = code.both
    begin_back, collect_dy, passed_on = code.backward

    @sweep_jit(real)
    def lstm_backward(size, gates, c_before, Ut, scratch, mask, h_mask, dy, dhT, dcT, passed_back, dh, dc, dgates):
        B, T, H, rows, slots = size.B, size.T, size.H, size.rows, size.slots
        part, b0, first, last = place(size)
        memory = cuda.shared.array(0, dtype)
        weights, width, seen, seen_at, out_at = lay_out(size, memory, Ut, scratch, 4, part, first, last)

        for e in range(cuda.threadIdx.x, (last - first) * rows, cuda.blockDim.x):
            u, row = first + e % (last - first), e // (last - first)
            b = b0 + row
            begin_back(size, seen, seen_at, dhT, dh, passed_back, b, row, u)
            if b < B:
                dc[b * H + u] = dcT[b * H + u] if size.has_c else zero
        cuda.syncthreads()

        for s in range(T - 1, -1, -1):
            t = T - 1 - s if size.backwards else s
            now = seen_at + s % 2 * slots * H * rows
            for u0 in range(first, last, size.units):
                n = min(size.units, last - u0)
                for e in range(cuda.threadIdx.x, n * rows, cuda.blockDim.x):
                    u, row = u0 + e % n, e // n
                    b = b0 + row
                    if b < B:
                        valid = not size.masked or mask[b * T + t] != 0
                        gate = (b * T + t) * 4 * H + u
                        da_i, da_f, da_g, da_o = zero, zero, zero, zero
                        dy_all = collect_dy(size, dy, passed_back, b, s, u, valid)
                        if valid:
                            i, f, g, o = gates[gate], gates[gate + H], gates[gate + 2 * H], gates[gate + 3 * H]
                            c_old = c_before[(b * T + t) * H + u]
                            tanh_c = tanh(f * c_old + i * g)
                            dh_all = dh[b * H + u] + dy_all
                            dc_all = dc[b * H + u] + dh_all * o * (one - tanh_c * tanh_c)
                            da_i = dc_all * g * i * (one - i)
                            da_f = dc_all * c_old * f * (one - f)
                            da_g = dc_all * i * (one - g * g)
                            da_o = dh_all * tanh_c * o * (one - o)
                            dc[b * H + u] = dc_all * f
                        at = now + u * rows + row
                        dgates[gate] = seen[at] = da_i
                        dgates[gate + H] = seen[at + H * rows] = da_f
                        dgates[gate + 2 * H] = seen[at + 2 * H * rows] = da_g
                        dgates[gate + 3 * H] = seen[at + 3 * H * rows] = da_o
            barrier()
            for u0 in range(first, last, size.units):
                n = min(size.units, last - u0)
                at = u0 - first if resident else u0
                product(memory, out_at, seen, now, H * rows, weights, at, width, H * width, H, 4, rows, n)
                cuda.syncthreads()
                for e in range(cuda.threadIdx.x, n * rows, cuda.blockDim.x):
                    k, row = e % n, e // n
                    u, b = u0 + k, b0 + row
                    if b < B and (not size.masked or mask[b * T + t] != 0):
                        dh[b * H + u] = passed_on(size, memory, out_at, 4, h_mask, b, row, u, k, n)
                if u0 + n < last:
                    cuda.syncthreads()

    return lstm_backward
