"""Optimizers: many steps of random gradients against Keras' own, and what they refuse."""

import numpy as np
import pytest

from fastrnn.training import optimizers

SHAPES = [(7, 3), (5,), (2, 3, 4), (1,)]

CASES = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"learning_rate": 0.05, "momentum": 0.7, "nesterov": True}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.5, "rho": 0.8}),
    ("RMSprop", {"centered": True, "epsilon": 1e-3}),
    ("RMSprop", {"centered": True, "momentum": 0.9, "epsilon": 1e-3}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True, "learning_rate": 0.01}),
    ("Adam", {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}),
    *[(kind, {clip: 0.5}) for kind in ("SGD", "RMSprop", "Adam") for clip in ("clipnorm", "clipvalue")],
    *[(kind, {"global_clipnorm": 1.0}) for kind in ("SGD", "RMSprop", "Adam")],
]


def flatten(arrays):
    return np.concatenate([a.ravel() for a in arrays])


def gradients(rng, dtype):
    """Of sizes on both sides of every clipping threshold; some entries are exactly zero."""
    return [(rng.standard_normal(s) * rng.choice([0, 0.01, 1, 3], s)).astype(dtype) for s in SHAPES]


@pytest.mark.keras
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kind", "arguments"), CASES)
def test_many_steps_as_keras(keras, kind, arguments, dtype, rng):
    start = [rng.standard_normal(s).astype(dtype) for s in SHAPES]
    variables = [keras.Variable(a, dtype=dtype) for a in start]
    theirs = getattr(keras.optimizers, kind)(**arguments)
    theirs.build(variables)
    mine = getattr(optimizers, kind)(**arguments)
    w = flatten(start)
    mine.build(w, SHAPES)
    for step in range(120):
        if step == 60:
            mine.learning_rate = theirs.learning_rate = 0.002
        g = gradients(rng, dtype)
        theirs.apply([keras.ops.convert_to_tensor(a) for a in g])
        mine.apply(w, flatten(g))
    tolerance = {"rtol": 2e-5, "atol": 2e-6} if dtype == "float32" else {"rtol": 1e-6, "atol": 1e-9}
    np.testing.assert_allclose(w, flatten([v.numpy() for v in variables]), **tolerance)
    assert mine.iterations == int(theirs.iterations) == 120
    assert mine.learning_rate == float(theirs.learning_rate)
    saved = [v.numpy() for v in theirs.variables][2:]
    slots = mine.slot_variables()
    assert [s.shape for s in slots] == [s.shape for s in saved]
    for ours, keras_slot in zip(slots, saved, strict=True):
        np.testing.assert_allclose(ours, keras_slot, **tolerance)


@pytest.mark.parametrize(("kind", "arguments"), [case for case in CASES if "clipnorm" not in case[1]])
def test_one_variable_or_many_is_the_same(kind, arguments, rng):
    """What is laid out flat is split only where a norm is taken for each variable."""
    w = rng.standard_normal(40)
    ends = [(40,)], [(10, 3), (10,)]
    results = []
    for shapes in ends:
        optimizer, copy = getattr(optimizers, kind)(**arguments), w.copy()
        optimizer.build(copy, shapes)
        for seed in range(5):
            optimizer.apply(copy, np.random.default_rng(seed).standard_normal(40))
        results.append(copy)
    np.testing.assert_array_equal(*results)
    assert not np.array_equal(results[0], w)


@pytest.mark.parametrize("clip", [{"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"clipvalue": 0.1}])
def test_clipping_leaves_the_gradients_alone(clip, rng):
    w, g = rng.standard_normal(12), rng.standard_normal(12)
    before = g.copy()
    optimizer = optimizers.SGD(1.0, **clip)
    optimizer.build(w, [(3, 2), (6,)])
    step = w.copy()
    optimizer.apply(w, g)
    step -= w
    np.testing.assert_array_equal(g, before)
    if "clipnorm" in clip:
        np.testing.assert_allclose([np.linalg.norm(step[:6]), np.linalg.norm(step[6:])], 0.5)
    elif "clipvalue" in clip:
        assert np.abs(step).max() == pytest.approx(0.1)
    else:
        assert np.linalg.norm(step) == pytest.approx(0.5)


def test_a_gradient_that_is_not_finite_shows():
    w = np.zeros(2)
    optimizer = optimizers.SGD(global_clipnorm=1.0)
    optimizer.build(w, [(2,)])
    optimizer.apply(w, np.array([np.inf, 1.0]))
    assert np.isnan(w).all()


def test_build_again():
    w = np.zeros(6)
    optimizer = optimizers.Adam()
    optimizer.build(w, [(6,)])
    optimizer.apply(w, np.ones(6))
    moments = optimizer.slots["momentum"].copy()
    optimizer.build(w, [(6,)])
    np.testing.assert_array_equal(optimizer.slots["momentum"], moments)
    with pytest.raises(ValueError, match="other variables"):
        optimizer.build(w, [(3, 2)])
    with pytest.raises(ValueError, match="do not fill"):
        optimizers.Adam().build(w, [(5,)])
    with pytest.raises(ValueError, match="build the optimizer first"):
        optimizers.Adam().apply(w, w)


@pytest.mark.parametrize(
    ("kind", "arguments", "error"),
    [
        ("SGD", {"learning_rate": -0.1}, ValueError),
        ("SGD", {"learning_rate": float("nan")}, ValueError),
        ("SGD", {"learning_rate": "fast"}, TypeError),
        ("SGD", {"momentum": 1.5}, ValueError),
        ("RMSprop", {"rho": -0.1}, ValueError),
        ("Adam", {"beta_2": 2.0}, ValueError),
        ("Adam", {"clipnorm": -1.0}, ValueError),
        ("Adam", {"clipnorm": 1.0, "clipvalue": 1.0}, ValueError),
    ],
)
def test_arguments_that_make_no_sense(kind, arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        getattr(optimizers, kind)(**arguments)


def test_get_and_config():
    assert isinstance(optimizers.get("RMSprop"), optimizers.RMSprop)
    with pytest.raises(ValueError, match="'lion'"):
        optimizers.get("lion")
    with pytest.raises(TypeError):
        optimizers.get(None)
    first = optimizers.RMSprop(0.25, centered=True, clipvalue=2.0)
    again = optimizers.RMSprop(**first.get_config())
    assert again.get_config() == first.get_config()
    first.iterations = 7
    assert first.iterations == 7
    with pytest.raises(ValueError, match="iterations"):
        first.iterations = -1
