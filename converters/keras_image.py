# SPDX-License-Identifier: MIT
"""Keras layers over two axes: convolutions and pools of images, as networks for text need them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gruengine.converters import keras_activations as acts
from gruengine.converters.keras_base import AMBIGUOUS, Arrays, Config, Parsed, Refused, Value, Var
from gruengine.spec import Attr, Dim

if TYPE_CHECKING:
    from gruengine.converters.keras_graph import Builder

_FIRST, _LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # channels first, and last again


def _image(value: Value) -> Value:
    if len(value.dims) != 4:
        raise Refused(f"an input of shape {list(value.dims)}", "[batch, height, width, channels]")
    return value


def pair_of(c: Config, key: str, default: int) -> list[int]:
    """Return two positive sizes."""
    if c.config.get(key) is None:
        c.raw(key)
        return [default, default]
    found = c.sizes(key, 2)
    if min(found) < 1:
        c.refuse(f"{key}={found}", "positive sizes")
        return [1, 1]
    return found


def windows(
    b: Builder, where: str, x: Value, kernel: list[int], strides: list[int], same: bool
) -> list[Dim]:
    """Return the number of windows along both axes."""
    found: list[Dim] = []
    for axis in (0, 1):
        size, reach = x.dims[axis + 1], 0 if same else kernel[axis] - 1
        if isinstance(size, int):
            if size <= reach:
                raise Refused(f"{size} rows or columns", f"a window covers {reach + 1}")
            found.append(-(-(size - reach) // strides[axis]))
        else:
            found.append(size if same and strides[axis] == 1 else b.fresh(where, axis + 1))
    return found


def _moved(b: Builder, where: str, op: str, names: list[str], attrs: dict[str, Attr]) -> str:
    """Add an operator that has channels first around an input that has them last."""
    perm: list[int] = list(_FIRST)
    first = b.node(where, "Transpose", [names[0]], {"perm": perm})
    y = b.node(where, op, [first, *names[1:]], attrs)
    back: list[int] = list(_LAST)
    return b.node(where, "Transpose", [y], {"perm": back})


def _conv(c: Config) -> Parsed:
    depthwise = c.layer.kind == "DepthwiseConv2D"
    bias = c.flag("use_bias", True)
    count = c.size("depth_multiplier", 1) if depthwise else c.size("filters")
    groups = 1 if depthwise else c.size("groups", 1)
    kernel, strides = pair_of(c, "kernel_size", 1), pair_of(c, "strides", 1)
    dilation = pair_of(c, "dilation_rate", 1)
    same = c.choice("padding", ("valid", "same"), "valid") == "same"
    c.choice("data_format", (None, "channels_last"), "channels_last")
    found = acts.activation(c, "activation")
    what = "depthwise_kernel" if depthwise and c.era.major < 3 else "kernel"

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        x = _image(b.one(inputs))
        channels = x.features()
        split = channels if depthwise else groups
        filters = channels * count if depthwise else count
        if channels % split or filters % split:
            raise Refused(f"groups={split}", f"a divisor of {channels} and {filters}")
        if depthwise:  # [h, w, channels, multiplier]: filters of one channel follow each other
            raw = arrays.get(what, (*kernel, channels, count))
            weight = raw.reshape(*kernel, 1, filters)
        else:
            weight = arrays.get(what, (*kernel, channels // split, filters))
        weight = weight[::-1, ::-1] if c.era.flips else weight
        names = [x.name, b.weight(c.where, "kernel", np.transpose(weight, (3, 2, 0, 1)))]
        if bias:
            names.append(b.weight(c.where, "bias", arrays.get("bias", (filters,))))
        attrs: dict[str, Attr] = {
            "kernel_shape": list(kernel),
            "strides": list(strides),
            "dilations": list(dilation),
            "group": split,
        }
        attrs.update({"auto_pad": "SAME_UPPER"} if same else {"pads": [0, 0, 0, 0]})
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        sizes = windows(b, c.where, x, reach, strides, same)
        out = Value(_moved(b, c.where, "Conv", names, attrs), (x.dims[0], *sizes, filters))
        return [acts.emit_activation(b, c.where, out, found)]

    return Parsed(emit, [Var("", what), *([Var("", "bias")] if bias else [])])


def _pool(c: Config) -> Parsed:
    kernel = pair_of(c, "pool_size", 2)
    strides = kernel if c.raw("strides") is None else pair_of(c, "strides", 1)
    same = c.choice("padding", ("valid", "same"), "valid") == "same"
    c.choice("data_format", (None, "channels_last"), "channels_last")
    op = "MaxPool" if c.layer.kind.startswith("Max") else "AveragePool"

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = _image(b.one(inputs))
        attrs: dict[str, Attr] = {"kernel_shape": list(kernel), "strides": list(strides)}
        if same:
            attrs["auto_pad"] = "SAME_UPPER"
        sizes = windows(b, c.where, x, kernel, strides, same)
        y = _moved(b, c.where, op, [x.name], attrs)
        return [Value(y, (x.dims[0], *sizes, x.dims[3]))]

    return Parsed(emit)


def _global_pool(c: Config) -> Parsed:
    keep = c.flag("keepdims", False)
    c.choice("data_format", (None, "channels_last"), "channels_last")
    op = "ReduceMax" if "Max" in c.layer.kind else "ReduceMean"

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = _image(b.one(inputs))
        names = [x.name, b.ints(c.where, "axes", [1, 2])]
        y = b.node(c.where, op, names, {"keepdims": int(keep)})
        dims = (x.dims[0], 1, 1, x.dims[3]) if keep else (x.dims[0], x.dims[3])
        return [Value(y, dims)]

    return Parsed(emit)


def _pad(c: Config) -> Parsed:
    given = c.raw("padding", 1)
    pairs = [given, given] if type(given) is int else given
    pairs = [[p, p] if type(p) is int else p for p in pairs] if isinstance(pairs, list) else []
    flat = [n for pair in pairs if isinstance(pair, list) for n in pair]
    if len(pairs) != 2 or len(flat) != 4 or not all(type(n) is int and 0 <= n < 4096 for n in flat):
        c.refuse(f"padding={given!r:.80}", "numbers from 0 for two axes")
        flat = [0] * 4
    c.choice("data_format", (None, "channels_last"), "channels_last")

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = _image(b.one(inputs))
        pads = [0, flat[0], flat[2], 0, 0, flat[1], flat[3], 0]
        y = b.node(c.where, "Pad", [x.name, b.ints(c.where, "pads", pads)], {"mode": "constant"})
        dims: list[Dim] = list(x.dims)
        for axis, more in ((1, flat[0] + flat[1]), (2, flat[2] + flat[3])):
            size = dims[axis]
            dims[axis] = size + more if isinstance(size, int) else b.fresh(c.where, axis)
        return [Value(y, tuple(dims))]

    return Parsed(emit)


READERS: dict[str, Callable[[Config], Parsed]] = {
    "Conv2D": _conv,
    "Convolution2D": _conv,
    "DepthwiseConv2D": _conv,
    "MaxPooling2D": _pool,
    "AveragePooling2D": _pool,
    "GlobalMaxPooling2D": _global_pool,
    "GlobalAveragePooling2D": _global_pool,
    "ZeroPadding2D": _pad,
}


def at_every_step(
    b: Builder, where: str, x: Value, emit: Callable[[Value], list[Value]]
) -> list[Value]:
    """Apply a layer to every step: batch and time are one axis for it.

    Raises
    ------
    Refused
        Sizes beside batch and time that are not known.
    """
    rest = [size for size in x.dims[2:] if isinstance(size, int)]
    if len(rest) < len(x.dims) - 2:
        raise Refused(f"TimeDistributed of {list(x.dims)}", "known sizes of every step")
    lead = x.dims[:2]
    known = [size for size in lead if isinstance(size, int)]
    number: Dim = math.prod(known) if len(known) == 2 else b.fresh(where, 0)
    flat = b.node(where, "Reshape", [x.name, b.ints(where, "flat", [-1, *rest])], {})
    inner = emit(replace(x, name=flat, dims=(number, *rest), mask=None))
    shape = b.node(where, "Shape", [x.name], {})
    bounds = [b.ints(where, "lead", [v]) for v in (0, 2)]
    kept = b.node(where, "Slice", [shape, *bounds], {})
    found = []
    for y in inner:
        sizes = [size for size in y.dims[1:] if isinstance(size, int)]
        ends = b.ints(where, "sizes", sizes)
        whole = b.node(where, "Concat", [kept, ends], {"axis": 0})
        name = b.node(where, "Reshape", [y.name, whole], {})
        mask = x.mask if y.mask is None else AMBIGUOUS
        found.append(replace(y, name=name, dims=(*lead, *sizes), mask=mask))
    return found
