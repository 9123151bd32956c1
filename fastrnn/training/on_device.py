"""Training where the weights stay on a device, on a backend that has the contract's `training`: passes over data that
run there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastrnn.backends.contract import Update
from fastrnn.layers.base import Layer, Shape
from fastrnn.layers.dropout import Dropout
from fastrnn.layers.embedding import token_ids
from fastrnn.layers.rnn import RNN
from fastrnn.training import optimizers
from fastrnn.training.data import Data
from fastrnn.training.description import Description
from fastrnn.training.passes import Pass


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

    def advance(self, most: int) -> None:
        k = self.done
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
        self.done += 1

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
