"""Memory that goes from one call to the next: what is fresh is cleared by the system, page by page."""

from __future__ import annotations

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
        self.arrays: deque[np.ndarray] = deque(maxlen=1)  # its pop and append are safe among threads

    def take(self, size: int, dtype: np.dtype[Any]) -> Memory:
        """Room for so many numbers."""
        needed = size * dtype.itemsize
        if needed >= self.least:
            try:
                array = self.arrays.pop()
            except IndexError:  # there is none, or another call has it
                pass
            else:
                if needed <= array.nbytes <= needed * self.slack:
                    return Memory(array, self)
        return Memory(np.empty(size, dtype), self)


class Memory:
    """An array, of any type, whose memory goes back to where it is kept when this object goes."""

    __slots__ = ("array", "spare")

    def __init__(self, array: np.ndarray, spare: Spare) -> None:
        self.array, self.spare = array, spare

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def __del__(self) -> None:
        if self.spare.least <= self.nbytes <= MAX_SPARE:
            self.spare.arrays.append(self.array)


# For what forward keeps for backward. What is smaller the C library keeps by itself, once it has been given back.
reserves = Spare(least=1 << 25, slack=2)
