"""Keras on TensorFlow: the layer and a GradientTape in one tf.function, plain, or compiled by XLA (variant "jit").

Batch first, as Keras has it; the gradients are those of the inputs and all weights. A time step on its own is a call of
the cell in a tf.function. Whole models are trained by `model.fit` on arrays in memory, as users do: with the settings
that Keras comes with; in variant "jit" at its best, which is jit_compile=True and up to 64 steps in one execution
(`steps_per_execution`; a third less time for the small models); in variant "jax" on JAX, which gains nothing by that.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# the process of Keras on JAX is started with it set
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras

from fastrnn.bench.layer import Problem
from fastrnn.bench.models import BATCH, LENGTH, Training
from fastrnn.bench.peers import Job, stream_job

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


def versions() -> str:
    backend = keras.backend.backend()
    name = {"tensorflow": "TensorFlow", "jax": "JAX"}[backend]
    return f"Keras {keras.__version__}, {name} {importlib.import_module(backend).__version__}"


def _set_threads(threads: int) -> None:
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:  # refused once TensorFlow runs
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def _layer(problem: Problem) -> Any:
    spec = problem.layer
    make = keras.layers.LSTM if spec.cell == "lstm" else keras.layers.GRU
    module = make(spec.shape[3], return_sequences=True, dtype=spec.dtype)
    module.build(problem.x.shape)
    module.set_weights([problem.W, problem.U, problem.b])
    return module


def layer(problem: Problem, variant: str, threads: int) -> Job:
    _set_threads(threads)
    spec, module = problem.layer, _layer(problem)
    x, dy = tf.constant(problem.x), tf.constant(problem.dy)

    def train(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = module(x)
        return y, *tape.gradient(y, [x, *module.trainable_variables], output_gradients=dy)

    def infer(x: Any, _: Any) -> Any:
        return (module(x),)

    compiled = tf.function(train if spec.train else infer, jit_compile=variant == "jit")

    def run() -> Any:
        return compiled(x, dy)  # on the CPU, a call returns when all is computed

    def results() -> dict[str, np.ndarray]:
        arrays = [output.numpy() for output in run()]
        return dict(zip(("y", "dx", "dW", "dU", "db"), arrays, strict=False))

    return Job(run=run, results=results)


def stream(problem: Problem, variant: str, threads: int) -> Job:
    _set_threads(threads)
    spec = problem.layer
    cell = _layer(problem).cell
    zeros = [tf.zeros((1, spec.shape[3]), spec.dtype)] * (2 if spec.cell == "lstm" else 1)
    step = tf.function(lambda x, states: cell(x, states), jit_compile=variant == "jit")
    return stream_job([tf.constant(problem.x[:, t]) for t in range(spec.shape[1])], zeros, step)


def step(training: Training, variant: str, threads: int) -> Job:
    if variant != "jax":
        _set_threads(threads)
    model = keras.Sequential([keras.Input((LENGTH,)), *training.layers(keras.layers)])
    optimizer = keras.optimizers.RMSprop(1e-4)
    model.compile(
        optimizer=optimizer,
        jit_compile=True if variant == "jit" else "auto",
        steps_per_execution=min(training.steps, 64) if variant == "jit" else 1,
        **training.compile_options,
    )
    model.set_weights(training.weights())
    x, y = training.data()
    return Job(
        run=lambda: model.fit(x, y, batch_size=BATCH, verbose=0),
        results=lambda: {"loss": np.array(model.evaluate(*training.data(1), batch_size=BATCH, verbose=0)[0])},
        times=training.steps,
    )
