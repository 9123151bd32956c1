"""`fastrnn bench`: its statistics, its tables and files, contenders as processes, the README's figures."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastrnn import backends, cli
from fastrnn.bench import charts, command, fresh, peers, report
from fastrnn.bench.compare import verdict
from fastrnn.bench.growth import exponent, sweeps
from fastrnn.bench.layer import OPTIONS, Layer, Problem, errors
from fastrnn.bench.models import Training
from fastrnn.bench.peers import PEERS, Contender, contenders, reason_missing
from fastrnn.bench.progress import Progress
from fastrnn.bench.results import Case, Results
from fastrnn.bench.rounds import ContenderError, Entry, Process, interleave, prepare
from fastrnn.bench.team import Settings, Team

ROOT = Path(__file__).parent.parent
TINY = Layer("lstm", "train", (2, 3, 4, 5))


def make_case(**changes: Any) -> Case:
    values: dict[str, Any] = {
        "part": "layers",
        "name": "lstm train 2,3,4,5",
        "labels": TINY.to_json(),
        "base": "fastrnn-c",
        "rounds": {
            "fastrnn-c": [1e-3, 2e-3, 4e-3],
            "fastrnn-reference": [1e-4, 1e-4, 1e-4],
            "torch": [2e-3, 6e-3, 4e-3],
            "jax": [1e-2, 1e-2, 1e-2],
        },
        "operations": 10**6,
        "bytes": 10**4,
        "peak": [2e9, 1e9, 1e9],
        "errors": {"fastrnn-c": 1e-7, "torch": 2e-6},
    }
    return Case(**values | changes)


def make_results(*cases: Case) -> Results:
    about = {
        "processor": "a processor",
        "system": "Linux",
        "cores": 2,
        "threads": 2,
        "instruction_set": None,
        "date": "2000-01-01",
        "versions": {"fastrnn": "1"},
        "rounds": 3,
        "seconds": 0.1,
        "command": "fastrnn bench",
        "bandwidth": 1e10,
    }
    return Results(about, list(cases or [make_case()]), {"onnxruntime": "onnx not installed"})


# -- what is counted --------------------------------------------------------------------------


def test_a_case_compares_within_its_rounds():
    case = make_case()
    assert case.value("fastrnn-c") == 2e-3
    assert case.ratio("torch") == (2.0, 1.0, 3.0)
    assert case.ratio("fastrnn-c", "torch").median == 0.5
    assert case.best_peer() == "torch"  # a backend of this package is no peer
    assert case.rate("fastrnn-c") == pytest.approx(5e8)
    assert case.share_of_peak("fastrnn-c") == pytest.approx(0.5)
    assert case.floor() == pytest.approx(1e-3)
    assert make_case(peak=[1.0, 0.95, 0.8]).disturbed() == 1


def test_a_case_without_peers_or_counts():
    case = make_case(rounds={"fastrnn-c": [1.0]}, operations=None, peak=[])
    assert case.best_peer() is None
    assert case.rate("fastrnn-c") is case.share_of_peak("fastrnn-c") is case.floor() is None


@pytest.mark.parametrize(("mode", "factor", "steps"), [("train", 3, 3), ("inference", 1, 3), ("stream", 1, 1)])
def test_operations(mode, factor, steps):
    assert Layer("lstm", mode, (2, 3, 4, 5)).operations == factor * 2 * 2 * steps * 20 * (4 + 5)
    assert Layer("gru", mode, (2, 3, 4, 5)).operations == factor * 2 * 2 * steps * 15 * (4 + 5)


def test_operations_of_a_models_step():
    layers = [Layer("lstm", "train", (64, 100, inputs, 8)).operations for inputs in (16, 8)]
    assert Training("lstm", steps=7).operations == layers[0]
    assert Training("stacked").operations == sum(layers)


def test_bytes_of_inference_are_those_of_its_arrays():
    problem = Problem(Layer("lstm", "inference", (2, 3, 4, 5)))
    arrays = (problem.x, problem.W, problem.U, problem.b, problem.run("reference")[0])
    assert problem.layer.bytes == sum(array.nbytes for array in arrays)


def test_errors_are_relative_and_see_everything_wrong():
    want = {"y": np.array([1.0, -4.0])}
    assert errors({"y": np.array([1.0, -3.0])}, want) == {"y": 0.25}
    assert errors({"y": np.array([1.0, np.nan])}, want) == {"y": np.inf}
    assert errors({"y": np.array([1.0])}, want) == {"y": np.inf}
    assert errors({}, want) == {"y": np.inf}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_problems_are_the_same_everywhere_and_exact(cell, option):
    layer = Layer(cell, "train", (3, 4, 2, 5), option=option)
    got, want = Problem(layer), Problem(Layer.from_json(json.loads(json.dumps(layer.to_json())))).expected()
    assert max(errors(got.named(*got.run("reference")), want).values()) < 1e-5


def test_reserve_counts_what_is_kept_beside_the_inputs():
    layer = Layer("gru", "train", (3, 4, 2, 5))
    B, T, _, H = layer.shape
    assert Problem(layer).reserve_bytes("reference") >= 4 * T * B * H * 4  # z, r, q, k of every step


# -- tables, files, pictures ------------------------------------------------------------------


def test_the_table_of_layers():
    head, rows = report.layers(make_results(), {"lstm train 2,3,4,5": 2.5})[0][1:]
    row = dict(zip(head, rows[0], strict=True))
    assert row["ours ms"] == "2.00"
    assert row["best peer"] == "torch"
    assert row["ours times as fast"] == "2.00x (1.00-3.00)"
    assert row["target"] == "2.5 missed"
    assert row["of peak"] == "50%"
    assert row["floor ms"] == "1.00"
    assert "target" not in report.layers(make_results(), {})[0].head


def test_a_failed_base_is_told():
    case = make_case(rounds={"torch": [1.0, 1.0, 1.0]}, failed={"fastrnn-c": "it burns"}, peak=[])
    text = report.document(make_results(case))
    assert "failed" in text
    assert "FAILED: layers, lstm train 2,3,4,5: it burns" in text
    assert "onnxruntime took no part: onnx not installed" in text


def make_sweep(axis: str, sizes: tuple[int, ...], power: float, **changes: Any) -> list[Case]:
    """Cases in which everyone's time grows with that power of the size."""
    labels = TINY.to_json() if axis != "samples" else Training("gru").to_json()
    return [
        make_case(
            part="scaling",
            name=f"{axis}={size}",
            labels=labels | {axis: size},
            rounds={who: [1e-3 * size**power] * 3 for who in ("fastrnn-c", "torch")},
            **{"operations": None, "peak": [], **changes},
        )
        for size in sizes
    ]


