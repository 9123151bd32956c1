"""Losses with their gradients: Keras' names, formulas and means over weighted, masked entries."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from fastrnn.layers.activations import sigmoid, softmax

# Keras' backend.epsilon(): how near to 0 and 1 a probability may come before its logarithm is taken.
EPSILON = 1e-7

Values = tuple[np.ndarray, np.ndarray]


class Loss:
    """Base of all losses: per-entry values and their gradient, and the weighted mean of both.

    An "entry" is one position of the predictions without their last axis: a sample, or a time step of one.
    The mean is over all entries, whatever their weights, as Keras' "sum_over_batch_size".

    Attributes:
        name: Keras' name.
        link: the activation whose pre-activations ("logits") this loss can be computed from, or None.
        from_logits: whether predictions are logits to begin with.
    """

    name: ClassVar[str]
    link: ClassVar[str | None] = None
    from_logits = False

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        """The mean loss of predictions (batch, ..., C)."""
        return self.value_and_gradient(y_true, y_pred, sample_weight)[0]

    def value_and_gradient(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[float, np.ndarray]:
        """The mean loss, and its gradient with respect to `y_pred`.

        Args:
            y_true: targets of the shape of `y_pred`, a last axis of 1 may be missing; for sparse losses
                integers without the last axis, or with one of 1.
            y_pred: (batch, ..., C) of float32 or float64.
            sample_weight: None, or (batch,), or one for each entry.

        Raises:
            ValueError: shapes that do not go together, a class that is out of range.
        """
        p = np.asarray(y_pred)
        if p.dtype.kind != "f":
            p = p.astype(np.float64)
        targets = self.prepare(y_true, p.shape, p.dtype)
        weights = None if sample_weight is None else prepare_weights(sample_weight, p.shape, p.dtype)
        return self.reduce(self.entries(targets, p), weights)

    def prepare(self, y_true: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Targets as `entries` wants them, for predictions of `shape` (its first axis may differ) and `dtype`."""
        y = np.asarray(y_true)
        if y.dtype.kind not in "fiub":
            raise TypeError(f"{self.name}: y must hold numbers, got {y.dtype}")
        if y.ndim == len(shape) - 1 and shape[-1] == 1:
            y = y[..., np.newaxis]
        elif y.ndim == len(shape) + 1 and y.shape[-1] == 1:
            y = y[..., 0]
        if y.ndim != len(shape) or y.shape[1:] != tuple(shape[1:]):
            raise ValueError(f"{self.name}: y must have the shape of the predictions, {_shape(shape)}, got {y.shape}")
        return np.ascontiguousarray(y, dtype=dtype)

    def entries(self, y: np.ndarray, p: np.ndarray) -> Values:
        """Values of the loss, of the shape of `p` or without its last axis, and their gradients by `p`."""
        raise NotImplementedError

    def entries_from_logits(self, y: np.ndarray, z: np.ndarray, p: np.ndarray) -> Values:
        """As `entries`, from logits z, by z; `p` is their activation."""
        raise NotImplementedError

    @staticmethod
    def reduce(entries: Values, weights: np.ndarray | None) -> tuple[float, np.ndarray]:
        """The mean of values and the gradient of that mean; both arrays are overwritten."""
        values, gradient = entries
        scale = 1.0 / values.size
        if weights is None:
            gradient *= scale
        else:
            spread = weights[..., np.newaxis]
            values *= spread if values.ndim == gradient.ndim else weights
            gradient *= spread * scale
        return float(np.add.reduce(values, axis=None)) * scale, gradient


class MeanSquaredError(Loss):
    """The mean of (y - p)**2."""

    name = "mean_squared_error"

    def entries(self, y: np.ndarray, p: np.ndarray) -> Values:
        d = p - y
        return d * d, 2 * d


class MeanAbsoluteError(Loss):
    """The mean of |y - p|; the gradient at 0 is 0."""

    name = "mean_absolute_error"

    def entries(self, y: np.ndarray, p: np.ndarray) -> Values:
        d = p - y
        return np.abs(d), np.sign(d)


class _CrossEntropy(Loss):
    """A loss that is best computed from logits; from probabilities, these are kept EPSILON off 0 and 1."""

    def __init__(self, from_logits: bool = False) -> None:
        self.from_logits = bool(from_logits)

    def entries(self, y: np.ndarray, p: np.ndarray) -> Values:
        if self.from_logits:
            return self.entries_from_logits(y, p, sigmoid(p) if self.link == "sigmoid" else softmax(p))
        return self.entries_from_probabilities(y, p)

    def entries_from_probabilities(self, y: np.ndarray, p: np.ndarray) -> Values:
        raise NotImplementedError


class BinaryCrossentropy(_CrossEntropy):
    """-(y log p + (1 - y) log(1 - p)), p being a probability, or a logit with `from_logits`."""

    name = "binary_crossentropy"
    link = "sigmoid"

    def entries_from_logits(self, y: np.ndarray, z: np.ndarray, p: np.ndarray) -> Values:
        # max(z, 0) - z y + log(1 + exp(-|z|)): no exp of a large number, no log of a small one.
        values = np.abs(z)
        np.negative(values, out=values)
        np.exp(values, out=values)
        np.log1p(values, out=values)
        values += np.maximum(z, 0)
        values -= z * y
        return values, p - y

    def entries_from_probabilities(self, y: np.ndarray, p: np.ndarray) -> Values:
        q, inside = _clip(p)
        values = -(y * np.log(q) + (1 - y) * np.log(1 - q))
        return values, (q - y) / (q * (1 - q)) * inside


