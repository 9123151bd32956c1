"""The CUDA backend on a real GPU, against the reference: all options, every design, arrays that stay on the GPU."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

import fastrnn as fr
from cases import CELLS, OPTIONS, Case, assert_close, make_case
from fastrnn import ops

pytestmark = [
    pytest.mark.gpu,
    # Numba's opinion on small grids, which a recurrent layer cannot help
    pytest.mark.filterwarnings("ignore:Grid size"),
]

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}


@pytest.fixture(autouse=True)
def _gpu() -> None:
    reason = fr.available_backends()["cuda"]
    if reason is not None:
        pytest.skip(f"backend cuda: {reason}")
    from fastrnn.backends.cuda_kernels.device import SIMULATED

    if SIMULATED:
        pytest.skip("Numba's CUDA simulator is on")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_options(cell: str, options: str, dtype: Any) -> None:
    for shape in ((5, 7, 3, 4), (37, 6, 9, 19)):
        case = make_case(cell, shape, dtype, seed=3, **OPTIONS[options])
        assert_close(case.run("cuda"), case.run("reference"), TOLERANCE[dtype])


# weights in shared memory, in the cache, and over many blocks that meet; few samples and many, odd sizes
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape",
    [
        *((1, 1, 1, 1), (1, 9, 3, 5), (64, 20, 16, 8), (65, 5, 33, 64), (600, 3, 7, 31), (3000, 2, 5, 9)),
        *((1, 7, 5, 128), (64, 5, 40, 128), (33, 4, 9, 257), (16, 3, 20, 512), (200, 2, 16, 300), (5, 2, 3, 1025)),
        (9000, 2, 2, 120),
    ],
)
@pytest.mark.parametrize("cell", CELLS)
def test_shapes(cell: str, shape: tuple[int, int, int, int], dtype: Any) -> None:
    for options in ("plain", "all"):
        case = make_case(cell, shape, dtype, seed=4, **OPTIONS[options])
        assert_close(case.run("cuda"), case.run("reference"), TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [(64, 50, 16, 8), (64, 50, 16, 256)])
@pytest.mark.parametrize("cell", CELLS)
def test_the_same_bits_from_run_to_run(cell: str, shape: tuple[int, int, int, int]) -> None:
    case = make_case(cell, shape, np.float32, seed=5, **OPTIONS["all"])
    first = case.run("cuda")
    for _ in range(5):
        for name, array in case.run("cuda").items():
            np.testing.assert_array_equal(array, first[name], err_msg=name)


@pytest.mark.parametrize("cell", CELLS)
def test_token_ids(cell: str) -> None:
    rng = np.random.default_rng(6)
    case = make_case(cell, (30, 40, 16, 8), seed=6, mask=True)
    lookup = ops.Lookup(rng.normal(size=(500, 16)), rng.integers(0, 400, (30, 40)))
    case = case.with_inputs(x=lookup)  # type: ignore[arg-type]
    assert_close(case.run("cuda"), case.run("reference"), 1e-12)
    lookup.ids[2, 1] = 500
    with pytest.raises(ValueError, match="got 500 at flat index 81"):
        case.forward("cuda")


def _numba(array: np.ndarray) -> Any:
    from numba import cuda

    return cuda.to_device(array)


def _cupy(array: np.ndarray) -> Any:
    return pytest.importorskip("cupy").asarray(array)


def _torch(array: np.ndarray) -> Any:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch was built without CUDA")
    return torch.from_numpy(array.copy()).cuda()


@pytest.mark.parametrize("to_gpu", [_numba, _cupy, _torch])
@pytest.mark.parametrize("cell", CELLS)
def test_arrays_on_the_gpu(cell: str, to_gpu: Any) -> None:
    def move(value: Any) -> Any:
        return to_gpu(value) if isinstance(value, np.ndarray) else value

    case = make_case(cell, (33, 9, 5, 20), np.float32, seed=7, **OPTIONS["all"])
    there = Case(
        cell,
        {name: move(array) for name, array in case.inputs.items()},
        [move(array) for array in case.upstream],
        {name: move(value) for name, value in case.options.items()},
    )
    want = case.run("reference")
    got = there.run("auto")
    assert all(hasattr(array, "__cuda_array_interface__") for array in got.values())
    assert_close({name: ops.to_numpy(array) for name, array in got.items()}, want, 1e-5)


def test_training_a_model() -> None:
    x = np.random.default_rng(8).integers(0, 50, (64, 20))
    y = (x.sum(axis=1) > 500).astype(np.float32)
    got = []
    for backend in ("cuda", "reference"):
        fr.set_seed(8)
        layers = [fr.Embedding(50, 8), fr.LSTM(8, dropout=0.2, recurrent_dropout=0.2, backend=backend), fr.Dense(1)]
        model = fr.Sequential(layers)
        model.compile(optimizer=fr.RMSprop(1e-2), loss="mean_squared_error")
        model.fit(x, y, batch_size=16, epochs=2, verbose=0)
        got.append(model.get_weights())
    for a, b in zip(*got, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
