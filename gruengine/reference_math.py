# SPDX-License-Identifier: MIT
"""Graph operators that compute. Definitions: the ONNX operators of that name."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gruengine.reference_activations import ACTIVATIONS, Array
from gruengine.reference_ops import axes_of, axis_of, broadcast, check_size, register

# -- of one argument ------------------------------------------------------------------------------


def _unary(name: str, function: Callable[[Array], Array]) -> None:
    def op(x: Array, /) -> Array:
        return function(x).astype(x.dtype, copy=False)

    register(name)(op)


def erf(x: Array) -> Array:
    """Return the error function of each element, computed in float64."""
    values = [math.erf(v) for v in x.reshape(-1).tolist()]
    return np.array(values, np.float64).reshape(x.shape)


_UNARY: dict[str, Callable[[Array], Array]] = {
    "Neg": np.negative,
    "Abs": np.abs,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Log": np.log,
    "Reciprocal": np.reciprocal,
    "Square": np.square,
    "Erf": erf,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.rint,
    "Sign": np.sign,
    "Sin": np.sin,
    "Cos": np.cos,
}
for _name, _function in _UNARY.items():
    _unary(_name, _function)


@register("Not")
def not_(x: Array, /) -> Array:
    """Return the negation of booleans."""
    return np.logical_not(_bools(x))


# -- activations ----------------------------------------------------------------------------------


def _activation(name: str, alpha: float | None = None, beta: float | None = None) -> None:
    """Enter an activation of the recurrent cells with the defaults of its operator."""
    function = ACTIVATIONS[name]
    if alpha is None:

        def plain(x: Array, /) -> Array:
            return function(x, 0.0, 0.0).astype(x.dtype, copy=False)

        register(name)(plain)
    elif beta is None:

        def with_alpha(x: Array, /, *, alpha: float = alpha) -> Array:
            return function(x, float(alpha), 0.0).astype(x.dtype, copy=False)

        register(name)(with_alpha)
    else:

        def with_both(x: Array, /, *, alpha: float = alpha, beta: float = beta) -> Array:
            return function(x, float(alpha), float(beta)).astype(x.dtype, copy=False)

        register(name)(with_both)


for _name in ("Sigmoid", "Tanh", "Relu", "Softsign", "Softplus"):
    _activation(_name)
_activation("LeakyRelu", 0.01)
_activation("ThresholdedRelu", 1.0)
_activation("Elu", 1.0)
_activation("HardSigmoid", 0.2, 0.5)
_activation("Affine", 1.0, 0.0)
_activation("ScaledTanh", 1.0, 1.0)


@register("PRelu")
def prelu(x: Array, slope: Array, /) -> Array:
    """Return ``x`` where it is not negative, else ``slope * x``; slope broadcasts to ``x``."""
    if broadcast(x, slope) != x.shape:
        raise ValueError(f"slope has shape {slope.shape}; it must broadcast to {x.shape}")
    return np.where(x < 0, x * slope, x)


@register("Clip")
def clip(x: Array, low: Array | None = None, high: Array | None = None, /) -> Array:
    """Return ``min(max(x, low), high)``."""
    if low is not None:
        x = np.maximum(x, low.reshape(()))
    return x if high is None else np.minimum(x, high.reshape(()))


@register("Gelu")
def gelu(x: Array, /, *, approximate: str = "none") -> Array:
    """Return ``x`` times the normal distribution function of x, or its tanh approximation."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate is {approximate!r}; it must be 'none' or 'tanh'")
    if approximate == "none":
        gate = erf(x / math.sqrt(2.0))
    else:
        gate = np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x))
    return np.asarray((0.5 * x * (1 + gate)).astype(x.dtype))


@register("HardSwish")
def hard_swish(x: Array, /) -> Array:
    """Return ``x * clamp(x / 6 + 1/2, 0, 1)``."""
    return np.asarray(x * np.clip(x / 6 + 0.5, 0, 1))


