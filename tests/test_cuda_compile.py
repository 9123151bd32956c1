"""The CUDA kernels compiled for real GPUs, without one: to PTX by Numba, then by NVIDIA's assembler, which tells what
registers they take. Numbers that a kernel must keep in memory instead ("spills") would be slow ones: refused.

ptxas is looked for among the installed packages (numba-cuda[cu12] brings one), then on PATH.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("numba_cuda") is None:
    pytest.skip("numba-cuda is not installed", allow_module_level=True)
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    pytest.skip("Numba's CUDA simulator is on, which compiles nothing", allow_module_level=True)

from numba import cuda, from_dtype, types
from numba.cuda import codegen, dispatcher

from fastrnn.backends.cuda_kernels import embedding, end, gru, lstm, plain, products, sweep, updates

# The lowest that is promised, and a new one.
CAPABILITIES = [(7, 0), (9, 0)]
# tile, resident, shared, grid: every way to place things and to meet; the rest are mixtures of these
VARIANTS = [(4, False, True, False), (4, True, False, True), (1, True, True, False), (1, False, False, False)]
REGISTERS = 65536  # of a multiprocessor


def find_ptxas() -> str | None:
    nvidia = importlib.util.find_spec("nvidia")
    for folder in nvidia.submodule_search_locations or [] if nvidia else []:
        for found in sorted(Path(folder).glob("*/bin/ptxas")):
            return str(found)
    return shutil.which("ptxas")


@pytest.fixture
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """A GPU of this kind, as far as the compiler asks for one; and kernels that were made for no other."""
    device = SimpleNamespace(compute_capability=request.param)
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    for module in (sweep, lstm, gru, products, embedding, plain, end, updates):
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
    return request.param  # type: ignore[no-any-return]


def assemble(name: str, kernel: Any, signature: tuple[Any, ...], cc: tuple[int, int], threads: int, tmp: Path) -> None:
    """Compiles the kernel for blocks of that many threads, prints what it needs, and fails where that is too much."""
    ptxas = find_ptxas()
    if ptxas is None:
        pytest.skip("no ptxas among the installed packages or on PATH")
    bounds = kernel.targetoptions.get("launch_bounds")
    ptx, _ = cuda.compile_ptx(kernel.py_func, signature, cc=cc, launch_bounds=bounds)
    if "float32" in name:
        assert ".f64" not in ptx, f"{name} computes in double precision"
    (tmp / "kernel.ptx").write_text(ptx)
    # -c: the barrier of a grid is linked later
    command = [ptxas, "-v", "-c", f"-arch=sm_{cc[0]}{cc[1]}", str(tmp / "kernel.ptx"), "-o", str(tmp / "kernel.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    if "is not defined for option 'gpu-name'" in done.stderr:
        pytest.skip(f"{ptxas} knows no compute capability {cc[0]}.{cc[1]}")
    assert done.returncode == 0, done.stderr
    frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    used = re.search(r"Used (\d+) registers", done.stderr)
    assert frame, done.stderr
    assert used, done.stderr
    print(f"sm_{cc[0]}{cc[1]} {name}: {used[1]} registers, {frame[0]}")
    assert frame.groups() == ("0", "0", "0"), f"{name} keeps numbers in memory: {frame[0]}"
    assert int(used[1]) * threads <= REGISTERS, f"{name}: {used[1]} registers for {threads} threads"


def arguments(kernel: Any, **kinds: Any) -> tuple[Any, ...]:
    """The types of a kernel's arguments, told from their names; `kinds` are those that are not `others`."""
    names = inspect.signature(kernel.py_func).parameters
    return tuple(kinds.get(name, kinds["others"]) for name in names)


def array(dtype: Any) -> types.Array:
    return types.Array(from_dtype(np.dtype(dtype)), 1, "C")


def sizes(kind: Any) -> types.NamedUniTuple:
    return types.NamedUniTuple(types.int64, len(kind._fields), kind)


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("capability", "variant"),
    # compiling takes its time: for the first one the most demanding variants are enough
    [(cc, variant) for cc in CAPABILITIES for variant in VARIANTS if cc != CAPABILITIES[0] or variant in VARIANTS[:2]],
    indirect=["capability"],
    ids=str,
)
def test_sweeps(capability: tuple[int, int], variant: tuple[Any, ...], real: Any, tmp_path: Path) -> None:
    threads = sweep.most_threads(np.dtype(real).itemsize)
    for name, kernel in {
        "lstm.forward": lstm.forward(real, *variant),
        "lstm.backward": lstm.backward(real, *variant),
        "gru.forward": gru.forward(real, *variant, True),
        "gru.backward": gru.backward(real, *variant, True),
        "gru.forward, reset before": gru.forward(real, *variant, False),
        "gru.backward, reset before": gru.backward(real, *variant, False),
    }.items():
        signature = arguments(kernel, size=sizes(sweep.Sizes), mask=array(np.uint8), others=array(real))
        assemble(f"{name} {real.__name__} {variant}", kernel, signature, capability, threads, tmp_path)


