# SPDX-License-Identifier: MIT
"""A cell as the ONNX model that every peer is given."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import GATES, Cell

Array = np.ndarray[Any, Any]


def weights(cell: Cell) -> dict[str, Array]:
    """Return W ``[1, G*H, I]``, R ``[1, G*H, H]`` and B ``[1, 2*G*H]`` in ONNX's gate order."""
    random = np.random.default_rng(cell.H)
    rows, H = GATES[cell.kind] * cell.H, cell.H
    limit = 1 / np.sqrt(H)
    shapes = {"W": (1, rows, H), "R": (1, rows, H), "B": (1, 2 * rows)}
    return {
        name: random.uniform(-limit, limit, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def states(cell: Cell) -> tuple[tuple[str, str], ...]:
    """Return the (input, output) pairs that carry the state."""
    return (("h", "hn"), ("c", "cn"))[: 2 if cell.kind == "LSTM" else 1]


def onnx_model(cell: Cell) -> bytes:
    """Return a model of X ``[T, N, I]`` and the states -> Y ``[T, 1, N, H]`` and the states."""
    from onnx import TensorProto, helper, numpy_helper

    def port(name: str, shape: list[str | int]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    pairs = states(cell)
    node = helper.make_node(
        cell.kind,
        ["X", "W", "R", "B", "", *(before for before, _ in pairs)],
        ["Y", *(after for _, after in pairs)],
        hidden_size=cell.H,
        **({"linear_before_reset": 1} if cell.kind == "GRU" else {}),
    )
    state_shape: list[str | int] = [1, "N", cell.H]
    graph = helper.make_graph(
        [node],
        "cell",
        [port("X", ["T", "N", cell.H]), *(port(before, state_shape) for before, _ in pairs)],
        [port("Y", ["T", 1, "N", cell.H]), *(port(after, state_shape) for _, after in pairs)],
        [numpy_helper.from_array(array, name) for name, array in weights(cell).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())
