# SPDX-License-Identifier: MIT
"""The free sizes of a traced program: their names, and their values inside the graph.

torch writes each size as an expression of the sizes of the inputs. Such an expression is a number,
a name (``"N"``, ``"T"``), or arithmetic on ``Shape`` of the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from gruengine.converters.onnx_fold import Builder
from gruengine.spec import Dim

#: An int, or an expression of sympy that is none.
Size: TypeAlias = Any

NAMES = ("N", "T")


class SizeError(ValueError):
    """An expression that has no operators here."""


def size_of(value: Any) -> Size:
    """Return a size of torch (int or SymInt) as an int or an expression."""
    node = getattr(value, "node", None)
    expression = getattr(node, "expr", value)
    if isinstance(expression, int):
        return int(expression)
    if getattr(expression, "is_Integer", False):
        return int(expression)
    return expression


def sizes_of(tensor: Any) -> tuple[Size, ...]:
    """Return the sizes of a tensor of the trace."""
    return tuple(size_of(value) for value in tensor.shape)


class Sizes:
    """Names and values of the sizes of one program.

    Parameters
    ----------
    builder : Builder
        The arithmetic is added here.
    inputs : sequence of (str, sizes)
        Graph inputs in their order.
    hints : sequence of (int, size)
        Which of ``NAMES`` a size is, as the recurrent layers tell: 0 the batch, 1 the time.
    """

    def __init__(
        self,
        builder: Builder,
        inputs: Sequence[tuple[str, tuple[Size, ...]]],
        hints: Sequence[tuple[int, Size]],
    ) -> None:
        self.builder = builder
        self.sources: dict[Any, tuple[str, int]] = {}
        for name, shape in inputs:
            for axis, size in enumerate(shape):
                if getattr(size, "is_Symbol", False):
                    self.sources.setdefault(size, (name, axis))
        self.names = self._named(inputs, hints)
        self._values: dict[Size, str] = {}

    def _named(
        self,
        inputs: Sequence[tuple[str, tuple[Size, ...]]],
        hints: Sequence[tuple[int, Size]],
    ) -> dict[Any, str]:
        names: dict[Any, str] = {}
        for which, size in hints:
            symbols: set[Any] = set(getattr(size, "free_symbols", ())) & set(self.sources)
            if len(symbols) == 1 and NAMES[which] not in names.values():
                names.setdefault(symbols.pop(), NAMES[which])
        for name, shape in inputs:
            for axis, size in enumerate(shape):
                if size not in self.sources or size in names:
                    continue
                usual = NAMES[axis] if axis == 0 or (axis == 1 and _is_sequence(shape)) else ""
                taken = names.values()
                wish = usual if usual and usual not in taken else f"{name}_{axis}"
                while wish in taken:
                    wish += "_"
                names[size] = wish
        return names

    def dim(self, size: Size) -> Dim:
        """Return a size as a graph has it in a port: a number or a name."""
        if isinstance(size, int):
            return size
        if size in self.names:
            return self.names[size]
        text = str(size.subs({symbol: _symbol(name) for symbol, name in self.names.items()}))
        return text.replace("\0", "")

    def dims(self, sizes: Sequence[Size]) -> tuple[Dim, ...]:
        """Return the shape of a port."""
        return tuple(self.dim(size) for size in sizes)

    # -- values -----------------------------------------------------------------------------------

    def vector(self, sizes: Sequence[Size]) -> str:
        """Return sizes as an int64 vector; numbers side by side are one constant."""
        parts: list[str] = []
        numbers: list[int] = []

        def flush() -> None:
            if numbers:
                parts.append(self.builder.integers(numbers, "sizes"))
                numbers.clear()

        for size in sizes:
            if isinstance(size, int):
                numbers.append(size)
            else:
                flush()
                parts.append(self._value(size))
        flush()
        if not parts:
            return self.builder.integers([], "sizes")
        return parts[0] if len(parts) == 1 else self._emit("Concat", parts, {"axis": 0})

    def scalar(self, size: Size) -> str:
        """Return one size as an int64 number without axes."""
        if isinstance(size, int):
            return self.builder.constant(np.array(size, np.int64), "size")
        axis = self.builder.integers([0], "axis")
        return self._emit("Squeeze", [self._value(size), axis])

    def _emit(self, op: str, inputs: Sequence[str], attrs: dict[str, Any] | None = None) -> str:
        return self.builder.emit(op, inputs, attrs, (f"size_{op}",), "sizes")[0]

    def _value(self, size: Size) -> str:
        """Return a size as an int64 vector of one element."""
        if size not in self._values:
            self._values[size] = self._compute(size)
        return self._values[size]

    def _compute(self, size: Size) -> str:
        if isinstance(size, int) or size.is_Integer:
            return self.builder.integers([int(size)], "size")
        if size in self.sources:
            name, axis = self.sources[size]
            shape = self._emit("Shape", [name])
            return self._emit("Gather", [shape, self.builder.integers([axis])], {"axis": 0})
        kind = type(size).__name__
        operator = _OPERATORS.get(kind)
        if operator is None:
            raise SizeError(f"a size {size}")
        values = [self._value(part) for part in size.args]
        result = values[0]
        for value in values[1:]:
            result = self._emit(operator, [result, value], {"fmod": 0} if operator == "Mod" else {})
        return result


def _is_sequence(shape: tuple[Size, ...]) -> bool:
    """Whether sizes look like [N, T, features] or, of indices, [N, T]."""
    return len(shape) == 3 and isinstance(shape[2], int)


def _symbol(name: str) -> Any:
    import sympy  # torch needs it, so it is there

    return sympy.Symbol(name, integer=True)


#: Class of an expression -> operator on int64; sizes are not negative, so Div rounds down.
_OPERATORS = {
    "Add": "Add",
    "Mul": "Mul",
    "FloorDiv": "Div",
    "CleanDiv": "Div",
    "Mod": "Mod",
    "PythonMod": "Mod",
    "Max": "Max",
    "Min": "Min",
}
