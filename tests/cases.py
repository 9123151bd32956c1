"""Random problems for the kernels: shapes, options and data, and a way to run one on any backend."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fastrnn import ops

CELLS = ("lstm", "gru", "gru_reset_before")

# (B, T, I, H) where a team of threads works on one task of every cell, over several blocks of time steps; inputs
# brought together for the products over a block, and taken where they lie.
TEAM_SHAPES = [(15, 52, 20, 140), (15, 52, 7, 150)]

# What a call can have beside x, W, U and upstream gradients, in the combinations that take different paths.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_bias": {"bias": False},
    "no_states": {"states": False},
    "last": {"return_sequences": False},
    "backwards": {"go_backwards": True},
    "mask": {"mask": True},
    "mask_zero": {"mask": True, "zero_output_for_mask": True},
    "mask_last": {"mask": True, "return_sequences": False, "states": False},
    "mask_zero_last": {"mask": True, "zero_output_for_mask": True, "return_sequences": False},
    "mask_backwards": {"mask": True, "go_backwards": True},
    "dropout": {"x_drop": "shared"},
    "dropout_backwards": {"x_drop": "shared", "go_backwards": True},
    "recurrent_dropout": {"h_drop": True},
    "both_dropouts": {"x_drop": "per_gate", "h_drop": True},
    "all": {"x_drop": "per_gate", "h_drop": True, "mask": True, "go_backwards": True},
    "all_zero_last": {
        "x_drop": "shared",
        "h_drop": True,
        "mask": True,
        "zero_output_for_mask": True,
        "return_sequences": False,
        "bias": False,
    },
}


@dataclass
class Case:
    """One problem. `inputs` are what gradients exist for; `upstream` the gradients of the outputs."""

    cell: str
    inputs: dict[str, np.ndarray]
    upstream: list[np.ndarray]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def lstm(self) -> bool:
        return self.cell == "lstm"

    def forward(self, backend: str, *, training: bool = True) -> tuple[Any, ...]:
        forward = ops.lstm_forward if self.lstm else ops.gru_forward
        return forward(**self.inputs, **self.options, training=training, backend=backend)

    def run(self, backend: str) -> dict[str, np.ndarray]:
        """All outputs and all gradients by name."""
        *outputs, reserve = self.forward(backend)
        return dict(zip(("y", "hT", "cT"), outputs, strict=False)) | self.backward(reserve)

    def backward(self, reserve: Any) -> dict[str, np.ndarray]:
        """All gradients by name."""
        backward = ops.lstm_backward if self.lstm else ops.gru_backward
        grads = backward(reserve, *self.upstream)._asdict()
        return {name: grad for name, grad in grads.items() if name[1:] in self.inputs or name == "dh0"}

    def with_inputs(self, **inputs: np.ndarray) -> Case:
        return replace(self, inputs={**self.inputs, **inputs})


def make_case(
    cell: str,
    shape: tuple[int, int, int, int],
    dtype: Any = np.float64,
    seed: int = 0,
    *,
    bias: bool = True,
    states: bool = True,
    mask: bool = False,
    x_drop: str | None = None,
    h_drop: bool = False,
    return_sequences: bool = True,
    **options: Any,
) -> Case:
    """A random problem of shape (B, T, I, H): nothing is zero that the options do not make so.

    Weights are scaled so that states neither vanish nor saturate. A mask has holes everywhere, and a first row that
    is masked whole where there is more than one.
    """
    B, T, I, H = shape
    rng = np.random.default_rng([seed, *shape])
    gates = 4 if cell == "lstm" else 3

    def normal(*size: int, scale: float = 1.0) -> np.ndarray:
        return (rng.normal(size=size) * scale).astype(dtype)

    inputs = {
        "x": normal(B, T, I),
        "W": normal(I, gates * H, scale=I**-0.5),
        "U": normal(H, gates * H, scale=H**-0.5),
    }
    if bias:
        inputs["b"] = normal(*((2, 3 * H) if cell == "gru" else (gates * H,)))
    if states:
        inputs["h0"] = normal(B, H)
        if cell == "lstm":
            inputs["c0"] = normal(B, H)
    upstream = [normal(B, T, H) if return_sequences else normal(B, H), normal(B, H)]
    if cell == "lstm":
        upstream.append(normal(B, H))
    options["return_sequences"] = return_sequences
    if cell != "lstm":
        options["reset_after"] = cell == "gru"
    if mask:
        options["mask"] = rng.random((B, T)) < 0.6
        options["mask"][0] = B == 1
    keep = 0.7
    if x_drop:
        size = (B, I) if x_drop == "shared" else (gates, B, I)
        options["dropout_mask"] = ((rng.random(size) < keep) / keep).astype(dtype)
    if h_drop:
        options["recurrent_dropout_mask"] = ((rng.random((gates, B, H)) < keep) / keep).astype(dtype)
    return Case(cell, inputs, upstream, options)


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    assert a.shape == b.shape, (a.shape, b.shape)
    assert a.dtype == b.dtype, (a.dtype, b.dtype)
    return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), np.finfo(a.dtype).tiny))


def assert_close(got: dict[str, np.ndarray], want: dict[str, np.ndarray], tolerance: float) -> None:
    assert got.keys() == want.keys()
    errors = {name: relative_error(got[name], want[name]) for name in want}
    wrong = {name: f"{error:.1e}" for name, error in errors.items() if not error <= tolerance}
    assert not wrong, f"relative errors beyond {tolerance:.0e}: {wrong}"
