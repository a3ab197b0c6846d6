# SPDX-License-Identifier: MIT
"""Models in parts: what is not run here goes to ONNX Runtime, if the user allows it."""

from __future__ import annotations

import builtins
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import gruengine as gr
from gruengine import parts
from gruengine.cli import main
from gruengine.converters.onnx_model import read_model
from gruengine.converters.onnx_parts import Cutter, recurs

H, I = 5, 6


class Net:
    """Two LSTM layers with states as inputs, and odd operators where they are wanted."""

    def __init__(self, seed=3):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants = [], []
        self.inputs, self.outputs = [tensor("x", ["T", "N", I])], []
        self.now = "x"

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op, *extra, attrs=None, into=None):
        out = into or f"v{len(self.nodes)}"
        name = f"n_{op}" if op not in {node.op_type for node in self.nodes} else out
        node = helper.make_node(op, [self.now, *extra], [out], name=name, **(attrs or {}))
        self.nodes.append(node)
        self.now = out
        return self

    def lstm(self, k, states=True):
        size = I if k == 0 else H
        names = [
            self.constant(f"{n}{k}", self.rng.normal(0, 0.4, s).astype(np.float32))
            for n, s in (("W", (1, 4 * H, size)), ("R", (1, 4 * H, H)), ("B", (1, 8 * H)))
        ]
        ends = [f"hn{k}", f"cn{k}"] if states else []
        begins = ["", f"h{k}", f"c{k}"] if states else []
        self.nodes.append(
            helper.make_node(
                "LSTM",
                [self.now, *names, *begins],
                [f"Y{k}", *ends],
                name=f"lstm{k}",
                hidden_size=H,
            )
        )
        self.now = f"Y{k}"
        self.inputs += [tensor(n, [1, "N", H]) for n in begins if n]
        self.outputs += [tensor(n, [1, "N", H]) for n in ends]
        return self.add("Squeeze", self.constant(f"axes{k}", np.array([1])))

    def result(self, dtype=TensorProto.FLOAT):
        self.outputs.insert(0, tensor(self.now, None, dtype))
        return self

    def model(self):
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        made.ir_version = 8
        return made.SerializeToString()


