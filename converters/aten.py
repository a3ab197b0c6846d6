# SPDX-License-Identifier: MIT
"""The table of ATen operators, and one call of one of them on its way into the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gruengine.converters.onnx_fold import Builder
from gruengine.converters.torch_sizes import Size, Sizes, size_of, sizes_of
from gruengine.reference_shape import ONNX_DTYPES
from gruengine.spec import Attr

Array = np.ndarray[Any, Any]

#: The number that ``Cast`` has for a type of the graph.
CAST = {name: code for code, name in ONNX_DTYPES.items()}
_WIDTH = {"bool": 0, "int32": 1, "int64": 2, "float32": 3}
_HALF = ("torch.float16", "torch.bfloat16")
_FLOATS = ("torch.float32", "torch.float64", *_HALF)
MAX_AXIS = 1 << 31


class Refused(Exception):  # noqa: N818 - not an error: it carries a reason to the report
    """A call that cannot be run: what it has, and what is allowed."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what, why)
        self.what, self.why = what, why


class FreeSize(Refused):
    """A call that could be run if a size were fixed."""


Lower = Callable[["Call"], "str | list[str]"]

#: Operator, ``"aten.add.Tensor"`` -> its function.
LOWER: dict[str, Lower] = {}


def lower(*names: str) -> Callable[[Lower], Lower]:
    """Enter a function for operators, named without their ``aten.``."""

    def enter(function: Lower) -> Lower:
        LOWER.update({f"aten.{name}": function for name in names})
        return function

    return enter


def dtype_name(dtype: Any) -> str:
    """Return a dtype of torch as the graph has it: every float is float32; ``""``: none."""
    text = str(dtype)
    if text in _FLOATS:
        return "float32"
    name = text.removeprefix("torch.")
    return name if name in ("int64", "int32", "bool") else ""


