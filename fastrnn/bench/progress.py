"""What a person sees while a run goes on: a bar, if rich is installed and someone looks on; else a line a case.

It draws between the timed parts only: a thread that redraws would take its share of the cores.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, TextIO


class Progress:
    """Counts cases and tells what goes on. A context manager."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.total, self.done = 0, 0
        self._stream = stream or sys.stderr
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._stream.isatty():
            self._bar = _rich_bar(self._stream)
            if self._bar is not None:
                self._bar.start()
                self._task = self._bar.add_task("")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def note(self, text: str) -> None:
        """What goes on now."""
        if self._bar is not None:
            self._bar.update(self._task, description=text, total=self.total, refresh=True)

    def tick(self) -> None:
        """A part of a round is over."""
        if self._bar is not None:
            self._bar.refresh()

    def case(self, line: str) -> None:
        """A case is done; `line` says what came out."""
        self.done += 1
        if self._bar is None:
            print(f"[{self.done}/{self.total}] {line}", file=self._stream, flush=True)
        else:
            self._bar.console.print(line, highlight=False)
            self._bar.update(self._task, completed=self.done, total=self.total, refresh=True)


def _rich_bar(stream: TextIO) -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar
    except ImportError:
        return None
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    return Bar(*columns, console=Console(file=stream), auto_refresh=False, transient=True)
