"""Whole models to train: those of the textbook chapter, and their data, the same for every contender."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

import fastrnn as fr
from fastrnn.bench.layer import Layer

BATCH, LENGTH, VOCABULARY, FEATURES = 64, 100, 500, 16

# (cell, keyword arguments of its recurrent layers), beside Embedding(500, 16) and Dense(1, sigmoid)
MODELS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "lstm": ("LSTM", [{}]),
    "dropout": ("LSTM", [{"dropout": 0.3}]),
    "recurrent_dropout": ("LSTM", [{"recurrent_dropout": 0.3}]),
    "stacked": ("LSTM", [{"return_sequences": True}, {}]),
    "gru": ("GRU", [{}]),
}


@dataclass(frozen=True)
class Training:
    """Steps of training, each a batch of 64 sequences of 100 token ids, the loop around them included.

    Attributes:
        model: one of MODELS.
        steps: in one call.
        units: of the recurrent layers.
    """

    model: str
    steps: int = 50
    units: int = 8

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Training:
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def layers(self, module: Any) -> list[Any]:
        """The layers, of `fastrnn` or of `keras.layers`."""
        cell, recurrent = MODELS[self.model]
        return [
            module.Embedding(VOCABULARY, FEATURES),
            *(getattr(module, cell)(self.units, **arguments) for arguments in recurrent),
            module.Dense(1, activation="sigmoid"),
        ]

    @property
    def operations(self) -> int:
        """Those of a step's recurrent layers, as Layer counts them; the rest is next to nothing."""
        cell, recurrent = MODELS[self.model]
        inputs = [FEATURES, *[self.units] * (len(recurrent) - 1)]
        return sum(Layer(cell.lower(), "train", (BATCH, LENGTH, I, self.units)).operations for I in inputs)

    @property
    def compile_options(self) -> dict[str, Any]:
        return {"loss": "binary_crossentropy", "metrics": ["accuracy"]}

    def data(self, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (64 steps, 100), int32, and labels (64 steps,), float32; the first batch is always the same."""
        steps = self.steps if steps is None else steps
        rng = np.random.default_rng(0)
        first = rng.integers(0, VOCABULARY, (BATCH, LENGTH)), rng.integers(0, 2, BATCH)
        rest = rng.integers(0, VOCABULARY, (BATCH * (steps - 1), LENGTH)), rng.integers(0, 2, BATCH * (steps - 1))
        x, y = (np.concatenate(parts) for parts in zip(first, rest, strict=True))
        return x.astype(np.int32), y.astype(np.float32)

    def ours(self) -> Any:
        """This package's model, built and compiled, with the weights that everyone starts from."""
        fr.set_seed(1)
        model = fr.Sequential(self.layers(fr))
        model.build((None, LENGTH))
        model.compile(optimizer=fr.RMSprop(1e-4), **self.compile_options)
        return model

    def weights(self) -> list[np.ndarray]:
        """The weights that everyone starts from, in Keras' order."""
        return _weights(self)

    def expected(self) -> dict[str, np.ndarray]:
        """The loss of the first batch before any training, by the reference."""
        with fr.use_backend("reference"):
            model = self.ours()
            x, y = self.data(1)
            return {"loss": np.array(model.evaluate(x, y, batch_size=BATCH, verbose=0)[0])}


@cache
def _weights(training: Training) -> list[np.ndarray]:
    weights: list[np.ndarray] = training.ours().get_weights()
    return weights
