"""Addresses of NumPy arrays in C structs."""

import numpy as np
import pytest

from fastrnn.backends import available_backends

if (reason := available_backends()["c"]) is not None:
    pytest.skip(reason, allow_module_level=True)

from fastrnn._kernels import ffi

from fastrnn.backends import c_arrays


def test_addresses_are_those_of_the_arrays_data() -> None:
    whole = np.arange(24.0).reshape(4, 6)
    arrays = [
        whole,
        whole[2:],
        np.empty(0),
        np.empty((), np.int64),
        np.frombuffer(b"12345678", np.uint8),
        np.empty(3).view(np.matrix),
    ]
    to = ffi.new("uintptr_t[]", [7] * (len(arrays) + 4))
    c_arrays.point(to, 2 * ffi.sizeof("void *"), None, *arrays)
    assert list(to) == [7, 7, 0, *(array.ctypes.data for array in arrays), 7]


def test_numpy_that_lays_out_arrays_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_arrays, "point", lambda c_struct, offset, *arrays: None)
    with pytest.raises(ImportError, match=f"NumPy {np.__version__} are not laid out as"):
        c_arrays._check()


def test_addresses_lie_side_by_side() -> None:
    side_by_side = {
        "frnn_call": "W U b h0 c0 reserve x ids mask x_mask h_mask y hT cT dy dhT dcT dx dW dU db dh0 dc0",
        "frnn_head": "x W b y weights p dz dx dW db",
        "frnn_update": "w g m v a",
    }
    for struct, names in side_by_side.items():
        first, *_ = places = [ffi.offsetof(struct, name) for name in names.split()]
        assert places == [first + k * ffi.sizeof("void *") for k in range(len(places))]
