# SPDX-License-Identifier: MIT
"""The activations of recurrent cells, in NumPy; the definitions are those of ONNX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def sigmoid(x: Array) -> Array:
    """Return ``1 / (1 + exp(-x))``, without overflow on either side."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def elu(x: Array, alpha: float) -> Array:
    """Return ``x`` where ``x >= 0``, else ``alpha * (exp(x) - 1)``."""
    return np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0)))


def hard_sigmoid(x: Array, alpha: float, beta: float) -> Array:
    """Return ``alpha * x + beta`` clamped to [0, 1]."""
    return np.clip(alpha * x + beta, 0, 1)


# The activations that ONNX allows in a recurrent cell, as functions of x, alpha and beta.
ACTIVATIONS: dict[str, Callable[[Array, float, float], Array]] = {
    "Sigmoid": lambda x, alpha, beta: sigmoid(x),
    "Tanh": lambda x, alpha, beta: np.tanh(x),
    "Relu": lambda x, alpha, beta: np.maximum(x, 0),
    "Affine": lambda x, alpha, beta: alpha * x + beta,
    "LeakyRelu": lambda x, alpha, beta: np.where(x >= 0, x, alpha * x),
    "ThresholdedRelu": lambda x, alpha, beta: np.where(x > alpha, x, 0),
    "ScaledTanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "HardSigmoid": hard_sigmoid,
    "Elu": lambda x, alpha, beta: elu(x, alpha),
    "Softsign": lambda x, alpha, beta: x / (1 + np.abs(x)),
    "Softplus": lambda x, alpha, beta: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
}


@dataclass(frozen=True)
class Activation:
    """One of ``ACTIVATIONS`` with its parameters; those that take none ignore them."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0

    def __call__(self, x: Array) -> Array:
        """Return the activation of each element of ``x``, in the shape and dtype of ``x``."""
        return ACTIVATIONS[self.name](x, float(self.alpha), float(self.beta)).astype(x.dtype)


SIGMOID = Activation("Sigmoid")
TANH = Activation("Tanh")
