"""What was measured, as it is written and read again; everything that a table says is computed from it."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fastrnn.bench.peers import PEERS
from fastrnn.io.atomic import replacing

FORMAT = 1


class Ratio(NamedTuple):
    """A median and its range."""

    median: float
    low: float
    high: float


@dataclass
class Case:
    """One comparison: what a call took, for everyone who took part.

    Attributes:
        part: what it belongs to, as "layers".
        name: unique within its part.
        labels: what it is about, for tables and charts: cell, mode, shape and so on.
        base: whose line the others are compared with.
        unit: "s" or "bytes".
        rounds: by contender, a value for each round: the median of the calls in it.
        tails: where it matters, likewise: the value that 99 of 100 calls in the round stay below, and the largest.
        operations, bytes: of a call, at least; None where nobody counted.
        peak: operations per second that the machine can do, measured in the same rounds.
        errors: the largest relative error of each against the reference in float64.
        prepare: seconds until each one's first result.
        failed: why someone who should have taken part did not.
    """

    part: str
    name: str
    labels: dict[str, Any]
    base: str
    unit: str = "s"
    rounds: dict[str, list[float]] = field(default_factory=dict)
    tails: dict[str, list[list[float]]] = field(default_factory=dict)
    operations: int | None = None
    bytes: int | None = None
    peak: list[float] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    prepare: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def value(self, who: str) -> float:
        """The median of a contender's rounds."""
        return statistics.median(self.rounds[who])

    def ratio(self, who: str, to: str | None = None) -> Ratio:
        """How many times as much as `to`, the base if None, `who` takes; taken within the rounds."""
        ratios = [a / b for a, b in zip(self.rounds[who], self.rounds[to or self.base], strict=True)]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))

    def best_peer(self) -> str | None:
        """The fastest of those that are not this package."""
        return min((who for who in self.rounds if who in PEERS), key=self.value, default=None)

    def rate(self, who: str) -> float | None:
        """Operations per second."""
        return None if self.operations is None else self.operations / self.value(who)

    def share_of_peak(self, who: str) -> float | None:
        if self.operations is None or not self.peak:
            return None
        return statistics.median(
            self.operations / seconds / peak for seconds, peak in zip(self.rounds[who], self.peak, strict=True)
        )

    def disturbed(self) -> int:
        """The rounds in which the machine was busy with something else: its peak fell by more than a tenth."""
        return sum(value < 0.9 * statistics.median(self.peak) for value in self.peak)

    def floor(self) -> float | None:
        """The seconds that the operations take at the peak: nobody can be faster."""
        return self.operations / statistics.median(self.peak) if self.operations is not None and self.peak else None


@dataclass
class Results:
    """A run: where, when and how it was measured, and its cases.

    Attributes:
        about: machine, date, command, settings, versions.
        cases: in the order in which they were measured.
        skipped: contenders that could not take part, and why.
    """

    about: dict[str, Any]
    cases: list[Case] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def part(self, name: str) -> list[Case]:
        return [case for case in self.cases if case.part == name]

    def write(self, path: Path) -> None:
        """Writes JSON, whole or not at all."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"
        with replacing(path) as temporary:
            temporary.write_text(text)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises ValueError where the file is no results file."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise KeyError("format")
            results = cls(values["about"], [Case(**case) for case in values["cases"]], values["skipped"])
            for name in ("versions", "processor", "threads", "date"):
                results.about[name]
            for case in results.cases:
                for who in case.rounds:
                    case.value(who)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is not a results file of `fastrnn bench`, format {FORMAT}: {error}") from error
        return results