def tensor(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def before():
    net = Net().add("Hardmax", attrs={"axis": 2}).lstm(0).lstm(1)
    return net.result().model(), ["n_Hardmax"]


def between():
    net = Net().lstm(0).add("Trilu", attrs={"upper": 0}).add("Relu").lstm(1)
    return net.result().model(), ["n_Trilu"]


def after():
    net = Net().lstm(0).add("Softmax", attrs={"axis": 2}).add("Hardmax", attrs={"axis": 2})
    return net.result().model(), ["n_Hardmax"]


def everywhere():
    """Sizes and constants of one side are needed on the other, too."""
    net = Net().add("Hardmax", attrs={"axis": 2}).lstm(0)
    start = net.now
    net.add("Trilu", attrs={"upper": 1})
    net.nodes.append(helper.make_node("Shape", [start], ["sizes"], name="n_Shape"))
    net.nodes.append(helper.make_node("ConstantOfShape", ["sizes"], ["zeros"], name="n_zeros"))
    net.add("Add", "zeros").lstm(1).add("Reshape", "sizes").add("Sigmoid")
    net.add("Trilu").result()
    return net.model(), ["n_Hardmax", "n_Trilu", net.now]


CASES = [before, between, after, everywhere]


def session(data):
    import onnxruntime

    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def feed_of(data, rng, time=4, batch=3):
    feed = {}
    for port in session(data).get_inputs():
        shape = [{"T": time, "N": batch}.get(d, d) for d in port.shape]
        feed[port.name] = rng.normal(0, 0.7, shape).astype(np.float32)
    return feed


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_parts_compute_what_the_whole_computes(case, rng, tmp_path):
    data, nodes = case()
    with pytest.raises(gr.ConversionError):
        gr.load(data)
    target = tmp_path / "net.safetensors"
    report = gr.convert(data, target, fallback="onnxruntime")
    assert [text.split(":")[0] for text in report.fallback] == nodes
    assert len(report.recognised) == 1 + (case is not after)
    assert report.parity_error is not None
    assert report.parity_error < 1e-5
    feed = feed_of(data, rng)
    expected = session(data).run(None, feed)
    for model in (gr.load(target), gr.load(data, fallback="onnxruntime")):
        found = model.run_graph(feed)
        for name, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(found[name], want, rtol=0, atol=2e-6)
    assert gr.verify(target, data).passed


def test_recurrent_nodes_are_not_given_away():
    data, _ = everywhere()
    spec = parts_of(data)
    kinds = [part.kind for part in spec.parts]
    assert kinds == ["onnxruntime", "gruengine", "onnxruntime", "gruengine", "onnxruntime"]
    for part in spec.parts:
        if part.kind == "onnxruntime":
            ops = [node.op_type for node in onnx.load_from_string(part.data).graph.node]
            assert ops in (["Hardmax"], ["Trilu"], ["Trilu", "Trilu"])


def parts_of(data):
    from gruengine.conversion import prepare

    spec, _, _ = prepare(data, fallback="onnxruntime")
    assert isinstance(spec, parts.PartedSpec)
    return spec


def test_an_unknown_recurrent_operator_is_refused():
    net = Net().lstm(0, states=False)
    body = helper.make_graph(
        [helper.make_node("Hardmax", ["s"], ["h"]), helper.make_node("Add", ["h", "f"], ["t"])],
        "body",
        [tensor("s", [2, H]), tensor("f", [2, H])],
        [tensor("t", [2, H])],
    )
    net.constant("start", np.zeros((2, H), np.float32))
    net.nodes.append(
        helper.make_node(
            "Scan", ["start", net.now], ["last"], name="scan", body=body, num_scan_inputs=1
        )
    )
    net.now = "last"
    data = net.result().model()
    with pytest.raises(gr.ConversionError, match="it recurs, so it is not handed over"):
        gr.load(data, fallback="onnxruntime")
    model = read_model(data)
    assert recurs(model.graph.nodes[-1], {})
    assert not recurs(model.graph.nodes[1], {})


def test_streams_by_calls_carry_the_states(rng):
    data, _ = everywhere()
    model = gr.load(data, fallback="onnxruntime")
    assert model.streamable.form == "calls"
    stream, states = model.stream(batch_size=2), None
    frames = rng.normal(0, 0.7, (3, 2, 2, I)).astype(np.float32)
    ort = session(data)
    for frame in frames:
        states = states or {f"{s}{k}": np.zeros((1, 2, H), np.float32) for s in "hc" for k in "01"}
        saved = stream.get_state()
        want, *rest = ort.run(None, {"x": frame, **states})
        names = [port.name for port in ort.get_outputs()][1:]
        states = {name.replace("n", ""): v for name, v in zip(names, rest, strict=True)}
        np.testing.assert_allclose(stream.step(frame), want, rtol=0, atol=2e-6)
    twin = stream.clone()
    twin.set_state(saved)
    again = twin.step(frames[-1])
    np.testing.assert_allclose(again, want, rtol=0, atol=2e-6)
    stream.reset()
    np.testing.assert_array_equal(stream.run(frames)[-1], again)
    with pytest.raises(gr.InvalidInputError, match="another model or batch size"):
        model.stream(batch_size=3).set_state(saved)


def test_frames_are_not_claimed():
    net = Net().lstm(0, states=False).add("Hardmax", attrs={"axis": 2}).result()
    model = gr.load(net.model(), fallback="onnxruntime")
    assert not model.streamable
    assert model.streamable.node == "n_Hardmax"
    with pytest.raises(gr.UnsupportedError, match="n_Hardmax: ONNX Runtime runs it"):
        model.stream()
    with pytest.raises(gr.UnsupportedError, match="has no pool"):
        model.pool(4)


def test_types_of_their_own_stay_with_them(rng):
    """float64 between two operators of ONNX Runtime passes no border."""
    net = Net().lstm(0, states=False)
    net.add("Cast", attrs={"to": TensorProto.DOUBLE}).add("Exp").add("Neg")
    net.add("Cast", attrs={"to": TensorProto.FLOAT}).add("Tanh").result()
    data = net.model()
    with pytest.raises(gr.ConversionError, match="float64"):
        gr.load(data)
    feed = feed_of(data, rng)
    model = gr.load(data, fallback="onnxruntime")
    np.testing.assert_allclose(model(feed["x"]), session(data).run(None, feed)[0], atol=2e-6)
    assert {node.op for node in model.handed} >= {"Exp", "Neg"}


def test_nothing_is_handed_over_where_nothing_needs_it(tmp_path):
    data = Net().lstm(0).result().model()
    report = gr.convert(data, tmp_path / "net.safetensors", fallback="onnxruntime")
    assert report.fallback == []
    assert gr.ModelSpec.load(tmp_path / "net.safetensors").graph.nodes


def test_bound_inputs_and_other_reasons(rng):
    net = Net().lstm(0, states=False)
    net.inputs.append(tensor("k", [], TensorProto.INT64))
    net.add("Trilu", "k").result()
    model = gr.load(net.model(), fallback="onnxruntime", bind={"k": 1})
    feed = {**feed_of(net.model(), rng), "k": np.array(1)}
    want = session(net.model()).run(None, feed)[0]
    np.testing.assert_allclose(model(feed["x"]), want, rtol=0, atol=2e-6)
    with pytest.raises(gr.ConversionError, match="the inputs are"):
        gr.load(net.model(), fallback="onnxruntime", bind={"nothing": 1})
    with pytest.raises(gr.InvalidInputError, match="fallback 'tvm'; allowed"):
        gr.load(net.model(), fallback="tvm")


@pytest.fixture
def file(tmp_path):
    target = tmp_path / "net.safetensors"
    gr.convert(between()[0], target, fallback="onnxruntime")
    return target


def test_without_onnx_runtime_the_error_names_the_nodes(file, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("onnxruntime"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(gr.UnsupportedError, match=r"needs ONNX Runtime .n_Trilu.*pip install"):
        gr.load(file)


def test_the_core_says_who_opens_the_file(file):
    from gruengine import _core

    with pytest.raises(gr.ModelFileError, match=r"only Python opens"):
        _core.Model.open(str(file), 1)
    with pytest.raises(gr.ModelFileError, match=r"gruengine\.load opens it"):
        gr.ModelSpec.load(file)
    with pytest.raises(gr.UnsupportedError, match="no single graph"):
        gr.export(file, file.with_suffix(".onnx"))


def test_damaged_files_are_refused(file):
    data = file.read_bytes()
    spec = parts.from_bytes(data)
    assert spec.to_bytes() == data
    for old, new in (
        (b'"format": 1', b'"format": 9'),
        (b'"part/0"', b'"part/9"'),
        (b'\\"kind\\": \\"onnxruntime\\"', b'\\"kind\\": \\"somethingels\\"'),
    ):
        old, new = (
            text.replace(b'"', b'\\"') if b"\\" not in text else text for text in (old, new)
        )
        assert old in data
        with pytest.raises(gr.ModelFileError):
            gr.load(data.replace(old, new, 1))
    broken = [parts.Part(p.kind, p.data[:-9], p.inputs, p.outputs, p.handed) for p in spec.parts]
    spec.parts = broken
    with pytest.raises(gr.ModelFileError):
        gr.load(spec.to_bytes())


def test_a_part_may_not_name_other_files(file):
    spec = parts.from_bytes(file.read_bytes())
    place = next(i for i, part in enumerate(spec.parts) if part.kind == "onnxruntime")
    model = onnx.load_from_string(spec.parts[place].data)
    name = model.graph.node[0].input[0]
    outside = numpy_helper.from_array(np.zeros((2, 2), np.float32), "outside")
    onnx.external_data_helper.set_external_data(outside, "/etc/passwd")
    outside.ClearField("raw_data")
    model.graph.initializer.append(outside)
    part = spec.parts[place]
    changed = model.SerializeToString()
    spec.parts[place] = parts.Part(part.kind, changed, (name,), part.outputs, part.handed)
    with pytest.raises(gr.ModelFileError, match="data outside the file"):
        gr.load(spec.to_bytes())


def test_the_command_line_says_what_was_handed_over(capsys, tmp_path):
    source, target = tmp_path / "net.onnx", tmp_path / "net.safetensors"
    source.write_bytes(between()[0])
    assert main(["convert", str(source), str(target)]) == 2
    assert "n_Trilu: Trilu" in capsys.readouterr().err
    command = ["convert", str(source), str(target), "--fallback", "onnxruntime"]
    assert main(command) == 0
    assert "ONNX Runtime  n_Trilu: Trilu: it is not run" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fallback"] == ["n_Trilu: Trilu: it is not run"]
    for path, extra in ((target, []), (source, ["--fallback", "onnxruntime"])):
        assert main(["inspect", str(path), *extra]) == 0
        assert "n_Trilu (Trilu): Trilu: it is not run" in capsys.readouterr().out
        assert main(["inspect", str(path), *extra, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [node["operator"] for node in found["fallback"]] == ["Trilu"]
    assert main(["bench", str(target), "--repeats", "2"]) == 0


def test_the_cut_is_as_short_as_it_can_be():
    model = read_model(everywhere()[0])
    theirs = [i for i, n in enumerate(model.graph.nodes) if n.op in ("Hardmax", "Trilu")]
    pieces = Cutter(model.graph, [], theirs).pieces()
    assert [piece.ours for piece in pieces] == [False, True, False, True, False]
    for piece in pieces:
        if not piece.ours:
            assert set(piece.nodes) <= set(theirs)