class CategoricalCrossentropy(_CrossEntropy):
    """-sum(y log p) over classes, y being one-hot or probabilities."""

    name = "categorical_crossentropy"
    link = "softmax"

    def entries_from_logits(self, y: np.ndarray, z: np.ndarray, p: np.ndarray) -> Values:
        return -(y * _log_softmax(z)).sum(axis=-1), p - y

    def entries_from_probabilities(self, y: np.ndarray, p: np.ndarray) -> Values:
        total = p.sum(axis=-1, keepdims=True)
        share = p / total
        q, inside = _clip(share)
        by_share = -y / q * inside
        gradient = (by_share - (by_share * share).sum(axis=-1, keepdims=True)) / total
        return -(y * np.log(q)).sum(axis=-1), gradient


class SparseCategoricalCrossentropy(_CrossEntropy):
    """-log p of the class y, an integer."""

    name = "sparse_categorical_crossentropy"
    link = "softmax"

    def prepare(self, y_true: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        y = np.asarray(y_true)
        if y.ndim == len(shape) and y.shape[-1] == 1:
            y = y[..., 0]
        if y.ndim != len(shape) - 1 or y.shape[1:] != tuple(shape[1:-1]):
            raise ValueError(
                f"{self.name}: y must have shape {_shape(shape[:-1])}, a class for each prediction, got {y.shape}"
            )
        if y.dtype.kind not in "iub":
            with np.errstate(invalid="ignore"):
                whole = y.astype(np.int64)
            if not np.array_equal(whole, y):
                raise ValueError(f"{self.name}: y must hold whole numbers, got {y.dtype} with fractions")
            y = whole
        if y.size and not (y.min() >= 0 and y.max() < shape[-1]):
            raise ValueError(
                f"{self.name}: y must hold classes 0 to {shape[-1] - 1}, the predictions having {shape[-1]}, "
                f"got {y.min()} to {y.max()}"
            )
        # Its own last axis of 1 saves take_along_axis a reshape in every step.
        return np.ascontiguousarray(y, dtype=np.int64)[..., np.newaxis]

    def entries_from_logits(self, y: np.ndarray, z: np.ndarray, p: np.ndarray) -> Values:
        return -np.take_along_axis(_log_softmax(z), y, -1)[..., 0], _minus_one_hot(p.copy(), y)

    def entries_from_probabilities(self, y: np.ndarray, p: np.ndarray) -> Values:
        # Keras takes log p for logits, which normalises p.
        q, inside = _clip(p)
        share = q / q.sum(axis=-1, keepdims=True)
        values = -np.log(np.take_along_axis(share, y, -1)[..., 0])
        return values, _minus_one_hot(share, y) / q * inside


def _clip(p: np.ndarray) -> Values:
    """p within [EPSILON, 1 - EPSILON], and where it was so already: elsewhere no gradient flows."""
    low, high = p.dtype.type(EPSILON), p.dtype.type(1.0 - EPSILON)
    return np.clip(p, low, high), (p >= low) & (p <= high)


def _log_softmax(z: np.ndarray) -> np.ndarray:
    shifted: np.ndarray = z - z.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def _minus_one_hot(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    np.put_along_axis(p, y, np.take_along_axis(p, y, -1) - 1, -1)
    return p


def prepare_weights(sample_weight: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Weights (batch,), (batch, 1) or one for each entry, as an array that broadcasts against the entries.

    Raises:
        ValueError: another shape, or a NaN.
    """
    w = np.asarray(sample_weight, dtype=dtype)
    rank = len(shape) - 1
    if w.ndim == rank + 1 and w.shape[-1] == 1:
        w = w[..., 0]
    if w.ndim == 1:
        w = w.reshape(-1, *(1,) * (rank - 1))
    if w.ndim != rank or any(mine not in (1, other) for mine, other in zip(w.shape[1:], shape[1:-1], strict=True)):
        raise ValueError(
            f"sample_weight must have shape (batch,) or {_shape(shape[:-1])}, got {np.shape(sample_weight)}"
        )
    if np.isnan(w).any():
        raise ValueError("sample_weight must hold numbers, got NaN")
    return w


def mask_weights(mask: np.ndarray, weights: np.ndarray | None, dtype: Any) -> np.ndarray:
    """The weights that make the mean over all entries one over the unmasked entries, times `weights`."""
    valid = np.count_nonzero(mask)
    by_mask: np.ndarray = np.multiply(mask, mask.size / valid if valid else 0.0, dtype=dtype)
    if weights is not None:
        by_mask = by_mask * weights
    return by_mask


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(["batch", *map(str, shape[1:])]) + ("," if len(shape) == 1 else "") + ")"


_BY_NAME: dict[str, type[Loss]] = {
    "mean_squared_error": MeanSquaredError,
    "mse": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mae": MeanAbsoluteError,
    "binary_crossentropy": BinaryCrossentropy,
    "bce": BinaryCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
}


def get(identifier: str | Loss | type[Loss]) -> Loss:
    """The loss of that name, in Keras' spelling or its class's; a Loss is taken as it is.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a Loss.
    """
    if isinstance(identifier, Loss):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Loss):
        return identifier()
    if not isinstance(identifier, str):
        raise TypeError(f"loss must be a name or a Loss, got {identifier!r}")
    by_class = {kind.__name__: kind for kind in _BY_NAME.values()}
    kind = _BY_NAME.get(identifier) or by_class.get(identifier)
    if kind is None:
        raise ValueError(f"loss must be one of {sorted(_BY_NAME)}, got {identifier!r}")
    return kind()
