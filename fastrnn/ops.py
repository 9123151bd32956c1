"""LSTM and GRU over whole batches of sequences, and the embedding lookup: arguments checked, a backend picked.

For those who bring their own loop. Everything is a NumPy array, float32 or float64 throughout; arrays that are not
C-contiguous are copied. Shapes: B samples, T time steps, I inputs, H units.

The "cuda" backend also takes C-contiguous arrays in a GPU's memory, anything that has `__cuda_array_interface__`. Where
x is one, so are the results, on the stream that x names; NumPy arrays beside it are copied over.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .backends import get_backend
from .backends.arrays import CudaArray, as_array, is_cuda, to_numpy
from .backends.contract import Call, Gradients, Reserve


class Lookup(NamedTuple):
    """Token ids (B, T) and the table (V, I) to look them up in: stands for the inputs table[ids], without making them.

    Given as x, it lets a backend do the inputs' product once per word instead of once per token. The gradient dx is
    then the table's, (V, I).
    """

    table: np.ndarray
    ids: np.ndarray


_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def _floats(name: str, value: Any, shape: tuple[int | None, ...], dtype: np.dtype[Any] | None) -> np.ndarray:
    """`value` as a C-contiguous array, checked; None in `shape` stands for any length."""
    if (
        type(value) is np.ndarray
        and (value.dtype is dtype or (dtype is None and value.dtype in _FLOATS))
        and (value.shape == shape or value.ndim == len(shape) == shape.count(None))
        and value.flags.c_contiguous
    ):
        return value  # most of them
    array = value if isinstance(value, np.ndarray) else as_array(value)
    if dtype is None or array.dtype != dtype:
        if dtype is not None:
            raise TypeError(f"{name} must be of x's dtype, {dtype}, got {array.dtype}")
        if array.dtype not in _FLOATS:
            raise TypeError(f"{name} must be an array of float32 or float64, got {array.dtype}")
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape, strict=True)):
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must have shape ({expected}), got {array.shape}")
    return _contiguous(name, array)


def _contiguous(name: str, array: Any) -> np.ndarray:
    """The array, or a C-contiguous copy; ValueError for one in a GPU's memory, whose owner can copy it better."""
    if isinstance(array, CudaArray) and not array.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous where it lies in a GPU's memory; copy it first")
    result: np.ndarray = array if array.flags.c_contiguous else np.ascontiguousarray(array)
    return result


def _step_mask(mask: Any, batch: int, time: int) -> np.ndarray:
    """(B, T) of bool, or of numbers 0 and 1, as uint8."""
    array = as_array(mask)
    if array.shape != (batch, time):
        raise ValueError(f"mask must have shape ({batch}, {time}), got {array.shape}")
    if isinstance(array, CudaArray):
        if array.dtype not in (np.bool_, np.uint8):
            raise TypeError(f"mask must be an array of bool where it lies in a GPU's memory, got {array.dtype}")
        return _contiguous("mask", array)
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array).view(np.uint8)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"mask must be an array of bool, got {array.dtype}")
    if not ((array == 0) | (array == 1)).all():
        raise ValueError("mask must hold only False and True, or 0 and 1")
    return np.ascontiguousarray(array, dtype=np.uint8)


def _dropout_mask(
    name: str, mask: Any, gates: int, batch: int, features: int, dtype: np.dtype[Any], *, shared: bool
) -> np.ndarray:
    """(1 or gates, B, features); a (B, features) one is for all gates."""
    array = as_array(mask)
    if array.ndim == 2:
        array = _floats(name, array, (batch, features), dtype)
        if isinstance(array, CudaArray):
            if not shared:
                raise ValueError(
                    f"{name} must have shape ({gates}, {batch}, {features}) where it lies in a GPU's memory, "
                    f"got {array.shape}"
                )
            return array.reshape((1, batch, features))
        return array[None] if shared else np.ascontiguousarray(np.broadcast_to(array, (gates, batch, features)))
    return _floats(name, array, (gates, batch, features), dtype)


