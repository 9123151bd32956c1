"""What a backend is given and what it gives: the kernel contract.

A backend is a module with

    lstm_forward(call)  -> (y, hT, cT, data)        lstm_backward(call, data, dy, dhT, dcT) -> Gradients
    gru_forward(call)   -> (y, hT, data)            gru_backward(call, data, dy, dhT)       -> Gradients
    embedding_forward(table, ids) -> rows           embedding_backward(ids, dy, out) -> None

`call` has been checked: shapes agree, arrays are C-contiguous and of one floating type. `data` is what backward needs
beyond the call, in whatever layout is fast for the backend; None unless `call.training`. Backward changes neither the
call nor the data, so it may run twice, or in two threads at once. The embedding functions raise IndexError(place) for
the first id outside the table.

A backend may also have the following, which make a training step shorter; where it has not, what it has and NumPy do.

    forward_again(call, data) -> (y, hT, cT)
        The training forward once more, for a call with other inputs and masks of the same shapes: nobody needs what
        `data` holds any more, and it is written anew. cT is None for GRU.
    backward_into(call, data, dy, dhT, dcT, out) -> None
        Backward into the arrays of `out`, Gradients.
    optimize(w, g, rule, m, v, a, rate, beta_1, beta_2, epsilon, nesterov) -> None
        One step of "sgd", "rmsprop" or "adam", the rules of fastrnn/training/optimizers.py, over flat arrays of one
        type and size. Slots that a rule or its options have not are None: m (momentum, or Adam's means), v (mean
        squares), a (RMSprop's mean gradients, or Adam's largest v).
    dense_crossentropy(loss, x, W, b, y, weights, dW, db) -> Head, or None where the calls of NumPy are as good
        A last Dense, its sigmoid or softmax, and the cross-entropy that belongs to it, `loss` being Keras' name.
        y as the loss prepared it; weights one for each row of x, or None; dW and db are written, or None, for no
        gradients.
    stream(table, stages, inputs) -> an object with pack([Weights]) and step(x)
        Steps of layers one after another, Stages, from (B, inputs) numbers or, where there is a table
        (V, inputs), (B,) int64 token ids. pack copies the weights, one for each stage; step updates the stages' states
        and writes all their outputs, and raises IndexError(place) for the first id outside the table.
    model_steps(parts, goal, spans, dtype) -> an object that takes a whole model's steps, or None
        None where it is not for such a model, described as for `training`. It has
        takes(x, y, weights, size)   Whether it is for batches of `size` of such data: inputs, targets as the loss
                                     prepared them, weights of the samples or None.
        begin(x, y, weights, order, size, training)  A pass over data that it takes, in an order of samples or as they
                                     lie. The arrays are read, and what they hold is checked, batch by batch.
        bind(w, g, rule, dropouts)   From now on steps read the flat array of weights and, in training, draw masks,
                                     Drawn for inputs and states of each recurrent layer, and inputs of each Dropout,
                                     write the array of gradients and then, unless there is no Rule, change the weights.
        run(first, rates, total)     As many steps as there are learning rates, from step `first` of the pass on;
                                     fewer at the end, before a batch of another size, and before one with a token id
                                     that is not in the table.
        done() -> Done or None       What the last run did, also if it was interrupted; None if it did not begin.
    training(parts, goal, spans, dtype) -> an object that keeps a whole model where it trains
        The layers, Parts; what is minimised and measured, a Goal; from where to where in the flat array of weights each
        variable lies. It has
        upload(x, y, weights) -> data       Inputs, targets as the loss prepared them, weights of the entries or None.
        begin(data, order, size, training)  A pass over data, in an order of samples or as they lie, `size` in a batch.
        load(w, slots), store(w, g, slots)  Weights and slots (m, v, a, as for optimize) from arrays, and into them.
        train(k, factors, update)           A step on batch k; factors are the arrays that the parts' dropout multiplies
                                            with, (x_mask, h_mask) as in Call or, of a "dropout", (factors, None).
        test(k)                             The same without dropout and without an update.
        results(first, last) -> [[Result]]  For each of these steps, the loss and the metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass(slots=True)
class Call:
    """One recurrent layer over one whole batch; G gates is 4 for LSTM (i, f, c, o), 3 for GRU (z, r, h).

    Attributes:
        x (B, T, I) inputs; W (I, G*H) kernel; U (H, G*H) recurrent kernel; all float32 or all float64.
        ids: (B, T) int32 or int64 token ids; then x is a table (V, I), and the inputs are x[ids]; dx is
            then the table's gradient. None: x is the inputs themselves.
        b: (G*H,) bias, for GRU with reset_after (2, G*H): input and recurrent bias; None without bias.
        h0, c0: (B, H) initial states, None for zeros; c0 for LSTM only.
        mask: (B, T) uint8, 0 where a step is skipped: the states pass through; None if none is.
        x_mask: (1, B, I) dropout mask of the inputs, shared by all gates and time steps, or (G, B, I), one per
            gate; holds 0 and 1/(1-rate); None without dropout.
        h_mask: (G, B, H), likewise, for the states where they enter the recurrent product.
        go_backwards: step s reads x[:, T-1-s]; outputs come in the order of the steps.
        zero_output_for_mask: outputs of masked steps are zero; else they repeat the last one (zero before any).
        return_sequences: y is (B, T, H), else the last step's (B, H).
        training: keep what backward needs.
        reset_after: GRU's reset gate is applied after the recurrent product (its bias included), else before.
    """

    x: np.ndarray
    ids: np.ndarray | None
    W: np.ndarray
    U: np.ndarray
    b: np.ndarray | None
    h0: np.ndarray | None
    c0: np.ndarray | None
    mask: np.ndarray | None
    x_mask: np.ndarray | None
    h_mask: np.ndarray | None
    go_backwards: bool
    zero_output_for_mask: bool
    return_sequences: bool
    training: bool
    reset_after: bool

    @property
    def batch(self) -> int:
        """B."""
        return len(self.x if self.ids is None else self.ids)

    @property
    def time(self) -> int:
        """T."""
        return int((self.x if self.ids is None else self.ids).shape[1])

    @property
    def y_shape(self) -> tuple[int, ...]:
        batch, time = (self.x if self.ids is None else self.ids).shape[:2]
        return (batch, time, len(self.U)) if self.return_sequences else (batch, len(self.U))

    @property
    def state_shape(self) -> tuple[int, int]:
        return (self.batch, len(self.U))


class Gradients(NamedTuple):
    """Gradients of a call's arrays, each of its array's shape; db is None without bias, dc0 for GRU."""

    dx: np.ndarray
    dW: np.ndarray
    dU: np.ndarray
    db: np.ndarray | None
    dh0: np.ndarray
    dc0: np.ndarray | None


class Head(NamedTuple):
    """The end of a model: the mean loss, how many predictions are right, predictions p, the gradient of x or None."""

    loss: float
    correct: int
    p: np.ndarray
    dx: np.ndarray | None


class Stage(NamedTuple):
    """A layer of a stream: "lstm", "gru", "gru_reset_before" or "dense", a dense one's activation, its arrays.

    y (B, H) is the output; h and c (B, H) the states, None where there are none.
    """

    kind: str
    activation: str
    y: np.ndarray
    h: np.ndarray | None
    c: np.ndarray | None


class Weights(NamedTuple):
    """Kernel, recurrent kernel (None for a dense layer) and bias (None for none), in Keras' layouts."""

    W: np.ndarray
    U: np.ndarray | None
    b: np.ndarray | None


