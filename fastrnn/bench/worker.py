"""One contender in a process of its own: `python -m fastrnn.bench.worker CONTENDER THREADS`.

It reads requests from standard input and answers each, a line of JSON both ways:

    {"prepare": LABEL, "kind": KIND, "spec": {...}, "expected": PATH}
                                    -> {"errors": {array: relative error}, "prepare_seconds": s}
    {"round": LABEL, "seconds": s}  -> {"calls": [seconds of each]}
    {"results": LABEL}              -> {array: value}, for what is a number
    {"drop": LABEL}                 -> {}

A request that fails is answered {"failed": reason}. The first line it writes, unasked, is {"versions": ...}.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fastrnn.bench.layer import Layer, Problem, errors
from fastrnn.bench.models import Training
from fastrnn.bench.peers import Job, contenders, load

WARM_UP_SECONDS = 0.1


# kind of work: what describes it, from the request's spec
KINDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "layer": lambda spec: Problem(Layer.from_json(spec)),
    "stream": lambda spec: Problem(Layer.from_json(spec)),
    "step": Training.from_json,
    "peak": dict,
}


def timed(job: Job, seconds: float) -> list[float]:
    """The seconds of each call, for about `seconds` in all and at least one."""
    calls = []
    end = time.perf_counter() + seconds
    while True:
        begin = time.perf_counter()
        job.run()
        now = time.perf_counter()
        calls.append((now - begin) / job.times)
        # a call that would end far past the time is not begun
        if now + calls[-1] * job.times / 2 > end:
            return calls


class Worker:
    """The contender's jobs by label, and what can be asked of them."""

    def __init__(self, name: str, threads: int) -> None:
        self.contender = contenders()[name]
        self.threads = threads
        self.module = load(name)
        self.jobs: dict[str, tuple[Job, float]] = {}  # and the seconds that a call takes

    def prepare(self, label: str, kind: str, spec: dict[str, Any], expected: str | None) -> dict[str, Any]:
        begin = time.perf_counter()
        job = getattr(self.module, kind)(KINDS[kind](spec), self.contender.variant, self.threads)
        # before it runs: training changes the weights
        results = {} if expected is None else job.results()
        job.run()
        prepare_seconds = time.perf_counter() - begin
        found: dict[str, float] = {}
        if expected is not None:
            with np.load(expected) as file:
                found = errors(results, {name: file[name] for name in file.files})
        calls: list[float] = []
        while not calls or sum(calls) * job.times < WARM_UP_SECONDS:
            calls += timed(job, 0)
        self.jobs[label] = job, statistics.median(calls[-100:]) * job.times
        return {"errors": found, "prepare_seconds": prepare_seconds}

    def round(self, label: str, seconds: float) -> dict[str, Any]:
        job, call_seconds = self.jobs[label]
        gc.collect()
        gc.disable()
        try:
            if call_seconds < seconds:  # threads and caches wake up outside the clock
                timed(job, 0.1 * seconds)
            return {"calls": timed(job, seconds)}
        finally:
            gc.enable()

    def drop(self, label: str) -> dict[str, Any]:
        self.jobs.pop(label, None)
        gc.collect()
        return {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "prepare" in request:
            return self.prepare(request["prepare"], request["kind"], request["spec"], request.get("expected"))
        if "round" in request:
            return self.round(request["round"], request["seconds"])
        if "results" in request:
            return {name: float(value) for name, value in self.jobs[request["results"]][0].results().items()}
        return self.drop(request["drop"])


def main(name: str, threads: int) -> None:
    # what libraries print must not come between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    if hasattr(os, "sched_setaffinity"):
        # pools that have no setting of their own count the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        worker = Worker(name, threads)
        send({"versions": worker.module.versions()})
    except Exception as error:
        send({"failed": f"{type(error).__name__}: {error}"})
        return
    for line in sys.stdin:
        try:
            send(worker.answer(json.loads(line)))
        except Exception as error:
            send({"failed": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
