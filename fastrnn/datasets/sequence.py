"""Turning ragged sequences into one rectangular array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def pad_sequences(
    sequences: Sequence[Any],
    maxlen: int | None = None,
    dtype: Any = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: Any = 0.0,
) -> np.ndarray:
    """Pads and cuts sequences to one length, as `keras.utils.pad_sequences` does.

    Args:
        sequences: sequences of numbers, or of arrays that all have the same shape (any may be empty).
        maxlen: the length to pad or cut to; None means that of the longest sequence.
        dtype: of the result.
        padding: "pre" or "post", the side that is filled with `value`.
        truncating: "pre" or "post", the side that loses what is longer than `maxlen`.
        value: the filling.

    Returns:
        An array of shape (len(sequences), maxlen, *shape of one element).

    Raises:
        ValueError: where `sequences` holds something that is not a sequence, the elements' shapes differ,
            `padding` or `truncating` is unknown, or `value` is a string and `dtype` cannot hold it.
    """
    if not hasattr(sequences, "__len__"):
        raise ValueError("`sequences` must be iterable.")
    lengths = []
    for s in sequences:
        try:
            lengths.append(len(s))
        except TypeError as error:
            raise ValueError(f"`sequences` must be a list of iterables. Found non-iterable: {s}") from error
    first = next((s for s, n in zip(sequences, lengths, strict=True) if n), None)
    element_shape = () if first is None else np.asarray(first).shape[1:]
    if maxlen is None:
        maxlen = int(np.max(lengths))

    holds_strings = np.issubdtype(dtype, np.str_) or np.issubdtype(dtype, np.bytes_)
    if isinstance(value, str) and dtype is not object and not holds_strings:
        raise ValueError(
            f"`dtype` {dtype} is not compatible with `value`'s type: {type(value)}\n"
            "You should set `dtype=object` for variable length strings."
        )

    out = np.full((len(lengths), maxlen, *element_shape), value, dtype=dtype)
    if first is None:
        return out
    if truncating not in ("pre", "post"):
        raise ValueError(f'Truncating type "{truncating}" not understood')
    if padding not in ("pre", "post"):
        raise ValueError(f'Padding type "{padding}" not understood')

    for row, (s, n) in enumerate(zip(sequences, lengths, strict=True)):
        if not n:
            continue
        kept = np.asarray(s[-maxlen:] if truncating == "pre" else s[:maxlen], dtype=dtype)
        if kept.shape[1:] != element_shape:
            raise ValueError(
                f"Shape of sample {kept.shape[1:]} of sequence at position {row} is different from expected "
                f"shape {element_shape}"
            )
        if padding == "post":
            out[row, : len(kept)] = kept
        else:
            out[row, -len(kept) :] = kept
    return out
