# SPDX-License-Identifier: MIT
"""Keras layers of attention, and norms without a state of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gruengine.converters.keras_base import Arrays, Config, Parsed, Refused, Value, Var
from gruengine.converters.keras_ops import axis_of, masked
from gruengine.spec import Dim

if TYPE_CHECKING:
    from gruengine.converters.keras_graph import Builder


def _swapped(b: Builder, where: str, x: Value) -> str:
    return b.node(where, "Transpose", [x.name], {"perm": [0, 2, 1]})


def _attention(c: Config) -> Parsed:
    """``softmax(q k^T) v``; of AdditiveAttention ``softmax(sum(scale * tanh(q + k))) v``."""
    additive = c.layer.kind == "AdditiveAttention"
    scaled = c.flag("use_scale", additive)
    mode = "concat" if additive else c.choice("score_mode", ("dot",), "dot")
    names = [Var("", "scale")] if scaled else []

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        if len(inputs) not in (2, 3) or any(len(x.dims) != 3 for x in inputs):
            raise Refused(f"{len(inputs)} inputs", "query, value and perhaps key, of 3 axes")
        for x in inputs:
            b.need_no_mask(x)
        query, value = inputs[:2]
        key = inputs[2] if len(inputs) == 3 else value
        size = query.features()
        where = c.where
        if mode == "dot":
            score = b.node(where, "MatMul", [query.name, _swapped(b, where, key)], {})
            if scaled:
                weight = b.weight(where, "scale", arrays.get("scale", ()))
                score = b.node(where, "Mul", [score, weight], {})
        else:
            rows = b.node(where, "Unsqueeze", [query.name, b.ints(where, "rows", [2])], {})
            columns = b.node(where, "Unsqueeze", [key.name, b.ints(where, "columns", [1])], {})
            score = b.node(where, "Tanh", [b.node(where, "Add", [rows, columns], {})], {})
            if scaled:
                weight = b.weight(where, "scale", arrays.get("scale", (size,)))
                score = b.node(where, "Mul", [score, weight], {})
            last = b.ints(where, "last", [3])
            score = b.node(where, "ReduceSum", [score, last], {"keepdims": 0})
        part = b.node(where, "Softmax", [score], {"axis": -1})
        y = b.node(where, "MatMul", [part, value.name], {})
        return [Value(y, (*query.dims[:2], value.dims[2]))]

    return Parsed(emit, names)


def _heads(c: Config) -> Parsed:
    """Read MultiHeadAttention of a query, a value and perhaps a key."""
    count, size = c.size("num_heads"), c.size("key_dim")
    depth = size if c.raw("value_dim") is None else c.size("value_dim")
    bias = c.flag("use_bias", True)
    for key in ("output_shape", "attention_axes"):
        if c.raw(key) not in (None, [1], 1):
            c.refuse(f"{key}={c.config[key]!r:.40}", "not set")
    for key in ("flash_attention", "query_shape", "key_shape", "value_shape"):
        c.raw(key)
    parts = ("query", "key", "value", "output")
    paths = {part: f"{part}_dense" if part != "output" else "output_dense" for part in parts}
    variables = [Var(path, n) for path in paths.values() for n in _dense_names(bias)]

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        if len(inputs) not in (2, 3) or any(len(x.dims) != 3 for x in inputs):
            raise Refused(f"{len(inputs)} inputs", "query, value and perhaps key, of 3 axes")
        for x in inputs:
            b.need_no_mask(x)
        query, value = inputs[:2]
        given = {"query": query, "value": value, "key": inputs[2] if len(inputs) > 2 else value}
        where, made = c.where, {}
        for part, x in given.items():
            wide, width = arrays.below(paths[part]), depth if part == "value" else size
            kernel = wide.get("kernel", (x.features(), count, width)).reshape(-1, count * width)
            y = b.node(where, "MatMul", [x.name, b.weight(where, f"{part}.kernel", kernel)], {})
            if bias:
                added = wide.get("bias", (count, width)).reshape(-1)
                y = b.node(where, "Add", [y, b.weight(where, f"{part}.bias", added)], {})
            shape = b.ints(where, "heads", [0, 0, count, width])
            y = b.node(where, "Reshape", [y, shape], {})
            perm = [0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]
            made[part] = b.node(where, "Transpose", [y], {"perm": perm})
        score = b.node(where, "MatMul", [made["query"], made["key"]], {})
        by = b.scalar(where, "scale", 1.0 / float(np.sqrt(size)))
        part = b.node(where, "Softmax", [b.node(where, "Mul", [score, by], {})], {"axis": -1})
        y = b.node(where, "MatMul", [part, made["value"]], {})
        y = b.node(where, "Transpose", [y], {"perm": [0, 2, 1, 3]})
        y = b.node(where, "Reshape", [y, b.ints(where, "flat", [0, 0, count * depth])], {})
        out, width = arrays.below(paths["output"]), query.features()
        kernel = out.get("kernel", (count, depth, width)).reshape(-1, width)
        y = b.node(where, "MatMul", [y, b.weight(where, "output.kernel", kernel)], {})
        if bias:
            y = b.node(
                where, "Add", [y, b.weight(where, "output.bias", out.get("bias", (width,)))], {}
            )
        return [Value(y, (*query.dims[:2], width))]

    return Parsed(emit, variables)


def _dense_names(bias: bool) -> list[str]:
    return ["kernel", "bias"] if bias else ["kernel"]


def _normalization(c: Config) -> Parsed:
    """Read ``(x - mean) / sqrt(variance)`` of the last axis, with given or adapted statistics."""
    axes, mean, variance = c.axes("axis", -1), c.raw("mean"), c.raw("variance")
    inverse = c.flag("invert", False)
    given = mean is not None
    if len(axes) != 1 or (mean is None) != (variance is None):
        c.refuse(f"axis={axes}", "the last axis, and both statistics or none")

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        x = b.one(inputs)
        size = x.features()
        if axes[0] not in (-1, len(x.dims) - 1):
            raise Refused(f"axis={axes}", "the last one")
        try:
            middle, spread = (
                np.broadcast_to(np.asarray(v, np.float32).reshape(-1), (size,))
                if given
                else arrays.get(n, (size,), (1,)).reshape(-1)
                for v, n in ((mean, "mean"), (variance, "variance"))
            )
        except (TypeError, ValueError):
            raise Refused("mean or variance", f"{size} numbers") from None
        width = np.maximum(np.sqrt(spread), np.float32(1e-7))
        steps = [("Mul", width), ("Add", middle)] if inverse else [("Sub", middle), ("Div", width)]
        y = x.name
        for op, array in steps:
            y = b.node(c.where, op, [y, b.weight(c.where, op, array.astype(np.float32))], {})
        return [x.to(y)]

    names = [] if given else [Var("", n, False) for n in ("mean", "variance", "count")]
    return Parsed(emit, names)


def unit(b: Builder, where: str, name: str, axes: list[int]) -> str:
    """Add ``x / sqrt(max(sum(x^2), 1e-12))``."""
    square = b.node(where, "ReduceSumSquare", [name, b.ints(where, "axes", axes)], {"keepdims": 1})
    least = b.node(where, "Max", [square, b.scalar(where, "least", 1e-12)], {})
    return b.node(where, "Div", [name, b.node(where, "Sqrt", [least], {})], {})


def _unit(c: Config, operator: bool = False) -> Parsed:
    axes = c.axes("axis", -1)

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        places = [axis_of(axis, len(x.dims)) for axis in axes]
        y = x.to(unit(b, c.where, x.name, places))
        return [replace(y, mask=masked(x)) if operator else y]

    return Parsed(emit)


def _dot(c: Config) -> Parsed:
    """Sum over one axis of each of two inputs; both are normalised along it first, if told so."""
    axes, normal = c.axes("axes", -1), c.flag("normalize", False)

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        if len(inputs) != 2 or any(len(x.dims) not in (2, 3) for x in inputs):
            raise Refused(f"Dot of {[list(x.dims) for x in inputs]}", "two inputs of 2 or 3 axes")
        names: list[str] = []
        rest: list[Dim] = []
        for i, x in enumerate(inputs):
            axis = axis_of(axes[i % len(axes)], len(x.dims))
            y = unit(b, c.where, x.name, [axis]) if normal else x.name
            if len(x.dims) == 2:
                y = b.node(c.where, "Unsqueeze", [y, b.ints(c.where, "axes", [1 + i])], {})
            else:
                rest.append(x.dims[3 - axis])
                if axis != 2 - i:
                    y = b.node(c.where, "Transpose", [y], {"perm": [0, 2, 1]})
            names.append(y)
        y = b.node(c.where, "MatMul", names, {})
        gone = [1 + i for i, x in enumerate(inputs) if len(x.dims) == 2]
        if len(gone) == 2:
            gone, rest = [2], [1]
        if gone:
            y = b.node(c.where, "Squeeze", [y, b.ints(c.where, "gone", gone)], {})
        return [Value(y, (inputs[0].dims[0], *rest))]

    return Parsed(emit)


READERS: dict[str, Callable[[Config], Parsed]] = {
    "Dot": _dot,
    "Attention": _attention,
    "AdditiveAttention": _attention,
    "MultiHeadAttention": _heads,
    "Normalization": _normalization,
    "UnitNormalization": _unit,
}

#: Operators outside of layers that are layers too.
OPERATORS: dict[str, Callable[[Config], Parsed]] = {
    "UnitNormalization": lambda c: _unit(c, operator=True)
}
