# SPDX-License-Identifier: MIT
"""What ``inspect`` shows of a file that does not convert: its own tables, read as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gruengine.converters.onnx_tensor import type_name


def contents(kind: str, data: bytes, path: str | None) -> dict[str, Any]:
    """Return what a file of format ``kind`` holds, as JSON values.

    Returns
    -------
    dict
        ``tensors``: name, dtype, shape; for ONNX also ``operators`` (counts), ``inputs``,
        ``outputs`` and ``producer``.
    """
    if kind == "onnx":
        return _onnx(data, path)
    if kind == "json":
        return {"tensors": list(_json(data))}
    if kind.startswith("torch"):
        return {"tensors": _checkpoint(data)}
    found = _ARRAYS[kind](data)
    return {"tensors": [_tensor(name, str(v.dtype), v.shape) for name, v in found.items()]}


def _of_safetensors(data: bytes) -> dict[str, Any]:
    from gruengine.converters.safetensors_file import read_weights

    return read_weights(data)


def _of_keras(data: bytes) -> dict[str, Any]:
    from gruengine.converters.keras import read_weights

    return read_weights(data)


def _of_npz(data: bytes) -> dict[str, Any]:
    from gruengine.converters.npz import load_arrays

    return load_arrays(data)


_ARRAYS = {"safetensors": _of_safetensors, "keras": _of_keras, "npz": _of_npz}


def _json(data: bytes) -> Iterator[dict[str, Any]]:
    """Walk a JSON document; a list of numbers, or of such lists, is a tensor."""
    from gruengine.converters.json_parts import parse

    todo: list[tuple[str, Any]] = [("", parse(data, "the file"))]
    while todo:
        name, value = todo.pop()
        shape = _shape_of(value)
        if shape:
            yield _tensor(name, "number", shape)
        elif isinstance(value, (dict, list)):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            todo += [(f"{name}.{key}".strip("."), item) for key, item in reversed([*pairs])]


def _shape_of(value: Any) -> tuple[int, ...] | None:
    """Return the shape of nested lists of numbers, None of anything else."""
    if not isinstance(value, list):
        return () if type(value) in (int, float) else None
    shapes = {_shape_of(one) for one in value}
    shape = shapes.pop() if len(shapes) == 1 else None
    return None if shape is None else (len(value), *shape)


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def _checkpoint(data: bytes) -> list[dict[str, Any]]:
    """Walk the tree of a checkpoint; names are joined with dots, shared parts are shown once."""
    from gruengine.converters.pickle_values import Items, Stub
    from gruengine.converters.torch_file import Checkpoint, TensorRef

    found: list[dict[str, Any]] = []
    seen: set[int] = set()
    todo: list[tuple[str, Any]] = [("", Checkpoint(data).root)]
    while todo:
        name, value = todo.pop()
        if isinstance(value, TensorRef):
            dtype = value.storage.kind.removesuffix("Storage").lower()
            found.append(_tensor(name, dtype, value.shape))
        elif isinstance(value, (dict, Items, Stub)) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Stub):
                pairs = [("", value.args), ("", value.state)]
            elif isinstance(value, dict):
                pairs = [(str(key), item) for key, item in value.items()]
            else:
                pairs = [(str(i), item) for i, item in enumerate(value)]
            todo += [(".".join(p for p in (name, k) if p), item) for k, item in reversed(pairs)]
    return found


def _onnx(data: bytes, path: str | None) -> dict[str, Any]:
    from gruengine.converters.onnx_model import read_model

    model = read_model(data, None if path is None else Path(path))
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializers}
    producer = f"{model.producer} {model.producer_version}".strip()
    operators = Counter(f"{node.domain}::{node.op}".removeprefix("::") for node in graph.nodes)
    return {
        "producer": ", ".join(part for part in (producer, f"opset {model.opset}") if part),
        "inputs": [_value(value) for value in graph.inputs if value.name not in constants],
        "outputs": [_value(value) for value in graph.outputs],
        "operators": dict(operators.most_common()),
        "tensors": [_tensor(t.name, type_name(t.elem_type), t.dims) for t in graph.initializers],
    }


def _value(value: Any) -> dict[str, Any]:
    shape = ["?" if size is None else size for size in value.shape or ()]
    return {"name": value.name, "dtype": type_name(value.elem_type), "shape": shape}
