"""One contender of the whole-step benchmark, in a process of its own: `python contender.py NAME MODEL WEIGHTS`.

Every framework is used as its users do: `model.fit` on arrays in memory, at its defaults. The process prints the
loss of one step from the given weights, so that the result can be checked before anything is timed, and the versions;
then, for each line `N` it reads, it trains N steps and prints the seconds they took.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

BATCH, LENGTH, VOCABULARY = 64, 100, 500

# (cell, keyword arguments of its recurrent layers), beside Embedding(500, 16) and Dense(1, sigmoid)
MODELS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "lstm": ("LSTM", [{}]),
    "dropout": ("LSTM", [{"dropout": 0.3}]),
    "recurrent_dropout": ("LSTM", [{"recurrent_dropout": 0.3}]),
    "stacked": ("LSTM", [{"return_sequences": True}, {}]),
    "gru": ("GRU", [{}]),
}

# name: (Keras backend or None for fastrnn, jit_compile)
CONTENDERS: dict[str, tuple[str | None, Any]] = {
    "fastrnn": (None, None),
    "keras_tensorflow": ("tensorflow", "auto"),
    "keras_tensorflow_jit": ("tensorflow", True),
    "keras_jax": ("jax", "auto"),
}


def data(steps: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, VOCABULARY, (BATCH * steps, LENGTH)).astype(np.int32)
    return x, rng.integers(0, 2, BATCH * steps).astype(np.float32)


def layers(module: Any, model: str) -> list[Any]:
    cell, recurrent = MODELS[model]
    return [
        module.Embedding(VOCABULARY, 16),
        *(getattr(module, cell)(8, **arguments) for arguments in recurrent),
        module.Dense(1, activation="sigmoid"),
    ]


def build(contender: str, model: str) -> tuple[Any, str]:
    """The compiled and built model, and the versions behind it."""
    keras_backend, jit = CONTENDERS[contender]
    options = {"loss": "binary_crossentropy", "metrics": ["accuracy"]}
    if keras_backend is None:
        import fastrnn as fr

        ours = fr.Sequential(layers(fr, model))
        ours.build((None, LENGTH))
        ours.compile(optimizer=fr.RMSprop(1e-4), **options)
        return ours, f"fastrnn {fr.__version__}"
    os.environ["KERAS_BACKEND"] = keras_backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    theirs = keras.Sequential([keras.Input((LENGTH,)), *layers(keras.layers, model)])
    theirs.compile(optimizer=keras.optimizers.RMSprop(1e-4), jit_compile=jit, **options)
    version = __import__(keras_backend).__version__
    return theirs, f"Keras {keras.__version__}, {keras_backend} {version}"


def main(contender: str, model_name: str, weights_path: str) -> None:
    model, versions = build(contender, model_name)
    with np.load(weights_path) as file:
        model.set_weights([file[name] for name in file.files])
    x, y = data(1)
    print(float(model.evaluate(x, y, batch_size=BATCH, verbose=0)[0]), flush=True)
    print(versions, flush=True)
    for line in sys.stdin:
        x, y = data(int(line))
        begin = time.perf_counter()
        model.fit(x, y, batch_size=BATCH, verbose=0)
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
