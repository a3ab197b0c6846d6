# SPDX-License-Identifier: MIT
"""Nodes and constants under unique names, and the Recurrent node: what graph builders share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gruengine.converters import gates
from gruengine.spec import Attr, Node

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RecurrentParts:
    """The constants of one Recurrent node, in the graph's layout and gate order.

    W : ``[D, G*H, I]``; R : ``[D, G*H, K]``; B : ``[D, 2*G*H]`` or None;
    projection : ``[D, K, H]`` or None
    activations : name, alpha, beta; all of the forward direction, then all of the reverse one
    """

    cell: str
    direction: str
    W: Array
    R: Array
    B: Array | None
    activations: Sequence[tuple[str, float, float]]
    projection: Array | None = None
    reset: str = "after"
    update: str = "keep"

    def attributes(self) -> dict[str, Attr]:
        """Return the attributes of the node."""
        attrs: dict[str, Attr] = {
            "cell": self.cell,
            "hidden_size": self.R.shape[1] // gates.GATES[self.cell],
            "direction": self.direction,
            "activations": [name for name, _, _ in self.activations],
            "activation_alpha": [float(alpha) for _, alpha, _ in self.activations],
            "activation_beta": [float(beta) for _, _, beta in self.activations],
        }
        if self.cell == "gru":
            attrs.update(reset=self.reset, update=self.update)
        return attrs


class GraphParts:
    """Collects nodes and constants; every name is given once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Array] = {}
        self.nodes: list[Node] = []
        self.names: set[str] = set()

    def unique(self, name: str) -> str:
        """Return ``name``, or with a number behind it where it is taken."""
        count, result = 1, name
        while result in self.names:
            count += 1
            result = f"{name}_{count}"
        self.names.add(result)
        return result

    def tensor(self, where: str, what: str, array: Array) -> str:
        """Add a constant."""
        name = self.unique(f"{where}.{what}" if where else f"module.{what}")
        self.tensors[name] = np.asarray(array, order="C")
        return name

    def ints(self, where: str, what: str, values: Sequence[int]) -> str:
        """Add an int64 vector."""
        return self.tensor(where, what, np.array(values, np.int64))

    def scalar(self, where: str, what: str, value: float) -> str:
        """Add a float32 number."""
        return self.tensor(where, what, np.array(value, np.float32))

    def node(self, where: str, op: str, inputs: Sequence[str], attrs: dict[str, Attr]) -> str:
        """Add a node with one output and return the output."""
        name = self.unique(f"{where or 'module'}/{op}")
        self.nodes.append(Node(op, tuple(inputs), (f"{name}:0",), attrs, name))
        return f"{name}:0"

    def recurrent(
        self,
        where: str,
        x: str,
        parts: RecurrentParts,
        wanted: Sequence[str],
        states: Sequence[str] = (),
        lengths: str = "",
    ) -> tuple[str, ...]:
        """Add a Recurrent node on ``x`` [T, N, I] and return the names of ``wanted``.

        ``wanted`` are some of ``"Y"``, ``"Y_h"``, ``"Y_c"``; ``states`` the initial h and c.
        """
        inputs = [x, self.tensor(where, "W", parts.W), self.tensor(where, "R", parts.R)]
        inputs.append("" if parts.B is None else self.tensor(where, "B", parts.B))
        inputs += [lengths, *states]
        if parts.projection is not None:
            inputs += [""] * (8 - len(inputs))
            inputs.append(self.tensor(where, "projection", parts.projection))
        while not inputs[-1]:
            inputs.pop()
        name = self.unique(f"{where or 'module'}/Recurrent")
        outputs = [f"{name}:{what}" if what in wanted else "" for what in ("Y", "Y_h", "Y_c")]
        while not outputs[-1]:
            outputs.pop()
        self.nodes.append(
            Node("Recurrent", tuple(inputs), tuple(outputs), parts.attributes(), name)
        )
        return tuple(f"{name}:{what}" for what in wanted)
