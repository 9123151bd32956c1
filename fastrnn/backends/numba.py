"""The Numba kernels (numba_kernels/): the same layers with no C compiler, on all cores, compiled at the first call."""

from __future__ import annotations

import importlib.metadata
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from . import numba_pool
from .contract import Call, Gradients
from .reference import embedding_forward

MIN_NUMBA = (0, 61)

try:
    version = importlib.metadata.version("numba")
except importlib.metadata.PackageNotFoundError as error:
    raise ImportError("numba is not installed") from error
if tuple(map(int, version.split(".")[:2])) < MIN_NUMBA:
    raise ImportError(f"numba {version} is too old; it must be {'.'.join(map(str, MIN_NUMBA))} or newer")

__all__ = [
    "embedding_backward",
    "embedding_forward",
    "gru_backward",
    "gru_forward",
    "lstm_backward",
    "lstm_forward",
]


class Data(NamedTuple):
    """What backward needs: the record of the forward call, and the memory that it refers to beyond the call's arrays."""

    record: np.ndarray
    reserve: np.ndarray
    ids: np.ndarray | None


@cache
def _package() -> Any:
    """The kernels' package, imported when it is first needed: Numba takes half a second."""
    from . import numba_kernels

    return numba_kernels


def _set(record: np.ndarray, **fields: Any) -> None:
    """Fields of a call's record: numbers as they are, arrays by their address; the caller keeps them alive."""
    place = _package().PLACE
    for name, value in fields.items():
        record[place[name]] = value.__array_interface__["data"][0] if isinstance(value, np.ndarray) else value


