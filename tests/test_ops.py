# SPDX-License-Identifier: MIT
"""The operators of the engine against the float64 reference, on every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine_cases import ENGINE_CASES
from operator_cases import CASES, Case, f32, i64
from operator_models import expected_of, model_of, node, spec_of
from tolerances import ENGINE_OPERATOR, ENGINE_PRODUCT, assert_close

import gruengine as gr

# What no model file holds: attributes that are arrays, and types that graphs have not.
UNWRITABLE = [
    case
    for case in CASES
    if any(isinstance(value, np.ndarray) for value in case.attrs.values())
    or (case.op == "Cast" and case.attrs["to"] == 11)
]
ALL = [
    case._replace(outputs=1) if case.op == "LayerNormalization" else case
    for case in [*CASES, *ENGINE_CASES]
    if not any(case is left_out for left_out in UNWRITABLE)
]
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "LayerNormalization", "MatMul")
OPS = sorted({case.op for case in ALL})


def check(case: Case, given: str) -> None:
    """Run a case and compare every output: floats within the budget, the others exactly."""
    spec, feed = spec_of(case, given)
    expected = expected_of(spec, feed)
    budget = ENGINE_PRODUCT if case.op in PRODUCTS else ENGINE_OPERATOR
    results = gr.Model.from_spec(spec).run_graph(feed)
    for port in spec.graph.outputs:
        result, wanted = results[port.name], expected[port.name]
        assert result.dtype.name == port.dtype
        if result.dtype.kind == "f":
            assert_close(result, wanted, budget)
        else:
            np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("given", ["all", "first", "none"])
@pytest.mark.parametrize("op", OPS)
def test_operator_is_the_reference(op: str, given: str, isa: str) -> None:
    for case in ALL:
        if case.op == op:
            check(case, given)


def test_every_operator_of_the_reference_is_tested() -> None:
    from gruengine.reference_graph import OPS as KNOWN

    assert set(KNOWN) - set(OPS) == {"Recurrent"}


def test_what_is_left_out_is_known() -> None:
    assert sorted({case.op for case in UNWRITABLE}) == ["Cast", "Constant", "ConstantOfShape"]


@pytest.mark.parametrize("seed", range(40))
def test_random_convolutions(seed: int, isa: str) -> None:
    rng = np.random.default_rng(seed)
    spatial = int(rng.integers(1, 3))
    groups = int(rng.choice([1, 1, 2, 3]))
    channels, outputs = (groups * int(rng.integers(1, most)) for most in (7, 24))
    kernel = [int(k) for k in rng.integers(1, 5, spatial)]
    attrs: dict[str, Any] = {
        "group": groups,
        "dilations": [int(d) for d in rng.integers(1, 4, spatial)],
        "strides": [int(s) for s in rng.integers(1, 4, spatial)],
        "pads": [int(p) for p in rng.integers(0, 6, 2 * spatial)],
    }
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, attrs["dilations"], strict=True)]
    sizes = [
        max(r - attrs["pads"][i] - attrs["pads"][i + spatial], 1) + int(rng.integers(0, 40))
        for i, r in enumerate(reach)
    ]
    x = rng.standard_normal((int(rng.integers(1, 4)), channels, *sizes)).astype(np.float32)
    w = rng.standard_normal((outputs, channels // groups, *kernel)).astype(np.float32)
    check(Case("Conv", [x, w, f32(outputs)], attrs), "first")


@pytest.mark.parametrize("seed", range(60))
def test_random_movement_is_numpy(seed: int, isa: str) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(s) for s in rng.integers(1, 7, int(rng.integers(1, 6))))
    dtype = rng.choice(["float32", "int64", "int32", "bool"])
    x = rng.integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)
    perm = [int(p) for p in rng.permutation(len(shape))]
    steps = rng.choice([-3, -2, -1, 1, 2, 3], len(shape))
    starts, ends = rng.integers(-8, 8, (2, len(shape)))
    model = model_of(
        {f"x {dtype}": shape},
        [node("Transpose", "x", "t", perm=perm), node("Slice", "t starts ends axes steps")],
        tensors={"starts": starts, "ends": ends, "axes": np.arange(len(shape)), "steps": steps},
        dtype=str(dtype),
    )
    moved = x.transpose(perm)
    for axis, (start, end, step) in enumerate(zip(starts, ends, steps, strict=True)):
        size = moved.shape[axis]
        first = np.clip(start + size * (start < 0), 0, size - (step < 0))
        last = np.clip(end + size * (end < 0), -int(step < 0), size)
        moved = np.take(moved, np.arange(first, last, step), axis)
    np.testing.assert_array_equal(model.run_graph({"x": x})["y"], moved)


def test_shape_arithmetic_follows_the_input() -> None:
    """Sizes taken from the input fold anew for each shape."""
    model = model_of(
        {"x": ("N", "T", 6)},
        [
            node("Shape", "x", "shape"),
            node("Gather", "shape zero", "n"),
            node("Mul", "n two", "twice"),
            node("Concat", "twice rest", "target", axis=0),
            node("Reshape", "x target"),
        ],
        tensors={"zero": i64(0), "two": i64(2), "rest": i64(-1, 3)},
    )
    for shape in ((1, 4, 6), (3, 2, 6)):
        x = f32(*shape)
        result = model.run_graph({"x": x})["y"]
        np.testing.assert_array_equal(result, x.reshape(2 * shape[0], -1, 3))


def test_an_if_takes_the_branch_that_the_shape_chooses() -> None:
    from gruengine.spec import Graph, Node, Port

    def branch(op: str) -> Graph:
        return Graph([], [Port("b", "float32", ("N", 3))], [node(op, "x", "b")])

    choice = Node(
        "If", ("many",), ("y",), {"then_branch": branch("Neg"), "else_branch": branch("Abs")}
    )
    model = model_of(
        {"x": ("N", 3)},
        [
            node("Size", "x", "size"),
            node("Greater", "size limit", "many"),
            choice,
        ],
        tensors={"limit": np.array(6)},
    )
    for rows, function in ((2, np.abs), (3, np.negative)):
        x = f32(rows, 3)
        np.testing.assert_array_equal(model.run_graph({"x": x})["y"], function(x))
