"""Token ids and a table in place of inputs: the same values and gradients, on whichever path a backend takes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastrnn as fr
from cases import CELLS, OPTIONS, assert_close, make_case
from fastrnn.ops import Lookup, embedding_backward

# (words, shape): fewer words than half the tokens, more, more than the tokens; more than one task of words, of which
# each has 1024; weights so large that a team of threads works on one task
SHAPE = (37, 20, 6, 11)
WORDS = [(1, SHAPE), (5, SHAPE), (60, SHAPE), (371, SHAPE), (900, SHAPE), (1500, (80, 50, 6, 11)), (9, (5, 6, 60, 105))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("words", "shape"), WORDS)
@pytest.mark.parametrize("options", ["plain", "no_bias", "mask_backwards", "dropout", "both_dropouts", "all_zero_last"])
@pytest.mark.parametrize("cell", CELLS)
def test_values_and_gradients(
    poisoned: str, cell: str, options: str, words: int, shape: tuple[int, int, int, int], dtype: Any
) -> None:
    backend = poisoned
    case = make_case(cell, shape, dtype, seed=50, **OPTIONS[options])
    rng = np.random.default_rng(words)
    table = rng.normal(size=(words, shape[2])).astype(dtype)
    ids = rng.integers(0, words, shape[:2]).astype(np.int32 if words % 2 else np.int64)
    want = case.with_inputs(x=table[ids]).run("reference")
    dtable = np.empty_like(table)
    embedding_backward(ids, want["dx"], dtable, backend="reference")
    want["dx"] = dtable
    looked_up = case.with_inputs(x=Lookup(table, ids))  # type: ignore[arg-type]
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert_close(looked_up.run(backend), want, tolerance)
    assert_close(looked_up.run("reference"), want, 1e-6 if dtype == np.float32 else 1e-14)
    y = looked_up.forward(backend, training=False)[0]
    assert_close({"y": y}, {"y": want["y"]}, tolerance)


def test_any_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    case = make_case("gru", (130, 30, 5, 7), np.float32, seed=51)
    table, ids = rng.normal(size=(1500, 5)).astype(np.float32), rng.integers(0, 1500, (130, 30))
    case = case.with_inputs(x=Lookup(table, ids))  # type: ignore[arg-type]
    threads = fr.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            fr.set_num_threads(count)
            results.append(case.run("auto"))
    finally:
        fr.set_num_threads(threads)
    for result in results[1:]:
        for name, array in result.items():
            np.testing.assert_array_equal(array, results[0][name])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("cell", CELLS)
def test_a_word_that_does_not_come_does_not_matter(backend: str, cell: str, value: float) -> None:
    """Whatever its row holds: so many ids and so few words that the product with W is done once per word."""
    rng = np.random.default_rng(8)
    case = make_case(cell, (8, 20, 3, 5))
    table = rng.normal(size=(6, 3))
    table[4] = value
    words = np.array([0, 1, 2, 3, 5])
    case = case.with_inputs(x=Lookup(table, words[rng.integers(0, 5, (8, 20))]))  # type: ignore[arg-type]
    assert_close(case.run(backend), case.run("reference"), 1e-12)


def test_ids_that_change_before_backward(backend: str) -> None:
    """The ids are not copied; whatever is in their place by then, nothing outside the table is touched."""
    ids = np.ones((64, 20), np.int32)
    *_, reserve = fr.lstm_forward(
        Lookup(np.ones((5, 3)), ids), np.ones((3, 8)), np.ones((2, 8)), return_sequences=False, backend=backend
    )
    ids[:] = -1_000_000
    with pytest.raises((ValueError, IndexError)):
        fr.lstm_backward(reserve, np.ones((64, 2)))


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.array([[0, 7]]), ValueError, r"token ids must be in \[0, 7\), got 7 at flat index 1"),
        (np.array([[-1, 0]]), ValueError, r"token ids must be in \[0, 7\), got -1 at flat index 0"),
        (np.array([0, 1]), ValueError, r"x.ids must have shape \(any, any\), got \(2,\)"),
        (np.zeros((0, 3), int), ValueError, "at least one sample"),
        (np.zeros((2, 3)), TypeError, "token ids must be integers, got float64"),
    ],
)
def test_bad_ids(ids: np.ndarray, error: type[Exception], message: str) -> None:
    table, W, U = np.zeros((7, 2)), np.zeros((2, 4)), np.zeros((1, 4))
    with pytest.raises(error, match=message):
        fr.lstm(Lookup(table, ids), W, U)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("rows", [1, 2, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1])
def test_bad_ids_of_huge_tables(c_backend: ModuleType, rows: int, dtype: Any) -> None:
    """The check that the kernels trust, around the largest id that 4 bytes hold; the table itself need not be there."""
    for id_ in (-(2**31), -1, 0, 1, 2**31 - 3, 2**31 - 2, 2**31 - 1):
        assert c_backend._bad_id(np.array([0, id_, 0], dtype), rows) == (-1 if 0 <= id_ < rows else 1)


@pytest.mark.parametrize("kind", [fr.LSTM, fr.GRU])
def test_a_model_trains_the_same_with_and_without_it(kind: type[fr.LSTM], monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedding and recurrent layer joined by a lookup, and kept apart by a layer that does nothing."""
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 20, (64, 12)), rng.integers(0, 2, 64).astype(np.float32)

    def trained(*between: Any) -> list[np.ndarray]:
        fr.set_seed(4)
        layers = [fr.Embedding(20, 4, mask_zero=True, dtype="float64"), *between, kind(5, dtype="float64")]
        model = fr.Sequential([*layers, fr.Dense(1, "sigmoid", dtype="float64")])
        model.compile(fr.Adam(0.01), "binary_crossentropy")
        model.fit(x, y, batch_size=32, epochs=3, verbose=0, shuffle=False)
        return model.get_weights()

    for joined, apart in zip(trained(), trained(fr.Dropout(0.0)), strict=True):
        np.testing.assert_allclose(joined, apart, rtol=0, atol=1e-12)
