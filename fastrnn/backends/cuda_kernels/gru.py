"""GRU, forward and backward, with the reset gate after the product with U or before it. The equations are derived in
fastrnn/backends/reference.py; sweep.py tells what a block does in which order."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import cuda

from .sweep import shared_code, sweep_jit


@functools.cache
def forward(real: Any, tile: int, resident: bool, shared: bool, grid: bool, reset_after: bool) -> Any:
    """The kernel. `gates` (B, T, 3H) holds x W + b and, in training, z, r and the candidate afterwards; `q` (B, T, H)
    is kept beside them: the candidate's recurrent part, or, with the reset before, what U's candidate part saw."""
    one = real(1)
    dtype = np.dtype(real)
    code = shared_code(real, tile, resident, shared, grid)
    barrier, place, lay_out, product, lane_sum, tanh = code.both
    begin, sigmoid, show, store_output = code.forward
    early = 3 if reset_after else 2  # how many gates see h itself

    @sweep_jit(real)
    def gru_forward(size, gates, U, b_rec, scratch, mask, h_mask, h0, y, h, h_before, q):
        B, T, H, rows, slots = size.B, size.T, size.H, size.rows, size.slots
        h_slots = slots if reset_after else slots - 1  # with the reset before, the last one is q's
        part, b0, first, last = place(size)
        memory = cuda.shared.array(0, dtype)
        weights, width, seen, seen_at, out_at = lay_out(size, memory, U, scratch, 3, part, first, last)

        for e in range(cuda.threadIdx.x, (last - first) * rows, cuda.blockDim.x):
            u, row = first + e % (last - first), e // (last - first)
            b = b0 + row
            begin(size, seen, seen_at, h_mask, h0, h, b, row, u)
        barrier()

        for s in range(T):
            t = T - 1 - s if size.backwards else s
            before = seen_at + s % 2 * slots * H * rows
            after = seen_at + (s + 1) % 2 * slots * H * rows
            q_at = before + (slots - 1) * H * rows
            slot_step = H * rows if size.h_masked else 0
            for u0 in range(first, last, size.units):
                n = min(size.units, last - u0)
                at = u0 - first if resident else u0
                product(memory, out_at, seen, before, slot_step, weights, at, 3 * width, width, H, early, rows, n)
                cuda.syncthreads()
                for e in range(cuda.threadIdx.x, n * rows, cuda.blockDim.x):
                    k, row = e % n, e // n
                    u, b = u0 + k, b0 + row
                    if b < B:
                        valid = not size.masked or mask[b * T + t] != 0
                        gate = (b * T + t) * 3 * H + u
                        h_new = h[b * H + u]
                        if size.training:
                            h_before[(b * T + t) * H + u] = h_new
                        a_z = gates[gate] + lane_sum(memory, out_at, 0, early, row, rows, k, n)
                        a_r = gates[gate + H] + lane_sum(memory, out_at, 1, early, row, rows, k, n)
                        if reset_after and size.biased:
                            a_z += b_rec[u]
                            a_r += b_rec[H + u]
                        z, r = sigmoid(a_z), sigmoid(a_r)
                        if reset_after:
                            q_new = lane_sum(memory, out_at, 2, early, row, rows, k, n)
                            if size.biased:
                                q_new += b_rec[2 * H + u]
                            candidate = tanh(gates[gate + 2 * H] + r * q_new)
                            if size.training:
                                gates[gate], gates[gate + H], gates[gate + 2 * H] = z, r, candidate
                            if valid:
                                h_new = z * h_new + (one - z) * candidate
                                h[b * H + u] = h_new
                            store_output(size, y, b, s, u, valid, h_new)
                            show(size, seen, after, h_slots, h_mask, b, row, u, h_new)
                        else:
                            gates[gate], gates[gate + H] = z, r
                            q_new = r * h_new
                            if size.h_masked:
                                q_new *= h_mask[(2 * B + b) * H + u]
                            seen[q_at + u * rows + row] = q_new
                        if size.training:
                            q[(b * T + t) * H + u] = q_new
                if u0 + n < last:
                    cuda.syncthreads()
            barrier()

            if not reset_after:
                for u0 in range(first, last, size.units):
                    n = min(size.units, last - u0)
                    at = (u0 - first if resident else u0) + 2 * width
                    product(memory, out_at, seen, q_at, 0, weights, at, 3 * width, width, H, 1, rows, n)
                    cuda.syncthreads()
                    for e in range(cuda.threadIdx.x, n * rows, cuda.blockDim.x):
                        k, row = e % n, e // n
                        u, b = u0 + k, b0 + row
                        if b < B:
                            valid = not size.masked or mask[b * T + t] != 0
                            gate = (b * T + t) * 3 * H + u
                            h_new = h[b * H + u]
                            candidate = tanh(gates[gate + 2 * H] + lane_sum(memory, out_at, 0, 1, row, rows, k, n))
                            if size.training:
                                gates[gate + 2 * H] = candidate
                            if valid:
                                z = gates[gate]
                                h_new = z * h_new + (one - z) * candidate
                                h[b * H + u] = h_new
                            store_output(size, y, b, s, u, valid, h_new)
                            show(size, seen, after, h_slots, h_mask, b, row, u, h_new)
                    if u0 + n < last:
                        cuda.syncthreads()
                barrier()

    return gru_forward


@functools.cache
def backward(real: Any, tile: int, resident: bool, shared: bool, grid: bool, reset_after: bool) -> Any:
    """The kernel. `Ut` (3H, H) is U transposed; `dgates` (B, T, 3H) the gradients before activation as the input's side
    sees them; `dq` (B, T, H), with reset_after only, what U's candidate part sees instead; dh ends as that of h0."""
    zero, one = real(0), real(1)
    dtype = np.dtype(real)
    code = shared_code(real, tile, resident, shared, grid)
    barrier, place, lay_out, product, lane_sum, _ = code.both
    begin_back, collect_dy, passed_on = code.backward
    late = 3 if reset_after else 2  # how many gates' gradients come back to h itself

    @sweep_jit(real)
    def gru_backward(size, gates, q, h_before, Ut, scratch, mask, h_mask, dy, dhT, passed_back, dh, dgates, dq):
        B, T, H, rows, slots = size.B, size.T, size.H, size.rows, size.slots
        part, b0, first, last = place(size)
        memory = cuda.shared.array(0, dtype)
        weights, width, seen, seen_at, out_at = lay_out(size, memory, Ut, scratch, 3, part, first, last)

        for e in range(cuda.threadIdx.x, (last - first) * rows, cuda.blockDim.x):
            u, row = first + e % (last - first), e // (last - first)
            b = b0 + row
            begin_back(size, seen, seen_at, dhT, dh, passed_back, b, row, u)
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
                        gate, unit = (b * T + t) * 3 * H + u, (b * T + t) * H + u
                        da_z, da_r, dp, dq_new = zero, zero, zero, zero
                        dy_all = collect_dy(size, dy, passed_back, b, s, u, valid)
                        if valid:
                            z, r, candidate = gates[gate], gates[gate + H], gates[gate + 2 * H]
                            dh_all = dh[b * H + u] + dy_all
                            da_z = dh_all * (h_before[unit] - candidate) * z * (one - z)
                            dp = dh_all * (one - z) * (one - candidate * candidate)
                            if reset_after:
                                dq_new = dp * r
                                da_r = dp * q[unit] * r * (one - r)
                            dh[b * H + u] = dh_all * z
                        at = now + u * rows + row
                        dgates[gate] = seen[at] = da_z
                        dgates[gate + 2 * H] = dp
                        if reset_after:
                            dgates[gate + H] = seen[at + H * rows] = da_r
                            dq[unit] = seen[at + 2 * H * rows] = dq_new
                        else:
                            seen[at + 2 * H * rows] = dp
            barrier()

            if not reset_after:
                for u0 in range(first, last, size.units):
                    n = min(size.units, last - u0)
                    at = (u0 - first if resident else u0) + 2 * H * width
                    product(memory, out_at, seen, now + 2 * H * rows, 0, weights, at, width, 0, H, 1, rows, n)
                    cuda.syncthreads()
                    for e in range(cuda.threadIdx.x, n * rows, cuda.blockDim.x):
                        k, row = e % n, e // n
                        u, b = u0 + k, b0 + row
                        if b < B:
                            da_r = zero
                            gate = (b * T + t) * 3 * H + u
                            if not size.masked or mask[b * T + t] != 0:
                                r = gates[gate + H]
                                drh = lane_sum(memory, out_at, 0, 1, row, rows, k, n)
                                if size.h_masked:
                                    drh *= h_mask[(2 * B + b) * H + u]
                                da_r = drh * h_before[(b * T + t) * H + u] * r * (one - r)
                                dh[b * H + u] += drh * r
                            dgates[gate + H] = seen[now + (H + u) * rows + row] = da_r
                    if u0 + n < last:
                        cuda.syncthreads()
                barrier()

            for u0 in range(first, last, size.units):
                n = min(size.units, last - u0)
                at = u0 - first if resident else u0
                product(memory, out_at, seen, now, H * rows, weights, at, width, H * width, H, late, rows, n)
                cuda.syncthreads()
                for e in range(cuda.threadIdx.x, n * rows, cuda.blockDim.x):
                    k, row = e % n, e // n
                    u, b = u0 + k, b0 + row
                    if b < B and (not size.masked or mask[b * T + t] != 0):
                        dh[b * H + u] += passed_on(size, memory, out_at, late, h_mask, b, row, u, k, n)
                if u0 + n < last:
                    cuda.syncthreads()

    return gru_backward
