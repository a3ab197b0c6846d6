# SPDX-License-Identifier: MIT
"""ONNX operators that shape and move data, and those over axes, in their newest form."""

from __future__ import annotations

import numpy as np

from gruengine.converters.onnx_ops import Call, Refused, lower
from gruengine.spec import Attr

# -- shapes ---------------------------------------------------------------------------------------


@lower("Reshape", attrs="allowzero")
def _reshape(call: Call) -> list[str]:
    call.needs(2, 2)
    return call.out("Reshape", call.inputs, {"allowzero": call.integer("allowzero", 0)})


@lower("Flatten", attrs="axis")
def _flatten(call: Call) -> list[str]:
    call.needs(1, 1)
    return call.out("Flatten", call.inputs, {"axis": call.integer("axis", 1)})


@lower("Shape", attrs="start end")
def _shape(call: Call) -> list[str]:
    call.needs(1, 1)
    attrs: dict[str, Attr] = {}
    for key in ("start", "end"):
        if key in call.node.attrs:
            attrs[key] = call.integer(key)
    return call.out("Shape", call.inputs, attrs)


@lower("Squeeze", "Unsqueeze", attrs="axes")
def _squeeze(call: Call) -> list[str]:
    call.needs(1, 2)
    axes = call.axes(1)
    if not axes and call.node.op == "Unsqueeze":
        raise Refused(("Unsqueeze without axes", "they are needed"))
    return call.out(call.node.op, [call.inputs[0], axes])


@lower("Transpose", attrs="perm")
def _transpose(call: Call) -> list[str]:
    call.needs(1, 1)
    perm = call.ints("perm")
    return call.out("Transpose", call.inputs, {} if perm is None else {"perm": perm})


# -- movement -------------------------------------------------------------------------------------


@lower("Concat", attrs="axis")
def _concat(call: Call) -> list[str]:
    call.needs(1, 1 << 16)
    if "" in call.inputs:
        raise Refused(("Concat", "an input in the middle is absent"))
    axis = call.integer("axis")
    return (
        call.inputs[:] if len(call.inputs) == 1 else call.out("Concat", call.inputs, {"axis": axis})
    )


@lower("Slice", attrs="starts ends axes")
def _slice(call: Call) -> list[str]:
    if call.opset >= 10:
        call.needs(3, 5)
        return call.out("Slice", call.inputs)
    call.needs(1, 1)
    starts, ends, axes = (call.ints(key) for key in ("starts", "ends", "axes"))
    if starts is None or ends is None:
        raise Refused(("Slice", "starts and ends are missing"))
    axes = list(range(len(starts))) if axes is None else axes
    bounds = [call.builder.integers(v, w) for v, w in ((starts, "starts"), (ends, "ends"))]
    return call.out("Slice", [call.inputs[0], *bounds, call.builder.integers(axes, "axes")])


@lower("Split", attrs="axis split num_outputs")
def _split(call: Call) -> list[str]:
    call.needs(1, 2)
    sizes, parts = call.ints("split"), len(call.node.outputs)
    given = call.input(1) if sizes is None else call.builder.integers(sizes, "split")
    attrs: dict[str, Attr] = {"axis": call.integer("axis", 0)}
    if call.integer("num_outputs", parts) != parts:
        raise Refused((f"attribute num_outputs with {parts} outputs", "they must be the same"))
    # All parts are made, used or not: names keep their places.
    wishes = [name or f"{call.node.outputs[0]}_{i}" for i, name in enumerate(call.node.outputs)]
    if given:
        return call.builder.emit("Split", [call.inputs[0], given], attrs, wishes, call.node.name)
    attrs["num_outputs"] = parts
    return call.builder.emit("Split", call.inputs[:1], attrs, wishes, call.node.name)


@lower("Gather", attrs="axis")
def _gather(call: Call) -> list[str]:
    call.needs(2, 2)
    return call.out("Gather", call.inputs, {"axis": call.integer("axis", 0)})


@lower("Pad", attrs="mode pads value")
def _pad(call: Call) -> list[str]:
    mode = call.text("mode", "constant")
    if mode not in ("constant", "reflect", "edge"):
        raise Refused((f"attribute mode = {mode!r}", "constant, reflect and edge are run"))
    inputs = [call.input(i) for i in range(4)]
    if call.opset < 11:
        call.needs(1, 1)
        pads = call.ints("pads")
        if pads is None:
            raise Refused(("attribute pads", "it is missing"))
        value = np.float32(call.real("value", 0.0)).reshape(())
        inputs[1] = call.builder.integers(pads, "pads")
        inputs[2] = call.builder.constant(value, "value") if mode == "constant" else ""
    else:
        call.needs(2, 4)
    if not inputs[3]:
        pads_value = call.builder.array(inputs[1])
        if pads_value is not None and not np.any(pads_value):
            return inputs[:1]
    return call.out("Pad", inputs, {"mode": mode})


# -- products -------------------------------------------------------------------------------------


@lower("Gemm", attrs="alpha beta transA transB")
def _gemm(call: Call) -> list[str]:
    call.needs(2, 3)
    attrs: dict[str, Attr] = {
        "alpha": call.real("alpha", 1.0),
        "beta": call.real("beta", 1.0),
        "transA": call.integer("transA", 0),
        "transB": call.integer("transB", 0),
    }
    return call.out("Gemm", call.inputs, attrs)


