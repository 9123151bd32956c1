"""The oracle: LSTM and GRU in plain NumPy, meant to be read. The other backends' formulas are these.

Notation. Rows are samples, * is elementwise, @ the matrix product, s(a) = 1 / (1 + exp(-a)). For one time step with
input x, states h and c before it; W, U, b fall into one block of columns per gate. `d?` is the gradient of the loss
with respect to `?`; s' = s (1 - s), tanh' = 1 - tanh^2. m_g, n_g are the dropout masks of gate g for x and h, one for
the whole sequence (Gal and Ghahramani, 2016); 1 where there is no dropout.

LSTM (Hochreiter and Schmidhuber, 1997; with the forget gate of Gers et al., 2000), gates i, f, c (here g), o:

    a_g = (x * m_g) @ W_g + (h * n_g) @ U_g + b_g
    i = s(a_i)   f = s(a_f)   g = tanh(a_c)   o = s(a_o)
    c' = f * c + i * g
    h' = o * tanh(c')

  Backward. Given dh' and the part of dc' that comes from the step after:

    dc' += dh' * o * (1 - tanh(c')^2)
    da_i = dc' * g * i (1 - i)     da_f = dc' * c * f (1 - f)
    da_c = dc' * i * (1 - g^2)     da_o = dh' * tanh(c') * o (1 - o)
    dc = dc' * f

GRU (Cho et al., 2014), gates z, r, h:

    z = s((x * m_z) @ W_z + (h * n_z) @ U_z + b_z)          (b sums both biases if there are two)
    r = s((x * m_r) @ W_r + (h * n_r) @ U_r + b_r)
    reset_after:  q = (h * n_h) @ U_h + b2_h    p = (x * m_h) @ W_h + b1_h + r * q
    else:         q = r * h * n_h               p = (x * m_h) @ W_h + q @ U_h + b_h
    k = tanh(p)
    h' = z * h + (1 - z) * k

  Backward. Given dh':

    da_z = dh' * (h - k) * z (1 - z)     dp = dh' * (1 - z) * (1 - k^2)     dh = dh' * z + ...
    reset_after:  dq = dp * r            da_r = dp * q * r (1 - r)
                  U_h and b2_h see dq, everything of the input's side sees dp
    else:         dq = dp @ U_h^T        da_r = dq * h * n_h * r (1 - r)
                  dh += dq * r * n_h     dU_h = q^T @ dp

For both, summed over the gates g, with da_h = dp for the input's side:

    dx = sum (da_g @ W_g^T) * m_g     dW_g = (x * m_g)^T @ da_g     db_g = sum over rows of da_g
    dh += sum (da_g @ U_g^T) * n_g    dU_g = (h * n_g)^T @ da_g

Masked steps. Where a sample's mask is 0, h' = h and c' = c, and the output repeats the previous output, which is zero
before the first valid step (or is zero at every masked step). So its dh, dc pass through, its da is zero, and its dy
is handed to the step before, whose output it repeats (or is lost).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .contract import Call, Gradients


def sigmoid(a: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-a)), without overflow."""
    e = np.exp(-np.abs(a))
    result: np.ndarray = np.where(a >= 0, 1 / (1 + e), e / (1 + e))
    return result


