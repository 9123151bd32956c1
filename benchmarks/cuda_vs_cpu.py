"""The CUDA backend on a GPU, against cuDNN and Keras there and against the C backend on its host.

    python benchmarks/cuda_vs_cpu.py [--rounds 7] [--seconds 0.2] [--out benchmarks/results]

Needs an NVIDIA GPU and `pip install -e ".[cuda]" matplotlib`, and PyTorch and TensorFlow with CUDA for what is compared
with cuDNN and Keras; without a GPU it says so, ends with status 1 and writes nothing. It writes cuda_vs_cpu.json, .md
and .png, the first two after each of its parts:

layers   Forward and backward for all gradients ("train"), or forward alone ("inference"), with as many inputs as units.
         cuDNN runs by way of torch.nn.LSTM and GRU, time first, from the same weights. "with copies" takes arrays in
         the host's memory and leaves results there; elsewhere everything lies on the GPU before and after.
steps    The textbook chapter's models in `fit`, 64 reviews of 100 words a step: on the GPU nothing but dropout's
         factors is copied within an epoch.
options  Layers in training with recurrent dropout, or with a mask of padding to the left. cuDNN has neither, so they
         are compared with Keras on the same GPU.

Everything is float32, and TF32, which rounds the factors of products to 10 bits, is off; "cuDNN, TF32" is cuDNN once
more with it on. Whoever is more than 1e-3 (with TF32 5e-2) of an array's largest value off the reference in float64
gets no figure, a line that says so, and the script ends with status 1. Contenders take turns within a round; figures
are medians over rounds.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import importlib.util
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastrnn as fr
from fastrnn import ops, textbook
from fastrnn.bench import machine, report
from fastrnn.bench.charts import draw_crossover
from fastrnn.bench.layer import Layer, Problem, errors
from fastrnn.bench.peers import Job
from fastrnn.bench.results import Case, Results
from fastrnn.io.atomic import replacing

# B, T, H: small and large, a DeepBench one, FlashRNN's, and a single sequence
SHAPES = (
    *((64, 100, 8), (64, 100, 64), (64, 100, 128), (64, 100, 256), (64, 100, 512)),
    *((64, 25, 1024), (16, 1024, 768), (1, 100, 128)),
)
OPTION_SHAPES = ((64, 100, 8), (64, 100, 128))
STEPS = 100  # of an epoch
CUDA, COPIES, C, KERAS = "CUDA", "CUDA with copies", "C", "Keras"
CUDNN, CUDNN_COPIES, CUDNN_TF32 = "cuDNN", "cuDNN with copies", "cuDNN, TF32"
TOLERANCE, TOLERANCE_TF32 = 1e-3, 5e-2
TITLES = {
    "layers": "Layers: time of a call, and times as long as CUDA",
    "steps": "A step of training a model of the chapter, and times as long",
    "options": "What cuDNN has not, in training, and times as long",
}


class Sizes(NamedTuple):
    """What is measured."""

    shapes: tuple[tuple[int, int, int], ...] = SHAPES
    option_shapes: tuple[tuple[int, int, int], ...] = OPTION_SHAPES
    models: tuple[str, ...] = tuple(textbook.RECIPES)
    steps: int = STEPS


class Gpu:
    """The GPU, as this package, PyTorch and TensorFlow reach it."""

    backend, torch_device = "cuda", "cuda"

    def reason_missing(self) -> str | None:
        return fr.available_backends()[self.backend]

    def put(self, array: np.ndarray) -> Any:
        from numba import cuda

        return cuda.to_device(array)

    def synchronize(self) -> None:
        from numba import cuda

        cuda.synchronize()

    def describe(self) -> dict[str, Any]:
        from numba import cuda

        device = cuda.get_current_device()
        name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
        return {"gpus": [name], "compute_capability": list(device.compute_capability), "driver": machine.driver()}

    def torch(self) -> Any:
        """PyTorch, or why it takes no part."""
        try:
            import torch
        except ImportError:
            return "PyTorch is not installed"
        return torch if torch.cuda.is_available() else f"PyTorch {torch.__version__} finds no GPU"

    def tensorflow(self) -> Any:
        """TensorFlow, which leaves memory to others and has TF32 off; or why it takes no part."""
        os.environ["KERAS_BACKEND"] = "tensorflow"
        try:
            import tensorflow as tf
        except ImportError:
            return "TensorFlow is not installed"
        found = tf.config.list_physical_devices("GPU")
        if not found:
            return f"TensorFlow {tf.__version__} finds no GPU"
        for device in found:
            tf.config.experimental.set_memory_growth(device, True)
        tf.config.experimental.enable_tensor_float_32_execution(False)
        return tf


# -- contenders, each a function that makes its Job of a problem


def ours(problem: Problem, backend: str, put: Callable[[np.ndarray], Any] = lambda array: array) -> Job:
    there = copy.copy(problem)
    for name in ("x", "W", "U", "b", "dy"):
        setattr(there, name, put(getattr(problem, name)))
    moved = {name: put(value) for name, value in problem.options.items() if isinstance(value, np.ndarray)}
    there.options = problem.options | moved

    def results() -> dict[str, np.ndarray]:
        return {name: ops.to_numpy(array) for name, array in there.named(*there.run(backend)).items()}

    return Job(lambda: there.run(backend), results)


def cudnn(problem: Problem, torch: Any, device: str, *, tf32: bool = False, resident: bool = True) -> Job:
    from fastrnn.bench.peers import on_torch

    job = on_torch.layer_on(problem, torch.device(device), resident=resident)

    def with_tf32(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
            return call()

        return run

    return Job(with_tf32(job.run), with_tf32(job.results))


def keras(problem: Problem, tf: Any) -> Job:
    """A GradientTape in a tf.function; a call ends when the GPU is done. A mask to the left is an error unless cuDNN is
    ruled out."""
    from keras import layers

    make = layers.LSTM if problem.layer.cell == "lstm" else layers.GRU
    rate = 0.3 if "recurrent_dropout_mask" in problem.options else 0.0
    use_cudnn = False if "mask" in problem.options else "auto"
    module = make(problem.layer.shape[3], return_sequences=True, recurrent_dropout=rate, use_cudnn=use_cudnn)
    module.build(problem.x.shape)
    module.set_weights([problem.W, problem.U, problem.b])
    x, dy = tf.constant(problem.x), tf.constant(problem.dy)
    mask = tf.constant(problem.options["mask"]) if "mask" in problem.options else None

    @tf.function
    def train(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = module(x, mask=mask, training=True)
        return y, *tape.gradient(y, [x, *module.trainable_variables], output_gradients=dy)

    def run() -> Any:
        outputs = train(x, dy)
        tf.test.experimental.sync_devices()
        return outputs

    names = ("y", "dx", "dW", "dU", "db")
    return Job(run, lambda: {name: array.numpy() for name, array in zip(names, run(), strict=True)})


# -- measuring


def take_turns(
    calls: dict[str, Callable[[], Any]], rounds: int, seconds: float, synchronize: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds a call, for each contender and round; who begins changes from round to round."""

    def run(call: Callable[[], Any], times: int) -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(times):
            call()
        synchronize()
        return (time.perf_counter() - start) / times

    for call in calls.values():
        run(call, 1)  # what is compiled at first
    times = {who: max(1, int(seconds / max(run(call, 1), 1e-6))) for who, call in calls.items()}
    found: dict[str, list[float]] = {who: [] for who in calls}
    everyone = list(calls)
    for number in range(rounds):
        turn = number % len(everyone)
        for who in everyone[turn:] + everyone[:turn]:
            found[who].append(run(calls[who], times[who]))
    return found


