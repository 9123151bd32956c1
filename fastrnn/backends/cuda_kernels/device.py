"""The GPU as the backend sees it: whether it is there, its memory, its streams, launches."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda.core import config
from numba.cuda.core.errors import NumbaPerformanceWarning

from fastrnn.backends.arrays import CudaArray

SIMULATED = bool(config.ENABLE_CUDASIM)
# The lowest compute capability that the kernels are compiled for in the tests.
LEAST_CAPABILITY = (7, 0)


def why_not() -> str | None:
    """What keeps the kernels from running here, None if nothing does."""
    if SIMULATED:
        if os.environ.get("FASTRNN_CUDA_SIMULATOR") == "1":
            return None
        return (
            "Numba's CUDA simulator is on (NUMBA_ENABLE_CUDASIM), which is far slower than any other backend and for "
            "tests only; they set FASTRNN_CUDA_SIMULATOR=1 to use it"
        )
    if cuda.cuda_error() is not None:
        return f"no NVIDIA driver that Numba can use: {' '.join(str(cuda.cuda_error()).split())}"
    try:
        if len(cuda.gpus) == 0:
            return "the NVIDIA driver finds no GPU"
        if not cuda.is_available():
            return "no CUDA toolkit (libNVVM) that Numba can use; `pip install fastrnn[cuda]` brings one"
        capability = tuple(cuda.get_current_device().compute_capability)
    except Exception as error:  # whatever a driver that cannot be used raises, it is the reason
        return f"the GPU cannot be used: {' '.join(str(error).split())}"
    if capability < LEAST_CAPABILITY:
        return f"the GPU's compute capability is {capability[0]}.{capability[1]}, below 7.0"
    return None


# A sweep over time has few blocks, for it depends on its own past; Numba warns of that at each launch.
warnings.filterwarnings("ignore", "Grid size .* low occupancy", NumbaPerformanceWarning)

if SIMULATED:
    from . import simulated

cupy: Any = None
if not SIMULATED and importlib.util.find_spec("cupy") is not None:
    cupy = importlib.import_module("cupy")


class Device:
    """One call's stream and memory.

    The stream is the one that the first of the call's CUDA arrays names, else Numba's default; what else they name is
    waited for. `processors` is how many multiprocessors the GPU has, `can_meet` whether the blocks of a grid can wait
    for each other.
    """

    can_meet = not SIMULATED

    def __init__(self, arrays: Iterable[Any], earlier: Device | None = None) -> None:
        named = [array.stream for array in arrays if isinstance(array, CudaArray) and array.stream is not None]
        if earlier is not None:
            named.append(earlier.stream_pointer)
        self.stream_pointer: int = named[0] if named else 0
        self.stream = _stream(self.stream_pointer)
        for other in {pointer for pointer in named if pointer != self.stream_pointer}:
            _synchronize(other)
        self.processors = 2 if SIMULATED else int(cuda.get_current_device().MULTIPROCESSOR_COUNT)

    def empty(self, size: int, dtype: Any) -> Any:
        """A flat array of the GPU's, not initialised. CuPy's pool gives it where CuPy is there: that is faster."""
        if SIMULATED:
            return simulated.empty(size, dtype)
        if cupy is None:
            return cuda.device_array(size, dtype, stream=self.stream)
        with cupy.cuda.ExternalStream(self.stream_pointer):
            return cuda.as_cuda_array(cupy.empty(size, dtype), sync=False)

    def to_device(self, array: np.ndarray) -> Any:
        """A flat copy of a NumPy array."""
        if SIMULATED:
            return simulated.copy(array)
        out = self.empty(array.size, array.dtype)
        out.copy_to_device(array.reshape(-1), stream=self.stream)
        return out

    def get(self, array: Any) -> Any:
        """A flat array for kernels: a view of a CudaArray, a copy of a NumPy array; None for None."""
        if array is None:
            return None
        if isinstance(array, np.ndarray):
            return self.to_device(array)
        if SIMULATED:
            return simulated.view(array)
        flat = cuda.as_cuda_array(array.owner, sync=False).reshape(array.size)
        return flat.view(np.uint8) if array.dtype == np.bool_ else flat

    def give(self, array: Any, shape: tuple[int, ...], to_host: bool) -> Any:
        """A kernel's flat array for the caller: a NumPy array, or one of the GPU's that names the stream."""
        if to_host:
            host = array.copy_to_host(stream=self.stream).reshape(shape)
            _synchronize(self.stream_pointer)
            return host
        out = array.reshape(shape)
        out.stream = self.stream
        return out

    def launch(self, kernel: Any, blocks: Any, threads: int, *args: Any, shared_bytes: int = 0) -> None:
        kernel[blocks, threads, self.stream, shared_bytes](*args)


def _stream(pointer: int) -> Any:
    return 0 if SIMULATED or not pointer else cuda.external_stream(pointer)


def _synchronize(pointer: int) -> None:
    if not SIMULATED:
        (_stream(pointer) or cuda.default_stream()).synchronize()
