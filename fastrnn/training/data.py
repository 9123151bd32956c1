"""What users pass to fit and its kin, checked, and cut into batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastrnn.arguments import real


class Data(NamedTuple):
    """Inputs, targets as the loss wants them, and weights of the entries or None; of equal length."""

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None


def numeric(value: Any, name: str) -> np.ndarray:
    """`value` as a non-empty array of numbers with a batch axis.

    Raises:
        ValueError: no samples, no batch axis, or sequences of different lengths.
        TypeError: no numbers.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be one array; its parts differ in length (see pad_sequences)") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold numbers, got {array.dtype} (sequences of different lengths: pad_sequences)")
    if array.ndim == 0 or len(array) == 0:
        raise ValueError(f"{name} must hold at least one sample, got shape {array.shape}")
    return array


def check_lengths(x: np.ndarray, **others: np.ndarray | None) -> None:
    """ValueError unless all have as many samples as `x`."""
    for name, array in others.items():
        if array is not None and len(array) != len(x):
            raise ValueError(f"x and {name} must have the same number of samples, got {len(x)} and {len(array)}")


def class_weights(y: np.ndarray, class_weight: Mapping[int, float]) -> np.ndarray:
    """A weight for each sample: that of its class in `class_weight`, 1 for classes that are not there."""
    if not isinstance(class_weight, Mapping):
        raise TypeError(f"class_weight must be a dict of class to weight, got {class_weight!r}")
    if y.ndim > 2:
        raise ValueError(f"class_weight needs one class for each sample, got y of shape {y.shape}")
    if y.ndim == 2:
        y = y.argmax(axis=-1) if y.shape[-1] != 1 else y[:, 0]
    if not np.isfinite(y).all():
        raise ValueError("class_weight needs one class for each sample, got y with values that are not finite")
    classes, which = np.unique(np.round(y).astype(np.int64), return_inverse=True)
    named = [real(class_weight.get(int(c), 1.0), f"class_weight[{int(c)}]", 0.0) for c in classes]
    return np.array(named)[which]


def split(fraction: float, *arrays: np.ndarray | None) -> tuple[list[Any], list[Any]]:
    """Cuts the last `fraction` of the samples off, for validation: (the first parts, the last parts).

    Raises:
        ValueError: a fraction that leaves one side without samples.
    """
    fraction = real(fraction, "validation_split", 0.0, 1.0)
    n = next(len(a) for a in arrays if a is not None)
    at = math.floor(n * (1.0 - fraction))
    if at in (0, n):
        raise ValueError(f"validation_split={fraction} of {n} samples leaves nothing to train or to validate on")
    return [None if a is None else a[:at] for a in arrays], [None if a is None else a[at:] for a in arrays]


class Batches:
    """Data cut into batches of `size`, the last one maybe smaller; in the given order of samples if there is one.

    In an order, all batches share their memory: a batch is overwritten by the next one.
    """

    def __init__(self, data: Data, size: int, order: np.ndarray | None = None) -> None:
        self._data, self._size, self._order = data, size, order
        self._rooms: list[np.ndarray | None] = []

    def __getitem__(self, k: int) -> Data:
        data, size, order = self._data, self._size, self._order
        part = slice(k * size, (k + 1) * size)
        if order is None:
            return Data(data.x[part], data.y[part], None if data.weights is None else data.weights[part])
        if not self._rooms:
            n = min(size, len(data.x))
            self._rooms = [None if a is None else np.empty((n, *a.shape[1:]), a.dtype) for a in data]
        return Data(*map(_take, data, [order[part]] * 3, self._rooms))


def _take(array: np.ndarray | None, which: np.ndarray, room: np.ndarray | None) -> Any:
    if array is None or room is None:
        return None
    # mode="clip" because "raise" goes through a temporary copy; the order holds no index out of range.
    return array.take(which, 0, room[: len(which)], "clip")
