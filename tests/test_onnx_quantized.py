# SPDX-License-Identifier: MIT
"""Quantised ONNX files beside ONNX Runtime; what the hints of the converter change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx_models import Array, compare, export, graph_model, ops, read, recurrent_model, refusals
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from ort_oracle import run_model
from tolerances import ORT_RECURRENT, assert_close

import gruengine as gr

make = helper.make_node


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def exact(model: onnx.ModelProto, inputs: dict[str, Array], **hints: Any) -> gr.Model:
    """Compare the engine with ONNX Runtime, bit for bit."""
    loaded = gr.load(model.SerializeToString(), **hints)
    for found, wanted in zip(
        loaded.run_graph(inputs).values(), run_model(model, inputs), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    return loaded


# -- scales that are known ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("axis", [None, 1, -1])
def test_quantised_and_back(kind: str, axis: int | None) -> None:
    x = random(3, 4, 5) * 100
    size = {None: (), 1: (4,), -1: (5,)}[axis]
    zero = np.full(size, 3 if kind.startswith("int") else 120, kind)
    scale = np.abs(random(*size)) + np.float32(0.3)
    attrs = {} if axis is None else {"axis": axis}
    nodes = [
        make("QuantizeLinear", ["x", "s", "z"], ["q"], **attrs),
        make("DequantizeLinear", ["q", "s", "z"], ["y"], **attrs),
    ]
    constants = {"s": np.asarray(scale, np.float32), "z": zero}
    exact(graph_model(nodes, {"x": (3, "n", 5)}, ["y"], constants, 21), {"x": x})


def test_weights_are_dequantised_at_conversion() -> None:
    q = np.arange(-8, 12, dtype=np.int8).reshape(4, 5)
    scales = [np.abs(random(5)), np.abs(random(2, 5))]
    for scale, attrs in zip(scales, ({"axis": 1}, {"axis": 0, "block_size": 2}), strict=True):
        nodes = [
            make("DequantizeLinear", ["q", "s"], ["w"], **attrs),
            make("MatMul", ["x", "w"], ["y"]),
        ]
        model = graph_model(nodes, {"x": ("n", 4)}, ["y"], {"q": q, "s": scale}, 21)
        spec, _ = compare(model, {"x": random(3, 4)})
        assert ops(spec) == ["MatMul"]


def test_static_quantisation(tmp_path: Path) -> None:
    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = 3

        def get_next(self) -> dict[str, Array] | None:
            self.left -= 1
            return {name: random(2, 7, 5, seed=self.left)} if self.left >= 0 else None

    model = network()
    name = model.graph.input[0].name
    onnx.save(model, tmp_path / "float.onnx")
    for form in ({}, {"per_channel": True, "activation_type": QuantType.QInt8}):
        quantize_static(
            tmp_path / "float.onnx", tmp_path / "q.onnx", Reader(), quant_format=QuantFormat.QDQ,
            **form,
        )  # fmt: skip
        quantised = onnx.load(tmp_path / "q.onnx")
        inputs = {name: random(2, 7, 5)}
        found = gr.load((tmp_path / "q.onnx").read_bytes()).run_graph(inputs)
        (wanted,) = run_model(quantised, inputs)
        # A sum at the edge of a step may be rounded to its other side.
        assert np.mean(np.abs(next(iter(found.values())) - wanted) > 1e-6) < 0.02


def network() -> onnx.ModelProto:
    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.rnn = torch.nn.LSTM(5, 6, batch_first=True, bidirectional=True)
            self.out = torch.nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> Any:
            return torch.relu(self.out(self.rnn(x)[0]))

    torch.manual_seed(0)
    return export(Net(), (torch.randn(2, 7, 5),))


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([make("QuantizeLinear", ["x", "s"], ["y"])], "an output of uint8"),
        ([make("QuantizeLinear", ["x", "s"], ["q"]), make("Add", ["q", "q"], ["y"])], "in uint8"),
        ([make("QuantizeLinear", ["x", "x"], ["q"]),
          make("DequantizeLinear", ["q", "s"], ["y"])], "must be constant"),
        ([make("Cast", ["x"], ["q"], to=TensorProto.INT32),
          make("DequantizeLinear", ["q", "s"], ["y"])], "not quantised here"),
    ],
)  # fmt: skip
def test_what_is_not_run(nodes: list[onnx.NodeProto], words: str) -> None:
    model = graph_model(nodes, {"x": (3,)}, ["y"], {"s": np.float32(0.5)}, 21)
    assert any(words in reason for reason in refusals(model))


# -- scales of the moment -------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [5, 256, 700])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
def test_dynamic_products_are_exact(
    kind: Any, per_channel: bool, depth: int, tmp_path: Path
) -> None:
    nodes = [make("MatMul", ["x", "w"], ["p"]), make("Tanh", ["p"], ["y"])]
    model = graph_model(nodes, {"x": (2, 3, depth)}, ["p"], {"w": random(depth, 9)})
    onnx.save(model, tmp_path / "float.onnx")
    quantize_dynamic(
        tmp_path / "float.onnx", tmp_path / "q.onnx", weight_type=kind, per_channel=per_channel
    )
    quantised = onnx.load(tmp_path / "q.onnx")
    assert "MatMulInteger" in {node.op_type for node in quantised.graph.node}
    for x in (random(2, 3, depth), np.abs(random(2, 3, depth)), np.zeros((2, 3, depth), "f4")):
        exact(quantised, {"x": x})


def test_the_hint_multiplies_in_float32(tmp_path: Path) -> None:
    nodes = [make("MatMul", ["x", "w"], ["p"]), make("Tanh", ["p"], ["y"])]
    model = graph_model(nodes, {"x": ("n", "t", 5)}, ["p"], {"w": random(5, 9)})
    onnx.save(model, tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "q.onnx")
    quantised = onnx.load(tmp_path / "q.onnx")
    x = random(2, 3, 5)
    spec, report = read(quantised, dequantize=True)
    assert ops(spec).count("MatMul") == 1
    assert "Round" not in ops(spec)
    assert any("rounds its input to 8 bits" in text for text in report.warnings)
    (found,) = gr.Model.from_spec(spec).run_graph({"x": x}).values()
    (wanted,) = run_model(model, {"x": x})
    assert 0 < np.abs(found - wanted).max() < 0.05


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
def test_dynamic_lstms(kind: Any, per_channel: bool, tmp_path: Path) -> None:
    model = network()
    onnx.save(model, tmp_path / "float.onnx")
    quantize_dynamic(
        tmp_path / "float.onnx", tmp_path / "q.onnx", op_types_to_quantize=["LSTM"],
        weight_type=kind, per_channel=per_channel,
    )  # fmt: skip
    quantised = onnx.load(tmp_path / "q.onnx")
    assert "DynamicQuantizeLSTM" in {node.op_type for node in quantised.graph.node}
    (reason,) = refusals(quantised)
    assert "give dequantize=True" in reason
    spec, report = read(quantised, dequantize=True)
    assert any("float32 weights" in text for text in report.warnings)
    inputs = {model.graph.input[0].name: random(2, 7, 5)}
    (found,) = gr.Model.from_spec(spec).run_graph(inputs).values()
    ((rounded,), (wanted,)) = run_model(quantised, inputs), run_model(model, inputs)
    # Nearer to the floats than the steps of 8 bits are, and near to these.
    assert np.abs(found - wanted).max() < np.abs(rounded - wanted).max()
    assert np.abs(found - rounded).max() < 0.02


# -- exports that lost something ------------------------------------------------------------------


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("own", [0, 1])
def test_where_a_gru_resets_is_told(own: int, told: bool) -> None:
    model, inputs = recurrent_model("GRU", {"linear_before_reset": own}, "Bh")
    meant, _ = recurrent_model("GRU", {"linear_before_reset": int(told)}, "Bh")
    spec, report = read(model, linear_before_reset=told)
    assert len(report.warnings) == (own != told)
    found = gr.Model.from_spec(spec).run_graph(inputs)
    for name, wanted in zip(found, run_model(meant, inputs), strict=True):
        assert_close(found[name], wanted, ORT_RECURRENT)


def test_hints_are_checked() -> None:
    model, _ = recurrent_model("GRU", {}, "B")
    for hints in ({"linear_before_reset": 1}, {"layout": True}):
        (reason,) = refusals(model, **hints)
        assert "linear_before_reset" in reason
