# SPDX-License-Identifier: MIT
"""Recognising sources, making parity samples, comparing, and refusing what does not agree."""

from __future__ import annotations

import builtins
import io
import os

import numpy as np
import pytest
import safetensors.numpy
import torch
from onnx import helper, numpy_helper

import gruengine as gr
from gruengine import conversion
from gruengine.cli_demo import CHECKPOINT_HINTS, demo_file
from gruengine.converters import is_model_file, read, sniff
from gruengine.parity import Check, compare, make_sample
from gruengine.reference_graph import run_graph
from gruengine.spec import Graph, ModelSpec, Node, Port


def small():
    return gr.Sequential([gr.GRU(4), gr.Dense(2)], input_size=3)


def checkpoint(**options):
    buffer = io.BytesIO()
    torch.save(torch.nn.LSTM(3, 4).state_dict(), buffer, **options)
    return buffer.getvalue()


# -- formats --------------------------------------------------------------------------------------


def test_formats_are_told_by_content(tmp_path):
    small().save(tmp_path / "model")
    assert sniff((tmp_path / "model").read_bytes()) == "gruengine"
    assert sniff(safetensors.numpy.save({"a": np.zeros(3, np.float32)})) == "safetensors"
    assert sniff(checkpoint()) == "torch-zip"
    assert sniff(checkpoint(_use_new_zipfile_serialization=False)) == "torch-legacy"
    assert sniff(demo_file("demo.onnx").read_bytes()) == "onnx"


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", gr.ModelFileError, "is empty"),
        (b"{}", gr.ModelFileError, "looks like JSON"),
        (b"\0" * 100, gr.ModelFileError, "100 bytes of no known format, starting with 00 00"),
        (b"\x08\x01", gr.ModelFileError, "no known format"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 9, gr.UnsupportedError, "a TensorFlow Lite model"),
        (b"\x93NUMPY" + b"\0" * 9, gr.UnsupportedError, "a NumPy array"),
    ],
)
def test_other_formats_are_refused_by_name(data, error, message):
    with pytest.raises(error, match=message) as caught:
        read(data)
    assert "allowed: gruengine model file" in str(caught.value)


@pytest.mark.parametrize("cut", [1, 7, 100, 5000])
def test_cut_onnx_files_are_refused(cut):
    data = demo_file("demo.onnx").read_bytes()
    with pytest.raises(gr.GruEngineError):
        read(data[: len(data) - cut])


def test_model_files_are_told_by_their_header(tmp_path):
    small().save(tmp_path / "model")
    data = (tmp_path / "model").read_bytes()
    for path, expected in ((tmp_path / "model", True), (demo_file("demo.onnx"), False)):
        assert is_model_file(path) is expected
        assert is_model_file(path.read_bytes()) is expected
    for size in (0, 5, 9, 20):
        (tmp_path / "cut").write_bytes(data[:size])
        assert not is_model_file(tmp_path / "cut")
    with pytest.raises(gr.FileAccessError, match="No such file"):
        is_model_file(tmp_path / "missing")
    with pytest.raises(gr.FileAccessError, match="Is a directory"):
        is_model_file(tmp_path)


def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(gr.FileAccessError, match="not a regular file"):
        gr.load(tmp_path / "pipe")


# -- samples --------------------------------------------------------------------------------------


def test_samples_are_seeded_and_made_by_the_reference():
    spec = small().spec()
    sample = make_sample(spec)
    x = sample.inputs["x"]
    assert x.shape == (2, 7, 3)
    assert 0.3 < x.std() < 0.7
    expected = run_graph(spec.graph, spec.tensors, {"x": x.astype(np.float64)})
    np.testing.assert_array_equal(sample.outputs["y"], expected["y"].astype(np.float32))
    np.testing.assert_array_equal(make_sample(spec).inputs["x"], x)
    assert make_sample(spec, {"T": 3}).inputs["x"].shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"Q": 3}, "sizes names 'Q'; the free sizes are N, T"), ({"T": 0}, r"sizes\['T'\] is 0")],
)
def test_samples_refuse_wrong_sizes(sizes, message):
    with pytest.raises(gr.InvalidInputError, match=message):
        make_sample(small().spec(), sizes)


