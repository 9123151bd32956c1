"""A step of training or evaluation in one call of a backend that has the contract's `model_step`."""

from __future__ import annotations

from typing import Any

from fastrnn.layers.rnn import RNN
from fastrnn.training.data import Data
from fastrnn.training.head import ModelEnd
from fastrnn.training.passes import Step


class FusedStep:
    """The step of a model as it was described; what the backend does not take goes to `plain`, the model's own step."""

    def __init__(self, model: Any, run: Any, plain: Step, training: bool) -> None:
        self._model, self._run, self._plain, self._training = model, run, plain, training
        self._end = ModelEnd(model.loss, model.layers[-1])
        self._layers = [layer for layer in model.layers if isinstance(layer, RNN)]

    def __call__(self, batch: Data) -> float:
        model, run, training = self._model, self._run, self._training
        model.ensure_layout()  # a callback may have used another model that shares layers
        if not run.takes(batch.x, batch.y, batch.weights):
            return self._plain(batch)
        size, masks = len(batch.x), None
        if training and any(layer.dropout or layer.recurrent_dropout for layer in self._layers):
            masks = [layer.draw_dropout_masks(size, len(layer.weights[0])) for layer in self._layers]
        end = run.step(batch.x, batch.y, batch.weights, masks, model.flat_weights, model.flat_grads, training)
        self._end.measure(end, batch, size, model.metrics)
        if training:
            model.optimizer.apply(model.flat_weights, model.flat_grads)
        loss: float = end.loss
        return loss
