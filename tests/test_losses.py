"""Losses and their gradients: against finite differences in float64, and against Keras."""

import numpy as np
import pytest

from fastrnn.layers.activations import sigmoid, softmax
from fastrnn.training import losses

NAMES = ["mse", "mae", "binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy"]
CROSS = ["BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"]


def make(name, rng, shape, dtype=np.float64, from_logits=False):
    """Targets and predictions that suit the loss."""
    kind = losses.get(name).name
    p = rng.standard_normal(shape)
    y = rng.standard_normal(shape)
    if kind == "binary_crossentropy":
        y = rng.uniform(0, 1, shape)
        p = p if from_logits else rng.uniform(0.05, 0.95, shape)
    elif kind.endswith("categorical_crossentropy"):
        y = softmax(y)
        p = p if from_logits else rng.uniform(0.1, 0.9, shape)
        if kind.startswith("sparse"):
            y = rng.integers(0, shape[-1], shape[:-1])
    return (y if y.dtype.kind == "i" else y.astype(dtype)), p.astype(dtype)


def finite_differences(function, p, step=1e-6):
    gradient = np.zeros_like(p)
    for i in np.ndindex(p.shape):
        up, down = p.copy(), p.copy()
        up[i] += step
        down[i] -= step
        gradient[i] = (function(up) - function(down)) / (2 * step)
    return gradient


