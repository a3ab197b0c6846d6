# SPDX-License-Identifier: MIT
"""Keras' rarer layers along time: convolutions of other forms, UpSampling, group norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gruengine.converters import keras_activations as acts
from gruengine.converters.keras_base import Array, Arrays, Config, Parsed, Refused, Value, Var
from gruengine.converters.keras_shape import length_of, sequence
from gruengine.spec import Attr, Dim

if TYPE_CHECKING:
    from gruengine.converters.keras_graph import Builder


def _names(*names: str, bias: bool) -> list[Var]:
    return [Var("", name) for name in (*names, *(["bias"] if bias else []))]


def _depthwise(c: Config) -> Parsed:
    """Read a convolution of each feature by itself; SeparableConv1D mixes them after it."""
    separable = c.layer.kind != "DepthwiseConv1D"
    bias, count = c.flag("use_bias", True), c.size("depth_multiplier", 1)
    filters = c.size("filters") if separable else 0
    kernel, stride, dilation = c.size("kernel_size"), c.size("strides", 1), c.size(
        "dilation_rate", 1
    )  # fmt: skip
    c.raw("groups"), c.raw("filters")
    padding = c.choice("padding", ("valid", "same", "causal"), "valid")
    c.choice("data_format", ("channels_last",), "channels_last")
    found = acts.activation(c, "activation")
    own = "depthwise_kernel" if separable or c.era.major < 3 else "kernel"

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        x = sequence(b.one(inputs))
        wide = x.features() * count
        # Filters of one feature follow each other.
        weight = arrays.get(own, (kernel, x.features(), count)).reshape(kernel, 1, wide)
        weight = np.transpose(weight[::-1] if c.era.flips else weight, (2, 1, 0))
        names = [b.swapped(c.where, x.name), b.weight(c.where, "kernel", weight)]
        size = filters if separable else wide
        added = b.weight(c.where, "bias", arrays.get("bias", (size,))) if bias else ""
        if added and not separable:
            names.append(added)
        attrs: dict[str, Attr] = {"kernel_shape": [kernel], "strides": [stride],
                                  "dilations": [dilation], "group": x.features()}  # fmt: skip
        if padding == "same":
            attrs["auto_pad"] = "SAME_UPPER"
        else:
            attrs["pads"] = [(kernel - 1) * dilation if padding == "causal" else 0, 0]
        y = b.swapped(c.where, b.node(c.where, "Conv", names, attrs))
        if separable:
            mixing = arrays.get("pointwise_kernel", (1, wide, filters))[0]
            y = b.node(c.where, "MatMul", [y, b.weight(c.where, "mixing", mixing)], {})
            y = b.node(c.where, "Add", [y, added], {}) if added else y
        steps = length_of(b, c.where, x.dims[1], kernel, stride, padding, dilation)
        return [acts.emit_activation(b, c.where, Value(y, (x.dims[0], steps, size)), found)]

    return Parsed(emit, _names(own, *(["pointwise_kernel"] if separable else []), bias=bias))


def _transposed(c: Config) -> Parsed:
    """Read a Conv1DTranspose: of T steps T * stride, or as many as its windows cover."""
    filters, bias = c.size("filters"), c.flag("use_bias", True)
    kernel, stride = c.size("kernel_size"), c.size("strides", 1)
    dilation = c.size("dilation_rate", 1)
    same = c.choice("padding", ("valid", "same"), "valid") == "same"
    if c.raw("output_padding") is not None or c.raw("groups", 1) != 1 or c.era.flips:
        c.refuse("with output_padding, groups or kernels of Theano", "none of them")
    if dilation > 1 and stride > 1:
        c.refuse(f"strides={stride}, dilation_rate={dilation}", "one of them 1, as Keras needs it")
    c.choice("data_format", ("channels_last",), "channels_last")
    found = acts.activation(c, "activation")
    reach = (kernel - 1) * dilation + 1

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        x = sequence(b.one(inputs))
        raw = arrays.get("kernel", (kernel, filters, x.features()))
        names = [b.swapped(c.where, x.name)]
        names.append(b.weight(c.where, "kernel", np.transpose(raw, (2, 1, 0))))
        if bias:
            names.append(b.weight(c.where, "bias", arrays.get("bias", (filters,))))
        cut = max(reach - stride, 0) if same else 0
        attrs: dict[str, Attr] = {
            "kernel_shape": [kernel], "strides": [stride], "dilations": [dilation], "group": 1,
            "pads": [cut // 2, cut - cut // 2], "output_padding": [max(stride - reach, 0)],
        }  # fmt: skip
        y = b.swapped(c.where, b.node(c.where, "ConvTranspose", names, attrs))
        steps = x.dims[1]
        if isinstance(steps, int):
            steps = steps * stride + (0 if same else max(reach - stride, 0))
        elif stride > 1 or not same:
            steps = b.fresh(c.where, 1)
        return [acts.emit_activation(b, c.where, Value(y, (x.dims[0], steps, filters)), found)]

    return Parsed(emit, _names("kernel", bias=bias))


def _repeated(c: Config) -> Parsed:
    """Read UpSampling1D and UpSampling2D: every step, or row and column, some times."""
    axes = 2 if c.layer.kind.endswith("2D") else 1
    counts = c.sizes("size", axes) if c.config.get("size") is not None else [2] * axes
    if min(counts) < 1:
        c.refuse(f"size={counts}", "positive numbers")
    c.choice("data_format", (None, "channels_last"), "channels_last")
    c.choice("interpolation", ("nearest",), "nearest")

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        if len(x.dims) != axes + 2:
            raise Refused(f"{c.layer.kind} of {list(x.dims)}", f"{axes + 2} axes")
        y, dims = x.name, list(x.dims)
        for axis, count in enumerate(counts, 1):
            if count == 1:
                continue
            size = dims[axis]
            y = b.node(c.where, "Unsqueeze", [y, b.ints(c.where, "axis", [axis + 1])], {})
            times = [count if i == axis + 1 else 1 for i in range(axes + 3)]
            y = b.node(c.where, "Tile", [y, b.ints(c.where, "repeats", times)], {})
            dims[axis] = size * count if isinstance(size, int) else b.fresh(c.where, axis)
            y = b.node(c.where, "Reshape", [y, b.ints(c.where, "shape", _shape(dims, axis))], {})
        return [Value(y, tuple(dims))]

    return Parsed(emit)


def _shape(dims: Sequence[Dim], axis: int) -> list[int]:
    """Return what Reshape takes where axes are merged into ``axis``: those behind are known."""
    found = []
    for i, size in enumerate(dims):
        if i > axis and not isinstance(size, int):
            raise Refused(f"shape {list(dims)}", f"known sizes behind axis {axis}")
        found.append(0 if i < axis else -1 if i == axis else int(size))
    return found


def _group_norm(c: Config) -> Parsed:
    """Read a norm over groups of features, and over all steps or pixels."""
    groups, epsilon, axes = c.raw("groups", 32), c.number("epsilon", 1e-3), c.axes("axis", -1)
    scale, center = c.flag("scale", True), c.flag("center", True)
    if type(groups) is not int or not (groups > 0 or groups == -1) or len(axes) != 1:
        c.refuse(f"groups={groups!r:.40}, axis={axes}", "a positive number or -1, the last axis")

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        x, where = b.one(inputs), c.where
        size, rank = x.features(), len(x.dims)
        count = size if groups == -1 else groups
        if axes[0] not in (-1, rank - 1) or size % count:
            raise Refused(f"{count} groups of axis {axes[0]} of {list(x.dims)}", "the last axis")
        each = size // count
        middle = list(range(1, rank - 1))
        shape = b.ints(where, "groups", [0] * (rank - 1) + [count, each])
        y = b.node(where, "Reshape", [x.name, shape], {})
        first: list[int] = [0, rank - 1, *middle, rank]
        back: list[int] = [0, *(i + 1 for i in middle), 1, rank]
        y = b.node(where, "Transpose", [y], {"perm": first}) if middle else y
        one = b.weight(where, "one", np.ones(1, np.float32))
        attrs: dict[str, Attr] = {"axis": 2, "epsilon": epsilon}
        y = b.node(where, "LayerNormalization", [y, one], attrs)
        y = b.node(where, "Transpose", [y], {"perm": back}) if middle else y
        y = b.node(where, "Reshape", [y, b.ints(where, "flat", [0] * (rank - 1) + [size])], {})
        for op, name, there in (("Mul", "gamma", scale), ("Add", "beta", center)):
            if there:
                array: Array = arrays.get(name, (size,))
                y = b.node(where, op, [y, b.weight(where, name, array)], {})
        return [x.to(y)]

    return Parsed(emit, [Var("", n) for n, there in (("gamma", scale), ("beta", center)) if there])


READERS: dict[str, Callable[[Config], Parsed]] = {
    "SeparableConv1D": _depthwise,
    "SeparableConvolution1D": _depthwise,
    "DepthwiseConv1D": _depthwise,
    "Conv1DTranspose": _transposed,
    "Convolution1DTranspose": _transposed,
    "UpSampling1D": _repeated,
    "UpSampling2D": _repeated,
    "GroupNormalization": _group_norm,
}
