"""Every backend against the reference: all options, awkward shapes, poisoned memory, special values."""

from __future__ import annotations

import gc
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn as fr
from cases import CELLS, OPTIONS, TEAM_SHAPES, assert_close, make_case
from conftest import PoisonedNumpy
from fastrnn.backends import memory

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}

# (B, T, I, H) around every edge: vectors of 2, 4, 8, 16 numbers; tiles of 6 and 12 rows and 2 vectors; tasks of 32
# rows; several blocks of time steps.
SHAPES = [
    (1, 1, 1, 1),
    (1, 9, 3, 5),
    (2, 1, 16, 8),
    (5, 4, 7, 3),
    (6, 3, 8, 16),
    (7, 3, 15, 7),
    (12, 2, 17, 9),
    (13, 2, 1, 31),
    (16, 3, 2, 33),
    (31, 2, 5, 4),
    (33, 3, 4, 15),
    (64, 40, 16, 8),
    (65, 2, 33, 17),
    (3, 2, 64, 65),
    (3, 2, 5, 70),  # weights packed in one share, four whole vectors of them and more
    (130, 60, 3, 2),
    (600, 2, 2, 3),
    (3, 4, 70, 100),  # large for its few rows, and large in itself: a team of threads works on one task
    (18, 3, 130, 201),
    (17, 20, 540, 340),  # too large for a core's caches; more rows and columns than are packed at a time
    (1, 150, 300, 560),  # one sequence: products with W beside those with U, which leave them time enough
    (1, 20, 700, 448),  # and which do not
    *TEAM_SHAPES,
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_options(poisoned: str, cell: str, options: str, dtype: Any) -> None:
    for shape in ((5, 7, 3, 4), (37, 6, 9, 19)):
        case = make_case(cell, shape, dtype, seed=3, **OPTIONS[options])
        assert_close(case.run(poisoned), case.run("reference"), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_shapes(poisoned: str, cell: str, shape: tuple[int, int, int, int], dtype: Any) -> None:
    for options in ("plain", "mask", "all", "dropout_backwards"):
        case = make_case(cell, shape, dtype, seed=4, **OPTIONS[options])
        assert_close(case.run(poisoned), case.run("reference"), TOLERANCE[dtype])


@pytest.mark.parametrize(("dtype", "steps"), [(np.float32, 320), (np.float64, 160)])
def test_as_many_rows_and_columns_as_are_packed_at_a_time(c_backend: ModuleType, dtype: Any, steps: int) -> None:
    case = make_case("lstm", (2, steps, 516, 516), dtype, seed=6)
    assert_close(case.run("c"), case.run("reference"), TOLERANCE[dtype])


@settings(max_examples=150, deadline=None)
@given(
    cell=st.sampled_from(CELLS),
    # Where an array is one number, that number may be a sum that cancels, and its own size no measure of an error.
    shape=st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(1, 40), st.integers(1, 40)).filter(
        lambda shape: shape[0] * min(shape[1] * shape[2], shape[3]) > 1
    ),
    options=st.fixed_dictionaries(
        {
            "bias": st.booleans(),
            "states": st.booleans(),
            "mask": st.booleans(),
            "x_drop": st.sampled_from([None, "shared", "per_gate"]),
            "h_drop": st.booleans(),
            "return_sequences": st.booleans(),
            "go_backwards": st.booleans(),
            "zero_output_for_mask": st.booleans(),
        }
    ),
)
def test_any_shape_and_options(cell: str, shape: tuple[int, int, int, int], options: dict[str, Any]) -> None:
    case = make_case(cell, shape, seed=5, **options)
    want = case.run("reference")
    for name, reason in fr.available_backends().items():
        if reason is None:
            assert_close(case.run(name), want, 1e-11)


@pytest.mark.parametrize("options", ["plain", "mask_zero", "mask_last", "all"])
@pytest.mark.parametrize("shape", [(34, 30, 9, 11), (3, 5, 70, 100)])
@pytest.mark.parametrize("cell", CELLS)
def test_inference_gives_what_training_gives(
    poisoned: str, cell: str, shape: tuple[int, int, int, int], options: str
) -> None:
    case = make_case(cell, shape, np.float32, seed=6, **OPTIONS[options])
    *trained, _ = case.forward(poisoned)
    *inferred, reserve = case.forward(poisoned, training=False)
    assert reserve is None
    for a, b in zip(trained, inferred, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("h_drop", [False, True])
@pytest.mark.parametrize("shape", [(5, 1, 3, 4), (34, 30, 9, 11), TEAM_SHAPES[0]])
@pytest.mark.parametrize("cell", CELLS)
def test_no_initial_states_are_zeros(poisoned: str, cell: str, shape: tuple[int, int, int, int], h_drop: bool) -> None:
    case = make_case(cell, shape, np.float32, seed=16, states=False, h_drop=h_drop)
    zeros = np.zeros((shape[0], shape[3]), np.float32)
    given = case.with_inputs(h0=zeros, **({"c0": zeros} if case.lstm else {}))
    none, some = case.run(poisoned), given.run(poisoned)
    for name, array in none.items():
        np.testing.assert_array_equal(array, some[name], err_msg=name)


@pytest.mark.parametrize("cell", CELLS)
def test_backward_can_run_twice_and_changes_nothing(backend: str, cell: str) -> None:
    case = make_case(cell, (9, 8, 4, 6), seed=7, **OPTIONS["all"])
    before = {name: array.copy() for name, array in case.inputs.items()}
    upstream = [d.copy() for d in case.upstream]
    *_, reserve = case.forward(backend)
    backward = fr.lstm_backward if case.lstm else fr.gru_backward
    first, second = backward(reserve, *case.upstream), backward(reserve, *case.upstream)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    for name, array in before.items():
        np.testing.assert_array_equal(array, case.inputs[name])
    for a, b in zip(upstream, case.upstream, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cell", CELLS)
def test_missing_upstream_gradients_are_zero(backend: str, cell: str) -> None:
    case = make_case(cell, (4, 3, 2, 5), seed=8)
    full = case.upstream
    for k in range(len(full)):
        case.upstream = [d if j == k else None for j, d in enumerate(full)]  # type: ignore[misc]
        assert_close(case.run(backend), case.run("reference"), 1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_nan_travels_in_its_own_row_only(backend: str, cell: str) -> None:
    case = make_case(cell, (9, 5, 3, 10), np.float32, seed=9)
    case.inputs["x"][4, 2, 1] = np.nan
    y = case.forward(backend)[0]
    assert np.isfinite(np.delete(y, 4, axis=0)).all()
    assert np.isfinite(y[4, :2]).all()
    assert np.isnan(y[4, 2:]).all()


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("cell", CELLS)
def test_huge_inputs_saturate_as_in_the_reference(backend: str, cell: str, value: float) -> None:
    case = make_case(cell, (3, 4, 1, 9), np.float32, seed=10)
    case.inputs["x"][1, 1, 0] = value
    got, want = case.forward(backend)[0], case.forward("reference")[0]
    assert np.isfinite(want).all()
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


def test_a_masked_step_does_not_care_about_its_input(backend: str) -> None:
    case = make_case("lstm", (4, 5, 3, 6), np.float32, seed=11, mask=True)
    want = case.forward(backend)[0]
    case.inputs["x"][~case.options["mask"]] = 1e30
    np.testing.assert_array_equal(case.forward(backend)[0], want)


def test_reserve_is_as_small_as_promised(c_backend: ModuleType) -> None:
    B, T, I, H = 8, 50, 3, 10
    for cell, gates in (("lstm", 4), ("gru", 3)):
        *_, reserve = make_case(cell, (B, T, I, H), np.float32).forward("c")
        assert reserve.data[0].size <= T * B * (gates + 2) * H + B * H + 32


@pytest.mark.parametrize("cell", CELLS)
def test_a_large_reserve_goes_to_a_later_call(backend: str, monkeypatch: pytest.MonkeyPatch, cell: str) -> None:
    monkeypatch.setattr(memory.reserves, "least", 1)
    memory.reserves.kept.clear()
    cases = [make_case(cell, (5, 7, 3, 4), seed=seed) for seed in range(3)]
    first, second = (case.forward(backend)[-1] for case in cases[:2])
    kept = first.data.reserve.ctypes.data
    del first
    third = cases[2].forward(backend)[-1]
    assert third.data.reserve.ctypes.data == kept
    for case, reserve in zip(cases[1:], (second, third), strict=True):
        want = case.run("reference")
        assert_close(case.backward(reserve), {name: want[name] for name in want if name.startswith("d")}, 1e-12)
    most = third.data.reserve.nbytes
    del third
    for steps in (8, 1):  # too large for what is kept, and so small that it must not hold that
        case = make_case(cell, (5, steps, 3, 4))
        reserve = case.forward(backend)[-1]
        assert (reserve.data.reserve.nbytes < most) is (steps == 1)
        assert_close(case.run(backend), case.run("reference"), 1e-12)


@pytest.mark.parametrize("options", ["plain", "all"])
@pytest.mark.parametrize("cell", CELLS)
def test_nothing_is_written_beside_an_array(
    c_backend: ModuleType, monkeypatch: pytest.MonkeyPatch, cell: str, options: str
) -> None:
    """Wherever in a line of cache an array begins: the reserve is used from the first whole line on."""
    guarded: list[tuple[np.ndarray, int, int]] = []

    class GuardedNumpy(PoisonedNumpy):
        @staticmethod
        def empty(shape: Any, dtype: Any) -> np.ndarray:
            size, before = int(np.prod(shape)), 64 + len(guarded) % 17
            around = np.full(size + 160, -7, dtype)
            guarded.append((around, before, before + size))
            return around[before : before + size].reshape(shape)

    for module in (c_backend, memory):
        monkeypatch.setattr(module, "np", GuardedNumpy())
    for dtype in (np.float32, np.float64):
        for H in (1, 5, 8, 9, 17):
            case = make_case(cell, (11, 3, 7, H), dtype, seed=12, **OPTIONS[options])
            assert_close(case.run("c"), case.run("reference"), TOLERANCE[dtype])
    assert len(guarded) > 17
    for around, begin, end in guarded:
        assert (np.delete(around, slice(begin, end)) == -7).all()


def test_memory_is_given_back(c_backend: ModuleType) -> None:
    resource = pytest.importorskip("resource")
    case = make_case("lstm", (64, 50, 32, 32), np.float32)
    for _ in range(5):
        case.run("c")
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):
        case.run("c")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20_000, f"{grown} KiB more after 200 calls"
