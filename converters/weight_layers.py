# SPDX-License-Identifier: MIT
"""The layers with weights in a graph, by name, for formats that hold weights alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gruengine.converters import gates
from gruengine.converters.base import Reason
from gruengine.spec import Attr, Graph, ModelSpec, Node

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RecurrentLayer:
    """One recurrent node: arrays as the node has them, the update being ``"keep"``.

    name : of its module; layer: its number in a stack of the same name
    """

    name: str
    layer: int
    cell: str
    hidden: int
    attrs: Mapping[str, Attr]
    W: Array
    R: Array
    B: Array | None
    P: Array | None
    projection: Array | None
    is_cell: bool  # one step, with its states as inputs of the graph

    @property
    def directions(self) -> int:
        """D."""
        return int(self.W.shape[0])


@dataclass(frozen=True)
class MatrixLayer:
    """``x weight + bias``: weight ``[in, out]``."""

    name: str
    weight: Array
    bias: Array | None


@dataclass(frozen=True)
class TableLayer:
    """Rows of ``weight [V, E]`` by their index."""

    name: str
    weight: Array


@dataclass(frozen=True)
class NormLayer:
    """Normalisation over the last axis: ``scale [F]``, ``shift [F]`` or None."""

    name: str
    scale: Array
    shift: Array | None


WeightLayer = RecurrentLayer | MatrixLayer | TableLayer | NormLayer


def find_layers(spec: ModelSpec, reasons: list[Reason]) -> list[WeightLayer]:
    """Return the layers of a graph in its order; weights that belong to none are reasons."""
    return _Finder(spec, reasons).layers()


class _Finder:
    def __init__(self, spec: ModelSpec, reasons: list[Reason]) -> None:
        self.spec, self.reasons = spec, reasons
        self.names: set[str] = set()
        self.states = {port.name for port in spec.graph.inputs}
        self.made_by = {name: node for node in spec.graph.nodes for name in node.outputs if name}
        self.biases: dict[str, str] = {}  # output of a product -> the constant added to it
        self.taken: set[str] = set()
        self.placed: set[tuple[str, int]] = set()
        for node in spec.graph.nodes:
            if node.op == "Add":
                for value, other in (node.inputs, node.inputs[::-1]):
                    array = spec.tensors.get(other)
                    if array is not None and array.ndim == 1 and array.size > 1:
                        self.biases[value] = other

    def layers(self) -> list[WeightLayer]:
        """Walk over the nodes."""
        found: list[WeightLayer] = []
        for node in self.spec.graph.nodes:
            layer = self._layer(node)
            if layer is not None:
                found.append(layer)
        used = {name for node in self.spec.graph.nodes for name in _constants(node)}
        for name in sorted(used - self.taken):
            array = self.spec.tensors.get(name)
            if array is not None and array.dtype == np.float32 and array.size > 1:
                what = f"a constant {list(array.shape)}"
                self._refuse(name, what, "weights of recurrent, dense, embedding and norm layers")
        return found

    def _refuse(self, where: str, what: str, why: str) -> None:
        self.reasons.append(Reason(where, what, why))

    def _take(self, name: str) -> Array:
        self.taken.add(name)
        return self.spec.tensors[name]

    def _weights(self, node: Node, place: int, rank: int) -> bool:
        name = node.inputs[place] if len(node.inputs) > place else ""
        array = self.spec.tensors.get(name)
        return array is not None and array.ndim == rank and array.dtype == np.float32

    def _layer(self, node: Node) -> WeightLayer | None:
        if node.op == "Recurrent":
            return self._recurrent(node)
        if node.op == "MatMul" and self._weights(node, 1, 2):
            bias = self.biases.get(node.outputs[0])
            weight, name = self._take(node.inputs[1]), self._name(node.inputs[1])
            if bias is not None and self.spec.tensors[bias].shape == weight.shape[1:]:
                return MatrixLayer(name, weight, self._take(bias))
            return MatrixLayer(name, weight, None)
        if node.op == "Gemm" and self._weights(node, 1, 2):
            return self._gemm(node)
        if node.op == "Gather" and self._weights(node, 0, 2) and node.attrs.get("axis", 0) == 0:
            return TableLayer(self._name(node.inputs[0]), self._take(node.inputs[0]))
        if node.op == "LayerNormalization" and self._weights(node, 1, 1):
            shift = self._take(node.inputs[2]) if self._weights(node, 2, 1) else None
            return NormLayer(self._name(node.inputs[1]), self._take(node.inputs[1]), shift)
        return None

    def _gemm(self, node: Node) -> WeightLayer | None:
        attrs = node.attrs
        plain = attrs.get("alpha", 1.0) == 1.0 and attrs.get("beta", 1.0) == 1.0
        if not plain or attrs.get("transA", 0):
            return None
        weight, name = self._take(node.inputs[1]), self._name(node.inputs[1])
        bias = self._take(node.inputs[2]) if self._weights(node, 2, 1) else None
        return MatrixLayer(name, weight.T if attrs.get("transB", 0) else weight, bias)

    # -- names ------------------------------------------------------------------------------------

    def _name(self, tensor: str) -> str:
        """Return the name of a module from that of its weights: ``fc.weight`` is of ``fc``."""
        head, _, tail = tensor.replace("/", ".").rpartition(".")
        return self._unique(head or tail)

    def _unique(self, name: str) -> str:
        result, count = name, 1
        while result in self.names:
            count += 1
            result = f"{name}_{count}"
        self.names.add(result)
        return result

    def _place(self, node: Node, is_cell: bool) -> tuple[str, int]:
        """Return the name of a module and the number of the layer in its stack."""
        name = node.name.removesuffix("/Recurrent").replace("/", ".").strip(".")
        match = None if is_cell else re.fullmatch(r"(?:(.*)[._])?l([0-9]+)", name)
        base, layer = (match[1] or "", int(match[2])) if match else (name, 0)
        if is_cell and base == "module":  # a cell alone, without a name
            base = ""
        if layer and (base, layer - 1) not in self.placed:
            base, layer = name, 0  # a name that only looks like one of a stack
        while (base, layer) in self.placed:
            base = f"{base or 'recurrent'}_2"
        return base, layer

    # -- recurrent nodes --------------------------------------------------------------------------

    def _recurrent(self, node: Node) -> RecurrentLayer:
        inputs = [*node.inputs, *[""] * (9 - len(node.inputs))]
        arrays = {key: self._take(inputs[place]) if inputs[place] else None
                  for key, place in (("W", 1), ("R", 2), ("B", 3), ("P", 7), ("K", 8))}  # fmt: skip
        for what in variants_of(node):
            self._refuse(node.name, what, "no cell of PyTorch or Keras has it")
        is_cell = self._is_cell(inputs)
        name, layer = self._place(node, is_cell)
        self.placed.add((name, layer))
        attrs = dict(node.attrs)
        w, r, b = arrays["W"], arrays["R"], arrays["B"]
        assert w is not None
        assert r is not None
        if attrs.get("update") == "take":
            if self._turns(attrs):
                w, r = gates.flip_update(w, axis=1), gates.flip_update(r, axis=1)
                if b is not None:
                    halves = [gates.flip_update(half, axis=1) for half in np.split(b, 2, axis=1)]
                    b = np.concatenate(halves, axis=1)
                attrs["update"] = "keep"
            else:
                why = "Sigmoid, or HardSigmoid with beta 0.5, can be written the other way"
                self._refuse(node.name, "update 'take' with another gate activation", why)
        return RecurrentLayer(
            name, layer, str(attrs["cell"]), int(str(attrs["hidden_size"])), attrs,
            w, r, b, arrays["P"], arrays["K"], is_cell,
        )  # fmt: skip

    def _is_cell(self, inputs: list[str]) -> bool:
        """Tell whether one step is taken, from states that are inputs of the graph."""
        source = self.made_by.get(inputs[5])
        x = self.made_by.get(inputs[0])
        one_step = x is not None and x.op == "Unsqueeze"
        return one_step and source is not None and source.inputs[0] in self.states

    def _turns(self, attrs: Mapping[str, Attr]) -> bool:
        names: Any = attrs["activations"]
        betas: Any = attrs["activation_beta"]
        return gates.update_turns(names, betas)


def _constants(node: Node) -> Iterator[str]:
    yield from node.inputs
    for value in node.attrs.values():
        if isinstance(value, Graph):
            for inner in value.nodes:
                yield from _constants(inner)


def variants_of(node: Node) -> list[str]:
    """Return what surrounds the cell of a ``Recurrent`` node, in words; other formats have none."""
    names = ("full gate recurrence", "layer normalisation", "skipped steps")
    found = [name for name, given in zip(names, node.inputs[9:], strict=False) if given]
    zoneout: Any = node.attrs.get("zoneout", [])
    return [*found, *(["zoneout"] if any(zoneout) else [])]
