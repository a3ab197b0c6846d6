# SPDX-License-Identifier: MIT
"""Quantised ONNX files: integers computed as the whole numbers that floats hold exactly.

Constant weights are dequantised. What is quantised while the model runs keeps its arithmetic:
rounding to whole numbers and, for ``MatMulInteger``, sums short enough for float32. Only
``DynamicQuantizeLSTM`` cannot be computed as ONNX Runtime does; the hint ``dequantize`` takes its
weights, and those of dynamically quantised products, as float32 weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gruengine.converters.onnx_ops import Call, Refused, lower, lower_node
from gruengine.converters.shapes import Info
from gruengine.spec import Node

Array = np.ndarray[Any, Any]

#: Bounds of the integer types that floats of 24 bits hold.
RANGES = {
    "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535),
}  # fmt: skip
_CODES = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16"}
#: What is said once of a file that rounds values as it runs.
ROUNDS = (
    "values are rounded to 8 bits as ONNX defines it, and as ONNX Runtime does without "
    "optimisations; its integer kernels may round a value to the next step"
)
#: So many products of two bytes add up to less than 2**24.
EXACT_PRODUCTS = 256


def quantised(call: Call, value: str, kind: str, wish: str) -> str:
    """Return a float value as one of an integer type, which only operators here may use."""
    builder = call.builder
    node = Node("Identity", (value,), (wish or "quantised",), {}, call.node.name)
    name = builder.append(node, [Info(kind, builder.info(value).shape)])[0]
    builder.quantised[name] = value
    return name


def the_constant(call: Call, place: int, what: str) -> Array | None:
    """Return an input that must be constant, None if it is absent."""
    name = call.input(place)
    if not name:
        return None
    array = call.builder.array(name)
    if array is None:
        raise Refused((f"{call.node.op}, {what}", "it must be constant"))
    return array


def _fitted(call: Call, array: Array, rank: int | None) -> Array:
    """Return a scale or zero point so that it broadcasts along its axis."""
    if array.size == 1:
        return array.reshape(())
    axis = call.integer("axis", 1)
    shape = call.builder.info(call.inputs[0]).shape
    known = rank is not None and array.ndim == 1 and -rank <= axis < rank
    size = shape[axis] if shape and known else None
    if rank is None or not known or (isinstance(size, int) and size != array.size):
        raise Refused((f"a scale of shape {list(array.shape)}", "one number, or one axis of them"))
    return array.reshape(-1, *[1] * (rank - 1 - axis % rank))


def _blocks(call: Call, array: Array, like: Array) -> Array:
    """Repeat what holds for blocks along an axis."""
    size, axis = call.integer("block_size", 0), call.integer("axis", 1)
    if array.ndim != like.ndim or not -like.ndim <= axis < like.ndim:
        raise Refused((f"a scale of shape {list(array.shape)}", f"{like.ndim} axes are needed"))
    repeated = np.repeat(array, size, axis)[tuple(slice(n) for n in like.shape)]
    if repeated.shape != like.shape:
        raise Refused((f"blocks of {size} of {list(like.shape)}", "a scale for each"))
    return repeated


@lower("DequantizeLinear", attrs="axis block_size output_dtype", since=10)
def _dequantize(call: Call) -> list[str]:
    call.needs(2, 3)
    scale = the_constant(call, 1, "its scale")
    zero = the_constant(call, 2, "its zero point")
    name, builder = call.inputs[0], call.builder
    array, rank = builder.array(name), builder.info(name).rank
    assert scale is not None
    if scale.dtype != np.float32:
        raise Refused((f"a scale of {scale.dtype}", "float32 is run"))
    if array is not None:
        if call.integer("block_size", 0) > 0:
            scale = _blocks(call, scale, array)
            zero = None if zero is None else _blocks(call, zero, array)
        else:
            scale = _fitted(call, scale, rank)
            zero = None if zero is None else _fitted(call, zero, rank)
        whole = array.astype(np.int32) - (0 if zero is None else zero.astype(np.int32))
        value = whole.astype(np.float32) * scale
        return [builder.constant(value.astype(np.float32), call.node.outputs[0])]
    if name not in builder.quantised or call.integer("block_size", 0):
        raise Refused(("DequantizeLinear of what is not quantised here", "it is not run"))
    name = builder.quantised[name]
    if zero is not None and np.any(zero):
        shift = builder.constant(_fitted(call, zero, rank).astype(np.float32), "zero_point")
        name = call.tmp("Sub", [name, shift])
    return call.out("Mul", [name, builder.constant(_fitted(call, scale, rank), "scale")])


@lower("QuantizeLinear", attrs="axis block_size output_dtype precision saturate", since=10)
def _quantize(call: Call) -> list[str]:
    call.needs(2, 3)
    scale, zero = the_constant(call, 1, "its scale"), the_constant(call, 2, "its zero point")
    code = call.integer("output_dtype", 0)
    kind = zero.dtype.name if zero is not None else _CODES.get(code, "uint8")
    rank = call.builder.info(call.inputs[0]).rank
    assert scale is not None
    if kind not in RANGES or scale.dtype != np.float32 or call.integer("block_size", 0):
        raise Refused((f"QuantizeLinear to {kind} by {scale.dtype}", "8 and 16 bits are run"))
    by = call.builder.constant(_fitted(call, scale, rank), "scale")
    value = call.tmp("Round", [call.tmp("Div", [call.inputs[0], by])])
    if zero is not None and np.any(zero):
        shift = call.builder.constant(_fitted(call, zero, rank).astype(np.float32), "zero_point")
        value = call.tmp("Add", [value, shift])
    low, high = (call.builder.constant(np.float32(v).reshape(()), "bound") for v in RANGES[kind])
    value = call.tmp("Clip", [value, low, high])
    if ROUNDS not in call.builder.warnings:
        call.builder.warnings.append(ROUNDS)
    return [quantised(call, value, kind, call.node.outputs[0])]


# -- dynamic --------------------------------------------------------------------------------------


def dequantizes(call: Call) -> bool:
    """Tell whether the hint ``dequantize`` is given."""
    return bool(call.builder.hints.get("dequantize", False))


@lower("DynamicQuantizeLinear", since=11)
def _dynamic_quantize(call: Call) -> list[str]:
    """Quantise by the range of all values to 0..255; with the hint, pass the floats on."""
    call.needs(1, 1)
    builder, x = call.builder, call.inputs[0]
    names = [*call.node.outputs, "", "", ""][:3]

    def number(value: float, wish: str) -> str:
        return builder.constant(np.float32(value).reshape(()), wish)

    zero, one, most = number(0, "zero"), number(1, names[1] or "scale"), number(255, "most")
    if dequantizes(call):
        return [quantised(call, x, "uint8", names[0]), one,
                quantised(call, zero, "uint8", names[2])]  # fmt: skip
    attrs = {"keepdims": 0, "noop_with_empty_axes": 0}
    high = call.tmp("Max", [call.tmp("ReduceMax", [x], attrs), zero])
    low = call.tmp("Min", [call.tmp("ReduceMin", [x], attrs), zero])
    span = call.tmp("Sub", [high, low])
    steps = [call.tmp("Equal", [span, zero]), one, call.tmp("Div", [span, most])]
    scale = builder.emit("Where", steps, {}, [names[1] or "scale"])[0]
    start = call.tmp("Sub", [zero, call.tmp("Div", [low, scale])])
    point = call.tmp("Round", [call.tmp("Clip", [start, zero, most])])
    builder.infos[point] = Info("float32", ())  # also where nothing is known of x
    rounded = call.tmp("Round", [call.tmp("Div", [x, scale])])
    value = call.tmp("Clip", [call.tmp("Add", [rounded, point]), zero, most])
    return [quantised(call, value, "uint8", names[0]), scale,
            quantised(call, point, "uint8", names[2])]  # fmt: skip


@lower("MatMulInteger", since=10)
def _matmul_integer(call: Call) -> list[str]:
    """Multiply whole numbers in floats, in parts short enough to be exact."""
    call.needs(2, 4)
    builder, a = call.builder, call.inputs[0]
    weight, point = the_constant(call, 1, "its right side"), the_constant(call, 3, "its zero point")
    assert weight is not None
    if a not in builder.quantised or weight.ndim != 2 or weight.dtype.name not in RANGES:
        raise Refused(("MatMulInteger", "a value quantised in the model times a constant matrix"))
    right = weight.astype(np.float32) - (0 if point is None else point.astype(np.float32))
    left, zero = builder.quantised[a], call.input(2)
    if dequantizes(call):
        builder.warnings.append(
            f"{call.title}: multiplied in float32; the file rounds its input to 8 bits"
        )
        return call.out("MatMul", [left, builder.constant(right, "weights")])
    if zero:
        number = builder.quantised.get(zero)
        if number is None or builder.info(zero).shape != ():
            raise Refused(("MatMulInteger, its zero point", "one number made with its input"))
        left = call.tmp("Sub", [left, number])
    total = ""
    rank = builder.info(a).rank
    if rank is None:
        raise Refused(("MatMulInteger of unknown rank", "its number of axes must be known"))
    for first in range(0, len(right), EXACT_PRODUCTS):
        part, last = left, min(first + EXACT_PRODUCTS, len(right))
        if len(right) > EXACT_PRODUCTS:
            bounds = [builder.integers([v], "part") for v in (first, last, rank - 1)]
            part = call.tmp("Slice", [left, *bounds])
        product = call.tmp("MatMul", [part, builder.constant(right[first:last], "weights")])
        whole = call.tmp("Cast", [product], {"to": 6})
        total = call.tmp("Add", [total, whole]) if total else whole
    return [total]


_LSTM = "activation_alpha activation_beta activations clip direction hidden_size input_forget"


@lower("com.microsoft.DynamicQuantizeLSTM", attrs=_LSTM)
def _dynamic_lstm(call: Call) -> list[str]:
    """Take the weights [D, I, 4H] as float32: an LSTM of the same numbers without rounding."""
    if len(call.inputs) != 12 or not all(call.inputs[i] for i in (0, 1, 2, 8, 9, 10, 11)):
        raise Refused(("DynamicQuantizeLSTM", "12 inputs with scales and zero points are needed"))
    if not dequantizes(call):
        why = "its 8 bit steps cannot be repeated exactly; give dequantize=True for float32 weights"
        raise Refused(("DynamicQuantizeLSTM (com.microsoft.DynamicQuantizeLSTM)", why))
    names = list(call.inputs[:8])
    for place, which, title in ((1, 8, "W"), (2, 10, "R")):
        array = the_constant(call, place, title)
        scale, zero = (the_constant(call, which + i, f"{title}'s scale") for i in (0, 1))
        assert array is not None
        assert scale is not None
        assert zero is not None
        shape = (array.shape[0], 1, -1)
        if array.ndim != 3 or scale.size not in (array.shape[0], array[:, 0].size):
            raise Refused((f"{title} of shape {list(array.shape)}", "[D, I, 4H] is needed"))
        whole = array.astype(np.float32) - zero.reshape(shape).astype(np.float32)
        value = (whole * scale.reshape(shape)).transpose(0, 2, 1)
        names[place] = call.builder.constant(np.ascontiguousarray(value), f"{title}_float")
    call.builder.warnings.append(
        f"{call.title}: an LSTM with float32 weights; the file rounds its inputs and states to 8 "
        "bits in every step, which changes its outputs by about a hundredth"
    )
    node = replace(call.node, op="LSTM", domain="")
    return lower_node(Call(call.builder, node, names, max(call.opset, 14), call.loader))
