"""How threads share the work of a call, below Python: with its lock in between, waking takes longer than the work.

A board of a few numbers is all they have in common. The leader, whoever calls, writes a job onto it and opens it;
helpers that watch the board come inside, and all take the next task until there is none. The leader closes the board
and waits until nobody is inside: then no task is under way, and the board may be written again.

Where a team is to work on one task, what helpers take are seats instead. The leader waits for them a moment, then gives
the seats away: who has come by then is the team, and nobody has to be waited for who might never come.
"""

from __future__ import annotations

import platform

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

# places on the board, those that threads contend for a cache line apart
OPEN, NEXT, INSIDE, TASKS, KERNEL, RECORD, TEAM, MEMBERS = 0, 16, 32, 48, 49, 50, 51, 64
# How long helpers watch before they go to sleep: half a millisecond or one, since in training the next call comes soon.
# After the first of so many looks they let others have the core.
PATIENCE, GREED = 20_000, 2_000
# How many looks a leader waits for its team: helpers that sleep need some 0.1 ms.
GATHERING = 2_500


def _at(context, builder, sig, args):
    """A place on a board, which is an array or a pointer."""
    board = args[0]
    if isinstance(sig.args[0], types.Array):
        board = context.make_array(sig.args[0])(context, builder, board).data
    return builder.gep(board, [args[1]])


@intrinsic
def _look(typingctx, board, place):
    def codegen(context, builder, sig, args):
        return builder.load_atomic(_at(context, builder, sig, args), "seq_cst", 8)

    return types.int64(board, types.int64), codegen


@intrinsic
def _write(typingctx, board, place, value):
    def codegen(context, builder, sig, args):
        builder.store_atomic(args[2], _at(context, builder, sig, args), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(board, types.int64, types.int64), codegen


@intrinsic
def _add(typingctx, board, place, value):
    """Adds to a place, and gives what was there."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", _at(context, builder, sig, args), args[2], "seq_cst")

    return types.int64(board, types.int64, types.int64), codegen


@intrinsic
def _swap(typingctx, board, place, value):
    """Writes to a place, and gives what was there."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("xchg", _at(context, builder, sig, args), args[2], "seq_cst")

    return types.int64(board, types.int64, types.int64), codegen


@intrinsic
def _call(typingctx, kernel, record, task, member, members):
    """Calls the kernel at an address."""

    def codegen(context, builder, sig, args):
        function = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 4)
        builder.call(builder.inttoptr(args[0], function.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


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
        _call(kernel, record, task, 0, 1)
        task = _add(board, NEXT, 1)


@njit
def _join(board):
    seat = _add(board, NEXT, 1)
    if seat < board[TASKS]:
        looks = 0
        while _look(board, MEMBERS) == 0:
            _breathe(looks)
            looks += 1
        _call(board[KERNEL], board[RECORD], 0, seat, _look(board, MEMBERS))


@njit
def _gather(board, seats):
    """The leader takes the first seat; how many there are in the end."""
    looks = 0
    while _look(board, NEXT) < seats and looks < GATHERING:
        _breathe(looks)
        looks += 1
    members = min(_swap(board, NEXT, seats), seats)
    _write(board, MEMBERS, members)
    return members


@njit
def barrier_wait(arrivals, members):
    """Waits until all members of a team have come so often; `arrivals` counts them, from 0 on."""
    meeting = (_add(arrivals, 0, 1) // members + 1) * members
    looks = 0
    while _look(arrivals, 0) < meeting:
        _breathe(looks)
        looks += 1


def lead(board, kernel, record, tasks, shared, team):
    """All tasks of a call, or one task with a team of so many; alone or with whoever comes to the board, which nobody
    else may lead at the same time."""
    if not shared:
        for task in range(1 if team else tasks):
            _call(kernel, record, task, 0, 1)
        return
    board[TASKS], board[KERNEL], board[RECORD], board[TEAM] = tasks, kernel, record, team
    _write(board, MEMBERS, 0)
    _write(board, NEXT, 1 if team else 0)
    _write(board, OPEN, 1)
    if team:
        _call(kernel, record, 0, 0, _gather(board, tasks))
    else:
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
                if board[TEAM] != 0:
                    _join(board)
                else:
                    _work(board)
            _add(board, INSIDE, -1)
            looks = 0
        _breathe(looks)
        looks += 1
