"""Steps of a whole model through the C kernels, many in one call: arrays and structs are made once for each size of
batch, and C takes it from there, from the choice of samples to the optimizer.

Where Python calls one kernel after another, a step of the textbook chapter's models takes a tenth longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fastrnn._kernels import ffi, lib

from .c_arrays import point
from .contract import Done, Drawn, Dropouts, Goal, Part, Rule
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
_UPDATE = ffi.typeof("frnn_update *")
_SLOTS = ffi.offsetof("frnn_update", "w")


def takes_ids(words: int, ids: int, columns: int) -> bool:
    """Whether the kernel takes token ids as they are, and does the product with W once per word: where that is less.
    `columns` are W's or, if they are more, its rows.

    Under dropout of the inputs, which differs from sample to sample, no product can be shared, and the kernel looks the
    rows up as it goes.
    """
    return 2 * words <= ids and words * columns <= MAX_WORD_REALS


def run(function: Any, *arguments: Any) -> None:
    """A call of forward, backward or many steps. MemoryError where the kernels' working memory cannot be had."""
    if function(*arguments):
        raise MemoryError("fastrnn's C kernels could not allocate their working memory")


_RULES = {"sgd": lib.FRNN_SGD, "rmsprop": lib.FRNN_RMSPROP, "adam": lib.FRNN_ADAM}


def new_update(w: np.ndarray, g: np.ndarray, rule: Rule) -> Any:
    """The struct of an optimizer's step."""
    name, *slots, rate, beta_1, beta_2, epsilon, nesterov = rule
    update = ffi.new(_UPDATE, (_RULES[name], nesterov, w.itemsize * 8, w.size))
    update.rate, update.beta_1, update.beta_2, update.epsilon = rate, beta_1, beta_2, epsilon
    point(update, _SLOTS, w, g, *slots)
    return update


class Layers(NamedTuple):
    """What a step is of."""

    embedding: Part | None
    recurrent: Sequence[Part]
    dropped: Sequence[bool]  # whether a Dropout lies before each of them, and before the Dense
    dense: Part
    loss: str
    dtype: np.dtype[Any]


class Bound(NamedTuple):
    """What a step works on."""

    w: np.ndarray
    g: np.ndarray
    rule: Rule | None
    dropouts: Dropouts | None


