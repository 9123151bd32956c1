"""ONNX Runtime: its LSTM or GRU operator, inference only; weights are constants of the model, so it may pack them.

Time first, the only layout its operators know. Sequential execution, all graph optimizations, denormals flushed, its
threads allowed to spin, inputs and outputs bound to memory ahead. A time step on its own is a run over one step, whose
states go to and fro between two places, bound likewise: `session.run`, which is given names and arrays, is slower.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from fastrnn.bench.layer import Problem
from fastrnn.bench.peers import Job


def versions() -> str:
    return f"ONNX Runtime {onnxruntime.__version__}"


def _gates(a: np.ndarray, cell: str) -> np.ndarray:
    """The last axis from Keras' order of gates to ONNX's: i, f, c, o to i, o, f, c; z, r, h stay."""
    if cell == "gru":
        return a
    i, f, c, o = np.split(a, 4, axis=-1)
    return np.concatenate([i, o, f, c], axis=-1)


def _session(problem: Problem, threads: int, *, stream: bool) -> Any:
    """A session of the layer: over all steps, from zero states, or over one step, states given."""
    spec = problem.layer
    B, T, I, H = spec.shape
    T = 1 if stream else T
    biases = [problem.b, np.zeros_like(problem.b)] if spec.cell == "lstm" else list(problem.b)
    weights = {
        "W": _gates(problem.W, spec.cell).T[None],
        "R": _gates(problem.U, spec.cell).T[None],
        "B": np.concatenate([_gates(bias, spec.cell) for bias in biases])[None],
    }
    real = TensorProto.FLOAT if spec.dtype == "float32" else TensorProto.DOUBLE
    number = 2 if spec.cell == "lstm" else 1
    states, given = ["Y_h", "Y_c"][:number], ["h", "c"][: number * stream]
    attributes: dict[str, Any] = {} if spec.cell == "lstm" else {"linear_before_reset": 1}
    inputs = ["X", "W", "R", "B", *([""] * stream), *given]  # between them, lengths, which are not given
    node = helper.make_node(spec.cell.upper(), inputs, ["Y", *states], hidden_size=H, **attributes)
    graph = helper.make_graph(
        [node],
        "layer",
        [
            helper.make_tensor_value_info("X", real, [T, B, I]),
            *(helper.make_tensor_value_info(name, real, [1, B, H]) for name in given),
        ],
        [
            helper.make_tensor_value_info("Y", real, [T, 1, B, H]),
            *(helper.make_tensor_value_info(name, real, [1, B, H]) for name in states),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()],
    )
    # an old version of the format, which every runtime of the last years reads
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def layer(problem: Problem, variant: str, threads: int) -> Job:
    session = _session(problem, threads, stream=False)
    binding = session.io_binding()
    x = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(problem.x.swapaxes(0, 1)))
    binding.bind_ortvalue_input("X", x)
    for output in session.get_outputs():
        made = onnxruntime.OrtValue.ortvalue_from_shape_and_type(output.shape, problem.layer.dtype)
        binding.bind_ortvalue_output(output.name, made)

    def run() -> None:
        session.run_with_iobinding(binding)

    def results() -> dict[str, np.ndarray]:
        run()
        return {"y": binding.copy_outputs_to_cpu()[0][:, 0].swapaxes(0, 1)}

    return Job(run=run, results=results)


def stream(problem: Problem, variant: str, threads: int) -> Job:
    session = _session(problem, threads, stream=True)
    spec = problem.layer
    names = ["h", "c"] if spec.cell == "lstm" else ["h"]
    made = onnxruntime.OrtValue.ortvalue_from_numpy
    places = [[made(np.zeros((1, 1, spec.shape[3]), spec.dtype)) for _ in names] for _ in range(2)]
    inputs = [made(np.ascontiguousarray(problem.x[:, t])[None]) for t in range(spec.shape[1])]

    def bound(x: Any, source: list[Any], target: list[Any]) -> Any:
        binding = session.io_binding()
        binding.bind_ortvalue_input("X", x)
        for name, before, after in zip(names, source, target, strict=True):
            binding.bind_ortvalue_input(name, before)
            binding.bind_ortvalue_output(f"Y_{name}", after)
        return binding

    # twice over, so that an odd number of inputs ends where it began
    bindings = [bound(x, places[k % 2], places[1 - k % 2]) for k, x in enumerate([*inputs, *inputs])]
    feed = itertools.cycle(bindings)

    def results() -> dict[str, np.ndarray]:
        outputs = []
        for binding in bindings[: len(inputs)]:
            session.run_with_iobinding(binding)
            outputs.append(binding.copy_outputs_to_cpu()[0].reshape(1, -1))
        return {"y": np.stack(outputs, axis=1)}

    return Job(run=lambda: session.run_with_iobinding(next(feed)), results=results)
