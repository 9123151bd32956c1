"""Memory of Numba's CUDA simulator, for the tests: NumPy arrays that say of themselves what a GPU's arrays do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

from fastrnn.backends.arrays import CudaArray


class SimulatedArray(FakeCUDAArray):
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self._ary.__array_interface__, "version": 3, "stream": None}

    def reshape(self, shape: Any) -> SimulatedArray:
        return SimulatedArray(self._ary.reshape(shape))

    def __getitem__(self, which: Any) -> Any:
        got = self._ary[which]
        return SimulatedArray(got) if isinstance(got, np.ndarray) else got


class _Memory:
    """Makes NumPy see what a `__cuda_array_interface__` describes, as if it were the host's; it is, here."""

    def __init__(self, array: CudaArray) -> None:
        self.array = array
        interface = array.owner.__cuda_array_interface__
        self.__array_interface__ = {key: interface[key] for key in ("shape", "typestr", "data")} | {"version": 3}


def empty(size: int, dtype: Any) -> SimulatedArray:
    return SimulatedArray(np.empty(size, dtype))


def copy(array: np.ndarray) -> SimulatedArray:
    return SimulatedArray(array.reshape(-1).copy())


def view(array: CudaArray) -> SimulatedArray:
    flat = np.asarray(_Memory(array)).reshape(-1)
    return SimulatedArray(flat.view(np.uint8) if array.dtype == np.bool_ else flat)
