"""The four sentiment models of a textbook chapter on IMDb, its published results, and one training run each.

The chapter keeps the 500 most frequent words and the last 100 tokens of a review, trains on 20,000 of the
25,000 training reviews and validates on the other 5,000. All models are an embedding of 16 numbers, one or
two recurrent layers of 8 units, and one sigmoid; RMSprop at 1e-4, batches of 64, early stopping.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastrnn.datasets import pad_sequences, split_indices
from fastrnn.layers import GRU, LSTM, Dense, Embedding
from fastrnn.layers.base import Layer
from fastrnn.random import set_seed
from fastrnn.training.model import Sequential
from fastrnn.training.monitors import EarlyStopping, ModelCheckpoint
from fastrnn.training.optimizers import RMSprop

VOCABULARY, LENGTH, EPOCHS, BATCH = 500, 100, 100, 64


class Published(NamedTuple):
    """What the chapter reports: epochs run, the lowest validation loss, the validation accuracy there."""

    epochs: int
    val_loss: float
    val_accuracy: float


class Recipe(NamedTuple):
    """One model of the chapter: its recurrent layers, its size, its published result."""

    recurrent: Callable[[str | None], list[Layer]]
    params: int
    published: Published


RECIPES = {
    "lstm": Recipe(lambda backend: [LSTM(8, backend=backend)], 8_809, Published(32, 0.4319, 0.80)),
    "dropout": Recipe(lambda backend: [LSTM(8, dropout=0.3, backend=backend)], 8_809, Published(35, 0.4301, 0.80)),
    "stacked": Recipe(
        lambda backend: [
            LSTM(8, dropout=0.3, return_sequences=True, backend=backend),
            LSTM(8, dropout=0.3, backend=backend),
        ],
        9_353,
        Published(35, 0.4307, 0.80),
    ),
    "gru": Recipe(lambda backend: [GRU(8, backend=backend)], 8_633, Published(60, 0.4351, 0.79)),
}


class Data(NamedTuple):
    """Padded reviews, int32 of shape (reviews, 100), and labels, float32 of shape (reviews,)."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray


class Result(NamedTuple):
    """What a training run came to.

    Attributes:
        history: `History.history`, one number an epoch under each name.
        best: the index of the epoch with the lowest validation loss.
        seconds: of the whole run, validation included.
        ms_per_step: the same, per training batch.
    """

    history: dict[str, list[float]]
    best: int
    seconds: float
    ms_per_step: float


def prepare(x: Sequence[np.ndarray], y: np.ndarray) -> Data:
    """Pads the reviews, ids below 500 already, and splits them as the chapter does."""
    padded = pad_sequences(x, maxlen=LENGTH)
    labels = y.astype(np.float32)
    train, val = split_indices(len(labels), test_size=0.2, seed=42)
    return Data(padded[train], labels[train], padded[val], labels[val])


def build(name: str, *, seed: int = 1, backend: str | None = None) -> Sequential:
    """The chapter's model `name`, a key of `RECIPES`: built and compiled, with fresh weights.

    `seed` sets the global seed, so that the weights and the training that follows are reproducible.
    """
    set_seed(seed)
    recurrent = RECIPES[name].recurrent(backend)
    model = Sequential([Embedding(VOCABULARY, 16), *recurrent, Dense(1, activation="sigmoid")])
    model.build((None, LENGTH))
    model.compile(optimizer=RMSprop(learning_rate=1e-4), loss="binary_crossentropy", metrics=["accuracy"])
    return model


def train(
    model: Sequential,
    data: Data,
    checkpoint: Path,
    *,
    epochs: int = EPOCHS,
    batch_size: int = BATCH,
    verbose: int = 1,
) -> Result:
    """Trains until the validation loss has not fallen for 3 epochs; the model ends with its best weights.

    Args:
        model: from `build`.
        data: from `prepare`.
        checkpoint: the `.weights.h5` file that holds the best weights so far, after every epoch.
        epochs: at most this many.
        batch_size: reviews in a step.
        verbose: 0 nothing, 1 a bar, 2 a line an epoch.
    """
    callbacks = [
        EarlyStopping(monitor="val_loss", patience=3, restore_best_weights=True),
        ModelCheckpoint(checkpoint, monitor="val_loss", save_best_only=True, save_weights_only=True),
    ]
    begin = time.perf_counter()
    history = model.fit(
        data.x_train,
        data.y_train,
        batch_size=batch_size,
        epochs=epochs,
        verbose=verbose,
        validation_data=(data.x_val, data.y_val),
        callbacks=callbacks,
    ).history
    seconds = time.perf_counter() - begin
    steps = -(-len(data.y_train) // batch_size) * len(history["val_loss"])
    return Result(history, int(np.argmin(history["val_loss"])), seconds, 1e3 * seconds / steps)


def table(results: dict[str, Result]) -> str:
    """The published results beside those reached, one model a line, with a note on how to read them."""
    lines = [
        f"{'':8}  {'epochs':^15}  {'best val_loss':^19}  {'val_accuracy':^19}  {'':>7}  {'':>7}",
        f"{'model':8}"
        + f"  {'book':>6}  {'here':>7}"
        + 2 * f"  {'book':>8}  {'here':>9}"
        + f"  {'seconds':>7}  {'ms/step':>7}",
    ]
    lines.append("-" * len(lines[1]))
    for name, result in results.items():
        book = RECIPES[name].published
        loss, accuracy = (result.history[key][result.best] for key in ("val_loss", "val_accuracy"))
        lines.append(
            f"{name:8}  {book.epochs:6}  {len(result.history['val_loss']):7}"
            f"  {book.val_loss:8.4f}  {loss:9.4f}  {book.val_accuracy:8.2f}  {accuracy:9.4f}"
            f"  {result.seconds:7.1f}  {result.ms_per_step:7.2f}"
        )
    notes = ["Accuracy is that of the epoch with the lowest validation loss; times include validation."]
    if "stacked" in results:
        notes.append("The book's stacked run was a warm start: fit() again on trained weights. Here it starts afresh.")
    return "\n".join(line.rstrip() for line in [*lines, *notes])
