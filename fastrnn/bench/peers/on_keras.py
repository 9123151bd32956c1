"""Keras on TensorFlow: the layer and a GradientTape in one tf.function, plain, or compiled by XLA (variant "jit").

Batch first, as Keras has it; the gradients are those of the inputs and all weights.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf

from fastrnn.bench.layer import Problem
from fastrnn.bench.peers import Job


def versions() -> str:
    return f"Keras {keras.__version__}, TensorFlow {tf.__version__}"


def layer(problem: Problem, variant: str, threads: int) -> Job:
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:  # refused once TensorFlow runs
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    spec = problem.layer
    make = keras.layers.LSTM if spec.cell == "lstm" else keras.layers.GRU
    module = make(spec.shape[3], return_sequences=True, dtype=spec.dtype)
    module.build(problem.x.shape)
    module.set_weights([problem.W, problem.U, problem.b])
    x, dy = tf.constant(problem.x), tf.constant(problem.dy)

    @tf.function(jit_compile=variant == "jit")
    def train(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = module(x)
        return y, *tape.gradient(y, [x, *module.trainable_variables], output_gradients=dy)

    @tf.function(jit_compile=variant == "jit")
    def infer(x: Any) -> Any:
        return (module(x),)

    def run() -> Any:
        outputs = train(x, dy) if spec.train else infer(x)
        return outputs[-1].numpy(), outputs  # on the CPU, a call has computed its outputs when it returns

    def results() -> dict[str, np.ndarray]:
        arrays = [output.numpy() for output in run()[1]]
        return dict(zip(("y", "dx", "dW", "dU", "db"), arrays, strict=False))

    return Job(run=run, results=results)