def _call(
    cell: str,
    gates: int,
    x: Any,
    W: Any,
    U: Any,
    b: Any,
    h0: Any,
    c0: Any,
    *,
    mask: Any,
    dropout_mask: Any,
    recurrent_dropout_mask: Any,
    go_backwards: bool,
    zero_output_for_mask: bool,
    return_sequences: bool,
    training: bool,
    reset_after: bool,
) -> Call:
    """The arguments of a forward op, checked."""
    ids = None
    if isinstance(x, Lookup):
        x, ids = _floats("x.table", x.table, (None, None), None), _token_ids(x.ids)
        if ids.ndim != 2:
            raise ValueError(f"x.ids must have shape (any, any), got {ids.shape}")
        shape = (*ids.shape, x.shape[1])
    else:
        x = _floats("x", x, (None, None, None), None)
        shape = x.shape
    batch, time, inputs = shape
    if 0 in shape:
        raise ValueError(f"x must have at least one sample, time step and input, got shape {shape}")
    dtype = x.dtype
    U = _floats("U", U, (None, None), dtype)
    units = len(U)
    if units == 0 or U.shape[1] != gates * units:
        raise ValueError(f"U must have shape (units, {gates} * units) for {cell}, got {U.shape}")
    W = _floats("W", W, (inputs, gates * units), dtype)
    if b is not None:
        b = _floats("b", b, (2, gates * units) if reset_after else (gates * units,), dtype)
    if h0 is not None:
        h0 = _floats("h0", h0, (batch, units), dtype)
    if c0 is not None:
        c0 = _floats("c0", c0, (batch, units), dtype)
    if mask is not None:
        mask = _step_mask(mask, batch, time)
    x_mask, h_mask = dropout_mask, recurrent_dropout_mask
    if x_mask is not None:
        x_mask = _dropout_mask("dropout_mask", x_mask, gates, batch, inputs, dtype, shared=True)
    if h_mask is not None:
        h_mask = _dropout_mask("recurrent_dropout_mask", h_mask, gates, batch, units, dtype, shared=False)
    # written out, for unpacking tuples takes a fifth of a microsecond of every small call
    return Call(
        x,
        ids,
        W,
        U,
        b,
        h0,
        c0,
        mask,
        x_mask,
        h_mask,
        bool(go_backwards),
        bool(zero_output_for_mask),
        bool(return_sequences),
        bool(training),
        bool(reset_after),
    )


def _on_gpu(call: Call) -> bool:
    """Whether any of the call's arrays lies in a GPU's memory."""
    if not CudaArray.exist:
        return False
    arrays = (call.x, call.ids, call.W, call.U, call.b, call.h0, call.c0, call.mask, call.x_mask, call.h_mask)
    return CudaArray in map(type, arrays)


def _upstream(reserve: Any, cell: str, dy: Any, dhT: Any, dcT: Any = None) -> tuple[Any, Any, Any]:
    """The arguments of a backward op, checked."""
    if not isinstance(reserve, Reserve) or reserve.cell != cell:
        raise TypeError(f"reserve must be what a training {cell} forward gave, got {type(reserve).__name__}")
    call = reserve.call
    dtype = call.x.dtype
    if dy is not None:
        dy = _floats("dy", dy, call.y_shape, dtype)
    if dhT is not None:
        dhT = _floats("dhT", dhT, call.state_shape, dtype)
    if dcT is not None:
        dcT = _floats("dcT", dcT, call.state_shape, dtype)
    if CudaArray.exist and CudaArray in (type(dy), type(dhT), type(dcT)):
        get_backend(reserve.backend.__name__.rpartition(".")[2], on_gpu=True)  # refuses what is another's
    return dy, dhT, dcT


