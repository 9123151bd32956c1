"""A whole model's step in one call of a backend gives, to the bit, what its layers give one by one."""

from __future__ import annotations

import gc
import signal
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.training.feed import Feed
from fastrnn.training.passes import HostPass

TIME, FEATURES = 7, 5
SAMPLES, BATCH = 45, 16  # the last batch is smaller


def embedded(words: int, *layers: Any, mask_zero: bool = False) -> list[Any]:
    return [fr.Embedding(words, FEATURES, mask_zero=mask_zero), *layers]


# the layers before the Dense; of the words, 20 are few enough to be multiplied once each, but not for the last batch
MODELS: dict[str, Callable[[], list[Any]]] = {
    "lstm": lambda: embedded(20, fr.LSTM(8)),
    "gru": lambda: embedded(20, fr.GRU(9)),
    "reset before, many words": lambda: embedded(300, fr.GRU(6, reset_after=False, use_bias=False)),
    "numbers": lambda: [fr.LSTM(17, go_backwards=True)],
    "dropout": lambda: embedded(20, fr.LSTM(8, dropout=0.3)),
    "recurrent dropout": lambda: embedded(20, fr.GRU(8, dropout=0.2, recurrent_dropout=0.4)),
    "padding": lambda: embedded(
        20, fr.GRU(3, return_sequences=True, go_backwards=True), fr.LSTM(8, recurrent_dropout=0.2), mask_zero=True
    ),
    "padding, many words": lambda: embedded(300, fr.LSTM(9, dropout=0.1, zero_output_for_mask=True), mask_zero=True),
    "Dropout": lambda: embedded(20, fr.Dropout(0.3), fr.LSTM(8, dropout=0.1), fr.Dropout(0.5)),
    "Dropout of sequences": lambda: [
        fr.GRU(6, return_sequences=True, recurrent_dropout=0.2),
        fr.Dropout(0.4),
        fr.LSTM(8),
        fr.Dropout(0),
    ],
    "stacked": lambda: embedded(
        50,
        fr.LSTM(8, return_sequences=True, dropout=0.3),
        fr.GRU(4, return_sequences=True, go_backwards=True),
        fr.LSTM(3, recurrent_dropout=0.1),
    ),
}


def make(name: str, end: str = "binary", dtype: str = "float32", optimizer: Any = "rmsprop") -> fr.Sequential:
    fr.set_seed(5)
    units, activation, loss = {
        "binary": (1, "sigmoid", "binary_crossentropy"),
        "categorical": (3, "softmax", "categorical_crossentropy"),
        "sparse": (3, "softmax", "sparse_categorical_crossentropy"),
    }[end]
    layers = [*MODELS[name](), fr.Dense(units, activation=activation)]
    for layer in layers:
        layer.dtype = np.dtype(dtype)
    model = fr.Sequential(layers)
    model.compile(optimizer, loss, ["accuracy"] if end == "sparse" else ["accuracy", "mae"])
    return model


def data(model: fr.Sequential, end: str = "binary") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    first = model.layers[0]
    if isinstance(first, fr.Embedding):
        x = rng.integers(0, first.input_dim, (SAMPLES, TIME)).astype(rng.choice([np.int32, np.int64]))
        x[:, :2] *= rng.integers(0, 2, (SAMPLES, 2))  # padding, to those that take it for such
    else:
        x = rng.standard_normal((SAMPLES, TIME, FEATURES)).astype(first.dtype)
    classes = rng.integers(0, 2 if end == "binary" else 3, SAMPLES)
    return x, np.eye(3)[classes] if end == "categorical" else classes