def test_exponents():
    assert exponent([(size, 3 * size**1.5) for size in (1, 10, 100)]) == pytest.approx(1.5)
    cases = make_sweep("H", (4, 8, 16), 2) + make_sweep("samples", (64, 128), 1) + make_sweep("T", (5,), 1)
    found = sweeps(cases[::-1])
    assert sorted((sweep.what, sweep.axis, *sweep.sizes) for sweep in found) == [
        ("gru fit", "samples", 64, 128),
        ("lstm train", "H", 4, 8, 16),
    ]
    assert all(sweep.exponents("jax") is None for sweep in found)
    rows = report.growth(make_results(*cases)).rows
    assert rows == [
        ["lstm train, H 4 to 16 (B 2, T 3, I = H)", "1 to 2", "2.00 / 2.00", "2.00 / 2.00"],
        ["gru fit, samples 64 to 128 (8 units)", "1", "1.00 / 1.00", "1.00 / 1.00"],
    ]


def test_exponents_do_not_see_a_machine_that_slows_down():
    cases = make_sweep("T", (10, 20), 2)  # twice the size, four times the time, at half the speed
    for case, speed in zip(cases, (2e9, 1e9), strict=True):
        case.operations, case.peak = 10**6 * case.labels["T"], [speed] * 3
    assert sweeps(cases)[0].exponents("fastrnn-c") == pytest.approx((1, 1))


def test_threads_are_told_as_speed():
    case = make_case(part="threads", base="1 thread", rounds={"1 thread": [3e-3] * 3, "2 threads": [2e-3] * 3})
    assert report.part(make_results(case), "threads").rows == [
        ["lstm train 2,3,4,5", "3.00 ms", "2.00 ms, 1.50x, 75%"],
    ]


