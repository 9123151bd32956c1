"""Models that train on the GPU, in Numba's simulator, against the reference; how it is run is told in
test_cuda_simulator.py.

Also what a step consists of: how many launches, and that nothing is copied.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import device_training as training
import fastrnn as fr

if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1" or fr.available_backends()["cuda"] is not None:
    pytest.skip("needs the simulator on (see above) and numba-cuda", allow_module_level=True)

from fastrnn import textbook
from fastrnn.backends.cuda_kernels import products, simulated
from fastrnn.backends.cuda_kernels.device import Device
from fastrnn.backends.cuda_training import Training
from fastrnn.training.description import describe
from test_cuda_simulator import NumpyAsCupy

pytestmark = pytest.mark.usefixtures("poisoned_gpu")
TOLERANCE = 1e-10


@pytest.fixture(autouse=True)
def on_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The steps taken on the device; there must be some, or a test would compare the reference with itself."""
    steps: list[int] = []
    train = Training.train
    monkeypatch.setattr(Training, "train", lambda self, k, *rest: steps.append(k) or train(self, k, *rest))
    yield steps
    assert steps


@pytest.mark.parametrize("name", training.CHAPTER)
def test_the_chapters_models(name: str) -> None:
    training.check_chapter(name, "float64", TOLERANCE)


def test_sequences_of_classes() -> None:
    training.check_tagger("float64", TOLERANCE)


def test_numbers() -> None:
    training.check_numbers("float64", TOLERANCE)


def test_single_precision() -> None:
    training.check_chapter("dropout", "float32", 1e-5)


def test_products_by_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "cupy", NumpyAsCupy)
    training.check_chapter("dropout", "float64", TOLERANCE)


@pytest.mark.parametrize("place", range(len(training.ENDS)), ids=lambda place: str(training.ENDS[place][:2]))
def test_ends(place: int) -> None:
    training.check_end(place, "float64", TOLERANCE)


# -- callbacks, files, interruptions


def small(backend: str) -> fr.Sequential:
    """A model whose steps take the simulator little time."""
    fr.set_seed(21)
    layers = [fr.Embedding(5, 2, dtype="float64"), fr.GRU(1, backend=backend, dtype="float64")]
    model = fr.Sequential([*layers, fr.Dense(1, "sigmoid", dtype="float64")])
    model.compile(fr.Adam(0.1), "binary_crossentropy", ["accuracy"])
    model.build((None, 2))
    return model


X = np.random.default_rng(22).integers(0, 5, (6, 2))
Y = (X.sum(axis=1) > 4).astype(np.float64)
BACKENDS = ("cuda", "reference")


def test_checkpoints_and_early_stopping(tmp_path: Path) -> None:
    models = []
    for backend in BACKENDS:
        model = small(backend)
        stop = fr.EarlyStopping(monitor="val_loss", mode="max", patience=1, restore_best_weights=True)
        save = fr.ModelCheckpoint(tmp_path / f"{backend}.weights.h5", monitor="val_loss", save_best_only=True)
        fit = {"batch_size": 4, "epochs": 4, "verbose": 0, "validation_split": 0.4, "class_weight": {0: 2.0}}
        model.fit(X, Y, callbacks=[stop, save], **fit)
        assert len(model.history.epoch) == 2, "the loss falls, and is to rise"
        models.append(model)
    training.assert_same(*models, TOLERANCE)
    for model, backend in zip(models, BACKENDS, strict=True):
        model.load_weights(tmp_path / f"{backend}.weights.h5")
    training.assert_same(*models, TOLERANCE)
    # and on from there, optimizer and all, on the backend that had no part in it
    other = small("reference")
    other.load_weights(tmp_path / "cuda.weights.h5")
    for model in (other, models[1]):
        fr.set_seed(23)
        model.fit(X, Y, 4, verbose=0)
    training.assert_same(other, models[1], TOLERANCE)


