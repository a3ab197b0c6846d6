# SPDX-License-Identifier: MIT
"""Calls of a trace on constants alone, computed by torch itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from gruengine.converters.aten import Context
from gruengine.converters.torch_module import to_numpy
from gruengine.converters.torch_sizes import size_of, sizes_of

Array = np.ndarray[Any, Any]

#: A result may have this many elements, and more where its arguments have more.
MAX_FACTORY = 1 << 12
MAX_RESULT = 1 << 20


def fold(context: Context, node: Any) -> str | list[str] | None:
    """Return the constants that a call gives; None where it depends on inputs, or is too large."""
    import torch

    if not isinstance(node.target, torch._ops.OpOverload) or not _is_plain(node):
        return None
    arrays: dict[Any, Array] = {}
    for one in node.all_input_nodes:
        name = context.values.get(one)
        if name is None:  # a size, which _is_plain has found to be a number
            continue
        array = context.builder.array(name) if isinstance(name, str) else None
        if array is None:
            return None
        arrays[one] = array
    metas = node.meta["val"] if isinstance(node.meta["val"], (list, tuple)) else [node.meta["val"]]
    counts = [int(np.prod(sizes_of(meta), dtype=object)) for meta in metas]
    given = sum(array.size for array in arrays.values())
    if sum(counts) > (max(MAX_RESULT, 4 * given) if arrays else MAX_FACTORY):
        return None
    values = _computed(node, arrays)
    if values is None or len(values) != len(metas):
        return None
    context.builder.folded += 1
    names = [context.builder.constant(value, node.name) for value in values]
    return names if isinstance(node.meta["val"], (list, tuple)) else names[0]


def _is_plain(node: Any) -> bool:
    """Whether a call gives the same each time, without writing, and its sizes are numbers."""
    import torch

    target = node.target
    if torch.Tag.nondeterministic_seeded in target.tags or target._schema.is_mutable:
        return False
    if target.namespace != "aten" or "empty" in str(target):
        return False
    values = [node.meta.get("val"), *(one.meta.get("val") for one in node.all_input_nodes)]
    for value in values:
        for one in value if isinstance(value, (list, tuple)) else [value]:
            sizes = sizes_of(one) if hasattr(one, "shape") else (size_of(one),)
            if not all(isinstance(size, int) for size in sizes):
                return False
    return True


def _computed(node: Any, arrays: dict[Any, Array]) -> list[Array] | None:
    import torch
    from torch.fx.node import map_arg

    def argument(one: Any) -> Any:
        if one not in arrays:
            return size_of(one.meta["val"])
        tensor = torch.from_numpy(np.array(arrays[one]))
        return tensor.to(one.meta["val"].dtype)

    args, kwargs = map_arg(node.args, argument), dict(map_arg(node.kwargs, argument))
    if "device" in kwargs:
        kwargs["device"] = "cpu"
    try:
        with torch.no_grad():
            results = node.target(*args, **kwargs)
    except (RuntimeError, NotImplementedError):
        return None
    many = results if isinstance(results, (list, tuple)) else [results]
    found = [to_numpy(one, True) if isinstance(one, torch.Tensor) else None for one in many]
    if any(array is None for array in found):
        return None
    return [_narrow(array) for array in found if array is not None]


def _narrow(array: Array) -> Array:
    """Every float is float32 in a graph."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32) if array.dtype == np.float64 else array