@pytest.fixture
def taken(c_backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One number for each step that was taken as a whole."""
    from fastrnn.backends.c_model import CModelSteps

    steps: list[int] = []
    done = CModelSteps.done

    def counted(self: Any) -> Any:
        found = done(self)
        if found is not None:
            steps.extend([1] * found.steps)
        return found

    monkeypatch.setattr(CModelSteps, "done", counted)
    return steps


def fit(model: fr.Sequential, x: Any, y: Any, **options: Any) -> dict[str, Any]:
    with fr.use_backend("c"):
        history = model.fit(x, y, **{"batch_size": BATCH, "epochs": 2, "verbose": 0, **options}).history
        history["evaluated"] = model.evaluate(x, y, BATCH, verbose=0)
    found = dict(enumerate([*model.get_weights(), *(g.copy() for layer in model.layers for g in layer.grads)]))
    return {**found, **history}


def both_ways(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any], *args: Any, **options: Any) -> dict[str, Any]:
    """Fits such a model as a whole and layer by layer, and sees that nothing differs."""
    found = fit(make(), *args, **options)
    with monkeypatch.context() as patch:
        patch.setattr(Feed, "_fused", lambda self, description, step, arguments: HostPass(step, *arguments))
        want = fit(make(), *args, **options)
    assert found.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(found[name], value, err_msg=str(name))
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_models(monkeypatch: pytest.MonkeyPatch, taken: list[int], name: str, dtype: str) -> None:
    both_ways(monkeypatch, lambda: make(name, dtype=dtype), *data(make(name, dtype=dtype)))
    assert len(taken) == (2 + 1) * 3


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("end", ["binary", "categorical", "sparse"])
def test_losses(monkeypatch: pytest.MonkeyPatch, taken: list[int], end: str, weighted: bool) -> None:
    x, y = data(make("gru", end), end)
    weights = np.random.default_rng(2).random(SAMPLES) if weighted else None
    both_ways(monkeypatch, lambda: make("gru", end), x, y, sample_weight=weights, validation_data=(x, y))
    assert len(taken) == (2 + 2 + 1) * 3


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: fr.SGD(0.1, momentum=0.9, nesterov=True),
        lambda: fr.Adam(0.01, amsgrad=True, clipnorm=0.02),
        lambda: fr.RMSprop(0.01, centered=True, global_clipnorm=0.05),
    ],
)
def test_optimizers(monkeypatch: pytest.MonkeyPatch, taken: list[int], optimizer: Callable[[], Any]) -> None:
    both_ways(monkeypatch, lambda: make("lstm", optimizer=optimizer()), *data(make("lstm")))
    assert len(taken) == (2 + 1) * 3


def test_many_steps_in_one_call(monkeypatch: pytest.MonkeyPatch, taken: list[int], c_backend: ModuleType) -> None:
    """More at a time while calls are short; the rates of all of them, the masks, the loss and what was right."""
    from fastrnn.backends.c_model import CModelSteps

    calls: list[int] = []
    run = CModelSteps.run
    monkeypatch.setattr(CModelSteps, "run", lambda self, *args: calls.append(len(args[1])) or run(self, *args))

    def accurate() -> fr.Sequential:
        model = make("stacked")
        model.compile(fr.Adam(0.01), "binary_crossentropy", ["accuracy"])
        return model

    x, y = data(make("stacked"))
    monkeypatch.setattr("fastrnn.training.fused_pass.CALL_SECONDS", 1e9)
    both_ways(monkeypatch, accurate, x, y, batch_size=2, validation_data=(x, y))
    assert calls == [1, 2, 4, 8, 8, 1] * 4 + [1, 2, 1]  # what is asked for; the last batches are smaller
    assert len(taken) == 4 * 23 + 3
    calls.clear()
    monkeypatch.setattr("fastrnn.training.fused_pass.CALL_SECONDS", 0)
    both_ways(monkeypatch, accurate, x, y, batch_size=2)
    assert calls == [1] * (2 * 23 + 3)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    "view",
    [
        lambda a: np.repeat(a, 2, 0)[::2],
        lambda a: a[::-1],
        lambda a: np.concatenate([a, a], 1)[:, : a.shape[1]],
        lambda a: np.frombuffer(b"." + a.tobytes(), a.dtype, a.size, 1).reshape(a.shape),
    ],
    ids=["every other", "backwards", "a part of each", "unaligned"],
)
@pytest.mark.parametrize("name", ["lstm", "numbers"])
def test_data_that_lies_apart(taken: list[int], name: str, view: Callable[[Any], Any], shuffle: bool) -> None:
    x, y = data(make(name))
    weights = np.random.default_rng(2).random(SAMPLES).astype(np.float32)
    y = y[:, None].astype(np.float32)
    arrays = {"x": view(x), "y": view(y), "sample_weight": view(weights[:, None])[:, 0]}
    found = fit(make(name), **arrays, shuffle=shuffle)
    assert len(taken) == ((2 + 1) * 3 if arrays["x"].flags.aligned else 0)
    want = fit(make(name), **{key: array.copy() for key, array in arrays.items()}, shuffle=shuffle)
    for key, value in want.items():
        np.testing.assert_array_equal(found[key], value, err_msg=str(key))


def test_an_interruption_among_many_steps(monkeypatch: pytest.MonkeyPatch, taken: list[int]) -> None:
    """The optimizer has counted what the weights have seen."""
    monkeypatch.setattr("fastrnn.training.fused_pass.CALL_SECONDS", 1e9)
    model, other = (make("lstm", optimizer=fr.Adam(0.01)) for _ in range(2))
    x, y = (np.tile(array, (2000, 1)[: array.ndim]) for array in data(model))
    for either in (model, other):
        fr.set_seed(3)
        either.build((None, TIME))
        either.compile(either.optimizer, "binary_crossentropy")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            fit(model, x, y, batch_size=1, shuffle=False, epochs=100)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert model.optimizer is not None
    steps = model.optimizer.iterations
    assert 0 < steps < len(x)
    fit(other, x[:steps], y[:steps], batch_size=1, shuffle=False, epochs=1)
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Meddler(fr.Callback):
    """Changes weights, a rate of dropout, the direction, and the layout of the weights while a model trains."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        layer = self.model.layers[1]
        layer.weights[0][0] += 0.25
        layer.go_backwards = batch == 1 and layer.dropout > 0
        layer.dropout = 0.0 if layer.dropout else 0.5
        if batch == 0:
            other = fr.Sequential([self.model.layers[1]])
            other.build((None, TIME, FEATURES))


def test_what_callbacks_change_is_seen(monkeypatch: pytest.MonkeyPatch, taken: list[int]) -> None:
    both_ways(monkeypatch, lambda: make("dropout"), *data(make("dropout")), callbacks=[Meddler()], epochs=3)
    assert len(taken) == 3 + 2 + 3 + 3  # after the second step of the second epoch, the third goes backwards


def test_what_goes_layer_by_layer(monkeypatch: pytest.MonkeyPatch, taken: list[int]) -> None:
    x, y = data(make("lstm"))

    def sequences() -> fr.Sequential:
        fr.set_seed(5)
        model = fr.Sequential([fr.Embedding(20, 4), fr.GRU(8, return_sequences=True), fr.Dense(1, "sigmoid")])
        model.compile("adam", "binary_crossentropy")
        return model

    def squared() -> fr.Sequential:
        model = make("lstm")
        model.compile("sgd", "mse")
        return model

    both_ways(monkeypatch, sequences, x, np.repeat(y[:, None, None], TIME, 1))
    both_ways(monkeypatch, squared, x, y)
    assert taken == []


@pytest.mark.parametrize("built_for", [None, 4, "float64"])
@pytest.mark.parametrize("how", ["before", "in a callback"])
def test_an_optimizer_that_is_not_for_these_weights(c_backend: ModuleType, built_for: Any, how: str) -> None:
    class Replace(fr.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.optimizer = optimizer

    model, optimizer = make("lstm"), fr.Adam()
    model.build((None, TIME))
    if built_for is not None:
        size, dtype = (4, "float32") if built_for == 4 else (model.flat_weights.size, built_for)
        optimizer.build(np.zeros(size, dtype), [(size,)])
    if how == "before":
        model.optimizer = optimizer
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"build the optimizer first|as the optimizer was built for"):
        fit(model, *data(model), callbacks=[Replace()])
    if how == "before":
        np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_rates_that_callbacks_set(monkeypatch: pytest.MonkeyPatch, taken: list[int]) -> None:
    """All dropped, which draws nothing; a rate in NumPy's double precision; one that a layer cannot have."""

    class Set(fr.Callback):
        def __init__(self, rates: Any) -> None:
            self.rates = rates

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.model.layers[3].rate = self.rates[epoch]
            self.model.layers[2].dropout = np.float64(0.51)

    x, y = data(make("Dropout"))
    both_ways(monkeypatch, lambda: make("Dropout"), x, y, callbacks=[Set([1.0, 0.5, 0.0])], epochs=3)
    assert len(taken) == 4 * 3
    model = make("lstm")
    model.layers[1].dropout = 1.0
    with pytest.raises(ValueError, match=r"a rate of dropout must be in \[0, 1\), got 1"):
        fit(model, *data(model))


def test_a_dropout_of_another_type(monkeypatch: pytest.MonkeyPatch, taken: list[int]) -> None:
    def mixed() -> fr.Sequential:
        model = make("Dropout", dtype="float64")
        model.layers[3].dtype = np.dtype("float32")
        return model

    both_ways(monkeypatch, mixed, *data(make("Dropout")))
    assert len(taken) == (2 + 1) * 3


def test_what_is_changed_before_the_first_step(monkeypatch: pytest.MonkeyPatch, taken: list[int]) -> None:
    class Turn(fr.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.model.layers[1].go_backwards = True

    both_ways(monkeypatch, lambda: make("lstm"), *data(make("lstm")), callbacks=[Turn()], epochs=1)
    assert len(taken) == 3  # the evaluation


def test_a_token_id_that_is_not_in_the_table_among_many_steps(taken: list[int]) -> None:
    model, other = make("gru"), make("gru")
    x, y = data(model)
    for either in (model, other):
        fr.set_seed(3)
        either.build((None, TIME))
    fit(other, x[:30], y[:30], batch_size=2, epochs=1, shuffle=False)
    x[31, 0] = -1
    taken.clear()
    with pytest.raises(ValueError, match=r"token ids must be in \[0, 20\), got -1"):
        fit(model, x, y, batch_size=2, epochs=1, shuffle=False)
    assert len(taken) == 15
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_ids_that_are_not_in_the_table(taken: list[int]) -> None:
    model = make("lstm")
    x, y = data(model)
    x[BATCH + 3, 2] = 20
    with pytest.raises(ValueError, match=r"token ids must be in \[0, 20\), got 20"):
        fit(model, x, y, shuffle=False)
    assert len(taken) == 1
    before = model.get_weights()
    x[BATCH + 3, 2] = 19
    fit(model, x, y)
    assert not np.array_equal(before[0], model.get_weights()[0])


def widths(layers: list[Any]) -> None:
    """Layers built for something else."""
    old = fr.Sequential(embedded(20, fr.LSTM(8), fr.Dense(1, "sigmoid")))
    old.build((None, TIME))
    layers[:] = [fr.Embedding(20, 64), *old.layers[1:]]


def dense(layers: list[Any]) -> None:
    layers[2].build((None, 300))


def bias(layers: list[Any]) -> None:
    layers[1].reset_after = True


def words(layers: list[Any]) -> None:
    layers[0].input_dim = 40


@pytest.mark.parametrize("spoil", [widths, dense, bias, words])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_layers_that_do_not_fit_each_other(taken: list[int], method: str, spoil: Callable[[list[Any]], None]) -> None:
    layers = embedded(20, fr.GRU(8, reset_after=False), fr.Dense(1, "sigmoid"))
    if spoil is not dense:
        fr.Sequential(layers).build((None, TIME))
    spoil(layers)
    model = fr.Sequential(layers)
    model.compile("adam", "binary_crossentropy")
    x, y = np.full((4, TIME), 30 if spoil is words else 3), np.ones(4)
    with fr.use_backend("c"), pytest.raises(ValueError, match="must"):
        getattr(model, method)(x, y, verbose=0)
    assert taken == []


def test_attributes_changed_since(monkeypatch: pytest.MonkeyPatch, taken: list[int]) -> None:
    """What a layer has been built with counts."""

    def changed() -> fr.Sequential:
        model = make("lstm")
        model.build((None, TIME))
        model.layers[1].units = 6
        return model

    both_ways(monkeypatch, changed, *data(make("lstm")))
    assert len(taken) == (2 + 1) * 3


def test_a_weight_that_becomes_another_while_a_model_trains(taken: list[int]) -> None:
    class Replace(fr.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            layer = self.model.layers[1]
            layer.weights[1], layer.grads[1] = np.zeros((2, 4, 16), np.float32)

    with pytest.raises(ValueError, match="must have shape"):
        fit(make("lstm"), *data(make("lstm")), callbacks=[Replace()])
    assert len(taken) == 1


def test_only_if_all_of_the_model_runs_there(taken: list[int]) -> None:
    model = fr.Sequential(embedded(20, fr.LSTM(8, backend="c"), fr.Dense(1, "sigmoid")))
    model.compile("adam", "binary_crossentropy")
    x, y = data(make("lstm"))
    with fr.use_backend("reference"):
        model.fit(x, y, verbose=0)
    assert taken == []


def test_nothing_is_kept_of_a_fit(c_backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastrnn.backends import c_model

    alive: list[Any] = []
    room = c_model._Batch._room
    monkeypatch.setattr(
        c_model._Batch, "_room", lambda self, *of, **kind: alive.append(weakref.ref(self)) or room(self, *of, **kind)
    )
    model = make("stacked")
    gc.disable()
    try:
        fit(model, *data(model))
        assert alive
        assert not any(ref() for ref in alive)
    finally:
        gc.enable()
    with pytest.raises(ValueError, match="call the layer with training=True first"):
        model.layers[1].backward(np.zeros((BATCH, TIME, 8), np.float32))


def test_few_samples_and_many(monkeypatch: pytest.MonkeyPatch, taken: list[int]) -> None:
    x, y = data(make("gru"))
    both_ways(monkeypatch, lambda: make("gru"), x[:1], y[:1])
    assert len(taken) == 2 + 1
    # for so many, the Dense is worth a call of BLAS
    many = np.resize(x, (4000, TIME)), np.resize(y, 4000)
    with fr.use_backend("c"):
        make("gru").fit(*many, batch_size=4000, verbose=0)
    assert len(taken) == 2 + 1
