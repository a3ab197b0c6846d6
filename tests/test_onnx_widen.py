# SPDX-License-Identifier: MIT
"""Half precision ONNX models: refused with the way out, and widened on demand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_models import export, read, refusals
from ort_oracle import run_model
from tolerances import ORT_RECURRENT, assert_close
from torch import nn

import gruengine as gr
from gruengine.reference_graph import run_graph

HALF = [TensorProto.FLOAT16, TensorProto.BFLOAT16]


class Net(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(5, 6, 3, padding=1)
        self.rnn = nn.LSTM(6, 4, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Any, h: Any, c: Any) -> Any:
        y, (h, c) = self.rnn(torch.relu(self.conv(x)).permute(2, 0, 1), (h, c))
        y = torch.where(y > 0, y, y * 0.5)
        return self.head(y), h, c


def rounded(array: Any, kind: int) -> Any:
    """Round to the half type, and return float32."""
    if kind == TensorProto.FLOAT16:
        return array.astype(np.float16).astype(np.float32)
    return (array.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def halved(model: onnx.ModelProto, kind: int, keep_io: bool) -> tuple[onnx.ModelProto, Any]:
    """Return the model in half precision, and the float32 model of the same weights."""
    half, wide = onnx.ModelProto(), onnx.ModelProto()
    half.CopyFrom(model)
    wide.CopyFrom(model)
    for graph, to in ((half.graph, kind), (wide.graph, TensorProto.FLOAT)):
        tensors = [
            *graph.initializer,
            *(a.t for n in graph.node for a in n.attribute if a.HasField("t")),
        ]
        for tensor in tensors:
            if tensor.data_type == TensorProto.FLOAT:
                array = rounded(numpy_helper.to_array(tensor), kind)
                tensor.CopyFrom(helper.make_tensor(tensor.name, to, array.shape, array.reshape(-1)))
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = to
    ports = [*half.graph.input, *half.graph.output]
    if not keep_io:
        for port in ports:
            port.type.tensor_type.elem_type = kind
        return half, wide
    before = [
        helper.make_node("Cast", [p.name], [f"{p.name}_half"], to=kind) for p in half.graph.input
    ]
    after = [
        helper.make_node("Cast", [f"{p.name}_half"], [p.name], to=1) for p in half.graph.output
    ]
    names = {p.name: f"{p.name}_half" for p in ports}
    for node in half.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    nodes = [*before, *half.graph.node, *after]
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    return half, wide


@pytest.mark.parametrize("kind", HALF, ids=["float16", "bfloat16"])
@pytest.mark.parametrize("keep_io", [True, False])
def test_half_precision_is_widened_on_demand(kind: int, keep_io: bool) -> None:
    x, h, c = torch.randn(2, 5, 7), torch.randn(2, 2, 4), torch.randn(2, 2, 4)
    source = export(Net(), (x, h, c), input_names=["x", "h", "c"], output_names=["y", "hn", "cn"])
    half, wide = halved(source, kind, keep_io)
    assert all("give widen=True" in reason for reason in refusals(half))
    spec, report = read(half, widen=True)
    assert [port.dtype for port in spec.graph.inputs] == ["float32"] * 3
    assert spec.state == (("h", "hn"), ("c", "cn"))
    assert any("half precision is computed in float32" in text for text in report.warnings)
    inputs = {"x": x.numpy(), "h": h.numpy(), "c": c.numpy()}
    found = run_graph(spec.graph, spec.tensors, inputs)
    for name, value in zip(["y", "hn", "cn"], run_model(wide, inputs), strict=True):
        assert_close(found[name], value, ORT_RECURRENT)


def test_constants_in_branches_and_functions_are_widened() -> None:
    """An If of two branches, of which each holds float16, and a function that casts."""
    value = numpy_helper.from_array(np.array([0.5, 2.0], np.float16), "k")
    branches = [
        helper.make_graph(
            [helper.make_node("Constant", [], ["k"], value=value),
             helper.make_node(op, ["x", "k"], ["b"])],
            op, [], [helper.make_tensor_value_info("b", TensorProto.FLOAT16, [2])],
        )
        for op in ("Add", "Mul")
    ]  # fmt: skip
    nodes = [
        helper.make_node("Half", ["z"], ["x"], domain="own"),
        helper.make_node("If", ["p"], ["b"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Cast", ["b"], ["y"], to=1),
    ]
    function = helper.make_function(
        "own", "Half", ["a"], ["b"], [helper.make_node("Cast", ["a"], ["b"], to=10)],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2]),
         helper.make_tensor_value_info("p", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=imports)
    model.ir_version = 8
    z = np.array([0.1, -3.0], np.float32)
    values = np.array([0.5, 2.0], np.float32)
    for chosen, expected in ((True, z + values), (False, z * values)):
        spec, _ = read(model, {"p": chosen}, widen=True)
        np.testing.assert_allclose(run_graph(spec.graph, spec.tensors, {"z": z})["y"], expected)


def test_the_hint_changes_nothing_else(tmp_path: Any) -> None:
    rnn = nn.GRU(5, 4)
    source = export(rnn, (torch.randn(3, 2, 5),))
    assert read(source, widen=True)[1].warnings == read(source)[1].warnings
    (tmp_path / "m.onnx").write_bytes(source.SerializeToString())
    assert (
        gr.convert(tmp_path / "m.onnx", tmp_path / "m.safetensors", widen=True).parity_error < 1e-5
    )
    assert any("hint widen='yes'" in reason for reason in refusals(source, widen="yes"))
