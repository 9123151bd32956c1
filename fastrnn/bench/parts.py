"""What can be measured, part by part. Each part is a list of plans; a plan, when called, measures one case.

Adding a part: a function from the team and the choice to plans, and its name in PARTS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastrnn.bench.layer import OPTIONS, SHAPES, STREAM, Layer, Problem
from fastrnn.bench.models import BATCH, MODELS, Training
from fastrnn.bench.peers import contenders
from fastrnn.bench.results import Case
from fastrnn.bench.rounds import ContenderError, Entry
from fastrnn.bench.team import Team

Plan = Callable[[], Case]
Shape = tuple[int, int, int, int]

LATENCY_SHAPES = ((1, 50, 16, 8), (1, 50, 16, 32), (1, 50, 128, 128), (1, 50, 512, 512))
SMALL, MEDIUM = SHAPES[0], SHAPES[2]
REFERENCE_OPERATIONS = 10**8

# what grows, and the shapes it is measured at; batches of a training set
SWEEPS: dict[str, tuple[Shape, ...]] = {
    "H": tuple((64, 25, H, H) for H in (8, 16, 32, 64, 128, 256, 512, 1024)),
    "T": tuple((64, T, 64, 64) for T in (10, 30, 100, 300, 1000)),
    "B": tuple((B, 100, 64, 64) for B in (1, 4, 16, 64, 256)),
}
FITS = (1, 4, 16, 64, 256)


@dataclass(frozen=True)
class Choice:
    """What of the parts to measure.

    Attributes:
        ours: contenders of this package, the first of them the base; peers: the others that may take part, the first
            of them the base where there is none of ours.
        cells, modes, dtype: of the layers.
        shapes: instead of a part's own, if any.
    """

    ours: tuple[str, ...]
    peers: tuple[str, ...]
    cells: tuple[str, ...] = ("lstm", "gru")
    modes: tuple[str, ...] = ("train", "inference")
    dtype: str = "float32"
    shapes: tuple[Shape, ...] = ()

    @property
    def base(self) -> str:
        return (*self.ours, *self.peers)[0]

    def who(self, kind: str) -> list[str]:
        """Those who take part in a kind of work."""
        return [name for name in (*self.ours, *self.peers) if kind in contenders()[name].takes]


def _shape_name(shape: Iterable[int]) -> str:
    return ",".join(map(str, shape))


def too_slow(name: str, layer: Layer) -> bool:
    """Whether a contender is left out of a layer, unless it is the base: the reference, where it is not done in a
    moment."""
    return name == "fastrnn-reference" and layer.operations > REFERENCE_OPERATIONS


def layer_plan(team: Team, choice: Choice, part: str, layer: Layer, **labels: Any) -> Plan:
    """Every contender that can, on one layer; the labels are the case's, and name it if there are any."""

    def plan() -> Case:
        extra = " ".join(f"{key}={value}" for key, value in labels.items())
        case = Case(
            part=part,
            name=f"{layer.cell} {layer.mode} {extra or _shape_name(layer.shape)}",
            labels=layer.to_json() | labels,
            base=choice.base,
            operations=layer.operations,
            bytes=layer.bytes,
        )
        entries: list[Entry] = []
        for name in choice.who(layer.mode):
            if name == choice.base or not too_slow(name, layer):
                kind = "stream" if layer.mode == STREAM else "layer"
                team.add(case, entries, name, kind, layer.to_json())
        return team.compare(case, entries, tails=layer.mode == STREAM)

    return plan


def layers(team: Team, choice: Choice) -> list[Plan]:
    """One layer over a batch of sequences: training, and inference."""
    return [
        layer_plan(team, choice, "layers", Layer(cell, mode, shape, choice.dtype))
        for shape in choice.shapes or SHAPES
        for mode in choice.modes
        for cell in choice.cells
    ]


def latency(team: Team, choice: Choice) -> list[Plan]:
    """One time step of one sequence, as data arrives."""
    return [
        layer_plan(team, choice, "latency", Layer(cell, STREAM, (1, *shape[1:]), choice.dtype))
        for shape in choice.shapes or LATENCY_SHAPES
        for cell in choice.cells
    ]


