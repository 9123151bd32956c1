"""How threads share the tasks of a call, below Python: with its lock in between, waking takes longer than the work.

A board of a few numbers is all they have in common. The leader, whoever calls, writes a job onto it and opens it;
helpers that watch the board come inside, and all take the next task until there is none. The leader closes the board
and waits until nobody is inside: then no task is under way, and the board may be written again.
"""

from __future__ import annotations

import platform

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# places on the board, those that threads contend for a cache line apart
OPEN, NEXT, INSIDE, TASKS, KERNEL, RECORD = 0, 16, 32, 48, 49, 50
# How long helpers watch before they go to sleep: half a millisecond or one, since in training the next call comes soon.
# After the first of so many looks they let others have the core.
PATIENCE, GREED = 20_000, 2_000


@intrinsic
def _look(typingctx, board, place):
    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "seq_cst", 8)

    return types.int64(board, types.int64), codegen


@intrinsic
def _write(typingctx, board, place, value):
    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        builder.store_atomic(args[2], builder.gep(data, [args[1]]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(board, types.int64, types.int64), codegen


@intrinsic
def _add(typingctx, board, place, value):
    """Adds to a place, and gives what was there."""

    def codegen(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", builder.gep(data, [args[1]]), args[2], "seq_cst")

    return types.int64(board, types.int64, types.int64), codegen


@intrinsic
def _call(typingctx, kernel, record, task):
    """Calls the kernel at an address."""

    def codegen(context, builder, sig, args):
        function = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 2)
        builder.call(builder.inttoptr(args[0], function.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def _breathe(typingctx, looks):
    """Between two looks at the board: a pause, or after many looks the core for whoever else wants it."""

    def codegen(context, builder, sig, args):
        patient = builder.icmp_signed("<", args[0], ir.Constant(args[0].type, GREED))
        with builder.if_else(patient) as (early, late):
            with early:
                if platform.machine() in ("x86_64", "AMD64"):
                    pause = ir.FunctionType(ir.VoidType(), [])
                    builder.call(cgutils.get_or_insert_function(builder.module, pause, "llvm.x86.sse2.pause"), [])
            with late:
                give_way = ir.FunctionType(ir.IntType(32), [])
                builder.call(cgutils.get_or_insert_function(builder.module, give_way, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@njit
def _work(board):
    tasks, kernel, record = board[TASKS], board[KERNEL], board[RECORD]
    task = _add(board, NEXT, 1)
    while task < tasks:
        _call(kernel, record, task)
        task = _add(board, NEXT, 1)


def lead(board, kernel, record, tasks, shared):
    """All tasks of a call, alone or with whoever comes to the board, which nobody else may lead at the same time."""
    if not shared:
        for task in range(tasks):
            _call(kernel, record, task)
        return
    board[TASKS], board[KERNEL], board[RECORD] = tasks, kernel, record
    _write(board, NEXT, 0)
    _write(board, OPEN, 1)
    _work(board)
    _write(board, OPEN, 0)
    looks = 0
    while _look(board, INSIDE) > 0:
        _breathe(looks)
        looks += 1


def help_out(board):
    """Watches the board and works with its leader, until nothing has come for a while."""
    looks = 0
    while looks < PATIENCE:
        if _look(board, OPEN) == 1 and _look(board, NEXT) < _look(board, TASKS):
            _add(board, INSIDE, 1)
            if _look(board, OPEN) == 1:
                _work(board)
            _add(board, INSIDE, -1)
            looks = 0
        _breathe(looks)
        looks += 1
