"""LSTM and GRU layers: Keras' arguments, defaults, weights and numbers on top of `fastrnn.ops`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn import ops
from fastrnn.arguments import integer, real
from fastrnn.backends.arrays import as_array
from fastrnn.backends.contract import Drawn, Reserve
from fastrnn.layers import initializers
from fastrnn.layers.base import Layer, Shape
from fastrnn.random import dropout_mask, dropout_scale, generator


class RNN(Layer):
    """What LSTM and GRU have in common. `gates` and `states` count theirs."""

    gates: int
    states_count: int
    reset_after = False

    def __init__(
        self,
        units: int,
        *,
        activation: str = "tanh",
        recurrent_activation: str = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: str | initializers.Initializer = "glorot_uniform",
        recurrent_initializer: str | initializers.Initializer = "orthogonal",
        bias_initializer: str | initializers.Initializer = "zeros",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        zero_output_for_mask: bool = False,
        seed: int | None = None,
        dtype: Any = "float32",
        backend: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        who = type(self).__name__
        self.units = integer(units, f"{who}: units", 1)
        for argument, value, only in (
            ("activation", activation, "tanh"),
            ("recurrent_activation", recurrent_activation, "sigmoid"),
        ):
            if value != only:
                raise ValueError(f"{who}: {argument} must be {only!r}, the one the kernels fuse; got {value!r}")
        self.activation, self.recurrent_activation = activation, recurrent_activation
        self.use_bias = bool(use_bias)
        self.kernel_initializer = kernel_initializer
        self.recurrent_initializer = recurrent_initializer
        self.bias_initializer = bias_initializer
        self._initializers = [
            initializers.get(i) for i in (kernel_initializer, recurrent_initializer, bias_initializer)
        ]
        self.dropout = _rate(dropout, f"{who}: dropout")
        self.recurrent_dropout = _rate(recurrent_dropout, f"{who}: recurrent_dropout")
        self.return_sequences = bool(return_sequences)
        self.return_state = bool(return_state)
        self.go_backwards = bool(go_backwards)
        self.stateful = bool(stateful)
        self.zero_output_for_mask = bool(zero_output_for_mask)
        self.seed = seed
        self.backend = backend
        self.states: list[np.ndarray] | None = None
        self.dinitial_state: list[np.ndarray] | None = None
        self._rng = generator(seed)
        self._reserve: Reserve | None = None

    # -- weights ----------------------------------------------------------------------------------

    def build(self, input_shape: Shape) -> None:
        if len(input_shape) != 3 or input_shape[-1] is None:
            raise ValueError(f"{self.name}.build: input_shape must be (batch, time, inputs), got {input_shape}")
        rng = generator()
        kernel, recurrent, bias = self._initializers
        columns = self.gates * self.units
        self.add_weight("kernel", kernel((input_shape[-1], columns), rng))
        self.add_weight("recurrent_kernel", recurrent((self.units, columns), rng))
        if self.use_bias:
            self.add_weight("bias", self._initial_bias(bias, rng))
        super().build(input_shape)

    def _initial_bias(self, initializer: initializers.Initializer, rng: np.random.Generator) -> np.ndarray:
        return initializer((self.gates * self.units,), rng)

    # -- shapes -----------------------------------------------------------------------------------

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:2], self.units) if self.return_sequences else (input_shape[0], self.units)

    def compute_mask(self, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray | None:
        return mask if self.return_sequences else None

    # -- forward and backward ---------------------------------------------------------------------

    def __call__(
        self,
        x: Any,
        initial_state: np.ndarray | Sequence[np.ndarray] | None = None,
        mask: np.ndarray | None = None,
        training: bool = False,
    ) -> Any:
        """The outputs of a batch of sequences, and the final states with `return_state`.

        Args:
            x (batch, time, inputs): cast to the layer's dtype; or an `ops.Lookup` of token ids. Where it lies in a
                GPU's memory it must have that dtype, and what is returned, gradients of weights excepted, lies there.
            initial_state: [h, c] for LSTM, h or [h] for GRU, each (batch, units); None for zeros, or for the states
                that the last call left with `stateful`.
            mask (batch, time): False where a step is skipped.
            training: draw dropout masks and keep what `backward` needs; x and mask themselves, not copies.

        Returns:
            y (batch, time, units) with return_sequences, else (batch, units); with return_state (y, h, c) or (y, h).

        Raises:
            ValueError: a wrong shape.
        """
        reserve = None
        if training:
            reserve, self._reserve = self._reserve, None  # none is left if the call fails
        if isinstance(x, ops.Lookup):
            shape = (*np.shape(x.ids), np.shape(x.table)[-1])
        else:
            x = as_array(x, self.dtype)
            shape = x.shape
        if len(shape) != 3:
            raise ValueError(f"{self.name}: x must have shape (batch, time, inputs), got {shape}")
        if not self.built:
            self.build(shape)
        if shape[2] != len(self.weights[0]):
            raise ValueError(f"{self.name}: x must have shape (batch, time, {len(self.weights[0])}), got {shape}")
        x_mask = h_mask = None
        if training and (self.dropout or self.recurrent_dropout):
            x_mask, h_mask = self.draw_dropout_masks(shape[0], shape[2])
        options: dict[str, Any] = {
            "mask": mask,
            "dropout_mask": x_mask,
            "recurrent_dropout_mask": h_mask,
            "go_backwards": self.go_backwards,
            "zero_output_for_mask": self.zero_output_for_mask,
            "return_sequences": self.return_sequences,
            "backend": self.backend,
        }
        initial = self._initial_states(initial_state, shape[0])
        outputs = None
        if reserve is not None and initial[0] is None:
            outputs = ops.forward_again(reserve, x, self.weights, reset_after=self.reset_after, **options)
        if outputs is None:
            W, U, *b = self.weights
            y, states, reserve = self._forward(x, W, U, b[0] if b else None, *initial, training=training, **options)
        else:
            y, *states = (array for array in outputs if array is not None)
        if training:
            self._reserve = reserve
        if self.stateful:
            # copies, where the caller could write into ours
            self.states = [state.copy() if isinstance(state, np.ndarray) else state for state in states]
        return (y, *states) if self.return_state else y

    def backward(self, dy: np.ndarray | None, dstates: Sequence[np.ndarray | None] | None = None) -> np.ndarray:
        """Gradients of the last training call.

        Args:
            dy: gradient of y, of its shape, or None for zero; dstates: those of the final states, [dh, dc] or [dh].

        Returns:
            The gradient of x, or of the table of a Lookup. Those of the weights are in `grads`, those of the initial
            states in `dinitial_state`.
        """
        if self._reserve is None:
            raise ValueError(f"{self.name}.backward: call the layer with training=True first")
        upstream = [None] * self.states_count if dstates is None else list(dstates)
        if len(upstream) != self.states_count:
            raise ValueError(f"{self.name}.backward: dstates must be {self.states_count} arrays, got {len(upstream)}")
        dy, *upstream = [None if d is None else as_array(d, self.dtype) for d in (dy, *upstream)]
        gradients = ops.backward_into(self._reserve, self.grads, dy, *upstream)
        self.dinitial_state = [gradients.dh0] if gradients.dc0 is None else [gradients.dh0, gradients.dc0]
        return gradients.dx

    def forget(self) -> None:
        self._reserve = None

    def step(
        self, x: Any, states: np.ndarray | Sequence[np.ndarray] | None = None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """One time step, for inference: `fastrnn.Stream` does the same much faster and keeps the states itself.

        Args:
            x (batch, inputs) or (inputs,): cast to the layer's dtype.
            states: [h, c] for LSTM, h or [h] for GRU, each (batch, units) or (units,) as x is; None for zeros.

        Returns:
            The output, which is the new h, and the new states, to be handed to the next step; all of them new arrays.

        Raises:
            ValueError: a wrong shape, or a layer that is not built.
        """
        x = np.asarray(x, dtype=self.dtype)
        if not self.built:
            raise ValueError(f"{self.name}.step: the layer has no weights yet; call it, or build(), first")
        inputs = len(self.weights[0])
        if x.ndim not in (1, 2) or x.shape[-1] != inputs:
            raise ValueError(f"{self.name}.step: x must have shape (batch, {inputs}) or ({inputs},), got {x.shape}")
        if states is None:
            states = [np.zeros((*x.shape[:-1], self.units), self.dtype)] * self.states_count
        given = [np.asarray(s) for s in (states if isinstance(states, list | tuple) else [states])]
        for state in given:
            if state.shape != (*x.shape[:-1], self.units):
                want = (*x.shape[:-1], self.units)
                raise ValueError(f"{self.name}.step: states must have shape {want}, got {state.shape}")
        rows = x.reshape(-1, 1, inputs)
        initial = self._initial_states([s.reshape(-1, self.units) for s in given], len(rows))
        W, U, *b = self.weights
        _, new, _ = self._forward(rows, W, U, b[0] if b else None, *initial, training=False, backend=self.backend)
        new = [state.reshape(*x.shape[:-1], self.units) for state in new]
        return new[0].copy(), new

    def _forward(self, *args: Any, **options: Any) -> tuple[np.ndarray, list[np.ndarray], Reserve | None]:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles get: everything but the reserve, which belongs to a backend of this process."""
        return {**self.__dict__, "_reserve": None}

    # -- states and dropout -----------------------------------------------------------------------

    def _initial_states(self, given: Any, batch: int) -> list[np.ndarray | None]:
        if given is None and self.stateful:
            given = self.states
            if given is not None and len(given[0]) != batch:
                raise ValueError(
                    f"{self.name}: x must have the {len(given[0])} samples of the last call, whose states go on here "
                    f"(stateful=True), got {batch}; reset_state() starts anew"
                )
        if given is None:
            return [None] * self.states_count
        states = list(given) if isinstance(given, list | tuple) else [given]
        if len(states) != self.states_count:
            raise ValueError(
                f"{self.name}: initial_state must be {self.states_count} arrays (batch, units), got {len(states)}"
            )
        return [as_array(state, self.dtype) for state in states]

    def reset_state(self) -> None:
        """Makes a stateful layer start from zeros again, with any batch size."""
        self.states = None

    def draw_dropout_masks(self, batch: int, inputs: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The masks of one training call, for inputs and states: Keras' rules.

        They are constant over time. Without recurrent dropout all gates share one input mask, (batch, inputs); with
        it every gate has its own, (gates, batch, inputs) and (gates, batch, units).
        """
        per_gate = (self.gates,) if self.recurrent_dropout else ()
        x_mask = self._draw(self.dropout, (*per_gate, batch, inputs))
        return x_mask, self._draw(self.recurrent_dropout, (*per_gate, batch, self.units))

    def drawn(self) -> tuple[Drawn | None, Drawn | None]:
        """How `draw_dropout_masks` draws them, for a backend that does."""
        per_gate = self.gates if self.recurrent_dropout else 1
        return self._drawn(self.dropout, per_gate), self._drawn(self.recurrent_dropout, per_gate)

    def _drawn(self, rate: float, masks: int) -> Drawn | None:
        return Drawn(self._rng, float(rate), dropout_scale(rate, self.dtype), masks) if rate else None

    def _draw(self, rate: float, shape: tuple[int, ...]) -> np.ndarray | None:
        return dropout_mask(self._rng, rate, shape, self.dtype) if rate else None

    def get_config(self) -> dict[str, Any]:
        names = (
            "units activation recurrent_activation use_bias kernel_initializer recurrent_initializer bias_initializer "
            "dropout recurrent_dropout return_sequences return_state go_backwards stateful zero_output_for_mask seed"
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}


class LSTM(RNN):
    """Long short-term memory, Keras' `LSTM` on fused kernels.

    Weights: kernel (inputs, 4*units), recurrent_kernel (units, 4*units), bias (4*units,); gates i, f, c, o.

    Args:
        units: number of units.
        activation, recurrent_activation: "tanh" and "sigmoid", nothing else.
        unit_forget_bias: the forget gate's bias starts at 1.
        dropout, recurrent_dropout: rates in [0, 1) for inputs and states, in training only; neither leaves the fused
            kernels.
        return_sequences, return_state, go_backwards, stateful, zero_output_for_mask: as in Keras.
        seed: of the dropout masks; None takes a stream from `set_seed`'s.
        dtype: "float32" or "float64".
        backend: "auto" or one of `fastrnn.available_backends()`; None follows `use_backend` and FASTRNN_BACKEND.

    Raises:
        ValueError, TypeError: an argument out of its range or of another type.
    """

    gates = 4
    states_count = 2

    def __init__(self, units: int, *, unit_forget_bias: bool = True, **options: Any) -> None:
        super().__init__(units, **options)
        self.unit_forget_bias = bool(unit_forget_bias)

    def _initial_bias(self, initializer: initializers.Initializer, rng: np.random.Generator) -> np.ndarray:
        bias = super()._initial_bias(initializer, rng)
        if self.unit_forget_bias:
            bias[self.units : 2 * self.units] = 1
        return bias

    def _forward(self, *args: Any, **options: Any) -> tuple[np.ndarray, list[np.ndarray], Reserve | None]:
        y, h, c, reserve = ops.lstm_forward(*args, **options)
        return y, [h, c], reserve

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "unit_forget_bias": self.unit_forget_bias}


class GRU(RNN):
    """Gated recurrent unit, Keras' `GRU` on fused kernels.

    Weights: kernel (inputs, 3*units), recurrent_kernel (units, 3*units), bias (2, 3*units), input and recurrent, or
    (3*units,) without reset_after; gates z, r, h.

    Args:
        reset_after: the reset gate is applied after the recurrent product, else before.
        The others are as for LSTM.
    """

    gates = 3
    states_count = 1

    def __init__(self, units: int, *, reset_after: bool = True, **options: Any) -> None:
        super().__init__(units, **options)
        self.reset_after = bool(reset_after)

    def _initial_bias(self, initializer: initializers.Initializer, rng: np.random.Generator) -> np.ndarray:
        columns = self.gates * self.units
        return initializer((2, columns) if self.reset_after else (columns,), rng)

    def _forward(self, *args: Any, **options: Any) -> tuple[np.ndarray, list[np.ndarray], Reserve | None]:
        y, h, reserve = ops.gru_forward(*args, reset_after=self.reset_after, **options)
        return y, [h], reserve

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "reset_after": self.reset_after}


def _rate(value: Any, name: str) -> float:
    rate = real(value, name, 0.0, 1.0)
    if rate == 1.0:
        raise ValueError(f"{name} must be below 1, which would leave nothing; got {value!r}")
    return rate
