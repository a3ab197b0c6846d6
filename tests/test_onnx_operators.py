# SPDX-License-Identifier: MIT
"""ONNX operators of every opset in their newest form, branches, bound inputs and folding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import Array, compare, graph_model, ops, read, refusals
from tolerances import ORT_OPERATOR

from gruengine.reference_graph import run_graph
from gruengine.spec import Graph

F = TensorProto.FLOAT


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


Case = tuple[str, list[Any], dict[str, Any], tuple[int, ...], dict[str, Array], range]
X = random(2, 3, 4)
OLD, NEW = range(7, 13), range(13, 23)
ALL = range(7, 23)


def case(
    op: str,
    x: Array,
    opsets: range,
    *constants: Array | None,
    outputs: int = 1,
    **attrs: Any,
) -> tuple[str, Array, range, tuple[Array | None, ...], int, dict[str, Any]]:
    return op, x, opsets, constants, outputs, attrs


SQUARE = random(3, 3)
ONE = random(2, 1, 4, 1)
IMAGE = random(2, 3, 9)
CASES = [
    case("Squeeze", ONE, OLD, axes=[1, -1]),
    case("Squeeze", ONE, NEW, ints(1, 3)),
    case("Unsqueeze", X, OLD, axes=[0, 2]),
    case("Unsqueeze", X, NEW, ints(-1, 1)),
    *[case(k, X, range(11, 18), axes=[-1, 0], keepdims=0)
      for k in ("ReduceMax", "ReduceMean", "ReduceL2")],
    *[case(k, X, range(18, 23), ints(1), keepdims=1)
      for k in ("ReduceMin", "ReduceSumSquare", "ReduceL1")],
    case("ReduceSum", X, OLD, axes=[1]),
    case("ReduceSum", X, NEW, ints(1)),
    case("ReduceSum", X, NEW, noop_with_empty_axes=1),
    case("ReduceProd", X, ALL),
    case("Slice", X, range(7, 10), starts=[1, -3], ends=[2, 1000], axes=[0, 2]),
    case("Slice", X, range(10, 23), ints(-1, 0), ints(-9, 3), ints(2, 1), ints(-2, 1)),
    case("Pad", X, range(7, 11), pads=[0, 1, 0, 1, 0, 2], value=1.5),
    case("Pad", X, range(7, 11), pads=[0, 1, 2, 0, 1, 1], mode="reflect"),
    case("Pad", X, range(11, 23), ints(0, 1, 0, 1, 0, 2), np.array(-2, np.float32)),
    case("Pad", X, range(18, 23), ints(1, 2), None, ints(-1), mode="edge"),
    case("Split", X, OLD, outputs=2, axis=2, split=[1, 3]),
    case("Split", X, OLD, outputs=3, axis=1),
    case("Split", X, NEW, ints(1, 3), outputs=2, axis=-1),
    case("Split", X, range(18, 23), outputs=2, axis=1, num_outputs=2),
    case("Clip", X, range(7, 11), min=-0.5, max=0.5),
    case("Clip", X, range(11, 23), np.array(-0.5, np.float32)),
    case("Clip", X, range(11, 23), None, np.array(0.5, np.float32)),
    case("Dropout", X, range(7, 12), ratio=0.3),
    case("Dropout", X, range(12, 23), np.array(0.5, np.float32)),
    case("Softmax", X, OLD, axis=1),
    case("Softmax", X, OLD),
    case("LogSoftmax", X, OLD, axis=2),
    case("Softmax", X, NEW, axis=1),
    case("LogSoftmax", X, NEW),
    case("Flatten", X, ALL, axis=2),
    case("Flatten", X, range(11, 23), axis=-1),
    case("Reshape", X, ALL, ints(0, -1)),
    case("Transpose", X, ALL, perm=[2, 0, 1]),
    case("Transpose", X, ALL),
    case("Gather", X, ALL, np.array([[0, 1]]), axis=1),
    case("Expand", SQUARE, range(8, 23), ints(2, 1, 3)),
    case("Tile", SQUARE, ALL, ints(2, 1)),
    case("Concat", X, ALL, random(2, 1, 4), axis=1),
    *[case(k, X, ALL, random(3, 1)) for k in ("Add", "Sub", "Mul", "Div", "Pow")],
    *[case(k, abs(X) + 0.1, ALL) for k in ("Sqrt", "Log", "Reciprocal", "Exp", "Neg", "Abs")],
    *[case(k, X, ALL) for k in ("Floor", "Ceil", "Sigmoid", "Tanh", "Relu", "Softplus")],
    *[case(k, X, range(9, 23)) for k in ("Erf", "Sign")],
    case("Softsign", X, ALL),
    case("LeakyRelu", X, ALL, alpha=0.2),
    case("LeakyRelu", X, ALL),
    case("Elu", X, ALL, alpha=0.7),
    case("HardSigmoid", X, ALL),
    case("HardSigmoid", X, ALL, alpha=0.3, beta=0.4),
    case("ThresholdedRelu", X, range(10, 23)),
    case("PRelu", X, ALL, random(4)),
    *[case(k, X, range(8, 23), random(3, 1), random(1)) for k in ("Min", "Max", "Sum", "Mean")],
    case("Gelu", X, range(20, 23), approximate="tanh"),
    case("HardSwish", X, range(14, 23)),
    case("MatMul", X, ALL, random(4, 5)),
    case("Gemm", SQUARE, ALL, random(5, 3), random(5), alpha=0.5, beta=2.0, transB=1),
    case("Gemm", SQUARE, range(11, 23), random(3, 2), transA=1),
    case("Conv", IMAGE, ALL, random(4, 3, 3), random(4), pads=[1, 0], strides=[2]),
    case("Conv", IMAGE, ALL, random(6, 1, 2), group=3, dilations=[2]),
    case("Conv", IMAGE, ALL, random(4, 3, 4), auto_pad="SAME_UPPER"),
    case("Conv", IMAGE, ALL, random(4, 3, 4), auto_pad="SAME_LOWER", strides=[2]),
    case("Conv", IMAGE, ALL, random(4, 3, 3), auto_pad="VALID"),
    case("MaxPool", IMAGE, ALL, kernel_shape=[3], strides=[2], pads=[1, 1]),
    case("AveragePool", IMAGE, ALL, kernel_shape=[2], count_include_pad=1, pads=[1, 0]),
    case("GlobalAveragePool", IMAGE, ALL),
    case("BatchNormalization", IMAGE, ALL, *(abs(random(3, seed=i)) for i in range(4))),
    case("LayerNormalization", X, range(17, 23), random(4), random(4, seed=1), epsilon=1e-3),
    case("LayerNormalization", X, range(17, 23), random(3, 4), axis=1),
]  # fmt: skip


def single(op: str, x: Array, opset: int, constants: Any, outputs: int, attrs: Any) -> Any:
    names = [f"c{i}" if c is not None else "" for i, c in enumerate(constants)]
    node = helper.make_node(op, ["x", *names], [f"y{i}" for i in range(outputs)], **attrs)
    given = {n: c for n, c in zip(names, constants, strict=True) if c is not None}
    shape: list[Any] = [f"s{i}" for i in range(x.ndim)]
    if attrs.get("auto_pad", "").startswith("SAME") and "strides" in attrs:
        shape = list(x.shape)
    return graph_model([node], {"x": shape}, list(node.output), given, opset)


@pytest.mark.parametrize(("op", "x", "opsets", "constants", "outputs", "attrs"), CASES)
def test_each_opset(
    op: str, x: Array, opsets: range, constants: Any, outputs: int, attrs: Any
) -> None:
    for opset in sorted({opsets[0], opsets[len(opsets) // 2], opsets[-1]}):
        model = single(op, x, opset, constants, outputs, attrs)
        compare(model, {"x": x}, budget=ORT_OPERATOR)


COMPARISONS: list[tuple[str, int]] = [
    ("Equal", 11), ("Less", 9), ("Greater", 9), ("LessOrEqual", 12), ("GreaterOrEqual", 16),
]  # fmt: skip


@pytest.mark.parametrize(("op", "opset"), COMPARISONS)
def test_comparisons_and_logic(op: str, opset: int) -> None:
    nodes = [
        helper.make_node(op, ["x", "k"], ["a"]),
        helper.make_node("Not", ["a"], ["b"]),
        helper.make_node("Greater", ["x", "zero"], ["p"]),
        helper.make_node("And", ["b", "p"], ["c"]),
        helper.make_node("Or", ["a", "c"], ["d"]),
        helper.make_node("Xor", ["d", "p"], ["e"]),
        helper.make_node("Where", ["e", "x", "k"], ["y"]),
        helper.make_node("Cast", ["d"], ["f"], to=TensorProto.INT64),
    ]
    x = np.round(random(4, 3) * 2)
    constants = {"k": np.ones((3,), np.float32), "zero": np.zeros((), np.float32)}
    model = graph_model(nodes, {"x": ("n", 3)}, ["y", "e", "f"], constants, opset)
    compare(model, {"x": x}, budget=ORT_OPERATOR)


def test_squeeze_without_axes_follows_the_sizes() -> None:
    model = graph_model([helper.make_node("Squeeze", ["x"], ["y"])], {"x": (2, 1, 3, 1)}, ["y"])
    compare(model, {"x": random(2, 1, 3, 1)})


def test_shape_arithmetic_is_folded_where_sizes_are_fixed() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["width"], axis=0),
        helper.make_node("Range", ["zero", "width", "step"], ["steps"]),
        helper.make_node("Cast", ["steps"], ["floats"], to=F),
        helper.make_node("Mul", ["x", "floats"], ["scaled"]),
        helper.make_node("Gather", ["s", "zero"], ["rows"], axis=0),
        helper.make_node("Unsqueeze", ["rows", "axes"], ["rows1"]),
        helper.make_node("Unsqueeze", ["width", "axes"], ["width1"]),
        helper.make_node("Concat", ["rows1", "width1"], ["both"], axis=0),
        helper.make_node("ConstantOfShape", ["both"], ["ones"], value=helper.make_tensor(
            "", F, [1], [2.5])),
        helper.make_node("Add", ["scaled", "ones"], ["y"]),
    ]  # fmt: skip
    constants = {"zero": np.array(0), "one": np.array(1), "step": np.array(1), "axes": ints(0)}
    free = graph_model(nodes, {"x": ("n", 4)}, ["y"], constants)
    spec, _ = compare(free, {"x": random(3, 4)}, budget=ORT_OPERATOR)
    assert "Range" not in ops(spec)
    assert "ConstantOfShape" in ops(spec)
    fixed = graph_model(nodes, {"x": (3, 4)}, ["y"], constants)
    spec, report = compare(fixed, {"x": random(3, 4)}, budget=ORT_OPERATOR)
    assert ops(spec) == ["Add", "Mul"]
    assert report.folded >= 8


@pytest.mark.parametrize("value", [np.int64(7), np.int32(-2), np.bool_(True), np.float32("inf")])
def test_constant_of_shape_of_every_type(value: Any) -> None:
    tensor = onnx.numpy_helper.from_array(np.array([value]))
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["y"], value=tensor),
    ]
    compare(graph_model(nodes, {"x": ("n", 2)}, ["y"]), {"x": random(3, 2)})


# -- branches -------------------------------------------------------------------------------------


def branch(
    name: str, make: Callable[[str], list[onnx.NodeProto]], *outputs: str
) -> onnx.GraphProto:
    values = [helper.make_empty_tensor_value_info(f"{name}_{o}") for o in outputs]
    return helper.make_graph(make(name), name, [], values)


def conditional(condition: str, opset: int = 17) -> onnx.ModelProto:
    """Return a model that squeezes x where a condition on its shape holds, else doubles it."""

    def squeeze(name: str) -> list[onnx.NodeProto]:
        return [helper.make_node("Squeeze", ["x", "axes"], [f"{name}_y"])]

    def double(name: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Add", ["x", "x"], ["inner"]),
            helper.make_node("Mul", ["inner", "k"], [f"{name}_y"]),
        ]

    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "last"], ["size"]),
        helper.make_node("Equal", ["size", "one"], ["is_one"]),
        helper.make_node(
            "If", [condition], ["z"], then_branch=branch("then", squeeze, "y"),
            else_branch=branch("else", double, "y"),
        ),
        helper.make_node("ReduceSum", ["z"], ["y"], keepdims=0),
    ]  # fmt: skip
    constants = {
        "axes": ints(-1), "last": np.array(-1), "one": np.array(1), "k": np.float32(3).reshape(()),
        "always": np.array(True),
    }  # fmt: skip
    return graph_model(nodes, {"x": ("n", "m")}, ["y"], constants, opset)


def test_branches_on_shapes_are_kept() -> None:
    model = conditional("is_one")
    spec, _ = compare(model, {"x": random(3, 1)})
    compare(model, {"x": random(3, 2)})
    (node,) = [n for n in spec.graph.nodes if n.op == "If"]
    for key in ("then_branch", "else_branch"):
        inner = node.attrs[key]
        assert isinstance(inner, Graph)
        assert inner.inputs == []
        assert [port.dtype for port in inner.outputs] == ["float32"]


def test_branches_on_constants_are_inlined() -> None:
    spec, report = compare(conditional("always"), {"x": random(3, 1)})
    assert ops(spec) == ["ReduceSum", "Squeeze"]
    assert report.folded > 0
    fixed = conditional("is_one")
    fixed.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2
    x = random(3, 2)
    spec, _ = compare(fixed, {"x": x}, expected=[(6 * x).sum()])
    assert ops(spec) == ["Add", "Mul", "ReduceSum"]


def test_an_operator_that_is_not_run_may_hide_in_a_dead_branch() -> None:
    model = conditional("always")
    node = next(n for n in model.graph.node if n.op_type == "If")
    other = next(a.g for a in node.attribute if a.name == "else_branch")
    other.node[0].op_type = "Einsum"
    compare(model, {"x": random(3, 1)}, expected=[random(3, 1).sum()])
    node.input[0] = "is_one"
    assert any("Einsum" in reason for reason in refusals(model))


def test_branches_on_data_are_refused() -> None:
    model = conditional("flag")
    model.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    assert "values of flag" in refusals(model)[0]
    spec, _ = read(model, {"flag": True})
    assert ops(spec) == ["ReduceSum", "Squeeze"]


def test_names_of_branches_may_repeat() -> None:
    model = conditional("is_one")
    again = next(n for n in model.graph.node if n.op_type == "If")
    twin = onnx.NodeProto()
    twin.CopyFrom(again)
    twin.output[0] = "z2"
    index = list(model.graph.node).index(again)
    model.graph.node.insert(index + 1, twin)
    model.graph.node[-1].input[0] = "z2"
    x = random(3, 2)
    spec, _ = read(model)
    result = run_graph(spec.graph, spec.tensors, {"x": x})
    np.testing.assert_allclose(result["y"], (6 * x.astype(np.float64)).sum())


# -- inputs, outputs ------------------------------------------------------------------------------


def passing() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Identity", ["k"], ["constant"]),
        helper.make_node("Einsum", ["x"], ["unused"], equation="ij->ij"),
    ]
    return graph_model(nodes, {"x": ("n", 2)}, ["same", "a", "b", "constant"], {"k": random(2, 2)})


def test_outputs_that_are_inputs_constants_or_each_other() -> None:
    spec, report = compare(passing(), {"x": random(3, 2)})
    assert sorted(ops(spec)) == ["Identity", "Identity", "Identity", "Relu"]
    assert report.nodes_before == 5


def test_unnamed_sizes_get_names_of_their_own() -> None:
    node = helper.make_node("Add", ["x", "z"], ["y"])
    model = graph_model([node], {"x": ("x_1", "n"), "z": (1, 2)}, ["y"])
    model.graph.input[0].type.tensor_type.shape.dim[1].Clear()
    for dim in model.graph.input[1].type.tensor_type.shape.dim:
        dim.Clear()
    spec, _ = read(model)
    assert spec.graph.inputs[0].shape == ("x_1", "x_1_")
    assert spec.graph.inputs[1].shape == ("z_0", "z_1")


def test_initializers_that_are_inputs_are_constants() -> None:
    node = helper.make_node("Add", ["x", "k"], ["y"])
    model = graph_model([node], {"x": ("n", 2), "k": (2,)}, ["y"], {"k": random(2)})
    spec, _ = read(model)
    assert [port.name for port in spec.graph.inputs] == ["x"]


def test_bound_inputs() -> None:
    nodes = [helper.make_node("Gather", ["x", "i"], ["y"], axis=1)]
    model = graph_model(nodes, {"x": ("n", 4)}, ["y"])
    model.graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, [2]))
    spec, _ = compare(model, {"x": random(3, 4)}, {"i": [1, 3]})
    assert [port.name for port in spec.graph.inputs] == ["x"]
    for wrong, word in (
        ([1], "shape"),
        ([0.5, 1.0], "float64"),
        ("ab", "no array"),
        (True, "bool"),
    ):
        assert any(word in reason for reason in refusals(model, bind={"i": wrong})), word
    assert "the inputs are i, x" in refusals(model, bind={"j": 1})[0]


def test_state_pairs_by_name() -> None:
    model = graph_model([helper.make_node("Relu", ["x"], ["y"])], {"x": ("n", 2)}, ["y"])
    assert read(model, state={"x": "y"})[0].state == (("x", "y"),)
    assert "inputs are x; outputs are y" in refusals(model, state={"x": "z"})[0]
