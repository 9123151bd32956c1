"""Optimizers with Keras' update rules over one flat array of all parameters.

Each rule is written in NumPy here. A backend that has `optimize` does the same in one pass over the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from fastrnn.arguments import integer, real
from fastrnn.backends import get_backend
from fastrnn.layers.base import snake_case


class Optimizer:
    """Base of all optimizers.

    Args:
        learning_rate: not negative. Kept as a float32, as Keras keeps it.
        clipnorm: each variable's gradient is scaled down to at most this Euclidean norm.
        global_clipnorm: the same for all variables' gradients as one vector.
        clipvalue: each entry of a gradient is kept within [-clipvalue, clipvalue].

    Attributes:
        iterations: steps taken.
        slot_groups: names of slots; a file of Keras has, group by group, for each variable the group's slots.
    """

    slot_groups: tuple[tuple[str, ...], ...] = ()
    arguments: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        learning_rate: float = 0.01,
        *,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        clipvalue: float | None = None,
        name: str | None = None,
    ) -> None:
        kind = type(self).__name__
        self.name = snake_case(kind) if name is None else name
        clips = {"clipnorm": clipnorm, "global_clipnorm": global_clipnorm, "clipvalue": clipvalue}
        given = {key: real(value, f"{kind}: {key}", 0.0) for key, value in clips.items() if value is not None}
        if len(given) > 1:
            raise ValueError(f"{kind}: only one of {list(clips)} can be set, got {given}")
        # Zero means no clipping at all, as in Keras.
        self.clipnorm = given.get("clipnorm")
        self.global_clipnorm = given.get("global_clipnorm")
        self.clipvalue = given.get("clipvalue")
        self.learning_rate = learning_rate
        self._iterations = 0
        self._slots: dict[str, np.ndarray] = {}
        self.shapes: list[tuple[int, ...]] = []
        self._clipped = np.empty(0)
        self.built = False

    @property
    def learning_rate(self) -> float:
        """The step size."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = float(np.float32(real(value, f"{type(self).__name__}: learning_rate", 0.0)))

    @property
    def iterations(self) -> int:
        """Steps taken."""
        return self._iterations

    @iterations.setter
    def iterations(self, value: int) -> None:
        self._iterations = integer(value, f"{type(self).__name__}: iterations", 0)

    @property
    def slots(self) -> Mapping[str, np.ndarray]:
        """Name to flat array, read-only as a mapping: what is remembered of each parameter; empty before `build`."""
        return MappingProxyType(self._slots)

    def build(self, flat_weights: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> None:
        """Makes room for parameters laid out as `flat_weights`, variables of `shapes` one after another.

        Does nothing where it was done for the same variables before.

        Raises:
            ValueError: built for other variables already, or shapes that do not fill `flat_weights`.
        """
        shapes = [tuple(shape) for shape in shapes]
        if self.built:
            if shapes != self.shapes or flat_weights.dtype != self._clipped.dtype:
                raise ValueError(f"{self.name}: built for other variables already; compile with a new optimizer")
            return
        sizes = np.array([int(np.prod(shape)) for shape in shapes], dtype=np.intp)
        if flat_weights.ndim != 1 or flat_weights.size != sizes.sum():
            raise ValueError(f"{self.name}: shapes {shapes} do not fill flat_weights of shape {flat_weights.shape}")
        self.shapes = shapes
        self._sizes = sizes
        self._starts = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.intp)
        self._slots = {name: np.zeros_like(flat_weights) for group in self.slot_groups for name in group}
        self._scratch = (np.empty_like(flat_weights), np.empty_like(flat_weights))
        self._clipped = np.empty_like(flat_weights)
        self.built = True

    def slot_variables(self) -> list[np.ndarray]:
        """Views of the slots, one for each variable and slot, in the order in which Keras writes them to files."""
        ends = [0, *np.cumsum([int(np.prod(shape)) for shape in self.shapes]).tolist()]
        return [
            self._slots[name][start:end].reshape(shape)
            for group in self.slot_groups
            for (start, end), shape in zip(pairwise(ends), self.shapes, strict=True)
            for name in group
        ]

    def check(self, flat_weights: np.ndarray, flat_grads: np.ndarray) -> None:
        """ValueError where it is not built, or the arrays are unlike those it was built for."""
        if not self.built:
            raise ValueError(f"{self.name}.apply: build the optimizer first")
        like = self._clipped
        for name, array in (("flat_weights", flat_weights), ("flat_grads", flat_grads)):
            if array.shape != like.shape or array.dtype != like.dtype:
                raise ValueError(
                    f"{self.name}.apply: {name} must be {like.dtype} of shape {like.shape}, as the optimizer was built "
                    f"for, got {array.dtype} of shape {array.shape}"
                )

    def apply(self, flat_weights: np.ndarray, flat_grads: np.ndarray) -> None:
        """One step: changes `flat_weights` in place. ValueError as for `check`."""
        self.check(flat_weights, flat_grads)
        g = self._clip(flat_grads)
        fused = getattr(get_backend(), "optimize", None)
        if fused is not None and flat_weights.flags.carray and g.flags.c_contiguous:
            fused(flat_weights, g, *self.rule())
        else:
            self._update(flat_weights, g)
        self._iterations += 1

    def _update(self, w: np.ndarray, g: np.ndarray) -> None:
        """The rule in NumPy."""
        raise NotImplementedError

    def rule(self) -> tuple[Any, ...]:
        """The next step as `optimize` takes it: name, slots m, v, a, rate, beta_1, beta_2, epsilon, nesterov."""
        raise NotImplementedError

    def rates(self, steps: int) -> list[float]:
        """The rate of `rule` for so many steps to come."""
        return [self._learning_rate] * steps

    @property
    def clips(self) -> bool:
        """Whether gradients are clipped."""
        return bool(self.clipnorm or self.global_clipnorm or self.clipvalue)

    def _clip(self, g: np.ndarray) -> np.ndarray:
        if self.clipnorm:
            # A sum by segments, in float64: add.reduceat adds one by one, which float32 is too coarse for.
            squares = np.multiply(g, g, out=self._clipped)
            norms = np.sqrt(np.add.reduceat(squares, self._starts, dtype=np.float64))
            scales = (self.clipnorm / np.maximum(norms, self.clipnorm)).astype(g.dtype)
            np.multiply(g, np.repeat(scales, self._sizes), out=self._clipped)
            return self._clipped
        if self.global_clipnorm:
            norm = float(np.sqrt(np.dot(g, g)))
            # A gradient that is not finite makes the step NaN, as in Keras; clipped, it would pass for zero.
            scale = self.global_clipnorm / max(norm, self.global_clipnorm) if np.isfinite(norm) else np.nan
            np.multiply(g, scale, out=self._clipped)
            return self._clipped
        if self.clipvalue:
            np.clip(g, -self.clipvalue, self.clipvalue, out=self._clipped)
            return self._clipped
        return g

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this optimizer anew, in Keras' names, with the present learning rate."""
        keys = ("name", "learning_rate", "clipnorm", "global_clipnorm", "clipvalue", *self.arguments)
        return {key: getattr(self, key) for key in keys}