def test_integers_stay_inside_their_table():
    spec = gr.Sequential([gr.Embedding(3, 4), gr.GRU(2)]).spec()
    found = make_sample(spec, {"T": 50}).inputs["x"]
    assert set(found.reshape(-1).tolist()) == {0, 1, 2}


def test_lengths_stay_inside_the_sequence():
    spec = gr.Sequential([gr.GRU(2)], input_size=3, batch_first=False).spec()
    graph = spec.graph
    node = graph.nodes[0]
    graph.nodes[0] = Node(node.op, (*node.inputs, "len"), node.outputs, node.attrs, node.name)
    graph.inputs.append(Port("len", "int32", ("N",)))
    found = make_sample(spec, {"N": 40, "T": 4}).inputs["len"]
    assert set(found.tolist()) == {1, 2, 3, 4}


def test_sizes_that_depend_on_each_other_are_found():
    ports = [Port("a", "float32", ("p", 3)), Port("b", "float32", ("q", 3))]
    graph = Graph(ports, [Port("y", "float32", ("p", 3))], [Node("Add", ("a", "b"), ("y",))])
    wide = Graph(
        [Port("a", "float32", ("p", "s"))],
        [Port("y", "float32", ("p", 2))],
        [Node("MatMul", ("a", "w"), ("y",))],
    )
    make_sample(ModelSpec(graph, {}))
    sample = make_sample(ModelSpec(wide, {"w": np.zeros((64, 2), np.float32)}))
    assert sample.inputs["a"].shape[1] == 64


def test_a_sample_that_cannot_run_says_what_helps():
    graph = Graph(
        [Port("a", "float32", ("p", "s")), Port("k", "int64", ())],
        [Port("y", "float32", ("p", 2))],
        [Node("MatMul", ("a", "w"), ("y",))],
    )
    spec = ModelSpec(graph, {"w": np.zeros((63, 2), np.float32)})
    with pytest.raises(gr.InvalidInputError, match=r"free sizes p, s .*--size.*k can be fixed"):
        make_sample(spec)
    assert make_sample(spec, {"s": 63}).inputs["a"].shape == (7, 63)


# -- comparing ------------------------------------------------------------------------------------


def one(found, expected, tolerance=1e-4) -> Check:
    (check,) = compare({"y": np.asarray(found)}, {"y": np.asarray(expected)}, "test", tolerance)
    return check


def test_comparisons():
    want = np.array([1.0, -2.0], np.float32)
    assert one(want + np.float32(1e-4), want).passed
    check = one(want + np.float32(1e-3), want)
    assert not check.passed
    assert check.max_abs_error == pytest.approx(1e-3, rel=1e-3)
    assert check.scale == 2.0
    assert check.tolerance == pytest.approx(2e-4)
    assert not one(np.array([[1.0, -2.0]], np.float32), want).passed
    assert compare({}, {"y": want}, "test")[0].passed is False


def test_comparisons_of_what_is_not_finite():
    nan, inf = np.nan, np.inf
    want = np.array([1.0, nan, inf], np.float32)
    assert one(want, want).passed
    assert not one(np.array([nan, nan, inf], np.float32), want).passed
    assert not one(np.array([1.0, 0.0, inf], np.float32), want).passed
    assert not one(np.array([1.0, nan, -inf], np.float32), want).passed


def test_integers_must_be_equal():
    assert one(np.array([1, 2]), np.array([1, 2])).passed
    check = one(np.array([1, 3]), np.array([1, 2]))
    assert (check.passed, check.max_abs_error) == (False, 1.0)


# -- converting -----------------------------------------------------------------------------------