def test_tails_are_told():
    tails = {"fastrnn-c": [[1e-6, 9e-6], [3e-6, 4e-6], [2e-6, 5e-6]]}
    case = make_case(part="latency", rounds={"fastrnn-c": [1e-6, 1e-6, 1e-6]}, tails=tails)
    assert report.short(make_results(case), "latency").rows == [["lstm train 2,3,4,5", "1.00 / 2.00 / 9.00"]]


def test_the_worst_error_of_each_kind():
    table = report.accuracy(make_results(make_case(), make_case(name="another", errors={"torch": 3e-6})))
    assert table.head == ["", "fastrnn-c", "torch"]
    assert table.rows == [["LSTM train", "1e-07", "3e-06"]]


def test_how_long_it_took_and_what_a_round_was():
    results = make_results(make_case(part="memory", unit="bytes"))
    results.about |= {"took": 300.0, "gpus": ["a GPU"]}
    lines = report.about(results)
    assert lines[1] == "a GPU"
    assert lines[3] == "3 interleaved rounds of a new process for each contender; `fastrnn bench`, 5 minutes"


def test_tables_line_up():
    table = report.Table("title", ["", "a"], [["x", "1.5 ms"], ["longer"]])
    assert report.plain(table).splitlines()[1:] == ["             a", "------  ------", "x       1.5 ms", "longer"]
    assert report.markdown(table).splitlines()[-1] == "| longer |  |"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234.5, "1234"), (12.345, "12.3"), (1.5, "1.50"), (0.01234, "0.0123"), (0, "0"), (1e-9, "0.000000")],
)
def test_digits(value, text):
    assert report.digits(value) == text


def test_amounts():
    values = [report.amount(seconds, "s") for seconds in (2.5e-6, 2.5e-4, 2.5e-2, 2.5)]
    assert values == ["2.50 µs", "0.250 ms", "25.0 ms", "2.50 s"]
    assert report.amount(2.5e6, "bytes") == "2.50 MB"


def test_results_come_back_as_they_were_written(tmp_path):
    results = make_results()
    results.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == results


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\x00",
        b'{"format": 99}',
        b'{"format": 1, "about": {}}',
        b'{"format": 1, "about": {}, "skipped": {}, "cases": [{"part": "a", "name": "b", "labels": {}, "base": "c", '
        b'"rounds": {"c": null}}]}',
    ],
)
def test_other_files_are_refused(tmp_path, content, capsys):
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a results file"):
        Results.read(path)
    assert usage_error(["--compare", str(path), str(path)], capsys).endswith("other.json is not a results file")


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    sizes = make_sweep("H", (8, 16), 2, peak=[1e9] * 3, operations=10**6) + make_sweep("samples", (64, 128), 1)
    steps = make_case(part="steps", name="lstm", labels=Training("lstm").to_json(), operations=None, peak=[])
    paths = charts.draw(make_results(make_case(), steps, *sizes), tmp_path)
    assert [path.name for path in paths] == [
        "layers.png",
        "steps.png",
        "sizes.png",
        "growth.png",
        "roofline.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert charts.draw(make_results(make_case(part="options")), tmp_path) == []


def test_bars_of_all_panels_are_in_the_picture():
    pytest.importorskip("matplotlib")
    slow = make_case(name="slow", labels=TINY.to_json() | {"cell": "gru"}, rounds={"fastrnn-c": [1.0], "jax": [1000.0]})
    figure = charts._bars(make_results(make_case(), slow), "layers", panels=("cell", "mode"))
    for axes in figure.axes:
        assert axes.get_xlim()[0] < 1
        assert axes.get_xlim()[1] > 1000


# -- two runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "want"),
    [
        ([1.0, 1.01, 1.02], [1.5, 1.51, 1.52], "more"),
        ([1.0, 1.01, 1.02], [0.5, 0.51, 0.52], "less"),
        ([1.0, 1.0, 1.0], [1.02, 1.02, 1.02], "within noise"),
        ([1.0, 1.5, 2.0], [1.2, 1.9, 2.5], "within noise"),
        ([1.0], [2.0], "more"),
    ],
)
def test_verdicts(before, after, want):
    assert verdict(before, after) == want


