# SPDX-License-Identifier: MIT
"""What Keras computes, in float64 NumPy, step by step as its documentation says: cells and loops.

Written beside the converter's graph, not from it: a mask is followed step by step here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
States = list[Array]

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def softmax(x: Array, axis: int = -1) -> Array:
    e = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(e / e.sum(axis, keepdims=True))


def elu(x: Array, alpha: float = 1.0) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def leaky(x: Array, slope: float) -> Array:
    return np.where(x >= 0, x, slope * x)


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": sigmoid,
    "tanh": lambda x: np.asarray(np.tanh(x)),
    "softmax": softmax,
    "elu": elu,
    "selu": lambda x: SELU_SCALE * elu(x, SELU_ALPHA),
    "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "exponential": lambda x: np.asarray(np.exp(x)),
    "swish": lambda x: x * sigmoid(x),
    "gelu": gelu,
    # from Keras 3 on
    "relu6": lambda x: np.clip(x, 0, 6),
    "log_softmax": lambda x: np.log(softmax(x)),
    "leaky_relu": lambda x: leaky(x, 0.2),
    "silu": lambda x: x * sigmoid(x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "hard_silu": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
}
NEW = ("relu6", "log_softmax", "leaky_relu", "silu", "mish", "hard_silu", "hard_tanh")
IN_CELLS = ("tanh", "relu", "sigmoid", "elu", "softsign", "softplus", "linear", "hard_sigmoid")


def activate(name: str, x: Array, major: int) -> Array:
    """Apply an activation by its name; hard_sigmoid has another slope since Keras 3."""
    if name == "hard_sigmoid":
        return np.clip(x / 6 + 0.5 if major >= 3 else 0.2 * x + 0.5, 0, 1)
    return ACTIVATIONS[name](x)


@dataclass
class Cell:
    """A cell and its arrays as Keras has them: gates i, f, c, o of an LSTM; z, r, h of a GRU."""

    kind: str
    units: int
    kernel: Array
    recurrent: Array
    bias: Array | None
    activation: str = "tanh"
    gate: str = "sigmoid"
    after: bool = True
    major: int = 3

    @property
    def states(self) -> int:
        return 2 if self.kind == "lstm" else 1

    def start(self, rows: int) -> States:
        return [np.zeros((rows, self.units)) for _ in range(self.states)]

    def step(self, x: Array, states: States) -> States:
        """Return the next states; the first of them is the output."""
        w, r = self.kernel.astype(np.float64), self.recurrent.astype(np.float64)
        b = np.zeros(w.shape[1]) if self.bias is None else self.bias.astype(np.float64)

        def act(value: Array) -> Array:
            return activate(self.activation, value, self.major)

        def gate(value: Array) -> Array:
            return activate(self.gate, value, self.major)

        h = states[0]
        if self.kind == "rnn":
            return [act(x @ w + h @ r + b)]
        if self.kind == "lstm":
            i, f, g, o = np.split(x @ w + h @ r + b, 4, axis=1)
            c = gate(f) * states[1] + gate(i) * act(g)
            return [gate(o) * act(c), c]
        u = self.units
        first, second = (b[0], b[1]) if b.ndim == 2 else (b, np.zeros(3 * u))
        xz, xr, xh = np.split(x @ w + first, 3, axis=1)
        if self.after:
            hz, hr, hh = np.split(h @ r + second, 3, axis=1)
            z, reset = gate(xz + hz), gate(xr + hr)
            new = act(xh + reset * hh)
        else:
            z, reset = gate(xz + h @ r[:, :u]), gate(xr + h @ r[:, u : 2 * u])
            new = act(xh + (reset * h) @ r[:, 2 * u :])
        return [z * h + (1 - z) * new]


@dataclass
class Loop:
    """A recurrent layer: cells on top of each other, and what it returns."""

    cells: list[Cell]
    sequences: bool
    backwards: bool
    zero_masked: bool = False

    def start(self, rows: int) -> States:
        return [state for cell in self.cells for state in cell.start(rows)]

    def step(self, x: Array, states: States) -> States:
        found: States = []
        for cell in self.cells:
            new = cell.step(x, states[len(found) : len(found) + cell.states])
            found += new
            x = new[0]
        return found

    def run(self, x: Array, mask: Array | None, states: States | None) -> tuple[Array, States]:
        """Return the output and the last states of x [N, T, I].

        A masked step keeps the states; its output is the one before it (zeros before the first),
        or zeros. Outputs come in the order in which they are computed.
        """
        order: Sequence[int] = range(x.shape[1])
        if self.backwards:
            order = order[::-1]
        now = self.start(len(x)) if states is None else list(states)
        out = np.zeros((len(x), self.cells[-1].units))
        outs = []
        for t in order:
            new = self.step(x[:, t], now)
            y = new[-self.cells[-1].states]
            if mask is not None:
                kept = mask[:, t, None]
                y = np.where(kept, y, 0.0 if self.zero_masked else out)
                new = [np.where(kept, one, old) for one, old in zip(new, now, strict=True)]
            now, out = new, y
            outs.append(y)
        return (np.stack(outs, 1) if self.sequences else out), now


def merge(one: Array, two: Array, mode: str | None) -> list[Array]:
    """Join the outputs of both directions."""
    if mode is None:
        return [one, two]
    if mode == "concat":
        return [np.concatenate([one, two], -1)]
    joined = {"sum": one + two, "ave": (one + two) / 2, "mul": one * two}
    return [joined[mode]]
