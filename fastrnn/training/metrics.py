"""Metrics: running means over an epoch, resolved by name as Keras does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class _Kind(NamedTuple):
    """`entries(y, p)` gives a value for each entry, the predictions without their last axis or with one of 1."""

    entries: Callable[[np.ndarray, np.ndarray], np.ndarray]
    direction: str
    sparse: bool


_KINDS = {
    "binary_accuracy": _Kind(lambda y, p: np.equal(p > 0.5, y), "max", False),
    "categorical_accuracy": _Kind(lambda y, p: np.equal(p.argmax(-1), y.argmax(-1)), "max", False),
    "sparse_categorical_accuracy": _Kind(lambda y, p: np.equal(p.argmax(-1), y[..., 0]), "max", True),
    "mean_squared_error": _Kind(lambda y, p: np.square(p - y), "min", False),
    "mean_absolute_error": _Kind(lambda y, p: np.abs(p - y), "min", False),
}
_SHORT = {"mse": "mean_squared_error", "mae": "mean_absolute_error"}
_ACCURACY = ("accuracy", "acc")


class Metric:
    """A running mean.

    Attributes:
        name: its key in the logs, as the user wrote it.
        direction: "max" where more is better, else "min".
    """

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind
        self.direction = _KINDS[kind].direction
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._total = 0.0
        self._count = 0

    def update(self, y: np.ndarray, p: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Takes in a batch: targets as the loss prepared them, predictions, the mask of entries that count."""
        values = _KINDS[self.kind].entries(y, p)
        if mask is not None:
            if values.ndim > mask.ndim:
                values = values.mean(axis=-1)
            values = values[mask]
        self.add(int(np.count_nonzero(values)) if values.dtype == bool else float(values.sum()), values.size)

    def add(self, total: float, count: int) -> None:
        """Takes in `count` values whose sum is `total`."""
        self._total += total
        self._count += count

    def result(self) -> float:
        """The mean so far; 0 before the first batch."""
        return self._total / self._count if self._count else 0.0


def check(metrics: Sequence[str] | None) -> list[str]:
    """The names in `metrics`, all of them known and none twice; else ValueError, or TypeError for non-strings."""
    if metrics is None:
        return []
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        raise TypeError(f"metrics must be a list of names, got {metrics!r}")
    known = sorted([*_KINDS, *_SHORT, *_ACCURACY])
    for name in metrics:
        if not isinstance(name, str):
            raise TypeError(f"metrics must be a list of names, got {name!r} in it")
        if name not in known:
            raise ValueError(f"metrics must be of {known}, got {name!r}")
    if len(set(metrics)) < len(metrics):
        raise ValueError(f"metrics must differ from each other, got {list(metrics)}")
    return list(metrics)


def resolve(names: Sequence[str], sparse: bool, classes: int) -> list[Metric]:
    """Metrics for a loss with sparse targets or not, and predictions whose last axis has `classes` entries.

    "accuracy" is binary for one output, sparse for sparse targets, categorical otherwise, as in Keras.

    Raises:
        ValueError: a metric that cannot be computed from the targets of that loss.
    """
    found = []
    for name in names:
        if name in _ACCURACY:
            if sparse:
                kind = "sparse_categorical_accuracy"
            else:
                kind = "binary_accuracy" if classes == 1 else "categorical_accuracy"
        else:
            kind = _SHORT.get(name, name)
        if _KINDS[kind].sparse != sparse:
            wanted = "integer classes" if _KINDS[kind].sparse else "targets of the shape of the predictions"
            raise ValueError(f"metric {name!r} needs {wanted}, which the loss does not take")
        found.append(Metric(name, kind))
    return found
