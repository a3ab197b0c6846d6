# SPDX-License-Identifier: MIT
"""``gruengine inspect``: what a model is made of, without the framework it came from."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np

from gruengine import parts
from gruengine.cli_refused import contents
from gruengine.cli_text import fields, shape, size, table
from gruengine.converters import FORMATS, load_source, read, sniff
from gruengine.converters.base import ConversionError, Options
from gruengine.errors import GruEngineError
from gruengine.fallback import convert_in_parts
from gruengine.parts import PartedSpec
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
    given = dict(options)
    sizes, fallback = given.pop("sizes", None), given.pop("fallback", None)
    wanted = Options(given.pop("bind", {}), given.pop("state", None), given)
    found: dict[str, Any] = {
        "path": os.fspath(path),
        "format": FORMATS[kind],
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    if kind == "parts":
        return {**found, **describe_parts(parts.from_bytes(data), [])}
    try:
        spec, report = read(path, wanted)
    except ConversionError as error:
        if fallback is not None:
            whole, report = convert_in_parts(path, wanted, sizes, error)
            return {**found, **describe_parts(whole, report.warnings)}
        reasons = [str(reason) for reason in error.reasons]
        return {**found, "converts": False, "reasons": reasons, **contents(kind, data, path)}
    return {**found, **_described(spec, [spec], report.warnings)}


def _described(
    whole: ModelSpec | PartedSpec, specs: list[ModelSpec], warnings: list[str]
) -> dict[str, Any]:
    """Describe a model of which ``specs`` run here."""
    tensors = [tensor for spec in specs for tensor in spec.tensors.values()]
    floats = [tensor for tensor in tensors if tensor.dtype.kind == "f"]
    return {
        "converts": True,
        "provenance": whole.provenance,
        "inputs": [_port(port) for port in whole.graph.inputs],
        "outputs": [_port(port) for port in whole.graph.outputs],
        "state": [list(pair) for pair in whole.state],
        "parameters": sum(int(tensor.size) for tensor in floats),
        "parameter_bytes": sum(int(tensor.nbytes) for tensor in floats),
        "nodes": [_node(node, spec) for spec in specs for node in spec.graph.nodes],
        "parity": whole.parity.oracle if whole.parity else None,
        "warnings": warnings,
        **_streaming(whole),
    }


def describe_parts(whole: PartedSpec, warnings: list[str]) -> dict[str, Any]:
    """Describe a model in parts: nodes in the order of the parts, and what was handed over."""
    specs = [ModelSpec.from_bytes(p.data) if p.kind == "gruengine" else None for p in whole.parts]
    found = _described(whole, [spec for spec in specs if spec is not None], warnings)
    nodes: list[dict[str, Any]] = []
    for part, spec in zip(whole.parts, specs, strict=True):
        if spec is not None:
            nodes += [_node(node, spec) for node in spec.graph.nodes]
        nodes += [
            {"name": n.node, "operator": n.op, "sizes": "in ONNX Runtime", "outputs": []}
            for n in part.handed
        ]
    handed = [{"node": n.node, "operator": n.op, "why": n.why} for n in whole.handed]
    return {**found, "nodes": nodes, "fallback": handed}


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)}


def _streaming(spec: ModelSpec | PartedSpec) -> dict[str, Any]:
    """Ask the engine; a model that it does not run can still be inspected."""
    from gruengine.conversion import model_of, streaming_in_words

    try:
        model = model_of(spec)
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
        *(
            ("ONNX Runtime" if i == 0 else " ", f"{n['node']} ({n['operator']}): {n['why']}")
            for i, n in enumerate(found.get("fallback", ()))
        ),
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
