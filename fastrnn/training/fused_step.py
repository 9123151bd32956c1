"""Steps of training or evaluation in one call of a backend that has the contract's `model_step`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastrnn.layers.rnn import RNN
from fastrnn.training.callbacks import Hook
from fastrnn.training.data import Data
from fastrnn.training.description import Description, describe
from fastrnn.training.passes import HostPass, Step


class FusedStep:
    """The step of a model as it was described. What the backend does not take goes to `plain`, the model's own step; so
    does the rest of a pass once the model has become another one."""

    def __init__(self, model: Any, description: Description, run: Any, plain: Step, training: bool) -> None:
        self._model, self._description, self._run, self._plain = model, description, run, plain
        self._training = training
        self._same = True
        self._end = model._end
        self._flat: Any
        self._look()
        if training:
            for layer in model.layers:
                layer.forget()

    def changed(self) -> None:
        """Somebody may have changed the model: it is looked at again before the next step."""
        self._flat = None

    def _look(self) -> None:
        model = self._model
        self._flat = model.flat_weights
        self._layers = [layer for layer in model.layers if isinstance(layer, RNN)]

    def _is_as_described(self) -> bool:
        model = self._model
        model.ensure_layout()  # a callback may have used another model that shares layers
        if model.flat_weights is not self._flat:
            self._same = self._same and model.loss is self._end.loss and describe(model) == self._description
            self._look()
        return self._same

    def __call__(self, batch: Data) -> float:
        model, run, training = self._model, self._run, self._training
        if not self._is_as_described() or not run.takes(batch.x, batch.y, batch.weights):
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


class FusedPass(HostPass):
    """A pass of such steps."""

    def __init__(self, take: FusedStep, *pass_: Any) -> None:
        super().__init__(take, *pass_)
        self._step = take

    def call(self, hooks: Sequence[Hook], *args: Any) -> None:
        super().call(hooks, *args)
        if hooks:
            self._step.changed()
