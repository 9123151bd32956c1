"""The progress that fit, evaluate and predict show."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from time import perf_counter

_WIDTH = 20
_INTERVAL = 0.1

Logs = dict[str, float]


class Progress:
    """Shows how far a run over batches has come.

    On a terminal, one line is redrawn at most every 0.1 seconds. Elsewhere, and with verbose=2, there is one
    line at the end, and no control character.

    Args:
        verbose: 0 nothing, 1 or "auto" a bar where the output is a terminal, 2 a line.
        target: number of batches.
    """

    def __init__(self, verbose: int | str, target: int) -> None:
        if verbose not in (0, 1, 2, "auto"):
            raise ValueError(f"verbose must be 0, 1, 2 or 'auto', got {verbose!r}")
        self.silent = verbose == 0
        self._out = sys.stdout
        self.live = verbose in (1, "auto") and self._out.isatty()
        self.target = target
        self._length = 0
        self._start = perf_counter()
        # Kept off the first batch, whose time is that of building and first touches.
        self._after_first = self._start
        self._next = self._start

    def begin(self, title: str | None = None) -> None:
        """Starts the clock, under a line of its own if there is a title."""
        if title is not None and not self.silent:
            print(title, file=self._out, flush=True)
        self._start = self._after_first = self._next = perf_counter()

    def step(self, done: int, logs: Callable[[], Logs]) -> None:
        """Tells that `done` batches are done; `logs` is called only where the line is drawn."""
        if not self.live:
            if done == 1:
                self._after_first = perf_counter()
            return
        now = perf_counter()
        if done == 1:
            self._after_first = now
        if now >= self._next and done < self.target:
            self._next = now + _INTERVAL
            self._draw(f"{self._count(done)} {bar(done, self.target)} {self._times(done, now)}{values(logs())}")

    def end(self, done: int, logs: Logs) -> None:
        """Writes the last line, with `logs` in full."""
        now = perf_counter()
        if self.silent:
            return
        if self.live:
            self._draw(f"{self._count(done)} {bar(done, self.target)} {self._times(done, now)}{values(logs)}")
            self.close()
        else:
            elapsed, _, per_step = self._times(done, now).partition(" ")
            print(f"{self._count(done)} - {elapsed} - {per_step}{values(logs)}", file=self._out, flush=True)

    def close(self) -> None:
        """Leaves the line, if one was being drawn: also after an interruption."""
        if self._length:
            self._out.write("\n")
            self._out.flush()
            self._length = 0

    def _count(self, done: int) -> str:
        return f"{done:{len(str(self.target))}d}/{self.target}"

    def _times(self, done: int, now: float) -> str:
        since, steps = (self._after_first, done - 1) if done > 1 else (self._start, max(done, 1))
        per_step = (now - since) / steps
        return f"{now - self._start:.0f}s {duration(per_step)}/step"

    def _draw(self, line: str) -> None:
        try:
            columns = os.get_terminal_size(self._out.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        if columns:
            # A line that wraps could not be drawn over.
            line = line[: columns - 1]
        self._out.write("\r" + line + " " * (self._length - len(line)))
        self._out.flush()
        self._length = len(line)


def bar(done: int, target: int) -> str:
    """A bar of 20 cells, in ASCII where the output's encoding has no better."""
    filled = _WIDTH * done // target if target else _WIDTH
    full, empty = "━", "╌"
    try:
        (full + empty).encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        full, empty = "=", "."
    return full * filled + empty * (_WIDTH - filled)


def duration(seconds: float) -> str:
    """ "2s", "15ms" or "300us"."""
    if seconds >= 1 or seconds == 0:
        return f"{seconds:.0f}s"
    return f"{seconds * 1e3:.0f}ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f}us"


def values(logs: Logs) -> str:
    """ " - name: value" for each of the logs, in Keras' precision."""
    return "".join(f" - {name}: {v:.4f}" if abs(v) > 1e-3 else f" - {name}: {v:.4e}" for name, v in logs.items())
