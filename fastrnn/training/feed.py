"""Data of a fit or an evaluation, and where passes over it run."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn.backends import get_backend
from fastrnn.training import on_device
from fastrnn.training.data import Data
from fastrnn.training.description import Description, describe
from fastrnn.training.fused_pass import FusedPass
from fastrnn.training.passes import HostPass, Pass, Step


class Feed:
    """Data that a model runs on more than once. Where the model can train on a device, they go there once, at the first
    pass, and again only if the model was made another one since."""

    def __init__(self, model: Any, data: Data) -> None:
        self._model, self._data = model, data
        self._description: Description | None = None
        self._there: tuple[Any, Any] | None = None
        self._run: Any = None

    def open(self, size: int, step: Step, order: np.ndarray | None = None, *, training: bool = False) -> Pass:
        """A pass over the data, in the order of samples if there is one, `size` of them in a batch; `step` is what to
        do with each batch in host memory."""
        arguments = (self._model, self._data, size, order, training)
        description = describe(self._model)
        if description is None:
            return HostPass(step, *arguments)
        if not hasattr(description.backend, "training"):
            return self._fused(description, step, arguments)
        if description != self._description:
            self._description, self._there = description, on_device.move(description, self._model.layers, self._data)
        if self._there is None:
            return HostPass(step, *arguments)
        return on_device.DevicePass(*self._there, *arguments)

    def _fused(self, description: Description, step: Step, arguments: tuple[Any, ...]) -> HostPass:
        """A pass whose steps the model's backend takes by itself, if it does for such a model and such data, and what
        names no backend runs there, too."""
        if description != self._description:
            self._description, self._run = description, description.backend.model_steps(*description[1:])
        model, data, size = arguments[:3]
        if (
            self._run is None
            or description.backend is not get_backend()
            or model.loss is not model._end.loss
            or not self._run.takes(*data, size)
        ):
            return HostPass(step, *arguments)
        return FusedPass(self._run, description, step, *arguments)
