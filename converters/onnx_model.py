# SPDX-License-Identifier: MIT
"""An ONNX file as small dataclasses: only the fields that a conversion needs, all of them checked.

Field numbers are those of ``onnx.proto`` (ONNX, Apache-2.0 project, IR versions 3 to 13).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

import numpy as np

from gruengine.converters.onnx_tensor import Loader, Tensor, read_tensor
from gruengine.converters.protobuf import Budget, Message
from gruengine.errors import ModelFileError

Array = np.ndarray[Any, Any]

#: Graphs inside graphs; real models stay below 10.
MAX_DEPTH = 32

FLOAT, INT, STRING, TENSOR, GRAPH, FLOATS, INTS, STRINGS = 1, 2, 3, 4, 5, 6, 7, 8


@dataclass(frozen=True)
class Value:
    """A graph input or output; ``kind`` says what it is when it is no tensor.

    ``shape`` is None where the rank is not declared, a size where it has no number and no name.
    """

    name: str
    elem_type: int
    shape: tuple[int | str | None, ...] | None
    kind: str = "tensor"


@dataclass(frozen=True)
class Unsupported:
    """An attribute of a kind that no operator of ours has."""

    kind: str


@dataclass(frozen=True)
class Reference:
    """An attribute of a node in a function: that of the call, by its name."""

    name: str


Attribute = Union[
    int, float, str, list[int], list[float], list[str], Tensor, "OnnxGraph", Unsupported, Reference
]


@dataclass(frozen=True)
class OnnxNode:
    """One node as the file has it; ``domain`` is ``""`` for ONNX's own operators."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Attribute]
    overload: str = ""


@dataclass(frozen=True)
class Function:
    """An operator that the file defines itself; ``opset`` is 0 where it is that of the model."""

    inputs: list[str]
    outputs: list[str]
    nodes: list[OnnxNode]
    defaults: dict[str, Attribute]
    opset: int


@dataclass(frozen=True)
class OnnxGraph:
    """A graph or a branch: names as the file has them."""

    name: str
    nodes: list[OnnxNode]
    initializers: list[Tensor]
    inputs: list[Value]
    outputs: list[Value]
    sparse: bool = False


@dataclass(frozen=True)
class OnnxModel:
    """A whole file. ``opset`` is that of ONNX's own operators, 0 where it is not imported."""

    producer: str
    producer_version: str
    opset: int
    graph: OnnxGraph
    functions: dict[tuple[str, str, str], Function] = field(default_factory=dict)
    loader: Loader = field(default_factory=Loader)

    def holds_external_data(self) -> bool:
        """Tell whether any tensor lies outside the file."""
        bodies = [function.nodes for function in self.functions.values()]
        return _is_external(self.graph) or any(map(_any_external, bodies))


def _is_external(value: Attribute) -> bool:
    if isinstance(value, OnnxGraph):
        tensors = any(tensor.external is not None for tensor in value.initializers)
        return tensors or _any_external(value.nodes)
    return isinstance(value, Tensor) and value.external is not None


def _any_external(nodes: list[OnnxNode]) -> bool:
    return any(_is_external(value) for node in nodes for value in node.attrs.values())


def read_model(source: bytes | memoryview, path: Path | None = None) -> OnnxModel:
    """Read an ONNX file.

    Parameters
    ----------
    source : bytes
        The file; tensors are views of it until they are loaded.
    path : Path or None
        Where it lies; external data is looked for beside it, and refused without it.

    Raises
    ------
    ModelFileError
        Bytes that are no ONNX model.
    """
    model = Message(memoryview(source).cast("B"), "the file", Budget())
    graph = model.message(7, "the graph")
    if graph is None or not (model.has(1) or model.has(8)):
        raise ModelFileError("the bytes are no ONNX model: no graph, or no version of it")
    functions = {}
    for entry in model.messages(25, "a function"):
        key = (_domain(entry.text(10)), entry.text(1), entry.text(13))
        if key in functions:
            raise ModelFileError(f"the function {'.'.join(key[:2])!r} is there twice")
        functions[key] = _function(entry)
    return OnnxModel(
        producer=model.text(2),
        producer_version=model.text(3),
        opset=_opset(model, 8),
        graph=_graph(graph, 0),
        functions=functions,
        loader=Loader(None if path is None else path.parent),
    )


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _opset(message: Message, number: int) -> int:
    """Return the version of ONNX's own operators that a model or function imports, or 0."""
    imports = message.messages(number, "an opset import")
    return max((e.integer(2) for e in imports if not _domain(e.text(1))), default=0)