class _Steps:
    """Views of one call, gate by gate and step by step; what both cells and directions share."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.B, self.T = call.batch, call.time
        self.inputs = call.x if call.ids is None else embedding_forward(call.x, call.ids)
        self.H = call.U.shape[0]
        self.G = call.U.shape[1] // self.H
        self.W = self.gates(call.W)
        self.U = self.gates(call.U)

    def gates(self, a: np.ndarray) -> list[np.ndarray]:
        """The blocks of columns, one per gate, as views."""
        return [a[..., g * self.H : (g + 1) * self.H] for g in range(self.G)]

    def time(self, s: int) -> int:
        return self.T - 1 - s if self.call.go_backwards else s

    def x(self, s: int, gate: int) -> np.ndarray:
        """The inputs of step s as the gate sees them."""
        x: np.ndarray = self.inputs[:, self.time(s)] * self.x_mask(gate)
        return x

    def x_mask(self, gate: int) -> Any:
        mask = self.call.x_mask
        return 1 if mask is None else mask[gate if len(mask) > 1 else 0]

    def h_mask(self, gate: int) -> Any:
        return 1 if self.call.h_mask is None else self.call.h_mask[gate]

    def valid(self, s: int) -> np.ndarray:
        """(B, 1) of bool: where step s is not masked."""
        if self.call.mask is None:
            return np.ones((self.B, 1), bool)
        valid: np.ndarray = self.call.mask[:, self.time(s), None] != 0
        return valid

    def state(self, value: np.ndarray | None) -> np.ndarray:
        return np.zeros((self.B, self.H), self.call.x.dtype) if value is None else value.copy()


def _forward(steps: _Steps, step: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Any]]:
    """Runs step(s, h, c) -> (h', c', kept) over time, with the mask's rules for states and outputs."""
    call = steps.call
    h, c = steps.state(call.h0), steps.state(call.c0)
    last = np.zeros_like(h)
    outputs, kept = [], []
    for s in range(steps.T):
        valid = steps.valid(s)
        h_new, c_new, saved = step(s, h, c)
        kept.append((h, c, saved))
        h, c = np.where(valid, h_new, h), np.where(valid, c_new, c)
        last = np.where(valid, h_new, 0 if call.zero_output_for_mask else last)
        outputs.append(last)
    y = np.stack(outputs, axis=1) if call.return_sequences else last
    return y, h, c, kept


def _backward(
    steps: _Steps, kept: list[Any], dy: np.ndarray | None, dhT: np.ndarray | None, dcT: np.ndarray | None, step: Any
) -> Gradients:
    """Runs step(s, kept, dh, dc, grads) -> (dh, dc) over time in reverse; it adds to dW, dU, db and sets dx."""
    call = steps.call
    dh, dc = steps.state(dhT), steps.state(dcT)
    grads = Gradients(
        dx=np.zeros_like(steps.inputs),
        dW=np.zeros_like(call.W),
        dU=np.zeros_like(call.U),
        db=None if call.b is None else np.zeros_like(call.b),
        dh0=dh,
        dc0=dc,
    )
    passed_back = np.zeros_like(dh)
    for s in reversed(range(steps.T)):
        valid = steps.valid(s)
        if dy is not None and (call.return_sequences or s == steps.T - 1):
            passed_back = passed_back + (dy[:, s] if call.return_sequences else dy)
        dh_valid, dc_valid = step(s, kept[s], np.where(valid, dh + passed_back, 0), np.where(valid, dc, 0), grads)
        dh, dc = np.where(valid, dh_valid, dh), np.where(valid, dc_valid, dc)
        passed_back = np.where(valid | call.zero_output_for_mask, 0, passed_back)
    grads = grads._replace(dh0=dh, dc0=dc)
    if call.ids is None:
        return grads
    table = np.empty_like(call.x)
    embedding_backward(call.ids, grads.dx, table)
    return grads._replace(dx=table)


