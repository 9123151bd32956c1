"""A stream's steps through the C kernels: pointers are set once, a step is one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn._kernels import ffi, lib

from .contract import Stage, Weights

_KINDS = {
    "lstm": lib.FRNN_STAGE_LSTM,
    "gru": lib.FRNN_STAGE_GRU,
    "gru_reset_before": lib.FRNN_STAGE_GRU_RESET_BEFORE,
    "dense": lib.FRNN_STAGE_DENSE,
}
_ACTIVATIONS = {
    "linear": lib.FRNN_ACTIVATE_LINEAR,
    "sigmoid": lib.FRNN_ACTIVATE_SIGMOID,
    "tanh": lib.FRNN_ACTIVATE_TANH,
    "relu": lib.FRNN_ACTIVATE_RELU,
    "softmax": lib.FRNN_ACTIVATE_SOFTMAX,
}


class CStream:
    """The contract's stream."""

    def __init__(self, table: np.ndarray | None, stages: Sequence[Stage], inputs: int) -> None:
        dtype, batch = stages[0].y.dtype, len(stages[0].y)
        self._c_stages = ffi.new("frnn_stage[]", len(stages))
        self._c_stream = c_stream = ffi.new("frnn_stream *")
        c_stream.real_bits, c_stream.isa = dtype.itemsize * 8, lib.frnn_isa_chosen()
        c_stream.B, c_stream.I, c_stream.stages, c_stream.stage = batch, inputs, len(stages), self._c_stages
        if table is not None:
            c_stream.table, c_stream.V = ffi.from_buffer(table), len(table)
        self._kept: list[Any] = [table, stages]  # what the structs point to
        for k, stage in enumerate(stages):
            c = self._c_stages[k]
            c.kind, c.activation = _KINDS[stage.kind], _ACTIVATIONS[stage.activation]
            c.I, c.H = inputs, stage.y.shape[1]
            c.h, c.c, c.y = _pointer(stage.h), _pointer(stage.c), _pointer(stage.y)
            packed = np.empty(lib.frnn_stage_size(c_stream, k), dtype)
            scratch = np.empty(4 * c.H, dtype)
            c.packed, c.scratch = _pointer(packed), _pointer(scratch)
            self._kept += [packed, scratch]
            inputs = c.H

    def pack(self, weights: Sequence[Weights]) -> None:
        for c, (W, U, b) in zip(self._c_stages, weights, strict=True):
            c.W, c.U, c.b = _pointer(W), _pointer(U), _pointer(b)
        lib.frnn_stream_pack(self._c_stream)

    def step(self, x: np.ndarray) -> None:
        bad = lib.frnn_stream_step(self._c_stream, ffi.from_buffer(x))
        if bad >= 0:
            raise IndexError(bad)


def _pointer(array: np.ndarray | None) -> Any:
    return ffi.NULL if array is None else ffi.from_buffer(array)
