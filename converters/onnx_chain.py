# SPDX-License-Identifier: MIT
"""Steps of one cell after another, as exporters unroll loops, become one ``Recurrent`` over time.

A chain is a list of ``Recurrent`` nodes of one step with the same weights, each starting from the
final state of the one before, whose inputs depend on none of them. What they compute is what one
node over all the inputs computes; this is proved from the graph alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from gruengine.converters.onnx_fold import Builder, live_nodes
from gruengine.converters.shapes import UNKNOWN, infer
from gruengine.spec import Attr, Graph, Node

#: Operators that keep the order of the elements.
_VIEWS = frozenset(["Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten"])

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


def sorted_nodes(nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes such that each comes after what it needs, else in their order."""
    makers = {name: node for node in nodes for name in node.outputs if name}
    done: set[int] = set()
    result: list[Node] = []
    for node in nodes:
        waiting: list[tuple[Node, Iterator[str]]] = [(node, _needs(node))]
        while waiting:
            last, names = waiting[-1]
            if id(last) in done:
                waiting.pop()
                continue
            before = next((makers[n] for n in names if n in makers), None)
            if before is not None:
                if id(before) not in done:
                    waiting.append((before, _needs(before)))
                continue
            done.add(id(last))
            result.append(last)
            waiting.pop()
    return result


def _needs(node: Node) -> Iterator[str]:
    yield from node.inputs
    for value in node.attrs.values():
        if isinstance(value, Graph):
            yield from (port.name for port in value.outputs)
            for inner in value.nodes:
                yield from _needs(inner)


@dataclass
class _Piece:
    """One frame of a source: ``source`` at ``place`` of ``axis``."""

    source: str
    axis: int
    place: int


