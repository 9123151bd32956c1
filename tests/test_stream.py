"""Streams: step by step what the layers give on the whole sequence, on every backend and instruction set."""

from __future__ import annotations

import copy
import pickle
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastrnn as fr

BACKENDS = list(fr.available_backends())
CELLS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("LSTM", {}),
    "lstm_no_bias": ("LSTM", {"use_bias": False}),
    "gru": ("GRU", {}),
    "gru_no_bias": ("GRU", {"use_bias": False}),
    "gru_reset_before": ("GRU", {"reset_after": False}),
    "gru_reset_before_no_bias": ("GRU", {"reset_after": False, "use_bias": False}),
}


@pytest.fixture(params=BACKENDS)
def any_backend(request: pytest.FixtureRequest) -> str:
    reason = fr.available_backends()[request.param]
    if reason is not None:
        pytest.skip(f"backend {request.param}: {reason}")
    return str(request.param)


def randomized(layer: Any, shape: tuple[Any, ...], seed: int = 0) -> Any:
    """The layer built, nothing of its weights zero."""
    rng = np.random.default_rng(seed)
    layer.build(shape)
    layer.set_weights([rng.standard_normal(w.shape) * w.shape[0] ** -0.5 for w in layer.weights])
    return layer


def make(cell: str, units: int, **options: Any) -> Any:
    name, more = CELLS[cell]
    return getattr(fr, name)(units, **more, **options)


def tolerance(dtype: Any) -> float:
    return 2e-6 if dtype == "float32" else 1e-13


def steps(stream: fr.Stream, x: np.ndarray) -> np.ndarray:
    """Outputs (..., T, units) for x (..., T, I)."""
    return np.stack([stream.step(x[..., t, :]).copy() for t in range(x.shape[-2])], axis=-2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (16, 32), (5, 17), (7, 63), (33, 100), (150, 170)])
@pytest.mark.parametrize("cell", CELLS)
def test_a_layer(any_backend: str, cell: str, sizes: tuple[int, int], dtype: str) -> None:
    inputs, units = sizes
    layer = randomized(make(cell, units, dtype=dtype, backend="reference", return_sequences=True), (None, None, inputs))
    x = np.random.default_rng(1).standard_normal((3, 12, inputs)).astype(dtype)
    want = layer(x)
    stream = fr.Stream(layer, batch=3, backend=any_backend)
    np.testing.assert_allclose(steps(stream, x), want, rtol=0, atol=tolerance(dtype))
    alone = fr.Stream(layer, backend=any_backend)
    assert alone.y.shape == (units,)
    np.testing.assert_allclose(steps(alone, x[1]), want[1], rtol=0, atol=tolerance(dtype))


