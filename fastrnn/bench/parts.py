"""What can be measured, part by part: each yields its cases as they are done."""

from __future__ import annotations

from collections.abc import Iterator

from fastrnn.bench.layer import Layer
from fastrnn.bench.peers import contenders
from fastrnn.bench.results import Case
from fastrnn.bench.rounds import ContenderError, Entry
from fastrnn.bench.team import Team


def layer_cases(
    team: Team, cells: list[str], modes: list[str], shapes: list[tuple[int, int, int, int]], dtype: str, who: list[str]
) -> Iterator[Case]:
    """One layer, every contender in `who`; the first of them is the base."""
    for shape in shapes:
        for mode in modes:
            for cell in cells:
                layer = Layer(cell, mode, shape, dtype)
                case = Case(
                    part="layers",
                    name=f"{cell} {mode} {','.join(map(str, shape))}",
                    labels=layer.to_json(),
                    base=who[0],
                    operations=layer.operations,
                    bytes=layer.bytes,
                )
                entries = []
                for name in who:
                    if mode not in contenders()[name].takes:
                        continue
                    try:
                        process = team.process(name)
                    except ContenderError as error:
                        case.failed[name] = str(error)
                        continue
                    entries.append(Entry(name, process, "layer", layer.to_json(), team.expected(layer)))
                yield team.compare(case, entries, dtype)