class Steps:
    """The one-step nodes of a graph and how they follow one another."""

    def __init__(self, nodes: list[Node], builder: Builder) -> None:
        self.nodes, self.builder = nodes, builder
        self.makers = {name: node for node in nodes for name in node.outputs if name}
        self.users: dict[str, list[Node]] = {}
        for node in nodes:
            for name in _needs(node):
                self.users.setdefault(name, []).append(node)

    def origin(self, name: str) -> str:
        """Follow a value back through what keeps the order of its elements."""
        while (maker := self.makers.get(name)) is not None and maker.op in _VIEWS:
            name = maker.inputs[0]
        return name

    def is_step(self, node: Node) -> bool:
        """Whether a node is one step, forwards, without lengths, from a state that is given."""
        if node.op != "Recurrent" or node.attrs.get("direction") != "forward":
            return False
        if len(node.inputs) < 6 or node.inputs[4] or not node.inputs[5] or len(node.outputs) < 2:
            return False
        shape = self.builder.info(node.inputs[0]).shape
        made = self.makers.get(node.inputs[0])
        widened = made is not None and made.op == "Unsqueeze" and self._axes(made) == [0]
        return widened or (shape is not None and len(shape) == 3 and shape[0] == 1)

    def _axes(self, node: Node) -> list[int] | None:
        values = self.builder.array(node.inputs[1]) if len(node.inputs) > 1 else None
        return None if values is None else [int(v) for v in values.reshape(-1)]

    @staticmethod
    def key(node: Node) -> tuple[object, ...]:
        """Return what two steps of one cell have in common."""
        weights = tuple(node.inputs[i] if i < len(node.inputs) else "" for i in (1, 2, 3, 7, 8))
        return weights, tuple(sorted((k, str(v)) for k, v in node.attrs.items()))

    def before(self, node: Node) -> Node | None:
        """Return the step whose final states a step starts from."""
        made = self.makers.get(self.origin(node.inputs[5]))
        if made is None or not self.is_step(made) or self.key(made) != self.key(node):
            return None
        if self.origin(node.inputs[5]) != made.outputs[1]:
            return None
        if node.attrs.get("cell") != "lstm":
            return made
        carried = node.inputs[6] if len(node.inputs) > 6 else ""
        own = made.outputs[2] if len(made.outputs) > 2 else ""
        return made if carried and own and self.origin(carried) == own else None

    def chains(self, keep: set[str]) -> Iterator[list[Node]]:
        """Yield chains of two steps and more that one node can replace."""
        follows: dict[int, list[Node]] = {}
        starts: list[Node] = []
        for node in self.nodes:
            if not self.is_step(node):
                continue
            before = self.before(node)
            if before is None:
                starts.append(node)
            else:
                follows.setdefault(id(before), []).append(node)
        for start in starts:
            chain = [start]
            while len(nexts := follows.get(id(chain[-1]), [])) == 1:
                chain.append(nexts[0])
            for part in self._independent(chain):
                part = self._hidden(part, keep)
                if len(part) > 1:
                    yield part

    def _independent(self, chain: list[Node]) -> Iterator[list[Node]]:
        """Cut a chain where an input depends on the steps before it in the same part."""
        places = {id(node): i for i, node in enumerate(chain)}
        newest: dict[str, int] = {}  # value -> the last step of the chain that it depends on
        depends = [-1] * len(chain)
        for node in self.nodes:
            place = places.get(id(node))
            if place is not None:
                depends[place] = newest.get(node.inputs[0], -1)
            most = max((newest.get(name, -1) for name in _needs(node)), default=-1)
            most = max(most, -1 if place is None else place)
            if most >= 0:
                newest.update(dict.fromkeys((n for n in node.outputs if n), most))
        first = 0
        for i in range(1, len(chain)):
            if depends[i] >= first:
                yield chain[first:i]
                first = i
        yield chain[first:]

    def _hidden(self, chain: list[Node], keep: set[str]) -> list[Node]:
        """Return the chain up to where somebody else uses the state c."""
        for i, node in enumerate(chain[:-1]):
            carried = node.outputs[2] if len(node.outputs) > 2 else ""
            if carried and not self._only_into(carried, chain[i + 1], keep):
                return chain[: i + 1]
        return chain

    def _only_into(self, name: str, target: Node, keep: set[str]) -> bool:
        waiting = [name]
        while waiting:
            value = waiting.pop()
            if value in keep:
                return False
            for user in self.users.get(value, ()):
                if user.op in _VIEWS:
                    waiting += user.outputs
                elif user is not target or user.inputs[6] != value:
                    return False
        return True

    # -- where the frames come from ---------------------------------------------------------------

    def piece(self, name: str) -> _Piece | None:
        """Return what X [1, N, I] is one frame of, if it is one."""
        maker = self.makers.get(name)
        if maker is None:
            return None
        if maker.op in ("Slice", "Split"):
            found = self._cut(maker, name)
            return found if found is not None and found.axis == 0 else None
        if maker.op != "Unsqueeze" or self._axes(maker) != [0]:
            return None
        inner = self.makers.get(maker.inputs[0])
        if inner is None:
            return None
        if inner.op == "Gather":
            return self._looked_up(inner)
        if inner.op != "Squeeze" or inner.inputs[0] not in self.makers:
            return None
        found = self._cut(self.makers[inner.inputs[0]], inner.inputs[0])
        axes = self._axes(inner)
        if (
            found is None
            or axes is None
            or len(axes) != 1
            or axes[0] not in (found.axis, found.axis - 3)
        ):
            return None
        return found

    def _rank(self, name: str) -> int | None:
        return self.builder.info(name).rank

    def _looked_up(self, node: Node) -> _Piece | None:
        place, axis = self.builder.array(node.inputs[1]), node.attrs.get("axis", 0)
        if place is None or place.ndim or self._rank(node.inputs[0]) != 3:
            return None
        return self._piece(
            node.inputs[0], int(axis) % 3 if isinstance(axis, int) else 2, int(place)
        )

    def _piece(self, source: str, axis: int, place: int) -> _Piece | None:
        shape = self.builder.info(source).shape
        if axis not in (0, 1) or shape is None:
            return None
        size = shape[axis]
        if place < 0:
            if not isinstance(size, int):
                return None
            place += size
        return _Piece(source, axis, place)

    def _cut(self, node: Node, name: str) -> _Piece | None:
        if self._rank(node.inputs[0]) != 3:
            return None
        if node.op == "Split":
            return self._part(node, name)
        if node.op != "Slice":
            return None
        values = [self.builder.array(v) for v in node.inputs[1:]]
        if len(values) < 3 or any(v is None or v.size != 1 for v in values):
            return None
        start, end, axis, *step = [int(v.reshape(-1)[0]) for v in values if v is not None]
        last = start == -1 and (end == 0 or end >= 1 << 31)
        if step not in ([], [1]) or not (end == start + 1 or last):
            return None
        return self._piece(node.inputs[0], axis % 3, start)

    def _part(self, node: Node, name: str) -> _Piece | None:
        axis, place = node.attrs.get("axis", 0), list(node.outputs).index(name)
        if not isinstance(axis, int):
            return None
        sizes = self.builder.array(node.inputs[1]) if len(node.inputs) > 1 else None
        if sizes is not None:
            if any(int(s) != 1 for s in sizes.reshape(-1)):
                return None
        else:
            shape = self.builder.info(node.inputs[0]).shape
            if shape is None or shape[axis % 3] != len(node.outputs):
                return None
        return self._piece(node.inputs[0], axis % 3, place)


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
