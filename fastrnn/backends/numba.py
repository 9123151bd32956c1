"""The Numba kernels (numba_kernels/): the same layers with no C compiler, on all cores, compiled at the first call."""

from __future__ import annotations

import importlib.metadata
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import numba_pool
from .contract import Call, Gradients
from .memory import Spare, reserves
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


@cache
def _package() -> Any:
    """The kernels' package, imported when it is first needed: Numba takes half a second."""
    try:
        from . import numba_kernels
    except ImportError as error:  # such as a NumPy that this Numba does not know
        raise RuntimeError(f"backend 'numba' cannot run: numba {version} cannot be imported: {error}") from error
    return numba_kernels


def state() -> str:
    """Numba's version, and where compiled kernels are kept, for `fastrnn info`."""
    folder = _package().lead.stats.cache_path
    if folder is None:
        return f"Numba {version}, kernels not kept: no folder for them can be written to"
    kept = len(list(Path(folder).glob("*kernel.locals.*.nbc")))
    return f"Numba {version}, {kept} compiled kernels kept in {folder}"


class Record:
    """A call as its kernels see it (numba_kernels/memory.py lists the fields), and what its addresses point to."""

    def __init__(self, of: Record | None = None) -> None:
        self.place = _package().PLACE
        self.fields: np.ndarray = np.zeros(len(self.place), np.int64) if of is None else of.fields.copy()
        self.alive: list[Any] = [of]

    def __getitem__(self, name: str) -> int:
        return int(self.fields[self.place[name]])

    def set(self, **numbers: int) -> None:
        """Sizes and flags."""
        for name, number in numbers.items():
            self.fields[self.place[name]] = number

    def point(self, **arrays: np.ndarray | None) -> None:
        """Addresses of C-contiguous arrays; None for what is absent."""
        for name, array in arrays.items():
            if array is not None:
                self.fields[self.place[name]] = array.__array_interface__["data"][0]
                self.alive.append(array)

    def allocate(self, dtype: Any, spare: Spare, **sizes: int) -> np.ndarray:
        """Addresses of memory for so many numbers each, from a cache line's beginning on: vectors across two lines take
        longer. The caller keeps it alive."""
        line = 64 // dtype.itemsize
        memory = spare.take((sum(-(-size // line) for size in sizes.values()) + 1) * line, dtype)
        address = -(-memory.__array_interface__["data"][0] // 64) * 64
        for name, size in sizes.items():
            self.fields[self.place[name]] = address
            address += -(-size // line) * 64
        return memory


_working = Spare()


class Data(NamedTuple):
    """What backward needs."""

    record: Record
    reserve: np.ndarray


# A task is to have 32 samples, which is two vectors of floats at their widest; in a small batch, where a second task is
# for a second thread, at least 8, or in a large layer fewer: as soon as one task could not be done by `few_columns`.
TASK_SAMPLES, MIN_SAMPLES, MAX_TASKS = 32, 8, 16
LARGE_WEIGHTS = 1 << 15
MAX_PARTIAL_REALS = 1 << 25
FEW_BYTES = 16
BLOCK_REALS, BLOCK_ROWS = 1 << 15, 32
# From so many weights on a batch that is one task is done by a team, each of whom has at least so many units: either
# walks through its part of the weights only, and W's part is walked through once in so many steps.
TEAM_WEIGHTS, TEAM_UNITS, TEAM_STEPS, TEAM_BLOCK_ROWS = 1 << 16, 32, 16, 96
SMALL_WORK = 1 << 19  # multiply-adds below which other threads cost more than they help a team
PIECE_WEIGHTS = 1 << 15  # what is worth another thread where weights are packed


def _width(batch: int, weights: int, itemsize: int) -> tuple[int, int]:
    """Samples per task, and lanes per vector: the machine's, or where a task has few samples, fewer.

    They depend on the sizes of the call only, and not on the number of threads.
    """
    most = max(2, min(MAX_TASKS, MAX_PARTIAL_REALS // weights))
    shared = batch * itemsize > FEW_BYTES if weights >= LARGE_WEIGHTS else batch >= 2 * MIN_SAMPLES
    shared = shared and not _is_for_team(batch, weights)
    tasks = max(min(-(-batch // TASK_SAMPLES), most), 2 if shared else 1)
    samples = -(-batch // tasks)
    widest = _package().VECTOR_BYTES
    lanes = (
        next((size for size in (FEW_BYTES, 2 * FEW_BYTES) if samples * itemsize <= size < widest), widest) // itemsize
    )
    return -(-samples // lanes) * lanes, lanes


def _is_for_team(batch: int, weights: int) -> bool:
    return batch <= TASK_SAMPLES and weights >= TEAM_WEIGHTS


def _seats(call: Call, weights: int) -> int:
    """How many a team may have at most; 0 if tasks are done by a thread each."""
    if not _is_for_team(call.batch, weights):
        return 0
    return max(1, len(call.U) // TEAM_UNITS) if call.batch * call.time * weights >= SMALL_WORK else 1


def _check_ids(ids: np.ndarray | None, rows: int) -> None:
    if ids is not None and ids.size and (ids.min() < 0 or ids.max() >= rows):
        raise IndexError(f"an id is not in [0, {rows})")


def _run(name: str, record: Record, dtype: Any, lanes: int, tasks: int, seats: int = 0) -> None:
    address = _package().kernel(name, dtype.itemsize * 8, lanes).address
    numba_pool.run(address, record.fields, seats or tasks, seats > 0)


def _forward(call: Call, lstm: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, Data | None]:
    _check_ids(call.ids, len(call.x))
    package, dtype = _package(), call.x.dtype
    B, T, I, H, gates = call.batch, call.time, call.x.shape[-1], len(call.U), 4 if lstm else 3
    weights = (I + H) * gates * H
    width, lanes = _width(B, weights, dtype.itemsize)
    tasks, seats, biases = -(-B // width), _seats(call, weights), 1 if lstm or not call.reset_after else 2
    rows, pieces = I + biases + H, min(MAX_TASKS, 1 + weights // PIECE_WEIGHTS)
    x_factors = 0 if call.x_mask is None else len(call.x_mask)
    factors = gates if call.h_mask is not None else x_factors
    steps = min(T, TEAM_STEPS) if seats and factors <= 1 else 1
    kept = T if call.training else steps
    y, hT = np.empty(call.y_shape, dtype), np.empty(call.state_shape, dtype)
    cT = np.empty(call.state_shape, dtype) if lstm else None
    # in Numba's kernels all integers are of one type
    ids = None if call.ids is None else call.ids.astype(np.int64, copy=False)
    workers = max(tasks, seats)
    lane_samples, barrier = np.zeros((2, workers, width), np.int64), np.zeros(1, np.int64)
    record = Record()
    record.set(
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
        pieces=pieces,
        steps=steps,
        few=width * dtype.itemsize <= FEW_BYTES,
        factors=factors,
        x_factors=x_factors,
        biased=call.b is not None,
        by_id=ids is not None,
        masked=call.mask is not None,
        h_masked=call.h_mask is not None,
        has_h0=call.h0 is not None,
        has_c0=call.c0 is not None,
    )
    record.point(x=call.x, W=call.W, U=call.U, b=call.b, ids=ids, mask=call.mask, x_mask=call.x_mask)
    record.point(h_mask=call.h_mask, h0=call.h0, c0=call.c0, y=y, hT=hT, cT=cT)
    record.point(sample=lane_samples[0], row_of=lane_samples[1], barrier=barrier)
    reserve = record.allocate(
        dtype,
        reserves,
        z=tasks * (kept + 1) * rows * width,
        slots=tasks * kept * 4 * H * width,
        c=tasks * (T + 1 if call.training else 1) * H * width if lstm else 0,
    )
    scratch = record.allocate(
        dtype,
        _working,
        panels=gates * (H + package.TILE_ROWS) * rows,
        valid=tasks * (T if call.mask is not None else 1) * width,
        factor=tasks * factors * rows * width,
        own=workers * rows * width,
        out=tasks * H * width,
    )
    _run("pack", record, dtype, lanes, pieces)
    _run("lstm_forward" if lstm else "gru_forward", record, dtype, lanes, tasks, seats)
    del scratch  # for the next call
    return y, hT, cT, Data(record, reserve) if call.training else None


def _backward(
    call: Call, data: Data, lstm: bool, dy: np.ndarray | None, dhT: np.ndarray | None, dcT: np.ndarray | None
) -> Gradients:
    _check_ids(call.ids, len(call.x))
    package, dtype = _package(), call.x.dtype
    B, T, (I, columns), H = call.batch, call.time, call.W.shape, len(call.U)
    width, lanes = _width(B, (I + H) * columns, dtype.itemsize)
    record, seats = Record(data.record), _seats(call, (I + H) * columns)
    tasks, rows, factors, steps = record["tasks"], record["rows"], record["factors"], record["steps"]
    workers, pieces = max(tasks, seats), record["pieces"]
    # gates whose operands differ have products of their own, and sums, which are written in whole vectors
    groups = columns // H if factors > 1 or not (lstm or call.reset_after) else 1
    padded = -(-columns // groups // lanes) * lanes
    samples = min(B, width)
    least = TEAM_BLOCK_ROWS if seats else BLOCK_ROWS
    block = max(1, min(T, max(4, least // samples, BLOCK_REALS // (samples * (rows + 4 * H)))))
    dx, gradient = np.empty((B, T, I), dtype), np.empty((rows, columns), dtype)
    dh0, dc0 = np.empty(call.state_shape, dtype), np.empty(call.state_shape, dtype) if lstm else None
    lane_samples, barrier = np.zeros((2, workers, width), np.int64), np.zeros(1, np.int64)
    record.set(
        groups=groups,
        columns=padded,
        block=block,
        has_dy=dy is not None,
        has_dhT=dhT is not None,
        has_dcT=dcT is not None,
    )
    record.point(dy=dy, dhT=dhT, dcT=dcT, dx=dx, gradient=gradient, dh0=dh0, dc0=dc0)
    record.point(sample=lane_samples[0], row_of=lane_samples[1], barrier=barrier)
    scratch = record.allocate(
        dtype,
        _working,
        W_panels=(I + package.TILE_ROWS) * columns,
        U_panels=(H + package.TILE_ROWS) * columns,
        valid=tasks * (T if call.mask is not None else 1) * width,
        factor=tasks * factors * rows * width,
        own=workers * rows * width,
        dh=tasks * H * width,
        dc=tasks * H * width,
        dy_step=tasks * H * width,
        carry=tasks * H * width,
        dx_step=tasks * steps * I * width,
        ds=tasks * steps * 4 * H * width,
        z_rows=tasks * groups * block * width * rows,
        ds_rows=tasks * block * width * (4 * H + package.SPARE),
        partial=tasks * groups * rows * padded,
    )
    _run("pack_back", record, dtype, lanes, pieces)
    _run("lstm_backward" if lstm else "gru_backward", record, dtype, lanes, tasks, seats)
    _run("gradients_reduce", record, dtype, lanes, pieces)
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
    record = Record()
    record.set(batch=ids.size, inputs=out.shape[1], rows=len(out))
    record.point(ids=ids.astype(np.int64, copy=False), dx=dy, x=out)
    _run("rows_add", record, out.dtype, _package().VECTOR_BYTES // out.itemsize, 1)
