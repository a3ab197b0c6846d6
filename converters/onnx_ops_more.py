# SPDX-License-Identifier: MIT
"""ONNX operators that are written in others, and those that order or place elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gruengine.converters.onnx_ops import Call, Refused, lower
from gruengine.converters.onnx_ops_shape import window_attributes
from gruengine.spec import Attr


def scalar(call: Call, value: float, wish: str) -> str:
    """Return a constant number in the element type of the first input."""
    dtype = call.builder.info(call.inputs[0]).dtype
    kind = dtype if dtype in ("float16", "float64") else "float32"
    return call.builder.constant(np.array(value, kind), wish)


def rank_of(call: Call, least: int = 1) -> int:
    """Return the number of axes of the first input, which must be known."""
    rank = call.builder.info(call.inputs[0]).rank
    if rank is None or rank < least:
        found = "an unknown number of" if rank is None else str(rank)
        raise Refused((f"{call.node.op} of {found} axes", f"at least {least} must be known"))
    return rank


# -- functions ------------------------------------------------------------------------------------


@lower("Selu", attrs="alpha gamma")
def _selu(call: Call) -> list[str]:
    call.needs(1, 1)
    alpha = call.real("alpha", 1.67326319217681884765625)
    gamma = scalar(call, call.real("gamma", 1.05070102214813232421875), "gamma")
    return call.out("Mul", [call.tmp("Elu", call.inputs, {"alpha": alpha}), gamma])


@lower("Celu", attrs="alpha", since=12)
def _celu(call: Call) -> list[str]:
    call.needs(1, 1)
    alpha = call.real("alpha", 1.0)
    if alpha == 1.0:
        return call.out("Elu", call.inputs, {"alpha": 1.0})
    if alpha == 0:
        raise Refused(("attribute alpha = 0", "it divides by it"))
    by = scalar(call, alpha, "alpha")
    inner = call.tmp("Elu", [call.tmp("Div", [call.inputs[0], by])], {"alpha": 1.0})
    return call.out("Mul", [inner, by])


@lower("Mish", since=18)
def _mish(call: Call) -> list[str]:
    call.needs(1, 1)
    squashed = call.tmp("Tanh", [call.tmp("Softplus", call.inputs)])
    return call.out("Mul", [call.inputs[0], squashed])


@lower("Swish", attrs="alpha", since=24)
def _swish(call: Call) -> list[str]:
    call.needs(1, 1)
    alpha = call.real("alpha", 1.0)
    inner = call.inputs[0]
    if alpha != 1.0:
        inner = call.tmp("Mul", [inner, scalar(call, alpha, "alpha")])
    return call.out("Mul", [call.inputs[0], call.tmp("Sigmoid", [inner])])


@lower("ReduceLogSum", "ReduceLogSumExp", attrs="axes keepdims noop_with_empty_axes")
def _reduce_log(call: Call) -> list[str]:
    call.needs(1, 2)
    x, axes = call.inputs[0], call.axes(1)
    attrs: dict[str, Attr] = {
        "keepdims": call.integer("keepdims", 1),
        "noop_with_empty_axes": call.integer("noop_with_empty_axes", 0),
    }
    if call.node.op == "ReduceLogSum":
        return call.out("Log", [call.tmp("ReduceSum", [x, axes], attrs)])
    # The largest element is taken out, so that no exponential overflows.
    most = call.tmp("ReduceMax", [x, axes], {**attrs, "keepdims": 1})
    powers = call.tmp("Exp", [call.tmp("Sub", [x, most])])
    logs = call.tmp("Log", [call.tmp("ReduceSum", [powers, axes], attrs)])
    if not attrs["keepdims"]:
        most = call.tmp("ReduceMax", [x, axes], attrs)
    return call.out("Add", [logs, most])


@lower("GlobalMaxPool")
def _global_max_pool(call: Call) -> list[str]:
    call.needs(1, 1)
    axes = call.builder.integers(list(range(2, rank_of(call, 3))), "axes")
    attrs: dict[str, Attr] = {"keepdims": 1, "noop_with_empty_axes": 0}
    return call.out("ReduceMax", [call.inputs[0], axes], attrs)


# -- normalisations -------------------------------------------------------------------------------


def _each_channel(call: Call, value: str, rank: int) -> str:
    """Return [C] as [C, 1, ...] beside [N, C, ...]."""
    axes = call.builder.integers(list(range(1, rank - 1)), "axes")
    return call.tmp("Unsqueeze", [value, axes]) if rank > 2 else value


def _normalised(call: Call, x: str, axis: int) -> str:
    """Return ``x`` with the mean of the axes from ``axis`` on taken away, over its deviation."""
    one = scalar(call, 1.0, "one")
    scale = call.tmp("Unsqueeze", [one, call.builder.integers([0], "axes")])
    attrs: dict[str, Attr] = {"axis": axis, "epsilon": call.real("epsilon", 1e-5)}
    return call.tmp("LayerNormalization", [x, scale], attrs)


@lower("BatchNormalization", attrs="epsilon momentum spatial training_mode")
def _batch_normalization(call: Call) -> list[str]:
    call.needs(5, 5)
    call.only_first_output()
    if call.integer("training_mode", 0) or not call.integer("spatial", 1):
        raise Refused(("BatchNormalization in training, or not spatial", "neither is run"))
    epsilon = call.real("epsilon", 1e-5)
    if all(call.builder.array(name) is not None for name in call.inputs[1:]):
        return call.out("BatchNormalization", call.inputs, {"epsilon": epsilon})
    # Statistics of this very input, as TensorFlow writes its other norms.
    rank = rank_of(call, 2)
    gain, shift, mean, var = (_each_channel(call, name, rank) for name in call.inputs[1:])
    width = call.tmp("Sqrt", [call.tmp("Add", [var, scalar(call, epsilon, "epsilon")])])
    y = call.tmp("Div", [call.tmp("Sub", [call.inputs[0], mean]), width])
    return call.out("Add", [call.tmp("Mul", [y, gain]), shift])


@lower("InstanceNormalization", attrs="epsilon")
def _instance_normalization(call: Call) -> list[str]:
    call.needs(3, 3)
    rank = rank_of(call, 3)
    scale, shift = (_each_channel(call, call.inputs[i], rank) for i in (1, 2))
    scaled = call.tmp("Mul", [_normalised(call, call.inputs[0], 2), scale])
    return call.out("Add", [scaled, shift])


@lower("GroupNormalization", attrs="epsilon num_groups stash_type", since=18)
def _group_normalization(call: Call) -> list[str]:
    call.needs(3, 3)
    rank, groups = rank_of(call, 3), call.integer("num_groups")
    if groups < 1:
        raise Refused((f"attribute num_groups = {groups}", "at least 1 is needed"))
    x, builder = call.inputs[0], call.builder
    target = builder.integers([0, groups, -1], "groups")
    grouped = call.tmp("Reshape", [x, target], {"allowzero": 0})
    grouped = _normalised(call, grouped, 2)
    if call.opset < 21:  # one scale a group
        last = builder.integers([1], "axes")
        scale, shift = (call.tmp("Unsqueeze", [call.inputs[i], last]) for i in (1, 2))
        grouped = call.tmp("Add", [call.tmp("Mul", [grouped, scale]), shift])
    shape = call.tmp("Shape", [x])
    if call.opset < 21:
        return call.out("Reshape", [grouped, shape], {"allowzero": 1})
    back = call.tmp("Reshape", [grouped, shape], {"allowzero": 1})
    scale, shift = (_each_channel(call, call.inputs[i], rank) for i in (1, 2))
    return call.out("Add", [call.tmp("Mul", [back, scale]), shift])


@lower("RMSNormalization", attrs="axis epsilon stash_type", since=23)
def _rms_normalization(call: Call) -> list[str]:
    call.needs(2, 2)
    x, rank = call.inputs[0], rank_of(call)
    axis = call.integer("axis", -1)
    first = axis + rank if axis < 0 else axis
    axes = call.builder.integers(list(range(first, rank)), "axes")
    attrs: dict[str, Attr] = {"keepdims": 1, "noop_with_empty_axes": 0}
    mean = call.tmp("ReduceMean", [call.tmp("Mul", [x, x]), axes], attrs)
    size = call.tmp(
        "Sqrt", [call.tmp("Add", [mean, scalar(call, call.real("epsilon", 1e-5), "eps")])]
    )
    return call.out("Mul", [call.tmp("Div", [x, size]), call.inputs[1]])


# -- convolutions ---------------------------------------------------------------------------------


@lower(
    "ConvTranspose",
    attrs="auto_pad dilations group kernel_shape output_padding output_shape pads strides",
)
def _conv_transpose(call: Call) -> list[str]:
    call.needs(2, 3)
    weight = call.builder.info(call.inputs[1]).shape
    if weight is None or not all(isinstance(s, int) for s in weight) or len(weight) < 3:
        raise Refused(("its weights", "their sizes must be known at conversion, at least 3"))
    kernel = [int(s) for s in weight[2:] if isinstance(s, int)]
    if len(kernel) > 2:
        raise Refused((f"{len(kernel)} spatial axes", "1 or 2 are run"))
    given = call.ints("kernel_shape")
    if given is not None and given != kernel:
        raise Refused((f"attribute kernel_shape = {given}", f"the weights have {kernel}"))
    attrs = window_attributes(call, kernel, auto=False)
    extra = call.ints("output_padding") or [0] * len(kernel)
    if len(extra) != len(kernel) or min(extra) < 0:
        raise Refused((f"attribute output_padding = {extra}", f"{len(kernel)} sizes are needed"))
    attrs["pads"] = _cut(call, kernel, attrs, extra)
    attrs["output_padding"] = list(extra)
    attrs["group"] = call.integer("group", 1)
    attrs["kernel_shape"] = list(kernel)
    return call.out("ConvTranspose", call.inputs, attrs)


def _cut(call: Call, kernel: list[int], attrs: dict[str, Attr], extra: list[int]) -> list[int]:
    """Return the pads: given, or what leaves the size that is asked for."""
    auto, wanted = call.text("auto_pad", "NOTSET"), call.ints("output_shape")
    pads, strides, dilations = attrs["pads"], attrs["strides"], attrs["dilations"]
    assert isinstance(pads, list)
    assert isinstance(strides, list)
    assert isinstance(dilations, list)
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise Refused((f"attribute auto_pad = {auto!r}", "it is not known"))
    if wanted is None and auto == "NOTSET":
        return [int(p) for p in pads]
    if wanted is None and auto == "VALID":
        return [0] * len(pads)
    n, shape = len(kernel), call.builder.info(call.inputs[0]).shape
    wanted = wanted[-n:] if wanted is not None else None
    begin, end = [], []
    for i in range(n):
        stride, reach = int(strides[i]), (kernel[i] - 1) * int(dilations[i]) + 1
        size = shape[i + 2] if shape is not None and len(shape) == n + 2 else None
        if wanted is None:  # the output is the input times the stride, whatever its size
            total = reach + extra[i] - stride
        elif isinstance(size, int):
            total = stride * (size - 1) + reach + extra[i] - wanted[i]
        else:
            raise Refused((f"attribute output_shape = {wanted}", "the input needs a fixed size"))
        if total < 0:
            raise Refused((f"an output of {wanted or auto}", "it is larger than what is made"))
        small, large = total // 2, total - total // 2
        begin.append(small if auto == "SAME_UPPER" else large)
        end.append(large if auto == "SAME_UPPER" else small)
    return [*begin, *end]


@lower("DepthToSpace", attrs="blocksize mode")
@lower("SpaceToDepth", attrs="blocksize")
def _depth_space(call: Call) -> list[str]:
    call.needs(1, 1)
    block = call.integer("blocksize")
    mode = call.text("mode", "DCR")
    shape = call.builder.info(call.inputs[0]).shape
    if block < 1 or mode not in ("DCR", "CRD") or shape is None or len(shape) != 4:
        raise Refused((f"{call.node.op} by {block} in mode {mode!r} of {shape}",
                       "a block of at least 1, DCR or CRD, and 4 axes are needed"))  # fmt: skip
    sizes = [_size(call, axis) for axis in range(4)]
    b, one = _vector(call, [block]), _vector(call, [block * block])
    n, c, h, w = sizes
    if call.node.op == "SpaceToDepth":
        cut = [n, c, call.tmp("Div", [h, b]), b, call.tmp("Div", [w, b]), b]
        perm, last = [0, 3, 5, 1, 2, 4], [n, call.tmp("Mul", [c, one]), cut[2], cut[4]]
    else:
        deep = call.tmp("Div", [c, one])
        cut = [n, b, b, deep, h, w] if mode == "DCR" else [n, deep, b, b, h, w]
        perm = [0, 3, 4, 1, 5, 2] if mode == "DCR" else [0, 1, 4, 2, 5, 3]
        last = [n, deep, call.tmp("Mul", [h, b]), call.tmp("Mul", [w, b])]
    parts = call.tmp("Reshape", [call.inputs[0], _joined(call, cut)], {"allowzero": 0})
    turned = call.tmp("Transpose", [parts], {"perm": list(perm)})
    return call.out("Reshape", [turned, _joined(call, last)], {"allowzero": 0})


def _vector(call: Call, values: Sequence[int]) -> str:
    return call.builder.integers(list(values), "sizes")


def _size(call: Call, axis: int) -> str:
    """Return one size of the first input as a vector of one."""
    return call.tmp("Shape", call.inputs[:1], {"start": axis, "end": axis + 1})


def _joined(call: Call, parts: list[str]) -> str:
    return call.tmp("Concat", parts, {"axis": 0})


# -- order and places -----------------------------------------------------------------------------


@lower("CumSum", attrs="exclusive reverse", since=11)
def _cumsum(call: Call) -> list[str]:
    call.needs(2, 2)
    if call.builder.array(call.inputs[1]) is None:
        raise Refused(("CumSum", "its axis must be constant"))
    attrs: dict[str, Attr] = {key: call.integer(key, 0) for key in ("exclusive", "reverse")}
    return call.out("CumSum", call.inputs, attrs)


@lower("ArgMax", "ArgMin", attrs="axis keepdims select_last_index")
def _arg(call: Call) -> list[str]:
    call.needs(1, 1)
    attrs: dict[str, Attr] = {
        "axis": call.integer("axis", 0),
        "keepdims": call.integer("keepdims", 1),
        "select_last_index": call.integer("select_last_index", 0),
    }
    return call.out(call.node.op, call.inputs, attrs)


@lower("TopK", attrs="axis k largest sorted")
def _top_k(call: Call) -> list[str]:
    if call.opset < 10:
        call.needs(1, 1)
        k = call.builder.integers([call.integer("k")], "k")
    else:
        call.needs(2, 2)
        k = call.inputs[1]
    if call.builder.array(k) is None and call.builder.info(k).value is None:
        raise Refused(("TopK", "k must be constant, or follow from shapes"))
    attrs: dict[str, Attr] = {
        "axis": call.integer("axis", -1),
        "largest": call.integer("largest", 1),
    }
    return call.out("TopK", [call.inputs[0], k], attrs)


@lower("ScatterND", attrs="reduction", since=11)
def _scatter_nd(call: Call) -> list[str]:
    call.needs(3, 3)
    reduction = call.text("reduction", "none")
    if reduction not in ("none", "add", "mul", "min", "max"):
        raise Refused((f"attribute reduction = {reduction!r}", "it is not known"))
    return call.out("ScatterND", call.inputs, {"reduction": reduction})


@lower("ReverseSequence", attrs="batch_axis time_axis", since=10)
def _reverse_sequence(call: Call) -> list[str]:
    call.needs(2, 2)
    time = call.integer("time_axis", 0)
    shape = call.builder.info(call.inputs[0]).shape
    size = shape[time] if shape is not None and time in (0, 1) and len(shape) > time else None
    if size is None or not _all_are(call, call.inputs[1], size):
        raise Refused(("ReverseSequence", "all rows must be reversed whole"))
    bounds = [call.builder.integers([v], "back") for v in (-1, -(2**63 - 1), time, -1)]
    return call.out("Slice", [call.inputs[0], *bounds])


def _all_are(call: Call, name: str, size: int | str) -> bool:
    """Whether every element of a vector is ``size``."""
    info = call.builder.info(name)
    array = call.builder.array(name)
    if array is not None:
        return bool(np.all(array == size)) if isinstance(size, int) else False
    if info.value is not None:
        return all(v == size for v in info.value)
    maker = next((n for n in reversed(call.builder.nodes) if name in n.outputs), None)
    if maker is None or maker.op not in ("Expand", "Cast", "Tile", "Identity"):
        return False
    return _all_are(call, maker.inputs[0], size)
