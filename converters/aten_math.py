# SPDX-License-Identifier: MIT
"""ATen operators that work element by element, and those that compare and choose."""

from __future__ import annotations

import math

from gruengine.converters.aten import Call, Refused, lower, widest

# -- arithmetic -----------------------------------------------------------------------------------

_PAIRS = {
    "aten.add": "Add", "aten.sub": "Sub", "aten.rsub": "Sub", "aten.mul": "Mul",
    "aten.maximum": "Max", "aten.minimum": "Min",
}  # fmt: skip


@lower(
    "add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Tensor", "rsub.Scalar",
    "mul.Tensor", "mul.Scalar", "maximum.default", "minimum.default",
)  # fmt: skip
def _pair(call: Call) -> str:
    dtype = call.out_dtype
    if dtype == "bool":
        return _booleans(call)
    a, b = call.operand("self", dtype), call.operand("other", dtype)
    if "alpha" in call.args and call.real("alpha") != 1:
        b = call.emit("Mul", [b, call.operand("alpha", dtype)])
    name = str(call.node.target).rpartition(".")[0]
    return call.emit(_PAIRS[name], [b, a] if name == "aten.rsub" else [a, b])


def _booleans(call: Call) -> str:
    name = str(call.node.target).rpartition(".")[0]
    operators = {"aten.add": "Or", "aten.mul": "And", "aten.maximum": "Or", "aten.minimum": "And"}
    if name not in operators:
        raise Refused("booleans", "numbers")
    return call.emit(operators[name], [call.operand("self", "bool"), call.operand("other", "bool")])


@lower("div.Tensor", "div.Scalar", "true_divide.Tensor")
def _div(call: Call) -> str:
    dtype = call.out_dtype
    return call.emit("Div", [call.operand("self", dtype), call.operand("other", dtype)])


@lower("div.Tensor_mode", "div.Scalar_mode", "floor_divide.default")
def _div_mode(call: Call) -> str:
    dtype, mode = call.out_dtype, call.args.get("rounding_mode", "floor")
    a, b = call.operand("self", dtype), call.operand("other", dtype)
    if mode is None:
        return call.emit("Div", [a, b])
    if dtype != "float32":
        # Integer division of the graph goes toward zero.
        exact = a if mode == "trunc" else call.emit("Sub", [a, call.emit("Mod", [a, b], fmod=0)])
        return call.emit("Div", [exact, b])
    ratio = call.emit("Div", [a, b])
    return call.emit("Floor", [ratio]) if mode == "floor" else _truncated(call, ratio)


@lower("remainder.Tensor", "remainder.Scalar", "fmod.Tensor", "fmod.Scalar")
def _remainder(call: Call) -> str:
    dtype = call.out_dtype
    a, b = call.operand("self", dtype), call.operand("other", dtype)
    if "fmod" in str(call.node.target):
        return call.emit("Mod", [a, b], fmod=1)
    if dtype != "float32":
        return call.emit("Mod", [a, b], fmod=0)
    whole = call.emit("Floor", [call.emit("Div", [a, b])])
    return call.emit("Sub", [a, call.emit("Mul", [whole, b])])


@lower("addcmul.default", "addcdiv.default")
def _addc(call: Call) -> str:
    dtype = call.out_dtype
    op = "Mul" if "mul" in str(call.node.target) else "Div"
    product = call.emit(op, [call.tensor("tensor1", dtype), call.tensor("tensor2", dtype)])
    if call.real("value") != 1:
        product = call.emit("Mul", [product, call.operand("value", dtype)])
    return call.emit("Add", [call.tensor("self", dtype), product])


@lower("lerp.Scalar", "lerp.Tensor")
def _lerp(call: Call) -> str:
    start, end = call.tensor("self"), call.tensor("end")
    way = call.emit("Sub", [end, start])
    return call.emit("Add", [start, call.emit("Mul", [call.operand("weight", "float32"), way])])


