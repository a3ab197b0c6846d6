# SPDX-License-Identifier: MIT
"""ONNX operators of opset 7 and later, brought to their newest form: one small function each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gruengine.converters.base import Reason
from gruengine.converters.onnx_fold import Builder
from gruengine.converters.onnx_model import OnnxNode, Reference, Unsupported
from gruengine.converters.onnx_tensor import Loader, Tensor, type_name
from gruengine.converters.onnx_widen import WAY_OUT
from gruengine.reference_shape import ONNX_DTYPES
from gruengine.spec import Attr

Array = np.ndarray[Any, Any]

#: Domain -> why none of its operators is run.
_WHY = {
    "com.microsoft.nchwc": "it is in the layout of one machine, which ONNX Runtime optimised it "
    "for; convert the model before that",
}

#: The newest opset whose changes to the operators below are known.
NEWEST = 28


class Refused(Exception):  # noqa: N818 - not an error: it carries reasons to the report
    """A node that cannot be run; ``reasons`` are (what, why)."""

    def __init__(self, *reasons: tuple[str, str]) -> None:
        super().__init__()
        self.reasons = reasons


@dataclass
class Call:
    """One node on its way into the graph: ``inputs`` are names of values there."""

    builder: Builder
    node: OnnxNode
    inputs: list[str]
    opset: int
    loader: Loader

    @property
    def title(self) -> str:
        """What messages call the node."""
        return self.node.name or (self.node.outputs[0] if self.node.outputs else "")

    def input(self, index: int) -> str:
        """Return an input, ``""`` where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def needs(self, least: int, most: int) -> None:
        """Check the number of inputs, and that the first ``least`` are there."""
        given = len(self.inputs)
        if not least <= given <= most or "" in self.inputs[:least]:
            span = f"{least}" if least == most else f"{least} to {most}"
            there = given - self.inputs.count("")
            raise Refused((f"{self.node.op} with {there} inputs", f"{span} are needed"))

    def attr(self, key: str, kind: type, default: Any) -> Any:
        """Return an attribute of one type; a float may be written as an int."""
        value = self.node.attrs.get(key, default)
        if kind is float and isinstance(value, int):
            value = float(value)
        if value is not None and not isinstance(value, kind):
            raise Refused((f"attribute {key} = {shown(value)}", f"{kind.__name__} is needed"))
        if isinstance(value, float) and not math.isfinite(value):
            raise Refused((f"attribute {key} = {value}", "a finite number is needed"))
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """Return an int attribute; without a default it must be there."""
        value = self.attr(key, int, default)
        if value is None:
            raise Refused((f"attribute {key}", "it is missing"))
        return int(value)

    def real(self, key: str, default: float) -> float:
        """Return a float attribute."""
        return float(self.attr(key, float, default))

    def text(self, key: str, default: str) -> str:
        """Return a string attribute."""
        return str(self.attr(key, str, default))

    def ints(self, key: str) -> list[int] | None:
        """Return a list of ints, or None where it is absent."""
        value = self.attr(key, list, None)
        if value is None:
            return None
        if not all(isinstance(v, int) for v in value):
            raise Refused((f"attribute {key} = {shown(value)}", "integers are needed"))
        return list(value)

    def axes(self, position: int) -> str:
        """Return the axes: an input of new opsets, an attribute of old ones (kept as constant)."""
        axes = self.ints("axes")
        return self.input(position) if axes is None else self.builder.integers(axes, "axes")

    def tmp(self, op: str, inputs: list[str], attrs: Mapping[str, Attr] | None = None) -> str:
        """Add a helper node of one output."""
        wish = f"{self.node.outputs[0]}_{op}"
        return self.builder.emit(op, inputs, attrs, (wish,), self.node.name)[0]

    def out(self, op: str, inputs: list[str], attrs: Mapping[str, Attr] | None = None) -> list[str]:
        """Add the node that makes the outputs of this one."""
        return self.builder.emit(op, inputs, attrs, self.node.outputs, self.node.name)

    def only_first_output(self) -> None:
        """Refuse if another output than the first is used."""
        extra = [name for name in self.node.outputs[1:] if name]
        if extra:
            raise Refused(
                (f"{self.node.op} with the output {extra[0]!r}", "only the first is made")
            )


def shown(value: object) -> str:
    """Return a value for a message, shortened."""
    if isinstance(value, Tensor):
        return f"tensor {list(value.dims)}"
    if isinstance(value, Unsupported):
        return value.kind
    if isinstance(value, Reference):
        return f"the attribute {value.name!r} of a function"
    text = repr(value) if isinstance(value, (int, float, str, list)) else type(value).__name__
    return text if len(text) <= 60 else text[:60] + "..."


Lower = Callable[[Call], "list[str]"]

#: Operator -> (function, attributes it knows, opset since which it exists).
LOWER: dict[str, tuple[Lower, frozenset[str], int]] = {}


