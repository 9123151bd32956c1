"""Contenders as processes, and the table of ratios at the end of a run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contender import CONTENDERS, LENGTH, build

HERE = Path(__file__).parent
REST_SECONDS = 0.3
ROWS: list[str] = []


class Contender:
    """A framework with the model built, ready to train steps on demand."""

    def __init__(self, name: str, model: str, weights: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "contender.py"), name, model, str(weights)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.name = name
        self.loss = float(self._line())
        self.versions = self._line()
        self.seconds: list[float] = []  # per step, one entry for each round

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self.process.wait()}")
        return line.strip()

    def train(self, steps: int) -> float:
        """Trains and gives the seconds per step."""
        # every contender alike: threads of the one before may still be winding down
        time.sleep(REST_SECONDS)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self._line()) / steps

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()  # closes the pipes, too


def reason_missing(name: str) -> str | None:
    """Why a contender cannot take part, or None."""
    backend = CONTENDERS[name][0]
    missing = [m for m in ("keras", backend) if backend and m and importlib.util.find_spec(m) is None]
    return f"{', '.join(missing)} not installed" if missing else None


@pytest.fixture
def contenders(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Contender]]:
    """All contenders that are installed, on the model of the test's parameter, from the same weights."""
    name = request.param
    model, _ = build("fastrnn", name)
    model(np.zeros((1, LENGTH), np.int32))
    weights = tmp_path / "weights.npz"
    np.savez(weights, *model.get_weights())
    running: dict[str, Contender] = {}
    try:
        for contender in CONTENDERS:
            reason = reason_missing(contender)
            if reason is None:
                running[contender] = Contender(contender, name, weights)
            else:
                ROWS.append(f"{name:18} {contender:22} skipped: {reason}")
        yield running
    finally:
        for process in running.values():
            process.close()


def add_row(text: str) -> None:
    ROWS.append(text)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if ROWS:
        terminalreporter.section("one training step, interleaved rounds: median ms, and times as long as fastrnn's")
        for row in ROWS:
            terminalreporter.write_line(row)
