"""Activation functions of plain layers, each with its gradient in terms of its own output."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), exact in both tails: exp only ever sees a value below zero."""
    e = np.exp(-np.abs(z))
    y: np.ndarray = np.where(z >= 0, 1, e) / (1 + e)
    return y


def softmax(z: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis."""
    e: np.ndarray = np.exp(z - z.max(axis=-1, keepdims=True))
    e /= e.sum(axis=-1, keepdims=True)
    return e


class Activation(NamedTuple):
    """`forward(z)` gives the output y; `gradient(y, dy)` gives the gradient of z."""

    name: str
    forward: Callable[[np.ndarray], np.ndarray]
    gradient: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def __reduce__(self) -> tuple[Callable[[str], Activation], tuple[str]]:
        return get, (self.name,)  # a pickle names it


_BY_NAME = {
    activation.name: activation
    for activation in (
        Activation("linear", lambda z: z, lambda y, dy: dy),
        Activation("sigmoid", sigmoid, lambda y, dy: dy * y * (1 - y)),
        Activation("tanh", np.tanh, lambda y, dy: dy * (1 - y * y)),
        Activation("relu", lambda z: np.maximum(z, 0), lambda y, dy: dy * (y > 0)),
        Activation("softmax", softmax, lambda y, dy: y * (dy - (dy * y).sum(axis=-1, keepdims=True))),
    )
}


def get(name: str | None) -> Activation:
    """The activation of that name; None is "linear". ValueError for an unknown name."""
    if name is None:
        return _BY_NAME["linear"]
    if name not in _BY_NAME:
        raise ValueError(f"activation must be one of {sorted(_BY_NAME)} or None, got {name!r}")
    return _BY_NAME[name]
