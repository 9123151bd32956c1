"""A recurrent layer on arrays of the GPU: what is launched in which order.

Forward: the product with W for all time steps, then one launch that sweeps over them. Backward: one sweep that leaves
the gates' gradients of all time steps, then the products for dx, dW with db, and dU. How many launches that is depends
on the options, never on T.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import gru, lstm
from .device import Device
from .products import Masks, Matrix, Product, Rows, multiply, transpose
from .sweep import Plan, Sizes, make_plan


class Layer(NamedTuple):
    """One call of a layer. All arrays are flat; what they are is said in contract.Call."""

    device: Device
    gates: int  # 4 for LSTM, 3 for GRU
    B: int
    T: int
    I: int
    H: int
    x: Any
    ids: Any
    W: Any
    U: Any
    b: Any
    h0: Any
    c0: Any
    mask: Any
    x_mask: Any
    h_mask: Any
    backwards: bool
    zero_masked: bool
    sequences: bool
    training: bool
    reset_after: bool

    @property
    def y_size(self) -> int:
        return self.B * (self.T if self.sequences else 1) * self.H

    @property
    def groups(self) -> int:
        """Into how many products that with W falls: one per gate where each has a dropout mask of its own."""
        return self.gates if self.x_mask is not None and self.x_mask.size > self.B * self.I else 1

    @property
    def inputs(self) -> Rows:
        """x as the product with W sees it."""
        return Rows(Matrix(self.x, self.I), self.ids, self.x_masks)

    @property
    def x_masks(self) -> Masks | None:
        return None if self.x_mask is None else Masks(self.x_mask, self.T, self.B, self.I)


class Kept(NamedTuple):
    """What the forward sweep leaves for backward. `kept` is the cell's: c before each step for LSTM, q for GRU (see
    gru.py). All lie at the place in time that a step reads, not in the order of the steps: their rows are x's."""

    gates: Any
    h_before: Any
    kept: Any


class Outputs(NamedTuple):
    y: Any
    h: Any
    c: Any
    kept: Kept


class Targets(NamedTuple):
    """Where gradients of weights go: into one array, at these places; b is not looked at without a bias."""

    array: Any
    W: int
    U: int
    b: int


class Gradients(NamedTuple):
    """dx is that of the rows that were looked up, where there are ids; dc0 is None for GRU. `products` are those that
    the weights' gradients are still to be made by, so that they can be launched with others."""

    dx: Any
    dh0: Any
    dc0: Any
    products: list[Product]


def forward(layer: Layer) -> Outputs:
    """The outputs and final states; c is None for GRU."""
    device, gates, B, T, I, H = layer[:6]
    dtype, GH, lstm_cell = layer.x.dtype, gates * H, gates == 4
    steps = B * T * H if layer.training else 1
    kept = Kept(device.empty(B * T * GH, dtype), device.empty(steps, dtype), device.empty(steps, dtype))
    N = GH // layer.groups
    bias = layer.b[:GH] if layer.b is not None else None
    of_gates, of_W = Matrix(kept.gates, GH, group=N), Matrix(layer.W, GH, group=N)
    multiply(device, Product(of_gates, layer.inputs, of_W, (B * T, N, I), bias, layer.groups))

    # what h must be seen as, besides as it is: under each gate's mask; and q, where the reset comes before
    early = gates if lstm_cell or layer.reset_after else 2
    slots = (early if layer.h_mask is not None else 1) + gates - early
    plan = _plan(layer, slots)
    size = _sizes(layer, plan, slots, has_h=layer.h0 is not None, has_c=layer.c0 is not None)
    y, h = device.empty(layer.y_size, dtype), device.empty(B * H, dtype)
    c = device.empty(B * H, dtype) if lstm_cell else None
    scratch = device.empty(plan.scratch_size(B, H, slots), dtype)
    U = layer.U
    # in place of an array that is not there, one that the kernel does not look at
    h0, c0 = (U if state is None else state for state in (layer.h0, layer.c0))
    real: Any = dtype.type
    args: tuple[Any, ...]
    if lstm_cell:
        kernel = lstm.forward(real, *plan.variant)
        args = (kept.gates, U, scratch, *_masks(layer), h0, c0, y, h, c, *kept[1:])
    else:
        kernel = gru.forward(real, *plan.variant, layer.reset_after)
        b_rec = layer.b[GH:] if layer.b is not None and layer.reset_after else U
        args = (kept.gates, U, b_rec, scratch, *_masks(layer), h0, y, h, *kept[1:])
    device.launch(kernel, plan.blocks, plan.threads, size, *args, shared_bytes=plan.shared_bytes)
    return Outputs(y, h, c, kept)


