# SPDX-License-Identifier: MIT
"""A graph as JSON. Attributes carry their type, so that 1.0 stays a float."""

from __future__ import annotations

from typing import Any

from gruengine.errors import ModelFileError
from gruengine.safetensors import shown
from gruengine.spec import Attr, Dim, Graph, Node, Port
from gruengine.spec_checks import MAX_GRAPH_DEPTH


def graph_to_json(graph: Graph) -> dict[str, Any]:
    """Return a valid graph as a JSON object."""
    return {
        "inputs": [_port_to_json(port) for port in graph.inputs],
        "outputs": [_port_to_json(port) for port in graph.outputs],
        "nodes": [_node_to_json(node) for node in graph.nodes],
    }


def graph_from_json(value: Any, depth: int = 1) -> Graph:
    """Return the graph that a JSON object describes, its names not checked.

    Raises
    ------
    ModelFileError
        If the object has another form.
    """
    if depth > MAX_GRAPH_DEPTH:
        raise ModelFileError(f"graphs are nested deeper than {MAX_GRAPH_DEPTH}")
    expect_keys(value, ("inputs", "outputs", "nodes"), (), "graph")
    return Graph(
        inputs=[_port_from_json(port) for port in expect_list(value["inputs"], "inputs")],
        outputs=[_port_from_json(port) for port in expect_list(value["outputs"], "outputs")],
        nodes=[_node_from_json(node, depth) for node in expect_list(value["nodes"], "nodes")],
    )


def expect_dict(value: Any, what: str) -> dict[str, Any]:
    """Return ``value`` if it is an object."""
    if not isinstance(value, dict):
        raise ModelFileError(f"{what} is {shown(value)}; allowed: an object")
    return value


def expect_keys(
    value: Any, required: tuple[str, ...], optional: tuple[str, ...], what: str
) -> None:
    """Check that ``value`` is an object with these keys."""
    keys = set(expect_dict(value, what))
    for key in required:
        if key not in keys:
            raise ModelFileError(f"{what} has no {key!r}")
    for key in sorted(keys - {*required, *optional}):
        allowed = ", ".join((*required, *optional))
        raise ModelFileError(f"{what} has {shown(key)}; allowed: {allowed}")


def expect_list(value: Any, what: str) -> list[Any]:
    """Return ``value`` if it is an array."""
    if not isinstance(value, list):
        raise ModelFileError(f"{what} is {shown(value)}; allowed: an array")
    return value


def expect_strings(value: Any, what: str) -> list[str]:
    """Return ``value`` if it is an array of strings."""
    if not all(isinstance(item, str) for item in expect_list(value, what)):
        raise ModelFileError(f"{what} is {shown(value)}; allowed: an array of strings")
    return list(value)


def _port_to_json(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)}


def _port_from_json(value: Any) -> Port:
    expect_keys(value, ("name", "dtype", "shape"), (), "port")
    shape: list[Dim] = expect_list(value["shape"], "shape")
    return Port(_string(value["name"], "port name"), _string(value["dtype"], "dtype"), tuple(shape))


def _node_to_json(node: Node) -> dict[str, Any]:
    return {
        "op": node.op,
        "name": node.name,
        "inputs": list(node.inputs),
        "outputs": list(node.outputs),
        "attrs": {name: _attr_to_json(value) for name, value in node.attrs.items()},
    }


def _node_from_json(value: Any, depth: int) -> Node:
    expect_keys(value, ("op", "name", "inputs", "outputs", "attrs"), (), "node")
    attrs = expect_dict(value["attrs"], "attrs")
    return Node(
        op=_string(value["op"], "op"),
        inputs=tuple(expect_strings(value["inputs"], "node inputs")),
        outputs=tuple(expect_strings(value["outputs"], "node outputs")),
        attrs={name: _attr_from_json(name, attr, depth) for name, attr in attrs.items()},
        name=_string(value["name"], "node name"),
    )


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ModelFileError(f"{what} is {shown(value)}; allowed: a string")
    return value


def attr_kind(value: Attr) -> str:
    """Return the tag of an attribute: i, f, s, is, fs, ss or g. An empty list is ``is``."""
    if isinstance(value, list):
        if value and isinstance(value[0], str):
            return "ss"
        return "fs" if any(isinstance(item, float) for item in value) else "is"
    if isinstance(value, Graph):
        return "g"
    return "s" if isinstance(value, str) else "f" if isinstance(value, float) else "i"


def _attr_to_json(value: Attr) -> dict[str, Any]:
    kind = attr_kind(value)
    if isinstance(value, Graph):
        return {kind: graph_to_json(value)}
    if isinstance(value, list) and kind == "fs":
        return {kind: [float(item) for item in value]}
    return {kind: value}


def _attr_from_json(name: str, value: Any, depth: int) -> Attr:
    if not isinstance(value, dict) or len(value) != 1:
        raise ModelFileError(
            f"attribute {shown(name)} is {shown(value)}; allowed: one of i, f, s, is, fs, ss, g"
        )
    kind, content = next(iter(value.items()))
    if kind == "g":
        return graph_from_json(content, depth + 1)
    if kind in _SCALARS:
        return _scalar(kind, content, name)
    if len(kind) == 2 and kind[0] in _SCALARS and kind[1] == "s":
        items: Any = expect_list(content, f"attribute {shown(name)}")
        return [_scalar(kind[0], item, name) for item in items]  # type: ignore[return-value]
    raise ModelFileError(
        f"attribute {shown(name)} has type {shown(kind)}; allowed: i, f, s, is, fs, ss, g"
    )


_SCALARS = {"i": "an integer", "f": "a number", "s": "a string"}


def _scalar(kind: str, value: Any, name: str) -> int | float | str:
    if kind == "f" and type(value) in (int, float):
        return float(value)
    if (kind == "i" and type(value) is int) or (kind == "s" and isinstance(value, str)):
        return value
    raise ModelFileError(f"attribute {shown(name)} is {shown(value)}; allowed: {_SCALARS[kind]}")
