"""The contenders: who they are, what each needs, and why one is missing.

A contender is a module with `versions()` and, for each kind of work it takes part in, a function that makes a Job of
what is to be done, the contender's variant and a number of threads:

    layer(problem, ...)     a layer over a batch of sequences; stream(problem, ...), one time step of it
    step(training, ...)     steps of training a whole model

It is imported in the contender's own process only. How each is set up to be at its best is told in its docstring.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastrnn.backends import available_backends
from fastrnn.bench.machine import gpus


class Job(NamedTuple):
    """Work to time: `run` does it `times` times, to completion. Before it has run, `results` gives what it computes, in
    Keras' layouts."""

    run: Callable[[], Any]
    results: Callable[[], dict[str, np.ndarray]]
    times: int = 1


def stream_job(inputs: Sequence[Any], zeros: Any, step: Callable[[Any, Any], tuple[Any, Any]]) -> Job:
    """A Job that runs step(input, states) -> (output, states) from call to call, the inputs over and over."""
    feed = itertools.cycle(inputs)
    states = zeros

    def run() -> Any:
        nonlocal states
        output, states = step(next(feed), states)
        return output

    def results() -> dict[str, np.ndarray]:
        outputs, current = [], zeros
        for value in inputs:
            output, current = step(value, current)
            outputs.append(np.array(output).reshape(1, -1))
        return {"y": np.stack(outputs, axis=1)}

    return Job(run, results)


_EVERYTHING = ("train", "inference", "stream", "step")


@dataclass(frozen=True)
class Contender:
    """Who takes part: a module here, which of its variants, what must be installed, what it can do, its environment."""

    module: str
    variant: str
    title: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = _EVERYTHING
    environment: tuple[tuple[str, str], ...] = ()


# whatever GPU there is and they were built for: they stand for this CPU
_ON_CPU = (("CUDA_VISIBLE_DEVICES", "-1"), ("JAX_PLATFORMS", "cpu"))
_ON_TENSORFLOW, _ON_JAX = (("KERAS_BACKEND", "tensorflow"), *_ON_CPU), (("KERAS_BACKEND", "jax"), *_ON_CPU)
PEERS = {
    "torch": Contender("on_torch", "", "PyTorch", ("torch",)),
    "torch-cuda": Contender(
        "on_torch", "cuda", "PyTorch, cuDNN, with copies", ("torch",), ("train", "inference", "step")
    ),
    "jax": Contender("on_jax", "", "JAX", ("jax",), ("train", "inference", "stream"), _ON_CPU),
    "keras": Contender("on_keras", "", "Keras on TensorFlow", ("keras", "tensorflow"), environment=_ON_TENSORFLOW),
    "keras-jit": Contender(
        "on_keras", "jit", "Keras on TensorFlow, jit_compile", ("keras", "tensorflow"), environment=_ON_TENSORFLOW
    ),
    "keras-jax": Contender("on_keras", "jax", "Keras on JAX", ("keras", "jax"), ("step",), _ON_JAX),
    "onnxruntime": Contender("on_onnxruntime", "", "ONNX Runtime", ("onnxruntime", "onnx"), ("inference", "stream")),
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
    if missing:
        return f"{', '.join(missing)} not installed"
    if contender.variant == "cuda":
        if not gpus():
            return "no NVIDIA GPU here"
        version = importlib.metadata.version(contender.needs[0])
        if version.endswith("+cpu"):
            return f"{contender.needs[0]} {version} is built without CUDA"
    return None


def load(name: str) -> Any:
    """The contender's module."""
    return importlib.import_module(f"{__name__}.{contenders()[name].module}")
