"""Dropout: zeroes a share of its inputs in training."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn.arguments import real
from fastrnn.backends.contract import Drawn
from fastrnn.layers.base import Layer
from fastrnn.random import dropout_mask, dropout_scale, generator


class Dropout(Layer):
    """In training, each entry is zero with probability `rate`, else scaled by 1 / (1 - rate); otherwise identity.

    Args:
        rate: in [0, 1].
        seed: of this layer's own stream; None takes one from the global seed.
    """

    def __init__(
        self, rate: float, seed: int | None = None, *, dtype: Any = "float32", name: str | None = None
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.rate = real(rate, "Dropout: rate", 0.0, 1.0)
        self.seed = seed
        self._rng = generator(seed)
        self._scale: np.ndarray | None = None

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """What an input of `shape` is multiplied with in the next training call: 0 or 1 / (1 - rate)."""
        if self.rate == 1.0:
            return np.zeros(shape, self.dtype)
        return dropout_mask(self._rng, self.rate, shape, self.dtype)

    def drawn(self) -> tuple[Drawn | None, None]:
        """How `draw` draws it, for a backend that does."""
        if not self.rate:
            return None, None
        if self.rate == 1.0:
            return Drawn(None, 1.0, 0.0, 1), None
        return Drawn(self._rng, float(self.rate), dropout_scale(self.rate, self.dtype), 1), None

    def __call__(self, x: Any, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        array: np.ndarray = np.asarray(x)
        self.built = True
        if not training:
            return array
        self._scale = self.draw(array.shape) if self.rate else None
        return self._scaled(array)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return self._scaled(dy)

    def _scaled(self, array: np.ndarray) -> np.ndarray:
        if self._scale is not None:
            scaled: np.ndarray = array * self._scale
            return scaled
        return array

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