def backward(
    layer: Layer, kept: Kept, dy: Any, dhT: Any, dcT: Any, targets: Targets, *, wants_dx: bool = True
) -> Gradients:
    """The gradients; dx is None unless wanted."""
    device, gates, B, T, I, H = layer[:6]
    dtype, GH = layer.x.dtype, gates * H
    plan = _plan(layer, gates)
    size = _sizes(layer, plan, gates, has_h=dhT is not None, has_c=dcT is not None, has_dy=dy is not None)
    Ut = transpose(device, layer.U, H, GH)
    dgates, dh = device.empty(B * T * GH, dtype), device.empty(B * H, dtype)
    passed_back = device.empty(B * H if layer.mask is not None else 1, dtype)
    scratch = device.empty(plan.scratch_size(B, H, gates), dtype)
    # in place of an array that is not there, one that the kernel does not look at
    dy, dhT, dcT = (Ut if array is None else array for array in (dy, dhT, dcT))
    dc = dq = None
    real: Any = dtype.type
    args: tuple[Any, ...]
    if gates == 4:
        dc = device.empty(B * H, dtype)
        kernel = lstm.backward(real, *plan.variant)
        args = (kept.gates, kept.kept, Ut, scratch, *_masks(layer), dy, dhT, dcT, passed_back, dh, dc, dgates)
    else:
        dq = device.empty(B * T * H if layer.reset_after else 1, dtype)
        kernel = gru.backward(real, *plan.variant, layer.reset_after)
        args = (kept.gates, kept.kept, kept.h_before, Ut, scratch, *_masks(layer), dy, dhT, passed_back, dh, dgates, dq)
    device.launch(kernel, plan.blocks, plan.threads, size, *args, shared_bytes=plan.shared_bytes)

    dx, N = None, GH // layer.groups
    of_gates = Matrix(dgates, GH, group=N)
    if wants_dx:
        dx = device.empty(B * T * I, dtype)
        of_W = Matrix(layer.W, GH, group=N).T
        shape = (B * T, I, N)
        product = Product(Matrix(dx, I), Rows(of_gates), of_W, shape, groups=layer.groups, c_masks=layer.x_masks)
        multiply(device, product)
    array, W_at, _, b_at = targets
    of_x, sums = layer.inputs._replace(turned=True), None if layer.b is None else b_at - W_at
    dW = Matrix(array, GH, at=W_at, group=N)
    product_W = Product(dW, of_x, of_gates, (I, N, B * T), groups=layer.groups, sums=sums, split=True)
    return Gradients(dx, dh, dc, [product_W, *_recurrent_gradients(layer, kept, targets, dgates, dq)])


def _recurrent_gradients(layer: Layer, kept: Kept, targets: Targets, dgates: Any, dq: Any) -> list[Product]:
    """dU, and that of GRU's recurrent bias."""
    gates, B, T, _, H = layer[1:6]
    array, _, U_at, b_at = targets
    GH = gates * H
    # how many gates, from which on, saw which states, under masks or not, and their gradients
    if gates == 4:
        seen = [(4, 0, kept.h_before, True, Matrix(dgates, GH))]
    elif layer.reset_after:
        seen = [(2, 0, kept.h_before, True, Matrix(dgates, GH)), (1, 2, kept.h_before, True, Matrix(dq, H))]
    else:
        seen = [(2, 0, kept.h_before, True, Matrix(dgates, GH)), (1, 2, kept.kept, False, Matrix(dgates, GH, at=2 * H))]
    has_sums = gates == 3 and layer.reset_after and layer.b is not None
    products = []
    for count, first, states, masked, of_gates in seen:
        masks = Masks(layer.h_mask, T, B, H, first) if masked and layer.h_mask is not None else None
        groups = count if masks is not None else 1
        N = count * H // groups
        of_U = Matrix(array, GH, at=U_at + first * H, group=N)
        of_states = Rows(Matrix(states, H), None, masks, turned=True)
        sums = b_at + GH - U_at if has_sums else None
        of_gates = of_gates._replace(group=N)
        products.append(Product(of_U, of_states, of_gates, (H, N, B * T), None, groups, sums, split=True))
    return products


def _masks(layer: Layer) -> tuple[Any, Any]:
    mask, h_mask = layer.mask, layer.h_mask
    return layer.device.empty(1, np.uint8) if mask is None else mask, layer.U if h_mask is None else h_mask


def _sizes(layer: Layer, plan: Plan, slots: int, **flags: bool) -> Sizes:
    return Sizes(
        **dict(B=layer.B, T=layer.T, H=layer.H, rows=plan.rows, span=plan.span, units=plan.units, slots=slots),
        backwards=int(layer.backwards),
        masked=int(layer.mask is not None),
        zero_masked=int(layer.zero_masked),
        sequences=int(layer.sequences),
        training=int(layer.training),
        h_masked=int(layer.h_mask is not None),
        biased=int(layer.b is not None),
        **{name: int(flag) for name, flag in {"has_h": False, "has_c": False, "has_dy": False, **flags}.items()},
    )


def _plan(layer: Layer, slots: int) -> Plan:
    device, itemsize = layer.device, layer.x.dtype.itemsize
    return make_plan(layer.B, layer.H, layer.gates, slots, itemsize, device.processors, grid=device.can_meet)
