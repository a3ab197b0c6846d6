# SPDX-License-Identifier: MIT
"""Half precision models in float32: the hint ``widen``.

Weights of float16 and bfloat16 become the same numbers in float32. What runs rounds less than the
source does, so such a model is not converted exactly, and only on demand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gruengine.converters.onnx_model import Attribute, OnnxGraph, OnnxModel, OnnxNode, Value
from gruengine.converters.onnx_tensor import Loader, Tensor, type_name

HALF_TYPES = ("float16", "bfloat16")
#: What a reason adds where the type alone stands in the way.
WAY_OUT = "; give widen=True to compute half precision in float32"

_FLOAT32 = 1
#: Attributes that hold an element type.
_TYPES = ("to", "dtype", "output_dtype")


def widened(model: OnnxModel) -> OnnxModel:
    """Return a model with float32 in the place of float16 and bfloat16."""
    functions = {
        key: replace(
            function,
            nodes=[_node(node, model.loader) for node in function.nodes],
            defaults={k: _attribute(k, v, model.loader) for k, v in function.defaults.items()},
        )
        for key, function in model.functions.items()
    }
    return replace(model, graph=_graph(model.graph, model.loader), functions=functions)


def holds_halves(model: OnnxModel) -> bool:
    """Tell whether anything in a model is of half precision."""
    todo: list[Attribute] = [model.graph]
    todo += [value for f in model.functions.values() for value in _attributes(f.nodes)]
    while todo:
        value = todo.pop()
        if isinstance(value, OnnxGraph):
            typed: list[Value | Tensor] = [*value.inputs, *value.outputs, *value.initializers]
            if any(_is_half(one.elem_type) for one in typed):
                return True
            todo += _attributes(value.nodes)
        elif isinstance(value, Tensor) and _is_half(value.elem_type):
            return True
    return False


def _attributes(nodes: list[OnnxNode]) -> Iterator[Attribute]:
    return (value for node in nodes for value in node.attrs.values())


def _is_half(elem_type: object) -> bool:
    return isinstance(elem_type, int) and type_name(elem_type) in HALF_TYPES


def _graph(graph: OnnxGraph, loader: Loader) -> OnnxGraph:
    return replace(
        graph,
        nodes=[_node(node, loader) for node in graph.nodes],
        initializers=[_tensor(tensor, loader) for tensor in graph.initializers],
        inputs=[_value(value) for value in graph.inputs],
        outputs=[_value(value) for value in graph.outputs],
    )


def _node(node: OnnxNode, loader: Loader) -> OnnxNode:
    return replace(node, attrs={k: _attribute(k, v, loader) for k, v in node.attrs.items()})


def _attribute(name: str, value: Attribute, loader: Loader) -> Attribute:
    if isinstance(value, OnnxGraph):
        return _graph(value, loader)
    if isinstance(value, Tensor):
        return _tensor(value, loader)
    return _FLOAT32 if name in _TYPES and _is_half(value) else value


def _tensor(tensor: Tensor, loader: Loader) -> Tensor:
    if not _is_half(tensor.elem_type):
        return tensor
    values = loader.load(tensor).astype("<f4").reshape(-1)
    return Tensor(tensor.name, tensor.dims, _FLOAT32, values=values)


def _value(value: Value) -> Value:
    return replace(value, elem_type=_FLOAT32) if _is_half(value.elem_type) else value
