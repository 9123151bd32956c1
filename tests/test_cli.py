"""The command line: what it prints, what it writes, its exit codes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from fastrnn import cli, textbook
from fastrnn.datasets import imdb

QUICK = ["train", "--synthetic", "--limit", "200", "--epochs", "2", "--verbose", "0"]


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No test sees this machine's data or the network."""
    monkeypatch.delenv("FASTRNN_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(imdb, "_ORIGIN", "http://127.0.0.1:9/")


def test_info(capsys):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    for word in ("fastrnn", "Python", "NumPy", "processor", "threads", "reference"):
        assert word in out


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "fastrnn", "info"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "backends" in done.stdout


@pytest.mark.parametrize("name", cli.MODELS)
def test_models_have_the_books_sizes(name):
    assert textbook.build(name).count_params() == textbook.RECIPES[name].params


def test_train_writes_and_reports(tmp_path, capsys):
    pytest.importorskip("h5py")
    pytest.importorskip("matplotlib")
    assert cli.main([*QUICK, "--model", "all", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "SYNTHETIC" in out
    assert "160 reviews to train on, 40 to validate on" in out
    for name in cli.MODELS:
        assert (tmp_path / "out" / f"{name}.weights.h5").stat().st_size > 30_000
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        textbook.build(name).load_weights(tmp_path / "out" / f"{name}.weights.h5")
    table = out[out.rindex("model ") :]
    assert "0.4319" in table
    assert "0.4351" in table
    assert "warm start" in table


def test_train_twice_gives_the_same_weights(tmp_path):
    pytest.importorskip("h5py")
    for folder in ("a", "b"):
        assert cli.main([*QUICK, "--model", "dropout", "--seed", "5", "--out", str(tmp_path / folder)]) == 0
    models = []
    for folder in ("a", "b"):
        models.append(textbook.build("dropout", seed=9))
        models[-1].load_weights(tmp_path / folder / "dropout.weights.h5")
    for a, b in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_uses_the_file_it_is_given(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = np.empty(60, dtype=object)
    x[:] = [rng.integers(1, 900, size=n).tolist() for n in rng.integers(5, 200, size=60)]
    y = rng.integers(0, 2, size=60)
    np.savez(tmp_path / "imdb.npz", x_train=x, y_train=y, x_test=x[:1], y_test=y[:1])
    arguments = [
        "train",
        "--data",
        str(tmp_path),
        "--epochs",
        "1",
        "--verbose",
        "0",
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert f"data: IMDb, {tmp_path / 'imdb.npz'} (as given)" in out
    assert "48 reviews" in out


def test_falls_back_to_synthetic_and_says_so(tmp_path, capsys):
    assert cli.main([*(a for a in QUICK if a != "--synthetic"), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "IMDb is not at hand" in out
    assert "SYNTHETIC" in out


def test_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main([*QUICK, "--out", str(tmp_path)]) == 0
    assert "matplotlib is not installed" in capsys.readouterr().out
    assert (tmp_path / "lstm.weights.h5").exists()
    assert not (tmp_path / "lstm.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train", "--model", "rnn"],
        ["train", "--epochs", "0"],
        ["train", "--limit", "-3"],
        ["train", "--seed", "-1"],
        ["train", "--verbose", "3"],
        ["train", "--backend", "abacus"],
        ["train", "--synthetic", "--data", "x"],
    ],
)
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


def one_line_error(capsys):
    err = capsys.readouterr().err
    assert err.startswith("fastrnn: error: ")
    assert err.count("\n") == 1
    return err


def test_missing_data_is_one_line(tmp_path, capsys):
    assert cli.main(["train", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path)]) == 1
    assert "nowhere" in one_line_error(capsys)


def test_damaged_data_is_one_line(tmp_path, capsys):
    (tmp_path / "imdb.npz").write_bytes(b"PK\x03\x04 and no more")
    assert cli.main(["train", "--data", str(tmp_path), "--out", str(tmp_path)]) == 1
    assert "not a whole .npz" in one_line_error(capsys)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main([*QUICK, "--out", str(tmp_path / "file" / "out")]) == 1
    assert "file" in one_line_error(capsys)


def test_interrupt(tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(textbook, "train", interrupt)
    assert cli.main([*QUICK, "--out", str(tmp_path)]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_table_puts_the_book_beside_the_result():
    history = {"val_loss": [0.5, 0.44, 0.45], "val_accuracy": [0.7, 0.79, 0.8]}
    text = textbook.table({"lstm": textbook.Result(history, best=1, seconds=12.34, ms_per_step=2.5)})
    row = next(line for line in text.splitlines() if line.startswith("lstm"))
    assert row.split() == ["lstm", "32", "3", "0.4319", "0.4400", "0.80", "0.7900", "12.3", "2.50"]
    assert "warm start" not in text
