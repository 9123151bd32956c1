"""Results as pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastrnn.bench.growth import EXPECTED, Sweep, sweeps
from fastrnn.bench.peers import contenders
from fastrnn.bench.results import Case, Results
from fastrnn.io.atomic import replacing

COLORS = {
    "torch": "#d1651f",
    "torch-cuda": "#7a3b12",
    "jax": "#7a52a8",
    "keras": "#b8860b",
    "keras-jit": "#5f8a3c",
    "keras-jax": "#a0527f",
    "onnxruntime": "#3c8f8f",
}
OURS = ("#1f6fb4", "#6aaed6", "#0b3c66", "#9bb8cf")


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws every picture that the results have the numbers for, into the folder; gives their paths.

    Raises:
        ImportError: where matplotlib is not installed. OSError: where a file cannot be written.
    """
    pictures = {
        "layers.png": _bars(results, "layers", panels=("cell", "mode")),
        "steps.png": _bars(results, "steps", panels=()),
        "sizes.png": _curves(results, ("H",)),
        "growth.png": _curves(results, ("T", "B", "samples")),
        "roofline.png": _roofline(results),
    }
    paths = []
    for name, figure in pictures.items():
        if figure is not None:
            path = folder / name
            with replacing(path) as temporary:
                figure.savefig(temporary, format="png")
            paths.append(path)
    return paths


def draw_crossover(results: Results, part: str, path: Path, slow: str, fast: Sequence[str]) -> bool:
    """Draws, for the layers of a part of the results, time against units, of the contender `slow` and of each of those
    that may overtake it, and marks where they do. A panel for each cell and mode; False where none has two sizes.

    Raises:
        ImportError: where matplotlib is not installed. OSError: where the file cannot be written.
    """
    panels: dict[str, list[Case]] = {}
    for case in results.part(part):
        B, T, _, _ = case.labels["shape"]
        title = f"{case.labels['cell'].upper()} {case.labels['mode']}, B={B}, T={T}"
        panels.setdefault(title, []).append(case)
    found = {title: cases for title, cases in panels.items() if len({case.labels["H"] for case in cases}) > 1}
    if not found:
        return False
    everyone = (slow, *fast)
    columns = min(2, len(found))
    lines = -(-len(found) // columns)
    figure = _figure(4.8 * columns, 3.5 * lines + 1)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (title, cases) in zip(grid.flat, found.items(), strict=False):
        cases.sort(key=lambda case: case.labels["H"])
        for who in everyone:
            points = [(case.labels["H"], 1e3 * case.value(who)) for case in cases if who in case.rounds]
            if points:
                axes.plot(
                    *zip(*points, strict=True), marker="o", markersize=3.5, color=_color(who, everyone), label=who
                )
        for who in fast:
            both = [case for case in cases if slow in case.rounds and who in case.rounds]
            at = crossing([case.labels["H"] for case in both], [case.ratio(slow, who).median for case in both])
            if at is not None:
                axes.axvline(at, color=_color(who, everyone), linewidth=1, linestyle=(0, (4, 2)))
                place, shift = (at, 0.03 + 0.07 * fast.index(who)), (3, 0)
                text = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "fontsize": 7}
                axes.annotate(f"{at:.0f}", place, xytext=shift, color=_color(who, everyone), **text)
        _against_size(axes, [case.labels["H"] for case in cases])
        axes.set_title(title, fontsize=9)
    for axes in grid.flat[len(found) :]:
        axes.remove()
    figure.supylabel("ms", fontsize=9)
    gpus = ", ".join(results.about.get("gpus", []))
    figure.supxlabel(f"units; dashed: from where on it is faster than {slow}\n{gpus}; {_note(results)}", fontsize=7)
    _legend(figure, grid.flat, len(everyone))
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


def crossing(sizes: Sequence[float], ratios: Sequence[float]) -> float | None:
    """The size from which on ratios stay above 1, between two that were measured, on logarithmic axes; None where they
    do at all sizes or at the largest do not."""
    points = [(math.log(size), math.log(ratio)) for size, ratio in zip(sizes, ratios, strict=True)]
    below = [k for k, (_, ratio) in enumerate(points) if ratio <= 0]
    if not below or below[-1] == len(points) - 1:
        return None
    (x0, y0), (x1, y1) = points[below[-1] : below[-1] + 2]
    return math.exp(x0 + (x1 - x0) * -y0 / (y1 - y0))


def _figure(width: float, height: float) -> Any:
    # Figure without pyplot needs no display and leaves no global state behind
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def _note(results: Results) -> str:
    """Where and when, for below the axis."""
    info = results.about
    return (
        f"{info['processor']}, {info['threads']} threads, {info['instruction_set']}, {info['date']}, "
        f"fastrnn {info['versions'].get('fastrnn', '')}; medians of {info['rounds']} interleaved rounds"
    )