# -- of several arguments -------------------------------------------------------------------------


def _same_type(a: Array, b: Array) -> None:
    if a.dtype != b.dtype:
        raise ValueError(f"operands are {a.dtype} and {b.dtype}; their types must be the same")


def _bools(x: Array) -> Array:
    if x.dtype != np.bool_:
        raise ValueError(f"an operand is {x.dtype}; it must be bool")
    return x


def _binary(name: str, function: Callable[[Array, Array], Array]) -> None:
    def op(a: Array, b: Array, /) -> Array:
        _same_type(a, b)
        broadcast(a, b)
        return function(a, b)

    register(name)(op)


def divide(a: Array, b: Array) -> Array:
    """Return ``a / b``; integers are truncated toward zero."""
    if a.dtype.kind not in "iu":
        return np.asarray(a / b)
    if not np.all(b):
        raise ValueError("an integer is divided by 0")
    quotient = a // b
    return np.asarray(quotient + ((a % b != 0) & ((a < 0) != (b < 0))).astype(a.dtype))


def _logical(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda a, b: function(_bools(a), _bools(b))


_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": divide,
    "And": _logical(np.logical_and),
    "Or": _logical(np.logical_or),
    "Xor": _logical(np.logical_xor),
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
}
for _name, _pair in _BINARY.items():
    _binary(_name, _pair)


@register("Mod")
def mod(a: Array, b: Array, /, *, fmod: int = 0) -> Array:
    """Return the remainder, with the sign of ``b``, or of ``a`` if ``fmod``."""
    _same_type(a, b)
    broadcast(a, b)
    if a.dtype.kind in "iu" and not np.all(b):
        raise ValueError("an integer is divided by 0")
    if a.dtype.kind == "f" and not fmod:
        raise ValueError(f"fmod is 0; it must be 1 for {a.dtype}")
    return np.asarray(np.fmod(a, b) if fmod else np.mod(a, b))


@register("Pow")
def power(a: Array, b: Array, /) -> Array:
    """Return ``a`` to the power ``b`` in the type of ``a``, whatever that of ``b``."""
    broadcast(a, b)
    if a.dtype.kind in "iu":
        if b.dtype.kind in "iu" and not np.any(b < 0):
            return np.asarray(np.power(a, b).astype(a.dtype))
        return np.asarray(np.power(a.astype(np.float64), b).astype(a.dtype))
    return np.asarray(np.power(a, b.astype(a.dtype)))


def _variadic(name: str, function: Callable[[Array, Array], Array], mean: bool = False) -> None:
    def op(*tensors: Array) -> Array:
        for t in tensors:
            _same_type(tensors[0], t)
        broadcast(*tensors)
        total = functools.reduce(function, tensors)
        return total / len(tensors) if mean else total

    register(name)(op)


_variadic("Min", np.minimum)
_variadic("Max", np.maximum)
_variadic("Sum", np.add)
_variadic("Mean", np.add, mean=True)

# -- products -------------------------------------------------------------------------------------


@register("MatMul")
def matmul(a: Array, b: Array, /) -> Array:
    """Return the matrix product over the last two axes; the others broadcast."""
    _same_type(a, b)
    if min(a.ndim, b.ndim) == 0:
        raise ValueError(f"shapes are {a.shape} and {b.shape}; they must have an axis")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    check_size(batch + a.shape[-2:-1] + b.shape[-1:])
    return np.asarray(np.matmul(a, b))


@register("Gemm")
def gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    /,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Array:
    """Return ``alpha * a @ b + beta * c`` of matrices, ``a`` and ``b`` transposed if asked."""
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"shapes are {a.shape} and {b.shape}; they must be matrices")
    a, b = a.T if transA else a, b.T if transB else b
    check_size((a.shape[0], b.shape[1]))
    product = float(alpha) * (a @ b)
    if c is None:
        return np.asarray(product.astype(a.dtype))
    if np.broadcast_shapes(product.shape, c.shape) != product.shape:
        raise ValueError(f"c has shape {c.shape}; it must broadcast to {product.shape}")
    return np.asarray((product + float(beta) * c).astype(a.dtype))