class Measurement:
    """Fills the results; `gpu` is where, `options` the command's."""

    def __init__(self, gpu: Gpu, results: Results, options: argparse.Namespace, sizes: Sizes) -> None:
        self.gpu, self.results, self.options, self.sizes = gpu, results, options, sizes
        missing = fr.available_backends()["c"]
        self.with_c = missing is None
        if missing is not None:
            results.skipped[C] = missing

    def case(self, case: Case, makers: dict[str, Callable[[], Job]], want: dict[str, np.ndarray]) -> None:
        """Checks the contenders against what must come out, and times those that are right."""
        ready = {}
        for who, make in makers.items():
            try:
                job = make()
                case.errors[who] = self._check(who, job.results(), want)
                ready[who] = job
            except Exception as error:  # whatever it is, it is this contender's, and told
                case.failed[who] = f"{who}: {type(error).__name__}: {' '.join(str(error).split())}"
        if ready:
            calls = {who: job.run for who, job in ready.items()}
            found = take_turns(calls, self.options.rounds, self.options.seconds, self.gpu.synchronize)
            case.rounds = {who: [value / ready[who].times for value in values] for who, values in found.items()}
        self.results.cases.append(case)
        times = [f"{who} {report.amount(case.value(who), 's')}" for who in case.rounds]
        print(f"{case.part}, {case.name}: {'; '.join([*times, *case.failed.values()])}", flush=True)

    def _check(self, who: str, got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> float:
        tolerance = TOLERANCE_TF32 if who == CUDNN_TF32 else TOLERANCE
        found = errors(got, want)
        wrong = {name: f"{error:.1e}" for name, error in found.items() if not error <= tolerance}
        if wrong:
            raise ValueError(f"computes something else: relative errors {wrong}")
        return max(found.values(), default=0.0)

    def _ours(self, problem: Problem) -> dict[str, Callable[[], Job]]:
        makers = {
            CUDA: lambda: ours(problem, self.gpu.backend, self.gpu.put),
            COPIES: lambda: ours(problem, self.gpu.backend),
        }
        return makers | ({C: lambda: ours(problem, "c")} if self.with_c else {})

    def layers(self) -> None:
        torch, device = self.gpu.torch(), self.gpu.torch_device
        if isinstance(torch, str):
            self.results.skipped[CUDNN] = torch
        else:
            self.results.about["versions"] |= {"PyTorch": torch.__version__, "cuDNN": torch.backends.cudnn.version()}
        for cell in ("lstm", "gru"):
            for B, T, H in self.sizes.shapes:
                want = Problem(Layer(cell, "train", (B, T, H, H))).expected()
                for mode in ("train", "inference"):
                    layer = Layer(cell, mode, (B, T, H, H))
                    problem = Problem(layer)
                    makers = self._ours(problem)
                    if not isinstance(torch, str):
                        for who, how in {
                            CUDNN: {},
                            CUDNN_COPIES: {"resident": False},
                            CUDNN_TF32: {"tf32": True},
                        }.items():
                            makers[who] = lambda how=how, problem=problem: cudnn(problem, torch, device, **how)
                    name, labels = f"{cell} {mode} {B},{T},{H}", layer.to_json() | {"H": H}
                    case = Case("layers", name, labels, CUDA, operations=layer.operations)
                    self.case(case, makers, want if layer.train else {"y": want["y"]})

    def steps(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.integers(0, textbook.VOCABULARY, (self.sizes.steps * textbook.BATCH, textbook.LENGTH)).astype(np.int32)
        y = rng.integers(0, 2, len(x)).astype(np.float32)

        def fit(name: str, backend: str) -> Job:
            """Epochs of a model; what is checked is the first one's loss."""
            model = textbook.build(name, backend=backend)

            def run() -> Any:
                return model.fit(x, y, textbook.BATCH, verbose=0).history["loss"]

            return Job(run, lambda: {"loss": np.array(run())}, times=self.sizes.steps)

        for name in self.sizes.models:
            makers = {CUDA: lambda name=name: fit(name, self.gpu.backend)}
            if self.with_c:
                makers[C] = lambda name=name: fit(name, "c")
            self.case(Case("steps", name, {"model": name}, CUDA), makers, fit(name, "reference").results())

    def options_part(self) -> None:
        tf = self.gpu.tensorflow()
        if isinstance(tf, str):
            self.results.skipped[KERAS] = tf
        else:
            versions = {"TensorFlow": tf.__version__, "Keras": importlib.metadata.version("keras")}
            self.results.about["versions"] |= versions
        for option in ("recurrent_dropout", "mask"):
            for cell in ("lstm", "gru"):
                for B, T, H in self.sizes.option_shapes:
                    layer = Layer(cell, "train", (B, T, H, H), option=option)
                    problem = Problem(layer)
                    makers, want = self._ours(problem), problem.expected()
                    if not isinstance(tf, str):
                        makers[KERAS] = lambda problem=problem, want=want: self._keras(problem, tf, want)
                    name = f"{cell} {option} {B},{T},{H}"
                    self.case(Case("options", name, layer.to_json() | {"H": H}, CUDA), makers, want)

    def _keras(self, problem: Problem, tf: Any, want: dict[str, np.ndarray]) -> Job:
        job = keras(problem, tf)
        if problem.layer.option != "recurrent_dropout":
            return job

        def results() -> dict[str, np.ndarray]:
            """Its masks are its own: all that can be asked of its numbers is to be some."""
            got = job.results()
            if not all(np.isfinite(array).all() for array in got.values()):
                raise ValueError("computes numbers that are not finite")
            return want

        return Job(job.run, results)


def document(results: Results, picture: Path | None) -> str:
    """All of it in Markdown."""
    notes = [
        *report.about(results),
        f"driver {results.about.get('driver')}, compute capability {results.about.get('compute_capability')}",
        f"float32; TF32 is off but for `{CUDNN_TF32}`; columns `with copies` count transfers, others do not",
        f"in `{KERAS}` with recurrent dropout, masks are its own, so its numbers are not compared",
    ]
    parts = ["# Measured by `benchmarks/cuda_vs_cpu.py`", "\n".join(f"- {note}" for note in notes)]

    def cell(case: Case, who: str) -> str:
        value = report.amount(case.value(who), "s")
        return (
            value if who == case.base or case.base not in case.rounds else f"{value}, {report.times(case.ratio(who))}"
        )

    for name, title in TITLES.items():
        if cases := results.part(name):
            parts += [f"## {title}", report.markdown(report.matrix(title, cases, cell))]
    if picture is not None:
        parts.append(f"![Where CUDA overtakes C]({picture.name})")
    return "\n\n".join(parts) + "\n"


def write(results: Results, folder: Path, picture: Path | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    results.write(folder / "cuda_vs_cpu.json")
    with replacing(folder / "cuda_vs_cpu.md") as temporary:
        temporary.write_text(document(results, picture), encoding="utf-8")


def run(arguments: list[str], gpu: Gpu, sizes: Sizes) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a contender's turn, about")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    missing = gpu.reason_missing()
    if missing is not None:
        print(f"Nothing to measure here, nothing written: backend cuda: {missing}", file=sys.stderr)
        return 1
    if importlib.util.find_spec("matplotlib") is None:
        print("matplotlib is not installed: there will be no chart. Ctrl-C to install it first.", file=sys.stderr)
    about = machine.describe() | gpu.describe()
    for name in ("numba-cuda", "cuda-bindings", "cupy-cuda12x", "cupy-cuda13x"):  # CuPy computes our products
        try:
            about["versions"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    about |= {"threads": fr.get_num_threads(), "rounds": options.rounds, "seconds": options.seconds}
    results = Results(about | {"command": shlex.join(["python", "benchmarks/cuda_vs_cpu.py", *arguments])})
    measurement = Measurement(gpu, results, options, sizes)
    for part in (measurement.layers, measurement.steps, measurement.options_part):
        part()
        write(results, options.out)
    picture = options.out / "cuda_vs_cpu.png"
    try:
        if draw_crossover(results, "layers", picture, C, (CUDA, COPIES)):
            write(results, options.out, picture)
    except ImportError as error:
        print(f"No chart: {error}", file=sys.stderr)
    print(document(results, None))
    return int(any(case.failed for case in results.cases))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], Gpu(), Sizes()))
