"""Sequential: the training loop against Keras', its bookkeeping, and what it refuses."""

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.layers.base import Layer
from fastrnn.layers.dense import Dense
from fastrnn.layers.dropout import Dropout
from fastrnn.layers.embedding import Embedding
from fastrnn.random import set_seed
from fastrnn.training.callbacks import LambdaCallback
from fastrnn.training.model import Sequential


class MeanOverTime(Layer):
    """(batch, time, D) to (batch, D): what stands between an embedding and a dense layer here."""

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[2])

    def compute_mask(self, x, mask):
        return None

    def __call__(self, x, mask=None, training=False):
        self.shape, self.built = x.shape, True
        return x.mean(axis=1)

    def backward(self, dy):
        return np.broadcast_to(dy[:, np.newaxis] / self.shape[1], self.shape).astype(dy.dtype)


def embedding_with_dense_gradient(keras, vocabulary, units):
    """Keras' Embedding with the gradient that it has on JAX and torch, summed over a token's occurrences.

    On TensorFlow the gradient is a list of occurrences, each of which Adam and RMSprop square by itself, so that
    a token that comes twice in a batch has another second moment there than anywhere else.
    """

    class Embedding(keras.layers.Embedding):
        def call(self, inputs):
            return keras.ops.matmul(keras.ops.one_hot(inputs, self.input_dim), self.embeddings)

    return Embedding(vocabulary, units)


CASES = {
    "binary": ("sigmoid", "binary_crossentropy", ["accuracy", "mse"]),
    "binary, no link": ("tanh", "binary_crossentropy", ["binary_accuracy"]),
    "several binary": ("sigmoid", "binary_crossentropy", ["binary_accuracy", "mae"]),
    "categorical": ("softmax", "categorical_crossentropy", ["accuracy"]),
    "sparse": ("softmax", "sparse_categorical_crossentropy", ["accuracy"]),
    "sparse, no link": ("tanh", "sparse_categorical_crossentropy", ["sparse_categorical_accuracy"]),
    "regression": (None, "mse", ["mae", "mean_squared_error"]),
    "regression, mae": (None, "mae", []),
}


def problem(case, rng, n=70, time=6):
    ids = rng.integers(0, 12, (n, time))
    units = 1 if case.startswith(("binary", "regression")) else 4
    if case.startswith(("binary", "several")):
        y = rng.integers(0, 2, (n, units)).astype(np.float32)
    elif case.startswith("categorical"):
        y = np.eye(units, dtype=np.float32)[rng.integers(0, units, n)]
    elif case.startswith("sparse"):
        y = rng.integers(0, units, n)
    else:
        y = rng.standard_normal(n).astype(np.float32)
    return ids, y, units


