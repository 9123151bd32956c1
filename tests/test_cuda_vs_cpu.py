"""benchmarks/cuda_vs_cpu.py without a GPU: the C backend, PyTorch and TensorFlow on the CPU stand in for it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.bench.charts import crossing
from fastrnn.bench.results import Results

PATH = Path(__file__).parent.parent / "benchmarks" / "cuda_vs_cpu.py"
spec = importlib.util.spec_from_file_location("cuda_vs_cpu", PATH)
assert spec is not None
assert spec.loader is not None
script = importlib.util.module_from_spec(spec)
sys.modules["cuda_vs_cpu"] = script
spec.loader.exec_module(script)

pytestmark = pytest.mark.skipif(fr.available_backends()["c"] is not None, reason="no C backend")

TINY = script.Sizes(((2, 5, 4), (2, 5, 16)), ((3, 4, 5),), ("gru",), 2)
CUDNN = {"cuDNN", "cuDNN with copies", "cuDNN, TF32"}


class Host(script.Gpu):  # type: ignore[misc, name-defined]
    backend, torch_device = "c", "cpu"

    def reason_missing(self) -> None:
        return None

    def put(self, array: np.ndarray) -> np.ndarray:
        return array.copy()

    def synchronize(self) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {"gpus": ["a GPU"], "compute_capability": [9, 0], "driver": "1.2"}

    def torch(self) -> Any:
        return pytest.importorskip("torch")

    def tensorflow(self) -> Any:
        return pytest.importorskip("tensorflow")


class Alone(Host):
    def torch(self) -> str:
        return "PyTorch is not installed"

    def tensorflow(self) -> str:
        return "TensorFlow is not installed"


def run(gpu: Any, folder: Path, sizes: Any = TINY) -> tuple[int, Results]:
    status = script.run(["--rounds", "2", "--seconds", "0.001", "--out", str(folder)], gpu, sizes)
    return status, Results.read(folder / "cuda_vs_cpu.json")


def test_everything_is_measured_checked_and_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    status, results = run(Host(), tmp_path / "new")
    assert status == 0
    ours = {"CUDA", "CUDA with copies", "C"}
    names = [case.name for case in results.part("layers")]
    assert names[:3] == ["lstm train 2,5,4", "lstm inference 2,5,4", "lstm train 2,5,16"]
    assert len(results.part("layers")) == 8
    assert len(results.part("options")) == 4
    assert all(set(case.rounds) == ours | CUDNN for case in results.part("layers"))
    assert all(set(case.rounds) == ours | {"Keras"} for case in results.part("options"))
    assert [set(case.rounds) for case in results.part("steps")] == [{"CUDA", "C"}]
    for case in results.cases:
        assert not case.failed
        assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in case.rounds.values())
        assert set(case.errors) == set(case.rounds)
        assert max(case.errors.values()) < 1e-4
    known = {"gpus", "driver", "compute_capability", "processor", "instruction_set", "date", "command", "versions"}
    assert known <= set(results.about)
    assert {"PyTorch", "cuDNN", "TensorFlow", "Keras", "fastrnn"} <= set(results.about["versions"])
    text = (tmp_path / "new" / "cuda_vs_cpu.md").read_text()
    for told in ("a GPU", "driver 1.2", "TF32 is off", "gru mask 3,4,5", "cuDNN with copies", "cuda_vs_cpu.png"):
        assert told in text
    assert (tmp_path / "new" / "cuda_vs_cpu.png").read_bytes()[:4] == b"\x89PNG"


def test_whoever_computes_something_else_gets_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from fastrnn.bench.peers import on_torch

    monkeypatch.setattr(on_torch, "_gates", lambda array, cell: array)  # GRU's in Keras' order
    status, results = run(Host(), tmp_path, TINY._replace(shapes=TINY.shapes[:1], option_shapes=(), models=()))
    assert status == 1
    lstm, gru = results.part("layers")[::2]
    assert set(lstm.rounds) >= CUDNN
    assert set(gru.rounds) == {"CUDA", "CUDA with copies", "C"}
    assert set(gru.failed) == CUDNN
    assert (
        "FAILED: layers, gru train 2,5,4: cuDNN: ValueError: computes something else"
        in (tmp_path / "cuda_vs_cpu.md").read_text()
    )
    assert not (tmp_path / "cuda_vs_cpu.png").exists()  # nothing crosses at one size


def test_whoever_is_not_there_takes_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = TINY._replace(shapes=TINY.shapes[:1], models=())
    status, results = run(Alone(), tmp_path, sizes)
    assert status == 0
    assert results.skipped == {"cuDNN": "PyTorch is not installed", "Keras": "TensorFlow is not installed"}
    monkeypatch.setattr(script.Measurement, "options_part", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(Alone(), tmp_path / "cut", sizes)
    assert len(Results.read(tmp_path / "cut" / "cuda_vs_cpu.json").part("layers")) == 4  # what was done is kept


def test_without_a_gpu_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fr, "available_backends", lambda: {"cuda": "the NVIDIA driver finds no GPU", "c": None})
    assert script.run(["--out", str(tmp_path / "new")], script.Gpu(), TINY) == 1
    assert "nothing written: backend cuda: the NVIDIA driver finds no GPU" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("ratios", "at"),
    [([0.5, 2, 4], 16), ([0.25, 0.5, 2], 64), ([2, 0.5, 2], 64), ([2, 3, 4], None), ([2, 3, 0.9], None), ([], None)],
)
def test_where_somebody_overtakes(ratios: list[float], at: float | None) -> None:
    found = crossing([8, 32, 128][: len(ratios)], ratios)
    assert found == (None if at is None else pytest.approx(at))
