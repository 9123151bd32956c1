"""The kernels against real Keras layers: values and all gradients, with random weights, biases and states."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastrnn as fr
from cases import CELLS, OPTIONS, Case, assert_close, make_case

pytestmark = pytest.mark.keras

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def run_keras(keras: ModuleType, case: Case) -> dict[str, np.ndarray]:
    """What `Case.run` gives, from a Keras layer of the same weights, masks and options."""
    import tensorflow as tf

    options, inputs = case.options, case.inputs
    x_mask, h_mask = options.get("dropout_mask"), options.get("recurrent_dropout_mask")
    layer_class = keras.layers.LSTM if case.lstm else keras.layers.GRU
    layer = layer_class(
        len(inputs["U"]),
        use_bias="b" in inputs,
        return_sequences=options["return_sequences"],
        return_state=True,
        go_backwards=options.get("go_backwards", False),
        zero_output_for_mask=options.get("zero_output_for_mask", False),
        # the rates only say which masks there are; the masks themselves are handed in
        dropout=0.0 if x_mask is None else 0.3,
        recurrent_dropout=0.0 if h_mask is None else 0.3,
        dtype=inputs["x"].dtype.name,
        **({} if case.lstm else {"reset_after": options["reset_after"]}),
    )
    layer.build(inputs["x"].shape)
    layer.set_weights([inputs[name] for name in ("W", "U", "b") if name in inputs])
    x = tf.Variable(inputs["x"])
    states = [tf.Variable(inputs[name]) for name in ("h0", "c0") if name in inputs]
    if x_mask is not None:
        gates = 4 if case.lstm else 3
        per_gate = x_mask if x_mask.ndim == 3 else [x_mask] * gates
        layer.cell._dropout_mask = [*map(tf.constant, per_gate)] if h_mask is not None else tf.constant(x_mask)
    if h_mask is not None:
        layer.cell._recurrent_dropout_mask = [*map(tf.constant, h_mask)]
    with tf.GradientTape() as tape:
        outputs = layer(x, initial_state=states or None, mask=options.get("mask"), training=True)
        loss = sum(tf.reduce_sum(y * dy) for y, dy in zip(outputs, case.upstream, strict=True))
    variables = [x, *(v.value for v in layer.trainable_variables), *states]
    gradients = [np.asarray(tf.convert_to_tensor(g)) for g in tape.gradient(loss, variables)]
    named = dict(zip(("y", "hT", "cT"), (np.asarray(y) for y in outputs), strict=False))
    return named | dict(zip([f"d{name}" for name in inputs], gradients, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_values_and_gradients(keras: ModuleType, cell: str, options: str, dtype: str) -> None:
    case = make_case(cell, (5, 6, 3, 9), dtype, seed=20, **OPTIONS[options])
    want = run_keras(keras, case)
    for name, reason in fr.available_backends().items():
        if reason is None:
            got = case.run(name)
            assert_close({key: got[key] for key in want}, want, TOLERANCE[dtype])


@pytest.mark.parametrize("cell", CELLS)
def test_the_chapters_shape(keras: ModuleType, cell: str) -> None:
    case = make_case(cell, (64, 100, 16, 8), np.float32, seed=21, return_sequences=False)
    want = run_keras(keras, case)
    for name, reason in fr.available_backends().items():
        if reason is None:
            got = case.run(name)
            assert_close({key: got[key] for key in want}, want, 1e-5)


CONFIGS: list[dict[str, Any]] = [
    {},
    {"return_sequences": True, "return_state": True},
    {"go_backwards": True, "use_bias": False},
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_layers_have_keras_weights_and_defaults(keras: ModuleType, name: str, config: dict[str, Any]) -> None:
    theirs, ours = getattr(keras.layers, name)(7, **config), getattr(fr, name)(7, **config)
    x = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")
    theirs(x), ours(x)
    weights = theirs.get_weights()
    assert [w.shape for w in weights] == [w.shape for w in ours.get_weights()]
    # zeros, and the ones of the forget gate
    np.testing.assert_array_equal(weights[2:], ours.get_weights()[2:])
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=w.shape).astype("float32") for w in weights]
    theirs.set_weights(weights), ours.set_weights(weights)
    got, want = ours(x), theirs(x)
    for a, b in zip(got, want, strict=True) if config.get("return_state") else [(got, want)]:
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    known = theirs.get_config()
    for key, value in ours.get_config().items():
        if key in known and key not in ("name", "dtype", "seed") and "initializer" not in key:
            assert value == known[key], key


def test_initial_values_are_distributed_as_keras_does(keras: ModuleType) -> None:
    fr.set_seed(3)
    theirs, ours = keras.layers.LSTM(32), fr.LSTM(32)
    theirs.build((None, None, 16)), ours.build((None, None, 16))
    kernel, recurrent, bias = ours.get_weights()
    limit = (6 / (16 + 128)) ** 0.5
    assert np.abs(kernel).max() <= limit
    assert np.abs(kernel).max() > 0.95 * limit
    np.testing.assert_allclose(kernel.std(), theirs.get_weights()[0].std(), rtol=0.1)
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(32), atol=1e-5)
    theirs_r = theirs.get_weights()[1]
    np.testing.assert_allclose(theirs_r @ theirs_r.T, np.eye(32), atol=1e-5)
    np.testing.assert_array_equal(bias, theirs.get_weights()[2])