@pytest.mark.parametrize("cell", CELLS)
def test_every_instruction_set(c_backend: ModuleType, cell: str) -> None:
    layer = randomized(make(cell, 37, backend="reference", return_sequences=True), (None, None, 9))
    x = np.random.default_rng(2).standard_normal((11, 9)).astype("float32")
    want = layer(x[None])[0]
    streams = []
    for isa in c_backend.isa_names():
        c_backend.set_isa(isa)
        streams.append(fr.Stream(layer, backend="c"))
    # a stream stays with the instruction set that it was packed for
    for stream in streams:
        np.testing.assert_allclose(steps(stream, x), want, rtol=0, atol=2e-6)
        stream.refresh()
        stream.reset()
        np.testing.assert_allclose(steps(stream, x), want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_threads_that_share_a_large_layer_change_no_bit(c_backend: ModuleType, cell: str) -> None:
    layers = [make(cell, 170, return_sequences=True), fr.Dense(900, "softmax")]
    model = randomized(fr.Sequential(layers), (None, None, 150))
    x = np.random.default_rng(3).standard_normal((2, 20, 150)).astype("float32")
    want = None
    for threads in (1, 2, 3, 8):
        fr.set_num_threads(threads)
        got = steps(fr.Stream(model, batch=2, backend="c"), x)
        want = got if want is None else want
        np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(got, model(x), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("activation", ["linear", "sigmoid", "tanh", "relu", "softmax"])
@pytest.mark.parametrize("units", [1, 5, 40])
def test_a_model(any_backend: str, units: int, activation: str) -> None:
    layers = [
        fr.LSTM(19, return_sequences=True, dropout=0.5),
        fr.Dropout(0.5),
        fr.Dense(6, "tanh", use_bias=False),
        fr.GRU(7, recurrent_dropout=0.5),
        fr.Dense(units, activation),
    ]
    model = randomized(fr.Sequential(layers), (None, None, 3))
    x = np.random.default_rng(3).standard_normal((2, 9, 3)).astype("float32")
    stream = fr.Stream(model, batch=2, backend=any_backend)
    for t in range(9):
        want = model(x[:, : t + 1])
        np.testing.assert_allclose(stream.step(x[:, t]), want, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("batch", [None, 4])
def test_token_ids(any_backend: str, batch: int | None) -> None:
    model = randomized(fr.Sequential([fr.Embedding(11, 5), fr.GRU(6), fr.Dense(2, "softmax")]), (None, None))
    ids = np.random.default_rng(4).integers(0, 11, (batch or 1, 8))
    stream = fr.Stream(model, batch=batch, backend=any_backend)
    for t in range(8):
        y = stream.step(ids[:, t].astype(np.int16)) if batch else stream.step(int(ids[0, t]))
        np.testing.assert_allclose(y, model(ids[:, : t + 1])[... if batch else 0], atol=2e-6)
    before = stream.state
    for bad in (-1, 11, 2**40, -(2**63), 2**63, np.uint64(2**64 - 1)):
        kind: Any = np.asarray(bad).dtype
        x = np.full(4, bad, kind) if batch else bad
        with pytest.raises(ValueError, match=r"token ids must be in \[0, 11\)"):
            stream.step(x)
    for x in (1.0, "a", np.zeros(4), None):
        with pytest.raises(TypeError, match="token ids, of an integer dtype"):
            stream.step(x)
    with pytest.raises(ValueError, match="x must have shape"):
        stream.step(np.zeros(3, int))
    for one, other in zip(before, stream.state, strict=True):
        np.testing.assert_array_equal(one, other)


def test_padding_is_not_fed(any_backend: str) -> None:
    model = randomized(fr.Sequential([fr.Embedding(11, 5, mask_zero=True), fr.GRU(6)]), (None, None))
    stream = fr.Stream(model, backend=any_backend)
    stream.step(3)
    with pytest.raises(ValueError, match=r"padding .* \(mask_zero=True\)"):
        stream.step(0)


@pytest.mark.parametrize("batch", [None, 2])
def test_state_and_output(any_backend: str, batch: int | None) -> None:
    layers = [fr.LSTM(4, return_sequences=True), fr.GRU(3)]
    model = randomized(fr.Sequential(layers), (None, None, 2))
    stream = fr.Stream(model, batch=batch, backend=any_backend)
    lead = () if batch is None else (batch,)
    x = np.random.default_rng(5).standard_normal((6, *lead, 2)).astype("float32")
    y = [stream.step(each) for each in x[:3]]
    assert all(each is stream.y for each in y)
    kept, middle = stream.state, stream.y.copy()
    assert [s.shape for s in kept] == [(*lead, 4), (*lead, 4), (*lead, 3)]
    first = [stream.step(each).copy() for each in x[3:]]
    stream.state = kept
    again = [stream.step(each).copy() for each in x[3:]]
    np.testing.assert_array_equal(first, again)
    stream.reset()
    assert not any(s.any() for s in (*stream.state, stream.y))
    for each in x[:3]:
        stream.step(each)
    np.testing.assert_array_equal(stream.y, middle)
    for bad, error, message in [
        (kept[:2], ValueError, "must be 3 arrays, got 2"),
        ([*kept[:2], np.zeros(7)], ValueError, "array 2 must have shape"),
        ([*kept[:2], np.full((*lead, 3), "a")], TypeError, "array 2 must hold numbers"),
    ]:
        with pytest.raises(error, match=message):
            stream.state = bad
    np.testing.assert_array_equal(stream.y, middle)


def test_a_state_that_does_not_fit(any_backend: str) -> None:
    stream = fr.Stream(randomized(fr.LSTM(3), (None, None, 2)), backend=any_backend)
    stream.step(np.ones(2))
    before = stream.state
    for state, error, message in [
        (3, TypeError, "Stream.state must be a list of 2 arrays, got 3"),
        ([np.zeros(3)], ValueError, "Stream.state must be 2 arrays, got 1"),
        ([np.zeros(3), np.zeros(4)], ValueError, r"array 1 must have shape \(3,\), got \(4,\)"),
        ([np.zeros(3), np.zeros(3, complex)], TypeError, "array 1 must hold numbers, got complex128"),
    ]:
        with pytest.raises(error, match=message):
            stream.state = state  # type: ignore[assignment]
    for now, then in zip(stream.state, before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_weights_are_those_of_the_last_refresh(any_backend: str) -> None:
    model = randomized(fr.Sequential([fr.Embedding(5, 3), fr.LSTM(4), fr.Dense(2)]), (None, None))
    stream = fr.Stream(model, backend=any_backend)
    before = stream.step(2).copy()
    model.set_weights([w + 0.5 for w in model.get_weights()])
    stream.reset()
    np.testing.assert_array_equal(stream.step(2), before)
    stream.refresh()
    stream.reset()
    np.testing.assert_allclose(stream.step(2), model(np.array([[2]]))[0], atol=2e-6)


def test_any_numbers_are_taken(any_backend: str) -> None:
    layer = randomized(fr.GRU(3), (None, None, 4))
    stream = fr.Stream(layer, backend=any_backend)
    x = np.array([1, -2, 3, 0], np.float32)
    want = stream.step(x).copy()
    wide = np.zeros((4, 2), np.float32)
    wide[:, 0] = x
    for same in (x.astype(np.float64), x.astype(int), x.tolist(), wide[:, 0], x.astype(">f4"), x.astype(np.float16)):
        stream.reset()
        np.testing.assert_array_equal(stream.step(same), want)
    for bad, error, message in [
        (np.zeros(5), ValueError, r"x must have shape \(4,\) for gru.* got \(5,\)"),
        (np.zeros((1, 4)), ValueError, "with batch=None, got"),
        (1.0, ValueError, "x must have shape"),
        (x.astype(complex), TypeError, "x must hold numbers for gru.*got complex128"),
        (["a"] * 4, TypeError, "x must hold numbers"),
    ]:
        with pytest.raises(error, match=message):
            stream.step(bad)


@pytest.mark.parametrize("batch", [None, 2])
def test_copies_are_refused(any_backend: str, batch: int | None) -> None:
    stream = fr.Stream(randomized(fr.LSTM(3), (None, None, 4)), batch=batch, backend=any_backend)
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="a Stream cannot be copied or pickled"):
            duplicate(stream)


@pytest.mark.parametrize("layer", [*CELLS, "dense"])
def test_the_output_may_be_the_next_input(any_backend: str, layer: str) -> None:
    units = 70
    made = fr.Dense(units, "tanh") if layer == "dense" else make(layer, units)
    randomized(made, (None, units) if layer == "dense" else (None, None, units))
    stream, other = (fr.Stream(made, backend=any_backend) for _ in range(2))
    stream.y[...] = other.y[...] = np.random.default_rng(7).standard_normal(units)
    for _ in range(3):
        np.testing.assert_array_equal(stream.step(stream.y), other.step(other.y.copy()))


def test_nan_stays_in_its_row(any_backend: str) -> None:
    for cell in CELLS:
        stream = fr.Stream(randomized(make(cell, 5), (None, None, 4)), batch=2, backend=any_backend)
        x = np.ones((2, 4), np.float32)
        x[0, 1] = np.nan
        y = stream.step(x)
        assert np.isnan(y[0]).all()
        assert np.isfinite(y[1]).all()


def test_what_cannot_stream() -> None:
    class Mine(fr.layers.base.Layer):  # type: ignore[misc, name-defined]
        built = True

    built = randomized(fr.LSTM(3), (None, None, 2))
    for model, error, message in [
        (3, TypeError, "model must be a model or a layer, got 3"),
        (fr.LSTM(3, name="new"), ValueError, "new is not built"),
        (fr.Sequential([fr.LSTM(3)], name="new"), ValueError, "new is not built"),
        (randomized(fr.LSTM(3, go_backwards=True, name="back"), (None, None, 2)), ValueError, "back has go_backwards"),
        (randomized(fr.Embedding(3, 2, name="words"), (None, None)), ValueError, "words must have a layer that"),
        (fr.Dropout(0.5, name="drop"), ValueError, "drop is not built"),
    ]:
        with pytest.raises(error, match=message):
            fr.Stream(model)
    mine = Mine(name="mine")
    mine.built = True
    with pytest.raises(TypeError, match="LSTM, GRU, Dense and Dropout, got mine"):
        fr.Stream(mine)
    for batch, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="Stream: batch"):
            fr.Stream(built, batch=batch)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="backend must be one of"):
        fr.Stream(built, backend="none")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch", [None, 3])
def test_a_step_of_a_layer(any_backend: str, batch: int | None, cell: str) -> None:
    layer = randomized(make(cell, 5, backend=any_backend), (None, None, 4))
    x = np.random.default_rng(6).standard_normal((7, 4) if batch is None else (batch, 7, 4)).astype("float32")
    states: Any = None
    for t in range(7):
        y, states = layer.step(x[..., t, :], states)
    want = layer(x.reshape(-1, 7, 4)).reshape(*x.shape[:-2], 5)
    np.testing.assert_allclose(y, want, atol=1e-6)
    np.testing.assert_array_equal(y, states[0])
    assert y is not states[0]
    if "gru" in cell:
        np.testing.assert_array_equal(layer.step(x[..., 0, :], states[0])[0], layer.step(x[..., 0, :], states)[0])


def test_a_step_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="no weights yet"):
        fr.LSTM(3).step([1.0])
    layer = randomized(fr.LSTM(3), (None, None, 2))
    for x, states, message in [
        (np.zeros(3), None, r"x must have shape \(batch, 2\) or \(2,\), got \(3,\)"),
        (np.zeros((1, 1, 2)), None, "x must have shape"),
        (np.zeros(2), [np.zeros(3)], "must be 2 arrays"),
        (np.zeros(2), [np.zeros((1, 3))] * 2, r"states must have shape \(3,\), got \(1, 3\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            layer.step(x, states)
