"""The threads of the numba backend. They are Python's own, and share work without its lock (numba_kernels/crew.py).

Numba's parallel runtimes will not do: workqueue aborts where two threads call it at once, OpenMP's hangs after fork.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque

import numpy as np

from . import threads

BOARD_SIZE = 80  # what numba_kernels/crew.py needs, with lines to spare


class Crew:
    """Threads that help whoever calls `run`, one caller at a time; a caller that finds them taken works alone."""

    def __init__(self, helpers: int) -> None:
        self.helpers = helpers
        self.board = np.zeros(BOARD_SIZE, np.int64)
        self.leading = threading.Lock()
        self.members: list[threading.Thread] = []
        self.asleep: deque[threading.Lock] = deque()  # what each sleeper waits for
        self.dismissed = False

    def run(self, kernel: int, record: np.ndarray, tasks: int, team: bool) -> None:
        from .numba_kernels import lead

        address = record.__array_interface__["data"][0]
        if team:
            tasks = min(tasks, self.helpers + 1)
        shared = tasks > 1 and self.helpers > 0 and self.leading.acquire(blocking=False)
        try:
            if shared:
                self._call_in(min(tasks - 1, self.helpers))
            lead(self.board, kernel, address, tasks, shared, team)
        finally:
            if shared:
                self.leading.release()

    def _call_in(self, wanted: int) -> None:
        """Wakes so many; who is about to fall asleep, and not counted yet, misses a call: that costs time only."""
        while len(self.members) < wanted and not self.dismissed:
            member = threading.Thread(target=self._serve, name="fastrnn-numba", daemon=True)
            try:
                member.start()
            except RuntimeError:  # no more threads, or the interpreter is on its way out
                break
            self.members.append(member)
        for _ in range(wanted):
            try:
                self.asleep.pop().release()
            except IndexError:
                break

    def _serve(self) -> None:
        from .numba_kernels import help_out

        alarm = threading.Lock()
        alarm.acquire()
        while True:
            help_out(self.board)
            self.asleep.append(alarm)
            if self.dismissed:
                return
            alarm.acquire()

    def dismiss(self) -> None:
        """Ends the threads; a call under way is finished by its caller."""
        self.dismissed = True
        while self.asleep:
            self.asleep.pop().release()


_crew = Crew(0)


def run(kernel: int, record: np.ndarray, tasks: int, team: bool = False) -> None:
    """The kernel at an address, for all tasks of the call that the record tells of, by as many threads as may be; or
    for one task and a team of at most so many."""
    _crew.run(kernel, record, tasks, team)


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
