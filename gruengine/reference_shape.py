# SPDX-License-Identifier: MIT
"""Graph operators that make, shape and move data. Definitions: the ONNX operators of that name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gruengine.reference_ops import Array, axes_of, axis_of, broadcast, check_size, ints, register

# The element types of a graph, and what folding may meet before them, by their ONNX number.
ONNX_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip


def dtype_of(to: int | str) -> np.dtype[np.generic]:
    """Return the dtype of a Cast target: the number of an ONNX type, or a dtype by name."""
    name = to if isinstance(to, str) else ONNX_DTYPES.get(to)
    if name not in ONNX_DTYPES.values():
        raise ValueError(f"type {to!r}; the types are {ONNX_DTYPES}")
    return np.dtype(name)


# -- constants ------------------------------------------------------------------------------------


@register("Constant")
def constant(
    *,
    value: Array | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Array:
    """Return the one value given: an array, or float32 or int64 from numbers."""
    floats = [v for v in (value_float, value_floats) if v is not None]
    integers = [v for v in (value_int, value_ints) if v is not None]
    if (value is not None) + len(floats) + len(integers) != 1:
        raise ValueError("it needs exactly one of its value attributes")
    if value is not None:
        return np.asarray(value)
    return np.asarray(floats[0], np.float32) if floats else np.asarray(integers[0], np.int64)


@register("ConstantOfShape")
def constant_of_shape(
    shape: Array, /, *, value: Array | Sequence[float] | float | None = None
) -> Array:
    """Return ``shape`` filled with ``value``: an array, or a number (float32 or int64)."""
    if value is None:
        fill = np.zeros(1, np.float32)
    elif isinstance(value, np.ndarray):
        fill = value
    else:
        fill = np.asarray(value)
        fill = fill.astype(np.float32) if fill.dtype.kind == "f" else fill
    if fill.size != 1:
        raise ValueError(f"value has {fill.size} elements; it must have 1")
    return np.full(check_size(ints(shape)), fill.reshape(()))


@register("Range")
def arange(start: Array, limit: Array, delta: Array, /) -> Array:
    """Return ``start + i * delta`` for each i that stays before ``limit``."""
    first, last, step = (a.reshape(()) for a in (start, limit, delta))
    if step == 0:
        raise ValueError("delta is 0")
    if first.dtype.kind in "iu":
        count = -(-(int(last) - int(first)) // int(step))
    else:
        span = (float(last) - float(first)) / float(step)
        if not np.isfinite(span):
            raise ValueError(f"from {first} to {last} by {step}; all must be finite")
        count = int(np.ceil(span))
    (size,) = check_size([max(count, 0)])
    steps = np.arange(size).astype(first.dtype)
    return np.asarray((first + steps * step).astype(first.dtype))


@register("Shape")
def shape_of(data: Array, /, *, start: int = 0, end: int | None = None) -> Array:
    """Return the sizes ``start:end`` of ``data`` in int64."""
    return np.array(data.shape[start:end], np.int64)


@register("Size")
def size_of(data: Array, /) -> Array:
    """Return the number of elements of ``data`` in int64."""
    return np.array(data.size, np.int64)


@register("Cast")
def cast(data: Array, /, *, to: int | str, saturate: int = 1) -> Array:
    """Return ``data`` in another type; floats become integers toward zero."""
    return np.asarray(data.astype(dtype_of(to)))


# -- shapes ---------------------------------------------------------------------------------------


@register("Identity")
def identity(data: Array, /) -> Array:
    """Return ``data``."""
    return data


@register("Dropout")
def dropout(
    data: Array,
    ratio: Array | None = None,
    training_mode: Array | None = None,
    /,
    *,
    seed: int = 0,
) -> tuple[Array, Array]:
    """Return ``data`` and a mask of ones: inference alone."""
    if training_mode is not None and bool(training_mode):
        raise ValueError("training_mode is 1; only inference is defined")
    return data, np.ones(data.shape, bool)


@register("Reshape")
def reshape(data: Array, shape: Array, /, *, allowzero: int = 0) -> Array:
    """Return ``data`` in ``shape``: -1 is what is left, 0 keeps a size unless ``allowzero``."""
    target = ints(shape)
    if not allowzero:
        if any(s == 0 and i >= data.ndim for i, s in enumerate(target)):
            raise ValueError(f"shape {target} keeps a size that {data.shape} has not")
        target = [data.shape[i] if s == 0 else s for i, s in enumerate(target)]
    if target.count(-1) > 1 or min(target, default=0) < -1:
        raise ValueError(f"shape is {target}; one size may be -1, none less")
    if -1 in target and 0 in target:
        raise ValueError(f"shape is {target}; -1 is not defined beside 0")
    check_size([s for s in target if s != -1])
    return data.reshape(target)


@register("Flatten")
def flatten(data: Array, /, *, axis: int = 1) -> Array:
    """Return a matrix: the sizes before ``axis``, then the rest."""
    if not -data.ndim <= axis <= data.ndim:
        raise ValueError(f"axis is {axis}; it must be from {-data.ndim} to {data.ndim}")
    split = axis + data.ndim if axis < 0 else axis
    rows = int(np.prod(data.shape[:split], dtype=np.int64))
    return data.reshape(rows, int(np.prod(data.shape[split:], dtype=np.int64)))


@register("Squeeze")
def squeeze(data: Array, axes: Array | None = None, /) -> Array:
    """Return ``data`` without the axes of size 1 that are named, or without all of them."""
    return np.squeeze(data, None if axes is None else axes_of(axes, data.ndim))


@register("Unsqueeze")
def unsqueeze(data: Array, axes: Array, /) -> Array:
    """Return ``data`` with axes of size 1 at the places ``axes`` of the result."""
    return np.expand_dims(data, axes_of(axes, data.ndim + len(ints(axes))))


@register("Transpose")
def transpose(data: Array, /, *, perm: Sequence[int] | None = None) -> Array:
    """Return ``data`` with its axes in the order ``perm``, by default reversed."""
    order = None if perm is None else [int(p) for p in perm]
    return np.asarray(np.transpose(data, order))


@register("Expand")
def expand(data: Array, shape: Array, /) -> Array:
    """Return ``data`` broadcast with ``shape``, in both directions."""
    target = np.broadcast_shapes(data.shape, check_size(ints(shape)))
    return np.array(np.broadcast_to(data, check_size(target)))


@register("Tile")
def tile(data: Array, repeats: Array, /) -> Array:
    """Return ``data`` repeated along each axis."""
    counts = ints(repeats)
    if len(counts) != data.ndim:
        raise ValueError(f"repeats are {counts}; {data.ndim} are needed")
    check_size([s * r for s, r in zip(data.shape, counts, strict=True)])
    return np.tile(data, counts)


# -- movement -------------------------------------------------------------------------------------


@register("Concat")
def concat(*tensors: Array, axis: int) -> Array:
    """Return ``tensors`` one after the other along ``axis``."""
    check_size([sum(t.size for t in tensors)])
    return np.concatenate(tensors, axis_of(axis, tensors[0].ndim))


@register("Split")
def split(
    data: Array, sizes: Array | None = None, /, *, axis: int = 0, num_outputs: int | None = None
) -> tuple[Array, ...]:
    """Return ``data`` in parts along ``axis``: of ``sizes``, or equal with a smaller last one."""
    axis = axis_of(axis, data.ndim)
    total = data.shape[axis]
    if sizes is not None:
        parts = ints(sizes)
    elif num_outputs is not None and 0 < num_outputs <= max(total, 1):
        each = -(-total // num_outputs)
        parts = [max(0, min(each, total - i * each)) for i in range(num_outputs)]
    else:
        raise ValueError(f"num_outputs is {num_outputs}; without sizes it must be 1 to {total}")
    if sum(parts) != total or min(parts, default=0) < 0:
        raise ValueError(f"sizes are {parts}; they must add up to {total}")
    return tuple(np.split(data, np.cumsum(parts)[:-1], axis))


@register("Slice")
def slice_(
    data: Array,
    starts: Array,
    ends: Array,
    axes: Array | None = None,
    steps: Array | None = None,
    /,
) -> Array:
    """Return ``data[start:end:step]`` along each of ``axes``.

    Negative bounds count from the end and all are clamped, as in Python; but an end that is still
    negative after that lies before the first element, so a negative step reaches index 0.
    """
    first, last = ints(starts), ints(ends)
    where = range(len(first)) if axes is None else ints(axes)
    by = [1] * len(first) if steps is None else ints(steps)
    if not len(first) == len(last) == len(where) == len(by):
        raise ValueError(f"starts {first}, ends {last}, axes {list(where)}, steps {by} differ")
    index = [slice(None)] * data.ndim
    for a, start, end, step in zip(axes_of(list(where), data.ndim), first, last, by, strict=True):
        index[a] = _bounds(start, end, step, data.shape[a])
    return data[tuple(index)]


def _bounds(start: int, end: int, step: int, size: int) -> slice:
    if step == 0:
        raise ValueError("a step is 0")
    start += size if start < 0 else 0
    end += size if end < 0 else 0
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
    return slice(start, None if end < 0 else end, step) if size else slice(0, 0)


@register("Gather")
def gather(data: Array, indices: Array, /, *, axis: int = 0) -> Array:
    """Return the slices of ``data`` along ``axis`` at ``indices``; negative ones from the end."""
    axis = axis_of(axis, data.ndim)
    size = data.shape[axis]
    if indices.dtype.kind not in "iu":
        raise ValueError(f"indices are {indices.dtype}; they must be integers")
    if indices.size and (indices.min() < -size or indices.max() >= size):
        raise ValueError(
            f"indices are from {indices.min()} to {indices.max()}; "
            f"they must be from {-size} to {size - 1}"
        )
    check_size(data.shape[:axis] + indices.shape + data.shape[axis + 1 :])
    return np.take(data, indices, axis)


@register("Where")
def where(condition: Array, x: Array, y: Array, /) -> Array:
    """Return ``x`` where ``condition`` holds, else ``y``; all broadcast."""
    broadcast(condition, x, y)
    if condition.dtype != np.bool_:
        raise ValueError(f"condition is {condition.dtype}; it must be bool")
    return np.where(condition, x, y)


@register("Pad")
def pad(
    data: Array,
    pads: Array,
    value: Array | None = None,
    axes: Array | None = None,
    /,
    *,
    mode: str = "constant",
) -> Array:
    """Return ``data`` with ``pads`` elements before and after each of ``axes``; less if negative.

    ``pads`` is all the befores, then all the afters. ``mode``: constant (``value``, by default 0),
    reflect (without the edge), edge, wrap.
    """
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise ValueError(f"mode is {mode!r}; it must be constant, reflect, edge or wrap")
    where = range(data.ndim) if axes is None else axes_of(axes, data.ndim)
    amounts = ints(pads)
    if len(amounts) != 2 * len(where):
        raise ValueError(f"{len(amounts)} pads; {len(where)} axes need {2 * len(where)}")
    widths = [(0, 0)] * data.ndim
    for i, a in enumerate(where):
        widths[a] = (amounts[i], amounts[i + len(where)])
    check_size([s + b + a for s, (b, a) in zip(data.shape, widths, strict=True)])
    if any(max(-b, 0) + max(-a, 0) > s for s, (b, a) in zip(data.shape, widths, strict=True)):
        raise ValueError(f"pads {widths} remove more than there is in {data.shape}")
    data = data[tuple(slice(max(-b, 0), -max(-a, 0) or None) for b, a in widths)]
    grow = [(max(b, 0), max(a, 0)) for b, a in widths]
    if mode == "constant":
        fill = 0 if value is None else value.reshape(()).astype(data.dtype)
        return np.pad(data, grow, constant_values=fill)
    return _pad_from_data(data, grow, mode)


def _pad_from_data(data: Array, grow: list[tuple[int, int]], mode: str) -> Array:
    """Pad one axis after the other by indices into what is there."""
    for axis, (before, after) in enumerate(grow):
        if before == after == 0:
            continue
        size = data.shape[axis]
        if size == 0 or (mode == "reflect" and max(before, after) >= size):
            raise ValueError(f"{mode} by {(before, after)} of size {size}")
        index = np.arange(-before, size + after)
        if mode == "reflect":
            index = np.abs(index)
            index = np.where(index >= size, 2 * (size - 1) - index, index)
        elif mode == "edge":
            index = np.clip(index, 0, size - 1)
        data = np.take(data, index % size, axis)
    return data