def _variants(
    team: Team, choice: Choice, part: str, shape: Shape, cell: str, variants: dict[str, dict[str, Any]]
) -> Plan:
    """This package alone, in variants by label, the first of them the base: `layer` changes the layer, the rest are
    Team.add's."""

    def plan() -> Case:
        layer = Layer(cell, "train", shape, choice.dtype)
        name, base = f"{cell} train {_shape_name(shape)}", next(iter(variants))
        case = Case(part, name, layer.to_json(), base=base, operations=layer.operations)
        entries: list[Entry] = []
        for label, how in variants.items():
            variant = replace(layer, **how.get("layer", {}))
            others = {name: value for name, value in how.items() if name != "layer"}
            team.add(case, entries, choice.base, "layer", variant.to_json(), label=label, **others)
        return team.compare(case, entries)

    return plan


def _all_variants(
    team: Team,
    choice: Choice,
    part: str,
    variants: dict[str, dict[str, Any]],
    shapes: tuple[Shape, ...] = (SMALL, MEDIUM),
) -> list[Plan]:
    return [
        _variants(team, choice, part, shape, cell, variants)
        for shape in choice.shapes or shapes
        for cell in choice.cells
    ]


def options(team: Team, choice: Choice) -> list[Plan]:
    """What a mask, dropout and so on cost, against the plain layer."""
    return _all_variants(team, choice, "options", {name: {"layer": {"option": name}} for name in OPTIONS})


def types(team: Team, choice: Choice) -> list[Plan]:
    """float64 against float32."""
    return _all_variants(team, choice, "types", {name: {"layer": {"dtype": name}} for name in ("float32", "float64")})


def instruction_sets(team: Team, choice: Choice) -> list[Plan]:
    """The C kernels on each instruction set of this machine, against the highest."""
    if not team.available(["fastrnn-c"]):
        return []
    from fastrnn.backends import c

    variants = {name: {"environment": (("FASTRNN_ISA", name),)} for name in reversed(c.isa_names())}
    return _all_variants(team, replace(choice, ours=("fastrnn-c",)), "instruction_sets", variants)


def threads(team: Team, choice: Choice) -> list[Plan]:
    """More threads against one."""
    numbers = sorted({1, *(2**k for k in range(1, 10) if 2**k < team.settings.threads), team.settings.threads})
    variants = {f"{n} thread{'s' * (n > 1)}": {"threads": n} for n in numbers}
    return _all_variants(team, choice, "threads", variants, (SMALL, MEDIUM, SHAPES[5], SHAPES[8]))


def can_step(name: str, model: str) -> bool:
    """Whether a contender trains the model: not PyTorch where there is dropout."""
    return contenders()[name].module != "on_torch" or "dropout" not in model


def step_plan(team: Team, choice: Choice, part: str, name: str, training: Training, **labels: Any) -> Plan:
    """Every contender that can, training one model."""

    def plan() -> Case:
        about = training.to_json() | {"dtype": "float32"} | labels
        case = Case(part, name, about, base=choice.base, operations=training.operations)
        entries: list[Entry] = []
        for who in choice.who("step"):
            if can_step(who, training.model):
                team.add(case, entries, who, "step", training.to_json())
        return team.compare(case, entries)

    return plan


def steps(team: Team, choice: Choice) -> list[Plan]:
    """One step of training a whole model, `fit` loop included."""
    number = 50 if team.settings.seconds >= 0.1 else 10
    return [step_plan(team, choice, "steps", model, Training(model, number)) for model in MODELS]


def fit_plan(team: Team, choice: Choice, part: str, model: str, steps: int) -> Plan:
    """Every contender that can, going once through so many batches of training data."""
    plan_step = step_plan(
        team, choice, part, f"{model} fit samples={BATCH * steps}", Training(model, steps), samples=BATCH * steps
    )

    def plan() -> Case:
        case = plan_step()
        case.operations = steps * Training(model).operations
        case.rounds = {who: [steps * seconds for seconds in values] for who, values in case.rounds.items()}
        return case

    return plan


