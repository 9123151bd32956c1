"""The C kernels (csrc/), through cffi: fused, multi-threaded, with the GIL released."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from . import threads
from .contract import Call, Gradients, Head
from .memory import reserves

try:
    from fastrnn._kernels import ffi, lib
except ImportError as error:  # the registry shows this as the reason why the backend is missing
    raise ImportError(
        f"the compiled module fastrnn._kernels cannot be loaded ({error}); it is built where a C compiler "
        "(gcc or clang) is at hand when fastrnn is installed"
    ) from error
from . import c_model
from .c_model import HEADS, MAX_HEAD_PRODUCTS, run, takes_ids
from .c_stream import CStream


def isa_names() -> list[str]:
    """The instruction sets that this build has and this machine can run, from the lowest."""
    return [name for index, name in enumerate(_all_isas()) if lib.frnn_isa_supported(index)]


def isa() -> str:
    """The instruction set in use."""
    return _all_isas()[int(lib.frnn_isa_chosen())]


def set_isa(name: str) -> None:
    """Makes all later calls of the process use the named instruction set, one of `isa_names()`."""
    if name not in isa_names():
        known = "not one this machine can run" if name in _all_isas() else "not one of this build"
        raise ValueError(f"instruction set {name!r} is {known}; choose one of {', '.join(isa_names())}")
    lib.frnn_isa_choose(_all_isas().index(name))


def _all_isas() -> list[str]:
    names: list[str] = []
    while (name := lib.frnn_isa_name(len(names))) != ffi.NULL:
        names.append(str(ffi.string(name).decode()))
    return names


if os.environ.get("FASTRNN_ISA"):
    try:
        set_isa(os.environ["FASTRNN_ISA"])
    except ValueError as error:
        raise ValueError(f"FASTRNN_ISA: {error}") from error
threads.on_change(lambda number: lib.frnn_set_threads(min(number, 2**31 - 1)))


class Data(NamedTuple):
    """What backward needs: the kernels' reserve, the forward's struct, and the rows looked up for it, if they were."""

    reserve: np.ndarray
    c_call: Any
    rows: np.ndarray | None
    y_shape: tuple[int, ...]
    state_shape: tuple[int, int]


_at = ffi.from_buffer
_NULL = ffi.NULL
_CALL = ffi.typeof("frnn_call *")


def _pointer(array: np.ndarray | None) -> Any:
    return _NULL if array is None else _at(array)


def _c_call(cell: int, call: Call, batch: int, time: int) -> Any:
    """The call as the C struct, up to inputs and masks; it points into the call's arrays, which must outlive it."""
    W, U = call.W, call.U
    b = _NULL if call.b is None else _at(call.b)
    h0 = _NULL if call.h0 is None else _at(call.h0)
    c0 = _NULL if call.c0 is None else _at(call.c0)
    sequences, reset_after = call.return_sequences, call.reset_after
    backwards, zero = call.go_backwards, call.zero_output_for_mask
    bits = W.itemsize * 8
    # in the order of the struct, as one tuple: the fastest way that cffi has
    return ffi.new(
        _CALL,
        (cell, bits, batch, time, len(W), len(U), backwards, zero, sequences, reset_after, _at(W), _at(U), b, h0, c0),
    )


def _set_inputs(c_call: Any, call: Call, rows: np.ndarray | None) -> None:
    """Points the struct to inputs and masks. Token ids are checked, and looked up if there are `rows` to fill."""
    if call.ids is None:
        c_call.x = _at(call.x)
    elif rows is not None:
        _gather(call.x, call.ids, rows)
        c_call.x = _at(rows)
    else:
        _check_found(_bad_id(call.ids, len(call.x)))
        c_call.x, c_call.ids = _at(call.x), _at(call.ids)
        c_call.V, c_call.id_bytes = len(call.x), call.ids.itemsize
    if call.mask is not None:
        c_call.mask = _at(call.mask)
    if call.x_mask is not None:
        c_call.x_mask, c_call.x_masks = _at(call.x_mask), len(call.x_mask)
    if call.h_mask is not None:
        c_call.h_mask, c_call.h_masks = _at(call.h_mask), len(call.h_mask)


