"""The threads of the numba backend. They are Python's own, and share work without its lock (numba_kernels/crew.py).

Numba's parallel runtimes will not do: workqueue aborts where two threads call it at once, OpenMP's hangs after fork.
"""

from __future__ import annotations

import atexit
import os
import threading

import numpy as np

from . import threads


BOARD_SIZE = 64  # what numba_kernels/crew.py needs, with lines to spare


class Crew:
    """Threads that help whoever calls `run`, one caller at a time; a caller that finds them taken works alone."""

    def __init__(self, helpers: int) -> None:
        self.helpers = helpers
        self.board = np.zeros(BOARD_SIZE, np.int64)
        self.leading = threading.Lock()
        self.asleep = 0
        self.wake = threading.Semaphore(0)
        self.dismissed = False
        self.members: list[threading.Thread] = []

    def run(self, kernel: int, record: np.ndarray, tasks: int) -> None:
        """The kernel at an address, for all tasks of a call."""
        from . import numba_kernels

        address = record.__array_interface__["data"][0]
        shared = tasks > 1 and self.helpers > 0 and self.leading.acquire(blocking=False)
        try:
            if shared:
                self._call_in(min(tasks - 1, self.helpers))
            numba_kernels.lead(self.board, kernel, address, tasks, shared)
        finally:
            if shared:
                self.leading.release()

    def _call_in(self, wanted: int) -> None:
        while len(self.members) < wanted:
            member = threading.Thread(target=self._serve, name="fastrnn-numba", daemon=True)
            self.members.append(member)
            member.start()
        # one that is about to fall asleep, and not counted yet, misses a call: that costs time, nothing else
        while self.asleep > 0 and wanted > 0:
            self.asleep, wanted = self.asleep - 1, wanted - 1
            self.wake.release()

    def _serve(self) -> None:
        from . import numba_kernels

        while not self.dismissed:
            numba_kernels.help_out(self.board)
            self.asleep += 1
            self.wake.acquire()

    def dismiss(self) -> None:
        """Ends the threads; a call under way is finished by its caller."""
        self.dismissed = True
        for _ in self.members:
            self.wake.release()


_crew = Crew(0)


def run(kernel: int, record: np.ndarray, tasks: int) -> None:
    """The kernel at an address, for all tasks of the call that the record tells of, by as many threads as may be."""
    _crew.run(kernel, record, tasks)


def _resize(number: int) -> None:
    global _crew
    old, _crew = _crew, Crew(number - 1)
    old.dismiss()


def _after_fork() -> None:
    """A child has none of its parent's threads."""
    global _crew
    _crew = Crew(_crew.helpers)


def _at_exit() -> None:
    """Helpers must not be found in a kernel by an interpreter that is gone."""
    _crew.dismiss()
    for member in _crew.members:
        member.join(timeout=1)


threads.on_change(_resize)
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
