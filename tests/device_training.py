"""Models that train where their weights lie, against the same ones in host memory: what the tests in the simulator and
those on a GPU share. Sizes are small enough for the simulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import fastrnn as fr
from fastrnn.layers.base import Layer
from fastrnn.training import losses, optimizers

WORDS, T = 9, 3


class Setup(NamedTuple):
    """A model to make, and how to compile and fit it. The layers' arguments are for those that take a backend."""

    layers: Callable[..., Sequence[Layer]]
    optimizer: Callable[[], optimizers.Optimizer]
    loss: Any = "binary_crossentropy"
    metrics: Sequence[str] = ("accuracy",)
    fit: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it


def sentiment(*recurrent: Callable[..., Layer]) -> Callable[..., list[Layer]]:
    """The layers of one of the chapter's models, but smaller."""

    def layers(dtype: str, backend: str) -> list[Layer]:
        inner = [make(dtype=dtype, backend=backend) for make in recurrent]
        return [fr.Embedding(WORDS, 2, dtype=dtype), *inner, fr.Dense(1, "sigmoid", dtype=dtype)]

    return layers


def lstm(**options: Any) -> Callable[..., Layer]:
    return lambda **more: fr.LSTM(2, **options, **more)


def gru(**options: Any) -> Callable[..., Layer]:
    return lambda **more: fr.GRU(2, **options, **more)


CHAPTER = {
    "lstm": Setup(sentiment(lstm()), lambda: fr.RMSprop(1e-2, centered=True, momentum=0.5)),
    "dropout": Setup(
        sentiment(lstm(dropout=0.3, recurrent_dropout=0.3)), lambda: fr.Adam(1e-2, amsgrad=True, clipnorm=0.01)
    ),
    "stacked": Setup(
        sentiment(lstm(dropout=0.3, return_sequences=True), lstm(dropout=0.3)),
        lambda: fr.SGD(0.1, momentum=0.9, nesterov=True, global_clipnorm=0.05),
    ),
    "gru": Setup(sentiment(gru()), lambda: fr.RMSprop(1e-2, clipvalue=0.01)),
}


def _tagger(dtype: str, backend: str) -> list[Layer]:
    """A class for each word, padding passed over, with every option of the recurrent layers."""
    options: dict[str, Any] = {"return_sequences": True, "dtype": dtype, "backend": backend}
    return [
        fr.Embedding(WORDS, 2, mask_zero=True, dtype=dtype),
        fr.GRU(2, reset_after=False, dropout=0.2, recurrent_dropout=0.2, zero_output_for_mask=True, **options),
        fr.Dropout(0.25, dtype=dtype),
        fr.LSTM(2, use_bias=False, go_backwards=True, **options),
        fr.Dense(3, "softmax", dtype=dtype),
    ]


def _numbers(dtype: str, backend: str) -> list[Layer]:
    """Numbers for inputs, a batch of which one layer after another turns into one vector."""
    return [
        fr.GRU(2, use_bias=False, dtype=dtype, backend=backend, return_sequences=True),
        fr.Dense(3, "tanh", use_bias=False, dtype=dtype),
        fr.LSTM(3, recurrent_dropout=0.2, dtype=dtype, backend=backend),
        fr.Dense(2, "relu", dtype=dtype),
        fr.Dense(2, dtype=dtype),
    ]


OTHERS = {
    "tagger": Setup(_tagger, lambda: fr.Adam(1e-2), "sparse_categorical_crossentropy"),
    "numbers": Setup(_numbers, lambda: fr.SGD(0.1), "mse", ("mae",)),
}


def make(setup: Setup, dtype: str, backend: str) -> fr.Sequential:
    """The model, the same for each backend to the last weight; biases are not left at zero."""
    fr.set_seed(11)
    model = fr.Sequential(setup.layers(dtype=dtype, backend=backend))
    model.compile(setup.optimizer(), setup.loss, setup.metrics)
    return model


def words(seed: int = 1, samples: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.integers(1, WORDS, (samples, T)).astype(np.int32)
    return x, (x.sum(axis=1) > T * WORDS / 2).astype(np.float64)


def randomize(model: fr.Sequential, shape: tuple[int, ...]) -> None:
    model.build((None, *shape[1:]))
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.weights])


