# SPDX-License-Identifier: MIT
"""RTNeural, AIDA-X, GuitarML and NAM: the numbers of PyTorch, and files that are refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from tolerances import RTNEURAL, TORCH_MODULE, relative_error
from torch import nn

import gruengine as gr
from gruengine.converters.base import ConversionError

T = 40


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(9)


def as_bytes(document):
    return json.dumps(document).encode()


def lists(module):
    return {name: value.numpy().tolist() for name, value in module.state_dict().items()}


def samples(n=2, features=1):
    return np.random.default_rng(4).normal(size=(n, T, features)).astype(np.float32)


def assert_runs_as(data, expected, x, **hints):
    """Whole sequences, and sample by sample."""
    model = gr.load(as_bytes(data), **hints)
    assert relative_error(model(x), expected) <= TORCH_MODULE
    stream = model.stream()
    found = np.concatenate([stream.step(frame[None]) for frame in x[0]])
    assert relative_error(found, expected[0]) <= TORCH_MODULE


# -- RTNeural, AIDA-X -----------------------------------------------------------------------------


HINTS = {"activations": {"dense": "none"}, "output": "sequence"}


@pytest.mark.parametrize(("name", "hints"), [
    ("lstm_keras", {}), ("gru_keras", {}),
    ("lstm_torch", {**HINTS, "order": ["lstm", "lstm2", "dense"]}),
    ("gru_torch", {**HINTS, "order": ["gru", "gru2", "dense"]}),
])  # fmt: skip
def test_the_files_of_rtneural(models, name, hints):
    model = gr.load(models / f"rtneural/{name}.json", **hints)
    x, y = (np.loadtxt(models / f"rtneural/{name}_{part}.csv", dtype=np.float32).reshape(1, -1, 1)
            for part in "xy")  # fmt: skip
    assert relative_error(model(x), y) <= RTNEURAL


def keras_layer(module, kind):
    """A layer of RTNeural from a module of torch: order i f c o, or z r h; transposed."""
    w, r, bi, bh = (p.detach().numpy() for p in module.parameters())
    if kind == "lstm":
        return {"type": "lstm", "activation": "tanh", "shape": [None, None, r.shape[1]],
                "weights": [w.T.tolist(), r.T.tolist(), (bi + bh).tolist()]}  # fmt: skip
    order = [np.concatenate([np.split(a, 3)[i] for i in (1, 0, 2)]) for a in (w, r, bi, bh)]
    return {"type": "gru", "activation": "", "shape": [None, None, r.shape[1]],
            "weights": [order[0].T.tolist(), order[1].T.tolist(),
                        [order[2].tolist(), order[3].tolist()]]}  # fmt: skip


def dense_layer(module, activation=""):
    w, b = (p.detach().numpy() for p in module.parameters())
    return {"type": "dense", "activation": activation, "shape": [None, None, len(b)],
            "weights": [w.T.tolist(), b.tolist()]}  # fmt: skip


def rtneural(kind="lstm", hidden=8, **extra):
    """A document of RTNeural and the modules that it holds."""
    cls = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
    rnn, out = cls(1, hidden, batch_first=True), nn.Linear(hidden, 1)
    layers = [keras_layer(rnn, kind), dense_layer(out)]
    return {"in_shape": [None, None, 1], "layers": layers, **extra}, rnn, out


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize(("skip", "gain_in", "gain_out"), [
    (0, 0.0, 0.0), (1, 0.0, 0.0), (1, 6.0, -3.0), (0, -4.5, 2.0), (1, 0.0, -95.0),
])  # fmt: skip
def test_aida_x(kind, skip, gain_in, gain_out):
    document, rnn, out = rtneural(kind, in_skip=skip, in_gain=gain_in, out_gain=gain_out)
    x = samples()
    with torch.no_grad():
        loud = torch.tensor(x) * 10 ** (gain_in / 20)
        y = out(rnn(loud)[0]) + (loud if skip else 0)
        y = y * (10 ** (gain_out / 20) if gain_out > -90 else 0)
    if gain_out < -90:
        assert not gr.load(as_bytes(document))(x).any()
    else:
        assert_runs_as(document, y.numpy(), x)


def test_other_layers_of_rtneural():
    norm, prelu = nn.BatchNorm1d(3).eval(), nn.PReLU(3)
    first, last = nn.Linear(1, 3), nn.Linear(3, 2)
    for parameter in (norm.weight, norm.bias, norm.running_mean, prelu.weight):
        parameter.data.normal_()
    norm.running_var.uniform_(0.5, 2)
    arrays = [norm.weight, norm.bias, norm.running_mean, norm.running_var]
    document = {"in_shape": [None, None, 1], "layers": [
        {**dense_layer(first), "type": "time-distributed-dense"},
        {"type": "batchnorm", "epsilon": norm.eps, "weights": [a.tolist() for a in arrays]},
        {"type": "prelu", "weights": [[prelu.weight.tolist()]]},
        {"type": "batchnorm", "epsilon": norm.eps, "weights": [a.tolist() for a in arrays[2:]]},
        {"type": "activation", "activation": "elu"},
        {"type": "dense", "activation": "softmax", "weights": dense_layer(last)["weights"][:1]},
    ]}  # fmt: skip
    x = samples()
    with torch.no_grad():
        y = norm(first(torch.tensor(x)).transpose(1, 2))
        y = prelu(y).transpose(1, 2)
        y = (y - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)
        y = torch.softmax(nn.functional.elu(y) @ last.weight.T, -1)
    model = gr.load(as_bytes(document))
    assert relative_error(model(x), y.numpy()) <= TORCH_MODULE


def convolved(groups=2, dilation=3):
    """Convolutions, a GRU and a dense layer, and their modules."""
    modules = [nn.Conv1d(1, 4, 3, dilation=dilation), nn.Conv1d(4, 6, 2, groups=groups)]
    layers = []
    for module in modules:
        w, b = (p.detach().numpy() for p in module.parameters())
        layers.append({"type": "conv1d", "activation": "tanh", "shape": [None, None, len(b)],
                       "kernel_size": list(module.kernel_size), "dilation": list(module.dilation),
                       "groups": module.groups,
                       "weights": [w.transpose(2, 1, 0).tolist(), b.tolist()]})  # fmt: skip
    modules += [nn.GRU(6, 5, batch_first=True), nn.Linear(5, 1)]
    layers += [keras_layer(modules[2], "gru"), dense_layer(modules[3])]
    del layers[0]["groups"]  # older files have none
    return {"in_shape": [None, None, 1], "layers": layers}, *modules


def test_convolutions_of_rtneural():
    document, first, second, gru, out = convolved()
    x = samples()
    with torch.no_grad():
        y = torch.tensor(x).transpose(1, 2)
        for conv in (first, second):
            before = (conv.kernel_size[0] - 1) * conv.dilation[0]
            y = torch.tanh(conv(nn.functional.pad(y, (before, 0))))
        y = out(gru(y.transpose(1, 2))[0])
    model = gr.load(as_bytes(document))
    assert relative_error(model(x), y.numpy()) <= TORCH_MODULE
    assert "spans frames along time" in model.streamable.reason


# -- GuitarML -------------------------------------------------------------------------------------


class SimpleRNN(nn.Module):
    """What GuitarML trains: a recurrent module, a linear one, the input added."""

    def __init__(self, cls, inputs, hidden, layers, bias, skip):
        super().__init__()
        self.rec = cls(inputs, hidden, layers, batch_first=True)
        self.lin = nn.Linear(hidden, 1, bias=bias)
        self.skip = skip

    def forward(self, x):
        y = self.lin(self.rec(x)[0])
        return y + x[:, :, : self.skip] if self.skip else y


def guitarml(cls=nn.LSTM, inputs=1, hidden=10, layers=1, bias=True, skip=1):
    module = SimpleRNN(cls, inputs, hidden, layers, bias, skip)
    facts = {"model": "SimpleRNN", "input_size": inputs, "skip": skip, "output_size": 1,
             "unit_type": cls.__name__, "num_layers": layers, "hidden_size": hidden,
             "bias_fl": bias}  # fmt: skip
    return {"model_data": facts, "state_dict": lists(module)}, module


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(("inputs", "layers", "bias", "skip"), [
    (1, 1, True, 1), (1, 2, False, 0), (2, 1, True, 1),
])  # fmt: skip
def test_guitarml(cls, inputs, layers, bias, skip):
    document, module = guitarml(cls, inputs, 10, layers, bias, skip)
    x = samples(features=inputs)
    with torch.no_grad():
        expected = module(torch.tensor(x)).numpy()
    assert_runs_as(document, expected, x)


# -- NAM ------------------------------------------------------------------------------------------


def nam(hidden=6, layers=2, inputs=1, zero=False):
    rnn, head = nn.LSTM(inputs, hidden, layers, batch_first=True), nn.Linear(hidden, 1)
    h, c = torch.randn(layers, hidden), torch.randn(layers, hidden)
    if zero:
        h, c = h * 0, c * 0
    weights = []
    for i in range(layers):
        p = {k: getattr(rnn, f"{k}_l{i}") for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
        weights += torch.cat([p["weight_ih"], p["weight_hh"]], 1).flatten().tolist()
        weights += (p["bias_ih"] + p["bias_hh"]).tolist() + h[i].tolist() + c[i].tolist()
    weights += head.weight.flatten().tolist() + head.bias.tolist()
    document = {"version": "0.5.1", "architecture": "LSTM", "sample_rate": 48000,
                "config": {"input_size": inputs, "hidden_size": hidden, "num_layers": layers},
                "weights": weights}  # fmt: skip

    def run(x):
        with torch.no_grad():
            states = tuple(s[:, None].repeat(1, len(x), 1) for s in (h, c))
            return head(rnn(torch.tensor(x), states)[0]).numpy()

    return document, run


@pytest.mark.parametrize(("hidden", "layers", "inputs", "zero"), [
    (6, 2, 1, False), (3, 1, 1, True), (16, 3, 2, False),
])  # fmt: skip
def test_nam(hidden, layers, inputs, zero):
    document, run = nam(hidden, layers, inputs, zero)
    x = samples(features=inputs)
    assert_runs_as(document, run(x), x)


@pytest.mark.parametrize("name", ["WaveNet", "ConvNet", "Linear", "CatLSTM", 3, None])
def test_other_architectures_are_refused_by_name(name):
    document, _ = nam()
    with pytest.raises(ConversionError, match=f"architecture {name!r}: of NAM"):
        gr.load(as_bytes({**document, "architecture": name}))


def test_they_convert_and_verify(tmp_path):
    for name, document in (("a", nam()[0]), ("b", guitarml()[0]), ("c", rtneural()[0])):
        (tmp_path / f"{name}.json").write_bytes(as_bytes(document))
        report = gr.convert(tmp_path / f"{name}.json", tmp_path / f"{name}.safetensors")
        assert report.parity_error < 1e-5
        assert report.streaming.startswith("frame by frame")
        assert report.recognised
        assert gr.verify(tmp_path / f"{name}.safetensors", tmp_path / f"{name}.json").passed


# -- hostile files --------------------------------------------------------------------------------


def changed(make, *path, value):
    """A document with one place replaced; a missing one is added."""
    document = copy.deepcopy(make()[0])
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return as_bytes(document)


def text(make, old, new):
    data = as_bytes(make()[0])
    assert old in data
    return data.replace(old, new, 1)


FIRST = ("layers", 0, "weights")
REFUSED = {
    "depth": (b'{"layers": ' + b"[" * 100_000, "deeper than"),
    "depth of weights": (changed(rtneural, *FIRST, value=[[[[[1.0]]]]]), "more than 3 levels"),
    "NaN": (text(rtneural, b'"weights": [[[', b'"weights": [[[NaN, '), "NaN"),
    "Infinity": (text(nam, b'"weights": [', b'"weights": [-Infinity, '), "Infinity"),
    "a number beyond doubles": (text(nam, b'"weights": [', b'"weights": [1e999, '), "1e999"),
    "a number beyond float32": (changed(nam, "weights", 3, value=1e39), "float32 does not hold"),
    "a string": (changed(nam, "weights", 3, value="1.0"), "'1.0' where a number"),
    "a flag": (changed(nam, "weights", 3, value=True), "True where a number"),
    "null": (changed(nam, "weights", 3, value=None), "None where a number"),
    "a key twice": (text(nam, b'"version"', b'"config": 1, "version"'), "twice"),
    "cut": (as_bytes(nam()[0])[:-200], "not strict JSON"),
    "a list": (b'[{"layers": 1}]', "looks like JSON"),
    "bytes that are no text": (b'{"layers": "\xff"}', "not strict JSON"),
    "other keys": (b'{"weight_ih": 0, "more": [1]}', "an unknown name"),
    "nam: too few": (changed(nam, "weights", value=[0.5] * 10), r"\(10,\)"),
    "nam: too many": (changed(nam, "weights", value=[0.5] * 10_000), r"\(10000,\)"),
    "nam: rows": (changed(nam, "weights", value=[[0.5, 1.0]]), "shape"),
    "nam: huge sizes": (changed(nam, "config", "hidden_size", value=1 << 40), "hidden_size is"),
    "nam: huge product": (changed(nam, "config", "hidden_size", value=1 << 20), "have"),
    "nam: many layers": (changed(nam, "config", "num_layers", value=1 << 20), "num_layers is"),
    "nam: a float size": (changed(nam, "config", "hidden_size", value=6.0), "hidden_size is 6.0"),
    "nam: no config": (changed(nam, "config", value=[]), "config is"),
    "ragged": (changed(rtneural, *FIRST, 0, value=[[1.0, 2.0], [1.0]]), "different lengths"),
    "a number among lists": (changed(rtneural, *FIRST, 0, value=[[1.0], 2.0]), "different lengths"),
    "an empty list": (changed(rtneural, *FIRST, 0, value=[[]]), "empty list"),
    "rtneural: rows": (changed(rtneural, *FIRST, 0, value=[[1.0] * 32] * 2), "expected 1 rows"),
    "rtneural: columns": (changed(rtneural, *FIRST, 1, value=[[1.0] * 31] * 8), "have shapes"),
    "rtneural: no weights": (changed(rtneural, *FIRST, value=[]), "expected 1 rows"),
    "rtneural: weights of a layer": (changed(rtneural, *FIRST, value={}), "must be a list"),
    "rtneural: shape": (changed(rtneural, "layers", 0, "shape", value=[None, 9]), "shape says"),
    "rtneural: in_shape": (changed(rtneural, "in_shape", value=[]), "in_shape is"),
    "rtneural: in_shape of null": (changed(rtneural, "in_shape", value=[None]), "in_shape is None"),
    "rtneural: layers": (changed(rtneural, "layers", value={}), "layers is"),
    "rtneural: no layers": (changed(rtneural, "layers", value=[]), "layers is"),
    "rtneural: a layer": (changed(rtneural, "layers", 0, value=7), "layer0 is 7"),
    "rtneural: kernel": (changed(convolved, "layers", 0, "kernel_size", value=[4]), "have shapes"),
    "rtneural: no kernel": (changed(convolved, "layers", 0, "kernel_size", value=[]), r"is \[\]"),
    "rtneural: dilation": (changed(convolved, "layers", 0, "dilation", value=[0]), "dilation of"),
    "rtneural: far": (changed(convolved, "layers", 0, "dilation", value=1 << 40), "dilation of"),
    "rtneural: groups": (changed(convolved, "layers", 1, "groups", value=3), "3 groups of 4"),
    "rtneural: skip": (changed(rtneural, "in_skip", value=2), "in_skip is 2"),
    "rtneural: gain": (changed(rtneural, "out_gain", value="loud"), "out_gain is"),
    "guitarml: facts": (changed(guitarml, "model_data", value=[]), "must be objects"),
    "guitarml: hidden": (
        changed(guitarml, "model_data", "hidden_size", value=99), "weights say 10"),
    "guitarml: skip": (changed(guitarml, "model_data", "skip", value=3), "skip is 3"),
    "guitarml: head": (changed(guitarml, "state_dict", "lin.weight", value=[[1.0]]), "lin.weight"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_files(name):
    data, message = REFUSED[name]
    with pytest.raises((gr.ModelFileError, ConversionError), match=message):
        gr.load(data)


REASONS = {
    "a convolution": (changed(rtneural, "layers", 0, "type", value="conv2d"), "type 'conv2d'"),
    "no type": (changed(rtneural, "layers", 0, "type", value=None), "type None"),
    "relu in an LSTM": (
        changed(rtneural, "layers", 0, "activation", value="relu"), "activation 'relu' of lstm"),
    "an unknown activation": (
        changed(rtneural, "layers", 1, "activation", value="swish"), "activation 'swish'"),
    "another model": (changed(guitarml, "model_data", "model", value="WaveNet"), "SimpleRNN of"),
    "weights of another name": (
        changed(guitarml, "state_dict", "rec.weight_xx_l0", value=[1.0]), "an unknown name"),
    "weights of another shape": (
        changed(guitarml, "state_dict", "rec.weight_hh_l0", value=[[1.0] * 3] * 40), "shape"),
}  # fmt: skip


@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_be_converted(name):
    data, message = REASONS[name]
    with pytest.raises(ConversionError, match=message):
        gr.load(data)


def test_hints_for_a_file_that_says_everything():
    with pytest.raises(ConversionError, match="hint 'batch_first': the file says everything"):
        gr.load(as_bytes(nam()[0]), batch_first=True)
    with pytest.raises(gr.UnsupportedError, match="known are RTNeural"):
        gr.load(b'{"note": "layers", "no \\"layers\\"": 1}')
