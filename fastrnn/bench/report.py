"""Results as tables that a person can read, in plain text and in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from fastrnn.bench.growth import EXPECTED, sweeps
from fastrnn.bench.peers import PEERS
from fastrnn.bench.results import Case, Ratio, Results


class Table(NamedTuple):
    """Rows may be shorter than the head."""

    title: str
    head: list[str]
    rows: list[list[str]]


# -- numbers ----------------------------------------------------------------------------------


def digits(value: float) -> str:
    """Three of them, without an exponent."""
    if value >= 100 or value == 0:
        return f"{value:.0f}"
    decimals = 2
    while value < 10 ** (2 - decimals) and decimals < 6:
        decimals += 1
    return f"{value:.{1 if value >= 10 else decimals}f}"


def amount(value: float, unit: str) -> str:
    """Seconds as µs, ms or s, bytes as MB."""
    if unit == "bytes":
        return f"{digits(value / 1e6)} MB"
    if value < 1e-4:
        return f"{digits(1e6 * value)} µs"
    return f"{digits(value)} s" if value >= 1 else f"{digits(1e3 * value)} ms"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def times(ratio: Ratio) -> str:
    """The median, and in brackets the range over the rounds."""
    median, low, high = map(digits, ratio)
    return f"{median}x" if low == high else f"{median}x ({low}-{high})"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"


# -- tables -----------------------------------------------------------------------------------

LAYER_HEAD = [
    "cell",
    "mode",
    "B,T,I,H",
    "ours ms",
    "best peer",
    "ms",
    "ours times as fast",
    "target",
    "GFLOP/s",
    "of peak",
    "floor ms",
    "MB",
    "the others, times as long",
]


def layer_row(case: Case, targets: Mapping[str, float]) -> list[str]:
    """One line of the layers' table: this package, the best of the others, how far both are from the floor."""
    labels, base = case.labels, case.base
    row = [labels["cell"], labels["mode"], ",".join(map(str, labels["shape"]))]
    if base not in case.rounds:
        return [*row, "failed"]
    best, target = case.best_peer(), targets.get(case.name)
    row.append(digits(1e3 * case.value(base)))
    if best is None:
        row += [""] * 4
    else:
        ratio = case.ratio(best)
        missed = " missed" if target is not None and ratio.median < target else ""
        row += [best, digits(1e3 * case.value(best)), times(ratio), "" if target is None else f"{target:g}{missed}"]
    rate, floor = case.rate(base), case.floor()
    row += ["" if rate is None else digits(rate / 1e9), percent(case.share_of_peak(base))]
    row += ["" if floor is None else digits(1e3 * floor), "" if case.bytes is None else digits(case.bytes / 1e6)]
    others = [who for who in case.rounds if who not in (base, best)]
    return [*row, "  ".join(f"{who} {digits(case.ratio(who).median)}" for who in others)]


def layers(results: Results, targets: Mapping[str, float]) -> list[Table]:
    cases = results.part("layers")
    head, rows = list(LAYER_HEAD), [layer_row(case, targets) for case in cases]
    if not any(case.name in targets for case in cases):
        column = head.index("target")
        head, rows = head[:column] + head[column + 1 :], [row[:column] + row[column + 1 :] for row in rows]
    return [
        Table("One layer over a batch of sequences, every contender at its best", head, rows),
        matrix("The largest relative error against the reference in float64", cases, _error),
        matrix("Seconds until the first result, building and compiling, outside all other figures", cases, _prepare),
    ]


def summary(results: Results) -> Table:
    """The layers in short: a row for each shape; this package's time, and the best peer's as a multiple of it."""
    kinds: dict[str, None] = {}
    shapes: dict[str, dict[str, str]] = {}
    for case in results.part("layers"):
        labels = case.labels
        kind, best = f"{labels['cell'].upper()} {labels['mode']}", case.best_peer()
        text = amount(case.value(case.base), case.unit) if case.base in case.rounds else "failed"
        if best is not None and case.base in case.rounds:
            text += f"; {PEERS[best].title} {times(case.ratio(best))}"
        kinds[kind] = None
        shapes.setdefault(",".join(map(str, labels["shape"])), {})[kind] = text
    rows = [[shape, *(row.get(kind, "") for kind in kinds)] for shape, row in shapes.items()]
    return Table(
        "One layer: fastrnn's time; its best peer, and how many times as long it takes", ["B,T,I,H", *kinds], rows
    )


