"""The latency of one step of a stream, called from Python: median, 99th percentile and maximum of many steps."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import fastrnn as fr

INPUTS, UNITS, STEPS = 16, 32, 100_000


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_latency(benchmark: Any, cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    layer = getattr(fr, cell)(UNITS)
    layer.build((None, None, INPUTS))
    step = fr.Stream(layer).step
    inputs = list(np.random.default_rng(0).standard_normal((1000, INPUTS)).astype("float32"))
    nanoseconds = np.empty(STEPS)

    def run() -> None:
        now = time.perf_counter_ns
        for k in range(STEPS):
            x = inputs[k % 1000]
            begin = now()
            step(x)
            nanoseconds[k] = now() - begin

    run()
    benchmark.pedantic(run, rounds=1)
    p50, p99, most = np.percentile(nanoseconds, [50, 99, 100]) / 1e3
    benchmark.extra_info.update(p50_us=p50, p99_us=p99, max_us=most)
    with capsys.disabled():
        print(f"\n{cell}({UNITS}), {INPUTS} inputs, one step: p50 {p50:.2f} us, p99 {p99:.2f} us, max {most:.1f} us")
