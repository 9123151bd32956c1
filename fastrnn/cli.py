"""The command `fastrnn`: what runs here (`info`), and the textbook chapter's four models (`train`)."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastrnn.backends import available_backends
from fastrnn.backends.threads import cores, get_num_threads
from fastrnn.bench import command, machine
from fastrnn.datasets import imdb, synthetic
from fastrnn.version import __version__

if TYPE_CHECKING:
    from fastrnn.textbook import Result

MODELS = ("lstm", "dropout", "stacked", "gru")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and gives its exit code: 0 fine, 1 an error told in one line, 2 usage, 130 Ctrl-C."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        if args.verb == "info":
            _info()
        elif args.verb == "bench":
            return command.run(args)
        else:
            backends = ["auto", *available_backends()]
            if args.backend is not None and args.backend not in backends:
                parser.error(f"--backend: choose from {', '.join(backends)}")
            _train(args)
    except KeyboardInterrupt:
        print("\nfastrnn: interrupted", file=sys.stderr)
        return 130
    except (OSError, ValueError, ImportError, RuntimeError, MemoryError) as error:
        print(f"fastrnn: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastrnn", description="Fused LSTM and GRU layers: see what runs, train.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="info | train | bench")
    verbs.add_parser("info", help="versions, processor, backends")
    command.add_arguments(verbs.add_parser("bench", help="measure layers and models beside other packages"))
    train = verbs.add_parser("train", help="train the sentiment models of a textbook chapter on IMDb")
    train.add_argument("--model", choices=[*MODELS, "all"], default="lstm", help="default: lstm")
    data = train.add_mutually_exclusive_group()
    data.add_argument("--data", metavar="PATH", help="imdb.npz or its folder; default: search, then download")
    data.add_argument("--synthetic", action="store_true", help="made-up reviews in IMDb's place")
    train.add_argument("--epochs", type=_positive, default=100, metavar="N", help="at most; default: 100")
    train.add_argument("--batch-size", type=_positive, default=64, metavar="N", help="default: 64")
    train.add_argument("--backend", metavar="NAME", help="default: FASTRNN_BACKEND, else the fastest there is")
    train.add_argument("--seed", type=_seed, default=1, metavar="N", help="of weights, order and dropout; default: 1")
    train.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    train.add_argument("--limit", type=_positive, metavar="N", help="only the first N reviews, for a quick try")
    train.add_argument(
        "--verbose",
        type=int,
        choices=(0, 1, 2),
        help="0 silent, 1 a bar, 2 a line an epoch; default: 1 on a terminal",
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 2**32 - 1, got {value}")
    return value


def _info() -> None:
    print(f"fastrnn {__version__}, Python {platform.python_version()}, NumPy {np.__version__}")
    print(f"processor  {machine.processor()}, {cores()} cores usable")
    print(f"threads    {get_num_threads()}")
    print("backends")
    for name, reason in available_backends().items():
        state = "available" if reason is None else f"missing: {reason}"
        if name == "c" and reason is None:
            from fastrnn.backends import c

            state += f", instruction set {c.isa()} of {', '.join(c.isa_names())}"
        elif name == "numba" and reason is None:
            from fastrnn.backends import numba

            state += f", {numba.state()}"
        print(f"  {name:<10} {state}")


_NOT_IMDB = "The reviews are SYNTHETIC, made up on the spot: the book's numbers do not apply to them."


def _reviews(args: argparse.Namespace, vocabulary: int) -> tuple[list[np.ndarray], np.ndarray, bool]:
    """The reviews to train on, their labels, whether they are IMDb's; prints which they are."""
    if not args.synthetic:
        try:
            source = imdb.locate(args.data)
        except imdb.DatasetUnavailableError as error:
            print(f"IMDb is not at hand: {error}")
        else:
            print(f"data: IMDb, {source.description}")
            return *imdb.load_training(source.path, vocabulary), True
    print(_NOT_IMDB)
    return *synthetic.load_training(vocabulary), False


def _train(args: argparse.Namespace) -> None:
    from fastrnn import textbook

    args.out.mkdir(parents=True, exist_ok=True)
    x, y, is_imdb = _reviews(args, textbook.VOCABULARY)
    data = textbook.prepare(x[: args.limit], y[: args.limit])
    del x, y
    print(f"{len(data.y_train)} reviews to train on, {len(data.y_val)} to validate on")
    verbose = args.verbose if args.verbose is not None else 1 if sys.stdout.isatty() else 2

    results = {}
    for name in MODELS if args.model == "all" else (args.model,):
        print(f"\n== {name}")
        model = textbook.build(name, seed=args.seed, backend=args.backend)
        model.summary()
        weights = args.out / f"{name}.weights.h5"
        results[name] = textbook.train(
            model, data, weights, epochs=args.epochs, batch_size=args.batch_size, verbose=verbose
        )
        print(f"wrote {weights}")
        _plot(name, results[name], args.out / f"{name}.png")
    print(f"\n{textbook.table(results)}")
    if not is_imdb:
        print(_NOT_IMDB)


def _plot(name: str, result: Result, path: Path) -> None:
    from fastrnn.plots import plot_losses

    try:
        plot_losses(result.history, result.best, f"{name}: training and validation loss", path)
    except ImportError:
        print("no picture of the losses: matplotlib is not installed")
    else:
        print(f"wrote {path}")
