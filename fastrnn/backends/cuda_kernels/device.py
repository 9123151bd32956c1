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
    for each other. ValueError where an array lies on another GPU than the current one.
    """

    def __init__(self, arrays: Iterable[Any], earlier: Device | None = None) -> None:
        there = [array for array in arrays if isinstance(array, CudaArray)]
        # 1 is the default stream, which is 0 here, as the protocol, and so CuPy, calls it
        named = [0 if array.stream == 1 else array.stream for array in there if array.stream is not None]
        if earlier is not None:
            named.append(earlier.stream_pointer)
        self.stream_pointer: int = named[0] if named else 0
        self.stream = _stream(self.stream_pointer)
        others = {pointer for pointer in named if pointer != self.stream_pointer}
        for other in others:
            _synchronize(other)
        self._mixed = bool(others)
        self.processors, self.can_meet = 2, False
        if not SIMULATED:
            gpu = cuda.get_current_device()
            self.processors, self.can_meet = int(gpu.MULTIPROCESSOR_COUNT), bool(gpu.COOPERATIVE_LAUNCH)
            if len(cuda.gpus) > 1:
                for array in there:
                    _check_place(array, gpu.id)

    def empty(self, size: int, dtype: Any) -> Any:
        """A flat array of the GPU's, not initialised. CuPy's pool gives it where CuPy is there: that is faster."""
        if SIMULATED:
            return simulated.empty(size, dtype)
        if cupy is None:
            return cuda.device_array(size, dtype, stream=self.stream)
        with cupy.cuda.ExternalStream(self.stream_pointer):
            array = cuda.as_cuda_array(cupy.empty(size, dtype), sync=False)
        array.stream = self.stream  # CuPy has another name for the default one, and with a name, copies do not wait
        return array

    def to_device(self, array: np.ndarray) -> Any:
        """A flat copy of a NumPy array, which may be changed or freed at once."""
        if SIMULATED:
            return simulated.copy(array)
        out = self.empty(array.size, array.dtype)
        out.copy_to_device(array.reshape(-1), stream=self.stream)
        if self.stream_pointer:  # only on the default stream has a copy read its source when it returns
            _synchronize(self.stream_pointer)
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
        """A kernel's flat array for the caller: a NumPy array, or one of the GPU's that names the stream, if it is not
        the default one."""
        if to_host:
            host = array.copy_to_host(stream=self.stream).reshape(shape)
            _synchronize(self.stream_pointer)
            return host
        if self._mixed:  # memory of other streams is used there again as soon as the caller lets go of it
            _synchronize(self.stream_pointer)
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


def _check_place(array: CudaArray, current: int) -> None:
    """ValueError where the array lies on another GPU: to touch it would end all work on the current one."""
    from numba.cuda.cudadrv.driver import binding, driver  # the simulator has none

    attribute = binding.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    pointer = binding.CUdeviceptr(array.owner.__cuda_array_interface__["data"][0])
    place = int(driver.cuPointerGetAttribute(attribute, pointer))
    if place != current:
        raise ValueError(
            f"an array lies on GPU {place}, while GPU {current} is the current one; call this in a block of "
            f"`with numba.cuda.gpus[{place}]:`"
        )