# -- reductions and normalisations ----------------------------------------------------------------


def _mean(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    mean = np.mean(x, axis, keepdims=keepdims, dtype=None if x.dtype.kind == "f" else np.float64)
    return np.asarray(mean)


def _reduction(name: str, function: Callable[..., Array]) -> None:
    def op(
        x: Array,
        axes_input: Array | None = None,
        /,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Array:
        given = axes if axes_input is None else axes_input
        if given is None or len(given) == 0:
            if noop_with_empty_axes:
                return x if name not in _NOOP else _NOOP[name](x)
            given = range(x.ndim)
        result = function(x, axis=axes_of(given, x.ndim), keepdims=bool(keepdims))
        return np.asarray(result).astype(x.dtype, copy=False)

    register(name)(op)


# What is left of a reduction over no axis at all.
_NOOP: dict[str, Callable[[Array], Array]] = {
    "ReduceSumSquare": np.square,
    "ReduceL1": np.abs,
    "ReduceL2": np.abs,
}
_REDUCE: dict[str, Callable[..., Any]] = {
    "ReduceSum": np.sum,
    "ReduceMean": _mean,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSumSquare": lambda x, **kw: np.sum(np.square(x), **kw),
    "ReduceL1": lambda x, **kw: np.sum(np.abs(x), **kw),
    "ReduceL2": lambda x, **kw: np.sqrt(np.sum(np.square(x), **kw)),
}
for _name, _reduce in _REDUCE.items():
    _reduction(_name, _reduce)


@register("Softmax")
def softmax(x: Array, /, *, axis: int = -1) -> Array:
    """Return ``exp(x) / sum(exp(x))`` along ``axis``."""
    axis = axis_of(axis, x.ndim)
    e = np.exp(x - np.max(x, axis, keepdims=True, initial=-np.inf))
    return np.asarray(e / np.sum(e, axis, keepdims=True))


@register("LogSoftmax")
def log_softmax(x: Array, /, *, axis: int = -1) -> Array:
    """Return the logarithm of the softmax along ``axis``."""
    axis = axis_of(axis, x.ndim)
    shifted = x - np.max(x, axis, keepdims=True, initial=-np.inf)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis, keepdims=True)))


@register("LayerNormalization")
def layer_normalization(
    x: Array,
    scale: Array,
    bias: Array | None = None,
    /,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> tuple[Array, Array, Array]:
    """Return ``(x - mean) / sqrt(var + epsilon) * scale + bias``, the mean and 1 / the root.

    Mean and variance (without Bessel's correction) are those over ``axis`` and all after it.
    """
    axes = tuple(range(axis_of(axis, x.ndim), x.ndim))
    mean = np.mean(x, axes, keepdims=True)
    centred = x - mean
    inverse = 1 / np.sqrt(np.mean(np.square(centred), axes, keepdims=True) + float(epsilon))
    y = centred * inverse * scale
    return y if bias is None else y + bias, mean, inverse


@register("BatchNormalization")
def batch_normalization(
    x: Array,
    scale: Array,
    bias: Array,
    mean: Array,
    var: Array,
    /,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Array:
    """Return ``(x - mean) / sqrt(var + epsilon) * scale + bias`` of each channel (axis 1)."""
    if training_mode:
        raise ValueError("training_mode is 1; only inference is defined")
    if x.ndim < 2:
        raise ValueError(f"x has shape {x.shape}; it must be [N, C, ...]")
    shape = (x.shape[1],) + (1,) * (x.ndim - 2)
    scale, bias, mean, var = (a.reshape(shape) for a in (scale, bias, mean, var))
    return (x - mean) / np.sqrt(var + float(epsilon)) * scale + bias
