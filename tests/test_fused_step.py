"""What makes a training step short gives what the long way gives: optimizers and the end of a model in one call of a
backend, and a layer that takes over the memory of its last call."""

from __future__ import annotations

import pickle
from copy import deepcopy
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastrnn as fr
from cases import assert_close
from fastrnn.layers.base import Layer
from fastrnn.ops import Lookup
from fastrnn.training import losses, metrics, optimizers
from fastrnn.training.data import Data
from fastrnn.training.head import ModelEnd
from test_optimizers import CASES

SIZE = 2 * 16384 + 13  # three tasks of the C kernel and a part of a vector


def optimized(kind: str, arguments: dict[str, Any], dtype: Any, backend: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    w = rng.standard_normal(SIZE).astype(dtype)
    optimizer = getattr(optimizers, kind)(**arguments)
    optimizer.build(w, [(SIZE - 100,), (10, 10)])
    with fr.use_backend(backend):
        for _ in range(5):
            optimizer.apply(w, (rng.standard_normal(SIZE) * rng.choice([0, 1e-3, 1, 30], SIZE)).astype(dtype))
    return {"w": w, **optimizer.slots}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kind", "arguments"), CASES)
def test_optimizers(kind: str, arguments: dict[str, Any], dtype: Any, backend: str) -> None:
    want = optimized(kind, arguments, dtype, "reference")
    assert_close(optimized(kind, arguments, dtype, backend), want, 1e-6 if dtype == np.float32 else 1e-14)


@pytest.mark.parametrize(("kind", "arguments"), CASES[:10])
def test_optimizers_on_every_instruction_set_and_any_number_of_threads(
    c_backend: ModuleType, kind: str, arguments: dict[str, Any]
) -> None:
    want = optimized(kind, arguments, np.float32, "reference")
    for isa in c_backend.isa_names():
        c_backend.set_isa(isa)
        results = []
        for threads in (1, 2, 3):
            fr.set_num_threads(threads)
            results.append(optimized(kind, arguments, np.float32, "c"))
            for name, array in results[0].items():
                np.testing.assert_array_equal(array, results[-1][name])
        assert_close(results[0], want, 1e-6)


def test_an_optimizer_is_only_for_what_it_was_built_for() -> None:
    w, g = np.zeros(6, np.float32), np.ones(6, np.float32)
    optimizer = optimizers.RMSprop()
    optimizer.build(w, [(6,)])
    for bad in (np.ones(5, np.float32), np.ones(6), np.ones((6, 1), np.float32)):
        with pytest.raises(ValueError, match="flat_grads must be float32 of shape"):
            optimizer.apply(w, bad)
        with pytest.raises(ValueError, match="flat_weights must be float32 of shape"):
            optimizer.apply(bad, g)
    strided = np.zeros(12, np.float32)[::2]
    optimizer.apply(strided, np.ones(12, np.float32)[::2])
    assert (strided != 0).all()
    with pytest.raises(TypeError):
        optimizer.slots["velocity"] = g  # type: ignore[index]


def ended(
    loss: str, shape: tuple[int, ...], units: int, dtype: Any, backend: str, *, bias: bool, weighted: bool, masked: bool
) -> dict[str, np.ndarray]:
    """Loss, metrics and gradients of the end of a model; `shape` is that of the entries and the inputs."""
    rng = np.random.default_rng([4, *shape, units])
    fr.set_seed(1)
    activation = "sigmoid" if loss == "binary_crossentropy" else "softmax"
    dense = fr.Dense(units, activation, use_bias=bias, dtype=dtype)
    dense.build(shape)
    dense.set_weights([rng.standard_normal(w.shape) for w in dense.weights])
    kind = losses.get(loss)
    known = (*shape[:-1], units)
    y: Any = rng.integers(0, units, shape[:-1])
    if activation == "sigmoid":
        y = rng.integers(0, 2, known)
    elif not loss.startswith("sparse"):
        y = np.eye(units)[y]
    x = (rng.standard_normal(shape) * 3).astype(dtype)
    w = losses.prepare_weights(rng.uniform(0, 2, shape[:-1]), known, np.dtype(dtype)) if weighted else None
    mask = rng.random(shape[:-1]) < 0.7 if masked else None
    measures = metrics.resolve(["accuracy"], loss.startswith("sparse"), units)
    end = ModelEnd(kind, dense)
    with fr.use_backend(backend):
        value, dx = end(x, mask, Data(x, kind.prepare(y, known, np.dtype(dtype)), w), measures, True)
        again, nothing = end(x, mask, Data(x, kind.prepare(y, known, np.dtype(dtype)), w), [], False)
    assert again == value
    assert nothing is None or backend == "reference"
    assert dx is not None
    found = {"loss": np.array([value]), "accuracy": np.array([measures[0].result()]), "dx": dx}
    return found | dict(zip(("dW", "db"), dense.grads, strict=False))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {"bias": True, "weighted": False, "masked": False},
        {"bias": False, "weighted": True, "masked": False},
        {"bias": True, "weighted": True, "masked": True},
    ],
)
@pytest.mark.parametrize("shape", [(64, 8), (1, 1), (7, 5, 3)])
@pytest.mark.parametrize(
    ("loss", "units"),
    [
        ("binary_crossentropy", 1),
        ("binary_crossentropy", 5),
        ("categorical_crossentropy", 2),
        ("categorical_crossentropy", 11),
        ("sparse_categorical_crossentropy", 1),
        ("sparse_categorical_crossentropy", 9),
    ],
)
def test_end_of_a_model(
    poisoned: str, loss: str, units: int, shape: tuple[int, ...], options: dict[str, bool], dtype: Any
) -> None:
    want = ended(loss, shape, units, dtype, "reference", **options)
    got = ended(loss, shape, units, dtype, poisoned, **options)
    assert got["accuracy"] == want["accuracy"]
    for name, value in want.items():
        scale = 1.0 if name == "loss" else max(float(np.abs(value).max()), 1e-30)
        error = float(np.abs(got[name] - value).max()) / scale
        assert error < (2e-6 if dtype == np.float32 else 1e-14), (name, error)


