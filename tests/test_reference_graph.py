# SPDX-License-Identifier: MIT
"""The evaluation of whole graphs by the reference, beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from operator_cases import f32, i64
from ort_oracle import OPSET, run_model
from tolerances import ORT_RECURRENT, assert_close

from gruengine.reference_graph import apply_node, run_graph
from gruengine.spec import Graph, Node, Port

Array = np.ndarray[Any, Any]
T, N, I, H = 5, 3, 4, 6


def tensors() -> dict[str, Array]:
    return {
        "W": f32(1, 4 * H, I) / 3,
        "R": f32(1, 4 * H, H) / 3,
        "B": f32(1, 8 * H) / 3,
        "h0": f32(1, N, H),
        "c0": f32(1, N, H, high=1),
        "weight": f32(H, 2),
        "first": i64(1),
        "limit": np.array([4], np.int64),
        "two": np.array(2, np.float32),
    }


BRANCHES = {"then_branch": ("Mul", ("z", "two")), "else_branch": ("Neg", ("z",))}
LSTM = {"hidden_size": H, "direction": "reverse"}
# An LSTM, its output projected; halves of it joined again; and a branch on the number of frames.
NODES: list[tuple[str, tuple[str, ...], tuple[str, ...], dict[str, Any]]] = [
    ("LSTM", ("x", "W", "R", "B", "", "h0", "c0"), ("y", "", "cn"), LSTM),
    ("Squeeze", ("y", "first"), ("ys",), {}),
    ("Split", ("ys",), ("a", "b"), {"axis": 2, "num_outputs": 2}),
    ("Concat", ("b", "a"), ("swapped",), {"axis": 2}),
    ("MatMul", ("swapped", "weight"), ("z",), {}),
    ("Shape", ("x",), ("frames",), {"start": 0, "end": 1}),
    ("Greater", ("frames", "limit"), ("long",), {}),
    ("If", ("long",), ("out",), BRANCHES),
]


def ours() -> Graph:
    """Return the graph as the engine has it."""
    nodes = []
    for op, inputs, outputs, attrs in NODES:
        if op == "LSTM":
            op, attrs = "Recurrent", {"cell": "lstm", **attrs}
        if op == "If":
            attrs = {k: branch([Node(v[0], v[1], (f"{k}_out",))]) for k, v in attrs.items()}
        if op == "Split":
            attrs = {"axis": 2}
        nodes.append(Node(op, inputs, outputs, attrs))
    ports = [Port("out", "float32", ("T", N, 2)), Port("cn", "float32", (1, N, H))]
    return Graph([Port("x", "float32", ("T", N, I))], ports, nodes)


def branch(nodes: list[Node]) -> Graph:
    """Return a graph whose output is that of its last node."""
    return Graph([], [Port(nodes[-1].outputs[0], "float32", ())], nodes)


def theirs() -> onnx.ModelProto:
    """Return the graph as ONNX has it."""
    nodes = []
    for op, inputs, outputs, attrs in NODES:
        if op == "If":
            attrs = {
                k: helper.make_graph(
                    [helper.make_node(v[0], v[1], [f"{k}_out"])],
                    k,
                    [],
                    [helper.make_empty_tensor_value_info(f"{k}_out")],
                )
                for k, v in attrs.items()
            }
        nodes.append(helper.make_node(op, inputs, outputs, **attrs))
    graph = helper.make_graph(
        nodes,
        "oracle",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", N, I])],
        [helper.make_empty_tensor_value_info(n) for n in ("out", "cn")],
        [numpy_helper.from_array(v, k) for k, v in tensors().items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 10
    return model


@pytest.mark.parametrize("frames", [T, 2])
def test_graph_equals_onnx_runtime(frames: int) -> None:
    inputs = {"x": f32(frames, N, I)}
    want = dict(zip(("out", "cn"), run_model(theirs(), inputs), strict=True))
    for dtype in (np.float64, np.float32, None):
        got = run_graph(ours(), tensors(), inputs, dtype=dtype)
        assert set(got) == set(want)
        for name, value in want.items():
            assert got[name].dtype == (np.float32 if dtype is None else dtype)
            assert_close(got[name], value, ORT_RECURRENT)


def evaluate(nodes: list[Node], inputs: dict[str, Array], dtype: Any = np.float64) -> Array:
    """Return the output of the last node."""
    ports = [Port(name, "float32", ()) for name in inputs]
    graph = Graph(ports, [Port(nodes[-1].outputs[0], "float32", ())], nodes)
    return run_graph(graph, {}, inputs, dtype)[nodes[-1].outputs[0]]


def test_floats_stay_wide_and_integers_as_they_are() -> None:
    third = np.array([1 / 3])
    nodes = [Node("Cast", ("x",), ("y",), {"to": 1}), Node("Mul", ("y", "y"), ("z",))]
    np.testing.assert_array_equal(evaluate(nodes, {"x": third}), third * third)
    assert evaluate(nodes, {"x": third}, None).dtype == np.float32
    nodes = [Node("ConstantOfShape", ("x",), ("y",))]
    assert evaluate(nodes, {"x": i64(2)}).dtype == np.float64
    nodes = [Node("Div", ("x", "x"), ("y",))]
    assert evaluate(nodes, {"x": np.array([3], np.int32)}).dtype == np.int32


def test_a_branch_sees_what_is_outside_and_leaves_nothing_behind() -> None:
    inner = branch([Node("Neg", ("x",), ("t",)), Node("Neg", ("t",), ("u",))])
    choose = Node("If", ("flag",), ("y",), {"then_branch": inner, "else_branch": inner})
    inputs = {"x": f32(2), "flag": np.array([True])}
    np.testing.assert_array_equal(evaluate([choose], inputs, None), inputs["x"])
    with pytest.raises(ValueError, match="needs 't'"):
        evaluate([choose, Node("Neg", ("t",), ("z",))], inputs)


def test_one_node_alone() -> None:
    a, b = apply_node(Node("Split", ("x",), ("a", "b")), [i64(1, 2, 3)])
    np.testing.assert_array_equal(a, [1, 2])
    np.testing.assert_array_equal(b, [3])
    (clipped,) = apply_node(Node("Clip", ("x", "", "high"), ("y",)), [i64(1, 5), None, i64(2)])
    np.testing.assert_array_equal(clipped, [1, 2])


X = {"x": f32(2)}
IF: dict[str, Any] = {"then_branch": branch([Node("Neg", ("x",), ("y",))])}
BAD: list[tuple[Node, dict[str, Array], str]] = [
    (Node("Softmin", ("x",), ("y",)), X, "operator 'Softmin' is not one of"),
    (Node("Neg", ("w",), ("y",), name="n1"), X, "node n1 needs 'w'"),
    (Node("Neg", ("x",), ("z", "y"), name="n1"), X, "node n1: Neg gives 1 outputs"),
    (Node("Neg", ("",), ("y",), name="n1"), X, "node n1: Neg: missing"),
    (Node("Reshape", ("x", "x"), ("y",), name="n1"), X, "node n1: Reshape: .*integers"),
    (Node("Recurrent", ("", "x", "x"), ("y",), {"cell": "gru"}), X, "Recurrent: X is absent"),
    (Node("If", ("x",), ("y",), IF), X, "needs one boolean"),
    (Node("If", ("x",), ("y",), IF), {"x": np.array([True, True])}, "needs one boolean"),
    (Node("If", ("x",), ("y",), IF), {"x": np.array(False)}, "each branch must be"),
    (Node("If", ("x",), ("z", "y"), IF), {"x": np.array(True)}, "a graph of 2 outputs"),
]


@pytest.mark.parametrize(("node", "inputs", "message"), BAD)
def test_what_does_not_fit_is_refused(node: Node, inputs: dict[str, Array], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate([node], inputs)


def test_inputs_must_be_those_of_the_graph() -> None:
    with pytest.raises(ValueError, match=r"inputs are \[\]; the graph has \['x'\]"):
        run_graph(ours(), tensors(), {})
    with pytest.raises(ValueError, match=r"inputs are \['x', 'z'\]"):
        run_graph(ours(), tensors(), {"x": f32(T, N, I), "z": f32(1)})
    graph = ours()
    graph.outputs.append(Port("missing", "float32", ()))
    with pytest.raises(ValueError, match="output of the graph needs 'missing'"):
        run_graph(graph, tensors(), {"x": f32(T, N, I)})