def test_hooks_between_steps_see_and_change_weights() -> None:
    class Meddle(fr.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.model.optimizer.learning_rate = 0.05 * (batch + 1)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.seen += [*self.model.get_weights(), *self.model.grads, logs["loss"], logs["accuracy"]]
            self.model.set_weights([w * 0.9 for w in self.model.get_weights()])
            self.seen.append(self.model.evaluate(X, Y, 6, verbose=0)[0])

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            self.seen.append(logs["loss"])

    models, meddlers = [], []
    for backend in BACKENDS:
        models.append(small(backend))
        meddlers.append(Meddle())
        models[-1].fit(X, Y, 4, verbose=0, callbacks=[meddlers[-1]], validation_data=(X, Y))
    training.assert_same(*models, TOLERANCE)
    for a, b in zip(meddlers[0].seen, meddlers[1].seen, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE)


def test_an_interruption_brings_the_weights_home(monkeypatch: pytest.MonkeyPatch, on_device: list[int]) -> None:
    models = []
    for backend in BACKENDS:
        model = small(backend)
        models.append(model)
        if backend == "reference":
            model.fit(X[:4], Y[:4], 4, verbose=0, shuffle=False)
            continue
        train = Training.train

        def interrupted(self: Training, k: int, *rest: Any, train: Any = train) -> None:
            if k == 1:
                raise KeyboardInterrupt
            train(self, k, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(Training, "train", interrupted)
            with pytest.raises(KeyboardInterrupt):
                model.fit(X, Y, 4, verbose=0, shuffle=False)
        model.history = None
    models[0].history = models[1].history
    training.assert_same(*models, TOLERANCE)


def test_evaluate_alone() -> None:
    models = [small(backend) for backend in BACKENDS]
    got, want = (model.evaluate(X, Y, 4, verbose=0, sample_weight=np.arange(6.0)) for model in models)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)
    models[0].fit(X, Y, 4, verbose=0)  # with what evaluate left behind


# -- what stays in host memory


def test_what_does_not_train_on_the_device(on_device: list[int]) -> None:
    def described(change: Any) -> Any:
        model = small("cuda")
        change(model)
        return describe(model)

    class MyDense(fr.Dense):
        pass

    class MyAdam(fr.Adam):
        pass

    class MyModel(fr.Sequential):
        run = staticmethod(lambda *arguments: fr.Sequential.run(*arguments))

    assert described(lambda model: None) is not None
    assert described(lambda model: model.layers.__setitem__(2, MyDense(1, "sigmoid"))) is None
    assert described(lambda model: setattr(model, "optimizer", MyAdam())) is None
    assert described(lambda model: setattr(model, "__class__", MyModel)) is None
    assert described(lambda model: setattr(model.layers[1], "stateful", True)) is None
    assert described(lambda model: setattr(model.layers[1], "backend", "reference")) is None
    unnamed = described(lambda model: setattr(model.layers[1], "backend", None))
    assert unnamed is None or not hasattr(unnamed.backend, "training")
    model = small("cuda")
    with pytest.raises(ValueError, match="token ids must be in"):
        model.fit(X + 1, Y, 4, verbose=0)
    on_device.append(0)


# -- launches and copies


class Counted:
    """Launches and copies of a step, as on a large GPU; launches are not carried out."""

    def __init__(self) -> None:
        self.launches: list[str] = []
        self.copies = 0


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Counted]]:
    """What each step of training does."""
    steps: list[Counted] = []
    now = Counted()
    init, to_device, give, train = Device.__init__, Device.to_device, Device.give, Training.train

    def step(self: Training, *rest: Any) -> None:
        nonlocal now
        now = Counted()
        steps.append(now)
        train(self, *rest)
        now = Counted()

    def large(self: Device, *arrays: Any) -> None:
        init(self, *arrays)
        self.processors = 132

    def copied(real: Any) -> Any:
        def copy(*arguments: Any, **options: Any) -> Any:
            now.copies += 1
            return real(*arguments, **options)

        return copy

    with monkeypatch.context() as patch:
        patch.setattr(Training, "train", step)
        patch.setattr(Device, "__init__", large)
        patch.setattr(products, "SIDE", 16)
        patch.setattr(products, "FLAT_THREADS", 256)
        patch.setattr(Device, "launch", lambda device, kernel, *rest, **more: now.launches.append(kernel.fn.__name__))
        patch.setattr(Device, "to_device", copied(to_device))
        patch.setattr(Device, "give", copied(give))
        patch.setattr(simulated.SimulatedArray, "copy_to_host", copied(simulated.SimulatedArray.copy_to_host))
        patch.setattr(simulated.SimulatedArray, "copy_to_device", copied(simulated.SimulatedArray.copy_to_device))
        yield steps


@pytest.mark.parametrize(
    ("name", "launches", "copies"),
    [("lstm", 10, 0), ("dropout", 10, 1), ("both dropouts", 11, 1), ("stacked", 15, 1), ("gru", 10, 0)],
)
def test_a_step(monkeypatch: pytest.MonkeyPatch, name: str, launches: int, copies: int) -> None:
    """At the chapter's sizes a step is so many launches, whatever T is; what is copied are dropout's factors."""
    for length in (textbook.LENGTH, 2 * textbook.LENGTH):
        model = textbook.build("dropout" if name == "both dropouts" else name, backend="cuda")
        if name == "both dropouts":
            model.layers[1].recurrent_dropout = 0.3
        x = np.zeros((3 * textbook.BATCH, length), np.int32)
        with counted(monkeypatch) as steps:
            model.fit(x, np.zeros(len(x)), textbook.BATCH, verbose=0, validation_data=(x, np.zeros(len(x))))
        assert len(steps) == 3
        for step in steps[1:]:
            assert (len(step.launches), step.copies) == (launches, copies), step.launches
