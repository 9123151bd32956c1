"""The CUDA kernels (cuda_kernels/), through Numba, and what is launched in which order.

Forward: the product with W for all time steps, then one launch that sweeps over them. Backward: one sweep that leaves
the gates' gradients of all time steps, then the products for dx, dW and dU, and the sums for db. How many launches that
is depends on the options, never on T.

NumPy arrays are copied to the GPU and back; arrays that lie there already are used where they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .arrays import CudaArray
from .contract import Call, Gradients
from .cuda_kernels import embedding, gru, lstm
from .cuda_kernels.device import Device, why_not
from .cuda_kernels.products import Matrix, apply_mask, multiply, sum_rows, transpose
from .cuda_kernels.sweep import Plan, Sizes, make_plan

if (reason := why_not()) is not None:
    raise ImportError(reason)


class Data(NamedTuple):
    """What backward needs: the call's arrays on the GPU, and what the sweep left there.

    `kept` is the cell's: c before each step for LSTM, q for GRU (see gru.py). Gates, h_before and kept lie at the place
    in time that a step reads, not in the order of the steps, so that their rows are x's.
    """

    device: Device
    x: Any
    ids: Any
    W: Any
    U: Any
    mask: Any
    x_mask: Any
    h_mask: Any
    gates: Any
    h_before: Any
    kept: Any


def _sizes(call: Call, plan: Plan, slots: int, **flags: bool) -> Sizes:
    B, T, H = call.batch, call.time, len(call.U)
    return Sizes(
        **dict(B=B, T=T, H=H, rows=plan.rows, span=plan.span, units=plan.units, slots=slots),
        backwards=int(call.go_backwards),
        masked=int(call.mask is not None),
        zero_masked=int(call.zero_output_for_mask),
        sequences=int(call.return_sequences),
        training=int(call.training),
        h_masked=int(call.h_mask is not None),
        biased=int(call.b is not None),
        **{name: int(flag) for name, flag in {"has_h": False, "has_c": False, "has_dy": False, **flags}.items()},
    )


def _plan(device: Device, call: Call, gates: int, slots: int) -> Plan:
    H, itemsize = len(call.U), call.x.dtype.itemsize
    return make_plan(call.batch, H, gates, slots, itemsize, device.processors, grid=device.can_meet)


def _x_groups(data: Data, call: Call, gates: int) -> int:
    """Into how many products that with W falls: one per gate where each has a dropout mask of its own."""
    return gates if call.x_mask is not None and len(call.x_mask) > 1 else 1


def _masked_x(data: Data, call: Call, gate: int) -> Any:
    """The inputs under the gate's dropout mask."""
    if data.x_mask is None:
        return data.x
    out = data.device.empty(data.x.size, data.x.dtype)
    apply_mask(data.device, data.x, data.x_mask, gate, (call.batch, call.time, len(call.W)), out, add=False)
    return out


def _forward(call: Call, gates: int) -> tuple[Any, Any, Any, Data | None]:
    lstm_cell = gates == 4
    arrays = (call.x, call.ids, call.W, call.U, call.b, call.h0, call.c0, call.mask, call.x_mask, call.h_mask)
    device = Device(arrays)
    x, ids, W, U, b, h0, c0, mask, x_mask, h_mask = (device.get(array) for array in arrays)
    B, T, I, H, dtype = call.batch, call.time, len(call.W), len(call.U), call.x.dtype
    GH = gates * H
    if ids is not None:
        embedding.check_ids(device, ids, len(call.x))
        x = embedding.gather(device, x, ids, I)
    steps = B * T * H if call.training else 1
    data = Data(
        *(device, x, ids, W, U, mask, x_mask, h_mask),
        gates=device.empty(B * T * GH, dtype),
        h_before=device.empty(steps, dtype),
        kept=device.empty(steps, dtype),
    )

    groups = _x_groups(data, call, gates)
    N = GH // groups
    for g in range(groups):
        bias = None if b is None else b[g * N : (g + 1) * N]
        of_x, of_W = Matrix(_masked_x(data, call, g), I), Matrix(W, GH, at=g * N)
        multiply(device, Matrix(data.gates, GH, at=g * N), of_x, of_W, B * T, N, I, bias)

    # what h must be seen as, besides as it is: under each gate's mask; and q, where the reset comes before
    early = gates if lstm_cell or call.reset_after else 2
    slots = (early if h_mask is not None else 1) + gates - early
    plan = _plan(device, call, gates, slots)
    size = _sizes(call, plan, slots, has_h=h0 is not None, has_c=c0 is not None)
    y, h = device.empty(int(np.prod(call.y_shape)), dtype), device.empty(B * H, dtype)
    c = device.empty(B * H, dtype) if lstm_cell else None
    scratch = device.empty(plan.scratch_size(B, H, slots), dtype)
    # in place of an array that is not there, one that the kernel does not look at
    masks = (device.empty(1, np.uint8) if mask is None else mask, U if h_mask is None else h_mask)
    h0, c0 = (U if state is None else state for state in (h0, c0))
    kept = (data.h_before, data.kept)
    real: Any = dtype.type
    args: tuple[Any, ...]
    if lstm_cell:
        kernel = lstm.forward(real, *plan.variant)
        args = (data.gates, U, scratch, *masks, h0, c0, y, h, c, *kept)
    else:
        kernel = gru.forward(real, *plan.variant, call.reset_after)
        b_rec = b[GH:] if b is not None and call.reset_after else U
        args = (data.gates, U, b_rec, scratch, *masks, h0, y, h, *kept)
    device.launch(kernel, plan.blocks, plan.threads, size, *args, shared_bytes=plan.shared_bytes)

    to_host = not isinstance(call.x, CudaArray)
    y, h = device.give(y, call.y_shape, to_host), device.give(h, call.state_shape, to_host)
    c = None if c is None else device.give(c, call.state_shape, to_host)
    return y, h, c, data if call.training else None


