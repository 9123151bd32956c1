"""The IMDb sentiment reviews, with the numbers that `keras.datasets.imdb` gives for the same file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastrnn.datasets.download import DownloadError, fetch
from fastrnn.datasets.npz import RaggedArchive
from fastrnn.datasets.ragged import Ragged

Pair = tuple[np.ndarray, np.ndarray]

_ORIGIN = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
_HASHES = {
    "imdb.npz": ("sha256", "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"),
    "imdb_word_index.json": ("md5", "bfafd718b763782e994055a2d397834f"),
}


class DatasetUnavailableError(OSError):
    """The data is neither named, nor set, nor cached, and could not be downloaded."""


class Source(NamedTuple):
    """Where data was found: the file, and a phrase that says why that one."""

    path: Path
    description: str


def locate(path: str | os.PathLike[str] | None = None, name: str = "imdb.npz") -> Source:
    """Finds a file of the data set; downloads it into Keras' cache where there is none yet.

    The first of these that is set is used: `path`; the environment variable FASTRNN_DATA (both a file, or
    a folder that holds `name`); Keras' cache, `$KERAS_HOME/datasets` or `~/.keras/datasets`; the download
    that Keras makes, its hash checked.

    Args:
        path: a file or a folder.
        name: "imdb.npz" or "imdb_word_index.json".

    Raises:
        FileNotFoundError: where `path` or FASTRNN_DATA is set but the file is not there.
        DatasetUnavailableError: where the file had to be downloaded and could not.
    """
    if path is not None:
        file = _named(Path(path).expanduser(), name, "path")
        return Source(file, f"{file} (as given)")
    if variable := os.environ.get("FASTRNN_DATA"):
        file = _named(Path(variable).expanduser(), name, "FASTRNN_DATA")
        return Source(file, f"{file} (from FASTRNN_DATA)")
    cached = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "datasets" / name
    if cached.is_file():
        return Source(cached, f"{cached} (Keras' cache)")
    try:
        fetch(_ORIGIN + name, cached, *_HASHES[name])
    except DownloadError as error:
        raise DatasetUnavailableError(f"no {name}: {error}; name a file or set FASTRNN_DATA") from error
    return Source(cached, f"{cached} (just downloaded from {_ORIGIN}{name})")


def _named(given: Path, name: str, who: str) -> Path:
    """The file that `given` means: itself where it is of `name`'s kind, else `name` in that folder."""
    if given.is_file():
        file = given if given.suffix == Path(name).suffix else given.parent / name
    elif given.is_dir():
        file = given / name
    else:
        raise FileNotFoundError(f"{who}={given}: there is no such file or folder")
    if not file.is_file():
        raise FileNotFoundError(f"{who}={given}: there is no {name}")
    return file


def load_data(
    path: str | os.PathLike[str] | None = None,
    num_words: int | None = None,
    skip_top: int = 0,
    maxlen: int | None = None,
    seed: int = 113,
    start_char: int | None = 1,
    oov_char: int | None = 2,
    index_from: int = 3,
) -> tuple[Pair, Pair]:
    """Both halves of the data, as `keras.datasets.imdb.load_data` gives them.

    Args:
        path: a file or a folder; None searches as `locate` says.
        num_words: ids from this on become `oov_char`; None sets it to the largest id, as Keras does.
        skip_top: ids below this become `oov_char`.
        maxlen: only reviews shorter than this are kept (the start token counted).
        seed: of the shuffle.
        start_char: the id put before every review, or None.
        oov_char: the id that takes the place of a word left out; None drops such words.
        index_from: added to every word's rank.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: x are 1-D object arrays of lists of ints, y int64 arrays of
        0 and 1.

    Raises:
        FileNotFoundError, DatasetUnavailableError: as `locate`.
        ValueError: where the file is damaged or of another form, or `maxlen` leaves nothing.
    """
    rng = np.random.RandomState(seed)
    with RaggedArchive(locate(path).path) as archive:
        halves = [_shuffled(archive, half, rng, start_char, index_from) for half in ("train", "test")]
    if maxlen:
        for i, (x, y) in enumerate(halves):
            short = np.flatnonzero(x.lengths < maxlen)
            halves[i] = x.take(short), y[short]
        if any(len(y) == 0 for _, y in halves):
            raise ValueError(
                f"After filtering for sequences shorter than maxlen={maxlen}, no sequence was kept. Increase maxlen."
            )
    if not num_words:
        num_words = max(int(x.flat.max(initial=0)) for x, _ in halves)
    (x_train, y_train), (x_test, y_test) = halves
    return (
        (_limited(x_train, num_words, skip_top, oov_char).lists(), y_train),
        (_limited(x_test, num_words, skip_top, oov_char).lists(), y_test),
    )


def load_training(path: str | os.PathLike[str] | None, num_words: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The training half alone, equal to `load_data(path, num_words)[0]` but in a fraction of the memory.

    Args:
        path: as in `load_data`.
        num_words: as in `load_data`, but needed: without it the other half would have to be read too.

    Returns:
        `(x, y)`: a list of int32 arrays, one a review, and int64 labels.

    Raises:
        as `load_data`.
    """
    with RaggedArchive(locate(path).path) as archive:
        x, y = _shuffled(archive, "train", np.random.RandomState(113), start_char=1, index_from=3)
    return _limited(x, num_words, skip_top=0, oov_char=2).arrays(), y


def get_word_index(path: str | os.PathLike[str] | None = None) -> dict[str, int]:
    """Each word's rank by frequency, from 1; `load_data` adds `index_from` to it.

    Args:
        path: a .json file, or a folder that holds imdb_word_index.json; None searches as `locate` says.

    Raises:
        FileNotFoundError, DatasetUnavailableError: as `locate`.
        ValueError: where the file is not the index's JSON.
    """
    file = locate(path, "imdb_word_index.json").path
    try:
        index = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not whole JSON: {error}") from error
    if not isinstance(index, dict):
        raise ValueError(f"{file} must hold a mapping of words to ranks, got {type(index).__name__}")
    return index


def _shuffled(
    archive: RaggedArchive, half: str, rng: np.random.RandomState, start_char: int | None, index_from: int
) -> tuple[Ragged, np.ndarray]:
    """One half in Keras' order, with start token and offset."""
    x, y = archive.ragged(f"x_{half}"), archive.integers(f"y_{half}")
    if len(x.lengths) != len(y):
        raise ValueError(f"{archive.path}: {len(x.lengths)} reviews in x_{half}, {len(y)} labels in y_{half}")
    order = np.arange(len(y))
    rng.shuffle(order)
    x = x.take(order)
    np.add(x.flat, index_from, out=x.flat)
    if start_char is not None:
        x = x.with_first(start_char)
    return x, y[order]


def _limited(x: Ragged, num_words: int, skip_top: int, oov_char: int | None) -> Ragged:
    """`x` with the ids outside [skip_top, num_words) replaced by `oov_char`, or left out where it is None."""
    known = (x.flat >= skip_top) & (x.flat < num_words)
    if oov_char is None:
        return x.where(known)
    x.flat[~known] = oov_char
    return x
