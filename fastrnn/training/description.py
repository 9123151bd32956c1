"""A model as plain data, for backends that take whole models.

That is: chains of Embedding (at the front), LSTM, GRU, Dropout and Dense, none of them subclassed, stateful or
returning states, with SGD, RMSprop or Adam and the losses of losses.py. All else goes layer by layer, with the same
numbers.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from fastrnn.backends import get_backend
from fastrnn.backends.contract import Goal, Part
from fastrnn.layers.chain import Chain
from fastrnn.layers.dense import Dense
from fastrnn.layers.dropout import Dropout
from fastrnn.layers.embedding import Embedding
from fastrnn.layers.rnn import GRU, LSTM, RNN
from fastrnn.training import losses, optimizers
from fastrnn.training.head import ModelEnd

_LOSSES = (
    losses.MeanSquaredError,
    losses.MeanAbsoluteError,
    losses.BinaryCrossentropy,
    losses.CategoricalCrossentropy,
    losses.SparseCategoricalCrossentropy,
)
_OPTIMIZERS = (optimizers.SGD, optimizers.RMSprop, optimizers.Adam)


class Description(NamedTuple):
    """What the backend's `training` or `model_steps` is called with, and the module that has it."""

    backend: ModuleType
    parts: tuple[Part, ...]
    goal: Goal
    spans: tuple[tuple[int, int], ...]
    dtype: np.dtype[Any]


def describe(model: Any) -> Description | None:
    """The model as it is now, None where its backend takes no whole models, or not such a one."""
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
    """The one that all recurrent layers run on, if it takes whole models."""
    named = {layer.backend for layer in layers if isinstance(layer, RNN)} or {None}
    backends = {get_backend(name) for name in named}
    backend = backends.pop()
    return backend if not backends and (hasattr(backend, "training") or hasattr(backend, "model_steps")) else None


def _part(layer: Any, at: tuple[int, ...], place: int, dtype: np.dtype[Any]) -> Part | None:
    """What the weights are, whatever the layer's attributes say by now; None where they do not go together."""
    kind = type(layer)
    if kind is Dropout and np.can_cast(layer.dtype, dtype):
        return Part("dropout")
    if not layer.built or layer.dtype != dtype or any(weight.dtype != dtype for weight in layer.weights):
        return None
    shapes = [weight.shape for weight in layer.weights]
    if kind is Embedding and place == 0:
        words, width = shapes[0]
        return Part("embedding", at, words, width, mask_zero=bool(layer.mask_zero))
    if kind is Dense:
        inputs, units = shapes[0]
        return Part("dense", at, inputs, units, layer.activation)
    if kind in (LSTM, GRU) and not (layer.stateful or layer.return_state):
        (inputs, columns), (units, _), *bias = shapes
        gates = 4 if kind is LSTM else 3
        wanted = (2, columns) if kind is GRU and layer.reset_after else (columns,)
        if columns != gates * units or shapes[1] != (units, columns) or bias not in ([], [wanted]):
            return None
        return Part(
            "lstm" if kind is LSTM else "gru" if layer.reset_after else "gru_reset_before",
            *(at, inputs, units),
            return_sequences=bool(layer.return_sequences),
            go_backwards=bool(layer.go_backwards),
            zero_output_for_mask=bool(layer.zero_output_for_mask),
        )
    return None