def _backward(call: Call, data: Data, gates: int, dy: Any, dhT: Any, dcT: Any) -> Gradients:
    lstm_cell = gates == 4
    upstream = (dy, dhT, dcT)
    device = Device(upstream, data.device)
    data = data._replace(device=device)
    has_dy, has_h, has_c = (array is not None for array in upstream)
    U = data.U
    # in place of an array that is not there, one that the kernel does not look at
    dy, dhT, dcT = (U if array is None else device.get(array) for array in upstream)
    if data.ids is not None:
        try:
            embedding.check_ids(device, data.ids, len(call.x))
        except IndexError:
            raise ValueError("token ids were changed since the forward call, and are now outside the table") from None
    B, T, H, dtype = call.batch, call.time, len(call.U), call.x.dtype
    GH = gates * H

    plan = _plan(device, call, gates, gates)
    size = _sizes(call, plan, gates, has_h=has_h, has_c=has_c, has_dy=has_dy)
    Ut = transpose(device, U, H, GH)
    dgates, dh = device.empty(B * T * GH, dtype), device.empty(B * H, dtype)
    passed_back = device.empty(B * H if call.mask is not None else 1, dtype)
    scratch = device.empty(plan.scratch_size(B, H, gates), dtype)
    masks = (
        device.empty(1, np.uint8) if data.mask is None else data.mask,
        U if data.h_mask is None else data.h_mask,
    )
    dc = dq = None
    real: Any = dtype.type
    args: tuple[Any, ...]
    if lstm_cell:
        dc = device.empty(B * H, dtype)
        kernel = lstm.backward(real, *plan.variant)
        args = (data.gates, data.kept, Ut, scratch, *masks, dy, dhT, dcT, passed_back, dh, dc, dgates)
    else:
        dq = device.empty(B * T * H if call.reset_after else 1, dtype)
        kernel = gru.backward(real, *plan.variant, call.reset_after)
        args = (data.gates, data.kept, data.h_before, Ut, scratch, *masks, dy, dhT, passed_back, dh, dgates, dq)
    device.launch(kernel, plan.blocks, plan.threads, size, *args, shared_bytes=plan.shared_bytes)

    dx, dW = _input_gradients(call, data, gates, dgates)
    dU = _recurrent_gradients(call, data, gates, dgates, dq)
    db = None if call.b is None else _bias_gradients(call, device, gates, dgates, dq)

    to_host = not isinstance(call.x, CudaArray)

    def give(array: Any, shape: tuple[int, ...]) -> Any:
        return device.give(array, shape, to_host)

    return Gradients(
        dx=give(dx, call.x.shape),
        dW=give(dW, call.W.shape),
        dU=give(dU, call.U.shape),
        db=None if call.b is None else give(db, call.b.shape),
        dh0=give(dh, call.state_shape),
        dc0=None if dc is None else give(dc, call.state_shape),
    )


