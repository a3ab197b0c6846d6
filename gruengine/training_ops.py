# SPDX-License-Identifier: MIT
"""The arithmetic of training beside the recurrences: forward values and their gradients.

Every function returns its value and a ``backprop`` that turns the gradient of the value into the
gradient of what it was given. Arrays are float32 (float64 stays float64), features last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Backward = Callable[[Array], Array]


def sigmoid(x: Array) -> Array:
    """Return ``1 / (1 + exp(-x))`` without overflow on either side."""
    return np.asarray(0.5 * np.tanh(0.5 * x) + 0.5, x.dtype)


def softmax(x: Array) -> Array:
    """Return the softmax over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True), x.dtype)


def log_softmax(x: Array) -> Array:
    """Return the logarithm of the softmax over the last axis."""
    shifted = x - x.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)), x.dtype)


def _linear(x: Array) -> tuple[Array, Backward]:
    return x, lambda dy: dy


def _relu(x: Array) -> tuple[Array, Backward]:
    return np.maximum(x, 0), lambda dy: np.where(x > 0, dy, 0)


def _sigmoid(x: Array) -> tuple[Array, Backward]:
    y = sigmoid(x)
    return y, lambda dy: dy * y * (1 - y)


def _tanh(x: Array) -> tuple[Array, Backward]:
    y = np.tanh(x)
    return y, lambda dy: dy * (1 - y * y)


def _softmax(x: Array) -> tuple[Array, Backward]:
    y = softmax(x)
    return y, lambda dy: y * (dy - (dy * y).sum(-1, keepdims=True))


def _elu(x: Array) -> tuple[Array, Backward]:
    low = np.expm1(np.minimum(x, 0))
    return np.where(x >= 0, x, low), lambda dy: np.where(x >= 0, dy, dy * (low + 1))


def _leaky_relu(x: Array) -> tuple[Array, Backward]:
    slope = np.where(x >= 0, x.dtype.type(1), x.dtype.type(0.2))
    return x * slope, lambda dy: dy * slope


def _softplus(x: Array) -> tuple[Array, Backward]:
    return np.logaddexp(x, x.dtype.type(0)), lambda dy: dy * sigmoid(x)


def _softsign(x: Array) -> tuple[Array, Backward]:
    low = 1 + np.abs(x)
    return x / low, lambda dy: dy / (low * low)


def _exponential(x: Array) -> tuple[Array, Backward]:
    y = np.exp(x)
    return y, lambda dy: dy * y


def _hard_sigmoid(x: Array) -> tuple[Array, Backward]:
    line = x / x.dtype.type(6) + x.dtype.type(0.5)
    inside = ((line > 0) & (line < 1)) / x.dtype.type(6)
    return np.clip(line, 0, 1), lambda dy: dy * inside.astype(x.dtype)


#: Activations by the names of :data:`gruengine.layer_base.ACTIVATIONS`.
ACTIVATIONS: dict[str, Callable[[Array], tuple[Array, Backward]]] = {
    "linear": _linear,
    "relu": _relu,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "softmax": _softmax,
    "elu": _elu,
    "leaky_relu": _leaky_relu,
    "softplus": _softplus,
    "softsign": _softsign,
    "exponential": _exponential,
    "hard_sigmoid": _hard_sigmoid,
}


def rows(x: Array) -> Array:
    """Return ``x`` as ``[everything, features]``."""
    return x.reshape(-1, x.shape[-1])


def layer_norm(
    x: Array, scale: Array, shift: Array, epsilon: float
) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
    """Normalise the last axis (Ba et al. 2016); backprop returns ``(dx, dscale, dshift)``."""
    centred = x - x.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt((centred * centred).mean(-1, keepdims=True) + x.dtype.type(epsilon))
    normal = centred * inverse

    def backprop(dy: Array) -> tuple[Array, Array, Array]:
        dn = dy * scale
        along = (dn * normal).mean(-1, keepdims=True)
        dx = inverse * (dn - dn.mean(-1, keepdims=True) - normal * along)
        return dx, rows(dy * normal).sum(0), rows(dy).sum(0)

    return normal * scale + shift, backprop


def dropout_mask(
    rng: np.random.Generator, shape: tuple[int, ...], rate: float, dtype: Any
) -> Array:
    """Return zeros with probability ``rate``, else ``1 / (1 - rate)`` (inverted dropout)."""
    kept = rng.random(shape, dtype=np.float32) >= rate
    return np.asarray(kept / np.float32(1 - rate), dtype)
