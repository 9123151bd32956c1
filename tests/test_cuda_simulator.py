"""The CUDA kernels in Numba's simulator, against the reference. In a process of its own, for Numba asks once:

    NUMBA_ENABLE_CUDASIM=1 FASTRNN_CUDA_SIMULATOR=1 python -m pytest tests/test_cuda_simulator.py

It runs one system thread for each of a GPU's, so shapes are tiny.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import fastrnn as fr
from cases import CELLS, OPTIONS, Case, assert_close, make_case
from fastrnn import ops

if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1" or fr.available_backends()["cuda"] is not None:
    pytest.skip("needs the simulator on (see above) and numba-cuda", allow_module_level=True)

from fastrnn.backends.cuda_kernels import embedding, products, recurrent, simulated, sweep
from fastrnn.backends.cuda_kernels.device import Device

pytestmark = pytest.mark.usefixtures("poisoned_gpu")
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}


def check(case: Case, tolerance: float = 1e-12) -> None:
    assert_close(case.run("cuda"), case.run("reference"), tolerance)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_options(cell: str, options: str) -> None:
    check(make_case(cell, (3, 4, 2, 3), np.float64, seed=3, **OPTIONS[options]))


@pytest.mark.parametrize("options", ["plain", "mask_zero", "all"])
@pytest.mark.parametrize("cell", CELLS)
def test_single_precision(cell: str, options: str) -> None:
    check(make_case(cell, (3, 4, 2, 3), np.float32, seed=3, **OPTIONS[options]), 1e-5)


# around the edges of blocks (2 multiprocessors: half the batch each), of tiles of 4 rows or units, of parts of a sum
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 9, 9), (7, 2, 1, 5), (11, 2, 3, 2)])
@pytest.mark.parametrize("cell", CELLS)
def test_shapes(cell: str, shape: tuple[int, int, int, int]) -> None:
    check(make_case(cell, shape, seed=4, **OPTIONS["all"]))


def test_long_sums_are_split() -> None:
    case = make_case("lstm", (9, 60, 1, 1), seed=4)
    check(case)


@pytest.mark.parametrize("variant", ["grid", "weights_in_global_memory", "all_in_global_memory", "units_in_turn"])
@pytest.mark.parametrize("cell", CELLS)
def test_variants(monkeypatch: pytest.MonkeyPatch, cell: str, variant: str) -> None:
    """What shapes choose among. The simulator has one block for a grid that meets, so it sees that one's code, not its
    exchange between blocks."""

    def make_plan(B: int, H: int, gates: int, slots: int, itemsize: int, processors: int, *, grid: bool) -> Any:
        plan = sweep.make_plan(B, H, gates, slots, itemsize, processors, grid=grid)
        changes: dict[str, Any] = {
            "grid": {"grid": True, "shared": False, "rows": 8, "blocks": 1},
            "weights_in_global_memory": {"resident": False},
            "all_in_global_memory": {"resident": False, "shared": False},
            "units_in_turn": {"units": 2},
        }[variant]
        return plan._replace(**changes, shared_bytes=sweep.SHARED_BYTES)

    monkeypatch.setattr(recurrent, "make_plan", make_plan)
    for options in ("no_bias", "all"):
        check(make_case(cell, (5, 3, 2, 5), seed=5, **OPTIONS[options]))


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("cell", CELLS)
def test_plans_fit_a_gpu(cell: str, itemsize: int) -> None:
    gates = 4 if cell == "lstm" else 3
    for B in (1, 3, 16, 64, 200, 5000, 20_000):
        for H in (1, 8, 31, 64, 100, 128, 256, 512, 768, 1024, 4096, 10_000):
            for slots in (1, 2, gates):
                for processors in (1, 20, 132):
                    for grid in (False, True):
                        plan = sweep.make_plan(B, H, gates, slots, itemsize, processors, grid=grid)
                        slices = -(-B // plan.rows)
                        assert plan.shared_bytes <= sweep.SHARED_BYTES, (B, H, plan)
                        assert plan.rows % plan.tile == 0, (B, H, plan)
                        assert 1 <= plan.units <= plan.span <= H, (B, H, plan)
                        assert plan.blocks == slices * -(-H // plan.span), (B, H, plan)
                        assert 1 <= plan.threads <= sweep.most_threads(itemsize), (B, H, plan)
                        if plan.grid:
                            assert grid, (B, H, plan)
                            assert plan.blocks <= processors, (B, H, plan)  # all run at once, or none would go on
                        else:
                            assert plan.span == H, (B, H, plan)


@pytest.mark.parametrize("cell", CELLS)
def test_missing_upstream_gradients_are_zero(cell: str) -> None:
    case = make_case(cell, (3, 2, 2, 3), seed=8)
    full = case.upstream
    for k in range(len(full)):
        case.upstream = [d if j == k else None for j, d in enumerate(full)]  # type: ignore[misc]
        check(case)


@pytest.mark.parametrize("cell", CELLS)
def test_the_same_bits_each_time_and_inference_like_training(cell: str) -> None:
    case = make_case(cell, (3, 3, 2, 3), np.float32, seed=9, **OPTIONS["all"])
    *outputs, reserve = case.forward("cuda")
    backward = fr.lstm_backward if case.lstm else fr.gru_backward
    first, second = backward(reserve, *case.upstream), backward(reserve, *case.upstream)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    *inferred, nothing = case.forward("cuda", training=False)
    assert nothing is None
    for a, b in zip(outputs, inferred, strict=True):
        np.testing.assert_array_equal(a, b)


def test_launches_do_not_grow_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    launch, launches = Device.launch, []

    def count(device: Device, kernel: Any, *args: Any, **options: Any) -> None:
        launches.append(kernel)
        launch(device, kernel, *args, **options)

    monkeypatch.setattr(Device, "launch", count)
    for T in (1, 6):
        make_case("lstm", (2, T, 2, 2), seed=10).run("cuda")
    assert len(launches) == 2 * 6  # product, sweep; back: transposition, sweep, product for dx, products for weights


def test_a_sample_does_not_depend_on_its_batch() -> None:
    whole = make_case("gru", (9, 3, 2, 5), np.float32, seed=10)
    y = whole.forward("cuda")[0]
    for rows in (slice(0, 1), slice(3, 8)):
        part = whole.with_inputs(**{name: whole.inputs[name][rows].copy() for name in ("x", "h0")})
        np.testing.assert_array_equal(part.forward("cuda")[0], y[rows])


def test_nan_travels_in_its_own_row_only() -> None:
    case = make_case("lstm", (9, 3, 2, 3), np.float32, seed=11)
    case.inputs["x"][4, 1, 1] = np.nan
    y = case.forward("cuda")[0]
    assert np.isfinite(np.delete(y, 4, axis=0)).all()
    assert np.isfinite(y[4, :1]).all()
    assert np.isnan(y[4, 1:]).all()


# -- token ids


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("cell", CELLS)
def test_token_ids(cell: str, dtype: Any) -> None:
    rng = np.random.default_rng(12)
    case = make_case(cell, (4, 5, 3, 2), seed=12, mask=True, x_drop="per_gate")
    lookup = ops.Lookup(rng.normal(size=(6, 3)), rng.integers(0, 5, (4, 5)).astype(dtype))  # id 5 is never seen
    check(case.with_inputs(x=lookup))  # type: ignore[arg-type]
    lookup.ids[2, 1] = 6
    with pytest.raises(ValueError, match=r"token ids must be in \[0, 6\), got 6 at flat index 11"):
        case.with_inputs(x=lookup).forward("cuda")  # type: ignore[arg-type]


def test_embedding() -> None:
    rng = np.random.default_rng(13)
    table, ids = rng.normal(size=(7, 5)).astype(np.float32), rng.integers(0, 6, (3, 8))
    np.testing.assert_array_equal(ops.embedding_forward(table, ids, backend="cuda"), table[ids])
    dy = rng.normal(size=(3, 8, 5)).astype(np.float32)
    got = np.full_like(table, np.nan)
    ops.embedding_backward(ids, dy, got, backend="cuda")
    np.testing.assert_allclose(got, [dy[ids == v].sum(axis=0) for v in range(7)], rtol=0, atol=1e-5)
    assert ops.embedding_forward(table, ids[:0], backend="cuda").shape == (0, 8, 5)
    ops.embedding_backward(ids[:0], dy[:0], got, backend="cuda")
    assert not got.any()
    with pytest.raises(ValueError, match=r"got -1 at flat index 8"):
        ops.embedding_backward(
            np.where(np.arange(24) == 8, -1, ids.reshape(-1)), dy.reshape(24, 5), got, backend="cuda"
        )


@pytest.mark.parametrize(("count", "rows", "size"), [(23, 7, 10), (9, 40, 9), (5, 1, 2)])
def test_ids_are_put_into_order(count: int, rows: int, size: int) -> None:
    """Batch by batch, more of them than blocks; equal ids stay in theirs."""
    ids = np.random.default_rng(13).integers(0, rows, count)
    order = embedding.sort(Device(()), simulated.copy(ids), rows, size)
    for start in range(0, count, size):
        batch = ids[start : start + size]
        want = np.argsort(batch, kind="stable")
        np.testing.assert_array_equal(order.places.copy_to_host()[start : start + size], want)
        np.testing.assert_array_equal(order.ids.copy_to_host()[start : start + size], batch[want])


# -- arrays in a GPU's memory


class Theirs:
    """An array of another library's: nothing but the interface."""

    def __init__(self, array: np.ndarray, stream: int | None = None) -> None:
        self.array = array
        self.__cuda_array_interface__ = {**array.__array_interface__, "version": 3, "stream": stream}


