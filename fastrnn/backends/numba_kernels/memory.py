"""Two more types of Numba's: memory that holds numbers, and the record of a call, whose fields tell where all is.

NumPy's arrays would do as well, but each of them is a dozen values and a count of references, in every call of a
function, and every kind of array makes another copy of each function: with them, kernels took four times as long to
compile.

`Reals` is a pointer to floats that knows how wide vectors are: m[k] is a number, m + k and m - k the memory from there
on, and `load(m, k)` and `store(m, k, vector)` deal in vectors. Nothing is checked.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, AttributeTemplate, infer_getattr, infer_global, signature
from numba.extending import intrinsic, lower_getattr_generic, models, register_model

from .vectors import Vector, load_vector, store_vector

# What a record holds, in its order: sizes and flags, then addresses by the type of what is there; 0 for what is absent.
# B, T, I, H as everywhere; G gates; K the rows of z; n samples of a task, side by side; layer.py explains the rest.
SIZES = (
    *("lstm", "training", "go_backwards", "zero_masked", "sequences", "reset_after"),
    *("batch", "time", "inputs", "units", "gates", "biases", "rows", "width"),
    *("biased", "by_id", "masked", "h_masked"),  # whether there are b, ids, mask, h_mask
    *("has_h0", "has_c0", "has_dy", "has_dhT", "has_dcT"),
    "x_factors",  # of x_mask: 0, 1 or G
    "factors",  # sets of dropout factors: 0; 1, for x only; or one for each gate
    "groups",  # backward: separate products for weight gradients: 1, or one for each gate
    "columns",  # backward: the length of a row of `partial`
    "tasks",
    "pieces",  # into which packing weights and adding up their gradients are cut
    "steps",  # to one product with W, and with its transpose; more than one for teams only
    "few",  # whether a task's samples fit into a vector of 16 bytes
    "block",  # backward: steps to one product for weight gradients
)
REALS = (
    "x",  # (any, I): sample by sample all steps, or the table
    *("W", "U", "b"),
    *("h0", "c0", "y", "hT", "cT"),
    *("dy", "dhT", "dcT", "dx", "dh0", "dc0"),
    "x_mask",  # (1 or G, B, I)
    "h_mask",  # (G, B, H)
    # the reserve, by task; without training z is (steps + 1, K, n), slots (steps, 4, H, n) and c (1, H, n)
    "z",  # (T + 1, K, n), the last one's h is the final state
    "slots",  # (T, 4, H, n), activated
    "c",  # (T + 1, H, n), LSTM only
    # packed weights
    "panels",  # (G, P, K, TILE_ROWS): W, biases and U, for forward
    "W_panels",  # (P, G * H, TILE_ROWS), for backward
    "U_panels",
    # working memory, by task; `own`, whose rows are made by one member for itself, by task or by member
    "valid",  # (T, n), or (1, n) without mask: 1 where a step counts, 0 where it is masked
    "factor",  # (factors, K, n)
    "own",  # (K, n)
    "out",  # (H, n)
    *("dh", "dc", "dy_step", "carry"),  # (H, n)
    "dx_step",  # (steps, I, n)
    "ds",  # (steps, 4, H, n)
    "z_rows",  # (groups, block * n, K)
    "ds_rows",  # (block * n, 4 * H + SPARE)
    "partial",  # (groups, K, columns)
    "gradient",  # (K, G * H), of the call
)
INTEGERS = (
    "ids",  # (B, T), rows of the table
    "sample",  # (n) by task
    "row_of",  # (n) by task or by member
    "barrier",  # (1), how often members of a team have come to it
)
BYTES = ("mask",)  # (B, T), 0 where a step is skipped
FIELDS = (*SIZES, *REALS, *INTEGERS, *BYTES)
PLACE = {name: place for place, name in enumerate(FIELDS)}


class Reals(types.Type):
    def __init__(self, dtype: types.Type, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Reals({dtype}, {lanes})")


class Record(types.Type):
    def __init__(self, bits: int, lanes: int) -> None:
        self.reals = Reals(types.float32 if bits == 32 else types.float64, lanes)
        super().__init__(name=f"Record({bits}, {lanes})")


@register_model(Reals)
class _RealsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, reals: Reals) -> None:
        super().__init__(manager, reals, manager.lookup(reals.dtype).get_data_type().as_pointer())


@register_model(Record)
class _RecordModel(models.PrimitiveModel):
    def __init__(self, manager: Any, record: Record) -> None:
        super().__init__(manager, record, ir.IntType(64).as_pointer())


@intrinsic(prefer_literal=True)
def record_of(typingctx: Any, address: Any, bits: Any, lanes: Any) -> Any:
    """The record at an address, for floats of so many bits and vectors of so many lanes, which are constants."""
    if not (isinstance(bits, types.IntegerLiteral) and isinstance(lanes, types.IntegerLiteral)):
        return None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(64).as_pointer())

    return Record(bits.literal_value, lanes.literal_value)(types.int64, bits, lanes), codegen


@infer_getattr
class _RecordFields(AttributeTemplate):
    key = Record

    def generic_resolve(self, record: Record, name: str) -> types.Type | None:
        if name in SIZES:
            return types.int64
        if name in REALS:
            return record.reals
        return types.CPointer(types.int64 if name in INTEGERS else types.uint8) if name in FIELDS else None


@lower_getattr_generic(Record)
def _field(context: Any, builder: Any, record: Record, value: Any, name: str) -> Any:
    number = builder.load(builder.gep(value, [ir.Constant(ir.IntType(64), PLACE[name])]))
    if name in SIZES:
        return number
    if name in REALS:
        return builder.inttoptr(number, context.get_value_type(record.reals))
    return builder.inttoptr(number, ir.IntType(64 if name in INTEGERS else 8).as_pointer())


@infer_global(operator.add)
@infer_global(operator.sub)
class _Offset(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) == 2 and isinstance(args[0], Reals | types.CPointer) and isinstance(args[1], types.Integer):
            return signature(args[0], args[0], types.int64)
        return None


@infer_global(operator.getitem)
class _Get(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if isinstance(args[0], Reals) and isinstance(args[1], types.Integer):
            return signature(args[0].dtype, args[0], types.int64)
        return None


@infer_global(operator.setitem)
class _Set(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        if isinstance(args[0], Reals) and isinstance(args[1], types.Integer):
            return signature(types.none, args[0], types.int64, args[0].dtype)
        return None


@lower_builtin(operator.add, Reals, types.int64)
@lower_builtin(operator.add, types.CPointer, types.int64)
def _offset(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.gep(args[0], [args[1]])


@lower_builtin(operator.sub, Reals, types.int64)
def _offset_back(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.gep(args[0], [builder.neg(args[1])])


@lower_builtin(operator.getitem, Reals, types.int64)
def _get(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.load(builder.gep(args[0], [args[1]]))


@lower_builtin(operator.setitem, Reals, types.int64, types.Float)
def _set(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    builder.store(args[2], builder.gep(args[0], [args[1]]))
    return context.get_dummy_value()


@intrinsic
def lanes_of(typingctx: Any, memory: Any) -> Any:
    """How many numbers a vector from this memory, or this record's, holds."""
    lanes = memory.lanes if isinstance(memory, Reals) else memory.reals.lanes

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.get_constant(types.int64, lanes)

    return types.int64(memory), codegen


@intrinsic
def load(typingctx: Any, memory: Any, at: Any) -> Any:
    """The vector that begins with memory[at]."""
    vector = Vector(memory.dtype, memory.lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return load_vector(builder, builder.gep(args[0], [args[1]]), context.get_value_type(vector))

    return vector(memory, types.int64), codegen


@intrinsic
def store(typingctx: Any, memory: Any, at: Any, value: Any) -> Any:
    """Writes a vector, or a number to all places of one, from memory[at] on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        store_vector(builder, args[2], builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(memory, types.int64, Vector(memory.dtype, memory.lanes)), codegen