def sweep_plan(team: Team, choice: Choice, cell: str, axis: str, shape: Shape) -> Plan:
    """Every contender that can, training a layer at one of a sweep's shapes."""
    layer = Layer(cell, "train", shape, choice.dtype)
    return layer_plan(team, choice, "scaling", layer, **{axis: shape["BTIH".index(axis)]})


def scaling(team: Team, choice: Choice) -> list[Plan]:
    """Time against units, time steps, batch, and the length of the training set, one at a time."""
    plans = [
        sweep_plan(team, choice, cell, axis, shape)
        for cell in choice.cells
        for axis, shapes in SWEEPS.items()
        for shape in shapes
    ]
    return plans + [fit_plan(team, choice, "scaling", cell, steps) for cell in choice.cells for steps in FITS]


def _fresh(team: Team, choice: Choice, kind: str, takes: str, spec: dict[str, Any]) -> tuple[list[Any], dict[str, str]]:
    """For each round, what each contender did in a new process; and who failed, why."""
    rounds: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for _ in range(team.settings.rounds):
        found = {}
        for name in choice.who(takes):
            if name not in failed:
                try:
                    found[name] = team.fresh(name, kind, spec)
                except ContenderError as error:
                    failed[name] = str(error)
        rounds.append(found)
    return [{name: done for name, done in found.items() if name not in failed} for found in rounds], failed


def startup(team: Team, choice: Choice) -> list[Plan]:
    """From the start of a process to the first training step of a model, and its memory."""
    training = Training("lstm", steps=1)
    measured: list[Any] = []

    def plan(what: str, keys: tuple[str, ...], unit: str) -> Case:
        if not measured:
            measured.extend(_fresh(team, choice, "step", "step", training.to_json()))
        rounds, failed = measured
        case = Case("startup", what, training.to_json(), base=choice.base, unit=unit, failed=failed)
        for name in rounds[0]:
            values = [[found[name][key] for key in keys] for found in rounds]
            if None not in values[0]:
                case.rounds[name] = [sum(value) for value in values]
        return case

    everything = ("import", "build", "first call")
    return [
        lambda: plan("import", ("import",), "s"),
        lambda: plan("build the model", ("build",), "s"),
        lambda: plan("first training step", ("first call",), "s"),
        lambda: plan("all three", everything, "s"),
        lambda: plan("peak memory", ("peak of the process",), "bytes"),
    ]


def memory(team: Team, choice: Choice) -> list[Plan]:
    """What training over 1000 time steps holds at most, beyond the process before, and what is kept for backward."""

    def growth(layer: Layer) -> Case:
        rounds, failed = _fresh(team, choice, "layer", "train", layer.to_json())
        name = f"{layer.cell} train {_shape_name(layer.shape)}"
        case = Case("memory", name, layer.to_json(), base=choice.base, unit="bytes", failed=failed)
        for who in rounds[0]:
            if rounds[0][who]["peak memory"] is not None:
                case.rounds[who] = [found[who]["peak memory"] - found[who]["memory before"] for found in rounds]
        return case

    def reserves(layer: Layer) -> Case:
        y = int(np.prod(layer.shape[:2])) * layer.shape[3] * np.dtype(layer.dtype).itemsize
        name = f"{layer.cell} {_shape_name(layer.shape)}, kept for backward (y alone: {y / 1e6:.1f} MB)"
        case = Case("memory", name, layer.to_json(), base=choice.base, unit="bytes")
        for who in choice.ours:
            case.rounds[who] = [float(Problem(layer).reserve_bytes(contenders()[who].variant))]
        return case

    shapes = choice.shapes or ((32, 1000, 64, 64),)
    layers = [Layer(cell, "train", shape, choice.dtype) for shape in shapes for cell in choice.cells]
    grown = [lambda layer=layer: growth(layer) for layer in layers]  # type: ignore[misc]
    held = [lambda layer=layer: reserves(layer) for layer in layers]  # type: ignore[misc]
    return [*grown, *held]


PARTS: dict[str, Callable[[Team, Choice], list[Plan]]] = {
    "layers": layers,
    "steps": steps,
    "latency": latency,
    "startup": startup,
    "memory": memory,
    "options": options,
    "types": types,
    "instruction_sets": instruction_sets,
    "threads": threads,
    "scaling": scaling,
}