def lower(*names: str, attrs: str = "", since: int = 1) -> Callable[[Lower], Lower]:
    """Enter a function for operators with these attributes (names separated by spaces)."""

    def enter(function: Lower) -> Lower:
        for name in names:
            LOWER[name] = (function, frozenset(attrs.split()), since)
        return function

    return enter


def lower_node(call: Call) -> list[str]:
    """Add one ONNX node other than If to the graph; return the values of its outputs."""
    node, builder = call.node, call.builder
    try:
        return _lowered(call)
    except Refused as refused:
        reasons = [
            Reason(call.title, what if what.startswith(node.op) else f"{node.op}, {what}", why)
            for what, why in refused.reasons
        ]
        return builder.refuse(reasons, node.outputs, call.inputs)


def _lowered(call: Call) -> list[str]:
    node = call.node
    full = f"{node.domain}.{node.op}" if node.domain else node.op
    entry = LOWER.get(full)
    if entry is None:
        title = f"{node.op} ({full})" if node.domain else node.op
        raise Refused((title, _WHY.get(node.domain, "it is not run")))
    function, allowed, since = entry
    if call.opset < since:
        raise Refused((f"{node.op} of opset {call.opset}", f"it exists since opset {since}"))
    extra = sorted(set(node.attrs) - allowed)
    if extra:
        raise Refused(
            *((f"attribute {k} = {shown(node.attrs[k])}", "it is not known") for k in extra)
        )
    if not any(node.outputs) or (not node.outputs[0] and node.op not in ("RNN", "GRU", "LSTM")):
        raise Refused((node.op, "its first output has no name"))
    return function(call)


# -- that stay as they are ------------------------------------------------------------------------


@lower(
    "Sigmoid", "Tanh", "Relu", "Softsign", "Softplus", "Neg", "Abs", "Sqrt", "Exp", "Log",
    "Reciprocal", "Erf", "Floor", "Ceil", "Not", "Round", "Sign", "Sin", "Cos", "Size",
    "HardSwish", "GlobalAveragePool",
)  # fmt: skip
def _unary(call: Call) -> list[str]:
    call.needs(1, 1)
    return call.out(call.node.op, call.inputs)


@lower(
    "Add", "Sub", "Mul", "Div", "Pow", "Equal", "Less", "Greater", "LessOrEqual",
    "GreaterOrEqual", "And", "Or", "Xor", "MatMul", "PRelu", "Expand", "Tile",
)  # fmt: skip
def _binary(call: Call) -> list[str]:
    call.needs(2, 2)
    return call.out(call.node.op, call.inputs)


@lower("Min", "Max", "Sum", "Mean")
def _variadic(call: Call) -> list[str]:
    call.needs(1, 1 << 16)
    if "" in call.inputs:
        raise Refused((call.node.op, "an input in the middle is absent"))
    return call.inputs[:] if len(call.inputs) == 1 else call.out(call.node.op, call.inputs)


@lower("Where", since=9)
@lower("Range", attrs="stash_type", since=11)  # how float16 is summed
def _ternary(call: Call) -> list[str]:
    call.needs(3, 3)
    return call.out(call.node.op, call.inputs)


@lower("Identity")
def _identity(call: Call) -> list[str]:
    call.needs(1, 1)
    return call.inputs[:]


@lower("Mod", attrs="fmod", since=10)
def _mod(call: Call) -> list[str]:
    call.needs(2, 2)
    fmod = call.integer("fmod", 0)
    if not fmod and call.builder.info(call.inputs[0]).dtype.startswith(("float", "bfloat")):
        raise Refused(("Mod of floats with fmod = 0", "only fmod = 1 is run"))
    return call.out("Mod", call.inputs, {"fmod": fmod})


@lower("LeakyRelu", attrs="alpha")
@lower("Elu", attrs="alpha")
@lower("ThresholdedRelu", attrs="alpha", since=10)
def _alpha(call: Call) -> list[str]:
    call.needs(1, 1)
    default = 0.01 if call.node.op == "LeakyRelu" else 1.0
    return call.out(call.node.op, call.inputs, {"alpha": call.real("alpha", default)})


@lower("HardSigmoid", attrs="alpha beta")
def _hard_sigmoid(call: Call) -> list[str]:
    call.needs(1, 1)
    attrs: dict[str, Attr] = {"alpha": call.real("alpha", 0.2), "beta": call.real("beta", 0.5)}
    return call.out("HardSigmoid", call.inputs, attrs)


@lower("Gelu", attrs="approximate", since=20)
def _gelu(call: Call) -> list[str]:
    call.needs(1, 1)
    kind = call.text("approximate", "none")
    if kind not in ("none", "tanh"):
        raise Refused((f"attribute approximate = {kind!r}", "'none' and 'tanh' are run"))
    return call.out("Gelu", call.inputs, {"approximate": kind})