def _input_gradients(call: Call, data: Data, gates: int, dgates: Any) -> tuple[Any, Any]:
    """dx, or the table's gradient, and dW."""
    device, B, T, I, GH = data.device, call.batch, call.time, len(call.W), call.W.shape[1]
    groups = _x_groups(data, call, gates)
    N = GH // groups
    dx, dW = device.empty(data.x.size, data.x.dtype), device.empty(I * GH, data.x.dtype)
    part = dx if data.x_mask is None else device.empty(data.x.size, data.x.dtype)
    for g in range(groups):
        of_gates, of_W = Matrix(dgates, GH, at=g * N), Matrix(data.W, GH, at=g * N)
        multiply(device, Matrix(part, I), of_gates, of_W.T, B * T, I, N)
        if data.x_mask is not None:
            apply_mask(device, part, data.x_mask, g, (B, T, I), dx, add=g > 0)
        of_x = Matrix(_masked_x(data, call, g), I)
        multiply(device, Matrix(dW, GH, at=g * N), of_x.T, of_gates, I, N, B * T, split=True)
    if data.ids is None:
        return dx, dW
    table = device.empty(len(call.x) * I, dx.dtype)
    embedding.scatter_add(device, data.ids, dx, table, len(call.x), I)
    return table, dW


def _recurrent_gradients(call: Call, data: Data, gates: int, dgates: Any, dq: Any) -> Any:
    device, B, T, H = data.device, call.batch, call.time, len(call.U)
    GH = gates * H
    # which gates saw which states, and their gradients
    if gates == 4:
        seen = [(range(4), data.h_before, data.h_mask, Matrix(dgates, GH))]
    else:
        seen = [(range(2), data.h_before, data.h_mask, Matrix(dgates, GH))]
        if call.reset_after:
            seen.append((range(2, 3), data.h_before, data.h_mask, Matrix(dq, H)))
        else:
            seen.append((range(2, 3), data.kept, None, Matrix(dgates, GH, at=2 * H)))
    dU = device.empty(H * GH, dgates.dtype)
    for which, states, h_mask, of_gates in seen:
        groups = [which] if h_mask is None else [range(g, g + 1) for g in which]
        for group in groups:
            of_states = states
            if h_mask is not None:
                of_states = device.empty(states.size, states.dtype)
                apply_mask(device, states, h_mask, group[0], (B, T, H), of_states, add=False)
            part = of_gates._replace(at=of_gates.at + (group[0] - which[0]) * H)
            of_U = Matrix(dU, GH, at=group[0] * H)
            multiply(device, of_U, Matrix(of_states, H).T, part, H, len(group) * H, B * T, split=True)
    return dU


def _bias_gradients(call: Call, device: Device, gates: int, dgates: Any, dq: Any) -> Any:
    rows, H = call.batch * call.time, len(call.U)
    GH = gates * H
    two = gates == 3 and call.reset_after
    db = device.empty(2 * GH if two else GH, dgates.dtype)
    sum_rows(device, Matrix(db, GH), Matrix(dgates, GH), rows, GH)
    if two:
        sum_rows(device, Matrix(db, GH, at=GH), Matrix(dgates, GH), rows, 2 * H)
        sum_rows(device, Matrix(db, GH, at=GH + 2 * H), Matrix(dq, H), rows, H)
    return db


def lstm_forward(call: Call) -> tuple[Any, Any, Any, Any]:
    return _forward(call, 4)


def lstm_backward(call: Call, data: Any, dy: Any, dhT: Any, dcT: Any) -> Gradients:
    return _backward(call, data, 4, dy, dhT, dcT)


def gru_forward(call: Call) -> tuple[Any, Any, Any]:
    y, hT, _, data = _forward(call, 3)
    return y, hT, data


def gru_backward(call: Call, data: Any, dy: Any, dhT: Any) -> Gradients:
    return _backward(call, data, 3, dy, dhT, None)


def embedding_forward(table: Any, ids: Any) -> Any:
    shape, to_host = (*ids.shape, table.shape[1]), not isinstance(table, CudaArray)
    device = Device((table, ids))
    flat_ids = device.get(ids)
    embedding.check_ids(device, flat_ids, len(table))
    return device.give(embedding.gather(device, device.get(table), flat_ids, table.shape[1]), shape, to_host)


def embedding_backward(ids: Any, dy: Any, out: Any) -> None:
    device = Device((out, ids, dy))
    rows, width = out.shape
    on_device = isinstance(out, CudaArray)
    target = device.get(out) if on_device else device.empty(out.size, out.dtype)
    flat_ids = device.get(ids)
    embedding.check_ids(device, flat_ids, rows)
    embedding.scatter_add(device, flat_ids, device.get(dy), target, rows, width)
    if not on_device:
        out[...] = device.give(target, out.shape, to_host=True)
