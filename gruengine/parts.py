# SPDX-License-Identifier: MIT
"""A model in parts: some are run here, the others, without recurrence, by ONNX Runtime.

Its file is a safetensors file too: one tensor of bytes for each part (a model file or an ONNX file)
and a JSON document in ``__metadata__["gruengine_parts"]``. See ``docs/format.md``.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gruengine import safetensors, spec_file
from gruengine.errors import InvalidInputError, ModelFileError
from gruengine.graph_json import (
    expect_dict,
    expect_keys,
    expect_list,
    expect_strings,
    graph_from_json,
    graph_to_json,
)
from gruengine.safetensors import Array, shown
from gruengine.spec import Graph, Parity

FORMAT = 1
METADATA_KEY = "gruengine_parts"
KINDS = ("gruengine", "onnxruntime")


@dataclass(frozen=True)
class Handed:
    """A node that ONNX Runtime runs: its name, its operator, and why."""

    node: str
    op: str
    why: str

    def __str__(self) -> str:
        return f"{self.node}: {self.why}"


@dataclass(frozen=True)
class Part:
    """One part: ``data`` is a model file (``kind`` "gruengine") or an ONNX file."""

    kind: str
    data: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    handed: tuple[Handed, ...] = ()


@dataclass
class PartedSpec:
    """Everything the file holds. ``graph`` has the inputs and outputs of the whole, and no node."""

    graph: Graph
    parts: list[Part]
    state: tuple[tuple[str, str], ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    parity: Parity | None = None

    @property
    def handed(self) -> list[Handed]:
        """The nodes that ONNX Runtime runs."""
        return [node for part in self.parts for node in part.handed]

    def validate(self) -> None:
        """Check that each part finds what it reads, and the model its outputs.

        Raises
        ------
        InvalidInputError
        """
        made = {port.name for port in self.graph.inputs}
        for part in self.parts:
            if part.kind not in KINDS:
                raise InvalidInputError(f"part of kind {shown(part.kind)}; allowed: {KINDS}")
            for name in part.inputs:
                if name not in made:
                    raise InvalidInputError(f"a part reads {shown(name)}, which nothing makes")
            made |= set(part.outputs)
        missing = [port.name for port in self.graph.outputs if port.name not in made]
        ins = {port.name for port in self.graph.inputs}
        outs = {port.name for port in self.graph.outputs}
        wrong = [pair for pair in self.state if pair[0] not in ins or pair[1] not in outs]
        if missing or wrong or self.graph.nodes:
            raise InvalidInputError(f"no part makes {missing}, or no such states {wrong}")

    def hash(self) -> str:
        """Return the SHA-256 over ports, parts and state pairs, in hexadecimal."""
        digest = hashlib.sha256(b"gruengine parts 1")
        document = {key: value for key, value in self._document().items() if key != "provenance"}
        digest.update(json.dumps(document, sort_keys=True).encode())
        for part in self.parts:
            digest.update(hashlib.sha256(part.data).digest())
        return digest.hexdigest()

    def _document(self) -> dict[str, Any]:
        parts = [
            {
                "kind": part.kind,
                "file": f"part/{i}",
                "inputs": list(part.inputs),
                "outputs": list(part.outputs),
                "nodes": [[node.node, node.op, node.why] for node in part.handed],
            }
            for i, part in enumerate(self.parts)
        ]
        return {
            "format": FORMAT,
            "graph": graph_to_json(self.graph),
            "parts": parts,
            "state": [list(pair) for pair in self.state],
            "provenance": self.provenance,
        }

    def to_bytes(self) -> bytes:
        """Return the file."""
        self.validate()
        document = self._document()
        tensors: dict[str, Array] = {
            f"part/{i}": np.frombuffer(part.data, np.uint8) for i, part in enumerate(self.parts)
        }
        if self.parity is not None:
            for side, arrays in (("in", self.parity.inputs), ("out", self.parity.outputs)):
                tensors.update({f"parity/{side}/{name}": a for name, a in arrays.items()})
            document["parity"] = {
                "oracle": self.parity.oracle,
                "inputs": sorted(self.parity.inputs),
                "outputs": sorted(self.parity.outputs),
            }
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, sort_keys=True)
        return b"".join(safetensors.pieces(tensors, {METADATA_KEY: text}))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file in one step.

        Raises
        ------
        FileAccessError
            The operating system refuses; an old file is untouched.
        """
        spec_file.save(path, [self.to_bytes()])


