"""Passes over data, batch by batch: what fit and evaluate go through, in host memory or on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastrnn.training.callbacks import Hook
from fastrnn.training.data import Batches, Data

Step = Callable[[Data], float]


class Pass:
    """One pass, to be entered, of `steps` steps, to be taken one after another.

    Attributes:
        order: of the samples, None as they lie. size: samples in a batch. training: whether steps change the weights.
        done: steps taken.
    """

    def __init__(self, model: Any, data: Data, size: int, order: np.ndarray | None, training: bool) -> None:
        self.model, self.data, self.size, self.order, self.training = model, data, size, order, training
        self.steps = -(-len(data.x) // size)
        self.done = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def call(self, hooks: Sequence[Hook], *args: Any) -> None:
        """Calls hooks, which find the model's weights as they are after the last step, and may change them."""
        for hook in hooks:
            hook(*args)

    def advance(self, most: int) -> None:
        """Takes at least one step, and `most` at most."""
        raise NotImplementedError

    def loss(self) -> float:
        """The mean loss of the samples seen; the model's metrics are then up to date."""
        raise NotImplementedError

    def samples(self, k: int) -> int:
        """How many samples step k has."""
        return min(self.size, len(self.data.x) - k * self.size)

    def seen(self) -> int:
        """How many samples the steps taken had."""
        return min(self.done * self.size, len(self.data.x))


class HostPass(Pass):
    """A pass in host memory; `take` does a step on a batch, updates the metrics and gives the loss."""

    def __init__(self, take: Step, *pass_: Any) -> None:
        super().__init__(*pass_)
        self._take = take
        self._batches = Batches(self.data, self.size, self.order)
        self._total = 0.0

    def advance(self, most: int) -> None:
        batch = self._batches[self.done]
        self._total += self._take(batch) * len(batch.x)
        self.done += 1

    def loss(self) -> float:
        return self._total / self.seen()
