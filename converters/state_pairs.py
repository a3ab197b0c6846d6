# SPDX-License-Identifier: MIT
"""Finds the graph inputs and outputs that a stream carries: (input, its next value).

Every element of every input gets a number. The numbers are sent through the operators that only
move elements, and through products with one factor a row, which let a state pass or set it to
zero; a recurrent node hands those of its initial state on to its final state. An output that holds
exactly the numbers of an input, each in its place, is the next value of that input. So a wrong
order of stacked states can't be mistaken for a right one. Works on any ``spec.Graph``.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gruengine.converters import shape_rules  # enters its rules
from gruengine.converters.shapes import UNKNOWN, Info, infer_graph, known, of_array
from gruengine.errors import GruEngineError
from gruengine.reference_graph import apply_node, size_limit
from gruengine.spec import Graph, Node

_ = shape_rules
Array = np.ndarray[Any, Any]
Pairs = tuple[tuple[str, str], ...]

MOVES = frozenset(
    ["Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Slice",
     "Split", "Gather", "Concat", "Cast"]
)  # fmt: skip

MAX_ELEMENTS = 1 << 20  # of an input or a value that is followed
MAX_NODES = 1 << 14
MAX_CANDIDATES = 4  # of one value, where a branch is not known
LOST = -1  # an element that is no element of an input
STRIDE = 1 << 40  # numbers from k * STRIDE have passed a recurrent node with the k-th weights


def find_pairs(graph: Graph, tensors: Mapping[str, Array]) -> Pairs:
    """Return (input, output) for each input that some recurrent node carries to an output.

    Parameters
    ----------
    graph : Graph
    tensors : mapping of str to ndarray
        The constants of the graph.

    Returns
    -------
    tuple of (str, str)
        In the order of the inputs; each input and each output at most once. Empty where nothing
        is found: never a guess.
    """
    if len(graph.nodes) > MAX_NODES or not any(_recurrent(graph)):
        return ()
    # A named size is 2, so that it is told from 1; some graphs only fit 1.
    for size in (2, 1):
        pairs = _Trace(graph, tensors, size).pairs()
        if pairs:
            return pairs
    return ()


def _recurrent(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes:
        if node.op == "Recurrent":
            yield node
        for value in node.attrs.values():
            if isinstance(value, Graph):
                yield from _recurrent(value)


@dataclass(frozen=True)
class _Traced:
    """A value that is followed: the numbers of elements, or (``plain``) integers as they are."""

    array: Array
    plain: bool = False


class _Trace:
    """One walk through the graph with every named size set to one number."""

    def __init__(self, graph: Graph, tensors: Mapping[str, Array], size: int) -> None:
        self.graph, self.tensors, self.size = graph, tensors, size
        self.infos: dict[str, Info] = {name: of_array(a) for name, a in tensors.items()}
        self.values: dict[str, list[_Traced]] = {}
        self.weights: dict[tuple[Any, ...], int] = {}
        self.first: dict[str, int] = {}
        place = 0
        for port in graph.inputs:
            shape = tuple(size if isinstance(s, str) else s for s in port.shape)
            self.infos[port.name] = Info(port.dtype, shape)
            count = math.prod(shape)
            if port.dtype == "float32" and 0 < count <= MAX_ELEMENTS:
                self.first[port.name] = place
                numbers = np.arange(place, place + count, dtype=np.int64).reshape(shape)
                self.values[port.name] = [_Traced(numbers)]
                place += count
        infer_graph(graph, self.infos)

    def pairs(self) -> Pairs:
        """Return the pairs; those of final states count before those of the last step of Y."""
        found: dict[str, str] = {}
        # With one step of time the first would pass for the last.
        for from_sequence in (False, True) if self.size > 1 else (False,):
            self.from_sequence = from_sequence
            saved = dict(self.values)
            with size_limit(4 * MAX_ELEMENTS):
                self._nodes(self.graph.nodes)
            for name in self.first:
                fits = {} if name in found else self._targets(name)
                # Two cells that continue from one state: nobody can tell which is the stream's.
                if len(set(fits.values())) == 1:
                    # The last one: states stand behind the results in nearly every signature.
                    free = [target for target in fits if target not in found.values()]
                    if free:
                        found[name] = free[-1]
            self.values = saved
        return tuple((name, found[name]) for name in self.first if name in found)

    def _targets(self, source: str) -> dict[str, int]:
        """Return the outputs that hold the elements of an input, and by which weights."""
        start = self.values[source][0].array
        found: dict[str, int] = {}
        for port in self.graph.outputs:
            if port.dtype != "float32" or len(port.shape) != start.ndim:
                continue
            pairs = zip(start.shape, port.shape, strict=True)
            if not all(a == b or isinstance(b, str) for a, b in pairs):
                continue
            for traced in self.values.get(port.name, ()):
                if traced.plain or traced.array.shape != start.shape:
                    continue
                passed = traced.array // STRIDE
                if np.array_equal(traced.array % STRIDE, start) and passed.min() > 0:
                    found[port.name] = hash(passed.tobytes())
        return found

    # -- nodes ------------------------------------------------------------------------------------

    def _nodes(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if node.op == "If":
                self._if(node)
            elif node.op == "Recurrent":
                self._step(node)
            elif node.op in MOVES:
                self._move(node)
            elif node.op == "Mul":
                self._mask(node)
            elif node.op == "Shape":
                shapes = [t.array.shape for t in self._candidates(node.inputs[0]) if not t.plain]
                if len(set(shapes)) == 1 and not node.attrs:
                    self.values[node.outputs[0]] = [_Traced(np.array(shapes[0], np.int64), True)]

    def _candidates(self, name: str) -> list[_Traced]:
        """Return what a value may be: numbers of elements, or a known integer value."""
        if name in self.values:
            return self.values[name]
        constant = self.tensors.get(name)
        if constant is None:
            constant = known(self.infos.get(name, UNKNOWN))
        if constant is None or constant.dtype.kind not in "iub":
            return []
        return [_Traced(constant, True)]

    def _move(self, node: Node) -> None:
        choices = [self._candidates(name) if name else [None] for name in node.inputs]
        data = len(node.inputs) if node.op == "Concat" else 1
        if not all(choices):
            if node.op != "Concat":
                return
            choices = [c or [None] for c in choices]
        results: list[tuple[Array, ...]] = []
        for chosen in itertools.islice(itertools.product(*choices), 4 * MAX_CANDIDATES):
            arrays = self._filled(node, chosen) if node.op == "Concat" else chosen
            if arrays is None or all(t is None or t.plain for t in arrays[:data]):
                continue
            attrs = {} if node.op == "Cast" else node.attrs
            op = "Identity" if node.op == "Cast" else node.op
            moved = Node(op, node.inputs, node.outputs, dict(attrs), node.name)
            try:
                results.append(apply_node(moved, [None if t is None else t.array for t in arrays]))
            except GruEngineError:
                continue
        for i, name in enumerate(node.outputs):
            if name and results:
                self._set(name, [_Traced(result[i]) for result in results])

    def _mask(self, node: Node) -> None:
        """Follow a state through a product with one factor a row, which is no constant."""
        shapes = [self.infos.get(name, UNKNOWN).shape for name in node.inputs]
        for state, mask in ((0, 1), (1, 0)):
            wide, narrow = shapes[state], shapes[mask]
            if node.inputs[mask] in self.tensors or not wide or not narrow:
                continue
            if narrow[-1] == 1 != wide[-1] and len(narrow) <= len(wide):
                kept = [t for t in self._candidates(node.inputs[state]) if not t.plain]
                if kept and all(t.array.shape == wide for t in kept):
                    self._set(node.outputs[0], kept)

    def _filled(
        self, node: Node, chosen: Sequence[_Traced | None]
    ) -> Sequence[_Traced | None] | None:
        """Stand in for parts of a Concat that are not followed, where their sizes are known."""
        parts: list[_Traced | None] = []
        for name, traced in zip(node.inputs, chosen, strict=True):
            if traced is None:
                info = self.infos.get(name, UNKNOWN)
                count = info.elements()
                if count is None or info.shape is None or count > MAX_ELEMENTS:
                    return None
                shape = [s for s in info.shape if isinstance(s, int)]
                traced = _Traced(np.full(shape, LOST, np.int64))
            parts.append(traced)
        return parts

    def _set(self, name: str, candidates: list[_Traced]) -> None:
        kept: list[_Traced] = []
        for new in candidates:
            same = (np.array_equal(new.array, old.array) for old in kept)
            if len(kept) < MAX_CANDIDATES and not any(same):
                kept.append(new)
        self.values[name] = kept

    def _if(self, node: Node) -> None:
        branches = [node.attrs.get(key) for key in ("then_branch", "else_branch")]
        condition = self._candidates(node.inputs[0]) if node.inputs else []
        if len(condition) == 1 and condition[0].plain and condition[0].array.size == 1:
            branches = [branches[0 if condition[0].array.reshape(()) else 1]]
        outcomes: list[list[list[_Traced]]] = []
        for branch in branches:
            if isinstance(branch, Graph):
                self._nodes(branch.nodes)
                outcomes.append([self._candidates(port.name) for port in branch.outputs])
        for i, name in enumerate(node.outputs):
            candidates = [c for outcome in outcomes for c in outcome[i] if not c.plain]
            if name and candidates:
                self._set(name, candidates)

    # -- recurrent nodes --------------------------------------------------------------------------

    def _step(self, node: Node) -> None:
        """Hand the numbers of the initial states on to the final ones."""
        weight = self.tensors.get(node.inputs[2]) if len(node.inputs) > 2 else None
        if weight is None or weight.ndim != 3:
            return
        key = (weight.shape, zlib.crc32(np.ascontiguousarray(weight).tobytes()))
        mark = self.weights.setdefault(key, len(self.weights) + 1)
        hidden = node.attrs.get("hidden_size")
        for place, output, width in ((5, 1, weight.shape[2]), (6, 2, hidden)):
            if place >= len(node.inputs) or not node.inputs[place]:
                continue
            states = [
                _Traced(_passed(t.array, mark))
                for t in self._candidates(node.inputs[place])
                if not t.plain
                and t.array.ndim == 3
                and t.array.shape[::2] == (weight.shape[0], width)
            ]
            if output < len(node.outputs) and node.outputs[output] and not self.from_sequence:
                self._set(node.outputs[output], states)
            if output == 1 and self.from_sequence and node.outputs[0]:
                self._set(node.outputs[0], [self._sequence(node, t.array) for t in states])

    def _sequence(self, node: Node, state: Array) -> _Traced:
        """Return Y [T, D, N, K]: the state in its last step, nothing known before."""
        shape = self.infos.get(node.inputs[0], UNKNOWN).shape
        time = shape[0] if shape and isinstance(shape[0], int) and 0 < shape[0] <= 64 else 2
        steps = np.full((time, *state.shape), LOST, np.int64)
        backward = {"forward": [False], "reverse": [True]}
        for d, is_back in enumerate(backward.get(str(node.attrs["direction"]), [False, True])):
            steps[0 if is_back else -1, d] = state[d]
        return _Traced(steps)


def _passed(numbers: Array, mark: int) -> Array:
    """Mark numbers as carried by these weights; those carried by others are lost."""
    before = numbers // STRIDE
    own = (numbers >= 0) & ((before == 0) | (before == mark))
    return np.where(own, numbers % STRIDE + mark * STRIDE, LOST)
