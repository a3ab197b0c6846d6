# SPDX-License-Identifier: MIT
"""Builds a ``spec.Graph`` node by node; what is constant is computed at once and never becomes one.

One pass does it all: constants are folded with the operators of ``gruengine.reference_graph``,
sizes are followed (``shapes``), Identity only renames, an operator that cannot be run becomes a
placeholder with its reasons. Placeholders that nothing needs disappear with the other dead nodes;
those that are left are why a model is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gruengine.converters import shape_rules  # enters its rules
from gruengine.converters.base import Reason
from gruengine.converters.onnx_widen import HALF_TYPES, WAY_OUT
from gruengine.converters.shapes import UNKNOWN, Info, infer, known, of_array
from gruengine.errors import GruEngineError
from gruengine.reference_graph import OPS, apply_node
from gruengine.spec import DTYPES, Attr, Graph, Node, Port

_ = shape_rules
Array = np.ndarray[Any, Any]

#: The operator of a placeholder.
REFUSED = "?"

# Folding may make this many bytes, and multiply this often, on top of what the source has.
FREE_BYTES = 8 << 20
FREE_PRODUCTS = 1 << 30
PER_BYTE = 16

_LAYOUT = frozenset(
    ["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Slice", "Split"]
)
_SAME_TYPES = frozenset(
    ["Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Sum", "Mean", "MatMul", "Gemm", "Conv",
     "ConvTranspose", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Concat",
     "PRelu"]
)  # fmt: skip


@dataclass
class Builder:
    """The graph that is being built, and what is known of its values.

    source_bytes : size of the source, for the bounds on folding
    tensors : constants by name, in the types of the source
    infos : what is known of every value
    nodes : of the graph or branch that is open
    problems : why each placeholder cannot be run; its name is the place in this list
    rounding : float64 is narrowed to float32 (a wish of the user)
    hints, warnings : what the user adds to the file, and what they should know
    quantised : float values that stand for integers of other types
    place : index of the node of the source's graph that is being lowered
    origins : that of the node which made each value
    """

    source_bytes: int
    rounding: bool = False
    hints: Mapping[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    quantised: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, Array] = field(default_factory=dict)
    infos: dict[str, Info] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    problems: list[list[Reason]] = field(default_factory=list)
    place: int = -1
    origins: dict[str, int] = field(default_factory=dict)
    folded: int = 0
    rounded: int = 0

    def __post_init__(self) -> None:
        self._used: dict[str, int] = {}
        self._bytes = FREE_BYTES + PER_BYTE * self.source_bytes
        self._products = FREE_PRODUCTS + PER_BYTE * self.source_bytes

    # -- names and constants ----------------------------------------------------------------------

    def fresh(self, wish: str) -> str:
        """Return ``wish`` if no value has that name, else a name made from it."""
        wish = wish.replace("\0", "") or "value"
        name, number = wish, self._used.get(wish, 0)
        while name in self._used:
            number += 1
            name = f"{wish}__{number}"
        self._used[wish] = number
        self._used.setdefault(name, 0)
        return name

    def reserve(self, names: Sequence[str]) -> None:
        """Keep names for the graph outputs."""
        for name in names:
            self._used.setdefault(name, 0)

    def constant(self, array: Array, wish: str = "constant", dtype: str = "") -> str:
        """Keep a constant and return its name; ``dtype`` where NumPy has none (bfloat16)."""
        name = self.fresh(wish)
        self.tensors[name] = array
        self.infos[name] = of_array(array, dtype)
        return name

    def integers(self, values: Sequence[int], wish: str = "constant") -> str:
        """Keep an int64 vector and return its name."""
        return self.constant(np.array(values, np.int64), wish)

    def input(self, port: Port) -> None:
        """Declare a graph input under its own name."""
        self._used.setdefault(port.name, 0)
        self.infos[port.name] = Info(port.dtype, port.shape)

    def info(self, name: str) -> Info:
        """Return what is known of a value; ``""`` is an absent one."""
        return self.infos.get(name, UNKNOWN)

    def array(self, name: str) -> Array | None:
        """Return a constant, or None."""
        return self.tensors.get(name)

    # -- nodes ------------------------------------------------------------------------------------

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        attrs: Mapping[str, Attr] | None = None,
        outputs: Sequence[str] = ("",),
        name: str = "",
    ) -> list[str]:
        """Add one operator and return the names of its outputs.

        Parameters
        ----------
        op, inputs, attrs : as ``spec.Node`` has them.
        outputs : sequence of str
            Wishes for names; ``""`` for an output that is not used, but the first.
        name : str
            The node's name in the source.
        """
        inputs = list(inputs)
        while inputs and not inputs[-1]:
            inputs.pop()
        node = Node(op, tuple(inputs), tuple(outputs), dict(attrs or {}), name)
        infos = [self.info(i) for i in inputs]
        results = self._fold(node, infos)
        if results is not None:
            return results
        expected = infer(node, infos)
        constants = [known(info) for info in expected]
        if all(c is not None for c in constants):
            self.folded += 1
            return [self._keep(c, w) for c, w in zip(constants, outputs, strict=True)]
        reason = self._type_problem(node, infos, expected)
        if reason is not None:
            return self.refuse([reason], outputs, inputs)
        return self.append(node, expected)

    def append(self, node: Node, infos: Sequence[Info]) -> list[str]:
        """Add a node as it is, under fresh names, and return these."""
        names = [
            self.fresh(wish or f"{node.op}_{i}") if wish or i == 0 else ""
            for i, wish in enumerate(node.outputs)
        ]
        self.nodes.append(Node(node.op, node.inputs, tuple(names), node.attrs, node.name))
        for name, info in zip(names, infos, strict=True):
            if name:
                self.infos[name] = info
                self.origins[name] = self.place
        return names

    def refuse(
        self, reasons: list[Reason], outputs: Sequence[str], inputs: Sequence[str] = ()
    ) -> list[str]:
        """Put a placeholder where an operator cannot be run; its inputs stay needed."""
        wishes = tuple(outputs) or ("refused",)
        self.problems.append(reasons)
        node = Node(REFUSED, tuple(inputs), wishes, {}, str(len(self.problems) - 1))
        return self.append(node, [UNKNOWN] * len(wishes))

    def reasons(self, nodes: Sequence[Node]) -> list[tuple[int, Reason]]:
        """Return why the placeholders among ``nodes`` and their branches cannot be run, and where.

        A place is an index among the nodes of the source's graph, -1 for what is no node.
        """
        found = [node for node in walk(nodes) if node.op == REFUSED]
        return [(self.origin(n), reason) for n in found for reason in self.problems[int(n.name)]]

    def origin(self, node: Node) -> int:
        """Return the place of a node, -1 if it has none."""
        return self.origins.get(node.outputs[0], -1)

    @contextmanager
    def branch(self) -> Iterator[list[Node]]:
        """Collect the nodes that are added inside the ``with`` block in a list of their own."""
        outer, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outer

    # -- folding ----------------------------------------------------------------------------------

    def _keep(self, array: Array | None, wish: str, dtype: str = "") -> str:
        assert array is not None
        return self.constant(array, wish or "constant", dtype)

    def _fold(self, node: Node, infos: Sequence[Info]) -> list[str] | None:
        """Compute a node of constants; None if it is none, or costs more than is left."""
        if node.op not in OPS or node.op == "Recurrent" or not node.inputs:
            return None
        if not all(name in self.tensors for name in node.inputs if name):
            return None
        expected = infer(node, infos)
        if not self._affordable(node, infos, expected):
            return None
        values = [self.tensors[name] if name else None for name in node.inputs]
        try:
            results = apply_node(node, values)
        except GruEngineError as error:
            reason = Reason(node.name or node.outputs[0], node.op, str(error))
            return self.refuse([reason], node.outputs, node.inputs)
        self._bytes -= sum(r.nbytes for r in results if not _is_view(r, values))
        self.folded += 1
        dtype = "bfloat16" if any(i.dtype == "bfloat16" for i in infos) else ""
        names = []
        for wish, result, info in zip(node.outputs, results, expected, strict=False):
            if dtype and info.dtype == dtype and node.op not in _LAYOUT:
                result = round_bfloat16(result)
            names.append(self._keep(result, wish, dtype if info.dtype == dtype else ""))
        return names

    def _affordable(self, node: Node, infos: Sequence[Info], expected: Sequence[Info]) -> bool:
        sizes = [info.elements() for info in expected]
        if any(size is None for size in sizes):
            return False
        total = sum(size or 0 for size in sizes)
        products = total
        if node.op in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
            first = infos[1].shape or ()
            products *= int(np.prod([s for s in first if isinstance(s, int)], dtype=object))
        if node.op not in _LAYOUT and 8 * total > self._bytes:
            return False
        if products > self._products:
            return False
        self._products -= products
        return True

    def _type_problem(
        self, node: Node, infos: Sequence[Info], expected: Sequence[Info]
    ) -> Reason | None:
        where = node.name or node.outputs[0]
        for info in expected:
            if info.dtype and info.dtype not in DTYPES:
                why = "only float32, int64, int32 and bool are computed at run time"
                why += WAY_OUT if info.dtype in HALF_TYPES else ""
                return Reason(where, f"{node.op} in {info.dtype}", why)
        if node.op in _SAME_TYPES:
            types = {info.dtype for info in infos if info.dtype}
            if len(types) > 1:
                return Reason(where, node.op, f"inputs of {' and '.join(sorted(types))} don't mix")
        return None


def _is_view(result: Array, values: Sequence[Array | None]) -> bool:
    return result.base is not None or any(result is value for value in values)


def round_bfloat16(array: Array) -> Array:
    """Round float32 to the nearest bfloat16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded: Array = (bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(array), array, rounded.view(np.float32).reshape(array.shape))


