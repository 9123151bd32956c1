"""Results as tables that a person can read, in plain text and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

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
    return matrix(TITLES[name], results.part(name), _value_and_ratio)


def _error(case: Case, who: str) -> str:
    return f"{case.errors[who]:.0e}" if who in case.errors else ""


def _value_and_ratio(case: Case, who: str) -> str:
    value = amount(case.value(who), case.unit)
    return value if who == case.base or case.base not in case.rounds else f"{value}, {times(case.ratio(who))}"


def _tail(case: Case, who: str) -> str:
    p99 = sorted(pair[0] for pair in case.tails[who])[len(case.tails[who]) // 2]
    longest = max(pair[1] for pair in case.tails[who])
    return " / ".join(digits(1e6 * value) for value in (case.value(who), p99, longest))


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
    "latency": "One time step of one sequence, as data arrives: median, and times as long",
    "steps": "One step of training a model of the chapter, fit loop included: ms, and times as long",
    "startup": "From the start of a process to the first training step",
    "memory": "Training over 1000 steps: memory beyond that of the process before; the reserve, beside the output",
    "options": "What options cost in training",
    "types": "float64 against float32, in training",
    "instruction_sets": "Instruction sets, in training",
    "threads": "Threads, in training",
    "scaling": "Time of training against one size at a time; of fit against the samples, per step",
}


def tables(results: Results, targets: Mapping[str, float] | None = None) -> list[Table]:
    """All that the results have."""
    found = layers(results, targets or {}) if results.part("layers") else []
    if latency := results.part("latency"):
        title = "One time step of one sequence: microseconds, median / 99 of 100 stay below / longest"
        found.append(matrix(title, latency, _tail))
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
        f"{info['rounds']} interleaved rounds of {info['seconds']:g} s for each contender; `{info['command']}`",
    ]
    if info.get("bandwidth"):
        lines.append(f"memory: {info['bandwidth'] / 1e9:.1f} GB/s, copying")
    if disturbed := sum(case.disturbed() for case in results.cases):
        rounds = sum(len(case.peak) for case in results.cases)
        lines.append(f"something else ran: the FMA peak fell by more than a tenth in {disturbed} of {rounds} rounds")
    lines += [f"{name} took no part: {reason}" for name, reason in results.skipped.items()]
    for case in results.cases:
        lines += [f"FAILED: {case.part}, {case.name}: {reason}" for reason in case.failed.values()]
    return lines


def document(results: Results, targets: Mapping[str, float] | None = None, pictures: Sequence[str] = ()) -> str:
    """All of it in Markdown."""
    parts = ["# Measured by `fastrnn bench`", "\n".join(f"- {line}" for line in about(results))]
    for table in tables(results, targets):
        parts += [f"## {table.title}", markdown(table)]
    parts += [f"![{name}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"
