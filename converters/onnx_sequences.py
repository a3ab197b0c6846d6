# SPDX-License-Identifier: MIT
"""Loops that gather frames in a list: ``outs.append(h)``, then ``torch.stack(outs)``.

A list that starts empty, gets one value a turn and is only stacked afterwards is what ONNX calls a
scan output; the loop is written so, and whatever reads loops reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from gruengine.converters.onnx_model import OnnxGraph, OnnxNode, Value

#: The axis that stacking adds, behind at most this many others.
MAX_AXIS = 4


def without_lists(graph: OnnxGraph, opset: int) -> OnnxGraph:
    """Return a graph whose loops stack frames themselves; what is another list stays."""
    return _Lists(graph, opset).graph() if _has_list(graph) else graph


def _has_list(graph: OnnxGraph) -> bool:
    return any(node.op == "SequenceEmpty" for node in graph.nodes)


class _Lists:
    """One graph, with its makers and users by name."""

    def __init__(self, graph: OnnxGraph, opset: int) -> None:
        self.source, self.opset = graph, opset
        self.makers = {name: node for node in graph.nodes for name in node.outputs if name}
        self.uses = _uses(graph)
        self.users: dict[str, list[OnnxNode]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.users.setdefault(name, []).append(node)

    def graph(self) -> OnnxGraph:
        stacked: set[str] = set()  # what was a list is now frames, time first
        nodes = []
        for source in self.source.nodes:
            node = source
            for place in reversed(self._lists(source)):
                node = self._scanned(node, place, stacked)
            if node.op == "ConcatFromSequence" and node.inputs[0] in stacked:
                node = self._turned(node, node.inputs[0])
            nodes.append(node)
        used = {name for node in nodes for name in node.inputs}
        empty = [n for n in nodes if n.op != "SequenceEmpty" or n.outputs[0] in used]
        return replace(self.source, nodes=empty)

    def _lists(self, node: OnnxNode) -> list[int]:
        """Return which inputs of a loop are such lists."""
        body = node.attrs.get("body")
        states = len(node.inputs) - 2
        if node.op != "Loop" or node.domain or not isinstance(body, OnnxGraph) or states < 1:
            return []
        if len(body.inputs) != len(node.inputs) or len(body.outputs) - 1 != len(node.outputs):
            return []
        if len(node.outputs) < states:
            return []
        uses = _uses(body)
        makers = {name: one for one in body.nodes for name in one.outputs if name}
        found = []
        for at in range(states):
            first = self.makers.get(node.inputs[at + 2])
            inner, result = body.inputs[at + 2].name, body.outputs[at + 1].name
            append = makers.get(result)
            if (
                first is not None
                and first.op == "SequenceEmpty"
                and append is not None
                and append.op == "SequenceInsert"
                and len(append.inputs) == 2  # at the end
                and append.inputs[0] == inner
                and uses[inner] == uses[result] == 1
                and self._is_stacked(node.outputs[at])
            ):
                found.append(at + 2)
        return found

    def _is_stacked(self, name: str) -> bool:
        users = self.users.get(name, [])
        return self.uses[name] == len(users) > 0 and all(
            user.op == "ConcatFromSequence"
            and user.attrs.get("new_axis") == 1
            and isinstance(axis := user.attrs.get("axis"), int)
            and 0 <= axis <= (MAX_AXIS if self.opset >= 12 else 0)
            for user in users
        )

    def _scanned(self, node: OnnxNode, place: int, stacked: set[str]) -> OnnxNode:
        """Return a loop whose list is a scan output, the last one."""
        body = node.attrs["body"]
        assert isinstance(body, OnnxGraph)
        result = body.outputs[place - 1].name
        # Every output of a body has a name of its own.
        inner = [
            replace(n, op="Identity", inputs=n.inputs[1:], attrs={}) if result in n.outputs else n
            for n in body.nodes
        ]
        outputs = [one for at, one in enumerate(body.outputs) if at != place - 1]
        changed = replace(
            body,
            nodes=inner,
            inputs=[one for at, one in enumerate(body.inputs) if at != place],
            outputs=[*outputs, Value(result, 0, None)],
        )
        name = node.outputs[place - 2]
        stacked.add(name)
        return replace(
            node,
            inputs=tuple(one for at, one in enumerate(node.inputs) if at != place),
            outputs=(*(n for at, n in enumerate(node.outputs) if at != place - 2), name),
            attrs={**node.attrs, "body": changed},
        )

    def _turned(self, node: OnnxNode, frames: str) -> OnnxNode:
        """Return frames with the time where the stack has it."""
        axis = node.attrs["axis"]
        assert isinstance(axis, int)
        if axis == 0:
            return replace(node, op="Identity", inputs=(frames,), attrs={})
        before = "abcdefgh"[:axis]
        equation = f"t{before}...->{before}t..."
        return replace(node, op="Einsum", inputs=(frames,), attrs={"equation": equation})


def _uses(graph: OnnxGraph) -> Counter[str]:
    """Count how often each name is used in a graph, its branches included."""
    found: Counter[str] = Counter(value.name for value in graph.outputs)
    for node in graph.nodes:
        found.update(name for name in node.inputs if name)
        for inner in _graphs(node.attrs.values()):
            found.update(_uses(inner))
    return found


def _graphs(values: Iterable[object]) -> Iterable[OnnxGraph]:
    return (value for value in values if isinstance(value, OnnxGraph))
