"""Callbacks: each of Keras' against Keras' own on the same logs, and all of them within a real fit."""

import csv
import itertools
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from fastrnn.layers.dense import Dense
from fastrnn.training import callbacks, monitors
from fastrnn.training.model import Sequential


class FakeModel:
    """As much of a model as a callback sees; its weights are the number of the epoch."""

    def __init__(self):
        self.optimizer = SimpleNamespace(learning_rate=0.1)
        self.metrics = []
        self.stop_training = False
        self.weights = [np.zeros(1)]

    def get_weights(self):
        return [w.copy() for w in self.weights]

    def set_weights(self, weights):
        self.weights = [np.array(w) for w in weights]


def drive(callback, values):
    """Runs a callback through epochs of `values` of val_loss; gives (epochs run, last weights, learning rates)."""
    model = FakeModel()
    callback.set_model(model)
    callback.on_train_begin()
    rates = []
    for epoch, value in enumerate(values):
        callback.on_epoch_begin(epoch)
        model.weights = [np.array([float(epoch)])]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            callback.on_epoch_end(epoch, {"loss": 1.0} if value is None else {"loss": 1.0, "val_loss": value})
        rates.append(model.optimizer.learning_rate)
        if model.stop_training:
            break
    callback.on_train_end()
    return epoch + 1, model.weights[0].item(), rates


def sequences(rng):
    """Logs that fall, rise, stay, hold NaN, or miss the value."""
    yield list(1 / np.arange(1.0, 12))
    yield [0.5] * 12
    for length in rng.integers(1, 20, 30):
        values = rng.uniform(0, 1, length).round(1).tolist()
        if rng.random() < 0.3:
            values[rng.integers(length)] = float("nan")
        if rng.random() < 0.3:
            values[rng.integers(length)] = None
        yield values


@pytest.mark.keras
@pytest.mark.parametrize("mode", ["auto", "min", "max"])
def test_early_stopping_as_keras(keras, mode, rng):
    options = itertools.product([0, 1, 3], [0, 0.15], [None, 0.5], [False, True], [0, 2])
    for patience, min_delta, baseline, restore, start in options:
        arguments = {
            "patience": patience,
            "min_delta": min_delta,
            "baseline": baseline,
            "restore_best_weights": restore,
            "start_from_epoch": start,
            "mode": mode,
        }
        for values in sequences(rng):
            mine = drive(monitors.EarlyStopping(**arguments), values)
            assert mine == drive(keras.callbacks.EarlyStopping(**arguments), values), (arguments, values)


@pytest.mark.keras
@pytest.mark.parametrize("mode", ["auto", "min", "max"])
def test_reduce_lr_as_keras(keras, mode, rng):
    options = itertools.product([0, 1, 3], [1e-4, 0.15], [0, 2], [0.0, 0.02], [0.1, 0.5])
    for patience, min_delta, cooldown, min_lr, factor in options:
        arguments = {
            "patience": patience,
            "min_delta": min_delta,
            "cooldown": cooldown,
            "min_lr": min_lr,
            "factor": factor,
            "mode": mode,
        }
        for values in sequences(rng):
            mine = drive(monitors.ReduceLROnPlateau(**arguments), values)
            assert mine == drive(keras.callbacks.ReduceLROnPlateau(**arguments), values), (arguments, values)


@pytest.mark.keras
def test_csv_logger_as_keras(keras, tmp_path, rng):
    runs = [[0.5, 0.25], [0.75]]
    files = []
    for kind in (callbacks.CSVLogger, keras.callbacks.CSVLogger):
        files.append(tmp_path / f"{kind.__module__}.csv")
        for append, values in zip((False, True), runs, strict=True):
            drive(kind(str(files[-1]), separator=";", append=append), values)
    mine, theirs = (list(csv.reader(f.read_text().splitlines(), delimiter=";")) for f in files)
    assert mine == theirs
    assert mine[0] == ["epoch", "loss", "val_loss"]
    assert len(mine) == 4


@pytest.fixture
def problem(rng):
    """A model with a metric, and data that it can learn."""
    model = Sequential([Dense(1)])
    model.compile("sgd", "mse", ["mae"])
    x = rng.standard_normal((40, 3))
    return model, x, x.sum(axis=1) + 0.1 * rng.standard_normal(40)