class SGD(Optimizer):
    """Gradient descent, with momentum if that is not 0; `nesterov` looks ahead along it."""

    arguments = ("momentum", "nesterov")

    def __init__(
        self, learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False, **clipping: Any
    ) -> None:
        super().__init__(learning_rate, **clipping)
        self.momentum = real(momentum, "SGD: momentum", 0.0, 1.0)
        self.nesterov = bool(nesterov)
        self.slot_groups = (("momentum",),) if self.momentum else ()

    def rule(self) -> tuple[Any, ...]:
        m = self._slots.get("momentum")
        return "sgd", m, None, None, self._learning_rate, self._momentum(), 0.0, 0.0, self.nesterov

    def _momentum(self) -> float:
        # Keras casts momentum to the variables' dtype by way of float32.
        return float(np.float32(self.momentum))

    def _update(self, w: np.ndarray, g: np.ndarray) -> None:
        step, ahead = self._scratch
        np.multiply(g, self._learning_rate, out=step)
        if not self.momentum:
            w -= step
            return
        m = self._slots["momentum"]
        momentum = self._momentum()
        m *= momentum
        m -= step
        if self.nesterov:
            np.multiply(m, momentum, out=ahead)
            ahead -= step
            w += ahead
        else:
            w += m


class RMSprop(Optimizer):
    """Divides gradients by a running root mean square; `centered` by a running standard deviation."""

    arguments = ("rho", "momentum", "epsilon", "centered")

    def __init__(
        self,
        learning_rate: float = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **clipping: Any,
    ) -> None:
        super().__init__(learning_rate, **clipping)
        self.rho = real(rho, "RMSprop: rho", 0.0, 1.0)
        self.momentum = real(momentum, "RMSprop: momentum", 0.0, 1.0)
        self.epsilon = real(epsilon, "RMSprop: epsilon", 0.0)
        self.centered = bool(centered)
        slots = ["velocity", *["momentum"] * bool(self.momentum), *["average_gradient"] * self.centered]
        self.slot_groups = tuple((slot,) for slot in slots)

    def rule(self) -> tuple[Any, ...]:
        slot = self._slots.get
        slots = slot("momentum"), slot("velocity"), slot("average_gradient")
        return "rmsprop", *slots, self._learning_rate, self.momentum, self.rho, self.epsilon, False

    def _update(self, w: np.ndarray, g: np.ndarray) -> None:
        a, b = self._scratch
        velocity = self._slots["velocity"]
        velocity *= self.rho
        np.multiply(g, g, out=a)
        a *= 1 - self.rho
        velocity += a
        if self.centered:
            average = self._slots["average_gradient"]
            average *= self.rho
            np.multiply(g, 1 - self.rho, out=a)
            average += a
            np.multiply(average, average, out=a)
            np.subtract(velocity, a, out=a)
            a += self.epsilon
        else:
            np.add(velocity, self.epsilon, out=a)
        np.sqrt(a, out=a)
        np.multiply(g, self._learning_rate, out=b)
        b /= a
        if self.momentum:
            m = self._slots["momentum"]
            m *= self.momentum
            m += b
            w -= m
        else:
            w -= b