@pytest.mark.parametrize("capability", CAPABILITIES, indirect=True, ids=str)
def test_kernels_that_meet(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are launched: linked with the barrier of a grid, which they are found to need though it is a device
    function that has it. A launch that did not know would not wait."""
    monkeypatch.setattr(codegen.CUDACodeLibrary, "_ensure_cc", lambda library, cc=None: cc or capability)
    real = np.float32
    for kernel in (lstm.forward(real, 4, True, False, True), gru.backward(real, 4, True, False, True, False)):
        signature = arguments(kernel, size=sizes(sweep.Sizes), mask=array(np.uint8), others=array(real))
        options = {name: kernel.targetoptions[name] for name in ("launch_bounds", "lto", "opt")}
        made = dispatcher._Kernel(kernel.py_func, signature, **options)
        assert made.cooperative
        assert made._codelibrary.get_cubin(cc=capability).code[:4] == b"\x7fELF"


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("capability", CAPABILITIES, indirect=True, ids=str)
def test_the_others(capability: tuple[int, int], real: Any, tmp_path: Path) -> None:
    reals, ids, longs = array(real), array(np.int32), array(np.int64)
    arrays = dict.fromkeys(("c", "a", "b", "bias", "parts", "out", "mask", "table", "dy"), reals)
    arrays |= {"order": longs, "sorted_ids": longs, "places": longs, "ids": ids, "bad": ids}
    # for one product, and for those that a layer's weights take
    several = [
        {
            **{name: types.UniTuple(reals, n) for name in ("a_s", "masks", "b_s")},
            **{"ids_s": types.UniTuple(ids, n), "sizes": types.UniTuple(sizes(products.Sizes), n)},
            "sums": types.UniTuple(sizes(products.Sum), n),
        }
        for n in (1, 3, 6)
    ]
    kernels: list[tuple[Any, dict[str, Any]]] = [
        *((products._product_kernel(real), more) for more in several),
        *((products._sum_kernel(real), more) for more in several),
        (products._transpose_kernel(real), {}),
        (embedding._gather_kernel(real), {}),
        (embedding._segments_kernel(real), {}),
        (embedding._find_kernel(), {}),
        (embedding._sort_kernel(), {}),
    ]
    for kernel, more in kernels:
        name = f"{kernel.py_func.__name__} {real.__name__}"
        signature = arguments(kernel, others=types.int64, **arrays, **more)
        assemble(name, kernel, signature, capability, 256, tmp_path)


def test_tuples_of_arrays_have_the_types_compiled_here() -> None:
    """Products are told of in tuples, whose types Numba finds out when a kernel is launched."""
    there = SimpleNamespace(_numba_type_=array(np.float32))
    size = products.Sizes(*range(len(products.Sizes._fields)))
    kernel = products._product_kernel(np.float32)
    assert kernel.typeof_pyval((there, there)) == types.UniTuple(array(np.float32), 2)
    assert kernel.typeof_pyval((size,)) == types.UniTuple(sizes(products.Sizes), 1)


ACTIVATIONS = ("sigmoid", "tanh", "relu", "softmax")
CROSS_ENTROPIES = ("binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy")
ENDS = [("mean_squared_error", "predictions"), ("mean_absolute_error", "predictions")]
ENDS += [(loss, source) for loss in CROSS_ENTROPIES for source in ("predictions", "linked")]
# rule, slots m and a, nesterov, clipping
UPDATES: list[tuple[str, bool, bool, bool, str | None]] = [
    ("sgd", True, False, True, "norm"),
    ("rmsprop", True, True, False, "value"),
    ("adam", True, True, False, None),
]


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("capability", CAPABILITIES, indirect=True, ids=str)
def test_training(capability: tuple[int, int], real: Any, tmp_path: Path) -> None:
    reals, bytes_, longs = array(real), array(np.uint8), array(np.int64)

    def run(name: str, kernel: Any, **kinds: Any) -> None:
        signature = arguments(kernel, **{"count": types.int64, "width": types.int64, **kinds})
        assemble(f"{name} {real.__name__}", kernel, signature, capability, 256, tmp_path)

    run("scale", plain.scale_kernel(), others=reals)
    run("find_words", plain.mask_kernel(), mask=bytes_, ids=array(np.int32), others=reals)
    for name in ACTIVATIONS:
        run(name, plain.activation_kernel(real, name), others=reals)
        run(f"{name}, gradient", plain.activation_gradient_kernel(real, name), others=reals)
    number = from_dtype(np.dtype(real))
    # compiling takes its time: for the first capability the most usual ends are enough
    for loss, source in ENDS if capability != CAPABILITIES[0] else [ENDS[3], ENDS[-1]]:
        sparse = loss.startswith("sparse")
        metrics = (2,) if sparse else (0, 1, 3, 4)
        kernel = end.end_kernel(real, loss, source, metrics, True)
        kinds = {"size": sizes(end.End), "mask": bytes_, "valid": number, "share": number}
        run(f"end, {loss}, {source}", kernel, y=longs if sparse else reals, **kinds, others=reals)
    for whole in (False, True):
        run("norms", updates.norm_kernel(real, whole), ends=longs, limit=number, others=reals)
    for update in UPDATES:
        numbers = dict.fromkeys(("rate", "beta_1", "beta_2", "rest_1", "rest_2", "epsilon", "limit"), number)
        run(f"update {update}", updates.update_kernel(real, *update), ends=longs, **numbers, others=reals)