@dataclass
class Context:
    """What all calls of one program share.

    values : what each node of the trace is in the graph; a list where it has several results
    zeros : values of the graph that are zero everywhere
    cache : constants and nodes that several calls can share
    warnings : what a user should know
    """

    builder: Builder
    sizes: Sizes
    values: dict[Any, str | list[str]] = field(default_factory=dict)
    zeros: set[str] = field(default_factory=set)
    cache: dict[Any, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Call:
    """One call: arguments by the names of the operator's schema, tensors as nodes of the trace."""

    context: Context
    node: Any
    args: dict[str, Any]
    title: str

    # -- arguments --------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether an argument is there and not None."""
        return self.args.get(name) is not None

    def meta(self, name: str) -> Any:
        """Return the tensor of the trace (sizes and dtype, no values) that an argument is."""
        return _value(self.args[name])

    def shape(self, name: str) -> tuple[Size, ...]:
        """Return the sizes of a tensor argument."""
        return sizes_of(self.meta(name))

    def rank(self, name: str = "self") -> int:
        """Return the number of axes of a tensor argument."""
        return len(self.shape(name))

    def dtype(self, name: str = "self") -> str:
        """Return the type of a tensor argument in the graph."""
        return dtype_name(self.meta(name).dtype)

    def tensor(self, name: str = "self", dtype: str = "") -> str:
        """Return the value of a tensor argument, cast to ``dtype`` if that is given."""
        return self.given(self.args[name], dtype)

    def tensors(self, name: str, dtype: str = "") -> list[str]:
        """Return the values of a list of tensors."""
        return [self.given(one, dtype) for one in self.args[name]]

    def given(self, node: Any, dtype: str = "") -> str:
        """Return the value of a node of the trace."""
        value = self.context.values[node]
        if isinstance(value, list):
            raise Refused("a list of tensors", "one tensor is needed")
        own = dtype_name(_value(node).dtype)
        return value if not dtype or own == dtype else self.cast(value, dtype)

    def operand(self, name: str, dtype: str) -> str:
        """Return a tensor or a number as a value of ``dtype``."""
        given = self.args[name]
        if given in self.context.values if _is_node(given) else False:
            return self.given(given, dtype)
        value = _value(given)
        if isinstance(value, (bool, int, float)):
            return self.number(value, dtype)
        return self.cast(self.context.sizes.scalar(_integer(value)), dtype)

    def size(self, name: str) -> Size:
        """Return an integer that may be an expression of sizes."""
        return _integer(_value(self.args[name]))

    def sizes(self, name: str) -> list[Size]:
        """Return a list of such integers."""
        return [_integer(_value(one)) for one in self.args[name]]

    def integer(self, name: str) -> int:
        """Return an integer that is known."""
        size = self.size(name)
        if not isinstance(size, int):
            raise FreeSize(f"{name} = {size}", "a fixed number")
        return size

    def integers(self, name: str, count: int = 0) -> list[int]:
        """Return a list of known integers; one number stands for ``count`` equal ones."""
        sizes = self.sizes(name) if self.has(name) else []
        if not all(isinstance(size, int) for size in sizes):
            raise FreeSize(f"{name} = {sizes}", "fixed numbers")
        return sizes * count if len(sizes) == 1 < count else sizes

    def real(self, name: str) -> float:
        """Return a number that is known."""
        value = _value(self.args[name])
        if isinstance(value, (bool, int, float)):
            return float(value)
        raise Refused(f"{name} = {value}", "a fixed number")

    def axis(self, name: str = "dim", rank: int | None = None) -> int:
        """Return an axis, counted from 0."""
        rank = self.rank() if rank is None else rank
        return self.integer(name) % max(rank, 1)

    def axes(self, name: str = "dim", rank: int | None = None) -> list[int]:
        """Return a list of axes, counted from 0; a missing or empty one stands for all."""
        rank = self.rank() if rank is None else rank
        given = self.args.get(name)
        if given is None or given == []:
            return list(range(rank))
        numbers = [given] if isinstance(given, int) else self.integers(name)
        return [axis % max(rank, 1) for axis in numbers]

    # -- the result -------------------------------------------------------------------------------

    @property
    def out(self) -> Any:
        """The tensor of the trace that this call gives."""
        return self.node.meta["val"]

    @property
    def out_shape(self) -> tuple[Size, ...]:
        """Its sizes."""
        return sizes_of(self.out)

    @property
    def out_dtype(self) -> str:
        """Its type; refused if the graph has no such type."""
        return self.type_of(self.out.dtype)

    def type_of(self, dtype: Any) -> str:
        """Return a dtype of torch as the graph has it, or refuse it."""
        name = dtype_name(dtype)
        if not name:
            raise Refused(f"{dtype}", "float32, int64, int32 and bool are run")
        return name

    # -- building ---------------------------------------------------------------------------------

    @property
    def builder(self) -> Builder:
        """The graph."""
        return self.context.builder

    def emit(self, op: str, inputs: Sequence[str], **attrs: Attr) -> str:
        """Add a node of one output."""
        return self.builder.emit(op, inputs, attrs, (self.node.name,), self.title)[0]

    def emit_all(
        self, op: str, inputs: Sequence[str], outputs: int, attrs: Mapping[str, Attr] | None = None
    ) -> list[str]:
        """Add a node of several outputs."""
        wishes = [f"{self.node.name}_{i}" for i in range(outputs)]
        return self.builder.emit(op, inputs, attrs, wishes, self.title)

    def number(self, value: float, dtype: str = "float32") -> str:
        """Return a constant without axes."""
        key = ("number", float(value), str(value), dtype)
        if key not in self.context.cache:
            array = np.array(value).astype(dtype)
            self.context.cache[key] = self.builder.constant(array, "number")
        return str(self.context.cache[key])

    def integers_value(self, values: Sequence[int]) -> str:
        """Return a constant int64 vector."""
        key = ("integers", tuple(values))
        if key not in self.context.cache:
            self.context.cache[key] = self.builder.integers(values)
        return str(self.context.cache[key])

    def cast(self, value: str, dtype: str) -> str:
        """Return a value in another type."""
        if self.builder.info(value).dtype == dtype:
            return value
        return self.emit("Cast", [value], to=CAST[dtype])

    def transpose(self, value: str, perm: Sequence[int]) -> str:
        """Move axes; two moves in a row are one, and the same move is made once."""
        before = self.context.cache.get(("moved", value))
        if before is not None:
            value, first = before
            perm = [first[axis] for axis in perm]
        if list(perm) == list(range(len(perm))):
            return value
        key = ("transpose", value, tuple(perm))
        if key not in self.context.cache:
            result = self.emit("Transpose", [value], perm=list(perm))
            self.context.cache[key] = result
            self.context.cache["moved", result] = (value, list(perm))
        return str(self.context.cache[key])

    def squeeze(self, value: str, axes: Sequence[int]) -> str:
        """Take away axes of size 1."""
        return self.emit("Squeeze", [value, self.integers_value(axes)]) if axes else value

    def unsqueeze(self, value: str, axes: Sequence[int]) -> str:
        """Add axes of size 1; they are counted as they are afterwards."""
        axes = list(axes)
        return self.emit("Unsqueeze", [value, self.integers_value(axes)]) if axes else value

    def cut(self, value: str, axis: int, start: Size, end: Size, step: int = 1) -> str:
        """Take a part along one axis."""
        whole = isinstance(end, int) and end >= MAX_AXIS
        if start == 0 and whole and step == 1:
            return value
        vector = self.context.sizes.vector
        bounds = [vector([start]), vector([end]), self.integers_value([axis])]
        if step != 1:
            bounds.append(self.integers_value([step]))
        return self.emit("Slice", [value, *bounds])

    def range(self, start: Size, end: Size, step: int) -> str:
        """Return the integers from ``start`` to before ``end``."""
        scalar = self.context.sizes.scalar
        return self.emit("Range", [scalar(start), scalar(end), scalar(step)])

    def concat(self, values: Sequence[str], axis: int) -> str:
        """Join values along one axis."""
        return values[0] if len(values) == 1 else self.emit("Concat", list(values), axis=axis)

    def reshape(self, value: str, old: Sequence[Size], new: Sequence[Size]) -> str:
        """Bring a value from sizes ``old`` to ``new``."""
        if tuple(old) == tuple(new):
            return value
        target: list[Size] = []
        for place, size in enumerate(new):
            kept = not isinstance(size, int) and place < len(old) and old[place] == size
            target.append(0 if kept else size)
        open_places = [place for place, size in enumerate(target) if not isinstance(size, int)]
        if len(open_places) == 1 and not any(size == 0 for size in new):
            target[open_places[0]] = -1
        # A 0 of the source is a size, not "keep": then nothing is kept by its place.
        allow_zero = any(isinstance(size, int) and size == 0 for size in new)
        shape = self.context.sizes.vector(list(new) if allow_zero else target)
        return self.emit("Reshape", [value, shape], allowzero=int(allow_zero))

    def expand(self, value: str, old: Sequence[Size], new: Sequence[Size]) -> str:
        """Repeat axes of size 1 up to the sizes ``new``."""
        if tuple(old) == tuple(new):
            return value
        padded = [1] * (len(new) - len(old)) + list(old)
        target = [1 if a == b else b for a, b in zip(padded, new, strict=True)]
        if all(size == 1 for size in target):
            return self.unsqueeze(value, list(range(len(new) - len(old))))
        return self.emit("Expand", [value, self.context.sizes.vector(target)])


def _is_node(value: Any) -> bool:
    return hasattr(value, "meta") and hasattr(value, "target")


def _value(given: Any) -> Any:
    """Return what an argument is while it is traced: a number, a size, a tensor without values."""
    return given.meta["val"] if _is_node(given) else given


def _integer(value: Any) -> Size:
    size = size_of(value)
    if isinstance(size, (bool, float)):
        raise Refused(f"a number {size}", "an integer")
    if not isinstance(size, int) and not hasattr(size, "free_symbols"):
        raise Refused(f"a {type(value).__name__}", "an integer, or an expression of sizes")
    return size


def widest(*names: str) -> str:
    """Return the type to which values of these types are brought before they are compared."""
    return max(names, key=lambda name: _WIDTH.get(name, 3))
