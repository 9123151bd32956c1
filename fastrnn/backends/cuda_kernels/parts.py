"""The layers of a model that trains on the GPU, the contract's Parts: each goes forward, and then backward, one batch
at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastrnn.backends.contract import Part

from . import embedding, plain, recurrent
from .device import Device
from .products import Matrix, Product, Rows, flat, multiply


class Memory(Device):
    """A device that hands the same arrays out again, in the same order, after `rewind`."""

    def __init__(self) -> None:
        super().__init__(())
        self._arrays: dict[tuple[int, int, Any], Any] = {}
        self._taken = 0

    def rewind(self) -> None:
        self._taken = 0

    def empty(self, size: int, dtype: Any) -> Any:
        key = (self._taken, size, np.dtype(dtype))
        self._taken += 1
        if key not in self._arrays:
            self._arrays[key] = super().empty(size, dtype)
        return self._arrays[key]


class Values(NamedTuple):
    """A batch on its way: numbers of that shape, flat, or a table whose rows ids look up; the mask that goes with it.

    `batch` is its number within the pass.
    """

    array: Any
    shape: tuple[int, ...]
    batch: int
    ids: Any = None
    mask: Any = None
    mask_shape: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        return int(np.prod(self.shape[:-1]))

    @property
    def masked(self) -> bool:
        """Whether the mask is one of the rows."""
        return self.mask is not None and self.mask_shape == self.shape[:-1]


class Weights(NamedTuple):
    """A part's weights, and where in the array of all gradients theirs go. `products` collects the products that make
    them, those of all parts, to be launched together."""

    arrays: list[Any]
    gradients: Any
    at: tuple[int, ...]
    products: list[Product]


class Runner:
    """Base of what runs a part. `forward` takes what dropout multiplies with; `backward` the output's gradient, and
    gives that of the input if it is wanted."""

    def __init__(self, part: Part, memory: Memory, weights: Weights) -> None:
        self.part, self.memory, self.weights = part, memory, weights

    def forward(self, values: Values, factors: tuple[Any, Any], training: bool) -> Values:
        raise NotImplementedError

    def backward(self, gradient: Any, wanted: bool) -> Any:
        raise NotImplementedError


class Embedding(Runner):
    """The lookup. `looks_up` is False where the next part does it on its way. `order` is that of the pass' ids."""

    looks_up = True
    order: embedding.Order

    def forward(self, values: Values, factors: tuple[Any, Any], training: bool) -> Values:
        (table,), width = self.weights.arrays, self.part.units
        self._batch = values.batch
        shape = (*values.shape, width)
        if not self.looks_up:
            return values._replace(array=table, shape=shape, ids=values.array)
        return values._replace(array=embedding.gather(self.memory, table, values.array, width), shape=shape)

    def backward(self, gradient: Any, wanted: bool) -> None:
        (table,), (at,) = self.weights.arrays, self.weights.at
        out = self.weights.gradients[at : at + table.size]
        rows, width = self.part.inputs, self.part.units
        embedding.scatter_add(self.memory, self.order, gradient, out, rows, width, self._batch)


class Dropout(Runner):
    def forward(self, values: Values, factors: tuple[Any, Any], training: bool) -> Values:
        self._factors = factors[0]
        return values._replace(array=self.backward(values.array, True))

    def backward(self, gradient: Any, wanted: bool) -> Any:
        if self._factors is None or not wanted:
            return gradient
        out = self.memory.empty(gradient.size, gradient.dtype)
        self.memory.launch(plain.scale_kernel(), *flat(out.size), out, gradient, self._factors, out.size)
        return out


class Recurrent(Runner):
    def forward(self, values: Values, factors: tuple[Any, Any], training: bool) -> Values:
        part, (W, U, *b) = self.part, self.weights.arrays
        B, T, I = values.shape
        self._layer = recurrent.Layer(
            *(self.memory, 4 if part.kind == "lstm" else 3, B, T, I, part.units),
            *(values.array, values.ids, W, U, b[0] if b else None, None, None, values.mask, *factors),
            backwards=part.go_backwards,
            zero_masked=part.zero_output_for_mask,
            sequences=part.return_sequences,
            training=training,
            reset_after=part.kind == "gru",
        )
        out = recurrent.forward(self._layer)
        self._kept = out.kept
        if part.return_sequences:
            return values._replace(array=out.y, shape=(B, T, part.units), ids=None)
        return Values(out.y, (B, part.units), values.batch)

    def backward(self, gradient: Any, wanted: bool) -> Any:
        targets = recurrent.Targets(self.weights.gradients, *(*self.weights.at, 0)[:3])
        got = recurrent.backward(self._layer, self._kept, gradient, None, None, targets, wants_dx=wanted)
        self.weights.products.extend(got.products)
        return got.dx


class Dense(Runner):
    """A Dense; `linear` where somebody else sees to its activation."""

    linear = False

    def forward(self, values: Values, factors: tuple[Any, Any], training: bool) -> Values:
        (W, *b), units, dtype = self.weights.arrays, self.part.units, values.array.dtype
        self.take(values)
        z = self.memory.empty(values.rows * units, dtype)
        of_x, of_W = Rows(Matrix(values.array, self.part.inputs)), Matrix(W, units)
        multiply(self.memory, Product(Matrix(z, units), of_x, of_W, (values.rows, units, self.part.inputs), *b))
        self._y, shape = z, (*values.shape[:-1], units)
        if not self._is_linear:
            self._y = self.memory.empty(z.size, dtype)
            kernel, width = plain.activation_kernel(dtype.type, self.part.activation), self._row_width
            self.memory.launch(kernel, *flat(z.size // width), self._y, z, z.size // width, width)
        return values._replace(array=self._y, shape=shape)

    def backward(self, gradient: Any, wanted: bool) -> Any:
        if not self._is_linear:
            dz, width = self.memory.empty(gradient.size, gradient.dtype), self._row_width
            kernel = plain.activation_gradient_kernel(gradient.dtype.type, self.part.activation)
            self.memory.launch(kernel, *flat(dz.size // width), dz, self._y, gradient, dz.size // width, width)
            gradient = dz
        self.weight_gradients(gradient)
        if not wanted:
            return None
        inputs, units = self.part.inputs, self.part.units
        dx = self.memory.empty(self._rows * inputs, gradient.dtype)
        of_z, of_W = Rows(Matrix(gradient, units)), Matrix(self.weights.arrays[0], units)
        multiply(self.memory, Product(Matrix(dx, inputs), of_z, of_W.T, (self._rows, inputs, units)))
        return dx

    def take(self, values: Values) -> None:
        """Remembers the input."""
        self._x, self._rows = values.array, values.rows

    def weight_gradients(self, dz: Any) -> None:
        inputs, units = self.part.inputs, self.part.units
        W_at, *b_at = self.weights.at
        dW, of_x = Matrix(self.weights.gradients, units, at=W_at), Rows(Matrix(self._x, inputs), turned=True)
        sums = b_at[0] - W_at if b_at else None
        shape = (inputs, units, self._rows)
        self.weights.products.append(Product(dW, of_x, Matrix(dz, units), shape, sums=sums, split=True))

    @property
    def _is_linear(self) -> bool:
        return self.linear or self.part.activation == "linear"

    @property
    def _row_width(self) -> int:
        """How many numbers the activation takes together."""
        return self.part.units if self.part.activation == "softmax" else 1


RUNNERS: dict[str, type[Runner]] = {
    "embedding": Embedding,
    "dropout": Dropout,
    "lstm": Recurrent,
    "gru": Recurrent,
    "gru_reset_before": Recurrent,
    "dense": Dense,
}
