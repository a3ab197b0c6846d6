# SPDX-License-Identifier: MIT
"""Operators of Keras 3 outside of layers: ``x[:, -1]``, ``ops.mean(x, axis=1)``, ``-x``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gruengine.converters import keras_activations as acts
from gruengine.converters import keras_layers
from gruengine.converters.keras_base import (
    AMBIGUOUS,
    Arrays,
    Config,
    Parsed,
    Refused,
    Value,
)
from gruengine.spec import Attr, Dim

if TYPE_CHECKING:
    from gruengine.converters.keras_graph import Builder

_END = (1 << 63) - 1


def masked(*values: Value) -> str | None:
    """Return the mask after an operator, which Keras does not follow through it."""
    return None if all(value.mask is None for value in values) else AMBIGUOUS


def axis_of(axis: int, rank: int, least: int = 1) -> int:
    """Return an axis from 0; the batch, axis 0, stays as it is."""
    found = axis + rank if axis < 0 else axis
    if not least <= found < rank:
        raise Refused(f"axis {axis} of {rank}", f"an axis from {least} to {rank - 1}")
    return found


# -- x[...] ---------------------------------------------------------------------------------------


def _get_item(c: Config) -> Parsed:
    keys = _keys(c)

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        rank = len(x.dims)
        taken = sum(key is not None and key is not ... for key in keys)
        if taken > rank or keys.count(...) > 1:
            raise Refused(f"{taken} indices of {rank} axes", "at most one for each")
        place = keys.index(...) if ... in keys else len(keys)
        full = [*keys[:place], *[slice(None)] * (rank - taken), *keys[place + 1 :]]
        return [_taken(b, c.where, x, full)]

    return Parsed(emit)


def _keys(c: Config) -> list[Any]:
    """Return the indices: ints, slices, None for a new axis, ``...``."""
    given = c.raw("key")
    found: list[Any] = []
    for key in given if isinstance(given, list) else [given]:
        kind = key.get("class_name") if isinstance(key, dict) else None
        bounds = key.get("config") if isinstance(key, dict) else None
        if key is None or (type(key) is int and abs(key) < 1 << 31):
            found.append(key)
        elif kind == "__ellipsis__":
            found.append(...)
        elif kind == "__slice__" and isinstance(bounds, dict):
            ends = [bounds.get(one) for one in ("start", "stop", "step")]
            if any(e is not None and (type(e) is not int or abs(e) >= 1 << 31) for e in ends):
                c.refuse(f"[{ends!r:.80}]", "slices of integers")
                ends = [None, None, None]
            found.append(slice(*ends))
        else:
            c.refuse(f"[{key!r:.80}]", "integers, slices, None and ...")
    return found


def _taken(b: Builder, where: str, x: Value, keys: Sequence[Any]) -> Value:
    starts, ends, axes, steps = [], [], [], []
    dims: list[Dim] = []
    gone, new, axis = [], [], 0
    for key in keys:
        if key is None:
            new.append(len(dims))
            dims.append(1)
            continue
        size = x.dims[axis]
        one = slice(key, key + 1 if key != -1 else None) if isinstance(key, int) else key
        if one != slice(None):
            if axis == 0:
                raise Refused(f"an index {key!r} of the batch", "all of it")
            step = 1 if one.step is None else one.step
            if step < 1:
                raise Refused(f"a step of {step}", "a positive one")
            starts.append(one.start or 0)
            ends.append(_END if one.stop is None else one.stop)
            axes.append(axis)
            steps.append(step)
            size = _left(b, where, size, one, axis)
        if isinstance(key, int):
            if size == 0:
                raise Refused(f"index {key} of {list(x.dims)}", "one that is there")
            gone.append(axis)
        else:
            dims.append(size)
        axis += 1
    y = x.name
    if axes:
        bounds = [b.ints(where, "bounds", ints) for ints in (starts, ends, axes, steps)]
        y = b.node(where, "Slice", [y, *bounds], {})
    for op, places in (("Squeeze", gone), ("Unsqueeze", new)):
        if places:
            y = b.node(where, op, [y, b.ints(where, "axes", places)], {})
    return Value(y, tuple(dims), masked(x), x.dtype)


def _left(b: Builder, where: str, size: Dim, key: slice, axis: int) -> Dim:
    if isinstance(size, int):
        return len(range(*key.indices(size)))
    return b.fresh(where, axis)


# -- one input ------------------------------------------------------------------------------------


def _simple(op: str) -> Callable[[Config], Parsed]:
    """Return the reader of an operator that ONNX has by that name."""

    def read(c: Config) -> Parsed:
        def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
            x = b.one(inputs)
            return [Value(b.node(c.where, op, [x.name], {}), x.dims, masked(x))]

        return Parsed(emit)

    return read


def _same(c: Config) -> Parsed:
    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        return [Value(x.name, x.dims, masked(x), x.dtype)]

    return Parsed(emit)


def _square(c: Config) -> Parsed:
    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        return [Value(b.node(c.where, "Mul", [x.name, x.name], {}), x.dims, masked(x))]

    return Parsed(emit)


def _activation(kind: str) -> Callable[[Config], Parsed]:
    """Return the reader of an operator that is an activation of Keras."""

    def read(c: Config) -> Parsed:
        for key in ("approximate", "axis", "negative_slope", "alpha"):
            if c.config.get(key) not in (None, _DEFAULTS.get((kind, key))):
                c.refuse(f"{key}={c.config[key]!r:.40}", f"{_DEFAULTS.get((kind, key))}")
            c.raw(key)
        c.config = {"activation": kind}
        found = acts.activation(c, "activation")

        def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
            x = b.one(inputs)
            y = acts.emit_activation(b, c.where, x, found)
            return [Value(y.name, y.dims, masked(x))]

        return Parsed(emit)

    return read


_DEFAULTS: dict[tuple[str, str], Any] = {
    ("softmax", "axis"): -1, ("log_softmax", "axis"): -1, ("gelu", "approximate"): False,
    ("leaky_relu", "negative_slope"): 0.2, ("elu", "alpha"): 1.0,
}  # fmt: skip


def _reduced(op: str) -> Callable[[Config], Parsed]:
    def read(c: Config) -> Parsed:
        keep, given = c.flag("keepdims", False), c.raw("axis")
        axes = given if isinstance(given, list) else [given]
        if not all(type(axis) is int for axis in axes) or not axes:
            c.refuse(f"axis={given!r:.80}", "axes other than the batch")
            axes = [-1]

        def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
            x = b.one(inputs)
            places = sorted({axis_of(axis, len(x.dims)) for axis in axes})
            names = [x.name, b.ints(c.where, "axes", places)]
            y = b.node(c.where, op, names, {"keepdims": int(keep)})
            dims = [1 if i in places else size for i, size in enumerate(x.dims)]
            if not keep:
                dims = [size for i, size in enumerate(dims) if i not in places]
            return [Value(y, tuple(dims), masked(x))]

        return Parsed(emit)

    return read


def _axes(c: Config) -> Parsed:
    """Read ExpandDims and Squeeze."""
    add = c.layer.kind == "ExpandDims"
    axes = c.axes("axis", -1)

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        places = sorted({axis_of(axis, len(x.dims) + (len(axes) if add else 0)) for axis in axes})
        dims = list(x.dims)
        if add:
            for place in places:
                dims.insert(place, 1)
        elif any(dims[place] != 1 for place in places):
            raise Refused(f"axis={places} of {dims}", "axes of size 1")
        else:
            dims = [size for i, size in enumerate(dims) if i not in places]
        op = "Unsqueeze" if add else "Squeeze"
        y = b.node(c.where, op, [x.name, b.ints(c.where, "axes", places)], {})
        return [Value(y, tuple(dims), masked(x), x.dtype)]

    return Parsed(emit)


def _flip(c: Config) -> Parsed:
    axes = c.axes("axis", 1)

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        places = [axis_of(axis, len(x.dims)) for axis in axes]
        ends = ([-1] * len(places), [-_END] * len(places), places, [-1] * len(places))
        names = [x.name, *(b.ints(c.where, "back", values) for values in ends)]
        return [Value(b.node(c.where, "Slice", names, {}), x.dims, masked(x), x.dtype)]

    return Parsed(emit)


def _transpose(c: Config) -> Parsed:
    order = c.sizes("axes")

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        if order[0] != 0 or sorted(order) != list(range(len(x.dims))):
            raise Refused(f"axes={order} of {list(x.dims)}", "each axis once, the batch first")
        perm: list[int] = list(order)
        y = b.node(c.where, "Transpose", [x.name], {"perm": perm})
        return [Value(y, tuple(x.dims[i] for i in order), masked(x), x.dtype)]

    return Parsed(emit)


def _reshape(c: Config) -> Parsed:
    """Read a Reshape whose first size is the batch; the layer's own has no such size."""
    given = c.raw("newshape", c.raw("target_shape"))
    sizes = given if isinstance(given, list) else []
    good = len(sizes) > 1 and all(type(size) is int and size > 0 for size in sizes[1:])
    if not good or sizes[0] not in (-1, None):
        c.refuse(f"newshape={given!r:.80}", "-1 for the batch, then positive sizes")
        sizes = [-1, 1]

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x, rest = b.one(inputs), sizes[1:]
        known = [size for size in x.dims[1:] if isinstance(size, int)]
        if len(known) != len(x.dims) - 1 or math.prod(known) != math.prod(rest):
            raise Refused(f"{list(x.dims)} as {sizes}", "as many elements, and the batch kept")
        y = b.node(c.where, "Reshape", [x.name, b.ints(c.where, "shape", [0, *rest])], {})
        return [Value(y, (x.dims[0], *rest), masked(x), x.dtype)]

    return Parsed(emit)


