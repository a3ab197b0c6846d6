# SPDX-License-Identifier: MIT
"""Quantised ONNX operators beside the products of matrices: moves, convolutions, QLinear...

A value of 8 or 16 bits is kept as the floats of the same whole numbers (``builder.quantised``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gruengine.converters import onnx_ops_places, onnx_ops_shape
from gruengine.converters.onnx_fused import kept, part
from gruengine.converters.onnx_ops import LOWER, Call, Lower, Refused, lower
from gruengine.converters.onnx_quantized import (
    EXACT_PRODUCTS,
    RANGES,
    Array,
    dequantizes,
    quantised,
    the_constant,
)

_ = (onnx_ops_places, onnx_ops_shape)
#: Operators that move elements: their first so many inputs are data (None: all).
_MOVES: dict[str, int | None] = {
    "Gather": 1, "Transpose": 1, "Reshape": 1, "Squeeze": 1, "Unsqueeze": 1, "Slice": 1,
    "Flatten": 1, "Identity": 1, "Expand": 1, "MaxPool": 1, "Split": 1, "Concat": None,
}  # fmt: skip


def _moving(function: Lower, count: int | None) -> Lower:
    """Return a function that moves whole numbers as floats, and all else as ``function`` does."""

    def moved(call: Call) -> list[str]:
        builder = call.builder
        places = range(len(call.inputs) if count is None else min(count, len(call.inputs)))
        kinds = {builder.info(call.inputs[i]).dtype for i in places}
        constant = all(builder.array(name) is not None for name in call.inputs if name)
        if len(kinds) != 1 or constant or not kinds <= RANGES.keys():
            return function(call)
        inputs = list(call.inputs)
        for i in places:
            array = builder.array(inputs[i])
            if array is not None:
                inputs[i] = builder.constant(array.astype(np.float32), f"{inputs[i]}_whole")
            elif inputs[i] in builder.quantised:
                inputs[i] = builder.quantised[inputs[i]]
            else:
                return function(call)
        names = tuple(f"{name}_whole" if name else "" for name in call.node.outputs)
        node = replace(call.node, outputs=names)
        found = function(replace(call, node=node, inputs=inputs))
        (kind,) = kinds
        wishes = call.node.outputs
        return [
            quantised(call, one, kind, wish) if one else ""
            for one, wish in zip(found, wishes, strict=False)
        ]

    return moved


for _name, _count in _MOVES.items():
    _function, _attrs, _since = LOWER[_name]
    LOWER[_name] = (_moving(_function, _count), _attrs, _since)


_WINDOW = "auto_pad dilations group kernel_shape pads strides"


@lower("ConvInteger", attrs=_WINDOW, since=10)
def _conv_integer(call: Call) -> list[str]:
    """Convolve whole numbers in floats, over as many channels at once as stay exact."""
    call.needs(2, 4)
    builder, x = call.builder, call.inputs[0]
    weight, point = the_constant(call, 1, "its weights"), the_constant(call, 3, "its zero point")
    assert weight is not None
    known = weight.ndim > 2 and weight.size > 0 and weight.dtype.name in RANGES
    if x not in builder.quantised or not known:
        raise Refused(("ConvInteger", "a value quantised in the model with constant weights"))
    shift = 0 if point is None else _along_filters(point.astype(np.float32), weight)
    whole = weight.astype(np.float32) - shift
    left, zero = builder.quantised[x], call.input(2)
    attrs = kept(call, _WINDOW)
    if dequantizes(call):
        builder.warnings.append(
            f"{call.title}: convolved in float32; the file rounds its input to 8 bits"
        )
        return part(call, "Conv", [left, builder.constant(whole, "weights")], attrs, last=True)
    if zero:
        array = builder.array(zero)
        number = builder.quantised.get(zero)
        if array is not None and array.size == 1:
            number = builder.constant(array.astype(np.float32).reshape(()), "zero_point")
        if number is None or builder.info(number).shape != ():
            raise Refused(("ConvInteger, its zero point", "one number made with its input"))
        left = call.tmp("Sub", [left, number])
    each = EXACT_PRODUCTS // int(np.prod(whole.shape[2:]))
    channels = whole.shape[1]
    if each < 1 or (each < channels and call.integer("group", 1) != 1):
        why = "sums that float32 holds exactly; give dequantize=True for float32 weights"
        raise Refused((f"ConvInteger with weights {list(whole.shape)}", why))
    total = ""
    for first in range(0, channels, each):
        last, some = min(first + each, channels), left
        if each < channels:
            bounds = [builder.integers([v], "part") for v in (first, last, 1)]
            some = call.tmp("Slice", [left, *bounds])
        one = builder.constant(np.ascontiguousarray(whole[:, first:last]), "weights")
        made = part(call, "Conv", [some, one], attrs)[0]
        cast = call.tmp("Cast", [made], {"to": 6})
        total = call.tmp("Add", [total, cast]) if total else cast
    return [total]


def _along_filters(point: Array, weight: Array) -> Array:
    if point.size == 1:
        return point.reshape(())
    if point.size != len(weight):
        raise Refused((f"{point.size} zero points", f"1 or {len(weight)} are needed"))
    return point.reshape(-1, *[1] * (weight.ndim - 1))


# -- one operator between quantised values --------------------------------------------------------


def _float(call: Call, place: int, axis: int | None = None) -> str:
    """Return what a value, its scale and zero point, three inputs from ``place`` on, stand for."""
    attrs = {} if axis is None else {"axis": axis}
    names = [name for name in call.inputs[place : place + 3] if name]
    return part(call, "DequantizeLinear", names, attrs)[0]


def _rounded(call: Call, y: str, place: int) -> list[str]:
    names = [y, *(name for name in call.inputs[place : place + 2] if name)]
    return part(call, "QuantizeLinear", names, {}, last=True)


def _bias(call: Call, place: int, alpha: float) -> str:
    """Return a bias whose scale is alpha times those of a and b, the inputs 1 and 4."""
    bias, a, b = (the_constant(call, i, "its bias and scales") for i in (place, 1, 4))
    assert bias is not None
    assert a is not None
    assert b is not None
    if a.size != 1 or b.size not in (1, bias.size) or bias.ndim != 1:
        raise Refused((f"a bias of {bias.size} with {a.size} and {b.size} scales", "one for each"))
    value = bias.astype(np.float32) * (np.float32(alpha) * a.reshape(-1) * b.reshape(-1))
    return call.builder.constant(value.astype(np.float32), "bias")


@lower("QLinearConv", attrs=_WINDOW, since=10)
def _qlinear_conv(call: Call) -> list[str]:
    """Take the bias, whose scale is that of x times that of w, as a float too."""
    call.needs(8, 9)
    names = [_float(call, 0), _float(call, 3, 0)]
    if call.input(8):
        names.append(_bias(call, 8, 1.0))
    y = part(call, "Conv", names, kept(call, _WINDOW))[0]
    return _rounded(call, y, 6)


@lower("QLinearMatMul", since=10)
def _qlinear_matmul(call: Call) -> list[str]:
    call.needs(8, 8)
    y = part(call, "MatMul", [_float(call, 0), _float(call, 3, 1)], {})[0]
    return _rounded(call, y, 6)


@lower("com.microsoft.QLinearAdd")
@lower("com.microsoft.QLinearMul")
def _qlinear_binary(call: Call) -> list[str]:
    call.needs(7, 8)
    op = call.node.op.removeprefix("QLinear")
    return _rounded(call, part(call, op, [_float(call, 0), _float(call, 3)], {})[0], 6)


@lower("com.microsoft.QLinearSigmoid")
@lower("com.microsoft.QLinearLeakyRelu", attrs="alpha")
def _qlinear_unary(call: Call) -> list[str]:
    call.needs(4, 5)
    op = call.node.op.removeprefix("QLinear")
    attrs = {"alpha": call.real("alpha", 0.01)} if op == "LeakyRelu" else {}
    return _rounded(call, part(call, op, [_float(call, 0)], {**attrs})[0], 3)


@lower("com.microsoft.QLinearSoftmax", attrs="axis opset")
def _qlinear_softmax(call: Call) -> list[str]:
    """Take the softmax of the opset that an attribute names: before 13 it is over all behind."""
    call.needs(4, 5)
    axis, opset = call.integer("axis", -1), call.integer("opset", 13)
    x = _float(call, 0)
    rank = call.builder.info(x).rank
    if opset < 13 and (rank is None or axis not in (-1, rank - 1)):
        raise Refused((f"attribute axis = {axis} of opset {opset}", "the last axis is run"))
    return _rounded(call, part(call, "Softmax", [x], {"axis": axis})[0], 3)


@lower("com.microsoft.QLinearGlobalAveragePool", attrs="channels_last")
def _qlinear_mean(call: Call) -> list[str]:
    call.needs(4, 5)
    if call.integer("channels_last", 0):
        raise Refused(("attribute channels_last = 1", "0 is run"))
    return _rounded(call, part(call, "GlobalAveragePool", [_float(call, 0)], {})[0], 3)


@lower("com.microsoft.QLinearConcat", attrs="axis")
def _qlinear_concat(call: Call) -> list[str]:
    """Read scale and zero point of y, then value, scale and zero point of each part."""
    if len(call.inputs) < 5 or len(call.inputs) % 3 != 2:
        raise Refused((f"QLinearConcat of {len(call.inputs)} inputs", "2 and 3 of each part"))
    parts = [_float(call, i) for i in range(2, len(call.inputs), 3)]
    return _rounded(call, part(call, "Concat", parts, {"axis": call.integer("axis")})[0], 0)


@lower("com.microsoft.QGemm", attrs="alpha transA transB")
def _qgemm(call: Call) -> list[str]:
    """Add ``alpha * a b + c``; c has the scale alpha * a's * b's, y may be a float."""
    call.needs(6, 9)
    alpha, turned = call.real("alpha", 1.0), call.integer("transB", 0)
    names = [_float(call, 0), _float(call, 3, 0 if turned else 1)]
    if call.input(6):
        names.append(_bias(call, 6, alpha))
    attrs = {"alpha": alpha, "transA": call.integer("transA", 0), "transB": turned}
    y = part(call, "Gemm", names, {**attrs}, last=not call.input(7))
    return _rounded(call, y[0], 7) if call.input(7) else y


@lower("com.microsoft.DynamicQuantizeMatMul")
def _dynamic_matmul(call: Call) -> list[str]:
    """Add ``x b + bias``, with x rounded by the range of its values: three operators fused."""
    call.needs(3, 5)
    made = tuple(f"{call.node.outputs[0]}_{which}" for which in ("q", "s", "z"))
    node = replace(call.node, op="DynamicQuantizeLinear", domain="", outputs=made)
    quantise: Callable[[Call], list[str]] = LOWER["DynamicQuantizeLinear"][0]
    q, scale, zero = quantise(replace(call, node=node, inputs=call.inputs[:1]))
    point = call.input(3)
    names = [q, call.inputs[1], zero, *([point] if point else [])]
    whole = part(call, "MatMulInteger", names, {})[0]
    if call.builder.info(whole).dtype != "float32":
        whole = call.tmp("Cast", [whole], {"to": 1})
    y = call.tmp("Mul", [whole, call.tmp("Mul", [scale, call.inputs[2]])])
    return call.out("Add", [y, call.inputs[4]]) if call.input(4) else [y]


@lower("com.microsoft.MatMulIntegerToFloat")
def _matmul_to_float(call: Call) -> list[str]:
    """Add ``(a - za) (b - zb) * sa * sb + bias``."""
    call.needs(4, 7)
    names = [call.inputs[0], call.inputs[1], call.input(4), call.input(5)]
    while not names[-1]:
        names.pop()
    whole = part(call, "MatMulInteger", names, {})[0]
    if call.builder.info(whole).dtype != "float32":
        whole = call.tmp("Cast", [whole], {"to": 1})
    y = call.tmp("Mul", [whole, call.tmp("Mul", [call.inputs[2], call.inputs[3]])])
    return call.out("Add", [y, call.inputs[6]]) if call.input(6) else [y]