@pytest.mark.keras
@pytest.mark.parametrize(
    ("case", "weights"),
    [
        (case, weights)
        for case in CASES
        for weights in (None, "sample_weight", "class_weight")
        if not (weights == "class_weight" and case.startswith(("regression", "several")))  # no classes there
    ],
)
def test_fit_as_keras(keras, case, weights, rng):
    activation, loss, metrics = CASES[case]
    x, y, units = problem(case, rng)
    options = {
        "sample_weight": {"sample_weight": rng.uniform(0, 2, len(x)).astype(np.float32)},
        "class_weight": {"class_weight": {0: 0.3, 1: 2.0}},
        None: {},
    }[weights]
    mine = Sequential([Embedding(12, 5), MeanOverTime(), Dense(6, "tanh"), Dense(units, activation)])
    theirs = keras.Sequential(
        [
            embedding_with_dense_gradient(keras, 12, 5),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(6, "tanh"),
            keras.layers.Dense(units, activation),
        ]
    )
    mine.build(x.shape)
    theirs.build(x.shape)
    mine.set_weights([rng.standard_normal(w.shape) for w in mine.weights])
    theirs.set_weights(mine.get_weights())
    mine.compile("adam", loss, metrics)
    theirs.compile("adam", loss, metrics=metrics)
    # 70 samples with a fifth held out, 16 at a time: the last batch is not full.
    arguments = {"batch_size": 16, "epochs": 4, "shuffle": False, "validation_split": 0.2, "verbose": 0, **options}
    ours, keras_history = mine.fit(x, y, **arguments), theirs.fit(x, y, **arguments)
    assert ours.epoch == keras_history.epoch
    assert set(ours.history) == set(keras_history.history)
    for name, values in keras_history.history.items():
        np.testing.assert_allclose(ours.history[name], values, rtol=2e-4, atol=1e-6, err_msg=name)
    for one, other in zip(mine.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(mine.predict(x, verbose=0), theirs.predict(x, verbose=0), rtol=1e-3, atol=1e-5)
    result = mine.evaluate(x, y, 32, verbose=0)
    np.testing.assert_allclose(result, theirs.evaluate(x, y, 32, verbose=0), rtol=1e-3)


@pytest.mark.keras
@pytest.mark.parametrize("weighted", [False, True])
def test_masked_sequences_as_keras(keras, weighted, rng):
    x = rng.integers(0, 5, (24, 7))
    y = rng.integers(0, 3, (24, 7))
    w = rng.uniform(0, 2, (24, 7)).astype(np.float32) if weighted else None
    mine = Sequential([Embedding(5, 4, mask_zero=True), Dense(3, "softmax")])
    theirs = keras.Sequential([keras.layers.Embedding(5, 4, mask_zero=True), keras.layers.Dense(3, "softmax")])
    mine.build(x.shape)
    theirs.build(x.shape)
    mine.set_weights([rng.standard_normal(a.shape) for a in mine.weights])
    theirs.set_weights(mine.get_weights())
    for model in (mine, theirs):
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    arguments = {"batch_size": 10, "epochs": 3, "shuffle": False, "verbose": 0, "sample_weight": w}
    ours, keras_history = mine.fit(x, y, **arguments), theirs.fit(x, y, **arguments)
    for name, values in keras_history.history.items():
        np.testing.assert_allclose(ours.history[name], values, rtol=1e-4, err_msg=name)
    for one, other in zip(mine.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.keras
def test_on_batch_as_keras(keras, rng):
    x, y, _ = problem("binary", rng)
    mine = Sequential([Embedding(12, 5), MeanOverTime(), Dense(1, "sigmoid")])
    theirs = keras.Sequential(
        [
            embedding_with_dense_gradient(keras, 12, 5),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1, "sigmoid"),
        ]
    )
    mine.build(x.shape)
    theirs.build(x.shape)
    theirs.set_weights(mine.get_weights())
    for model in (mine, theirs):
        model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])
    for _ in range(3):
        np.testing.assert_allclose(mine.train_on_batch(x, y), theirs.train_on_batch(x, y), rtol=1e-5)
        np.testing.assert_allclose(mine.test_on_batch(x, y), theirs.test_on_batch(x, y), rtol=1e-5)
        np.testing.assert_allclose(mine.predict_on_batch(x), theirs.predict_on_batch(x), rtol=1e-5)


