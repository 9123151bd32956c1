"""The kernels of the numba backend, compiled when they are first called, then kept on disk.

fastrnn/backends/numba.py is the way in; layer.py says how a call is laid out, lstm.py and gru.py hold the cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from numba import njit

from . import backward, gru, layer, lstm
from .backward import SPARE
from .memory import PLACE, record_of
from .vectors import TILE_ROWS, VECTOR_BYTES

__all__ = ["PLACE", "SPARE", "TILE_ROWS", "VECTOR_BYTES", "Kernels", "kernels", "rows_add"]


class Kernels(NamedTuple):
    """What Python calls: each takes the record of a call, and the number of a task, if it has tasks."""

    lstm_forward: Any
    lstm_backward: Any
    gru_forward: Any
    gru_backward: Any
    pack: Any
    pack_back: Any
    gradients_reduce: Any


@cache
def _sources() -> str:
    """A digest of all kernels: Numba's cache looks at the file of the function that is called, and at no other."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def compiled(function: Callable[..., None]) -> Any:
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # there is no folder that Numba could write to
        return njit(**options)(function)


@cache
def kernels(bits: int, lanes: int) -> Kernels:
    """The kernels for floats of so many bits, in vectors of so many lanes.

    They refer to `sources`, which makes it a part of the key under which Numba keeps them.
    """
    sources = _sources()

    def lstm_forward(array, task):
        sources  # noqa: B018
        lstm.lstm_forward(record_of(array, bits, lanes), task)

    def lstm_backward(array, task):
        sources  # noqa: B018
        lstm.lstm_backward(record_of(array, bits, lanes), task)

    def gru_forward(array, task):
        sources  # noqa: B018
        gru.gru_forward(record_of(array, bits, lanes), task)

    def gru_backward(array, task):
        sources  # noqa: B018
        gru.gru_backward(record_of(array, bits, lanes), task)

    def pack(array):
        sources  # noqa: B018
        layer.pack(record_of(array, bits, lanes))

    def pack_back(array):
        sources  # noqa: B018
        p = record_of(array, bits, lanes)
        columns = p.gates * p.units
        layer.pack_transposed(p.W, p.inputs, columns, 0 if p.lstm else 2 * p.units, p.W_panels)
        layer.pack_transposed(p.U, p.units, columns, 0, p.U_panels)

    def gradients_reduce(array):
        sources  # noqa: B018
        backward.gradients_reduce(record_of(array, bits, lanes))

    functions = (lstm_forward, lstm_backward, gru_forward, gru_backward, pack, pack_back, gradients_reduce)
    return Kernels(*map(compiled, functions))


@compiled
def rows_add(ids, rows, table):
    """table[ids[k]] += rows[k] for all k in order, after it was set to zero."""
    table[:] = 0
    for k in range(len(ids)):
        for d in range(table.shape[1]):
            table[ids[k], d] += rows[k, d]
