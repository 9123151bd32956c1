"""Dense: a product with a matrix, a bias, an activation."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrnn.arguments import integer
from fastrnn.layers import activations, initializers
from fastrnn.layers.base import Layer, Shape
from fastrnn.random import generator


class Dense(Layer):
    """activation(x @ kernel + bias) over the last axis: (..., I) to (..., units), in `dtype`.

    Args:
        units: length of the output's last axis.
        activation: None or "linear", "sigmoid", "tanh", "relu", "softmax".

    The step to the pre-activations and the activation can be taken apart (`linear`, `activate`,
    `backward_linear`): a cross-entropy is exact only when it sees the pre-activations.
    """

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        *,
        use_bias: bool = True,
        kernel_initializer: str | initializers.Initializer = "glorot_uniform",
        bias_initializer: str | initializers.Initializer = "zeros",
        dtype: Any = "float32",
        name: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.units = integer(units, "Dense: units", 1)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        self._activation = activations.get(activation)
        self.activation = self._activation.name
        self._initialize_kernel = initializers.get(kernel_initializer)
        self._initialize_bias = initializers.get(bias_initializer)
        self._x: np.ndarray | None = None
        self._y: np.ndarray | None = None

    def build(self, input_shape: Shape) -> None:
        width = input_shape[-1] if len(input_shape) > 1 else None
        if width is None:
            raise ValueError(f"{self.name}.build: input_shape must be (batch, ..., I) with I known, got {input_shape}")
        rng = generator()
        self.add_weight("kernel", self._initialize_kernel((width, self.units), rng))
        if self.use_bias:
            self.add_weight("bias", self._initialize_bias((self.units,), rng))
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.units)

    def __call__(self, x: Any, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        y = self.activate(self.linear(x, training))
        if training:
            self._y = y
        return y

    def linear(self, x: Any, training: bool = False) -> np.ndarray:
        """x @ kernel + bias."""
        x = np.asarray(x, dtype=self.dtype)
        if not self.built:
            self.build((None, *x.shape[1:]))
        kernel = self.weights[0]
        if x.ndim < 2 or x.shape[-1] != kernel.shape[0]:
            raise ValueError(f"{self.name}: x must have shape (batch, ..., {kernel.shape[0]}), got {x.shape}")
        if training:
            self._x = x
        z: np.ndarray = x @ kernel
        if self.use_bias:
            z += self.weights[1]
        return z

    def activate(self, z: np.ndarray) -> np.ndarray:
        """The activation of pre-activations."""
        return self._activation.forward(z)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        if self._y is None:
            raise ValueError(f"{self.name}.backward: call the layer with training=True first")
        return self.backward_linear(self._activation.gradient(self._y, dy))

    def backward_linear(self, dz: np.ndarray) -> np.ndarray:
        """`backward` from the gradient of the pre-activations of the last `linear` in training."""
        if self._x is None:
            raise ValueError(f"{self.name}.backward: call the layer with training=True first")
        kernel = self.weights[0]
        flat = dz.reshape(-1, self.units)
        np.matmul(self._x.reshape(-1, kernel.shape[0]).T, flat, out=self.grads[0])
        if self.use_bias:
            np.add.reduce(flat, axis=0, out=self.grads[1])
        dx: np.ndarray = dz @ kernel.T
        return dx

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "activation": self.activation,
            "use_bias": self.use_bias,
            "kernel_initializer": self.kernel_initializer,
            "bias_initializer": self.bias_initializer,
        }
