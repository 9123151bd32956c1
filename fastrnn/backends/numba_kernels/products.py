"""The one matrix product that everything takes part in, tile by tile, and how weights are packed for it.

    C[M, N] = A[M, K] B[K, N], or C += it

N is a whole number of vectors, M and K are any. Sums stay in registers over all of K: a tile's accumulators, a row of B
and a number of A at a time. Every element of C is one chain of multiply-adds over k in order, whatever tile it falls in
and however wide the vectors are; so a result does not depend on how many columns, which are samples, a call has.

A lies in panels of TILE_ROWS rows, [panel][k][row]: element (m, k) is

    a[m // TILE_ROWS * a_panel + k * a_stride + m % TILE_ROWS]

Where there are a few samples only, vectors of samples are narrow, and most of a machine's width is left over. There
vectors run down A's panels instead, `few_columns`: the same chains of the same numbers.
"""

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .memory import lanes_of
from .vectors import TILE_ROWS, TILE_VECTORS, Vector, load_vector, multiply_add, splat, store_vector


@intrinsic(prefer_literal=True)
def _tile(typingctx, rows, vectors, K, a, a_stride, b, b_stride, c, c_stride, add):
    """One tile: C (+)= A B. `rows` and `vectors` are constants, so all loops but the one over k are unrolled here."""
    if not (isinstance(rows, types.IntegerLiteral) and isinstance(vectors, types.IntegerLiteral)):
        return None
    height, width, lanes, size = rows.literal_value, vectors.literal_value, a.lanes, types.int64

    def codegen(context, builder, sig, args):
        _, _, count, a, a_stride, b, b_stride, c, c_stride, add = args
        vector = context.get_value_type(Vector(sig.args[3].dtype, lanes))

        def constant(value):
            return ir.Constant(count.type, value)

        def place(pointer, stride, row, part):
            return builder.gep(pointer, [builder.add(builder.mul(stride, row), constant(part * lanes))])

        sums = [[cgutils.alloca_once(builder, vector) for _ in range(width)] for _ in range(height)]
        for r in range(height):
            for v in range(width):
                old = load_vector(builder, place(c, c_stride, constant(r), v), vector)
                builder.store(builder.select(add, old, ir.Constant(vector, None)), sums[r][v])
        with cgutils.for_range(builder, count) as loop:
            row = [load_vector(builder, place(b, b_stride, loop.index, v), vector) for v in range(width)]
            column = builder.gep(a, [builder.mul(a_stride, loop.index)])
            for r in range(height):
                number = splat(builder, builder.load(builder.gep(column, [constant(r)])), vector)
                for v in range(width):
                    builder.store(multiply_add(builder, number, row[v], builder.load(sums[r][v])), sums[r][v])
        for r in range(height):
            for v in range(width):
                store_vector(builder, builder.load(sums[r][v]), place(c, c_stride, constant(r), v))
        return context.get_dummy_value()

    return types.void(rows, vectors, size, a, size, b, size, c, size, types.boolean), codegen


