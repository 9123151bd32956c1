"""What can be said of the CUDA backend without a GPU: why it is missing, what picks it, what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fastrnn as fr
from cases import make_case
from fastrnn import ops
from fastrnn.backends.arrays import CudaArray

F = np.float32


class Theirs:
    """An array as a GPU library would describe it."""

    def __init__(self, array: np.ndarray, **changes: Any) -> None:
        self.__cuda_array_interface__ = {**array.__array_interface__, "version": 3, **changes}
        self.array = array


def available(**environment: str) -> str:
    """What a fresh process says of the backend."""
    code = "import fastrnn; print(fastrnn.available_backends()['cuda'])"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "FASTRNN_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**inherited, **environment}
    )
    return done.stdout.strip()


def test_a_missing_backend_says_why() -> None:
    reason = available()
    if reason == "None":
        assert fr.lstm(**make_case("lstm", (1, 1, 1, 1)).inputs, backend="cuda")[0].shape == (1, 1, 1)
    else:
        assert "numba-cuda" in reason or "driver" in reason or "GPU" in reason or "toolkit" in reason


def test_the_simulator_must_be_asked_for() -> None:
    pytest.importorskip("numba_cuda")
    assert "simulator is on" in available(NUMBA_ENABLE_CUDASIM="1")
    assert available(NUMBA_ENABLE_CUDASIM="1", FASTRNN_CUDA_SIMULATOR="1") == "None"


def test_named_and_missing_is_an_error() -> None:
    reason = fr.available_backends()["cuda"]
    if reason is None:
        pytest.skip("it is there")
    with pytest.raises(RuntimeError, match="backend='cuda' is not available: "):
        fr.lstm(**make_case("lstm", (1, 1, 1, 1)).inputs, backend="cuda")
    with pytest.raises(RuntimeError, match="backend='cuda' is not available: "):
        ops.embedding_forward(Theirs(np.ones((2, 3))), np.zeros(1, int), backend="auto")


def test_auto_never_takes_it_for_numpy_arrays() -> None:
    from fastrnn.backends import get_backend

    assert get_backend("auto").__name__ != "fastrnn.backends.cuda"


@pytest.mark.parametrize("name", ["x", "W", "U", "b", "h0", "mask"])
def test_other_backends_take_no_arrays_of_a_gpu(name: str) -> None:
    case = make_case("lstm", (2, 3, 2, 2), F)
    arguments = {**case.inputs, "mask": np.ones((2, 3), bool)}
    arguments[name] = Theirs(arguments[name])
    with pytest.raises(TypeError, match="backend='reference' takes NumPy arrays, got arrays in a GPU's memory"):
        fr.lstm(**arguments, backend="reference")


def test_gradients_of_a_gpu_for_a_call_that_was_elsewhere() -> None:
    case = make_case("gru", (2, 3, 2, 2), F)
    *_, reserve = case.forward("reference")
    with pytest.raises(TypeError, match="takes NumPy arrays"):
        fr.gru_backward(reserve, Theirs(case.upstream[0]))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": Theirs(np.zeros((2, 3), F))}, ValueError, r"x must have shape \(any, any, any\), got \(2, 3\)"),
        ({"x": Theirs(np.zeros((2, 3, 2), np.int32))}, TypeError, "x must be an array of float32 or float64"),
        ({"W": Theirs(np.zeros((2, 8)))}, TypeError, "W must be of x's dtype, float32, got float64"),
        ({"x": Theirs(np.zeros((2, 3, 2), F), strides=(4, 8, 24))}, ValueError, "x must be C-contiguous"),
        ({"mask": Theirs(np.zeros((2, 3), F))}, TypeError, "mask must be an array of bool where it lies in a GPU's"),
        ({"mask": Theirs(np.zeros((3, 2), bool))}, ValueError, r"mask must have shape \(2, 3\)"),
        ({"dropout_mask": Theirs(np.zeros((2, 3), F))}, ValueError, r"dropout_mask must have shape \(2, 2\)"),
        ({"recurrent_dropout_mask": Theirs(np.zeros((2, 2), F))}, ValueError, r"must have shape \(4, 2, 2\) where"),
    ],
)
def test_bad_arrays_of_a_gpu(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    case = make_case("lstm", (2, 3, 2, 2), F)
    with pytest.raises(error, match=message):
        fr.lstm(**{**case.inputs, **changes}, backend="cuda")


def test_bad_token_ids_of_a_gpu() -> None:
    with pytest.raises(TypeError, match="token ids must be int32 or int64 where they lie in a GPU's memory, got int8"):
        ops.embedding_forward(np.ones((2, 3)), Theirs(np.zeros(3, np.int8)))


def test_contiguity_is_read_from_the_interface() -> None:
    array = np.zeros((3, 1, 4), F)
    assert CudaArray(Theirs(array)).flags.c_contiguous
    assert CudaArray(Theirs(array, strides=array.strides)).flags.c_contiguous
    assert CudaArray(Theirs(array, strides=(16, 999, 4))).flags.c_contiguous
    assert not CudaArray(Theirs(array, strides=(32, 16, 4))).flags.c_contiguous
