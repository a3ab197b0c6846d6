# SPDX-License-Identifier: MIT
"""What is known of every value before any input arrives: dtype, sizes, and values of shapes.

Works on ``spec.Node``, so on every source. A size is a number, a name (of a graph input's size),
or None where nothing is known; nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gruengine.safetensors import MAX_RANK
from gruengine.spec import Graph, Node

Array = np.ndarray[Any, Any]
Size: TypeAlias = "int | str | None"
Shape: TypeAlias = "tuple[Size, ...] | None"

#: Longest integer value that is followed element by element.
MAX_VALUE = 64


@dataclass(frozen=True)
class Info:
    """One value. ``value`` holds its elements, flat, if it is a short integer or boolean value."""

    dtype: str = ""
    shape: Shape = None
    value: tuple[Size, ...] | None = None

    @property
    def rank(self) -> int | None:
        """Number of axes, or None."""
        return None if self.shape is None else len(self.shape)

    def integers(self) -> list[int] | None:
        """Return the value as numbers if all are known."""
        if self.value is None or not all(isinstance(v, int) for v in self.value):
            return None
        return [int(v) for v in self.value if v is not None]

    def elements(self) -> int | None:
        """Return the number of elements if all sizes are known."""
        return count(self.shape)


UNKNOWN = Info()


def count(shape: Shape) -> int | None:
    """Return the product of the sizes, or None if one is not a number."""
    if shape is None or not all(isinstance(s, int) for s in shape):
        return None
    return math.prod(s for s in shape if isinstance(s, int))


def of_array(array: Array, dtype: str = "") -> Info:
    """Return what is known of a constant: everything."""
    value = None
    if array.dtype.kind in "iub" and array.size <= MAX_VALUE and array.ndim <= 1:
        value = tuple(int(v) for v in array.reshape(-1))
    return Info(dtype or array.dtype.name, tuple(array.shape), value)


def known(info: Info) -> Array | None:
    """Return the array that ``info`` stands for if every element is known."""
    numbers = info.integers()
    if numbers is None or info.shape is None or info.dtype not in ("int64", "int32", "bool"):
        return None
    try:
        return np.array(numbers, np.int64).astype(info.dtype).reshape(info.shape)
    except OverflowError:
        return None


def infer(
    node: Node, inputs: Sequence[Info], branches: Sequence[Sequence[Info]] = ()
) -> list[Info]:
    """Return what is known of each output of ``node``; ``Info()`` where no rule applies.

    Parameters
    ----------
    node : Node
        Operators in their newest form.
    inputs : sequence of Info
        One for each input; ``Info()`` for an absent one.
    branches : sequence of sequences of Info
        For ``If``: the outputs of the two branches.
    """
    outputs = len(node.outputs)
    if node.op == "If":
        return [merge(*both) for both in zip(*branches, strict=True)]
    function = RULES.get(node.op)
    if function is None:
        return [UNKNOWN] * outputs
    try:
        result = function(node, inputs)
    except (ArithmeticError, LookupError, ValueError, TypeError, AttributeError):
        # Nonsense in a node is reported by the operator itself.
        return [UNKNOWN] * outputs
    infos = result if isinstance(result, list) else [result]
    return [*infos, *[UNKNOWN] * outputs][:outputs]


Rule = Callable[[Node, Sequence[Info]], "Info | list[Info]"]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a function into ``RULES`` under each name."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


def axis_of(axis: int, rank: int) -> int:
    """Return ``axis`` from 0 to ``rank - 1``."""
    if not -rank <= axis < rank:
        raise ValueError("axis")
    return axis % rank


def unknown_sizes(rank: Size) -> Shape:
    """Return a shape of which only the rank is known; None if it is not, or is nonsense."""
    return (None,) * rank if isinstance(rank, int) and 0 <= rank <= MAX_RANK else None


def given(node: Node, index: int) -> bool:
    """Whether an optional input is there, known or not."""
    return index < len(node.inputs) and node.inputs[index] != ""


def attr(node: Node, name: str, default: int) -> int:
    """Return an integer attribute."""
    value = node.attrs.get(name, default)
    return value if isinstance(value, int) else default


def merge(a: Info, b: Info) -> Info:
    """Return what holds for both."""
    dtype = a.dtype or b.dtype
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return Info(dtype)
    return Info(dtype, tuple(x if x == y else None for x, y in zip(a.shape, b.shape, strict=True)))


def broadcast(*shapes: Shape) -> Shape:
    """Return the broadcast of shapes as far as it is known."""
    if any(shape is None for shape in shapes):
        return None
    known_shapes = [shape for shape in shapes if shape is not None]
    rank = max((len(s) for s in known_shapes), default=0)
    result: list[Size] = []
    for axis in range(rank):
        column = [s[axis - rank + len(s)] for s in known_shapes if axis - rank + len(s) >= 0]
        wide = [size for size in column if size != 1]
        fixed = [size for size in wide if isinstance(size, int)]
        if fixed:
            result.append(fixed[0])
        elif not wide:
            result.append(1)
        else:
            result.append(wide[0] if all(size == wide[0] for size in wide) else None)
    return tuple(result)


def infer_graph(graph: Graph, known_values: dict[str, Info]) -> None:
    """Add what is known of every value of ``graph`` and its branches to ``known_values``."""
    for node in graph.nodes:
        branches = []
        for key in ("then_branch", "else_branch") if node.op == "If" else ():
            branch = node.attrs[key]
            assert isinstance(branch, Graph)
            infer_graph(branch, known_values)
            branches.append([known_values.get(port.name, UNKNOWN) for port in branch.outputs])
        inputs = [known_values.get(name, UNKNOWN) for name in node.inputs]
        for name, info in zip(node.outputs, infer(node, inputs, branches), strict=True):
            if name:
                known_values[name] = info