class Adam(Optimizer):
    """Running means of the gradient and its square; `amsgrad` divides by the largest mean square so far."""

    arguments = ("beta_1", "beta_2", "epsilon", "amsgrad")

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **clipping: Any,
    ) -> None:
        super().__init__(learning_rate, **clipping)
        self.beta_1 = real(beta_1, "Adam: beta_1", 0.0, 1.0)
        self.beta_2 = real(beta_2, "Adam: beta_2", 0.0, 1.0)
        self.epsilon = real(epsilon, "Adam: epsilon", 0.0)
        self.amsgrad = bool(amsgrad)
        self.slot_groups = (("momentum", "velocity"), *[("velocity_hat",)] * self.amsgrad)

    def rule(self) -> tuple[Any, ...]:
        slot = self._slots.get
        slots = slot("momentum"), slot("velocity"), slot("velocity_hat")
        (rate,) = self.rates(1)
        return "adam", *slots, rate, self.beta_1, self.beta_2, self.epsilon, False

    def _update(self, w: np.ndarray, g: np.ndarray) -> None:
        a, b = self._scratch
        m, v = self._slots["momentum"], self._slots["velocity"]
        np.subtract(g, m, out=a)
        a *= 1 - self.beta_1
        m += a
        np.multiply(g, g, out=a)
        a -= v
        a *= 1 - self.beta_2
        v += a
        if self.amsgrad:
            v = np.maximum(self._slots["velocity_hat"], v, out=self._slots["velocity_hat"])
        np.sqrt(v, out=a)
        a += self.epsilon
        np.multiply(m, self.rates(1)[0], out=b)
        b /= a
        w -= b

    def rates(self, steps: int) -> list[float]:
        # In the variables' own precision, where 1 - beta**t loses digits in the first steps, and from betas
        # rounded to float32: that is how Keras gets its numbers.
        number = self._clipped.dtype.type
        beta_1, beta_2 = (number(np.float32(beta)) for beta in (self.beta_1, self.beta_2))
        one, rate = number(1), number(self._learning_rate)
        first = self._iterations + 1
        powers = [(beta_1 ** number(step), beta_2 ** number(step)) for step in range(first, first + steps)]
        return [float(rate * np.sqrt(one - power_2) / (one - power_1)) for power_1, power_2 in powers]


_BY_NAME: dict[str, type[Optimizer]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam}


def get(identifier: str | Optimizer | type[Optimizer]) -> Optimizer:
    """The optimizer of that name with its defaults; an Optimizer is taken as it is.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor an Optimizer.
    """
    if isinstance(identifier, Optimizer):
        return identifier
    if isinstance(identifier, type) and issubclass(identifier, Optimizer):
        return identifier()
    if not isinstance(identifier, str):
        raise TypeError(f"optimizer must be a name or an Optimizer, got {identifier!r}")
    if identifier.lower() not in _BY_NAME:
        raise ValueError(f"optimizer must be one of {sorted(_BY_NAME)}, got {identifier!r}")
    return _BY_NAME[identifier.lower()]()
