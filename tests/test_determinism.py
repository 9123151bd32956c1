"""Bit-identical results for any number of threads and from run to run; threads, forks and instruction sets."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastrnn as fr
from cases import CELLS, OPTIONS, TEAM_SHAPES, Case, assert_close, make_case
from fastrnn.ops import Lookup

SHAPES = [
    (1, 5, 3, 4),
    (64, 30, 16, 8),
    (70, 8, 5, 33),
    (300, 4, 9, 17),
    (3, 4, 70, 100),
    (18, 3, 130, 201),
    (17, 20, 540, 340),
    (1, 40, 300, 560),
    *TEAM_SHAPES,
]


def assert_identical(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name], err_msg=name)


def leave_other_numbers(case: Case, backend: str) -> None:
    """In memory that the next run may get: what it reads too early must not be right by chance, left by the last."""
    others = {name: (array[::-1] + 1).astype(array.dtype) for name, array in case.inputs.items()}
    case.with_inputs(**others).run(backend)


@pytest.mark.parametrize("options", ["plain", "mask_backwards", "all"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_any_number_of_threads(
    threaded_backend: str, cell: str, shape: tuple[int, int, int, int], options: str
) -> None:
    case = make_case(cell, shape, np.float32, seed=30, **OPTIONS[options])
    fr.set_num_threads(1)
    alone = case.run(threaded_backend)
    for threads in (1, 2, 3, 7):
        fr.set_num_threads(threads)
        for _ in range(3):
            leave_other_numbers(case, threaded_backend)
            assert_identical(case.run(threaded_backend), alone)


@pytest.mark.parametrize("words", [20, 1500], ids=["few words", "many words"])
@pytest.mark.parametrize("shape", [(64, 60, 16, 8), TEAM_SHAPES[0]])
@pytest.mark.parametrize("cell", CELLS)
def test_token_ids_and_any_number_of_threads(
    threaded_backend: str, cell: str, shape: tuple[int, int, int, int], words: int
) -> None:
    """Few words: each task does the product with W for itself where there are threads enough, else all share it."""
    rng = np.random.default_rng(38)
    case = make_case(cell, shape, np.float32, seed=38)
    table = rng.standard_normal((words, shape[2])).astype(np.float32)
    case = case.with_inputs(x=Lookup(table, rng.integers(0, words, shape[:2])))  # type: ignore[arg-type]
    fr.set_num_threads(1)
    alone = case.run(threaded_backend)
    assert_close(alone, case.run("reference"), 1e-5)
    for threads in (2, 3):
        fr.set_num_threads(threads)
        assert_identical(case.run(threaded_backend), alone)


def _unequal_on_one_core(queue: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    unequal = []
    for shape in TEAM_SHAPES:
        for cell in CELLS:
            for options in ("plain", "all"):
                case = make_case(cell, shape, np.float32, seed=33, **OPTIONS[options])
                fr.set_num_threads(1)
                alone = case.run("c")
                for threads in (2, 3):
                    leave_other_numbers(case, "c")
                    fr.set_num_threads(threads)
                    together = case.run("c")
                    names = [name for name, array in alone.items() if not np.array_equal(array, together[name])]
                    if names:
                        unequal.append((cell, shape, options, threads, names))
    queue.put(unequal)


def test_members_of_a_team_wait_for_each_other(c_backend: ModuleType) -> None:
    """On one core a thread runs until it has to wait: where it does not, the others' parts are not yet there."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not pin a process to a core")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_unequal_on_one_core, args=(queue,))
    child.start()
    assert queue.get(timeout=120) == []
    child.join(timeout=120)
    assert child.exitcode == 0


def test_a_sample_does_not_depend_on_its_batch(backend: str) -> None:
    """Forward results of a row are the same whichever other rows share its tiles and tasks."""
    whole = make_case("lstm", (70, 9, 5, 12), np.float32, seed=31)
    y = whole.forward(backend)[0]
    for rows in (slice(0, 1), slice(3, 10), slice(31, 66)):
        part = whole.with_inputs(**{name: whole.inputs[name][rows].copy() for name in ("x", "h0", "c0")})
        np.testing.assert_array_equal(part.forward(backend)[0], y[rows])


def test_many_python_threads_at_once(threaded_backend: str) -> None:
    backend = threaded_backend
    fr.set_num_threads(2)
    cases = [make_case(cell, (40 + k, 20, 6, 10), np.float32, seed=k) for k, cell in enumerate(CELLS * 3)]
    want = [case.run(backend) for case in cases]
    problems: list[str] = []

    def work(k: int) -> None:
        for _ in range(20):
            try:
                assert_identical(cases[k].run(backend), want[k])
            except Exception as error:
                problems.append(f"thread {k}: {error!r}")

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(cases))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not problems


