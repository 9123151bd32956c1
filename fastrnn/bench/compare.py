"""Two runs side by side: what became faster, what slower, and what is no more than noise."""

from __future__ import annotations

import statistics

from fastrnn.bench.report import Table, amount
from fastrnn.bench.results import Results

# below this no change is told from noise, however steady both runs were: the speed of machines drifts
DRIFT = 0.03


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def verdict(before: list[float], after: list[float]) -> str:
    """ "within noise" where the middle halves of the rounds overlap or the medians are close, else "less" or "more"."""
    change = statistics.median(after) / statistics.median(before)
    (low_before, high_before), (low_after, high_after) = _quartiles(before), _quartiles(after)
    if abs(change - 1) <= DRIFT or (low_before <= high_after and low_after <= high_before):
        return "within noise"
    return "less" if change < 1 else "more"


def _run(results: Results) -> str:
    info = results.about
    return f"fastrnn {info['versions']['fastrnn']}, {info['processor']}, {info['threads']} threads, {info['date']}"


def compare(before: Results, after: Results) -> Table:
    """A row for each case and contender that both runs have; first this package, as the others tell how far the machine
    itself changed."""
    rows = []
    others = {(case.part, case.name): case for case in before.cases}
    for case in after.cases:
        old = others.get((case.part, case.name))
        if old is None:
            continue
        for who in case.rounds:
            if who in old.rounds:
                a, b = old.rounds[who], case.rounds[who]
                change = 100 * (case.value(who) / old.value(who) - 1)
                values = amount(old.value(who), case.unit), amount(case.value(who), case.unit)
                rows.append([case.part, case.name, who, *values, f"{change:+.0f}%", verdict(a, b)])
    rows.sort(key=lambda row: not row[2].startswith("fastrnn"))
    title = f"What changed from {_run(before)} to {_run(after)}"
    return Table(title, ["part", "case", "who", "before", "after", "change", ""], rows)
