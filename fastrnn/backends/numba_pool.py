"""The threads of the numba backend: kernels let go of Python's lock, so Python's own threads will do.

Numba's parallel runtimes do not: workqueue aborts where two threads call it at once, OpenMP hangs after fork.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from . import threads

_pool: ThreadPoolExecutor | None = None
_helpers = 0


def _resize(number: int) -> None:
    """From now on `number` threads, the caller's included; calls under way keep theirs to the end."""
    global _pool, _helpers
    old, _helpers = _pool, number - 1
    _pool = ThreadPoolExecutor(_helpers, "fastrnn-numba") if _helpers else None
    if old is not None:
        old.shutdown(wait=False)


def _after_fork() -> None:
    """A child has the pool, but not its threads."""
    global _pool
    _pool = None
    _resize(_helpers + 1)


threads.on_change(_resize)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run(tasks: int, function: Callable[[int], object]) -> None:
    """function(0) to function(tasks - 1), by the caller and whichever helpers are free."""
    todo = deque(range(tasks))

    def work() -> None:
        while True:
            try:
                task = todo.popleft()
            except IndexError:
                return
            function(task)

    pool = _pool
    futures: list[Future[None]] = []
    if pool is not None:
        try:
            futures = [pool.submit(work) for _ in range(min(tasks - 1, _helpers))]
        except RuntimeError:  # the pool was just replaced, or the interpreter is on its way out
            pass
    work()
    for future in futures:
        if not future.cancel():  # one that has not begun finds nothing left to do
            future.result()