def _child(backend: str, queue: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    queue.put(make_case("lstm", (64, 20, 6, 10), np.float32, seed=40).run(backend))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_child_processes(threaded_backend: str, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    fr.set_num_threads(3)
    case = make_case("lstm", (64, 20, 6, 10), np.float32, seed=40)
    want = case.run(threaded_backend)  # the pool's threads are up
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=_child, args=(threaded_backend, queue)) for _ in range(3)]
    for child in children:
        child.start()
    for _ in children:
        assert_identical(queue.get(timeout=120), want)
    for child in children:
        child.join(timeout=120)
        assert child.exitcode == 0
    assert_identical(case.run(threaded_backend), want)


def test_the_callers_floating_point_mode_is_put_back(threaded_backend: str) -> None:
    fr.set_num_threads(1)
    make_case("gru", (4, 3, 2, 5), np.float32, seed=41).run(threaded_backend)
    assert np.float32(1e-40) * np.float32(1) == np.float32(1e-40)


def test_every_instruction_set_of_this_machine(c_backend: ModuleType) -> None:
    for isa in c_backend.isa_names():
        c_backend.set_isa(isa)
        assert c_backend.isa() == isa
        for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-12)):
            for cell in CELLS:
                for shape in ((37, 6, 9, 19), (6, 5, 16, 8), (1, 3, 1, 1)):
                    for options in OPTIONS.values():
                        case = make_case(cell, shape, dtype, seed=32, **options)
                        assert_close(case.run("c"), case.run("reference"), tolerance)


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def _both_as_if_wide_vectors_are_halved_and_not(case: Case, tolerance: float) -> None:
    """The kernels for processors that do them as two, and those for the others, give the same bits."""
    from fastrnn._kernels import lib

    found = lib.frnn_wide_is_halved
    results = []
    try:
        for lib.frnn_wide_is_halved in (0, 1):
            results.append(case.run("c"))
    finally:
        lib.frnn_wide_is_halved = found
    for name, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][name], err_msg=name)
    assert_close(results[0], case.run("reference"), tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("h_drop", [False, True])
@pytest.mark.parametrize("x_drop", [None, "shared", "per_gate"])
def test_gates_apart_where_wide_vectors_are_halved(
    c_backend: ModuleType, x_drop: str | None, h_drop: bool, dtype: Any
) -> None:
    for shape in [(19, 4, 3, 8), (1, 5, 16, 4), (40, 2, 70, 3)]:
        case = make_case("lstm", shape, dtype, mask=True, x_drop=x_drop, h_drop=h_drop)
        _both_as_if_wide_vectors_are_halved_and_not(case, 1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", [(1, 150, 300, 560), (1, 20, 700, 448)])
def test_products_ahead_where_wide_vectors_are_halved(
    c_backend: ModuleType, shape: tuple[int, int, int, int], cell: str
) -> None:
    """One sequence with large weights; U's product leaves W's for steps to come time enough, and does not."""
    _both_as_if_wide_vectors_are_halved_and_not(make_case(cell, shape, np.float32), 1e-5)


def test_environment_forces_an_instruction_set(c_backend: ModuleType) -> None:
    code = "from fastrnn.backends import c; print(c.isa())"
    for isa in c_backend.isa_names():
        assert _python(code, FASTRNN_ISA=isa).stdout.strip() == isa
    assert _python(code, FASTRNN_ISA="").stdout.strip() == c_backend.isa_names()[-1]  # empty is not set


def test_environment_with_an_unknown_instruction_set(c_backend: ModuleType) -> None:
    result = _python("import fastrnn as fr; fr.available_backends()", FASTRNN_ISA="mmx")
    assert result.returncode == 1
    assert "ValueError: FASTRNN_ISA: instruction set 'mmx' is not one of this build; choose one of" in result.stderr


def test_environment_sets_the_number_of_threads() -> None:
    assert _python("import fastrnn as fr; print(fr.get_num_threads())", FASTRNN_NUM_THREADS="5").stdout.strip() == "5"
    result = _python("import fastrnn as fr; print(fr.get_num_threads())", FASTRNN_NUM_THREADS="0")
    assert "ValueError: FASTRNN_NUM_THREADS must be an integer of at least 1, got '0'" in result.stderr


@pytest.mark.parametrize(
    ("bad", "error"), [(0, ValueError), (-3, ValueError), (1.5, TypeError), ("2", TypeError), (True, TypeError)]
)
def test_bad_number_of_threads(bad: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="threads must be"):
        fr.set_num_threads(bad)  # type: ignore[arg-type]
