"""Who takes part in a run: processes that are started once, and what goes wrong with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fastrnn.bench.layer import Layer, Problem
from fastrnn.bench.peers import reason_missing
from fastrnn.bench.progress import Progress
from fastrnn.bench.results import Case
from fastrnn.bench.rounds import ContenderError, Entry, Process, interleave, prepare

# A wrong formula is off by more, however long the sums; how far each one is off is in the results.
TOLERANCES = {"float32": 1e-3, "float64": 1e-9}


class Settings:
    """How long to measure, and on what.

    Attributes:
        rounds: how many; seconds: how long each contender's part of one is, at least a call.
        threads: for every contender.
    """

    def __init__(self, rounds: int, seconds: float, threads: int) -> None:
        self.rounds, self.seconds, self.threads = rounds, seconds, threads


class Team:
    """Contenders as processes, each started when it is first needed. A context manager, which ends them."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self.settings = settings
        self.progress = progress
        self.skipped: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._processes: dict[tuple[Any, ...], Process] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="fastrnn-bench-")

    def __enter__(self) -> Team:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes.values():
            process.close()
        self._folder.cleanup()

    def available(self, names: Iterable[str]) -> list[str]:
        """Those of the contenders that can take part; the reasons why others cannot are kept."""
        found = []
        for name in names:
            reason = reason_missing(name)
            if reason is None:
                found.append(name)
            else:
                self.skipped[name] = reason
        return found

    def process(self, name: str, *, threads: int | None = None, environment: dict[str, str] | None = None) -> Process:
        """The contender's process. ContenderError where it does not start."""
        environment = environment or {}
        key = (name, threads or self.settings.threads, *sorted(environment.items()))
        if key not in self._processes:
            self.progress.note(f"starting {name}")
            self._processes[key] = Process(name, key[1], environment)
            self.versions[name] = self._processes[key].versions
        return self._processes[key]

    def expected(self, layer: Layer) -> Path:
        """A file with what the reference gives for the layer."""
        path = Path(self._folder.name) / f"{layer.cell}-{layer.mode}-{layer.shape}-{layer.dtype}-{layer.option}.npz"
        if not path.exists():
            self.progress.note("computing the reference")
            np.savez(path, **Problem(layer).expected())  # type: ignore[arg-type]
        return path

    def peak(self, dtype: str) -> Entry | None:
        """The multiply-adds that the machine can do, as one more that takes part; None without the C kernels."""
        if reason_missing("fastrnn-c") is not None:
            return None
        return Entry(f"peak {dtype}", self.process("fastrnn-c"), "peak", {"dtype": dtype})

    def compare(self, case: Case, entries: list[Entry], dtype: str = "float32") -> Case:
        """Prepares, checks and times all entries into the case; those who fail are noted there."""
        ready = []
        for entry in entries:
            self.progress.note(f"{case.name}: preparing {entry.label}")
            try:
                done = prepare(entry, TOLERANCES[dtype])
            except ContenderError as error:
                case.failed[entry.label] = str(error)
                continue
            case.prepare[entry.label] = done.seconds
            if done.error is not None:
                case.errors[entry.label] = done.error
            ready.append(entry)
        peak = self.peak(dtype) if case.operations is not None else None
        if peak is not None:
            prepare(peak, 0)
        timed = ready + [peak] * (peak is not None)  # type: ignore[list-item]
        self.progress.note(case.name)
        case.rounds = interleave(timed, self.settings.rounds, self.settings.seconds, self.progress.tick)
        if peak is not None:
            operations = peak.process.ask({"results": peak.label})["operations"]
            case.peak = [operations / seconds for seconds in case.rounds.pop(peak.label)]
        for entry in ready:
            entry.process.ask({"drop": entry.label})
        return case