def test_a_fit_tells_everything_in_order(problem):
    model, x, y = problem
    told = []
    names = ["train", "epoch", "train_batch", "test", "test_batch"]
    functions = {
        f"on_{name}_{end}": lambda *args, called=f"{name}_{end}": told.append((called, *args[:-1]))
        for name in names
        for end in ("begin", "end")
    }
    functions["on_train_begin"] = lambda: told.append(("train_begin",))
    functions["on_test_begin"] = lambda: told.append(("test_begin",))
    functions["on_epoch_begin"] = lambda epoch: told.append(("epoch_begin", epoch))
    model.fit(
        x,
        y,
        30,
        validation_split=0.1,
        verbose=0,
        callbacks=[callbacks.LambdaCallback(**functions)],
        epochs=3,
        initial_epoch=2,
    )
    assert told == [
        ("train_begin",),
        ("epoch_begin", 2),
        *[("train_batch_begin", 0), ("train_batch_end", 0), ("train_batch_begin", 1), ("train_batch_end", 1)],
        *[("test_begin",), ("test_batch_begin", 0), ("test_batch_end", 0), ("test_end",)],
        ("epoch_end", 2),
        ("train_end",),
    ]


def test_hooks_are_only_those_overridden():
    class Mine(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            pass

    for given in ([Mine(), callbacks.Callback()], iter([Mine()]), Mine()):  # Keras takes a lone one, too
        hooks = callbacks.CallbackList(given, None, {})
        assert len(hooks.hooks("on_epoch_end")) == 1
        assert hooks.hooks("on_train_batch_end") == []
    with pytest.raises(TypeError, match="callbacks must hold"):
        callbacks.CallbackList([lambda: None], None, {})
    with pytest.raises(TypeError, match="on_nothing"):
        callbacks.LambdaCallback(on_nothing=print)
    with pytest.raises(TypeError, match="on_epoch_end must be callable, got 1"):
        callbacks.LambdaCallback(on_epoch_end=1)


def test_early_stopping_restores_the_best(problem, capsys):
    model, x, y = problem
    seen = []
    remember = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()))
    # A rate that doubles leads away from the optimum sooner or later.
    faster = callbacks.LearningRateScheduler(lambda epoch, rate: rate * 1.5)
    stop = monitors.EarlyStopping("val_mae", patience=2, restore_best_weights=True, verbose=1)
    history = model.fit(
        x, y, epochs=50, verbose=0, callbacks=[remember, faster, stop], validation_data=(x, y), shuffle=False
    )
    best = int(np.argmin(history.history["val_mae"]))
    assert len(history.epoch) == best + 3 < 50
    for mine, theirs in zip(model.get_weights(), seen[best], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert f"Restoring model weights from the end of the best epoch: {best + 1}." in capsys.readouterr().out


def test_learning_rate_scheduler(problem, capsys):
    model, x, y = problem
    history = model.fit(
        x, y, epochs=3, verbose=0, callbacks=[callbacks.LearningRateScheduler(lambda epoch: 0.5**epoch, verbose=1)]
    )
    assert history.history["learning_rate"] == [1.0, 0.5, 0.25]
    assert model.optimizer.learning_rate == 0.25
    assert "Epoch 3: LearningRateScheduler setting learning rate to 0.25." in capsys.readouterr().out
    assert len(history.epoch) == 3
    with pytest.raises(ValueError, match="must give a float"):
        model.fit(x, y, verbose=0, callbacks=[callbacks.LearningRateScheduler(lambda epoch: "slow")])


def test_terminate_on_nan(problem, capsys):
    model, x, y = problem
    y[-1] = np.nan
    history = model.fit(x, y, 8, epochs=5, shuffle=False, verbose=0, callbacks=[callbacks.TerminateOnNaN()])
    assert len(history.epoch) == 1
    assert "Batch 4: Invalid loss" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="the loss is nan"):
        model.fit(x, y, verbose=0, callbacks=[callbacks.TerminateOnNaN(raise_error=True)])


