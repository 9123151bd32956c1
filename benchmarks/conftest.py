"""`pytest benchmarks --benchmark-only`: what `fastrnn bench` measures, in pytest-benchmark's tables and files.

A test is one contender in one case. The first test of a case measures all of its contenders that were selected, each in
a process of its own, in interleaved rounds (fastrnn/bench/rounds.py); every test then plays its contender's rounds to
pytest-benchmark, whose clock here is one that the rounds move. So `--benchmark-json`, `--benchmark-compare` and the
rest work as always, on numbers that were taken side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastrnn.backends.threads import cores
from fastrnn.bench import machine, report
from fastrnn.bench.parts import Choice, Plan
from fastrnn.bench.peers import contenders, reason_missing
from fastrnn.bench.progress import Progress
from fastrnn.bench.results import Case, Results
from fastrnn.bench.team import Settings, Team

SHORT, FULL = (5, 0.1), (7, 0.15)

Measure = Callable[[Callable[[Team, Choice], Plan]], None]


class Clock:
    """The timer that pytest-benchmark reads: it stands still but for the rounds that are played."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()
MEASURED = pytest.StashKey[Results]()
SELECTED = pytest.StashKey[dict[Any, list[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="every case, in more and longer rounds")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names, values = metafunc.module.parameters(metafunc.config.getoption("full"))
    ids = ["-".join(map(_text, value)) for value in values]
    if not values:
        values = [pytest.param(*names, marks=pytest.mark.skip("with --full only"))]
        ids = ["full"]
    metafunc.parametrize(names, values, ids=ids)


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _key(item: Any) -> Any:
    """What the tests of one case have in common."""
    return item.originalname, *(value for name, value in item.callspec.params.items() if name != "contender")


def pytest_collection_finish(session: pytest.Session) -> None:
    selected: dict[Any, list[str]] = {}
    for item in session.items:
        if hasattr(item, "callspec"):
            selected.setdefault(_key(item), []).append(item.callspec.params["contender"])
    session.config.stash[SELECTED] = selected


def pytest_itemcollected(item: Any) -> None:
    # one that failed is told as that alone
    item.add_marker(pytest.mark.filterwarnings("ignore:Benchmark fixture was not used"))
    item.add_marker(pytest.mark.benchmark(timer=CLOCK, group=" ".join(map(_text, _key(item)))))


@pytest.fixture(scope="session")
def team(pytestconfig: pytest.Config) -> Iterator[Team]:
    settings = Settings(*(FULL if pytestconfig.getoption("full") else SHORT), cores())
    results = Results(machine.describe() | settings._asdict() | {"command": "pytest benchmarks --benchmark-only"})
    with Team(settings, Progress()) as made:
        yield made
        results.about["versions"] |= made.all_versions()
    results.cases = list(_cases.values())
    pytestconfig.stash[MEASURED] = results


_cases: dict[Any, Case] = {}


@pytest.fixture
def measure(request: pytest.FixtureRequest, benchmark: Any, team: Team, pytestconfig: pytest.Config) -> Measure:
    """Measures the plan of the test's case, once, and gives pytest-benchmark what the test's contender took."""

    def measured(make: Callable[[Team, Choice], Plan]) -> None:
        key, who = _key(request.node), request.node.callspec.params["contender"]
        if (reason := reason_missing(who)) is not None:
            pytest.skip(f"{who}: {reason}")
        if key not in _cases:
            names = [name for name in pytestconfig.stash[SELECTED][key] if reason_missing(name) is None]
            ours = tuple(name for name in names if contenders()[name].module == "on_fastrnn")
            _cases[key] = make(team, Choice(ours, tuple(name for name in names if name not in ours)))()
        case = _cases[key]
        assert who not in case.failed, case.failed[who]
        _play(benchmark, case, who)
        benchmark.extra_info.update(_facts(case, who, team))

    return measured


def _play(benchmark: Any, case: Case, who: str) -> None:
    rounds = iter(case.rounds[who])

    def one() -> None:
        CLOCK.now += next(rounds)

    benchmark.pedantic(one, rounds=len(case.rounds[who]), iterations=1)


def _facts(case: Case, who: str, team: Team) -> dict[str, Any]:
    rate = case.rate(who)
    return {
        "contender": contenders()[who].title,
        "versions": team.versions[who],
        "relative_error": case.errors.get(who),
        "prepare_seconds": case.prepare.get(who),
        "operations": case.operations,
        "bytes": case.bytes,
        "gflops": None if rate is None else rate / 1e9,
        "share_of_peak": case.share_of_peak(who),
        f"times_{case.base}": list(case.ratio(who)) if case.base in case.rounds else None,
        "threads": team.settings.threads,
        "instruction_set": machine.instruction_set(),
        "processor": machine.processor(),
        "gpus": machine.gpus(),
    }


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    results = config.stash.get(MEASURED, None)
    if results is not None and results.cases:
        terminalreporter.section("side by side: medians, and ratios taken within the rounds, with their range")
        for table in report.tables(results):
            terminalreporter.write_line(f"{report.plain(table)}\n")
        for line in report.about(results):
            terminalreporter.write_line(line)
