# SPDX-License-Identifier: MIT
"""Keras layers that work on features: Dense, Embedding, norms, merges, and the identities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gruengine.converters import keras_activations as acts
from gruengine.converters.keras_base import AMBIGUOUS, Arrays, Config, Parsed, Refused, Value, Var

if TYPE_CHECKING:
    from gruengine.converters.keras_graph import Builder

IDENTITIES = (
    "Dropout SpatialDropout1D SpatialDropout2D GaussianNoise GaussianDropout AlphaDropout "
    "ActivityRegularization Identity"
).split()


def _identity(c: Config) -> Parsed:
    for key in c.config:
        c.raw(key)  # they act in training alone
    return Parsed(lambda b, inputs, arrays: [b.one(inputs)])


def _dense(c: Config) -> Parsed:
    units, bias = c.size("units"), c.flag("use_bias", True)
    found = acts.activation(c, "activation")

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        x = b.one(inputs)
        kernel = arrays.get("kernel", (x.features(), units))
        y = b.node(c.where, "MatMul", [x.name, b.weight(c.where, "kernel", kernel)], {})
        if bias:
            added = b.weight(c.where, "bias", arrays.get("bias", (units,)))
            y = b.node(c.where, "Add", [y, added], {})
        out = x.to(y, (*x.dims[:-1], units))
        return [acts.emit_activation(b, c.where, out, found)]

    return Parsed(emit, [Var("", "kernel"), *([Var("", "bias")] if bias else [])])


def _embedding(c: Config) -> Parsed:
    rows, size = c.size("input_dim"), c.size("output_dim")
    masked = c.flag("mask_zero", False)

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        x = b.integers(c.where, b.one(inputs))
        table = b.weight(c.where, "embeddings", arrays.get("embeddings", (rows, size)))
        mask = None
        if masked and b.masks:
            zero = b.tensor(c.where, "zero", np.array(0, x.dtype))
            equal = b.node(c.where, "Equal", [x.name, zero], {})
            mask = b.node(c.where, "Not", [equal], {})
            if len(x.dims) != 2:
                mask = AMBIGUOUS
        y = b.node(c.where, "Gather", [table, x.name], {"axis": 0})
        return [Value(y, (*x.dims, size), mask)]

    return Parsed(emit, [Var("", "embeddings")])


def _masking(c: Config) -> Parsed:
    value = c.number("mask_value", 0.0)

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        if not b.masks:
            return [x]
        if len(x.dims) != 3:
            raise Refused(f"Masking of {list(x.dims)}", "sequences of features")
        equal = b.node(c.where, "Equal", [x.name, b.scalar(c.where, "value", value)], {})
        other = b.node(c.where, "Not", [equal], {})
        floats = b.node(c.where, "Cast", [other], {"to": 1})
        axis = b.ints(c.where, "axis", [-1])
        largest = b.node(c.where, "ReduceMax", [floats, axis], {"keepdims": 1})
        kept = b.node(c.where, "Cast", [largest], {"to": 9})
        mask = b.node(c.where, "Squeeze", [kept, axis], {})
        y = b.node(c.where, "Where", [kept, x.name, b.scalar(c.where, "none", 0.0)], {})
        return [replace(x, name=y, mask=mask)]

    return Parsed(emit)


def _batch_norm(c: Config) -> Parsed:
    """``(x - mean) / sqrt(var + epsilon) * gamma + beta``, the statistics of training."""
    axes, epsilon = c.axes("axis", -1), c.number("epsilon", 1e-3)
    names = [n for n, k in (("gamma", "scale"), ("beta", "center")) if c.flag(k, True)]
    if len(axes) != 1 or axes[0] == 0:
        c.refuse(f"axis={axes}", "one axis, not the batch")

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        x = b.one(inputs)
        axis = axes[0] % len(x.dims) if abs(axes[0]) <= len(x.dims) else 0
        size = x.dims[axis]
        if axis == 0 or not isinstance(size, int):
            raise Refused(f"axis={axes} of {list(x.dims)}", "an axis of known size")
        found = {n: arrays.get(n, (size,)).astype(np.float64) for n in (*names, *_MOVING)}
        scale = found.get("gamma", np.ones(size)) / np.sqrt(found["moving_variance"] + epsilon)
        shift = found.get("beta", np.zeros(size)) - found["moving_mean"] * scale
        shape = [size] + [1] * (len(x.dims) - 1 - axis)
        y = x.name
        for op, what, array in (("Mul", "scale", scale), ("Add", "shift", shift)):
            constant = b.weight(c.where, what, array.astype(np.float32).reshape(shape))
            y = b.node(c.where, op, [y, constant], {})
        return [x.to(y)]

    fixed = [Var("", name, False) for name in _MOVING]
    return Parsed(emit, [*(Var("", name) for name in names), *fixed])


_MOVING = ("moving_mean", "moving_variance")


def _layer_norm(c: Config) -> Parsed:
    axes, epsilon = c.axes("axis", -1), c.number("epsilon", 1e-3)
    scale, center = c.flag("scale", True), c.flag("center", True)
    if len(axes) != 1:
        c.refuse(f"axis={axes}", "the last axis")

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        x = b.one(inputs)
        size = x.features()
        if axes[0] not in (-1, len(x.dims) - 1):
            raise Refused(f"LayerNormalization axis={axes}", "the last axis")
        gamma = arrays.get("gamma", (size,)) if scale else np.ones(size, np.float32)
        names = [x.name, b.weight(c.where, "gamma", gamma)]
        if center:
            names.append(b.weight(c.where, "beta", arrays.get("beta", (size,))))
        attrs = {"axis": -1, "epsilon": epsilon}
        return [x.to(b.node(c.where, "LayerNormalization", names, {**attrs}))]

    names = [name for name, there in (("gamma", scale), ("beta", center)) if there]
    return Parsed(emit, [Var("", name) for name in names])


def _rescaling(c: Config) -> Parsed:
    scale, offset = c.number("scale", None), c.number("offset", 0.0)

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        y = b.node(c.where, "Mul", [x.name, b.scalar(c.where, "scale", scale)], {})
        return [x.to(b.node(c.where, "Add", [y, b.scalar(c.where, "offset", offset)], {}))]

    return Parsed(emit)


# -- merges ---------------------------------------------------------------------------------------

MERGES = {
    "Add": "Add",
    "Subtract": "Sub",
    "Multiply": "Mul",
    "Average": "Add",
    "Maximum": "Max",
    "Minimum": "Min",
}
#: What ``a + b`` on tensors of Keras 3 becomes.
NUMPY_OPS = {
    "Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "Divide": "Div", "TrueDivide": "Div",
    "Maximum": "Max", "Minimum": "Min",
}  # fmt: skip


def merged_mask(values: Sequence[Value]) -> str | None:
    """Return the mask of a merge: where inputs differ in it, versions of Keras do too."""
    masks = {value.mask for value in values}
    return masks.pop() if len(masks) == 1 else AMBIGUOUS


def _merge(c: Config) -> Parsed:
    kind = c.layer.kind

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        if len(inputs) < 2 or (kind == "Subtract" and len(inputs) != 2):
            raise Refused(f"{kind} of {len(inputs)} inputs", "2, or more where the order is free")
        dims = b.broadcast(inputs)
        y = inputs[0].name
        for other in inputs[1:]:
            y = b.node(c.where, MERGES[kind], [y, other.name], {})
        if kind == "Average":
            y = b.node(c.where, "Div", [y, b.scalar(c.where, "count", float(len(inputs)))], {})
        return [Value(y, dims, merged_mask(inputs))]

    return Parsed(emit)


def numpy_op(c: Config) -> Parsed:
    """Read an operator on two tensors, or a tensor and a number, of Keras 3."""
    op = NUMPY_OPS.get(c.layer.kind)
    if op is None:
        c.refuse(f"of {c.layer.module}", f"allowed: {', '.join(NUMPY_OPS)}, and layers")

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        if len(inputs) != 2 or op is None:
            raise Refused(f"{c.layer.kind} of {len(inputs)} inputs", "two")
        y = b.node(c.where, op, [value.name for value in inputs], {})
        masks = {value.mask for value in inputs}
        return [Value(y, b.broadcast(inputs), None if masks == {None} else AMBIGUOUS)]

    return Parsed(emit)


def _concatenate(c: Config) -> Parsed:
    axes = c.axes("axis", -1)
    if len(axes) != 1 or axes[0] == 0:
        c.refuse(f"axis={axes}", "one axis, not the batch")

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        ranks = {len(value.dims) for value in inputs}
        rank = max(ranks, default=0)
        if len(inputs) < 1 or len(ranks) != 1 or not -rank < axes[0] < rank:
            raise Refused(f"axis={axes} of {[list(v.dims) for v in inputs]}", "equal ranks")
        axis = axes[0] % rank
        rest = [replace(v, dims=(*v.dims[:axis], 1, *v.dims[axis + 1 :])) for v in inputs]
        dims = list(b.broadcast(rest))
        along = [value.dims[axis] for value in inputs]
        known = [size for size in along if isinstance(size, int)]
        dims[axis] = sum(known) if len(known) == len(along) else b.fresh(c.where, axis)
        y = b.node(c.where, "Concat", [value.name for value in inputs], {"axis": axis})
        mask = merged_mask(inputs)
        if mask is not None and axis != rank - 1:
            mask = AMBIGUOUS
        return [Value(y, tuple(dims), mask, inputs[0].dtype)]

    return Parsed(emit)


READERS: dict[str, Callable[[Config], Parsed]] = {
    **dict.fromkeys(IDENTITIES, _identity),
    **dict.fromkeys(acts.LAYERS, acts.read_layer),
    **dict.fromkeys(MERGES, _merge),
    "PReLU": acts.read_prelu,
    "Dense": _dense,
    "Embedding": _embedding,
    "Masking": _masking,
    "BatchNormalization": _batch_norm,
    "BatchNormalizationV1": _batch_norm,
    "BatchNormalizationV2": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Rescaling": _rescaling,
    "Concatenate": _concatenate,
}
