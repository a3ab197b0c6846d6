# SPDX-License-Identifier: MIT
"""Activations that are written in arithmetic become the operator that they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gruengine.converters.onnx_fold import Builder, live_nodes
from gruengine.spec import Node


def rewrite(nodes: Sequence[Node], builder: Builder, keep: set[str]) -> list[Node]:
    """Return nodes in which clipped lines are ``HardSigmoid``: clip(a x + b, 0, 1).

    Parameters
    ----------
    nodes : sequence of Node
    builder : Builder
        Its constants.
    keep : set of str
        Values that must stay.
    """
    forms = _Lines(nodes, builder)
    result = [forms.hard_sigmoid(node) or node for node in nodes]
    return live_nodes(result, set(keep))


class _Lines:
    """Finds a x + b and its bounds behind a value."""

    def __init__(self, nodes: Sequence[Node], builder: Builder) -> None:
        self.builder = builder
        self.makers = {name: node for node in nodes for name in node.outputs if name}

    def hard_sigmoid(self, node: Node) -> Node | None:
        """Return the HardSigmoid that a node is, or None."""
        if not node.outputs:
            return None
        scale, inner = 1.0, node.outputs[0]
        if node.op in ("Mul", "Div"):
            found = self._scaled(node)
            if found is None or found[1] == 1.0:
                return None
            inner, scale = found
        bounds = self._clipped(inner)
        if bounds is None:
            return None
        name, low, high = bounds
        if low != 0 or abs(high * scale - 1) > 1e-6:
            return None
        source, alpha, beta = self._line(name)
        if source not in self.makers and source == name:
            return None
        attrs: dict[str, float] = {"alpha": alpha * scale, "beta": beta * scale}
        return Node("HardSigmoid", (source,), node.outputs, dict(attrs), node.name)

    def _number(self, name: str) -> float | None:
        value = self.builder.array(name) if name else None
        if value is None or value.size != 1 or value.dtype.kind != "f":
            return None
        return float(value.reshape(-1)[0])

    def _with_number(self, node: Node) -> Iterator[tuple[str, float]]:
        """Yield the other input and the number, where one input is a number."""
        if len(node.inputs) == 2:
            for a, b in (node.inputs, node.inputs[::-1]):
                number = self._number(b)
                if number is not None and np.isfinite(number):
                    yield a, number

    def _scaled(self, node: Node) -> tuple[str, float] | None:
        if node.op == "Div":
            by = self._number(node.inputs[1])
            return (node.inputs[0], 1 / by) if by else None
        return next(self._with_number(node), None)

    def _clipped(self, name: str) -> tuple[str, float, float] | None:
        node = self.makers.get(name)
        if node is None:
            return None
        if node.op == "Clip" and len(node.inputs) == 3:
            low, high = (self._number(n) for n in node.inputs[1:])
            if low is not None and high is not None:
                return node.inputs[0], low, high
        if node.op not in ("Min", "Max"):
            return None
        other = "Max" if node.op == "Min" else "Min"
        for inner, outer_bound in self._with_number(node):
            below = self.makers.get(inner)
            if node.op == "Min" and below is not None and below.op == "Relu":
                return below.inputs[0], 0.0, outer_bound
            for source, bound in (
                self._with_number(below) if below is not None and below.op == other else ()
            ):
                low, high = sorted((bound, outer_bound))
                return source, low, high
        return None

    def _line(self, name: str) -> tuple[str, float, float]:
        """Return x, a, b of the value a x + b."""
        alpha, beta = 1.0, 0.0
        node = self.makers.get(name)
        if node is not None and node.op == "Add":
            for source, number in self._with_number(node):
                name, beta = source, number
        node = self.makers.get(name)
        if node is not None and node.op in ("Mul", "Div"):
            found = self._scaled(node)
            if found is not None:
                name, alpha = found
        return name, alpha, beta
