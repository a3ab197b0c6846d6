# SPDX-License-Identifier: MIT
"""Cuts an ONNX graph where some of its nodes are run by somebody else.

Parts follow each other: ours, theirs, ours, ... Each node goes into the first part that can hold
it. What is constant, and arithmetic on shapes, is repeated in every part that needs it, because an
operator whose sizes or axes came from another part could not be planned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gruengine.converters.onnx_model import Function, OnnxGraph, OnnxModel, OnnxNode, Value

#: Operators whose result depends on the shape of what they read alone.
_OF_SHAPES = ("Shape", "Size")
_RECURRENT = ("LSTM", "GRU", "RNN")

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Piece:
    """Some nodes of a graph, by index; the names they take from outside and give to it."""

    ours: bool
    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def reads(node: OnnxNode) -> set[str]:
    """Return the names that a node needs, those of the graphs inside it too."""
    names = {name for name in node.inputs if name}
    for value in node.attrs.values():
        if isinstance(value, OnnxGraph):
            names |= _from_outside(value)
    return names


def _from_outside(graph: OnnxGraph) -> set[str]:
    made = {tensor.name for tensor in graph.initializers} | {v.name for v in graph.inputs}
    found: set[str] = set()
    for node in graph.nodes:
        found |= reads(node) - made
        made.update(node.outputs)
    return found | ({value.name for value in graph.outputs} - made)


def recurs(node: OnnxNode, functions: Mapping[Key, Function], depth: int = 0) -> bool:
    """Tell whether a node carries a state from step to step, also in what lies inside it."""
    if any(name in node.op for name in _RECURRENT) or depth > 32:
        return True
    body = node.attrs.get("body")
    if node.op == "Loop" and isinstance(body, OnnxGraph) and len(body.inputs) > 2:
        return True
    scans = node.attrs.get("num_scan_inputs")
    if node.op == "Scan" and not (isinstance(scans, int) and scans == len(node.inputs)):
        return True
    inner = [v.nodes for v in node.attrs.values() if isinstance(v, OnnxGraph)]
    function = functions.get((node.domain, node.op, node.overload))
    if function is not None:
        inner.append(function.nodes)
    return any(recurs(one, functions, depth + 1) for nodes in inner for one in nodes)


class Cutter:
    """Cuts one graph; ``theirs`` are the indices of the nodes that others run."""

    def __init__(self, graph: OnnxGraph, bound: Iterable[str], theirs: Iterable[int]) -> None:
        self.graph, self.theirs = graph, set(theirs)
        self.needs = [reads(node) for node in graph.nodes]
        self.makers = {o: i for i, n in enumerate(graph.nodes) for o in n.outputs if o}
        self.constants = {tensor.name for tensor in graph.initializers} | set(bound)
        self.live = self._live()
        self.free: set[int] = set()  # nodes that every part repeats
        self.levels: dict[int, int] = {}
        for index in sorted(self.live):
            self._place(index)

    def _live(self) -> set[int]:
        found: set[int] = set()
        todo = [value.name for value in self.graph.outputs]
        while todo:
            index = self.makers.get(todo.pop())
            if index is not None and index not in found:
                found.add(index)
                todo += self.needs[index]
        return found

    def _place(self, index: int) -> None:
        node = self.graph.nodes[index]
        makers = [self.makers.get(name) for name in self.needs[index] - self.constants]
        level = max((self.levels[m] for m in makers if m is not None), default=0)
        known = all(m in self.free for m in makers)
        simple = index not in self.theirs and "Random" not in node.op and self._plain(node)
        if simple and (known or node.op in _OF_SHAPES):
            self.free.add(index)
        elif level % 2 != (index in self.theirs):
            level += 1
        self.levels[index] = level

    @staticmethod
    def _plain(node: OnnxNode) -> bool:
        return not any(isinstance(value, OnnxGraph) for value in node.attrs.values())

    def pieces(self) -> list[Piece]:
        """Return the parts in the order in which they run."""
        own: dict[int, list[int]] = {}
        for index in sorted(self.live - self.free):
            own.setdefault(self.levels[index], []).append(index)
        for value in self.graph.outputs:
            index = self.makers.get(value.name, -1)
            if index in self.free or index < 0:
                level = self.levels.get(index, 0)
                own.setdefault(level + level % 2, []).extend([index] if index >= 0 else [])
        whole = {level: self._repeated(nodes) for level, nodes in sorted(own.items())}
        inputs = {level: self._inputs(nodes, level == 0) for level, nodes in whole.items()}
        wanted = {value.name for value in self.graph.outputs}
        found: list[Piece] = []
        for level, nodes in whole.items():
            made = {name for index in nodes for name in self.graph.nodes[index].outputs}
            later = {name for other, names in inputs.items() if other > level for name in names}
            given = (later | wanted) & made - set(self._given(found))
            loose = wanted - set(self.makers) if level == 0 else set()
            names = tuple(sorted(given | loose))
            found.append(Piece(level % 2 == 0, tuple(nodes), tuple(inputs[level]), names))
        return found

    @staticmethod
    def _given(pieces: Sequence[Piece]) -> Iterator[str]:
        for piece in pieces:
            yield from piece.outputs

    def _repeated(self, nodes: Sequence[int]) -> list[int]:
        """Add what is constant or of shapes, as far as these nodes need it."""
        found, todo = set(nodes), list(nodes)
        while todo:
            for name in self.needs[todo.pop()]:
                index = self.makers.get(name)
                if index in self.free and index not in found:
                    found.add(index)
                    todo.append(index)
        return sorted(found)

    def _inputs(self, nodes: Sequence[int], first: bool) -> list[str]:
        made = {name for index in nodes for name in self.graph.nodes[index].outputs}
        names = {name for index in nodes for name in self.needs[index]}
        if first:
            # An output of the graph that is an input of it passes through the first part.
            loose = {v.name for v in self.graph.outputs} - set(self.makers)
            names |= loose & {v.name for v in self.graph.inputs}
        return sorted(names - made - self.constants)


def part_of(model: OnnxModel, piece: Piece, values: Mapping[str, Value]) -> OnnxModel:
    """Return the model of one part; ``values`` has the types of all names at its borders."""
    graph = model.graph
    nodes = [graph.nodes[index] for index in piece.nodes]
    named = {name for node in nodes for name in reads(node)} | set(piece.outputs)
    constants = [tensor for tensor in graph.initializers if tensor.name in named]
    fixed = {tensor.name for tensor in constants} | set(piece.inputs)
    bound = [value for value in graph.inputs if value.name in named - fixed]
    inputs = [*(values[name] for name in piece.inputs), *bound]
    outputs = [values[name] for name in piece.outputs]
    return replace(model, graph=replace(graph, nodes=nodes, initializers=constants, inputs=inputs,
                                        outputs=outputs))  # fmt: skip
