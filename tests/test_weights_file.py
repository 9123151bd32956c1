"""Weight files: with Keras both ways, whole or not at all, and clear words about files that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn as fr

h5py = pytest.importorskip("h5py", reason="h5py is not installed")

X = np.random.default_rng(0).integers(0, 50, size=(32, 10)).astype(np.int32)
Y = np.random.default_rng(1).integers(0, 2, size=(32,)).astype(np.float32)


def layers_of(package):
    """The same model from this library's or Keras' layers, every kind and a repeated one among them."""
    return [
        package.Embedding(50, 4),
        package.LSTM(3, dropout=0.3, return_sequences=True),
        package.LSTM(4, return_sequences=True),
        package.Dropout(0.2),
        package.GRU(3),
        package.Dense(1, activation="sigmoid"),
    ]


def ours(layers=None, optimizer="rmsprop"):
    model = fr.Sequential(layers_of(fr) if layers is None else layers)
    model.build((None, 10))
    if optimizer is not None:
        model.compile(optimizer=optimizer, loss="binary_crossentropy")
    # Biases start at zero: only random weights show that none was swapped.
    rng = np.random.default_rng(2)
    for layer in model.layers:
        layer.set_weights([rng.normal(0, 0.5, w.shape) for w in layer.weights])
    return model


def theirs(optimizer=None):
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((10,)), *layers_of(keras.layers)])
    if optimizer is not None:
        model.compile(optimizer, loss="binary_crossentropy")
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(0, 0.5, w.shape) for w in model.get_weights()])
    return model


def test_round_trip_gives_the_same_bits(tmp_path):
    model, other = ours(), ours()
    model.fit(X, Y, epochs=1, verbose=0)
    model.save_weights(tmp_path / "m.weights.h5")
    other.load_weights(tmp_path / "m.weights.h5")
    for mine, loaded in zip(model.layers, other.layers, strict=True):
        for a, b in zip(mine.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(a, b)
    assert other.optimizer.iterations == model.optimizer.iterations == 1


@pytest.mark.keras
def test_keras_loads_ours(tmp_path):
    model, keras_model = ours(optimizer=None), theirs()
    model.save_weights(tmp_path / "m.weights.h5")
    keras_model.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_allclose(keras_model.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-6)


@pytest.mark.keras
def test_we_load_keras(tmp_path):
    model, keras_model = ours(optimizer=None), theirs()
    keras_model.save_weights(tmp_path / "m.weights.h5")
    model.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_allclose(model.predict(X, verbose=0), keras_model.predict(X, verbose=0), atol=1e-6)


OPTIMIZERS = [
    ("SGD", {"learning_rate": 0.01}),
    ("SGD", {"learning_rate": 0.01, "momentum": 0.9}),
    ("RMSprop", {"learning_rate": 1e-3}),
    ("RMSprop", {"learning_rate": 1e-3, "momentum": 0.9, "centered": True}),
    ("Adam", {"learning_rate": 1e-3}),
    ("Adam", {"learning_rate": 1e-3, "amsgrad": True}),
]


def keras_compiled(name, arguments):
    keras = pytest.importorskip("keras")
    model = theirs(getattr(keras.optimizers, name)(**arguments))
    model.optimizer.build(model.trainable_variables)
    return model


def keras_state(model):
    return [np.asarray(v) for v in model.optimizer.variables]


@pytest.mark.keras
@pytest.mark.parametrize(("name", "arguments"), OPTIMIZERS)
def test_optimizer_state_goes_both_ways(tmp_path, name, arguments):
    """Random slots from Keras through our model and back into Keras: every variable where it was."""
    first, second = keras_compiled(name, arguments), keras_compiled(name, arguments)
    rng = np.random.default_rng(4)
    for i, variable in enumerate(first.optimizer.variables):
        variable.assign(7 if i == 0 else 0.002 if i == 1 else rng.random(variable.shape))
    first.save_weights(tmp_path / "keras.weights.h5")

    model = ours(optimizer=getattr(fr, name)(**arguments))
    model.load_weights(tmp_path / "keras.weights.h5")
    assert model.optimizer.iterations == 7
    assert float(model.optimizer.learning_rate) == pytest.approx(0.002)
    model.save_weights(tmp_path / "ours.weights.h5")

    second.load_weights(tmp_path / "ours.weights.h5")
    for a, b in zip(keras_state(first), keras_state(second), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.keras
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam"])
def test_training_goes_on_as_in_keras(tmp_path, name):
    """One more step after loading ends at the same weights, so each slot belongs to its weight."""
    keras = pytest.importorskip("keras")
    arguments = {"learning_rate": 0.01} | ({"momentum": 0.9} if name == "SGD" else {})
    # No id twice: on TensorFlow, Keras squares an embedding's gradient token by token before it adds up the
    # tokens of one id, and so differs there from its own other backends.
    x = np.random.default_rng(5).permutation(320).reshape(32, 10).astype(np.int32)

    def simple(package):
        return [package.Embedding(320, 4), package.LSTM(3), package.Dense(1, activation="sigmoid")]

    keras_model = keras.Sequential([keras.Input((10,)), *simple(keras.layers)])
    keras_model.compile(getattr(keras.optimizers, name)(**arguments), loss="binary_crossentropy")
    keras_model.fit(x, Y[:, None], batch_size=32, epochs=2, shuffle=False, verbose=0)
    keras_model.save_weights(tmp_path / "k.weights.h5")

    model = ours(simple(fr), getattr(fr, name)(**arguments))
    model.load_weights(tmp_path / "k.weights.h5")
    keras_model.fit(x, Y[:, None], batch_size=32, shuffle=False, verbose=0)
    model.fit(x, Y[:, None], batch_size=32, shuffle=False, verbose=0)
    weights = [w for layer in model.layers for w in layer.weights]
    for mine, expected in zip(weights, keras_model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, expected, atol=2e-5)


@pytest.mark.keras
def test_layout_is_keras_own(tmp_path):
    """The same groups, arrays, types and attributes, but for the names that number models in a process."""

    def contents(path):
        found = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, node: found.update(
                    {name: (node.shape, node.dtype) if isinstance(node, h5py.Dataset) else sorted(node.attrs)}
                )
            )
        return found

    keras_compiled("Adam", {}).save_weights(tmp_path / "k.weights.h5")
    model = ours(optimizer="adam")
    model.fit(X, Y, verbose=0)
    model.save_weights(tmp_path / "o.weights.h5")
    assert contents(tmp_path / "o.weights.h5") == contents(tmp_path / "k.weights.h5")


# -- what goes wrong ----------------------------------------------------------------------------------


def test_wrong_name(tmp_path):
    model = ours()
    for path in ("m.h5", "m.keras", "weights.h5x"):
        with pytest.raises(ValueError, match=r"must end in \.weights\.h5"):
            model.save_weights(tmp_path / path)
        with pytest.raises(ValueError, match=r"must end in \.weights\.h5"):
            model.load_weights(tmp_path / path)
    assert list(tmp_path.iterdir()) == []


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.weights\.h5"):
        ours().load_weights(tmp_path / "none.weights.h5")


def test_unbuilt_model(tmp_path):
    with pytest.raises(ValueError, match="no weights yet"):
        fr.Sequential(layers_of(fr)).save_weights(tmp_path / "m.weights.h5")


def test_other_layers(tmp_path):
    path = tmp_path / "m.weights.h5"
    ours([fr.Embedding(50, 4), fr.LSTM(3), fr.Dense(1)]).save_weights(path)
    with pytest.raises(ValueError, match=r"\['embedding', 'gru', 'dense'\].*'lstm'"):
        ours([fr.Embedding(50, 4), fr.GRU(3), fr.Dense(1)]).load_weights(path)


def test_other_shape_names_the_layer_and_sets_nothing(tmp_path):
    path = tmp_path / "m.weights.h5"
    ours([fr.Embedding(50, 4), fr.LSTM(3), fr.Dense(1)]).save_weights(path)
    model = ours([fr.Embedding(50, 4), fr.LSTM(5, name="wide"), fr.Dense(1)])
    before = [w.copy() for layer in model.layers for w in layer.weights]
    with pytest.raises(ValueError, match=r"wide: kernel must be floats of shape \(4, 20\).*\(4, 12\)"):
        model.load_weights(path)
    after = [w for layer in model.layers for w in layer.weights]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_other_number_of_weights(tmp_path):
    path = tmp_path / "m.weights.h5"
    ours([fr.Embedding(50, 4), fr.LSTM(3, use_bias=False), fr.Dense(1)]).save_weights(path)
    with pytest.raises(ValueError, match=r"lstm\S* has 3 weights, layers/lstm/cell/vars in the file has 2"):
        ours([fr.Embedding(50, 4), fr.LSTM(3), fr.Dense(1)]).load_weights(path)


def test_state_of_another_optimizer_is_left_out_with_a_warning(tmp_path):
    path = tmp_path / "m.weights.h5"
    model = ours(optimizer="adam")
    model.fit(X, Y, verbose=0)
    model.save_weights(path)
    other = ours(optimizer="rmsprop")
    with pytest.warns(UserWarning, match="state of the optimizer was left out"):
        other.load_weights(path)
    np.testing.assert_array_equal(other.predict(X, verbose=0), model.predict(X, verbose=0))


@pytest.mark.parametrize("steps", [np.inf, np.nan, -1.0])
def test_an_impossible_number_of_steps_sets_nothing(tmp_path, steps):
    path = tmp_path / "m.weights.h5"
    model = ours(optimizer="adam")
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        del file["optimizer/vars/0"]
        file["optimizer/vars/0"] = steps
    model.fit(X, Y, verbose=0)
    before, taken = model.get_weights(), model.optimizer.iterations
    with pytest.raises(ValueError, match="no usable optimizer state"):
        model.load_weights(path)
    assert model.optimizer.iterations == taken > 0
    for mine, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, kept)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_truncated_file(tmp_path, share):
    path = tmp_path / "m.weights.h5"
    ours().save_weights(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"not a whole HDF5 file"):
        ours().load_weights(path)


def test_links_out_of_the_file_are_not_followed(tmp_path):
    path = tmp_path / "m.weights.h5"
    layers = [fr.Embedding(50, 4), fr.LSTM(3), fr.Dense(1)]
    ours(layers).save_weights(path)
    (tmp_path / "other.h5").write_bytes(path.read_bytes())
    with h5py.File(path, "a") as file:
        del file["layers/dense/vars"]
        file["layers/dense/vars"] = h5py.ExternalLink("other.h5", "/layers/dense/vars")
    with pytest.raises(ValueError, match="layers/dense/vars in the file has 0"):
        ours(layers).load_weights(path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"m\.weights\.h5 could not be written"):
        ours().save_weights(tmp_path / "file" / "m.weights.h5")
    with pytest.raises(OSError, match="could not be written"):
        ours().save_weights(tmp_path / "nowhere" / "m.weights.h5")


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.weights.h5"
    model = ours()
    model.save_weights(path)
    before = path.read_bytes()
    monkeypatch.setattr(h5py.Group, "create_dataset", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save_weights(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        ours().save_weights(tmp_path / "m.weights.h5")
