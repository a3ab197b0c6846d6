# SPDX-License-Identifier: MIT
"""Functions that an ONNX file defines itself are lowered where they are called."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import Array, compare, graph_model, ops, read, refusals

from gruengine.errors import ModelFileError

OURS = "ours"
X = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)


def reference(node: onnx.NodeProto, key: str, name: str, kind: int) -> onnx.NodeProto:
    """Add an attribute that refers to one of the function."""
    attribute = node.attribute.add()
    attribute.name, attribute.ref_attr_name, attribute.type = key, name, kind
    return node


def function(name: str, nodes: list[onnx.NodeProto], opset: int = 17, **extra: Any) -> Any:
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(OURS, 1)]
    return helper.make_function(OURS, name, ["a", "b"], ["r"], nodes, imports, **extra)


def model_of(functions: list[Any], *nodes: onnx.NodeProto, **kwargs: Any) -> onnx.ModelProto:
    model = graph_model(list(nodes), {"x": ("n", 3)}, ["y"], **kwargs)
    model.opset_import.append(helper.make_opsetid(OURS, 1))
    model.functions.extend(functions)
    return model


def call(name: str, *inputs: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(name, list(inputs), ["y"], domain=OURS, **attrs)


def leaky() -> Any:
    inner = reference(helper.make_node("LeakyRelu", ["s"], ["r"]), "alpha", "slope", 1)
    defaults = [helper.make_attribute("slope", 0.25)]
    return function(
        "Leaky", [helper.make_node("Add", ["a", "b"], ["s"]), inner], attribute_protos=defaults
    )


@pytest.mark.parametrize("attrs", [{}, {"slope": 0.5}])
def test_a_function_with_attributes(attrs: dict[str, float]) -> None:
    spec, _ = compare(model_of([leaky()], call("Leaky", "x", "x", **attrs)), {"x": X})
    assert ops(spec) == ["Add", "LeakyRelu"]
    (node,) = [n for n in spec.graph.nodes if n.op == "LeakyRelu"]
    assert node.attrs["alpha"] == attrs.get("slope", 0.25)


def test_functions_in_functions_and_branches() -> None:
    branches = {
        f"{key}_branch": helper.make_graph(
            [reference(helper.make_node("Elu", ["a"], ["e"]), "alpha", "slope", 1)] if key == "then"
            else [helper.make_node("Neg", ["a"], ["e"])],
            key, [], [helper.make_empty_tensor_value_info("e")],
        )
        for key in ("then", "else")
    }  # fmt: skip
    choice = helper.make_node("If", ["b"], ["r"], **branches)
    inner = function("Choice", [choice], attributes=["slope"])
    outer = function("Twice", [
        reference(helper.make_node("Choice", ["a", "b"], ["p"], domain=OURS), "slope", "slope", 1),
        helper.make_node("Choice", ["p", "b"], ["r"], domain=OURS, slope=0.5),
    ], attributes=["slope"])  # fmt: skip
    for flag in (True, False):
        constants: dict[str, Array] = {"flag": np.array(flag)}
        model = model_of([inner, outer], call("Twice", "x", "flag", slope=1.5), constants=constants)
        spec, _ = compare(model, {"x": X})
        assert ops(spec) == (["Elu"] * 2 if flag else ["Neg"] * 2)


def test_a_function_has_an_opset_of_its_own() -> None:
    old = helper.make_node("Unsqueeze", ["a"], ["r"], axes=[0])
    model = model_of([function("Wide", [old], 11)], call("Wide", "x", "x"))
    spec, _ = read(model)
    assert ops(spec) == ["Unsqueeze"]


def test_what_a_function_cannot_do_is_refused_with_its_node() -> None:
    node = helper.make_node("Det", ["a"], ["r"], "inside")
    assert any("Det" in r for r in refusals(model_of([function("F", [node])], call("F", "x", "x"))))


@pytest.mark.parametrize("depth", [1, 40])
def test_functions_that_call_too_much(depth: int) -> None:
    """One that calls itself, and a tree of calls that doubles at every level."""
    functions = []
    for i in range(depth):
        name = f"F{(i + 1) % depth}"
        twice = [helper.make_node(name, ["a", "b"], ["p"], domain=OURS),
                 helper.make_node(name, ["p", "b"], ["r"], domain=OURS)]  # fmt: skip
        functions.append(function(f"F{i}", twice))
    with pytest.raises(ModelFileError, match="calls too much"):
        read(model_of(functions, call("F0", "x", "x")))


def test_calls_with_more_than_a_function_takes() -> None:
    with pytest.raises(ModelFileError, match="more than it takes"):
        read(model_of([leaky()], call("Leaky", "x", "x", "x")))
