# SPDX-License-Identifier: MIT
"""Optimizers, schedules of their rates, and the clipping of gradients.

The updates are those of PyTorch's optimizers of the same names, in float32.
Sources: Polyak 1964 and Sutskever et al. 2013 (momentum, Nesterov); Tieleman and Hinton 2012
(RMSprop); Kingma and Ba 2015 (Adam); Loshchilov and Hutter 2019 (AdamW); Pascanu et al. 2013
(clipping by norm).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gruengine import _core
from gruengine.errors import InvalidInputError
from gruengine.training_core import sum_of_squares

Array = np.ndarray[Any, Any]

#: The rate of a step: a number, or a function of the number of steps before it.
Rate = float | Callable[[int], float]


class Optimizer(ABC):
    """Changes parameters in place by their gradients.

    Parameters
    ----------
    rate : float or callable
        The learning rate, or a schedule: a function of the number of steps before this one.
    weight_decay : float
        ``weight_decay`` times the parameter is added to its gradient (AdamW: apart from it).
    decays : callable, optional
        Of a parameter's name: whether it decays; all do by default.

    Attributes
    ----------
    steps : int
        Updates so far.
    memory : dict of str to dict of str to ndarray
        What the optimizer keeps of each parameter.
    """

    keeps: tuple[str, ...] = ()

    def __init__(
        self,
        rate: Rate,
        *,
        weight_decay: float = 0.0,
        decays: Callable[[str], bool] | None = None,
    ) -> None:
        if not callable(rate):
            _not_negative("rate", rate)
        self.rate = rate
        self.weight_decay = _not_negative("weight_decay", weight_decay)
        self.decays = decays or (lambda name: True)
        self.steps = 0
        self.memory: dict[str, dict[str, Array]] = {}

    @property
    def rate_now(self) -> float:
        """The learning rate of the next step."""
        return float(self.rate(self.steps) if callable(self.rate) else self.rate)

    def update(
        self,
        params: Mapping[str, Array],
        gradients: Mapping[str, Array],
        *,
        scale: float = 1.0,
        num_threads: int = 1,
    ) -> None:
        """Take one step; a parameter without a gradient has zeros.

        Parameters
        ----------
        params : writable float32 arrays by name.
        gradients : arrays of the same shapes, unchanged.
        scale : what gradients are multiplied by first (clipping by norm).
        num_threads : of the update; any number gives the same bits.
        """
        rate = self.rate_now
        self.steps += 1
        for name, value in params.items():
            if name not in self.memory:
                self.memory[name] = {key: np.zeros_like(value) for key in self.keeps}
            gradient = gradients.get(name)
            if gradient is None:
                gradient = np.zeros_like(value)
            options = {
                "rate": rate,
                "weight_decay": self.weight_decay if self.decays(name) else 0.0,
                "scale": scale,
                "num_threads": num_threads,
            }
            self.change(value, np.ascontiguousarray(gradient), self.memory[name], options)

    @abstractmethod
    def change(
        self, value: Array, gradient: Array, kept: dict[str, Array], options: dict[str, Any]
    ) -> None:
        """Change one parameter in place."""


class SGD(Optimizer):
    """``v = momentum v + g``, ``p -= rate v``; Nesterov: ``p -= rate (g + momentum v)``."""

    def __init__(
        self, rate: Rate = 0.01, *, momentum: float = 0.0, nesterov: bool = False, **options: Any
    ) -> None:
        super().__init__(rate, **options)
        self.momentum, self.nesterov = _fraction("momentum", momentum), bool(nesterov)
        if self.nesterov and not self.momentum:
            raise InvalidInputError("nesterov=True needs a momentum")
        self.keeps = ("velocity",) if self.momentum else ()

    def change(
        self, value: Array, gradient: Array, kept: dict[str, Array], options: dict[str, Any]
    ) -> None:
        """See Optimizer."""
        _core.train_sgd(
            value, gradient, kept.get("velocity"), momentum=self.momentum,
            nesterov=self.nesterov, **options,
        )  # fmt: skip


class RMSprop(Optimizer):
    """``s = alpha s + (1 - alpha) g^2``, ``p -= rate g / (sqrt(s) + epsilon)``."""

    keeps: tuple[str, ...] = ("square",)

    def __init__(
        self,
        rate: Rate = 0.01,
        *,
        alpha: float = 0.99,
        epsilon: float = 1e-8,
        momentum: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(rate, **options)
        self.alpha, self.momentum = _fraction("alpha", alpha), _fraction("momentum", momentum)
        self.epsilon = _not_negative("epsilon", epsilon)
        self.keeps = ("square", "velocity") if self.momentum else ("square",)

    def change(
        self, value: Array, gradient: Array, kept: dict[str, Array], options: dict[str, Any]
    ) -> None:
        """See Optimizer."""
        _core.train_rmsprop(
            value, gradient, kept["square"], kept.get("velocity"), smoothing=self.alpha,
            momentum=self.momentum, eps=self.epsilon, **options,
        )  # fmt: skip


class Adam(Optimizer):
    """``p -= rate m^ / (sqrt(v^) + epsilon)`` with the corrected means of ``g`` and ``g^2``."""

    keeps = ("mean", "square")
    decoupled = False

    def __init__(
        self,
        rate: Rate = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        **options: Any,
    ) -> None:
        super().__init__(rate, **options)
        self.betas = (_fraction("betas[0]", betas[0]), _fraction("betas[1]", betas[1]))
        self.epsilon = _not_negative("epsilon", epsilon)

    def change(
        self, value: Array, gradient: Array, kept: dict[str, Array], options: dict[str, Any]
    ) -> None:
        """See Optimizer."""
        _core.train_adam(
            value, gradient, kept["mean"], kept["square"], self.steps, beta1=self.betas[0],
            beta2=self.betas[1], eps=self.epsilon, decoupled=self.decoupled, **options,
        )  # fmt: skip


class AdamW(Adam):
    """Adam whose weight decay shrinks the parameter itself, ``p *= 1 - rate decay``."""

    decoupled = True

    def __init__(self, rate: Rate = 1e-3, *, weight_decay: float = 0.01, **options: Any) -> None:
        super().__init__(rate, weight_decay=weight_decay, **options)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
}


def optimizer_of(which: str | Optimizer) -> Optimizer:
    """Return an optimizer by its name, or the one given.

    Raises
    ------
    InvalidInputError
        A name that is not known.
    """
    if isinstance(which, Optimizer):
        return which
    if which not in OPTIMIZERS:
        allowed = ", ".join(repr(key) for key in OPTIMIZERS)
        raise InvalidInputError(
            f"optimizer is {which!r}; it must be an Optimizer or one of {allowed}"
        )
    return OPTIMIZERS[which]()  # type: ignore[call-arg]


# -- schedules ------------------------------------------------------------------------------------


def warmup(rate: Rate, steps: int) -> Callable[[int], float]:
    """Return a schedule that rises from ``rate / steps`` to ``rate`` in ``steps`` steps."""
    later = rate if callable(rate) else lambda step: rate
    return lambda step: float(later(step)) * min(1.0, (step + 1) / max(steps, 1))


def cosine(rate: float, steps: int, last: float = 0.0) -> Callable[[int], float]:
    """Return half a cosine from ``rate`` to ``last`` in ``steps`` steps (Loshchilov 2017)."""

    def at(step: int) -> float:
        turned = math.cos(math.pi * min(step, steps) / max(steps, 1))
        return last + (rate - last) * (1 + turned) / 2

    return at


def exponential(rate: float, factor: float, every: int = 1) -> Callable[[int], float]:
    """Return a schedule multiplied by ``factor`` every ``every`` steps."""
    return lambda step: rate * factor ** (step // every)


# -- clipping -------------------------------------------------------------------------------------


def global_norm(gradients: Mapping[str, Array]) -> float:
    """Return the Euclidean norm of all gradients together, NaN or infinite if one of them is."""
    return math.sqrt(sum(sum_of_squares(g) for g in gradients.values()))


def clip_by_norm(gradients: Mapping[str, Array], limit: float) -> float:
    """Scale gradients in place so that their global norm is at most ``limit``; return the norm."""
    norm = global_norm(gradients)
    if norm > limit:
        for gradient in gradients.values():
            gradient *= gradient.dtype.type(scale_of(norm, limit))
    return norm


def scale_of(norm: float, limit: float | None) -> float:
    """Return what gradients of a norm are multiplied by so that it is at most ``limit``."""
    return 1.0 if limit is None or norm <= limit else limit / (norm + 1e-6)


def clip_by_value(gradients: Mapping[str, Array], limit: float) -> None:
    """Clamp every element in place to [-limit, limit]."""
    for gradient in gradients.values():
        np.clip(gradient, -limit, limit, out=gradient)


def _not_negative(name: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise InvalidInputError(f"{name} is {value!r}; it must be finite and not negative")
    return float(value)


def _fraction(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise InvalidInputError(f"{name} is {value!r}; it must be at least 0 and less than 1")
    return float(value)
