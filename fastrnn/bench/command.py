"""`fastrnn bench`: its options, and a run from start to end."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from types import ModuleType

from fastrnn.backends import available_backends, get_backend
from fastrnn.backends.threads import cores
from fastrnn.bench import machine, report
from fastrnn.bench.compare import compare
from fastrnn.bench.layer import GATES, MODES
from fastrnn.bench.parts import PARTS, Choice
from fastrnn.bench.peers import PEERS
from fastrnn.bench.progress import Progress
from fastrnn.bench.results import Case, Results
from fastrnn.bench.team import Settings, Team
from fastrnn.io.atomic import replacing

QUICK = {"rounds": 3, "seconds": 0.03}
THOROUGH = {"rounds": 7, "seconds": 0.15}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastrnn bench`."""
    about = {name: str(make.__doc__).strip() for name, make in PARTS.items()}
    parser.epilog = "\n".join(["parts:", *(f"  {name:<18}{text}" for name, text in about.items())])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "parts",
        nargs="*",
        type=_part,
        metavar="PART",
        help="what to measure, see below, or all; default: layers",
    )
    parser.add_argument("--cell", action="append", choices=list(GATES), help="only this cell; may be repeated")
    parser.add_argument("--mode", action="append", choices=list(MODES), help="layers: only this; may be repeated")
    parser.add_argument(
        "--shape", action="append", type=_shape, metavar="B,T,I,H", help="instead of a part's own; may be repeated"
    )
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default: float32")
    parser.add_argument(
        "--backend",
        action="append",
        type=_backend,
        metavar="NAME",
        help="one of fastrnn's; may be repeated, the first is compared; default: the fastest, and cuda if it is there",
    )
    parser.add_argument("--peer", action="append", choices=[*PEERS, "none"], help="only this one; may be repeated")
    parser.add_argument("--threads", type=_threads, metavar="N", help="for everyone; default: all cores")
    parser.add_argument("--quick", action="store_true", help="few short rounds: a rough look")
    parser.add_argument("--rounds", type=_positive, metavar="N", help="default: 7, or 3 with --quick")
    parser.add_argument("--seconds", type=_seconds, metavar="S", help="each in a round; default: 0.15, or 0.03")
    parser.add_argument("--targets", type=_targets, metavar="FILE", help="JSON, {case: ratio}: shown beside the ratios")
    parser.add_argument("--out", type=_folder, metavar="DIR", help="write results.json, results.md and pictures there")
    parser.add_argument(
        "--compare",
        nargs=2,
        type=_results,
        metavar=("A.json", "B.json"),
        help="measure nothing: what changed from A to B",
    )


def _part(name: str) -> str:
    if name not in PARTS and name != "all":
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(PARTS)}, all; got {name!r}")
    return name


def _backend(name: str) -> str:
    try:
        return _name(get_backend(name))
    except (ValueError, RuntimeError, ImportError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _name(backend: ModuleType) -> str:
    """Of a backend, in names of contenders; that of its module, for "auto" is none."""
    return backend.__name__.rpartition(".")[2]


def _targets(text: str) -> dict[str, float]:
    try:
        targets = json.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be read as JSON: {error}") from error
    if not isinstance(targets, dict) or not all(isinstance(value, int | float) for value in targets.values()):
        raise argparse.ArgumentTypeError(f"{text} must hold one object, with a number for each case")
    return targets


def _folder(text: str) -> Path:
    """The folder, made if it is not there: what was measured in an hour must find its place."""
    folder = Path(text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"no folder can be made there: {error}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written to")
    return folder


def _results(text: str) -> Results:
    try:
        return Results.read(Path(text))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return value


def _threads(text: str) -> int:
    value = _positive(text)
    if value > cores():  # threads that spin for each other would take forever
        raise argparse.ArgumentTypeError(f"must be at most {cores()}, the cores that may be used; got {text!r}")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 4 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"must be four positive integers B,T,I,H, got {text!r}")
    return sizes


def run(args: argparse.Namespace) -> int:
    """Measures, prints, writes; or compares two files. 1 where a contender failed, else 0.

    Raises:
        OSError: a file cannot be written. RuntimeError: a process that measures ended.
    """
    if args.compare:
        changes = compare(*args.compare)
        print(report.plain(changes) if changes.rows else "the two files have no contender in a case in common")
        return 0
    names = list(PARTS) if "all" in args.parts else args.parts or ["layers"]
    usual = QUICK if args.quick else THOROUGH
    settings = Settings(args.rounds or int(usual["rounds"]), args.seconds or usual["seconds"], args.threads or cores())
    results = measure(names, settings, args)
    targets = args.targets or {}
    tables = [report.plain(table) for table in report.tables(results, targets)]
    print("\n\n".join([*tables, "\n".join(report.about(results))]))
    if args.out:
        _write(results, targets, args.out)
    return 1 if any(case.failed for case in results.cases) else 0


def measure(names: list[str], settings: Settings, args: argparse.Namespace) -> Results:
    """Runs the named parts."""
    begin = time.perf_counter()
    results = Results(machine.describe() | settings._asdict())
    results.about["command"] = shlex.join(["fastrnn", *sys.argv[1:]])
    if "layers" in names:
        results.about["bandwidth"] = machine.bandwidth(settings.threads)
    ours = args.backend or [_name(get_backend())]
    if not args.backend and available_backends()["cuda"] is None:
        ours.append("cuda")
    progress = Progress()
    with Team(settings, progress) as team, progress:
        team.available(f"fastrnn-{name}" for name in available_backends())  # why some are missing is told
        choice = Choice(
            ours=tuple(dict.fromkeys(f"fastrnn-{name}" for name in ours)),
            peers=tuple(team.available(name for name in args.peer or PEERS if name != "none")),
            cells=tuple(args.cell or GATES),
            modes=tuple(args.mode or MODES),
            dtype=args.dtype,
            shapes=tuple(args.shape or ()),
        )
        plans = [plan for name in names for plan in PARTS[name](team, choice)]
        progress.total = len(plans)
        for plan in plans:
            case = plan()
            results.cases.append(case)
            results.skipped = team.skipped
            results.about["versions"] |= team.all_versions()
            results.about["took"] = time.perf_counter() - begin
            progress.case(_line(case))
            if args.out:  # a run that is broken off leaves what it has
                results.write(args.out / "results.json")
    return results


def _line(case: Case) -> str:
    """A case in one line, for the time until all is done."""
    best = case.best_peer()
    told = [f"{who} {report.amount(case.value(who), case.unit)}" for who in (case.base, best) if who in case.rounds]
    if best is not None and case.base in case.rounds:
        told.append(report.times(case.ratio(best)))
    return f"{case.part}: {case.name}: {', '.join([*told, *case.failed.values()])}"


def _write(results: Results, targets: dict[str, float], folder: Path) -> None:
    from fastrnn.bench import charts

    try:
        pictures = [path.name for path in charts.draw(results, folder)]
    except ImportError:
        print("no pictures: matplotlib is not installed")
        pictures = []
    with replacing(folder / "results.md") as temporary:
        temporary.write_text(report.document(results, targets, pictures), encoding="utf-8")
    print(f"wrote {', '.join(str(folder / name) for name in ('results.json', 'results.md', *pictures))}")
