# SPDX-License-Identifier: MIT
"""The hash of a model: what it computes, whatever the order of its file.

The same walk is in ``cpp/src/io/model_hash.cpp``; ``docs/format.md`` describes it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection

import numpy as np

from gruengine.graph_json import attr_kind
from gruengine.spec import Attr, Graph, ModelSpec, Node, Port


def model_hash(spec: ModelSpec) -> str:
    """Return the SHA-256 over graph, state pairs and tensors of a valid spec, in hexadecimal."""
    walk = _Walk()
    walk.text("gruengine model 1")
    walk.graph(spec.graph)
    walk.integer(len(spec.state))
    for pair in spec.state:
        walk.texts(pair)
    walk.integer(len(spec.tensors))
    for name, array in sorted(spec.tensors.items()):
        walk.text(name)
        walk.text(array.dtype.name)
        walk.integers(array.shape)
        walk.integer(array.nbytes)
        walk.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return walk.hexdigest()


class _Walk:
    """Feeds values to SHA-256: integers as 8 little-endian bytes, everything else with its length.

    An empty list hashes as one of integers, whatever type the file gives it.
    """

    def __init__(self) -> None:
        sha = hashlib.sha256()
        self.update = sha.update
        self.hexdigest = sha.hexdigest

    def integer(self, value: int) -> None:
        self.update(struct.pack("<q", value))

    def integers(self, values: Collection[int]) -> None:
        self.integer(len(values))
        for value in values:
            self.integer(value)

    def text(self, value: str) -> None:
        data = value.encode("utf-8")
        self.integer(len(data))
        self.update(data)

    def texts(self, values: Collection[str]) -> None:
        self.integer(len(values))
        for value in values:
            self.text(value)

    def graph(self, graph: Graph) -> None:
        self.ports(graph.inputs)
        self.ports(graph.outputs)
        self.integer(len(graph.nodes))
        for node in graph.nodes:
            self.node(node)

    def ports(self, ports: list[Port]) -> None:
        self.integer(len(ports))
        for port in ports:
            self.text(port.name)
            self.text(port.dtype)
            self.integer(len(port.shape))
            for size in port.shape:
                if isinstance(size, str):
                    self.update(b"s")
                    self.text(size)
                else:
                    self.update(b"i")
                    self.integer(size)

    def node(self, node: Node) -> None:
        self.text(node.op)
        self.text(node.name)
        self.texts(node.inputs)
        self.texts(node.outputs)
        self.integer(len(node.attrs))
        for name, value in sorted(node.attrs.items()):
            self.text(name)
            self.text(attr_kind(value))
            self.attribute(value)

    def attribute(self, value: Attr) -> None:
        if isinstance(value, Graph):
            self.graph(value)
        elif isinstance(value, list):
            self.integer(len(value))
            as_float = attr_kind(value) == "fs"
            for item in value:
                self.attribute(float(item) if as_float else item)
        elif isinstance(value, str):
            self.text(value)
        elif isinstance(value, float):
            self.update(struct.pack("<d", value))
        else:
            self.integer(value)
