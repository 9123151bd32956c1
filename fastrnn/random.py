"""Where all randomness comes from: one seed, from which every layer and every shuffle gets its own stream."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from fastrnn.arguments import integer

_lock = threading.Lock()
_root = np.random.SeedSequence()


def set_seed(seed: int) -> None:
    """Makes everything random that follows reproducible: initial weights, dropout, the order of batches.

    Layers draw their streams when they are made and built, so call this before making the model.

    Raises:
        TypeError, ValueError: `seed` is no integer, or negative.
    """
    global _root
    root = np.random.SeedSequence(integer(seed, "seed", 0))
    with _lock:
        _root = root


def generator(seed: int | None = None) -> np.random.Generator:
    """A generator of its own for `seed`; without one, the next independent stream of the global seed.

    Raises as `set_seed`.
    """
    if seed is not None:
        return np.random.default_rng(integer(seed, "seed", 0))
    with _lock:
        child = _root.spawn(1)[0]
    return np.random.default_rng(child)


def dropout_mask(rng: np.random.Generator, rate: float, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Factors for inverted dropout: 0 with probability `rate`, which is below 1, else 1 / (1 - rate)."""
    kept = dropout_scale(rate, dtype)
    keep = rng.random(shape, dtype=np.float32) >= float(rate)
    mask: np.ndarray = np.multiply(keep, kept, dtype=dtype)
    return mask


def dropout_scale(rate: float, dtype: Any) -> float:
    """1 / (1 - rate), as a number of `dtype`. ValueError for a rate outside [0, 1)."""
    if not 0 <= rate < 1:
        raise ValueError(f"a rate of dropout must be in [0, 1), got {rate}")
    return float(np.dtype(dtype).type(1.0 / (1.0 - float(rate))))
