"""One training step of the textbook chapter's models, fit loop included, beside Keras on its backends.

Rounds are interleaved, all contenders within each, and a ratio is taken within its round: the speed of a shared
machine drifts, ratios do not.
"""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from conftest import Contender, add_row
from contender import MODELS

ROUNDS = 11
STEPS = 600
PEER_STEPS = 30


@pytest.mark.parametrize("contenders", MODELS, indirect=True, ids=str)
def test_training_step(benchmark: Any, contenders: dict[str, Contender], request: pytest.FixtureRequest) -> None:
    model = request.node.callspec.params["contenders"]
    want = contenders["fastrnn"].loss
    for name, contender in contenders.items():
        assert contender.loss == pytest.approx(want, rel=1e-5), f"{name} computes something else"
        contender.train(10)  # compiles, warms up

    def peers() -> None:
        for name, contender in contenders.items():
            if name != "fastrnn":
                contender.seconds.append(contender.train(PEER_STEPS))

    ours = contenders["fastrnn"]
    benchmark.group = f"step: {model}"
    benchmark.pedantic(lambda: ours.seconds.append(ours.train(STEPS)), setup=peers, rounds=ROUNDS, iterations=1)
    for name, contender in contenders.items():
        ratios = [theirs / mine for theirs, mine in zip(contender.seconds, ours.seconds, strict=True)]
        ms = 1e3 * statistics.median(contender.seconds)
        ratio = statistics.median(ratios)
        benchmark.extra_info[name] = {
            "ms_per_step": ms,
            "times_fastrnn": ratio,
            "times_fastrnn_range": [min(ratios), max(ratios)],
            "versions": contender.versions,
        }
        add_row(
            f"{model:18} {name:22} {ms:8.3f} ms {ratio:7.1f}x  ({min(ratios):.1f} to {max(ratios):.1f})  "
            f"{contender.versions}"
        )
