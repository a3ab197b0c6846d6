# SPDX-License-Identifier: MIT
"""Out of gruengine: ONNX that ONNX Runtime runs, and the doors to all exports."""

from __future__ import annotations

import io

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from export_specs import H, I, feed, recurrent_spec, refusals
from random_models import draw
from torch import nn

import gruengine as gr
from gruengine.cli import main
from gruengine.converters.base import ConversionError
from gruengine.converters.to_onnx import to_onnx
from gruengine.reference_graph import run_graph
from gruengine.spec import Graph, ModelSpec, Node, Port


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


def run_onnx(data, inputs):
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    found = session.run(None, inputs)
    return dict(zip([one.name for one in session.get_outputs()], found, strict=True))


def assert_same_in_onnx(spec, inputs, data=None):
    data = to_onnx(spec) if data is None else data
    found = run_onnx(data, inputs)
    expected = run_graph(spec.graph, spec.tensors, inputs)
    assert list(found) == [port.name for port in spec.graph.outputs]
    for name, want in expected.items():
        scale = max(1.0, float(np.abs(want).max(initial=0)))
        assert found[name].shape == want.shape
        assert np.abs(found[name] - want).max(initial=0) <= 5e-5 * scale
    return data


def can_say(spec):
    """Whether opset 17 has a form for every recurrent node."""
    for node in spec.graph.nodes:
        if node.op != "Recurrent":
            continue
        pairs = list(zip(node.attrs["activations"], node.attrs["activation_beta"], strict=True))[
            ::2
        ]
        exact = all(n == "Sigmoid" or (n, b) == ("HardSigmoid", 0.5) for n, b in pairs)
        if node.attrs.get("update") == "take" and not exact:
            return False
    return True


def has_scans(spec):
    """Whether a recurrent node has a projection, which ONNX's LSTM has not."""
    return any(node.op == "Recurrent" and len(node.inputs) > 8 for node in spec.graph.nodes)


@pytest.mark.parametrize("seed", range(60))
def test_random_models(seed):
    rng = np.random.default_rng(seed)
    case = draw(rng, most=12, bidirectional=bool(seed % 3 == 0), bounded=True)
    if not can_say(case.spec):
        with pytest.raises(ConversionError, match="update 'take'"):
            to_onnx(case.spec)
        return
    x = case.input(rng, 2, 5)
    data = assert_same_in_onnx(case.spec, {"x": x})
    if has_scans(case.spec):
        return
    again = gr.load(data)
    ours = gr.Model.from_spec(case.spec)
    assert np.abs(again(x) - ours(x)).max() <= 1e-6


VARIANTS = [
    ("rnn", {}), ("rnn", {"clip": 0.5}), ("rnn", {"activations": ["Relu"]}),
    ("rnn", {"activations": ["LeakyRelu"], "activation_alpha": [0.3]}),
    ("gru", {}), ("gru", {"reset": "before"}), ("gru", {"update": "take"}),
    ("gru", {"update": "take", "reset": "before", "clip": 0.4}),
    ("gru", {"update": "take", "activations": ["HardSigmoid", "Softsign"],
             "activation_alpha": [0.3, 0.0], "activation_beta": [0.5, 0.0]}),
    ("gru", {"activations": ["HardSigmoid", "ScaledTanh"], "activation_alpha": [0.3, 1.5],
             "activation_beta": [0.25, 0.5]}),
    ("lstm", {}), ("lstm", {"coupled": 1}), ("lstm", {"clip": 0.6}), ("lstm", {"peephole": True}),
    ("lstm", {"activations": ["HardSigmoid", "Elu", "Affine"],
              "activation_alpha": [0.2, 0.7, 0.5], "activation_beta": [0.5, 0.0, 0.1]}),
]  # fmt: skip


