"""How the time grows with one size, beside how it should: exponents, lines of slope 1 on two logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from fastrnn.bench.results import Case

# label of a case: the exponent of time that work is bound to have, at least and at most. A step is a product with two
# matrices of H units, and what is done to each unit.
EXPECTED = {"H": (1, 2), "T": (1, 1), "B": (1, 1), "samples": (1, 1)}


class Sweep(NamedTuple):
    """Cases that differ in one size only, in its order.

    Attributes:
        what: all of them, as "lstm train", the cell first; axis: one of EXPECTED.
    """

    what: str
    axis: str
    cases: list[Case]

    @property
    def sizes(self) -> list[int]:
        return [int(case.labels[self.axis]) for case in self.cases]

    @property
    def cell(self) -> str:
        return self.what.split()[0]

    def points(self, who: str) -> list[tuple[int, float]]:
        """Sizes and seconds of a contender."""
        return [(int(case.labels[self.axis]), case.value(who)) for case in self.cases if who in case.rounds]

    def exponents(self, who: str) -> tuple[float, float] | None:
        """Of all sizes, and between the last two; None for a contender with fewer.

        Sizes are measured one after another, while the machine's speed drifts; where its peak was measured in the same
        rounds, time counts in operations that could have been done in it.
        """
        points = []
        for case in self.cases:
            if who in case.rounds:
                share = case.share_of_peak(who)
                took = case.value(who) if share is None or case.operations is None else case.operations / share
                points.append((int(case.labels[self.axis]), took))
        return (exponent(points), exponent(points[-2:])) if len(points) > 1 else None

    @property
    def fixed(self) -> str:
        """The sizes that stay, for titles."""
        labels = self.cases[0].labels
        if "shape" not in labels:
            return f"{labels['units']} units"
        sizes = dict(zip("BTIH", labels["shape"], strict=True))
        if self.axis == "H":
            return f"B {sizes['B']}, T {sizes['T']}, I = H"
        return ", ".join(f"{name} {size}" for name, size in sizes.items() if name != self.axis)


def sweeps(cases: Sequence[Case]) -> list[Sweep]:
    """The sweeps among the cases, those with one size left out."""
    found: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        for axis in EXPECTED:
            if axis in case.labels:
                labels = case.labels
                what = f"{labels['model']} fit" if axis == "samples" else f"{labels['cell']} {labels['mode']}"
                found.setdefault((what, axis), []).append(case)
    return [
        Sweep(what, axis, sorted(members, key=lambda case: int(case.labels[axis])))
        for (what, axis), members in found.items()
        if len(members) > 1
    ]


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """p of seconds = a size^p: the slope of the line through the logarithms with the least squares."""
    logs = [(math.log(size), math.log(seconds)) for size, seconds in points]
    middle = [sum(values) / len(logs) for values in zip(*logs, strict=True)]
    together = math.fsum((x - middle[0]) * (y - middle[1]) for x, y in logs)
    return together / math.fsum((x - middle[0]) ** 2 for x, _ in logs)
