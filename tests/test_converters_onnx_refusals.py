# SPDX-License-Identifier: MIT
"""What the ONNX converter refuses, with all reasons at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_models import (
    export,
    graph_model,
    read,
    recurrent_model,
    refusals,
)

F = TensorProto.FLOAT


# -- reasons --------------------------------------------------------------------------------------


def test_every_reason_is_listed_at_once() -> None:
    nodes = [
        helper.make_node("Det", ["x"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "fine"),
        helper.make_node("FastThing", ["b"], ["c"], "second", domain="com.example"),
        helper.make_node("Pad", ["c"], ["d"], "third", mode="wrap"),
        helper.make_node("Elu", ["d"], ["e"], "fourth", gamma=1.0),
        helper.make_node(
            "LSTM", ["e", "w", "r"], ["f"], "fifth", activations=["Swish"] * 3, clip=-1.0),
    ]  # fmt: skip
    model = graph_model(nodes, {"x": (1, 2)}, ["f", "e"], {"w": np.zeros((1, 8, 2), np.float32)})
    model.graph.input.append(helper.make_tensor_value_info("r", F, [1, 8, 2]))
    model.graph.input.append(helper.make_tensor_value_info("half", TensorProto.FLOAT16, [1]))
    found = refusals(model)
    for words in (
        ("half", "float16"), ("first", "Det"), ("second", "com.example.FastThing"),
        ("third", "'wrap'"), ("fourth", "gamma = 1.0"), ("fifth", "Swish"), ("fifth", "clip = -1"),
        ("fifth", "R ('r')", "constants"),
    ):  # fmt: skip
        assert any(all(word in reason for word in words) for reason in found), words


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("LSTM", {"hidden_size": 7}, "needed for hidden_size 7"),
    ("GRU", {"activations": ["Sigmoid"]}, "2 names are needed"),
    ("GRU", {"activation_alpha": [0.5]}, "left over"),
    ("RNN", {"direction": "sideways"}, "'sideways'"),
    ("RNN", {"clip": 0.0}, "above 0"),
    ("RNN", {"layout": 2}, "layout = 2"),
    ("LSTM", {"linear_before_reset": 1}, "not known"),
    ("GRU", {"output_sequence": 1}, "not known"),
    ("LSTM", {"activations": [1, 2, 3]}, "activations"),
    ("LSTM", {"hidden_size": 0}, "hidden_size = 0"),
    ("LSTM", {"hidden_size": 1 << 40}, "hidden_size"),
    ("LSTM", {"clip": float("nan")}, "finite"),
    ("LSTM", {"hidden_size": "6"}, "int is needed"),
]


@pytest.mark.parametrize(("op", "attrs", "word"), REFUSED)
def test_recurrent_attributes(op: str, attrs: dict[str, Any], word: str) -> None:
    model, _ = recurrent_model(op, {}, "Bh")
    node = model.graph.node[0]
    kept = [a for a in node.attribute if a.name not in attrs]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(k, v) for k, v in attrs.items())])
    assert any(word in reason for reason in refusals(model)), refusals(model)


@pytest.mark.parametrize(("name", "shape"), [
    ("W", (1, 24)), ("W", (2, 24, 4)), ("R", (1, 24, 5)), ("B", (1, 24)), ("B", (2, 48)),
    ("P", (1, 12)), ("W", (1, 23, 4)), ("R", (1, 0, 6)), ("W", (1, 24, 0)), ("W", (1, 24, 3)),
])  # fmt: skip
def test_recurrent_weights_of_wrong_sizes(name: str, shape: tuple[int, ...]) -> None:
    model, _ = recurrent_model("LSTM", {}, "BhcP")
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(shape, np.float32), name))
    assert refusals(model) != []


@pytest.mark.parametrize(("name", "shape"), [("h", (1, 3, 5)), ("c", (3, 6)), ("X", (5, 3, 9))])
def test_recurrent_inputs_of_wrong_sizes(name: str, shape: tuple[int, ...]) -> None:
    model, _ = recurrent_model("LSTM", {}, "Bhc")
    for value in model.graph.input:
        if value.name == name:
            value.CopyFrom(helper.make_tensor_value_info(name, F, shape))
    assert any(str(shape[-1]) in reason for reason in refusals(model))


@pytest.mark.parametrize("opset", [1, 6, 29, 1000])
def test_opsets_that_are_not_known(opset: int) -> None:
    model = graph_model([helper.make_node("Relu", ["x"], ["y"])], {"x": (1,)}, ["y"], opset=opset)
    assert f"opset {opset}" in refusals(model)[0]


def test_imported_domains_that_are_not_used_do_no_harm() -> None:
    model = graph_model([helper.make_node("Relu", ["x"], ["y"])], {"x": (1,)}, ["y"])
    model.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    read(model)


@pytest.mark.parametrize("kind", [
    TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.UINT8,
    TensorProto.STRING, TensorProto.COMPLEX64, 99, 0,
])  # fmt: skip
def test_types_of_inputs(kind: int) -> None:
    model = graph_model([helper.make_node("Identity", ["x"], ["y"])], {"x": (1,)}, ["y"])
    model.graph.input[0].type.tensor_type.elem_type = kind
    assert "x: input" in refusals(model)[0]


def test_inputs_that_are_no_tensors_of_known_rank() -> None:
    model = graph_model([helper.make_node("Identity", ["x"], ["y"])], {"x": (1,)}, ["y"])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert "unknown rank" in refusals(model)[0]
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(F, [1]))
    model.graph.input[0].type.CopyFrom(sequence)
    assert "a sequence" in refusals(model)[0]


def test_types_that_are_only_folded() -> None:
    small = np.array([1, 2], np.uint8)
    cast = helper.make_node("Cast", ["k"], ["f"], to=F)
    add = helper.make_node("Add", ["x", "f"], ["y"])
    spec, _ = read(graph_model([cast, add], {"x": (2,)}, ["y"], {"k": small}))
    assert [t.dtype.name for t in spec.tensors.values()] == ["float32"]
    gather = helper.make_node("Identity", ["k"], ["y"])
    assert "uint8" in refusals(graph_model([gather], {"x": (2,)}, ["y"], {"k": small}))[0]
    half = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)
    assert "float16" in refusals(graph_model([half], {"x": (2,)}, ["y"]))[0]


def test_projections_that_one_exporter_breaks() -> None:
    module = torch.nn.LSTM(4, 6, proj_size=3)
    model = export(module, (torch.randn(5, 2, 4),), dynamo=True)
    assert any("proj_size" in reason for reason in refusals(model))