def lstm_forward(
    x: Any,
    W: Any,
    U: Any,
    b: Any = None,
    h0: Any = None,
    c0: Any = None,
    *,
    mask: Any = None,
    dropout_mask: Any = None,
    recurrent_dropout_mask: Any = None,
    go_backwards: bool = False,
    zero_output_for_mask: bool = False,
    return_sequences: bool = True,
    training: bool = True,
    backend: str | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Reserve | None]:
    """LSTM over a batch of sequences; the formulas are in `fastrnn.backends.reference`.

    Args:
        x (B, T, I): inputs, float32 or float64; everything else has the same type. Or a Lookup(table, ids).
        W (I, 4H), U (H, 4H), b (4H,) or None: kernel, recurrent kernel, bias; gates in Keras' order i, f, c, o.
        h0, c0 (B, H): initial states; None for zeros.
        mask (B, T): False where a step is skipped, anywhere; states pass through it.
        dropout_mask (B, I) or (4, B, I): factors on the inputs, 0 or 1/(1-rate), the same at every time step; one
            for all gates, or one per gate.
        recurrent_dropout_mask (B, H) or (4, B, H): likewise on the states in the recurrent product.
        go_backwards: read x from its end; outputs come in the order in which they are computed.
        zero_output_for_mask: outputs at masked steps are zero instead of the previous output.
        return_sequences: y is (B, T, H) instead of the last step's (B, H).
        training: keep what backward needs.
        backend: "auto" or one of `fastrnn.available_backends()`.

    Returns:
        y, hT (B, H), cT (B, H) and the reserve for `lstm_backward`, None unless training. The reserve refers to the
        arguments: do not change them before backward is done.

    Raises:
        TypeError, ValueError: an argument has a wrong dtype or shape. RuntimeError: the backend is not there.
    """
    call = _call(
        "LSTM",
        4,
        x,
        W,
        U,
        b,
        h0,
        c0,
        mask=mask,
        dropout_mask=dropout_mask,
        recurrent_dropout_mask=recurrent_dropout_mask,
        go_backwards=go_backwards,
        zero_output_for_mask=zero_output_for_mask,
        return_sequences=return_sequences,
        training=training,
        reset_after=False,
    )
    module = get_backend(backend, on_gpu=_on_gpu(call))
    try:
        y, hT, cT, data = module.lstm_forward(call)
    except IndexError:
        raise _out_of_range(x.ids, len(call.x)) from None
    return y, hT, cT, Reserve("LSTM", module, call, data) if training else None


def lstm_backward(reserve: Reserve, dy: Any = None, dhT: Any = None, dcT: Any = None) -> Gradients:
    """The gradients of everything that a training `lstm_forward` took.

    Args:
        reserve: as that call gave it; it can be used again.
        dy: gradient of y, of its shape; dhT, dcT (B, H): of the final states. None for zero.

    Returns:
        Gradients(dx, dW, dU, db, dh0, dc0), each of the shape of what it belongs to; db None without bias.
    """
    dy, dhT, dcT = _upstream(reserve, "LSTM", dy, dhT, dcT)
    gradients: Gradients = reserve.backend.lstm_backward(reserve.call, reserve.data, dy, dhT, dcT)
    return gradients


def gru_forward(
    x: Any,
    W: Any,
    U: Any,
    b: Any = None,
    h0: Any = None,
    *,
    reset_after: bool = True,
    mask: Any = None,
    dropout_mask: Any = None,
    recurrent_dropout_mask: Any = None,
    go_backwards: bool = False,
    zero_output_for_mask: bool = False,
    return_sequences: bool = True,
    training: bool = True,
    backend: str | None = None,
) -> tuple[np.ndarray, np.ndarray, Reserve | None]:
    """GRU over a batch of sequences: as `lstm_forward`, with gates z, r, h and no c.

    Args:
        W (I, 3H), U (H, 3H): kernel and recurrent kernel.
        b: (2, 3H), input and recurrent bias, with reset_after; (3H,) without; or None.
        reset_after: the reset gate is applied after the recurrent product (Keras' default, as cuDNN), else before.
        The dropout masks per gate are (3, B, I) and (3, B, H).

    Returns:
        y, hT (B, H) and the reserve for `gru_backward`, None unless training.
    """
    call = _call(
        "GRU",
        3,
        x,
        W,
        U,
        b,
        h0,
        None,
        mask=mask,
        dropout_mask=dropout_mask,
        recurrent_dropout_mask=recurrent_dropout_mask,
        go_backwards=go_backwards,
        zero_output_for_mask=zero_output_for_mask,
        return_sequences=return_sequences,
        training=training,
        reset_after=reset_after,
    )
    module = get_backend(backend, on_gpu=_on_gpu(call))
    try:
        y, hT, data = module.gru_forward(call)
    except IndexError:
        raise _out_of_range(x.ids, len(call.x)) from None
    return y, hT, Reserve("GRU", module, call, data) if training else None


