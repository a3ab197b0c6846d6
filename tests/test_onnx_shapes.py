# SPDX-License-Identifier: MIT
"""What the ONNX converter concludes of sizes before any input arrives, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import Array, compare, graph_model, ops


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def random_program(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Return shape arithmetic of random operators on short integer vectors and numbers."""
    nodes = [helper.make_node("Shape", ["x"], ["v0"])]
    lengths, constants = {"v0": 4}, {"axis": ints(0), "huge": ints(1 << 40)}

    def constant(*values: int) -> str:
        name = f"k{len(constants)}"
        constants[name] = np.array(values, np.int64)
        return name

    for i in range(1, 9):
        a, b = (str(rng.choice(list(lengths))) for _ in range(2))
        op, out = rng.choice(["Slice", "Gather", "Concat", "Add", "Mul", "Div", "Tile"]), f"v{i}"
        lengths[out] = lengths[a]
        if op == "Slice":
            start, step = int(rng.integers(-5, lengths[a])), int(rng.choice([-1, 1, 2]))
            end = int(rng.integers(-5, 6))
            inputs = [a, constant(start), constant(end), "axis", constant(step)]
            lengths[out] = len(range(*_bounds(start, end, step, lengths[a])))
        elif op == "Gather":
            places = rng.integers(-lengths[a], lengths[a], 2) if lengths[a] else ints()
            inputs, lengths[out] = [a, constant(*places)], len(places)
        elif op == "Concat":
            inputs, lengths[out] = [a, b], lengths[a] + lengths[b]
        elif op == "Tile":
            inputs, lengths[out] = [a, constant(2)], 2 * lengths[a]
        else:
            inputs = [a, constant(int(rng.integers(1, 3)))]
        attrs = {"axis": 0} if op in ("Gather", "Concat") else {}
        nodes.append(helper.make_node(op, inputs, [out], **attrs))
    return nodes, constants


def _bounds(start: int, end: int, step: int, size: int) -> tuple[int, int, int]:
    start, end = (v + size if v < 0 else v for v in (start, end))
    if step < 0:
        return min(max(start, 0), size - 1), min(max(end, -1), size - 1), step
    return min(max(start, 0), size), min(max(end, 0), size), step


@pytest.mark.parametrize("seed", range(40))
def test_random_shape_arithmetic(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes, constants = random_program(rng)
    outputs = [node.output[0] for node in nodes[1:]]
    x = np.zeros((3, 1, 4, 2), np.float32)
    for shape in (("a", "b", "c", "d"), (3, "b", 4, "d"), (3, 1, 4, 2)):
        model = graph_model(nodes, {"x": shape}, outputs, constants)
        spec, _ = compare(model, {"x": x})
    assert set(ops(spec)) <= {"Identity"}  # every size is known in the last one
