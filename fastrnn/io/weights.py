"""Keras 3's `.weights.h5` files, in and out, without Keras.

    vars/                            empty
    layers/<class>[_n]/vars/<i>      a layer's weights; the class name in snake case, numbered per class
    layers/<class>[_n]/cell/vars/<i> those of a recurrent layer, whose own vars/ is empty
    optimizer/vars/<i>               iteration, learning rate, then the optimizer's slots, one per weight

Each `vars` carries the attribute `name`. Written with h5py, which is imported only here.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn.io.atomic import replacing
from fastrnn.layers.base import Layer, snake_case

if TYPE_CHECKING:
    from fastrnn.training.model import Sequential
    from fastrnn.training.optimizers import Optimizer


def save_weights(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Writes the model's weights, and its optimizer's state, for `load_weights` of Keras or of this library.

    The file appears whole or not at all; what was there before stays until then.

    Args:
        model: a built model.
        path: must end in `.weights.h5`; its folder must exist.

    Raises:
        ValueError: where the name ends otherwise or the model is not built.
        OSError: where the file cannot be written.
        ImportError: where h5py is not installed.
    """
    h5py = _h5py()
    _check(model, path, "save_weights")
    try:
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            _write(file, "vars", "sequential", [])
            for key, layer in _keyed(model.layers):
                group = f"layers/{key}"
                if _has_cell(layer):
                    _write(file, f"{group}/vars", layer.name, [])
                    _write(file, f"{group}/cell/vars", f"{snake_case(type(layer).__name__)}_cell", layer.weights)
                else:
                    _write(file, f"{group}/vars", layer.name, layer.weights)
            if model.optimizer is not None:
                optimizer = model.optimizer
                head: list[np.ndarray] = [
                    np.asarray(optimizer.iterations, np.int64),
                    np.asarray(optimizer.learning_rate, np.float32),
                ]
                name = snake_case(type(optimizer).__name__)
                _write(file, "optimizer/vars", name, [*head, *optimizer.slot_variables()])
    except OSError as error:
        raise OSError(f"{os.fspath(path)} could not be written: {error}") from error


