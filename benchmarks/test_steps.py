"""One step of training the textbook chapter's models, the loop around it included."""

from __future__ import annotations

from conftest import Measure
from fastrnn.bench.models import MODELS, Training
from fastrnn.bench.parts import can_step, step_plan
from fastrnn.bench.peers import contenders


def parameters(full: bool) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """The models, and for each all contenders that train it."""
    return ("model", "contender"), [
        (model, name)
        for model in MODELS
        for name, contender in contenders().items()
        if "step" in contender.takes and can_step(name, model) and (full or name != "fastrnn-reference")
    ]


def test_step(model: str, contender: str, measure: Measure) -> None:
    measure(lambda team, choice: step_plan(team, choice, "steps", model, Training(model)))
