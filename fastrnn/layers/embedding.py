"""Embedding: a table of vectors, one for each token id."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn import ops
from fastrnn.arguments import integer
from fastrnn.layers import initializers
from fastrnn.layers.base import Layer, Shape
from fastrnn.random import generator


class Embedding(Layer):
    """Turns token ids of any shape into vectors: (...) of integers to (..., output_dim) of `dtype`.

    Args:
        input_dim: number of different ids; they run from 0 to input_dim - 1.
        output_dim: length of a vector.
        mask_zero: id 0 is padding, which the layers that follow pass over.

    Raises:
        ValueError: when called with an id out of range, or with floats that are no whole numbers.
        TypeError: when called with anything but numbers.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        embeddings_initializer: str | initializers.Initializer = "uniform",
        mask_zero: bool = False,
        dtype: Any = "float32",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.input_dim = integer(input_dim, "Embedding: input_dim", 1)
        self.output_dim = integer(output_dim, "Embedding: output_dim", 1)
        self.embeddings_initializer = embeddings_initializer
        self.mask_zero = bool(mask_zero)
        self._initialize = initializers.get(embeddings_initializer)
        self._ids: np.ndarray | None = None
        self._looked_up = False

    def build(self, input_shape: Shape) -> None:
        self.add_weight("embeddings", self._initialize((self.input_dim, self.output_dim), generator()))
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape, self.output_dim)

    def compute_mask(self, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray | None:
        return np.not_equal(x, 0) if self.mask_zero else None

    def __call__(self, x: Any, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        ids = self._take_ids(x, training)
        return ops.embedding_forward(self.weights[0], ids)

    def lookup(self, x: Any, training: bool = False) -> ops.Lookup:
        """What a call gives, not carried out: for a recurrent layer, which needs fewer operations on it this way.

        After a training lookup `backward` takes the table's gradient, as the recurrent layer gives it.
        """
        ids = self._take_ids(x, training, looked_up=True)
        return ops.Lookup(self.weights[0], ids)

    def _take_ids(self, x: Any, training: bool, looked_up: bool = False) -> np.ndarray:
        ids = token_ids(x)
        if not self.built:
            self.build((None, *ids.shape[1:]))
        if training:
            self._ids, self._looked_up = ids, looked_up
        return ids

    def backward(self, dy: np.ndarray) -> None:
        if self._ids is None:
            raise ValueError(f"{self.name}.backward: call the layer with training=True first")
        if self._looked_up:
            self.grads[0][...] = dy
        else:
            ops.embedding_backward(self._ids, dy, self.grads[0])
        return None

    def forget(self) -> None:
        self._ids = None

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": self.embeddings_initializer,
            "mask_zero": self.mask_zero,
        }


def token_ids(x: Any) -> np.ndarray:
    """`x` as contiguous int32 or int64; whole floats are taken, as Keras does, other floats are a ValueError."""
    array = np.asarray(x)
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            ids = array.astype(np.int64, order="C")
        if not np.array_equal(ids, array):
            raise ValueError(
                "Embedding: x must hold token ids, whole numbers; got floats with a fraction or not finite"
            )
        return ids
    if array.dtype.kind not in "iu":
        raise TypeError(f"Embedding: x must hold token ids, of an integer dtype, got {array.dtype}")
    if array.dtype == np.int32 or array.dtype == np.int64:
        return np.ascontiguousarray(array)
    # of the other byte order, unsigned, or shorter: int32 where every value fits
    return array.astype(np.int32 if np.can_cast(array.dtype, np.int32) else np.int64, order="C")
