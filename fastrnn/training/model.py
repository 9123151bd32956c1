"""Sequential: a chain of layers that trains, with Keras' methods and numbers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fastrnn.arguments import integer
from fastrnn.layers.base import Layer, Shape
from fastrnn.layers.chain import Chain
from fastrnn.layers.embedding import Embedding
from fastrnn.random import generator
from fastrnn.training import losses, metrics, optimizers
from fastrnn.training.callbacks import Callback, CallbackList, History
from fastrnn.training.data import Data, check_lengths, class_weights, numeric, split
from fastrnn.training.feed import Feed
from fastrnn.training.head import ModelEnd
from fastrnn.training.passes import Pass
from fastrnn.training.progress import Progress
from fastrnn.training.summary import summary_text

Logs = dict[str, float]


class Sequential(Chain):
    """Layers run one after another, with compile, fit, evaluate and predict as in Keras.

    Where the last layer is a Dense with sigmoid or softmax and the loss the cross-entropy that goes with it,
    loss and gradient are computed from the pre-activations, exact in both tails.

    Attributes:
        optimizer, loss: as compiled, or None.
        metrics: Metric objects, once data has been seen.
        history: the History of the last fit.
        stop_training: set by a callback, ends fit after the batch at hand.
    """

    def __init__(self, layers: Iterable[Layer] = (), *, name: str | None = None) -> None:
        self.optimizer: optimizers.Optimizer | None = None
        self.loss: losses.Loss | None = None
        self.metrics: list[metrics.Metric] = []
        self.history: History | None = None
        self.stop_training = False
        self._metric_names: list[str] = []
        self._compiled = False
        self._body: list[Layer] = []
        self._end: ModelEnd
        super().__init__(layers, name=name)

    # -- before training --------------------------------------------------------------------------

    def compile(
        self,
        optimizer: str | optimizers.Optimizer = "rmsprop",
        loss: str | losses.Loss | None = None,
        metrics: Sequence[str] | None = None,
    ) -> None:
        """Sets how to train.

        Args:
            optimizer: "sgd", "rmsprop", "adam", or an Optimizer.
            loss: a name, e.g. "binary_crossentropy", or a Loss; needed for anything but predict.
            metrics: names: "accuracy", "mse", "mae", ...

        Raises:
            ValueError, TypeError: something unknown; then nothing is changed.
        """
        chosen = optimizers.get(optimizer)
        chosen_loss = None if loss is None else losses.get(loss)
        names = _check_metrics(metrics)
        if self.built:
            chosen.build(self.flat_weights, [w.shape for w in self.weights])
        self.optimizer, self.loss, self._metric_names = chosen, chosen_loss, names
        self.metrics = []
        self._compiled = True

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        if self.optimizer is not None:
            self.optimizer.build(self.flat_weights, [w.shape for w in self.weights])

    def summary(self) -> None:
        """Prints layers, output shapes and numbers of parameters."""
        print(summary_text(self))

    def count_params(self) -> int:
        """The number of scalars in the weights. ValueError before the model is built."""
        if not self.built:
            raise ValueError(f"{self.name}.count_params: the model is not built; call it on data, or build(), first")
        return super().count_params()

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """Writes the weights, and the optimizer's state, to a .weights.h5 file that Keras reads."""
        from fastrnn.io import weights

        weights.save_weights(self, path)

    def load_weights(self, path: str | os.PathLike[str]) -> None:
        """Reads a .weights.h5 file of this library or of Keras into the model, which must be built."""
        from fastrnn.io import weights

        weights.load_weights(self, path)

    # -- training ---------------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any,
        batch_size: int | None = 32,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Callback | Iterable[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: tuple[Any, ...] | None = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
    ) -> History:
        """Trains on (x, y), arrays with one sample for each entry of their first axis.

        Args:
            batch_size: samples a step; the last step of an epoch takes what is left. None is 32.
            epochs: number of the epoch to stop before, counted from `initial_epoch`.
            verbose: 0 is silent, 1 or "auto" a progress bar (a line an epoch where there is no terminal), 2 a line.
            validation_split: share of the samples, the last ones, to evaluate after each epoch instead.
            validation_data: (x, y) or (x, y, sample_weight) to evaluate after each epoch.
            shuffle: takes the samples in a new random order each epoch.
            class_weight: {class: weight}; sample_weight: (samples,), or one for each step of sequence outputs.
                One of the two at most.

        Returns:
            History: `.history` maps names to a value for each epoch; "loss" and the metrics are means over the
            epoch's samples, taken while the weights changed.

        Raises:
            ValueError, TypeError: arguments that do not go together, or not with the model.
        """
        self._require_loss("fit")
        size = integer(32 if batch_size is None else batch_size, "batch_size", 1)
        epochs = integer(epochs, "epochs", 0)
        initial_epoch = integer(initial_epoch, "initial_epoch", 0)
        if shuffle not in (True, False):
            raise TypeError(f"shuffle must be True or False, got {shuffle!r}")
        x, y, weights = self._arrays(x, y, sample_weight)
        if validation_data is None and validation_split:
            (x, y, weights), last = split(validation_split, x, y, weights)
            validation_data = tuple(last)
        data = self._prepare(x, y, self._weights(y, weights, class_weight))
        feed = Feed(self, data)
        held_out = None
        if validation_data is not None:
            if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
                raise TypeError("validation_data must be a tuple (x, y) or (x, y, sample_weight)")
            held_out = Feed(self, self._prepare(*self._arrays(*validation_data)))

        steps = -(-len(data.x) // size)
        history = History()
        hooks = CallbackList(callbacks, self, {"verbose": verbose, "epochs": epochs, "steps": steps}, history)
        self.history = history
        rng = generator() if shuffle else None
        progress = Progress(verbose, steps)
        self.stop_training = False
        logs: Logs = {}
        hooks.call("on_train_begin")
        try:
            for epoch in range(initial_epoch, epochs):
                hooks.call("on_epoch_begin", epoch)
                progress.begin(f"Epoch {epoch + 1}/{epochs}" if epochs > 1 else None)
                order = None if rng is None else rng.permutation(len(data.x))
                logs, done = self._epoch(feed, size, order, hooks, progress)
                if held_out is not None:
                    val_logs = self._evaluate(held_out, size, hooks, None)
                    logs.update({f"val_{name}": value for name, value in val_logs.items()})
                # What callbacks add to the logs, the learning rate say, is shown and kept as well.
                hooks.call("on_epoch_end", epoch, logs)
                progress.end(done, logs)
                if self.stop_training:
                    break
        finally:
            progress.close()
        hooks.call("on_train_end", logs)
        return history

    def _epoch(
        self, feed: Feed, size: int, order: np.ndarray | None, hooks: CallbackList, progress: Progress
    ) -> tuple[Logs, int]:
        """One pass of training; gives the means and the number of steps taken."""
        steps = feed.open(size, self._train_step, order, training=True)
        return self._take(steps, "train", hooks, progress), steps.done

    def _take(self, steps: Pass, kind: str, hooks: CallbackList, progress: Progress | None) -> Logs:
        """Goes through a pass, "train" or "test", until it ends, or training is to stop; gives the means."""
        begin, end = hooks.hooks(f"on_{kind}_batch_begin"), hooks.hooks(f"on_{kind}_batch_end")
        self._reset_metrics()
        with steps:
            while steps.done < steps.steps:
                steps.call(begin, steps.done, {})
                steps.advance(1 if begin or end else steps.steps - steps.done)
                if end:
                    steps.call(end, steps.done - 1, self._logs(steps.loss()))
                if progress is not None:
                    progress.step(steps.done, lambda: self._logs(steps.loss()))
                if steps.training and self.stop_training:
                    break
            return self._logs(steps.loss())

    def _train_step(self, batch: Data) -> float:
        self.ensure_layout()  # a callback may have used another model that shares layers
        x, mask = self.run(self._body, batch.x, None, True)
        loss, gradient = self._end(x, mask, batch, self.metrics, True)
        assert gradient is not None
        assert self.optimizer is not None
        self.run_backward(self._body, gradient)
        self.optimizer.apply(self.flat_weights, self.flat_grads)
        return loss

    # -- evaluation and prediction ----------------------------------------------------------------

    def evaluate(
        self,
        x: Any,
        y: Any,
        batch_size: int | None = 32,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        callbacks: Callback | Iterable[Callback] | None = None,
        return_dict: bool = False,
    ) -> float | list[float] | Logs:
        """The mean loss, or [loss, metrics...], or a dict of them with `return_dict`; arguments as for fit."""
        self._require_loss("evaluate")
        size = integer(32 if batch_size is None else batch_size, "batch_size", 1)
        data = self._prepare(*self._arrays(x, y, sample_weight))
        steps = -(-len(data.x) // size)
        hooks = CallbackList(callbacks, self, {"verbose": verbose, "epochs": 1, "steps": steps})
        progress = Progress(verbose, steps)
        progress.begin()
        try:
            logs = self._evaluate(Feed(self, data), size, hooks, progress)
            progress.end(steps, logs)
        finally:
            progress.close()
        return logs if return_dict else self._in_order(logs)

    def _evaluate(self, feed: Feed, size: int, hooks: CallbackList, progress: Progress | None) -> Logs:
        hooks.call("on_test_begin")
        logs = self._take(feed.open(size, self._test_step), "test", hooks, progress)
        hooks.call("on_test_end", logs)
        return logs

    def _test_step(self, batch: Data) -> float:
        x, mask = self.run(self._body, batch.x, None, False)
        return self._end(x, mask, batch, self.metrics, False)[0]

    def predict(self, x: Any, batch_size: int | None = 32, verbose: int | str = "auto") -> np.ndarray:
        """The outputs for all samples of x, computed `batch_size` at a time."""
        size = integer(32 if batch_size is None else batch_size, "batch_size", 1)
        x = self._inputs(x)
        n = len(x)
        progress = Progress(verbose, -(-n // size))
        progress.begin()
        first = self(x[:size])
        out = np.empty((n, *first.shape[1:]), first.dtype)
        out[:size] = first
        try:
            progress.step(1, dict)
            for i, start in enumerate(range(size, n, size)):
                out[start : start + size] = self(x[start : start + size])
                progress.step(i + 2, dict)
            progress.end(progress.target, {})
        finally:
            progress.close()
        return out

    def predict_on_batch(self, x: Any) -> np.ndarray:
        """The outputs for x, computed at once."""
        return self(self._inputs(x))

    def train_on_batch(
        self,
        x: Any,
        y: Any,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> float | list[float] | Logs:
        """One step on all of (x, y); gives the loss, and the metrics of this batch, as before the step."""
        self._require_loss("train_on_batch")
        x, y, weights = self._arrays(x, y, sample_weight)
        data = self._prepare(x, y, self._weights(y, weights, class_weight))
        self._reset_metrics()
        logs = self._logs(self._train_step(data))
        return logs if return_dict else self._in_order(logs)

    def test_on_batch(
        self, x: Any, y: Any, sample_weight: Any = None, return_dict: bool = False
    ) -> float | list[float] | Logs:
        """The loss, and the metrics, of all of (x, y) at once."""
        self._require_loss("test_on_batch")
        data = self._prepare(*self._arrays(x, y, sample_weight))
        self._reset_metrics()
        logs = self._logs(self._test_step(data))
        return logs if return_dict else self._in_order(logs)

    # -- shared -----------------------------------------------------------------------------------

    @property
    def metrics_names(self) -> list[str]:
        """What evaluate gives, by name and in its order."""
        return ["loss", *self._metric_names]

    def _require_loss(self, method: str) -> None:
        if not self._compiled:
            raise ValueError(f"{self.name}.{method}: call compile() first")
        if self.loss is None:
            raise ValueError(f"{self.name}.{method}: the model was compiled without a loss; compile it with one")

    def _inputs(self, x: Any) -> np.ndarray:
        """Inputs in the model's dtype, converted once and not batch by batch; builds the model."""
        array = numeric(x, "x")
        if not self.built:
            self.build(array.shape)
        if array.dtype.kind == "f" and not isinstance(self.layers[0], Embedding):
            array = array.astype(self.dtype, copy=False)
        return array

    @staticmethod
    def _arrays(x: Any, y: Any, sample_weight: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        x, y = numeric(x, "x"), numeric(y, "y")
        weights = None if sample_weight is None else numeric(sample_weight, "sample_weight")
        check_lengths(x, y=y, sample_weight=weights)
        return x, y, weights

    @staticmethod
    def _weights(
        y: np.ndarray, weights: np.ndarray | None, class_weight: Mapping[int, float] | None
    ) -> np.ndarray | None:
        """The weights of samples to train on. Those of classes are not for validation, as in Keras."""
        if class_weight is None:
            return weights
        if weights is not None:
            raise ValueError("class_weight and sample_weight cannot be given together")
        return class_weights(y, class_weight)

    def _prepare(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> Data:
        """Data as a step wants it, and the model ready for steps on such data."""
        assert self.loss is not None
        x = self._inputs(x)
        self.ensure_layout()
        shape = self.compute_output_shape((None, *x.shape[1:]))
        known = (len(x), *(0 if axis is None else axis for axis in shape[1:]))
        targets = self.loss.prepare(y, known, self.dtype)
        self._end = ModelEnd(self.loss, self.layers[-1])
        self._body = self.layers if self._end.dense is None else self.layers[:-1]
        if not self.metrics:
            sparse = isinstance(self.loss, losses.SparseCategoricalCrossentropy)
            self.metrics = metrics.resolve(self._metric_names, sparse, known[-1])
        return Data(x, targets, None if weights is None else losses.prepare_weights(weights, known, self.dtype))

    def _reset_metrics(self) -> None:
        for metric in self.metrics:
            metric.reset()

    def _logs(self, loss: float) -> Logs:
        # By name, as Keras shows and stores them.
        logs = {metric.name: metric.result() for metric in self.metrics}
        logs["loss"] = loss
        return dict(sorted(logs.items()))

    def _in_order(self, logs: Logs) -> float | list[float]:
        return [logs[name] for name in self.metrics_names] if self.metrics else logs["loss"]


def _check_metrics(names: Sequence[str] | None) -> list[str]:
    # The parameter of compile is called as the module is.
    return metrics.check(names)