def gru_backward(reserve: Reserve, dy: Any = None, dhT: Any = None) -> Gradients:
    """The gradients of everything that a training `gru_forward` took: as `lstm_backward`; dc0 is None."""
    dy, dhT, _ = _upstream(reserve, "GRU", dy, dhT)
    gradients: Gradients = reserve.backend.gru_backward(reserve.call, reserve.data, dy, dhT)
    return gradients


def forward_again(
    reserve: Reserve,
    x: Any,
    weights: list[np.ndarray],
    *,
    mask: Any,
    dropout_mask: np.ndarray | None,
    recurrent_dropout_mask: np.ndarray | None,
    go_backwards: bool,
    zero_output_for_mask: bool,
    return_sequences: bool,
    reset_after: bool,
    backend: str | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | None:
    """For layers: a training forward that takes over the reserve of the last one, which nobody else may hold.

    It gives y, hT, cT (None for GRU); or None, and has done nothing, where the backend cannot or where anything but the
    values of inputs and masks differs from the last call; initial states are always zero. So nothing needs to be
    checked or made anew that has been.
    """
    call, module = reserve.call, get_backend(backend)
    again = getattr(module, "forward_again", None)
    W, U, *b = weights
    if dropout_mask is not None and dropout_mask.ndim == 2:
        dropout_mask = dropout_mask[None]
    inputs, looked_up = (x.ids, call.ids) if isinstance(x, Lookup) else (x, call.x)
    if (
        again is None
        or module is not reserve.backend
        or W is not call.W
        or U is not call.U
        or (b[0] if b else None) is not call.b
        or call.h0 is not None
        or call.c0 is not None
        or looked_up is None
        or (inputs is x) is not (call.ids is None)
        or (inputs is not x and x.table is not call.x)
        or not _alike(inputs, looked_up)
        or not _alike(dropout_mask, call.x_mask)
        or not _alike(recurrent_dropout_mask, call.h_mask)
        or not _alike(mask, None if call.mask is None else call.mask.view(np.bool_))
        or go_backwards is not call.go_backwards
        or zero_output_for_mask is not call.zero_output_for_mask
        or return_sequences is not call.return_sequences
        or reset_after is not call.reset_after
    ):
        return None
    if inputs is x:
        call.x = x
    else:
        call.ids = inputs
    call.x_mask, call.h_mask = dropout_mask, recurrent_dropout_mask
    call.mask = None if mask is None else mask.view(np.uint8)
    try:
        outputs: tuple[np.ndarray, np.ndarray, np.ndarray | None] = again(call, reserve.data)
    except IndexError:
        raise _out_of_range(inputs, len(call.x)) from None
    return outputs


def backward_into(reserve: Reserve, grads: list[np.ndarray], dy: Any, dhT: Any, dcT: Any = None) -> Gradients:
    """For layers: backward with the gradients of W, U and b written to `grads`, arrays of their shapes."""
    call, module = reserve.call, reserve.backend
    lstm = reserve.cell == "LSTM"
    dy, dhT, dcT = _upstream(reserve, reserve.cell, dy, dhT, dcT)
    into = getattr(module, "backward_into", None)
    # a backend trusts what it is given, and these are the layer's, which somebody may have replaced
    if into is None or not all(map(_alike, grads, (call.W, call.U, call.b))):
        upstream = (dy, dhT, dcT) if lstm else (dy, dhT)
        backward = module.lstm_backward if lstm else module.gru_backward
        gradients: Gradients = backward(call, reserve.data, *upstream)
        for grad, new in zip(grads, (gradients.dW, gradients.dU, gradients.db), strict=False):
            grad[...] = to_numpy(new)
        return gradients
    dW, dU, *db = grads
    dx, dh0 = np.empty(call.x.shape, call.x.dtype), np.empty(call.state_shape, call.x.dtype)
    out = Gradients(dx, dW, dU, db[0] if db else None, dh0, np.empty(call.state_shape, call.x.dtype) if lstm else None)
    into(call, reserve.data, dy, dhT, dcT, out)
    return out


def _alike(new: Any, old: np.ndarray | None) -> bool:
    """Whether one array can stand for the other in a call, or neither is there."""
    if new is None or old is None:
        return new is old
    return (
        isinstance(new, np.ndarray)  # what users give as a mask need not be
        and new.shape == old.shape
        and new.dtype == old.dtype
        and new.flags.c_contiguous
    )


def lstm(x: Any, W: Any, U: Any, b: Any = None, h0: Any = None, c0: Any = None, **options: Any) -> tuple[Any, Any, Any]:
    """y, hT, cT of `lstm_forward` with the same arguments, for inference: nothing is kept."""
    return lstm_forward(x, W, U, b, h0, c0, training=False, **options)[:3]


def gru(x: Any, W: Any, U: Any, b: Any = None, h0: Any = None, **options: Any) -> tuple[Any, Any]:
    """y, hT of `gru_forward` with the same arguments, for inference: nothing is kept."""
    return gru_forward(x, W, U, b, h0, training=False, **options)[:2]


def _token_ids(ids: Any) -> np.ndarray:
    array = as_array(ids)
    if array.dtype.kind not in "iu":
        raise TypeError(f"token ids must be integers, got {array.dtype}")
    if isinstance(array, CudaArray):
        if array.dtype not in (np.int32, np.int64):
            raise TypeError(f"token ids must be int32 or int64 where they lie in a GPU's memory, got {array.dtype}")
        return _contiguous("token ids", array)
    if array.dtype not in (np.int32, np.int64):
        # uint64 ids beyond int64 would wrap to valid ones
        if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
            raise ValueError(f"token ids must be below the number of rows, got {array.max()}")
        array = array.astype(np.int64)
    return np.ascontiguousarray(array)


def embedding_forward(table: np.ndarray, ids: Any, *, backend: str | None = None) -> np.ndarray:
    """table[ids]: rows (V, D) looked up by ids of any shape, giving ids.shape + (D,).

    Raises TypeError for ids that are no integers, ValueError for one outside [0, V).
    """
    table = _floats("table", table, (None, None), None)
    array = _token_ids(ids)
    try:
        module = get_backend(backend, on_gpu=is_cuda(table) or is_cuda(array))
        rows: np.ndarray = module.embedding_forward(table, array)
    except IndexError:
        raise _out_of_range(ids, len(table)) from None
    return rows


def embedding_backward(ids: Any, dy: Any, out: np.ndarray, *, backend: str | None = None) -> None:
    """out (V, D), C-contiguous, = the gradient of the table, from dy, that of embedding_forward(table, ids)."""
    array = _token_ids(ids)
    if not (isinstance(out, np.ndarray) or is_cuda(out)):
        raise TypeError(f"out must be an array, got {type(out).__name__}")
    out = as_array(out)
    _floats("out", out, (None, None), None)
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("out must be a C-contiguous array that can be written to")
    dy = _floats("dy", dy, (*array.shape, out.shape[1]), out.dtype)
    try:
        module = get_backend(backend, on_gpu=any(map(is_cuda, (array, dy, out))))
        module.embedding_backward(array, dy, out)
    except IndexError:
        raise _out_of_range(ids, len(out)) from None


def _out_of_range(ids: Any, rows: int) -> ValueError:
    flat = to_numpy(ids).reshape(-1)
    place = int(np.flatnonzero((flat < 0) | (flat >= rows))[0])
    return ValueError(f"token ids must be in [0, {rows}), got {flat[place]} at flat index {place}")
