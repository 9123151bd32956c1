"""One layer over a batch of sequences, in training and inference, and one time step of one sequence."""

from __future__ import annotations

import pytest

from conftest import Measure
from fastrnn.bench.layer import GATES, MODES, SHAPES, STREAM, Layer
from fastrnn.bench.parts import LATENCY_SHAPES, layer_plan, too_slow
from fastrnn.bench.peers import contenders

SOME, SOME_STREAMS = (SHAPES[0], SHAPES[2], SHAPES[7]), LATENCY_SHAPES[1:3]


def parameters(full: bool) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """The cases, and for each all contenders that take part in its kind."""
    cases = [(shape, mode) for shape in (SHAPES if full else SOME) for mode in MODES]
    cases += [(shape, STREAM) for shape in (LATENCY_SHAPES if full else SOME_STREAMS)]
    return ("cell", "mode", "shape", "contender"), [
        (cell, mode, shape, name)
        for shape, mode in cases
        for cell in GATES
        for name, contender in contenders().items()
        if mode in contender.takes
    ]


def test_layer(cell: str, mode: str, shape: tuple[int, int, int, int], contender: str, measure: Measure) -> None:
    layer = Layer(cell, mode, shape)
    if too_slow(contender, layer):
        pytest.skip(f"{contender} takes part in small cases only")
    measure(lambda team, choice: layer_plan(team, choice, "latency" if mode == STREAM else "layers", layer))
