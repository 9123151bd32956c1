"""A type of Numba's for vectors of floats at the machine's width, as csrc/simd.h has it for C.

Numba leaves it to LLVM to find vectors in loops, and LLVM finds none in a tile of a matrix product that should stay in
registers, nor in a loop that calls exp. With this type a kernel says what it means, and computes the same bits wherever
the code is put: every multiply-add is written as one, and nothing is reassociated.

Vectors support + - * /, unary minus, and numbers in place of either operand, which take the vector's type. They are
loaded from memory whose type, see memory.py, says how wide they are to be.
"""

from __future__ import annotations

import operator
import platform
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin, lower_cast
from numba.core.registry import cpu_target
from numba.core.typeconv import Conversion
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model


def _machine() -> tuple[int, bool]:
    """The bytes of a vector, and whether there are 32 registers for them or 16."""
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")  # what Numba compiles for
    if "+avx512f" in features:
        return 64, True
    return 32 if "+avx2" in features else 16, platform.machine() in ("aarch64", "arm64")


VECTOR_BYTES, _MANY_REGISTERS = _machine()
# A tile of a product is so many rows high and vectors wide: its sums, a row of B and an element of A fill the
# registers.
TILE_ROWS = 8
TILE_VECTORS = 2 if _MANY_REGISTERS else 1


class Vector(types.Type):
    def __init__(self, dtype: types.Type, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")

    def can_convert_from(self, typingctx: Any, other: types.Type) -> Conversion | None:
        return Conversion.safe if isinstance(other, types.Number) else None


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(manager.lookup(vector.dtype).get_value_type(), vector.lanes))


def splat(builder: Any, number: Any, vector: Any) -> Any:
    """LLVM's way to have a number in all lanes."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


@lower_cast(types.Float, Vector)
@lower_cast(types.Integer, Vector)
def _number_to_vector(context: Any, builder: Any, number: Any, vector: Vector, value: Any) -> Any:
    return splat(builder, context.cast(builder, value, number, vector.dtype), context.get_value_type(vector))


def _arithmetic(symbol: Any, instruction: str) -> None:
    @infer_global(symbol)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            vectors = [a for a in args if isinstance(a, Vector)]
            numbers = [a for a in args if isinstance(a, types.Number)]
            if vectors and len(vectors) + len(numbers) == len(args):
                return signature(vectors[0], *[vectors[0]] * len(args))
            return None

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args)

    lower_builtin(symbol, *[Vector] * (1 if symbol is operator.neg else 2))(lower)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
    (operator.neg, "fneg"),
):
    _arithmetic(_symbol, _instruction)


def load_vector(builder: Any, pointer: Any, vector: Any) -> Any:
    value = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    value.parent.instructions[-1].align = 4  # of any alignment that numbers have
    return value


def store_vector(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=4)


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once where the machine can (as a type, so everywhere alike)."""
    bits = 32 if isinstance(a.type.element, ir.FloatType) else 64
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(a.type, [a.type] * 3), f"llvm.fmuladd.v{a.type.count}f{bits}"
    )
    return builder.call(function, [a, b, c])


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c; one of them is a vector."""
    vector = next(t for t in (a, b, c) if isinstance(t, Vector))

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return multiply_add(builder, *args)

    return vector(vector, vector, vector), codegen


@intrinsic
def select(typingctx: Any, test: Any, yes: Any, no: Any) -> Any:
    """`yes` in the lanes where `test` is not zero, else `no`, bit by bit: a NaN in the other one does not show."""
    vector = next(t for t in (yes, no) if isinstance(t, Vector))

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        zero = ir.Constant(args[0].type, None)
        return builder.select(builder.fcmp_unordered("!=", args[0], zero), args[1], args[2])

    return vector(test, vector, vector), codegen


@intrinsic
def clamp(typingctx: Any, x: Any, low: Any, high: Any) -> Any:
    """x kept within [low, high]; NaN stays NaN."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value, least, most = args
        value = builder.select(builder.fcmp_ordered("<", value, least), least, value)
        return builder.select(builder.fcmp_ordered(">", value, most), most, value)

    return x(x, x, x), codegen


@intrinsic
def power_of_two(typingctx: Any, shifted: Any) -> Any:
    """2^n, for whole numbers n to which 1.5 * 2^(bits of the mantissa) was added: they lie in the lowest bits."""
    bits, mantissa = (32, 23) if shifted.dtype is types.float32 else (64, 52)
    one = int(np.array(1, f"f{bits // 8}").view(f"i{bits // 8}"))

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        whole = ir.VectorType(ir.IntType(bits), shifted.lanes)

        def constant(value: int) -> Any:
            return ir.Constant(whole, [value] * shifted.lanes)

        exponent = builder.shl(builder.bitcast(args[0], whole), constant(mantissa))
        return builder.bitcast(builder.add(exponent, constant(one)), args[0].type)

    return shifted(shifted), codegen


@intrinsic
def set_float_mode(typingctx: Any, mode: Any) -> Any:
    """Sets the processor's floating-point mode and gives the one before; on other machines than x86 it does nothing."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if platform.machine() not in ("x86_64", "AMD64"):
            return args[0]
        memory = cgutils.alloca_once(builder, ir.IntType(32))
        pointer = builder.bitcast(memory, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse.stmxcsr"), [pointer])
        before = builder.load(memory)
        builder.store(args[0], memory)
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse.ldmxcsr"), [pointer])
        return before

    return types.uint32(types.uint32), codegen


# x86: no exceptions, round to nearest, denormal results and operands are zero. Gradients through many steps fade into
# denormals, which are many times slower.
FLUSH_DENORMALS = 0x9FC0