def _allocate(record: np.ndarray, dtype: Any, **sizes: int) -> np.ndarray:
    """Memory for so many numbers per field, each from a cache line's beginning on: vectors across two take longer."""
    line = 64 // np.dtype(dtype).itemsize
    memory = np.empty(sum(-(-size // line) for size in sizes.values()) * line + line, dtype)
    address = -(-memory.__array_interface__["data"][0] // 64) * 64
    place = _package().PLACE
    for name, size in sizes.items():
        record[place[name]] = address
        address += -(-size // line) * 64
    return memory


# A task is to have 32 samples, which is two vectors of floats at their widest; in a small batch at least 8.
TASK_SAMPLES, MIN_SAMPLES, MAX_TASKS = 32, 8, 16
MAX_PARTIAL_REALS = 1 << 25
BLOCK_REALS = 1 << 15


def _width(batch: int, weights: int, vector: int) -> tuple[int, int]:
    """Samples per task, and lanes per vector, at most `vector`; they depend on the sizes of the call only."""
    most = max(2, min(MAX_TASKS, MAX_PARTIAL_REALS // weights))
    tasks = max(min(-(-batch // TASK_SAMPLES), most), min(2, batch // MIN_SAMPLES), 1)
    samples = -(-batch // tasks)
    lanes = vector
    while lanes // 2 >= max(samples, 2):
        lanes //= 2
    return -(-samples // lanes) * lanes, lanes


def _check_ids(ids: np.ndarray | None, rows: int) -> None:
    if ids is not None and ids.size and (ids.min() < 0 or ids.max() >= rows):
        raise IndexError(f"an id is not in [0, {rows})")


def _forward(call: Call, lstm: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, Data | None]:
    _check_ids(call.ids, len(call.x))
    package, dtype = _package(), call.x.dtype
    B, T, I, H, gates = call.batch, call.time, call.x.shape[-1], len(call.U), 4 if lstm else 3
    width, lanes = _width(B, (I + H) * gates * H, package.VECTOR_BYTES // dtype.itemsize)
    tasks, biases = -(-B // width), 1 if lstm or not call.reset_after else 2
    rows, steps = I + biases + H, T if call.training else 1
    states = T + 1 if call.training else 1
    x_factors = 0 if call.x_mask is None else len(call.x_mask)
    factors = gates if call.h_mask is not None else x_factors
    y, hT = np.empty(call.y_shape, dtype), np.empty(call.state_shape, dtype)
    cT = np.empty(call.state_shape, dtype) if lstm else None
    # in Numba's kernels all integers are of one type
    ids = None if call.ids is None else call.ids.astype(np.int64, copy=False)
    lane_samples = np.empty((2, tasks, width), np.int64)
    record = np.zeros(len(package.PLACE), np.int64)
    _set(
        record,
        lstm=lstm,
        training=call.training,
        go_backwards=call.go_backwards,
        zero_masked=call.zero_output_for_mask,
        sequences=call.return_sequences,
        reset_after=call.reset_after,
        batch=B,
        time=T,
        inputs=I,
        units=H,
        gates=gates,
        biases=biases,
        rows=rows,
        width=width,
        tasks=tasks,
        factors=factors,
        x_factors=x_factors,
        y=y,
        hT=hT,
        sample=lane_samples[0],
        row_of=lane_samples[1],
        biased=call.b is not None,
        by_id=ids is not None,
        masked=call.mask is not None,
        h_masked=call.h_mask is not None,
        has_h0=call.h0 is not None,
        has_c0=call.c0 is not None,
        x=call.x,
        W=call.W,
        U=call.U,
    )
    given = {"b": call.b, "ids": ids, "mask": call.mask, "x_mask": call.x_mask, "h_mask": call.h_mask}
    given |= {"h0": call.h0, "c0": call.c0, "cT": cT}
    _set(record, **{name: array for name, array in given.items() if array is not None})
    reserve = _allocate(
        record,
        dtype,
        z=tasks * states * rows * width,
        slots=tasks * steps * 4 * H * width,
        c=tasks * states * H * width if lstm else 0,
    )
    scratch = _allocate(
        record,
        dtype,
        panels=gates * (H + package.TILE_ROWS) * rows,
        valid=tasks * (T if call.mask is not None else 1) * width,
        factor=tasks * factors * rows * width,
        own=tasks * rows * width,
        out=tasks * H * width,
    )
    kernels = package.kernels(dtype.itemsize * 8, lanes)
    kernels.pack(record)
    kernel = kernels.lstm_forward if lstm else kernels.gru_forward
    numba_pool.run(tasks, lambda task: kernel(record, task))
    del scratch
    return y, hT, cT, Data(record, reserve, ids) if call.training else None


def _backward(
    call: Call, data: Data, lstm: bool, dy: np.ndarray | None, dhT: np.ndarray | None, dcT: np.ndarray | None
) -> Gradients:
    _check_ids(call.ids, len(call.x))
    package, dtype = _package(), call.x.dtype
    B, T, (I, columns), H = call.batch, call.time, call.W.shape, len(call.U)
    width, lanes = _width(B, (I + H) * columns, package.VECTOR_BYTES // dtype.itemsize)
    record = data.record.copy()
    tasks, rows, factors = (int(record[package.PLACE[name]]) for name in ("tasks", "rows", "factors"))
    # gates whose operands differ have products of their own, and sums, which are written in whole vectors
    groups = columns // H if factors > 1 or not (lstm or call.reset_after) else 1
    padded = -(-columns // groups // lanes) * lanes
    block = max(1, min(T, max(4, BLOCK_REALS // (width * (rows + 4 * H)))))
    dx, gradient = np.empty((B, T, I), dtype), np.empty((rows, columns), dtype)
    dh0, dc0 = np.empty(call.state_shape, dtype), np.empty(call.state_shape, dtype) if lstm else None
    lane_samples = np.empty((2, tasks, width), np.int64)
    _set(
        record,
        groups=groups,
        columns=padded,
        block=block,
        has_dy=dy is not None,
        has_dhT=dhT is not None,
        has_dcT=dcT is not None,
        dx=dx,
        gradient=gradient,
        dh0=dh0,
        sample=lane_samples[0],
        row_of=lane_samples[1],
    )
    given = {"dy": dy, "dhT": dhT, "dcT": dcT, "dc0": dc0}
    _set(record, **{name: array for name, array in given.items() if array is not None})
    scratch = _allocate(
        record,
        dtype,
        W_panels=(I + package.TILE_ROWS) * columns,
        U_panels=(H + package.TILE_ROWS) * columns,
        valid=tasks * (T if call.mask is not None else 1) * width,
        factor=tasks * factors * rows * width,
        own=tasks * rows * width,
        dh=tasks * H * width,
        dc=tasks * H * width,
        dy_step=tasks * H * width,
        carry=tasks * H * width,
        dx_step=tasks * I * width,
        ds=tasks * 4 * H * width,
        z_rows=tasks * groups * block * width * rows,
        ds_rows=tasks * block * width * (4 * H + package.SPARE),
        partial=tasks * groups * rows * padded,
    )
    kernels = package.kernels(dtype.itemsize * 8, lanes)
    kernels.pack_back(record)
    kernel = kernels.lstm_backward if lstm else kernels.gru_backward
    numba_pool.run(tasks, lambda task: kernel(record, task))
    kernels.gradients_reduce(record)
    del scratch
    if call.ids is not None:
        table = np.empty_like(call.x)
        embedding_backward(call.ids, dx, table)
        dx = table
    db = None if call.b is None else gradient[I : rows - H].reshape(call.b.shape)
    return Gradients(dx, gradient[:I], gradient[rows - H :], db, dh0, dc0)


def lstm_forward(call: Call) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    y, hT, cT, data = _forward(call, True)
    assert cT is not None
    return y, hT, cT, data


def lstm_backward(
    call: Call, data: Any, dy: np.ndarray | None, dhT: np.ndarray | None, dcT: np.ndarray | None
) -> Gradients:
    return _backward(call, data, True, dy, dhT, dcT)


def gru_forward(call: Call) -> tuple[np.ndarray, np.ndarray, Any]:
    y, hT, _, data = _forward(call, False)
    return y, hT, data


def gru_backward(call: Call, data: Any, dy: np.ndarray | None, dhT: np.ndarray | None) -> Gradients:
    return _backward(call, data, False, dy, dhT, None)


def embedding_backward(ids: np.ndarray, dy: np.ndarray, out: np.ndarray) -> None:
    _check_ids(ids, len(out))
    _package().rows_add(ids.reshape(-1), dy.reshape(-1, out.shape[1]), out)