def _bad_id(ids: np.ndarray, rows: int) -> int:
    """The place of the first id outside the table, or -1."""
    return int(lib.frnn_find_bad_id(_at(ids), ids.itemsize, ids.size, rows))


def _check_found(bad: int) -> None:
    if bad >= 0:
        raise IndexError(f"the token id at {bad} is not in the table")


Outputs = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _outputs(c_call: Any, y_shape: tuple[int, ...], state_shape: tuple[int, int], dtype: np.dtype[Any]) -> Outputs:
    """Runs forward into new outputs."""
    y, hT, cT = np.empty(y_shape, dtype), np.empty(state_shape, dtype), None
    c_call.y, c_call.hT = _at(y), _at(hT)
    if c_call.cell == lib.FRNN_LSTM:
        cT = np.empty(state_shape, dtype)
        c_call.cT = _at(cT)
    run(lib.frnn_forward, c_call)
    return y, hT, cT


def _forward(cell: int, call: Call) -> tuple[Outputs, Data | None]:
    # Written out, here and in _c_call: the call's properties and _pointer take 0.6 of a small call's 14 microseconds.
    x, U = call.x, call.U
    batch, time = x.shape[:2] if call.ids is None else call.ids.shape
    rows = None
    if call.ids is not None and not takes_ids(len(x), call.ids.size, max(call.W.shape)):
        rows = np.empty((batch, time, x.shape[1]), x.dtype)
    c_call = _c_call(cell, call, batch, time)
    _set_inputs(c_call, call, rows)
    state_shape = batch, len(U)
    y_shape = (batch, time, len(U)) if call.return_sequences else state_shape
    if not call.training:
        return _outputs(c_call, y_shape, state_shape, x.dtype), None
    reserve = reserves.take(lib.frnn_reserve_size(c_call), x.dtype)
    c_call.reserve = _at(reserve)
    data = Data(reserve, c_call, rows, y_shape, state_shape)
    return _outputs(c_call, y_shape, state_shape, x.dtype), data


def forward_again(call: Call, data: Data) -> Outputs:
    _set_inputs(data.c_call, call, data.rows)
    return _outputs(data.c_call, data.y_shape, data.state_shape, call.x.dtype)


def _backward(
    call: Call, data: Data, dy: np.ndarray | None, dhT: np.ndarray | None, dcT: np.ndarray | None
) -> Gradients:
    state_shape, dtype, empty, b = data.state_shape, call.x.dtype, np.empty, call.b
    grads = Gradients(
        empty(call.x.shape, dtype),
        empty(call.W.shape, dtype),
        empty(call.U.shape, dtype),
        None if b is None else empty(b.shape, dtype),
        empty(state_shape, dtype),
        empty(state_shape, dtype) if data.c_call.cell == lib.FRNN_LSTM else None,
    )
    backward_into(call, data, dy, dhT, dcT, grads)
    return grads


def backward_into(
    call: Call, data: Data, dy: np.ndarray | None, dhT: np.ndarray | None, dcT: np.ndarray | None, out: Gradients
) -> None:
    if call.ids is not None and _bad_id(call.ids, len(call.x)) >= 0:
        raise ValueError("token ids were changed since the forward call, and are now outside the table")
    # a copy of its own: backward may run in two threads at once
    c_call = ffi.new(_CALL, data.c_call[0])
    dx = out.dx if data.rows is None else np.empty_like(data.rows)
    c_call.dx, c_call.dW, c_call.dU, c_call.dh0 = _at(dx), _at(out.dW), _at(out.dU), _at(out.dh0)
    # the others are NULL, as forward left them; each that is not there is a tenth of a microsecond saved
    if dy is not None:
        c_call.dy = _at(dy)
    if dhT is not None:
        c_call.dhT = _at(dhT)
    if dcT is not None:
        c_call.dcT = _at(dcT)
    if out.db is not None:
        c_call.db = _at(out.db)
    if out.dc0 is not None:
        c_call.dc0 = _at(out.dc0)
    run(lib.frnn_backward, c_call)
    if data.rows is not None:
        assert call.ids is not None
        embedding_backward(call.ids, dx, out.dx)


