# SPDX-License-Identifier: MIT
"""Writes part of an ONNX file as a file of its own: nodes and tensors byte for byte."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gruengine.converters.onnx_model import OnnxModel, Value
from gruengine.converters.onnx_parts import reads
from gruengine.converters.onnx_tensor import STORED, TYPE_NAMES, Tensor
from gruengine.converters.protobuf import VARINT, Budget, Message, signed
from gruengine.converters.protobuf_write import Writer
from gruengine.errors import ModelFileError

Array = np.ndarray[Any, Any]

_GRAPH, _TRAINING = 7, 20  # fields of a model
_CODES = {name: code for code, name in TYPE_NAMES.items()}


def write_part(
    source: bytes | memoryview,
    model: OnnxModel,
    nodes: Iterable[int],
    inputs: Sequence[Value],
    outputs: Sequence[str],
    bound: Mapping[str, Array] | None = None,
) -> bytes:
    """Return an ONNX file with some of the nodes of another.

    Parameters
    ----------
    source : bytes
        The other file.
    model : OnnxModel
        What was read from it; its loader finds external data, which the new file holds itself.
    nodes : indices of nodes, in order
    inputs, outputs : of the new graph; types of outputs are left to its reader
    bound : constants in place of inputs of the source
    """
    whole = Message(memoryview(source).cast("B"), "the file", Budget())
    graph = whole.message(_GRAPH, "the graph")
    assert graph is not None
    given = bound or {}
    taken = {value.name for value in inputs} | set(given)
    new, chosen = Writer(), list(nodes)
    named = {name for index in chosen for name in reads(model.graph.nodes[index])} | set(outputs)
    views = graph.views(1)
    for index in chosen:
        new.data(1, bytes(views[index]))
    new.text(2, model.graph.name or "part")
    for tensor, raw in zip(model.graph.initializers, graph.views(5), strict=True):
        if tensor.name in named - taken:
            new.data(5, bytes(raw) if tensor.external is None else _inside(model, tensor))
    for name, array in given.items():
        if name not in named:
            continue
        new.data(5, _tensor(name, array.shape, _CODES[array.dtype.name], array.tobytes()))
    for value in inputs:
        new.message(11, _port(value))
    for name in outputs:
        new.message(12, Writer().text(1, name))
    result = Writer()
    for number, entries in whole.fields.items():
        for wire, value_or_begin, end in entries:
            if number in (_GRAPH, _TRAINING):
                continue
            if wire == VARINT:
                result.integer(number, signed(value_or_begin))
            else:
                result.data(number, bytes(whole.data[value_or_begin:end]))
    return result.message(_GRAPH, new).bytes()


def _inside(model: OnnxModel, tensor: Tensor) -> bytes:
    """Return a tensor of external data with its bytes."""
    if tensor.elem_type not in STORED:
        raise ModelFileError(f"tensor {tensor.name!r} of external data has no known type")
    raw = model.loader.external_bytes(tensor)
    return _tensor(tensor.name, tensor.dims, tensor.elem_type, raw)


def _tensor(name: str, dims: Sequence[int], elem_type: int, raw: bytes) -> bytes:
    writer = Writer().integers(1, dims).integer(2, elem_type).text(8, name)
    return writer.data(9, raw).bytes()


def _port(value: Value) -> Writer:
    tensor = Writer().integer(1, value.elem_type)
    if value.shape is not None:
        shape = Writer()
        for size in value.shape:
            dim = Writer()
            if size is not None:
                dim = dim.text(2, size) if isinstance(size, str) else dim.integer(1, size)
            shape.message(1, dim)
        tensor.message(2, shape)
    return Writer().text(1, value.name).message(2, Writer().message(1, tensor))
