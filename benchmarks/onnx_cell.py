# SPDX-License-Identifier: MIT
"""A stack of recurrent layers as the ONNX model that every peer is given."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import GATES, Stack

Array = np.ndarray[Any, Any]


def weights(stack: Stack) -> list[dict[str, Array]]:
    """Return for each layer W ``[1, G*H, I]``, R ``[1, G*H, H]`` and B ``[1, 2*G*H]``.

    Gates are in ONNX's order.
    """
    random, rows = np.random.default_rng(stack.H), GATES[stack.kind] * stack.H
    limit = 1 / np.sqrt(stack.H)
    found = []
    for inputs, H in stack.sizes():
        shapes = {"W": (1, rows, inputs), "R": (1, rows, H), "B": (1, 2 * rows)}
        found.append({name: _uniform(random, limit, shape) for name, shape in shapes.items()})
    return found


def dense(stack: Stack) -> Array:
    """Return the matrix ``[H, outputs]`` of the linear layer."""
    return _uniform(np.random.default_rng(5), 1 / np.sqrt(stack.H), (stack.H, stack.dense))


def _uniform(random: np.random.Generator, limit: float, shape: tuple[int, ...]) -> Array:
    return random.uniform(-limit, limit, shape).astype(np.float32)


def states(stack: Stack) -> list[tuple[str, str]]:
    """Return the (input, output) pairs that carry the states, layer after layer."""
    letters = "hc" if stack.kind == "LSTM" else "h"
    return [
        (f"{letter}{layer}", f"{letter}{layer}n")
        for layer in range(stack.layers)
        for letter in letters
    ]


def onnx_model(stack: Stack) -> bytes:
    """Return a model of X ``[T, N, I]`` and the states -> Y and the states.

    Y is ``[T, N, outputs]`` behind a linear layer, else ``[T, 1, N, H]``.
    """
    from onnx import TensorProto, helper, numpy_helper

    def port(name: str, shape: list[str | int]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes, constants = [], {}
    x, pairs = "X", states(stack)
    per_layer = len(pairs) // stack.layers
    for layer, arrays in enumerate(weights(stack)):
        constants.update({f"{name}{layer}": array for name, array in arrays.items()})
        own = pairs[layer * per_layer : (layer + 1) * per_layer]
        last = layer == stack.layers - 1 and not stack.dense
        y = "Y" if last else f"y{layer}"
        nodes.append(_recurrent(stack, layer, x, y, own))
        if not last:
            constants["one"] = np.array([1], np.int64)
            nodes.append(helper.make_node("Squeeze", [y, "one"], [f"x{layer + 1}"]))
        x = f"x{layer + 1}"
    if stack.dense:
        constants["D"] = dense(stack)
        nodes.append(helper.make_node("MatMul", [x, "D"], ["Y"]))
    shape: list[str | int] = ["T", "N", stack.dense] if stack.dense else ["T", 1, "N", stack.H]
    graph = helper.make_graph(
        nodes,
        "stack",
        [port("X", ["T", "N", stack.I]), *(port(before, [1, "N", stack.H]) for before, _ in pairs)],
        [port("Y", shape), *(port(after, [1, "N", stack.H]) for _, after in pairs)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _recurrent(stack: Stack, layer: int, x: str, y: str, pairs: list[tuple[str, str]]) -> Any:
    from onnx import helper

    extra: dict[str, Any] = {"linear_before_reset": 1} if stack.kind == "GRU" else {}
    names = [f"{letter}{layer}" for letter in "WRB"]
    return helper.make_node(
        stack.kind,
        [x, *names, "", *(before for before, _ in pairs)],
        [y, *(after for _, after in pairs)],
        hidden_size=stack.H,
        **extra,
    )
