# SPDX-License-Identifier: MIT
"""What the nodes of a trace tell: arguments, places in the source, names of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from gruengine.converters.torch_sizes import size_of


def bound(node: Any) -> dict[str, Any]:
    """Return the arguments of a call by name, with the defaults of the operator's schema."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return dict(node.kwargs)
    found = {}
    for place, argument in enumerate(schema.arguments):
        if place < len(node.args):
            found[argument.name] = node.args[place]
        elif argument.name in node.kwargs:
            found[argument.name] = node.kwargs[argument.name]
        elif argument.has_default_value():
            found[argument.name] = argument.default_value
    return found


def hints(nodes: Sequence[Any]) -> list[tuple[int, Any]]:
    """Return which sizes the recurrent layers take for batch and time."""
    found = []
    for node in nodes:
        if str(node.target) in ("gruengine.recurrent.default", "gruengine.cell.default"):
            given = bound(node)
            shape = [size_of(size) for size in given["x"].meta["val"].shape]
            if len(shape) == 2:
                found.append((0, shape[0]))
            else:
                batch = 0 if given["batch_first"] else 1
                found += [(0, shape[batch]), (1, shape[1 - batch])]
    return found


def depends_on_values(node: Any) -> bool:
    """Whether a number is made from the elements of a tensor."""
    expression = size_of(node.meta.get("val"))
    symbols: Any = getattr(expression, "free_symbols", ())
    return any(str(symbol).startswith(("u", "zuf", "zf")) for symbol in symbols)


def title(node: Any) -> str:
    """Name a node by its module and operator."""
    path = _module(node)
    return f"{path}/{node.name}" if path else str(node.name)


def _module(node: Any) -> str:
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    if not stack:
        return ""
    path = str(list(stack.values())[-1][0])
    return path.removeprefix("L['self']").lstrip(".")


def place(node: Any) -> str:
    """Say where in the source a call is: module, file and line."""
    line = ""
    for one in (node.meta.get("stack_trace") or "").splitlines():
        parts = one.strip().split('"')
        if one.strip().startswith("File") and len(parts) > 2:
            number = parts[2].split("line", 1)[-1].split(",")[0].strip()
            line = f"{PurePath(parts[1]).name}:{number}"
    path = _module(node)
    return f"{path} ({line})" if path and line else path or line or str(node.name)


def paths(spec: Any) -> list[tuple[str, bool]]:
    """Return the name of each result, and whether the user's code gives it."""
    from torch.utils import _pytree

    tree = _pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    if spec.num_leaves == 1 and tree == 0:
        return [("y", False)]
    result = []
    for path, _ in _pytree.tree_flatten_with_path(tree)[0]:
        keys = [getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))) for key in path]
        named = any(isinstance(key, str) for key in keys)
        text = "_".join(str(key) for key in keys)
        first = all(key == 0 for key in keys)
        result.append((text if named else "y" if first else f"y_{text}", named))
    return result
