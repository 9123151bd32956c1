"""The kernels of the numba backend, compiled when they are first called, then kept on disk.

fastrnn/backends/numba.py is the way in; layer.py says how a call is laid out, lstm.py and gru.py hold the cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import cfunc, njit, types

from . import backward, crew, gru, layer, lstm
from .backward import SPARE
from .memory import PLACE, record_of
from .vectors import FLUSH_DENORMALS, TILE_ROWS, VECTOR_BYTES, set_float_mode

__all__ = ["PLACE", "SPARE", "TILE_ROWS", "VECTOR_BYTES", "help_out", "kernel", "lead"]


@cache
def _sources() -> str:
    """A digest of all kernels: Numba's cache looks at the file of the function that is called, and at no other."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _kept(decorator: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """A decorator of Numba's, with the result kept on disk if there is a folder that can be written to."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return decorator(*arguments, cache=True, **options)(function)
        except (RuntimeError, OSError):  # no folder is found, or it cannot be written to after all
            return decorator(*arguments, **options)(function)

    return decorate


_OPTIONS = {"error_model": "numpy", "nogil": True}
_BOARD = types.int64[::1]
lead = _kept(njit, types.void(_BOARD, *[types.int64] * 3, *[types.boolean] * 2), **_OPTIONS)(crew.lead)
help_out = _kept(njit, types.void(_BOARD), **_OPTIONS)(crew.help_out)


@cache
def kernel(name: str, bits: int, lanes: int) -> Any:
    """A kernel for floats of so many bits, in vectors of so many lanes: a C function of a record's address, a task,
    the member of the task's team and how many there are.

    All refer to `sources`, which makes it a part of the key under which Numba keeps them.
    """
    sources = _sources()

    def lstm_forward(record, task, member, members):
        sources  # noqa: B018
        mode = set_float_mode(FLUSH_DENORMALS)
        lstm.lstm_forward(record_of(record, bits, lanes), task, member, members)
        set_float_mode(mode)

    def lstm_backward(record, task, member, members):
        sources  # noqa: B018
        mode = set_float_mode(FLUSH_DENORMALS)
        lstm.lstm_backward(record_of(record, bits, lanes), task, member, members)
        set_float_mode(mode)

    def gru_forward(record, task, member, members):
        sources  # noqa: B018
        mode = set_float_mode(FLUSH_DENORMALS)
        gru.gru_forward(record_of(record, bits, lanes), task, member, members)
        set_float_mode(mode)

    def gru_backward(record, task, member, members):
        sources  # noqa: B018
        mode = set_float_mode(FLUSH_DENORMALS)
        gru.gru_backward(record_of(record, bits, lanes), task, member, members)
        set_float_mode(mode)

    def pack(record, task, member, members):
        sources  # noqa: B018
        layer.pack(record_of(record, bits, lanes), task)

    def pack_back(record, task, member, members):
        sources  # noqa: B018
        layer.pack_back(record_of(record, bits, lanes), task)

    def gradients_reduce(record, task, member, members):
        sources  # noqa: B018
        backward.gradients_reduce(record_of(record, bits, lanes), task)

    def rows_add(record, task, member, members):
        sources  # noqa: B018
        backward.rows_add(record_of(record, bits, lanes))

    entries = (lstm_forward, lstm_backward, gru_forward, gru_backward, pack, pack_back, gradients_reduce, rows_add)
    entry = next(function for function in entries if function.__name__ == name)
    return _kept(cfunc, types.void(*[types.int64] * 4), error_model="numpy")(entry)
