"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path to write to, and on success moves it to `path` in one step.

    The temporary file lies in the same folder, which makes the move atomic. Where the block raises,
    Ctrl-C included, it is removed and whatever was at `path` stays. A link is followed, not replaced.

    Raises:
        OSError: as from writing and moving; the folder must exist.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
