"""The end of a training step: from the output of the layers to the loss, and back to its gradient."""

from __future__ import annotations

import numpy as np

from fastrnn.backends import get_backend
from fastrnn.backends.contract import Head
from fastrnn.layers.dense import Dense
from fastrnn.training import losses, metrics
from fastrnn.training.data import Data

# The cross-entropies that backends know, and the accuracy that they count along the way.
_FUSED: dict[type[losses.Loss], str] = {
    losses.BinaryCrossentropy: "binary_accuracy",
    losses.CategoricalCrossentropy: "categorical_accuracy",
    losses.SparseCategoricalCrossentropy: "sparse_categorical_accuracy",
}


class ModelEnd:
    """A loss, together with the last Dense where that has the activation which the loss belongs to.

    Then the loss is computed from the pre-activations, in one call of a backend that has one for it, and else by the
    Dense and the loss themselves.

    Attributes:
        dense: that layer, or None.
    """

    def __init__(self, loss: losses.Loss, last: object) -> None:
        self.loss = loss
        self.dense = last if isinstance(last, Dense) and last.activation == loss.link else None
        # of a subclass nobody knows what it does
        self._accuracy = _FUSED.get(type(loss)) if type(self.dense) is Dense else None

    def __call__(
        self,
        x: np.ndarray,
        mask: np.ndarray | None,
        batch: Data,
        measures: list[metrics.Metric],
        training: bool,
    ) -> tuple[float, np.ndarray | None]:
        """The loss of a batch and, in training, the gradient of x; leaves that of the Dense in its `grads`.

        Args:
            x: the output of all layers, or of those before the Dense; mask: what goes with it, or None.
            measures: metrics to update.
        """
        if mask is not None and mask.shape != x.shape[:-1]:
            mask = None
        weights = batch.weights if mask is None else losses.mask_weights(mask, batch.weights, x.dtype)
        end = self._fused(x, batch.y, weights, training)
        if end is not None and mask is None:
            self.measure(end.correct, end.p, batch.y, x.size // x.shape[-1], measures)
            return end.loss, end.dx
        if end is None:
            end = self._plain(x, batch.y, weights, training)
        for metric in measures:
            metric.update(batch.y, end.p, mask)
        return end.loss, end.dx

    def counts(self, measures: list[metrics.Metric]) -> bool:
        """Whether these metrics need nothing but what a backend counts along the way."""
        return all(metric.kind == self._accuracy for metric in measures)

    def measure(self, correct: int, p: np.ndarray, y: np.ndarray, entries: int, measures: list[metrics.Metric]) -> None:
        """Updates metrics from what a backend made of so many entries without a mask: how many were right, predictions
        and targets. Where it counts all that they need, they may be of many batches, p and y those of any."""
        counted = self._accuracy
        for metric in measures:
            if metric.kind == counted:
                metric.add(correct, entries * y.shape[-1] if counted == "binary_accuracy" else entries)
            else:
                metric.update(y, p, None)

    def _fused(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, training: bool) -> Head | None:
        dense, run = self.dense, getattr(get_backend(), "dense_crossentropy", None)
        if run is None or dense is None or self._accuracy is None or not dense.built:
            return None
        W, *b = dense.weights
        entries, columns = x.shape[:-1], W.shape[1]
        if self._accuracy == "sparse_categorical_accuracy":
            columns = 1
        if (
            x.ndim < 2
            or x.dtype != W.dtype
            or x.shape[-1] != len(W)
            or y.shape != (*entries, columns)
            or not all(array.flags.c_contiguous for array in (x, y, *dense.weights, *dense.grads))
            or not (weights is None or (weights.shape == entries and weights.flags.c_contiguous))
        ):
            return None
        dW, *db = dense.grads if training else (None,)
        head: Head | None = run(self.loss.name, x, W, b[0] if b else None, y, weights, dW, db[0] if db else None)
        return head

    def _plain(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, training: bool) -> Head:
        dense, loss = self.dense, self.loss
        if dense is None:
            value, gradient = loss.reduce(loss.entries(y, x), weights)
            return Head(value, 0, x, gradient)
        z = dense.linear(x, training)
        p = dense.activate(z)
        value, gradient = loss.reduce(loss.entries_from_logits(y, z, p), weights)
        return Head(value, 0, p, dense.backward_linear(gradient) if training else None)
