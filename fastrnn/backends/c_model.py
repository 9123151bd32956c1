"""The step of a whole model through the C kernels: arrays and structs are made once for each size of batch, pointers
to all but a batch are set once, a step is a call for each layer and direction.

Layers that are called one by one make and check all that anew: a tenth of a step of the textbook chapter's models.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fastrnn._kernels import ffi, lib

from .contract import Goal, Head, Part
from .memory import reserves

_CELLS = {"lstm": (lib.FRNN_LSTM, 4, 0), "gru": (lib.FRNN_GRU, 3, 1), "gru_reset_before": (lib.FRNN_GRU, 3, 0)}
HEADS = {
    "binary_crossentropy": lib.FRNN_BINARY,
    "categorical_crossentropy": lib.FRNN_CATEGORICAL,
    "sparse_categorical_crossentropy": lib.FRNN_SPARSE,
}

# Beyond, a product is worth a call of BLAS.
MAX_HEAD_PRODUCTS = 1 << 15
# A task's sums per word should stay in its share of the cache, and there may be 16 tasks.
MAX_WORD_REALS = 1 << 20

_at = ffi.from_buffer


def takes_ids(words: int, ids: int, columns: int) -> bool:
    """Whether the kernel takes token ids as they are, and does the product with W once per word: where that is less.
    `columns` are W's or, if they are more, its rows.

    Under dropout of the inputs, which differs from sample to sample, no product can be shared, and the kernel looks the
    rows up as it goes.
    """
    return 2 * words <= ids and words * columns <= MAX_WORD_REALS


def run(function: Any, c_call: Any) -> None:
    """A call of forward or backward. MemoryError where the kernels' working memory cannot be had."""
    if function(c_call):
        raise MemoryError("fastrnn's C kernels could not allocate their working memory")


class Layers(NamedTuple):
    """What a step is of."""

    embedding: Part | None
    recurrent: Sequence[Part]
    dense: Part
    loss: str
    dtype: np.dtype[Any]


