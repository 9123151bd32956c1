"""How many threads one call may use, for every backend that has threads."""

from __future__ import annotations

import os
from collections.abc import Callable

from fastrnn.arguments import integer

_threads: int | None = None
_appliers: list[Callable[[int], object]] = []


def set_num_threads(threads: int) -> None:
    """At most `threads` threads, the caller's included, work on one call from now on, in the whole process.

    The results do not depend on it. Default: FASTRNN_NUM_THREADS, else one thread per core. Raises ValueError below
    1, TypeError for what is no integer.
    """
    global _threads
    number = integer(threads, "set_num_threads: threads", 1)
    _threads = number
    for apply in _appliers:
        apply(number)


def get_num_threads() -> int:
    """The number of threads that one call may use."""
    global _threads
    if _threads is None:
        _threads = _default()
    return _threads


def cores() -> int:
    """The cores that this process may use, which a container or taskset can make fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_change(apply: Callable[[int], object]) -> None:
    """Calls `apply` with the number of threads now and whenever it changes; how a backend learns of it."""
    apply(get_num_threads())
    _appliers.append(apply)


def _default() -> int:
    text = os.environ.get("FASTRNN_NUM_THREADS")
    if text:
        if not text.strip().isdecimal() or int(text) < 1:
            raise ValueError(f"FASTRNN_NUM_THREADS must be an integer of at least 1, got {text!r}")
        return int(text)
    return cores()