def lstm_forward(call: Call) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    (y, hT, cT), data = _forward(lib.FRNN_LSTM, call)
    assert cT is not None
    return y, hT, cT, data


def lstm_backward(
    call: Call, data: Any, dy: np.ndarray | None, dhT: np.ndarray | None, dcT: np.ndarray | None
) -> Gradients:
    return _backward(call, data, dy, dhT, dcT)


def gru_forward(call: Call) -> tuple[np.ndarray, np.ndarray, Any]:
    (y, hT, _), data = _forward(lib.FRNN_GRU, call)
    return y, hT, data


def gru_backward(call: Call, data: Any, dy: np.ndarray | None, dhT: np.ndarray | None) -> Gradients:
    return _backward(call, data, dy, dhT, None)


def embedding_forward(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
    out = np.empty((*ids.shape, table.shape[1]), table.dtype)
    _gather(table, ids, out)
    return out


def _gather(table: np.ndarray, ids: np.ndarray, out: np.ndarray) -> None:
    row_bytes = table.itemsize * table.shape[1]
    bad = lib.frnn_gather(_pointer(table), len(table), row_bytes, _pointer(ids), ids.itemsize, ids.size, _pointer(out))
    _check_found(bad)


def embedding_backward(ids: np.ndarray, dy: np.ndarray, out: np.ndarray) -> None:
    bad = lib.frnn_scatter_add(
        _pointer(dy), dy.itemsize * 8, out.shape[1], _pointer(ids), ids.itemsize, ids.size, _pointer(out), len(out)
    )
    _check_found(bad)


stream = CStream
model_step = c_model.model_step

_RULES = {"sgd": lib.FRNN_SGD, "rmsprop": lib.FRNN_RMSPROP, "adam": lib.FRNN_ADAM}


def optimize(
    w: np.ndarray,
    g: np.ndarray,
    rule: str,
    m: np.ndarray | None,
    v: np.ndarray | None,
    a: np.ndarray | None,
    rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    nesterov: bool,
) -> None:
    slots = [ffi.NULL if slot is None else _at(slot) for slot in (m, v, a)]
    fields = (_RULES[rule], nesterov, w.itemsize * 8, w.size, _at(w), _at(g), *slots, rate, beta_1, beta_2, epsilon)
    lib.frnn_optimize(ffi.new("frnn_update *", fields))


def dense_crossentropy(
    loss: str,
    x: np.ndarray,
    W: np.ndarray,
    b: np.ndarray | None,
    y: np.ndarray,
    weights: np.ndarray | None,
    dW: np.ndarray | None,
    db: np.ndarray | None,
) -> Head | None:
    inputs, units = W.shape
    n = x.size // inputs
    if n * inputs * units > MAX_HEAD_PRODUCTS:
        return None
    dtype, entries = x.dtype, x.shape[:-1]
    p, dz = np.empty((*entries, units), dtype), np.empty((n, units), dtype)
    dx = None if dW is None else np.empty(x.shape, dtype)
    run = ffi.new("frnn_head *")
    run.loss_kind, run.real_bits, run.n, run.I, run.C = HEADS[loss], dtype.itemsize * 8, n, inputs, units
    run.x, run.W, run.y, run.p, run.dz = _at(x), _at(W), _at(y), _at(p), _at(dz)
    if b is not None:
        run.b = _at(b)
    if weights is not None:
        run.weights = _at(weights)
    if dW is not None:
        run.dx, run.dW, run.db = _at(dx), _at(dW), _pointer(db)
    lib.frnn_head_run(run)
    return Head(run.loss, run.correct, p, dx)
