# SPDX-License-Identifier: MIT
"""Operators of TensorFlow in Functional models of Keras 2: ``x[:, -1]``, ``x + y``, ``tf.concat``.

Keras 2 wrote them as layers of the classes SlicingOpLambda and TFOpLambda, each with the name of a
function of TensorFlow and its arguments. They become the operators of ``keras_ops``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gruengine.converters.keras_config import Broken, LayerDef

CLASSES = ("SlicingOpLambda", "TFOpLambda")

#: Where parse() finds the operators.
_OPERATORS = "keras.src.ops"
_CONSTANT = "_CONSTANT_VALUE"

#: Function -> operator, of those that take their arguments as Keras 3 does.
_PLAIN = {
    "math.negative": "Negative", "math.exp": "Exp", "math.log": "Log", "math.sqrt": "Sqrt",
    "math.abs": "Abs", "math.square": "Square", "math.tanh": "Tanh", "math.sigmoid": "Sigmoid",
    "nn.sigmoid": "Sigmoid", "nn.tanh": "Tanh", "nn.relu": "Relu", "nn.relu6": "Relu6",
    "nn.softplus": "Softplus", "math.softplus": "Softplus", "nn.softsign": "Softsign",
    "nn.silu": "Silu", "nn.swish": "Silu", "nn.gelu": "Gelu", "nn.elu": "Elu",
    "nn.softmax": "Softmax", "nn.log_softmax": "LogSoftmax",
    "math.reduce_mean": "Mean", "math.reduce_sum": "Sum", "math.reduce_max": "Max",
    "math.reduce_min": "Min", "math.reduce_prod": "Prod",
    "concat": "Concatenate", "stack": "Stack", "expand_dims": "ExpandDims", "squeeze": "Squeeze",
    "reverse": "Flip", "identity": "Identity", "stop_gradient": "Identity", "cast": "Identity",
}  # fmt: skip
_BINARY = {
    "__operators__.add": "Add", "math.add": "Add", "math.subtract": "Subtract",
    "math.multiply": "Multiply", "math.truediv": "Divide", "math.divide": "Divide",
    "math.maximum": "Maximum", "math.minimum": "Minimum", "math.pow": "Power",
}  # fmt: skip
#: Function -> operator and how its arguments are called there.
_RENAMED = {
    "transpose": ("Transpose", {"perm": "axes"}),
    "reshape": ("Reshape", {"shape": "newshape"}),
    "split": ("Split", {"num_or_size_splits": "indices_or_sections"}),
    "clip_by_value": ("Clip", {"clip_value_min": "x_min", "clip_value_max": "x_max"}),
    "linalg.matmul": ("Matmul", {}),
    "math.l2_normalize": ("UnitNormalization", {}),
    "nn.leaky_relu": ("LeakyRelu", {"alpha": "negative_slope"}),
}
#: Arguments that say nothing of the result, as long as they have these values.
_IDLE = {"name": None, "conjugate": False, "adjoint_a": False, "adjoint_b": False}


def as_operator(layer: LayerDef, entry: Any) -> tuple[LayerDef, Any]:
    """Return a layer of one of ``CLASSES`` as an operator, and its entry as Keras 3 writes one.

    Raises
    ------
    Broken
        It is called in no way that is known. A function that is not converted stays what it is,
        and is refused as a layer.
    """
    nodes = entry.get("inbound_nodes")
    if not isinstance(nodes, list) or len(nodes) != 1:
        raise Broken(f"{layer.name}: calls {nodes!r:.100}")
    values, named = _arguments(layer, nodes[0])
    function = layer.config.get("function")
    made: LayerDef | None
    if layer.kind == "SlicingOpLambda":
        if not isinstance(named.get("slice_spec"), (list, dict)):
            raise Broken(f"{layer.name}: slice_spec {named.get('slice_spec')!r:.100}")
        made = _operator(layer, "GetItem", {"key": _keys(named["slice_spec"])})
    else:
        made = _of_function(layer, str(function), values, named)
    if made is None:
        return layer, {"inbound_nodes": [{"args": [v for v in values if _is_ref(v)]}]}
    return made, {"inbound_nodes": [{"args": values, "kwargs": {}}]}


def _arguments(layer: LayerDef, node: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return what a call is given: references and numbers, and the arguments by name."""
    entries = [node] if isinstance(node, list) and node and isinstance(node[0], str) else node
    if not isinstance(entries, list) or not entries:
        raise Broken(f"{layer.name}: a call {node!r:.100}")
    values: list[Any] = []
    named: dict[str, Any] = {}
    for one in entries:
        if not isinstance(one, list) or len(one) not in (3, 4):
            raise Broken(f"{layer.name}: a connection {one!r:.100}")
        values.append(one[2] if one[0] == _CONSTANT else one[:3])
        if len(one) == 4 and isinstance(one[3], dict):
            named = one[3]
    return values, dict(named)


def _is_ref(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and isinstance(value[0], str)


def _operator(layer: LayerDef, kind: str, config: dict[str, Any]) -> LayerDef:
    return replace(layer, kind=kind, module=_OPERATORS, config={"name": layer.name, **config})


def _of_function(
    layer: LayerDef, function: str, values: list[Any], named: dict[str, Any]
) -> LayerDef | None:
    """Return the operator of a function, None for one that is not converted."""
    function = function.removeprefix("compat.v1.")
    for key, idle in _IDLE.items():
        if key == "name" or named.get(key, idle) == idle:
            named.pop(key, None)
    if function in _BINARY:
        values += [named.pop("y")] if "y" in named else []
        return _operator(layer, _BINARY[function], named)
    if function in _RENAMED:
        kind, names = _RENAMED[function]
        values += [named.pop("b")] if kind == "Matmul" and "b" in named else []
        return _operator(layer, kind, {names.get(key, key): v for key, v in named.items()})
    kind = _PLAIN.get(function, "")
    if function == "cast" and named.pop("dtype", None) not in ("float32", "float"):
        return None
    return _operator(layer, kind, named) if kind else None


def _keys(spec: Any) -> list[Any]:
    """Return ``slice_spec`` as the key of Keras 3's GetItem."""
    return [_key(one) for one in (spec if isinstance(spec, list) else [spec])]


def _key(one: Any) -> Any:
    if isinstance(one, dict) and set(one) == {"start", "stop", "step"}:
        return {"class_name": "__slice__", "config": one}
    return one
