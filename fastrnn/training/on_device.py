"""Training where the weights stay on a device: the model as plain data for a backend that has the contract's
`training`, and passes over data that run there.

That is: chains of Embedding (at the front), LSTM, GRU, Dropout and Dense, none of them subclassed or stateful, with
SGD, RMSprop or Adam and the losses of losses.py. All else runs through host memory, with the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastrnn.backends import get_backend
from fastrnn.backends.contract import Goal, Part, Update
from fastrnn.layers.base import Layer, Shape
from fastrnn.layers.chain import Chain
from fastrnn.layers.dense import Dense
from fastrnn.layers.dropout import Dropout
from fastrnn.layers.embedding import Embedding, token_ids
from fastrnn.layers.rnn import GRU, LSTM, RNN
from fastrnn.training import losses, optimizers
from fastrnn.training.data import Data
from fastrnn.training.head import ModelEnd
from fastrnn.training.passes import Pass

_LOSSES = (
    losses.MeanSquaredError,
    losses.MeanAbsoluteError,
    losses.BinaryCrossentropy,
    losses.CategoricalCrossentropy,
    losses.SparseCategoricalCrossentropy,
)
_OPTIMIZERS = (optimizers.SGD, optimizers.RMSprop, optimizers.Adam)


class Description(NamedTuple):
    """What the backend's `training` is called with, and the module that has it."""

    backend: ModuleType
    parts: tuple[Part, ...]
    goal: Goal
    spans: tuple[tuple[int, int], ...]
    dtype: np.dtype[Any]


def describe(model: Any) -> Description | None:
    """The model as it is now, None where it cannot train on a device."""
    backend = _backend(model.layers)
    kind = type(model)
    if backend is None or kind.run is not Chain.run or kind.run_backward is not Chain.run_backward:
        return None
    if type(model.optimizer) not in _OPTIMIZERS or type(model.loss) not in _LOSSES:
        return None
    parts: list[Part] = []
    spans: list[tuple[int, int]] = []
    for place, layer in enumerate(model.layers):
        at = []
        for weight in layer.weights:
            start = spans[-1][1] if spans else 0
            at.append(start)
            spans.append((start, start + weight.size))
        part = _part(layer, tuple(at), place, model.dtype)
        if part is None:
            return None
        parts.append(part)
    if not spans:
        return None
    source = "linked" if ModelEnd(model.loss, model.layers[-1]).dense is not None else "predictions"
    if source == "predictions" and getattr(model.loss, "from_logits", False):
        source = "logits"
    goal = Goal(model.loss.name, source, tuple(metric.kind for metric in model.metrics))
    return Description(backend, tuple(parts), goal, tuple(spans), model.dtype)


def _backend(layers: list[Any]) -> ModuleType | None:
    """The one that all recurrent layers run on, if it trains whole models."""
    named = {layer.backend for layer in layers if isinstance(layer, RNN)} or {None}
    backends = {get_backend(name) for name in named}
    backend = backends.pop()
    return backend if not backends and hasattr(backend, "training") else None


def _part(layer: Any, at: tuple[int, ...], place: int, dtype: np.dtype[Any]) -> Part | None:
    kind = type(layer)
    if kind is Embedding and place == 0:
        return Part("embedding", at, layer.input_dim, layer.output_dim, mask_zero=layer.mask_zero)
    if kind is Dropout and np.can_cast(layer.dtype, dtype):
        return Part("dropout")
    if kind is Dense:
        return Part("dense", at, len(layer.weights[0]), layer.units, layer.activation)
    if kind in (LSTM, GRU) and not layer.stateful:
        return Part(
            "lstm" if kind is LSTM else "gru" if layer.reset_after else "gru_reset_before",
            *(at, len(layer.weights[0]), layer.units),
            return_sequences=layer.return_sequences,
            go_backwards=layer.go_backwards,
            zero_output_for_mask=layer.zero_output_for_mask,
        )
    return None


