"""The reference's backward against central differences of its forward, in float64, over every input."""

from __future__ import annotations

import numpy as np
import pytest

from cases import CELLS, OPTIONS, Case, assert_close, make_case


def loss(case: Case) -> float:
    outputs = case.forward("reference", training=False)[:-1]
    return float(sum((y * dy).sum() for y, dy in zip(outputs, case.upstream, strict=True)))


def central_differences(case: Case, name: str, step: float = 1e-6) -> np.ndarray:
    array = case.inputs[name].copy()
    case = case.with_inputs(**{name: array})
    gradient = np.empty_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + step
        above = loss(case)
        array[index] = value - step
        below = loss(case)
        array[index] = value
        gradient[index] = (above - below) / (2 * step)
    return gradient


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_reference_gradients(cell: str, options: str) -> None:
    case = make_case(cell, (3, 4, 3, 2), seed=1, **OPTIONS[options])
    got = case.run("reference")
    want = {f"d{name}": central_differences(case, name) for name in case.inputs}
    assert_close({name: got[name] for name in want}, want, 2e-8)


@pytest.mark.parametrize("cell", CELLS)
def test_each_upstream_gradient_alone(cell: str) -> None:
    """None stands for zero, and what reaches only y, hT or cT is right on its own."""
    case = make_case(cell, (2, 3, 2, 3), seed=2, mask=True)
    full = case.upstream
    for k in range(len(full)):
        case.upstream = [d if j == k else None for j, d in enumerate(full)]  # type: ignore[misc]
        got = case.run("reference")
        case.upstream = [d if j == k else np.zeros_like(d) for j, d in enumerate(full)]
        want = {f"d{name}": central_differences(case, name) for name in case.inputs}
        assert_close({name: got[name] for name in want}, want, 2e-8)
