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
from .c_arrays import point
from .c_model import HEADS, MAX_HEAD_PRODUCTS, new_update, run, takes_ids
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
_CALL, _HEAD = map(ffi.typeof, ("frnn_call *", "frnn_head *"))
# where, in a struct, addresses begin: all of them, those that change from call to call, those of gradients
_ALL, _INPUTS, _GRADIENTS = (ffi.offsetof("frnn_call", name) for name in ("W", "x", "dy"))
_ENDS = ffi.offsetof("frnn_head", "x")


def _inputs(call: Call, rows: np.ndarray | None) -> tuple[np.ndarray | None, ...]:
    """Inputs and masks, as the struct has them. Token ids are checked, and looked up if there are `rows` to fill."""
    x, ids = call.x, call.ids
    if ids is not None:
        if rows is None:
            _check_found(_bad_id(ids, len(x)))
        else:
            _gather(x, ids, rows)
            x, ids = rows, None
    return x, ids, call.mask, call.x_mask, call.h_mask


def _bad_id(ids: np.ndarray, rows: int) -> int:
    """The place of the first id outside the table, or -1."""
    return int(lib.frnn_find_bad_id(_at(ids), ids.itemsize, ids.size, rows))


def _check_found(bad: int) -> None:
    if bad >= 0:
        raise IndexError(f"the token id at {bad} is not in the table")


Outputs = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _outputs(lstm: bool, y_shape: tuple[int, ...], state_shape: tuple[int, int], dtype: np.dtype[Any]) -> Outputs:
    empty = np.empty
    return empty(y_shape, dtype), empty(state_shape, dtype), empty(state_shape, dtype) if lstm else None


def _forward(cell: int, call: Call) -> tuple[Outputs, Data | None]:
    # Written out: the call's properties take half a microsecond of a small call.
    x, ids, W, U, x_mask, h_mask = call.x, call.ids, call.W, call.U, call.x_mask, call.h_mask
    batch, time = x.shape[:2] if ids is None else ids.shape
    units, dtype, sequences = len(U), x.dtype, call.return_sequences
    rows, id_bytes, words = None, 0, 0
    if ids is not None:
        if takes_ids(len(x), ids.size, max(W.shape)):
            id_bytes, words = ids.itemsize, len(x)
        else:
            rows = np.empty((batch, time, x.shape[1]), dtype)
    # in the order of the struct, as one tuple: the fastest way that cffi has
    c_call = ffi.new(
        _CALL,
        (
            cell,
            dtype.itemsize * 8,
            batch,
            time,
            len(W),
            units,
            call.go_backwards,
            call.zero_output_for_mask,
            sequences,
            call.reset_after,
            id_bytes,
            0 if x_mask is None else len(x_mask),
            0 if h_mask is None else len(h_mask),
            words,
        ),
    )
    state_shape = batch, units
    y_shape = (batch, time, units) if sequences else state_shape
    outputs = _outputs(cell == lib.FRNN_LSTM, y_shape, state_shape, dtype)
    reserve = reserves.take(lib.frnn_reserve_size(c_call), dtype) if call.training else None
    point(c_call, _ALL, W, U, call.b, call.h0, call.c0, reserve, *_inputs(call, rows), *outputs)
    run(lib.frnn_forward, c_call)
    return outputs, None if reserve is None else Data(reserve, c_call, rows, y_shape, state_shape)


def forward_again(call: Call, data: Data) -> Outputs:
    # numbers in the struct stay: arrays are like those of the last call
    outputs = _outputs(data.c_call.cell == lib.FRNN_LSTM, data.y_shape, data.state_shape, call.x.dtype)
    point(data.c_call, _INPUTS, *_inputs(call, data.rows), *outputs)
    run(lib.frnn_forward, data.c_call)
    return outputs


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
    point(c_call, _GRADIENTS, dy, dhT, dcT, dx, out.dW, out.dU, out.db, out.dh0, out.dc0)
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
    bad = lib.frnn_gather(_at(table), len(table), row_bytes, _at(ids), ids.itemsize, ids.size, _at(out))
    _check_found(bad)


def embedding_backward(ids: np.ndarray, dy: np.ndarray, out: np.ndarray) -> None:
    bad = lib.frnn_scatter_add(
        _at(dy), dy.itemsize * 8, out.shape[1], _at(ids), ids.itemsize, ids.size, _at(out), len(out)
    )
    _check_found(bad)


stream = CStream
model_steps = c_model.model_steps


def optimize(w: np.ndarray, g: np.ndarray, *rule: Any) -> None:
    lib.frnn_optimize(new_update(w, g, rule))


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
    head = ffi.new(_HEAD, (HEADS[loss], dtype.itemsize * 8, n, inputs, units))
    point(head, _ENDS, x, W, b, y, weights, p, dz, dx, dW, db)
    lib.frnn_head_run(head)
    return Head(head.loss, head.correct, p, dx)
