"""With --full: from the start of a process to the first training step, a new process each time."""

from __future__ import annotations

from conftest import Measure
from fastrnn.bench.parts import startup
from fastrnn.bench.peers import contenders


def parameters(full: bool) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """All contenders that train a model."""
    names = [name for name, contender in contenders().items() if "step" in contender.takes]
    return ("contender",), [(name,) for name in (names if full else [])]


def test_startup(contender: str, measure: Measure) -> None:
    # after import, build and first step alone: their sum
    measure(lambda team, choice: startup(team, choice)[3])