def _clean(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)


def _color(who: str, everyone: Sequence[str]) -> str:
    ours = [name for name in everyone if name not in COLORS]
    return COLORS.get(who) or OURS[ours.index(who) % len(OURS)]


def _title(who: str) -> str:
    known = contenders()
    return known[who].title if who in known else who


def _everyone(cases: Sequence[Case]) -> list[str]:
    return list(dict.fromkeys(who for case in cases for who in case.rounds))


def _against_size(panel: Any, sizes: Sequence[int]) -> None:
    """Both axes logarithmic, a tick at each size."""
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(sizes, list(map(str, sizes)), fontsize=8)
    panel.minorticks_off()
    _plain_log(panel.yaxis)
    _clean(panel)


def _plain_log(axis: Any) -> None:
    """1, 2, 5, 10 and so on instead of powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _bars(results: Results, part: str, panels: tuple[str, ...]) -> Any:
    """How many times as long each of the others takes, case by case; a panel for each value of those labels."""
    cases = [case for case in results.part(part) if case.base in case.rounds and len(case.rounds) > 1]
    if not cases:
        return None
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(" ".join(str(case.labels[key]) for key in panels), []).append(case)
    base, everyone = cases[0].base, _everyone(cases)
    others = [who for who in everyone if who != base]
    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)
    tallest = max(map(len, groups.values()))
    figure = _figure(5.6 * columns + 1.2, lines * (0.8 + 0.13 * tallest * (len(others) + 1)) + 1)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True)
    height = 0.84 / len(others)
    for axes, (title, members) in zip(grid.flat, groups.items(), strict=False):
        for k, who in enumerate(others):
            places = [n for n, case in enumerate(members) if who in case.rounds]
            ratios = [members[n].ratio(who) for n in places]
            medians = [ratio.median for ratio in ratios]
            spreads = [[r.median - r.low for r in ratios], [r.high - r.median for r in ratios]]
            axes.barh(
                [place + (k - (len(others) - 1) / 2) * height for place in places],
                [median - 1 for median in medians],  # from the line at 1: to its right who is slower, else to its left
                left=1,
                height=0.9 * height,
                xerr=spreads,
                color=_color(who, everyone),
                error_kw={"elinewidth": 0.8, "ecolor": "0.35"},
                label=_title(who),
            )
        names = [
            ",".join(map(str, case.labels["shape"])) if panels else case.name.replace("_", " ") for case in members
        ]
        axes.set_yticks(range(len(members)), names, fontsize=8)
        axes.set_ylim(len(members) - 0.5, -0.5)
        axes.set_xscale("log")
        _plain_log(axes.xaxis)
        axes.tick_params(axis="x", labelsize=8, labelbottom=True)
        axes.axvline(1, color=OURS[0], linewidth=2)
        axes.set_title(title.replace("lstm", "LSTM").replace("gru", "GRU"), fontsize=10)
        _clean(axes)
        axes.grid(axis="y", visible=False)
    for axes in grid.flat[len(groups) :]:
        axes.remove()
    # one scale for all panels; a limit that is set holds for what is drawn later, too
    grid[0, 0].set_xlim(left=min(grid[0, 0].get_xlim()[0], 0.9))
    label = f"times as long as {_title(base)} (the blue line), with the range over the rounds"
    figure.supxlabel(f"{label}\n{_note(results)}", fontsize=8)
    if panels:
        figure.supylabel("B,T,I,H", fontsize=9)
    _legend(figure, grid.flat, len(others))
    return figure


def _legend(figure: Any, panels: Any, columns: int) -> None:
    """One for all panels, above them."""
    named: dict[str, Any] = {}
    for axes in panels:
        if axes.figure is not None:
            named |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        named.values(), named.keys(), loc="outside upper center", ncols=min(columns, 3), frameon=False, fontsize=8
    )


def _curves(results: Results, axes: tuple[str, ...]) -> Any:
    """Time against one size for every contender, both axes logarithmic; a panel for each sweep. Grey lines show how it
    should grow, from the base's largest case down."""
    found = [sweep for sweep in sweeps(results.part("scaling")) if sweep.axis in axes]
    if not found:
        return None
    everyone = _everyone([case for sweep in found for case in sweep.cases])
    cells = list(dict.fromkeys(sweep.cell for sweep in found))
    # a line of panels for each cell, or one line for all if each has one
    lines, columns = (1, len(cells)) if len(axes) == 1 else (len(cells), len(axes))
    figure = _figure(max(4.2 * columns, 6), 3.5 * lines + 1.2)
    grid = figure.subplots(lines, columns, squeeze=False)
    for panel in grid.flat:
        panel.set_visible(False)
    for sweep in found:
        cell, axis = cells.index(sweep.cell), axes.index(sweep.axis)
        _curve(grid[0, cell] if len(axes) == 1 else grid[cell, axis], sweep, everyone)
    figure.supylabel("ms", fontsize=9)
    figure.supxlabel(_note(results), fontsize=7)
    _legend(figure, grid.flat, min(3, columns + 1))
    return figure


