"""The CUDA kernels (cuda_kernels/), through Numba: calls of the contract, their arrays on the GPU and back.

NumPy arrays are copied to the GPU and back; arrays that lie there already are used where they are. `training`, for
models that stay there while they train, is cuda_training.py's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .arrays import CudaArray
from .contract import Call, Gradients
from .cuda_kernels import embedding, recurrent
from .cuda_kernels.device import Device, why_not
from .cuda_kernels.products import multiply
from .cuda_training import Training

if (reason := why_not()) is not None:
    raise ImportError(reason)

training = Training


class Data(NamedTuple):
    """What backward needs: the call on the GPU, and what the forward sweep left there."""

    layer: recurrent.Layer
    kept: recurrent.Kept


def _forward(call: Call, gates: int) -> tuple[Any, Any, Any, Data | None]:
    arrays = (call.x, call.ids, call.W, call.U, call.b, call.h0, call.c0, call.mask, call.x_mask, call.h_mask)
    device = Device(arrays)
    x, ids, W, U, b, h0, c0, mask, x_mask, h_mask = (device.get(array) for array in arrays)
    there = recurrent.Layer(
        *(device, gates, call.batch, call.time, len(call.W), len(call.U)),
        *(x, ids, W, U, b, h0, c0, mask, x_mask, h_mask),
        backwards=call.go_backwards,
        zero_masked=call.zero_output_for_mask,
        sequences=call.return_sequences,
        training=call.training,
        reset_after=call.reset_after,
    )
    if there.ids is not None:
        embedding.check_ids(device, there.ids, len(call.x))
    out = recurrent.forward(there)
    to_host = not isinstance(call.x, CudaArray)
    y, h = device.give(out.y, call.y_shape, to_host), device.give(out.h, call.state_shape, to_host)
    c = None if out.c is None else device.give(out.c, call.state_shape, to_host)
    return y, h, c, Data(there, out.kept) if call.training else None


def _backward(call: Call, data: Data, dy: Any, dhT: Any, dcT: Any) -> Gradients:
    upstream = (dy, dhT, dcT)
    device = Device(upstream, data.layer.device)
    there = data.layer._replace(device=device)
    if there.ids is not None:
        try:
            embedding.check_ids(device, there.ids, len(call.x))
        except IndexError:
            raise ValueError("token ids were changed since the forward call, and are now outside the table") from None
    sizes = [0 if array is None else array.size for array in (call.W, call.U, call.b)]
    of_weights = device.empty(sum(sizes), call.x.dtype)
    targets = recurrent.Targets(of_weights, 0, sizes[0], sizes[0] + sizes[1])
    dy, dhT, dcT = (device.get(array) for array in upstream)
    dx, dh, dc, products = recurrent.backward(there, data.kept, dy, dhT, dcT, targets)
    multiply(device, *products)
    if there.ids is not None:
        rows, dx = dx, device.empty(call.x.size, call.x.dtype)
        embedding.scatter_add(device, embedding.sort(device, there.ids, len(call.x)), rows, dx, *call.x.shape)

    to_host = not isinstance(call.x, CudaArray)

    def give(array: Any, shape: tuple[int, ...]) -> Any:
        return device.give(array, shape, to_host)

    return Gradients(
        dx=give(dx, call.x.shape),
        dW=give(of_weights[: targets.U], call.W.shape),
        dU=give(of_weights[targets.U : targets.b], call.U.shape),
        db=None if call.b is None else give(of_weights[targets.b :], call.b.shape),
        dh0=give(dh, call.state_shape),
        dc0=None if dc is None else give(dc, call.state_shape),
    )


def lstm_forward(call: Call) -> tuple[Any, Any, Any, Any]:
    return _forward(call, 4)


def lstm_backward(call: Call, data: Any, dy: Any, dhT: Any, dcT: Any) -> Gradients:
    return _backward(call, data, dy, dhT, dcT)


def gru_forward(call: Call) -> tuple[Any, Any, Any]:
    y, hT, _, data = _forward(call, 3)
    return y, hT, data


def gru_backward(call: Call, data: Any, dy: Any, dhT: Any) -> Gradients:
    return _backward(call, data, dy, dhT, None)


def embedding_forward(table: Any, ids: Any) -> Any:
    shape, to_host = (*ids.shape, table.shape[1]), not isinstance(table, CudaArray)
    device = Device((table, ids))
    flat_ids = device.get(ids)
    embedding.check_ids(device, flat_ids, len(table))
    return device.give(embedding.gather(device, device.get(table), flat_ids, table.shape[1]), shape, to_host)


def embedding_backward(ids: Any, dy: Any, out: Any) -> None:
    device = Device((out, ids, dy))
    rows, width = out.shape
    on_device = isinstance(out, CudaArray)
    target = device.get(out) if on_device else device.empty(out.size, out.dtype)
    flat_ids = device.get(ids)
    embedding.check_ids(device, flat_ids, rows)
    embedding.scatter_add(device, embedding.sort(device, flat_ids, rows), device.get(dy), target, rows, width)
    if not on_device:
        out[...] = device.give(target, out.shape, to_host=True)
