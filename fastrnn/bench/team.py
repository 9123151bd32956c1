"""Who takes part in a run: processes that are started once, and what goes wrong with them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from fastrnn.bench import fresh
from fastrnn.bench.peers import contenders, reason_missing
from fastrnn.bench.progress import Progress
from fastrnn.bench.results import Case
from fastrnn.bench.rounds import ContenderError, Entry, Process, interleave, prepare
from fastrnn.bench.worker import KINDS


class Settings(NamedTuple):
    """How long to measure, and on what.

    Attributes:
        rounds: how many; seconds: how long each contender's part of one is, at least a call.
        threads: for every contender.
    """

    rounds: int
    seconds: float
    threads: int


class Team:
    """Contenders as processes, each started when it is first needed. A context manager, which ends them.

    Attributes:
        skipped: why contenders that were asked for cannot take part.
        versions: of the others.
    """

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self.settings = settings
        self.progress = progress
        self.skipped: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._processes: dict[tuple[Any, ...], Process] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="fastrnn-bench-")

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    def _process(self, name: str, threads: int, environment: tuple[tuple[str, str], ...]) -> Process:
        key = (name, threads, environment)
        process = self._processes.get(key)
        if process is None or not process.runs:
            if process is not None:
                process.close()
            self.progress.note(f"starting {name}")
            self._processes[key] = Process(name, threads, dict(environment))
            self.versions[name] = self._processes[key].versions
        return self._processes[key]

    def add(
        self,
        case: Case,
        entries: list[Entry],
        name: str,
        kind: str,
        spec: dict[str, Any],
        *,
        label: str | None = None,
        threads: int | None = None,
        environment: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """One more line of the case: contender `name` does the work, under a label, its name if None.

        Where it does not start, the case notes why.
        """
        label = label or name
        environment = (*contenders()[name].environment, *environment)
        try:
            process = self._process(name, threads or self.settings.threads, environment)
        except ContenderError as error:
            case.failed[label] = str(error)
        else:
            entries.append(Entry(label, process, kind, spec, self._expected(kind, spec)))

    def _expected(self, kind: str, spec: dict[str, Any]) -> Path:
        """A file with what must come out."""
        text = json.dumps([kind.replace("stream", "layer"), spec], sort_keys=True)
        path = Path(self._folder.name) / f"{hashlib.sha256(text.encode()).hexdigest()}.npz"
        if not path.exists():
            self.progress.note("computing the reference")
            np.savez(path, **KINDS[kind](spec).expected())
        return path

    def all_versions(self) -> dict[str, str]:
        """Of everything that took part, by the package's name."""
        texts = {text for versions in self.versions.values() for text in versions.split(", ")}
        return {name: version for name, _, version in (text.rpartition(" ") for text in sorted(texts))}

    def compare(self, case: Case, entries: list[Entry], *, tails: bool = False) -> Case:
        """Prepares, checks and times the entries; those that fail are noted in the case.

        Where the case knows its operations, the multiply-adds that the machine can do are measured as one more entry.
        """
        ready = []
        for entry in entries:
            self.progress.note(f"{case.name}: preparing {entry.label}")
            try:
                done = prepare(entry)
            except ContenderError as error:
                case.failed[entry.label] = str(error)
                continue
            case.prepare[entry.label] = done.seconds
            if done.error is not None:
                case.errors[entry.label] = done.error
            ready.append(entry)
        timed = list(ready)
        if case.operations is not None and reason_missing("fastrnn-c") is None:
            process = self._process("fastrnn-c", self.settings.threads, ())
            peak = Entry("peak", process, "peak", {"dtype": case.labels["dtype"]})
            prepare(peak)
            timed.append(peak)
        self.progress.note(case.name)
        measured, failed = interleave(timed, self.settings.rounds, self.settings.seconds, self.progress.tick)
        if "peak" in measured:
            operations = peak.process.ask({"results": "peak"})["operations"]
            case.peak = [operations / seconds for seconds in measured.pop("peak").medians]
        case.failed |= {label: reason for label, reason in failed.items() if label != "peak"}
        case.rounds = {label: found.medians for label, found in measured.items()}
        if tails:
            case.tails = {
                label: [list(pair) for pair in zip(found.p99, found.longest, strict=True)]
                for label, found in measured.items()
            }
        for entry in ready:
            if entry.process.runs:
                entry.process.ask({"drop": entry.label})
        return case

    def fresh(self, name: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
        """What the contender does in a process that starts, works and ends. ContenderError where it fails."""
        contender = contenders()[name]
        package = contender.needs[0] if contender.needs else f"fastrnn.backends.{contender.variant}"
        self.progress.note(f"a new process of {name}")
        try:
            found: dict[str, Any] = fresh.start(
                name, package, self.settings.threads, kind, spec, dict(contender.environment)
            )
        except RuntimeError as error:
            raise ContenderError(f"{name}: {error}") from error
        self.versions[name] = found["versions"]
        return found
