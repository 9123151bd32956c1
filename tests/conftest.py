"""What all tests share: the backends to run on, the instruction set and threads put back, Keras."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.backends import memory
from fastrnn.random import set_seed

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

# but for the one whose tests have files of their own, test_cuda_*.py
KERNEL_BACKENDS = [name for name in fr.available_backends() if name not in ("reference", "cuda")]


@pytest.fixture(params=KERNEL_BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend but the reference and cuda; skipped, with the reason, where it is missing."""
    reason = fr.available_backends()[request.param]
    if reason is not None:
        pytest.skip(f"backend {request.param}: {reason}")
    return str(request.param)


@pytest.fixture
def c_backend() -> Iterator[ModuleType]:
    """The C backend's module; its instruction set and the number of threads are put back afterwards."""
    reason = fr.available_backends()["c"]
    if reason is not None:
        pytest.skip(f"backend c: {reason}")
    from fastrnn.backends import c

    isa, threads = c.isa(), fr.get_num_threads()
    yield c
    c.set_isa(isa)
    fr.set_num_threads(threads)


@pytest.fixture(params=["c", "numba"])
def threaded_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend with threads; their number is put back afterwards."""
    reason = fr.available_backends()[request.param]
    if reason is not None:
        pytest.skip(f"backend {request.param}: {reason}")
    threads = fr.get_num_threads()
    yield str(request.param)
    fr.set_num_threads(threads)


@pytest.fixture(scope="session")
def keras() -> ModuleType:
    """Real Keras on TensorFlow, the outside oracle."""
    return pytest.importorskip("keras")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that differ from test to test and are the same in every run, as is the global seed."""
    seed = zlib.crc32(request.node.nodeid.encode())
    set_seed(seed)
    return np.random.default_rng(seed)


class PoisonedNumpy:
    """numpy whose fresh memory is NaN: a backend that forgets to write an output is seen."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def empty(shape: Any, dtype: Any) -> np.ndarray:
        return np.full(shape, np.nan, dtype)

    @staticmethod
    def empty_like(array: np.ndarray) -> np.ndarray:
        return np.full_like(array, np.nan)


@pytest.fixture
def poisoned(backend: str, monkeypatch: pytest.MonkeyPatch) -> str:
    module = fr.backends.get_backend(backend)
    monkeypatch.setattr(module, "np", PoisonedNumpy())
    monkeypatch.setattr(memory, "np", PoisonedNumpy())
    monkeypatch.setattr(memory, "MAX_SPARE", 0)  # what is kept from call to call is not poisoned
    return backend


@pytest.fixture
def poisoned_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated GPU's fresh memory is NaN where it can be."""
    from fastrnn.backends.cuda_kernels import simulated

    class Poisoned(PoisonedNumpy):
        @staticmethod
        def empty(shape: Any, dtype: Any) -> np.ndarray:
            return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 77, dtype)

    monkeypatch.setattr(simulated, "np", Poisoned())
