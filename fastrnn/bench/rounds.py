"""Contenders as processes, their rounds interleaved."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

REST_SECONDS = 0.05
# A wrong formula is off by more, however long the sums; how far each one is off is in the results.
TOLERANCES = {"float32": 1e-3, "float64": 1e-9}


class ContenderError(RuntimeError):
    """A contender could not do what it was asked."""


class Process:
    """A running worker."""

    def __init__(self, name: str, threads: int, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fastrnn.bench.worker", name, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        try:
            self.versions = str(self._answer()["versions"])
        except BaseException:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ContenderError(f"{self.name} ended with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise ContenderError(f"{self.name}: {' '.join(answer['failed'].split())}")
        return answer

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer; ContenderError where it fails or ends."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # reading says how it ended
        return self._answer()

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()  # closes the pipes, too


class Entry(NamedTuple):
    """One line of a comparison: who does what, under which name."""

    label: str
    process: Process
    kind: str
    spec: dict[str, Any]
    expected: Path | None = None


class Rounds(NamedTuple):
    """The seconds of a call: for each round the median, the one that 99 of 100 stay below, the longest."""

    medians: list[float]
    p99: list[float]
    longest: list[float]


class Prepared(NamedTuple):
    """What is known of an entry before it is timed."""

    error: float | None  # the largest relative error against the reference, None where there is nothing to check
    seconds: float  # until the first result: building and compiling


def prepare(entry: Entry) -> Prepared:
    """Makes an entry ready to be timed. ContenderError where it computes something else than it should."""
    tolerance = TOLERANCES[entry.spec.get("dtype", "float32")]
    request = {"prepare": entry.label, "kind": entry.kind, "spec": entry.spec}
    if entry.expected is not None:
        request["expected"] = str(entry.expected)
    answer = entry.process.ask(request)
    wrong = {name: f"{error:.1e}" for name, error in answer["errors"].items() if not error <= tolerance}
    if wrong:
        entry.process.ask({"drop": entry.label})
        raise ContenderError(f"{entry.label} computes something else: relative errors {wrong}")
    return Prepared(max(answer["errors"].values(), default=None), answer["prepare_seconds"])


def interleave(
    entries: list[Entry], rounds: int, seconds: float, tick: Callable[[], object] = lambda: None
) -> tuple[dict[str, Rounds], dict[str, str]]:
    """Times all entries, each for about `seconds` in a round; by label, and why those failed that did."""
    measured = {entry.label: Rounds([], [], []) for entry in entries}
    failed: dict[str, str] = {}
    for number in range(rounds):
        # turned round by round, so that nobody always comes after the same one
        turn = number % len(entries)
        for entry in entries[turn:] + entries[:turn]:
            if entry.label in failed:
                continue
            # every contender alike: threads of the one before may still be winding down
            time.sleep(REST_SECONDS)
            try:
                calls = entry.process.ask({"round": entry.label, "seconds": seconds})["calls"]
            except ContenderError as error:
                failed[entry.label] = str(error)
                del measured[entry.label]
                continue
            found = measured[entry.label]
            found.medians.append(statistics.median(calls))
            found.p99.append(sorted(calls)[math.ceil(0.99 * len(calls)) - 1])
            found.longest.append(max(calls))
            tick()
    return measured, failed
