"""With --full: time against units, time steps, batch and length of the training set, one at a time."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import Measure
from fastrnn.bench.layer import GATES, Layer
from fastrnn.bench.models import BATCH
from fastrnn.bench.parts import FITS, SWEEPS, can_step, fit_plan, sweep_plan, too_slow
from fastrnn.bench.peers import contenders


def parameters(full: bool) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """The sizes, and for each all contenders that take part."""
    sizes: list[tuple[str, Any]] = [(axis, shape) for axis, shapes in SWEEPS.items() for shape in shapes]
    sizes += [("samples", BATCH * steps) for steps in FITS]
    return ("cell", "axis", "size", "contender"), [
        (cell, axis, size, name)
        for axis, size in (sizes if full else [])
        for cell in GATES
        for name, contender in contenders().items()
        if ("step" in contender.takes and can_step(name, cell) if axis == "samples" else "train" in contender.takes)
    ]


def test_growth(cell: str, axis: str, size: Any, contender: str, measure: Measure) -> None:
    if axis == "samples":
        measure(lambda team, choice: fit_plan(team, choice, "scaling", cell, size // BATCH))
        return
    if too_slow(contender, Layer(cell, "train", size)):
        pytest.skip(f"{contender} takes part in small cases only")
    measure(lambda team, choice: sweep_plan(team, choice, cell, axis, size))