def load_weights(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Reads weights that Keras 3 or `save_weights` wrote, and the optimizer's state where both have one.

    Everything is read and checked before anything is set. An optimizer state that does not fit the model's
    optimizer is left out with a warning, as Keras does.

    Args:
        model: a built model with the same layers as the one that was saved.
        path: must end in `.weights.h5`.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the name ends otherwise, the model is not built, the file is damaged, or a layer is
            missing, left over, or of another shape; the message names the layer.
        ImportError: where h5py is not installed.
    """
    h5py = _h5py()
    _check(model, path, "load_weights")
    file_path = Path(path)
    if not file_path.is_file():
        raise FileNotFoundError(f"load_weights: there is no file {file_path}")
    try:
        file = h5py.File(file_path, "r")
    except OSError as error:
        raise ValueError(f"load_weights: {file_path} is not a whole HDF5 file: {error}") from error
    with file:
        keyed = _keyed(model.layers)
        found = list(_group(file, "layers") or ())
        expected = [key for key, _ in keyed]
        missing = [key for key in expected if key not in found]
        left_over = [key for key in found if key not in expected]
        if missing or left_over:
            raise ValueError(
                f"load_weights: {file_path} does not fit the model: its layers are {expected}, the file's are {found}"
            )
        values = [_read_layer(file, key, layer) for key, layer in keyed]
        optimizer = model.optimizer
        state = None if optimizer is None else _read_optimizer(file, optimizer)
    if optimizer is not None and state is not None:
        before = optimizer.iterations
        try:
            optimizer.iterations, optimizer.learning_rate = int(state[0]), float(state[1])
        except (ValueError, OverflowError) as error:
            optimizer.iterations = before
            raise ValueError(f"load_weights: {file_path} holds no usable optimizer state: {error}") from error
        for mine, new in zip(optimizer.slot_variables(), state[2:], strict=True):
            mine[...] = new
    for (_, layer), arrays in zip(keyed, values, strict=True):
        layer.set_weights(arrays)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("weight files need h5py: pip install h5py") from error
    return h5py


def _check(model: Sequential, path: str | os.PathLike[str], who: str) -> None:
    if not os.fspath(path).endswith(".weights.h5"):
        raise ValueError(f"{who}: the file's name must end in .weights.h5, got {os.fspath(path)}")
    if not model.built:
        raise ValueError(f"{who}: the model has no weights yet; call it on data, or build(), first")


def _keyed(layers: list[Layer]) -> list[tuple[str, Layer]]:
    """Every layer with its key in the file."""
    seen: Counter[str] = Counter()
    keyed = []
    for layer in layers:
        key = snake_case(type(layer).__name__)
        keyed.append((f"{key}_{seen[key]}" if seen[key] else key, layer))
        seen[key] += 1
    return keyed


def _has_cell(layer: Layer) -> bool:
    return type(layer).__name__ in ("LSTM", "GRU")


def _write(file: Any, path: str, name: str, arrays: list[np.ndarray]) -> None:
    group = file.require_group(path)
    group.attrs["name"] = name
    for i, array in enumerate(arrays):
        group.create_dataset(str(i), data=array)


def _group(file: Any, path: str) -> Any:
    """The group at `path`, or None. A link that leaves the file is not followed: it could name any file."""
    h5py = _h5py()
    group = file
    for part in path.split("/"):
        if not isinstance(group.get(part, getlink=True, default=None), h5py.HardLink):
            return None
        group = group[part]
        if not isinstance(group, h5py.Group):
            return None
    return group


def _dataset(group: Any, key: str) -> Any:
    """The dataset `key` of `group`, or None where there is none or its content lies outside the file."""
    h5py = _h5py()
    if not isinstance(group.get(key, getlink=True, default=None), h5py.HardLink):
        return None
    dataset = group[key]
    return dataset if isinstance(dataset, h5py.Dataset) and not (dataset.external or dataset.is_virtual) else None


def _read_layer(file: Any, key: str, layer: Layer) -> list[np.ndarray]:
    path = f"layers/{key}/cell/vars" if _has_cell(layer) else f"layers/{key}/vars"
    group = _group(file, path)
    count = 0 if group is None else len(group)
    if count != len(layer.weights):
        raise ValueError(f"load_weights: {layer.name} has {len(layer.weights)} weights, {path} in the file has {count}")
    arrays = []
    for i, (name, mine) in enumerate(zip(layer.weight_names, layer.weights, strict=True)):
        dataset = _dataset(group, str(i))
        # The shape is compared before anything is read: a forged one could claim any amount of memory.
        if dataset is None or dataset.shape != mine.shape or dataset.dtype.kind != "f":
            what = "no array" if dataset is None else f"{dataset.dtype} of shape {dataset.shape}"
            raise ValueError(
                f"load_weights: {layer.name}: {name} must be floats of shape {mine.shape}, "
                f"the file has {what} at {path}/{i}"
            )
        arrays.append(_values(dataset))
    return arrays


def _read_optimizer(file: Any, optimizer: Optimizer) -> list[np.ndarray] | None:
    """Iteration, learning rate and slots from the file; None, with a warning, where they do not fit."""
    group = _group(file, "optimizer/vars")
    if group is None:
        return None
    shapes = [(), (), *(slot.shape for slot in optimizer.slot_variables())]
    datasets = [_dataset(group, str(i)) for i in range(len(shapes))]
    if len(group) != len(shapes) or any(
        d is None or d.shape != shape or d.dtype.kind not in "if" for d, shape in zip(datasets, shapes, strict=True)
    ):
        warnings.warn(
            f"load_weights: the state of the optimizer was left out: {optimizer.name} has "
            f"{len(shapes)} variables, the file {len(group)}, or their shapes differ",
            stacklevel=3,
        )
        return None
    return [_values(d) for d in datasets]


def _values(dataset: Any) -> np.ndarray:
    try:
        return np.asarray(dataset[()])
    except OSError as error:
        raise ValueError(f"load_weights: {dataset.name} could not be read: {error}") from error
