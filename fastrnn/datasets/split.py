"""Splitting a data set into a training and a held-out part."""

from __future__ import annotations

import math

import numpy as np


def split_indices(n: int, test_size: float = 0.2, seed: int = 42) -> tuple[np.ndarray, np.ndarray]:
    """Splits `range(n)` at random, exactly as scikit-learn's `train_test_split(random_state=seed)` does.

    Args:
        n: the number of samples, at least 2.
        test_size: the share that is held out, in (0, 1); the count is rounded up.
        seed: of NumPy's legacy generator, which scikit-learn uses.

    Returns:
        `(train, test)`: int64 indices, disjoint, together all of `range(n)`, in shuffled order.

    Raises:
        ValueError: where `test_size` is not in (0, 1), or either part would be empty.
    """
    if not 0.0 < test_size < 1.0:
        raise ValueError(f"split_indices: test_size must lie between 0 and 1, got {test_size!r}")
    n_test = math.ceil(test_size * n)
    if n_test < 1 or n_test >= n:
        raise ValueError(f"split_indices: {n} samples cannot be split with test_size={test_size!r}")
    order = np.random.RandomState(seed).permutation(n)
    return order[n_test:], order[:n_test]