@pytest.mark.parametrize(("cell", "options"), VARIANTS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("lengths", [None, "int32", "int64"])
def test_every_variant_of_a_recurrent_node(cell, options, directions, lengths):
    options = {k: v * directions if isinstance(v, list) else v for k, v in options.items()}
    rng = np.random.default_rng(7)
    spec = recurrent_spec(cell, rng, directions=directions, lengths=lengths, **options)
    data = assert_same_in_onnx(spec, feed(spec, rng))
    nodes = [n for n in onnx.load_from_string(data).graph.node if n.op_type == cell.upper()]
    assert len(nodes) == 1
    found = {a.name: onnx.helper.get_attribute_value(a) for a in nodes[0].attribute}
    assert (found["hidden_size"], found["layout"]) == (H, 0)
    weights = {t.name: onnx.numpy_helper.to_array(t)
               for t in onnx.load_from_string(data).graph.initializer}  # fmt: skip
    if options.get("update") != "take":
        for name in ("W", "R", "B"):
            assert np.array_equal(weights[name], spec.tensors[name])
    name = nodes[0].input[2]
    assert np.array_equal(gr.converters.read(data)[0].tensors[name], weights[name])


def test_state_pairs_are_found_again():
    spec = gr.from_torch(nn.LSTMCell(I, H)).spec
    data = to_onnx(spec)
    assert gr.load(data).signature.state == spec.state != ()
    x = np.ones((1, I), np.float32)
    a, b = gr.load(data).stream(), gr.Model.from_spec(spec).stream()
    for _ in range(3):
        a.step(x), b.step(x)
    for name, value in b.state.items():
        assert np.abs(value).max() > 0
        assert np.array_equal(a.state[name], value)


@pytest.mark.parametrize(("node", "tensors", "shape"), [
    (Node("ReduceMean", ("x", "axes"), ("y",), {"keepdims": 0}), {"axes": np.array([1, 2])}, (4,)),
    (Node("ReduceMax", ("x",), ("y",), {"keepdims": 1}), {}, (1, 1, 1)),
    (Node("ReduceL2", ("x", "axes"), ("y",), {"keepdims": 1}), {"axes": np.array([-1])}, (4, 6, 1)),
    (Node("Gelu", ("x",), ("y",), {}), {}, (4, 6, 8)),
    (Node("Gelu", ("x",), ("y",), {"approximate": "tanh"}), {}, (4, 6, 8)),
    (Node("Split", ("x",), ("y", "z"), {"axis": 2, "num_outputs": 2}), {}, (4, 6, 4)),
    (Node("Pad", ("x", "pads"), ("y",), {"mode": "constant"}),
     {"pads": np.array([0, 1, 0, 0, 0, 2])}, (4, 7, 10)),
    (Node("HardSwish", ("x",), ("y",), {}), {}, (4, 6, 8)),
    (Node("Squeeze", ("x",), ("y",), {}), {}, (4, 6, 8)),
])  # fmt: skip
def test_operators_in_the_form_of_opset_17(node, tensors, shape):
    ports = [Port("x", "float32", (4, 6, 8))], [Port("y", "float32", shape)]
    spec = ModelSpec(Graph(*ports, [node]), {k: v.astype(np.int64) for k, v in tensors.items()})
    rng = np.random.default_rng(1)
    assert_same_in_onnx(spec, {"x": rng.normal(size=(4, 6, 8)).astype(np.float32)})


def test_constant_of_shape_and_if():
    then = Graph([], [Port("a", "float32", ("N",))], [Node("Neg", ("x",), ("a",))])
    other = Graph([], [Port("b", "float32", ("N",))], [Node("ReduceMean", ("x", "ax"), ("b",))])
    nodes = [
        Node("Shape", ("x",), ("size",)),
        Node("ConstantOfShape", ("size",), ("fill",), {"value": 2.5}),
        Node("If", ("yes",), ("chosen",), {"then_branch": then, "else_branch": other}),
        Node("Add", ("fill", "chosen"), ("y",)),
    ]
    tensors = {"yes": np.array(True), "ax": np.array([0], np.int64)}
    ports = [Port("x", "float32", ("N",))], [Port("y", "float32", ("N",))]
    assert_same_in_onnx(ModelSpec(Graph(*ports, nodes), tensors), {"x": np.ones(3, np.float32)})


def test_onnx_refuses_with_every_reason():
    net = gr.Sequential([gr.LSTM(H, projection=3, return_sequences=True), gr.GRU(H)], input_size=I)
    spec = net.spec()
    lstm = next(node for node in spec.graph.nodes if node.attrs.get("cell") == "lstm")
    lstm.attrs.update(activations=["Sigmoid", "ScaledTanh", "Tanh"])
    gru = next(node for node in spec.graph.nodes if node.attrs.get("cell") == "gru")
    gru.attrs.update(update="take", activations=["Tanh", "Tanh"])
    found = refusals(to_onnx, spec)
    assert "activation ScaledTanh with alpha 0.0 and beta 0.0: no operator that can" in found
    assert "update 'take' with the activations Tanh, Tanh" in found
    ports = [Port("x", "float32", (4,))], [Port("y", "float32", (4,))]
    affine = ModelSpec(Graph(*ports, [Node("Affine", ("x",), ("y",), {"alpha": 2.0})]), {})
    assert "operator Affine" in refusals(to_onnx, affine)


# -- the door -------------------------------------------------------------------------------------


def test_every_kind_of_model_is_taken(tmp_path):
    net = gr.Sequential([gr.GRU(H)], input_size=I)
    net.save(tmp_path / "m.safetensors")
    model = gr.load(tmp_path / "m.safetensors")
    path = tmp_path / "m.safetensors"
    sources = [net, net.spec(), model, path, path.read_bytes(), str(path)]
    found = set()
    for source in sources:
        gr.export(source, tmp_path / "out.onnx")
        found.add((tmp_path / "out.onnx").read_bytes())
    assert len(found) == 1
    assert model.spec.hash() == net.spec().hash() == model.hash
    model.export(tmp_path / "any", format="onnx")
    assert (tmp_path / "any").read_bytes() in found


def test_what_export_refuses(tmp_path):
    net = gr.Sequential([gr.GRU(H)], input_size=I)
    for path, kind in (("m.bin", None), ("m.onnx", "tflite"), ("m", None)):
        with pytest.raises(gr.InvalidInputError, match="allowed: onnx"):
            gr.export(net, tmp_path / path, format=kind)
    with pytest.raises(gr.InvalidTypeError, match="a list"):
        gr.export([1], tmp_path / "m.onnx")
    with pytest.raises(gr.FileAccessError):
        gr.export(net, tmp_path / "absent" / "m.onnx")
    dense = gr.Sequential([gr.Dense(2)], input_size=I)
    assert "no recurrent layer" in refusals(gr.export, dense, tmp_path / "m.npz")
    assert "no recurrent layer" in refusals(gr.export, dense, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["o.onnx", "o.npz", "o.weights.h5", "o.torch.safetensors"])
def test_the_command_line_goes_by_the_ending(name, tmp_path, capsys):
    net = gr.Sequential([gr.GRU(H)], input_size=I)
    net.save(tmp_path / "m.safetensors")
    source, target = str(tmp_path / "m.safetensors"), str(tmp_path / name)
    assert main(["convert", source, target]) == 0
    assert f"{source} -> {target}" in capsys.readouterr().out
    gr.export(net, tmp_path / f"again{name}")
    if not name.endswith("h5"):
        assert (tmp_path / name).read_bytes() == (tmp_path / f"again{name}").read_bytes()
    assert main(["convert", source, target, "--hint", "batch_first=true"]) == 2
    assert "a model file takes no options" in capsys.readouterr().err


def test_the_npz_holds_no_objects(tmp_path):
    gr.export(gr.Sequential([gr.LSTM(H)], input_size=I), tmp_path / "m.npz")
    with np.load(io.BytesIO((tmp_path / "m.npz").read_bytes()), allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["lstm/bias", "lstm/kernel", "lstm/recurrent_kernel"]
