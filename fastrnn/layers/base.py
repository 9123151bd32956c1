"""What every layer is: named weights with gradients beside them, a forward and a backward."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

Shape = tuple[int | None, ...]

_names: Counter[str] = Counter()


def snake_case(name: str) -> str:
    """Keras' snake_case of a class name: "LSTM" is "lstm", "MyLayer" is "my_layer"."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def unique_name(prefix: str) -> str:
    """`prefix`, then `prefix_1`, `prefix_2`, ... as Keras numbers them."""
    n = _names[prefix]
    _names[prefix] += 1
    return f"{prefix}_{n}" if n else prefix


def float_dtype(dtype: Any, who: str) -> np.dtype[Any]:
    """`dtype` as float32 or float64; anything else is a ValueError that names `who`."""
    try:
        result: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise ValueError(f"{who}: dtype must be float32 or float64, got {dtype!r}") from error
    if result not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"{who}: dtype must be float32 or float64, got {dtype!r}")
    return result


class Layer:
    """Base of all layers.

    A layer is called with NumPy arrays and gives NumPy arrays. Called with `training=True` it keeps what
    `backward` needs; `backward` takes the gradient of the output, leaves the gradients of the weights in
    `grads` (the same shapes and order as `weights`) and gives the gradient of the input.

    Attributes:
        name: unique within the process, Keras' way of counting.
        dtype: float32 or float64, of weights and activations.
        weights, grads: lists of arrays, in Keras' order; empty before `build`.
    """

    def __init__(self, *, name: str | None = None, dtype: Any = "float32") -> None:
        self.name = unique_name(snake_case(type(self).__name__)) if name is None else name
        self.dtype = float_dtype(dtype, type(self).__name__)
        self.weights: list[np.ndarray] = []
        self.grads: list[np.ndarray] = []
        self.weight_names: list[str] = []
        self.built = False

    # -- what a subclass defines ------------------------------------------------------------------

    def build(self, input_shape: Shape) -> None:
        """Creates the weights for inputs of `input_shape`, the batch axis included as None."""
        self.built = True

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The output's shape for an input's, the batch axis included as None."""
        return input_shape

    def compute_mask(self, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray | None:
        """The mask, (batch, time) of bool, that goes with the output; passed on by default."""
        return mask

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        """The gradient of the last training call's input; None where the input has none (token ids)."""
        raise NotImplementedError(f"{type(self).__name__} has no backward")

    def forget(self) -> None:
        """Drops what the last training call kept for `backward`."""

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this layer anew, in Keras' names."""
        return {"name": self.name, "dtype": self.dtype.name}

    # -- weights ----------------------------------------------------------------------------------

    def add_weight(self, name: str, value: np.ndarray) -> None:
        """Appends a weight with the given initial value, and room for its gradient. ValueError once built."""
        if self.built:
            raise ValueError(f"{self.name}.build: the layer is built already, and has its {len(self.weights)} weights")
        self.weights.append(np.ascontiguousarray(value, dtype=self.dtype))
        self.grads.append(np.zeros_like(self.weights[-1]))
        self.weight_names.append(name)

    def rebind(self, weights: Sequence[np.ndarray], grads: Sequence[np.ndarray]) -> None:
        """Moves the weights and gradients into the given arrays of the same shapes, values kept.

        A model does this to lay all its parameters out in one block, which one optimizer step then covers.
        """
        for new, old in zip((*weights, *grads), (*self.weights, *self.grads), strict=True):
            new[...] = old
        self.weights, self.grads = list(weights), list(grads)

    def get_weights(self) -> list[np.ndarray]:
        """Copies of the weights, in Keras' order."""
        return [w.copy() for w in self.weights]

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Sets all weights, in Keras' order. ValueError where count or a shape differs; then none is set."""
        if not self.built:
            raise ValueError(f"{self.name}.set_weights: the layer has no weights yet; call it, or build(), first")
        if len(weights) != len(self.weights):
            raise ValueError(f"{self.name}.set_weights: expected {len(self.weights)} arrays, got {len(weights)}")
        arrays = [np.asarray(w, dtype=self.dtype) for w in weights]
        for name, mine, new in zip(self.weight_names, self.weights, arrays, strict=True):
            if mine.shape != new.shape:
                raise ValueError(f"{self.name}.set_weights: {name} must have shape {mine.shape}, got {new.shape}")
        for mine, new in zip(self.weights, arrays, strict=True):
            mine[...] = new

    def count_params(self) -> int:
        """The number of scalars in the weights."""
        return sum(w.size for w in self.weights)
