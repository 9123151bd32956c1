"""The embedding lookup and its gradient on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.ops import embedding_backward, embedding_forward


@pytest.fixture(params=[name for name in fr.available_backends() if name != "cuda"])
def any_backend(request: pytest.FixtureRequest) -> str:
    reason = fr.available_backends()[request.param]
    if reason is not None:
        pytest.skip(f"backend {request.param}: {reason}")
    return str(request.param)


@pytest.mark.parametrize("ids_dtype", [np.int8, np.int32, np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [1, 7, 16])
def test_lookup_and_gradient(any_backend: str, width: int, dtype: Any, ids_dtype: Any) -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(11, width)).astype(dtype)
    ids = rng.integers(0, 11, (6, 9)).astype(ids_dtype)
    np.testing.assert_array_equal(embedding_forward(table, ids, backend=any_backend), table[ids])
    dy = rng.normal(size=(6, 9, width)).astype(dtype)
    got = np.full_like(table, np.nan)
    embedding_backward(ids, dy, got, backend=any_backend)
    want = np.stack([dy[ids == v].sum(axis=0) for v in range(11)])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize("bad", [-1, 11, 2**40, -(2**40)])
def test_ids_out_of_range(any_backend: str, bad: int) -> None:
    ids = np.array([[0, 1], [bad, 2]])
    with pytest.raises(ValueError, match=rf"token ids must be in \[0, 11\), got {bad} at flat index 2"):
        embedding_forward(np.zeros((11, 3), np.float32), ids, backend=any_backend)
    with pytest.raises(ValueError, match="token ids must be in"):
        embedding_backward(ids, np.zeros((2, 2, 3), np.float32), np.zeros((11, 3), np.float32), backend=any_backend)


def test_ids_of_a_wrong_kind(any_backend: str) -> None:
    with pytest.raises(TypeError, match="token ids must be integers, got float64"):
        embedding_forward(np.zeros((3, 2), np.float32), np.zeros(4), backend=any_backend)
    with pytest.raises(ValueError, match="token ids must be"):
        embedding_forward(np.zeros((3, 2), np.float32), np.array([2**63], np.uint64), backend=any_backend)


def test_no_ids(any_backend: str) -> None:
    assert embedding_forward(np.ones((3, 2), np.float32), np.zeros((0, 4), int), backend=any_backend).shape == (0, 4, 2)


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.int64, ">f4"])
def test_a_gradient_of_a_wrong_type(any_backend: str, dtype: Any) -> None:
    out = np.zeros((50, 16), dtype)
    with pytest.raises(TypeError, match="out must be an array of float32 or float64"):
        embedding_backward(np.arange(50), np.ones((50, 16), dtype), out, backend=any_backend)
    with pytest.raises(TypeError, match="out must be an array, got list"):
        embedding_backward([0], np.ones((1, 2)), [[0.0, 0.0]], backend=any_backend)  # type: ignore[arg-type]
