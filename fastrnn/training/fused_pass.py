"""Passes whose steps a backend takes by itself, many in one call: one that has the contract's `model_steps`."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from fastrnn.backends import get_backend
from fastrnn.layers.dropout import Dropout
from fastrnn.layers.rnn import RNN
from fastrnn.training.callbacks import Hook
from fastrnn.training.description import Description, describe
from fastrnn.training.passes import HostPass, Step

# A call takes at most twice as long, so that an interruption is heard.
CALL_SECONDS = 0.01


class FusedPass(HostPass):
    """A pass of a model as it was described, data that `run` takes. A batch that the backend does not take after all
    goes to `plain`, the model's own step; so does the rest of the pass once the model has become another one."""

    def __init__(self, run: Any, description: Description, plain: Step, *pass_: Any) -> None:
        super().__init__(plain, *pass_)
        self._run, self._description = run, description
        self._same = True
        self._end = self.model._end
        self._flat: Any = self.model.flat_weights
        self._stride = 1
        if self.training:
            for layer in self.model.layers:
                layer.forget()
        run.begin(*self.data, self.order, self.size, self.training)
        self._bind()

    def call(self, hooks: Sequence[Hook], *args: Any) -> None:
        super().call(hooks, *args)
        if hooks:  # they may have changed the model
            self._flat = None

    def advance(self, most: int) -> None:
        model, training, optimizer = self.model, self.training, self.model.optimizer
        if not self._is_as_described():
            return super().advance(most)
        counted, clips = self._end.counts(model.metrics), training and optimizer.clips
        if clips or not counted:
            most = 1
        steps = min(most, self._stride)
        rates = optimizer.rates(steps) if training else [0.0] * steps
        first, seen, began = self.done, self.seen(), perf_counter()
        try:
            self._run.run(first, rates, self._total)
        finally:  # of what was done when somebody interrupts, the weights have changed
            done = self._run.done()
            if done is not None:
                self.done, self._total = first + done.steps, done.total
                if training and not clips:
                    optimizer.iterations += done.steps
        if not done.steps:
            return super().advance(most)
        if steps == self._stride and perf_counter() - began < CALL_SECONDS:
            self._stride *= 2
        y = self.data.y if counted else self._batches[first].y
        self._end.measure(done.correct, done.p, y, self.seen() - seen, model.metrics)
        if clips:
            optimizer.apply(model.flat_weights, model.flat_grads)

    def _is_as_described(self) -> bool:
        model = self.model
        model.ensure_layout()  # a callback may have used another model that shares layers
        if model.flat_weights is not self._flat:
            self._same = (
                self._same
                and model.loss is self._end.loss
                and self._description.backend is get_backend()
                and describe(model) == self._description
            )
            self._flat = model.flat_weights
            if self._same:
                self._bind()
        return self._same

    def _bind(self) -> None:
        model, rule, dropouts = self.model, None, None
        if self.training:
            model.optimizer.check(model.flat_weights, model.flat_grads)
            if not model.optimizer.clips:
                rule = model.optimizer.rule()
            dropouts = [layer.drawn() for layer in model.layers if isinstance(layer, RNN | Dropout)]
        self._run.bind(model.flat_weights, model.flat_grads, rule, dropouts)