def test_comparison_of_two_files(tmp_path, capsys):
    faster = make_case(rounds={"torch": [2e-3, 6e-3, 4e-3], "fastrnn-c": [1e-4, 2e-4, 3e-4]})
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, results in zip(paths, (make_results(), make_results(faster)), strict=True):
        results.write(path)
    assert cli.main(["bench", "--compare", *map(str, paths)]) == 0
    title, *_, ours, torch = capsys.readouterr().out.splitlines()
    run = "fastrnn 1, a processor, 2 threads, 2000-01-01"
    assert title == f"== What changed from {run} to {run}"
    assert ours.split()[-2:] == ["-90%", "less"]
    assert torch.endswith("within noise")
    make_results(make_case(name="another")).write(paths[0])
    assert cli.main(["bench", "--compare", *map(str, paths)]) == 0
    assert capsys.readouterr().out == "the two files have no contender in a case in common\n"


# -- contenders as processes ------------------------------------------------------------------


@pytest.fixture
def process():
    running = Process("fastrnn-reference", 1)
    yield running
    running.close()


def test_a_contender_is_checked_and_timed(process, tmp_path):
    np.savez(tmp_path / "want.npz", **Problem(TINY).expected())
    entry = Entry("it", process, "layer", TINY.to_json(), tmp_path / "want.npz")
    assert prepare(entry).error < 1e-5
    measured, failed = interleave([entry], rounds=2, seconds=0.001)
    rounds = measured["it"]
    assert not failed
    assert len(rounds.medians) == 2
    assert all(0 < m <= p <= x for m, p, x in zip(*rounds, strict=True))


def test_a_contender_that_computes_something_else_fails(process, tmp_path):
    want = Problem(TINY).expected()
    want["dU"] = want["dU"] * 1.01
    np.savez(tmp_path / "want.npz", **want)
    with pytest.raises(ContenderError, match=r"it computes something else: relative errors \{'dU'"):
        prepare(Entry("it", process, "layer", TINY.to_json(), tmp_path / "want.npz"))


def test_a_contender_that_fails_or_dies_says_so(process):
    with pytest.raises(ContenderError, match="fastrnn-reference: KeyError: 'lstn'"):
        prepare(Entry("it", process, "layer", TINY.to_json() | {"cell": "lstn"}))
    process._process.kill()
    with pytest.raises(ContenderError, match="ended with exit code -9"):
        prepare(Entry("it", process, "layer", TINY.to_json()))


