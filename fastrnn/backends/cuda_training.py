"""A model that trains on the GPU: weights, activations, gradients and optimizer slots stay there.

Data goes over once; a pass puts it into the pass' order there. A step is launches alone: no array comes back, and none
goes over but dropout's factors, which the host draws. Each step leaves its sums of loss and metrics beside those of the
steps before, to be read whenever somebody asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .contract import Goal, Part, Result, Update
from .cuda_kernels import embedding, end, plain, updates
from .cuda_kernels.device import Device
from .cuda_kernels.parts import RUNNERS, Dense, Embedding, Memory, Recurrent, Values, Weights
from .cuda_kernels.products import FLAT_THREADS, Product, flat, multiply

# A last Dense of up to this many weights is computed along with the loss, one thread to a row.
SMALL_DENSE = 256

Factors = Sequence[tuple[np.ndarray | None, np.ndarray | None]]


class Data(NamedTuple):
    """What upload gives. `rows` are a sample's; `words` counts each sample's ids that are no padding, on the host."""

    x: Any
    y: Any
    weights: Any
    shape: tuple[int, ...]
    rows: int
    words: np.ndarray | None


class Training:
    """The contract's training."""

    def __init__(self, parts: Sequence[Part], goal: Goal, spans: Sequence[tuple[int, int]], dtype: Any) -> None:
        self._goal, self._real = goal, dtype.type
        self._measures = 1 + len(goal.metrics)
        self._device, self._step_memory, self._pass_memory = Device(()), Memory(), Memory()
        count = spans[-1][1]
        self._w, self._g = self._device.empty(count, dtype), self._device.empty(count, dtype)
        self._slots: list[Any] = [None] * 3
        ends = [*(start for start, _ in spans), count]
        self._ends = {"norm": self._to_device(np.array(ends)), "global_norm": self._to_device(np.array([0, count]))}
        self._scales = self._device.empty(len(spans), dtype)
        self._products: list[Product] = []
        views = {start: self._w[start:end] for start, end in spans}
        self._runners = [
            RUNNERS[part.kind](
                part, self._step_memory, Weights([views[at] for at in part.at], self._g, part.at, self._products)
            )
            for part in parts
        ]
        # gradients of what comes before are of no use
        self._first = next(k for k, part in enumerate(parts) if part.at)
        first, last = self._runners[0], self._runners[-1]
        self._embedding = first if isinstance(first, Embedding) else None
        if self._embedding is not None:
            self._embedding.looks_up = not isinstance(self._runners[min(1, len(parts) - 1)], Recurrent)
        self._small: Dense | None = None
        if goal.source == "linked":
            assert isinstance(last, Dense)
            last.linear = True
            self._small = last if last.part.inputs * last.part.units <= SMALL_DENSE else None

    # -- between host and device

    def upload(self, x: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> Data:
        masked = self._embedding is not None and self._embedding.part.mask_zero
        words = np.count_nonzero(x.reshape(len(x), -1), axis=1) if masked else None
        there = None if weights is None else self._to_device(weights)
        return Data(self._to_device(x), self._to_device(y), there, x.shape, int(np.prod(y.shape[1:-1])), words)

    def _to_device(self, array: np.ndarray) -> Any:
        return self._device.to_device(np.ascontiguousarray(array))

    def load(self, w: np.ndarray, slots: Sequence[np.ndarray | None]) -> None:
        self._w.copy_to_device(w)
        for k, slot in enumerate(slots):
            if slot is None:
                continue
            if self._slots[k] is None:
                self._slots[k] = self._device.empty(slot.size, slot.dtype)
            self._slots[k].copy_to_device(slot)

    def store(self, w: np.ndarray, g: np.ndarray, slots: Sequence[np.ndarray | None]) -> None:
        for there, here in ((self._w, w), (self._g, g), *zip(self._slots, slots, strict=True)):
            if here is not None:
                here[...] = self._device.give(there, here.shape, to_host=True)

    def results(self, first: int, last: int) -> list[list[Result]]:
        width = self._measures * self._blocks
        part = self._results[first * width : last * width]
        sums = self._device.give(part, (last - first, self._measures, self._blocks), to_host=True)
        return [self._step_results(k, sums[k - first]) for k in range(first, last)]

    def _step_results(self, k: int, sums: np.ndarray) -> list[Result]:
        rows, columns, masked = self._shapes[k]
        found = []
        for place, (name, row) in enumerate(zip((self._goal.loss, *self._goal.metrics), sums, strict=True)):
            total = float(row[: flat(rows)[0]].sum(dtype=np.float64))
            each = 1 if "categorical" in name else columns
            # of masked rows, a metric is the mean over those that count of their means; the loss is weighted already
            found.append(Result(total / each, self._valid(k)) if masked and place else Result(total, rows * each))
        return found

    # -- a pass

    def begin(self, data: Data, order: np.ndarray | None, size: int, training: bool) -> None:
        memory = self._pass_memory
        memory.rewind()
        self._data, self._order, self._samples = data, order, data.shape[0]
        self._size = min(size, self._samples)
        self._arrays = [data.x, data.y, data.weights]
        if order is not None:
            places = memory.to_device(order)
            self._arrays = [
                None if array is None else embedding.gather(memory, array, places, array.size // self._samples)
                for array in self._arrays
            ]
        x = self._arrays[0]
        self._mask = None
        if data.words is not None:
            self._mask = memory.empty(x.size, np.uint8)
            memory.launch(plain.mask_kernel(), *flat(x.size), self._mask, x, x.size)
        if self._embedding is not None and training:
            batch = self._size * (x.size // self._samples)
            self._embedding.order = embedding.sort(memory, x, self._embedding.part.inputs, batch)
        self._blocks = flat(self._size * data.rows)[0]
        self._shapes: dict[int, tuple[int, int, bool]] = {}
        steps = -(-self._samples // self._size)
        self._results = memory.empty(steps * self._measures * self._blocks, self._real)

    def _batch(self, k: int, array: Any) -> Any:
        """The k-th batch of an array that has as much for each sample."""
        if array is None:
            return None
        width = array.size // self._samples
        return array[k * self._size * width : min((k + 1) * self._size, self._samples) * width]

    def _valid(self, k: int) -> int:
        """How many rows of a batch are not masked."""
        assert self._data.words is not None
        samples = slice(k * self._size, (k + 1) * self._size)
        return int(self._data.words[samples if self._order is None else self._order[samples]].sum())

    # -- a step

    def train(self, k: int, factors: Factors, update: Update) -> None:
        gradient = self._forward(k, factors, training=True)
        for place in range(len(self._runners) - 1, self._first - 1, -1):
            runner, wanted = self._runners[place], place > self._first
            if runner is not self._small:  # its own are there
                gradient = runner.backward(gradient, wanted)
        multiply(self._step_memory, *self._products)
        self._products.clear()
        self._update(update)

    def test(self, k: int) -> None:
        self._forward(k, [(None, None)] * len(self._runners), training=False)

    def _forward(self, k: int, factors: Factors, *, training: bool) -> Any:
        """Up to the loss; gives the gradient of the last output, or, of a small Dense's, that of its input."""
        self._step_memory.rewind()
        x, mask = (self._batch(k, array) for array in (self._arrays[0], self._mask))
        shape = (min(self._size, self._samples - k * self._size), *self._data.shape[1:])
        values = Values(x, shape, k, None, mask, shape)
        for runner, factor in zip(self._runners, self._upload_factors(factors), strict=True):
            if runner is not self._small:
                values = runner.forward(values, factor, training)
        return self._end(values, training)

    def _upload_factors(self, factors: Factors) -> list[tuple[Any, Any]]:
        """All of a step's in one copy."""
        drawn = [array.reshape(-1) for pair in factors for array in pair if array is not None]
        if not drawn:
            return [(None, None)] * len(factors)
        there, at, found = self._step_memory.to_device(np.concatenate(drawn, dtype=self._real)), 0, []
        for pair in factors:
            views = []
            for array in pair:
                size = 0 if array is None else array.size
                views.append(None if array is None else there[at : at + size])
                at += size
            found.append((views[0], views[1]))
        return found

    def _end(self, values: Values, training: bool) -> Any:
        memory, small, goal = self._step_memory, self._small, self._goal
        rows, inputs, width = values.rows, values.shape[-1], values.shape[-1] if small is None else small.part.units
        dz = memory.empty(rows * width, self._real)
        # in place of an array that is not there, one that the kernel does not look at
        z, x, W, b, dx = values.array, dz, dz, dz, dz
        if small is not None:
            small.take(values)
            x, z, dx = values.array, memory.empty(rows * width, self._real), memory.empty(rows * inputs, self._real)
            W, b = (*small.weights.arrays, dz)[:2]
        y, weights = (self._batch(values.batch, array) for array in self._arrays[1:])
        masked = values.masked
        self._shapes[values.batch] = (rows, width, masked)
        valid = self._valid(values.batch) if masked else rows
        size = end.End(
            **dict(rows=rows, inputs=inputs, width=width, blocks=self._blocks),
            at=values.batch * self._measures * self._blocks,
            weighted=int(weights is not None),
            masked=int(masked),
            biased=int(small is not None and len(small.weights.arrays) > 1),
        )
        scales = (rows / valid if valid else 0.0, 1 / (rows * (1 if "categorical" in goal.loss else width)))
        kernel = end.end_kernel(self._real, goal.loss, goal.source, end.codes(goal.metrics), small is not None)
        memory.launch(
            kernel,
            *flat(rows),
            *(size, dz, dx, self._results, z, x, W, b, y, dz if weights is None else weights),
            *(values.mask if masked else memory.empty(1, np.uint8), *map(self._real, scales)),
        )
        if small is None:
            return dz
        if training:
            small.weight_gradients(dz)
        return dx

    def _update(self, update: Update) -> None:
        rule, rate, beta_1, beta_2, epsilon, nesterov, clip, limit = update
        real, w, g, scales = self._real, self._w, self._g, self._scales
        m, v, a = (w if slot is None else slot for slot in self._slots)
        ends = self._ends["global_norm" if clip == "global_norm" else "norm"]
        if clip in ("norm", "global_norm"):
            kernel = updates.norm_kernel(real, clip == "global_norm")
            self._device.launch(kernel, ends.size - 1, FLAT_THREADS, scales, g, ends, real(limit))
        numbers = map(real, (rate, beta_1, beta_2, 1 - beta_1, 1 - beta_2, epsilon, limit))
        has_m, has_a = (self._slots[k] is not None for k in (0, 2))
        kernel = updates.update_kernel(real, rule, has_m, has_a, nesterov, clip)
        self._device.launch(kernel, *flat(w.size), w, g, m, v, a, scales, ends, w.size, *numbers)
