# SPDX-License-Identifier: MIT
"""The one-step nodes of a graph: which follows which, and of what their inputs are frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gruengine.converters.onnx_fold import Builder
from gruengine.spec import Graph, Node

#: Operators that keep the order of the elements.
_VIEWS = frozenset(["Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten"])


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


def turned_axis(node: Node, builder: Builder) -> int | None:
    """Return the axis that a Slice turns around as a whole, or None."""
    values = [builder.array(name) for name in node.inputs[1:]]
    if node.op != "Slice" or len(values) != 4 or any(v is None or v.size != 1 for v in values):
        return None
    start, end, axis, step = (int(v.reshape(-1)[0]) for v in values if v is not None)
    rank = builder.info(node.inputs[0]).rank
    if start != -1 or end > -(1 << 31) or step != -1 or rank is None:
        return None
    return axis % rank


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
        if place < 0 and isinstance(size, int):
            place += size
        maker = self.makers.get(source)
        if maker is not None and isinstance(size, int) and turned_axis(maker, self.builder) == axis:
            source, place = maker.inputs[0], size - 1 - place
        return _Piece(source, axis, place) if place >= 0 else None

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