def test_a_contender_that_dies_while_it_is_timed_leaves_the_others(monkeypatch):
    ask = Process.ask

    def dying(process: Process, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("round") == "dies" and request["seconds"] > 0:
            process._process.kill()
        return ask(process, request)

    monkeypatch.setattr(Process, "ask", dying)
    with Team(Settings(2, 0.001, 1), Progress()) as team:
        for _ in range(2):  # in the next case it takes part again
            case, entries = make_case(rounds={}, peak=[], errors={}), []
            team.add(case, entries, "fastrnn-reference", "layer", TINY.to_json(), label="dies")
            apart = (("APART", "1"),)  # a process of its own
            team.add(case, entries, "fastrnn-reference", "layer", TINY.to_json(), label="lives", environment=apart)
            team.compare(case, entries)
            assert case.failed == {"dies": "fastrnn-reference ended with exit code -9"}
            assert list(case.rounds) == ["lives"]
            assert len(case.rounds["lives"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [*contenders()])
def test_every_contender_computes_the_same(name, tmp_path):
    contender = contenders()[name]
    if (reason := reason_missing(name)) is not None:
        pytest.skip(reason)
    running = Process(name, 1, dict(contender.environment))
    try:
        for mode in ("train", "inference", "stream", "step"):
            if mode not in contender.takes or (mode == "inference" and "train" in contender.takes):
                continue
            works: list[Any] = [Training("gru", steps=1)]
            if mode != "step":
                works = [Layer(cell, mode, (1 if mode == "stream" else 2, 3, 4, 5)) for cell in ("lstm", "gru")]
            kind = {"train": "layer", "inference": "layer"}.get(mode, mode)
            for work in works:
                wanted = work.expected() if mode == "step" else Problem(work).expected()
                np.savez(tmp_path / "want.npz", **wanted)
                found = prepare(Entry("it", running, kind, work.to_json(), tmp_path / "want.npz"))
                assert found.error is not None
                assert found.error < 1e-5
    finally:
        running.close()


def test_who_is_missing_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setitem(PEERS, "nobody", Contender("on_nobody", "", "Nobody", ("no_such_package",)))
    with Team(Settings(1, 0.001, 1), Progress()) as team:
        assert team.available(["fastrnn-reference", "nobody"]) == ["fastrnn-reference"]
        assert team.skipped == {"nobody": "no_such_package not installed"}


@pytest.mark.parametrize(
    ("gpus", "version", "reason"),
    [
        ([], "2.9.0", "no NVIDIA GPU here"),
        (["a GPU"], "2.9.0+cpu", "numpy 2.9.0+cpu is built without CUDA"),
        (["a GPU"], "2.9.0+cu130", None),
    ],
)
def test_cudnn_takes_part_where_there_is_a_gpu(gpus, version, reason, monkeypatch):
    monkeypatch.setitem(PEERS, "torch-cuda", replace(PEERS["torch-cuda"], needs=("numpy",)))
    monkeypatch.setattr(peers, "gpus", lambda: gpus)
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    assert reason_missing("torch-cuda") == reason


@pytest.mark.parametrize("name", ["jax", "keras", "keras-jit", "keras-jax"])
def test_peers_on_the_cpu_see_no_gpu(name):
    environment = dict(PEERS[name].environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "-1"
    assert environment["JAX_PLATFORMS"] == "cpu"


def test_peers_have_colors_and_modules():
    assert set(charts.COLORS) == set(PEERS)
    for contender in PEERS.values():
        assert (ROOT / "fastrnn" / "bench" / "peers" / f"{contender.module}.py").exists()


def test_a_fresh_process_that_hangs_is_told(monkeypatch):
    monkeypatch.setattr(fresh, "TIMEOUT_SECONDS", 0.001)
    with pytest.raises(RuntimeError, match=r"not done after 0\.001 seconds"):
        fresh.start("fastrnn-reference", "fastrnn", 1, "layer", TINY.to_json(), {})


def test_a_fresh_process_tells_times_and_memory():
    found = fresh.start("fastrnn-reference", "fastrnn", 1, "layer", TINY.to_json(), {})
    assert found["import"] > 0
    assert found["first call"] > 0
    if found["peak memory"] is not None:
        assert found["peak of the process"] >= found["peak memory"] >= found["memory before"] > 10**6
    with pytest.raises(RuntimeError, match="KeyError"):
        fresh.start("fastrnn-reference", "fastrnn", 1, "layer", TINY.to_json() | {"cell": "lstn"}, {})


# -- the command ------------------------------------------------------------------------------

QUICK = ["--backend", "reference", "--peer", "none", "--shape", "2,3,4,5", "--rounds", "2", "--seconds", "0.001"]


def test_a_run_prints_and_writes(tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["bench", "layers", "latency", "options", *QUICK, "--cell", "lstm", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "lstm  train      2,3,4,5" in printed.out
    assert "[4/4] options: lstm train 2,3,4,5" in printed.err
    results = Results.read(out / "results.json")
    assert [case.part for case in results.cases] == ["layers", "layers", "latency", "options"]
    assert all(len(rounds) == 2 for case in results.cases for rounds in case.rounds.values())
    assert set(results.cases[-1].rounds) == set(OPTIONS)
    assert "lstm train 2,3,4,5" in (out / "results.md").read_text()
    assert not list(out.glob(".*"))


def test_the_only_backend_takes_part_in_large_layers_too(capsys):
    arguments = [*QUICK, "--shape", "64,100,32,32", "--cell", "gru", "--mode", "train", "--rounds", "1"]
    assert cli.main(["bench", *arguments]) == 0
    assert "gru train 64,100,32,32: fastrnn-reference" in capsys.readouterr().err


def test_a_layer_that_no_memory_holds_is_an_error_in_a_line(capsys):
    assert cli.main(["bench", *QUICK, "--shape", "2000000000,1000,4000,5000"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("fastrnn: error: Unable to allocate")


def test_part_by_part_with_its_tables(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "cores", lambda: 2)
    arguments = ["startup", "memory", "threads", "--threads", "2", *QUICK, "--cell", "gru", "--out", str(tmp_path)]
    assert cli.main(["bench", *arguments]) == 0
    assert "== Threads, in training" in capsys.readouterr().out
    results = Results.read(tmp_path / "results.json")
    kept = results.part("memory")[1]
    assert "kept for backward (y alone: 0.0 MB)" in kept.name
    assert list(results.part("threads")[0].rounds) == ["1 thread", "2 threads"]
    assert results.about["took"] > 0


def usage_error(arguments: list[str], capsys: Any) -> str:
    """The last line of what is said, which is the error."""
    with pytest.raises(SystemExit) as error:
        cli.main(["bench", *arguments])
    assert error.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1].split(" of `fastrnn bench`")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "PART: must be one of layers, steps"),
        (["layers", "nonsense"], "all; got 'nonsense'"),
        (["--backend", "nonsense"], "--backend: backend must be one of"),
        (["--peer", "nonsense"], "--peer: invalid choice: 'nonsense'"),
        (["--compare", "/nowhere/a.json", "/nowhere/b.json"], "No such file or directory: '/nowhere/a.json'"),
        (["--out", "/dev/null/folder"], "--out: no folder can be made there"),
        (["--targets", "/nowhere/a.json"], "--targets: /nowhere/a.json cannot be read as JSON"),
        (["--targets", "/dev/null"], "--targets: /dev/null cannot be read as JSON"),
        (["--shape", "1,2"], "four positive integers B,T,I,H, got '1,2'"),
        (["--shape", "1,2,3,0"], "four positive integers B,T,I,H, got '1,2,3,0'"),
        (["--rounds", "0"], "must be a positive integer, got '0'"),
        (["--threads", "two"], "must be a positive integer, got 'two'"),
        (["--threads", "100000"], "--threads: must be at most"),
        (["--seconds", "-1"], "must be a positive number, got '-1'"),
        (["--seconds", "nan"], "must be a positive number, got 'nan'"),
    ],
)
def test_usage(arguments, message, capsys):
    assert message in usage_error(arguments, capsys)


def test_a_backend_that_is_missing_is_a_usage_error(monkeypatch, capsys):
    monkeypatch.setitem(backends._modules, "cuda", "there is no GPU")
    assert "--backend: backend='cuda' is not available: there is no GPU" in usage_error(["--backend", "cuda"], capsys)


@pytest.mark.slow
def test_pytest_benchmarks(tmp_path):
    pytest.importorskip("pytest_benchmark")
    if not (ROOT / "benchmarks").exists():
        pytest.skip("no benchmarks beside the tests")
    who = "lstm-inference-1x100x128x128 and (fastrnn-reference or fastrnn-cuda)"
    options = ["--benchmark-only", "-k", who, f"--benchmark-json={tmp_path / 'it.json'}", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "benchmarks", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    measured = {
        found["params"]["contender"]: found for found in json.loads((tmp_path / "it.json").read_text())["benchmarks"]
    }
    for name in ("fastrnn-reference", "fastrnn-cuda"):
        if (reason := reason_missing(name)) is not None:
            assert f"{name}: {reason}" in done.stdout  # skipped
        else:
            found = measured[name]
            assert found["group"] == "test_layer lstm inference 1x100x128x128"
            facts = found["extra_info"]
            assert facts["gflops"] == pytest.approx(facts["operations"] / found["stats"]["median"] / 1e9)
            assert facts["relative_error"] < 1e-5
            assert facts["prepare_seconds"] > 0
            assert {"share_of_peak", "bytes", "threads", "instruction_set", "processor", "gpus", "versions"} <= set(
                facts
            )


# -- the README -------------------------------------------------------------------------------


def test_the_readmes_figures_are_those_of_the_results():
    if not (ROOT / "benchmarks").exists():
        pytest.skip("no benchmarks beside the tests")
    readme = runpy.run_path(str(ROOT / "benchmarks" / "readme.py"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme["SECTION"].findall(text)) >= 2
    assert readme["generated"](text) == text, "run `python benchmarks/readme.py`"
