# SPDX-License-Identifier: MIT
"""Keras layers that move along time or change shapes: convolutions, pools, Reshape and others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gruengine.converters import keras_activations as acts
from gruengine.converters import keras_image
from gruengine.converters.keras_base import Arrays, Config, Parsed, Refused, Value, Var
from gruengine.spec import Attr, Dim

if TYPE_CHECKING:
    from gruengine.converters.keras_graph import Builder


def sequence(value: Value) -> Value:
    """Return a value that is a sequence of features."""
    if len(value.dims) != 3:
        raise Refused(f"an input of shape {list(value.dims)}", "[batch, time, features]")
    return value


def length_of(
    b: Builder, where: str, size: Dim, kernel: int, stride: int, padding: str, dilation: int = 1
) -> Dim:
    """Return the number of windows along an axis."""
    if padding in ("same", "causal") and stride == 1:
        return size
    if not isinstance(size, int):
        return b.fresh(where, 1)
    reach = 0 if padding in ("same", "causal") else (kernel - 1) * dilation
    if size <= reach:
        raise Refused(f"{size} steps", f"a window covers {reach + 1}")
    return -(-(size - reach) // stride)


def _conv(c: Config) -> Parsed:
    filters, bias = c.size("filters"), c.flag("use_bias", True)
    kernel, stride = c.size("kernel_size"), c.size("strides", 1)
    dilation, groups = c.size("dilation_rate", 1), c.size("groups", 1)
    padding = c.choice("padding", ("valid", "same", "causal"), "valid")
    c.choice("data_format", ("channels_last",), "channels_last")
    found = acts.activation(c, "activation")

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        x = sequence(b.one(inputs))
        size = x.features()
        if size % groups or filters % groups:
            raise Refused(f"Conv1D groups={groups}", f"a divisor of {size} and {filters}")
        weight = arrays.get("kernel", (kernel, size // groups, filters))
        weight = weight[::-1] if c.era.flips else weight
        steps = length_of(b, c.where, x.dims[1], kernel, stride, padding, dilation)
        added = arrays.get("bias", (filters,)) if bias else None
        if kernel == stride == groups == 1:  # a product at every step
            y = b.node(c.where, "MatMul", [x.name, b.weight(c.where, "kernel", weight[0])], {})
            if added is not None:
                y = b.node(c.where, "Add", [y, b.weight(c.where, "bias", added)], {})
        else:
            names = [b.swapped(c.where, x.name)]
            names.append(b.weight(c.where, "kernel", np.transpose(weight, (2, 1, 0))))
            if added is not None:
                names.append(b.weight(c.where, "bias", added))
            attrs: dict[str, Attr] = {
                "kernel_shape": [kernel],
                "strides": [stride],
                "dilations": [dilation],
                "group": groups,
            }
            if padding == "same":
                attrs["auto_pad"] = "SAME_UPPER"
            else:
                attrs["pads"] = [(kernel - 1) * dilation if padding == "causal" else 0, 0]
            y = b.swapped(c.where, b.node(c.where, "Conv", names, attrs))
        out = Value(y, (x.dims[0], steps, filters))
        return [acts.emit_activation(b, c.where, out, found)]

    return Parsed(emit, [Var("", "kernel"), *([Var("", "bias")] if bias else [])])


def _pool(c: Config) -> Parsed:
    kernel = c.size("pool_size", 2)
    stride = kernel if c.raw("strides") is None else c.size("strides")
    padding = c.choice("padding", ("valid", "same"), "valid")
    c.choice("data_format", ("channels_last",), "channels_last")
    op = "MaxPool" if c.layer.kind.startswith("Max") else "AveragePool"

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = sequence(b.one(inputs))
        attrs: dict[str, Attr] = {"kernel_shape": [kernel], "strides": [stride]}
        if padding == "same":
            attrs["auto_pad"] = "SAME_UPPER"
        y = b.node(c.where, op, [b.swapped(c.where, x.name)], attrs)
        steps = length_of(b, c.where, x.dims[1], kernel, stride, padding)
        return [Value(b.swapped(c.where, y), (x.dims[0], steps, x.dims[2]))]

    return Parsed(emit)


def _global_pool(c: Config) -> Parsed:
    keep = c.flag("keepdims", False)
    c.choice("data_format", ("channels_last",), "channels_last")
    largest = c.layer.kind == "GlobalMaxPooling1D"

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = sequence(b.one(inputs))
        dims = (x.dims[0], 1, x.dims[2]) if keep else (x.dims[0], x.dims[2])
        axis, attrs = b.ints(c.where, "axis", [1]), {"keepdims": int(keep)}
        if largest or x.mask is None:
            op = "ReduceMax" if largest else "ReduceMean"
            return [Value(b.node(c.where, op, [x.name, axis], {**attrs}), dims)]
        last = b.ints(c.where, "last", [2])
        wide = b.node(c.where, "Unsqueeze", [b.known_mask(x), last], {})
        zero = b.scalar(c.where, "zero", 0.0)
        kept = b.node(c.where, "Where", [wide, x.name, zero], {})
        total = b.node(c.where, "ReduceSum", [kept, axis], {**attrs})
        ones = b.node(c.where, "Cast", [wide], {"to": 1})
        count = b.node(c.where, "ReduceSum", [ones, axis], {**attrs})
        return [Value(b.node(c.where, "Div", [total, count], {}), dims)]

    return Parsed(emit)


def _pad(c: Config) -> Parsed:
    cut = c.layer.kind == "Cropping1D"
    key = "cropping" if cut else "padding"
    before, after = c.sizes(key, 2)
    c.choice("data_format", ("channels_last",), "channels_last")
    if min(before, after) < 0:
        c.refuse(f"{key}={[before, after]}", "two numbers from 0")

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = sequence(b.one(inputs))
        steps = x.dims[1]
        change = -(before + after) if cut else before + after
        if isinstance(steps, int):
            if steps + change < 1:
                raise Refused(f"{key}={[before, after]} of {steps} steps", "some must be left")
            steps += change
        elif change:
            steps = b.fresh(c.where, 1)
        if cut:
            names = [b.ints(c.where, "starts", [before])]
            names.append(b.ints(c.where, "ends", [-after if after else (1 << 62)]))
            names.append(b.ints(c.where, "axes", [1]))
            y = b.node(c.where, "Slice", [x.name, *names], {})
        else:
            pads = b.ints(c.where, "pads", [0, before, 0, 0, after, 0])
            y = b.node(c.where, "Pad", [x.name, pads], {"mode": "constant"})
        return [Value(y, (x.dims[0], steps, x.dims[2]))]

    return Parsed(emit)


def _repeat(c: Config) -> Parsed:
    count = c.size("n")

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        if len(x.dims) != 2:
            raise Refused(f"RepeatVector of {list(x.dims)}", "[batch, features]")
        y = b.node(c.where, "Unsqueeze", [x.name, b.ints(c.where, "axis", [1])], {})
        y = b.node(c.where, "Tile", [y, b.ints(c.where, "repeats", [1, count, 1])], {})
        return [Value(y, (x.dims[0], count, x.dims[1]))]

    return Parsed(emit)


def _permute(c: Config) -> Parsed:
    order = c.sizes("dims")

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        if sorted(order) != list(range(1, len(x.dims))):
            raise Refused(f"dims={order} of {list(x.dims)}", "each axis from 1 once")
        y = b.node(c.where, "Transpose", [x.name], {"perm": [0, *order]})
        return [Value(y, tuple(x.dims[axis] for axis in (0, *order)))]

    return Parsed(emit)


def _reshape(c: Config) -> Parsed:
    flat = c.layer.kind == "Flatten"
    target = [-1] if flat else c.sizes("target_shape")
    if flat:
        c.choice("data_format", (None, "channels_last"), None)
    if target.count(-1) > 1 or any(size < -1 or size == 0 for size in target):
        c.refuse(f"target_shape={target}", "positive sizes, and -1 at most once")

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        sizes = list(x.dims[1:])
        known = [size for size in sizes if isinstance(size, int)]
        dims: list[Dim] = list(target)
        fixed = math.prod(size for size in target if size != -1)
        if len(known) == len(sizes):
            total = math.prod(known)
            if -1 in target and total % fixed == 0:
                dims[target.index(-1)] = total // fixed
            elif -1 in target or total != fixed:
                raise Refused(f"{c.layer.kind} of {sizes} to {target}", "as many elements")
        elif -1 not in target:
            raise Refused(f"{c.layer.kind} of {sizes} to {target}", "-1 for the free size")
        else:
            place = target.index(-1)
            same = len(sizes) - len(known) == 1 and math.prod(known) == fixed
            free = next(size for size in sizes if isinstance(size, str))
            dims[place] = free if same else b.fresh(c.where, place + 1)
        shape = b.ints(c.where, "shape", [0, *(d if isinstance(d, int) else -1 for d in dims)])
        y = b.node(c.where, "Reshape", [x.name, shape], {})
        return [Value(y, (x.dims[0], *dims), dtype=x.dtype)]

    return Parsed(emit)


def _distributed(c: Config) -> Parsed:
    """Read a TimeDistributed: its layer at every step, which most layers do by themselves."""
    from gruengine.converters.keras_graph import READERS as ALL
    from gruengine.converters.keras_graph import parse

    inner = c.inner("layer")
    if inner is None:
        return Parsed(lambda b, inputs, arrays: list(inputs))
    image, whole = inner.kind in keras_image.READERS, inner.kind not in _EVERY_STEP
    known = inner.kind in ALL and inner.kind not in ("TimeDistributed", "Masking")
    if not known or inner.config.get("stateful"):
        c.refuse(f"of a {inner.kind:.80}", "a layer without a state that is converted by itself")
        return Parsed(lambda b, inputs, arrays: list(inputs))
    axis = inner.config.get("axis")
    # Axes of the inner layer count from the batch, without the time in between.
    moved = [one + 1 if type(one) is int and one > 0 else one for one in _listed(axis)]
    inner = replace(inner, config={**inner.config, "axis": moved}) if moved else inner
    parsed = parse(inner, c.era, c.reasons, f"{c.where}/{inner.name}")
    flat = inner.kind == "Flatten"
    found = [replace(v, path=f"layer/{v.path}" if v.path else "layer") for v in parsed.variables]

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        x = b.one(inputs)
        if len(x.dims) < 3:
            raise Refused(f"TimeDistributed of {list(x.dims)}", "[batch, time, ...]")
        if whole:
            own = arrays.below("layer")
            if not image:
                b.need_no_mask(x)
            return keras_image.at_every_step(b, c.where, x, lambda one: parsed.emit(b, [one], own))
        if not flat:
            return parsed.emit(b, inputs, arrays.below("layer"))
        sizes = [size for size in x.dims[2:] if isinstance(size, int)]
        if len(sizes) < len(x.dims) - 2:
            raise Refused(f"Flatten of {list(x.dims[1:])}", "known sizes")
        shape = b.ints(c.where, "shape", [0, 0, math.prod(sizes)])
        y = b.node(c.where, "Reshape", [x.name, shape], {})
        return [x.to(y, (*x.dims[:2], math.prod(sizes)))]

    return Parsed(emit, found)


def _listed(axis: object) -> list[object]:
    return axis if isinstance(axis, list) else [] if axis is None else [axis]


_EVERY_STEP = (
    "Dense Activation ReLU LeakyReLU ELU ThresholdedReLU Dropout GaussianNoise GaussianDropout "
    "AlphaDropout ActivityRegularization Identity LayerNormalization BatchNormalization "
    "BatchNormalizationV1 BatchNormalizationV2 Rescaling Flatten"
).split()

READERS: dict[str, Callable[[Config], Parsed]] = {
    "Conv1D": _conv,
    "Convolution1D": _conv,
    "MaxPooling1D": _pool,
    "AveragePooling1D": _pool,
    "GlobalAveragePooling1D": _global_pool,
    "GlobalMaxPooling1D": _global_pool,
    "ZeroPadding1D": _pad,
    "Cropping1D": _pad,
    "RepeatVector": _repeat,
    "Permute": _permute,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "TimeDistributed": _distributed,
}