@lower("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "square.default")
def _pow(call: Call) -> str:
    dtype = call.out_dtype
    x = call.operand("self", dtype)
    exponent = call.args.get("exponent", 2)
    if exponent == 2:
        return call.emit("Mul", [x, x])
    if exponent == 0.5 and dtype == "float32":
        return call.emit("Sqrt", [x])
    if exponent == -1:
        return call.emit("Reciprocal", [x])
    if exponent == 1:
        return x
    return call.emit("Pow", [x, call.operand("exponent", dtype)])


# -- functions of one value -----------------------------------------------------------------------

_UNARY = {
    "abs": "Abs", "neg": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "erf": "Erf",
    "reciprocal": "Reciprocal", "floor": "Floor", "ceil": "Ceil", "round": "Round", "sign": "Sign",
    "sgn": "Sign", "sin": "Sin", "cos": "Cos", "tanh": "Tanh", "sigmoid": "Sigmoid",
    "relu": "Relu", "hardswish": "HardSwish",
}  # fmt: skip


@lower(*(f"{name}.default" for name in _UNARY))
def _unary(call: Call) -> str:
    dtype = call.out_dtype
    name = str(call.node.target).split(".")[1]
    x = call.tensor("self", dtype)
    if name in ("floor", "ceil", "round") and dtype != "float32":
        return x
    if name == "neg" and dtype != "float32":
        return call.emit("Sub", [call.number(0, dtype), x])
    return call.emit(_UNARY[name], [x])


@lower("rsqrt.default")
def _rsqrt(call: Call) -> str:
    return call.emit("Reciprocal", [call.emit("Sqrt", [call.tensor("self", "float32")])])


@lower("log1p.default", "log2.default", "log10.default", "expm1.default", "exp2.default")
def _scaled(call: Call) -> str:
    x, name = call.tensor("self", "float32"), str(call.node.target).split(".")[1]
    if name == "log1p":
        return call.emit("Log", [call.emit("Add", [x, call.number(1)])])
    if name == "expm1":
        return call.emit("Sub", [call.emit("Exp", [x]), call.number(1)])
    if name == "exp2":
        return call.emit("Exp", [call.emit("Mul", [x, call.number(math.log(2))])])
    base = 2.0 if name == "log2" else 10.0
    return call.emit("Mul", [call.emit("Log", [x]), call.number(1 / math.log(base))])


@lower("tan.default")
def _tan(call: Call) -> str:
    x = call.tensor("self", "float32")
    return call.emit("Div", [call.emit("Sin", [x]), call.emit("Cos", [x])])


@lower("trunc.default", "fix.default")
def _trunc(call: Call) -> str:
    x = call.tensor()
    return x if call.out_dtype != "float32" else _truncated(call, x)


def _truncated(call: Call, x: str) -> str:
    down = call.emit("Floor", [call.emit("Abs", [x])])
    return call.emit("Mul", [call.emit("Sign", [x]), down])


@lower("clamp.default", "clamp_min.default", "clamp_max.default", "clip.default")
@lower("hardtanh.default", "relu6.default", "clamp.Tensor", "clamp_min.Tensor", "clamp_max.Tensor")
def _clamp(call: Call) -> str:
    dtype = call.out_dtype
    x = call.tensor("self", dtype)
    low, high = (next((n for n in names if call.has(n)), "") for names in _BOUNDS)
    if "relu6" in str(call.node.target):
        return call.emit("Clip", [x, call.number(0.0), call.number(6.0)])
    fixed = all(isinstance(call.args[n], (int, float)) for n in (low, high) if n)
    if dtype == "float32" and fixed:
        bounds = [call.operand(name, dtype) if name else "" for name in (low, high)]
        return call.emit("Clip", [x, *bounds])
    if low:
        x = call.emit("Max", [x, call.operand(low, dtype)])
    return call.emit("Min", [x, call.operand(high, dtype)]) if high else x


_BOUNDS = (("min", "min_val"), ("max", "max_val"))


# -- activations ----------------------------------------------------------------------------------


@lower("leaky_relu.default")
def _leaky_relu(call: Call) -> str:
    return call.emit("LeakyRelu", [call.tensor()], alpha=call.real("negative_slope"))


@lower("rrelu.default")
def _rrelu(call: Call) -> str:
    if call.args.get("training"):
        raise Refused("rrelu in training", "eval mode")
    slope = (call.real("lower") + call.real("upper")) / 2
    return call.emit("LeakyRelu", [call.tensor()], alpha=slope)


@lower("elu.default", "celu.default", "selu.default")
def _elu(call: Call) -> str:
    x, name = call.tensor(), str(call.node.target).split(".")[1]
    alpha, scale, before = 1.6732632423543772, 1.0507009873554805, 1.0
    if name == "elu":
        alpha, scale, before = (call.real(key) for key in ("alpha", "scale", "input_scale"))
    elif name == "celu":
        alpha = call.real("alpha")
        scale, before = 1.0, 1 / alpha
    if before != 1:
        x = call.emit("Mul", [x, call.number(before)])
        if not math.isclose(alpha * before, 1):
            raise Refused(f"elu of input_scale {before} and alpha {alpha}", "alpha 1 / input_scale")
        alpha, scale = 1.0, alpha * scale
    y = call.emit("Elu", [x], alpha=alpha)
    return y if scale == 1 else call.emit("Mul", [y, call.number(scale)])


@lower("gelu.default")
def _gelu(call: Call) -> str:
    return call.emit("Gelu", [call.tensor()], approximate=str(call.args.get("approximate", "none")))


@lower("silu.default", "mish.default")
def _gated(call: Call) -> str:
    x = call.tensor()
    if "mish" in str(call.node.target):
        return call.emit("Mul", [x, call.emit("Tanh", [call.emit("Softplus", [x])])])
    return call.emit("Mul", [x, call.emit("Sigmoid", [x])])


@lower("hardsigmoid.default")
def _hardsigmoid(call: Call) -> str:
    return call.emit("HardSigmoid", [call.tensor()], alpha=1 / 6, beta=0.5)


@lower("softplus.default")
def _softplus(call: Call) -> str:
    x, beta = call.tensor(), call.real("beta")
    # From 20 on, x and log(1 + exp(x)) are the same float32.
    if call.real("threshold") < 20 or beta <= 0:
        raise Refused(f"softplus of beta {beta} and threshold {call.real('threshold')}",
                      "beta > 0 and threshold >= 20")  # fmt: skip
    if beta == 1:
        return call.emit("Softplus", [x])
    wide = call.emit("Softplus", [call.emit("Mul", [x, call.number(beta)])])
    return call.emit("Div", [wide, call.number(beta)])


@lower("log_sigmoid.default")
def _log_sigmoid(call: Call) -> str:
    return call.emit("Neg", [call.emit("Softplus", [call.emit("Neg", [call.tensor()])])])


@lower("softsign.default")
def _softsign(call: Call) -> str:
    return call.emit("Softsign", [call.tensor()])


@lower("prelu.default", "_prelu_kernel.default")
def _prelu(call: Call) -> str:
    slope, shape = call.tensor("weight"), call.shape("weight")
    if len(shape) == 1 and call.rank() != 1 and shape[0] != 1:
        target = [shape[0] if axis == 1 else 1 for axis in range(call.rank())]
        slope = call.reshape(slope, shape, target)
    return call.emit("PRelu", [call.tensor(), slope])


@lower("threshold.default")
def _threshold(call: Call) -> str:
    x = call.tensor()
    above = call.emit("Greater", [x, call.operand("threshold", "float32")])
    return call.emit("Where", [above, x, call.operand("value", "float32")])


@lower("hardshrink.default", "softshrink.default")
def _shrink(call: Call) -> str:
    x, limit, zero = call.tensor(), call.operand("lambd", "float32"), call.number(0.0)
    small = call.emit("LessOrEqual", [call.emit("Abs", [x]), limit])
    if "softshrink" in str(call.node.target):
        less = call.emit("Mul", [call.emit("Sign", [x]), limit])
        return call.emit("Where", [small, zero, call.emit("Sub", [x, less])])
    return call.emit("Where", [small, zero, x])


@lower("glu.default")
def _glu(call: Call) -> str:
    axis = call.axis()
    half = call.out_shape[axis]
    first, second = (
        call.cut(call.tensor(), axis, 0, half),
        call.cut(call.tensor(), axis, half, 1 << 62),
    )
    return call.emit("Mul", [first, call.emit("Sigmoid", [second])])


# -- comparisons and choices ----------------------------------------------------------------------

_COMPARE = {
    "eq": "Equal", "ne": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater",
    "ge": "GreaterOrEqual",
}  # fmt: skip


@lower(*(f"{name}.{kind}" for name in _COMPARE for kind in ("Tensor", "Scalar")))
def _compare(call: Call) -> str:
    name = str(call.node.target).split(".")[1]
    own = call.type_of(call.meta("self").dtype)
    other = call.args["other"]
    if isinstance(other, (bool, int, float)):
        kind = (
            "bool" if isinstance(other, bool) else "int64" if isinstance(other, int) else "float32"
        )
        dtype = own if kind == "int64" and own == "int32" else widest(own, kind)
    else:
        meta = getattr(call.meta("other"), "dtype", None)
        dtype = widest(own, "int64" if meta is None else call.type_of(meta))
    if dtype == "bool" and name not in ("eq", "ne"):
        dtype = "int32"
    values = [call.operand("self", dtype), call.operand("other", dtype)]
    result = call.emit(_COMPARE[name], values)
    return call.emit("Not", [result]) if name == "ne" else result


_LOGIC = {"and": "And", "or": "Or", "xor": "Xor"}


@lower(*(f"bitwise_{name}.{kind}" for name in _LOGIC for kind in ("Tensor", "Scalar")))
@lower(*(f"logical_{name}.default" for name in _LOGIC))
def _logic(call: Call) -> str:
    name = str(call.node.target).split(".")[1]
    if name.startswith("bitwise") and call.out_dtype != "bool":
        raise Refused(f"{name} of integers", "of booleans")
    values = [_truth(call, "self"), _truth(call, "other")]
    return call.emit(_LOGIC[name.split("_")[1]], values)


def _truth(call: Call, name: str) -> str:
    if isinstance(call.args[name], bool):
        return call.number(call.args[name], "bool")
    dtype = call.type_of(call.meta(name).dtype)
    if dtype == "bool":
        return call.tensor(name)
    return call.emit("Not", [call.emit("Equal", [call.tensor(name), call.number(0, dtype)])])


@lower("logical_not.default", "bitwise_not.default")
def _not(call: Call) -> str:
    if "bitwise" in str(call.node.target) and call.out_dtype != "bool":
        raise Refused("bitwise_not of integers", "of booleans")
    return call.emit("Not", [_truth(call, "self")])


@lower("isnan.default", "isinf.default")
def _is(call: Call) -> str:
    x = call.tensor("self", "float32")
    if "isnan" in str(call.node.target):
        return call.emit("Not", [call.emit("Equal", [x, x])])
    return call.emit("Equal", [call.emit("Abs", [x]), call.number(math.inf)])


@lower("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(call: Call) -> str:
    dtype = call.out_dtype
    values = [call.operand("self", dtype), call.operand("other", dtype)]
    return call.emit("Where", [_truth(call, "condition"), *values])


@lower("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(call: Call) -> str:
    dtype = call.out_dtype
    values = [call.operand("value", dtype), call.tensor("self", dtype)]
    return call.emit("Where", [call.tensor("mask"), *values])