@pytest.mark.parametrize("size", [50.0, 1e4, np.nan])
def test_huge_logits_at_the_end_of_a_model(backend: str, size: float) -> None:
    for loss, units, y in (("binary_crossentropy", 1, [[0.0], [1.0]]), ("sparse_categorical_crossentropy", 2, [1, 0])):
        dense = fr.Dense(units, "sigmoid" if units == 1 else "softmax")
        dense.build((2, 1))
        dense.set_weights([np.array([[size, -size][:units]]), np.zeros(units)])
        kind = losses.get(loss)
        results = []
        for name in ("reference", backend):
            with fr.use_backend(name):
                batch = Data(np.zeros(2), kind.prepare(y, (2, units), np.float32), None)
                results.append(ModelEnd(kind, dense)(np.array([[1], [-1]], np.float32), None, batch, [], True))
        np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-6)
        np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-6)


def test_a_subclass_of_what_is_fused_is_asked() -> None:
    class Half(losses.BinaryCrossentropy):
        def entries_from_logits(self, y: np.ndarray, z: np.ndarray, p: np.ndarray) -> losses.Values:
            values, gradient = super().entries_from_logits(y, z, p)
            return values / 2, gradient / 2

    dense, x = fr.Dense(1, "sigmoid"), np.ones((4, 3), np.float32)
    dense.build(x.shape)
    batch = Data(x, np.zeros((4, 1), np.float32), None)
    whole = ModelEnd(losses.get("bce"), dense)(x, None, batch, [], True)[0]
    assert ModelEnd(Half(), dense)(x, None, batch, [], True)[0] == pytest.approx(whole / 2)


@pytest.mark.parametrize("arrays", ["weights", "grads"])
def test_columns_first(backend: str, arrays: str) -> None:
    rng = np.random.default_rng(5)
    dense, x = fr.Dense(3, "softmax"), rng.standard_normal((4, 5)).astype(np.float32)
    dense.build(x.shape)
    batch, kind = Data(x, np.eye(4, 3, dtype=np.float32), None), losses.get("categorical_crossentropy")
    results = []
    with fr.use_backend(backend):
        for order in ("C", "F"):
            getattr(dense, arrays)[0] = getattr(dense, arrays)[0].copy(order)
            results.append([*ModelEnd(kind, dense)(x, None, batch, [], True), *(grad.copy() for grad in dense.grads)])
    for rows_first, columns_first in zip(*results, strict=True):
        np.testing.assert_allclose(columns_first, rows_first, rtol=1e-5, atol=1e-6)


# -- a layer's memory -----------------------------------------------------------------------------------------------

LAYERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sequences": {"return_sequences": True, "use_bias": False},
    "backwards": {"go_backwards": True, "return_state": True},
    "dropout": {"dropout": 0.4, "seed": 1},
    "recurrent_dropout": {"dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1},
    "masked": {"return_sequences": True, "zero_output_for_mask": True},
}


