# SPDX-License-Identifier: MIT
"""Loops that append frames to a list and stack it: beside PyTorch, and lists that are not that."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from fuzz.torch_networks import Scripted
from onnx_models import export
from torch import Tensor, nn

import gruengine as gr
from gruengine.converters.base import ConversionError

pytestmark = pytest.mark.filterwarnings("ignore")  # of PyTorch's old exporter


class Stacked(nn.Module):  # type: ignore[misc]
    """Two scripted loops, one over what the other gave."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = Scripted(3, 5), Scripted(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.tanh(self.one(x)))  # type: ignore[no-any-return]


def exported(opset: int = 17) -> onnx.ModelProto:
    axes = {"x": {0: "N", 1: "T"}}
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
    with torch.no_grad():
        return export(Stacked().eval(), (torch.randn(2, 5, 3),), False, opset, **names)


def stacks(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "ConcatFromSequence"]


@pytest.mark.parametrize("opset", [13, 15, 17])
def test_lists_of_frames(opset: int) -> None:
    model = exported(opset)
    assert len(stacks(model)) == 2
    converted = gr.load(model.SerializeToString())
    for n, t in ((2, 5), (3, 1), (1, 8)):
        x = torch.randn(n, t, 3)
        with torch.no_grad():
            wanted = Stacked().eval()(x).numpy()
        found = converted.run_graph({"x": x.numpy()})["y"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_axis_of_a_stack(axis: int) -> None:
    model = exported()
    last = stacks(model)[-1]
    for attribute in last.attribute:
        if attribute.name == "axis":
            attribute.i = axis
    x = torch.randn(2, 6, 3)
    with torch.no_grad():
        frames = Stacked().eval()(x).numpy()  # [N, T, H]
    wanted = np.moveaxis(frames, 1, axis)
    found = gr.load(model.SerializeToString()).run_graph({"x": x.numpy()})["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("what", ["joined", "at a place", "twice"])
def test_other_lists_are_refused(what: str) -> None:
    """Joined along an axis that is there, filled from the front, or used once more."""
    model = exported()
    last = stacks(model)[-1]
    loop = next(node for node in model.graph.node if last.input[0] in node.output)
    body = next(a.g for a in loop.attribute if a.name == "body")
    if what == "joined":
        next(a for a in last.attribute if a.name == "new_axis").i = 0
    elif what == "at a place":
        body.initializer.append(onnx.numpy_helper.from_array(np.array(0), "place"))
        next(n for n in body.node if n.op_type == "SequenceInsert").input.append("place")
    else:
        extra = onnx.helper.make_node("SequenceLength", [last.input[0]], ["count"])
        model.graph.node.append(extra)
        model.graph.output.append(onnx.helper.make_tensor_value_info("count", 7, []))
    with pytest.raises(ConversionError, match="Sequence"):
        gr.load(model.SerializeToString())
