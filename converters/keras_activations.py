# SPDX-License-Identifier: MIT
"""Activations by the names and numbers of Keras 2 and 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gruengine.converters.keras_base import Arrays, Config, Parsed, Value, Var

if TYPE_CHECKING:
    from gruengine.converters.keras_graph import Builder


@dataclass(frozen=True)
class Activation:
    """One activation: an operator of ONNX, or a composition that this module knows.

    A recurrent cell takes those whose ``op`` is in ``CELL`` and that need no other attribute.
    """

    op: str
    alpha: float = 0.0
    beta: float = 0.0


LINEAR = Activation("")

#: Operators that a cell may have, with the attributes they take.
CELL = {
    "": (),
    "Sigmoid": (),
    "Tanh": (),
    "Relu": (),
    "Softsign": (),
    "Softplus": (),
    "LeakyRelu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}

# Klambauer et al. 2017; Keras has the same digits.
_SELU = (1.6732632423543772, 1.0507009873554805)

_BY_NAME = {
    "linear": LINEAR,
    "relu": Activation("Relu"),
    "relu6": Activation("Clip", 0.0, 6.0),
    "sigmoid": Activation("Sigmoid"),
    "tanh": Activation("Tanh"),
    "softmax": Activation("Softmax", -1),
    "log_softmax": Activation("LogSoftmax", -1),
    "elu": Activation("Elu", 1.0),
    "selu": Activation("selu", *_SELU),
    "softplus": Activation("Softplus"),
    "softsign": Activation("Softsign"),
    "exponential": Activation("Exp"),
    "leaky_relu": Activation("LeakyRelu", 0.2),
    "swish": Activation("silu"),
    "silu": Activation("silu"),
    "gelu": Activation("gelu"),
    "mish": Activation("mish"),
    "hard_silu": Activation("HardSwish"),
    "hard_swish": Activation("HardSwish"),
    "hard_tanh": Activation("Clip", -1.0, 1.0),
}


def named(name: Any, major: int) -> Activation | None:
    """Return the activation of a name; hard_sigmoid changed its slope in Keras 3."""
    if name is None:
        return LINEAR
    if name == "hard_sigmoid":
        return Activation("HardSigmoid", 1 / 6 if major >= 3 else 0.2, 0.5)
    return _BY_NAME.get(name) if isinstance(name, str) else None


def activation(c: Config, key: str, default: str = "linear") -> Activation:
    """Read an activation: a name, a function of Keras, or an activation layer."""
    value = c.raw(key, default)
    if isinstance(value, dict):
        own = ">" in str(value.get("registered_name") or "")
        if value.get("class_name") == "function" and not own:
            value = value.get("config")
        elif isinstance(value.get("config"), dict):
            layer = c.layer_of(value, key)
            reader = LAYERS.get(layer.kind) if layer is not None else None
            if layer is not None and reader is not None:
                inner = Config(layer, c.era, c.reasons, c.where)
                found = reader(inner)
                inner.done()
                return found
    known = named(value, c.era.major)
    if known is None:
        allowed = ", ".join(sorted([*_BY_NAME, "hard_sigmoid"]))
        c.refuse(f"{key}={value!r:.80}", f"allowed: {allowed}")
        return LINEAR
    return known


def cell_activation(c: Config, key: str, default: str) -> tuple[str, float, float]:
    """Read an activation of a recurrent cell as name, alpha and beta of the Recurrent node."""
    found = activation(c, key, default)
    if found.op not in CELL:
        allowed = "those of ONNX: sigmoid, tanh, relu, linear, elu, softplus, softsign, ..."
        c.refuse(f"{key}={c.raw(key)!r:.80} in a recurrent cell", allowed)
        return "Tanh", 0.0, 0.0
    if found.op == "":
        return "Affine", 1.0, 0.0
    takes = CELL[found.op]
    return (
        found.op,
        found.alpha if "alpha" in takes else 0.0,
        found.beta if "beta" in takes else 0.0,
    )


def emit_activation(b: Builder, where: str, x: Value, found: Activation) -> Value:
    """Add an activation; the linear one adds nothing."""
    op = found.op
    if op == "":
        return x
    if op == "gelu":  # x/2 (1 + erf(x / sqrt 2))
        y = b.node(where, "Mul", [x.name, b.scalar(where, "root", float(np.sqrt(0.5)))], {})
        y = b.node(where, "Erf", [y], {})
        y = b.node(where, "Add", [y, b.scalar(where, "one", 1.0)], {})
        y = b.node(where, "Mul", [y, x.name], {})
        return x.to(b.node(where, "Mul", [y, b.scalar(where, "half", 0.5)], {}))
    if op in ("silu", "mish"):
        y = x.name
        for one in ("Sigmoid",) if op == "silu" else ("Softplus", "Tanh"):
            y = b.node(where, one, [y], {})
        return x.to(b.node(where, "Mul", [y, x.name], {}))
    if op == "selu":
        y = b.node(where, "Elu", [x.name], {"alpha": found.alpha})
        return x.to(b.node(where, "Mul", [y, b.scalar(where, "gamma", found.beta)], {}))
    if op == "Clip":
        bounds = [b.scalar(where, "low", found.alpha), b.scalar(where, "high", found.beta)]
        return x.to(b.node(where, "Clip", [x.name, *bounds], {}))
    if op in ("Softmax", "LogSoftmax"):
        return x.to(b.node(where, op, [x.name], {"axis": int(found.alpha)}))
    takes = CELL.get(op, ())
    attrs = {key: getattr(found, key) for key in takes}
    return x.to(b.node(where, op, [x.name], attrs))


# -- layers ---------------------------------------------------------------------------------------


def _relu(c: Config) -> Activation:
    slope, threshold = c.number("negative_slope", 0.0), c.number("threshold", 0.0)
    most = c.raw("max_value")
    if most is not None:
        if slope or threshold:
            c.refuse(f"max_value={most!r:.40} with a slope or threshold", "one of them alone")
        return Activation("Clip", 0.0, c.number("max_value", None))
    if threshold and slope:
        c.refuse(f"threshold={threshold} with negative_slope={slope}", "one of them alone")
    if threshold:
        # Keras keeps x at the threshold itself, ONNX does not: the number just below it is equal.
        below = np.nextafter(np.float32(threshold), np.float32(-np.inf))
        return Activation("ThresholdedRelu", float(below))
    return Activation("LeakyRelu", slope) if slope else Activation("Relu")


def _leaky(c: Config) -> Activation:
    key = "negative_slope" if "negative_slope" in c.config else "alpha"
    return Activation("LeakyRelu", c.number(key, 0.3))


def _softmax(c: Config) -> Activation:
    axes = c.axes("axis", -1)
    if len(axes) > 1 or axes[0] == 0:
        c.refuse(f"axis={axes}", "one axis, not the batch")
    return Activation("Softmax", axes[0])


LAYERS = {
    "Activation": lambda c: activation(c, "activation"),
    "ReLU": _relu,
    "LeakyReLU": _leaky,
    "ELU": lambda c: Activation("Elu", c.number("alpha", 1.0)),
    "ThresholdedReLU": lambda c: Activation("ThresholdedRelu", c.number("theta", 1.0)),
    "Softmax": _softmax,
}


def read_layer(c: Config) -> Parsed:
    """Read one of ``LAYERS``."""
    found = LAYERS[c.layer.kind](c)

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        if found.op == "Softmax" and c.layer.kind == "Softmax" and x.mask:
            b.need_no_mask(x)
        return [emit_activation(b, c.where, x, found)]

    return Parsed(emit)


def read_prelu(c: Config) -> Parsed:
    """Read a PReLU, whose slopes have the sizes of the input, 1 along shared axes."""
    raw = c.raw("shared_axes")
    shared = c.axes("shared_axes", 1) if raw else []

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        x = b.one(inputs)
        rank = len(x.dims)
        ones = {axis % rank for axis in shared}
        sizes = [1 if axis in ones else size for axis, size in enumerate(x.dims)][1:]
        if not all(isinstance(size, int) for size in sizes):
            b.refuse(f"PReLU of {list(x.dims)}", "sizes must be known: share_axes over time")
        alpha = arrays.get("alpha", tuple(int(size) for size in sizes))
        slope = b.weight(c.where, "alpha", alpha)
        return [x.to(b.node(c.where, "PRelu", [x.name, slope], {}))]

    return Parsed(emit, [Var("", "alpha")])