class CModelStep:
    """The contract's model_step, for a chain of recurrent layers, an embedding before them or not, and a Dense with its
    cross-entropy after the last one's last output."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        sparse = layers.loss == "sparse_categorical_crossentropy"
        self._columns = 1 if sparse else layers.dense.units
        self._y_dtype = np.dtype(np.int64) if sparse else layers.dtype
        self._batches: dict[tuple[int, ...], _Batch] = {}

    def takes(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> bool:
        embedding, recurrent, dense, _, dtype = self._layers
        size = len(x)
        return (
            (
                x.ndim == 3 and x.dtype == dtype and x.shape[2] == recurrent[0].inputs
                if embedding is None
                else x.ndim == 2 and x.dtype in (np.int32, np.int64)
            )
            and x.size > 0
            and y.shape == (size, self._columns)
            and y.dtype == self._y_dtype
            and size * dense.inputs * dense.units <= MAX_HEAD_PRODUCTS
            and x.flags.c_contiguous
            and y.flags.c_contiguous
            and (
                weights is None or (weights.shape == (size,) and weights.dtype == dtype and weights.flags.c_contiguous)
            )
            and (embedding is None or lib.frnn_find_bad_id(_at(x), x.itemsize, x.size, embedding.inputs) < 0)
        )

    def step(
        self,
        x: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray | None,
        masks: Sequence[tuple[np.ndarray | None, np.ndarray | None]] | None,
        w: np.ndarray,
        g: np.ndarray,
        training: bool,
    ) -> Head:
        shape = x.shape[:2]
        batch = self._batches.get(shape)
        if batch is None:
            batch = self._batches[shape] = _Batch(self._layers, *shape)
        if batch.w is not w or batch.g is not g:
            batch.bind(w, g)
        batch.set_training(training)
        return batch.step(x, y, weights, masks)


class _Batch:
    """Arrays and structs for batches of one shape.

    Attributes:
        w, g: the flat arrays of weights and gradients that the structs point into.
    """

    def __init__(self, layers: Layers, batch: int, time: int) -> None:
        self._layers = layers
        self.w = self.g = np.empty(0)
        self._kept: list[np.ndarray] = []  # what the structs point to
        self._rows: tuple[Any, Any] | None = None  # of the embedding, and their gradients, where they are looked up
        self._masked = self._training = False
        self._reserves: list[Any] = []
        self._calls: list[Any] = []
        for part in layers.recurrent:
            self._calls.append(self._call(part, batch, time))
        self._head = head = ffi.new("frnn_head *")
        dense = layers.dense
        head.loss_kind, head.real_bits = HEADS[layers.loss], layers.dtype.itemsize * 8
        head.n, head.I, head.C = batch, dense.inputs, dense.units
        self._p = np.empty((batch, dense.units), layers.dtype)
        last = self._calls[-1]
        head.x, head.p, head.dz = last.y, _at(self._p), self._room(batch, dense.units)
        head.dx = last.dy = self._room(batch, dense.inputs)

    def _room(self, *shape: int) -> Any:
        self._kept.append(np.empty(shape, self._layers.dtype))
        return _at(self._kept[-1])

    def _call(self, part: Part, batch: int, time: int) -> Any:
        """The layer's struct, its inputs those outputs that the last struct has."""
        cell, gates, reset_after = _CELLS[part.kind]
        inputs, units, dtype = part.inputs, part.units, self._layers.dtype
        options = part.go_backwards, part.zero_output_for_mask, part.return_sequences, reset_after
        call = ffi.new("frnn_call *", (cell, dtype.itemsize * 8, batch, time, inputs, units, *options))
        embedding = self._layers.embedding
        if self._calls:
            call.x, call.dx = self._calls[-1].y, self._room(batch, time, inputs)
            self._calls[-1].dy = call.dx
        elif embedding is None:
            call.dx = self._room(batch, time, inputs)
        elif takes_ids(embedding.inputs, batch * time, max(inputs, gates * units)):
            call.V = embedding.inputs  # the table and its gradient lie among the weights
        else:
            self._rows = call.x, call.dx = self._room(batch, time, inputs), self._room(batch, time, inputs)
        call.y = self._room(batch, time if part.return_sequences else 1, units)
        call.hT, call.dh0 = self._room(batch, units), self._room(batch, units)
        if cell == lib.FRNN_LSTM:
            call.cT, call.dc0 = self._room(batch, units), self._room(batch, units)
        return call

    def set_training(self, training: bool) -> None:
        """Whether steps keep what gradients need, and write those."""
        if training is self._training:
            return
        self._training = training
        if training and not self._reserves:
            self._kept += [reserves.take(lib.frnn_reserve_size(call), self._layers.dtype) for call in self._calls]
            self._reserves = [_at(array) for array in self._kept[-len(self._calls) :]]
        for call, reserve in zip(self._calls, self._reserves, strict=True):
            call.reserve = reserve if training else ffi.NULL
        self._head.dW = self._dense_dW if training else ffi.NULL

    def bind(self, w: np.ndarray, g: np.ndarray) -> None:
        """Points the structs to weights and gradients."""
        self.w, self.g = w, g
        weights, gradients, size = _at(w), _at(g), w.itemsize
        layers, head = self._layers, self._head
        for part, call in zip(layers.recurrent, self._calls, strict=True):
            W, U, *b = (at * size for at in part.at)
            call.W, call.U, call.dW, call.dU = weights + W, weights + U, gradients + W, gradients + U
            if b:
                call.b, call.db = weights + b[0], gradients + b[0]
        W, *b = (at * size for at in layers.dense.at)
        head.W, self._dense_dW = weights + W, gradients + W
        head.dW = self._dense_dW if self._training else ffi.NULL
        if b:
            head.b, head.db = weights + b[0], gradients + b[0]
        if layers.embedding is not None:
            table = layers.embedding.at[0] * size
            self._table, self._dtable = weights + table, gradients + table
            if self._rows is None:
                self._calls[0].x, self._calls[0].dx = self._table, self._dtable

    def step(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, masks: Any) -> Head:
        calls, head, embedding, at = self._calls, self._head, self._layers.embedding, _at(x)
        ids = at, x.itemsize, x.size
        if embedding is None:
            calls[0].x = at
        elif self._rows is None:
            calls[0].ids, calls[0].id_bytes = at, x.itemsize
        else:
            row_bytes = embedding.units * self.w.itemsize
            lib.frnn_gather(self._table, embedding.inputs, row_bytes, *ids, self._rows[0])
        if masks is not None or self._masked:
            self._set_masks(masks or [(None, None)] * len(calls))
        head.y, head.weights = _at(y), ffi.NULL if weights is None else _at(weights)
        for call in calls:
            run(lib.frnn_forward, call)
        lib.frnn_head_run(head)
        if self._training:
            for call in reversed(calls):
                run(lib.frnn_backward, call)
            if embedding is not None and self._rows is not None:
                bits = self.w.itemsize * 8
                lib.frnn_scatter_add(self._rows[1], bits, embedding.units, *ids, self._dtable, embedding.inputs)
        return Head(head.loss, head.correct, self._p, None)

    def _set_masks(self, masks: Sequence[tuple[np.ndarray | None, np.ndarray | None]]) -> None:
        for call, (x_mask, h_mask) in zip(self._calls, masks, strict=True):
            call.x_masks = 0 if x_mask is None else 1 if x_mask.ndim == 2 else len(x_mask)
            call.x_mask = ffi.NULL if x_mask is None else _at(x_mask)
            call.h_masks = 0 if h_mask is None else len(h_mask)
            call.h_mask = ffi.NULL if h_mask is None else _at(h_mask)
        self._masked = any(mask is not None for pair in masks for mask in pair)


def model_step(
    parts: Sequence[Part], goal: Goal, spans: Sequence[tuple[int, int]], dtype: np.dtype[Any]
) -> CModelStep | None:
    embedding = parts[0] if parts[0].kind == "embedding" else None
    recurrent, dense = parts[embedding is not None : -1], parts[-1]
    if (
        dense.kind != "dense"
        or goal.source != "linked"
        or goal.loss not in HEADS
        or not recurrent
        or any(part.kind not in _CELLS for part in recurrent)
        or any(part.return_sequences is (part is recurrent[-1]) for part in recurrent)
        or (embedding is not None and embedding.mask_zero)
        or any(part.units != following.inputs for part, following in pairwise(parts))
    ):
        return None
    return CModelStep(Layers(embedding, recurrent, dense, goal.loss, dtype))
