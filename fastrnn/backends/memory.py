"""Memory that goes from one call to the next: what is fresh is cleared by the system, page by page."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

import numpy as np

MAX_SPARE = 1 << 28  # bytes; what is larger goes back to the system at once


class Spare:
    """Keeps the last memory that nobody needs any more, if it is of `least` bytes, for whoever asks next.

    It is not given to one who needs less than its size divided by `slack`, for that one may hold it for long.
    """

    def __init__(self, least: int = 0, slack: float = float("inf")) -> None:
        self.least, self.slack = least, slack
        self.kept: deque[np.ndarray] = deque(maxlen=1)  # its pop and append are safe among threads

    def take(self, size: int, dtype: np.dtype[Any]) -> np.ndarray:
        """An array of so many numbers. Its memory may be used again once this very object is gone, views or not."""
        needed = size * dtype.itemsize
        if not self.least <= needed <= MAX_SPARE:
            return np.empty(size, dtype)
        try:
            memory = self.kept.pop()
        except IndexError:  # there is none, or another call has it
            memory = None
        if memory is None or not needed <= memory.nbytes <= needed * self.slack:
            memory = np.empty(size, dtype)
        array = memory.view(np.uint8)[:needed].view(dtype)
        weakref.finalize(array, self.kept.append, memory).atexit = False
        return array


# For what forward keeps for backward. What is smaller the C library keeps by itself, once it has been given back.
reserves = Spare(least=1 << 25, slack=2)
