"""Fetching a file with a known hash: checked, shown, and written whole or not at all."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from fastrnn.io.atomic import replacing

# Applies to connecting and to every read: a host that cannot be reached is given up within seconds.
TIMEOUT_SECONDS = 10.0
_CHUNK = 1 << 16


class DownloadError(OSError):
    """A file could not be fetched, did not have the hash it should have, or could not be written."""


def fetch(url: str, path: Path, algorithm: str, digest: str) -> None:
    """Downloads `url` to `path`, whose folder is made where missing.

    Args:
        url: an http or https address.
        path: the file to write; it appears only when whole and checked.
        algorithm: of the hash, a name that `hashlib.new` knows.
        digest: the hash, in hexadecimal.

    Raises:
        DownloadError: with a message that names `url` or `path` and the cause.
    """
    # Imported here: only a download needs them, and they would slow down `import fastrnn`.
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "xb") as file:
            try:
                with urlopen(url, timeout=TIMEOUT_SECONDS) as response:
                    hasher = hashlib.new(algorithm)
                    progress = _Progress(path.name, url, int(response.headers.get("Content-Length") or 0))
                    while chunk := response.read(_CHUNK):
                        file.write(chunk)
                        hasher.update(chunk)
                        progress.add(len(chunk))
                    progress.close()
            except (OSError, HTTPException) as error:
                raise DownloadError(f"{url} could not be downloaded: {error}") from error
            if hasher.hexdigest() != digest:
                raise DownloadError(
                    f"{url} does not have the expected {algorithm} (got {hasher.hexdigest()}, "
                    f"expected {digest}); nothing was kept"
                )
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(f"{path} could not be written: {error}") from error


class _Progress:
    """A bar that redraws itself on a terminal; two lines, at start and end, anywhere else. On stderr."""

    def __init__(self, name: str, url: str, total: int) -> None:
        self.name, self.total, self.done, self.percent = name, total, 0, -1
        self.live = sys.stderr.isatty() and total > 0
        if not self.live:
            print(f"Downloading {url}", file=sys.stderr)

    def add(self, size: int) -> None:
        self.done += size
        if not self.live:
            return
        percent = min(100, 100 * self.done // self.total)
        if percent == self.percent:
            return
        self.percent = percent
        bar = "━" * (percent * 30 // 100)
        amount = f"{self.done / 1e6:.1f}/{self.total / 1e6:.1f} MB"
        print(f"\r{self.name} {bar:<30} {percent:3d}% {amount}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        print("" if self.live else f"Downloaded {self.done / 1e6:.1f} MB", file=sys.stderr)