@pytest.mark.keras
def test_summary_as_keras(keras, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    mine = Sequential([Embedding(1200, 16, name="words"), Dense(7, name="out")], name="net")
    theirs = keras.Sequential(
        [keras.layers.Embedding(1200, 16, name="words"), keras.layers.Dense(7, name="out")], name="net"
    )
    for model in (mine, theirs):
        model.build((None, 30))
        model.compile("adam", "mse")
    theirs.optimizer.build(theirs.trainable_variables)
    text = []
    theirs.summary(print_fn=text.append, line_length=88)
    mine.summary()
    ours = capsys.readouterr().out

    def words(table):
        return [" ".join(line.replace("┃", "│").replace("│", " ").split()) for line in table.splitlines() if line]

    kept = [line for line in words(text[0]) if line and line[0] not in "┏┡├└"]
    assert [line for line in words(ours) if line[0] not in "┏┡├└"] == kept


def compiled(*layers, optimizer="sgd", loss="mse", metrics=()):
    model = Sequential(layers)
    model.compile(optimizer, loss, metrics)
    return model


def test_learns(rng):
    x = rng.integers(0, 30, (600, 5))
    y = (x > 20).any(axis=1)
    model = compiled(
        Embedding(30, 8), MeanOverTime(), Dense(8, "tanh"), Dense(1, "sigmoid"),
        optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"],
    )  # fmt: skip
    model.optimizer.learning_rate = 0.02
    history = model.fit(x, y, 32, epochs=30, verbose=0)
    assert history.history["accuracy"][-1] > 0.95
    assert history.history["loss"][-1] < 0.3 * history.history["loss"][0]
    loss, accuracy = model.evaluate(x, y, verbose=0)
    assert model.evaluate(x, y, verbose=0, return_dict=True) == {"accuracy": accuracy, "loss": loss}
    assert accuracy == ((model.predict(x, 7, verbose=0)[:, 0] > 0.5) == y).mean()
    assert model.metrics_names == ["loss", "accuracy"]
    assert model.history is history


def test_a_seed_makes_training_the_same(rng):
    x, y = rng.standard_normal((50, 4)), rng.standard_normal(50)

    def train(seed):
        set_seed(seed)
        model = compiled(Dense(6, "relu"), Dropout(0.3), Dense(1))
        return model.fit(x, y, 8, epochs=3, verbose=0).history["loss"], model.flat_weights

    first, again, other = train(1), train(1), train(2)
    assert first[0] == again[0] != other[0]
    np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_sample_comes_once_an_epoch(shuffle, rng):
    seen = []

    class Watch(Layer):
        def __call__(self, x, mask=None, training=False):
            self.built = True
            if training:
                seen.append(x[:, 0].copy())
            return x

        def backward(self, dy):
            return dy

    x = np.arange(23.0)[:, np.newaxis]
    compiled(Watch(), Dense(1)).fit(x, x, 5, epochs=2, shuffle=shuffle, verbose=0)
    assert [len(batch) for batch in seen] == [5, 5, 5, 5, 3] * 2
    epochs = np.concatenate(seen[:5]), np.concatenate(seen[5:])
    for order in epochs:
        np.testing.assert_array_equal(np.sort(order), x[:, 0])
    assert np.array_equal(*epochs) is not shuffle


def test_stop_training_ends_the_epoch(rng):
    model = compiled(Dense(1))
    stop = LambdaCallback(on_train_batch_end=lambda batch, logs: setattr(model, "stop_training", batch == 2))
    model.fit(rng.standard_normal((60, 2)), np.zeros(60), 5, epochs=9, callbacks=[stop], verbose=0)
    assert model.optimizer.iterations == 3
    assert len(model.history.epoch) == 1


def test_validation_data_with_weights(rng):
    x, y, w = rng.standard_normal((40, 3)), rng.standard_normal(40), rng.uniform(0, 2, 40)
    model = compiled(Dense(1), metrics=["mae"])
    history = model.fit(x[:30], y[:30], validation_data=(x[30:], y[30:], w[30:]), verbose=0)
    result = model.evaluate(x[30:], y[30:], sample_weight=w[30:], verbose=0)
    assert [history.history["val_loss"][0], history.history["val_mae"][0]] == pytest.approx(result)
    error = model.predict(x[30:], verbose=0)[:, 0] - y[30:]
    assert result[0] == pytest.approx((error**2 * w[30:]).mean(), rel=1e-5)
    assert result[1] == pytest.approx(np.abs(error).mean(), rel=1e-5)


def test_weights_per_sample_reach_every_step(rng):
    x, y = rng.standard_normal((6, 4, 2)), rng.standard_normal((6, 4, 1))
    model = compiled(Dense(1))
    w = rng.uniform(0, 2, 6)
    every = np.repeat(w[:, np.newaxis], 4, axis=1)
    assert model.evaluate(x, y, sample_weight=w, verbose=0) == model.evaluate(x, y, sample_weight=every, verbose=0)


def test_changed_layers_need_a_new_optimizer(rng):
    x, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    model = compiled(Dense(4), Dense(1))
    model.fit(x, y, verbose=0)
    kept = model.layers[0].get_weights()
    model.pop()
    model.add(Dense(1, use_bias=False))
    with pytest.raises(ValueError, match="compile with a new optimizer"):
        model.fit(x, y, verbose=0)
    model.compile("sgd", "mse")
    model.fit(x, y, epochs=0, verbose=0)
    np.testing.assert_array_equal(model.layers[0].get_weights()[0], kept[0])
    model.fit(x, y, verbose=0)
    assert not np.array_equal(model.layers[0].get_weights()[0], kept[0])


def test_layers_shared_by_two_models_train_in_both(rng):
    x, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    shared = Dense(4)
    shared.build(x.shape)
    models = [compiled(shared, Dense(1)) for _ in range(2)]
    for model in (*models, *models):
        before = shared.get_weights()[0]
        model.fit(x, y, verbose=0)
        assert not np.array_equal(shared.weights[0], before)


def test_float64(rng):
    model = compiled(Dense(3, "tanh", dtype="float64"), Dense(1, dtype="float64"), optimizer="adam")
    model.fit(rng.standard_normal((9, 2)), rng.standard_normal(9), verbose=0)
    assert model.dtype == model.flat_weights.dtype == model.optimizer.slots["velocity"].dtype == np.float64
    assert model.predict(np.zeros((3, 2)), verbose=0).dtype == np.float64


def test_refuses_what_does_not_go_together(rng):
    x, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    model = compiled(Dense(1))
    for arguments, error, message in [
        ({"y": y[:-1]}, ValueError, "same number of samples, got 20 and 19"),
        ({"x": x[:0], "y": y[:0]}, ValueError, "at least one sample"),
        ({"x": np.array([["a"]] * 20)}, TypeError, "x must hold numbers"),
        ({"x": [[1, 2], [3]]}, ValueError, "pad_sequences"),
        ({"y": np.zeros((20, 2))}, ValueError, "shape of the predictions"),
        ({"sample_weight": np.ones(19)}, ValueError, "x and sample_weight"),
        ({"sample_weight": np.ones(20), "class_weight": {}}, ValueError, "together"),
        ({"class_weight": [1, 2]}, TypeError, "class_weight must be a dict"),
        ({"class_weight": {0: -1.0}}, ValueError, r"class_weight\[0\]"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer"),
        ({"epochs": -1}, ValueError, "epochs"),
        ({"validation_split": 1.0}, ValueError, "validation_split=1.0 of 20 samples"),
        ({"validation_split": 0.01, "x": x[:1], "y": y[:1]}, ValueError, "validation_split"),
        ({"validation_split": float("nan")}, ValueError, "validation_split"),
        ({"validation_data": x}, TypeError, "validation_data must be a tuple"),
        ({"verbose": 7}, ValueError, "verbose"),
        ({"shuffle": "batch"}, TypeError, "shuffle must be True or False, got 'batch'"),
    ]:
        with pytest.raises(error, match=message):
            model.fit(**{"x": x, "y": y, "verbose": 0, **arguments})
    assert model.optimizer.iterations == 0


def test_validation_data_do_not_shape_the_model(rng):
    x, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    model = compiled(Dense(1))
    with pytest.raises(ValueError, match=r"\(batch, \.\.\., 3\), got \(20, 2\)"):
        model.fit(x, y, validation_data=(x[:, :2], y), verbose=0)
    model.fit(x, y, verbose=0)


def test_refuses_to_train_uncompiled(rng):
    model = Sequential([Dense(1)])
    with pytest.raises(ValueError, match=r"fit: call compile\(\) first"):
        model.fit([[1.0]], [1.0])
    with pytest.raises(ValueError, match="not built"):
        model.count_params()
    model.compile()
    with pytest.raises(ValueError, match="without a loss"):
        model.evaluate([[1.0]], [1.0])
    assert model.predict([[1.0]], verbose=0).shape == (1, 1)
    assert model.count_params() == 2


def test_refuses_unknown_ways_to_train():
    model = Sequential([Dense(1)])
    for arguments, error, message in [
        ({"optimizer": "lion"}, ValueError, "optimizer must be one of"),
        ({"loss": "hinge"}, ValueError, "loss must be one of"),
        ({"metrics": ["auc"]}, ValueError, "'auc'"),
        ({"metrics": "accuracy"}, TypeError, "metrics must be a list"),
        ({"metrics": [len]}, TypeError, "metrics must be a list"),
        ({"metrics": ["mse", "mse"]}, ValueError, "differ"),
    ]:
        with pytest.raises(error, match=message):
            model.compile(**{"loss": "mse", **arguments})
    model.compile("sgd", "mse", ["sparse_categorical_accuracy"])
    with pytest.raises(ValueError, match="needs integer classes"):
        model.fit([[1.0]], [1.0], verbose=0)


def test_summary_before_and_after_building(capsys):
    model = Sequential([Embedding(10, 4, name="e"), Dense(2, name="d")], name="m")
    model.summary()
    assert capsys.readouterr().out.count("0 (unbuilt)") == 2
    model.build((None, 3))
    model.summary()
    out = capsys.readouterr().out
    assert 'Model: "m"' in out
    assert "│ e (Embedding) │ (None, 3, 4) │      40 │" in out
    assert " Total params: 50 (200.00 B)" in out


def test_more_than_one_output_is_refused():
    model = Sequential([Embedding(5, 2), fr.LSTM(3, return_state=True, name="two"), Dense(1)])
    with pytest.raises(ValueError, match="two has return_state=True, but a layer here must give one output"):
        model.build((None, 4))


def test_models_that_share_layers_see_each_others_changes(rng):
    shared = Embedding(6, 3)
    first, second = (Sequential([shared, MeanOverTime(), Dense(units)]) for units in (1, 2))
    x = rng.integers(0, 6, (16, 4))
    for model in (first, second):
        model.build((None, 4))
        model.compile("sgd", "mse")
    second.fit(x, rng.standard_normal((16, 2)), verbose=0)
    np.testing.assert_array_equal(first.get_weights()[0], shared.weights[0])
    first.set_weights([np.zeros_like(w) for w in first.get_weights()])
    assert not shared.weights[0].any()
    assert not second.get_weights()[0].any()
