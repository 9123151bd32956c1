"""Streams: trained layers that take one time step at a time, for real-time use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from fastrnn import ops
from fastrnn.arguments import integer
from fastrnn.backends import get_backend
from fastrnn.backends.contract import Stage, Weights
from fastrnn.layers import activations
from fastrnn.layers.base import Layer
from fastrnn.layers.chain import flat
from fastrnn.layers.dense import Dense
from fastrnn.layers.dropout import Dropout
from fastrnn.layers.embedding import Embedding
from fastrnn.layers.rnn import GRU, LSTM, RNN


class Stream:
    """A model, or a layer, that takes one time step of its input at a time and keeps its states.

    Steps give what the layers give on the whole sequence, to rounding: after `reset`, the output of step t is that of
    the model on the first t inputs. Every recurrent layer gives its output at every step, whatever its
    `return_sequences`; dropout is off. On the C backend a step is one call that allocates nothing.

    Args:
        model: a built Sequential or layer, of LSTM, GRU, Dense and Dropout, which may begin with an Embedding. The
            weights are copied; `refresh` copies them again.
        batch: None for one sample, inputs (I,) and outputs (units,); or the number B of samples that go side by side,
            inputs (B, I) and outputs (B, units). With an Embedding first, the input is one token id, or (B,) ids.
        backend: as for layers; it stays the stream's.

    Attributes:
        y: the output of the last step.

    Raises:
        ValueError: a model that is not built, or a layer with go_backwards. TypeError: a layer of another kind.
    """

    def __init__(self, model: Layer, *, batch: int | None = None, backend: str | None = None) -> None:
        layers = [layer for layer in flat(model) if not isinstance(layer, Dropout)]
        _check(model, layers)
        embedding = layers[0] if isinstance(layers[0], Embedding) else None
        layers = layers[embedding is not None :]
        if not layers:
            raise ValueError(f"Stream: {model.name} must have a layer that computes, LSTM, GRU or Dense")
        self._name = model.name
        self._embedding = embedding
        self._layers = layers
        self._batch = None if batch is None else integer(batch, "Stream: batch", 1)
        rows, dtype = self._batch or 1, layers[0].dtype
        stages = [_stage(layer, rows, dtype) for layer in layers]
        self._states = [array for stage in stages for array in (stage.h, stage.c) if array is not None]
        y = stages[-1].y
        self.y: np.ndarray = y if self._batch else y[0]
        inputs = layers[0].weights[0].shape[0]
        self._table = None if embedding is None else embedding.weights[0].copy()
        self._dtype = dtype if embedding is None else np.dtype(np.int64)
        shape: tuple[int, ...] = () if embedding is not None else (inputs,)
        self._shape = shape if self._batch is None else (rows, *shape)
        self._input = np.zeros(self._shape, self._dtype)
        module = get_backend(backend)
        make = getattr(module, "stream", None)
        self._runner: Any = (
            _OpsStream(self._table, stages, module) if make is None else make(self._table, stages, inputs)
        )
        self.refresh()
        self.reset()

    def step(self, x: Any) -> np.ndarray:
        """The output for the next time step x.

        Args:
            x: numbers of the shape (I,), or (B, I) with `batch`, cast to the layers' dtype; token ids where an
                Embedding comes first.

        Returns:
            `y`, the same array at every step: the next step overwrites it, so copy what is to be kept.

        Raises:
            ValueError: another shape, or a token id out of range. TypeError: no numbers, or ids that are no integers.
            The states are then as they were.
        """
        # what needs no conversion is read where it lies
        if not (
            x.__class__ is np.ndarray
            and x.shape == self._shape
            and x.dtype is self._dtype
            and x.flags.c_contiguous
            and self._embedding is None
        ):
            x = self._converted(x)
        try:
            self._runner.step(x)
        except IndexError:
            raise self._out_of_range() from None
        return self.y

    def _converted(self, x: Any) -> np.ndarray:
        """The input in the stream's own array, checked."""
        room = self._input
        if x.__class__ is int and self._shape == () and self._embedding is not None and -(2**63) <= x < 2**63:
            room[()] = x
        else:
            array = np.asarray(x)
            what = "numbers" if self._embedding is None else "token ids, of an integer dtype,"
            if array.dtype.kind not in ("fiub" if self._embedding is None else "iu"):
                raise TypeError(f"Stream.step: x must hold {what} for {self._name}, got {array.dtype}")
            if array.shape != self._shape:
                raise ValueError(
                    f"Stream.step: x must have shape {self._shape} for {self._name} with batch={self._batch}, "
                    f"got {array.shape}"
                )
            if array.dtype == np.uint64 and self._embedding is not None:
                array = np.minimum(array, np.uint64(2**63 - 1))  # too large for any table, and stays so
            np.copyto(room, array, casting="unsafe")
        if self._embedding is not None and self._embedding.mask_zero and not room.all():
            raise ValueError(f"Stream.step: token id 0 is padding for {self._name} (mask_zero=True), and is not fed")
        return room

    def _out_of_range(self) -> ValueError:
        assert self._table is not None
        ids = self._input.reshape(-1)
        place = int(np.flatnonzero((ids < 0) | (ids >= len(self._table)))[0])
        return ValueError(
            f"Stream.step: token ids must be in [0, {len(self._table)}), got {ids[place]} at flat index {place}"
        )

    @property
    def state(self) -> list[np.ndarray]:
        """Copies of the states, layer by layer, h and for LSTM c, (units,) or (B, units); set it to go on from them."""
        return [array.copy() if self._batch else array[0].copy() for array in self._states]

    @state.setter
    def state(self, states: Sequence[Any]) -> None:
        if not isinstance(states, list | tuple):
            raise TypeError(f"Stream.state must be a list of {len(self._states)} arrays, got {states!r}")
        new = [np.asarray(state) for state in states]
        if len(new) != len(self._states):
            raise ValueError(f"Stream.state must be {len(self._states)} arrays, got {len(new)}")
        for k, (mine, given) in enumerate(zip(self._states, new, strict=True)):
            shape = mine.shape if self._batch else mine.shape[1:]
            if given.shape != shape:
                raise ValueError(f"Stream.state: array {k} must have shape {shape}, got {given.shape}")
            if given.dtype.kind not in "fiub":
                raise TypeError(f"Stream.state: array {k} must hold numbers, got {given.dtype}")
        for mine, given in zip(self._states, new, strict=True):
            mine[...] = given

    def __reduce__(self) -> NoReturn:
        """Refuses copies and pickles: their states and outputs would not be where the backend writes them."""
        raise TypeError("a Stream cannot be copied or pickled; make another one of the model, and set its state")

    def reset(self) -> None:
        """Starts anew: states and output are zero."""
        for array in self._states:
            array.fill(0)
        self.y.fill(0)

    def refresh(self) -> None:
        """Takes the layers' present weights; the states stay."""
        if self._table is not None and self._embedding is not None:
            self._table[...] = self._embedding.weights[0]
        self._runner.pack([_weights(layer) for layer in self._layers])