@pytest.mark.parametrize("way", ["columns first", "apart"])
def test_gradients_that_were_replaced(backend: str, way: str) -> None:
    rng = np.random.default_rng(4)
    layer, x, dy = fr.LSTM(6, backend=backend), rng.standard_normal((3, 4, 5)).astype(np.float32), np.ones((3, 6), "f")
    layer(x, training=True)
    layer.backward(dy)
    want = [grad.copy() for grad in layer.grads]
    whole = np.zeros((5, 48), np.float32)
    layer.grads[0] = want[0].copy("F") * 0 if way == "columns first" else whole[:, ::2]
    layer(x, training=True)
    layer.backward(dy)
    names = ("dW", "dU", "db")
    assert_close(dict(zip(names, layer.grads, strict=True)), dict(zip(names, want, strict=True)), 1e-5)
    assert not whole[:, 1::2].any()


def outcome(layer: Any, x: Any, mask: np.ndarray | None) -> dict[str, np.ndarray]:
    """Outputs and gradients of a training call, nothing of it copied but the layer's own gradients."""
    outputs = layer(x, mask=mask, training=True)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    dx = layer.backward(np.ones_like(outputs[0]))
    arrays = [*outputs, dx, *layer.dinitial_state, *(g.copy() for g in layer.grads)]
    return {str(k): array for k, array in enumerate(arrays)}


@pytest.mark.parametrize("inputs", ["arrays", "few words", "many words"])
@pytest.mark.parametrize("options", LAYERS)
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_calls_in_a_row_are_as_calls_alone(poisoned: str, cell: str, options: str, inputs: str) -> None:
    rng = np.random.default_rng(5)
    words = {"arrays": 0, "few words": 7, "many words": 300}[inputs]
    table = rng.standard_normal((words, 3)).astype(np.float32)
    fr.set_seed(2)
    layer = getattr(fr, cell)(5, backend=poisoned, **LAYERS[options])
    layer.build((None, None, 3))
    layer.set_weights([rng.standard_normal(w.shape) for w in layer.weights])
    calls = []
    # the same shapes, others, and the first again
    for batch, time in ((6, 9), (6, 9), (6, 9), (4, 9), (6, 5), (6, 9), (6, 9)):
        ids = rng.integers(0, words, (batch, time)) if words else None
        x: Any = rng.standard_normal((batch, time, 3)).astype(np.float32) if ids is None else Lookup(table, ids)
        mask = rng.random((batch, time)) < 0.7 if options == "masked" and len(calls) != 2 else None
        calls.append((x, mask, outcome(layer, x, mask)))
    assert not any(np.isnan(array).any() for _, _, got in calls for array in got.values())
    fr.set_seed(2)
    other = getattr(fr, cell)(5, backend="reference", **LAYERS[options])
    other.build((None, None, 3))
    other.set_weights(layer.get_weights())
    for x, mask, got in calls:
        assert_close(got, outcome(other, x, mask), 2e-5)  # weights as large as these make much of rounding


def test_a_call_sees_what_was_changed_since_the_last(backend: str) -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((4, 6, 3)).astype(np.float32)
    layer = fr.GRU(5, backend=backend)
    reference = fr.GRU(5, backend="reference")
    layer(x, training=True)
    reference.build(x.shape)

    def check(**call: Any) -> None:
        reference.set_weights(layer.get_weights())
        for name in ("go_backwards", "return_sequences"):
            setattr(reference, name, getattr(layer, name))
        got, want = (each(x, training=True, **call) for each in (layer, reference))
        np.testing.assert_allclose(got, want, atol=1e-6)
        dx, want = (each.backward(np.ones_like(got)) for each in (layer, reference))
        np.testing.assert_allclose(dx, want, atol=1e-5)

    check()
    layer.set_weights([rng.standard_normal(w.shape) for w in layer.weights])
    check()
    layer.rebind([w + 1 for w in layer.weights], [np.zeros_like(g) for g in layer.grads])
    check()
    layer.return_sequences = True
    check()
    layer.go_backwards = True
    check()
    check(initial_state=rng.standard_normal((4, 5)).astype(np.float32))
    check()
    layer.backend = "reference"
    check()
    layer.backend = backend
    x = np.asfortranarray(x)
    check()


def test_after_a_call_that_failed_there_is_no_backward(backend: str) -> None:
    table = np.ones((5, 3), np.float32)
    layer = fr.LSTM(4, backend=backend)
    layer(Lookup(table, np.zeros((8, 6), np.int32)), training=True)
    with pytest.raises(ValueError, match="token ids must be in"):
        layer(Lookup(table, np.full((8, 6), 5, np.int32)), training=True)
    with pytest.raises(ValueError, match="call the layer with training=True first"):
        layer.backward(np.ones((8, 4), np.float32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"x": np.ones((2, 3))}, r"x must have shape \(batch, time, inputs\)"),
        ({"x": np.ones((2, 3, 6))}, r"x must have shape \(batch, time, 5\), got \(2, 3, 6\)"),
        ({"x": np.ones((2, 3, 5)), "mask": np.ones((2, 4), bool)}, r"mask must have shape \(2, 3\)"),
    ],
)
def test_nor_is_there_one_after_inputs_that_do_not_fit(backend: str, call: dict[str, Any], message: str) -> None:
    layer = fr.GRU(4, backend=backend)
    layer(np.ones((2, 3, 5), np.float32), training=True)
    with pytest.raises(ValueError, match=message):
        layer(**call, training=True)
    with pytest.raises(ValueError, match="call the layer with training=True first"):
        layer.backward(np.ones((2, 4), np.float32))


