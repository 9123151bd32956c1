"""The progress display, on a terminal and off it."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest

from fastrnn.layers.dense import Dense
from fastrnn.training import progress
from fastrnn.training.model import Sequential


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    out = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stdout=out))
    return out


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is set."""
    now = [100.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: now[0])
    return now


def test_bar():
    assert progress.bar(0, 8) == "╌" * 20
    assert progress.bar(4, 8) == "━" * 10 + "╌" * 10
    assert progress.bar(8, 8) == "━" * 20


def test_bar_in_ascii(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    assert progress.bar(5, 10) == "=" * 10 + "." * 10


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (2.4, "2s"), (0.0156, "16ms"), (0.001, "1ms"), (0.00034, "340us")]
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


@pytest.mark.keras
def test_values_as_keras(keras, rng, monkeypatch):
    for value in [*rng.standard_normal(20), *(10.0 ** rng.uniform(-8, 3, 20)), 0.0, 1e-3, float("nan")]:
        out = io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", out)
            keras.utils.Progbar(3, verbose=1).update(3, [("loss", float(value))])
        assert progress.values({"loss": float(value)}) in out.getvalue()


def test_a_line_is_redrawn_ten_times_a_second_at_most(terminal, clock):
    shown = progress.Progress(1, 1000)
    shown.begin("Epoch 1/2")
    asked = []
    for done in range(1, 1001):
        clock[0] += 0.01
        shown.step(done, lambda: asked.append(0) or {"loss": 0.5})
    shown.end(1000, {"loss": 0.25})
    # 1000 steps are 10 seconds.
    assert 80 <= len(asked) <= 101
    lines = terminal.getvalue().split("\r")
    assert lines[0] == "Epoch 1/2\n"
    assert lines[1].startswith("   1/1000 ╌")
    assert lines[-1] == "1000/1000 " + "━" * 20 + " 10s 10ms/step - loss: 0.2500\n"
    assert terminal.getvalue().count("\n") == 2


def test_a_shorter_line_leaves_nothing_of_a_longer_one(terminal, clock):
    shown = progress.Progress(1, 3)
    shown.begin()
    shown.step(1, lambda: {"a_long_name": 1.0})
    shown.end(3, {})
    first, last = terminal.getvalue().strip("\r\n").split("\r")
    assert len(last) == len(first)
    assert last.rstrip().endswith("/step")


@pytest.mark.parametrize("verbose", [1, 2, "auto"])
def test_no_control_characters_off_a_terminal(verbose, capsys, rng):
    model = Sequential([Dense(1)])
    model.compile("sgd", "mse", ["mae"])
    x = rng.standard_normal((50, 2))
    model.fit(x, x[:, 0], 16, epochs=2, verbose=verbose, validation_split=0.1)
    out = capsys.readouterr().out
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", out)
    lines = out.splitlines()
    assert [lines[0], lines[2]] == ["Epoch 1/2", "Epoch 2/2"]
    number = r"\d+\.\d{4}(e-\d+)?"
    names = "".join(f" - {name}: {number}" for name in ("loss", "mae", "val_loss", "val_mae"))
    assert re.fullmatch(rf"3/3 - 0s - \d+(us|ms|s)/step{names}", lines[3])


def test_silence(capsys, rng):
    model = Sequential([Dense(1)])
    model.compile("sgd", "mse")
    x = rng.standard_normal((50, 2))
    model.fit(x, x[:, 0], verbose=0)
    model.evaluate(x, x[:, 0], verbose=0)
    model.predict(x, verbose=0)
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="verbose must be"):
        model.predict(x, verbose=3)


def test_an_interruption_ends_the_line(terminal, rng):
    model = Sequential([Dense(1)])
    model.compile("sgd", "mse")
    x = rng.standard_normal((50, 2))
    train, steps = model._train_step, []

    def interrupted(batch):
        steps.append(batch)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return train(batch)

    model._train_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, np.zeros(50), 10, verbose=1)
    assert terminal.getvalue().startswith("\r1/5 ")
    assert terminal.getvalue().endswith("\n")
