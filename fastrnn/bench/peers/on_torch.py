"""PyTorch: nn.LSTM and nn.GRU, time first (its own layout), denormals flushed, as here.

Training goes through autograd, with the gradient of the inputs; inference runs in inference_mode.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastrnn.bench.layer import Problem
from fastrnn.bench.peers import Job


def versions() -> str:
    return f"PyTorch {torch.__version__}"


def _gates(a: np.ndarray, cell: str) -> np.ndarray:
    """The gates of the last axis between Keras' order and PyTorch's, either way: GRU's z, r, h and r, z, h."""
    if cell == "lstm":
        return a
    z, r, h = np.split(a, 3, axis=-1)
    return np.concatenate([r, z, h], axis=-1)


def layer(problem: Problem, variant: str, threads: int) -> Job:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    spec = problem.layer
    _, _, I, H = spec.shape
    make: Any = torch.nn.LSTM if spec.cell == "lstm" else torch.nn.GRU
    module = make(I, H, dtype=getattr(torch, spec.dtype))
    biases = np.stack([problem.b, np.zeros_like(problem.b)]) if spec.cell == "lstm" else problem.b
    weights = (problem.W.T, problem.U.T, *biases)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), weights, strict=True):
            # the gates are the rows of its matrices
            ordered = _gates(value.T, spec.cell).T if value.ndim == 2 else _gates(value, spec.cell)
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(ordered)))
    x = torch.from_numpy(np.ascontiguousarray(problem.x.swapaxes(0, 1)))
    dy = torch.from_numpy(np.ascontiguousarray(problem.dy.swapaxes(0, 1)))

    if not spec.train:
        module.eval()

        def infer() -> Any:
            with torch.inference_mode():
                return module(x)[0]

        return Job(run=infer, results=lambda: {"y": infer().numpy().swapaxes(0, 1)})

    x.requires_grad_()
    arguments = [x, *module.parameters()]

    def train() -> Any:
        y = module(x)[0]
        return y, torch.autograd.grad(y, arguments, dy)

    def results() -> dict[str, np.ndarray]:
        y, grads = train()
        dx, dW, dU, *db = (grad.numpy() for grad in grads)
        db = [_gates(part, spec.cell) for part in db]
        return {
            "y": y.detach().numpy().swapaxes(0, 1),
            "dx": dx.swapaxes(0, 1),
            "dW": _gates(dW.T, spec.cell),
            "dU": _gates(dU.T, spec.cell),
            "db": db[0] if spec.cell == "lstm" else np.stack(db),
        }

    return Job(run=train, results=results)
