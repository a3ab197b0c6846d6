# SPDX-License-Identifier: MIT
"""``gruengine inspect``: what a model is made of, without the framework it came from."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np

from gruengine.cli_refused import contents
from gruengine.cli_text import fields, shape, size, table
from gruengine.converters import FORMATS, load_source, read, sniff
from gruengine.converters.base import ConversionError, Options
from gruengine.errors import GruEngineError
from gruengine.runtime import level_of
from gruengine.spec import Graph, ModelSpec, Node, Port

Array = np.ndarray[Any, Any]


def describe(path: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return everything ``inspect`` shows, as JSON values.

    A model that is refused is described by what its file holds, with the reasons.

    Raises
    ------
    FileAccessError, ModelFileError, UnsupportedError
        As ``gruengine.convert``.
    """
    data, _, name = load_source(path)
    kind = sniff(data, name)
    hints = {k: v for k, v in options.items() if k not in ("bind", "state", "sizes")}
    found: dict[str, Any] = {
        "path": os.fspath(path),
        "format": FORMATS[kind],
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    try:
        spec, report = read(path, Options(options.get("bind", {}), options.get("state"), hints))
    except ConversionError as error:
        reasons = [str(reason) for reason in error.reasons]
        return {**found, "converts": False, "reasons": reasons, **contents(kind, data, path)}
    floats = [tensor for tensor in spec.tensors.values() if tensor.dtype.kind == "f"]
    return {
        **found,
        "converts": True,
        "provenance": spec.provenance,
        "inputs": [_port(port) for port in spec.graph.inputs],
        "outputs": [_port(port) for port in spec.graph.outputs],
        "state": [list(pair) for pair in spec.state],
        "parameters": sum(int(tensor.size) for tensor in floats),
        "parameter_bytes": sum(int(tensor.nbytes) for tensor in floats),
        "nodes": [_node(node, spec) for node in spec.graph.nodes],
        "parity": spec.parity.oracle if spec.parity else None,
        "warnings": report.warnings,
        **_streaming(spec),
    }


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)}


def _streaming(spec: ModelSpec) -> dict[str, Any]:
    """Ask the engine; a model that it does not run can still be inspected."""
    from gruengine.conversion import streaming_in_words
    from gruengine.model import Model

    try:
        model = Model.from_spec(spec)
    except GruEngineError as error:
        return {"runs": False, "streaming": f"does not run: {error}"}
    return {
        "runs": True,
        "streaming": streaming_in_words(model),
        "compute_type": model.compute_type,
        "packed_bytes": model.packed_bytes,
        "fits": level_of(model.packed_bytes),
    }


def _node(node: Node, spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": node.name,
        "operator": node.op,
        "sizes": _sizes(node, spec),
        "outputs": [name for name in node.outputs if name],
    }


def _sizes(node: Node, spec: ModelSpec) -> str:
    """Say what is worth knowing about a node: the cell, or the shape of its constants."""
    if node.op == "Recurrent":
        return _cell(node, spec)
    if node.op == "If":
        counts = [len(value.nodes) for value in node.attrs.values() if isinstance(value, Graph)]
        return " or ".join(f"{count} nodes" for count in counts)
    if isinstance(node.attrs.get("perm"), list):
        return shape(node.attrs["perm"])  # type: ignore[arg-type]
    constants = [spec.tensors[name] for name in node.inputs if name in spec.tensors]
    return " ".join(text for text in map(_constant, constants) if len(text) < 30)


def _constant(value: Array) -> str:
    """Show a small integer list or a single number as it is, and anything else by its shape."""
    if value.size == 1 and value.dtype.kind == "f":
        return f"{value.item():.4g}"
    if value.dtype.kind == "f":
        return shape(value.shape)
    # The largest integers stand for "to the end".
    words = ["end" if abs(v) > 1 << 31 else str(v) for v in value.reshape(-1)[:12].tolist()]
    return words[0] if value.ndim == 0 else f"[{', '.join(words)}]"


def _cell(node: Node, spec: ModelSpec) -> str:
    attrs = node.attrs
    parts = [str(attrs.get("cell", "")).upper()]
    weights = spec.tensors.get(node.inputs[1])
    parts.append(f"{weights.shape[-1] if weights is not None else '?'} -> {attrs['hidden_size']}")
    if attrs.get("direction", "forward") != "forward":
        parts.append(str(attrs["direction"]))
    if attrs.get("cell") == "gru":
        parts.append(f"reset {attrs.get('reset', 'after')}")
    if attrs.get("coupled"):
        parts.append("coupled")
    if attrs.get("clip"):
        parts.append(f"clip {attrs['clip']}")
    for index, word in ((4, "lengths"), (7, "peepholes"), (8, "projection")):
        if len(node.inputs) > index and node.inputs[index]:
            parts.append(word)
    return " ".join(parts)


def in_words(found: dict[str, Any]) -> str:
    """Return the description for a person."""
    head = [
        ("format", found["format"]),
        ("file", f"{size(found['bytes'])}, sha256 {found['sha256'][:16]}"),
    ]
    body = _converted(found) if found["converts"] else _refused(found)
    return "\n".join([found["path"], fields(head + body[0]), "", body[1]])


def _ports(found: dict[str, Any]) -> list[tuple[str, str]]:
    names = [p["name"] for kind in ("inputs", "outputs") for p in found.get(kind, ())]
    width = max(map(len, names), default=0)
    return [
        (kind if i == 0 else " ", f"{p['name']:<{width}}  {p['dtype']} {shape(p['shape'])}")
        for kind in ("inputs", "outputs")
        for i, p in enumerate(found.get(kind, ()))
    ]


def _source(provenance: dict[str, Any]) -> str:
    opset = f"opset {provenance['opset']}" if "opset" in provenance else ""
    parts = (provenance.get("format"), provenance.get("producer"), opset)
    return ", ".join(str(part) for part in parts if part)


def _packed(found: dict[str, Any]) -> str:
    if not found.get("packed_bytes"):
        return ""
    place = "fits no cache" if found["fits"] == "memory" else f"fits {found['fits']}"
    return f"{size(found['packed_bytes'])} in {found['compute_type']}: {place}"


def _converted(found: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    pairs = [
        ("source", _source(found["provenance"])),
        ("parameters", f"{found['parameters']:,} float32 ({size(found['parameter_bytes'])})"),
        *_ports(found),
        ("state", ", ".join(f"{before} -> {after}" for before, after in found["state"])),
        ("streaming", found["streaming"]),
        ("parity", f"sample by {found['parity']}" if found["parity"] else ""),
        ("packed", _packed(found)),
        *(("warning", text) for text in found["warnings"]),
    ]
    rows = [("#", "operator", "sizes", "node")]
    for i, node in enumerate(found["nodes"]):
        rows.append((str(i), node["operator"], node["sizes"], node["name"]))
    return pairs, table(rows, right=(0,))


def _refused(found: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    operators = ", ".join(f"{count} {name}" for name, count in found.get("operators", {}).items())
    pairs = [
        ("producer", found.get("producer", "")),
        *_ports(found),
        ("operators", operators),
        *(("refused" if i == 0 else " ", reason) for i, reason in enumerate(found["reasons"])),
    ]
    rows = [("tensor", "dtype", "shape")]
    rows += [(t["name"], t["dtype"], shape(t["shape"])) for t in found["tensors"]]
    return pairs, table(rows)