def on_gpu(value: Any) -> Any:
    return Theirs(value) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("cell", CELLS)
def test_arrays_on_the_gpu_stay_there(monkeypatch: pytest.MonkeyPatch, cell: str) -> None:
    case = make_case(cell, (3, 3, 2, 3), np.float32, seed=14, **OPTIONS["all"])
    want = case.run("cuda")
    there = Case(
        cell,
        {name: on_gpu(array) for name, array in case.inputs.items()},
        [on_gpu(array) for array in case.upstream],
        {name: on_gpu(value) for name, value in case.options.items()},
    )
    copied = []
    to_device = Device.to_device
    monkeypatch.setattr(
        Device, "to_device", lambda device, array: copied.append(array.size) or to_device(device, array)
    )
    got = there.run("auto")
    assert set(copied) <= {1}, "only the 1 that a sum is multiplied with"
    for name, array in got.items():
        assert not isinstance(array, np.ndarray), name
        np.testing.assert_array_equal(ops.to_numpy(array), want[name], err_msg=name)
    # and what came out can go in
    forward = fr.lstm if case.lstm else fr.gru
    y = forward(got["y"], there.inputs["U"], there.inputs["U"])[0]
    assert tuple(y.shape) == want["y"].shape


def test_token_ids_on_the_gpu() -> None:
    rng = np.random.default_rng(15)
    table, ids = rng.normal(size=(4, 3)), rng.integers(0, 4, (2, 5))
    rows = ops.embedding_forward(on_gpu(table), on_gpu(ids))
    np.testing.assert_array_equal(ops.to_numpy(rows), table[ids])
    gradient = np.empty_like(table)
    ops.embedding_backward(on_gpu(ids), on_gpu(table[ids]), Theirs(gradient))
    np.testing.assert_allclose(gradient, table * np.bincount(ids.reshape(-1), minlength=4)[:, None])
    with pytest.raises(ValueError, match="token ids must be in"):
        ops.embedding_forward(on_gpu(table), on_gpu(ids + 3))