def part(results: Results, name: str) -> Table:
    """The table of any part but the layers: medians, and ratios to the base."""
    return matrix(TITLES[name], results.part(name), _CELLS.get(name, _value_and_ratio))


def accuracy(results: Results) -> Table:
    """The worst error of each contender in each kind of layer."""
    cases = results.part("layers")
    who = list(dict.fromkeys(name for case in cases for name in case.errors))
    kinds: dict[str, list[Case]] = {}
    for case in cases:
        kinds.setdefault(f"{case.labels['cell'].upper()} {case.labels['mode']}", []).append(case)
    rows = []
    for kind, members in kinds.items():
        worst = [max(case.errors.get(name, -1.0) for case in members) for name in who]
        rows.append([kind, *("" if error < 0 else f"{error:.0e}" for error in worst)])
    title = "The largest error of any output or gradient over all shapes, relative to the array's largest number"
    return Table(f"{title}, against the reference in float64", ["", *who], rows)


def growth(results: Results) -> Table:
    """Sweep by sweep, how the time should grow, and how each contender's does."""
    found = sweeps(results.part("scaling"))
    who = list(dict.fromkeys(name for sweep in found for case in sweep.cases for name in case.rounds))
    rows = []
    for sweep in found:
        low, high = EXPECTED[sweep.axis]
        first, *_, last = sweep.sizes
        row = [f"{sweep.what}, {sweep.axis} {first} to {last} ({sweep.fixed})"]
        row.append(str(low) if low == high else f"{low} to {high}")
        for name in who:
            row.append(" / ".join(f"{power:.2f}" for power in sweep.exponents(name) or ()))
        rows.append(row)
    title = "How time grows: p of size^p, over all sizes / between the last two; 1 is linear, 2 quadratic"
    return Table(title, ["", "as it should, at the end", *who], rows)


def short(results: Results, name: str) -> Table:
    """The one table that says what a part has found; "accuracy" is of the layers."""
    made = {"layers": summary, "accuracy": accuracy, "scaling": growth}
    return made[name](results) if name in made else part(results, name)


def _error(case: Case, who: str) -> str:
    return f"{case.errors[who]:.0e}" if who in case.errors else ""


def _prepare(case: Case, who: str) -> str:
    return digits(case.prepare[who]) if who in case.prepare else ""


def _value_and_ratio(case: Case, who: str) -> str:
    value = amount(case.value(who), case.unit)
    if who != case.base:
        return f"{value}, {times(case.ratio(who))}" if case.base in case.rounds else value
    share = case.share_of_peak(who)
    return value if share is None else f"{value}, {percent(share)} of the FMA peak"


def _tail(case: Case, who: str) -> str:
    p99 = statistics.median(pair[0] for pair in case.tails[who])
    longest = max(pair[1] for pair in case.tails[who])
    text = " / ".join(digits(1e6 * value) for value in (case.value(who), p99, longest))
    # how far single calls spread says more than the range of medians
    return text if who == case.base or case.base not in case.rounds else f"{text}, {digits(case.ratio(who).median)}x"


def _speedup(case: Case, who: str) -> str:
    """Labels are "N threads"."""
    text = amount(case.value(who), case.unit)
    if who == case.base or case.base not in case.rounds:
        return text
    slower, number = case.ratio(who), int(who.split()[0])
    faster = Ratio(1 / slower.median, 1 / slower.high, 1 / slower.low)
    return f"{text}, {times(faster)}, {percent(faster.median / number)}"


# what a cell says, where it is not a median and a ratio
_CELLS = {"latency": _tail, "threads": _speedup}