def from_bytes(data: bytes | memoryview) -> PartedSpec:
    """Read and check the file of a model in parts.

    Raises
    ------
    ModelFileError
        If it breaks its format.
    """
    tensors, metadata = safetensors.read(data)
    if METADATA_KEY not in metadata:
        raise ModelFileError(f"no {METADATA_KEY!r} in __metadata__: no model in parts")
    document = safetensors.parse_json(metadata[METADATA_KEY].encode(), "the description")
    version = document.get("format") if isinstance(document, dict) else None
    if type(version) is not int or version != FORMAT:
        raise ModelFileError(f"format {shown(version)} of parts; this version reads {FORMAT}")
    keys = ("format", "graph", "parts", "state", "provenance")
    expect_keys(document, keys, ("parity",), "the description")
    state = [expect_strings(pair, "state pair") for pair in expect_list(document["state"], "state")]
    if any(len(pair) != 2 for pair in state):
        raise ModelFileError("a state pair is an input and an output")
    spec = PartedSpec(
        graph=graph_from_json(document["graph"]),
        parts=[_part(value, tensors) for value in expect_list(document["parts"], "parts")],
        state=tuple((pair[0], pair[1]) for pair in state),
        provenance=expect_dict(document["provenance"], "provenance"),
        parity=_parity(document["parity"], tensors) if "parity" in document else None,
    )
    if tensors:
        raise ModelFileError(f"tensor {shown(next(iter(tensors)))} is listed nowhere")
    try:
        spec.validate()
    except InvalidInputError as error:
        raise ModelFileError(str(error)) from None
    return spec


def _take(tensors: dict[str, Array], name: Any) -> Array:
    if not isinstance(name, str) or name not in tensors:
        raise ModelFileError(f"tensor {shown(name)} is not in the file, or listed twice")
    return tensors.pop(name)


def _part(value: Any, tensors: dict[str, Array]) -> Part:
    expect_keys(value, ("kind", "file", "inputs", "outputs", "nodes"), (), "a part")
    if value["kind"] not in KINDS:
        raise ModelFileError(f"part of kind {shown(value['kind'])}; allowed: {', '.join(KINDS)}")
    data = _take(tensors, value["file"])
    if data.dtype != np.uint8 or data.ndim != 1:
        raise ModelFileError(f"part {shown(value['file'])} is no vector of bytes")
    handed = []
    for node in expect_list(value["nodes"], "nodes of a part"):
        words = expect_strings(node, "a node of a part")
        if len(words) != 3:
            raise ModelFileError("a node of a part is its name, its operator and a reason")
        handed.append(Handed(words[0], words[1], words[2]))
    names = [tuple(expect_strings(value[side], side)) for side in ("inputs", "outputs")]
    return Part(value["kind"], data.tobytes(), names[0], names[1], tuple(handed))


def _parity(value: Any, tensors: dict[str, Array]) -> Parity:
    expect_keys(value, ("oracle", "inputs", "outputs"), (), "parity")
    if not isinstance(value["oracle"], str):
        raise ModelFileError(f"parity oracle is {shown(value['oracle'])}; allowed: a string")
    sides = [
        {name: _take(tensors, f"parity/{key}/{name}") for name in expect_strings(value[s], s)}
        for s, key in (("inputs", "in"), ("outputs", "out"))
    ]
    return Parity(sides[0], sides[1], value["oracle"])
