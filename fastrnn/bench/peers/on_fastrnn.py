"""This package: the public ops, checks of their arguments and all, on the backend that the variant names."""

from __future__ import annotations

import fastrnn
from typing import Any

import numpy as np

from fastrnn.backends.threads import set_num_threads
from fastrnn.bench.layer import Problem
from fastrnn.bench.peers import Job


def versions() -> str:
    return f"fastrnn {fastrnn.__version__}"


def layer(problem: Problem, variant: str, threads: int) -> Job:
    set_num_threads(threads)
    return Job(run=lambda: problem.run(variant), results=lambda: problem.named(*problem.run(variant)))


def peak(spec: dict[str, Any], variant: str, threads: int) -> Job:
    """Nothing but multiply-adds, of spec["dtype"], on the C kernels' instruction set; `results` tells how many."""
    from fastrnn.backends.c import lib

    set_num_threads(threads)
    bits, tasks, steps = np.dtype(spec["dtype"]).itemsize * 8, 8 * threads, 20_000

    def run() -> float:
        return float(lib.frnn_peak(bits, tasks, steps))

    return Job(run=run, results=lambda: {"operations": np.array(run())})