# -- several inputs -------------------------------------------------------------------------------


def _stack(c: Config) -> Parsed:
    (axis,) = c.axes("axis", 0)[:1]

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        dims = b.broadcast(inputs)
        place = axis_of(axis, len(dims) + 1)
        axes = b.ints(c.where, "axes", [place])
        wide = [b.node(c.where, "Unsqueeze", [x.name, axes], {}) for x in inputs]
        y = b.node(c.where, "Concat", wide, {"axis": place})
        return [Value(y, (*dims[:place], len(inputs), *dims[place:]), masked(*inputs))]

    return Parsed(emit)


def _matmul(c: Config) -> Parsed:
    turned = [c.flag("transpose_a", False), c.flag("transpose_b", False)]

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        if len(inputs) != 2 or any(len(x.dims) < 3 for x in inputs):
            raise Refused(f"Matmul of {[list(x.dims) for x in inputs]}", "two of 3 axes or more")
        x, y = (
            _turned(b, c.where, one) if turn else one
            for one, turn in zip(inputs, turned, strict=True)
        )
        if len(x.dims) != len(y.dims):
            raise Refused(f"Matmul of {[list(x.dims) for x in inputs]}", "equal ranks")
        out = b.node(c.where, "MatMul", [x.name, y.name], {})
        return [Value(out, (*x.dims[:-1], y.dims[-1]), masked(*inputs))]

    return Parsed(emit)


