"""Chain: layers run one after another, their parameters laid out in one block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise, zip_longest
from typing import Any

import numpy as np

from fastrnn.layers.base import Layer, Shape
from fastrnn.layers.embedding import Embedding
from fastrnn.layers.rnn import RNN


class Chain(Layer):
    """Runs layers in order and passes the mask along.

    Once built, all weights and all gradients lie in two flat arrays, of which the layers' arrays are views:
    one optimizer step covers the whole chain, whatever the number of layers.

    Attributes:
        layers: the layers, in order; changed by `add` and `pop` only.
        flat_weights, flat_grads: 1-D arrays, layer by layer in Keras' order.
    """

    def __init__(self, layers: Iterable[Layer] = (), *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.layers: list[Any] = []
        self.output_shapes: list[Shape] = []
        self.flat_weights = np.empty(0, self.dtype)
        self.flat_grads = np.empty(0, self.dtype)
        for layer in layers:
            self.add(layer)

    def add(self, layer: Layer) -> None:
        """Appends a layer. TypeError for anything else, ValueError for a layer that is here already."""
        if not isinstance(layer, Layer):
            raise TypeError(f"{self.name}.add: layer must be a Layer, got {layer!r}")
        if any(layer is mine for mine in self.layers):
            raise ValueError(f"{self.name}.add: {layer.name} is in this model already")
        self.layers.append(layer)
        self.built = False

    def pop(self) -> Layer:
        """Removes and gives the last layer. ValueError where there is none."""
        if not self.layers:
            raise ValueError(f"{self.name}.pop: there are no layers")
        self.built = False
        layer: Layer = self.layers.pop()
        return layer

    def build(self, input_shape: Shape) -> None:
        """Builds every layer for inputs of `input_shape`, (None, ...), and lays their parameters out in one block.

        Raises:
            ValueError: no layers, or layers of different dtypes. TypeError: no shape.
        """
        if not self.layers:
            raise ValueError(f"{self.name}.build: there are no layers; add one first")
        if not isinstance(input_shape, tuple | list):
            raise TypeError(f"{self.name}.build: input_shape must be a tuple (batch, ...), got {input_shape!r}")
        shape: Shape = (None, *input_shape[1:])
        self.output_shapes = []
        for layer in self.layers:
            if getattr(layer, "return_state", False):
                raise ValueError(
                    f"{self.name}.build: {layer.name} has return_state=True, but a layer here must give one output"
                )
            if not layer.built:
                layer.build(shape)
            shape = layer.compute_output_shape(shape)
            self.output_shapes.append(shape)
        self._lay_out()
        super().build(input_shape)

    def _lay_out(self) -> None:
        layers = list(flat(self))
        dtypes = {layer.name: layer.dtype for layer in layers if layer.weights}
        if len(set(dtypes.values())) > 1:
            named = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
            raise ValueError(f"{self.name}.build: all layers must have the same dtype, got {named}")
        self.dtype = next(iter(dtypes.values()), self.dtype)
        self.weights = [w for layer in layers for w in layer.weights]
        self.grads = [g for layer in layers for g in layer.grads]
        self.weight_names = [f"{layer.name}/{name}" for layer in self.layers for name in layer.weight_names]
        ends = list(accumulate((w.size for w in self.weights), initial=0))
        self.flat_weights = np.empty(ends[-1], self.dtype)
        self.flat_grads = np.empty(ends[-1], self.dtype)
        shapes = [w.shape for w in self.weights]
        self.rebind(_views(self.flat_weights, ends, shapes), _views(self.flat_grads, ends, shapes))

    def ensure_layout(self) -> None:
        """Takes the parameters back into this chain's block if another chain, sharing layers, took them away."""
        if any(w.base is not self.flat_weights for layer in flat(self) for w in layer.weights):
            self._lay_out()

    def get_weights(self) -> list[np.ndarray]:
        self.ensure_layout()
        return super().get_weights()

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        self.ensure_layout()
        super().set_weights(weights)

    def rebind(self, weights: Sequence[np.ndarray], grads: Sequence[np.ndarray]) -> None:
        start = 0
        for layer in self.layers:
            end = start + len(layer.weights)
            layer.rebind(weights[start:end], grads[start:end])
            start = end
        self.weights, self.grads = list(weights), list(grads)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        for layer in self.layers:
            input_shape = layer.compute_output_shape(input_shape)
        return input_shape

    def compute_mask(self, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray | None:
        # Only a layer of token ids looks at x, and ids are the input of the chain itself.
        for layer in self.layers:
            mask = layer.compute_mask(x, mask)
        return mask

    def __call__(self, x: Any, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        x = np.asarray(x)
        if not self.built:
            self.build(x.shape)
        return self.run(self.layers, x, mask, training)[0]

    @staticmethod
    def run(
        layers: Sequence[Any], x: np.ndarray, mask: np.ndarray | None, training: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The output of `layers`, and its mask."""
        for layer, following in zip_longest(layers, layers[1:]):
            if isinstance(layer, Embedding) and isinstance(following, RNN):
                y: Any = layer.lookup(x, training)
            else:
                y = layer(x, mask=mask, training=training)
            mask = layer.compute_mask(x, mask)
            x = y
        return x, mask

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        return self.run_backward(self.layers, dy)

    @staticmethod
    def run_backward(layers: Sequence[Any], dy: np.ndarray) -> np.ndarray | None:
        """Fills the gradients of `layers` from that of their output; gives that of their input."""
        gradient: np.ndarray | None = dy
        for layer in reversed(layers):
            gradient = layer.backward(gradient)
            if gradient is None:
                break
        return gradient


def flat(layer: Layer) -> Iterator[Layer]:
    """The layer or, of a chain, the layers in it at any depth, in order."""
    if isinstance(layer, Chain):
        for inner in layer.layers:
            yield from flat(inner)
    else:
        yield layer


def _views(block: np.ndarray, ends: list[int], shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    return [block[start:end].reshape(shape) for (start, end), shape in zip(pairwise(ends), shapes, strict=True)]
