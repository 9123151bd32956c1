"""Which backends there are, why one is missing, and which one runs.

A backend that is named must be there, or the error says why it is not; "auto" takes the fastest that is. Precedence:
the argument of the call, then `use_backend()`, then the environment variable FASTRNN_BACKEND, then "auto". The variable
is read when this is imported: looking for it takes a microsecond, a tenth of a small call.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

# from the fastest to the slowest: the order in which "auto" looks for one
NAMES = ("c", "numba", "reference")
# The one that "auto" takes for arrays that lie in a GPU's memory, and for no others.
CUDA = "cuda"
ALL_NAMES = (*NAMES, CUDA)

_default = os.environ.get("FASTRNN_BACKEND") or "auto"
_modules: dict[str, ModuleType | str] = {}
_chosen: ContextVar[str | None] = ContextVar("fastrnn_backend", default=None)


def _load(name: str) -> ModuleType | str:
    """The backend's module, or the reason why it cannot be loaded. Found out once, when it is first asked for."""
    if name not in _modules:
        try:
            _modules[name] = importlib.import_module(f"{__name__}.{name}")
        except ImportError as error:
            _modules[name] = str(error)
    return _modules[name]


def _check(name: str, where: str) -> None:
    if name not in (*ALL_NAMES, "auto"):
        raise ValueError(f"{where} must be one of {', '.join((*ALL_NAMES, 'auto'))}; got {name!r}")


def available_backends() -> dict[str, str | None]:
    """Every backend by name, with None if it can be used or else the reason why not."""
    loaded = {name: _load(name) for name in ALL_NAMES}
    return {name: module if isinstance(module, str) else None for name, module in loaded.items()}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the `with` block, and this thread or task, calls that name no backend use this one."""
    get_backend(name)
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def get_backend(name: str | None = None, *, on_gpu: bool = False) -> ModuleType:
    """The module to run on; `on_gpu` says that the arrays lie in a GPU's memory.

    ValueError for an unknown name, RuntimeError for one that is not there, TypeError for one that cannot take such
    arrays.
    """
    where = "backend"
    if name is None:
        name = _chosen.get()
    if name is None:
        name, where = _default, "FASTRNN_BACKEND"
    if on_gpu and name != CUDA:
        if name != "auto":
            raise TypeError(f"{where}={name!r} takes NumPy arrays, got arrays in a GPU's memory; {CUDA!r} takes both")
        name = CUDA
    found = _modules.get(name)
    if isinstance(found, ModuleType):
        return found
    _check(name, where)
    if name == "auto":
        _modules[name] = fastest = next(module for module in map(_load, NAMES) if isinstance(module, ModuleType))
        return fastest
    module = _load(name)
    if isinstance(module, str):
        raise RuntimeError(f"{where}={name!r} is not available: {module}")
    return module
