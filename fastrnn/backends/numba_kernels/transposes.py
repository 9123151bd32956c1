"""Samples as rows, as the caller's arrays have them, to samples side by side in vectors, as the kernels do, and back.

"Columns" are (M, N) with N samples next to each other; "rows" are (any, M), and `row_of[n]` is sample n's row. Where a
task has fewer samples than its vectors have lanes, the lanes beyond repeat the last sample: they compute the same
numbers, and write them once more to the same row.

A block of R numbers of as many samples as a vector has lanes is transposed in registers: seen as one long sequence,
moving its even elements before its odd ones, log2(R) times, brings it from row by row to column by column; dealing out
its halves alternately brings it back.
"""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .memory import lanes_of
from .vectors import Vector, load_vector, store_vector


def _shuffle(builder, a, b, order):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))


def _regroup(builder, parts, width):
    """The same sequence of numbers in vectors of another width."""
    while parts[0].type.count < width:
        order = list(range(2 * parts[0].type.count))
        parts = [_shuffle(builder, a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    while parts[0].type.count > width:
        half = parts[0].type.count // 2
        orders = list(range(half)), list(range(half, 2 * half))
        parts = [_shuffle(builder, part, part, order) for part in parts for order in orders]
    return parts


def _block(to_columns):
    """The intrinsic that brings R numbers of each of `lanes` samples from rows to columns, or back."""

    @intrinsic(prefer_literal=True)
    def block(typingctx, R, rows, row_of, row_stride, columns, column_stride):
        if not isinstance(R, types.IntegerLiteral):
            return None
        size, width, whole = R.literal_value, columns.lanes, types.int64
        stages = size.bit_length() - 1

        def codegen(context, builder, sig, args):
            _, rows, row_of, row_stride, columns, column_stride = args
            vector = context.get_value_type(Vector(sig.args[1].dtype, width))
            piece = ir.VectorType(vector.element, size)

            def constant(value):
                return ir.Constant(row_stride.type, value)

            def row_place(lane):
                row = builder.load(builder.gep(row_of, [constant(lane)]))
                return builder.gep(rows, [builder.mul(row, row_stride)])

            def column_place(r):
                return builder.gep(columns, [builder.mul(column_stride, constant(r))])

            if to_columns:
                parts = [load_vector(builder, row_place(lane), piece) for lane in range(width)]
                parts = _regroup(builder, parts, width)
                even, odd = list(range(0, 2 * width, 2)), list(range(1, 2 * width, 2))
                for _ in range(stages):
                    pairs = list(zip(parts[::2], parts[1::2], strict=True))
                    parts = [_shuffle(builder, a, b, order) for order in (even, odd) for a, b in pairs]
                for r, part in enumerate(parts):
                    store_vector(builder, part, column_place(r))
            else:
                parts = [load_vector(builder, column_place(r), vector) for r in range(size)]
                dealt = [k // 2 + k % 2 * width for k in range(2 * width)]
                for _ in range(stages):
                    pairs = list(zip(parts[: size // 2], parts[size // 2 :], strict=True))
                    parts = [_shuffle(builder, a, b, o) for a, b in pairs for o in (dealt[:width], dealt[width:])]
                for lane, part in enumerate(_regroup(builder, parts, size)):
                    store_vector(builder, part, row_place(lane))
            return context.get_dummy_value()

        return types.void(R, rows, row_of, whole, columns, whole), codegen

    return block


_block_to_columns, _block_to_rows = _block(True), _block(False)


@njit(error_model="numpy")
def rows_to_columns(M, N, rows, row_of, row_stride, columns, stride):
    """columns (M, N) = the rows of N samples, M numbers of each."""
    for n in range(0, N, lanes_of(columns)):
        m, indices = 0, row_of + n
        while m < M:
            to = columns + (m * stride + n)
            if M - m >= 8:
                _block_to_columns(8, rows + m, indices, row_stride, to, stride)
                m += 8
            elif M - m >= 4:
                _block_to_columns(4, rows + m, indices, row_stride, to, stride)
                m += 4
            else:
                _block_to_columns(1, rows + m, indices, row_stride, to, stride)
                m += 1


@njit(error_model="numpy")
def columns_to_rows(M, N, columns, stride, rows, row_of, row_stride):
    """The rows of N samples, M numbers of each, = columns (M, N)."""
    for n in range(0, N, lanes_of(columns)):
        m, indices = 0, row_of + n
        while m < M:
            columns_at = columns + (m * stride + n)
            if M - m >= 8:
                _block_to_rows(8, rows + m, indices, row_stride, columns_at, stride)
                m += 8
            elif M - m >= 4:
                _block_to_rows(4, rows + m, indices, row_stride, columns_at, stride)
                m += 4
            else:
                _block_to_rows(1, rows + m, indices, row_stride, columns_at, stride)
                m += 1
