"""The CUDA backend against cuDNN (by way of PyTorch) on a GPU, and against the C backend on its host.

    python benchmarks/cuda_vs_cpu.py [--rounds 7] [--out benchmarks/results]

Needs an NVIDIA GPU and `pip install -e ".[cuda]"`; cuDNN is measured where a PyTorch with CUDA is installed. Everything
is float32, with as many inputs as units. cuDNN is measured with TF32 off, which computes as we do, and on, which is
PyTorch's default and rounds the factors of its products to 10 bits. "training" is a layer's forward and backward for
all gradients, "inference" its forward. "with copies" takes NumPy arrays and gives NumPy arrays; elsewhere everything
lies on the GPU before and after. Contenders take turns within a round; medians over rounds are reported.

"a training step" is one of the textbook chapter's models in `fit`, in batches of 64 reviews of 100 words: on the GPU
nothing but dropout's factors is copied within an epoch.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastrnn as fr
from fastrnn import ops, textbook

# B, T, H: small and large, a DeepBench one, FlashRNN's, and a single sequence
SHAPES = [
    (64, 100, 8),
    (64, 100, 64),
    (64, 100, 128),
    (64, 100, 256),
    (64, 100, 512),
    (64, 25, 1024),
    (16, 1024, 768),
    (1, 100, 128),
]
CUDA, COPIES, CUDNN, CUDNN_TF32, C = "cuda", "cuda with copies", "cuDNN", "cuDNN, TF32", "c"
SECONDS = 0.2  # of work in one measurement
STEPS = 100  # of an epoch of the chapter's models

Step = Callable[[], Any]


def problem(cell: str, B: int, T: int, H: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    gates = 4 if cell == "lstm" else 3

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (rng.normal(size=shape) * scale).astype(np.float32)

    return {
        "x": normal(B, T, H),
        "W": normal(H, gates * H, scale=H**-0.5),
        "U": normal(H, gates * H, scale=H**-0.5),
        "b": normal(*((4 * H,) if cell == "lstm" else (2, 3 * H))),
        "dy": normal(B, T, H),
    }


def to_gpu(array: np.ndarray) -> Any:
    from numba import cuda

    return cuda.to_device(array)


def synchronize() -> None:
    from numba import cuda

    cuda.synchronize()


def ours(cell: str, arrays: dict[str, Any], backend: str) -> dict[str, Step]:
    forward, backward = (fr.lstm_forward, fr.lstm_backward) if cell == "lstm" else (fr.gru_forward, fr.gru_backward)
    *inputs, dy = arrays.values()

    def training() -> Any:
        y, *_, reserve = forward(*inputs, backend=backend)
        return y, backward(reserve, dy)

    return {"training": training, "inference": lambda: forward(*inputs, training=False, backend=backend)[0]}


def cudnn(cell: str, arrays: dict[str, np.ndarray], torch: Any, *, tf32: bool) -> dict[str, Step]:
    H = len(arrays["U"])
    layer = (torch.nn.LSTM if cell == "lstm" else torch.nn.GRU)(H, H, batch_first=True).cuda()
    x = torch.from_numpy(arrays["x"]).cuda().requires_grad_()
    dy = torch.from_numpy(arrays["dy"]).cuda()

    def training() -> None:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        layer.zero_grad(set_to_none=True)
        x.grad = None
        layer.train()(x)[0].backward(dy)

    def inference() -> None:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        with torch.no_grad():
            layer.eval()(x)

    return {"training": training, "inference": inference}


def check(cell: str, got: Any, want: Any) -> None:
    """No figure for wrong results."""
    for a, b in zip((got[0], *got[1][:4]), (want[0], *want[1][:4]), strict=True):
        error = float(np.max(np.abs(ops.to_numpy(a) - b)) / np.max(np.abs(b)))
        assert error < 1e-4, f"{cell}: cuda and c differ by {error:.1e}"


def measure(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Seconds a step for each contender, who take turns."""

    def run(step: Step, times: int) -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(times):
            step()
        synchronize()
        return time.perf_counter() - start

    times = {name: max(1, int(SECONDS / max(run(step, 3) / 3, 1e-6))) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(run(step, times[name]) / times[name])
    return {name: statistics.median(values) for name, values in seconds.items()}


def training_steps(name: str, backend: str) -> Step:
    """An epoch of STEPS steps of one of the chapter's models."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, textbook.VOCABULARY, (STEPS * textbook.BATCH, textbook.LENGTH)).astype(np.int32)
    y = rng.integers(0, 2, len(x)).astype(np.float32)
    model = textbook.build(name, backend=backend)

    def epoch() -> None:
        model.fit(x, y, textbook.BATCH, verbose=0)

    return epoch


def measure_training(with_c: bool, rounds: int) -> list[dict[str, Any]]:
    results = []
    for name in textbook.RECIPES:
        epochs = {backend: training_steps(name, backend) for backend in (CUDA, *[C] * with_c)}
        seconds = {who: epoch / STEPS for who, epoch in measure(epochs, rounds).items()}
        shape = (textbook.BATCH, textbook.LENGTH, 8)
        results.append({"cell": name, "shape": shape, "what": "a training step", "seconds": seconds})
        print(name, "a training step", {who: f"{value * 1e3:.3f} ms" for who, value in seconds.items()})
    return results


def machine(torch: Any) -> dict[str, Any]:
    from numba import cuda

    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
    return {
        "gpu": name,
        "compute_capability": list(device.compute_capability),
        "cpu": platform.processor() or platform.machine(),
        "threads": fr.get_num_threads(),
        "torch": None if torch is None else torch.__version__,
        "cudnn": None if torch is None else torch.backends.cudnn.version(),
    }


def table(results: list[dict[str, Any]], about: dict[str, Any]) -> str:
    names = [name for name in (CUDA, COPIES, CUDNN, CUDNN_TF32, C) if any(name in row["seconds"] for row in results)]
    lines = [
        f"{about['gpu']}; PyTorch {about['torch']}, cuDNN {about['cudnn']}; host with {about['threads']} threads.",
        "Milliseconds a step, float32; in brackets how many times cuda's.",
        "",
        "| cell | B, T, H | | " + " | ".join(names) + " |",
        "|---" * (3 + len(names)) + "|",
    ]
    for row in results:
        seconds = row["seconds"]
        cells = [f"{seconds[n] * 1e3:.3f} ({seconds[n] / seconds[CUDA]:.2f})" if n in seconds else "" for n in names]
        lines.append(f"| {row['cell']} | {', '.join(map(str, row['shape']))} | {row['what']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def find_torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    missing = fr.available_backends()
    if missing["cuda"] is not None:
        print(f"Nothing to measure here: backend cuda: {missing['cuda']}")
        return
    torch = find_torch()
    if torch is None:
        print("No PyTorch with CUDA here: cuDNN is left out.")
    results = []
    for cell in ("lstm", "gru"):
        for shape in SHAPES:
            arrays = problem(cell, *shape)
            contenders = {
                CUDA: ours(cell, {name: to_gpu(array) for name, array in arrays.items()}, "cuda"),
                COPIES: ours(cell, arrays, "cuda"),
            }
            if missing["c"] is None:
                contenders[C] = ours(cell, arrays, "c")
                check(cell, contenders[CUDA]["training"](), contenders[C]["training"]())
            if torch is not None:
                contenders[CUDNN] = cudnn(cell, arrays, torch, tf32=False)
                contenders[CUDNN_TF32] = cudnn(cell, arrays, torch, tf32=True)
            for what in ("training", "inference"):
                seconds = measure({name: steps[what] for name, steps in contenders.items()}, options.rounds)
                results.append({"cell": cell, "shape": shape, "what": what, "seconds": seconds})
                print(cell, shape, what, {name: f"{value * 1e3:.3f} ms" for name, value in seconds.items()})
    results += measure_training(missing["c"] is None, options.rounds)
    about = machine(torch)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "cuda_vs_cpu.json").write_text(json.dumps({"machine": about, "results": results}, indent=1) + "\n")
    (options.out / "cuda_vs_cpu.md").write_text(table(results, about))
    print(table(results, about))


if __name__ == "__main__":
    main()
