"""Embedding, Dense, Dropout, Chain and initial values: gradients in float64, Keras' numbers, errors."""

import itertools

import numpy as np
import pytest

from fastrnn.layers import initializers
from fastrnn.layers.base import Layer
from fastrnn.layers.chain import Chain
from fastrnn.layers.dense import Dense
from fastrnn.layers.dropout import Dropout
from fastrnn.layers.embedding import Embedding
from fastrnn.layers.rnn import LSTM
from fastrnn.random import generator, set_seed

ACTIVATIONS = [None, "linear", "sigmoid", "tanh", "relu", "softmax"]


def randomize(layer, rng):
    """Weights that are all different, biases too."""
    layer.set_weights([rng.standard_normal(w.shape) for w in layer.weights])


def check_gradients(layer, x, rng, step=1e-6):
    """`backward` against finite differences of a random linear function of the output, in float64."""
    dy = rng.standard_normal(layer(x, training=True).shape)
    dx = layer.backward(dy)

    def differences(array):
        gradient = np.zeros_like(array)
        for i in np.ndindex(array.shape):
            before = array[i]
            values = []
            for sign in (1, -1):
                array[i] = before + sign * step
                values.append((layer(x, training=True) * dy).sum())
            array[i] = before
            gradient[i] = (values[0] - values[1]) / (2 * step)
        return gradient

    grads = [g.copy() for g in layer.grads]
    for mine, w in zip(grads, layer.weights, strict=True):
        np.testing.assert_allclose(mine, differences(w), rtol=1e-6, atol=1e-8)
    if dx is not None:
        np.testing.assert_allclose(dx, differences(x), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3), (2, 2, 2, 3)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense_gradients(activation, shape, use_bias, rng):
    layer = Dense(4, activation, use_bias=use_bias, dtype="float64")
    x = rng.standard_normal(shape)
    layer.build(shape)
    randomize(layer, rng)
    assert len(layer.weights) == 1 + use_bias
    assert layer.compute_output_shape((None, *shape[1:])) == (None, *shape[1:-1], 4)
    check_gradients(layer, x, rng)


@pytest.mark.keras
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense_as_keras(keras, activation, rng):
    theirs, mine = keras.layers.Dense(5, activation), Dense(5, activation)
    x = (10 * rng.standard_normal((6, 3, 4))).astype(np.float32)
    theirs.build(x.shape)
    mine.build(x.shape)
    randomize(mine, rng)
    theirs.set_weights(mine.get_weights())
    np.testing.assert_allclose(mine(x), theirs(x).numpy(), rtol=1e-5, atol=1e-6)


def test_dense_refuses():
    with pytest.raises(ValueError, match="units must be at least 1, got 0"):
        Dense(0)
    with pytest.raises(TypeError, match=r"units must be an integer, got 2\.5"):
        Dense(2.5)
    with pytest.raises(ValueError, match=r"activation must be one of .* got 'swish'"):
        Dense(2, "swish")
    layer = Dense(2)
    layer.build((None, 3))
    with pytest.raises(ValueError, match=r"x must have shape \(batch, \.\.\., 3\), got \(4, 5\)"):
        layer(np.zeros((4, 5)))
    with pytest.raises(ValueError, match="training=True"):
        layer.backward(np.zeros((4, 2)))


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "int64", "uint64", "float32"])
def test_embedding_of_any_integers(dtype, rng):
    layer = Embedding(20, 3)
    ids = rng.integers(0, 20, (5, 4)).astype(dtype)
    out = layer(ids)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, layer.weights[0][ids.astype(int)])


@pytest.mark.parametrize("dtype", [">i4", ">i8", ">u4", ">u8", "uint32"])
def test_no_embedding_id_wraps(dtype):
    layer = Embedding(20, 3)
    np.testing.assert_array_equal(layer(np.array([[7]], dtype)), layer(np.array([[7]])))
    top = np.iinfo(dtype).max
    for bad in [top] if top < 2**32 else [top, 2**32 + 7]:
        with pytest.raises(ValueError, match=r"\[0, 20\)"):
            layer(np.array([[bad]], dtype))


@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 3, 2)])
def test_embedding_gradients(shape, rng):
    layer = Embedding(5, 3, dtype="float64")
    ids = rng.integers(0, 4, shape)
    layer.build(shape)
    layer.grads[0][...] = 7.0
    check_gradients(layer, ids, rng)
    assert layer.backward(np.ones((*shape, 3))) is None
    assert not layer.grads[0][4].any()


def test_embedding_mask():
    ids = np.array([[0, 3, 0], [1, 2, 3]])
    np.testing.assert_array_equal(Embedding(5, 2, mask_zero=True).compute_mask(ids, None), ids != 0)
    assert Embedding(5, 2).compute_mask(ids, None) is None


