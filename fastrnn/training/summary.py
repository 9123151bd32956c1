"""The table that `Sequential.summary` prints."""

from __future__ import annotations

from typing import Any

_HEADERS = ("Layer (type)", "Output Shape", "Param #")


def summary_text(model: Any) -> str:
    """Layers, output shapes and numbers of parameters of a model, as Keras lays them out."""
    rows = []
    shapes = model.output_shapes if model.built else [None] * len(model.layers)
    for layer, shape in zip(model.layers, shapes, strict=True):
        count = f"{layer.count_params():,}" if layer.built else "0 (unbuilt)"
        rows.append((f"{layer.name} ({type(layer).__name__})", "?" if shape is None else str(shape), count))
    lines = [f'Model: "{model.name}"', *_table(rows)]
    params = sum(layer.count_params() for layer in model.layers)
    itemsize = model.dtype.itemsize
    optimizer = model.optimizer
    extra = extra_size = 0
    if optimizer is not None and optimizer.built:
        # The step counter and the learning rate are variables of Keras' optimizers too, of 8 and 4 bytes.
        extra = 2 + sum(slot.size for slot in optimizer.slots.values())
        extra_size = 12 + (extra - 2) * itemsize
    lines.append(_total("Total params", params + extra, params * itemsize + extra_size))
    lines.append(_total("Trainable params", params, params * itemsize))
    lines.append(_total("Non-trainable params", 0, 0))
    if extra:
        lines.append(_total("Optimizer params", extra, extra_size))
    return "\n".join(lines)


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[i]) for row in (_HEADERS, *rows)) for i in range(3)]

    def rule(left: str, fill: str, middle: str, right: str) -> str:
        return left + middle.join(fill * (width + 2) for width in widths) + right

    def line(cells: tuple[str, str, str], edge: str) -> str:
        name, shape, count = cells
        texts = (name.ljust(widths[0]), shape.ljust(widths[1]), count.rjust(widths[2]))
        return edge + edge.join(f" {text} " for text in texts) + edge

    lines = [rule("┏", "━", "┳", "┓"), line(_HEADERS, "┃"), rule("┡", "━", "╇", "┩")]
    for i, row in enumerate(rows):
        if i:
            lines.append(rule("├", "─", "┼", "┤"))
        lines.append(line(row, "│"))
    return [*lines, rule("└", "─", "┴", "┘")]


def _total(title: str, count: int, size: int) -> str:
    return f" {title}: {count:,} ({_bytes(size)})"


def _bytes(size: float) -> str:
    units = ["B", "KB", "MB", "GB", "TB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.2f} {units[0]}"
