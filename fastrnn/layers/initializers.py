"""Initial values of weights: Keras' initializers by name, as functions of a shape and a generator."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Initializer = Callable[[tuple[int, ...], np.random.Generator], np.ndarray]


def zeros(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """All zeros."""
    return np.zeros(shape)


def ones(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """All ones."""
    return np.ones(shape)


def uniform(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Uniform in [-0.05, 0.05), Keras' RandomUniform."""
    return rng.uniform(-0.05, 0.05, shape)


def glorot_uniform(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Uniform within sqrt(6 / (fan_in + fan_out)) of zero, the fans being those of the whole 2-D shape."""
    if len(shape) != 2:
        raise ValueError(f"glorot_uniform: shape must have 2 axes, got {shape}")
    limit = math.sqrt(6.0 / max(1.0, shape[0] + shape[1]))
    return rng.uniform(-limit, limit, shape)


def orthogonal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """One semi-orthogonal matrix over the whole 2-D shape: orthonormal along its shorter axis."""
    if len(shape) != 2:
        raise ValueError(f"orthogonal: shape must have 2 axes, got {shape}")
    q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
    # QR leaves the signs of R's diagonal to LAPACK; with them made positive, Q is uniform over all such matrices.
    q *= np.sign(np.diag(r))
    return q if shape[0] >= shape[1] else q.T


_BY_NAME: dict[str, Initializer] = {
    "glorot_uniform": glorot_uniform,
    "orthogonal": orthogonal,
    "zeros": zeros,
    "ones": ones,
    "uniform": uniform,
    "random_uniform": uniform,
}


def get(identifier: str | Initializer) -> Initializer:
    """The initializer of that name; a callable `(shape, rng) -> array` is taken as it is.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a callable.
    """
    if callable(identifier):
        return identifier
    if not isinstance(identifier, str):
        raise TypeError(f"initializer must be a name or a callable (shape, rng) -> array, got {identifier!r}")
    if identifier not in _BY_NAME:
        raise ValueError(f"initializer must be one of {sorted(_BY_NAME)}, got {identifier!r}")
    return _BY_NAME[identifier]