def move(description: Description, layers: Sequence[Layer], data: Data) -> tuple[Any, Any] | None:
    """The backend's training, and the data there; None where a step on them would fail, which the step says best."""
    backend, parts, goal, spans, dtype = description
    x, y, weights = data
    first = parts[0]
    try:
        x = token_ids(x) if first.kind == "embedding" else np.asarray(x, dtype)
    except (TypeError, ValueError):
        return None
    if x.size == 0 or (first.kind == "embedding" and not (x.min() >= 0 and x.max() < first.inputs)):
        return None
    for part, shape in zip(parts, _shapes(layers, x.shape), strict=True):
        if part.kind in ("lstm", "gru", "gru_reset_before") and (len(shape) != 3 or shape[-1] != part.inputs):
            return None
        if part.kind == "dense" and (len(shape) < 2 or shape[-1] != part.inputs):
            return None
    training = backend.training(parts, goal, spans, dtype)
    return training, training.upload(x, y, None if weights is None else np.broadcast_to(weights, y.shape[:-1]))


def _shapes(layers: Sequence[Layer], shape: Shape) -> Iterator[Any]:
    """What goes into each layer."""
    for layer in layers:
        yield shape
        shape = layer.compute_output_shape(shape)


class DevicePass(Pass):
    """A pass on a device. Weights and slots come back into the host's arrays, where everybody looks for them, before
    hooks run and at the end, whatever ends it; and after hooks they go over again, for those may have changed them."""

    def __init__(self, training: Any, there: Any, *pass_: Any) -> None:
        super().__init__(*pass_)
        self._training, self._there = training, there
        self._at_home = True
        self._loss, self._read = 0.0, 0

    def __enter__(self) -> None:
        self._training.begin(self._there, self.order, self.size, self.training)

    def __exit__(self, *error: object) -> None:
        self._bring_home()

    def _slots(self) -> tuple[Any, ...]:
        slots: tuple[Any, ...] = self.model.optimizer.rule()[1:4] if self.training else (None, None, None)
        return slots

    def _bring_home(self) -> None:
        if self.training and not self._at_home:
            self._training.store(self.model.flat_weights, self.model.flat_grads, self._slots())
        self._at_home = True

    def call(self, hooks: Any, *args: Any) -> None:
        if hooks:
            self._bring_home()
            super().call(hooks, *args)

    def step(self, k: int) -> None:
        if self._at_home:
            self.model.ensure_layout()
            self._training.load(self.model.flat_weights, self._slots())
            self._at_home = False
        if self.training:
            optimizer = self.model.optimizer
            self._training.train(k, self._draw(self.samples(k)), _update(optimizer))
            optimizer.iterations += 1
        else:
            self._training.test(k)
        self.done = k + 1

    def _draw(self, batch: int) -> list[tuple[np.ndarray | None, np.ndarray | None]]:
        """What dropout multiplies with in this step, from the generators of the layers."""
        drawn: list[tuple[np.ndarray | None, np.ndarray | None]] = []
        layers = self.model.layers
        for layer, shape in zip(layers, _shapes(layers, (batch, *self.data.x.shape[1:])), strict=True):
            if isinstance(layer, RNN) and (layer.dropout or layer.recurrent_dropout):
                drawn.append(layer.draw_dropout_masks(batch, shape[2]))
            elif isinstance(layer, Dropout) and layer.rate:
                drawn.append((layer.draw(shape), None))
            else:
                drawn.append((None, None))
        return drawn

    def loss(self) -> float:
        if self._read < self.done:
            for k, (loss, *sums) in enumerate(self._training.results(self._read, self.done), self._read):
                self._loss += loss.total / loss.values * self.samples(k)
                for metric, result in zip(self.model.metrics, sums, strict=True):
                    metric.add(*result)
            self._read = self.done
        return self._loss / self.seen()


def _update(optimizer: optimizers.Optimizer) -> Update:
    rule, _, _, _, rate, beta_1, beta_2, epsilon, nesterov = optimizer.rule()
    clips = {"norm": optimizer.clipnorm, "global_norm": optimizer.global_clipnorm, "value": optimizer.clipvalue}
    clip, limit = next(((name, limit) for name, limit in clips.items() if limit), (None, 0.0))
    return Update(rule, rate, beta_1, beta_2, epsilon, nesterov, clip, limit)
