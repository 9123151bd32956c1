"""`fastrnn bench`: its options, and a run from start to end."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from fastrnn.backends import available_backends
from fastrnn.bench import machine, parts, report
from fastrnn.bench.layer import GATES, MODES, SHAPES
from fastrnn.bench.peers import PEERS
from fastrnn.bench.progress import Progress
from fastrnn.bench.results import Results
from fastrnn.bench.team import Settings, Team

QUICK_ROUNDS, QUICK_SECONDS = 3, 0.03


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastrnn bench`."""
    parser.add_argument("part", nargs="?", default="layers", choices=["layers"], help="what to measure; default: layers")
    parser.add_argument("--cell", action="append", choices=list(GATES), help="only this cell; may be repeated")
    parser.add_argument("--mode", action="append", choices=list(MODES), help="only this mode; may be repeated")
    parser.add_argument("--shape", action="append", type=_shape, metavar="B,T,I,H", help="this shape; may be repeated")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default: float32")
    parser.add_argument(
        "--backend", action="append", metavar="NAME", help="of this package, the first is compared; default: the fastest"
    )
    parser.add_argument("--peer", action="append", choices=[*PEERS, "none"], help="only this one; may be repeated")
    parser.add_argument("--threads", type=int, metavar="N", help="for everyone; default: all cores")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default: 7")
    parser.add_argument("--seconds", type=float, default=0.15, metavar="S", help="each in a round; default: 0.15")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds of {QUICK_SECONDS} s: a rough look")
    parser.add_argument("--targets", type=Path, metavar="FILE", help="JSON, {case: ratio}, to show in the table")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write results.json and results.md there")


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 4 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"must be four positive integers B,T,I,H, got {text!r}")
    return sizes


def run(args: argparse.Namespace) -> int:
    """Measures, prints, writes. 1 where a contender failed."""
    if args.quick:
        args.rounds, args.seconds = QUICK_ROUNDS, QUICK_SECONDS
    threads = args.threads or machine.cores()
    targets = json.loads(args.targets.read_text()) if args.targets else {}
    fastest = next(name for name, reason in available_backends().items() if reason is None)
    ours = [f"fastrnn-{name}" for name in args.backend or [fastest]]
    peers = [name for name in args.peer or PEERS if name != "none"]
    cells, modes, shapes = args.cell or list(GATES), args.mode or list(MODES), args.shape or list(SHAPES)
    results = Results(about=machine.describe())
    results.about |= {"threads": threads, "rounds": args.rounds, "seconds": args.seconds}
    results.about["command"] = shlex.join(["fastrnn", *sys.argv[1:]])

    progress = Progress(len(cells) * len(modes) * len(shapes))
    with progress, Team(Settings(args.rounds, args.seconds, threads), progress) as team:
        who = team.available(ours + peers)
        if not who or not who[0].startswith("fastrnn"):
            raise RuntimeError(f"nothing to compare with: {team.skipped}")
        for case in parts.layer_cases(team, cells, modes, shapes, args.dtype, who):
            results.cases.append(case)
            progress.case("  ".join(report.layer_row(case, targets)))
        results.skipped = team.skipped
        for versions in team.versions.values():
            for text in versions.split(", "):
                name, _, version = text.rpartition(" ")
                results.about["versions"][name] = version

    table = report.layers(results, targets)
    print(f"\n{report.plain(*table)}\n\n{report.about(results)}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        results.write(args.out / "results.json")
    return 1 if any(case.failed for case in results.cases) else 0
