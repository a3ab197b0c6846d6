# SPDX-License-Identifier: MIT
"""Steps of one cell after another, as exporters unroll loops, become one ``Recurrent`` over time.

A chain is a list of ``Recurrent`` nodes of one step with the same weights, each starting from the
final state of the one before, whose inputs depend on none of them. What they compute is what one
node over all the inputs computes; this is proved from the graph alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gruengine.converters.onnx_fold import Builder, live_nodes
from gruengine.converters.onnx_steps import Steps, sorted_nodes
from gruengine.converters.shapes import UNKNOWN, infer
from gruengine.spec import Attr, Node

#: Chains that are looked for one after another: layers over layers.
MAX_PASSES = 256


def join_steps(
    nodes: Sequence[Node], builder: Builder, keep: set[str]
) -> tuple[list[Node], list[str]]:
    """Return nodes that compute the same with chains joined, and what was joined in words.

    Parameters
    ----------
    nodes : sequence of Node
        Of the outermost graph.
    builder : Builder
        Its constants and what is known of values; both grow.
    keep : set of str
        The graph outputs.
    """
    current, words = list(nodes), list[str]()
    for _ in range(MAX_PASSES):
        steps = Steps(current, builder)
        chain = next(steps.chains(keep), None)
        if chain is None:
            break
        joined = _Joiner(steps, chain).nodes()
        current = live_nodes(sorted_nodes(joined), set(keep))
        cell, title = str(chain[0].attrs["cell"]).upper(), chain[0].name or chain[0].outputs[1]
        words.append(f"{title}: {len(chain)} steps of one {cell} cell")
    return current, words


@dataclass
class _Joiner:
    """Makes the one node of a chain and what hands its outputs on."""

    steps: Steps
    chain: list[Node]
    made: list[Node] = field(default_factory=list)

    def nodes(self) -> list[Node]:
        """Return all nodes of the graph with the chain replaced; not in order."""
        chain, steps = self.chain, self.steps
        x, back = self._frames()
        first, last = chain[0], chain[-1]
        title = first.name
        inputs = [x, *first.inputs[1:]]
        fresh: Callable[[str], str] = steps.builder.fresh
        y = fresh(f"{first.outputs[1]}_all")
        outputs = (y, *last.outputs[1:])
        attrs: dict[str, Attr] = {**first.attrs, "direction": "reverse" if back else "forward"}
        self._add(Node("Recurrent", tuple(inputs), outputs, attrs, title))
        whole = self._new("Squeeze", [y, self._ints([1])], {}, f"{y}_frames", title)
        order = range(len(chain))[::-1] if back else range(len(chain))
        for place, node in zip(order, chain, strict=True):
            bounds = [self._ints([place]), self._ints([place + 1]), self._ints([0])]
            if node.outputs[0]:
                self._named("Slice", [y, *bounds], {}, node.outputs[0], title)
            if node is not last:
                self._named("Slice", [whole, *bounds], {}, node.outputs[1], title)
        gone = {id(node) for node in chain}
        kept = [node for node in steps.nodes if id(node) not in gone]
        return [self._stacked(node, whole, back) for node in kept] + self.made

    def _frames(self) -> tuple[str, bool]:
        """Return X [T, N, I], and whether its frames are taken from the last to the first."""
        names = [node.inputs[0] for node in self.chain]
        pieces = [self.steps.piece(name) for name in names]
        first, count = pieces[0], len(pieces)
        title = self.chain[0].name
        if first is not None and all(
            p is not None and (p.source, p.axis) == (first.source, first.axis) for p in pieces
        ):
            places = [p.place for p in pieces if p is not None]
            for back in (False, True):
                start = places[-1] if back else places[0]
                wanted = list(range(start, start + count))
                if places == (wanted[::-1] if back else wanted):
                    return self._source(first.source, first.axis, start, count, title), back
        return self._new("Concat", names, {"axis": 0}, f"{names[0]}_frames", title), False

    def _source(self, source: str, axis: int, start: int, count: int, title: str) -> str:
        shape = self.steps.builder.info(source).shape
        if start or shape is None or shape[axis] != count:
            bounds = [self._ints([start]), self._ints([start + count]), self._ints([axis])]
            source = self._new("Slice", [source, *bounds], {}, f"{source}_part", title)
        if axis == 1:
            return self._new("Transpose", [source], {"perm": [1, 0, 2]}, f"{source}_t", title)
        return source

    def _stacked(self, node: Node, whole: str, back: bool) -> Node:
        """Return a node, or what it is when it stacks the results of all steps in order."""
        steps, axis = self.steps, node.attrs.get("axis")
        if node.op != "Concat" or len(node.inputs) != len(self.chain) or axis not in (0, 1, -3, -2):
            return node
        wanted = [step.outputs[1] for step in self.chain]
        if [steps.origin(name) for name in node.inputs] != (wanted[::-1] if back else wanted):
            return node
        axis = int(axis) % 3
        weight = steps.builder.array(self.chain[0].inputs[2])
        width = None if weight is None else weight.shape[-1]
        for name in node.inputs:
            shape = steps.builder.info(name).shape
            if shape is None or len(shape) != 3 or shape[axis] != 1 or shape[2] != width:
                return node
        if axis == 0:
            return Node("Identity", (whole,), node.outputs, {}, node.name)
        return Node("Transpose", (whole,), node.outputs, {"perm": [1, 0, 2]}, node.name)

    # -- nodes ------------------------------------------------------------------------------------

    def _ints(self, values: list[int]) -> str:
        return self.steps.builder.integers(values, "place")

    def _new(
        self, op: str, inputs: list[str], attrs: dict[str, Attr], wish: str, title: str
    ) -> str:
        return self._named(op, inputs, attrs, self.steps.builder.fresh(wish), title)

    def _named(
        self, op: str, inputs: list[str], attrs: dict[str, Attr], name: str, title: str
    ) -> str:
        self._add(Node(op, tuple(inputs), (name,), attrs, title))
        return name

    def _add(self, node: Node) -> None:
        self.made.append(node)
        builder = self.steps.builder
        known = [builder.infos.get(name, UNKNOWN) for name in node.inputs]
        for name, info in zip(node.outputs, infer(node, known), strict=True):
            if name:
                builder.infos[name] = info