def matrix(title: str, cases: Sequence[Case], cell: Callable[[Case, str], str]) -> Table:
    """A row for each case, a column for each contender."""
    who = list(dict.fromkeys(name for case in cases for name in (*case.rounds, *case.failed)))
    rows = [
        [
            case.name,
            *("failed" if name in case.failed else cell(case, name) if name in case.rounds else "" for name in who),
        ]
        for case in cases
    ]
    return Table(title, ["", *who], rows)


TITLES = {
    "latency": "One time step of one sequence, as data arrives: µs, median / 99 of 100 stay below / longest, and times "
    "as long",
    "steps": "One step of training a model of the chapter, fit loop included: ms, and times as long",
    "startup": "From the start of a process to the first training step",
    "memory": "Training over 1000 time steps: the most memory beyond what the process held before",
    "options": "What options cost in training",
    "types": "float64 against float32, in training",
    "instruction_sets": "Instruction sets, in training",
    "threads": "Threads, in training: time, times as fast as one thread, and that as a share of the ideal",
    "scaling": "Time of training against one size at a time; of fit, once through all samples",
}


def tables(results: Results, targets: Mapping[str, float] | None = None) -> list[Table]:
    """All that the results have."""
    found = layers(results, targets or {}) if results.part("layers") else []
    if results.part("scaling"):
        found.append(growth(results))
    return found + [part(results, name) for name in TITLES if results.part(name)]


def plain(table: Table) -> str:
    """In columns; numbers stand to the right."""
    rows = [table.head, *([*row, *[""] * (len(table.head) - len(row))] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [k > 0 and all(not row[k] or row[k][0].isdigit() for row in rows[1:]) for k in range(len(widths))]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, right, strict=True)
        return "  ".join(cell.rjust(width) if r else cell.ljust(width) for cell, width, r in cells).rstrip()

    return "\n".join(
        [f"== {table.title}", line(rows[0]), line(["-" * width for width in widths]), *map(line, rows[1:])]
    )


def markdown(table: Table) -> str:
    """As a table in Markdown, without the title."""
    rows = [
        table.head,
        ["---"] * len(table.head),
        *([*row, *[""] * (len(table.head) - len(row))] for row in table.rows),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def about(results: Results) -> list[str]:
    """Machine, date, versions, command; who took no part, and who failed; a line each."""
    info = results.about
    versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    lines = [
        f"{info['processor']}, {info['system']}, {info['cores']} cores; {info['threads']} threads for everyone, "
        f"instruction set {info['instruction_set'] or 'unknown'}; {info['date']}",
        versions,
        f"{info['rounds']} interleaved rounds{_round(results)} for each contender; `{info['command']}`"
        + (f", {_duration(info['took'])}" if "took" in info else ""),
    ]
    if info.get("gpus"):
        lines.insert(1, ", ".join(info["gpus"]))
    if info.get("bandwidth"):
        lines.append(f"memory: {info['bandwidth'] / 1e9:.1f} GB/s, copying")
    if disturbed := sum(case.disturbed() for case in results.cases):
        rounds = sum(len(case.peak) for case in results.cases)
        lines.append(f"something else ran: the FMA peak fell by more than a tenth in {disturbed} of {rounds} rounds")
    lines += [f"{name} took no part: {reason}" for name, reason in results.skipped.items()]
    for case in results.cases:
        lines += [f"FAILED: {case.part}, {case.name}: {reason}" for reason in case.failed.values()]
    return lines


def _round(results: Results) -> str:
    """What one is."""
    if all(case.part in ("startup", "memory") for case in results.cases):
        return " of a new process"
    return f" of {results.about['seconds']:g} s"


def document(results: Results, targets: Mapping[str, float] | None = None, pictures: Sequence[str] = ()) -> str:
    """All of it in Markdown."""
    parts = ["# Measured by `fastrnn bench`", "\n".join(f"- {line}" for line in about(results))]
    for table in tables(results, targets):
        parts += [f"## {table.title}", markdown(table)]
    parts += [f"![{name}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"
