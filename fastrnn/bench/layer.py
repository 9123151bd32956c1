"""One recurrent layer to measure: its shape, its arithmetic, its data, and what must come out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastrnn import ops

GATES = {"lstm": 4, "gru": 3}
MODES = ("train", "inference")
STREAM = "stream"

# (B, T, I, H): batch, time steps, inputs, units
SHAPES = (
    (64, 100, 16, 8),
    (64, 100, 64, 64),
    (64, 100, 128, 128),
    (64, 50, 256, 256),
    (64, 25, 512, 512),
    (32, 10, 1024, 1024),
    (1, 100, 16, 8),
    (1, 100, 128, 128),
    (1, 100, 512, 512),
)

# what a call can have beside its weights
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mask": {"mask": True},
    "dropout": {"dropout": True},
    "recurrent_dropout": {"recurrent_dropout": True},
    "go_backwards": {"go_backwards": True},
    "initial_state": {"states": True},
}


@dataclass(frozen=True)
class Layer:
    """A layer over one batch, return_sequences: forward alone that keeps nothing, or forward and backward.

    Attributes:
        cell: "lstm" or "gru" (reset_after, as Keras' default).
        mode: "train": every gradient, that of the inputs included; "inference"; or "stream": a call is one time step
            of one sequence, as data arrives, the states handed on from call to call.
        shape: (B, T, I, H).
        dtype: "float32" or "float64".
        option: one of OPTIONS; the peers know "plain" only.
    """

    cell: str
    mode: str
    shape: tuple[int, int, int, int]
    dtype: str = "float32"
    option: str = "plain"

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Layer:
        return cls(**{**values, "shape": tuple(values["shape"])})

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"shape": list(self.shape)}

    @property
    def train(self) -> bool:
        return self.mode == "train"

    @property
    def operations(self) -> int:
        """Those of the products: two per weight, row and time step; backward has two such products per forward one."""
        B, T, I, H = self.shape
        steps = 1 if self.mode == STREAM else T
        return (3 if self.train else 1) * 2 * B * steps * GATES[self.cell] * H * (I + H)

    @property
    def bytes(self) -> int:
        """What a call must read and write at least once, all caches cold: its arguments and results."""
        B, T, I, H = self.shape
        gates = GATES[self.cell] * H
        steps = 1 if self.mode == STREAM else T
        weights, sequences = (I + H + 1) * gates, B * steps * (I + H)
        # training: x, dy and the weights in; y, dx and the weights' gradients out
        return (2 if self.train else 1) * (weights + sequences) * np.dtype(self.dtype).itemsize


class Problem:
    """The data of a layer, the same in every process: in the layer's type, nothing special about any number."""

    def __init__(self, layer: Layer) -> None:
        B, T, I, H = layer.shape
        gates = GATES[layer.cell] * H
        rng = np.random.default_rng([7, *layer.shape])

        def normal(*size: int, scale: float = 1.0) -> np.ndarray:
            return (rng.standard_normal(size) * scale).astype(layer.dtype)

        self.layer = layer
        self.x = normal(B, T, I)
        self.W, self.U = normal(I, gates, scale=I**-0.5), normal(H, gates, scale=H**-0.5)
        self.b = normal(gates) if layer.cell == "lstm" else normal(2, gates)
        self.dy = normal(B, T, H)
        self.options = self._options(rng, **OPTIONS[layer.option])

    def _options(
        self,
        rng: np.random.Generator,
        mask: bool = False,
        dropout: bool = False,
        recurrent_dropout: bool = False,
        states: bool = False,
        go_backwards: bool = False,
    ) -> dict[str, Any]:
        """Keyword arguments of the op: sequences of 3/4 the length on average, rates of 0.3."""
        layer = self.layer
        B, T, I, H = layer.shape
        options: dict[str, Any] = {}
        if mask:
            options["mask"] = np.arange(T) >= rng.integers(0, T // 2 + 1, size=(B, 1))
        if dropout:
            options["dropout_mask"] = ((rng.random((B, I)) >= 0.3) / 0.7).astype(layer.dtype)
        if recurrent_dropout:
            kept = rng.random((GATES[layer.cell], B, H)) >= 0.3
            options["recurrent_dropout_mask"] = (kept / 0.7).astype(layer.dtype)
        if states:
            for name in ("h0", "c0")[: 2 if layer.cell == "lstm" else 1]:
                options[name] = rng.standard_normal((B, H)).astype(layer.dtype)
        if go_backwards:
            options["go_backwards"] = True
        return options

    def run(self, backend: str | None) -> tuple[Any, ...]:
        """One call of the op, and for training one of its backward: (y, gradients or None)."""
        y, reserve = self._forward(backend)
        if reserve is None:
            return y, None
        return y, (ops.lstm_backward if self.layer.cell == "lstm" else ops.gru_backward)(reserve, self.dy)

    def reserve_bytes(self, backend: str | None) -> int:
        """What the backend's forward keeps for backward beside the call's arguments: all arrays in its data."""
        seen = {id(self.x)}

        def count(value: Any) -> int:
            if isinstance(value, (tuple, list)):
                return sum(map(count, value))
            if id(value) in seen:
                return 0
            seen.add(id(value))
            return int(getattr(value, "nbytes", 0))

        return count(self._forward(backend)[1].data)

    def _forward(self, backend: str | None) -> tuple[Any, Any]:
        forward = ops.lstm_forward if self.layer.cell == "lstm" else ops.gru_forward
        arguments = (self.x, self.W, self.U, self.b)
        y, *_, reserve = forward(*arguments, training=self.layer.train, backend=backend, **self.options)
        return y, reserve

    @staticmethod
    def named(y: np.ndarray, grads: Any) -> dict[str, np.ndarray]:
        """What `run` gave, by name: y, and for training dx, dW, dU, db."""
        return {"y": y} if grads is None else {"y": y, "dx": grads.dx, "dW": grads.dW, "dU": grads.dU, "db": grads.db}

    def expected(self) -> dict[str, np.ndarray]:
        """What must come out: the reference, in float64, on the same numbers."""
        exact = object.__new__(Problem)
        exact.layer = self.layer
        for name in ("x", "W", "U", "b", "dy"):
            setattr(exact, name, getattr(self, name).astype(np.float64))
        exact.options = {
            name: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value
            for name, value in self.options.items()
        }
        return self.named(*exact.run("reference"))


def errors(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> dict[str, float]:
    """The largest difference of each array, relative to its largest value; infinite where shapes or names differ."""
    found = {}
    for name, exact in want.items():
        array = got.get(name)
        if array is None or array.shape != exact.shape:
            found[name] = float("inf")
        else:
            worst = float(np.max(np.abs(array.astype(np.float64) - exact))) / float(np.max(np.abs(exact)))
            found[name] = worst if np.isfinite(worst) else float("inf")
    return found
