"""Callbacks: what is told of training as it goes on, and the plain ones among Keras'."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastrnn.arguments import real

Logs = dict[str, float]
Hook = Callable[..., None]


class Callback:
    """Base of all callbacks; override what you need, nothing else is called.

    Attributes:
        model: the model in training.
        params: {"verbose", "epochs", "steps"} of the call.
    """

    model: Any = None

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}

    def set_model(self, model: Any) -> None:
        """Called with the model before anything else."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called with the parameters of the call before anything else."""
        self.params = params

    def listens(self, name: str) -> bool:
        """Whether the hook of that name does anything: where it is overridden. Steps go on faster between hooks."""
        return getattr(getattr(self, name), "__func__", None) is not getattr(Callback, name)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """At the start of fit."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """At the end of fit, with the last epoch's logs."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before epoch `epoch`, counted from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After an epoch and its validation; what is added to `logs` reaches the callbacks that follow."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before batch `batch` of an epoch, counted from 0."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch, with the means of the epoch so far."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """At the start of an evaluation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """At the end of an evaluation, with its logs."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of an evaluation, with the means so far."""


class CallbackList:
    """Callbacks of one call, the user's and then its `own`: `hooks(name)` are the methods of that name that have
    anything to do."""

    def __init__(
        self, callbacks: Callback | Iterable[Callback] | None, model: Any, params: dict[str, Any], *own: Callback
    ) -> None:
        self.callbacks = [*([callbacks] if isinstance(callbacks, Callback) else callbacks or ()), *own]
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must hold Callback objects, got {callback!r}")
            callback.set_model(model)
            callback.set_params(params)

    def hooks(self, name: str) -> list[Hook]:
        """What has to be called for `name`; empty costs nothing in an inner loop."""
        return [getattr(callback, name) for callback in self.callbacks if callback.listens(name)]

    def call(self, name: str, *args: Any) -> None:
        """Calls the hooks of that name, in order."""
        for hook in self.hooks(name):
            hook(*args)


class History(Callback):
    """What fit returns: `history`, a dict of lists, one value for each epoch; `epoch`, their numbers; `params`."""

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.epoch = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(value)


class LambdaCallback(Callback):
    """Calls the given functions: on_train_begin=..., on_epoch_end=lambda epoch, logs: ..., and so on."""

    def __init__(self, **functions: Hook) -> None:
        super().__init__()
        for name, function in functions.items():
            if not (name.startswith("on_") and hasattr(Callback, name)):
                raise TypeError(f"LambdaCallback: {name!r} is no method of Callback")
            if function is not None:
                if not callable(function):
                    raise TypeError(f"LambdaCallback: {name} must be callable, got {function!r}")
                setattr(self, name, function)


class TerminateOnNaN(Callback):
    """Stops training at a loss that is NaN or infinite; with `raise_error`, by a RuntimeError."""

    def __init__(self, raise_error: bool = False) -> None:
        super().__init__()
        self.raise_error = bool(raise_error)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(f"batch {batch}: the loss is {loss}")
        print(f"Batch {batch}: Invalid loss, terminating training")
        self.model.stop_training = True


class LearningRateScheduler(Callback):
    """Sets the learning rate before each epoch to `schedule(epoch, learning_rate)`, or `schedule(epoch)`.

    Raises:
        ValueError: during training, where `schedule` gives no float.
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        super().__init__()
        if not callable(schedule):
            raise TypeError(f"LearningRateScheduler: schedule must be callable, got {schedule!r}")
        self.schedule = schedule
        self.verbose = verbose

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        try:
            rate = self.schedule(epoch, self.model.optimizer.learning_rate)
        except TypeError:
            rate = self.schedule(epoch)
        if not isinstance(rate, float | np.floating):
            raise ValueError(f"LearningRateScheduler: schedule must give a float, got {rate!r}")
        self.model.optimizer.learning_rate = rate
        if self.verbose > 0:
            print(f"\nEpoch {epoch + 1}: LearningRateScheduler setting learning rate to {rate}.")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self.model.optimizer.learning_rate


class CSVLogger(Callback):
    """Writes each epoch's logs as a line of a CSV file, its columns "epoch" and then the logs' names in order.

    Args:
        filename: where to.
        separator: one character.
        append: goes on with the file that is there, without a second header.
    """

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False) -> None:
        super().__init__()
        if not isinstance(separator, str) or len(separator) != 1:
            raise ValueError(f"CSVLogger: separator must be one character, got {separator!r}")
        self.filename = os.fspath(filename)
        self.separator = separator
        self.append = bool(append)
        self._file: IO[str] | None = None
        self._writer: csv.DictWriter[str] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.on_train_end()
        path = Path(self.filename)
        self._needs_header = not (self.append and path.exists() and path.stat().st_size > 0)
        # Closed in on_train_end: the file stays open for as long as training does.
        self._file = path.open("a" if self.append else "w", newline="", encoding="utf-8")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        if self._file is None:
            return
        if self._writer is None:
            keys = sorted(logs)
            if not any(key.startswith("val_") for key in keys):
                # Validation may start in a later epoch; its columns have to be there from the first line on.
                keys += [f"val_{key}" for key in keys]
            self._writer = csv.DictWriter(
                self._file, ["epoch", *keys], restval="NA", extrasaction="ignore", delimiter=self.separator
            )
            if self._needs_header:
                self._writer.writeheader()
        self._writer.writerow({"epoch": epoch, **logs})
        self._file.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._writer = None


class MonitorCallback(Callback):
    """Base of callbacks that follow one value of the logs and ask whether it got better.

    Args:
        monitor: its name in the logs.
        mode: "min", "max", or "auto": by what is known of the metric.
        baseline: the best value to begin with, or None.
        min_delta: how much better counts.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        mode: str = "auto",
        baseline: float | None = None,
        min_delta: float = 0.0,
    ) -> None:
        super().__init__()
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"{type(self).__name__}: mode must be 'auto', 'min' or 'max', got {mode!r}")
        self.monitor = monitor
        self.mode = mode
        self.best = baseline
        self.min_delta = abs(real(min_delta, f"{type(self).__name__}: min_delta"))

    def is_improvement(self, value: float, reference: float | None) -> bool:
        """Whether `value` is better than `reference` by more than min_delta; anything is better than None."""
        if reference is None:
            return True
        if self._direction() == "min":
            return bool(value + self.min_delta < reference)
        return bool(value - self.min_delta > reference)

    def _direction(self) -> str:
        if self.mode != "auto":
            return self.mode
        name = self.monitor.removeprefix("val_")
        if name == "loss":
            return "min"
        for metric in self.model.metrics:
            if metric.name == name:
                return str(metric.direction)
        raise ValueError(
            f"{type(self).__name__}: cannot tell whether monitor={self.monitor!r} is to fall or to rise; "
            f"pass mode='min' or mode='max'"
        )