class Recorder(Sequential):
    """A model that notes where it is saved to instead of writing files."""

    def save_weights(self, path):
        self.__dict__.setdefault("saved", []).append(path)


@pytest.fixture
def recorder(problem):
    _, x, y = problem
    model = Recorder([Dense(1)])
    model.compile("sgd", "mse")
    return model, x, y


def test_checkpoint_paths(recorder, tmp_path):
    model, x, y = recorder
    pattern = str(tmp_path / "deep" / "{epoch:02d}-{loss:.2f}.weights.h5")
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=[monitors.ModelCheckpoint(pattern)])
    assert model.saved == [pattern.format(epoch=i + 1, loss=v) for i, v in enumerate(history.history["loss"])]
    assert (tmp_path / "deep").is_dir()
    with pytest.raises(KeyError, match="val_loss"):
        model.fit(x, y, verbose=0, callbacks=[monitors.ModelCheckpoint("{val_loss}.weights.h5")])


def test_checkpoint_every_few_batches(recorder):
    model, x, y = recorder
    model.fit(
        x, y, 10, epochs=2, verbose=0, callbacks=[monitors.ModelCheckpoint("{epoch}-{batch}.weights.h5", save_freq=3)]
    )
    assert model.saved == ["1-3.weights.h5", "2-2.weights.h5"]


@pytest.mark.keras
def test_checkpoint_of_the_best_as_keras(keras, rng, tmp_path):
    for values, mode, threshold in itertools.product(
        [v for v in sequences(rng) if None not in v], ["auto", "max"], [None, 0.4]
    ):
        saved = []
        for kind in (monitors.ModelCheckpoint, keras.callbacks.ModelCheckpoint):
            paths = []
            save = lambda path, paths=paths, **_: paths.append(path)  # noqa: E731
            callback = kind(
                str(tmp_path / "{epoch}.weights.h5"),
                save_best_only=True,
                save_weights_only=True,
                mode=mode,
                initial_value_threshold=threshold,
            )
            model = FakeModel()
            model.save_weights = save
            callback.set_model(model)
            for epoch, value in enumerate(values):
                callback.on_epoch_begin(epoch)
                callback.on_epoch_end(epoch, {"val_loss": value})
            saved.append(paths)
        assert saved[0] == saved[1], (values, mode, threshold)


def test_arguments_that_make_no_sense(problem):
    for make, message in [
        (lambda: monitors.EarlyStopping(mode="best"), "mode must be"),
        (lambda: monitors.EarlyStopping(patience=-1), "patience must be at least 0"),
        (lambda: monitors.ModelCheckpoint("model.h5"), "filepath must end in"),
        (lambda: monitors.ModelCheckpoint("a.weights.h5", save_weights_only=False), "must be True"),
        (lambda: monitors.ModelCheckpoint("a.weights.h5", save_freq="batch"), "save_freq"),
        (lambda: monitors.ReduceLROnPlateau(factor=1.0), "factor must be below 1"),
        (lambda: callbacks.CSVLogger("log.csv", separator=", "), "separator"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    model, x, y = problem
    with pytest.warns(UserWarning, match="`val_loss`, which is not available; available are: loss, mae"):
        model.fit(x, y, verbose=0, callbacks=[monitors.EarlyStopping()])
    with pytest.raises(ValueError, match="mode='min' or mode='max'"):
        model.fit(x, y, verbose=0, callbacks=[Reporter(), monitors.EarlyStopping("speed")], epochs=2)


class Reporter(callbacks.Callback):
    """Adds a value to the logs of which nothing is known."""

    def on_epoch_end(self, epoch, logs=None):
        logs["speed"] = float(epoch)


def test_nobody_is_called_between_steps_for_nothing() -> None:
    class Mine(monitors.ModelCheckpoint):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None: ...

    path, hook = "x.weights.h5", "on_train_batch_end"
    assert not monitors.ModelCheckpoint(path, save_weights_only=True).listens(hook)
    assert monitors.ModelCheckpoint(path, save_weights_only=True, save_freq=2).listens(hook)
    assert Mine(path, save_weights_only=True).listens(hook)
    assert not monitors.EarlyStopping().listens(hook)
    assert callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None).listens(hook)