def assert_same(got: fr.Sequential, want: fr.Sequential, tolerance: float) -> None:
    """Weights, optimizer slots, steps taken and the history of the last fit."""
    for name, a, b in zip(want.weight_names, got.get_weights(), want.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=name)
    assert got.optimizer.iterations == want.optimizer.iterations
    for name, slot in want.optimizer.slots.items():
        np.testing.assert_allclose(got.optimizer.slots[name], slot, rtol=0, atol=tolerance, err_msg=name)
    assert list(got.history.history) == list(want.history.history)
    for name, values in want.history.history.items():
        np.testing.assert_allclose(got.history.history[name], values, rtol=0, atol=tolerance, err_msg=name)


def compare(setup: Setup, x: np.ndarray, y: np.ndarray, dtype: str, tolerance: float, **fit: Any) -> fr.Sequential:
    """Trains on both backends, in batches of which the last one is smaller; gives the one that was on the device."""
    models = [make(setup, dtype, backend) for backend in ("cuda", "reference")]
    options = {"batch_size": 4, "epochs": 2, "verbose": 0, "validation_data": (x[:5], y[:5]), **fit}
    for model, backend in zip(models, ("cuda", "reference"), strict=True):
        randomize(model, x.shape)
        with fr.use_backend(backend):
            fr.set_seed(12)
            model.fit(x, y, **options)
    assert_same(*models, tolerance)
    return models[0]


def check_chapter(name: str, dtype: str, tolerance: float) -> None:
    compare(CHAPTER[name], *words(), dtype, tolerance)


def check_tagger(dtype: str, tolerance: float) -> None:
    """Padding anywhere, a sample of nothing else, and a weight for each word."""
    x, _ = words(2, samples=6)
    rng = np.random.default_rng(3)
    x[rng.random(x.shape) < 0.4] = 0
    x[3] = 0
    y = rng.integers(0, 3, x.shape)
    compare(OTHERS["tagger"], x, y, dtype, tolerance, sample_weight=rng.random(x.shape), epochs=1)


def check_numbers(dtype: str, tolerance: float) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(7, 3, 2)), rng.normal(size=(7, 2))
    compare(OTHERS["numbers"], x, y, dtype, tolerance, sample_weight=rng.random(7), shuffle=False)


# loss, activation of the last layer, its units, metrics
ENDS: list[tuple[Any, str, int, tuple[str, ...]]] = [
    ("mae", "linear", 2, ("mse", "binary_accuracy")),
    ("mse", "softmax", 3, ("categorical_accuracy",)),
    ("binary_crossentropy", "sigmoid", 2, ("accuracy", "mae")),
    ("binary_crossentropy", "tanh", 1, ("accuracy",)),
    (losses.BinaryCrossentropy(from_logits=True), "linear", 2, ("mse",)),
    ("categorical_crossentropy", "softmax", 3, ("accuracy",)),
    ("categorical_crossentropy", "sigmoid", 3, ()),
    (losses.CategoricalCrossentropy(from_logits=True), "relu", 3, ("accuracy",)),
    ("sparse_categorical_crossentropy", "softmax", 150, ("accuracy",)),  # too large for the end to compute
    ("sparse_categorical_crossentropy", "sigmoid", 3, ("accuracy",)),
    (losses.SparseCategoricalCrossentropy(from_logits=True), "tanh", 3, ()),
]


def check_end(place: int, dtype: str, tolerance: float) -> None:
    """A loss behind a last layer, in a model of Dense and Dropout alone, with weights of classes."""
    loss, activation, units, metrics = ENDS[place]
    rng = np.random.default_rng(place)
    x = rng.normal(size=(9, 2))
    name = loss if isinstance(loss, str) else loss.name
    y: np.ndarray = rng.random((9, units)).round(place % 2)
    if "categorical" in name:
        y = np.eye(units)[rng.integers(0, units, 9)]
    if name.startswith("sparse"):
        y = rng.integers(0, units, 9)

    def layers(dtype: str, backend: str) -> list[Layer]:
        return [
            fr.Dense(2, "sigmoid", dtype=dtype),
            fr.Dropout(0.3, dtype=dtype),
            fr.Dense(units, activation, dtype=dtype),
        ]

    setup = Setup(layers, lambda: fr.SGD(0.5), loss, metrics)
    weights = {"class_weight": {0: 0.5, 1: 2.0}} if "categorical" in name else {}
    compare(setup, x, y, dtype, tolerance, epochs=1, **weights)