@pytest.mark.parametrize("first", [list, np.array])
def test_masks_and_ids_may_be_lists(backend: str, first: Any) -> None:
    mask, ids = [[True, False, True]] * 2, [[0, 1, 2]] * 2
    table = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
    layer = fr.LSTM(4, backend=backend)
    want = layer(Lookup(table, first(ids)), mask=first(mask), training=True)
    np.testing.assert_array_equal(layer(Lookup(table, ids), mask=mask, training=True), want)
    with pytest.raises(ValueError, match=r"mask must have shape \(2, 3\), got \(\)"):
        layer(Lookup(table, ids), mask="all", training=True)


@pytest.mark.parametrize("copy", [deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_model_trains_on_by_itself(copy: Any, backend: str, rng: np.random.Generator) -> None:
    model = fr.Sequential([fr.Embedding(9, 4), fr.LSTM(3, return_sequences=True), fr.GRU(3), fr.Dense(1, "sigmoid")])
    model.compile(fr.Adam(0.01), "binary_crossentropy", ["accuracy"])
    x, y = rng.integers(0, 9, (16, 5)), rng.integers(0, 2, 16)
    with fr.use_backend(backend):
        model.fit(x, y, 8, verbose=0, shuffle=False)
        other = copy(model)
        before = model.get_weights()
        history = other.fit(x, y, 8, verbose=0, shuffle=False).history
        for mine, kept in zip(model.weights, before, strict=True):
            np.testing.assert_array_equal(mine, kept)
        assert model.fit(x, y, 8, verbose=0, shuffle=False).history == history
    assert other.optimizer.iterations == model.optimizer.iterations == 4
    for mine, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_weights_that_must_not_be_written_to_are_not(backend: str) -> None:
    w, g = np.zeros(3), np.ones(3)
    optimizer = optimizers.SGD()
    optimizer.build(w, [(3,)])
    w.flags.writeable = False
    with fr.use_backend(backend), pytest.raises(ValueError, match="read-only"):
        optimizer.apply(w, g)
    np.testing.assert_array_equal(w, 0)


def test_what_a_model_hands_out_stays(rng: np.random.Generator) -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    class Watch(Layer):
        def __call__(self, x: np.ndarray, mask: Any = None, training: bool = False) -> np.ndarray:
            self.built = True
            seen.append((x, x.copy()))
            return x

        def backward(self, dy: np.ndarray) -> np.ndarray:
            seen.append((dy, dy.copy()))
            return dy

    layers = [fr.Embedding(20, 4), fr.LSTM(3, return_sequences=True), Watch(), fr.GRU(3), Watch()]
    model = fr.Sequential([*layers, fr.Dense(1, "sigmoid")])
    model.compile("rmsprop", "binary_crossentropy", ["accuracy"])
    model.fit(rng.integers(0, 20, (48, 7)), rng.integers(0, 2, 48), 8, epochs=2, verbose=0)
    assert len(seen) == 2 * 2 * 12
    for array, copy in seen:
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("how", ["context", "environment"])
def test_fit_runs_on_the_backend_in_use(
    c_backend: ModuleType, monkeypatch: pytest.MonkeyPatch, how: str, rng: np.random.Generator
) -> None:
    used: list[str] = []
    for name in ("optimize", "dense_crossentropy", "forward_again", "model_steps"):
        real = getattr(c_backend, name)
        monkeypatch.setattr(c_backend, name, lambda *args, name=name, real=real: used.append(name) or real(*args))
    model = fr.Sequential([fr.Embedding(9, 4), fr.GRU(3), fr.Dense(1, "sigmoid")])
    model.compile("adam", "binary_crossentropy")
    x, y = rng.integers(0, 9, (16, 5)), rng.integers(0, 2, 16)
    model.fit(x, y, 8, verbose=0)
    assert set(used) == {"model_steps"}
    for _ in range(2):
        model.train_on_batch(x, y)
    assert set(used) == {"optimize", "model_steps", "dense_crossentropy", "forward_again"}
    used.clear()
    if how == "environment":
        monkeypatch.setattr(fr.backends, "_default", "reference")
        model.fit(x, y, 8, verbose=0)
    else:
        with fr.use_backend("reference"):
            model.fit(x, y, 8, verbose=0)
    assert not used
