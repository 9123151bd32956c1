"""The CUDA backend on a real GPU, against the reference: all options, every design, arrays that stay on the GPU."""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest

import device_training as training
import fastrnn as fr
from cases import CELLS, OPTIONS, Case, assert_close, make_case
from fastrnn import ops, textbook

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


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_streams(cell: str, count: int) -> None:
    """Arrays of one stream that is not the default one, and of two in turn; some in the host's memory."""
    from numba import cuda

    streams = itertools.cycle([cuda.stream() for _ in range(count)])

    def move(name: str, value: Any) -> Any:
        on_host = name in ("b", "mask") or not isinstance(value, np.ndarray)
        return value if on_host else cuda.to_device(value, stream=next(streams))

    case = make_case(cell, (64, 50, 16, 128), np.float32, seed=11, **OPTIONS["all"])
    want = case.run("reference")
    for _ in range(5):
        there = Case(
            cell,
            {name: move(name, array) for name, array in case.inputs.items()},
            [move("", array) for array in case.upstream],
            {name: move(name, value) for name, value in case.options.items()},
        )
        got = {name: ops.to_numpy(array) for name, array in there.run("auto").items()}
        assert_close(got, want, 1e-5)


def test_two_gpus() -> None:
    """Arrays that lie on another GPU than the current one are refused; on that one the work is done there."""
    from numba import cuda

    if len(cuda.gpus) < 2:
        pytest.skip("one GPU")
    case = make_case("lstm", (5, 7, 3, 4), np.float32, seed=12)
    with cuda.gpus[1]:
        inputs = {name: cuda.to_device(array) for name, array in case.inputs.items()}
        got = ops.to_numpy(fr.lstm(**inputs)[0])
    np.testing.assert_allclose(got, fr.lstm(**case.inputs, backend="reference")[0], rtol=1e-5, atol=1e-6)
    with cuda.gpus[0], pytest.raises(ValueError, match="lies on GPU 1, while GPU 0 is the current one"):
        fr.lstm(**inputs)


# -- models that train where their weights lie

TRAINING_TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


@pytest.mark.parametrize("dtype", TRAINING_TOLERANCE)
@pytest.mark.parametrize("name", training.CHAPTER)
def test_training_the_chapters_models(name: str, dtype: str) -> None:
    training.check_chapter(name, dtype, TRAINING_TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TRAINING_TOLERANCE)
def test_training_others(dtype: str) -> None:
    training.check_tagger(dtype, TRAINING_TOLERANCE[dtype])
    training.check_numbers(dtype, TRAINING_TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TRAINING_TOLERANCE)
@pytest.mark.parametrize("place", range(len(training.ENDS)))
def test_training_ends(place: int, dtype: str) -> None:
    training.check_end(place, dtype, TRAINING_TOLERANCE[dtype])


@pytest.mark.parametrize("name", textbook.RECIPES)
def test_training_at_full_size(name: str) -> None:
    """The chapter's sizes, a last batch that is smaller; the same bits from run to run."""
    rng = np.random.default_rng(8)
    x = rng.integers(0, textbook.VOCABULARY, (200, textbook.LENGTH))
    y = rng.integers(0, 2, 200).astype(np.float32)
    models = []
    for backend in ("cuda", "cuda", "reference"):
        model = textbook.build(name, seed=8, backend=backend)
        model.optimizer.learning_rate = 1e-2
        model.fit(x, y, textbook.BATCH, epochs=2, verbose=0, validation_data=(x, y))
        models.append(model)
    training.assert_same(models[0], models[2], 2e-4)
    training.assert_same(models[0], models[1], 0.0)


def test_training_large_layers() -> None:
    """Weights over many blocks that meet, and long sums that are shared."""
    rng = np.random.default_rng(9)
    x, y = rng.integers(0, 50, (40, 30)), rng.integers(0, 2, 40).astype(np.float32)
    models = []
    for backend in ("cuda", "reference"):
        fr.set_seed(9)
        layers = [fr.LSTM(300, dropout=0.2, recurrent_dropout=0.2, return_sequences=True, backend=backend)]
        model = fr.Sequential([fr.Embedding(50, 40), *layers, fr.GRU(150, backend=backend), fr.Dense(1, "sigmoid")])
        model.compile(fr.SGD(0.1), "binary_crossentropy", ["accuracy"])
        model.fit(x, y, 16, epochs=2, verbose=0)
        models.append(model)
    training.assert_same(*models, 1e-4)
