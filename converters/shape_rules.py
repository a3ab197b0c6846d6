# SPDX-License-Identifier: MIT
"""What is known of the outputs of elementwise, shaping and moving operators, one rule each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from gruengine.converters import shape_rules_compute  # enters its rules
from gruengine.converters.shapes import (
    MAX_VALUE,
    Info,
    Shape,
    Size,
    attr,
    axis_of,
    broadcast,
    count,
    given,
    rule,
    unknown_sizes,
)
from gruengine.reference_shape import ONNX_DTYPES
from gruengine.spec import Node

_ = shape_rules_compute


# -- elementwise ----------------------------------------------------------------------------------


@rule(
    "Sigmoid", "Tanh", "Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh",
    "HardSigmoid", "Elu", "Softsign", "Softplus", "Neg", "Abs", "Sqrt", "Exp", "Log", "Reciprocal",
    "Square", "Erf", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Not", "Clip", "Softmax",
    "LogSoftmax", "LayerNormalization", "BatchNormalization", "PRelu", "Gelu", "HardSwish",
)  # fmt: skip
def _same(node: Node, x: Sequence[Info]) -> Info:
    return replace(x[0], value=None)


@rule("Identity")
def _identity(node: Node, x: Sequence[Info]) -> Info:
    return x[0]


_INTEGER: dict[str, Callable[[int, int], int]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: (abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1),
    "Min": min,
    "Max": max,
    "Equal": lambda a, b: int(a == b),
    "Less": lambda a, b: int(a < b),
    "LessOrEqual": lambda a, b: int(a <= b),
    "Greater": lambda a, b: int(a > b),
    "GreaterOrEqual": lambda a, b: int(a >= b),
    "And": lambda a, b: int(bool(a) and bool(b)),
    "Or": lambda a, b: int(bool(a) or bool(b)),
}
_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}
_COMPARE = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor")


@rule(*_INTEGER, "Pow", "Mod", "Xor", "Sum", "Mean")
def _binary(node: Node, x: Sequence[Info]) -> Info:
    dtype = "bool" if node.op in _COMPARE else x[0].dtype
    value = None
    function = _INTEGER.get(node.op)
    if function is not None and len(x) == 2 and x[0].dtype in ("int64", "int32", "bool"):
        value = _pairwise(node.op, function, x[0].value, x[1].value)
    return Info(dtype, broadcast(*(i.shape for i in x)), value)


def _pairwise(
    op: str,
    function: Callable[[int, int], int],
    a: tuple[Size, ...] | None,
    b: tuple[Size, ...] | None,
) -> tuple[Size, ...] | None:
    if a is None or b is None or (len(a) != len(b) and 1 not in (len(a), len(b))):
        return None
    length = len(a) if len(b) == 1 else len(b)
    result: list[Size] = []
    for i in range(length):
        left, right = a[i % len(a)], b[i % len(b)]
        if isinstance(left, int) and isinstance(right, int):
            if op == "Div" and right == 0:
                return None
            number = function(left, right)
            result.append(number if abs(number) < 1 << 62 else None)
        else:
            result.append(left if op in _NEUTRAL and right == _NEUTRAL[op] else None)
    return tuple(result)


@rule("Where")
def _where(node: Node, x: Sequence[Info]) -> Info:
    return Info(x[1].dtype, broadcast(*(i.shape for i in x[:3])))


@rule("Cast")
def _cast(node: Node, x: Sequence[Info]) -> Info:
    to = node.attrs["to"]
    dtype = ONNX_DTYPES[to] if isinstance(to, int) else str(to)
    # Sizes as floats are followed too: loops compare them.
    exact = dtype == "float32" and x[0].dtype in ("int64", "int32")
    value = x[0].value if exact or dtype in ("int64", "int32", "bool") else None
    if value is not None and dtype == "bool":
        value = tuple(int(v != 0) if isinstance(v, int) else None for v in value)
    return Info(dtype, x[0].shape, value)


# -- shapes ---------------------------------------------------------------------------------------


@rule("Shape")
def _shape(node: Node, x: Sequence[Info]) -> Info:
    shape = x[0].shape
    if shape is None:
        return Info("int64", (None,))
    end = node.attrs.get("end")
    part = shape[attr(node, "start", 0) : end if isinstance(end, int) else None]
    return Info("int64", (len(part),), part)


@rule("Size")
def _size(node: Node, x: Sequence[Info]) -> Info:
    return Info("int64", (), (x[0].elements(),))


@rule("Reshape")
def _reshape(node: Node, x: Sequence[Info]) -> Info:
    target, source = x[1].value, x[0].shape
    if target is None:
        length = x[1].shape[0] if x[1].shape else None
        return Info(x[0].dtype, unknown_sizes(length))
    sizes: list[Size] = []
    for i, size in enumerate(target):
        if size == 0 and not attr(node, "allowzero", 0):
            size = source[i] if source is not None else None
        sizes.append(size)
    if -1 in sizes:
        sizes[sizes.index(-1)] = _left(source, [s for s in sizes if s != -1])
    value = x[0].value if len(sizes) <= 1 else None
    return Info(x[0].dtype, tuple(sizes), value)


def _left(source: Shape, rest: list[Size]) -> Size:
    """Return what -1 stands for: names that both sides have cancel."""
    if source is None:
        return None
    names = [s for s in source if not isinstance(s, int)]
    for size in [s for s in rest if not isinstance(s, int)]:
        if size is None or size not in names:
            return None
        names.remove(size)
    total = math.prod(s for s in source if isinstance(s, int))
    fixed = math.prod(s for s in rest if isinstance(s, int))
    if len(names) == 1 and total == fixed:
        return names[0]
    return total // fixed if not names and fixed else None


@rule("Flatten")
def _flatten(node: Node, x: Sequence[Info]) -> Info:
    if x[0].shape is None:
        return Info(x[0].dtype, (None, None))
    at = attr(node, "axis", 1)
    at = at + len(x[0].shape) if at < 0 else at
    parts = (x[0].shape[:at], x[0].shape[at:])
    return Info(x[0].dtype, tuple(p[0] if len(p) == 1 else count(p) for p in parts))


@rule("Squeeze")
def _squeeze(node: Node, x: Sequence[Info]) -> Info:
    shape, axes = x[0].shape, x[1].integers() if given(node, 1) else None
    if shape is None or (axes is None and (given(node, 1) or count(shape) is None)):
        return Info(x[0].dtype)
    if axes is None:
        axes = [i for i, s in enumerate(shape) if s == 1]
    gone = {axis_of(a, len(shape)) for a in axes}
    return Info(x[0].dtype, tuple(s for i, s in enumerate(shape) if i not in gone), x[0].value)


@rule("Unsqueeze")
def _unsqueeze(node: Node, x: Sequence[Info]) -> Info:
    axes = x[1].integers()
    if x[0].shape is None or axes is None:
        return Info(x[0].dtype)
    rank = len(x[0].shape) + len(axes)
    new, old = {axis_of(a, rank) for a in axes}, iter(x[0].shape)
    shape = tuple(1 if i in new else next(old, None) for i in range(rank))
    return Info(x[0].dtype, shape, x[0].value if rank <= 1 else None)


@rule("Transpose")
def _transpose(node: Node, x: Sequence[Info]) -> Info:
    if x[0].shape is None:
        return Info(x[0].dtype)
    perm = node.attrs.get("perm")
    order = perm if isinstance(perm, list) else list(range(len(x[0].shape)))[::-1]
    return Info(x[0].dtype, tuple(x[0].shape[int(p)] for p in order if not isinstance(p, str)))


@rule("Expand")
def _expand(node: Node, x: Sequence[Info]) -> Info:
    if x[1].value is None:
        length = x[1].shape[0] if x[1].shape else None
        if x[0].shape is None or not isinstance(length, int):
            return Info(x[0].dtype)
        return Info(x[0].dtype, unknown_sizes(max(length, len(x[0].shape))))
    return Info(x[0].dtype, broadcast(x[0].shape, x[1].value))


@rule("Tile")
def _tile(node: Node, x: Sequence[Info]) -> Info:
    if x[0].shape is None:
        return Info(x[0].dtype)
    repeats = x[1].value or (None,) * len(x[0].shape)
    pairs = zip(x[0].shape, repeats, strict=True)
    return Info(
        x[0].dtype,
        tuple(
            s if r == 1 else s * r if isinstance(s, int) and isinstance(r, int) else None
            for s, r in pairs
        ),
    )


@rule("ConstantOfShape")
def _constant_of_shape(node: Node, x: Sequence[Info]) -> Info:
    value = node.attrs.get("value", 0.0)
    shape = x[0].value
    if shape is None and x[0].shape:
        shape = unknown_sizes(x[0].shape[0])
    return Info("int64" if isinstance(value, int) else "float32", shape)


@rule("Range")
def _range(node: Node, x: Sequence[Info]) -> Info:
    numbers = [i.integers() for i in x]
    if any(n is None or len(n) != 1 for n in numbers):
        return Info(x[0].dtype, (None,))
    start, limit, delta = (n[0] for n in numbers if n)
    return Info(x[0].dtype, (max(-(-(limit - start) // delta), 0) if delta else None,))


# -- movement -------------------------------------------------------------------------------------


@rule("Concat")
def _concat(node: Node, x: Sequence[Info]) -> Info:
    ranks = {i.rank for i in x if i.rank is not None}
    if not ranks:
        return Info(x[0].dtype)
    rank = ranks.pop()
    axis = axis_of(attr(node, "axis", 0), rank)
    shape: list[Size] = []
    for place in range(rank):
        sizes: list[Size] = [None if i.shape is None else i.shape[place] for i in x]
        fixed = [s for s in sizes if isinstance(s, int)]
        named = [s for s in sizes if isinstance(s, str)]
        if place != axis:
            shape.append((fixed or named or [None])[0])
        elif len(sizes) == 1:
            shape.append(sizes[0])
        else:
            shape.append(sum(fixed) if len(fixed) == len(sizes) else None)
    value: tuple[Size, ...] | None = ()
    for info in x[: MAX_VALUE + 1]:
        value = None if value is None or info.value is None else value + info.value
    short = rank == 1 and len(x) <= MAX_VALUE >= len(value or ())
    return Info(x[0].dtype, tuple(shape), value if short else None)


@rule("Split")
def _split(node: Node, x: Sequence[Info]) -> list[Info]:
    parts = len(node.outputs)
    if x[0].shape is None:
        return [Info(x[0].dtype)] * parts
    axis = axis_of(attr(node, "axis", 0), len(x[0].shape))
    total = x[0].shape[axis]
    sizes: list[Size] = [None] * parts
    told = x[1].integers() if given(node, 1) else None
    if told is not None and len(told) == parts:
        sizes = list(told)
    elif not given(node, 1) and isinstance(total, int):
        each = -(-total // parts)
        sizes = [max(0, min(each, total - i * each)) for i in range(parts)]
    return [Info(x[0].dtype, (*x[0].shape[:axis], s, *x[0].shape[axis + 1 :])) for s in sizes]


@rule("Slice")
def _slice(node: Node, x: Sequence[Info]) -> Info:
    if x[0].shape is None:
        return Info(x[0].dtype)
    rank, value = len(x[0].shape), None
    starts, ends = x[1].integers(), x[2].integers()
    axes = x[3].integers() if given(node, 3) else list(range(len(starts or ())))
    steps = x[4].integers() if given(node, 4) else [1] * len(starts or ())
    if starts is None or ends is None or axes is None or steps is None:
        return Info(x[0].dtype, unknown_sizes(rank))
    shape = list(x[0].shape)
    for a, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = axis_of(a, rank)
        part = _part(shape[axis], start, end, step)
        if rank == 1 and x[0].value is not None and part is not None:
            value = x[0].value[part]
        shape[axis] = _length(shape[axis], start, end, step, part)
    return Info(x[0].dtype, tuple(shape), value)


def _part(size: Size, start: int, end: int, step: int) -> slice | None:
    if not isinstance(size, int) or step == 0:
        return None
    start, end = (v + size if v < 0 else v for v in (start, end))
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return slice(start, None if end < 0 else end, step) if size else slice(0, 0)


def _length(size: Size, start: int, end: int, step: int, part: slice | None) -> Size:
    if part is not None and isinstance(size, int):
        return len(range(*part.indices(size)))
    # What takes all of a size that is not known: exporters write a huge end.
    whole = start == 0 and end >= 1 << 31 and step == 1
    turned = start == -1 and end <= -(1 << 31) and step == -1
    return size if (whole or turned) and not isinstance(size, int) else None


@rule("Gather")
def _gather(node: Node, x: Sequence[Info]) -> Info:
    if x[0].shape is None or x[1].shape is None:
        return Info(x[0].dtype)
    axis = axis_of(attr(node, "axis", 0), len(x[0].shape))
    shape = (*x[0].shape[:axis], *x[1].shape, *x[0].shape[axis + 1 :])
    value, places = None, x[1].integers()
    if x[0].value is not None and len(x[0].shape) == 1 and places is not None:
        value = tuple(x[0].value[p] for p in places)
    return Info(x[0].dtype, shape, value)


@rule("Pad")
def _pad(node: Node, x: Sequence[Info]) -> Info:
    shape, pads = x[0].shape, x[1].integers()
    if shape is None:
        return Info(x[0].dtype)
    axes = x[3].integers() if given(node, 3) else list(range(len(shape)))
    if pads is None or axes is None or len(pads) != 2 * len(axes):
        return Info(x[0].dtype, (None,) * len(shape))
    result = list(shape)
    for i, a in enumerate(axes):
        axis, grow = axis_of(a, len(shape)), pads[i] + pads[i + len(axes)]
        size = result[axis]
        result[axis] = size if not grow else size + grow if isinstance(size, int) else None
    return Info(x[0].dtype, tuple(result))
