# SPDX-License-Identifier: MIT
"""The evaluation of a whole graph in NumPy, operator by operator: what a plan must compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# These modules enter their operators into OPS.
from gruengine import reference_conv, reference_math, reference_order, reference_shape
from gruengine.errors import InvalidInputError
from gruengine.reference import recurrent
from gruengine.reference_ops import OPS, Array, check_size, register, size_limit
from gruengine.spec import Graph, Node

__all__ = ["OPS", "apply_node", "check_size", "run_graph", "size_limit"]
_ = (reference_conv, reference_math, reference_order, reference_shape)


@register("Recurrent")
def _recurrent(*inputs: Array | None, **attrs: Any) -> tuple[Array, Array, Array]:
    """Run ``gruengine.reference.recurrent`` and return its results in the type of ``X``."""
    x = inputs[0]
    if x is None:
        raise ValueError("X is absent")
    check_size((*x.shape[:2], 2 * int(attrs.get("hidden_size", 0))))
    y, y_h, y_c = recurrent(*inputs, **attrs)  # type: ignore[arg-type]
    return y.astype(x.dtype), y_h.astype(x.dtype), y_c.astype(x.dtype)


def apply_node(node: Node, inputs: Sequence[Array | None]) -> tuple[Array, ...]:
    """Compute one node other than ``If`` from its inputs, in the dtypes they have.

    Parameters
    ----------
    node : the operator, its attributes and the number of its outputs.
    inputs : one array for each input of the node, None where it is absent.

    Raises
    ------
    InvalidInputError
        If the operator is unknown, or refuses its inputs or attributes.
    """
    if node.op not in OPS:
        raise InvalidInputError(f"operator {node.op!r} is not one of {sorted([*OPS, 'If'])}")
    attrs: dict[str, Any] = dict(node.attrs)
    if node.op == "Split" and len(inputs) < 2:
        attrs.setdefault("num_outputs", len(node.outputs))
    values = list(inputs)
    while values and values[-1] is None:
        values.pop()
    try:
        results = OPS[node.op](*values, **attrs)
    except InvalidInputError as error:
        raise InvalidInputError(f"node {node.name or node.outputs}: {error}") from error
    if len(results) < len(node.outputs):
        raise InvalidInputError(
            f"node {node.name or node.outputs}: {node.op} gives {len(results)} outputs; "
            f"{len(node.outputs)} are named"
        )
    return results


def run_graph(
    graph: Graph,
    tensors: Mapping[str, Array],
    inputs: Mapping[str, Array],
    dtype: npt.DTypeLike | None = np.float64,
) -> dict[str, Array]:
    """Evaluate ``graph`` and return its outputs by name.

    Parameters
    ----------
    graph : what to compute; subgraphs of ``If`` see all the values around them.
    tensors : the constants by name.
    inputs : the graph inputs by name.
    dtype : the type every float is computed in; None keeps the types of the graph. Integers and
        booleans are always as the graph has them.

    Raises
    ------
    InvalidInputError
        If an input is missing or unknown, or a node fails.
    """
    names = {port.name for port in graph.inputs}
    if names != set(inputs):
        raise InvalidInputError(f"inputs are {sorted(inputs)}; the graph has {sorted(names)}")
    floats = None if dtype is None else np.dtype(dtype)
    scope = {k: _typed(np.asarray(v), floats) for k, v in {**tensors, **inputs}.items()}
    return _run(graph, scope, floats)


def _typed(value: Array, floats: np.dtype[Any] | None) -> Array:
    return value if floats is None or value.dtype.kind != "f" else value.astype(floats, copy=False)


def _run(graph: Graph, scope: dict[str, Array], floats: np.dtype[Any] | None) -> dict[str, Array]:
    """Run the nodes in a copy of ``scope``, so that a branch leaves nothing behind."""
    values = dict(scope)
    for node in graph.nodes:
        inputs = [None if name == "" else _lookup(values, name, node) for name in node.inputs]
        if node.op == "If":
            results = _branch(node, inputs, values, floats)
        elif node.op == "Cast" and floats is not None and _is_float(node.attrs.get("to")):
            results = (np.asarray(inputs[0]).astype(floats),)
        else:
            results = apply_node(node, inputs)
        for name, value in zip(node.outputs, results, strict=False):
            if name:
                values[name] = _typed(value, floats)
    return {port.name: _lookup(values, port.name, None) for port in graph.outputs}


def _lookup(values: Mapping[str, Array], name: str, node: Node | None) -> Array:
    if name not in values:
        user = "the output of the graph" if node is None else f"node {node.name or node.op}"
        raise InvalidInputError(f"{user} needs {name!r}, which nothing before it computes")
    return values[name]


def _is_float(to: object) -> bool:
    return reference_shape.dtype_of(to).kind == "f" if isinstance(to, (int, str)) else False


def _branch(
    node: Node,
    inputs: Sequence[Array | None],
    values: dict[str, Array],
    floats: np.dtype[Any] | None,
) -> tuple[Array, ...]:
    """Run the branch that the one boolean input of an ``If`` chooses."""
    condition = inputs[0] if len(inputs) == 1 else None
    if condition is None or condition.size != 1 or condition.dtype != np.bool_:
        raise InvalidInputError(f"node {node.name or 'If'}: it needs one boolean as its input")
    taken = node.attrs.get("then_branch" if condition.reshape(()) else "else_branch")
    if not isinstance(taken, Graph) or len(taken.outputs) != len(node.outputs):
        raise InvalidInputError(
            f"node {node.name or 'If'}: each branch must be a graph of {len(node.outputs)} outputs"
        )
    results = _run(taken, values, floats)
    return tuple(results[port.name] for port in taken.outputs)