def test_embedding_refuses():
    layer = Embedding(5, 2)
    for bad in ([[5]], [[-1]]):
        with pytest.raises(ValueError, match=r"\[0, 5\)"):
            layer(np.array(bad))
    for bad in ([[0.5]], [[np.nan]]):
        with pytest.raises(ValueError, match="whole numbers"):
            layer(np.array(bad))
    with pytest.raises(TypeError, match="integer dtype"):
        layer(np.array([["a"]]))
    with pytest.raises(ValueError, match="input_dim"):
        Embedding(0, 2)


def test_dropout_keeps_its_share(rng):
    x = rng.standard_normal((200, 500)).astype(np.float32)
    layer = Dropout(0.3, seed=1)
    assert layer(x) is x
    y = layer(x, training=True)
    kept = y != 0
    assert kept.mean() == pytest.approx(0.7, abs=0.01)
    np.testing.assert_allclose(y[kept], x[kept] / 0.7, rtol=1e-6)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(layer.backward(x), y)
    assert not np.array_equal(layer(x, training=True), y)
    np.testing.assert_array_equal(Dropout(0.3, seed=1)(x, training=True), y)


def test_dropout_at_its_limits(rng):
    x = rng.standard_normal((4, 5)).astype(np.float32)
    np.testing.assert_array_equal(Dropout(0.0)(x, training=True), x)
    assert not Dropout(1.0)(x, training=True).any()
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"rate must be within \[0, 1\]"):
            Dropout(rate)


def test_dropout_gradients(rng, monkeypatch):
    layer = Dropout(0.5, dtype="float64")
    scale = rng.choice([0.0, 2.0], (3, 4))
    monkeypatch.setattr(layer, "draw", lambda shape: scale)
    check_gradients(layer, rng.standard_normal((3, 4)), rng)


@pytest.mark.parametrize("shape", [(3, 12), (12, 3), (6, 6)])
def test_orthogonal(shape, rng):
    q = initializers.orthogonal(shape, rng)
    assert q.shape == shape
    product = q @ q.T if shape[0] <= shape[1] else q.T @ q
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=1e-12)
    # Uniform over all such matrices: each entry has mean 0, which the raw Q of a QR has not.
    draws = np.array([initializers.orthogonal((2, 2), rng)[0, 0] for _ in range(2000)])
    assert abs(draws.mean()) < 0.08


@pytest.mark.keras
@pytest.mark.parametrize("name", ["glorot_uniform", "orthogonal", "uniform", "zeros", "ones"])
def test_initial_values_are_spread_as_keras(keras, name, rng):
    shape = (30, 80)
    keras.utils.set_random_seed(1)  # of 2400 numbers the largest may be anywhere
    theirs = keras.initializers.get(name)(shape).numpy()
    mine = initializers.get(name)(shape, rng)
    assert mine.dtype == np.float64
    assert mine.std() == pytest.approx(theirs.std(), rel=0.1)
    assert mine.mean() == pytest.approx(theirs.mean(), abs=0.02)
    assert np.abs(mine).max() == pytest.approx(np.abs(theirs).max(), rel=0.3)


def test_initializers_by_name_or_callable(rng):
    def mine(shape, rng):
        return np.full(shape, 2.5)

    layer = Dense(2, bias_initializer=mine)
    layer.build((None, 3))
    np.testing.assert_array_equal(layer.weights[1], 2.5)
    with pytest.raises(ValueError, match="'he_normal'"):
        initializers.get("he_normal")
    with pytest.raises(TypeError, match="name or a callable"):
        initializers.get(3)


