"""JAX: the layer as one would write it for speed, compiled ahead by XLA.

The inputs' product is one for all time steps; lax.scan goes over time, which is the first axis, without unrolling,
which makes training slower at every shape tried; training is jax.vjp over all arguments, inputs included, in the same
compiled function. A time step on its own is one compiled function of weights, input and states.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastrnn.bench.layer import Problem
from fastrnn.bench.peers import Job, stream_job


def versions() -> str:
    return f"JAX {jax.__version__}"


def _inputs(x: Any, W: Any, b: Any) -> Any:
    """The inputs' part of the gates, with their bias; GRU's b has a second row, for the states."""
    return x @ W + (b if b.ndim == 1 else b[0])


def _lstm_step(U: Any, b: Any, states: Any, a: Any) -> Any:
    """From the inputs' part and the states before: (states, output)."""
    h, c = states
    i, f, g, o = jnp.split(a + h @ U, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def _gru_step(U: Any, b: Any, states: Any, a: Any) -> Any:
    (h,) = states
    a_z, a_r, a_h = jnp.split(a, 3, axis=-1)
    u_z, u_r, q = jnp.split(h @ U + b[1], 3, axis=-1)
    z, r = jax.nn.sigmoid(a_z + u_z), jax.nn.sigmoid(a_r + u_r)
    h = z * h + (1 - z) * jnp.tanh(a_h + r * q)
    return (h,), h


def _cell(name: str) -> tuple[Any, int]:
    """The function of one step, and the number of states."""
    return (_lstm_step, 2) if name == "lstm" else (_gru_step, 1)


def layer(problem: Problem, variant: str, threads: int) -> Job:
    spec = problem.layer
    jax.config.update("jax_enable_x64", spec.dtype == "float64")
    step, states = _cell(spec.cell)

    def forward(x: Any, W: Any, U: Any, b: Any) -> Any:
        zeros = (jnp.zeros((x.shape[1], len(U)), x.dtype),) * states
        return jax.lax.scan(functools.partial(step, U, b), zeros, _inputs(x, W, b))[1]

    arguments = [problem.x.swapaxes(0, 1), problem.W, problem.U, problem.b]
    if spec.train:
        arguments.append(problem.dy.swapaxes(0, 1))

    def train(x: Any, W: Any, U: Any, b: Any, dy: Any) -> Any:
        y, pull = jax.vjp(forward, x, W, U, b)
        return y, *pull(dy)

    def infer(*values: Any) -> Any:
        return (forward(*values),)

    given = [jax.device_put(np.ascontiguousarray(value)) for value in arguments]
    compiled = jax.jit(train if spec.train else infer).lower(*given).compile()

    def run() -> Any:
        return jax.block_until_ready(compiled(*given))

    def results() -> dict[str, np.ndarray]:
        named = dict(zip(("y", "dx", "dW", "dU", "db"), map(np.asarray, run()), strict=False))
        return {name: value.swapaxes(0, 1) if name in ("y", "dx") else value for name, value in named.items()}

    return Job(run=run, results=results)


def stream(problem: Problem, variant: str, threads: int) -> Job:
    spec = problem.layer
    jax.config.update("jax_enable_x64", spec.dtype == "float64")
    cell_step, states = _cell(spec.cell)
    zeros = (jax.device_put(np.zeros((1, spec.shape[3]), spec.dtype)),) * states
    W, U, b = (jax.device_put(value) for value in (problem.W, problem.U, problem.b))
    inputs = [jax.device_put(np.ascontiguousarray(problem.x[:, t])) for t in range(spec.shape[1])]

    def one(W: Any, U: Any, b: Any, x: Any, states: Any) -> Any:
        states, y = cell_step(U, b, states, _inputs(x, W, b))
        return y, states

    compiled = jax.jit(one)

    def step(x: Any, states: Any) -> Any:
        y, states = compiled(W, U, b, x, states)
        return y.block_until_ready(), states  # all come out of one program

    return stream_job(inputs, zeros, step)