class _OpsStream:
    """The contract's stream for backends that have none of their own: the operations, over one time step."""

    def __init__(self, table: np.ndarray | None, stages: Sequence[Stage], module: Any) -> None:
        self._table, self._stages = table, stages
        self._backend = module.__name__.rpartition(".")[2]
        self._weights: list[Weights] = []

    def pack(self, weights: Sequence[Weights]) -> None:
        self._weights = [Weights(W.copy(), _copy(U), _copy(b)) for W, U, b in weights]

    def step(self, x: np.ndarray) -> None:
        if self._table is not None:
            ids = x.reshape(-1)
            if not ((ids >= 0) & (ids < len(self._table))).all():
                raise IndexError
            x = self._table[ids]
        x = x.reshape(len(self._stages[0].y), -1)
        for stage, (W, U, b) in zip(self._stages, self._weights, strict=True):
            y, h, c = stage.y, stage.h, stage.c
            if h is None:
                z = x @ W if b is None else x @ W + b
                y[...] = activations.get(stage.activation).forward(z)
            elif c is None:
                after = stage.kind == "gru"
                y[...], h[...] = ops.gru(
                    x[:, None], W, U, b, h, reset_after=after, return_sequences=False, backend=self._backend
                )
            else:
                y[...], h[...], c[...] = ops.lstm(
                    x[:, None], W, U, b, h, c, return_sequences=False, backend=self._backend
                )
            x = y


def _copy(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array.copy()


def _check(model: Layer, layers: list[Any]) -> None:
    if not isinstance(model, Layer):
        raise TypeError(f"Stream: model must be a model or a layer, got {model!r}")
    if not layers or not all(layer.built for layer in (model, *layers)):
        raise ValueError(f"Stream: {model.name} is not built; call it on data, or build(), first")
    for k, layer in enumerate(layers):
        if not isinstance(layer, RNN | Dense) and not (k == 0 and isinstance(layer, Embedding)):
            where = ", and an Embedding only first" if isinstance(layer, Embedding) else ""
            raise TypeError(f"Stream: layers must be LSTM, GRU, Dense and Dropout{where}, got {layer.name}")
        if isinstance(layer, RNN) and layer.go_backwards:
            raise ValueError(f"Stream: {layer.name} has go_backwards=True: it would begin at the end")
        if layer.dtype != layers[0].dtype:
            raise ValueError(f"Stream: all layers must have the same dtype, got {layers[0].dtype} and {layer.dtype}")


def _stage(layer: Any, rows: int, dtype: np.dtype[Any]) -> Stage:
    y, h, c = (np.zeros((rows, layer.units), dtype) for _ in range(3))
    if isinstance(layer, LSTM):
        return Stage("lstm", "linear", y, h, c)
    if isinstance(layer, GRU):
        return Stage("gru" if layer.reset_after else "gru_reset_before", "linear", y, h, None)
    return Stage("dense", layer.activation, y, None, None)


def _weights(layer: Any) -> Weights:
    W, *others = layer.weights
    U = others.pop(0) if isinstance(layer, RNN) else None
    return Weights(W, U, others[0] if others else None)
