# SPDX-License-Identifier: MIT
"""Mutants that keep the outer form of a file: what checksums and lengths would refuse at once."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from zips import zipped

NUMBERS = (0, 1, 2, 3, 7, -1, 255, 65536, 1 << 31, (1 << 31) - 1, 1 << 40, -(1 << 62))
Bytes = Callable[[bytes], bytes]


def deepen(name: str, data: bytes, rng: np.random.Generator, flat: Bytes) -> bytes:
    """Change what lies inside ``data``, a file of the kind that its ``name`` tells.

    ``flat`` changes bytes without knowing what they are.
    """
    if name.startswith("onnx"):
        return _protobuf(data, rng)
    if name.startswith("model") or name == "safetensors":
        return _safetensors(data, rng)
    if name.startswith("json"):
        return _json(data, rng)
    if data[:2] == b"PK":
        return _zip(data, rng, flat)
    return flat(data)


def _pick(rng: np.random.Generator, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def _zip(data: bytes, rng: np.random.Generator, flat: Bytes) -> bytes:
    """Change one member, as a rule the pickle, and write a sound archive around it."""
    members = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("data.pkl")]
        chosen = _pick(rng, pickles if pickles and rng.random() < 0.7 else names)
        for name in names:
            content = archive.read(name)
            if name == chosen:
                deep = name.endswith(".json") and rng.random() < 0.7
                content = _json(content, rng) if deep else flat(content)
            members.append((name, content))
    return zipped(members)


def _json(data: bytes, rng: np.random.Generator) -> bytes:
    """Change values of a document."""
    document = json.loads(data)
    for _ in range(int(rng.integers(1, 4))):
        _change_json(document, rng)
    return json.dumps(document).encode()


def _safetensors(data: bytes, rng: np.random.Generator) -> bytes:
    """Change values of the header, or of the description inside it."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    ours = header.get("__metadata__", {}).get("gruengine")
    if ours is not None and rng.random() < 0.7:
        description = json.loads(ours)
        for _ in range(int(rng.integers(1, 3))):
            _change_json(description, rng)
        header["__metadata__"]["gruengine"] = json.dumps(description)
    else:
        _change_json(header, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    found: list[tuple[Any, Any]] = []
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    for key, inner in pairs:
        found.append((value, key))
        if isinstance(inner, (dict, list)):
            found += _places(inner)
    return found


def _change_json(document: Any, rng: np.random.Generator) -> None:
    places = _places(document)
    if not places:
        return
    container, key = _pick(rng, places)
    other_container, other_key = _pick(rng, places)
    kind = int(rng.integers(5))
    if kind == 0:
        container[key] = int(_pick(rng, NUMBERS))
    elif kind == 1:  # a copy, so that nothing contains itself
        container[key] = json.loads(json.dumps(other_container[other_key]))
    elif kind == 2:
        del container[key]
    elif kind == 3 and isinstance(container, list):
        container.insert(key, json.loads(json.dumps(container[key])))
    else:
        container[key] = _pick(rng, [None, True, "", "x", 0.5, [], {}, -0.0, 1e308])


def _protobuf(data: bytes, rng: np.random.Generator) -> bytes:
    """Change one to three fields of an ONNX model."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    for _ in range(int(rng.integers(1, 4))):
        fields = _fields(model)
        message, field = _pick(rng, fields)
        _change_field(message, field, rng, fields)
    result: bytes = model.SerializeToString()
    return result


def _fields(message: Any) -> list[tuple[Any, Any]]:
    """Every (message, field) that is set, at any depth."""
    found = []
    for field, value in message.ListFields():
        found.append((message, field))
        if field.type == field.TYPE_MESSAGE:
            for inner in value if hasattr(value, "append") or hasattr(value, "add") else [value]:
                found += _fields(inner)
    return found


def _change_field(message: Any, field: Any, rng: np.random.Generator, fields: Any) -> None:
    value = getattr(message, field.name)
    repeated = hasattr(value, "add") or hasattr(value, "append")
    if repeated and rng.random() < 0.3:
        del value[int(rng.integers(len(value)))]
    elif repeated and field.type == field.TYPE_MESSAGE:
        value.add().CopyFrom(_pick(rng, value))
    elif field.type == field.TYPE_MESSAGE:
        message.ClearField(field.name)
    else:
        new = _new_scalar(field, rng, fields)
        if new is None:
            message.ClearField(field.name)
        elif repeated:
            value[int(rng.integers(len(value)))] = new
        else:
            setattr(message, field.name, new)


def _new_scalar(field: Any, rng: np.random.Generator, fields: Any) -> Any:
    """A value of the field's type; of another such field if it is text or bytes."""
    if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
        same = [pair for pair in fields if pair[1].type == field.type]
        message, other = _pick(rng, same)
        value = getattr(message, other.name)
        if isinstance(value, (str, bytes)):
            return value[: int(rng.integers(len(value) + 1))] if rng.random() < 0.3 else value
        return _pick(rng, value)
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return float(_pick(rng, [0.0, -1.0, 1e30, float("nan"), float("inf"), 0.5]))
    if field.type == field.TYPE_ENUM:
        return int(rng.integers(0, 12))
    number = int(_pick(rng, NUMBERS))
    return number if field.type == field.TYPE_INT64 else number % (1 << 31)