def _curve(panel: Any, sweep: Sweep, everyone: Sequence[str]) -> None:
    panel.set_visible(True)
    for who in everyone:
        if points := sweep.points(who):
            style: dict[str, Any] = {"linewidth": 2.2, "zorder": 3} if who not in COLORS else {"linewidth": 1.3}
            style |= {"marker": "o", "markersize": 3.5, "color": _color(who, everyone), "label": _title(who)}
            panel.plot([size for size, _ in points], [1e3 * seconds for _, seconds in points], **style)
    sizes, base = sweep.sizes, sweep.points(sweep.cases[0].base)
    if base:
        last, seconds = base[-1]
        for power in sorted(set(EXPECTED[sweep.axis])):
            guide = [1e3 * seconds * (size / last) ** power for size in sizes]
            name = {1: "linear", 2: "quadratic"}[power]
            panel.plot(sizes, guide, color="0.6", linestyle=(0, (1, 1.5) if power == 2 else (4, 2)), label=name)
    floors = [(case.labels[sweep.axis], 1e3 * floor) for case in sweep.cases if (floor := case.floor()) is not None]
    if floors:
        panel.plot(*zip(*floors, strict=True), color="0.2", linewidth=1, label="floor: operations at the FMA peak")
    _against_size(panel, sizes)
    panel.tick_params(axis="y", labelsize=8)
    what = sweep.what.replace("lstm", "LSTM").replace("gru", "GRU")
    panel.set_title(f"{what}, {sweep.fixed}", fontsize=9)
    panel.set_xlabel(sweep.axis, fontsize=9)


def _roofline(results: Results) -> Any:
    """Operations a second against operations a byte, this package's and its best peer's, under the machine's roof."""
    cases = [case for case in results.part("layers") if case.base in case.rounds and case.peak and case.bytes]
    if not cases:
        return None
    peak = statistics.median(value for case in cases for value in case.peak) / 1e9
    figure = _figure(7.5, 5.2)
    axes = figure.add_subplot()
    markers = {("lstm", "train"): "o", ("gru", "train"): "s", ("lstm", "inference"): "^", ("gru", "inference"): "D"}
    intensities = []
    for case in cases:
        assert case.operations is not None
        assert case.bytes is not None
        x = case.operations / case.bytes
        intensities.append(x)
        marker = markers.get((case.labels["cell"], case.labels["mode"]), "o")
        best = case.best_peer()
        if best is not None:
            axes.plot(x, (case.rate(best) or 0) / 1e9, marker, color="0.65", markersize=5, linestyle="none")
        axes.plot(x, (case.rate(case.base) or 0) / 1e9, marker, color=OURS[0], markersize=6, linestyle="none")
    bandwidth = results.about.get("bandwidth")
    low, high = min(intensities) / 2, max(intensities) * 2
    if bandwidth:
        low = min(low, 1e9 * peak / bandwidth / 4)  # the roof's slope is in the picture
    axes.hlines(peak, low, high, color="0.25", linewidth=1.2)
    axes.annotate(
        f"FMA peak, {peak:.0f} GFLOP/s",
        (high, peak),
        ha="right",
        va="bottom",
        fontsize=8,
        xytext=(-3, 2),
        textcoords="offset points",
    )
    if bandwidth:
        slope = bandwidth / 1e9
        axes.plot([low, peak / slope], [low * slope, peak], color="0.25", linewidth=1.2, linestyle="--")
        label = f"dashed: memory, {slope:.0f} GB/s; what stays in a cache may exceed it"
        axes.annotate(label, (low, peak), va="bottom", fontsize=8, xytext=(3, 2), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(top=2 * peak)
    _plain_log(axes.xaxis)
    _plain_log(axes.yaxis)
    axes.set_xlabel(f"operations per byte that must move at least once\n{_note(results)}", fontsize=8)
    axes.set_ylabel("GFLOP/s")
    for (cell, mode), marker in markers.items():
        axes.plot([], [], marker, color="0.4", linestyle="none", label=f"{cell.upper()} {mode}")
    axes.plot([], [], "o", color=OURS[0], linestyle="none", label=_title(cases[0].base))
    axes.plot([], [], "o", color="0.65", linestyle="none", label="best peer")
    _legend(figure, [axes], 3)
    _clean(axes)
    return figure
