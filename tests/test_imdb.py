"""The IMDb loader: Keras' numbers, where it looks for the file, and what it makes of bad files."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import socket
import threading
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fastrnn.datasets import download, imdb

TRAIN = [[5, 1, 9], [300, 2], [7, 7, 7, 70_000], [1], [12, 4, 8, 90, 6]]
TEST = [[3, 3], [88_000, 1, 2, 3], [41]]


def objects(rows):
    out = np.empty(len(rows), dtype=object)
    out[:] = rows
    return out


def write_npz(path, **changed):
    arrays = {
        "x_train": objects(TRAIN),
        "y_train": np.array([0, 1, 1, 0, 1]),
        "x_test": objects(TEST),
        "y_test": np.array([1, 0, 1]),
    }
    np.savez_compressed(path, **(arrays | changed))
    return path


def write_pickle(path, payload):
    """An .npz whose x_train is the given pickle."""
    write_npz(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = members["x_train.npy"][: 10 + int.from_bytes(members["x_train.npy"][8:10], "little")]
    members["x_train.npy"] = header + payload
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No test sees this machine's data or the network unless it says so."""
    monkeypatch.delenv("FASTRNN_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(imdb, "_ORIGIN", "http://127.0.0.1:9/")


def real_data():
    named = os.environ.get("FASTRNN_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    file = folder if folder.is_file() else folder / "imdb.npz"
    return file if file.is_file() else None


REAL = real_data()
needs_real = pytest.mark.skipif(REAL is None, reason="no imdb.npz: point FASTRNN_DATA at one")


def keras_load(monkeypatch, file, **kwargs):
    pytest.importorskip("keras")
    from keras.src.datasets import imdb as theirs

    monkeypatch.setattr(theirs, "get_file", lambda **_: str(file))
    return theirs.load_data(**kwargs)


def assert_same(mine, theirs):
    for (x, y), (x_theirs, y_theirs) in zip(mine, theirs, strict=True):
        assert x.dtype == object
        assert x.ndim == 1
        assert x.tolist() == x_theirs.tolist()
        assert all(type(token) is int for row in x[:50] for token in row)
        np.testing.assert_array_equal(y, y_theirs)
        assert y.dtype == np.asarray(y_theirs).dtype


OPTIONS = [
    {},
    {"num_words": 10},
    {"num_words": 100, "skip_top": 5, "seed": 7},
    {"maxlen": 5},
    {"num_words": 50, "oov_char": None},
    {"start_char": None},
    {"start_char": None, "index_from": 0, "num_words": 8, "oov_char": 0},
    {"start_char": None, "oov_char": None, "num_words": 2},
]


@pytest.mark.keras
@pytest.mark.parametrize("options", OPTIONS)
def test_equals_keras(monkeypatch, tmp_path, options):
    file = write_npz(tmp_path / "imdb.npz")
    assert_same(imdb.load_data(file, **options), keras_load(monkeypatch, file, **options))


@pytest.mark.keras
@needs_real
@pytest.mark.parametrize("options", [{"num_words": 500}, {"maxlen": 120, "skip_top": 20}])
def test_equals_keras_on_the_real_data(monkeypatch, options):
    assert_same(imdb.load_data(REAL, **options), keras_load(monkeypatch, REAL, **options))


@needs_real
def test_real_data_starts_as_published():
    (x_train, y_train), (x_test, y_test) = imdb.load_data(REAL)
    assert x_train[0][:6] == [1, 14, 22, 16, 43, 530]
    assert [len(x) for x in x_train[:5]] == [218, 189, 141, 550, 147]
    assert len(x_train) == len(x_test) == len(y_train) == len(y_test) == 25_000


def test_training_half_alone_is_the_same(tmp_path):
    file = write_npz(tmp_path / "imdb.npz")
    (x_both, y_both), _ = imdb.load_data(file, num_words=100)
    x, y = imdb.load_training(file, 100)
    assert [row.tolist() for row in x] == x_both.tolist()
    np.testing.assert_array_equal(y, y_both)
    assert x[0].dtype == np.int32


def test_reviews_of_one_length_may_be_a_plain_array(tmp_path):
    plain = write_npz(tmp_path / "plain.npz", x_train=np.array([[5, 6], [7, 8], [9, 1], [2, 3], [4, 4]]))
    lists = write_npz(tmp_path / "lists.npz", x_train=objects([[5, 6], [7, 8], [9, 1], [2, 3], [4, 4]]))
    assert imdb.load_data(plain)[0][0].tolist() == imdb.load_data(lists)[0][0].tolist()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_reads_every_pickle_protocol_that_numpy_has_used(tmp_path, protocol):
    file = write_pickle(tmp_path / "imdb.npz", pickle.dumps(objects(TRAIN), protocol=protocol))
    assert sorted(map(len, imdb.load_data(file)[0][0])) == [2, 3, 4, 5, 6]


def test_maxlen_that_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="Increase maxlen"):
        imdb.load_data(write_npz(tmp_path / "imdb.npz"), maxlen=1)


# -- where the file comes from ------------------------------------------------------------------------


def test_sources_in_their_order(monkeypatch, tmp_path):
    cache = tmp_path / "keras" / "datasets"
    for folder in (cache, tmp_path / "env", tmp_path / "given"):
        folder.mkdir(parents=True)
        write_npz(folder / "imdb.npz")
    assert imdb.locate() == (cache / "imdb.npz", f"{cache / 'imdb.npz'} (Keras' cache)")
    monkeypatch.setenv("FASTRNN_DATA", str(tmp_path / "env"))
    assert imdb.locate() == (
        tmp_path / "env" / "imdb.npz",
        f"{tmp_path / 'env' / 'imdb.npz'} (from FASTRNN_DATA)",
    )
    source = imdb.locate(tmp_path / "given" / "imdb.npz")
    assert source == (tmp_path / "given" / "imdb.npz", f"{tmp_path / 'given' / 'imdb.npz'} (as given)")


def test_a_named_place_without_the_file_is_an_error(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path=.*nowhere: there is no such file"):
        imdb.locate(tmp_path / "nowhere")
    monkeypatch.setenv("FASTRNN_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"FASTRNN_DATA=.*there is no imdb\.npz"):
        imdb.load_data()


def test_word_index_lies_beside_the_data(monkeypatch, tmp_path):
    (tmp_path / "imdb_word_index.json").write_text(json.dumps({"the": 1}))
    assert imdb.get_word_index(tmp_path) == {"the": 1}
    monkeypatch.setenv("FASTRNN_DATA", str(write_npz(tmp_path / "imdb.npz")))
    assert imdb.get_word_index() == {"the": 1}


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_damaged_word_index(tmp_path, content):
    (tmp_path / "imdb_word_index.json").write_text(content)
    with pytest.raises(ValueError, match="imdb_word_index"):
        imdb.get_word_index(tmp_path)


class Server:
    """A web server on this machine that answers every request with the given bytes."""

    def __init__(self, content, length=None):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(length or len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self.url

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def npz_bytes(tmp_path):
    return write_npz(tmp_path / "served.npz").read_bytes()


def serve_as_imdb(monkeypatch, url, content):
    monkeypatch.setattr(imdb, "_ORIGIN", url)
    monkeypatch.setattr(imdb, "_HASHES", {"imdb.npz": ("sha256", hashlib.sha256(content).hexdigest())})


def test_downloads_into_the_cache(monkeypatch, tmp_path, capsys, npz_bytes):
    with Server(npz_bytes) as url:
        serve_as_imdb(monkeypatch, url, npz_bytes)
        source = imdb.locate()
    cached = tmp_path / "keras" / "datasets" / "imdb.npz"
    assert source.path == cached
    assert "just downloaded" in source.description
    assert cached.read_bytes() == npz_bytes
    assert [p.name for p in cached.parent.iterdir()] == ["imdb.npz"]
    assert "\r" not in capsys.readouterr().err
    assert len(imdb.load_data()[0][0]) == len(TRAIN)


def test_bar_on_a_terminal(monkeypatch, tmp_path, capsys, npz_bytes):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Server(npz_bytes) as url:
        download.fetch(url, tmp_path / "f", "sha256", hashlib.sha256(npz_bytes).hexdigest())
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["hash", "short"])
def test_a_bad_download_leaves_nothing(monkeypatch, tmp_path, npz_bytes, fault):
    served = npz_bytes[:-50] if fault == "short" else b"other"
    with Server(served, length=len(npz_bytes) if fault == "short" else None) as url:
        serve_as_imdb(monkeypatch, url, npz_bytes)
        with pytest.raises(imdb.DatasetUnavailableError, match="does not have the expected sha256"):
            imdb.locate()
    assert list((tmp_path / "keras" / "datasets").iterdir()) == []


def test_no_network(tmp_path):
    with pytest.raises(imdb.DatasetUnavailableError, match="FASTRNN_DATA"):
        imdb.load_data()


def test_a_silent_host_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(imdb, "_ORIGIN", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(imdb.DatasetUnavailableError, match="timed out"):
            imdb.locate()


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path, npz_bytes):
    (tmp_path / "keras").write_text("a file where the folder should be")
    with Server(npz_bytes) as url:
        serve_as_imdb(monkeypatch, url, npz_bytes)
        with pytest.raises(imdb.DatasetUnavailableError, match="could not be written"):
            imdb.locate()


# -- bad files ----------------------------------------------------------------------------------------


class Calls:
    """Pickles as a call of `function(*args)`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_runs_nothing(tmp_path, protocol):
    trap = tmp_path / "trap"
    for function, *args in [
        (os.mkdir, str(trap)),
        (eval, f"__import__('os').mkdir({str(trap)!r})"),
        (partial, int),
    ]:
        file = write_pickle(tmp_path / "imdb.npz", pickle.dumps(Calls(function, *args), protocol=protocol))
        with pytest.raises(ValueError, match="asks for"):
            imdb.load_data(file)
    assert not trap.exists()


def test_numpy_itself_is_out_of_reach(tmp_path):
    file = write_pickle(tmp_path / "imdb.npz", pickle.dumps(Calls(np.load, "/etc/passwd")))
    with pytest.raises(ValueError, match=r"asks for numpy"):
        imdb.load_data(file)


@pytest.mark.parametrize(
    "payload", [b"", b"garbage", pickle.dumps([1, 2]), pickle.dumps(objects(TRAIN))[:-40], pickle.dumps(None)]
)
def test_a_damaged_pickle(tmp_path, payload):
    with pytest.raises(ValueError, match="x_train could not be read"):
        imdb.load_data(write_pickle(tmp_path / "imdb.npz", payload))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_file(tmp_path, share):
    file = write_npz(tmp_path / "imdb.npz")
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"imdb\.npz is not a whole \.npz"):
        imdb.load_data(file)


def test_a_flipped_byte(tmp_path):
    file = write_npz(tmp_path / "imdb.npz")
    content = bytearray(file.read_bytes())
    content[80] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"imdb\.npz"):
        imdb.load_data(file)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_train": objects([["a"]] * 5)}, "32-bit integers"),
        ({"x_train": objects([[1], 2, 3, 4, 5])}, "lists of integers"),
        ({"x_train": objects([[2**40]] * 5)}, "32-bit integers"),
        ({"x_train": np.arange(5)}, "lists of integers"),
        ({"x_train": np.ones((5, 2))}, "must hold integers"),
        ({"x_train": objects(TRAIN[:3])}, "3 reviews in x_train, 5 labels"),
        ({"y_train": objects([0, 1, 1, 0, 1])}, "y_train must be a 1-D array of integers"),
    ],
)
def test_other_content(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        imdb.load_data(write_npz(tmp_path / "imdb.npz", **changed))


def test_a_missing_array(tmp_path):
    np.savez(tmp_path / "imdb.npz", x_train=objects(TRAIN))
    with pytest.raises(ValueError, match="holds no array y_train"):
        imdb.load_data(tmp_path)
