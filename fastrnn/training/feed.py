"""Data of a fit or an evaluation, and where passes over it run."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn.training import on_device
from fastrnn.training.data import Data
from fastrnn.training.passes import HostPass, Pass, Step


class Feed:
    """Data that a model runs on more than once. Where the model can train on a device, they go there once, at the first
    pass, and again only if the model was made another one since."""

    def __init__(self, model: Any, data: Data) -> None:
        self._model, self._data = model, data
        self._description: on_device.Description | None = None
        self._there: tuple[Any, Any] | None = None

    def open(self, size: int, step: Step, order: np.ndarray | None = None, *, training: bool = False) -> Pass:
        """A pass over the data, in the order of samples if there is one, `size` of them in a batch; `step` is what to
        do with each batch in host memory."""
        arguments = (self._model, self._data, size, order, training)
        description = on_device.describe(self._model)
        if description is None:
            return HostPass(step, *arguments)
        if description != self._description:
            self._description, self._there = description, on_device.move(description, self._model.layers, self._data)
        if self._there is None:
            return HostPass(step, *arguments)
        return on_device.DevicePass(*self._there, *arguments)
