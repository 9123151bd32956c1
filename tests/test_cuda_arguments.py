"""What can be said of the CUDA backend without a GPU: why it is missing, what picks it, what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
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


# -- streams and GPUs, as far as a driver that only writes down what it is asked can show


class Recorder:
    """In `numba.cuda`'s place: a machine with some GPUs, and what is waited for and copied."""

    def __init__(self, gpus: int = 1) -> None:
        self.gpus = range(gpus)
        self.log: list[Any] = []

    def get_current_device(self) -> SimpleNamespace:
        return SimpleNamespace(id=0, MULTIPROCESSOR_COUNT=5, COOPERATIVE_LAUNCH=1)

    def external_stream(self, pointer: int) -> SimpleNamespace:
        return SimpleNamespace(synchronize=lambda: self.log.append(("wait", pointer)))

    def default_stream(self) -> SimpleNamespace:
        return self.external_stream(0)

    def device_array(self, size: int, dtype: Any, stream: Any) -> SimpleNamespace:
        out = SimpleNamespace(copy_to_device=lambda array, stream: self.log.append("copy"))
        out.reshape = lambda shape: out
        return out


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of that name, on a Recorder."""
    pytest.importorskip("numba_cuda")
    from fastrnn.backends.cuda_kernels import device

    monkeypatch.setattr(device, "SIMULATED", False)
    monkeypatch.setattr(device, "cupy", None)
    monkeypatch.setattr(device, "cuda", Recorder())
    return device


def _there(stream: int | None) -> CudaArray:
    return CudaArray(Theirs(np.zeros(3, F), stream=stream))


@pytest.mark.parametrize("stream", [None, 0, 1])
def test_the_default_stream_has_three_names(device: Any, stream: int | None) -> None:
    there = device.Device((_there(stream), np.zeros(3, F), _there(1)))
    assert there.stream_pointer == 0
    there.to_device(np.zeros(3, F))
    assert device.cuda.log == ["copy"]  # it returns when it has read the host's array


def test_a_copy_on_another_stream_is_waited_for(device: Any) -> None:
    there = device.Device((_there(77),))
    there.to_device(np.zeros(3, F))
    assert device.cuda.log == ["copy", ("wait", 77)]


def test_arrays_of_two_streams_are_waited_for_on_both_ends(device: Any) -> None:
    there = device.Device((_there(77), _there(88)))
    assert device.cuda.log == [("wait", 88)]
    there.give(there.empty(3, F), (3,), to_host=False)
    assert device.cuda.log == [("wait", 88), ("wait", 77)]
    alone = device.Device((_there(77),))
    alone.give(alone.empty(3, F), (3,), to_host=False)
    assert device.cuda.log == [("wait", 88), ("wait", 77)]


@pytest.mark.skipif(os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", reason="the simulator has no driver to ask")
def test_arrays_of_another_gpu(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.cuda.cudadrv import driver

    asked = SimpleNamespace(cuPointerGetAttribute=lambda attribute, pointer: 1)
    monkeypatch.setattr(driver, "driver", asked)
    device.Device((_there(None),))  # with one GPU nobody asks
    monkeypatch.setattr(device.cuda, "gpus", range(2))
    with pytest.raises(ValueError, match=r"lies on GPU 1, while GPU 0 is the current one.*numba\.cuda\.gpus\[1\]"):
        device.Device((_there(None),))