def test_a_model_that_the_engine_computes_otherwise_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(gr.Model, "run_graph", lambda self, x: {"y": np.ones((2, 7, 1), "f4")})
    with pytest.raises(gr.ConversionError, match="output differs from the reference float64"):
        gr.convert(demo_file("demo.onnx"), tmp_path / "out")
    with pytest.raises(gr.ConversionError, match="output differs"):
        gr.Sequential([gr.GRU(1, return_sequences=True)], input_size=3).save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("shift", "warned"), [(-100.0, True), (100.0, False)])
def test_a_sample_that_proves_nothing_is_warned_of(tmp_path, shift, warned):
    x, y = (helper.make_tensor_value_info(name, 1, ["N", 3]) for name in "xy")
    nodes = [helper.make_node("Add", ["x", "k"], ["s"]), helper.make_node("Log", ["s"], ["y"])]
    shift = numpy_helper.from_array(np.float32(shift), "k")
    graph = helper.make_graph(nodes, "log", [x], [y], [shift])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    report = gr.convert(model.SerializeToString(), tmp_path / "out")
    assert any("'y' of the parity sample has no finite" in w for w in report.warnings) is warned


def test_a_failed_conversion_leaves_the_old_file(tmp_path):
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(gr.ConversionError):
        gr.convert(demo_file("demo.pt"), tmp_path / "out")
    with pytest.raises(gr.UnsupportedError, match="int7"):
        gr.convert(demo_file("demo.onnx"), tmp_path / "out", compute_type="int7")
    assert (tmp_path / "out").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_bytes_convert_like_files(tmp_path):
    gr.convert(demo_file("demo.onnx"), tmp_path / "a")
    gr.convert(demo_file("demo.onnx").read_bytes(), tmp_path / "b")
    assert gr.load(tmp_path / "a").hash == gr.load(tmp_path / "b").hash


def test_a_model_file_converts_to_itself(tmp_path):
    small().save(tmp_path / "a")
    report = gr.convert(tmp_path / "a", tmp_path / "b")
    assert report.source_format == "gruengine"
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_report_is_complete(tmp_path):
    report = gr.convert(demo_file("demo.pt"), tmp_path / "a", **CHECKPOINT_HINTS)
    assert report.parity_error is not None
    assert 0 <= report.parity_error < 1e-6
    assert report.streaming == "frame by frame along 'T'"
    assert report.output_bytes == (tmp_path / "a").stat().st_size
    assert report.source_bytes == demo_file("demo.pt").stat().st_size
    assert report.recognised


def test_verify_says_when_onnxruntime_is_missing(tmp_path, monkeypatch):
    gr.convert(demo_file("demo.onnx"), tmp_path / "a")
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert gr.verify(tmp_path / "a").passed
    with pytest.raises(gr.UnsupportedError, match="ONNX Runtime is not installed"):
        gr.verify(tmp_path / "a", demo_file("demo.onnx"))


def test_verify_runs_modules_and_cells(tmp_path):
    for module in (torch.nn.GRU(3, 5), torch.nn.LSTMCell(3, 5), torch.nn.GRUCell(3, 5)):
        spec, _ = _read_module(module)
        conversion.save_spec(spec, tmp_path / "a")
        assert gr.verify(tmp_path / "a", module).passed
        other = type(module)(3, 5)
        report = gr.verify(tmp_path / "a", other)
        assert not report.passed


def _read_module(module):
    from gruengine.converters import Options
    from gruengine.converters.torch import read_module

    return read_module(module, name="module", options=Options())


def test_verify_refuses_a_tolerance_of_nothing(tmp_path):
    small().save(tmp_path / "a")
    for tolerance in (0, -1, float("nan"), float("inf")):
        with pytest.raises(gr.InvalidInputError, match="tolerance is"):
            gr.verify(tmp_path / "a", tolerance=tolerance)


def test_verify_makes_a_sample_where_there_is_none(tmp_path):
    small().spec().save(tmp_path / "a")
    report = gr.verify(tmp_path / "a")
    assert report.passed
    assert report.notes == ["no parity sample in the file: a new one was made"]
