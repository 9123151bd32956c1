"""Where a measurement was made: the machine and the versions, as results files state them."""

from __future__ import annotations

import platform
import subprocess
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fastrnn.backends import available_backends
from fastrnn.backends.threads import cores
from fastrnn.version import __version__


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


@cache
def gpus() -> list[str]:
    """The names of the NVIDIA GPUs, as their driver tells them."""
    return _ask_driver("name")


def driver() -> str | None:
    """The version of the NVIDIA driver, None without one."""
    return next(iter(_ask_driver("driver_version")), None)


def _ask_driver(what: str) -> list[str]:
    """A line for each GPU."""
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return found.strip().splitlines()


def instruction_set() -> str | None:
    """The C kernels' instruction set, None without them."""
    if available_backends().get("c") is not None:
        return None
    from fastrnn.backends import c

    return c.isa()


def describe() -> dict[str, Any]:
    """The machine and the versions of what every contender stands on."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": cores(),
        "instruction_set": instruction_set(),
        "gpus": gpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"fastrnn": __version__, "Python": platform.python_version(), "NumPy": np.__version__},
    }


def bandwidth(threads: int, megabytes: int = 256, repeats: int = 5) -> float:
    """Bytes a second, read and written, of a copy that no cache holds, by all threads together; the best of some."""
    parts = [(np.ones(megabytes << 17), np.zeros(megabytes << 17)) for _ in range(threads)]
    best = float("inf")
    for _ in range(repeats):
        workers = [threading.Thread(target=np.copyto, args=(out, part)) for part, out in parts]
        begin = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = min(best, time.perf_counter() - begin)
    return sum(part.nbytes + out.nbytes for part, out in parts) / best
