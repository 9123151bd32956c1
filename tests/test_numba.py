"""What only the numba backend has: functions of its own for the gates, a cache on disk, a late import."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest

import fastrnn as fr
from cases import CELLS, OPTIONS, assert_close, make_case

if fr.available_backends()["numba"] is not None:
    pytest.skip("the numba backend is missing", allow_module_level=True)

from numba import cfunc, njit, types

from fastrnn.backends import numba as backend
from fastrnn.backends import numba_kernels
from fastrnn.backends.numba_kernels import gates
from fastrnn.backends.numba_kernels.memory import load, record_of, store

LONG = np.longdouble
FUNCTIONS = {
    "tanh": (gates.tanh, np.tanh, 5),
    "sigmoid": (gates.sigmoid, lambda x: 1 / (1 + np.exp(-x)), 4),
}


def evaluate(name: str, x: np.ndarray) -> np.ndarray:
    """The gate's function, over whole vectors of the machine's width."""
    bits, lanes = x.itemsize * 8, numba_kernels.VECTOR_BYTES // x.itemsize
    function = FUNCTIONS[name][0]

    @njit
    def run(address, size):  # type: ignore[no-untyped-def]
        p = record_of(address, bits, lanes)
        for k in range(0, size, lanes):
            store(p.y, k, function(load(p.x, k)))

    padded = np.zeros(x.size + lanes, x.dtype)
    padded[: x.size] = x
    y = np.full_like(padded, -7)
    record = backend.Record()
    record.point(x=padded, y=y)
    run(record.fields.ctypes.data, x.size)
    return y[: x.size]


def grid(dtype: Any) -> np.ndarray:
    """Every magnitude of both signs, and all of what is near zero, densely."""
    info = np.finfo(dtype)
    magnitudes = np.exp(np.linspace(np.log(float(info.tiny)), np.log(float(info.max)) - 1e-6, 400_000))
    near, wide = np.linspace(-25, 25, 400_001), np.linspace(-800, 800, 200_001)
    return np.concatenate([magnitudes, -magnitudes, near, wide, [0.0, -0.0]]).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_bound(name: str, dtype: Any) -> None:
    _, exact, bound = FUNCTIONS[name]
    x, info = grid(dtype), np.finfo(dtype)
    with np.errstate(over="ignore", under="ignore"):
        want = exact(x.astype(LONG))
    got = evaluate(name, x)
    normal = np.abs(want) >= info.tiny * 1.01
    ulps = np.abs(got[normal] - want[normal]) / np.spacing(np.abs(want[normal]).astype(dtype)).astype(LONG)
    assert ulps.max() <= bound, f"{ulps.max():.2f} ulp at {x[normal][ulps.argmax()]!r}"
    assert np.abs(got - want).max() <= 2 * info.eps
    assert np.abs(got).max() <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(dtype: Any) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], dtype)
    np.testing.assert_array_equal(evaluate("tanh", x), np.array([np.nan, 1, -1, 0, 0], dtype))
    tiny = np.finfo(dtype).tiny
    np.testing.assert_allclose(evaluate("sigmoid", x), [np.nan, 1, 0, 0.5, 0.5], rtol=0, atol=2 * tiny)


def test_asking_what_there_is_does_not_import_numba() -> None:
    code = "import sys, fastrnn; fastrnn.available_backends(); print('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(("version", "message"), [("0.60.2", "numba 0.60.2 is too old"), (None, "not installed")])
def test_why_it_is_missing(monkeypatch: pytest.MonkeyPatch, version: str | None, message: str) -> None:
    def found(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", found)
    with pytest.raises(ImportError, match=message):
        importlib.reload(backend)
    monkeypatch.undo()
    importlib.reload(backend)


def test_kernels_are_kept_on_disk() -> None:
    make_case("lstm", (2, 2, 2, 2), np.float32).run("numba")
    assert "compiled kernels kept in" in backend.state()
    assert ", 0 compiled" not in backend.state()


def test_no_folder_to_keep_kernels_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="no locator available"):
        cfunc(types.void(types.int64, types.int64), cache=True)(lambda record, task: None)
    entry = numba_kernels._kept(cfunc, types.void(types.int64, types.int64))(lambda record, task: None)
    assert entry.address


def test_a_folder_that_cannot_be_written_to_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core import caching

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.Cache, "save_overload", full)
    entry = numba_kernels._kept(cfunc, types.void(types.int64, types.int64))(lambda record, task: None)
    assert entry.address


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("samples", [1, 2, 4, 5, 9, 16, 17])
@pytest.mark.parametrize(("sizes", "dtype"), [((3, 6), np.float32), ((37, 77), np.float32), ((70, 44), np.float64)])
def test_narrow_and_wide_vectors_give_the_same_bits(
    cell: str, samples: int, sizes: tuple[int, int], dtype: Any
) -> None:
    whole = make_case(cell, (64, 5, *sizes), dtype, seed=60, mask=True)
    of_samples = {name for name in ("x", "h0", "c0") if name in whole.inputs}
    part = whole.with_inputs(**{name: whole.inputs[name][:samples].copy() for name in of_samples})
    part.options = {**whole.options, "mask": whole.options["mask"][:samples]}
    part.upstream = [value[:samples].copy() for value in whole.upstream]
    got, want = part.run("numba"), whole.run("numba")
    for name in ("y", "hT", "cT", "dx", "dh0", "dc0"):
        if name in want:
            np.testing.assert_array_equal(got[name], want[name][:samples], err_msg=name)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("samples", [1, 3])
def test_few_samples_of_large_layers(cell: str, samples: int, options: str) -> None:
    case = make_case(cell, (samples, 6, 35, 75), np.float32, seed=62, **OPTIONS[options])
    assert_close(case.run("numba"), case.run("reference"), 1e-5)


@pytest.mark.parametrize("options", ["plain", "no_states", "mask_zero_last", "dropout", "both_dropouts"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("samples", [1, 4, 9])
def test_teams(cell: str, samples: int, options: str, request: pytest.FixtureRequest) -> None:
    """Large enough for a team of four, and long enough for several blocks of steps, the last of them not whole."""
    request.addfinalizer(partial(fr.set_num_threads, fr.get_num_threads()))
    case = make_case(cell, (samples, 37, 50, 130), np.float32, seed=63, **OPTIONS[options])
    fr.set_num_threads(1)
    alone, outputs = case.run("numba"), case.forward("numba", training=False)
    assert_close(alone, case.run("reference"), 1e-5)
    for threads in (2, 5):
        fr.set_num_threads(threads)
        for name, array in case.run("numba").items():
            np.testing.assert_array_equal(array, alone[name], err_msg=name)
        for a, b in zip(case.forward("numba", training=False)[:-1], outputs[:-1], strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(outputs[0], alone["y"])


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are x86's")
@pytest.mark.parametrize(
    ("cpu", "features", "vector"), [("haswell", "+avx,+avx2,+fma", 32), ("x86-64", "+sse2", 16)], ids=["avx2", "sse2"]
)
def test_other_machines_vectors(cpu: str, features: str, vector: int) -> None:
    code = f"""
import numpy as np
from cases import OPTIONS, assert_close, make_case
from fastrnn.backends.numba_kernels import VECTOR_BYTES
assert VECTOR_BYTES == {vector}
for shape in ((37, 6, 9, 19), (1, 6, 9, 42), (3, 6, 9, 42)):
    for options in OPTIONS.values():
        case = make_case("lstm", shape, np.float32, seed=61, **options)
        assert_close(case.run("numba"), case.run("reference"), 1e-5)
"""
    environment = {**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
