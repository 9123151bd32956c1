"""Bad input to ops, layers and backends meets an error that names argument, value and expectation; or it works."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fastrnn as fr
from cases import make_case


def call(cell: str = "lstm", backend: str | None = None, **changes: Any) -> Any:
    case = make_case(cell, (3, 4, 2, 5), np.float32)
    arguments = {**case.inputs, **case.options, **changes}
    return (fr.lstm if cell == "lstm" else fr.gru)(**arguments, backend=backend)


F = np.float32
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": np.zeros((3, 4), F)}, ValueError, r"x must have shape \(any, any, any\), got \(3, 4\)"),
    ({"x": np.zeros((3, 0, 2), F)}, ValueError, "at least one sample, time step and input"),
    ({"x": np.zeros((0, 4, 2), F)}, ValueError, "at least one sample, time step and input"),
    ({"x": np.zeros((3, 4, 0), F)}, ValueError, "at least one sample, time step and input"),
    ({"x": np.zeros((3, 4, 2), np.int64)}, TypeError, "x must be an array of float32 or float64, got int64"),
    ({"x": np.zeros((3, 4, 2), np.float16)}, TypeError, "got float16"),
    ({"x": "words"}, TypeError, "x must be an array of float32 or float64"),
    ({"x": np.array([[["a"]]], object)}, TypeError, "got object"),
    ({"W": np.zeros((2, 20), np.float64)}, TypeError, "W must be of x's dtype, float32, got float64"),
    ({"W": np.zeros((3, 20), F)}, ValueError, r"W must have shape \(2, 20\), got \(3, 20\)"),
    ({"U": np.zeros((5, 19), F)}, ValueError, r"U must have shape \(units, 4 \* units\) for LSTM, got \(5, 19\)"),
    ({"U": np.zeros((0, 0), F)}, ValueError, "U must have shape"),
    ({"b": np.zeros(5, F)}, ValueError, r"b must have shape \(20\), got \(5,\)"),
    ({"h0": np.zeros((4, 5), F)}, ValueError, r"h0 must have shape \(3, 5\), got \(4, 5\)"),
    ({"c0": np.zeros((3, 5, 1), F)}, ValueError, "c0 must have shape"),
    ({"mask": np.ones((4, 3), bool)}, ValueError, r"mask must have shape \(3, 4\), got \(4, 3\)"),
    ({"mask": np.full((3, 4), 2)}, ValueError, "mask must hold only False and True"),
    ({"mask": np.full((3, 4), np.nan)}, ValueError, "mask must hold only False and True"),
    ({"mask": np.full((3, 4), "x")}, TypeError, "mask must be an array of bool"),
    ({"dropout_mask": np.ones((3, 3), F)}, ValueError, r"dropout_mask must have shape \(3, 2\), got \(3, 3\)"),
    ({"dropout_mask": np.ones((3, 3, 2), F)}, ValueError, r"dropout_mask must have shape \(4, 3, 2\)"),
    ({"recurrent_dropout_mask": np.ones((3, 3, 5), F)}, ValueError, r"must have shape \(4, 3, 5\), got \(3, 3, 5\)"),
    ({"recurrent_dropout_mask": np.ones((4, 3, 5))}, TypeError, "recurrent_dropout_mask must be of x's dtype"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD)
def test_bad_arguments(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(**changes)


def test_gru_bias_goes_with_reset_after() -> None:
    with pytest.raises(ValueError, match=r"b must have shape \(2, 15\), got \(15,\)"):
        call("gru", b=np.zeros(15, F))
    with pytest.raises(ValueError, match=r"b must have shape \(15\), got \(2, 15\)"):
        call("gru", reset_after=False)


def test_what_works(backend: str) -> None:
    """Lists, other memory layouts, read-only and byte-swapped... arrays give the same as plain ones."""
    case = make_case("lstm", (3, 4, 2, 5), np.float64)
    want = fr.lstm(**case.inputs, backend=backend)[0]
    as_lists = {name: array.tolist() for name, array in case.inputs.items()}
    np.testing.assert_array_equal(fr.lstm(**as_lists, backend=backend)[0], want)
    for change in (np.asfortranarray, lambda a: np.repeat(a, 2, axis=-1)[..., ::2], lambda a: a[::-1].copy()[::-1]):
        changed = {name: change(array) for name, array in case.inputs.items()}
        np.testing.assert_array_equal(fr.lstm(**changed, backend=backend)[0], want)
    for array in case.inputs.values():
        array.flags.writeable = False
    *_, reserve = case.forward(backend)
    assert np.isfinite(fr.lstm_backward(reserve, *case.upstream).dx).all()
    mask = np.ones((3, 4), int)
    np.testing.assert_array_equal(fr.lstm(**case.inputs, mask=mask, backend=backend)[0], want)


def test_unaligned_arrays(backend: str) -> None:
    case = make_case("gru", (3, 4, 2, 9), np.float32)
    want = case.run(backend)

    def shifted(array: np.ndarray) -> np.ndarray:
        raw = np.zeros(array.nbytes + 4, np.uint8)[4 : 4 + array.nbytes]
        copy = raw.view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy

    case = case.with_inputs(**{name: shifted(array) for name, array in case.inputs.items()})
    for name, array in case.run(backend).items():
        np.testing.assert_array_equal(array, want[name])


def test_upstream_gradients_are_checked(backend: str) -> None:
    case = make_case("lstm", (3, 4, 2, 5), np.float32)
    *_, reserve = case.forward(backend)
    with pytest.raises(ValueError, match=r"dy must have shape \(3, 4, 5\), got \(3, 5\)"):
        fr.lstm_backward(reserve, np.zeros((3, 5), F))
    with pytest.raises(TypeError, match="dhT must be of x's dtype, float32, got float64"):
        fr.lstm_backward(reserve, None, np.zeros((3, 5)))
    with pytest.raises(TypeError, match="reserve must be what a training GRU forward gave, got Reserve"):
        fr.gru_backward(reserve)
    with pytest.raises(TypeError, match="reserve must be what a training LSTM forward gave, got NoneType"):
        fr.lstm_backward(None)  # type: ignore[arg-type]


def test_more_than_the_memory_there_is(backend: str) -> None:
    x = np.broadcast_to(np.zeros(1, F), (1, 1, 1))
    units = 2**20
    U = np.lib.stride_tricks.as_strided(np.zeros(1, F), (units, 4 * units), (0, 0))
    W = np.zeros((1, 4 * units), F)
    with pytest.raises(MemoryError):
        fr.lstm(x, W, U, backend=backend)


# -- backends --------------------------------------------------------------------------------------


def test_choice_of_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def used(**options: Any) -> str:
        case = make_case("lstm", (1, 1, 1, 1))
        reserve = fr.lstm_forward(**case.inputs, **options)[-1]
        assert reserve is not None
        return str(reserve.backend.__name__.rpartition(".")[2])

    fastest = next(name for name, reason in fr.available_backends().items() if reason is None)
    monkeypatch.setattr(fr.backends, "_default", "auto")
    assert used() == used(backend="auto") == fastest
    monkeypatch.setattr(fr.backends, "_default", "reference")
    assert used() == "reference"
    with fr.use_backend("auto"):
        assert used() == fastest
        with fr.use_backend("reference"):
            assert used() == "reference"
            assert used(backend="auto") == fastest
        assert used() == fastest
    assert used() == "reference"


def test_unknown_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="backend must be one of c, numba, reference, cuda, auto; got 'cudnn'"):
        call(backend="cudnn")
    with pytest.raises(ValueError, match="backend must be one of"), fr.use_backend("x"):
        pass
    monkeypatch.setattr(fr.backends, "_default", "fast")
    with pytest.raises(ValueError, match="FASTRNN_BACKEND must be one of"):
        call()


def test_backend_of_the_environment() -> None:
    code = "import fastrnn; print(fastrnn.backends.get_backend().__name__)"
    environment = {**os.environ, "FASTRNN_BACKEND": "reference"}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["fastrnn.backends.reference"]


def test_a_named_backend_that_is_missing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fr.backends._modules, "c", "it was built without a C compiler")
    monkeypatch.setitem(fr.backends._modules, "auto", "not yet known")
    assert fr.available_backends()["c"] == "it was built without a C compiler"
    with pytest.raises(RuntimeError, match="backend='c' is not available: it was built without a C compiler"):
        call(backend="c")
    y, *_ = call()
    next_fastest = next(name for name, reason in fr.available_backends().items() if reason is None)
    np.testing.assert_array_equal(y, call(backend=next_fastest)[0])


# -- layers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"units": 0}, ValueError, "LSTM: units must be at least 1, got 0"),
        ({"units": 2.5}, TypeError, "LSTM: units must be an integer, got 2.5"),
        ({"dropout": float("nan")}, ValueError, "LSTM: dropout must be"),
        ({"dropout": -0.1}, ValueError, "LSTM: dropout must be"),
        ({"recurrent_dropout": 1.0}, ValueError, "LSTM: recurrent_dropout must be below 1"),
        ({"dropout": "half"}, TypeError, "LSTM: dropout must be a number, got 'half'"),
        ({"activation": "relu"}, ValueError, "LSTM: activation must be 'tanh'"),
        ({"recurrent_activation": "hard_sigmoid"}, ValueError, "recurrent_activation must be 'sigmoid'"),
        ({"dtype": "float16"}, ValueError, "LSTM: dtype must be float32 or float64, got 'float16'"),
        ({"kernel_initializer": "he"}, ValueError, "initializer must be one of"),
    ],
)
def test_bad_layer_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fr.LSTM(**{"units": 3, **arguments})


def test_bad_layer_calls() -> None:
    layer = fr.LSTM(3, name="rnn")
    with pytest.raises(ValueError, match=r"rnn: x must have shape \(batch, time, inputs\), got \(2, 5\)"):
        layer(np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"rnn\.backward: call the layer with training=True first"):
        layer.backward(np.zeros((2, 3)))
    x = np.zeros((2, 5, 4))
    layer(x)
    with pytest.raises(ValueError, match=r"initial_state must be 2 arrays \(batch, units\), got 1"):
        layer(x, initial_state=np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"x must have shape \(batch, time, 4\), got \(2, 5, 5\)"):
        layer(np.zeros((2, 5, 5)))
    layer(x, training=True)
    with pytest.raises(ValueError, match="dstates must be 2 arrays, got 1"):
        layer.backward(np.zeros((2, 3)), [None])
    with pytest.raises(ValueError, match=r"rnn\.set_weights: expected 3 arrays, got 1"):
        layer.set_weights([np.zeros(3)])
    with pytest.raises(ValueError, match=r"recurrent_kernel must have shape \(3, 12\), got \(3, 3\)"):
        layer.set_weights([np.zeros((4, 12)), np.zeros((3, 3)), np.zeros(12)])
