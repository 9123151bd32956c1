"""Reading ragged `.npz` files, which hold pickles, without letting a pickle run anything.

NumPy can store an array of lists only as a pickle, and `np.load(allow_pickle=True)` runs whatever a pickle
asks for. The reader here gives the unpickler inert stand-ins for the three NumPy names that such an array
needs and refuses every other name, so that a file yields lists, numbers and strings, or an error.
"""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastrnn.datasets.ragged import Ragged

_ARRAY_NAMES = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


class _Inert:
    """Stands for every NumPy object in a pickle: takes any arguments and any state, does nothing."""

    state: Any = None

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ARRAY_NAMES:
            return _Inert
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no list of numbers needs")


class RaggedArchive:
    """An open `.npz` of ragged and plain integer arrays; a context manager.

    Raises:
        ValueError: from the constructor or a reader, where the file is no `.npz`, is cut short or damaged,
            lacks the array, holds something other than integers, or a pickle that asks for more than
            arrays. The message names the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._zip = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{self.path} is not a whole .npz file: {error}") from error

    def __enter__(self) -> RaggedArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def ragged(self, name: str) -> Ragged:
        """The rows of `name`: an object array of lists of ints, or a 2-D integer array."""
        stream, shape, is_object = self._open(name)
        if not is_object:
            array = self._plain(name, stream)
            if array.ndim != 2:
                raise ValueError(f"{self.path}: {name} must hold lists of integers, got an array of {shape}")
            return Ragged(array.astype(np.int32).ravel(), np.full(len(array), array.shape[1], dtype=np.int64))
        try:
            rows = _Unpickler(stream).load().state[4]
        except Exception as error:  # a damaged pickle may raise nearly anything
            raise ValueError(f"{self.path}: {name} could not be read: {error}") from error
        if not isinstance(rows, list) or len(shape) != 1 or not all(type(r) is list for r in rows):
            raise ValueError(f"{self.path}: {name} must be a 1-D array of lists of integers")
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        try:
            flat = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(lengths.sum()))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{self.path}: {name} must hold lists of 32-bit integers: {error}") from error
        return Ragged(flat, lengths)

    def integers(self, name: str) -> np.ndarray:
        """The 1-D integer array `name`."""
        stream, shape, is_object = self._open(name)
        if is_object or len(shape) != 1:
            raise ValueError(f"{self.path}: {name} must be a 1-D array of integers")
        return self._plain(name, stream)

    def _open(self, name: str) -> tuple[IO[bytes], tuple[int, ...], bool]:
        """The member's bytes after its header where it is of objects, else from its start; shape; which."""
        try:
            # The zip checks its CRC at the end only, so all is read before any of it is believed.
            stream = io.BytesIO(self._zip.read(f"{name}.npy"))
            version = np.lib.format.read_magic(stream)
            # Format 3.0 differs from 2.0 in nothing that the header of an integer or object array can have.
            fmt = np.lib.format
            read_header = fmt.read_array_header_1_0 if version == (1, 0) else fmt.read_array_header_2_0
            shape, _, dtype = read_header(stream)
        except KeyError as error:
            raise ValueError(f"{self.path} holds no array {name}") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
            raise ValueError(f"{self.path}: {name} could not be read: {error}") from error
        if not dtype.hasobject:
            stream.seek(0)
        return stream, shape, dtype.hasobject

    def _plain(self, name: str, stream: IO[bytes]) -> np.ndarray:
        try:
            array = np.lib.format.read_array(stream, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{self.path}: {name} could not be read: {error}") from error
        if array.dtype.kind not in "iu":
            raise ValueError(f"{self.path}: {name} must hold integers, got {array.dtype}")
        return array