def test_layers_take_them_too() -> None:
    x = np.random.default_rng(16).normal(size=(3, 4, 2)).astype(np.float32)
    for layer in (fr.LSTM(3, return_state=True, stateful=True), fr.GRU(3, return_state=True, stateful=True)):
        for _ in range(2):
            y, *states = layer(on_gpu(x), training=True)
            dx = layer.backward(y)
        grads = [g.copy() for g in layer.grads]
        layer.reset_state()
        for _ in range(2):
            want_y, *want_states = layer(x, training=True)
            want_dx = layer.backward(want_y)
        for got, want in zip((y, *states, dx), (want_y, *want_states, want_dx), strict=True):
            np.testing.assert_allclose(ops.to_numpy(got), want, rtol=1e-5, atol=1e-6)
        for got, want in zip(grads, layer.grads, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work goes on the stream that x names; what lies ready on others is waited for, and then the work itself, by
    each result."""
    from fastrnn.backends.cuda_kernels import device

    waited: list[int] = []
    monkeypatch.setattr(device, "_synchronize", waited.append)
    case = make_case("gru", (2, 2, 2, 2), seed=17)
    inputs = {name: Theirs(array) for name, array in case.inputs.items()}
    inputs["x"], inputs["W"] = Theirs(case.inputs["x"], 101), Theirs(case.inputs["W"], 202)
    _, _, reserve = fr.gru_forward(**inputs)
    assert reserve is not None
    assert waited == [202] + 2 * [101]
    waited.clear()
    assert reserve.data.layer.device.stream_pointer == 101
    fr.gru_backward(reserve, Theirs(case.upstream[0], 303))
    assert waited == [101] + 5 * [303]


def test_training_a_model() -> None:
    x = np.random.default_rng(18).integers(0, 9, (8, 4))
    y = (x.sum(axis=1) > 16).astype(np.float32)
    got = []
    for backend in ("cuda", "reference"):
        fr.set_seed(18)
        model = fr.Sequential(
            [
                fr.Embedding(9, 2),
                fr.LSTM(2, dropout=0.2, recurrent_dropout=0.2, return_sequences=True, backend=backend),
                fr.GRU(3, backend=backend),
                fr.Dense(1, activation="sigmoid"),
            ]
        )
        model.compile(optimizer=fr.RMSprop(1e-2), loss="binary_crossentropy")
        model.fit(x, y, batch_size=4, epochs=2, verbose=0)
        got.append(model.get_weights())
    for a, b in zip(*got, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


# -- products by CuPy, by way of a stand-in that has NumPy's functions


class NumpyAsCupy:
    matmul = staticmethod(np.matmul)
    lib = np.lib

    class cuda:  # noqa: N801 - as CuPy has it
        class ExternalStream:
            def __init__(self, pointer: int) -> None: ...

            def __enter__(self) -> None: ...

            def __exit__(self, *error: object) -> None: ...

    @staticmethod
    def asarray(array: Any) -> np.ndarray:
        return array._ary  # type: ignore[no-any-return]


@pytest.mark.parametrize("cell", CELLS)
def test_products_by_cupy(monkeypatch: pytest.MonkeyPatch, cell: str) -> None:
    monkeypatch.setattr(products, "cupy", NumpyAsCupy)
    case = make_case(cell, (3, 2, 2, 3), seed=19, **OPTIONS["all"])
    check(case)
    rng = np.random.default_rng(19)
    lookup = ops.Lookup(rng.normal(size=(6, 2)), rng.integers(0, 6, (3, 2)))
    check(case.with_inputs(x=lookup))  # type: ignore[arg-type]
