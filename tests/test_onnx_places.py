# SPDX-License-Identifier: MIT
"""ONNX operators that read or write at places, and packed sequences in any order."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from ort_oracle import run_model
from tolerances import ORT_OPERATOR, assert_close

import gruengine as gr

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

RNG = np.random.default_rng(11)
TYPES = {"float32": 1, "int64": 7, "bool": 9}


def model_of(op, inputs, shapes, constants, kind=1, opset=18, **attrs):
    names = [*inputs, *constants]
    node = helper.make_node(op, names, ["y"], "the node", **attrs)
    ports = [
        helper.make_tensor_value_info(k, TYPES[str(v.dtype)], shapes.get(k, v.shape))
        for k, v in inputs.items()
    ]
    graph = helper.make_graph(
        [node], "g", ports, [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return made


def check(op, inputs, shapes=None, constants=None, **attrs):
    """Compare one node with ONNX Runtime, in the engine."""
    model = model_of(op, inputs, shapes or {}, constants or {}, **attrs)
    (wanted,) = run_model(model, inputs)
    loaded = gr.load(model.SerializeToString())
    assert_close(loaded.run_graph(inputs)["y"], wanted, ORT_OPERATOR)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize(
    ("data", "places", "axis"),
    [((7,), (4,), 0), ((3, 5), (2, 4), 1), ((3, 5), (4, 2), 0), ((2, 3, 4), (2, 5, 1), -2)],
)
def test_elements_are_gathered_and_scattered(data, places, axis, free):
    x, size = floats(*data), data[axis]
    at = RNG.integers(-size, size, places)
    shapes = {"x": [f"a{i}" for i in data], "at": [f"b{i}" for i in places]} if free else {}
    check("GatherElements", {"x": x, "at": at}, shapes, axis=axis)
    # Each place once: who writes last is not defined.
    once = np.argsort(RNG.random(data), axis)[tuple(slice(0, n) for n in places)]
    new = floats(*once.shape)
    shapes = {"x": shapes["x"]} if free else {}
    check("ScatterElements", {"x": x, "at": once, "new": new}, shapes, axis=axis)
    check("ScatterElements", {"x": x, "at": once, "new": new}, shapes, axis=axis, reduction="add")


@pytest.mark.parametrize(("count", "lead"), [(1, (4,)), (2, (2, 3)), (3, (5,))])
def test_rows_are_gathered_by_places_in_several_axes(count, lead):
    x = floats(3, 4, 5)
    at = np.stack([RNG.integers(-n, n, lead) for n in x.shape[:count]], -1)
    check("GatherND", {"x": x, "at": at}, {"x": ["a", "b", 5]})


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis):
    at = RNG.integers(-6, 6, (2, 3))
    constants = {"depth": np.array(6), "values": np.array([-1.5, 2.0], np.float32)}
    check("OneHot", {"at": at}, {"at": ["N", 3]}, constants, axis=axis)


@pytest.mark.parametrize(
    ("how", "rounding"), [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")]
)
def test_elements_are_repeated(how, rounding):
    scales = {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 3, 2], np.float32)}
    check("Resize", {"x": floats(2, 3, 4, 5)}, {"x": ["N", 3, "H", 5]}, scales,
          coordinate_transformation_mode=how, nearest_mode=rounding)  # fmt: skip
    check("Upsample", {"x": floats(1, 2, 3)}, {}, {"s": np.array([1, 1, 2], np.float32)}, opset=9)


def test_other_ways_to_resize_are_refused():
    scales = {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1.5], np.float32)}
    for attrs in ({"mode": "linear"}, {}):
        model = model_of("Resize", {"x": floats(2, 4)}, {}, scales, **attrs)
        with pytest.raises(gr.ConversionError, match="Resize"):
            gr.load(model.SerializeToString())


def test_not_a_number_is_seen():
    x = np.array([1.0, np.nan, np.inf], np.float32)
    check("IsNaN", {"x": x}, kind=9)


class Tagger(torch.nn.Module):
    """The usual tagger: rows of any order are packed, so the exporter sorts them."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(20, 6)
        self.lstm = torch.nn.LSTM(6, 5, 2, bidirectional=True, batch_first=True)

    def forward(self, words, lengths):
        pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
        packed = pack(self.embedding(words), lengths, batch_first=True, enforce_sorted=False)
        y, (h, c) = self.lstm(packed)
        return pad(y, batch_first=True)[0], h, c


@pytest.mark.parametrize("opset", [11, 17])
def test_rows_packed_in_any_order(opset):
    torch.manual_seed(0)
    module, data = Tagger().eval(), io.BytesIO()
    example = (torch.randint(0, 20, (3, 6)), torch.tensor([4, 6, 2]))
    torch.onnx.export(
        module, example, data, dynamo=False, opset_version=opset,
        input_names=["words", "lengths"], output_names=["y", "h", "c"],
        dynamic_axes={"words": {0: "N", 1: "T"}, "lengths": {0: "N"}},
    )  # fmt: skip
    model = gr.load(data.getvalue())
    others = (torch.randint(0, 20, (4, 8)), torch.tensor([3, 8, 5, 1]))
    for words, lengths in (example, others):
        found = model.run_graph({"words": words.numpy(), "lengths": lengths.numpy()})
        for name, want in zip("yhc", _flat(module(words, lengths)), strict=True):
            np.testing.assert_allclose(found[name], want, rtol=0, atol=2e-6)


def _flat(results):
    return [value.detach().numpy() for value in results]


def test_a_number_of_places_that_depends_on_data_is_refused():
    constants = {}
    inputs = {"x": floats(3, 4), "k": np.array([2])}
    model = model_of("TopK", inputs, {}, constants)
    model.graph.node[0].output.append("places")
    assert isinstance(model, onnx.ModelProto)
    with pytest.raises(gr.ConversionError, match="k must be constant, or follow from shapes"):
        gr.load(model.SerializeToString())