@lower("Clip", attrs="min max")
def _clip(call: Call) -> list[str]:
    call.needs(1, 3)
    bounds = [call.input(1), call.input(2)]
    for i, key in enumerate(("min", "max")):
        if key in call.node.attrs:
            bounds[i] = call.builder.constant(np.float32(call.real(key, 0.0)).reshape(()), key)
    if not any(bounds):
        return call.inputs[:1]
    return call.out("Clip", [call.inputs[0], *bounds])


@lower("Cast", attrs="to saturate round_mode")  # both but "to" are about 8 bit floats
def _cast(call: Call) -> list[str]:
    call.needs(1, 1)
    to = call.integer("to")
    if to == 11 and call.builder.rounding:
        to = 1
    if to not in ONNX_DTYPES and to != 16:
        raise Refused((f"Cast to {type_name(to)}", "the type is not run"))
    info = call.builder.info(call.inputs[0])
    if to == 16:
        return _cast_bfloat16(call)
    if info.dtype == ONNX_DTYPES[to]:
        return call.inputs[:]
    return call.out("Cast", call.inputs, {"to": to})


def _cast_bfloat16(call: Call) -> list[str]:
    from gruengine.converters.onnx_fold import round_bfloat16

    array = call.builder.array(call.inputs[0])
    if array is None:
        raise Refused(("Cast to bfloat16", "only float32, int64, int32 and bool are run" + WAY_OUT))
    value = round_bfloat16(array.astype(np.float32))
    return [call.builder.constant(value, call.node.outputs[0], "bfloat16")]


@lower("Dropout", attrs="ratio seed is_test")
def _dropout(call: Call) -> list[str]:
    call.needs(1, 3)
    call.only_first_output()
    training = call.input(2)
    if training:
        value = call.builder.array(training)
        if value is None or value.size != 1 or bool(value.reshape(())):
            raise Refused(("Dropout with training_mode", "it must be the constant false"))
    return call.inputs[:1]


# -- constants ------------------------------------------------------------------------------------


@lower("Constant", attrs="value value_float value_floats value_int value_ints")
def _constant(call: Call) -> list[str]:
    call.needs(0, 0)
    if len(call.node.attrs) != 1:
        raise Refused(("Constant", "exactly one value is needed"))
    key, value = next(iter(call.node.attrs.items()))
    wish = call.node.outputs[0]
    if key == "value" and isinstance(value, Tensor):
        return [load(call.builder, call.loader, value, wish)]
    if key in ("value_float", "value_floats"):
        number = call.real(key, 0.0) if key == "value_float" else call.attr(key, list, None)
        return [call.builder.constant(np.array(number, np.float32), wish)]
    if key in ("value_int", "value_ints"):
        whole = call.integer(key) if key == "value_int" else call.ints(key)
        return [call.builder.constant(np.array(whole, np.int64), wish)]
    raise Refused((f"attribute {key} = {shown(value)}", "a tensor or numbers are needed"))


def decode(builder: Builder, loader: Loader, tensor: Tensor) -> Array:
    """Return a tensor of any type that can be folded; float64 is narrowed where that is wished."""
    if tensor.elem_type not in ONNX_DTYPES and tensor.elem_type != 16:
        raise Refused((f"a tensor of {type_name(tensor.elem_type)}", "the type is not read"))
    array = loader.load(tensor)
    if builder.rounding and array.dtype == np.float64:
        with np.errstate(over="ignore"):
            narrow = array.astype(np.float32)
        builder.rounded += not np.array_equal(narrow, array, equal_nan=True)
        return narrow
    return array


def load(builder: Builder, loader: Loader, tensor: Tensor, wish: str) -> str:
    """Enter a tensor of the file as a constant; return its name."""
    array = decode(builder, loader, tensor)
    return builder.constant(array, wish, "bfloat16" if tensor.elem_type == 16 else "")


@lower("ConstantOfShape", attrs="value", since=9)
def _constant_of_shape(call: Call) -> list[str]:
    call.needs(1, 1)
    value = call.node.attrs.get("value")
    fill = np.zeros(1, np.float32)
    if value is not None:
        if not isinstance(value, Tensor) or value.count != 1:
            raise Refused((f"attribute value = {shown(value)}", "a tensor of 1 value is needed"))
        fill = decode(call.builder, call.loader, value).reshape(1)
    if fill.dtype.kind == "f":
        number: Attr = float(fill[0])
        if not math.isfinite(float(fill[0])):
            scalar = call.builder.constant(fill.reshape(()), "fill")
            return call.out("Expand", [scalar, call.inputs[0]])
    else:
        number = int(fill[0])
    own = "float32" if fill.dtype.kind == "f" else "int64"
    if fill.dtype.name == own:
        return call.out("ConstantOfShape", call.inputs, {"value": number})
    code = next(k for k, v in ONNX_DTYPES.items() if v == fill.dtype.name)
    filled = call.tmp("ConstantOfShape", call.inputs, {"value": number})
    return call.out("Cast", [filled], {"to": code})
