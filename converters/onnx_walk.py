# SPDX-License-Identifier: MIT
"""Walks the graphs of an ONNX model: names to values, nodes to operators, branches and loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from gruengine.converters.base import Reason
from gruengine.converters.onnx_finish import branch_port
from gruengine.converters.onnx_fold import Builder
from gruengine.converters.onnx_model import (
    Attribute,
    Function,
    OnnxGraph,
    OnnxModel,
    OnnxNode,
    Reference,
)
from gruengine.converters.onnx_ops import Call, Refused, load, lower_node
from gruengine.converters.onnx_repeat import lower_loop, lower_scan
from gruengine.converters.onnx_tensor import Tensor
from gruengine.converters.shapes import Info, merge
from gruengine.errors import ModelFileError
from gruengine.spec import Attr, Graph, Node


@dataclass
class Scope:
    """Names of one graph of the file: values, and initializers that nothing has asked for yet."""

    parent: Scope | None = None
    values: dict[str, str] = field(default_factory=dict)
    pending: dict[str, Tensor] = field(default_factory=dict)


#: Functions inside functions, and nodes that calls of them may become.
MAX_CALLS = 32
MAX_INLINED = 1 << 16


def filled(node: OnnxNode, attrs: Mapping[str, Attribute]) -> OnnxNode:
    """Return a node of a function with the attributes of a call; those not given are left out."""
    result: dict[str, Attribute] = {}
    for key, value in node.attrs.items():
        if isinstance(value, Reference):
            if value.name in attrs:
                result[key] = attrs[value.name]
        elif isinstance(value, OnnxGraph):
            result[key] = replace(value, nodes=[filled(inner, attrs) for inner in value.nodes])
        else:
            result[key] = value
    return replace(node, attrs=result)


class Walker:
    """Lowers the nodes of a model to those of a builder."""

    def __init__(self, model: OnnxModel, builder: Builder, reasons: list[Reason]) -> None:
        self.model, self.builder, self.reasons = model, builder, reasons
        self.nodes_before = 0
        self.opset = model.opset  # of the graph or function that is being lowered
        self.calls: list[str] = []
        self.inlined = 0
        self.fused: list[str] = []  # loops that became sequences, in words
        self.tell: Callable[[str, float], None] = lambda what, part: None

    def enter(self, graph: OnnxGraph, scope: Scope) -> None:
        """Make the initializers of a graph known in its scope."""
        if graph.sparse:
            self.reasons.append(Reason(graph.name, "sparse initializers", "tensors must be dense"))
        for tensor in graph.initializers:
            if tensor.name in scope.pending:
                raise ModelFileError(f"the initializer {tensor.name!r} is there twice")
            scope.pending[tensor.name] = tensor

    # -- nodes ------------------------------------------------------------------------------------

    def value(self, scope: Scope, name: str, user: str) -> str:
        """Return the value that a name stands for; decodes an initializer on its first use."""
        if not name:
            return ""
        place: Scope | None = scope
        while place is not None:
            if name in place.values:
                return place.values[name]
            tensor = place.pending.get(name)
            if tensor is not None:
                made = self._constant(tensor)
                if self.builder.array(made) is not None:  # else it belongs to an open branch
                    place.values[name] = made
                return made
            place = place.parent
        raise ModelFileError(f"{user} needs {name!r}, which nothing before it makes")

    def _constant(self, tensor: Tensor) -> str:
        try:
            return load(self.builder, self.model.loader, tensor, tensor.name)
        except Refused as refused:
            reasons = [Reason(tensor.name, what, why) for what, why in refused.reasons]
            return self.builder.refuse(reasons, (tensor.name,))[0]

    def nodes(self, graph: OnnxGraph, scope: Scope) -> None:
        """Lower the nodes of a graph one by one."""
        whole = graph is self.model.graph
        for index, node in enumerate(graph.nodes):
            self.nodes_before += 1
            if whole:
                self.builder.place = index
                self.tell("converting", index / len(graph.nodes))
            title = f"node {node.name or node.op!r}"
            inputs = [self.value(scope, name, title) for name in node.inputs]
            results = self._lowered(node, inputs, scope)
            for name, value in zip(node.outputs, results, strict=False):
                if name in scope.values or name in scope.pending:
                    raise ModelFileError(f"{title} makes {name!r}, which is there already")
                if name:
                    scope.values[name] = value

    def _lowered(self, node: OnnxNode, inputs: list[str], scope: Scope) -> list[str]:
        function = self.model.functions.get((node.domain, node.op, node.overload))
        if function is not None:
            return self._call(node, function, inputs)
        special = SPECIAL.get(node.op) if not node.domain else None
        if special is not None:
            return special(self, node, inputs, scope)
        return lower_node(Call(self.builder, node, inputs, self.opset, self.model.loader))

    def _call(self, node: OnnxNode, function: Function, inputs: list[str]) -> list[str]:
        """Lower the nodes of a function in place of a call of it."""
        title = f"the function {node.op!r}"
        names, outputs = function.inputs, function.outputs
        if len(inputs) > len(names) or len(node.outputs) > len(outputs):
            raise ModelFileError(f"{title} is called with more than it takes or makes")
        self.inlined += len(function.nodes)
        if len(self.calls) >= MAX_CALLS or self.inlined > MAX_INLINED:
            allowed = f"{MAX_CALLS} calls inside one another and {MAX_INLINED} nodes are allowed"
            raise ModelFileError(f"{title} calls too much: {allowed}")
        inner = Scope()
        inner.values.update(zip(names, [*inputs, *[""] * len(names)], strict=False))
        nodes = [filled(n, {**function.defaults, **node.attrs}) for n in function.nodes]
        opset = self.opset
        self.calls.append(node.op)
        self.opset = function.opset or opset
        try:
            self.nodes(OnnxGraph(node.op, nodes, [], [], []), inner)
        finally:
            self.opset = opset
            self.calls.pop()
        return [self.value(inner, name, title) for name in outputs[: len(node.outputs)]]

    def lower_if(self, node: OnnxNode, inputs: list[str], scope: Scope) -> list[str]:
        """Inline the branch that a constant condition takes; keep both otherwise."""
        branches = [node.attrs.get(key) for key in ("then_branch", "else_branch")]
        graphs = [b for b in branches if isinstance(b, OnnxGraph)]
        count = len(node.outputs)
        if len(inputs) != 1 or len(graphs) != 2 or any(len(g.outputs) != count for g in graphs):
            raise ModelFileError(
                f"If {node.name!r} needs 1 input and 2 branches of {count} outputs"
            )
        condition = self.builder.array(inputs[0])
        if condition is None:
            return self._keep_if(node, inputs, graphs, scope)
        if condition.size != 1:
            raise ModelFileError(f"If {node.name!r} has a condition of {condition.size} values")
        self.builder.folded += 1
        return self._inside(graphs[0 if bool(condition.reshape(())) else 1], scope)

    def _inside(self, graph: OnnxGraph, scope: Scope) -> list[str]:
        inner = Scope(scope)
        self.enter(graph, inner)
        self.nodes(graph, inner)
        return [self.value(inner, v.name, f"the branch {graph.name!r}") for v in graph.outputs]

    def _keep_if(
        self, node: OnnxNode, inputs: list[str], graphs: list[OnnxGraph], scope: Scope
    ) -> list[str]:
        builder, attrs = self.builder, dict[str, Attr]()
        known: list[list[Info]] = []
        for key, graph in zip(("then_branch", "else_branch"), graphs, strict=True):
            with builder.branch() as nodes:
                results = self._inside(graph, scope)
                # A branch makes its outputs itself, also when they come from outside.
                made = [
                    builder.append(Node("Identity", (v,), (v,)), [builder.info(v)])[0]
                    for v in results
                ]
                known.append([builder.info(name) for name in made])
            outputs = [branch_port(n, i) for n, i in zip(made, known[-1], strict=True)]
            attrs[key] = Graph([], outputs, list(nodes))
        infos = [merge(*both) for both in zip(*known, strict=True)]
        kept = Node("If", tuple(inputs), tuple(node.outputs), attrs, node.name)
        return builder.append(kept, infos)


Special = Callable[[Walker, OnnxNode, "list[str]", Scope], "list[str]"]

#: Operators with graphs inside.
SPECIAL: dict[str, Special] = {
    "If": Walker.lower_if,
    "Loop": lower_loop,
    "Scan": lower_scan,
}