def test_a_seed_makes_everything_the_same():
    def build():
        chain = Chain([Embedding(9, 4), Dropout(0.5), Dense(3)])
        return chain(np.arange(6).reshape(2, 3), training=True), chain.flat_weights

    set_seed(3)
    first = build()
    set_seed(3)
    for one, other in zip(build(), first, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(build()[1], first[1])
    np.testing.assert_array_equal(generator(5).random(3), generator(5).random(3))


def test_chain_gradients(rng):
    chain = Chain([Dense(4, "tanh", dtype="float64"), Dense(3, "softmax", dtype="float64")])
    chain.build((None, 5))
    randomize(chain, rng)
    check_gradients(chain, rng.standard_normal((6, 5)), rng)


def test_chain_lays_everything_out_flat(rng):
    layers = [Embedding(7, 3), Dropout(0.5), Dense(4), Dense(2, use_bias=False)]
    layers[2].build((None, 3))
    before = layers[2].get_weights()
    chain = Chain(layers)
    chain.build((None, 5))
    assert chain.output_shapes == [(None, 5, 3), (None, 5, 3), (None, 5, 4), (None, 5, 2)]
    np.testing.assert_array_equal(layers[2].weights[0], before[0])
    assert chain.flat_weights.shape == chain.flat_grads.shape == (7 * 3 + 3 * 4 + 4 + 8,)
    chain.flat_weights[...] = rng.standard_normal(chain.flat_weights.size)
    chain(rng.integers(0, 7, (2, 5)), training=True)
    chain.backward(rng.standard_normal((2, 5, 2)).astype(np.float32))
    for flat, arrays in ((chain.flat_weights, "weights"), (chain.flat_grads, "grads")):
        parts = [a.ravel() for layer in layers for a in getattr(layer, arrays)]
        np.testing.assert_array_equal(flat, np.concatenate(parts))
        assert np.count_nonzero(flat) > 30


def test_a_chain_within_a_chain(rng):
    dtype = "float64"
    inner = Chain([Dense(4, "tanh", dtype=dtype), Dense(3, dtype=dtype)])
    outer = Chain([inner, Dense(2, dtype=dtype)])
    x = rng.standard_normal((5, 6))
    outer(x)
    assert all(w.base is outer.flat_weights for w in (*inner.weights, *inner.layers[0].weights))
    check_gradients(outer, x, rng)
    # Used on its own, the inner chain takes its parameters back; and the outer one after that.
    for chain in (inner, outer):
        chain.ensure_layout()
        assert all(w.base is chain.flat_weights for w in inner.layers[1].weights)
    np.testing.assert_array_equal(outer.flat_weights, np.concatenate([w.ravel() for w in outer.get_weights()]))


def test_layers_of_an_inner_chain_come_back(rng):
    shared = Dense(4, "tanh")
    inner, other = Chain([shared, Dense(3)]), Chain([shared, Dense(2)])
    outer = Chain([inner, Dense(2)])
    x = rng.standard_normal((5, 6)).astype(np.float32)
    outer(x)
    other(x)
    assert shared.weights[0].base is other.flat_weights
    outer.ensure_layout()
    assert all(w.base is outer.flat_weights for w in (*shared.weights, *inner.weights))
    assert all(g.base is outer.flat_grads for g in (*shared.grads, *inner.grads))


@pytest.mark.parametrize("layer", [Dense(2), LSTM(2), Embedding(3, 2)])
def test_no_layer_is_built_twice(layer):
    layer.build((None, 4, 3))
    before = layer.get_weights()
    with pytest.raises(ValueError, match="built already"):
        layer.build((None, 4, 3))
    for mine, kept in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, kept)


class Keeps(Layer):
    """Passes everything on and keeps the mask it was given."""

    def __call__(self, x, mask=None, training=False):
        self.mask, self.built = mask, True
        return x


def test_masks_are_passed_along(rng):
    ids = rng.integers(0, 3, (4, 6))
    keeps = Keeps()
    chain = Chain([Embedding(3, 2, mask_zero=True), Dropout(0.1), Dense(2), keeps])
    chain(ids)
    np.testing.assert_array_equal(keeps.mask, ids != 0)
    np.testing.assert_array_equal(chain.compute_mask(ids, None), ids != 0)


def test_chain_refuses():
    with pytest.raises(ValueError, match="no layers"):
        Chain().build((None, 3))
    with pytest.raises(ValueError, match="no layers"):
        Chain().pop()
    with pytest.raises(TypeError, match="must be a Layer"):
        Chain([3])
    with pytest.raises(TypeError, match=r"input_shape must be a tuple \(batch, \.\.\.\), got 5"):
        Chain([Dense(2)]).build(5)
    layer = Dense(2)
    with pytest.raises(ValueError, match="already"):
        Chain([layer, layer])
    with pytest.raises(ValueError, match=r"same dtype, got .*float64.*float32"):
        Chain([Dense(2, dtype="float64"), Dense(2)])(np.zeros((1, 3)))


def test_add_and_pop(rng):
    chain = Chain([Dense(3)])
    x = rng.standard_normal((2, 4)).astype(np.float32)
    first = chain(x)
    last = Dense(5, "relu")
    chain.add(last)
    np.testing.assert_array_equal(chain(x), last(first))
    assert chain.pop() is last
    np.testing.assert_array_equal(chain(x), first)


@pytest.mark.parametrize(
    "layer",
    [
        Dense(3, "relu", use_bias=False, bias_initializer="ones", name="a"),
        Embedding(4, 2, mask_zero=True, embeddings_initializer="glorot_uniform", dtype="float64"),
        Dropout(0.25, seed=4),
    ],
)
def test_config_makes_the_layer_anew(layer):
    again = type(layer)(**layer.get_config())
    assert again.get_config() == layer.get_config()


def test_weights_are_set_whole_or_not_at_all(rng):
    chain = Chain([Dense(3), Dense(2)])
    chain.build((None, 4))
    before = chain.get_weights()
    bad = [rng.standard_normal(w.shape) for w in before]
    bad[-1] = np.zeros(7)
    with pytest.raises(ValueError, match=r"must have shape \(2,\), got \(7,\)"):
        chain.set_weights(bad)
    for one, other in itertools.zip_longest(before, chain.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_seeds_are_checked():
    for make in (set_seed, generator, lambda seed: Dropout(0.5, seed=seed), lambda seed: LSTM(2, seed=seed)):
        with pytest.raises(TypeError, match="seed must be an integer, got True"):
            make(True)
        with pytest.raises(TypeError, match=r"seed must be an integer, got 1\.5"):
            make(1.5)
        with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
            make(-1)
