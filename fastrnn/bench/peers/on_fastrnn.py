"""This package, on the backend that the variant names: the public ops, checks of their arguments and all; a Stream for
one time step; Sequential.fit for whole models.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import fastrnn
from fastrnn.backends.threads import set_num_threads
from fastrnn.bench.layer import Problem
from fastrnn.bench.models import BATCH, Training
from fastrnn.bench.peers import Job


def versions() -> str:
    return f"fastrnn {fastrnn.__version__}"


def layer(problem: Problem, variant: str, threads: int) -> Job:
    set_num_threads(threads)
    return Job(run=lambda: problem.run(variant), results=lambda: problem.named(*problem.run(variant)))


def stream(problem: Problem, variant: str, threads: int) -> Job:
    set_num_threads(threads)
    spec = problem.layer
    make: Any = fastrnn.LSTM if spec.cell == "lstm" else fastrnn.GRU
    module = make(spec.shape[3], dtype=spec.dtype)
    module.build((None, None, spec.shape[2]))
    module.set_weights([problem.W, problem.U, problem.b])
    stream = fastrnn.Stream(module, backend=variant)
    inputs = [np.ascontiguousarray(problem.x[0, t]) for t in range(spec.shape[1])]
    feed = itertools.cycle(inputs)

    def results() -> dict[str, np.ndarray]:
        stream.reset()
        return {"y": np.stack([stream.step(x).copy() for x in inputs])[None]}

    return Job(run=lambda: stream.step(next(feed)), results=results)


def step(training: Training, variant: str, threads: int) -> Job:
    set_num_threads(threads)
    model = training.ours()
    x, y = training.data()

    def run() -> None:
        with fastrnn.use_backend(variant):
            model.fit(x, y, batch_size=BATCH, verbose=0)

    def results() -> dict[str, np.ndarray]:
        with fastrnn.use_backend(variant):
            return {"loss": np.array(model.evaluate(*training.data(1), batch_size=BATCH, verbose=0)[0])}

    return Job(run=run, results=results, times=training.steps)


def peak(spec: dict[str, Any], variant: str, threads: int) -> Job:
    """Nothing but multiply-adds, of spec["dtype"], on the C kernels' instruction set; `results` tells how many."""
    from fastrnn._kernels import lib

    set_num_threads(threads)
    bits, tasks, steps = np.dtype(spec["dtype"]).itemsize * 8, 8 * threads, 20_000

    def run() -> float:
        return float(lib.frnn_peak(bits, tasks, steps))

    return Job(run=run, results=lambda: {"operations": np.array(run())})
