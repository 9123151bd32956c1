"""Results as tables that a person can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastrnn.bench.results import Case, Ratio, Results


def milliseconds(seconds: float | None) -> str:
    """Three digits."""
    return "" if seconds is None else f"{1e3 * seconds:#.3g}".rstrip(".")


def times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def spread(ratio: Ratio) -> str:
    return f"{times(ratio.median)} ({times(ratio.low)}-{times(ratio.high)})"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"


def gigaflops(rate: float | None) -> str:
    return "" if rate is None else f"{rate / 1e9:.1f}"


def layer_row(case: Case, targets: Mapping[str, float]) -> list[str]:
    """One line of the kernel table."""
    labels = case.labels
    row = [labels["cell"], labels["mode"], ",".join(map(str, labels["shape"]))]
    if case.base not in case.rounds:
        return [*row, "failed"]
    best = case.best_peer()
    target = targets.get(case.name)
    row += [milliseconds(case.seconds(case.base))]
    if best is None:
        row += ["", "", "", ""]
    else:
        ratio = case.ratio(best)
        row += [best, milliseconds(case.seconds(best)), spread(ratio)]
        row += ["" if target is None else f"{target:g}{'' if ratio.median >= target else ' MISSED'}"]
    row += [gigaflops(case.rate(case.base)), percent(case.share_of_peak(case.base)), milliseconds(case.floor())]
    row += [f"{case.bytes / 1e6:.2f}" if case.bytes else ""]
    others = [who for who in case.rounds if who not in (case.base, best)]
    return [*row, "  ".join(f"{who} {times(case.ratio(who).median)}x" for who in others)]


LAYER_HEAD = [
    "cell",
    "mode",
    "B,T,I,H",
    "ours ms",
    "best peer",
    "ms",
    "times as long",
    "target",
    "GFLOP/s",
    "of peak",
    "floor ms",
    "MB",
    "the others, times as long",
]


def layers(results: Results, targets: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the kernel table."""
    return LAYER_HEAD, [layer_row(case, targets) for case in results.part("layers")]


def plain(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in columns; what is numeric stands to the right."""
    table = [list(head), *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    widths = [max(len(row[k]) for row in table) for k in range(len(head))]
    right = [all(not row[k] or row[k][0].isdigit() for row in table[1:]) for k in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, right, strict=True)
        return "  ".join(cell.rjust(width) if r else cell.ljust(width) for cell, width, r in cells).rstrip()

    return "\n".join([line(table[0]), line(["-" * width for width in widths]), *map(line, table[1:])])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as a table in Markdown."""
    lines = [head, ["---"] * len(head), *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def about(results: Results) -> str:
    """Machine, date, versions and command, in some lines."""
    info = results.about
    versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    lines = [
        f"{info['processor']}, {info['cores']} cores, {info['threads']} threads each, instruction set "
        f"{info['instruction_set'] or 'unknown'}; {info['date']}",
        f"{versions}",
        f"{info['rounds']} rounds of {info['seconds']} s each; command: {info['command']}",
    ]
    lines += [f"{name} took no part: {reason}" for name, reason in results.skipped.items()]
    for case in results.cases:
        lines += [f"FAILED: {case.name}: {reason}" for reason in case.failed.values()]
    return "\n".join(lines)
