"""Arrays in a GPU's memory, as their owners describe them: Numba's, CuPy's, PyTorch's. Needs none of these."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, NamedTuple

import numpy as np


class Flags(NamedTuple):
    c_contiguous: bool
    writeable: bool


class CudaArray:
    """What `__cuda_array_interface__` says of an array, in the words of NumPy's; the memory stays the owner's.

    Attributes:
        owner: the array itself. shape, dtype, ndim, size: as in NumPy.
        stream: the address of the stream that its contents are ready on, None if its owner names none.
        exist: whether there was ever one in this process. Where not, nobody needs to look for them.
    """

    exist: ClassVar[bool] = False

    def __init__(self, owner: Any) -> None:
        CudaArray.exist = True
        interface = owner.__cuda_array_interface__
        self.owner = owner
        self.shape: tuple[int, ...] = tuple(interface["shape"])
        self.dtype: np.dtype[Any] = np.dtype(interface["typestr"])
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape))
        self.stream: int | None = interface.get("stream")
        strides, step, contiguous = interface.get("strides"), self.dtype.itemsize, True
        if strides is not None and self.size:
            for length, stride in zip(reversed(self.shape), reversed(strides), strict=True):
                contiguous &= length == 1 or stride == step
                step *= length
        self.flags = Flags(bool(contiguous), not interface["data"][1])

    def __len__(self) -> int:
        return self.shape[0]

    def reshape(self, shape: tuple[int, ...]) -> CudaArray:
        """The same contiguous memory under another shape."""
        other = copy.copy(self)
        other.shape, other.ndim = shape, len(shape)
        return other


def is_cuda(value: Any) -> bool:
    """Whether the value is an array in a GPU's memory, its owner's or a CudaArray."""
    # asked of NumPy arrays most of the time, so of them first
    return not isinstance(value, np.ndarray) and (
        isinstance(value, CudaArray) or hasattr(value, "__cuda_array_interface__")
    )


def as_array(value: Any, dtype: Any = None) -> Any:
    """The value as a NumPy array, or as a CudaArray if it is one; a `dtype` is what NumPy's are cast to."""
    if isinstance(value, np.ndarray | CudaArray):
        return value if dtype is None or isinstance(value, CudaArray) else np.asarray(value, dtype)
    return CudaArray(value) if is_cuda(value) else np.asarray(value, dtype)


def to_numpy(value: Any) -> np.ndarray:
    """The value as a NumPy array, copied from a GPU's memory if it lies there."""
    if not is_cuda(value):
        return np.asarray(value)
    array = as_array(value)
    from .cuda_kernels.device import Device  # only where there are such arrays is this there to be imported

    device = Device((array,))
    result: np.ndarray = device.give(device.get(array), array.shape, to_host=True)
    return result
