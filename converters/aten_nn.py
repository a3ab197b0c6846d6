# SPDX-License-Identifier: MIT
"""ATen operators over axes: products, convolutions, windows, norms, reductions, attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gruengine.converters.aten import MAX_AXIS, Call, FreeSize, Refused, lower
from gruengine.converters.torch_sizes import Size

# -- products -------------------------------------------------------------------------------------


@lower("linear.default")
def _linear(call: Call) -> str:
    rank = call.rank("weight")
    weight = call.tensor("weight")
    if rank == 2:
        weight = call.transpose(weight, [1, 0])
    y = call.emit("MatMul", [call.tensor("input"), weight])
    return call.emit("Add", [y, call.tensor("bias")]) if call.has("bias") else y


@lower("mm.default", "bmm.default", "matmul.default", "mv.default", "dot.default")
def _matmul(call: Call) -> str:
    second = next(name for name in ("mat2", "other", "vec", "tensor") if name in call.args)
    if call.out_dtype != "float32":
        raise Refused("a product of integers", "of floats")
    return call.emit("MatMul", [call.tensor(), call.tensor(second)])


@lower("addmm.default", "baddbmm.default", "addmv.default")
def _addmm(call: Call) -> str:
    names = [("mat1", "mat2"), ("batch1", "batch2"), ("mat", "vec")]
    pair = next(pair for pair in names if pair[0] in call.args)
    y = call.emit("MatMul", [call.tensor(name) for name in pair])
    alpha, beta = call.real("alpha"), call.real("beta")
    if alpha != 1:
        y = call.emit("Mul", [y, call.number(alpha)])
    if beta == 0:
        return y
    bias = call.tensor()
    if beta != 1:
        bias = call.emit("Mul", [bias, call.number(beta)])
    return call.emit("Add", [y, bias])


@lower("bilinear.default")
def _bilinear(call: Call) -> str:
    """x1 W x2 for each output: x1 times all rows of W, then times x2, summed."""
    outputs, first, second = (int(size) for size in call.shape("weight"))
    weight = call.transpose(call.tensor("weight"), [1, 0, 2])
    weight = call.reshape(weight, (first, outputs, second), (first, outputs * second))
    rows = call.emit("MatMul", [call.tensor("input1"), weight])
    lead = call.shape("input1")[:-1]
    rows = call.reshape(rows, (*lead, outputs * second), (*lead, outputs, second))
    other = call.unsqueeze(call.tensor("input2"), [len(lead)])
    y = call.emit("ReduceSum", [call.emit("Mul", [rows, other]), call.integers_value([-1])],
                  keepdims=0)  # fmt: skip
    return call.emit("Add", [y, call.tensor("bias")]) if call.has("bias") else y


@lower("scaled_dot_product_attention.default")
def _attention(call: Call) -> str:
    """softmax(q k^T * scale + mask) v, with the scale on q as torch has it."""
    if call.real("dropout_p"):
        raise Refused(f"dropout_p {call.real('dropout_p')}", "0: dropout is off")
    if call.args.get("enable_gqa"):
        raise Refused("enable_gqa", "as many heads of keys as of queries")
    q, k, rank = call.shape("query"), call.shape("key"), call.rank("query")
    if call.has("scale"):
        scale = call.number(call.real("scale"))
    elif isinstance(q[-1], int):
        scale = call.number(1 / math.sqrt(q[-1]))
    else:
        features = call.cast(call.context.sizes.scalar(q[-1]), "float32")
        scale = call.emit("Reciprocal", [call.emit("Sqrt", [features])])
    swap = [*range(rank - 2), rank - 1, rank - 2]
    keys = call.transpose(call.tensor("key"), swap)
    query = call.emit("Mul", [call.tensor("query"), scale])
    scores = call.emit("MatMul", [query, keys])
    low = call.number(-math.inf)
    if call.args.get("is_causal"):
        ranges = [call.range(0, size, 1) for size in (q[-2], k[-2])]
        seen = call.emit("GreaterOrEqual", [call.unsqueeze(ranges[0], [1]), ranges[1]])
        scores = call.emit("Where", [seen, scores, low])
    if call.has("attn_mask"):
        mask = call.tensor("attn_mask")
        if call.dtype("attn_mask") == "bool":
            scores = call.emit("Where", [mask, scores, low])
        else:
            scores = call.emit("Add", [scores, mask])
    weights = call.emit("Softmax", [scores], axis=-1)
    return call.emit("MatMul", [weights, call.tensor("value")])


# -- convolutions and windows ---------------------------------------------------------------------


@lower(
    "conv1d.default", "conv2d.default", "convolution.default", "conv1d.padding", "conv2d.padding"
)
def _conv(call: Call) -> str:
    x, w = "input", call.shape("weight")
    n = len(w) - 2
    if call.args.get("transposed"):
        return _conv_transpose(call, n)
    if n not in (1, 2) or not all(isinstance(size, int) for size in w):
        raise FreeSize(
            f"a convolution over {n} axes", "over 1 or 2 axes, with weights that are fixed"
        )
    kernel = [int(size) for size in w[2:]]
    strides = call.integers("stride", n) or [1] * n
    dilations = call.integers("dilation", n) or [1] * n
    if call.args.get("padding") == "same":
        total = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    elif call.args.get("padding") == "valid":
        pads = [0] * (2 * n)
    else:
        pads = (call.integers("padding", n) or [0] * n) * 2
    inputs = [call.tensor(x), call.tensor("weight")]
    if call.has("bias"):
        inputs.append(call.tensor("bias"))
    single = call.rank(x) == n + 1
    if single:
        inputs[0] = call.unsqueeze(inputs[0], [0])
    y = call.emit(
        "Conv", inputs, strides=strides, dilations=dilations, pads=pads, kernel_shape=kernel,
        group=call.integer("groups"),
    )  # fmt: skip
    return call.squeeze(y, [0]) if single else y


@lower("conv_transpose1d.default", "conv_transpose2d.input")
def _conv_transpose_of(call: Call) -> str:
    return _conv_transpose(call, call.rank("weight") - 2)


def _conv_transpose(call: Call, n: int) -> str:
    w = call.shape("weight")
    if n not in (1, 2) or not all(isinstance(size, int) for size in w):
        raise Refused(f"a transposed convolution over {n} axes", "over 1 or 2 axes")
    inputs = [call.tensor("input"), call.tensor("weight")]
    if call.has("bias"):
        inputs.append(call.tensor("bias"))
    single = call.rank("input") == n + 1
    if single:
        inputs[0] = call.unsqueeze(inputs[0], [0])
    y = call.emit(
        "ConvTranspose",
        inputs,
        strides=call.integers("stride", n) or [1] * n,
        dilations=call.integers("dilation", n) or [1] * n,
        pads=(call.integers("padding", n) or [0] * n) * 2,
        output_padding=call.integers("output_padding", n) or [0] * n,
        kernel_shape=[int(size) for size in w[2:]],
        group=call.integer("groups"),
    )
    return call.squeeze(y, [0]) if single else y


def _pool(call: Call, op: str, n: int, kernel: list[int], attrs: dict[str, Any]) -> str:
    x = call.tensor()
    single = call.rank() == n + 1
    y = call.emit(op, [call.unsqueeze(x, [0]) if single else x], kernel_shape=kernel, **attrs)
    return call.squeeze(y, [0]) if single else y


@lower(
    "max_pool1d.default",
    "max_pool2d.default",
    "max_pool2d_with_indices.default",
    "avg_pool1d.default",
    "avg_pool2d.default",
)
def _windows(call: Call) -> str | list[str]:
    name = str(call.node.target).split(".")[1]
    n = 1 if "1d" in name else 2
    kernel = call.integers("kernel_size", n)
    pads = (call.integers("padding", n) or [0] * n) * 2
    attrs: dict[str, Any] = {"strides": call.integers("stride", n) or kernel, "pads": pads}
    attrs["ceil_mode"] = int(bool(call.args.get("ceil_mode")))
    if attrs["ceil_mode"]:
        raise Refused(f"{name} with ceil_mode", "ceil_mode=False")
    if "max" in name:
        attrs["dilations"] = call.integers("dilation", n) or [1] * n
        y = _pool(call, "MaxPool", n, kernel, attrs)
        return [y, _no_indices(call)] if "indices" in name else y
    if call.args.get("divisor_override"):
        raise Refused("divisor_override", "None")
    attrs["count_include_pad"] = int(bool(call.args.get("count_include_pad", True)))
    return _pool(call, "AveragePool", n, kernel, attrs)


def _no_indices(call: Call) -> str:
    return str(call.context.cache["refuse"](call, "the indices of a maximum", "its values are run"))


@lower(
    "adaptive_avg_pool1d.default",
    "adaptive_avg_pool2d.default",
    "_adaptive_avg_pool2d.default",
    "adaptive_max_pool1d.default",
    "adaptive_max_pool2d.default",
)
def _adaptive(call: Call) -> str | list[str]:
    largest = "max" in str(call.node.target)
    n = 1 if "1d" in str(call.node.target) else 2
    sizes, out = call.shape("self")[-n:], call.integers("output_size", n)
    axes = [axis - n for axis in range(n)]
    if out == [1] * n:
        op = "ReduceMax" if largest else "ReduceMean"
        y = call.emit(op, [call.tensor(), call.integers_value(axes)], keepdims=1)
    elif all(isinstance(a, int) and a % b == 0 for a, b in zip(sizes, out, strict=True)):
        kernel = [a // b for a, b in zip(sizes, out, strict=True)]
        attrs = {"strides": kernel, "pads": [0] * (2 * n)}
        y = _pool(call, "MaxPool" if largest else "AveragePool", n, kernel, attrs)
    else:
        raise FreeSize(f"pooling of {list(sizes)} to {out}", "to 1, or to a divisor of fixed sizes")
    return [y, _no_indices(call)] if largest else y


@lower(
    "pad.default",
    "constant_pad_nd.default",
    "reflection_pad1d.default",
    "reflection_pad2d.default",
    "replication_pad1d.default",
    "replication_pad2d.default",
)
def _pad(call: Call) -> str:
    name, rank, value = str(call.node.target).split(".")[1], call.rank(), call.tensor()
    mode = str(call.args.get("mode", "constant"))
    for key in ("reflect", "replicat"):
        mode = {"reflect": "reflect", "replicat": "edge"}[key] if key in name else mode
    mode = "edge" if mode == "replicate" else mode
    if mode not in ("constant", "reflect", "edge"):
        raise Refused(f"padding mode {mode!r}", "constant, reflect and replicate are run")
    pads = call.integers("pad" if "pad" in call.args else "padding")
    begin, end = [0] * rank, [0] * rank
    for place in range(len(pads) // 2):
        axis = rank - 1 - place
        begin[axis], end[axis] = pads[2 * place], pads[2 * place + 1]
        cut = (max(-begin[axis], 0), max(-end[axis], 0))
        value = (
            call.cut(value, axis, cut[0], -cut[1] if cut[1] else MAX_AXIS) if any(cut) else value
        )
    amounts = [max(one, 0) for one in (*begin, *end)]
    if not any(amounts):
        return value
    inputs = [value, call.integers_value(amounts)]
    if mode == "constant":
        inputs.append(call.operand("value", call.out_dtype) if call.has("value")
                      else call.number(0, call.out_dtype))  # fmt: skip
    return call.emit("Pad", inputs, mode=mode)


@lower(
    "upsample_nearest1d.vec",
    "upsample_nearest2d.vec",
    "upsample_nearest1d.default",
    "upsample_nearest2d.default",
)
def _nearest(call: Call) -> str:
    """Repeat each element; scales that are no whole numbers choose by rounding."""
    name = "input" if "input" in call.args else "self"
    value, shape = call.tensor(name), list(call.shape(name))
    for axis in range(2, len(shape)):
        old, new = shape[axis], call.out_shape[axis]
        times: Any = new // old if isinstance(old, int) and isinstance(new, int) else new / old
        if not getattr(times, "is_Integer", isinstance(times, int)) or times * old != new:
            raise FreeSize(f"an upsampling of {old} to {new}", "a whole number of times")
        wide = [*shape[: axis + 1], int(times), *shape[axis + 1 :]]
        one = [*shape[: axis + 1], 1, *shape[axis + 1 :]]
        value = call.expand(call.unsqueeze(value, [axis + 1]), one, wide)
        shape[axis] = new
        value = call.reshape(value, wide, shape)
    return value


# -- norms ----------------------------------------------------------------------------------------


@lower("layer_norm.default", "native_layer_norm.default")
def _layer_norm(call: Call) -> str | list[str]:
    sizes = call.integers("normalized_shape")
    scale = (
        call.tensor("weight")
        if call.has("weight")
        else call.builder.constant(np.ones(sizes, np.float32), "ones")
    )
    inputs = [call.tensor("input"), scale]
    if call.has("bias"):
        inputs.append(call.tensor("bias"))
    y = call.emit("LayerNormalization", inputs, axis=-len(sizes), epsilon=call.real("eps"))
    return y if "native" not in str(call.node.target) else [y, *_unused(call, 2)]


def _unused(call: Call, count: int) -> list[str]:
    refuse = call.context.cache["refuse"]
    return [refuse(call, "the statistics of a norm", "its first result is run")] * count


@lower(
    "batch_norm.default",
    "_native_batch_norm_legit_no_training.default",
    "native_batch_norm.default",
)
def _batch_norm(call: Call) -> str | list[str]:
    if call.args.get("training"):
        raise Refused("batch_norm by the statistics of the batch", "running statistics, eval mode")
    features = call.shape("input")[1]
    if not isinstance(features, int):
        raise FreeSize("batch_norm of a free number of features", "a fixed one")
    arrays = []
    for name, usual in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        full = np.full(features, usual, np.float32)
        arrays.append(call.tensor(name) if call.has(name) else call.builder.constant(full, name))
    y = call.emit("BatchNormalization", [call.tensor("input"), *arrays], epsilon=call.real("eps"))
    return y if "native" not in str(call.node.target) else [y, *_unused(call, 2)]


@lower("group_norm.default", "instance_norm.default", "native_group_norm.default")
def _group_norm(call: Call) -> str | list[str]:
    """Norm each row of [N, groups, the rest], then scale and shift each channel."""
    x = "input"
    shape, name = call.shape(x), str(call.node.target).split(".")[1]
    if name == "instance_norm" and not call.args.get("use_input_stats", True):
        return _instance_by_statistics(call)
    groups = call.integer("num_groups") if name == "group_norm" else shape[1]
    groups = call.integer("group") if name == "native_group_norm" else groups
    grouped: list[Size] = [shape[0], groups, math.prod(shape[1:]) / groups]
    grouped = [int(s) if isinstance(s, float) else s for s in grouped]
    rows = call.reshape(call.tensor(x), shape, grouped)
    axis = call.integers_value([-1])
    centred = call.emit("Sub", [rows, call.emit("ReduceMean", [rows, axis], keepdims=1)])
    square = call.emit("Mul", [centred, centred])
    variance = call.emit("ReduceMean", [square, axis], keepdims=1)
    spread = call.emit("Sqrt", [call.emit("Add", [variance, call.number(call.real("eps"))])])
    y = call.reshape(call.emit("Div", [centred, spread]), grouped, shape)
    one_channel = [1] * (len(shape) - 2)
    for key, op in (("weight", "Mul"), ("bias", "Add")):
        if call.has(key):
            wide = call.reshape(call.tensor(key), call.shape(key), [shape[1], *one_channel])
            y = call.emit(op, [y, wide])
    return y if "native" not in name else [y, *_unused(call, 2)]


def _instance_by_statistics(call: Call) -> str:
    names = ("weight", "bias", "running_mean", "running_var")
    arrays = [call.tensor(name) for name in names if call.has(name)]
    if len(arrays) != len(names):
        raise Refused("instance_norm with a part of its arrays", "all of them")
    return call.emit("BatchNormalization", [call.tensor("input"), *arrays],
                     epsilon=call.real("eps"))  # fmt: skip


@lower(
    "softmax.int",
    "_softmax.default",
    "log_softmax.int",
    "_log_softmax.default",
    "_safe_softmax.default",
)
def _softmax(call: Call) -> str:
    op = "LogSoftmax" if "log" in str(call.node.target) else "Softmax"
    if "safe" in str(call.node.target):
        raise Refused("a softmax that is zero where all is masked", "softmax")
    rank = call.rank()
    if rank == 0:
        raise Refused(f"{op} of a number", "of a tensor with axes")
    axis = call.axis()
    return call.emit(op, [call.tensor("self", "float32")], axis=-1 if axis == rank - 1 else axis)
