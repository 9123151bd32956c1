"""The kernels' exp, tanh and sigmoid: the bounds that csrc/vmath.h states, over all magnitudes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fastrnn.backends import available_backends

if available_backends()["c"] is not None:
    pytest.skip("the C backend is missing", allow_module_level=True)

from fastrnn.backends.c import ffi, isa_names, lib

LONG = np.longdouble
assert np.finfo(LONG).nmant > 60, "the oracle needs more digits than float64"

FUNCTIONS = {
    "exp": (lib.FRNN_EXP, np.exp, 2),
    "exp2": (lib.FRNN_EXP2, np.exp2, 2),
    "tanh": (lib.FRNN_TANH, np.tanh, 4),
    "sigmoid": (lib.FRNN_SIGMOID, lambda x: 1 / (1 + np.exp(-x)), 3),
}
# beyond these, in float32 and float64, arguments are clamped
ENDS = {"exp": (87, 708), "exp2": (126, 1022)}


def evaluate(function: int, x: np.ndarray) -> np.ndarray:
    y = np.full_like(x, -7)
    lib.frnn_elementwise(function, x.itemsize * 8, x.size, ffi.from_buffer(x), ffi.from_buffer(y))
    return y


def grid(dtype: Any) -> np.ndarray:
    """Every magnitude of both signs, densely, and every integer and half near zero."""
    info = np.finfo(dtype)
    magnitudes = np.exp(np.linspace(np.log(float(info.tiny)), np.log(float(info.max)) - 1e-6, 400_000))
    near = np.linspace(-25, 25, 400_001)
    wide = np.linspace(-800, 800, 200_001)
    return np.concatenate([magnitudes, -magnitudes, near, wide, [0.0, -0.0]]).astype(dtype)


@pytest.fixture(params=isa_names())
def isa(request: pytest.FixtureRequest, c_backend: ModuleType) -> str:
    c_backend.set_isa(request.param)
    return str(request.param)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_bound(isa: str, name: str, dtype: Any) -> None:
    function, exact, bound = FUNCTIONS[name]
    x, info = grid(dtype), np.finfo(dtype)
    with np.errstate(over="ignore", under="ignore"):
        want = exact(x.astype(LONG))
    got = evaluate(function, x)
    normal = (np.abs(want) >= info.tiny * 1.01) & (want <= info.max / 4)
    if name in ENDS:
        normal &= np.abs(x) < ENDS[name][dtype == np.float64]
    spacing = np.spacing(np.abs(want[normal]).astype(dtype)).astype(LONG)
    ulps = np.abs(got[normal].astype(LONG) - want[normal]) / spacing
    assert ulps.max() <= bound, f"{ulps.max():.2f} ulp at {x[normal][ulps.argmax()]!r}"
    if name not in ENDS:
        assert np.abs(got - want).max() <= 2 * info.eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(isa: str, dtype: Any) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)
    tanh, sigmoid, exp = (evaluate(FUNCTIONS[name][0], x) for name in ("tanh", "sigmoid", "exp"))
    np.testing.assert_array_equal(tanh, np.array([np.nan, 1, -1, 0, 0], dtype))
    np.testing.assert_allclose(sigmoid, np.array([np.nan, 1, 0, 0.5, 0.5], dtype), rtol=0, atol=np.finfo(dtype).tiny)
    assert np.isnan(exp[0])
    assert exp[1] > np.finfo(dtype).max / 4
    assert 0 <= exp[2] <= 2 * np.finfo(dtype).tiny


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_monotone_to_the_last_digits_and_bounded(isa: str, name: str, dtype: Any) -> None:
    x = np.sort(grid(dtype))
    y = evaluate(FUNCTIONS[name][0], x)
    assert y.max() <= 1
    assert y.min() >= (-1 if name == "tanh" else 0)
    assert np.diff(y).min() >= -4 * np.finfo(dtype).eps


def test_a_length_that_is_no_multiple_of_the_vectors(isa: str) -> None:
    for n in range(1, 40):
        x = np.linspace(-2, 2, n).astype(np.float32)
        np.testing.assert_allclose(evaluate(lib.FRNN_TANH, x), np.tanh(x), atol=3e-7)