def _function(message: Message) -> Function:
    title = f"the function {message.text(1)!r}"
    defaults = {
        e.text(1): _attribute(e, 0) for e in message.messages(11, f"an attribute of {title}")
    }
    return Function(
        inputs=message.texts(4),
        outputs=message.texts(5),
        nodes=[_node(node, 0) for node in message.messages(7, f"a node of {title}")],
        defaults=defaults,
        opset=_opset(message, 9),
    )


def _graph(message: Message, depth: int) -> OnnxGraph:
    if depth >= MAX_DEPTH:
        raise ModelFileError(f"graphs are nested more than {MAX_DEPTH} deep")
    return OnnxGraph(
        name=message.text(2),
        nodes=[_node(node, depth) for node in message.messages(1, "a node")],
        initializers=[read_tensor(t, named=True) for t in message.messages(5, "an initializer")],
        inputs=[_value(value) for value in message.messages(11, "a graph input")],
        outputs=[_value(value) for value in message.messages(12, "a graph output")],
        sparse=message.has(15),
    )


def _node(message: Message, depth: int) -> OnnxNode:
    op, domain, name = message.text(4), message.text(7), message.text(3)
    if not op:
        raise ModelFileError(f"node {name!r} has no operator")
    attrs: dict[str, Attribute] = {}
    for entry in message.messages(5, f"an attribute of {op} {name!r}"):
        key = entry.text(1)
        if not key or key in attrs:
            raise ModelFileError(f"{op} {name!r} has the attribute {key!r} without a name or twice")
        attrs[key] = _attribute(entry, depth)
    return OnnxNode(
        op=op,
        domain=_domain(domain),
        name=name,
        inputs=tuple(message.texts(1)),
        outputs=tuple(message.texts(2)),
        attrs=attrs,
        overload=message.text(8),
    )


# Attribute type -> the field that holds it, where files of IR version 1 leave the type out.
_FIELDS = {FLOAT: 2, INT: 3, STRING: 4, TENSOR: 5, GRAPH: 6, FLOATS: 7, INTS: 8, STRINGS: 9}


def _attribute(entry: Message, depth: int) -> Attribute:
    if entry.has(21):
        return Reference(entry.text(21))
    kind = entry.integer(20)
    if kind == 0:
        given = [k for k, number in _FIELDS.items() if entry.has(number)]
        kind = given[0] if len(given) == 1 else 0
    if kind == FLOAT:
        return entry.real(2)
    if kind == INT:
        return entry.integer(3)
    if kind == STRING:
        return entry.text(4)
    if kind == FLOATS:
        return [float(v) for v in entry.reals(7)]
    if kind == INTS:
        return [int(v) for v in entry.integers(8)]
    if kind == STRINGS:
        return entry.texts(9)
    if kind == TENSOR:
        tensor = entry.message(5, "a tensor")
        if tensor is not None:
            return read_tensor(tensor)
    if kind == GRAPH:
        graph = entry.message(6, "a subgraph")
        if graph is not None:
            return _graph(graph, depth + 1)
    return Unsupported(f"attribute type {kind}")


def _value(message: Message) -> Value:
    name = message.text(1)
    kind = message.message(2, f"the type of {name!r}")
    if kind is None:
        return Value(name, 0, None)
    tensor = kind.message(1, f"the type of {name!r}")
    if tensor is None:
        others = {4: "sequence", 5: "map", 8: "sparse tensor", 9: "optional"}
        found = [word for number, word in others.items() if kind.has(number)]
        return Value(name, 0, None, found[0] if found else "tensor")
    shape = tensor.message(2, f"the shape of {name!r}")
    if shape is None:
        return Value(name, tensor.integer(1), None)
    sizes = tuple(_size(dim) for dim in shape.messages(1, f"a size of {name!r}"))
    return Value(name, tensor.integer(1), sizes)


def _size(dim: Message) -> int | str | None:
    if dim.has(1):
        size = dim.integer(1)
        return size if size >= 0 else None
    return dim.text(2) or None
