# SPDX-License-Identifier: MIT
"""Graph operators that order, add up or place elements. Definitions: ONNX's of that name."""

from __future__ import annotations

import math

import numpy as np

from gruengine.reference_ops import Array, axis_of, check_size, ints, register


@register("CumSum")
def cumsum(x: Array, axis: Array, /, *, exclusive: int = 0, reverse: int = 0) -> Array:
    """Return the sums of the elements up to each along ``axis``, without itself if asked."""
    (at,) = (axis_of(a, x.ndim) for a in ints(axis))
    y = np.flip(x, at) if reverse else x
    sums = np.cumsum(y, at, dtype=x.dtype)
    if exclusive:
        sums = np.roll(sums, 1, at)
        np.moveaxis(sums, at, 0)[:1] = 0
    return np.flip(sums, at) if reverse else sums


def _extreme(x: Array, most: bool, axis: int, keepdims: int, select_last_index: int) -> Array:
    at = axis_of(axis, x.ndim)
    find = np.argmax if most else np.argmin
    if not select_last_index:
        return np.asarray(find(x, at, keepdims=bool(keepdims)), np.int64)
    found = x.shape[at] - 1 - find(np.flip(x, at), at, keepdims=bool(keepdims))
    return np.asarray(found, np.int64)


@register("ArgMax")
def argmax(x: Array, /, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Array:
    """Return where the largest element along ``axis`` is, the first or last of equal ones."""
    return _extreme(x, True, axis, keepdims, select_last_index)


@register("ArgMin")
def argmin(x: Array, /, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Array:
    """Return where the smallest element along ``axis`` is, the first or last of equal ones."""
    return _extreme(x, False, axis, keepdims, select_last_index)


@register("TopK")
def top_k(
    x: Array,
    k: Array,
    /,
    *,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,  # noqa: A002
) -> tuple[Array, Array]:
    """Return the ``k`` largest or smallest elements in order, and where they are.

    Of equal elements the first counts as the first. They are ordered whether ``sorted`` or not.
    """
    at = axis_of(axis, x.ndim)
    (most,) = ints(k)
    if not 0 <= most <= x.shape[at]:
        raise ValueError(f"k is {most}; there are {x.shape[at]} elements")
    rows = np.moveaxis(x, at, -1)
    if largest:
        # The order of the reversed row, read from its end, keeps equal elements in place.
        order = rows.shape[-1] - 1 - np.argsort(rows[..., ::-1], -1, kind="stable")[..., ::-1]
    else:
        order = np.argsort(rows, -1, kind="stable")
    order = order[..., :most]
    values = np.take_along_axis(rows, order, -1)
    return np.moveaxis(values, -1, at), np.moveaxis(order, -1, at).astype(np.int64)


_JOIN = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}


@register("ScatterND")
def scatter_nd(data: Array, indices: Array, updates: Array, /, *, reduction: str = "none") -> Array:
    """Return ``data`` with ``updates`` at ``indices`` [..., k] of its first k axes."""
    if reduction != "none" and reduction not in _JOIN:
        raise ValueError(f"reduction is {reduction!r}; it must be none, {', '.join(_JOIN)}")
    k = indices.shape[-1] if indices.ndim else -1
    if not 0 <= k <= data.ndim or updates.shape != indices.shape[:-1] + data.shape[k:]:
        raise ValueError(
            f"data {data.shape}, indices {indices.shape} and updates {updates.shape} do not fit"
        )
    check_size(data.shape)
    result: Array = data.copy()
    rows = indices.reshape(math.prod(indices.shape[:-1]), k)
    values = updates.reshape(len(rows), *data.shape[k:])
    for row, value in zip(rows, values, strict=True):
        place = tuple(axis_of(int(i), size) for i, size in zip(row, data.shape, strict=False))
        join = _JOIN.get(reduction)
        result[place] = value if join is None else join(result[place], value)
    return result
