# SPDX-License-Identifier: MIT
"""ONNX operators that become others: einsum, normalisations, transposed convolutions, orders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx_models import Array, compare, graph_model, ops, refusals
from tolerances import ORT_OPERATOR, assert_close

import gruengine as gr


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def check(
    op: str,
    inputs: dict[str, Array],
    free: dict[str, tuple[Any, ...]] | None = None,
    constants: dict[str, Array] | None = None,
    opset: int = 17,
    outputs: int = 1,
    **attrs: Any,
) -> list[str]:
    """Compare one node with ONNX Runtime, in the reference and in the engine; return its form."""
    names = [*inputs, *(constants or {})]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, "the node", **attrs)
    shapes = {name: (free or {}).get(name, value.shape) for name, value in inputs.items()}
    model = graph_model([node], shapes, results, constants, opset)
    spec, _ = compare(model, inputs, budget=ORT_OPERATOR)
    found = gr.Model.from_spec(spec).run_graph(inputs)
    from ort_oracle import run_model

    for name, wanted in zip(results, run_model(model, inputs), strict=True):
        assert_close(found[name], wanted, ORT_OPERATOR)
    return ops(spec)


EQUATIONS = [
    ("btgi,gih->btgh", [(2, 3, 4, 5), (4, 5, 6)]),
    ("...gi,gih->...gh", [(2, 3, 4, 5), (4, 5, 6)]),
    ("bhwc,hwcd->bd", [(2, 3, 4, 5), (3, 4, 5, 6)]),
    ("ij,jk->ik", [(3, 4), (4, 5)]),
    ("ij,jk", [(3, 4), (4, 5)]),
    ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("bij,bkj->bki", [(2, 3, 4), (2, 5, 4)]),
    ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
    ("i,i->", [(5,), (5,)]),
    ("i,j->ij", [(5,), (3,)]),
    ("bi,bi->bi", [(2, 5), (2, 5)]),
    ("bi,bi->b", [(2, 5), (2, 5)]),
    ("bi,i->b", [(2, 5), (5,)]),
    ("ij,ijk->k", [(3, 4), (3, 4, 2)]),
    ("abc,ad->bd", [(2, 3, 4), (2, 5)]),
    ("abcd,cdef->abef", [(2, 3, 4, 5), (4, 5, 6, 2)]),
    ("ij->ji", [(3, 4)]),
    ("ijk->j", [(3, 4, 2)]),
    ("...ij->...", [(3, 4, 2)]),
    ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
    ("bi,oij,bj->bo", [(2, 3), (4, 3, 5), (2, 5)]),
    ("b...,b...->b...", [(2, 3, 4), (2, 3, 4)]),
    ("ea,fb,abcd,gc,hd->efgh", [(2, 3), (4, 5), (3, 5, 2, 6), (3, 2), (2, 6)]),
]


@pytest.mark.parametrize(("equation", "shapes"), EQUATIONS, ids=[e for e, _ in EQUATIONS])
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    inputs = {f"x{i}": random(*shape, seed=i) for i, shape in enumerate(shapes)}
    free = {name: tuple(f"{name}{i}" for i in range(v.ndim)) for name, v in inputs.items()}
    check("Einsum", inputs, free, equation=equation)
    first = {"x0": inputs.pop("x0")}
    assert "Einsum" not in check("Einsum", first, constants=inputs, equation=equation)


def test_a_grouped_linear_works_frame_by_frame() -> None:
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="btgi,gih->btgh")
    model = graph_model([node], {"x": ("N", "T", 4, 5)}, ["y"], {"w": random(4, 5, 6)})
    loaded = gr.load(model.SerializeToString())
    assert loaded.streamable.form == "frames", loaded.streamable.reason


@pytest.mark.parametrize(
    ("equation", "words"),
    [("ii->i", "diagonals"), ("ij->ik", "makes a label"), ("ijk->i", "2 axes"), ("ij,j->i", "1")],
)
def test_einsum_refused(equation: str, words: str) -> None:
    node = helper.make_node("Einsum", ["x"], ["y"], "e", equation=equation)
    assert any(words in reason for reason in refusals(graph_model([node], {"x": (3, 3)}, ["y"])))


X, IMAGE = random(2, 4, 9), random(2, 4, 6, 5)
AFFINE = {"scale": random(4), "shift": random(4, seed=1)}


@pytest.mark.parametrize("x", [X, IMAGE], ids=["1d", "2d"])
def test_normalisations(x: Array) -> None:
    free = {"x": ("N", 4, *(f"d{i}" for i in range(x.ndim - 2)))}
    check("InstanceNormalization", {"x": x}, free, AFFINE, epsilon=0.01)
    halves = {"scale": random(2), "shift": random(2, seed=1)}
    check("GroupNormalization", {"x": x}, free, halves, opset=18, num_groups=2, epsilon=0.01)
    check("GroupNormalization", {"x": x}, free, AFFINE, opset=21, num_groups=2)
    check("GlobalMaxPool", {"x": x}, free)


def test_functions() -> None:
    x = {"x": random(3, 5) * 3}
    free = {"x": ("a", "b")}
    check("Selu", x, free)
    check("Selu", x, free, alpha=1.5, gamma=0.7)
    check("Celu", x, free)
    check("Celu", x, free, alpha=1.7)
    check("Mish", x, free, opset=18)
    check("RMSNormalization", x, free, {"s": random(5)}, opset=23, epsilon=0.1)
    for op in ("ReduceLogSum", "ReduceLogSumExp"):
        positive = {"x": np.abs(x["x"]) + 0.1}
        check(op, positive, free, axes=[1], keepdims=0)
        check(op, positive, free, {"axes": np.array([0])}, opset=18)


@pytest.mark.parametrize("free", [None, {"x": ("N", "C", "H", "W")}], ids=["fixed", "free"])
def test_depth_and_space(free: Any) -> None:
    x = {"x": random(2, 8, 4, 6)}
    check("SpaceToDepth", x, free, blocksize=2)
    for mode in ("DCR", "CRD"):
        check("DepthToSpace", x, free, blocksize=2, mode=mode)


@pytest.mark.parametrize(
    "attrs",
    [
        {}, {"strides": [3]}, {"strides": [2], "output_padding": [1], "pads": [1, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2]}, {"auto_pad": "SAME_LOWER", "strides": [2]},
        {"auto_pad": "VALID", "strides": [2]}, {"output_shape": [20], "strides": [2]},
        {"output_shape": [19], "strides": [2], "auto_pad": "SAME_UPPER"},
        {"dilations": [2], "group": 2},
    ],
    ids=str,
)  # fmt: skip
def test_transposed_convolutions(attrs: dict[str, Any]) -> None:
    weights = {"w": random(4, 3, 4), "b": random(3 * attrs.get("group", 1))}
    for opset in (7, 11, 17, 22):
        check("ConvTranspose", {"x": X}, {"x": ("N", 4, 9)}, weights, opset, **attrs)
    if "output_shape" not in attrs:
        check("ConvTranspose", {"x": X}, {"x": ("N", 4, "L")}, weights, **attrs)


def test_orders_and_places() -> None:
    x, free = {"x": np.round(X * 2)}, {"x": ("a", "b", "c")}
    check("CumSum", x, free, {"axis": np.array(1)}, reverse=1, exclusive=1)
    for op in ("ArgMax", "ArgMin"):
        check(op, x, free, axis=-1, keepdims=0)
        check(op, x, free, axis=1, select_last_index=1, opset=13)
    check("TopK", x, free, {"k": np.array([3])}, outputs=2, axis=2)
    check("TopK", x, free, {"k": np.array([2])}, outputs=2, axis=1, largest=0, opset=11)
    places = {"i": np.array([[0, 1], [1, -1]]), "u": random(2, 9)}
    check("ScatterND", x, free, places)
    check("ScatterND", x, free, places, opset=16, reduction="add")


def test_constants_are_folded() -> None:
    values = {"x": random(1, 3, 5), "w": random(3, 2, 4), "axis": np.array(2)}
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["a"]),
        helper.make_node("CumSum", ["a", "axis"], ["b"]),
        helper.make_node("Einsum", ["b", "b"], ["c"], equation="nct,nct->c"),
        helper.make_node("ArgMax", ["b"], ["d"], axis=1),
        helper.make_node("Add", ["c", "z"], ["y"]),
    ]
    model = graph_model(nodes, {"z": (2,)}, ["y", "d"], values)
    spec, _ = compare(model, {"z": random(2)}, budget=ORT_OPERATOR._replace(rtol=1e-5))
    assert ops(spec) == ["Add", "Identity"]  # a constant output
