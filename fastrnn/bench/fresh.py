"""One contender in a process that starts, does its work once, and ends: what it takes until the first result.

Run as a script, `python -P fresh.py CONTENDER PACKAGE THREADS KIND SPEC`, so that nothing is imported before the clock
runs. It prints a line of JSON: the seconds that import, building and the first call took, and the memory in bytes that
the process held after the import and at most.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 300


def main(name: str, package: str, threads: str, kind: str, spec: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    clock = [time.perf_counter()]
    importlib.import_module(package)
    clock.append(time.perf_counter())
    from fastrnn.bench.peers import contenders, load
    from fastrnn.bench.worker import KINDS

    module = load(name)
    what = KINDS[kind](json.loads(spec))
    before, most = _memory("VmRSS"), _memory("VmHWM")
    _forget_peak()
    clock.append(time.perf_counter())
    job = getattr(module, kind)(what, contenders()[name].variant, int(threads))
    clock.append(time.perf_counter())
    job.run()
    clock.append(time.perf_counter())
    answer = {
        "import": clock[1] - clock[0],
        "build": clock[3] - clock[2],
        "first call": clock[4] - clock[3],
        "memory before": before,
        "peak memory": (peak := _memory("VmHWM")),
        "peak of the process": None if peak is None or most is None else max(peak, most),
        "versions": module.versions(),
    }
    answers.write(json.dumps(answer) + "\n")
    answers.close()
    os._exit(0)  # libraries take their time to end


def _memory(key: str) -> int | None:
    """Of this process, in bytes: now (VmRSS) or at most (VmHWM); None where the system does not say."""
    # not getrusage: what it tells of a new process includes its parent's
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def _forget_peak() -> None:
    """The most memory so far is from now on what is held now: imports and data may have taken more."""
    with contextlib.suppress(OSError):  # where that cannot be asked for, the peak may be one of before
        Path("/proc/self/clear_refs").write_text("5")


def start(name: str, package: str, threads: int, kind: str, spec: dict[str, Any], environment: dict[str, str]) -> Any:
    """Runs the script and gives what it printed. RuntimeError where it fails, or takes too long."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    try:
        done = subprocess.run(
            [sys.executable, "-P", __file__, name, package, str(threads), kind, json.dumps(spec)],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
            env={**os.environ, **environment, "PYTHONPATH": path},
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done after {TIMEOUT_SECONDS} seconds") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit code {done.returncode}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
