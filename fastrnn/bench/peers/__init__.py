"""The contenders: who they are, what each needs, and why one is missing.

A contender is a module with `versions()` and `layer(problem, variant, threads)`, which gives a Job. It is imported in
the contender's own process only. How each is set up to be at its best is told in its docstring.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastrnn.backends import available_backends


class Job(NamedTuple):
    """Work to time: `run` does it once, to completion; `results` gives what it computed, under Keras' layouts."""

    run: Callable[[], Any]
    results: Callable[[], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Contender:
    """Who takes part: a module here, which of its variants, what must be installed, what it can do."""

    module: str
    variant: str
    title: str
    needs: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("train", "inference")


PEERS = {
    "torch": Contender("on_torch", "", "PyTorch", ("torch",)),
    "jax": Contender("on_jax", "", "JAX", ("jax",)),
    "keras": Contender("on_keras", "", "Keras on TensorFlow", ("keras", "tensorflow")),
    "keras-jit": Contender("on_keras", "jit", "Keras on TensorFlow, jit_compile", ("keras", "tensorflow")),
    "onnxruntime": Contender("on_onnxruntime", "", "ONNX Runtime", ("onnxruntime", "onnx"), ("inference",)),
}


def contenders() -> dict[str, Contender]:
    """All by name: every backend of this package, the fastest first, as fastrnn-<backend>; then the peers."""
    ours = {f"fastrnn-{name}": Contender("on_fastrnn", name, f"fastrnn, {name}") for name in available_backends()}
    return ours | PEERS


def reason_missing(name: str) -> str | None:
    """Why a contender cannot take part here, or None."""
    contender = contenders()[name]
    if contender.module == "on_fastrnn":
        return available_backends()[contender.variant]
    missing = [need for need in contender.needs if importlib.util.find_spec(need) is None]
    return f"{', '.join(missing)} not installed" if missing else None


def load(name: str) -> Any:
    """The contender's module."""
    return importlib.import_module(f"{__name__}.{contenders()[name].module}")