@intrinsic(prefer_literal=True)
def _panels(typingctx, panels, alone, K, a, a_panel, b, b_stride, c, c_stride, add):
    """So many panels of A times one vector of columns, or where they are all the same, `alone`, times the first."""
    if not (isinstance(panels, types.IntegerLiteral) and isinstance(alone, types.IntegerLiteral)):
        return None
    height, width, size = panels.literal_value, 1 if alone.literal_value else c.lanes, types.int64

    def codegen(context, builder, sig, args):
        _, _, count, a, a_panel, b, b_stride, c, c_stride, add = args
        vector = context.get_value_type(Vector(sig.args[3].dtype, sig.args[7].lanes))
        piece = ir.VectorType(vector.element, TILE_ROWS)

        def constant(value):
            return ir.Constant(count.type, value)

        def lane(number):
            return ir.Constant(ir.IntType(32), number)

        def row(p, r):
            return builder.gep(c, [builder.mul(c_stride, constant(p * TILE_ROWS + r))])

        sums = [[cgutils.alloca_once(builder, piece) for _ in range(width)] for _ in range(height)]
        for p in range(height):
            for n in range(width):
                builder.store(ir.Constant(piece, None), sums[p][n])
        with builder.if_then(add):
            for p in range(height):
                old = [load_vector(builder, row(p, r), vector) for r in range(TILE_ROWS)]
                for n in range(width):
                    column = ir.Constant(piece, ir.Undefined)
                    for r in range(TILE_ROWS):
                        column = builder.insert_element(column, builder.extract_element(old[r], lane(n)), lane(r))
                    builder.store(column, sums[p][n])
        with cgutils.for_range(builder, count) as loop:
            at = builder.mul(loop.index, constant(TILE_ROWS))
            numbers = builder.gep(b, [builder.mul(b_stride, loop.index)])
            splats = [splat(builder, builder.load(builder.gep(numbers, [constant(n)])), piece) for n in range(width)]
            for p in range(height):
                column = load_vector(
                    builder, builder.gep(a, [builder.add(builder.mul(a_panel, constant(p)), at)]), piece
                )
                for n in range(width):
                    builder.store(multiply_add(builder, column, splats[n], builder.load(sums[p][n])), sums[p][n])
        for p in range(height):
            done = [builder.load(sums[p][n]) for n in range(width)]
            for r in range(TILE_ROWS):
                numbers = [builder.extract_element(column, lane(r)) for column in done]
                out = splat(builder, numbers[0], vector)
                for n in range(1, width):
                    out = builder.insert_element(out, numbers[n], lane(n))
                store_vector(builder, out, row(p, r))
        return context.get_dummy_value()

    return types.void(panels, alone, size, a, size, b, size, c, size, types.boolean), codegen


@njit(error_model="numpy")
def few_columns(M, K, alone, a, a_panel, b, b_stride, c, c_stride, add):
    """C (+)= A B for one vector of columns, which are all the same if they are `alone`, and a_stride TILE_ROWS; whole
    panels only: it gives the number of rows that are done."""
    m, panel = 0, a
    while M - m >= TILE_ROWS:
        to, done = c + m * c_stride, 1
        if alone and M - m >= 8 * TILE_ROWS:
            _panels(8, 1, K, panel, a_panel, b, b_stride, to, c_stride, add)
            done = 8
        elif alone and M - m >= 4 * TILE_ROWS:
            _panels(4, 1, K, panel, a_panel, b, b_stride, to, c_stride, add)
            done = 4
        elif alone:
            _panels(1, 1, K, panel, a_panel, b, b_stride, to, c_stride, add)
        elif M - m >= 2 * TILE_ROWS:
            _panels(2, 0, K, panel, a_panel, b, b_stride, to, c_stride, add)
            done = 2
        else:
            _panels(1, 0, K, panel, a_panel, b, b_stride, to, c_stride, add)
        m, panel = m + done * TILE_ROWS, panel + done * a_panel
    return m


@njit(error_model="numpy")
def product(M, N, K, a, a_panel, a_stride, b, b_stride, c, c_stride, add):
    """C (+)= A B; see above. N is rounded up to whole vectors, to whose ends B and C must reach."""
    n, width = 0, TILE_VECTORS * lanes_of(c)
    while n < N:
        wide = TILE_VECTORS == 2 and N - n > lanes_of(c)
        panel, m = a, 0
        while m < M:
            left, to = M - m, c + (n + m * c_stride)
            if left >= TILE_ROWS:
                if wide:
                    _tile(TILE_ROWS, TILE_VECTORS, K, panel, a_stride, b + n, b_stride, to, c_stride, add)
                else:
                    _tile(TILE_ROWS, 1, K, panel, a_stride, b + n, b_stride, to, c_stride, add)
                m, panel = m + TILE_ROWS, panel + a_panel
            elif left >= 4:
                if wide:
                    _tile(4, TILE_VECTORS, K, panel, a_stride, b + n, b_stride, to, c_stride, add)
                else:
                    _tile(4, 1, K, panel, a_stride, b + n, b_stride, to, c_stride, add)
                m, panel = m + 4, panel + 4
            elif wide:
                _tile(1, TILE_VECTORS, K, panel, a_stride, b + n, b_stride, to, c_stride, add)
                m, panel = m + 1, panel + 1
            else:
                _tile(1, 1, K, panel, a_stride, b + n, b_stride, to, c_stride, add)
                m, panel = m + 1, panel + 1
        n += width if wide else lanes_of(c)