# -- what is left ---------------------------------------------------------------------------------


def live_nodes(nodes: Sequence[Node], needed: set[str]) -> list[Node]:
    """Return the nodes that ``needed`` names depend on; adds what these need to ``needed``."""
    kept: list[Node] = []
    for node in reversed(nodes):
        if not any(name in needed for name in node.outputs if name):
            continue
        attrs = dict(node.attrs)
        for key, value in attrs.items():
            if isinstance(value, Graph):
                needed.update(port.name for port in value.outputs)
                inner = live_nodes(value.nodes, needed)
                attrs[key] = Graph(value.inputs, value.outputs, inner)
        needed.update(name for name in node.inputs if name)
        outputs = tuple(
            name if name in needed or i == 0 else "" for i, name in enumerate(node.outputs)
        )
        kept.append(Node(node.op, node.inputs, outputs, attrs, node.name))
    return kept[::-1]


def rename(nodes: Sequence[Node], names: Mapping[str, str]) -> list[Node]:
    """Return the nodes with values renamed, in branches too."""
    result = []
    for node in nodes:
        attrs: dict[str, Attr] = {}
        for key, value in node.attrs.items():
            if isinstance(value, Graph):
                ports = [Port(names.get(p.name, p.name), p.dtype, p.shape) for p in value.outputs]
                value = Graph(value.inputs, ports, rename(value.nodes, names))
            attrs[key] = value
        inputs = tuple(names.get(name, name) for name in node.inputs)
        outputs = tuple(names.get(name, name) for name in node.outputs)
        result.append(Node(node.op, inputs, outputs, attrs, node.name))
    return result


def walk(nodes: Sequence[Node]) -> Iterator[Node]:
    """Yield every node, those of branches too."""
    for node in nodes:
        yield node
        for value in node.attrs.values():
            if isinstance(value, Graph):
                yield from walk(value.nodes)
