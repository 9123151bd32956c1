"""Reviews of different lengths in one flat array: a tenth of the memory of lists of Python ints."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Ragged(NamedTuple):
    """Sequences of ints, one after another.

    Attributes:
        flat: int32, all tokens of all rows.
        lengths: int64, the length of each row; they add up to `len(flat)`.
    """

    flat: np.ndarray
    lengths: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Where each row begins in `flat`."""
        ends: np.ndarray = np.cumsum(self.lengths)
        ends -= self.lengths
        return ends

    def take(self, rows: np.ndarray) -> Ragged:
        """The rows of the given indices, in that order."""
        lengths = self.lengths[rows]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        # A token's source is its row's start there plus its place in the row; int32 halves the index's size.
        shift = (self.starts[rows] - (ends - lengths)).astype(np.int32)
        source = np.repeat(shift, lengths)
        source += np.arange(total, dtype=np.int32)
        return Ragged(self.flat[source], lengths)

    def with_first(self, token: int) -> Ragged:
        """Every row with `token` put before it."""
        lengths = self.lengths + 1
        flat = np.empty(len(self.flat) + len(lengths), dtype=np.int32)
        first = np.zeros(len(flat), dtype=bool)
        first[np.cumsum(lengths) - lengths] = True
        flat[first] = token
        flat[~first] = self.flat
        return Ragged(flat, lengths)

    def where(self, keep: np.ndarray) -> Ragged:
        """Only the tokens where `keep`, a bool for each of `flat`, holds; rows may become empty."""
        rows = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return Ragged(self.flat[keep], np.bincount(rows[keep], minlength=len(self.lengths)))

    def arrays(self) -> list[np.ndarray]:
        """A view of `flat` for every row."""
        return [self.flat[a : a + n] for a, n in zip(self.starts, self.lengths, strict=True)]

    def lists(self) -> np.ndarray:
        """An object array of lists of Python ints, the form in which Keras gives its text data."""
        out = np.empty(len(self.lengths), dtype=object)
        for i, row in enumerate(self.arrays()):
            out[i] = row.tolist()
        return out