def lstm_forward(call: Call) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    steps = _Steps(call)
    b = [0] * 4 if call.b is None else steps.gates(call.b)

    def step(s: int, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
        a = [steps.x(s, g) @ steps.W[g] + (h * steps.h_mask(g)) @ steps.U[g] + b[g] for g in range(4)]
        i, f, g, o = sigmoid(a[0]), sigmoid(a[1]), np.tanh(a[2]), sigmoid(a[3])
        c_new = f * c + i * g
        return o * np.tanh(c_new), c_new, (i, f, g, o, c_new)

    y, hT, cT, kept = _forward(steps, step)
    return y, hT, cT, kept if call.training else None


def lstm_backward(
    call: Call, data: Any, dy: np.ndarray | None, dhT: np.ndarray | None, dcT: np.ndarray | None
) -> Gradients:
    steps = _Steps(call)

    def step(s: int, kept: Any, dh: np.ndarray, dc: np.ndarray, grads: Gradients) -> tuple[np.ndarray, np.ndarray]:
        h, c, (i, f, g, o, c_new) = kept
        tanh_c = np.tanh(c_new)
        dc = dc + dh * o * (1 - tanh_c**2)
        da = [
            dc * g * i * (1 - i),
            dc * c * f * (1 - f),
            dc * i * (1 - g**2),
            dh * tanh_c * o * (1 - o),
        ]
        dh = _gate_gradients(steps, s, h, da, da, grads)
        if grads.db is not None:
            grads.db[...] += np.concatenate(da, axis=1).sum(axis=0)
        return dh, dc * f

    return _backward(steps, data, dy, dhT, dcT, step)


def gru_forward(call: Call) -> tuple[np.ndarray, np.ndarray, Any]:
    steps = _Steps(call)
    zeros = np.zeros((2, 3 * steps.H), call.x.dtype)
    both = zeros if call.b is None else call.b if call.reset_after else np.stack([call.b, zeros[0]])
    b_in, b_rec = steps.gates(both[0]), steps.gates(both[1])

    def step(s: int, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
        x_part = [steps.x(s, g) @ steps.W[g] + b_in[g] for g in range(3)]
        z, r = (sigmoid(x_part[g] + (h * steps.h_mask(g)) @ steps.U[g] + b_rec[g]) for g in (0, 1))
        if call.reset_after:
            q = (h * steps.h_mask(2)) @ steps.U[2] + b_rec[2]
            k = np.tanh(x_part[2] + r * q)
        else:
            q = r * h * steps.h_mask(2)
            k = np.tanh(x_part[2] + q @ steps.U[2])
        return z * h + (1 - z) * k, c, (z, r, q, k)

    y, hT, _, kept = _forward(steps, step)
    return y, hT, kept if call.training else None


def gru_backward(call: Call, data: Any, dy: np.ndarray | None, dhT: np.ndarray | None) -> Gradients:
    steps = _Steps(call)

    def step(s: int, kept: Any, dh: np.ndarray, dc: np.ndarray, grads: Gradients) -> tuple[np.ndarray, np.ndarray]:
        h, _, (z, r, q, k) = kept
        da_z = dh * (h - k) * z * (1 - z)
        dp = dh * (1 - z) * (1 - k**2)
        direct = dh * z
        if call.reset_after:
            dq = dp * r
            da_r = dp * q * r * (1 - r)
            rec = [da_z, da_r, dq]
        else:
            dq = (dp @ steps.U[2].T) * steps.h_mask(2)
            da_r = dq * h * r * (1 - r)
            direct = direct + dq * r
            steps.gates(grads.dU)[2][...] += q.T @ dp
            rec = [da_z, da_r]
        if grads.db is not None:
            inputs = np.concatenate([da_z, da_r, dp], axis=1).sum(axis=0)
            if call.reset_after:
                grads.db[0] += inputs
                grads.db[1] += np.concatenate(rec, axis=1).sum(axis=0)
            else:
                grads.db[...] += inputs
        return direct + _gate_gradients(steps, s, h, [da_z, da_r, dp], rec, grads), dc

    return _backward(steps, data, dy, dhT, None, step)._replace(dc0=None)


def _gate_gradients(
    steps: _Steps, s: int, h: np.ndarray, da_in: list[np.ndarray], da_rec: list[np.ndarray], grads: Gradients
) -> np.ndarray:
    """The gates' parts of dx (set), dW, dU (added to) and dh (returned), from the gradients of their two sums."""
    dW, dU = steps.gates(grads.dW), steps.gates(grads.dU)
    dh = np.zeros_like(h)
    for g, da in enumerate(da_in):
        dW[g][...] += steps.x(s, g).T @ da
        grads.dx[:, steps.time(s)] += (da @ steps.W[g].T) * steps.x_mask(g)
    for g, da in enumerate(da_rec):
        dU[g][...] += (h * steps.h_mask(g)).T @ da
        dh += (da @ steps.U[g].T) * steps.h_mask(g)
    return dh


def _check_ids(ids: np.ndarray, rows: int) -> None:
    if ((ids < 0) | (ids >= rows)).any():
        raise IndexError(f"an id is not in [0, {rows})")


def embedding_forward(table: np.ndarray, ids: np.ndarray) -> np.ndarray:
    _check_ids(ids, len(table))
    rows: np.ndarray = table[ids]
    return rows


def embedding_backward(ids: np.ndarray, dy: np.ndarray, out: np.ndarray) -> None:
    _check_ids(ids, len(out))
    out[...] = 0
    np.add.at(out, ids.reshape(-1), dy.reshape(-1, out.shape[1]))
