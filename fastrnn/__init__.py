"""Fused LSTM and GRU layers, forward and backward, with Keras' names and numbers, and a thin training loop.

    import fastrnn as fr

    model = fr.Sequential([fr.Embedding(500, 16), fr.LSTM(8), fr.Dense(1, activation="sigmoid")])
    model.compile(optimizer=fr.RMSprop(1e-4), loss="binary_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, batch_size=64, epochs=10, validation_data=(x_val, y_val))

The README is the way in. Importing this loads NumPy and nothing heavier.
"""

from fastrnn import datasets
from fastrnn.backends import available_backends, use_backend
from fastrnn.backends.threads import get_num_threads, set_num_threads
from fastrnn.datasets.sequence import pad_sequences
from fastrnn.layers import GRU, LSTM, Dense, Dropout, Embedding
from fastrnn.ops import gru, gru_backward, gru_forward, lstm, lstm_backward, lstm_forward
from fastrnn.random import set_seed
from fastrnn.streaming import Stream
from fastrnn.training import (
    SGD,
    Adam,
    Callback,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    RMSprop,
    Sequential,
    TerminateOnNaN,
)
from fastrnn.version import __version__

__all__ = [
    "GRU",
    "LSTM",
    "SGD",
    "Adam",
    "CSVLogger",
    "Callback",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "RMSprop",
    "ReduceLROnPlateau",
    "Sequential",
    "Stream",
    "TerminateOnNaN",
    "__version__",
    "available_backends",
    "datasets",
    "get_num_threads",
    "gru",
    "gru_backward",
    "gru_forward",
    "lstm",
    "lstm_backward",
    "lstm_forward",
    "pad_sequences",
    "set_num_threads",
    "set_seed",
    "use_backend",
]