def _turned(b: Builder, where: str, x: Value) -> Value:
    """Swap the last two axes."""
    rank = len(x.dims)
    perm = [*range(rank - 2), rank - 1, rank - 2]
    name = b.node(where, "Transpose", [x.name], {"perm": perm})
    return x.to(name, [x.dims[axis] for axis in perm])


def _power(c: Config) -> Parsed:
    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        if len(inputs) != 2:
            raise Refused(f"Power of {len(inputs)} inputs", "two")
        y = b.node(c.where, "Pow", [value.name for value in inputs], {})
        return [Value(y, b.broadcast(inputs), masked(*inputs))]

    return Parsed(emit)


def _clip(c: Config) -> Parsed:
    low, high = c.number("x_min", None), c.number("x_max", None)

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        bounds = [b.scalar(c.where, what, v) for what, v in (("low", low), ("high", high))]
        return [Value(b.node(c.where, "Clip", [x.name, *bounds], {}), x.dims, masked(x))]

    return Parsed(emit)


def _split(c: Config) -> Parsed:
    count, (axis,) = c.size("indices_or_sections"), c.axes("axis", 0)[:1]

    def emit(b: Builder, inputs: Sequence[Value], _: Arrays) -> list[Value]:
        x = b.one(inputs)
        place = axis_of(axis, len(x.dims))
        size = x.dims[place]
        if not isinstance(size, int) or size % count:
            raise Refused(f"{count} parts of {size!r}", "equal parts of a known size")
        each = size // count
        found = []
        attrs: dict[str, Attr] = {}
        for i in range(count):
            bounds = [b.ints(c.where, "bounds", [v]) for v in (i * each, (i + 1) * each, place)]
            y = b.node(c.where, "Slice", [x.name, *bounds], attrs)
            found.append(Value(y, (*x.dims[:place], each, *x.dims[place + 1 :]), masked(x)))
        return found

    return Parsed(emit)


READERS: dict[str, Callable[[Config], Parsed]] = {
    "GetItem": _get_item, "ExpandDims": _axes, "Squeeze": _axes, "Flip": _flip,
    "Transpose": _transpose, "Stack": _stack, "Matmul": _matmul, "Power": _power, "Clip": _clip,
    "Split": _split, "Negative": _simple("Neg"), "Exp": _simple("Exp"), "Log": _simple("Log"),
    "Sqrt": _simple("Sqrt"), "Absolute": _simple("Abs"), "Abs": _simple("Abs"),
    "Mean": _reduced("ReduceMean"), "Sum": _reduced("ReduceSum"), "Max": _reduced("ReduceMax"),
    "Min": _reduced("ReduceMin"), "Prod": _reduced("ReduceProd"),
    "Relu": _activation("relu"), "Sigmoid": _activation("sigmoid"), "Tanh": _activation("tanh"),
    "Softplus": _activation("softplus"), "Softsign": _activation("softsign"),
    "Silu": _activation("silu"), "Gelu": _activation("gelu"), "Relu6": _activation("relu6"),
    "LogSoftmax": _activation("log_softmax"), "LeakyRelu": _activation("leaky_relu"),
    "Square": _square, "Identity": _same,
}  # fmt: skip

#: Those that share a name with a layer: in .h5 files the module, which tells them apart, is absent.
SHARED: dict[str, Callable[[Config], Parsed]] = {
    "Softmax": _activation("softmax"), "Elu": _activation("elu"), "Reshape": _reshape,
    "Concatenate": keras_layers.READERS["Concatenate"],
}  # fmt: skip


def known(kind: str) -> Callable[[Config], Parsed] | None:
    """Return the reader of an operator, None for an unknown one."""
    if kind in keras_layers.NUMPY_OPS:
        return keras_layers.numpy_op
    return READERS.get(kind) or SHARED.get(kind)


def reader_of(c: Config) -> Callable[[Config], Parsed]:
    """Return the reader of an operator; what is unknown is refused by it."""
    return known(c.layer.kind) or keras_layers.numpy_op
