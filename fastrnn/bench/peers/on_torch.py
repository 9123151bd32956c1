"""PyTorch: nn.LSTM and nn.GRU, time first (its own layout), denormals flushed, as here.

Training goes through autograd, with the gradient of the inputs; inference runs in inference_mode. A time step on its
own is nn.LSTMCell or nn.GRUCell, which take less time than the layer over one step. Whole models are trained by the
plain loop that PyTorch's users write, over slices of tensors in memory, with RMSprop(alpha=0.9, eps=1e-7), which are
Keras' settings; but eps is added to the root, not under it, and the layers have two biases each, so the models part
after the first step. Those with dropout are left out: PyTorch has no recurrent dropout, and another one of inputs.

Variant "cuda" is the same on a GPU, which cuDNN computes: weights stay there, inputs come from the host's memory and
results go back, as they do with this package's backend of that name. TF32 is off, so that it computes what is asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from fastrnn.bench.layer import Problem
from fastrnn.bench.models import BATCH, FEATURES, MODELS, VOCABULARY, Training
from fastrnn.bench.peers import Job, stream_job


def versions() -> str:
    return f"PyTorch {torch.__version__}"


def _gates(a: np.ndarray, cell: str) -> np.ndarray:
    """The gates of the last axis between Keras' order and PyTorch's, either way: GRU's z, r, h and r, z, h."""
    if cell == "lstm":
        return a
    z, r, h = np.split(a, 3, axis=-1)
    return np.concatenate([r, z, h], axis=-1)


def _prepare(threads: int, variant: str) -> Any:
    """The device to compute on."""
    # before any other thread is made, which inherits it
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device(variant or "cpu")


def _set_weights(parameters: Iterable[Any], cell: str, W: np.ndarray, U: np.ndarray, b: np.ndarray) -> None:
    """Keras' weights into a layer's or cell's parameters; the gates are the rows of its matrices."""
    biases = [b, np.zeros_like(b)] if cell == "lstm" else list(b)
    values = [_gates(W, cell).T, _gates(U, cell).T, *(_gates(bias, cell) for bias in biases)]
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def layer(problem: Problem, variant: str, threads: int) -> Job:
    return layer_on(problem, _prepare(threads, variant))


def layer_on(problem: Problem, device: Any, *, resident: bool = False) -> Job:
    """The layer on that device; `resident` leaves inputs and results there, too."""
    spec = problem.layer
    _, _, I, H = spec.shape
    make: Any = torch.nn.LSTM if spec.cell == "lstm" else torch.nn.GRU
    module = make(I, H, dtype=getattr(torch, spec.dtype))
    _set_weights(module.parameters(), spec.cell, problem.W, problem.U, problem.b)
    module.to(device)
    x = torch.from_numpy(np.ascontiguousarray(problem.x.swapaxes(0, 1)))
    dy = torch.from_numpy(np.ascontiguousarray(problem.dy.swapaxes(0, 1)))
    home = device if resident else torch.device("cpu")
    x, dy = x.to(home), dy.to(home)

    if not spec.train:
        module.eval()

        def infer() -> Any:
            with torch.inference_mode():
                return module(x.to(device))[0].to(home)

        return Job(run=infer, results=lambda: {"y": infer().cpu().numpy().swapaxes(0, 1)})

    x.requires_grad_()
    arguments = [x, *module.parameters()]

    def train() -> Any:
        y = module(x.to(device))[0]
        grads = torch.autograd.grad(y, arguments, dy.to(device))
        return y.to(home), [grad.to(home) for grad in grads]

    def results() -> dict[str, np.ndarray]:
        y, grads = train()
        dx, dW, dU, *db = (grad.cpu().numpy() for grad in grads)
        db = [_gates(part, spec.cell) for part in db]
        return {
            "y": y.detach().cpu().numpy().swapaxes(0, 1),
            "dx": dx.swapaxes(0, 1),
            "dW": _gates(dW.T, spec.cell),
            "dU": _gates(dU.T, spec.cell),
            "db": db[0] if spec.cell == "lstm" else np.stack(db),
        }

    return Job(run=train, results=results)


def stream(problem: Problem, variant: str, threads: int) -> Job:
    _prepare(threads, variant)
    spec = problem.layer
    _, T, I, H = spec.shape
    dtype = getattr(torch, spec.dtype)
    make: Any = torch.nn.LSTMCell if spec.cell == "lstm" else torch.nn.GRUCell
    cell = make(I, H, dtype=dtype)
    _set_weights(cell.parameters(), spec.cell, problem.W, problem.U, problem.b)
    zero = torch.zeros(1, H, dtype=dtype)

    def lstm(x: Any, states: Any) -> Any:
        with torch.inference_mode():
            states = cell(x, states)
        return states[0], states

    def gru(x: Any, state: Any) -> Any:
        with torch.inference_mode():
            state = cell(x, state)
        return state, state

    inputs = [torch.from_numpy(np.ascontiguousarray(problem.x[:, t])) for t in range(T)]
    return stream_job(inputs, (zero, zero), lstm) if spec.cell == "lstm" else stream_job(inputs, zero, gru)


class _Model(torch.nn.Module):  # type: ignore[misc]
    """Embedding, recurrent layers, and the number before the sigmoid."""

    def __init__(self, training: Training) -> None:
        super().__init__()
        cell, recurrent = MODELS[training.model]
        if any("dropout" in name for arguments in recurrent for name in arguments):
            raise ValueError(f"no PyTorch layer has the dropout of {training.model!r}")
        make: Any = getattr(torch.nn, cell)
        self.embedding = torch.nn.Embedding(VOCABULARY, FEATURES)
        self.recurrent = make(FEATURES, training.units, num_layers=len(recurrent))
        self.dense = torch.nn.Linear(training.units, 1)
        table, *middle, W, b = training.weights()
        with torch.no_grad():
            self.embedding.weight.copy_(torch.from_numpy(table))
            self.dense.weight.copy_(torch.from_numpy(W.T))
            self.dense.bias.copy_(torch.from_numpy(b))
        parameters = list(self.recurrent.parameters())
        for k in range(len(recurrent)):
            _set_weights(parameters[4 * k : 4 * k + 4], cell.lower(), *middle[3 * k : 3 * k + 3])

    def forward(self, ids: Any) -> Any:
        y, _ = self.recurrent(self.embedding(ids.t()))  # time first
        return self.dense(y[-1])[:, 0]


def step(training: Training, variant: str, threads: int) -> Job:
    device = _prepare(threads, variant)
    model = _Model(training).to(device)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-4, alpha=0.9, eps=1e-7)
    criterion = torch.nn.BCEWithLogitsLoss()
    x, y = (torch.from_numpy(array) for array in training.data())

    def results() -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return {"loss": criterion(model(x[:BATCH].to(device)), y[:BATCH].to(device)).cpu().numpy()}

    def run() -> Any:
        total, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        for begin in range(0, len(x), BATCH):
            ids, labels = x[begin : begin + BATCH].to(device), y[begin : begin + BATCH].to(device)
            optimizer.zero_grad()
            logits = model(ids)
            batch_loss = criterion(logits, labels)
            batch_loss.backward()
            optimizer.step()
            total += batch_loss.detach()
            correct += ((logits.detach() > 0) == (labels > 0.5)).sum()
        return total.item(), correct.item()

    return Job(run=run, results=results, times=training.steps)
