"""JAX: the layer as one would write it for speed, compiled ahead by XLA.

The inputs' product is one for all time steps; lax.scan goes over time, which is the first axis; training is jax.vjp
over all arguments, inputs included, in the same compiled function.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastrnn.bench.layer import Problem
from fastrnn.bench.peers import Job


def versions() -> str:
    return f"JAX {jax.__version__}"


def _lstm(x: Any, W: Any, U: Any, b: Any) -> Any:
    def step(state: Any, a: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(a + h @ U, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((x.shape[1], len(U)), x.dtype)
    return jax.lax.scan(step, (zeros, zeros), x @ W + b)[1]


def _gru(x: Any, W: Any, U: Any, b: Any) -> Any:
    def step(h: Any, a: Any) -> Any:
        a_z, a_r, a_h = jnp.split(a, 3, axis=-1)
        u_z, u_r, q = jnp.split(h @ U + b[1], 3, axis=-1)
        z, r = jax.nn.sigmoid(a_z + u_z), jax.nn.sigmoid(a_r + u_r)
        h = z * h + (1 - z) * jnp.tanh(a_h + r * q)
        return h, h

    return jax.lax.scan(step, jnp.zeros((x.shape[1], len(U)), x.dtype), x @ W + b[0])[1]


def layer(problem: Problem, variant: str, threads: int) -> Job:
    spec = problem.layer
    jax.config.update("jax_enable_x64", spec.dtype == "float64")
    forward = _lstm if spec.cell == "lstm" else _gru
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
