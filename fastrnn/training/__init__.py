"""The training loop and what it is made of: losses, metrics, optimizers, callbacks."""

from fastrnn.training.callbacks import (
    Callback,
    CSVLogger,
    History,
    LambdaCallback,
    LearningRateScheduler,
    TerminateOnNaN,
)
from fastrnn.training.model import Sequential
from fastrnn.training.monitors import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau
from fastrnn.training.optimizers import SGD, Adam, RMSprop

__all__ = [
    "SGD",
    "Adam",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "RMSprop",
    "ReduceLROnPlateau",
    "Sequential",
    "TerminateOnNaN",
]