class CModelSteps:
    """The contract's model_steps, for a chain of recurrent layers, an embedding before them or not, and a Dense with
    its cross-entropy after the last one's last output; between them a Dropout or none."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        sparse = layers.loss == "sparse_categorical_crossentropy"
        self._columns = 1 if sparse else layers.dense.units
        self._y_dtype = np.dtype(np.int64) if sparse else layers.dtype
        self._batches: dict[tuple[int, int], _Batch] = {}
        self._running: _Batch | None = None

    def takes(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, size: int) -> bool:
        embedding, recurrent, _, dense, _, dtype = self._layers
        samples = len(x)
        return (
            (
                x.ndim == 3 and x.dtype == dtype and x.shape[2] == recurrent[0].inputs
                if embedding is None
                else x.ndim == 2 and x.dtype in (np.int32, np.int64)
            )
            and x.size > 0
            and y.shape == (samples, self._columns)
            and y.dtype == self._y_dtype
            and min(size, samples) * dense.inputs * dense.units <= MAX_HEAD_PRODUCTS
            and (weights is None or (weights.shape == (samples,) and weights.dtype == dtype))
            and all(a is None or (a[0].flags.c_contiguous and a.flags.aligned) for a in (x, y, weights))
        )

    def begin(
        self,
        x: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray | None,
        order: np.ndarray | None,
        size: int,
        training: bool,
    ) -> None:
        samples, time = x.shape[:2]
        self._size, self._whole = size, samples // size
        rest = samples % size
        self._pass = [self._batch(size, time) if self._whole else None, self._batch(rest, time) if rest else None]
        for batch in self._pass:
            if batch is not None:
                batch.begin(x, y, weights, order, training)

    def _batch(self, batch: int, time: int) -> _Batch:
        if (batch, time) not in self._batches:
            self._batches[batch, time] = _Batch(self._layers, batch, time)
        return self._batches[batch, time]

    def bind(self, w: np.ndarray, g: np.ndarray, rule: Rule | None, dropouts: Dropouts | None) -> None:
        self._bound = Bound(w, g, rule, dropouts)

    def run(self, first: int, rates: Sequence[float], total: float) -> None:
        self._running = None
        if first < self._whole:
            batch, rates = self._pass[0], rates[: self._whole - first]
        else:
            batch, rates = self._pass[1], rates[:1]
        assert batch is not None
        batch.clear(total)
        self._running = batch
        batch.run(first * self._size, self._bound, rates)

    def done(self) -> Done | None:
        ran, self._running = self._running, None
        return None if ran is None else ran.done()


class _Batch:
    """Arrays and structs for batches of one shape."""

    def __init__(self, layers: Layers, batch: int, time: int) -> None:
        self._layers = layers
        self._kept: list[np.ndarray] = []  # what the structs point to
        self._bound: Bound | None = None
        self._training = False
        self._reserves: list[Any] = []
        self._calls: list[Any] = []
        self._model = model = ffi.new("frnn_model *")
        self._head = model.head = head = ffi.new("frnn_head *")
        if layers.embedding is not None:
            model.V = layers.embedding.inputs
            if layers.embedding.mask_zero:
                model.mask = self._room(batch, time, dtype=np.dtype(np.uint8))
        for part in layers.recurrent:
            self._calls.append(self._call(part, batch, time))
        self._layer = model.layer = ffi.new("frnn_call *[]", self._calls)
        model.layers = len(self._calls)
        dense = layers.dense
        head.loss_kind, head.real_bits = HEADS[layers.loss], layers.dtype.itemsize * 8
        head.n, head.I, head.C = batch, dense.inputs, dense.units
        self._p = np.empty((batch, dense.units), layers.dtype)
        last = self._calls[-1]
        head.x, head.p, head.dz = last.y, _at(self._p), self._room(batch, dense.units)
        head.dx = last.dy = self._room(batch, dense.inputs)

    def _room(self, *shape: int, dtype: np.dtype[Any] | None = None) -> Any:
        self._kept.append(np.empty(shape, dtype or self._layers.dtype))
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
        elif (
            embedding is not None
            and not self._layers.dropped[0]
            and takes_ids(embedding.inputs, batch * time, max(inputs, gates * units))
        ):
            call.V = embedding.inputs  # the table and its gradient lie among the weights
        else:
            call.dx = self._room(batch, time, inputs)
            if embedding is not None:  # rows are looked up before
                call.x = self._room(batch, time, inputs)
        call.mask = self._model.mask
        call.y = self._room(batch, time if part.return_sequences else 1, units)
        call.hT, call.dh0 = self._room(batch, units), self._room(batch, units)
        if cell == lib.FRNN_LSTM:
            call.cT, call.dc0 = self._room(batch, units), self._room(batch, units)
        return call

    def begin(
        self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None, order: np.ndarray | None, training: bool
    ) -> None:
        model = self._model
        self._data = x, y, weights, order
        for samples, array in ((model.x, x), (model.y, y), (model.weights, weights)):
            self._samples(samples, array, order is not None)
        model.order = ffi.NULL if order is None else ffi.from_buffer("int64_t[]", order)
        if training and not self._reserves:
            self._kept += [reserves.take(lib.frnn_reserve_size(call), self._layers.dtype) for call in self._calls]
            self._reserves = [_at(array) for array in self._kept[-len(self._calls) :]]
        self._training = training
        for call, reserve in zip(self._calls, self._reserves or [ffi.NULL] * len(self._calls), strict=True):
            call.reserve = reserve if training else ffi.NULL
        self._bound = None

    def _samples(self, samples: Any, array: np.ndarray | None, ordered: bool) -> None:
        """Points to an array of data. Entries that do not follow one another are brought together, batch by batch."""
        if array is None:
            samples.entries = samples.room = ffi.NULL
            return
        size, samples.bytes = samples.bytes, array[0].nbytes
        samples.entries, samples.stride = ffi.cast("void *", array.ctypes.data), array.strides[0]
        if not ordered and samples.stride == samples.bytes:
            samples.room = ffi.NULL
        elif not samples.room or samples.bytes != size:
            samples.room = self._room(self._head.n, *array.shape[1:], dtype=array.dtype)

    def clear(self, total: float) -> None:
        self._model.done, self._model.total, self._model.correct = 0, total, 0

    def run(self, sample: int, bound: Bound, rates: Sequence[float]) -> None:
        if self._bound is not bound:
            self._bind(bound)
        run(lib.frnn_steps, self._model, sample, len(rates), rates)

    def done(self) -> Done:
        return Done(self._model.done, self._model.total, self._model.correct, self._p)

    def _bind(self, bound: Bound) -> None:
        """Points the structs to weights, gradients and slots, and to what dropout draws from."""
        self._bound = bound
        w, g, rule, dropouts = bound
        weights, gradients, size = _at(w), _at(g), w.itemsize
        layers, head, model = self._layers, self._head, self._model
        for part, call in zip(layers.recurrent, self._calls, strict=True):
            W, U, *b = (at * size for at in part.at)
            call.W, call.U, call.dW, call.dU = weights + W, weights + U, gradients + W, gradients + U
            if b:
                call.b, call.db = weights + b[0], gradients + b[0]
        W, *b = (at * size for at in layers.dense.at)
        head.W, head.dW = weights + W, gradients + W if self._training else ffi.NULL
        if b:
            head.b, head.db = weights + b[0], gradients + b[0]
        if layers.embedding is not None:
            table = layers.embedding.at[0] * size
            first, at, gradient = self._calls[0], weights + table, gradients + table
            if first.V:
                first.x, first.dx = at, gradient
            else:
                model.table, model.dtable = at, gradient
        self._update = model.update = ffi.NULL if rule is None else new_update(w, g, rule)
        self._set_dropouts(iter(dropouts or ()))

    def _set_dropouts(self, dropouts: Iterator[tuple[Drawn | None, Drawn | None]]) -> None:
        """Without any, nothing is dropped."""
        drops: list[tuple[Any, ...]] = []
        self._masks: list[np.ndarray] = []

        def mask(drawn: Drawn | None, size: int) -> Any:
            """Where it will be."""
            if drawn is None:
                return ffi.NULL
            generator = 0 if drawn.generator is None else drawn.generator.bit_generator.ctypes.bit_generator.value
            self._masks.append(np.empty(drawn.masks * size, self._layers.dtype))
            drops.append(
                (ffi.cast("void *", generator), drawn.rate, drawn.kept, drawn.masks * size, _at(self._masks[-1]))
            )
            return drops[-1][-1]

        inputs = [*(call.B * call.T * call.I for call in self._calls), self._head.n * self._head.I]
        self._factors = self._model.factors = ffi.new("void *[]", len(inputs))
        for k, (size, dropped) in enumerate(zip(inputs, self._layers.dropped, strict=True)):
            if dropped:
                self._factors[k] = mask(next(dropouts, (None, None))[0], size)
            if k < len(self._calls):
                call, (x, h) = self._calls[k], next(dropouts, (None, None))
                call.x_masks, call.h_masks = (0 if drawn is None else drawn.masks for drawn in (x, h))
                call.x_mask, call.h_mask = mask(x, call.B * call.I), mask(h, call.B * call.H)
        self._drops = self._model.drop = ffi.new("frnn_drop[]", drops)
        self._model.drops = len(drops)


def model_steps(
    parts: Sequence[Part], goal: Goal, spans: Sequence[tuple[int, int]], dtype: np.dtype[Any]
) -> CModelSteps | None:
    embedding = parts[0] if parts[0].kind == "embedding" else None
    dense = parts[-1]
    recurrent: list[Part] = []
    dropped = [False]
    for part in parts[embedding is not None : -1]:
        if part.kind in _CELLS:
            recurrent.append(part)
            dropped.append(False)
        elif part.kind == "dropout" and not dropped[-1]:
            dropped[-1] = True
        else:
            return None
    chain = [*([] if embedding is None else [embedding]), *recurrent, dense]
    if (
        dense.kind != "dense"
        or goal.source != "linked"
        or goal.loss not in HEADS
        or not recurrent
        or (dropped[0] and embedding is None)
        or any(part.return_sequences is (part is recurrent[-1]) for part in recurrent)
        or any(part.units != following.inputs for part, following in pairwise(chain))
    ):
        return None
    return CModelSteps(Layers(embedding, recurrent, dropped, dense, goal.loss, dtype))