@pytest.mark.parametrize("weighted", [None, "sample", "entry"])
@pytest.mark.parametrize("shape", [(5, 1), (4, 3), (3, 4, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_finite_differences(name, shape, weighted, rng):
    loss = losses.get(name)
    y, p = make(name, rng, shape)
    w = {None: None, "sample": rng.uniform(0, 2, shape[0]), "entry": rng.uniform(0, 2, shape[:-1])}[weighted]
    value, gradient = loss.value_and_gradient(y, p, w)
    assert value == pytest.approx(loss(y, p, w))
    np.testing.assert_allclose(gradient, finite_differences(lambda q: loss(y, q, w), p), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CROSS)
def test_gradient_from_logits(name, rng):
    loss = getattr(losses, name)(from_logits=True)
    y, z = make(name, rng, (6, 3), from_logits=True)
    _, gradient = loss.value_and_gradient(y, z)
    np.testing.assert_allclose(gradient, finite_differences(lambda q: loss(y, q), z), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CROSS)
def test_logits_and_probabilities_agree(name, rng):
    y, z = make(name, rng, (7, 4), from_logits=True)
    kind = getattr(losses, name)
    p = sigmoid(z) if kind.link == "sigmoid" else softmax(z)
    assert kind(from_logits=True)(y, z) == pytest.approx(kind()(y, p), rel=1e-9)


@pytest.mark.parametrize("size", [50.0, 1e4])
def test_huge_logits_stay_finite(size):
    z = np.array([[size], [-size]], np.float32)
    wrong = np.array([[0.0], [1.0]])
    value, gradient = losses.BinaryCrossentropy(from_logits=True).value_and_gradient(wrong, z)
    assert value == pytest.approx(size)
    np.testing.assert_allclose(gradient, [[0.5], [-0.5]])
    pair = np.concatenate([z, -z], axis=1)
    value, gradient = losses.SparseCategoricalCrossentropy(from_logits=True).value_and_gradient([1, 0], pair)
    assert value == pytest.approx(2 * size)
    assert np.isfinite(gradient).all()


def test_certain_probabilities_are_kept_off_zero():
    value, gradient = losses.get("bce").value_and_gradient([[1.0], [0.0]], np.array([[0.0], [1.0]]))
    assert value == pytest.approx(-np.log(1e-7), rel=1e-6)
    np.testing.assert_array_equal(gradient, 0)


def test_mask_gives_the_mean_over_what_is_left(rng):
    y, p = make("mse", rng, (3, 5, 2))
    mask = rng.random((3, 5)) < 0.6
    loss = losses.get("mse")
    value, gradient = loss.reduce(loss.entries(y, p), losses.mask_weights(mask, None, p.dtype))
    assert value == pytest.approx(((y - p) ** 2)[mask].mean())
    assert not gradient[~mask].any()
    nothing = losses.mask_weights(np.zeros((3, 5), bool), None, p.dtype)
    assert loss.reduce(loss.entries(y, p), nothing)[0] == 0.0


def test_missing_last_axis_of_one(rng):
    y, p = make("mse", rng, (6, 1))
    assert losses.get("mse")(y[:, 0], p) == losses.get("mse")(y, p)
    y, p = make("sparse_categorical_crossentropy", rng, (6, 3))
    loss = losses.get("sparse_categorical_crossentropy")
    assert loss(y[:, np.newaxis], p) == loss(y, p) == loss(y.astype(float), p)


@pytest.mark.parametrize(
    ("name", "y", "p", "message"),
    [
        ("mse", np.zeros((3, 2)), np.zeros((3, 4)), r"y must have the shape .*\(batch, 4\), got \(3, 2\)"),
        ("sparse_categorical_crossentropy", [0, 4], np.full((2, 3), 0.3), "classes 0 to 2"),
        ("sparse_categorical_crossentropy", [0, -1], np.full((2, 3), 0.3), "classes 0 to 2"),
        ("sparse_categorical_crossentropy", [0.5, 1], np.full((2, 3), 0.3), "whole numbers"),
        ("sparse_categorical_crossentropy", np.zeros((2, 3), int), np.full((2, 3), 0.3), "a class for each"),
    ],
)
def test_targets_that_do_not_fit(name, y, p, message):
    with pytest.raises(ValueError, match=message):
        losses.get(name)(y, p)


def test_weights_that_do_not_fit():
    with pytest.raises(ValueError, match="sample_weight must have shape"):
        losses.get("mse")(np.zeros((3, 4, 2)), np.zeros((3, 4, 2)), np.ones((3, 5)))
    with pytest.raises(ValueError, match="NaN"):
        losses.get("mse")(np.zeros((2, 1)), np.zeros((2, 1)), [1.0, np.nan])


def test_get():
    assert isinstance(losses.get("MeanSquaredError"), losses.MeanSquaredError)
    assert isinstance(losses.get(losses.BinaryCrossentropy), losses.BinaryCrossentropy)
    mine = losses.BinaryCrossentropy(from_logits=True)
    assert losses.get(mine) is mine
    with pytest.raises(ValueError, match="'hinge'"):
        losses.get("hinge")
    with pytest.raises(TypeError, match="name or a Loss"):
        losses.get(3)


@pytest.mark.keras
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("name", ["MeanSquaredError", "MeanAbsoluteError", *CROSS])
def test_values_and_gradients_are_those_of_keras(keras, name, from_logits, rng):
    tf = pytest.importorskip("tensorflow")
    arguments = {"from_logits": from_logits} if name in CROSS else {}
    mine, theirs = getattr(losses, name)(**arguments), getattr(keras.losses, name)(**arguments)
    for shape in [(9, 2 if mine.link == "softmax" else 1), (8, 5), (4, 6, 3)]:
        y, p = make(name, rng, shape, np.float32, from_logits)
        # Some beyond the clipping of probabilities.
        if not from_logits and name in CROSS:
            p[0] = 0 if shape[-1] == 1 else np.eye(shape[-1])[0]
        w = rng.uniform(0, 2, shape[:-1]).astype(np.float32)
        for weights in (None, w):
            value, gradient = mine.value_and_gradient(y, p, weights)
            q = tf.Variable(p)
            with tf.GradientTape() as tape:
                expected = theirs(y, q, sample_weight=weights)
            np.testing.assert_allclose(value, float(expected), rtol=2e-6)
            np.testing.assert_allclose(gradient, tape.gradient(expected, q).numpy(), rtol=1e-4, atol=1e-6)