@lower("Conv", attrs="auto_pad dilations group kernel_shape pads strides")
def _conv(call: Call) -> list[str]:
    call.needs(2, 3)
    weight = call.builder.info(call.inputs[1]).shape
    if weight is None or not all(isinstance(s, int) for s in weight) or len(weight) < 3:
        raise Refused(("Conv weights", "their sizes must be known at conversion, at least 3"))
    kernel = [int(s) for s in weight[2:] if isinstance(s, int)]
    given = call.ints("kernel_shape")
    if given is not None and given != kernel:
        raise Refused((f"attribute kernel_shape = {given}", f"the weights have {kernel}"))
    attrs = window_attributes(call, kernel)
    attrs["group"] = call.integer("group", 1)
    attrs["kernel_shape"] = list(kernel)
    return call.out("Conv", call.inputs, attrs)


def window_attributes(call: Call, kernel: list[int], auto: bool = True) -> dict[str, Attr]:
    """Return strides, dilations and pads; with ``auto`` those that ``auto_pad`` asks for."""
    n = len(kernel)
    strides = call.ints("strides") or [1] * n
    dilations = call.ints("dilations") or [1] * n
    pads = call.ints("pads") or [0] * (2 * n)
    if not len(strides) == len(dilations) == n or len(pads) != 2 * n:
        raise Refused((f"strides {strides}, dilations {dilations}, pads {pads}", f"{n} axes"))
    if min(*strides, *dilations, *kernel) < 1 or min(pads) < 0:
        raise Refused((f"kernel {kernel}, strides {strides}, dilations {dilations}, pads {pads}",
                       "sizes of at least 1, and pads that are not negative"))  # fmt: skip
    kind = call.text("auto_pad", "NOTSET") if auto else "NOTSET"
    if kind == "VALID":
        pads = [0] * (2 * n)
    elif kind in ("SAME_UPPER", "SAME_LOWER"):
        found = _same_pads(call, kernel, strides, dilations, kind == "SAME_UPPER")
        if found is None:  # the engine finds them for the size that arrives
            return {"strides": strides, "dilations": dilations, "auto_pad": kind}
        pads = found
    elif kind != "NOTSET":
        raise Refused((f"attribute auto_pad = {kind!r}", "it is not known"))
    return {"strides": strides, "dilations": dilations, "pads": pads}


def _same_pads(
    call: Call, kernel: list[int], strides: list[int], dilations: list[int], upper: bool
) -> list[int] | None:
    """Return the pads of windows that cover every step; None where they depend on a free size."""
    shape = call.builder.info(call.inputs[0]).shape
    begin, end = [], []
    for i, (k, stride, by) in enumerate(zip(kernel, strides, dilations, strict=True)):
        size = None if shape is None or len(shape) != len(kernel) + 2 else shape[i + 2]
        if stride == 1:
            total = (k - 1) * by
        elif isinstance(size, int):
            total = max((-(-size // stride) - 1) * stride + (k - 1) * by + 1 - size, 0)
        else:
            return None
        begin.append(total // 2 if upper else total - total // 2)
        end.append(total - begin[-1])
    return begin + end


@lower("MaxPool", attrs="auto_pad ceil_mode dilations kernel_shape pads storage_order strides")
@lower(
    "AveragePool", attrs="auto_pad ceil_mode count_include_pad dilations kernel_shape pads strides"
)
def _pool(call: Call) -> list[str]:
    call.needs(1, 1)
    call.only_first_output()
    kernel = call.ints("kernel_shape")
    if not kernel:
        raise Refused(("attribute kernel_shape", "it is missing"))
    attrs = window_attributes(call, kernel)
    attrs["kernel_shape"] = list(kernel)
    attrs["ceil_mode"] = call.integer("ceil_mode", 0)
    if call.node.op == "AveragePool":
        if any(d != 1 for d in call.ints("dilations") or []):
            raise Refused((f"attribute dilations = {attrs['dilations']}", "1 is run"))
        del attrs["dilations"]
        attrs["count_include_pad"] = call.integer("count_include_pad", 0)
    return call.out(call.node.op, call.inputs, attrs)


# -- reductions and normalisations ----------------------------------------------------------------


@lower(
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSumSquare",
    "ReduceL1", "ReduceL2", attrs="axes keepdims noop_with_empty_axes",
)  # fmt: skip
def _reduce(call: Call) -> list[str]:
    call.needs(1, 2)
    attrs: dict[str, Attr] = {
        "keepdims": call.integer("keepdims", 1),
        "noop_with_empty_axes": call.integer("noop_with_empty_axes", 0),
    }
    return call.out(call.node.op, [call.inputs[0], call.axes(1)], attrs)


@lower("Softmax", "LogSoftmax", attrs="axis")
def _softmax(call: Call) -> list[str]:
    call.needs(1, 1)
    op, x = call.node.op, call.inputs[0]
    if call.opset >= 13:
        return call.out(op, [x], {"axis": call.integer("axis", -1)})
    axis, rank = call.integer("axis", 1), call.builder.info(x).rank
    if axis == -1 or (rank is not None and axis == rank - 1):
        return call.out(op, [x], {"axis": -1})
    # Before opset 13 it works on a matrix: the sizes before axis, and the rest.
    shape = call.tmp("Shape", [x])
    matrix = call.tmp("Flatten", [x], {"axis": axis})
    return call.out("Reshape", [call.tmp(op, [matrix], {"axis": -1}), shape], {"allowzero": 1})


@lower("LayerNormalization", attrs="axis epsilon stash_type")  # ONNX Runtime writes it before 17
def _layer_normalization(call: Call) -> list[str]:
    call.needs(2, 3)
    call.only_first_output()
    attrs: dict[str, Attr] = {
        "axis": call.integer("axis", -1),
        "epsilon": call.real("epsilon", 1e-5),
    }
    return call.out("LayerNormalization", call.inputs, attrs)[:1]
