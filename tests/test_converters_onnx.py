# SPDX-License-Identifier: MIT
"""The ONNX converter on real models, exports of PyTorch, and every form of a recurrent node."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_models import (
    GATES,
    Array,
    H,
    I,
    N,
    T,
    all_nodes,
    compare,
    export,
    feeds,
    graph_model,
    ops,
    read,
    recurrent_model,
    refusals,
)
from ort_oracle import run_model
from tolerances import FLOAT64, ORT_RECURRENT, Budget, assert_close
from torch import nn

from gruengine.reference_graph import run_graph


def leaves(value: Any) -> list[Array]:
    return [t.detach().numpy() for t in torch.utils._pytree.tree_leaves(value)]


# -- real models ----------------------------------------------------------------------------------

REAL = [
    ("dtln/model_1.onnx", {}, {}, 2, 0, (("input_3", "tf_op_layer_stack_2"),)),
    ("dtln/model_2.onnx", {}, {}, 2, 2, (("input_5", "tf_op_layer_stack_5"),)),
    ("silero/silero_vad_v6_sequence.onnx", {}, {"seq_len": 5}, 1, 0, (("h", "hn"), ("c", "cn"))),
    (
        "silero/silero_vad_v6.2.onnx",
        {"sr": 16000},
        {"input_0": 2, "input_1": 576, "state_1": 2},
        1,
        0,
        (("state", "stateN"),),
    ),
]


@pytest.mark.parametrize(("name", "bind", "sizes", "cells", "fused", "state"), REAL)
def test_real_models(
    models: Path, name: str, bind: Any, sizes: Any, cells: int, fused: int, state: Any
) -> None:
    source = (models / name).read_bytes()
    spec, report = read(source, bind)
    rng = np.random.default_rng(0)
    inputs = {
        port.name: (rng.standard_normal([sizes.get(s, s) for s in port.shape]) * 0.3).astype("f4")
        for port in spec.graph.inputs
    }
    model = onnx.load_from_string(source)
    _, report = compare(model, inputs, bind)
    assert len(report.recognised) == cells
    assert len(report.fused) == fused
    assert spec.state == report.state == state
    assert ops(spec).count("Recurrent") == cells
    assert report.parameters > 250_000
    assert report.source_bytes == len(source)
    assert set(spec.provenance) == {"format", "producer", "opset", "sha256"}


def test_both_sample_rates_of_one_model(models: Path) -> None:
    source = (models / "silero/silero_vad_v6.2.onnx").read_bytes()
    model, rng = onnx.load_from_string(source), np.random.default_rng(1)
    state = rng.standard_normal((2, 1, 128)).astype(np.float32)
    for rate, samples in ((16000, 576), (8000, 288)):
        x = rng.standard_normal((1, samples)).astype(np.float32)
        compare(model, {"input": x, "state": state}, {"sr": rate})
    (reason,) = refusals(source)
    assert "values of sr" in reason


# -- PyTorch's exporters --------------------------------------------------------------------------

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
LAYERS = list(itertools.product([1, 2], [False, True], [True, False], [False, True]))


@pytest.mark.parametrize(("layers", "two_ways", "bias", "batch_first"), LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_torchscript_export(
    kind: str, layers: int, two_ways: bool, bias: bool, batch_first: bool
) -> None:
    torch.manual_seed(0)
    module = KINDS[kind](I, H, layers, bidirectional=two_ways, bias=bias, batch_first=batch_first)
    count = layers * (1 + two_ways)
    shape = (N, T, I) if batch_first else (T, N, I)
    x, h, c = torch.randn(shape), torch.randn(count, N, H), torch.randn(count, N, H)
    args: tuple[Any, ...] = (x, (h, c)) if kind == "lstm" else (x, h)
    names = ["x", "h", "c"][: 3 if kind == "lstm" else 2]
    free = {"x": {0: "a", 1: "b"}, **{n: {1: "a" if batch_first else "b"} for n in names[1:]}}
    model = export(module, args, input_names=names, dynamic_axes=free, do_constant_folding=False)
    spec, report = compare(model, feeds(model, leaves(args)), expected=leaves(module(*args)))
    assert len(report.recognised) == layers
    assert [a for a, _ in report.state] == names[1:]
    assert "If" not in ops(spec)
    no_state = export(module, (x,), input_names=["x"], dynamic_axes={"x": {0: "a", 1: "b"}})
    more = torch.randn(shape[0] + 2, shape[1] + 1, I)
    compare(no_state, {"x": more.numpy()}, expected=leaves(module(more)))


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_torchscript_rnn_functions(nonlinearity: str) -> None:
    torch.manual_seed(1)
    module = nn.RNN(I, H, nonlinearity=nonlinearity)
    args = (torch.randn(T, N, I), torch.randn(1, N, H))
    model = export(module, args)
    compare(model, feeds(model, leaves(args)), expected=leaves(module(*args)))


@pytest.mark.parametrize(("kind", "layers", "two_ways", "bias", "batch_first"), [
    ("lstm", 1, False, True, False),
    ("lstm", 2, True, False, True),
    ("gru", 1, False, True, True),
    ("gru", 2, True, True, False),
    ("rnn", 1, False, True, False),
    ("rnn", 2, True, True, True),
])  # fmt: skip
def test_dynamo_export(
    kind: str, layers: int, two_ways: bool, bias: bool, batch_first: bool
) -> None:
    torch.manual_seed(2)
    module = KINDS[kind](I, H, layers, bidirectional=two_ways, bias=bias, batch_first=batch_first)
    count = layers * (1 + two_ways)
    x = torch.randn((N, T, I) if batch_first else (T, N, I))
    h, c = torch.randn(count, N, H), torch.randn(count, N, H)
    args: tuple[Any, ...] = (x, (h, c)) if kind == "lstm" else (x, h)
    model = export(module, args, dynamo=True)
    _, report = compare(model, feeds(model, leaves(args)), expected=leaves(module(*args)))
    if kind != "rnn":  # that exporter unrolls it
        assert len(report.recognised) == layers
        assert len(report.state) == len(args[1]) if kind == "lstm" else 1
    assert report.warnings == []


def test_packed_sequences_keep_their_lengths() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(I, H, bidirectional=True)

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> Any:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths)
            y, (h, _) = self.lstm(packed)
            return nn.utils.rnn.pad_packed_sequence(y)[0], h

    torch.manual_seed(3)
    module, args = Packed(), (torch.randn(T, N, I), torch.tensor([5, 3, 2]))
    model = export(module, args, input_names=["x", "lengths"])
    compare(
        model, {"x": args[0].numpy(), "lengths": args[1].numpy()}, expected=leaves(module(*args))
    )


def test_a_broken_gru_export_is_warned_of() -> None:
    torch.manual_seed(4)
    model = export(nn.GRU(I, H), (torch.randn(T, N, I), torch.randn(1, N, H)))
    for node in model.graph.node:
        kept = [a for a in node.attribute if a.name != "linear_before_reset"]
        del node.attribute[:]
        node.attribute.extend(kept)
    model.producer_version = "2.10.0"
    spec, report = read(model)
    assert [n.attrs["reset"] for n in all_nodes(spec.graph) if n.op == "Recurrent"] == ["before"]
    assert "linear_before_reset" in report.warnings[0]


# -- recurrent nodes, every attribute -------------------------------------------------------------

NAMES = {
    "RNN": ["Affine"],
    "GRU": ["HardSigmoid", "LeakyRelu"],
    "LSTM": ["Sigmoid", "SCALEDTANH", "Elu"],
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *[(op, {"direction": d}) for op in GATES for d in ("forward", "reverse", "bidirectional")],
    *[(op, {"clip": 0.3, "direction": "bidirectional"}) for op in GATES],
    *[(op, {"activations": NAMES[op]}) for op in GATES],
    *[(op, {"activations": n * 2, "direction": "bidirectional"}) for op, n in NAMES.items()],
    ("RNN", {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.1]}),
    ("RNN", {"activations": ["ThresholdedRelu"]}),
    ("RNN", {
        "activations": ["Relu", "LeakyRelu"],
        "direction": "bidirectional",
        "activation_alpha": [0.3],
    }),
    ("RNN", {
        "activations": ["LeakyRelu", "Affine"],
        "direction": "bidirectional",
        "activation_alpha": [0.3, 0.6],
        "activation_beta": [0.2],
    }),
    ("GRU", {"linear_before_reset": 1}),
    ("GRU", {"linear_before_reset": 1, "clip": 0.2, "direction": "reverse"}),
    ("GRU", {
        "activations": ["HardSigmoid", "ScaledTanh", "Sigmoid", "HardSigmoid"],
        "direction": "bidirectional",
        "activation_alpha": [0.3, 1.2],
        "activation_beta": [0.4, 0.7, 0.2],
    }),
    ("LSTM", {"input_forget": 1}),
    ("LSTM", {"activations": ["HardSigmoid", "Softsign", "Softplus"], "activation_alpha": [0.25]}),
    ("LSTM", {"activations": ["Relu", "ThresholdedRelu", "Tanh"], "activation_alpha": [0.1]}),
]  # fmt: skip


@pytest.mark.parametrize("parts", ["", "B", "BLhc", "BhcP", "LhcP"])
@pytest.mark.parametrize(("op", "attrs"), VARIANTS, ids=lambda v: v if isinstance(v, str) else None)
def test_recurrent_nodes(op: str, attrs: dict[str, Any], parts: str) -> None:
    model, inputs = recurrent_model(op, attrs, parts)
    spec, report = compare(model, inputs)
    assert ops(spec) == ["Recurrent"]
    assert len(report.recognised) == 1


@pytest.mark.parametrize("op", GATES)
def test_hidden_size_is_inferred(op: str) -> None:
    whole, inputs = recurrent_model(op, {}, "B")
    bare, _ = recurrent_model(op, {}, "B", hidden=False)
    compare(bare, inputs, expected=run_model(whole, inputs))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_batchwise_layout(op: str, direction: str) -> None:
    model, inputs = recurrent_model(op, {"direction": direction}, "BLhc")
    expected = run_model(model, inputs)
    order = {"X": (1, 0, 2), "h": (1, 0, 2), "c": (1, 0, 2), "L": (0,)}
    batchwise = {name: np.transpose(a, order[name]) for name, a in inputs.items()}
    node = model.graph.node[0]
    node.attribute.append(helper.make_attribute("layout", 1))
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim in dims:
            dim.Clear()
    places = [(2, 0, 1, 3), (1, 0, 2), (1, 0, 2)]
    wanted = [np.transpose(a, p) for a, p in zip(expected, places, strict=False)]
    compare(model, batchwise, expected=wanted)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 14, 17, 21, 22])
def test_opsets_of_recurrent_nodes(opset: int) -> None:
    model, inputs = recurrent_model("LSTM", {"clip": 0.7}, "BhcP", opset=14)
    expected = run_model(model, inputs)
    old, _ = recurrent_model("LSTM", {"clip": 0.7}, "BhcP", opset=opset)
    compare(old, inputs, expected=expected)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_weights_of_other_float_types(kind: str) -> None:
    model, inputs = recurrent_model("GRU", {}, "Bh")
    nodes = []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(np.float16)
        bits = array.astype(np.float32).view(np.uint32) >> 16
        if kind == "bfloat16":
            exact = (bits << 16).view(np.float32)
            stored = helper.make_tensor("", TensorProto.BFLOAT16, array.shape, exact.reshape(-1))
        else:
            stored = numpy_helper.from_array(array.astype(kind))
        stored.name = f"{tensor.name}_stored"
        nodes.append(helper.make_node("Cast", [stored.name], [tensor.name], to=TensorProto.FLOAT))
        tensor.CopyFrom(stored)
    model.graph.node.insert(0, nodes[0])
    for node in nodes[1:]:
        model.graph.node.insert(0, node)
    spec, _ = compare(model, inputs)
    assert ops(spec) == ["Recurrent"]


def test_float64_weights_only_where_float32_holds_them() -> None:
    x = np.array([[1.5, 2.25]], np.float32)

    def power(value: float) -> onnx.ModelProto:
        node = helper.make_node("Pow", ["x", "e"], ["y"])
        return graph_model([node], {"x": (1, 2)}, ["y"], {"e": np.array(value, np.float64)})

    spec, _ = read(power(0.5))
    assert spec.tensors["e"].dtype == np.float32
    assert "allow_rounding" in refusals(power(0.1))[0]
    spec, report = read(power(0.1), allow_rounding=True)
    assert "rounded" in report.warnings[0]
    result = run_graph(spec.graph, spec.tensors, {"x": x})["y"]
    assert_close(result, x ** np.float64(np.float32(0.1)), FLOAT64)


def test_float64_models_by_wish() -> None:
    model, inputs = recurrent_model("LSTM", {}, "Bhc")
    expected = run_model(model, inputs)
    for tensor in model.graph.initializer:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("f8"), name))
    for value in model.graph.input:
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    assert all("float64" in reason for reason in refusals(model))
    spec, report = read(model, allow_rounding=True)
    assert len(report.warnings) == 3
    results = run_graph(spec.graph, spec.tensors, inputs)
    for actual, wanted in zip(results.values(), expected, strict=True):
        assert_close(actual, wanted, Budget(*ORT_RECURRENT))
