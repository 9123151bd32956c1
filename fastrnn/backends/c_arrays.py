"""NumPy arrays by their addresses, for C structs."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fastrnn._kernels import ffi, lib


def point(c_struct: Any, offset: int, *arrays: np.ndarray | None) -> None:
    """Sets addresses in a struct, from `offset` bytes on, to the arrays' data, NULL for None; nothing keeps the arrays.

    A fifth of the time that `ffi.from_buffer` takes for each. Arrays are trusted to be arrays, and C-contiguous.
    """
    lib.frnn_point(c_struct, offset, id(arrays))


def _check() -> None:
    """ImportError where array objects are not what csrc/arrays.h takes them for."""
    if sys.implementation.name != "cpython":
        raise ImportError(f"the C backend is for CPython, where an object's id is its address; this is {sys.version}")
    array, found = np.empty(1), ffi.new("void *[2]")
    point(found, ffi.sizeof("void *"), array)
    if found[1] != ffi.from_buffer(array):
        raise ImportError(f"array objects of NumPy {np.__version__} are not laid out as the C backend expects")


_check()