class Reserve(NamedTuple):
    """What a training forward keeps for backward. Opaque; it holds the inputs, not copies of them."""

    cell: str
    backend: Any
    call: Call
    data: Any


class Part(NamedTuple):
    """A layer of a model that trains as a whole; its arguments are Keras'.

    Attributes:
        kind: "embedding" (the first one only), "lstm", "gru", "gru_reset_before", "dropout" or "dense".
        at: where each of its weights begins in the flat array of all weights; a bias is the last, or not there.
        inputs, units: lengths of the last axis of its input and its output; of an embedding, V and the table's width.
    """

    kind: str
    at: tuple[int, ...] = ()
    inputs: int = 0
    units: int = 0
    activation: str = "linear"
    mask_zero: bool = False
    return_sequences: bool = False
    go_backwards: bool = False
    zero_output_for_mask: bool = False


class Goal(NamedTuple):
    """A loss and metrics by Keras' full names. `source` is what the last part gives: "predictions", "logits", or, being
    a dense one with the activation that the loss belongs to, "linked": loss and gradient are those of its logits, the
    predictions their activation."""

    loss: str
    source: str
    metrics: tuple[str, ...]


class Update(NamedTuple):
    """An optimizer's step but for its slots: as for `optimize`, after gradients are clipped by "value", "norm" (each
    variable's), "global_norm" or not at all."""

    rule: str
    rate: float
    beta_1: float
    beta_2: float
    epsilon: float
    nesterov: bool
    clip: str | None
    limit: float


# A step as `optimize` takes it, from the rule's name on.
Rule = tuple[Any, ...]


class Drawn(NamedTuple):
    """Masks of dropout that are drawn in each step: an entry is 0 with probability `rate`, else `kept`; without a
    generator all are 0. As many `masks` as a recurrent layer has gates, or one for all of them."""

    generator: np.random.Generator | None
    rate: float
    kept: float
    masks: int


Dropouts = Sequence[tuple[Drawn | None, Drawn | None]]


class Done(NamedTuple):
    """How many steps were taken, what became of `total` as each added its loss times its samples, how many predictions
    were right by the accuracy that goes with the loss, and those of the last batch, which the next steps overwrite."""

    steps: int
    total: float
    correct: int
    p: np.ndarray


class Result(NamedTuple):
    """A sum, and of how many values."""

    total: float
    values: int
