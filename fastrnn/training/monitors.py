"""Callbacks that act on whether a monitored value improves: stopping, checkpoints, the learning rate."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from fastrnn.arguments import integer, real
from fastrnn.training.callbacks import Logs, MonitorCallback


class EarlyStopping(MonitorCallback):
    """Stops training once the monitored value has not improved for `patience` epochs.

    Args:
        monitor, mode, min_delta: what counts as an improvement.
        patience: epochs without one to wait.
        verbose: 1 says when it acts.
        baseline: waiting starts over only for a value that beats this as well.
        restore_best_weights: gives the model the best epoch's weights when training ends, stopped or not.
        start_from_epoch: epochs, counted from 0, before this one are not looked at.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta=min_delta)
        self.patience = integer(patience, "EarlyStopping: patience", 0)
        self.verbose = verbose
        self.baseline = baseline
        self.restore_best_weights = bool(restore_best_weights)
        self.start_from_epoch = integer(start_from_epoch, "EarlyStopping: start_from_epoch", 0)
        self._reset()

    def _reset(self) -> None:
        self.wait = 0
        self.stopped_epoch = 0
        self.best = None
        self.best_weights: list[np.ndarray] | None = None
        self.best_epoch = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        current = _monitored(self, logs)
        if current is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._remember(epoch)
        self.wait += 1
        if self.is_improvement(current, self.best):
            self.best = current
            self._remember(epoch)
            if self.baseline is None or self.is_improvement(current, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def _remember(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            self.best_weights = self.model.get_weights()

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch > 0 and self.verbose > 0:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            if self.verbose > 0:
                print(f"Restoring model weights from the end of the best epoch: {self.best_epoch + 1}.")
            self.model.set_weights(self.best_weights)


class ModelCheckpoint(MonitorCallback):
    """Saves the model's weights, and its optimizer's state, after every epoch or every so many batches.

    Args:
        filepath: formatted with `epoch` (from 1; and `batch`) and the logs, as in
            "{epoch:02d}-{val_loss:.2f}.weights.h5"; it ends so.
        save_best_only: only after an improvement of `monitor`.
        save_weights_only: nothing else can be saved; here because Keras asks for it.
        save_freq: "epoch", or a number of batches.
        initial_value_threshold: the value of `monitor` to beat at first.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = True,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(monitor, mode, initial_value_threshold)
        self.filepath = os.fspath(filepath)
        self.verbose = verbose
        self.save_best_only = bool(save_best_only)
        if not self.filepath.endswith(".weights.h5"):
            raise ValueError(f"ModelCheckpoint: filepath must end in .weights.h5, got {self.filepath!r}")
        if not save_weights_only:
            raise ValueError("ModelCheckpoint: save_weights_only must be True, got False; whole models are not saved")
        if save_freq != "epoch":
            if isinstance(save_freq, str):
                raise ValueError(f"ModelCheckpoint: save_freq must be 'epoch' or an integer, got {save_freq!r}")
            save_freq = integer(save_freq, "ModelCheckpoint: save_freq", 1)
        self.save_freq = save_freq
        self._batches = 0
        self._epoch = 0

    def listens(self, name: str) -> bool:
        mine = type(self).on_train_batch_end is ModelCheckpoint.on_train_batch_end
        if name == "on_train_batch_end" and mine and self.save_freq == "epoch":
            return False
        return super().listens(name)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if isinstance(self.save_freq, str):
            return
        self._batches += 1
        if self._batches >= self.save_freq:
            self._batches = 0
            self._save(self._epoch, logs or {}, batch + 1)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            self._save(epoch, logs or {}, None)

    def _save(self, epoch: int, logs: Logs, batch: int | None) -> None:
        fields: dict[str, Any] = {"epoch": epoch + 1, **logs}
        if batch is not None:
            fields["batch"] = batch
        try:
            path = self.filepath.format(**fields)
        except KeyError as error:
            raise KeyError(
                f"ModelCheckpoint: filepath {self.filepath!r} names {error}, which is not in the logs {list(fields)}"
            ) from error
        if not self._should_save(epoch, logs, path):
            return
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self.model.save_weights(path)
        self._say(epoch, f"finished saving model to {path}")

    def _should_save(self, epoch: int, logs: Logs, path: str) -> bool:
        if not self.save_best_only:
            self._say(epoch, f"saving model to {path}")
            return True
        current = logs.get(self.monitor)
        if current is None:
            warnings.warn(f"Can save best model only with {self.monitor} available.", stacklevel=2)
            return True
        before = "None" if self.best is None else f"{self.best:.5f}"
        if not self.is_improvement(current, self.best):
            self._say(epoch, f"{self.monitor} did not improve from {before}")
            return False
        self._say(epoch, f"{self.monitor} improved from {before} to {current:.5f}, saving model to {path}")
        self.best = current
        return True

    def _say(self, epoch: int, message: str) -> None:
        if self.verbose > 0:
            print(f"\nEpoch {epoch + 1}: {message}")


class ReduceLROnPlateau(MonitorCallback):
    """Multiplies the learning rate by `factor` once the monitored value has not improved for `patience` epochs.

    Args:
        monitor, mode, min_delta: what counts as an improvement.
        factor: in (0, 1).
        patience: epochs without improvement to wait.
        verbose: 1 says when it acts.
        cooldown: epochs after a reduction during which nothing is counted.
        min_lr: the learning rate never goes below.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta=min_delta)
        self.factor = real(factor, "ReduceLROnPlateau: factor", 0.0, 1.0)
        if self.factor == 1.0:
            raise ValueError("ReduceLROnPlateau: factor must be below 1, got 1.0")
        self.patience = integer(patience, "ReduceLROnPlateau: patience", 0)
        self.verbose = verbose
        self.cooldown = integer(cooldown, "ReduceLROnPlateau: cooldown", 0)
        self.min_lr = real(min_lr, "ReduceLROnPlateau: min_lr", 0.0)
        self.cooldown_counter = 0
        self.wait = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.best = None
        self.cooldown_counter = 0
        self.wait = 0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = {} if logs is None else logs
        logs["learning_rate"] = self.model.optimizer.learning_rate
        current = _monitored(self, logs)
        if current is None:
            return
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.is_improvement(current, self.best):
            self.best = current
            self.wait = 0
        elif self.cooldown_counter == 0:
            self.wait += 1
            if self.wait >= self.patience and self._reduce(epoch):
                self.cooldown_counter = self.cooldown
                self.wait = 0

    def _reduce(self, epoch: int) -> bool:
        optimizer = self.model.optimizer
        # min_lr as the float32 that the learning rate is, or a rate that sits at min_lr would seem above it for ever.
        if optimizer.learning_rate <= float(np.float32(self.min_lr)):
            return False
        optimizer.learning_rate = max(optimizer.learning_rate * self.factor, self.min_lr)
        if self.verbose > 0:
            print(f"\nEpoch {epoch + 1}: ReduceLROnPlateau reducing learning rate to {optimizer.learning_rate}.")
        return True


def _monitored(callback: MonitorCallback, logs: Logs | None) -> float | None:
    """The monitored value; a warning and None where the logs have none of that name."""
    logs = logs or {}
    if callback.monitor not in logs:
        warnings.warn(
            f"{type(callback).__name__} monitors `{callback.monitor}`, which is not available; "
            f"available are: {', '.join(logs)}",
            stacklevel=3,
        )
        return None
    return logs[callback.monitor]
