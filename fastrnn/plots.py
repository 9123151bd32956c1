"""Pictures of a training run."""

from __future__ import annotations

from pathlib import Path

from fastrnn.io.atomic import replacing


def plot_losses(history: dict[str, list[float]], best: int, title: str, path: Path) -> None:
    """Draws the loss on training and validation data over the epochs, the best epoch marked.

    Args:
        history: `History.history`, with "loss" and "val_loss".
        best: the index of the epoch to mark.
        title: of the picture.
        path: the .png file; it appears whole or not at all.

    Raises:
        ImportError: where matplotlib is not installed.
        OSError: where the file cannot be written.
    """
    # Imported here, after training: matplotlib takes some 50 MB. Figure without pyplot needs no display and
    # leaves no global state behind.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    train, val = history["loss"], history["val_loss"]
    epochs = range(1, len(val) + 1)
    figure = Figure(figsize=(7.5, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(epochs, train, color="#1f6fb4", linewidth=1.8, marker="o", markersize=3, label="training")
    axes.plot(epochs, val, color="#d1651f", linewidth=1.8, marker="o", markersize=3, label="validation")
    axes.axvline(best + 1, color="0.55", linewidth=1, linestyle="--", zorder=0)
    axes.plot(
        best + 1,
        val[best],
        linestyle="none",
        marker="*",
        markersize=13,
        color="#d1651f",
        markeredgecolor="black",
        label=f"best: {val[best]:.4f} at epoch {best + 1}",
    )
    axes.set(title=title, xlabel="epoch", ylabel="loss (binary cross-entropy)")
    axes.set_xlim(0.5, len(val) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
